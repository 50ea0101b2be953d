"""A folder of images, one folder for each class, as a set for metric learning."""

import os
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from horkd import paths
from horkd.data.listing import SUFFIXES, LeftOut, folder_names, is_litter, photo_names
from horkd.data.photos import PhotoFiles
from horkd.errors import HorkdError

#: Names of folders that hold a part of a data set and are no class; see `split_of`.
SPLITS = {
    "train": "train",
    "training": "train",
    "trainval": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
    "eval": "test",
    "evaluation": "test",
    "holdout": "test",
    "query": "query",
    "gallery": "gallery",
}


def split_of(name: str) -> str | None:
    """Which split a folder's name stands for, as `Train`, `val2017`, `test_images`; None: a class.

    A year or a version, and "set", "data" or "images" at its end, change nothing.
    """
    plain = re.sub(r"v\d+|[\W\d_]+", "", name.lower())
    return SPLITS.get(plain) or SPLITS.get(re.sub(r"(set|data|images|imgs)$", "", plain))


def photos_of(
    root: str | Path, files: Sequence[str], ids: Sequence[int], names: dict[int, str]
) -> PhotoFiles:
    """The photos of one half; classes are those ids that occur, in their order."""
    known, labels = torch.tensor(ids, dtype=torch.int64).unique(return_inverse=True)
    return PhotoFiles(root, tuple(files), labels, tuple(names[i] for i in known.tolist()))


def halves_of(text: str) -> tuple[PhotoFiles, PhotoFiles]:
    """Photos to train on and to test on.

    Args:
        text: the folder's path, absolute or below `HORKD_DATA`.

    Raises:
        HorkdError: if there is no such folder, or it holds no classes of images, or folders whose
            names are those of splits but which are none.
    """
    root = _place(text)
    classes = folder_names(root)
    parts = {}
    for name in classes:
        if split := split_of(name):
            parts[split] = name
    if parts:
        halves = _halves_of_splits(root, classes, parts)
    else:
        if len(classes) == 1 and len(folder_names(root / classes[0])) > 1:
            raise HorkdError(
                f"{root} holds the one folder {classes[0]}, and that holds others: name that one, "
                f"folder:{root / classes[0]}"
            )
        _check_names(root, classes)
        middle = (len(classes) + 1) // 2
        halves = [("", classes[:middle]), ("", classes[middle:])]
    tree = _Tree(root)
    train, test = (tree.photos(names, prefix) for prefix, names in halves)
    tree.count_loose({"", *(prefix for prefix, _ in halves)})
    tree.warn()
    return train, test


def _place(text: str) -> Path:
    """The folder that a name means.

    Raises:
        HorkdError: if there is none.
    """
    path = paths.typed_path(text)
    if not path.is_absolute() and paths.data_dir() is None:
        raise HorkdError(
            f"set HORKD_DATA to the folder that holds {path}, or give its absolute path: commands "
            "and notebooks run in different folders"
        )
    root = path if path.is_absolute() else paths.data_dir() / path
    if not os.path.isdir(root):
        raise HorkdError(
            f"there is no folder {root}: name one with a folder of images for each class, or with "
            "such folders in train/ and test/"
        )
    return root


def _halves_of_splits(
    root: Path, classes: list[str], parts: dict[str, str]
) -> list[tuple[str, list[str]]]:
    """(folder, classes in it) of train/ and test/.

    Args:
        root: the folder.
        classes: names of all folders in it.
        parts: which of them is which split.

    Raises:
        HorkdError: if these are not all, or share classes.
    """
    halves = [
        (f"{parts[half]}/", folder_names(root / parts[half]))
        for half in ("train", "test")
        if half in parts
    ]
    alone = sorted(parts) == ["test", "train"] and len(classes) == 2
    if not alone or not all(names for _, names in halves):
        whole = [root / name for name in parts.values() if len(folder_names(root / name)) > 1]
        one = ""
        if whole:
            one = (
                f" name one split (folder:{whole[0]}), whose classes are then divided into those "
                "to train on and those to test on; or"
            )
        raise HorkdError(
            f"{root} holds {_listed(classes)}, and {_listed(sorted(parts.values()))} is taken for "
            "the name of a split, not of a class: if it is a class, give it another name; "
            f"else{one} keep only train/ and test/, each with folders of other "
            "classes"
        )
    for prefix, names in halves:
        _check_names(root / prefix, names)
    train, test = ({_plain(name): name for name in names} for _, names in halves)
    both = sorted(train[name] for name in train.keys() & test.keys())
    if both:
        raise HorkdError(
            f"{root} has the class {both[0]} in train and in test ({len(both)} such classes): "
            "retrieval is tested on classes that nothing was trained on; "
            f"folder:{root / parts['train']} divides the classes of train"
        )
    return halves


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _plain(name: str) -> str:
    """A name as file systems compare it that know neither case nor forms of accents."""
    return unicodedata.normalize("NFC", name).casefold()


def _check_names(folder: Path, classes: Sequence[str]) -> None:
    """Refuse splits among classes, and classes that are one under two names.

    Raises:
        HorkdError: in one line.
    """
    split = next((name for name in classes if split_of(name)), None)
    if split is not None:
        raise HorkdError(
            f"{folder / split} is taken for a split, not for a class: if it is a class, give it "
            "another name; else name the folder whose folders are classes"
        )
    seen: dict[str, str] = {}
    for name in classes:
        other = seen.setdefault(_plain(name), name)
        if other != name:
            raise HorkdError(
                f"{folder} has the classes {other} and {name}, which differ in capitals alone: "
                "join them, or give one another name"
            )


class _Tree:
    """The photos of a tree with one folder for each class, whatever folders are in that.

    Args:
        root: the tree.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.left_out = root, LeftOut(SUFFIXES)
        self.deeper, self.loose = True, 0
        self._class_of: dict[str, str] = {}

    def photos(self, classes: Sequence[str], prefix: str) -> PhotoFiles:
        """Photos of some classes, which are folders below `prefix`.

        Raises:
            HorkdError: if a folder has no photo, cannot be listed, or is in two classes.
        """
        files, labels = [], []
        for label, name in enumerate(classes):
            found = sorted(self._files(f"{prefix}{name}"))
            if not found:
                raise HorkdError(
                    f"{self.root / prefix / name} has no images ({', '.join(SUFFIXES)}): put some "
                    "there or remove the folder"
                )
            self.deeper = self.deeper and all(place != f"{prefix}{name}" for place, _ in found)
            files += [f"{place}/{file}" for place, file in found]
            labels += [label] * len(found)
        return photos_of(self.root, files, labels, dict(enumerate(classes)))

    def _files(self, name: str) -> Iterator[tuple[str, str]]:
        """(folder below the root, photo) of all folders of a class; of linked ones once."""
        for place, folders, files in os.walk(
            self.root / name, onerror=_cannot_list, followlinks=True
        ):
            real = os.path.realpath(place)
            if real in self._class_of:
                folders.clear()
                if self._class_of[real] != name:
                    raise HorkdError(
                        f"{place} is a part of {self._class_of[real]} and of {name}, by a link: "
                        "remove the link"
                    )
                continue
            self._class_of[real] = name
            folders[:] = sorted(folder for folder in folders if not is_litter(folder))
            below = Path(os.path.relpath(place, self.root)).as_posix()
            yield from ((below, file) for file in files if self.left_out.takes(file))

    def count_loose(self, places: set[str]) -> None:
        """Count photos that lie beside the folders of classes, in these folders."""
        for place in places:
            names = photo_names(self.root / place, LeftOut(SUFFIXES))
            self.loose += len(names)

    def warn(self) -> None:
        """Say what was left out, and if the folders of classes may be meant otherwise."""
        self.left_out.warn(self.root)
        if self.loose:
            warnings.warn(
                f"{self.root}: images beside the folders of classes are left out ({self.loose})",
                stacklevel=1,
            )
        if self.deeper and self._class_of:
            warnings.warn(
                f"{self.root}: no class has images of its own, all lie in folders within it; if "
                "those are the classes, name the folder that holds them",
                stacklevel=1,
            )


def _cannot_list(error: OSError) -> None:
    raise HorkdError(f"cannot list {error.filename}: {error.strerror}") from None
