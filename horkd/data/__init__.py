"""Data sets of small images, held as uint8 tensors; large sets of photos stay on disk.

A new data set is a module with a `Source`, and a line in `DATASETS`.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from horkd import paths
from horkd.data import cifar, faces, glyphs, retrieval
from horkd.data.batches import Batches, FileBatches, ReducedBatches
from horkd.data.faces import parse, whole_of
from horkd.data.fingerprint import listing_digest, look_again
from horkd.data.images import Dataset, ImageSet
from horkd.data.photos import PhotoFiles
from horkd.data.source import Source
from horkd.errors import HorkdError
from horkd.preprocess import normalise

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
    "Source",
    "find",
    "full_size",
    "is_faces",
    "is_retrieval",
    "load_dataset",
    "look_again",
    "normalise",
    "parse",
    "registered",
    "source_of",
    "training_images",
    "whole_of",
]

#: Every data set that has a name; a folder of photos is `folder:PATH` (`retrieval.FOLDERS`).
DATASETS: dict[str, Source] = {
    "glyphs": glyphs.SOURCE,
    "cifar100": cifar.SOURCE,
    **retrieval.SOURCES,
    **faces.SOURCES,
}
#: Data sets that are drawn here, with the version of the drawing.
DRAWN = {name: source.version for name, source in DATASETS.items() if source.version}
#: Classes of each data set that is classified, known without reading it.
CLASSES = {name: source.classes for name, source in DATASETS.items() if source.classes}


@contextmanager
def registered(sources: Mapping[str, Source]) -> Iterator[None]:
    """Further data sets, or other ones under known names, for a while.

    Args:
        sources: by name.
    """
    before = dict(DATASETS)
    DATASETS.update(sources)
    try:
        yield
    finally:
        DATASETS.clear()
        DATASETS.update(before)


def find(name: str) -> Source | None:
    """The source of `NAME`, `NAME@SIZE` or `folder:PATH`; None if there is no such data set."""
    if name.startswith(retrieval.FOLDER):
        return retrieval.FOLDERS
    return DATASETS.get(name) or DATASETS.get(name.partition("@")[0])


def source_of(name: str) -> Source:
    """The source of a data set whose name is right in all its parts.

    Raises:
        HorkdError: if there is no such data set, or not in the size after its @.
    """
    source = find(name)
    if source is None:
        raise HorkdError(
            f"unknown data set {name!r}: choose from {', '.join(DATASETS)}, folder:PATH"
        )
    if "@" in name and source.kind == "images":
        base, _, size = name.partition("@")
        raise HorkdError(f"{base} has images of one size alone: leave out @{size}")
    source.size(name)
    return source


def is_faces(name: str) -> bool:
    """Whether a data set is one of faces."""
    source = find(name)
    return source is not None and source.kind == "faces"


def is_retrieval(name: str) -> bool:
    """Whether a data set is one for metric learning."""
    source = find(name)
    return source is not None and source.kind == "retrieval"


def full_size(name: str) -> int:
    """Side of a data set's full-resolution images in pixels, without reading it."""
    return source_of(name).size(name)


def training_images(name: str, per_class: int | None = None, validation: bool = True) -> int:
    """How many images a network is trained on, without reading the data.

    Args:
        name: one of `DATASETS`.
        per_class: as in `load_dataset`.
        validation: whether the validation split is held out; else it is trained on as well.
    """
    return source_of(name).images(name, per_class, validation)


def load_dataset(name: str, per_class: int | None = None) -> Dataset:
    """A data set by name, read once per process; a folder of photos again if it has others.

    Args:
        name: one of `DATASETS`. "glyphs" is drawn here; "cifar100" is read or downloaded; sets of
            faces and for metric learning are read (`horkd.data.faces`,
            `horkd.data.retrieval`).
        per_class: training images per class; None takes all (glyphs: 100, faces: always all).

    Raises:
        HorkdError: if the name is unknown or the data are missing or damaged.
    """
    source = source_of(name)
    photos = listing_digest(name) if name.startswith(retrieval.FOLDER) else ""
    return _loaded(source.load, name, per_class, paths.data_dir(), photos)


@functools.lru_cache(maxsize=4)
def _loaded(
    load: Callable[[str, int | None], Dataset],
    name: str,
    per_class: int | None,
    folder: Path | None,
    photos: str,
) -> Dataset:
    return load(name, per_class)  # from that folder, and of these photos
