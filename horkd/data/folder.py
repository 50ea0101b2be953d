"""A folder of images, one folder for each class, as a set for metric learning."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from horkd import paths
from horkd.checks import typed_path
from horkd.data.photos import PhotoFiles
from horkd.errors import HorkdError


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
        HorkdError: if there is no such folder, or it holds no classes of images.
    """
    path = typed_path(text)
    if not path.is_absolute() and paths.data_dir() is None:
        raise HorkdError(
            f"set HORKD_DATA to the folder that holds {path}, or give its absolute path: commands "
            "and notebooks run in different folders"
        )
    root = path if path.is_absolute() else paths.data_dir() / path
    if not root.is_dir():
        raise HorkdError(
            f"there is no folder {root}: name one with a folder of images for each class, or with "
            "such folders in train/ and test/"
        )
    classes = _classes(root)
    train, test = (
        _classes(root / half) if classes == ["test", "train"] else [] for half in ("train", "test")
    )
    if train and test:
        both = sorted(set(train) & set(test))
        if both:
            raise HorkdError(
                f"{root} has the class {both[0]} in train and in test ({len(both)} such classes): "
                "retrieval is tested on classes that nothing was trained on"
            )
        return _tree(root, train, "train/"), _tree(root, test, "test/")
    middle = (len(classes) + 1) // 2
    return _tree(root, classes[:middle]), _tree(root, classes[middle:])


def _classes(folder: Path) -> list[str]:
    """Sorted names of the folders in a folder; hidden ones left out."""
    from torchvision.datasets.folder import find_classes  # slow to import

    try:
        return [name for name in find_classes(folder)[0] if name[0] != "."]
    except FileNotFoundError:  # that is: it has none
        return []
    except OSError as error:
        raise HorkdError(f"cannot list {folder}: {error.strerror}") from None


def _tree(root: Path, classes: Sequence[str], prefix: str = "") -> PhotoFiles:
    """Photos of a tree with one folder for each class, whatever folders are in that.

    Raises:
        HorkdError: if a folder has no photo.
    """
    from torchvision.datasets.folder import (
        IMG_EXTENSIONS,
        has_file_allowed_extension,
        make_dataset,
    )

    start = len(os.path.join(root, ""))

    def is_photo(path: str) -> bool:  # the copies that Jupyter and macOS hide are none
        hidden = "/." in Path(path[start:]).as_posix()
        return not hidden and has_file_allowed_extension(path, IMG_EXTENSIONS)

    number = {f"{prefix}{name}": i for i, name in enumerate(classes)}
    found = []
    if number:
        found = make_dataset(root, number, is_valid_file=is_photo, allow_empty=True)
    there = {label for _, label in found}
    for name, label in number.items():
        if label not in there:
            raise HorkdError(
                f"{root / name} has no images ({', '.join(IMG_EXTENSIONS)}): put some there or "
                "remove the folder"
            )
    files = [Path(path[start:]).as_posix() for path, _ in found]
    return photos_of(root, files, [label for _, label in found], dict(enumerate(classes)))
