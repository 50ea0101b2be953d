"""CUB-200-2011, Cars196 and Stanford Online Products by the lists of their publishers."""

import importlib
import os
from pathlib import Path

import numpy as np

from horkd import paths
from horkd.data.folder import photos_of
from horkd.data.photos import PhotoFiles
from horkd.errors import HorkdError

#: Sets of photos with lists of their own, with the class that training ends with, and the last.
PHOTOS = {"cub": (100, 200), "cars": (98, 196), "sop": (11_318, 22_634)}
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
_AGAIN = "put the official file there again"


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
    train, test = (photos_of(root, *part, names) for part in halves)
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
    train, test = (photos_of(home, *part, dict(enumerate(names, 1))) for part in halves)
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
        photos_of(home, [files[k] for k in half], [ids[k] for k in half], names)
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
    train, test = (photos_of(home, *part, {i: str(i) for i in part[1]}) for part in halves)
    return train, test


#: How each set is read: training photos and test photos.
READERS = {"cub": _cub, "cars": _cars, "sop": _sop}
