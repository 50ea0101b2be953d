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
from horkd.protocols import headline
from horkd.studies import report
from horkd.studies.claims import unequal
from horkd.studies.preset import Preset
from horkd.studies.results import Results, Source, gather
from horkd.studies.study import configure, seeds, studies_of
from horkd.studies.task import TRIALS
from horkd.training import Recipe

#: What the trials of the recipe search; epochs and views are none of it.
_SEARCHED = ("batch_size", "learning_rate", "weight_decay", "schedule", "climb")


def score(run: Run) -> float:
    """Percent on the validation split after the last epoch."""
    return headline(run.record["results"]["validation"]).percent


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
    return all(getattr(run.config.recipe, name) == getattr(ours, name) for name in _SEARCHED)


def _shares(run: Run) -> str:
    """Shares of the terms in the gradient at the features, over the last epoch."""
    found: Mapping[str, float] = run.record["history"][-1]["gradient_shares"]
    if len(found) < 2:
        return "–"
    return ", ".join(
        f"{report.TERM_NAMES.get(name, name)} {100 * share:.1f}" for name, share in found.items()
    )


def gather_trials(preset: Preset, source: Source) -> dict[str, Results]:
    """The finished trials of a preset by study; maybe none."""
    return {
        name: gather(preset, (name,), source, required=False) for name in studies_of(preset, TRIALS)
    }


def table(results: Results) -> pd.DataFrame:
    """One row per finished trial of a study, in the order of the study.

    Args:
        results: of a study of trials; one of methods also has the shares of the gradient.
    """
    rows = []
    for arm in results:
        for run in results.runs(arm):
            record = run.record
            entry = {
                "trial": results.label(arm),
                "seed": run.config.seed,
                "validation top-1 %": f"{score(run):.2f}",
                "epochs": run.config.recipe.epochs,
                "network": run.config.model,
                "fastest epoch, s": f"{min(record['seconds']['epochs']):.0f}",
                "precision": record["settings"]["precision"],
                "threads": record["machine"]["threads"],
                "record": run.config.key,
            }
            if _of_methods(results):
                entry["share of the gradient %"] = _shares(run)
            rows.append(entry)
    return pd.DataFrame(rows)


def _of_methods(results: Results) -> bool:
    """Whether trials are about methods, or about the recipe that all have."""
    return any(arm.method for arm in results.arms.values())


def _progressive(results: Results) -> list[str]:
    """What progressive resolution costs and saves."""
    lines = []
    for control in ("full", "full, equal time"):
        a, b = (results.runs(f"trial {n}") for n in ("progressive", control))
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
        doubt = results.doubt("trial progressive", f"trial {control}")
        lines.append(
            f"- progressive − {control}: {difference:+.2f} ± {half:.2f} points (95 %, Welch; "
            f"n = {len(a)} and {len(b)}), with {work_[0] / work_[1]:.2f} times the "
            f"multiply-accumulates; the fastest runs took {seconds[0]:.0f} and {seconds[1]:.0f} "
            f"s{doubt}.{shown}"
        )
    return lines


def _best(results: Results) -> list[str]:
    """Of the trials of losses: the best setting of each method, and how many it had."""
    methods: dict[str, list[tuple[float, str]]] = {}
    for name in results:
        arm = results.arms[name]
        if arm.method:
            found = score(results.runs(name)[0]), arm.setting
            methods.setdefault(arm.method, []).append(found)
    planned = [arm.method for arm in results.arms.values()]
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
    trials = gather_trials(preset, source)
    for name, results in trials.items():
        found = table(results)
        if found.empty:
            continue
        asked = {
            configure(preset, arm, seed).key
            for arm in results.arms.values()
            for seed in seeds(preset, arm)
        }
        runs = results.everything()
        done = f"{len(runs)} of {len(asked)} runs. {unequal(runs)}".strip()
        parts += ["", _TITLES[name], "", done]
        best = float(found["validation top-1 %"].astype(float).max())
        count = _validation_images(results)
        parts += [
            f"An accuracy near {best:.0f} % on {count:,} images has a standard error of "
            f"{sampling_error(best, count):.1f} points, and another seed adds to that: smaller "
            "differences between single runs mean nothing.",
            "",
            report.markdown(found),
        ]
        parts += ["", *_best(results)] if _of_methods(results) else _of_recipe(results)
    if not any(results.found for results in trials.values()):
        if not any(results.arms for results in trials.values()):
            raise HorkdError(f"preset {preset.name} has no trials: its recipe is not searched")
        raise HorkdError(
            f"no trial of preset {preset.name} is finished: train them first (horkd work --preset "
            f"{preset.name} --study {next(iter(trials))})"
        )
    return "\n".join(parts) + "\n"


_TITLES = {"recipe": "## The recipe", "losses": "## Losses and their weights"}


def _validation_images(results: Results) -> int:
    return results.everything()[0].record["results"]["validation"]["n"]


def _of_recipe(results: Results) -> list[str]:
    preset = results.preset
    if preset.trial is not None and preset.trial.progressive:
        return ["", *_progressive(results)]
    limit = 2 * math.sqrt(2) * sampling_error(50.0, _validation_images(results))
    first = {name: results.runs(name)[0] for name in results}
    ours = [
        results.label(name)
        for name, run in first.items()
        if _chosen(preset, run) and run.config.model == preset.compact
    ]
    shown = ", ".join(f"{n} {getattr(preset.recipe, n)}" for n in _SEARCHED)
    which = f" ({', '.join(ours)})" if ours else ""
    return [
        "",
        f"The preset has {shown}{which}. The base stays unless a trial is ahead of it by more than "
        f"{limit:.1f} points, two standard errors of a difference.",
    ]


def write(preset: Preset, source: Source, out: str | Path) -> Path:
    """The page and the records of all finished trials, into the folder `out`.

    Raises:
        HorkdError: if there is no finished trial, or the disk refuses.
    """
    out = Path(out)
    text = page(preset, source)
    for results in gather_trials(preset, source).values():
        report.save_records(results.everything(), out)
    storage.write_text(out / "TRIALS.md", text)
    return out / "TRIALS.md"
