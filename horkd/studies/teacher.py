"""A teacher from a weights file in place of a trained one."""

import math
from pathlib import Path

from horkd import paths
from horkd.errors import HorkdError
from horkd.lab.runner import import_network
from horkd.networks.network import Statistics
from horkd.studies.preset import Preset
from horkd.studies.task import task_of

#: Channel statistics that networks for faces are usually trained with.
STATISTICS = {"imagenet": (None, None), "half": ((0.5,) * 3, (0.5,) * 3)}


def with_teacher(
    preset: Preset,
    weights: str | Path,
    model: str = "",
    statistics: str = "imagenet",
    bring: bool = True,
) -> Preset:
    """A preset with a teacher from a weights file.

    Presets that classify take a file of `horkd export`, which says itself what it holds.

    Args:
        preset: any; without a file and a model it is returned as it is.
        weights: path of the file, or "".
        model: its architecture, as in `horkd.networks.network`; the preset's own if empty. In
            metric learning "timm:resnet50@512" is one whose last layer, 512 wide, is an embedding,
            no classifier.
        statistics: what its images are normalised by: "imagenet", "half" for 0.5 and 0.5, or six
            numbers on the scale 0 to 1, "m,m,m/s,s,s".
        bring: import it, among the runs, and test it: on LFW, by retrieval, or on the test images.
            False changes nothing, for who only wants to know which runs are meant.

    Raises:
        HorkdError: if the preset has no such teacher, or the file is missing or does not fit.
    """
    if not (weights or model or statistics != "imagenet"):
        return preset
    if not weights:
        raise HorkdError("a teacher's model needs its weights file, too: --teacher-weights FILE")
    file = paths.typed_path(weights)
    preset, teacher = task_of(preset).with_teacher(preset, file, model, statistics)
    if bring:
        import_network(teacher, file)
    return preset


def channel_statistics(text: str) -> tuple[Statistics | None, Statistics | None]:
    """Means and deviations of a teacher's images, as `with_teacher` takes them.

    Raises:
        HorkdError: if the text is none.
    """
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
