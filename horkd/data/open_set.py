"""Faces as data sets: trained on some people, tested on pairs of photos of others.

| name | trained on | tested on |
|---|---|---|
| `lfw-1` … `lfw-10` | nine folds of LFW, without the tested people | the other fold's 600 pairs |
| `lfw-dev` | LFW's View 1, for choosing settings: its training people | its 1,000 test pairs |
| `lfw` | nothing | all 6,000 pairs: for networks trained elsewhere |
| `umdfaces`, `vggface2`, `casia` | all their photos, decoded one by one | all 6,000 pairs of LFW |

`NAME@SIZE` gives faces of another size than 112 pixels: `umdfaces@224`.
"""

import functools
from dataclasses import replace
from pathlib import Path

import torch

from horkd import paths
from horkd.data.faces import (
    FaceFiles,
    Pairs,
    Verification,
    load_lfw,
    load_lfw_view1,
    load_training_faces,
    sample_pairs,
)
from horkd.data.images import Dataset, ImageSet
from horkd.errors import HorkdError

#: Statistics that face networks of torchvision's kind are fed by; a network that expects others
#: says so in its specification.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE, FOLDS = 112, 10
#: How far random crops move, as a share of the side: 4 pixels of 112.
MARGIN = 4 / 112
LARGE = ("umdfaces", "vggface2", "casia")
FACES = ("lfw", "lfw-dev", *(f"lfw-{k}" for k in range(1, FOLDS + 1)), *LARGE)
#: Photos that each is trained on, known without reading it; the folds of LFW differ a little.
PHOTOS = {"lfw": 0, "lfw-dev": 9525, "umdfaces": 367_888, "vggface2": 3_141_890, "casia": 494_414}


def parse(name: str) -> tuple[str, int]:
    """(data set, side of its faces in pixels) of `NAME` or `NAME@SIZE`.

    Raises:
        HorkdError: if the size is not a number of pixels.
    """
    base, at, size = name.partition("@")
    if not at:
        return base, SIZE
    if not size.isdigit() or not 8 <= int(size) <= 1024:
        raise HorkdError(f"cannot read the data set {name!r}: write NAME@SIZE, SIZE in pixels")
    return base, int(size)


def is_faces(name: str) -> bool:
    """Whether a data set is one of faces."""
    return name.partition("@")[0] in FACES


def whole_of(name: str) -> str:
    """The set in memory that a data set is a part of: `lfw@112` of every fold of LFW."""
    base, size = parse(name)
    return f"{base.partition('-')[0]}@{size}" if base in FACES else name


def load_faces(name: str) -> Dataset:
    """A set of faces by name.

    LFW is decoded into memory (0.6 GB at 112 pixels); the large training sets stay on disk.

    Args:
        name: one of `FACES`, with `@SIZE` if wished.

    Raises:
        HorkdError: if it is unknown, or not there, with the file tree that is looked for.
    """
    base, size = parse(name)
    if base not in FACES:
        raise HorkdError(f"unknown set of faces {name!r}: choose from {', '.join(FACES)}")
    root = str(paths.data_dir() or "")
    whole, pairs, people = _lfw(root, size, base == "lfw-dev")
    folds = None
    train: ImageSet | FaceFiles = whole.select(torch.zeros(0, dtype=torch.int64))
    if base in LARGE:
        train = load_training_faces(base, size=size, margin=round(MARGIN * size))
    elif base != "lfw":
        tested = 1 if base == "lfw-dev" else int(base.removeprefix("lfw-")) - 1
        folds = (tested,)
        train = _relabelled(whole.select((people >= 0) & (people != tested)))
    return Dataset(
        name,
        train,
        None,
        whole,
        None,
        flip=True,
        mean=MEAN,
        std=STD,
        pairs=pairs,
        folds=folds,
        whole=None if base in LARGE else whole,
    )


@functools.lru_cache(maxsize=2)
def _lfw(root: str, size: int, view1: bool) -> tuple[ImageSet, Pairs, torch.Tensor]:
    """All photos, the pairs of a view, and the fold of each photo (-1: in none)."""
    load = load_lfw_view1 if view1 else load_lfw
    found: Verification = load(Path(root) if root else None, size=size, margin=round(MARGIN * size))
    faces = found.faces
    images = _decoded(root, size)
    return (
        ImageSet(images, faces.labels, faces.names, faces.margin),
        found.pairs,
        found.folds,
    )


@functools.lru_cache(maxsize=1)
def _decoded(root: str, size: int) -> torch.Tensor:
    """All photos of LFW, in the order that both views have."""
    folder = Path(root) if root else None
    return load_lfw(folder, size=size, margin=round(MARGIN * size)).faces.load(progress=True)


def _relabelled(images: ImageSet) -> ImageSet:
    """The same images with classes for the people in them alone."""
    people, labels = images.labels.unique(return_inverse=True)
    return replace(images, labels=labels, classes=tuple(images.classes[p] for p in people))


def verification_set(data: Dataset) -> tuple[ImageSet, Pairs, tuple[int, ...] | None]:
    """Images, pairs of them, and the folds to be tested (None: all) of any data set that has some.

    The embedded set's are pairs of characters never trained on: ten folds of 600 pairs, disjoint in
    characters, always the same.

    Raises:
        HorkdError: if the data set has neither pairs nor unseen classes.
    """
    if data.pairs is not None:
        return data.test, data.pairs, data.folds
    if data.unseen is None:
        raise HorkdError(
            f"{data.name} has no classes that are never trained on: verification needs faces or "
            "the embedded set"
        )
    images = data.unseen
    counts = images.labels.bincount()
    each = len(counts) // FOLDS * int(counts.min())  # images of a fold
    same = len(counts) // FOLDS * (int(counts.min()) * (int(counts.min()) - 1) // 2)
    per_fold = min(600, 2 * min(same, each * each // 4) // 2 * 2)
    return images, sample_pairs(images.labels, FOLDS, per_fold), None
