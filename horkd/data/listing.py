"""Folders of photos and lists of them, as the publishers of face data sets lay them out."""

import os
import re
import warnings
from array import array
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from horkd import paths
from horkd.errors import HorkdError

#: What each set looks like below the folder that `HORKD_DATA` names.
LAYOUTS = {
    "lfw": "lfw/lfw-deepfunneled/<Name>/<Name>_0001.jpg, lfw/pairs.txt and lfw/people.txt",
    "xqlfw": (
        "xqlfw/lfw_original_imgs_min_qual0.85variant11/<Name>/<Name>_0001.jpg "
        "and xqlfw/xqlfw_pairs.txt"
    ),
    "umdfaces": (
        "umdfaces/umdfaces_batch1/umdfaces_batch1_ultraface.csv and the folders of photos "
        "that it names beside it, likewise umdfaces_batch2 and umdfaces_batch3"
    ),
    "vggface2": (
        "vggface2/train/n000002/0001_01.jpg and, for crops around the face boxes, "
        "vggface2/bb_landmark/loose_bb_train.csv"
    ),
    "casia": "casia/0000045/001.jpg",
    "uccs": (
        "uccs/validation.csv and uccs/validation_images/<FILE> "
        "(or uccs/protocol/validation.csv and uccs/validation/<FILE>)"
    ),
    "tinyface": (
        "tinyface/Testing_Set/Gallery_Match/<id>_<n>.jpg, tinyface/Testing_Set/Probe/<id>_<n>.jpg "
        "and, if wanted, tinyface/Testing_Set/Gallery_Distractor/*.jpg"
    ),
}


#: Endings, in small letters, of the photos of published sets.
PUBLISHED = (".jpg", ".jpeg", ".png")
#: And of those in folders of one's own: what the demo reads, and PPM. A file that has one of them
#: is read by its content.
SUFFIXES = (
    *PUBLISHED, ".jpe", ".jfif", ".apng", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".heic",
    ".heif", ".hif", ".avif", ".ppm", ".pgm",
)  # fmt: skip

#: What operating systems and archives leave in folders, in small letters.
_LITTER = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found"} | {
    "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip
#: Endings of what is said about photos, beside them.
_NOTES = (".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".html", ".log")


def is_litter(name: str) -> bool:
    """Whether a file or folder is hidden, or left there by a program, and none of the data."""
    return name[0] == "." or name.lower() in _LITTER


def ending(name: str) -> str:
    """A file's ending in small letters, with its dot."""
    return os.path.splitext(name)[1].lower()


class LeftOut:
    """Counts files that are neither photos nor notes, by their endings, for one warning.

    Args:
        suffixes: those of photos.
    """

    def __init__(self, suffixes: tuple[str, ...]) -> None:
        self.suffixes, self.endings = suffixes, Counter()

    def takes(self, name: str) -> bool:
        """Whether a file is a photo; if it should have been, perhaps, it is counted."""
        if is_litter(name):
            return False
        found = ending(name)
        if found not in (*self.suffixes, *_NOTES):
            self.endings[found or "without ending"] += 1
        return found in self.suffixes

    def warn(self, root: str | Path) -> None:
        """Say what was left out, if anything was."""
        count = self.endings.total()
        if count:
            each = ", ".join(f"{number} {name}" for name, number in self.endings.most_common())
            warnings.warn(
                f"{root}: {count} {'file is' if count == 1 else 'files are'} left out ({each}): "
                f"photos are {', '.join(self.suffixes)}",
                stacklevel=1,  # one place, so that it is said once
            )


def home_of(name: str, root: str | Path | None) -> Path:
    """The folder of one data set.

    Raises:
        HorkdError: if it is absent, or nobody said where the data sets are.
    """
    base = paths.data_dir() if root is None else Path(root)
    if base is None:
        raise HorkdError(f"set HORKD_DATA to the folder that holds {LAYOUTS[name]}")
    if not (base / name).is_dir():
        raise absent(name, base / name)
    return base / name


def absent(name: str, path: str | Path) -> HorkdError:
    """The error for a file or folder that is not there, with the layout of the data set."""
    return HorkdError(f"{path} is not there: the data folder must hold {LAYOUTS[name]}")


def folder_names(root: str | Path, pattern: str = ".") -> list[str]:
    """Sorted names of the folders in `root` that match the whole pattern; hidden ones left out."""
    try:
        with os.scandir(root) as entries:
            return sorted(
                e.name
                for e in entries
                if not is_litter(e.name) and re.match(pattern, e.name) and e.is_dir()
            )
    except OSError as error:
        raise HorkdError(f"cannot list {root}: {error.strerror}") from None


def photo_names(folder: str | Path, left_out: LeftOut | None = None) -> list[str]:
    """Sorted names of the photos in a folder, hidden ones left out; none if there is no folder.

    Args:
        folder: of a published set.
        left_out: counts what else is there.
    """
    left_out = left_out or LeftOut(PUBLISHED)
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if left_out.takes(e.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HorkdError(f"cannot list {folder}: {error.strerror}") from None


def by_folder(
    name: str, root: str | Path, pattern: str
) -> tuple[tuple[str, ...], Tensor, list[str]]:
    """Photos of a tree with one folder for each identity: files, labels, names.

    Raises:
        HorkdError: if no folder matches the pattern or one has no photos.
    """
    root = Path(root)
    if not root.is_dir():
        raise absent(name, root)
    names, files, labels = folder_names(root, pattern), [], array("q")
    left_out = LeftOut(PUBLISHED)
    if not names:
        raise HorkdError(f"{root} has no folders of photos: it must look like {LAYOUTS[name]}")
    for label, person in enumerate(names):
        found = photo_names(root / person, left_out)
        if not found:
            raise HorkdError(f"{root / person} has no photos: unpack the archive again")
        files.extend(f"{person}/{photo}" for photo in found)
        labels.extend([label] * len(found))
    left_out.warn(root)
    return tuple(files), as_tensor(labels, torch.int64), names


def as_tensor(values: array, dtype: torch.dtype) -> Tensor:
    """The values (N,) of a list that may be empty."""
    return torch.frombuffer(values, dtype=dtype).clone() if values else torch.empty(0, dtype=dtype)


class Missing:
    """Counts files that a list names and that are not there, and remembers the first."""

    def __init__(self) -> None:
        self.first, self.count = "", 0

    def add(self, file: str) -> None:
        """Count a file."""
        self.first, self.count = self.first or file, self.count + 1

    def check(self, where: str | Path, root: str | Path) -> None:
        """Refuse a set with missing files.

        Raises:
            HorkdError: if there are any.
        """
        if self.count:
            raise HorkdError(
                f"{Path(where).name} names {self.count} photos that are not in {root}, first "
                f"{self.first}: unpack the archive again"
            )


def lines_of(name: str, path: str | Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and words of each line of a text file that is not empty.

    Raises:
        HorkdError: if the file is absent or no text.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if words := line.split():
                    yield number, words
    except FileNotFoundError:
        raise absent(name, path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise HorkdError(f"cannot read {path}: {error}") from None


def read_counts(
    path: str | Path, line: int, words: list[str], how_many: int, what: str
) -> list[int]:
    """`how_many` positive whole numbers from one line.

    Raises:
        HorkdError: if the line holds anything else.
    """
    if len(words) != how_many or not all(w.isdecimal() and int(w) > 0 for w in words):
        raise HorkdError(f"{path}, line {line}: expected {what}, got {' '.join(words)!r}")
    return [int(word) for word in words]
