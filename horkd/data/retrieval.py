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

import functools
import hashlib
import importlib
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from horkd import paths
from horkd.data import cifar
from horkd.data.faces import MEAN, STD
from horkd.data.folder import _folder, _photos
from horkd.data.glyphs import load_glyphs
from horkd.data.images import Dataset, ImageSet
from horkd.data.photos import WHOLE_CROP, PhotoFiles
from horkd.errors import HorkdError

RETRIEVAL = ("glyphs-disjoint", "cifar100-disjoint", "cub", "cars", "sop")


#: Sets of photos with lists of their own, with the class that training ends with, and the last.
PHOTOS = {"cub": (100, 200), "cars": (98, 196), "sop": (11_318, 22_634)}


#: Training images and their classes with nothing held out, known without reading them.
TRAINED = {
    "glyphs-disjoint": (10_000, 100),
    "cifar100-disjoint": (40_000, 80),
    "cub": (5_864, 100),
    "cars": (8_054, 98),
    "sop": (59_551, 11_318),
}


#: What each set looks like below the folder that `HORKD_DATA` names, and whose it is.
LAYOUTS = {
    "cub": (
        "cub/CUB_200_2011/ with images.txt, image_class_labels.txt and images/ "
        "(Caltech-UCSD Birds-200-2011, from Caltech)"
    ),
    "cars": (
        "cars/cars_annos.mat and cars/car_ims/000001.jpg (Cars196, from Stanford), or cars/ with "
        "names.csv, anno_train.csv, anno_test.csv and car_data/car_data/train/<name>/<file> "
        "(Kaggle: stanford-car-dataset-by-classes-folder)"
    ),
    "sop": (
        "sop/Stanford_Online_Products/ with Ebay_train.txt, Ebay_test.txt and the folders of "
        "photos that they name (Stanford Online Products, from Stanford)"
    ),
}


FOLDER = "folder:"


SIZE, SMALL = 256, 32


#: How far random crops move, as a share of the side: 16 pixels of 224.
MARGIN = 16 / 224


_HELD = 5  # one class in so many is held out


_AGAIN = "put the official file there again"


_Images = TypeVar("_Images", ImageSet, PhotoFiles)


def is_retrieval(name: str) -> bool:
    """Whether a data set is one for metric learning."""
    return name.startswith(FOLDER) or name.partition("@")[0] in RETRIEVAL


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
    if not is_retrieval(base):
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
    return is_retrieval(name) and parse_retrieval(name)[0] not in RETRIEVAL[:2]


def plain_name(name: str) -> str:
    """A data set's name as part of a file's: of a folder of photos the last part of its path."""
    if not name.startswith(FOLDER):
        return name
    last = name.removeprefix(FOLDER).rstrip("/").rpartition("/")[2]
    which = hashlib.sha256(name.encode(errors="surrogateescape")).hexdigest()[
        :4
    ]  # two folders may have one name
    return f"folder-{re.sub(r'[^A-Za-z0-9@._-]+', '-', last)}-{which}"


@functools.lru_cache(maxsize=8)
def listing_digest(name: str) -> str:
    """Which photos a folder holds: a digest of their names and sizes, read once per process.

    Args:
        name: `folder:PATH`, with `@SIZE` if wished.

    Raises:
        HorkdError: if there is no such folder.
    """
    train, test = _folder(parse_retrieval(name)[0].removeprefix(FOLDER))
    digest = hashlib.sha256()
    for photos in (train, test):
        for file, label in zip(photos.files, photos.labels.tolist(), strict=True):
            try:
                size = (photos.root / file).stat().st_size
            except OSError as error:
                gone = f"cannot read {photos.root / file}: {error.strerror}"
                raise HorkdError(f"{gone}; remove the entry or put the photo there") from None
            line = f"{file}\0{photos.names[label]}\0{size}\n"
            digest.update(line.encode(errors="surrogateescape"))
        digest.update(b"\0")
    return digest.hexdigest()[:16]


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
            below `HORKD_DATA`, or below the working directory. Its folders `train` and `test` are
            the split, if it has only these and both hold folders of classes; else the first half
            of the classes, sorted by name, is trained on (of an odd number the larger half).
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
        data = load_glyphs() if per_class is None else load_glyphs(per_class)
        number = torch.arange(len(data.train.classes))
        held = number % _HELD == _HELD - 1
        train, validation = (_of(data.train, number[part]) for part in (~held, held))
        return Dataset(
            name, train, validation, data.unseen, None, False, data.mean, data.std, disjoint=True
        )
    mean, std = MEAN, STD
    if base == "cifar100-disjoint":
        if per_class is not None and per_class > 500:
            raise HorkdError(f"per_class must lie in 1 to 500 for {name}, got {per_class}")
        trained, test = _cifar100()
        mean, std = cifar.MEAN, cifar.STD
    elif base in PHOTOS:
        trained, test = {"cub": _cub, "cars": _cars, "sop": _sop}[base]()
    else:
        trained, test = _folder(base.removeprefix(FOLDER))
    if isinstance(test, PhotoFiles):
        fields = {"crop": WHOLE_CROP, "size": size, "margin": round(MARGIN * size)}
        trained, test = replace(trained, **fields), replace(test, **fields)
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
    return Dataset(name, train, validation, test, None, True, mean, std, disjoint=True)


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


def _home(name: str, *places: str) -> Path:
    """The first of these folders below `HORKD_DATA` that is there.

    Raises:
        HorkdError: if none is, or nobody said where the data sets are.
    """
    base = paths.data_dir()
    if base is None:
        raise HorkdError(f"set HORKD_DATA to the folder that holds {LAYOUTS[name]}")
    for place in places:
        if (base / place).is_dir():
            return base / place
    raise _absent(name, base / places[0])


def _absent(name: str, path: Path) -> HorkdError:
    return HorkdError(f"{path} is not there: the data folder must hold {LAYOUTS[name]}")


def _lines(name: str, path: Path) -> list[str]:
    """The lines of a list; empty ones too, except after the last line break.

    Raises:
        HorkdError: if it is absent, empty or no text.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise _absent(name, path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise HorkdError(f"cannot read {path} ({error}): {_AGAIN}") from None
    if not text.strip():
        raise HorkdError(f"{path} is empty: {_AGAIN}")
    return text.removesuffix("\n").split("\n")


def _wrong(where: str, what: str, got: str) -> HorkdError:
    return HorkdError(f"{where}: expected {what}, got {got[:80]!r}: {_AGAIN}")


def _whole(word: str, last: int | None = None) -> bool:
    """Whether a word is a whole number from 1 on, up to `last` if that is given."""
    digits = word.isascii() and word.isdecimal() and len(word) < 10
    return digits and int(word) >= 1 and (last is None or int(word) <= last)


def _once(where: str, file: str, seen: set[str]) -> None:
    """Refuse a photo that a list names twice: each would find itself.

    Raises:
        HorkdError: if it is in `seen`, to which it is added.
    """
    if file in seen:
        raise HorkdError(f"{where}: {file} was named before: {_AGAIN}")
    seen.add(file)


def _read(
    name: str, module: str, loader: str, root: Path, photos: Path
) -> list[tuple[list[str], list[int]]]:
    """Both halves as pytorch-metric-learning reads them: files below `photos`, and class ids.

    It passes over lines that do not fit, and stops at others with a traceback: lists are checked
    before.

    Raises:
        HorkdError: if it is not installed, or looks for another layout.
    """
    try:
        source = importlib.import_module(f"pytorch_metric_learning.datasets.{module}")
    except ImportError:
        raise HorkdError(
            f"{name} is read by pytorch-metric-learning 2.9 or later: pip install 'horkd[metric]'"
        ) from None
    halves = []
    for split in ("train", "test"):
        try:
            found = getattr(source, loader)(str(root), split=split)
        except (OSError, ValueError, IndexError) as error:
            raise HorkdError(
                f"pytorch-metric-learning cannot read {name} in {root} ({error}): the data folder "
                f"must hold {LAYOUTS[name]}"
            ) from None
        files = [file.removeprefix(f"{photos}{os.sep}") for file in found.paths]
        halves.append((files, list(found.labels)))
    return halves


def _cub() -> tuple[PhotoFiles, PhotoFiles]:
    home = _home("cub", "cub/CUB_200_2011", "CUB_200_2011")
    root = home / "images"
    _check_cub(home)
    if not root.is_dir():
        raise _absent("cub", root)
    halves = _read("cub", "cub", "CUB", home.parent, root)
    names = {i: file.rpartition("/")[0] for part in halves for file, i in zip(*part, strict=True)}
    train, test = (_photos(root, *part, names) for part in halves)
    return train, test


def _check_cub(home: Path) -> None:
    """Refuse lists of CUB that differ from each other or from their description.

    Raises:
        HorkdError: that names file and line.
    """
    images, classes = home / "images.txt", home / "image_class_labels.txt"
    files, labels = _lines("cub", images), _lines("cub", classes)
    if len(files) != len(labels):
        raise HorkdError(
            f"{images} has {len(files)} lines, {classes.name} has {len(labels)}: put the official "
            "files there again"
        )
    seen: set[str] = set()
    class_of: dict[str, str] = {}
    for line, (one, other) in enumerate(zip(files, labels, strict=True), 1):
        words, numbers = one.split(), other.split()
        here, there = f"{images}, line {line}", f"{classes}, line {line}"
        if len(words) != 2 or not _whole(words[0]) or words[1].find("/") < 1:
            raise _wrong(here, "an image's number and its folder/file without spaces", one)
        if len(numbers) != 2 or not _whole(numbers[0]) or not _whole(numbers[1], 200):
            raise _wrong(there, "an image's number and its class, 1 to 200", other)
        if int(words[0]) != int(numbers[0]):
            raise HorkdError(
                f"{there}: image {numbers[0]}, where {images.name} has image "
                f"{words[0]}: put the official files there again"
            )
        _once(here, words[1], seen)
        # a class that is cut off ("20" of "200") would be trained on
        folder = words[1].rpartition("/")[0]
        known = class_of.setdefault(folder, numbers[1])
        if int(known) != int(numbers[1]):
            raise HorkdError(
                f"{there}: {words[1]} has class {numbers[1]}, others of its folder "
                f"have class {known}: put the official files there again"
            )


def _cars() -> tuple[PhotoFiles, PhotoFiles]:
    home = _home("cars", "cars")
    if (home / "cars_annos.mat").is_file():
        return _cars_annos(home)
    if not (home / "names.csv").is_file():
        raise _absent("cars", home / "cars_annos.mat")
    names = [line.strip() for line in _lines("cars", home / "names.csv")]
    for split in ("train", "test"):
        path, seen = home / f"anno_{split}.csv", set()
        for line, row in enumerate(_lines("cars", path), 1):
            words, here = row.split(","), f"{path}, line {line}"
            # a row that is cut off would take a corner of its box for the class
            if len(words) != 6 or not words[0] or words[0][0] == "/" or not _whole(words[5], 196):
                what = "a file, the four numbers of its box and its class, 1 to 196"
                raise _wrong(here, what, row)
            if int(words[5]) > len(names) or not names[int(words[5]) - 1]:
                raise HorkdError(
                    f"{here}: class {words[5]} has no name in names.csv: put the official files "
                    "there again"
                )
            _once(here, words[0], seen)
    if not (home / "car_data" / "car_data").is_dir():
        raise _absent("cars", home / "car_data" / "car_data")
    halves = _read("cars", "cars196", "Cars196", home, home)
    train, test = (_photos(home, *part, dict(enumerate(names, 1))) for part in halves)
    return train, test


def _cars_annos(home: Path) -> tuple[PhotoFiles, PhotoFiles]:
    """Cars196 as first published: one folder of photos and a MATLAB file."""
    from scipy.io import loadmat  # slow to import, and rarely needed

    path = home / "cars_annos.mat"
    try:
        found = loadmat(path, squeeze_me=True)
        rows = np.atleast_1d(found["annotations"])
        files = [str(file) for file in rows["relative_im_path"]]
        ids = [int(i) for i in rows["class"]]
        titles = [str(title) for title in np.atleast_1d(found.get("class_names", []))]
    except Exception as error:  # damaged files fail in many ways
        raise HorkdError(f"cannot read {path} ({' '.join(str(error).split())}): {_AGAIN}") from None
    (end, last), seen = PHOTOS["cars"], set()
    for row, (file, i) in enumerate(zip(files, ids, strict=True), 1):
        here = f"{path}, annotation {row}"
        if not 1 <= i <= last or not file or file[0] == "/":
            raise _wrong(here, f"a photo and its class, 1 to {last}", f"{file} {i}")
        _once(here, file, seen)
    if not (home / "car_ims").is_dir():
        raise _absent("cars", home / "car_ims")
    names = {i: titles[i - 1] if i <= len(titles) else str(i) for i in ids}
    train, test = (
        _photos(home, [files[k] for k in half], [ids[k] for k in half], names)
        for half in (
            [k for k, i in enumerate(ids) if i <= end],
            [k for k, i in enumerate(ids) if i > end],
        )
    )
    return train, test


def _sop() -> tuple[PhotoFiles, PhotoFiles]:
    home = _home("sop", "sop/Stanford_Online_Products", "Stanford_Online_Products")
    seen: set[str] = set()
    trained: set[int] = set()
    titles = "image_id class_id super_class_id path"
    for split in ("train", "test"):
        path = home / f"Ebay_{split}.txt"
        header, *rows = _lines("sop", path)
        if header.split() != titles.split():
            raise _wrong(f"{path}, line 1", f"the titles {titles}", header)
        for line, row in enumerate(rows, 2):
            words, here = row.split(), f"{path}, line {line}"
            numbers = len(words) == 4 and _whole(words[0]) and _whole(words[1], PHOTOS["sop"][1])
            if not numbers or words[3][0] == "/":
                what = f"{titles} (class_id 1 to {PHOTOS['sop'][1]}, path without spaces)"
                raise _wrong(here, what, row)
            _once(here, words[3], seen)
            if split == "train":
                trained.add(int(words[1]))
            elif int(words[1]) in trained:
                raise HorkdError(
                    f"{here}: class {words[1]} is in Ebay_train.txt, too: put the official files "
                    "there again"
                )
    halves = _read("sop", "sop", "StanfordOnlineProducts", home.parent, home)
    train, test = (_photos(home, *part, {i: str(i) for i in part[1]}) for part in halves)
    return train, test
