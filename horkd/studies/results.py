"""The finished runs of some studies: what tables, figures, claims and pages are made of.

`live` takes runs of this machine, trained where they are missing. Any other `Source` will do: the
tests make every committed page again from the records that its report keeps, without a network.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy import stats
from torch import Tensor

from horkd import storage
from horkd.data import find
from horkd.degradation import Degradation
from horkd.lab import looks as looks_
from horkd.lab.config import RunConfig
from horkd.lab.looks import Look
from horkd.lab.store import Run, diverged
from horkd.lab.work import as_finished
from horkd.machine import Settings
from horkd.protocols import headline
from horkd.studies import report
from horkd.studies.arm import Arm
from horkd.studies.preset import Preset
from horkd.studies.study import collect, configure, finished, queue, seeds, study, trainer


@dataclass(frozen=True)
class Gain:
    """A difference in points, one value per seed or per fold.

    Attributes:
        values: the differences.
        of: what they are over in `text`, "seeds" or "folds"; empty to show each value instead.
        doubt: why nothing is shown whatever the values, as the end of a sentence; or empty.
    """

    values: tuple[float, ...]
    of: str = ""
    doubt: str = ""

    @property
    def n(self) -> int:
        """How many values."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """Their mean."""
        return float(np.mean(self.values))

    @property
    def std(self) -> float | None:
        """Their standard deviation; None for one value."""
        return float(np.std(self.values, ddof=1)) if self.n > 1 else None

    @property
    def short(self) -> str:
        """`+1.69 ± 0.58`."""
        return f"{self.mean:+.2f}" + ("" if self.std is None else f" ± {self.std:.2f}")

    @property
    def text(self) -> str:
        """For a sentence: `+1.69 ± 0.58 points (n = 3; +1.0, +2.0, +2.0)`."""
        if self.of:
            behind = f" {self.of if self.n > 1 else self.of.removesuffix('s')}"
        else:
            behind = "; " + ", ".join(f"{v:+.2f}" for v in self.values) if self.n > 1 else ""
        return f"{self.short} points (n = {self.n}{behind})"

    @property
    def verdict(self) -> str:
        """The claim that it is positive "holds", "does not hold" or is "not shown".

        It needs three values, a 95 % confidence interval (Student's t) without zero, and no doubt.
        """
        if self.doubt or self.n < 3:
            return "not shown"
        half = stats.t.ppf(0.975, self.n - 1) * self.std / np.sqrt(self.n)
        if abs(self.mean) <= half:
            return "not shown"
        return "holds" if self.mean > 0 else "does not hold"


def tested(run: Run) -> float:
    """What the test of a run is summed up by, in percent."""
    return headline(run.record["results"]["test"]).percent


def distinct(runs: Iterable[Run]) -> list[Run]:
    """The runs of some, in their order, each key once."""
    return list({run.config.key: run for run in runs}.values())


class Source(Protocol):
    """Where runs come from, and what is known of their networks."""

    def find(self, config: RunConfig) -> Run | None:
        """The finished run of a configuration."""

    def failed(self, config: RunConfig) -> dict | None:
        """What is known of a run that diverged."""

    def at_resolutions(self, run: Run, degradations: Sequence[Degradation]) -> list[dict] | None:
        """Tests of a network on other degradations; None unless all are known."""

    def ask(self, run: Run, looks: Sequence[Look]) -> list[dict | None]:
        """Tests of a network on images of unseen classes; None for each that is not known."""


@dataclass(frozen=True)
class Results:
    """The finished runs of some studies by arm, in the studies' order, and questions to them.

    Attributes:
        preset: what they were made with.
        arms: all arms of the studies, also those without a run.
        source: where the runs come from.
        found: arm -> its finished runs, one per seed, in the order of seeds.
    """

    preset: Preset
    arms: Mapping[str, Arm]
    source: Source
    found: Mapping[str, Sequence[Run]]

    def __contains__(self, arm: str) -> bool:
        return arm in self.found

    def __iter__(self) -> Iterator[str]:
        """Names of the arms that have a finished run."""
        return iter(self.found)

    def runs(self, arm: str) -> Sequence[Run]:
        """The finished runs of an arm, maybe none."""
        return self.found.get(arm, ())

    def everything(self) -> list[Run]:
        """All runs, each once, also one that stands for two arms: what counts and hours are of."""
        return distinct(run for found in self.found.values() for run in found)

    def config(self, arm: str) -> RunConfig:
        """The configuration of an arm's first seed, whether it was run or not."""
        return configure(self.preset, self.arms[arm], self.arms[arm].seed)

    def first(self, arm: Arm) -> Run | None:
        """The first seed of an arm, which need not be of these studies."""
        return self.source.find(configure(self.preset, arm, arm.seed))

    def only(self, names: Iterable[str]) -> "Results":
        """The same with the runs of some arms."""
        return replace(self, found={name: self.found[name] for name in names if name in self})

    def values(self, arm: str) -> list[float]:
        """The main number of an arm's test (%), one per seed."""
        return [tested(run) for run in self.runs(arm)]

    def gain(self, arm: str, control: str) -> Gain | None:
        """Difference of two arms in the main number, paired over seeds; None without a pair.

        It is in doubt as `doubt` says.
        """
        controls = {run.config.seed: tested(run) for run in self.runs(control)}
        values = tuple(
            tested(run) - controls[run.config.seed]
            for run in self.runs(arm)
            if run.config.seed in controls
        )
        return Gain(values, doubt=self.doubt(arm, control)) if values else None

    def doubt(self, *arms: str) -> str:
        """Why nothing is shown by comparing some arms, as the end of a sentence; or empty.

        A seed diverged, or runs are of unequal precision.
        """
        lost = [arm for arm in arms if arm in self.arms and self.failures(arm)]
        said = [f", and seeds of {self.label(arm)} diverged" for arm in lost]
        mixed = self.precisions(*arms)
        if mixed[1:]:
            said.append(f", in unequal precision ({', '.join(mixed)})")
        return "".join(said)

    def at_resolutions(self, run: Run, degradations: Sequence[Degradation]) -> list[dict] | None:
        """Tests of a run on images degraded otherwise; None unless all are known."""
        return self.source.at_resolutions(run, degradations)

    def look(self, run: Run, look: Look) -> dict | None:
        """What a run's network says of images of unseen classes; None where it is not known."""
        return self.source.ask(run, [look])[0]

    def ask(self, run: Run, looks: Sequence[Look]) -> list[dict | None]:
        """Several looks at once: features are then computed once."""
        return self.source.ask(run, looks)

    def features(self, arm: str) -> Tensor:
        """What the first run of an arm says of its test images (N, D); needs its network."""
        return looks_.features(self.runs(arm)[0])

    def failures(self, arm: str) -> list[tuple[RunConfig, dict]]:
        """The seeds of an arm whose loss was no longer finite, with what is known of them."""
        kind = self.arms[arm]
        configs = [configure(self.preset, kind, seed) for seed in seeds(self.preset, kind)]
        notes = [(config, self.source.failed(config)) for config in configs]
        return [(config, note) for config, note in notes if note is not None]

    def precisions(self, *arms: str) -> list[str]:
        """The precisions that some arms were trained in; comparable ones have one."""
        runs = [run for arm in arms for run in self.runs(arm)]
        parts = [part for run in runs for part in run.trained_in]
        return sorted({part["precision"] for part in parts if "precision" in part})

    def label(self, arm: str) -> str:
        """What tables call an arm that are about its study alone."""
        return self.arms[arm].label

    def is_teacher(self, arm: str) -> bool:
        """Whether an arm is the one that is fed images of every resolution in the tables."""
        return self.arms[arm].network == "teacher" and self.arms[arm].frozen is None

    def missing(self) -> str:
        """A sentence on arms that diverged and arms that were not run; empty without any."""
        lost = [arm for arm in self.arms if self.failures(arm)]
        left = [arm for arm in self.arms if arm not in self and arm not in lost]
        said = (("Diverged", lost), ("Not run", left))
        return " ".join(
            f"{what}: {', '.join(map(self.label, arms))}." for what, arms in said if arms
        )

    def save_records(self, out: str | Path) -> None:
        """Put the record of every run, with its looks, and of every failure into a report."""
        if not out:
            return
        report.save_records(self.everything(), out)
        for arm in self.arms:
            for config, note in self.failures(arm):
                storage.save_json(Path(out) / "records" / f"{config.name}.diverged.json", note)


def gather(
    preset: Preset,
    studies: Sequence[str],
    source: Source,
    required: bool = True,
    only: Sequence[str] = (),
) -> Results:
    """The runs of several studies together; a study without any finished run adds none.

    Args:
        preset: sizes.
        studies: names.
        source: of the runs.
        required: whether there must be some.
        only: names of arms whose runs are wanted; all by default.

    Raises:
        HorkdError: if one is required and none is there; it says what to train.
    """
    arms: dict[str, Arm] = {}
    found: dict[str, list[Run]] = {}
    for name in studies:
        arms |= study(preset, name)
        found |= finished(preset, name, source.find, only)
    if required and not found:
        first = next((name for name in studies if study(preset, name)), studies[0])
        collect(preset, first, source.find)
    return Results(preset, arms, source, found)


def live(
    preset: Preset,
    studies: Sequence[str],
    train_missing: bool = True,
    settings: Settings | None = None,
    only: Sequence[str] = (),
) -> Results:
    """Runs of this machine: read, and trained if missing and wanted.

    In the precision of the finished ones, else in the preset's.

    Raises:
        HorkdError: if nothing is there and nothing may be trained.
    """
    there = [name for name in studies if study(preset, name)]
    settings = as_finished(queue(preset, *there) if there else [], settings or Settings())
    return gather(preset, studies, Live(preset, train_missing, settings), only=only)


class Live:
    """Runs of this machine, a `Source`.

    Args:
        preset: whose precision is that of runs which are trained.
        train_missing: False only reads.
        settings: where networks run.
    """

    def __init__(
        self, preset: Preset, train_missing: bool = True, settings: Settings | None = None
    ) -> None:
        self.find = trainer(preset, settings, train_missing)
        self.failed = diverged
        self.settings = settings

    def at_resolutions(self, run: Run, degradations: Sequence[Degradation]) -> list[dict] | None:
        """Measured now, unless it was before."""
        return looks_.at_resolutions(run, degradations, self.settings)

    def ask(self, run: Run, looks: Sequence[Look]) -> list[dict | None]:
        """Measured now, unless it was before; None for test sets that are not here."""
        there = [look for look in looks if not _left_out(look.data)]
        measured = looks_.ask(run, there, self.settings)
        results = dict(zip(there, measured, strict=True))
        return [results.get(look) for look in looks]


def _left_out(data: str) -> bool:
    source = find(data)
    return source is not None and source.left_out(data)
