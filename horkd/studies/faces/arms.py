"""The arms of Tables 2 and 3."""

from horkd.data.faces import parse
from horkd.studies.arm import _WITHOUT, Arm, subset_name, subsets
from horkd.studies.presets import Preset

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
