"""Metric learning: Table 4 and Fig. 3, on classes that nobody was trained on."""

from dataclasses import replace
from pathlib import Path

import torch

from horkd.data import full_size, is_retrieval
from horkd.data.retrieval import MARGIN, of_photos
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab.config import RunConfig
from horkd.networks.network import ModelSpec, Network
from horkd.networks.weights import digest
from horkd.studies.arm import Arm
from horkd.studies.retrieval.arms import METRIC, metric_arms
from horkd.studies.retrieval.presets import PRESETS, RetrievalPreset
from horkd.studies.task import Study, Task
from horkd.studies.teacher import channel_statistics


def configure(preset: RetrievalPreset, arm: Arm, seed: int) -> RunConfig:
    """The run of an arm: `horkd.studies.study.configure`."""
    if arm.role == "teacher" and preset.weights:
        return _given_teacher(preset)
    frozen = None
    if arm.frozen is not None:
        frozen = configure(preset, {a.name: a for a in metric_arms(preset)}[arm.frozen], 0)
    weights = dict(preset.orders)
    recipe = preset.teacher_recipe
    if arm.network == "compact":
        relations = arm.orders or "orders" in arm.fields
        recipe = preset.recipe if relations else preset.other_recipe
    return RunConfig(
        getattr(preset, arm.network),
        Degradation(arm.pixels, arm.kernel),
        frozen,
        **{"orders": tuple((order, weights[order]) for order in arm.orders), **arm.fields},
        data=preset.data,
        per_class=preset.per_class,
        validation=preset.select == "validation",
        recipe=recipe,
        seed=seed,
        embedding=preset.embedding,
        backbone=preset.backbone,
        select=preset.select,
    )


def _given_teacher(preset: RetrievalPreset) -> RunConfig:
    return RunConfig(
        preset.teacher, Degradation(full_size(preset.data)), data=preset.data,
        validation=preset.select == "validation", weights=preset.weights, mean=preset.mean,
        std=preset.std, normalized=True, embedding=preset.teacher_embedding,
    )  # fmt: skip


def adapt(preset: RetrievalPreset, data: str) -> RetrievalPreset:
    """A preset on another set: photos with photos, small images with theirs.

    Resolutions of students are the same shares of the full one.
    """
    full, new = full_size(preset.data), full_size(data)
    photos = of_photos(data)
    if photos != of_photos(preset.data):
        other = "metric-paper" if photos else "metric or metric-cpu"
        raise HorkdError(f"preset {preset.name} is not made for {data}: take {other}")
    preset = replace(preset, data=data, lows=tuple(round(r * new / full) for r in preset.lows))
    if not photos:
        return preset
    crops = {
        name: replace(getattr(preset, name), crop=round(MARGIN * new))
        for name in ("teacher_recipe", "recipe", "other_recipe")
    }
    return replace(preset, **crops)


def meant(data: str, given: bool) -> str:
    """The preset that is meant by data alone."""
    small = {"glyphs-disjoint": "metric", "cifar100-disjoint": "metric-cpu"}
    return small.get(data, "metric-paper") if is_retrieval(data) else ""


def with_teacher(
    preset: RetrievalPreset, file: str | Path, model: str, statistics: str
) -> tuple[RetrievalPreset, RunConfig]:
    """A preset with a teacher from any file that its architecture fits, and its run.

    Students take its width, so that they can query an index that it made.
    """
    mean, std = channel_statistics(statistics)
    known = digest(file)
    teacher, own = _with_width(model or preset.teacher)
    with torch.device("meta"):
        width = Network(ModelSpec(teacher, 0, own)).width
    preset = replace(
        preset, teacher=teacher, teacher_embedding=own, embedding=width, weights=known, mean=mean,
        std=std,
    )  # fmt: skip
    return preset, _given_teacher(preset)


def _with_width(model: str) -> tuple[str, int | None]:
    """Architecture and, if it is named, the width of the embedding that it ends in."""
    name, at, width = model.partition("@")
    if at and not (width.isdecimal() and int(width)):
        raise HorkdError(f"unknown model {model!r}: after @ stands the width of its embedding")
    return name, int(width) if at else None


TASK = Task(
    name="retrieval",
    what="metric learning",
    presets=PRESETS,
    studies=(
        Study(
            "metric",
            "Table 4, Fig. 3: does a student keep its teacher's neighbourhoods?",
            metric_arms,
            notebook="07_metric_learning",
        ),
    ),
    configure=configure,
    exports=lambda preset: [f"{METRIC}student {r}" for r in preset.lows],
    takes=is_retrieval,
    adapt=adapt,
    sets="sets with disjoint classes",
    meant=meant,
    with_teacher=with_teacher,
    notebooks_take_teacher=True,
)
