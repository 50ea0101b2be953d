"""Records made up by rules that tests can compute: finished runs without networks.

`Made` is a source of results in memory; `save` writes what a report would keep of them, and
`recorded` reads what a report keeps.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from scipy import stats

from horkd import storage
from horkd.degradation import Degradation
from horkd.lab.config import RunConfig, config_from_dict
from horkd.lab.looks import Look, known_looks
from horkd.lab.store import Run
from horkd.losses import ORDERS as TERMS
from horkd.studies.preset import Preset
from horkd.studies.results import Results, gather
from horkd.studies.study import configure, seeds, study


def record_of(config: RunConfig, test: Mapping, validation: float | None = None, **parts) -> dict:
    """The record of a run with this test.

    Args:
        config: of the run.
        test: its result.
        validation: top-1 (%) on the validation split after every epoch.
        parts: add to the record or stand in place of its own parts.
    """
    terms = ["cross_entropy", *(TERMS[order] for order, _ in config.orders)]
    entry = {"gradient_shares": dict.fromkeys(terms, 1 / len(terms))}
    if validation is not None:
        entry["validation"] = {"top1": validation}
    record = {
        "key": config.key,
        "config": asdict(config),
        "results": {"test": test},
        "history": [{"epoch": epoch, **entry} for epoch in (1, 2)],
        "cost": {"parameters": 1_230_000, "macs": 10**6 * config.degradation.size},
        "seconds": {"total": 90.0, "frozen_answers_read": []},
        "machine": {"name": "a machine", "threads": 1},
        **parts,
    }
    return json.loads(json.dumps(record))


class Made:
    """Finished runs, failures, and what was asked of networks: a source of results.

    Attributes:
        runs, failures, tests, looks: by key of the configuration.
        asked: (key, look) of all that was asked, in order.
    """

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.failures: dict[str, dict] = {}
        self.tests: dict[str, dict[Degradation, dict]] = {}
        self.looks: dict[str, dict[Look, dict]] = {}
        self.asked: list[tuple[RunConfig, Look]] = []

    def add(self, config: RunConfig, test: Mapping, looks: Mapping | None = None, **parts) -> Run:
        """A finished run; of a configuration that is there already, it is that one."""
        record = record_of(config, test, **parts)
        self.looks.setdefault(config.key, dict(looks or {}))
        return self.runs.setdefault(config.key, Run(config, Path("nowhere"), record))

    def diverge(self, config: RunConfig, epoch: int = 2) -> None:
        """A run that failed instead."""
        self.runs.pop(config.key, None)
        self.failures[config.key] = {"key": config.key, "epoch": epoch, "config": {}}

    def find(self, config: RunConfig) -> Run | None:
        return self.runs.get(config.key)

    def failed(self, config: RunConfig) -> dict | None:
        return self.failures.get(config.key)

    def at_resolutions(self, run: Run, degradations) -> list[dict] | None:
        known = self.tests.get(run.config.key, {})
        return [known[d] for d in degradations] if set(degradations) <= known.keys() else None

    def ask(self, run: Run, looks) -> list[dict | None]:
        self.asked += [(run.config, look) for look in looks]
        return [self.looks.get(run.config.key, {}).get(look) for look in looks]

    def save(self, folder: Path) -> Path:
        """The records of a report of these runs."""

        def save(key: str, ending: str, content: dict) -> None:
            name = self.runs[key].config.name if key in self.runs else key
            storage.save_json(folder / "records" / f"{name}{ending}.json", content)

        for key, run in self.runs.items():
            save(key, "", run.record)
        for key, note in self.failures.items():
            save(key, ".diverged", note)
        for key, tests in self.tests.items():
            views = [{"degradation": asdict(d), "test": test} for d, test in tests.items()]
            save(key, ".views", {"key": key, "files": {}, "views": views})
        for key, looks in self.looks.items():
            listed = [{"look": look.as_json(), "result": r} for look, r in looks.items()]
            save(key, ".open_set", {"key": key, "files": {}, "looks": listed})
        return folder


def make(
    preset,
    studies: Collection[str],
    add: Callable,
    only: Collection | None = None,
    leave_out: Collection = (),
    diverged: Collection = (),
) -> Results:
    """Results whose arms are made by a rule.

    Args:
        preset: sizes.
        studies: names.
        add: called with the source, an arm, its seed and its configuration.
        only, leave_out, diverged: names of arms as tables have them, or (name, seed).
    """
    made = Made()
    listed = [
        (arm, seed, configure(preset, arm, seed))
        for name in studies
        for arm in study(preset, name).values()
        for seed in seeds(preset, arm)
    ]

    def keys(names: Collection) -> set[str]:
        """All seeds of an arm, or one; the run may stand for another arm as well."""
        chosen = set(names)
        return {
            config.key
            for arm, seed, config in listed
            if {arm.name, short(arm), (arm.name, seed), (short(arm), seed)} & chosen
        }

    def short(arm) -> str:
        return arm.name.removeprefix("metric ")

    lost = keys(diverged)
    wanted = {config.key for _, _, config in listed} if only is None else keys(only)
    wanted -= keys(leave_out) | lost
    for arm, seed, config in listed:
        if config.key in wanted and config.key not in made.runs:
            add(made, arm, seed, config)
        if config.key in lost:
            made.diverge(config)
    return gather(preset, studies, made, required=False)


def cell(values) -> str:
    """A number of a table."""
    mean = f"{np.mean(values):.2f}"
    return f"{mean} ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else mean


def judged(values) -> str:
    """The verdict by Student's t, by a test instead of an interval."""
    values = np.asarray(values)
    if len(values) < 3:
        return "not shown"
    if np.ptp(values) > 1e-9 and stats.ttest_1samp(values, 0).pvalue >= 0.05:
        return "not shown"
    return "holds" if values.mean() > 0 else "does not hold"


def check_page(text: str) -> None:
    """What every page has to be: no holes, no broken table."""
    assert not re.search(r"\bnan\b", text.lower())
    assert "None" not in text
    assert "\n\n\n" not in text
    assert text == text.strip()
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if not lines[0].startswith("|"):
            assert not any(line.startswith("|") for line in lines), "no blank line before a table"
            continue
        assert re.fullmatch(r"\|(:?-+:?\|)+", lines[1])
        assert len({line.count("|") for line in lines}) == 1
        assert all(line.endswith("|") for line in lines)


def protocol(look: Look) -> str:
    """What is asked: "verification", "identification", "retrieval", …"""
    return look.question


def recorded(preset: Preset, studies: Sequence[str], folder: Path) -> Results:
    """The records that a report keeps under `records/`; there are no networks behind them.

    Raises:
        HorkdError: if there are none of these studies.
    """
    return gather(preset, studies, Recorded(folder))


class Recorded:
    """The records of a report, a `Source`.

    Args:
        folder: the report's.
    """

    def __init__(self, folder: Path) -> None:
        self.runs: dict[str, Run] = {}
        self.notes: dict[str, dict] = {}
        self.tests: dict[str, dict[Degradation, dict]] = {}
        self.looks: dict[str, dict[Look, dict]] = {}
        for path in sorted((Path(folder) / "records").glob("*.json")):
            content = storage.load_json(path)
            key = content["key"]
            if path.name.endswith(".views.json"):
                self.tests[key] = {
                    Degradation(**view["degradation"]): view["test"] for view in content["views"]
                }
            elif path.name.endswith(".open_set.json"):
                self.looks[key] = known_looks(content)
            elif path.name.endswith(".diverged.json"):
                self.notes[key] = content
            else:
                config = config_from_dict(content["config"])
                self.runs[config.key] = Run(config, path.parent, content)

    def find(self, config: RunConfig) -> Run | None:
        """The run on record."""
        return self.runs.get(config.key)

    def failed(self, config: RunConfig) -> dict | None:
        """The failure on record."""
        return self.notes.get(config.key)

    def at_resolutions(self, run: Run, degradations: Sequence[Degradation]) -> list[dict] | None:
        """The tests on record, if all are."""
        tests = [self.tests.get(run.config.key, {}).get(d) for d in degradations]
        return None if None in tests else tests

    def ask(self, run: Run, looks: Sequence[Look]) -> list[dict | None]:
        """The looks on record."""
        return [self.looks.get(run.config.key, {}).get(look) for look in looks]
