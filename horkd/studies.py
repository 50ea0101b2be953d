"""Which runs a question is made of. An arm is data; a study is a list of arms; a preset sizes both.

| study | asks | notebook |
|---|---|---|
| two_stage | does each stage of the transfer help? | 02 |
| table1 | Table 1: is it better than other distillation, and than none? | 03 |
| orders | Fig. 4: which orders? All subsets of {1, 2, 3, C} at two resolutions | 04 |
| weights | which weights? On the validation split | 04 |
| campaign | the central comparison of Table 1, in order of worth, for `paper-short` | |
| long | the same with 100 epochs: a head start, or a lasting gain? | |
| nested | two more assistants, each with its students | |
| recipe | which learning rate, weight decay, batch, warm-up? Trials | |
| losses | which weights, of every method alike? Trials | |

Trials (`RunConfig.trial`) are read on the validation split and never look at the test images.
Trials, long and nested are run when they are asked for by name.
| plus | what could be added to the paper's form? | 03 |
| resolutions | from which resolution on does a high-resolution teacher help? | 05 |
| faces | Tables 2 and 3: how small can a face be? | 06 |
| metric | Table 4, Fig. 3: does a student keep its teacher's neighbourhoods? | 07 |

Arms of one seed share initial weights, order of images and augmentation, so that they can be
compared in pairs. Every model that is distilled from is trained once, with seed 0.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from horkd.data import full_size
from horkd.data.open_set import SIZE, parse
from horkd.errors import HorkdError
from horkd.losses import PAPER_WEIGHTS
from horkd.models import ModelSpec, Network, Statistics, load_network
from horkd.presets import FACE_ORDERS, MetricSizes, Preset
from horkd.pretrained import digest
from horkd.resolution import Degradation
from horkd.runs import Run, RunConfig, import_network, read, run
from horkd.storage import DamagedFile
from horkd.train import Diverged, Recipe, Settings

FULL = 32  # pixels of both data sets
ORDERS = "123C"


@dataclass(frozen=True)
class Arm:
    """One kind of run.

    Attributes:
        name: by which tables and the command line call it.
        what: what it is, in a line.
        pixels: what the learner sees; None for the preset's low resolution.
        frozen: name of the arm that is distilled from, None for labels only.
        network: field of the preset that names the network: "teacher", "compact" or "second"; of
            faces also "slim", and "scratch" for the teacher's network without its weights; of
            metric learning also "large".
        orders: subset of "123C", with the preset's weights.
        scale: order -> factor of its weight.
        epochs: multiple of the preset's epochs; "patience" for the preset's field of that name,
            "compute" for as much computation as assistant and student together.
        kernel: of the degradation.
        repeated: whether every preset repeats it over seeds, or only those with `repeat_all`.
        row: of the paper's Table 1, 2 or 4 that it stands for.
        fold: the fold of LFW that is held out; 0 for the preset's first, or none.
        seed: the first one.
        fields: further fields of its RunConfig and its recipe; "answers" stands for a method with
            the preset's weights (`Preset.answers`).
    """

    name: str
    what: str
    pixels: int | None = None
    frozen: str | None = None
    network: str = "compact"
    orders: str = ""
    scale: Mapping[str, float] = field(default_factory=dict)
    epochs: float | str = 1
    kernel: str = "bicubic"
    repeated: bool = False
    row: str | None = None
    fold: int = 0
    seed: int = 0
    fields: Mapping[str, Any] = field(default_factory=dict)


_KD = {"answers": "kd"}  # with the preset's weights
_STANDARDISED = {"answers": "kd_standardised"}
_LITERAL = {"orders": tuple(PAPER_WEIGHTS.items()), "reduction": "sum"}
_RKD_D = {"orders": (("2", 25.0),), "reduction": "rkd"}
_RKD_A = {"orders": (("3", 50.0),), "reduction": "rkd"}
_RKD_DA = {"orders": (("2", 25.0), ("3", 50.0)), "reduction": "rkd"}
_FITNET = {"baselines": (("fitnet", 10.0),)}
_AT = {"baselines": (("at", 1000.0),)}

_TWO_STAGE = (
    Arm("teacher", "teacher at full resolution", FULL, network="teacher", row="Teacher ResNet50"),
    Arm(
        "assistant",
        "assistant: compact, full resolution, distilled from the teacher (stage 1)",
        FULL, "teacher", orders="23C", row="OUR-32-R",
    ),
    Arm(
        "student",
        "student: compact, low resolution, distilled from the assistant (stage 2)",
        None, "assistant", orders="23C", repeated=True, row="OUR-16-R",
    ),
    Arm(
        "student alone", "control: the same student trained on labels only", repeated=True,
    ),
    Arm(
        "student direct",
        "control: the same student distilled from the teacher, no assistant",
        None, "teacher", orders="23C", repeated=True,
    ),
    Arm("assistant alone", "control: the assistant's network trained on labels only", FULL),
)  # fmt: skip

_METHODS = (
    ("KD", "softened answers of the teacher (Hinton et al. 2015)", _KD, "KD"),
    ("KD standardised", "KD on z-scores of the logits (Sun et al. 2024)", _STANDARDISED, None),
    ("RKD", "distances and angles (Park et al. 2019)", _RKD_DA, "RKD"),
    ("RKD distances", "RKD's distances only", _RKD_D, None),
    ("RKD angles", "RKD's angles only", _RKD_A, None),
    ("FitNet", "the teacher's middle map (Romero et al. 2015)", _FITNET, "FitNet"),
    ("AT", "the teacher's attention maps (Zagoruyko et al. 2017)", _AT, "Attention (AT)"),
)
_CENTRAL = ("KD", "KD standardised")  # repeated over seeds at the low resolution


def _low_methods() -> list[Arm]:
    """Every method at the student's resolution, distilled from the teacher."""
    return [
        Arm(name, what, None, "teacher", repeated=name in _CENTRAL, fields=fields)
        for name, what, fields, _ in _METHODS
    ]


def _full_methods() -> list[Arm]:
    """The paper's rows: the same network and methods at full resolution."""
    return [
        Arm(f"{name} {FULL}", what, FULL, "teacher", row=row, fields=fields)
        for name, what, fields, row in _METHODS
    ]


_CONTROLS = (
    Arm(
        "student, paper's weights",
        "literal sums with 0.02, 0.01 and 1, as the paper writes them, from the same assistant",
        None, "assistant", fields=_LITERAL,
    ),
    Arm(
        "student, paper's weights, clipped",
        "the same with the gradient's norm limited to 1",
        None, "assistant", fields={**_LITERAL, "clip": 1.0},
    ),
    Arm(
        "student from the assistant's weights",
        "stage 2 starting from the assistant instead of from scratch",
        None, "assistant", orders="23C", fields={"start": "frozen"},
    ),
    Arm(
        "assistant fine-tuned on small images",
        "control: the same start, then labels only",
        None, "assistant", fields={"start": "frozen"},
    ),
    Arm(
        "student direct, equal epochs",
        "no assistant, with the epochs of both stages together",
        None, "teacher", orders="23C", epochs=2,
    ),
    Arm(
        "student alone, equal epochs",
        "control: labels only, with the epochs of both stages together",
        epochs=2,
    ),
    Arm(
        "KD from the assistant",
        "stage 2 by softened answers instead of relations",
        None, "assistant", fields=_KD,
    ),
    Arm(
        "KD patient",
        "only the teacher's answers, same views, long cosine (Beyer et al. 2022)",
        None, "teacher", epochs="patience",
        fields={"baselines": (("kd", 1.0),), "cross_entropy": 0.0, "schedule": "cosine"},
    ),
    Arm(
        "student alone, patient",
        "control: labels only, with the same long cosine",
        epochs="patience", fields={"schedule": "cosine"},
    ),
)  # fmt: skip

_SECOND = (
    Arm("assistant V", "stage 1 with the second network", FULL, "teacher", "second", "23C",
        row="OUR-32-V"),
    Arm("student V", "stage 2 with the second network", None, "assistant V", "second", "23C",
        row="OUR-16-V"),
    Arm("student V alone", "control: the second network on labels only", network="second"),
    Arm("assistant V alone", "control: the same at full resolution", FULL, network="second"),
)  # fmt: skip

_PLUS = (
    Arm("student + KD", "adds softened answers of the assistant",
        None, "assistant", orders="23C", fields=_KD),
    Arm("student + KD standardised", "adds answers of the assistant as z-scores",
        None, "assistant", orders="23C", fields=_STANDARDISED),
    Arm("student, balanced", "each order's gradient kept at a tenth of the cross-entropy's",
        None, "assistant", fields={
            "orders": (("2", 0.1), ("3", 0.1), ("C", 0.1)), "balance": True}),
    Arm("student, warm-up", "relations rise to their weights over the first epoch",
        None, "assistant", orders="23C", fields={"warmup": 1.0}),
    Arm("horkd+ from the assistant's weights",
        "relations and standardised answers of the assistant, starting from its weights",
        None, "assistant", orders="23C", fields={**_STANDARDISED, "start": "frozen"}),
    Arm("horkd+", "relations and standardised answers, both of the teacher, without an assistant",
        None, "teacher", orders="23C", repeated=True, fields=_STANDARDISED),
)  # fmt: skip


def subset_name(orders: str, pixels: int) -> str:
    """The arm of a subset of orders: `{2,3,C} 16`."""
    return f"{{{','.join(orders)}}} {pixels}"


def subsets() -> list[str]:
    """All sixteen subsets of the orders, the small ones first."""
    return ["".join(s) for n in range(5) for s in combinations(ORDERS, n)]


def _order_arms(preset: Preset) -> list[Arm]:
    """Fig. 4 at both resolutions: stage 2 at the low one, stage 1 at the full one."""
    return [
        Arm(
            subset_name(orders, pixels),
            f"orders {', '.join(orders) or 'none: labels only'}",
            pixels,
            (None if not orders else "teacher" if pixels == FULL else "assistant"),
            orders=orders,
        )
        for pixels in (preset.low, FULL)
        for orders in subsets()
    ]


def _weight_arms() -> list[Arm]:
    """One weight at a time, a tenth and ten times the preset's."""
    return [
        Arm(
            f"order {order} × {factor:g}",
            f"weight of order {order} times {factor:g}",
            None,
            "assistant",
            orders="23C",
            scale={order: factor},
        )
        for order in "23C"
        for factor in (0.1, 10.0)
    ]


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


def _trial(name: str, what: str, pixels: int | None, recipe: Recipe, **others: Any) -> Arm:
    """A run that is read on the validation split only, with a recipe of its own."""
    own = {field: getattr(recipe, field) for field in _OF_RECIPE}
    of_arm = ("frozen", "network", "repeated", "seed")
    known = {name: others.pop(name) for name in of_arm if name in others}
    fields = {**own, **others, "trial": True}
    return Arm(f"trial {name}", f"trial: {what}", pixels, **known, fields=fields)


def _recipe_arms(preset: Preset) -> list[Arm]:
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


def _loss_arms(preset: Preset) -> list[Arm]:
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
                _trial(f"{method}: {shown}", f"{method}, {shown}", None, base,
                       frozen=_TRIAL_ASSISTANT, seed=_TRIAL_SEED, **fields)
            )  # fmt: skip
    return arms


def _campaign_arms(preset: Preset) -> list[Arm]:
    """The central comparison, the most worth first."""
    if not preset.campaign:
        return []
    known = {arm.name: arm for arm in (*_TWO_STAGE, *_low_methods())}
    names = (
        *("teacher", "student alone", "assistant", "student", "student direct", "KD"),
        *("KD standardised", "assistant alone"),
    )
    repeated = ("student alone", "student", "student direct", "KD")
    return [
        *(replace(known[name], repeated=name in repeated) for name in names),
        Arm("student direct + KD", "relations and softened answers, both of the teacher",
            None, "teacher", orders="23C", fields=_KD),
        Arm("student alone, equal compute",
            "control: labels only, with the computation of assistant and student together",
            epochs="compute"),
        Arm("student alone, fresh crops",
            "control: labels only, with new crops in every epoch instead of fixed views",
            fields={"views": 0}),
    ]  # fmt: skip


#: Epochs of the study "long".
LONG = 100


def _long_arms(preset: Preset) -> list[Arm]:
    """The arms of the central claims once more, with many epochs."""
    if not preset.campaign:
        return []
    known = {arm.name: arm for arm in _campaign_arms(preset)}
    return [
        replace(known[name], name=f"{name}, {LONG} epochs", repeated=False, row=None,
                epochs=LONG / preset.recipe.epochs)
        for name in ("student alone", "student", "student direct", "KD")
    ]  # fmt: skip


#: Seeds of further assistants.
_NESTED = (1, 2)


def _nested_arms(preset: Preset) -> list[Arm]:
    """Further assistants with their students: a claim about the assistant needs several."""
    if not preset.campaign:
        return []
    assistant = {arm.name: arm for arm in _TWO_STAGE}["assistant"]
    arms = []
    for seed in _NESTED:
        name = f"assistant {seed}"
        arms += [
            replace(assistant, name=name, seed=seed, row=None),
            Arm(f"student of {name}", f"stage 2 from the assistant of seed {seed}",
                None, name, orders="23C", repeated=True),
        ]  # fmt: skip
    return arms


def _resolution_arms(preset: Preset) -> list[Arm]:
    """Students at every resolution, and two that are trained on other kernels."""
    arms = []
    for r in (FULL, *(r for r in preset.sweep if r != preset.low)):
        arms.append(Arm(f"student {r}", f"stage 2 at {r} px", r, "assistant", orders="23C"))
        if r != FULL:  # at full resolution these are the assistant and its control
            arms += [
                Arm(f"student {r} alone", f"labels only at {r} px", r),
                Arm(f"student {r} direct", f"no assistant, {r} px", r, "teacher", orders="23C"),
            ]
    return arms + [
        Arm(f"student {kernel}", f"stage 2 on images reduced by {kernel}", None, "assistant",
            orders="23C", kernel=kernel)
        for kernel in ("area", "nearest")
    ]  # fmt: skip


_WITHOUT = {"cross_entropy": 0.0, "unit": True}
#: Between unit-length features the weights are those of faces.
_UNIT_123 = {"orders": FACE_ORDERS[:3], "unit": True}
_EMBEDDED_FACES = (
    Arm("student, no labels", "photos alone: orders 1, 2, 3 of the teacher, no labels",
        None, "teacher", fields={**_UNIT_123, "cross_entropy": 0.0}),
    Arm("student, clusters", "photos alone: order C to clusters instead of classes",
        None, "teacher", fields={**_WITHOUT, "orders": FACE_ORDERS, "clusters": 100}),
    Arm("student, margin", "labels by CosFace and orders 1, 2, 3 of the teacher",
        None, "teacher", fields={**_UNIT_123, "head": "cosface"}),
    Arm("student alone, margin", "control: labels only, by CosFace",
        fields={"head": "cosface"}),
)  # fmt: skip

#: What students of `FaceSizes.tuned` are called.
TUNED = "tuned"


def _face_arms(preset: Preset) -> list[Arm]:
    """Tables 2 and 3 on a set of faces, most worth first."""
    sizes = preset.faces
    first = sizes.lows[0]
    arms = [
        Arm(
            "teacher",
            "trained by others; frozen",
            sizes.assistant,
            network="teacher",
            row="VGGFace2 (teacher)",
        )
    ]
    for r in sizes.lows:
        arms += [
            _student(preset, r),
            Arm(f"student {r} alone", f"control: {r} px, the people's names only, by CosFace", r,
                repeated=True, fields={"head": "cosface"}),
            _tuned(preset, r),
        ]  # fmt: skip
    arms += [
        Arm(f"student {first} with names", "the same and, by CosFace, the people's names",
            first, "teacher", orders=sizes.main, fields={"head": "cosface", "unit": True}),
        Arm(f"student {first} with classes", "order C to the people's centres added",
            first, "teacher", orders=sizes.main + "C", fields=_WITHOUT),
        Arm(f"student {first} with clusters", "order C to the centres of clusters added",
            first, "teacher", orders=sizes.main + "C",
            fields={**_WITHOUT, "clusters": sizes.clusters}),
    ]  # fmt: skip
    arms += [_student(preset, first, fold) for fold in sizes.folds[1:]]
    arms += [
        Arm(subset_name(orders, first), f"orders {', '.join(orders)}", first, "teacher",
            orders=orders, fields=_WITHOUT)
        for orders in subsets()
        if orders
    ]  # fmt: skip
    arms += [
        Arm("small teacher", f"control: compact, {max(sizes.lows)} px, on the names alone",
            max(sizes.lows), fields={"head": "cosface"}),
        Arm(f"student {first} of the small teacher", "distilled from it instead", first,
            "small teacher", orders=sizes.main, fields=_WITHOUT),
        Arm("scratch teacher", "control: the teacher's network, from scratch, on the names alone",
            parse(preset.data)[1], network="scratch", fields={"head": "cosface"}),
        Arm(f"student {first} of the scratch teacher", "distilled from it instead", first,
            "scratch teacher", orders=sizes.main, fields=_WITHOUT),
        Arm("assistant", f"stage 1: {sizes.assistant} px, from the teacher", sizes.assistant,
            "teacher", orders=sizes.main, fields=_WITHOUT),
        *(Arm(f"student {r} of the assistant", "stage 2", r, "assistant", orders=sizes.main,
              fields=_WITHOUT) for r in sizes.lows),
        *(Arm(f"student {r} slim", "the paper's slimmed ResNet34", r, "teacher", "slim",
              orders=sizes.main, fields=_WITHOUT) for r in sizes.lows),
        *(_tuned(preset, r, fold) for fold in sizes.folds[1:] for r in sizes.lows),
        *(_student(preset, r, fold) for r in sizes.lows[1:] for fold in sizes.folds[1:]),
    ]  # fmt: skip
    return arms


def held_out(fold: int) -> str:
    """How the name of an arm on another fold than the first ends."""
    return f", fold {fold}" if fold else ""


def _student(preset: Preset, r: int, fold: int = 0) -> Arm:
    return Arm(
        f"student {r}{held_out(fold)}", f"compact, {r} px, no names",
        r, "teacher", orders=preset.faces.main, repeated=not fold, fold=fold, fields=_WITHOUT,
    )  # fmt: skip


def _tuned(preset: Preset, r: int, fold: int = 0) -> Arm:
    what = f"the teacher's network and weights, tuned to {r} px enlarged; no names"
    return Arm(
        f"{TUNED} {r}{held_out(fold)}", what, r, "teacher", "teacher", preset.faces.main,
        fold=fold, fields={**_WITHOUT, "start": "frozen"},
    )  # fmt: skip


# Names of this study begin so that they differ from those of the others.
METRIC = "metric "
#: What `MetricSizes.labels` is called.
LABELS = {"triplet": "triplet loss", "cosface": "margin softmax", "arcface": "margin softmax"}
_NO_LABELS = {"cross_entropy": 0.0}


def _by_labels(sizes: MetricSizes) -> tuple[str, dict[str, Any]]:
    """How networks learn from labels in the study of metric learning: in words, and fields."""
    return LABELS[sizes.labels], {"head": sizes.labels, "normalized": True}


def _metric_methods(sizes: MetricSizes) -> list[tuple[str, str, dict[str, Any], str]]:
    """Name, what it is, fields, row of Table 4."""
    loss, labels = _by_labels(sizes)
    return [
        ("RKD", "distances and angles (Park et al. 2019)",
         {**_NO_LABELS, **_RKD_DA}, ""),
        ("PKT", "probabilities of neighbours (Passalis, Tefas 2018)",
         {**_NO_LABELS, "normalized": True, "baselines": (("pkt", 1.0),)}, "PKT"),
        ("DarkRank", f"{loss} and the order of the nearest neighbours (Chen et al. 2018)",
         {**labels, "baselines": (("darkrank", 1.0),)}, "DarkRank"),
        ("MKD", f"{loss} and distances (Yu et al. 2019, relative)",
         {**labels, "baselines": (("mkd_relative", 10.0),)}, "MKD"),
        ("MKD absolute", f"{loss} and the teacher's features (Yu et al. 2019, absolute)",
         {**labels, "baselines": (("mkd_absolute", 1.0),)}, ""),
        ("MKD+AT", "MKD and the teacher's attention maps",
         {**labels, "baselines": (("mkd_relative", 10.0), ("at", 1000.0))}, "MKD+AT"),
    ]  # fmt: skip


#: Resolutions of Table 4's students.
_PRINTED, _PRINTED_FULL = (256, 224, 160, 128, 96), 256


def _metric_arms(preset: Preset) -> list[Arm]:
    """Table 4 and Fig. 3, most worth first."""
    sizes = preset.metric
    full, main = full_size(sizes.data), sizes.lows[0]
    teacher, assistant = f"{METRIC}teacher", f"{METRIC}assistant"
    loss, labels = _by_labels(sizes)

    def three(r: int) -> list[Arm]:
        name = f"{METRIC}student {r}"
        printed = round(r * _PRINTED_FULL / full)
        row = f"OUR-{printed}-R" if printed in _PRINTED else None
        return [
            Arm(name, f"{r} px, relations of the assistant (stage 2)", r, assistant,
                orders="23C", repeated=r == main, row=row, fields=_NO_LABELS),
            Arm(f"{name} alone", f"control: {r} px, {loss}, no teacher", r,
                repeated=r == main, fields=labels,
                row="Student alone (ResNet18)" if r == full else None),
            Arm(f"{name} direct", f"{r} px, relations of the teacher, no assistant", r, teacher,
                orders="23C", repeated=r == main, fields=_NO_LABELS),
        ]  # fmt: skip

    def methods(r: int) -> list[Arm]:
        return [
            Arm(f"{METRIC}{name} {r}", f"{r} px: {what}", r, teacher, fields=fields,
                row=(row or None) if r == full else None)
            for name, what, fields, row in _metric_methods(sizes)
        ]  # fmt: skip

    return [
        Arm(teacher, f"teacher: full resolution, {loss}", full, network="teacher",
            row="Teacher (ResNet50)", fields=labels),
        Arm(assistant, "assistant: compact, full resolution, relations of the teacher (stage 1)",
            full, teacher, orders="23C", fields=_NO_LABELS),
        *three(main),
        *methods(main)[:1],
        Arm(f"{METRIC}student {main} for the index",
            f"{main} px, the teacher's features themselves and their relations (orders 1, 2, 3)",
            main, teacher, orders="123", fields=_NO_LABELS),
        *(arm for r in sizes.lows[1:] for arm in three(r)),
        *methods(main)[1:],
        *three(full),
        *methods(full),
        Arm(f"{METRIC}large", f"a larger network at full resolution, {loss}", full,
            network="large", row="ResNet101", fields=labels),
    ]  # fmt: skip


#: Studies in order of worth.
STUDIES = ("two_stage", "table1", "orders", "resolutions", "faces", "metric", "plus", "weights")
#: Run when they are asked for by name.
TRIALS = ("recipe", "losses")
#: So are these.
ON_REQUEST = ("long", "nested")


def study(preset: Preset, name: str) -> dict[str, Arm]:
    """The arms of a study by name, the most worth first; without those the preset leaves out.

    Raises:
        HorkdError: if there is no such study.
    """
    known = ("campaign", *STUDIES, *ON_REQUEST, *TRIALS)
    if name not in known:
        raise HorkdError(f"unknown study {name!r}: choose from {', '.join(known)}")
    if preset.faces:
        arms = _face_arms(preset) if name == "faces" else ()
        return {arm.name: arm for arm in arms if not _omitted(preset, arm)}
    if name == "metric" or preset.only_metric:
        arms = _metric_arms(preset) if preset.metric and name == "metric" else ()
        return {arm.name: arm for arm in arms if not _omitted(preset, arm)}
    arms = {
        "two_stage": lambda: _TWO_STAGE,
        "table1": lambda: (*_TWO_STAGE, *_low_methods(), *_CONTROLS, *_SECOND, *_full_methods()),
        "orders": lambda: _order_arms(preset),
        "resolutions": lambda: _resolution_arms(preset),
        "faces": lambda: _EMBEDDED_FACES if preset.data == "glyphs" else (),
        "plus": lambda: _PLUS,
        # without a validation split there is nothing to choose weights on
        "weights": lambda: _weight_arms() if preset.validation else (),
        "campaign": lambda: _campaign_arms(preset),
        "long": lambda: _long_arms(preset),
        "nested": lambda: _nested_arms(preset),
        "recipe": lambda: _recipe_arms(preset),
        "losses": lambda: _loss_arms(preset),
    }[name]()
    return {arm.name: arm for arm in arms if not _omitted(preset, arm)}


def _omitted(preset: Preset, arm: Arm) -> bool:
    return any(fnmatchcase(arm.name, pattern) for pattern in preset.omit)


#: Fields of an arm that belong to its recipe.
_OF_RECIPE = (
    *("epochs", "batch_size", "learning_rate", "weight_decay", "schedule", "climb", "clip"),
    *("progressive", "views"),
)


def configure(preset: Preset, arm: Arm, seed: int = 0) -> RunConfig:
    """The run of an arm at a preset's size.

    Args:
        preset: sizes and recipe.
        arm: one of `study`.
        seed: of this run; what it is distilled from has seed 0.
    """
    if preset.faces:
        return _configure_faces(preset, arm, seed)
    if arm.name.startswith(METRIC):
        return _configure_metric(preset, arm, seed)
    frozen = None if arm.frozen is None else _frozen(preset, arm.frozen)
    teacher = arm.network == "teacher"
    recipe = preset.teacher_recipe if teacher else preset.recipe
    fields = dict(arm.fields)
    factor = preset.patience if arm.epochs == "patience" else arm.epochs
    if arm.epochs == "compute":  # an epoch costs by the pixels of its images
        factor = 1 + (FULL / preset.low) ** 2
    changes = {name: fields.pop(name) for name in _OF_RECIPE if name in fields}
    recipe = replace(recipe, **{"epochs": round(recipe.epochs * factor), **changes})
    weights = {"1": 1.0, **dict(preset.orders)}  # Eq. 8 gives order 1 no weight of its own
    if arm.name == "assistant" and preset.assistant_orders:
        weights |= dict(preset.assistant_orders)
    orders = tuple((order, weights[order] * arm.scale.get(order, 1.0)) for order in arm.orders)
    if "answers" in fields:
        fields |= _answers(preset, fields.pop("answers"))
    if orders and preset.balance:
        fields.setdefault("balance", True)
    return RunConfig(
        getattr(preset, arm.network),
        Degradation(preset.low if arm.pixels is None else arm.pixels, arm.kernel),
        frozen,
        **{"orders": orders, **fields},
        data=preset.data,
        per_class=preset.per_class,
        validation=preset.validation or fields.get("trial", False),
        recipe=recipe,
        seed=seed,
    )


def _configure_faces(preset: Preset, arm: Arm, seed: int) -> RunConfig:
    """The run of an arm of the study of faces."""
    sizes = preset.faces
    base, size = parse(preset.data)
    at = "" if size == SIZE else f"@{size}"
    if arm.name == "teacher":
        return RunConfig(
            preset.teacher, Degradation(size), data=f"lfw{at}", validation=False,
            weights=sizes.weights or "none", mean=sizes.mean, std=sizes.std,
        )  # fmt: skip
    frozen = None
    if arm.frozen is not None:
        chain = {a.name: a for a in _face_arms(preset)}
        frozen = configure(preset, replace(chain[arm.frozen], fold=arm.fold))
    model, embedding, recipe = preset.compact, sizes.embedding, preset.recipe
    extra: dict[str, Any] = {}
    if arm.network == "teacher":  # tuned
        model, embedding, recipe = preset.teacher, None, sizes.tuned
        extra = {"mean": sizes.mean, "std": sizes.std}
    elif arm.network == "scratch":
        model, embedding = preset.teacher, None
        extra = {"mean": sizes.mean, "std": sizes.std}
    elif arm.network == "slim":
        model, embedding = sizes.slim, sizes.slim_embedding
    weights = dict(sizes.orders)
    held = f"-{arm.fold or sizes.folds[0]}" if sizes.folds else ""
    return RunConfig(
        model,
        Degradation(arm.pixels, arm.kernel, upsample=arm.network == "teacher"),
        frozen,
        orders=tuple((order, weights[order]) for order in arm.orders),
        data=f"{base}{held}{at}",
        validation=False,
        recipe=recipe,
        seed=seed,
        embedding=embedding,
        **{**arm.fields, **extra},
    )


def _configure_metric(preset: Preset, arm: Arm, seed: int) -> RunConfig:
    """The run of an arm of the study of metric learning."""
    sizes = preset.metric
    held = sizes.select == "validation"
    if arm.network == "teacher" and sizes.weights:
        return RunConfig(
            sizes.teacher, Degradation(arm.pixels), data=sizes.data, validation=held,
            weights=sizes.weights, mean=sizes.mean, std=sizes.std, normalized=True,
            embedding=sizes.teacher_embedding,
        )  # fmt: skip
    frozen = None
    if arm.frozen is not None:
        frozen = configure(preset, {a.name: a for a in _metric_arms(preset)}[arm.frozen])
    weights = dict(sizes.orders)
    relations = arm.orders or "orders" in arm.fields
    recipe = sizes.recipe if relations else sizes.other_recipe
    return RunConfig(
        getattr(sizes, arm.network),
        Degradation(arm.pixels, arm.kernel),
        frozen,
        **{"orders": tuple((order, weights[order]) for order in arm.orders), **arm.fields},
        data=sizes.data,
        per_class=preset.per_class,
        validation=held,
        recipe=recipe if arm.network == "compact" else sizes.teacher_recipe,
        seed=seed,
        embedding=sizes.embedding,
        backbone=sizes.backbone,
        select=sizes.select,
    )


def _answers(preset: Preset, method: str) -> dict[str, Any]:
    """Fields of a run that learns from softened answers."""
    known = {name: (weight, labels) for name, weight, labels in preset.answers}
    weight, labels = known[method]
    return {"baselines": ((method, weight),), "cross_entropy": labels}


def _frozen(preset: Preset, name: str) -> RunConfig:
    """What an arm is distilled from: a network from a file, or the run of another arm."""
    others = (*_loss_arms(preset), *_nested_arms(preset))
    arm = {a.name: a for a in (*_TWO_STAGE, *_SECOND, *others)}[name]
    digest = dict(preset.given).get(name)
    if digest is None:
        return configure(preset, arm, arm.seed)
    return RunConfig(
        getattr(preset, arm.network), Degradation(preset.low if arm.pixels is None else arm.pixels),
        data=preset.data, validation=preset.validation, weights=digest, classifier=True,
    )  # fmt: skip


def usual_exports(preset: Preset) -> list[str]:
    """The arms whose networks are worth handing on."""
    if preset.faces:
        return [f"student {r}" for r in preset.faces.lows]
    if preset.only_metric:
        return [f"{METRIC}student {r}" for r in preset.metric.lows]
    return ["teacher", "assistant", "student"]


#: Channel statistics that networks for faces are usually trained with.
STATISTICS = {"imagenet": (None, None), "half": ((0.5,) * 3, (0.5,) * 3)}


def with_teacher(
    preset: Preset, weights: str | Path, model: str = "", statistics: str = "imagenet"
) -> Preset:
    """A preset with a teacher from a weights file.

    It is imported and tested: on LFW, by retrieval, or on the test images. Presets that classify
    take a file of `horkd export`, which says itself what it holds.

    Args:
        preset: any; without a file and a model it is returned as it is.
        weights: path of the file, or "".
        model: its architecture, as in `horkd.models`; the preset's own if empty. In metric learning
            "timm:resnet50@512" is one whose last layer, 512 wide, is an embedding, no classifier.
        statistics: what its images are normalised by: "imagenet", "half" for 0.5 and 0.5, or six
            numbers on the scale 0 to 1, "m,m,m/s,s,s".

    Raises:
        HorkdError: if the preset has no such teacher, or the file is missing or does not fit.
    """
    if not (weights or model or statistics != "imagenet"):
        return preset
    if not weights:
        raise HorkdError("a teacher's model needs its weights file, too: --teacher-weights FILE")
    if preset.faces is None and not preset.only_metric:
        if model or statistics != "imagenet":
            raise HorkdError(
                f"preset {preset.name} takes a teacher of `horkd export`, which says itself what "
                "it is: give its file alone"
            )
        file = Path(weights).expanduser()
        others = [(name, known) for name, known in preset.given if name != "teacher"]
        preset = replace(preset, given=(("teacher", digest(file)), *others))
        try:
            load_network(file)
        except DamagedFile:
            raise HorkdError(
                f"preset {preset.name} takes a teacher of `horkd export`, and {file} is not one"
            ) from None
        import_network(_frozen(preset, "teacher"), file)
        return preset
    mean, std = _statistics(statistics)
    file = Path(weights).expanduser()
    known = {"weights": digest(file), "mean": mean, "std": std}
    teacher = model or preset.teacher
    if preset.faces:
        preset = replace(preset, teacher=teacher, faces=replace(preset.faces, **known))
        arm = study(preset, "faces")["teacher"]
    else:
        # students take its width, so that they can query an index that it made
        teacher, own = _with_width(teacher)
        with torch.device("meta"):
            width = Network(ModelSpec(teacher, 0, own)).width
        metric = replace(
            preset.metric, teacher=teacher, teacher_embedding=own, embedding=width, **known
        )
        preset = replace(preset, teacher=teacher, metric=metric)
        arm = study(preset, "metric")[f"{METRIC}teacher"]
    import_network(configure(preset, arm), file)
    return preset


def _with_width(model: str) -> tuple[str, int | None]:
    """Architecture and, if it is named, the width of the embedding that it ends in."""
    name, at, width = model.partition("@")
    if at and not (width.isdecimal() and int(width)):
        raise HorkdError(f"unknown model {model!r}: after @ stands the width of its embedding")
    return name, int(width) if at else None


def _statistics(text: str) -> tuple[Statistics | None, Statistics | None]:
    if text in STATISTICS:
        return STATISTICS[text]
    try:
        mean, std = (tuple(map(float, part.split(","))) for part in text.split("/"))
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError
        if not all(map(math.isfinite, mean + std)):
            raise ValueError
    except ValueError:
        raise HorkdError(
            f"unknown statistics {text!r}: choose from {', '.join(STATISTICS)}, or give means and "
            "deviations as m,m,m/s,s,s"
        ) from None
    return mean, std


@dataclass(frozen=True)
class Job:
    """A run that a study asks for."""

    study: str
    arm: str
    config: RunConfig


def queue(preset: Preset, *studies: str) -> list[Job]:
    """All runs of some studies, the most worth first, each configuration once.

    Within a study every arm comes once before any is repeated, and a control of what is trained
    once comes last.

    Args:
        preset: sizes; its `seeds` says how often arms are repeated.
        studies: names from `STUDIES`; all by default, `campaign` first where there is one.
    """
    jobs: dict[str, Job] = {}
    for name in studies or _usual(preset):
        arms = study(preset, name)
        for repeat in range(preset.seeds):
            for arm in arms.values():
                if repeat < len(own := seeds(preset, arm)):
                    seed = own[repeat]
                    config = configure(preset, arm, seed)
                    jobs.setdefault(config.key, Job(name, arm.name, config))
    given = dict(preset.given)
    return sorted(jobs.values(), key=lambda job: job.arm in given)  # nobody waits for those


def waiting(preset: Preset, job: Job) -> bool:
    """Whether a run has to wait for the file of what it learns from.

    In a campaign everybody distils from the same files, which come with the report, and with
    weights that were chosen before.
    """
    frozen = job.config.frozen
    return preset.campaign and frozen is not None and not frozen.weights and not frozen.trial


#: What others are distilled from.
FROZEN = (
    *("teacher", "assistant", "assistant V", "small teacher", "scratch teacher"),
    *(f"{METRIC}teacher", f"{METRIC}assistant"),
)


def seeds(preset: Preset, arm: Arm) -> range:
    """The seeds of an arm; what others are distilled from is trained once."""
    frozen = arm.name in FROZEN
    repeated = arm.repeated or (preset.repeat_all and not frozen)
    return range(arm.seed, arm.seed + (preset.seeds if repeated else 1))


def _usual(preset: Preset) -> tuple[str, ...]:
    """All studies but trials, in order of worth."""
    return ("campaign", *STUDIES) if preset.campaign else STUDIES


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

    A run that diverged is left out; `horkd.runs.diverged` knows of it.

    Args:
        preset: sizes.
        name: one of `STUDIES`.
        find: how to get a run, None where it is not to be had; `trainer(preset)` by default.
        only: names of arms; all by default.

    Raises:
        HorkdError: if nothing is there and nothing may be trained.
    """
    arms = finished(preset, name, find or trainer(preset), only)
    if not arms:
        _require_arms(preset, name)
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
    for arm in study(preset, name).values():
        if only and arm.name not in only:
            continue
        for seed in seeds(preset, arm):
            found = find(configure(preset, arm, seed))
            if found is not None:
                arms.setdefault(arm.name, []).append(found)
    return arms


def _require_arms(preset: Preset, name: str) -> None:
    if not study(preset, name):
        raise HorkdError(f"study {name} has no arm in preset {preset.name}: it is too small for it")


def choose(preset: Preset, studies: Sequence[str] = (), arms: Sequence[str] = ()) -> list[Job]:
    """Jobs of some studies and some arms; all of them for empty ones.

    Raises:
        HorkdError: on a study or an arm that does not exist in this preset.
    """
    for name in studies:
        _require_arms(preset, name)
    jobs = queue(preset, *studies)
    known = {arm for name in studies or _usual(preset) for arm in study(preset, name)}
    for arm in arms:
        if arm not in known:
            raise HorkdError(f"unknown arm {arm!r}: choose from {', '.join(sorted(known))}")
    keys = {
        configure(preset, arm, seed).key
        for name in studies or _usual(preset)
        for arm in study(preset, name).values()
        if arm.name in arms
        for seed in seeds(preset, arm)
    }
    return [job for job in jobs if not arms or job.config.key in keys]
