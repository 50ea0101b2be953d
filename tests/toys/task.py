"""Toys: a wide teacher and a narrow student on a few drawn characters."""

from dataclasses import dataclass
from typing import ClassVar

from horkd.degradation import Degradation
from horkd.lab.config import RunConfig
from horkd.studies.arm import Arm
from horkd.studies.preset import Preset
from horkd.studies.task import Study, Task
from horkd.training import Recipe


@dataclass(frozen=True, kw_only=True)
class ToyPreset(Preset):
    task: ClassVar[str] = "toys"


TEACHER = Arm("toy teacher", "wide, 32 px", 32, network="teacher", role="teacher")
STUDENT = Arm("toy student", "narrow, 16 px", 16, frozen=TEACHER.name, orders="23", repeated=True)
SMALL = ToyPreset(name="toys-small", data="glyphs", teacher="resnet8x0.5", compact="resnet8x0.25",
                  recipe=Recipe(epochs=1, batch_size=12, crop=2), seeds=2)  # fmt: skip


def configure(preset: ToyPreset, arm: Arm, seed: int) -> RunConfig:
    frozen = None if arm is TEACHER else configure(preset, TEACHER, 0)
    orders = tuple((order, 25.0) for order in arm.orders)
    return RunConfig(getattr(preset, arm.network), Degradation(arm.pixels), frozen, orders,
                     recipe=preset.recipe, seed=seed)  # fmt: skip


STUDIES = (Study("play", "does it work?", lambda preset: (TEACHER, STUDENT)),)
TASK = Task("toys", "toys", (SMALL,), STUDIES, configure)
