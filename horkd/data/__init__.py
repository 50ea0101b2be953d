"""Data sets of small images, held as uint8 tensors."""

import functools

from horkd.data.batches import Batches, normalise
from horkd.data.cifar import VALIDATION_PER_CLASS, load_cifar100
from horkd.data.glyphs import VERSION as GLYPHS_VERSION
from horkd.data.glyphs import load_glyphs
from horkd.data.images import Dataset, ImageSet
from horkd.errors import HorkdError

__all__ = [
    "CLASSES",
    "DATASETS",
    "DRAWN",
    "Batches",
    "Dataset",
    "ImageSet",
    "load_dataset",
    "normalise",
    "training_images",
]

DATASETS = ("glyphs", "cifar100")
#: Data sets that are drawn here, with the version of the drawing.
DRAWN = {"glyphs": GLYPHS_VERSION}
#: Classes of each data set, known without reading it.
CLASSES = {"glyphs": 100, "cifar100": 100}


def training_images(name: str, per_class: int | None = None, validation: bool = True) -> int:
    """How many images a network is trained on, without reading the data.

    Args:
        name: one of `DATASETS`.
        per_class: as in `load_dataset`.
        validation: whether the validation split is held out; else it is trained on as well.
    """
    if name == "glyphs":
        each = per_class or 100
        held = max(5, each // 5)
    else:
        each = per_class or 500 - VALIDATION_PER_CLASS
        held = min(each, VALIDATION_PER_CLASS)
    return CLASSES[name] * (each if validation else each + held)


@functools.lru_cache(maxsize=4)
def load_dataset(name: str, per_class: int | None = None) -> Dataset:
    """A data set by name, read once per process.

    Args:
        name: one of `DATASETS`. "glyphs" is drawn here; "cifar100" is read or downloaded.
        per_class: training images per class; None takes all (glyphs: 100).

    Raises:
        HorkdError: if the name is unknown or the data are missing or damaged.
    """
    if name == "glyphs":
        return load_glyphs() if per_class is None else load_glyphs(per_class)
    if name == "cifar100":
        return load_cifar100(per_class)
    raise HorkdError(f"unknown data set {name!r}: choose from {', '.join(DATASETS)}")
