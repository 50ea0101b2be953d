"""A teacher from a weights file in place of a trained one."""

import math
from dataclasses import replace
from pathlib import Path

import torch

from horkd.errors import HorkdError
from horkd.lab.runner import import_network
from horkd.networks.network import ModelSpec, Network, Statistics, load_network
from horkd.networks.weights import digest
from horkd.storage import DamagedFile
from horkd.studies.presets import Preset
from horkd.studies.retrieval.arms import METRIC
from horkd.studies.study import _frozen, configure, study

#: Channel statistics that networks for faces are usually trained with.
STATISTICS = {"imagenet": (None, None), "half": ((0.5,) * 3, (0.5,) * 3)}


def with_teacher(
    preset: Preset, weights: str | Path, model: str = "", statistics: str = "imagenet"
) -> Preset:
    """A preset with a teacher from a weights file.

    It is imported and tested: on LFW, by retrieval, or on the test images. Presets that classify
    take a file of `horkd export`, which says itself what it holds.

    Args:
        preset: any; without a file and a model it is returned as it is.
        weights: path of the file, or "".
        model: its architecture, as in `horkd.networks.network`; the preset's own if empty. In metric learning
            "timm:resnet50@512" is one whose last layer, 512 wide, is an embedding, no classifier.
        statistics: what its images are normalised by: "imagenet", "half" for 0.5 and 0.5, or six
            numbers on the scale 0 to 1, "m,m,m/s,s,s".

    Raises:
        HorkdError: if the preset has no such teacher, or the file is missing or does not fit.
    """
    if not (weights or model or statistics != "imagenet"):
        return preset
    if not weights:
        raise HorkdError("a teacher's model needs its weights file, too: --teacher-weights FILE")
    if preset.faces is None and not preset.only_metric:
        if model or statistics != "imagenet":
            raise HorkdError(
                f"preset {preset.name} takes a teacher of `horkd export`, which says itself what "
                "it is: give its file alone"
            )
        file = Path(weights).expanduser()
        others = [(name, known) for name, known in preset.given if name != "teacher"]
        preset = replace(preset, given=(("teacher", digest(file)), *others))
        try:
            load_network(file)
        except DamagedFile:
            raise HorkdError(
                f"preset {preset.name} takes a teacher of `horkd export`, and {file} is not one"
            ) from None
        import_network(_frozen(preset, "teacher"), file)
        return preset
    mean, std = _statistics(statistics)
    file = Path(weights).expanduser()
    known = {"weights": digest(file), "mean": mean, "std": std}
    teacher = model or preset.teacher
    if preset.faces:
        preset = replace(preset, teacher=teacher, faces=replace(preset.faces, **known))
        arm = study(preset, "faces")["teacher"]
    else:
        # students take its width, so that they can query an index that it made
        teacher, own = _with_width(teacher)
        with torch.device("meta"):
            width = Network(ModelSpec(teacher, 0, own)).width
        metric = replace(
            preset.metric, teacher=teacher, teacher_embedding=own, embedding=width, **known
        )
        preset = replace(preset, teacher=teacher, metric=metric)
        arm = study(preset, "metric")[f"{METRIC}teacher"]
    import_network(configure(preset, arm), file)
    return preset


def _with_width(model: str) -> tuple[str, int | None]:
    """Architecture and, if it is named, the width of the embedding that it ends in."""
    name, at, width = model.partition("@")
    if at and not (width.isdecimal() and int(width)):
        raise HorkdError(f"unknown model {model!r}: after @ stands the width of its embedding")
    return name, int(width) if at else None


def _statistics(text: str) -> tuple[Statistics | None, Statistics | None]:
    if text in STATISTICS:
        return STATISTICS[text]
    try:
        mean, std = (tuple(map(float, part.split(","))) for part in text.split("/"))
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError
        if not all(map(math.isfinite, mean + std)):
            raise ValueError
    except ValueError:
        raise HorkdError(
            f"unknown statistics {text!r}: choose from {', '.join(STATISTICS)}, or give means and "
            "deviations as m,m,m/s,s,s"
        ) from None
    return mean, std
