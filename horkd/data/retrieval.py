"""Sets for metric learning: trained on some classes, tested by retrieval among others.

| name | train and validation | test |
|---|---|---|
| `glyphs-disjoint` | the embedded set's 100 characters | its 40 unseen characters |
| `cifar100-disjoint` | CIFAR-100's first 80 classes, without test images | all of its last 20 |
| `cub` | CUB-200-2011, classes 1 to 100 | classes 101 to 200 |
| `cars` | Cars196, classes 1 to 98 | classes 99 to 196 |
| `sop` | Stanford Online Products, `Ebay_train.txt` | `Ebay_test.txt` |
| `folder:PATH` | `PATH/train/CLASS/`, or half of the `PATH/CLASS/` | `PATH/test/`, or the rest |

No class is in two splits. Validation is the last fifth of the training classes (rounded down, at
least one), as in the split that the code published with RKD offers for CUB (80 and 20 classes); of
the embedded set it is every fifth character, since those are ordered by script.

The last four are photos, decoded one by one; nothing downloads them. `NAME@SIZE` gives the side of
the image after the crop: `cub@224`, else 256 pixels. As in the code published with RKD a photo is
squeezed into a square, whatever its shape, and of each 256 pixels of that the central 224 are
looked at; random crops move within the rest. So `cub@224` is resized to 256 pixels as there, and at
256 pixels, the largest of the paper's Table 4, all resolutions show the same crop: images are
degraded after it.

Only `glyphs-disjoint` and `cifar100-disjoint` were tried on their files. The other readers follow
pytorch-metric-learning, which reads the lists, the code published with RKD (`cars_annos.mat`) and
the publishers' descriptions, and refuse in one line what does not look like that.
"""

import hashlib
import re
from dataclasses import replace
from typing import TypeVar

import torch

from horkd.data import cifar
from horkd.data.faces import MEAN, STD
from horkd.data.folder import halves_of
from horkd.data.glyphs import VERSION, load_glyphs
from horkd.data.images import Dataset, ImageSet
from horkd.data.photo_lists import PHOTOS, READERS
from horkd.data.photos import WHOLE_CROP, PhotoFiles, require_decoders
from horkd.data.source import Source
from horkd.errors import HorkdError
from horkd.protocols.retrieval import Retrieval

RETRIEVAL = ("glyphs-disjoint", "cifar100-disjoint", "cub", "cars", "sop")


#: Training images and their classes with nothing held out, known without reading them.
TRAINED = {
    "glyphs-disjoint": (10_000, 100),
    "cifar100-disjoint": (40_000, 80),
    "cub": (5_864, 100),
    "cars": (8_054, 98),
    "sop": (59_551, 11_318),
}


FOLDER = "folder:"


SIZE, SMALL = 256, 32


#: How far random crops move, as a share of the side: 16 pixels of 224.
MARGIN = 16 / 224


_HELD = 5  # one class in so many is held out


_Images = TypeVar("_Images", ImageSet, PhotoFiles)


def parse_retrieval(name: str) -> tuple[str, int]:
    """(data set, side of its images in pixels) of `NAME`, `NAME@SIZE` or `folder:PATH@SIZE`.

    A path may contain @; what follows the last one is a size if it is digits alone.

    Raises:
        HorkdError: if there is no such set or the size is not one of its.
    """
    base, at, size = name.rpartition("@") if name.startswith(FOLDER) else name.partition("@")
    digits = size.isascii() and size.isdecimal()
    if name.startswith(FOLDER) and not (at and digits):
        base, at = name, ""
    if base == FOLDER:
        raise HorkdError(f"cannot read the data set {name!r}: write folder:PATH or folder:PATH@256")
    if base not in RETRIEVAL and not base.startswith(FOLDER):
        raise HorkdError(
            f"unknown set for retrieval {name!r}: choose from {', '.join(RETRIEVAL)}, folder:PATH"
        )
    if base in PHOTOS or base.startswith(FOLDER):
        if not at:
            return base, SIZE
        if not digits or len(size) > 4 or not 8 <= int(size) <= 1024:
            raise HorkdError(
                f"cannot read the data set {name!r}: write {base}@SIZE, SIZE in pixels, 8 to 1024"
            )
        return base, int(size)
    if at:
        raise HorkdError(f"{base} has images of {SMALL} pixels alone: leave out @{size}")
    return base, SMALL


def of_photos(name: str) -> bool:
    """Whether a set for metric learning is one of photos on disk."""
    ours = name.startswith(FOLDER) or name.partition("@")[0] in RETRIEVAL
    return ours and parse_retrieval(name)[0] not in RETRIEVAL[:2]


def plain_name(name: str) -> str:
    """A data set's name as part of a file's: of a folder of photos the last part of its path."""
    if not name.startswith(FOLDER):
        return name
    last = name.removeprefix(FOLDER).rstrip("/").rpartition("/")[2]
    which = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[
        :4
    ]  # two folders may have one name
    return f"folder-{re.sub(r'[^A-Za-z0-9@._-]+', '-', last)}-{which}"


def retrieval_images(name: str, per_class: int | None = None, validation: bool = True) -> int:
    """How many images a network is trained on, without reading them.

    Folders are counted. Of sets of photos it is taken that classes are equally large.

    Args:
        name: as in `load_retrieval`.
        per_class: as in `load_retrieval`.
        validation: whether the validation split is held out; else it is trained on as well.

    Raises:
        HorkdError: if there is no such set.
    """
    base, _ = parse_retrieval(name)
    if base not in TRAINED:
        return len(load_retrieval(name, per_class).training(validation))
    images, classes = TRAINED[base]
    if per_class is not None:  # the embedded set is drawn, as much of it as is wished
        wished = per_class * classes
        images = wished if base == "glyphs-disjoint" else min(wished, images)
    return images - images * (classes // _HELD) // classes if validation else images


def load_retrieval(name: str, per_class: int | None = None) -> Dataset:
    """A set for metric learning by name.

    Photos stay on disk: opening their set lists files. CIFAR-100 is normalised by the statistics of
    all its 50,000 training images, of which 10,000 are of tested classes; photos by ImageNet's.

    Args:
        name: one of `RETRIEVAL` or `folder:PATH`, photos with `@SIZE` if wished. PATH is absolute,
            or below `HORKD_DATA`. Its folders `train` and `test` are the split, if it has only
            these and both hold folders of classes; else the first half of the classes, sorted by
            name, is trained on (of an odd number the larger half). Folders called train, val, test
            and the like are never classes.
        per_class: keep the first so many images of each class in every split; of the embedded set
            draw so many.

    Raises:
        HorkdError: if it is unknown, damaged or not there, with the file tree that is looked for.
    """
    base, size = parse_retrieval(name)
    whole = isinstance(per_class, int) and not isinstance(per_class, bool)
    if per_class is not None and not (whole and per_class >= 1):
        raise HorkdError(f"per_class must be a whole number of at least 1, got {per_class!r}")
    if base == "glyphs-disjoint":
        return _glyphs(name, per_class)
    mean, std = MEAN, STD
    if base == "cifar100-disjoint":
        if per_class is not None and per_class > 500:
            raise HorkdError(f"per_class must lie in 1 to 500 for {name}, got {per_class}")
        trained, test = _cifar100()
        mean, std = cifar.MEAN, cifar.STD
    else:
        read = READERS.get(base, lambda: halves_of(base.removeprefix(FOLDER)))
        fields = {"crop": WHOLE_CROP, "size": size, "margin": round(MARGIN * size)}
        trained, test = (replace(half, **fields) for half in read())
        for half in (trained, test):
            require_decoders(half)
    classes = len(trained.classes)
    held = max(1, classes // _HELD)
    if classes - held < 2 or len(test.classes) < 2:
        raise HorkdError(
            f"{name} has {classes} classes to train on and {len(test.classes)} to test on: at "
            "least 3 (one is held out) and 2 are needed"
        )
    if per_class is not None:
        trained, test = _first(trained, per_class), _first(test, per_class)
    train, validation = (
        _of(trained, part) for part in torch.arange(classes).split([classes - held, held])
    )
    return Dataset(name, train, validation, test, None, True, mean, std, Retrieval())


def _glyphs(name: str, per_class: int | None) -> Dataset:
    data = load_glyphs() if per_class is None else load_glyphs(per_class)
    number = torch.arange(len(data.train.classes))
    held = number % _HELD == _HELD - 1
    train, validation = (_of(data.train, number[part]) for part in (~held, held))
    return Dataset(
        name, train, validation, data.unseen, None, False, data.mean, data.std, Retrieval()
    )


def _of(images: _Images, chosen: torch.Tensor) -> _Images:
    """The images of these classes (int64 (C,)), labelled 0 .. C - 1 in that order."""
    label = torch.full((len(images.classes),), -1)
    label[chosen] = torch.arange(len(chosen))
    part = images.select((label[images.labels] >= 0).nonzero()[:, 0])
    classes = tuple(images.classes[c] for c in chosen.tolist())
    names = {"names" if isinstance(images, PhotoFiles) else "classes": classes}
    return replace(part, labels=label[part.labels], **names)


def _first(images: _Images, count: int) -> _Images:
    """The first `count` images of each class, in the order they have."""
    order = images.labels.argsort(stable=True)
    sizes = images.labels.bincount(minlength=len(images.classes))
    start = (sizes.cumsum(0) - sizes)[images.labels[order]]
    return images.select(order[torch.arange(len(order)) - start < count].sort().values)


def _cifar100() -> tuple[ImageSet, ImageSet]:
    """Images of the first 80 classes from the official training file, all images of the others."""
    data = cifar.load_cifar100()
    # back in the order of the official file, so that ids are places in it
    order = torch.cat([data.train.ids, data.validation.ids]).argsort()
    official = replace(data.training(validation=False).select(order), ids=None)
    first, others = torch.arange(100).split([80, 20])
    parts = [_of(images, others) for images in (official, data.test)]
    images, labels = (torch.cat([getattr(p, f) for p in parts]) for f in ("images", "labels"))
    return _of(official, first), ImageSet(images, labels, parts[0].classes)


def _size(name: str) -> int:
    return parse_retrieval(name)[1]


#: A folder of photos, by the full name of which it is found.
FOLDERS = Source(load_retrieval, _size, retrieval_images, "retrieval")
SOURCES = dict.fromkeys(RETRIEVAL, FOLDERS)
SOURCES["glyphs-disjoint"] = replace(FOLDERS, version=VERSION)
