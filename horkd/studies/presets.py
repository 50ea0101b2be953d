"""Presets by name, on their own data or others.

A preset (`horkd.studies.preset`) fixes networks, sizes and the recipe of one task; a study
(`horkd.studies.task.Study`) turns it into named configurations, its arms. Each task has its own
fields and lists its presets in `horkd/studies/<task>/presets.py`. A name may stand for a preset of
several tasks, the main one first: smoke and quick are for classification and for metric learning.
"""

from dataclasses import replace

from horkd.data import source_of
from horkd.errors import HorkdError
from horkd.studies.preset import Preset
from horkd.studies.task import tasks

#: More of each student is a slip of the keyboard; to list them alone takes minutes.
MOST_SEEDS = 1000


def presets() -> dict[str, tuple[Preset, ...]]:
    """All presets by name; a name that several tasks have stands for each of theirs."""
    found: dict[str, tuple[Preset, ...]] = {}
    for task in tasks().values():
        for preset in task.presets:
            found[preset.name] = (*found.get(preset.name, ()), preset)
    return found


def get_preset(
    name: str,
    data: str | None = None,
    seeds: int | None = None,
    select: str = "",
    task: str = "",
) -> Preset:
    """The preset that a name stands for, of several the main one; `get_presets` for all.

    Args:
        name: one of `presets()`.
        data: another data set than the preset's own; None or "" keeps it.
        seeds: another number of seeds; None or 0 keeps it.
        select: of metric learning, another choice of the epoch that is the result: "validation",
            "last", or "test" as published code has it; "" keeps it.
        task: the preset of this task.

    Raises:
        HorkdError: if the preset or the data set is unknown, they do not go together, or the number
            of seeds is negative or above `MOST_SEEDS`.
    """
    found = get_presets(name, data, seeds, select)
    if not task:
        return found[0]
    for preset in found:
        if preset.task == task:
            return preset
    others = ", ".join(n for n, known in presets().items() if any(p.task == task for p in known))
    raise HorkdError(
        f"preset {name} on {found[0].data} has no study of {tasks()[task].what}: choose from "
        f"{others}"
    )


def get_presets(
    name: str, data: str | None = None, seeds: int | None = None, select: str = ""
) -> tuple[Preset, ...]:
    """All presets that a name stands for, the main one first; arguments as of `get_preset`."""
    known = presets()
    if name not in known:
        raise HorkdError(f"unknown preset {name!r}: choose from {', '.join(known)}")
    if data:
        source_of(data)  # refuses a name that is wrong in any part
    found = _on_data(known[name], data or known[name][0].data)
    if select:
        if not any(hasattr(preset, "select") for preset in found):
            kinds = (task.what for task in tasks().values() if hasattr(task.presets[0], "select"))
            raise HorkdError(f"preset {name} has no study of {' or '.join(kinds)} to select for")
        found = [replace(p, select=select) if hasattr(p, "select") else p for p in found]
    if seeds is not None and not 0 <= seeds <= MOST_SEEDS:
        right = "1 or more" if seeds < 0 else f"{MOST_SEEDS} at most"
        raise HorkdError(f"the number of seeds must be {right}, got {seeds}")
    return tuple(replace(preset, seeds=seeds or preset.seeds) for preset in found)


def _on_data(found: tuple[Preset, ...], data: str) -> list[Preset]:
    """Presets of one name on a data set: the main one goes to others, the rest keep their own."""
    main, *others = found
    if data == main.data:
        return [tasks()[main.task].adapt(main, data), *others]
    own = [preset for preset in others if preset.data == data]
    if own:
        return own
    if tasks()[main.task].takes(data):
        return [tasks()[main.task].adapt(main, data)]
    involved = [task for task in tasks().values() if task.sets and task.takes(data)]
    if tasks()[main.task].sets:
        involved.insert(0, tasks()[main.task])
    mains = {name: known[0].task for name, known in presets().items()}
    places = (
        f"{task.sets} go with {', '.join(n for n, of in mains.items() if of == task.name)}"
        for task in involved
    )
    raise HorkdError(
        f"preset {main.name} is not made for {data}: {', '.join(places)}, others with the rest"
    )


#: Taken where nothing is said.
USUAL = "quick"


def meant_by(data: str, given: bool) -> str:
    """The name of the preset that is meant by data (or "") alone.

    Args:
        data: name of a data set, or "".
        given: whether there is a teacher's weights file.
    """
    names = (task.meant(data, given) for task in tasks().values())
    return next(filter(None, names), USUAL)
