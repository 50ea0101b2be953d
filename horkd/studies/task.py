"""What a task gives: presets, studies, and how an arm becomes a configuration."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from horkd import studies as package
from horkd.errors import HorkdError
from horkd.lab.config import RunConfig
from horkd.studies.arm import Arm
from horkd.studies.preset import Preset

if TYPE_CHECKING:
    from horkd.studies.results import Source

#: When a study is run: with all others, when it is asked for by name, or to choose settings.
USUAL, ON_REQUEST, TRIALS = "usual", "on request", "trials"


@dataclass(frozen=True)
class Study:
    """A question, as a list of arms.

    Attributes:
        name: by which the command line calls it.
        asks: the question, in a line.
        arms: its arms in a preset, the most worth first; none where it does not make sense.
        when: `USUAL`, `ON_REQUEST` or `TRIALS`.
        notebook: the one that shows it, as "03_table1".
        read_by: notebooks that read its runs for another question.
    """

    name: str
    asks: str
    arms: Callable[[Preset], Iterable[Arm]]
    when: str = USUAL
    notebook: str = ""
    read_by: tuple[str, ...] = ()

    def of(self, preset: Preset) -> dict[str, Arm]:
        """Its arms by name, without those that the preset leaves out."""
        arms = self.arms(preset)
        return {arm.name: arm for arm in arms if not _omitted(preset, arm)}


def _omitted(preset: Preset, arm: Arm) -> bool:
    return any(fnmatchcase(arm.name, pattern) for pattern in preset.omit)


def _own_data(preset: Preset, data: str) -> Preset:
    if data != preset.data:
        raise HorkdError(f"preset {preset.name} is made for {preset.data} alone")
    return preset


def _no_file(preset: Preset, file: Path, model: str, statistics: str) -> tuple[Preset, RunConfig]:
    raise HorkdError(f"preset {preset.name} trains its own teacher")


@dataclass(frozen=True)
class Task:
    """A task: what networks are for.

    Attributes:
        name: of its folder, and `Preset.task` of its presets.
        what: in words, as in "no study of metric learning".
        presets: one per size.
        studies: in order of worth.
        configure: the run of an arm with a seed, at a preset's size.
        exports: names of the arms whose networks are worth handing on.
        takes: whether a data set is for this task.
        adapt: a preset on another data set that it takes, or on its own.
        sets: what such data sets are called, for errors; "" for the rest of all.
        meant: the preset that is meant by data (or "") alone, and whether there is a teacher's
            file; "" where it is none of this task.
        with_teacher: a preset with a teacher from a file (path, architecture or "", statistics),
            and the run that this teacher is.
        notebooks_take_teacher: whether its notebooks can be given such a file.
        trials_page: writes page and records of a preset's trials into a folder, from a
            `horkd.studies.results.Source`, and gives the page's path; None without such a page.
    """

    name: str
    what: str
    presets: tuple[Preset, ...]
    studies: tuple[Study, ...]
    configure: Callable[[Preset, Arm, int], RunConfig]
    exports: Callable[[Preset], list[str]] = lambda preset: []
    takes: Callable[[str], bool] = lambda data: False
    adapt: Callable[[Preset, str], Preset] = _own_data
    sets: str = ""
    meant: Callable[[str, bool], str] = lambda data, given: ""
    with_teacher: Callable[[Preset, Path, str, str], tuple[Preset, RunConfig]] = _no_file
    notebooks_take_teacher: bool = False
    trials_page: "Callable[[Preset, Source, Path], Path] | None" = None


_registered: dict[str, Task] = {}


def tasks() -> dict[str, Task]:
    """All tasks by name: those of the package, then those of `registered`."""
    found = (import_module(f"{package.__name__}.{name}.task").TASK for name in package.TASKS)
    return {task.name: task for task in found} | _registered


@contextmanager
def registered(task: Task) -> Iterator[Task]:
    """A task that is known within the block, in place of one of the same name, if any."""
    before = dict(_registered)
    _registered[task.name] = task
    try:
        yield task
    finally:
        _registered.clear()
        _registered.update(before)


def task_of(preset: Preset) -> Task:
    """The task that a preset is for."""
    return tasks()[preset.task]
