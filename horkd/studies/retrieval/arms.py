"""The arms of Table 4 and Fig. 3."""

from typing import Any

from horkd.data import full_size
from horkd.studies.arm import NO_LABELS, RKD, Arm
from horkd.studies.retrieval.presets import RetrievalPreset

# Names of this study begin so that they differ from those of the others.
METRIC = "metric "
TEACHER, ASSISTANT = f"{METRIC}teacher", f"{METRIC}assistant"


#: What `RetrievalPreset.labels` is called.
LABELS = {"triplet": "triplet loss", "cosface": "margin softmax", "arcface": "margin softmax"}


def _by_labels(preset: RetrievalPreset) -> tuple[str, dict[str, Any]]:
    """How networks learn from labels in the study of metric learning: in words, and fields."""
    return LABELS[preset.labels], {"head": preset.labels, "normalized": True}


def _methods(preset: RetrievalPreset) -> list[tuple[str, str, dict[str, Any], str]]:
    """Name, what it is, fields, row of Table 4."""
    loss, labels = _by_labels(preset)
    return [
        ("RKD", "distances and angles (Park et al. 2019)",
         {**NO_LABELS, **RKD}, ""),
        ("PKT", "probabilities of neighbours (Passalis, Tefas 2018)",
         {**NO_LABELS, "normalized": True, "baselines": (("pkt", 1.0),)}, "PKT"),
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


def metric_arms(preset: RetrievalPreset) -> list[Arm]:
    """Table 4 and Fig. 3, most worth first."""
    full, main = full_size(preset.data), preset.lows[0]
    loss, labels = _by_labels(preset)
    return [
        _arm("teacher", f"teacher: full resolution, {loss}", full, network="teacher",
             role="teacher", row="Teacher (ResNet50)", fields=labels),
        _arm("assistant", "assistant: compact, full resolution, relations of the teacher (stage 1)",
             full, frozen=TEACHER, orders="23C", role="assistant", fields=NO_LABELS),
        *_three(preset, main),
        *_methods_at(preset, main)[:1],
        _arm(f"student {main} for the index",
             f"{main} px, the teacher's features themselves and their relations (orders 1, 2, 3)",
             main, frozen=TEACHER, orders="123", fields=NO_LABELS),
        *(arm for r in preset.lows[1:] for arm in _three(preset, r)),
        *_methods_at(preset, main)[1:],
        *_three(preset, full),
        *_methods_at(preset, full),
        _arm("large", f"a larger network at full resolution, {loss}", full, network="large",
             role="alone", row="ResNet101", fields=labels),
    ]  # fmt: skip


def _arm(label: str, what: str, pixels: int, **others: Any) -> Arm:
    return Arm(f"{METRIC}{label}", what, pixels, label=label, **others)


def _three(preset: RetrievalPreset, r: int) -> list[Arm]:
    """A student and its two controls."""
    full, first = full_size(preset.data), r == preset.lows[0]
    loss, labels = _by_labels(preset)
    printed = round(r * _PRINTED_FULL / full)
    row = f"OUR-{printed}-R" if printed in _PRINTED else None
    return [
        _arm(f"student {r}", f"{r} px, relations of the assistant (stage 2)", r, frozen=ASSISTANT,
             orders="23C", repeated=first, row=row, fields=NO_LABELS),
        _arm(f"student {r} alone", f"control: {r} px, {loss}, no teacher", r, role="alone",
             repeated=first, fields=labels,
             row="Student alone (ResNet18)" if r == full else None),
        _arm(f"student {r} direct", f"{r} px, relations of the teacher, no assistant", r,
             frozen=TEACHER, orders="23C", repeated=first, fields=NO_LABELS),
    ]  # fmt: skip


def _methods_at(preset: RetrievalPreset, r: int) -> list[Arm]:
    """Every other method at a resolution, distilled from the teacher."""
    full = full_size(preset.data)
    return [
        _arm(f"{name} {r}", f"{r} px: {what}", r, frozen=TEACHER, role="method", fields=fields,
             row=(row or None) if r == full else None)
        for name, what, fields, row in _methods(preset)
    ]  # fmt: skip
