"""What the study of faces is about at a preset's size: faces, or characters that stand for them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from horkd.data import full_size
from horkd.data.faces import SIZE, parse
from horkd.errors import HorkdError
from horkd.studies.faces.presets import FacesPreset
from horkd.studies.preset import Preset

#: Studies behind the notebook; on sets of faces the first has no arm.
FACES = ("two_stage", "faces")


@dataclass(frozen=True)
class Setting:
    """Sizes and sets of the study.

    Attributes:
        side: pixels of the full-resolution images.
        lows: resolutions that students are trained at, the most important first.
        ladder: resolutions that the teacher is fed, the full one first.
        compared: the data set of the pairs that arms are compared on: the first held-out fold, if
            there are folds.
        searched: whether that set has people to identify: a fold of LFW has, the whole has not.
        lfw: all of LFW at this size; empty for characters.
        folds: the folds of LFW that are held out in turn.
        main: the orders that students of faces are distilled with; empty for characters.
        mirrored: whether a mirrored image is one of the same person; a character is another one.
        other_pairs, other_people: further sets by name, for verification and identification.
        weights: of the losses of `main`, by order.
        embedding: width of the features of compact networks.
    """

    side: int
    lows: tuple[int, ...]
    ladder: tuple[int, ...]
    compared: str
    searched: bool = True
    lfw: str = ""
    folds: tuple[int, ...] = ()
    main: str = ""
    mirrored: bool = False
    other_pairs: Mapping[str, str] = field(default_factory=dict)
    other_people: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    embedding: int | None = None


def setting(preset: Preset) -> Setting:
    """The setting of a preset.

    Raises:
        HorkdError: if nothing was kept out of its training.
    """
    if preset.data == "cifar100":
        raise HorkdError("CIFAR-100 has no classes that are never trained on: take preset quick")
    if not isinstance(preset, FacesPreset):
        side = full_size(preset.data)
        return Setting(side, (preset.low,), _ladder(side, (24, 16, 12, 8)), preset.data)
    side = parse(preset.data)[1]

    def at(name: str) -> str:
        return name if side == SIZE else f"{name}@{side}"

    return Setting(
        side,
        preset.lows,
        _ladder(side, (64, 32, 16, 8)),
        at(f"lfw-{preset.folds[0]}" if preset.folds else "lfw"),
        searched=bool(preset.folds),
        lfw=at("lfw"),
        folds=preset.folds,
        main=preset.main,
        mirrored=True,
        other_pairs={"xqlfw": at("xqlfw")},
        other_people={name: at(name) for name in ("uccs", "tinyface")},
        weights={o: w for o, w in preset.orders if o in preset.main},
        embedding=preset.embedding,
    )


def _ladder(side: int, steps: tuple[int, ...]) -> tuple[int, ...]:
    return (side, *(r for r in steps if r < side))
