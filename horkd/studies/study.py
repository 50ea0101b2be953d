"""From presets to runs: the arms of a study, the queue, and what is finished.

Arms of one seed share initial weights, order of images and augmentation, so that they can be
compared in pairs. Every model that is distilled from is trained once, with seed 0.
"""

from collections.abc import Callable, Sequence

from horkd.data import look_again
from horkd.errors import HorkdError
from horkd.lab.config import RunConfig
from horkd.lab.job import Job
from horkd.lab.runner import run
from horkd.lab.store import Run, read
from horkd.machine import Settings
from horkd.studies.arm import Arm
from horkd.studies.preset import Preset
from horkd.studies.task import USUAL, task_of, tasks
from horkd.training import Diverged


def studies_of(preset: Preset, when: str = USUAL) -> tuple[str, ...]:
    """The names of a preset's studies that are run at some time, in order of worth.

    Args:
        preset: any.
        when: `USUAL`, `ON_REQUEST` or `TRIALS` of `horkd.studies.task`.
    """
    return tuple(one.name for one in task_of(preset).studies if one.when == when)


def study(preset: Preset, name: str) -> dict[str, Arm]:
    """The arms of a study by name, the most worth first; without those the preset leaves out.

    Raises:
        HorkdError: if no task has such a study.
    """
    for one in task_of(preset).studies:
        if one.name == name:
            return one.of(preset)
    known = list(dict.fromkeys(one.name for task in tasks().values() for one in task.studies))
    if name not in known:
        raise HorkdError(f"unknown study {name!r}: choose from {', '.join(known)}")
    return {}


def configure(preset: Preset, arm: Arm, seed: int = 0) -> RunConfig:
    """The run of an arm at a preset's size.

    Args:
        preset: sizes and recipe.
        arm: one of `study`.
        seed: of this run; what it is distilled from has seed 0.
    """
    return task_of(preset).configure(preset, arm, seed)


def usual_exports(preset: Preset) -> list[str]:
    """The arms whose networks are worth handing on, of those that the preset has."""
    listed = {name for one in studies_of(preset) for name in study(preset, one)}
    return [name for name in task_of(preset).exports(preset) if name in listed]


def seeds(preset: Preset, arm: Arm) -> range:
    """The seeds of an arm; what others are distilled from is trained once."""
    repeated = arm.repeated or (preset.repeat_all and not arm.once)
    return range(arm.seed, arm.seed + (preset.seeds if repeated else 1))


Presets = Preset | Sequence[Preset]


def _several(presets: Presets) -> Sequence[Preset]:
    return (presets,) if isinstance(presets, Preset) else presets


def queue(presets: Presets, *studies: str) -> list[Job]:
    """All runs of some studies, the most worth first, each configuration once.

    Within a study every arm comes once before any is repeated, and a control of what is trained
    once comes last.

    Args:
        presets: one, or several one after another; their `seeds` say how often arms are repeated.
        studies: names; all usual ones by default.
    """
    found: dict[str, Job] = {}
    for preset in _several(presets):
        jobs: dict[str, Job] = {}
        for name in studies or studies_of(preset):
            arms = study(preset, name)
            for repeat in range(preset.seeds):
                for arm in arms.values():
                    if repeat < len(own := seeds(preset, arm)):
                        config = configure(preset, arm, own[repeat])
                        job = Job(name, arm.name, config, preset.waits(config))
                        jobs.setdefault(config.key, job)
        given = dict(preset.given)  # nobody waits for those
        for job in sorted(jobs.values(), key=lambda job: job.arm in given):
            found.setdefault(job.config.key, job)
    return list(found.values())


def choose(presets: Presets, studies: Sequence[str] = (), arms: Sequence[str] = ()) -> list[Job]:
    """Jobs of some studies and some arms; all of them for empty ones.

    Raises:
        HorkdError: on a study or an arm that does not exist in these presets.
    """
    presets = _several(presets)
    for name in studies:
        _require_arms(presets, name)
    jobs = queue(presets, *studies)
    listed = [
        (preset, arm)
        for preset in presets
        for name in studies or studies_of(preset)
        for arm in study(preset, name).values()
    ]
    known = {arm.name for _, arm in listed}
    for name in arms:
        if name not in known:
            raise HorkdError(f"unknown arm {name!r}: choose from {', '.join(sorted(known))}")
    keys = {
        configure(preset, arm, seed).key
        for preset, arm in listed
        if arm.name in arms
        for seed in seeds(preset, arm)
    }
    return [job for job in jobs if not arms or job.config.key in keys]


def _require_arms(presets: Sequence[Preset], name: str) -> None:
    if not any([study(preset, name) for preset in presets]):
        raise HorkdError(
            f"study {name} has no arm in preset {presets[0].name}: it is too small for it"
        )


Find = Callable[[RunConfig], Run | None]


def trainer(preset: Preset, settings: Settings | None = None, train_missing: bool = True) -> Find:
    """How `collect` gets a run: read or, if wanted, trained; None if it diverged.

    Args:
        preset: whose precision is that of runs which are trained.
        settings: how the machine should do it.
        train_missing: False only reads.
    """

    def find(config: RunConfig) -> Run | None:
        if not train_missing:
            return read(config)
        try:
            return run(config, preset.settings(settings or Settings()))
        except Diverged:
            return None

    return find


def collect(
    preset: Preset, name: str, find: Find | None = None, only: Sequence[str] = ()
) -> dict[str, list[Run]]:
    """The finished runs of a study by arm, in the study's order, seeds in order.

    A run that diverged is left out; `horkd.lab.store.diverged` knows of it.

    Args:
        preset: sizes.
        name: of one of its studies.
        find: how to get a run, None where it is not to be had; `trainer(preset)` by default.
        only: names of arms; all by default.

    Raises:
        HorkdError: if nothing is there and nothing may be trained.
    """
    arms = finished(preset, name, find or trainer(preset), only)
    if not arms:
        _require_arms((preset,), name)
        raise HorkdError(
            f"no run of study {name} is finished: train them first (horkd work --preset "
            f"{preset.name} --data {preset.data} --study {name})"
        )
    return arms


def finished(
    preset: Preset, name: str, find: Find, only: Sequence[str] = ()
) -> dict[str, list[Run]]:
    """`collect`, but for an empty answer where nothing is there."""
    arms: dict[str, list[Run]] = {}
    look_again(preset.data)
    for arm in study(preset, name).values():
        if only and arm.name not in only:
            continue
        for seed in seeds(preset, arm):
            found = find(configure(preset, arm, seed))
            if found is not None:
                arms.setdefault(arm.name, []).append(found)
    return arms
