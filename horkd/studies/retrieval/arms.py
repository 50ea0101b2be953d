"""The arms of Table 4 and Fig. 3."""

from typing import Any

from horkd.data import full_size
from horkd.studies.arm import _RKD_DA, Arm
from horkd.studies.presets import MetricSizes, Preset

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
