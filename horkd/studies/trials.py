"""Trials to a page: by which settings a preset's recipe and weights were chosen.

    reports/<preset>-<data>/trials/TRIALS.md       both searches and what came of them
                                   records/*.json  every trial, to make the page again from

A trial is read on the validation split only (`RunConfig.trial`). The page is a function of the
records, and marks a setting as chosen by comparing it with the preset.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from scipy import stats

from horkd import storage
from horkd.errors import HorkdError
from horkd.lab.pace import learner_macs
from horkd.lab.store import Run
from horkd.protocols import main_metric
from horkd.studies import report
from horkd.studies.arm import Arm
from horkd.studies.presets import Preset
from horkd.studies.results import Source
from horkd.studies.study import finished, seeds, studies_of, study
from horkd.studies.task import TRIALS
from horkd.training import Recipe

#: What is decided by a trial of the recipe; epochs and views are not.
_DECIDED = ("batch_size", "learning_rate", "weight_decay", "schedule", "climb")


def score(run: Run) -> float:
    """Percent on the validation split after the last epoch."""
    result = run.record["results"]["validation"]
    return result[main_metric(result)]


def sampling_error(percent: float, images: int) -> float:
    """Standard error, in points, of an accuracy that was counted on so many images."""
    share = percent / 100
    return 100 * math.sqrt(share * (1 - share) / images)


def interval(a: list[float], b: list[float]) -> tuple[float, float]:
    """Difference of two means, and half the width of its 95 % interval.

    Welch's: the two deviations need not be equal.
    """
    found = stats.ttest_ind(a, b, equal_var=False)
    low, high = found.confidence_interval(0.95)
    return (low + high) / 2, (high - low) / 2


def _chosen(preset: Preset, run: Run) -> bool:
    """Whether the preset has the recipe of this trial."""
    ours: Recipe = preset.recipe
    return all(getattr(run.config.recipe, name) == getattr(ours, name) for name in _DECIDED)


def _shares(run: Run) -> str:
    """Shares of the terms in the gradient at the features, over the last epoch."""
    found: Mapping[str, float] = run.record["history"][-1]["gradient_shares"]
    if len(found) < 2:
        return "–"
    return ", ".join(
        f"{report.TERM_NAMES.get(name, name)} {100 * share:.1f}" for name, share in found.items()
    )


def table(preset: Preset, name: str, source: Source) -> pd.DataFrame:
    """One row per trial of a study that is finished, in the order of the study.

    Args:
        preset: whose trials.
        name: of one of its studies of trials.
        source: of the runs.
    """
    rows, kinds = [], study(preset, name)
    for arm, found in finished(preset, name, source.find).items():
        for run in found:
            record = run.record
            entry = {
                "trial": kinds[arm].label,
                "seed": run.config.seed,
                "validation top-1 %": f"{score(run):.2f}",
                "epochs": run.config.recipe.epochs,
                "network": run.config.model,
                "fastest epoch, s": f"{min(record['seconds']['epochs']):.0f}",
                "precision": record["settings"]["precision"],
                "threads": record["machine"]["threads"],
                "record": run.config.key,
            }
            if _of_methods(kinds):
                entry["share of the gradient %"] = _shares(run)
            rows.append(entry)
    return pd.DataFrame(rows)


def _of_methods(kinds: Mapping[str, Arm]) -> bool:
    """Whether trials are about methods, or about the recipe that all have."""
    return any(arm.method for arm in kinds.values())


def _progressive(preset: Preset, source: Source) -> list[str]:
    """What progressive resolution costs and saves."""
    arms = finished(preset, "recipe", source.find)
    names = {n: f"trial {n}" for n in ("progressive", "full", "full, equal time")}
    lines = []
    for control in ("full", "full, equal time"):
        a, b = (arms.get(names[n], []) for n in ("progressive", control))
        if min(len(a), len(b)) < 2:
            continue
        difference, half = interval([score(r) for r in a], [score(r) for r in b])
        work_, seconds = (
            [value(runs) for runs in (a, b)]
            for value in (
                lambda runs: learner_macs(runs[0].config),
                lambda runs: min(run.record["seconds"]["total"] for run in runs),
            )
        )
        shown = "" if abs(difference) > half else " The interval holds zero."
        lines.append(
            f"- progressive − {control}: {difference:+.2f} ± {half:.2f} points (95 %, Welch; "
            f"n = {len(a)} and {len(b)}), with {work_[0] / work_[1]:.2f} times the "
            f"multiply-accumulates; the fastest runs took {seconds[0]:.0f} and {seconds[1]:.0f} "
            f"s.{shown}"
        )
    return lines


def _best(preset: Preset, source: Source) -> list[str]:
    """Of the trials of losses: the best setting of each method, and how many it had."""
    kinds = study(preset, "losses")
    methods: dict[str, list[tuple[float, str]]] = {}
    for name, found in finished(preset, "losses", source.find).items():
        if kinds[name].method:
            methods.setdefault(kinds[name].method, []).append(
                (score(found[0]), kinds[name].setting)
            )
    planned = [arm.method for arm in kinds.values()]
    return [
        f"- {method}: {best[1]} ({best[0]:.2f} %), best of {len(found)} of "
        f"{planned.count(method)} trials"
        for method, found in methods.items()
        for best in [max(found, key=lambda pair: pair[0])]  # the first of equal ones
    ]


def page(preset: Preset, source: Source) -> str:
    """The trials of a preset as Markdown.

    Raises:
        HorkdError: if it has no finished trial.
    """
    parts = [
        f"# Trials of preset {preset.name}",
        "",
        "Read on the validation split, which no trial was trained on; no trial looked at the test "
        "images. Accuracies are those of the last epoch.",
    ]
    any_there = False
    studies = studies_of(preset, TRIALS)
    for name in studies:
        found = table(preset, name, source)
        if found.empty:
            continue
        any_there = True
        shares = _of_methods(study(preset, name))
        asked = sum(len(seeds(preset, arm)) for arm in study(preset, name).values())
        parts += ["", _TITLES[name], "", f"{len(found)} of {asked} runs."]
        best = float(found["validation top-1 %"].astype(float).max())
        count = _validation_images(preset, name, source)
        parts += [
            f"An accuracy near {best:.0f} % on {count:,} images has a standard error of "
            f"{sampling_error(best, count):.1f} points, and another seed adds to that: smaller "
            "differences between single runs mean nothing.",
            "",
            report.markdown(found),
        ]
        parts += ["", *_best(preset, source)] if shares else _of_recipe(preset, source)
    if not any_there:
        if not any(study(preset, name) for name in studies):
            raise HorkdError(f"preset {preset.name} has no trials: its recipe is not searched")
        raise HorkdError(
            f"no trial of preset {preset.name} is finished: train them first (horkd work --preset "
            f"{preset.name} --study {studies[0]})"
        )
    return "\n".join(parts) + "\n"


_TITLES = {"recipe": "## The recipe", "losses": "## Losses and their weights"}


def _validation_images(preset: Preset, name: str, source: Source) -> int:
    found = next(iter(finished(preset, name, source.find).values()))
    return found[0].record["results"]["validation"]["n"]


def _of_recipe(preset: Preset, source: Source) -> list[str]:
    if preset.trial is not None and preset.trial.progressive:
        return ["", *_progressive(preset, source)]
    limit = 2 * math.sqrt(2) * sampling_error(50.0, _validation_images(preset, "recipe", source))
    found = finished(preset, "recipe", source.find)
    kinds = study(preset, "recipe")
    ours = [
        kinds[name].label
        for name, of_arm in found.items()
        if _chosen(preset, of_arm[0]) and of_arm[0].config.model == preset.compact
    ]
    shown = ", ".join(f"{n} {getattr(preset.recipe, n)}" for n in _DECIDED)
    which = f" ({', '.join(ours)})" if ours else ""
    return [
        "",
        f"The preset has {shown}{which}. The base stays unless a trial is ahead of it by more than "
        f"{limit:.1f} points, two standard errors of a difference.",
    ]


def write(preset: Preset, source: Source, out: Path) -> Path:
    """The page and the records of all finished trials, into the folder `out`.

    Raises:
        HorkdError: if there is no finished trial, or the disk refuses.
    """
    text = page(preset, source)
    for name in studies_of(preset, TRIALS):
        report.save_records(
            (run for found in finished(preset, name, source.find).values() for run in found), out
        )
    storage.write_text(out / "TRIALS.md", text)
    return out / "TRIALS.md"
