"""Trials: runs that settings are chosen by."""

from dataclasses import replace
from types import MappingProxyType
from typing import Any

from horkd.studies.arm import Arm
from horkd.studies.classification.presets import FULL, ClassificationPreset
from horkd.training import Recipe

#: Each changes one value of the preset's trial recipe.
_RECIPE_TRIALS = (
    {},
    {"learning_rate": 0.1},
    {"learning_rate": 0.05},
    {"learning_rate": 0.4},
    {"weight_decay": 1e-3},
    {"weight_decay": 2e-4},
    {"batch_size": 64, "learning_rate": 0.1},
    {"climb": 0.1},
    {"climb": 0.5},
    {"batch_size": 256, "learning_rate": 0.4},
)


_SHORT_NAMES = {"learning_rate": "rate", "weight_decay": "decay", "batch_size": "batch"}


#: Fields of the recipe that a trial has of its own; the rest is the preset's.
_RECIPE_FIELDS = (
    *("epochs", "batch_size", "learning_rate", "weight_decay", "schedule", "climb", "clip"),
    *("progressive", "views"),
)


def _trial(
    name: str, what: str, pixels: int | None, recipe: Recipe, fields: Any = MappingProxyType({}),
    **others: Any,
) -> Arm:  # fmt: skip
    """A run that is read on the validation split only, with a recipe of its own."""
    return Arm(
        f"trial {name}", f"trial: {what}", pixels, role="trial", label=name,
        recipe={field: getattr(recipe, field) for field in _RECIPE_FIELDS},
        fields={**fields, "trial": True}, **others,
    )  # fmt: skip


def recipe_arms(preset: ClassificationPreset) -> list[Arm]:
    """Trials of the recipe on labels alone."""
    base = preset.trial
    if base is None:
        return []
    if base.progressive:
        full = replace(base, progressive=())
        stages = ", ".join(f"{epochs} epochs at {pixels} px" for epochs, pixels in base.progressive)
        return [
            _trial("progressive", f"{base.epochs} epochs: {stages}, the rest at {FULL}", FULL, base,
                   repeated=True),
            _trial("full", f"all {base.epochs} epochs at {FULL} px", FULL, full, repeated=True),
            _trial("full, equal time", f"{FULL} px only, as long as progressive takes", FULL,
                   replace(full, epochs=base.epochs - 2), repeated=True),
        ]  # fmt: skip
    arms = []
    for changes in _RECIPE_TRIALS:
        shown = ", ".join(f"{_SHORT_NAMES.get(n, n)} {v:g}" for n, v in changes.items()) or "base"
        arms.append(_trial(shown, f"labels only, {shown}", None, replace(base, **changes)))
    if preset.weight_trial is not None:
        recipe = replace(preset.weight_trial, views=0)
        arms.append(
            _trial("teacher's network", "the recipe that was chosen, with the teacher's network",
                   None, recipe, network="teacher")
        )  # fmt: skip
    return arms


#: What the students of the trials of losses are distilled from.
_TRIAL_ASSISTANT = "trial assistant"


#: No seed of the runs that the choice is for.
_TRIAL_SEED = 100


#: As many trials for each method: its terms with their weights, and the cross-entropy's.
_LOSS_TRIALS = {
    "{2,3,C}": (
        {"orders": {"2": 2.5, "3": 5.0, "C": 10.0}},
        {"orders": {"2": 2.5, "3": 5.0, "C": 100.0}},
        {"orders": {"2": 25.0, "3": 50.0, "C": 100.0}},
        {"orders": {"2": 0.1, "3": 0.1, "C": 0.1}, "balance": True},
    ),
    "{1,2,3,C}": (
        {"orders": {"1": 1.0, "2": 2.5, "3": 5.0, "C": 10.0}},
        {"orders": {"1": 10.0, "2": 2.5, "3": 5.0, "C": 10.0}},
        {"orders": {"1": 10.0, "2": 25.0, "3": 50.0, "C": 100.0}},
        {"orders": {"1": 0.1, "2": 0.1, "3": 0.1, "C": 0.1}, "balance": True},
    ),
    "KD": tuple(
        {"baselines": {"kd": weight}, "cross_entropy": share}
        for share in (0.1, 1.0)
        for weight in (0.9, 3.0)
    ),
    "KD standardised": tuple(
        {"baselines": {"kd_standardised": weight}, "cross_entropy": share}
        for share in (0.1, 1.0)
        for weight in (9.0, 3.0)
    ),
}


def loss_arms(preset: ClassificationPreset) -> list[Arm]:
    """Trials of losses: one assistant, and equally many students of it for every method."""
    base = preset.weight_trial
    if base is None:
        return []
    stages = ((2, preset.low), (1, (preset.low + FULL) // 2))
    assistant = replace(base, progressive=stages, views=0)
    arms = [
        _trial("assistant", "what the students of the trials learn from, labels only", FULL,
               assistant, seed=_TRIAL_SEED),
        _trial("alone", "labels only", None, base, seed=_TRIAL_SEED),
    ]  # fmt: skip
    most = max(map(len, _LOSS_TRIALS.values()))
    for number in range(most):  # every method once, then every method twice, …
        for method, trials in _LOSS_TRIALS.items():
            fields = dict(trials[number])
            weights = {**fields.get("orders", {}), **fields.get("baselines", {})}
            shown = ", ".join(f"{weight:g}" for weight in weights.values())
            if "cross_entropy" in fields:
                shown += f", labels {fields['cross_entropy']:g}"
            if fields.get("balance"):
                shown += ", balanced"
            for name in ("orders", "baselines"):
                if name in fields:
                    fields[name] = tuple(fields[name].items())
            arms.append(
                _trial(f"{method}: {shown}", f"{method}, {shown}", None, base, fields,
                       frozen=_TRIAL_ASSISTANT, seed=_TRIAL_SEED, method=method, setting=shown)
            )  # fmt: skip
    return arms
