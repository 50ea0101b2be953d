"""Data sets of small images, held as uint8 tensors."""

import functools

from horkd.data.batches import Batches, normalise
from horkd.data.cifar import load_cifar100
from horkd.data.glyphs import VERSION as GLYPHS_VERSION
from horkd.data.glyphs import load_glyphs
from horkd.data.images import Dataset, ImageSet
from horkd.errors import HorkdError

__all__ = ["DATASETS", "DRAWN", "Batches", "Dataset", "ImageSet", "load_dataset", "normalise"]

DATASETS = ("glyphs", "cifar100")
#: Data sets that are drawn here, with the version of the drawing.
DRAWN = {"glyphs": GLYPHS_VERSION}


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
