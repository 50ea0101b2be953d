"""Data sets of small images, held as uint8 tensors; large sets of photos stay on disk."""

import functools

from horkd.data.batches import Batches, FileBatches, ReducedBatches, normalise
from horkd.data.cifar import VALIDATION_PER_CLASS, load_cifar100
from horkd.data.faces import (
    FACES,
    PHOTOS,
    identification_set,
    is_faces,
    load_faces,
    parse,
    verification_set,
    whole_of,
)
from horkd.data.glyphs import VERSION as GLYPHS_VERSION
from horkd.data.glyphs import load_glyphs
from horkd.data.images import Dataset, ImageSet
from horkd.data.photos import PhotoFiles
from horkd.data.retrieval import (
    RETRIEVAL,
    is_retrieval,
    load_retrieval,
    parse_retrieval,
    retrieval_images,
)
from horkd.errors import HorkdError

__all__ = [
    "CLASSES",
    "DATASETS",
    "DRAWN",
    "Batches",
    "Dataset",
    "FileBatches",
    "ImageSet",
    "PhotoFiles",
    "ReducedBatches",
    "full_size",
    "identification_set",
    "is_faces",
    "is_known",
    "is_retrieval",
    "load_dataset",
    "normalise",
    "training_images",
    "verification_set",
    "whole_of",
]

DATASETS = ("glyphs", "cifar100", *RETRIEVAL, *FACES)
#: Data sets that are drawn here, with the version of the drawing.
DRAWN = {"glyphs": GLYPHS_VERSION, "glyphs-disjoint": GLYPHS_VERSION}
#: Classes of each data set that is classified, known without reading it.
CLASSES = {"glyphs": 100, "cifar100": 100}


def is_known(name: str) -> bool:
    """Whether there is a data set of that name, here or elsewhere."""
    return name.partition("@")[0] in DATASETS or is_retrieval(name)


def full_size(name: str) -> int:
    """Side of a data set's full-resolution images in pixels, without reading it."""
    if is_faces(name):
        return parse(name)[1]
    return parse_retrieval(name)[1] if is_retrieval(name) else 32


def training_images(name: str, per_class: int | None = None, validation: bool = True) -> int:
    """How many images a network is trained on, without reading the data.

    Args:
        name: one of `DATASETS`.
        per_class: as in `load_dataset`.
        validation: whether the validation split is held out; else it is trained on as well.
    """
    if is_faces(name):  # a tenth of LFW's 13,233 photos is in the tested fold
        return PHOTOS.get(parse(name)[0], 11_910)
    if is_retrieval(name):
        return retrieval_images(name, per_class, validation)
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
        name: one of `DATASETS`. "glyphs" is drawn here; "cifar100" is read or downloaded; sets of
            faces and for metric learning are read (`horkd.data.faces`,
            `horkd.data.retrieval`).
        per_class: training images per class; None takes all (glyphs: 100, faces: always all).

    Raises:
        HorkdError: if the name is unknown or the data are missing or damaged.
    """
    if name == "glyphs":
        return load_glyphs() if per_class is None else load_glyphs(per_class)
    if name == "cifar100":
        return load_cifar100(per_class)
    if is_faces(name):
        return load_faces(name)
    if is_retrieval(name):
        return load_retrieval(name, per_class)
    raise HorkdError(f"unknown data set {name!r}: choose from {', '.join(DATASETS)}")
