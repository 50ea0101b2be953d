"""Faces: Tables 2 and 3, with a teacher that others trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from horkd.data import is_faces
from horkd.data.faces import FOLDS, LARGE, MARGIN, SIZE, parse
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab.config import RunConfig
from horkd.networks.weights import digest
from horkd.studies.arm import Arm
from horkd.studies.faces.arms import face_arms
from horkd.studies.faces.presets import PRESETS, FacesPreset
from horkd.studies.task import Study, Task
from horkd.studies.teacher import channel_statistics


def configure(preset: FacesPreset, arm: Arm, seed: int) -> RunConfig:
    """The run of an arm: `horkd.studies.study.configure`."""
    if arm.role == "teacher" and arm.network == "teacher":
        return _given_teacher(preset)
    base, size = parse(preset.data)
    held = f"-{arm.fold or preset.folds[0]}" if preset.folds else ""
    at = "" if size == SIZE else f"@{size}"
    frozen = None
    if arm.frozen is not None:
        known = {a.name: a for a in face_arms(preset)}
        frozen = configure(preset, replace(known[arm.frozen], fold=arm.fold), 0)
    weights = dict(preset.orders)
    return RunConfig(
        degradation=Degradation(arm.pixels, arm.kernel, upsample=arm.network == "teacher"),
        frozen=frozen,
        orders=tuple((order, weights[order]) for order in arm.orders),
        data=f"{base}{held}{at}",
        validation=False,
        seed=seed,
        **{**arm.fields, **_network(preset, arm)},
    )


def _given_teacher(preset: FacesPreset) -> RunConfig:
    size = parse(preset.data)[1]
    return RunConfig(
        preset.teacher, Degradation(size), data="lfw" if size == SIZE else f"lfw@{size}",
        validation=False, weights=preset.weights or "none", mean=preset.mean, std=preset.std,
    )  # fmt: skip


def _network(preset: FacesPreset, arm: Arm) -> dict[str, Any]:
    """Architecture, width, what it expects of its images, and the recipe that goes with it."""
    teachers = {"mean": preset.mean, "std": preset.std, "model": preset.teacher}
    return {
        "compact": {
            "model": preset.compact, "embedding": preset.embedding, "recipe": preset.recipe,
        },
        "slim": {
            "model": preset.slim, "embedding": preset.slim_embedding, "recipe": preset.recipe,
        },
        "teacher": {**teachers, "recipe": preset.tuned},
        # the teacher's network without its weights
        "scratch": {**teachers, "recipe": preset.recipe},
    }[arm.network]  # fmt: skip


def adapt(preset: FacesPreset, data: str) -> FacesPreset:
    """A preset on another training set, at the preset's size unless the name has one."""
    base, size = parse(data)
    if "@" not in data:
        size = parse(preset.data)[1]
    if base not in ("lfw", *LARGE):
        raise HorkdError(
            f"preset {preset.name} does not train on {base}: choose from lfw (its folds in turn), "
            f"{', '.join(LARGE)}"
        )
    # LFW is trained on in folds and fits into memory; large sets are read from disk
    folds = (preset.folds or tuple(range(1, FOLDS + 1))) if base == "lfw" else ()
    changes: dict[str, Any] = {"crop": round(MARGIN * size)}
    if base in LARGE:
        changes["views"] = 0
    usual = size == SIZE == parse(preset.data)[1]
    return replace(
        preset,
        data=base if usual else f"{base}@{size}",
        folds=folds,
        assistant=min(preset.assistant, size),
        recipe=replace(preset.recipe, **changes),
        tuned=replace(preset.tuned, **changes),
    )


def meant(data: str, given: bool) -> str:
    """The preset that is meant by data, or by a teacher's file alone."""
    if data and not is_faces(data):
        return ""
    if data and not data.startswith("lfw"):
        return "faces-paper"
    return "faces" if data or given else ""


def with_teacher(
    preset: FacesPreset, file: str | Path, model: str, statistics: str
) -> tuple[FacesPreset, RunConfig]:
    """A preset with a teacher from any file that its architecture fits, and its run."""
    mean, std = channel_statistics(statistics)
    preset = replace(
        preset, teacher=model or preset.teacher, weights=digest(file), mean=mean, std=std
    )
    return preset, _given_teacher(preset)


TASK = Task(
    name="faces",
    what="faces",
    presets=PRESETS,
    studies=(
        Study(
            "faces", "Tables 2 and 3: how small can a face be?", face_arms, notebook="06_faces"
        ),
    ),
    configure=configure,
    exports=lambda preset: [f"student {r}" for r in preset.lows],
    takes=is_faces,
    adapt=adapt,
    sets="sets of faces",
    meant=meant,
    with_teacher=with_teacher,
    notebooks_take_teacher=True,
)  # fmt: skip
