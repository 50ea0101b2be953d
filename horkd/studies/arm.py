"""One kind of run, as data."""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from itertools import combinations
from typing import Any

#: What a run is for: others are distilled from it ("teacher", "assistant"), it is distilled
#: ("student"), a control on labels ("alone"), another way of distillation ("method"), or settings
#: are chosen by it ("trial").
ROLES = ("teacher", "assistant", "student", "alone", "method", "trial")


@dataclass(frozen=True)
class Arm:
    """One kind of run.

    Attributes:
        name: by which tables and the command line call it.
        what: what it is, in a line.
        pixels: what the learner sees; None for the preset's low resolution.
        frozen: name of the arm that is distilled from, None for labels only.
        network: field of the preset that names the network, as "teacher" or "compact", or
            another name that the task knows.
        orders: subset of "123C", with the preset's weights.
        role: one of `ROLES`.
        scale: order -> factor of its weight.
        epochs: multiple of the preset's epochs; "patience" for the preset's field of that name,
            "compute" for as much computation as assistant and student together.
        kernel: of the degradation.
        repeated: whether every preset repeats it over seeds, or only those with `repeat_all`.
        row: of the paper's Table 1, 2 or 4 that it stands for.
        fold: the fold of LFW that is held out; 0 for the preset's first, or none.
        seed: the first one.
        answers: a method that learns from softened answers, with the preset's weights.
        recipe: what differs from the preset's recipe.
        fields: further fields of its RunConfig.
        label: what tables call it that are about its study alone; its name if empty.
        method, setting: of a trial: the method whose setting it tries, and which.
    """

    name: str
    what: str
    pixels: int | None = None
    _: KW_ONLY
    frozen: str | None = None
    network: str = "compact"
    orders: str = ""
    role: str = "student"
    scale: Mapping[str, float] = field(default_factory=dict)
    epochs: float | str = 1
    kernel: str = "bicubic"
    repeated: bool = False
    row: str | None = None
    fold: int = 0
    seed: int = 0
    answers: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    method: str = ""
    setting: str = ""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ValueError(f"unknown role {self.role!r} of arm {self.name!r}")
        if not self.label:
            object.__setattr__(self, "label", self.name)

    @property
    def once(self) -> bool:
        """Whether it is trained once whatever the preset repeats, since others distil from it."""
        return self.role in ("teacher", "assistant")


ORDERS = "123C"


def subset_name(orders: str, pixels: int) -> str:
    """The arm of a subset of orders: `{2,3,C} 16`."""
    return f"{{{','.join(orders)}}} {pixels}"


def subsets() -> list[str]:
    """All sixteen subsets of the orders, the small ones first."""
    return ["".join(s) for n in range(5) for s in combinations(ORDERS, n)]


#: Fields of arms of several tasks: RKD's losses, and relations at unit length without labels.
RKD = {"orders": (("2", 25.0), ("3", 50.0)), "reduction": "rkd"}
NO_LABELS = {"cross_entropy": 0.0}
UNIT_NO_LABELS = {**NO_LABELS, "unit": True}
