"""The arms of Tables 2 and 3."""

from horkd.data.faces import parse
from horkd.studies.arm import UNIT_NO_LABELS, Arm, subset_name, subsets
from horkd.studies.faces.presets import FacesPreset

#: What students of `FacesPreset.tuned` are called.
TUNED = "tuned"
#: Learning from the people's names.
_NAMES = {"head": "cosface"}


def face_arms(preset: FacesPreset) -> list[Arm]:
    """Tables 2 and 3 on a set of faces, most worth first."""
    first, main, folds = preset.lows[0], preset.main, preset.folds[1:]
    return [
        Arm("teacher", "trained by others; frozen", preset.assistant, network="teacher",
            role="teacher", row="VGGFace2 (teacher)"),
        *(arm for r in preset.lows for arm in _three(preset, r)),
        Arm(f"student {first} with names", "the same and, by CosFace, the people's names",
            first, frozen="teacher", orders=main, fields={**_NAMES, "unit": True}),
        Arm(f"student {first} with classes", "order C to the people's centres added",
            first, frozen="teacher", orders=main + "C", fields=UNIT_NO_LABELS),
        Arm(f"student {first} with clusters", "order C to the centres of clusters added",
            first, frozen="teacher", orders=main + "C",
            fields={**UNIT_NO_LABELS, "clusters": preset.clusters}),
        *(_student(preset, first, fold) for fold in folds),
        *(Arm(subset_name(orders, first), f"orders {', '.join(orders)}", first, frozen="teacher",
              orders=orders, fields=UNIT_NO_LABELS) for orders in subsets() if orders),
        *_other_teachers(preset),
        Arm("assistant", f"stage 1: {preset.assistant} px, from the teacher", preset.assistant,
            frozen="teacher", orders=main, role="assistant", fields=UNIT_NO_LABELS),
        *(Arm(f"student {r} of the assistant", "stage 2", r, frozen="assistant", orders=main,
              fields=UNIT_NO_LABELS) for r in preset.lows),
        *(Arm(f"student {r} slim", "the paper's slimmed ResNet34", r, frozen="teacher",
              network="slim", orders=main, fields=UNIT_NO_LABELS) for r in preset.lows),
        *(_tuned(preset, r, fold) for fold in folds for r in preset.lows),
        *(_student(preset, r, fold) for r in preset.lows[1:] for fold in folds),
    ]  # fmt: skip


def _three(preset: FacesPreset, r: int) -> list[Arm]:
    return [
        _student(preset, r),
        Arm(f"student {r} alone", f"control: {r} px, the people's names only, by CosFace", r,
            role="alone", repeated=True, fields=_NAMES),
        _tuned(preset, r),
    ]  # fmt: skip


def _other_teachers(preset: FacesPreset) -> list[Arm]:
    """Teachers without the others' photos, with a student each."""
    first, high = preset.lows[0], max(preset.lows)
    return [
        Arm("small teacher", f"control: compact, {high} px, on the names alone", high,
            role="teacher", fields=_NAMES),
        Arm(f"student {first} of the small teacher", "distilled from it instead", first,
            frozen="small teacher", orders=preset.main, fields=UNIT_NO_LABELS),
        Arm("scratch teacher", "control: the teacher's network, from scratch, on the names alone",
            parse(preset.data)[1], network="scratch", role="teacher", fields=_NAMES),
        Arm(f"student {first} of the scratch teacher", "distilled from it instead", first,
            frozen="scratch teacher", orders=preset.main, fields=UNIT_NO_LABELS),
    ]  # fmt: skip


def held_out(fold: int) -> str:
    """How the name of an arm on another fold than the first ends."""
    return f", fold {fold}" if fold else ""


def _student(preset: FacesPreset, r: int, fold: int = 0) -> Arm:
    return Arm(
        f"student {r}{held_out(fold)}", f"compact, {r} px, no names", r, frozen="teacher",
        orders=preset.main, repeated=not fold, fold=fold, fields=UNIT_NO_LABELS,
    )  # fmt: skip


def _tuned(preset: FacesPreset, r: int, fold: int = 0) -> Arm:
    what = f"the teacher's network and weights, tuned to {r} px enlarged; no names"
    return Arm(
        f"{TUNED} {r}{held_out(fold)}", what, r, frozen="teacher", network="teacher",
        orders=preset.main, fold=fold, fields={**UNIT_NO_LABELS, "start": "frozen"},
    )  # fmt: skip
