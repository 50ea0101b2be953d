"""One kind of run, as data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from horkd.losses import PAPER_WEIGHTS
from horkd.studies.presets import FACE_ORDERS

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


def subset_name(orders: str, pixels: int) -> str:
    """The arm of a subset of orders: `{2,3,C} 16`."""
    return f"{{{','.join(orders)}}} {pixels}"


def subsets() -> list[str]:
    """All sixteen subsets of the orders, the small ones first."""
    return ["".join(s) for n in range(5) for s in combinations(ORDERS, n)]


_WITHOUT = {"cross_entropy": 0.0, "unit": True}


#: Between unit-length features the weights are those of faces.
_UNIT_123 = {"orders": FACE_ORDERS[:3], "unit": True}
