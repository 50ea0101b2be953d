"""What a preset is: networks, data, recipe and seeds of one task at one size."""

import warnings
from dataclasses import dataclass, replace
from typing import ClassVar

from horkd.lab.config import RunConfig
from horkd.machine import Settings, has_bf16
from horkd.training import Recipe

#: (order, weight) pairs of a hybrid-order loss.
Weights = tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What presets of all tasks have.

    Attributes:
        task: the task that it is for, the same for all presets of a class.
        name: how the command line calls it.
        data: the data set it is meant for.
        teacher, compact: names of the teacher's and the assistant's and student's network.
        recipe: optimisation of everything compact.
        seeds: how many seeds of each student; teacher and assistant are trained once.
        orders: weights of the hybrid-order loss.
        repeat_all: repeat every arm over the seeds, not only the central comparison.
        omit: patterns of the names of arms that are too much for this size.
        given: (arm, digest) pairs of networks that are distilled from as they lie in the report's
            `models/`, instead of training them here.
        precision: of all its runs on a CPU: "fp32", or "bf16" where the CPU computes in it; a GPU
            uses bf16 if it has it. It changes results, so that it is no matter of speed alone.
    """

    task: ClassVar[str] = ""

    name: str
    data: str
    teacher: str
    compact: str
    recipe: Recipe
    seeds: int
    orders: Weights = ()
    repeat_all: bool = False
    omit: tuple[str, ...] = ()
    given: tuple[tuple[str, str], ...] = ()
    precision: str = "fp32"

    def waits(self, config: RunConfig) -> bool:
        """Whether a run has to wait for the file of what it learns from."""
        return False

    def settings(self, settings: Settings) -> Settings:
        """Settings with the precision that this preset is run in, unless the user asks for one."""
        if settings.precision != "auto" or settings.on_cuda or self.precision == "fp32":
            return settings
        if not has_bf16("cpu"):
            warnings.warn(
                f"preset {self.name} is meant for bf16, which this CPU does not compute in: it "
                "trains in fp32, and such runs are not to be compared with those in bf16",
                stacklevel=2,
            )
            return replace(settings, precision="fp32")
        return replace(settings, precision=self.precision)
