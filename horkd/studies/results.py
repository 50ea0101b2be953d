"""The runs of a study, from this machine or from committed records."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from horkd import paths, storage
from horkd.data.faces import TESTS
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab import looks as looks_
from horkd.lab.config import RunConfig, config_from_dict
from horkd.lab.looks import Look, ask, known_looks
from horkd.lab.store import Run, diverged
from horkd.machine import Settings
from horkd.studies import report
from horkd.studies.arm import Arm
from horkd.studies.presets import Preset
from horkd.studies.study import Find, collect, configure, finished, seeds, study, trainer

Arms = Mapping[str, Sequence[Run]]  # arm -> its runs, one per seed, in the order of seeds


def top1(runs: Sequence[Run]) -> list[float]:
    """Test top-1 (%) of the last epoch, one per run."""
    return [run.record["results"]["test"]["top1"] for run in runs]


def headline(runs: Sequence[Run]) -> list[float]:
    """What a test is summed up by, in percent, one per run: top-1, or Recall@1 of retrieval."""
    tests = [run.record["results"]["test"] for run in runs]
    return [test["top1"] if "top1" in test else test["recall"]["1"] for test in tests]


def gain(arms: Arms, arm: str, control: str) -> dict[str, object]:
    """Difference of two arms in test top-1 or Recall@1, in points, paired over seeds.

    Returns:
        `values` per seed, `mean`, `std` (None for one seed), `n`, and `text` for a sentence.
    """
    controls = zip(arms[control], headline(arms[control]), strict=True)
    pairs = {run.config.seed: value for run, value in controls}
    values = [
        a - pairs[r.config.seed]
        for r, a in zip(arms[arm], headline(arms[arm]), strict=True)
        if r.config.seed in pairs
    ]
    if not values:
        raise HorkdError(f"{arm} and {control} have no seed in common: nothing to compare")
    mean = float(np.mean(values))
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    spread = f" ± {std:.2f}" if std is not None else ""
    each = ", ".join(f"{v:+.2f}" for v in values)
    text = f"{mean:+.2f}{spread} points (n = {len(values)}{'; ' + each if std is not None else ''})"
    return {"values": values, "mean": mean, "std": std, "n": len(values), "text": text}


@dataclass(frozen=True)
class Source:
    """How to get at runs.

    Attributes:
        find: the finished run of a configuration, or None.
        failed: what is known of one that diverged, or None.
        views: test results of a run on other degradations, or None where they are not known.
        looks: the same on images of unseen classes, None for each that is not known.
    """

    find: Find
    failed: Callable[[RunConfig], dict | None]
    views: Callable[[Run, Sequence[Degradation]], list[dict] | None]
    looks: Callable[[Run, Sequence[Look]], list[dict | None]]


def live(preset: Preset, train_missing: bool = True, settings: Settings | None = None) -> Source:
    """Runs of this machine: read, and trained if missing and wanted, in the preset's precision."""
    return Source(
        trainer(preset, settings, train_missing),
        diverged,
        lambda found, degradations: looks_.at_resolutions(found, degradations, settings),
        lambda found, looks: _look(found, looks, settings),
    )


def _look(found: Run, looks: Sequence[Look], settings: Settings | None) -> list[dict | None]:
    there = [look for look in looks if _is_there(look.data)]
    results = dict(zip(there, ask(found, there, settings), strict=True))
    return [results.get(look) for look in looks]


def _is_there(data: str) -> bool:
    """Whether a test set of faces is on this machine; any other set is, or is worth an error."""
    base = data.partition("@")[0]
    if base not in TESTS[1:]:
        return True
    home = paths.data_dir()
    return home is not None and (home / base).is_dir()


def recorded(folder: Path) -> Source:
    """The records that a report keeps under `records/`; there are no networks behind them.

    Args:
        folder: the report's.
    """
    known, failed, seen, looked = {}, {}, {}, {}
    for path in sorted((folder / "records").glob("*.json")):
        content = storage.load_json(path)
        if path.name.endswith(".views.json"):
            seen[content["key"]] = {
                _as_degradation(view["degradation"]): view["test"] for view in content["views"]
            }
        elif path.name.endswith(".open_set.json"):
            looked[content["key"]] = known_looks(content)
        elif path.name.endswith(".diverged.json"):
            failed[content["key"]] = content
        else:
            config = config_from_dict(content["config"])
            known[config.key] = Run(config, path.parent, content)

    def views(found: Run, degradations: Sequence[Degradation]) -> list[dict] | None:
        tests = [seen.get(found.config.key, {}).get(d) for d in degradations]
        return None if None in tests else tests

    def looks(found: Run, wanted: Sequence[Look]) -> list[dict | None]:
        return [looked.get(found.config.key, {}).get(look) for look in wanted]

    return Source(lambda c: known.get(c.key), lambda c: failed.get(c.key), views, looks)


def _as_degradation(content: Mapping) -> Degradation:
    return Degradation(**content)


def gather(preset: Preset, names: Iterable[str], source: Source) -> dict[str, list[Run]]:
    """The arms of several studies together; a study without any finished run adds none.

    Raises:
        HorkdError: if no run of any of them is there.
    """
    names = tuple(names)
    arms: dict[str, list[Run]] = {}
    for name in names:
        arms |= finished(preset, name, source.find)
    return arms or collect(preset, names[0], source.find)  # says what to train


def save_records(preset: Preset, names: Iterable[str], arms: Arms, source: Source, out) -> None:
    """Put the record of every run, with its views, and of every failure into the report."""
    if not out:
        return
    report.save_records([run for found in arms.values() for run in found], out)
    for name in names:
        for arm in study(preset, name).values():
            for config, failure in failures(preset, arm, source):
                path = Path(out) / "records" / f"{config.name}.diverged.json"
                storage.save_json(path, failure)


def failures(preset: Preset, arm: Arm, source: Source) -> list[tuple[RunConfig, dict]]:
    """The seeds of an arm whose loss was no longer finite, with what is known of them."""
    configs = [configure(preset, arm, seed) for seed in seeds(preset, arm)]
    notes = [(config, source.failed(config)) for config in configs]
    return [(config, note) for config, note in notes if note is not None]
