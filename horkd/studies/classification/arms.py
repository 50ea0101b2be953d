"""The arms of Table 1, Fig. 4 and the sweep of resolutions."""

from dataclasses import replace
from typing import Any

from horkd.losses import PAPER_WEIGHTS
from horkd.studies.arm import (
    RKD,
    UNIT_NO_LABELS,
    Arm,
    subset_name,
    subsets,
)
from horkd.studies.classification.presets import FULL, ClassificationPreset
from horkd.studies.faces.presets import FACE_ORDERS

_LITERAL = {"orders": tuple(PAPER_WEIGHTS.items()), "reduction": "sum"}
#: Between unit-length features the weights are those of faces.
_UNIT_123 = {"orders": FACE_ORDERS[:3], "unit": True}

TWO_STAGE = (
    Arm("teacher", "teacher at full resolution", FULL, network="teacher", role="teacher",
        row="Teacher ResNet50"),
    Arm(
        "assistant",
        "assistant: compact, full resolution, distilled from the teacher (stage 1)",
        FULL, frozen="teacher", orders="23C", role="assistant", row="OUR-32-R",
    ),
    Arm(
        "student",
        "student: compact, low resolution, distilled from the assistant (stage 2)",
        frozen="assistant", orders="23C", repeated=True, row="OUR-16-R",
    ),
    Arm(
        "student alone", "control: the same student trained on labels only", role="alone",
        repeated=True,
    ),
    Arm(
        "student direct",
        "control: the same student distilled from the teacher, no assistant",
        frozen="teacher", orders="23C", repeated=True,
    ),
    Arm("assistant alone", "control: the assistant's network trained on labels only", FULL,
        role="alone"),
)  # fmt: skip


#: Name, what it is, what of the arm makes it, row of Table 1.
_METHODS: tuple[tuple[str, str, dict[str, Any], str | None], ...] = (
    ("KD", "softened answers of the teacher (Hinton et al. 2015)", {"answers": "kd"}, "KD"),
    ("KD standardised", "KD on z-scores of the logits (Sun et al. 2024)",
     {"answers": "kd_standardised"}, None),
    ("RKD", "distances and angles (Park et al. 2019)", {"fields": RKD}, "RKD"),
    ("RKD distances", "RKD's distances only", {"fields": {**RKD, "orders": RKD["orders"][:1]}},
     None),
    ("RKD angles", "RKD's angles only", {"fields": {**RKD, "orders": RKD["orders"][1:]}}, None),
    ("FitNet", "the teacher's middle map (Romero et al. 2015)",
     {"fields": {"baselines": (("fitnet", 10.0),)}}, "FitNet"),
    ("AT", "the teacher's attention maps (Zagoruyko et al. 2017)",
     {"fields": {"baselines": (("at", 1000.0),)}}, "Attention (AT)"),
)  # fmt: skip


_CENTRAL = ("KD", "KD standardised")  # repeated over seeds at the low resolution


def low_methods() -> list[Arm]:
    """Every method at the student's resolution, distilled from the teacher."""
    return [
        Arm(name, what, frozen="teacher", role="method", repeated=name in _CENTRAL, **made)
        for name, what, made, _ in _METHODS
    ]


def full_methods() -> list[Arm]:
    """The paper's rows: the same network and methods at full resolution."""
    return [
        Arm(f"{name} {FULL}", what, FULL, frozen="teacher", role="method", row=row, **made)
        for name, what, made, row in _METHODS
    ]


CONTROLS = (
    Arm(
        "student, paper's weights",
        "literal sums with 0.02, 0.01 and 1, as the paper writes them, from the same assistant",
        frozen="assistant", fields=_LITERAL,
    ),
    Arm(
        "student, paper's weights, clipped",
        "the same with the gradient's norm limited to 1",
        frozen="assistant", recipe={"clip": 1.0}, fields=_LITERAL,
    ),
    Arm(
        "student from the assistant's weights",
        "stage 2 starting from the assistant instead of from scratch",
        frozen="assistant", orders="23C", fields={"start": "frozen"},
    ),
    Arm(
        "assistant fine-tuned on small images",
        "control: the same start, then labels only",
        frozen="assistant", role="alone", fields={"start": "frozen"},
    ),
    Arm(
        "student direct, equal epochs",
        "no assistant, with the epochs of both stages together",
        frozen="teacher", orders="23C", epochs=2,
    ),
    Arm(
        "student alone, equal epochs",
        "control: labels only, with the epochs of both stages together",
        role="alone", epochs=2,
    ),
    Arm(
        "KD from the assistant",
        "stage 2 by softened answers instead of relations",
        frozen="assistant", role="method", answers="kd",
    ),
    Arm(
        "KD patient",
        "only the teacher's answers, same views, long cosine (Beyer et al. 2022)",
        frozen="teacher", role="method", epochs="patience", recipe={"schedule": "cosine"},
        fields={"baselines": (("kd", 1.0),), "cross_entropy": 0.0},
    ),
    Arm(
        "student alone, patient",
        "control: labels only, with the same long cosine",
        role="alone", epochs="patience", recipe={"schedule": "cosine"},
    ),
)  # fmt: skip


SECOND = (
    Arm("assistant V", "stage 1 with the second network", FULL, frozen="teacher",
        network="second", orders="23C", role="assistant", row="OUR-32-V"),
    Arm("student V", "stage 2 with the second network", frozen="assistant V",
        network="second", orders="23C", row="OUR-16-V"),
    Arm("student V alone", "control: the second network on labels only", network="second",
        role="alone"),
    Arm("assistant V alone", "control: the same at full resolution", FULL, network="second",
        role="alone"),
)  # fmt: skip


PLUS = (
    Arm("student + KD", "adds softened answers of the assistant",
        frozen="assistant", orders="23C", answers="kd"),
    Arm("student + KD standardised", "adds answers of the assistant as z-scores",
        frozen="assistant", orders="23C", answers="kd_standardised"),
    Arm("student, balanced", "each order's gradient kept at a tenth of the cross-entropy's",
        frozen="assistant", fields={
            "orders": (("2", 0.1), ("3", 0.1), ("C", 0.1)), "balance": True}),
    Arm("student, warm-up", "relations rise to their weights over the first epoch",
        frozen="assistant", orders="23C", fields={"warmup": 1.0}),
    Arm("horkd+ from the assistant's weights",
        "relations and standardised answers of the assistant, starting from its weights",
        frozen="assistant", orders="23C", answers="kd_standardised",
        fields={"start": "frozen"}),
    Arm("horkd+", "relations and standardised answers, both of the teacher, without an assistant",
        frozen="teacher", orders="23C", repeated=True, answers="kd_standardised"),
)  # fmt: skip


def plus_arms(preset: ClassificationPreset) -> list[Arm]:
    """Our extensions; where all weights are balanced anyway that is none."""
    return [arm for arm in PLUS if not (preset.balance and arm.fields.get("balance"))]


def order_arms(preset: ClassificationPreset) -> list[Arm]:
    """Fig. 4 at both resolutions: stage 2 at the low one, stage 1 at the full one."""
    return [
        Arm(
            subset_name(orders, pixels),
            f"orders {', '.join(orders) or 'none: labels only'}",
            pixels,
            frozen=None if not orders else "teacher" if pixels == FULL else "assistant",
            orders=orders,
            role="student" if orders else "alone",
        )
        for pixels in (preset.low, FULL)
        for orders in subsets()
    ]


def weight_arms(preset: ClassificationPreset) -> list[Arm]:
    """One weight at a time, a tenth and ten times the preset's."""
    if not preset.validation:  # nothing to choose them on
        return []
    return [
        Arm(
            f"order {order} × {factor:g}",
            f"weight of order {order} times {factor:g}",
            frozen="assistant",
            orders="23C",
            scale={order: factor},
        )
        for order in "23C"
        for factor in (0.1, 10.0)
    ]


def campaign_arms(preset: ClassificationPreset) -> list[Arm]:
    """The central comparison, the most worth first."""
    if not preset.campaign:
        return []
    known = {arm.name: arm for arm in (*TWO_STAGE, *low_methods())}
    names = (
        *("teacher", "student alone", "assistant", "student", "student direct", "KD"),
        *("KD standardised", "assistant alone"),
    )
    repeated = ("student alone", "student", "student direct", "KD")
    return [
        *(replace(known[name], repeated=name in repeated) for name in names),
        Arm("student direct + KD", "relations and softened answers, both of the teacher",
            frozen="teacher", orders="23C", answers="kd"),
        Arm("student alone, equal compute",
            "control: labels only, with the computation of assistant and student together",
            role="alone", epochs="compute"),
        Arm("student alone, fresh crops",
            "control: labels only, with new crops in every epoch instead of fixed views",
            role="alone", recipe={"views": 0}),
    ]  # fmt: skip


#: Epochs of the study "long".
LONG = 100


def long_arms(preset: ClassificationPreset) -> list[Arm]:
    """The arms of the central claims once more, with many epochs."""
    if not preset.campaign:
        return []
    known = {arm.name: arm for arm in campaign_arms(preset)}
    return [
        replace(known[name], name=f"{name}, {LONG} epochs", repeated=False, row=None,
                epochs=LONG / preset.recipe.epochs)
        for name in ("student alone", "student", "student direct", "KD")
    ]  # fmt: skip


#: Seeds of further assistants.
_NESTED = (1, 2)


def nested_arms(preset: ClassificationPreset) -> list[Arm]:
    """Further assistants with their students: a claim about the assistant needs several."""
    if not preset.campaign:
        return []
    assistant = {arm.name: arm for arm in TWO_STAGE}["assistant"]
    arms = []
    for seed in _NESTED:
        name = f"assistant {seed}"
        arms += [
            replace(assistant, name=name, seed=seed, row=None),
            Arm(f"student of {name}", f"stage 2 from the assistant of seed {seed}",
                frozen=name, orders="23C", repeated=True),
        ]  # fmt: skip
    return arms


def resolution_arms(preset: ClassificationPreset) -> list[Arm]:
    """Students at every resolution, and two that are trained on other kernels."""
    arms = []
    for r in (FULL, *(r for r in preset.sweep if r != preset.low)):
        arms.append(Arm(f"student {r}", f"stage 2 at {r} px", r, frozen="assistant", orders="23C"))
        if r != FULL:  # at full resolution these are the assistant and its control
            arms += [
                Arm(f"student {r} alone", f"labels only at {r} px", r, role="alone"),
                Arm(f"student {r} direct", f"no assistant, {r} px", r, frozen="teacher",
                    orders="23C"),
            ]  # fmt: skip
    return arms + [
        Arm(f"student {kernel}", f"stage 2 on images reduced by {kernel}", frozen="assistant",
            orders="23C", kernel=kernel)
        for kernel in ("area", "nearest")
    ]  # fmt: skip


def table1_arms(preset: ClassificationPreset) -> list[Arm]:
    """Two stages, other methods, controls and the second network, at both resolutions."""
    return [*TWO_STAGE, *low_methods(), *CONTROLS, *SECOND, *full_methods()]


EMBEDDED_FACES = (
    Arm("student, no labels", "photos alone: orders 1, 2, 3 of the teacher, no labels",
        frozen="teacher", fields={**_UNIT_123, "cross_entropy": 0.0}),
    Arm("student, clusters", "photos alone: order C to clusters instead of classes",
        frozen="teacher", fields={**UNIT_NO_LABELS, "orders": FACE_ORDERS, "clusters": 100}),
    Arm("student, margin", "labels by CosFace and orders 1, 2, 3 of the teacher",
        frozen="teacher", fields={**_UNIT_123, "head": "cosface"}),
    Arm("student alone, margin", "control: labels only, by CosFace",
        role="alone", fields={"head": "cosface"}),
)  # fmt: skip


def embedded_face_arms(preset: ClassificationPreset) -> tuple[Arm, ...]:
    """Table 2's question on characters, which are the embedded set's faces."""
    return EMBEDDED_FACES if preset.data == "glyphs" else ()
