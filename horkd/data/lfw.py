"""LFW and sets like it: pairs of photos in folds, and pairs for sets without official ones."""

import hashlib
import os
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from horkd import paths
from horkd.data.photos import CENTRE_CROP, Crop, PhotoFiles
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


_SUFFIXES = (".jpg", ".jpeg", ".png")


_LFW_FOLDERS = ("lfw-deepfunneled", "lfw_funneled", "lfw")


_XQLFW_FOLDER = "lfw_original_imgs_min_qual0.85variant11"


@dataclass(frozen=True)
class Pairs:
    """P pairs of images: do both show the same class?

    Attributes:
        left, right: int64 (P,), indices into the images.
        same: bool (P,).
        fold: int64 (P,), 0 .. folds - 1.
    """

    left: Tensor
    right: Tensor
    same: Tensor
    fold: Tensor

    def __post_init__(self) -> None:
        for name, dtype in (
            ("left", torch.int64),
            ("right", torch.int64),
            ("same", torch.bool),
            ("fold", torch.int64),
        ):
            values = getattr(self, name)
            if values.shape != (len(self.left),) or values.dtype != dtype:
                raise HorkdError(
                    f"{name} of pairs must be {dtype} ({len(self.left)},), "
                    f"got {values.dtype} {tuple(values.shape)}"
                )

    def __len__(self) -> int:
        return len(self.left)

    def of_fold(self, k: int) -> "Pairs":
        """The pairs of fold k.

        Raises:
            HorkdError: if there are none.
        """
        chosen = self.fold == k
        if not chosen.any():
            known = ", ".join(map(str, self.fold.unique().tolist()))
            raise HorkdError(f"no pairs in fold {k}: there are folds {known or '(none)'}")
        return Pairs(self.left[chosen], self.right[chosen], self.same[chosen], self.fold[chosen])


@dataclass(frozen=True)
class Verification:
    """Photos and the pairs to tell apart.

    Attributes:
        faces: the photos.
        pairs: indices into `faces`.
        folds: int64 (N,), the fold of each photo's identity, so that one can train on the other
            folds; None if the set does not say.
    """

    faces: PhotoFiles
    pairs: Pairs
    folds: Tensor | None


def _home(name: str, root: Path | None) -> Path:
    """The folder of one data set.

    Raises:
        HorkdError: if it is absent, or nobody said where the data sets are.
    """
    base = paths.data_dir() if root is None else Path(root)
    if base is None:
        raise HorkdError(f"set HORKD_DATA to the folder that holds {LAYOUTS[name]}")
    if not (base / name).is_dir():
        raise _absent(name, base / name)
    return base / name


def _absent(name: str, path: Path) -> HorkdError:
    return HorkdError(f"{path} is not there: the data folder must hold {LAYOUTS[name]}")


def _folders(root: Path, pattern: str = ".") -> list[str]:
    """Sorted names of the folders in `root` that match the whole pattern; hidden ones left out."""
    try:
        with os.scandir(root) as entries:
            return sorted(
                e.name
                for e in entries
                if e.name[0] != "." and re.match(pattern, e.name) and e.is_dir()
            )
    except OSError as error:
        raise HorkdError(f"cannot list {root}: {error.strerror}") from None


def _photos(folder: Path) -> list[str]:
    """Sorted names of the photos in a folder, hidden ones left out; none if there is no folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                e.name
                for e in entries
                if e.name[0] != "." and os.path.splitext(e.name)[1].lower() in _SUFFIXES
            )
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HorkdError(f"cannot list {folder}: {error.strerror}") from None


def _by_folder(name: str, root: Path, pattern: str) -> tuple[tuple[str, ...], Tensor, list[str]]:
    """Photos of a tree with one folder for each identity: files, labels, names.

    Raises:
        HorkdError: if no folder matches the pattern or one has no photos.
    """
    if not root.is_dir():
        raise _absent(name, root)
    names, files, labels = _folders(root, pattern), [], array("q")
    if not names:
        raise HorkdError(f"{root} has no folders of photos: it must look like {LAYOUTS[name]}")
    for label, person in enumerate(names):
        photos = _photos(root / person)
        if not photos:
            raise HorkdError(f"{root / person} has no photos: unpack the archive again")
        files.extend(f"{person}/{photo}" for photo in photos)
        labels.extend([label] * len(photos))
    return tuple(files), _tensor(labels, torch.int64), names


def _tensor(values: array, dtype: torch.dtype) -> Tensor:
    return torch.frombuffer(values, dtype=dtype).clone() if values else torch.empty(0, dtype=dtype)


class _Missing:
    """Counts files that a list names and that are not there, and remembers the first."""

    def __init__(self) -> None:
        self.first, self.count = "", 0

    def add(self, file: str) -> None:
        self.first, self.count = self.first or file, self.count + 1

    def check(self, where: Path, root: Path) -> None:
        """Refuse a set with missing files.

        Raises:
            HorkdError: if there are any.
        """
        if self.count:
            raise HorkdError(
                f"{where.name} names {self.count} photos that are not in {root}, first "
                f"{self.first}: unpack the archive again"
            )


def _lines(name: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and words of each line of a text file that is not empty.

    Raises:
        HorkdError: if the file is absent or no text.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if words := line.split():
                    yield number, words
    except FileNotFoundError:
        raise _absent(name, path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise HorkdError(f"cannot read {path}: {error}") from None


def _counts(path: Path, line: int, words: list[str], how_many: int, what: str) -> list[int]:
    """`how_many` positive whole numbers from one line.

    Raises:
        HorkdError: if the line holds anything else.
    """
    if len(words) != how_many or not all(w.isdecimal() and int(w) > 0 for w in words):
        raise HorkdError(f"{path}, line {line}: expected {what}, got {' '.join(words)!r}")
    return [int(word) for word in words]


def _read_pairs(name: str, path: Path, faces: PhotoFiles) -> Pairs:
    """The pairs of a file in LFW's format.

    The first line holds the number of folds F and of pairs n. For each fold follow n lines "name,
    number, number" of equal and n lines "name, number, name, number" of different people.

    Raises:
        HorkdError: if the file is not so, or names photos that are not there.
    """
    where = {file: i for i, file in enumerate(faces.files)}
    missing, sides, same, fold = _Missing(), (array("q"), array("q")), [], array("q")
    lines = _lines(name, path)
    line, words = next(lines, (1, []))
    if len(words) == 1:  # View 1 of LFW has one fold per file and names pairs alone
        words = ["1", *words]
    folds, each = _counts(path, line, words, 2, "the number of folds and of pairs")
    for line, words in lines:
        k, rest = divmod(len(same), 2 * each)
        equal = rest < each
        if k == folds:
            raise HorkdError(f"{path}, line {line}: more than {folds} folds of {2 * each} pairs")
        if equal and len(words) == 3:
            people, numbers = (words[0], words[0]), words[1:]
        elif not equal and len(words) == 4:
            people, numbers = (words[0], words[2]), words[1::2]
        else:
            wanted = "name, number, number" if equal else "name, number, name, number"
            raise HorkdError(f"{path}, line {line}: expected {wanted}, got {' '.join(words)!r}")
        numbers = _counts(path, line, numbers, 2, "numbers of photos")
        if (people[0] == people[1]) != equal or (equal and numbers[0] == numbers[1]):
            raise HorkdError(f"{path}, line {line}: not a pair of two photos: {' '.join(words)!r}")
        for side, person, number in zip(sides, people, numbers, strict=True):
            file = f"{person}/{person}_{number:04d}.jpg"
            side.append(where.get(file, -1))
            if file not in where:
                missing.add(file)
        same.append(equal)
        fold.append(k)
    if len(same) != 2 * each * folds:
        raise HorkdError(
            f"{path} has {len(same)} pairs, its first line promises {2 * each * folds}: "
            "put the official file there again"
        )
    missing.check(path, faces.root)
    left, right = (_tensor(side, torch.int64) for side in sides)
    return Pairs(left, right, torch.tensor(same), _tensor(fold, torch.int64))


def _read_people(path: Path, faces: PhotoFiles) -> Tensor:
    """The fold of each photo, int64 (N,), from a file in the format of LFW's people.txt.

    The first line holds the number of folds. For each fold follow a line with its number of people
    and as many lines "name, number of photos".

    Raises:
        HorkdError: if the file is not so, if it and the photos disagree, or if folds share people.
    """
    label = {name: i for i, name in enumerate(faces.names)}
    has = torch.bincount(faces.labels, minlength=len(label)).tolist()
    files, missing, wrong = set(faces.files), _Missing(), []
    fold_of = dict.fromkeys(label, -1)
    lines = _lines("lfw", path)
    line, words = next(lines, (1, []))
    (folds,) = _counts(path, line, words, 1, "the number of folds")
    for k in range(folds):
        line, words = next(lines, (line + 1, []))
        (people,) = _counts(path, line, words, 1, f"the number of people of fold {k}")
        for _ in range(people):
            line, words = next(lines, (line + 1, []))
            (count,) = _counts(path, line, words[1:], 1, "name and number of photos")
            name = words[0]
            if fold_of.get(name, -1) >= 0:
                raise HorkdError(f"{path}, line {line}: {name} is named twice: folds must differ")
            fold_of[name] = k
            for number in range(1, count + 1):
                file = f"{name}/{name}_{number:04d}.jpg"
                if file not in files:
                    missing.add(file)
            if name in label and has[label[name]] > count:
                wrong.append(f"{name} has {has[label[name]]}, not {count}")
    if (extra := next(lines, None)) is not None:
        raise HorkdError(f"{path}, line {extra[0]}: more than {folds} folds")
    missing.check(path, faces.root)
    wrong += [f"{name} is not named" for name, k in fold_of.items() if k < 0]
    if wrong:
        raise HorkdError(
            f"{path.name} and the photos in {faces.root} disagree on {len(wrong)} people: "
            f"{wrong[0]}; unpack the archive again"
        )
    return torch.tensor([fold_of[name] for name in faces.names])[faces.labels]


def load_lfw(
    root: Path | None = None, crop: Crop = CENTRE_CROP, size: int = 112, margin: int = 0
) -> Verification:
    """Labeled Faces in the Wild: 13,233 photos, 5,749 people, 6,000 pairs in 10 folds.

    The photos are the deep-funneled ones, `lfw-deepfunneled`, for which the default crop is meant.
    If that folder is absent, `lfw_funneled` or else `lfw` (the original photos) is read instead;
    `faces.root` tells which. People of different folds differ, in people.txt and in the pairs.
    Checked against the official files.

    Args:
        root: folder that holds `lfw/`; None takes `HORKD_DATA`.
        crop: which part of a photo is the face.
        size: side of the face after cropping, in pixels.
        margin: pixels of real surroundings on each side of it.

    Raises:
        HorkdError: if files are missing, or photos and lists disagree.
    """
    home = _home("lfw", root)
    folder = next((f for f in _LFW_FOLDERS if (home / f).is_dir()), _LFW_FOLDERS[0])
    files, labels, names = _by_folder("lfw", home / folder, ".")
    faces = PhotoFiles(home / folder, files, labels, tuple(names), None, crop, size, margin)
    folds = _read_people(home / "people.txt", faces)
    pairs = _read_pairs("lfw", home / "pairs.txt", faces)
    apart = (folds[pairs.left] != pairs.fold) | (folds[pairs.right] != pairs.fold)
    if apart.any():
        i = int(apart.nonzero()[0])
        raise HorkdError(
            f"pairs.txt and people.txt in {home} disagree: {int(apart.sum())} pairs show people of "
            f"another fold, first {files[pairs.left[i]]} and {files[pairs.right[i]]}; "
            "put the official files there again"
        )
    return Verification(faces, pairs, folds)


def load_lfw_view1(
    root: Path | None = None, crop: Crop = CENTRE_CROP, size: int = 112, margin: int = 0
) -> Verification:
    """LFW's View 1, for the choice of settings: fold 0 to train on, fold 1 to test on.

    Fold 0 has 2,200 pairs of pairsDevTrain.txt and the people of peopleDevTrain.txt, fold 1 the
    1,000 pairs of pairsDevTest.txt and the people of peopleDevTest.txt. The photos are those of
    `load_lfw`, in its order, and so are people and pairs in part: what is chosen here is reported
    on View 2, the ten folds. Checked against the official files.

    Args:
        root: folder that holds `lfw/`; None takes `HORKD_DATA`.
        crop: which part of a photo is the face.
        size: side of the face after cropping, in pixels.
        margin: pixels of real surroundings on each side of it.

    Raises:
        HorkdError: as `load_lfw`.
    """
    whole = load_lfw(root, crop, size, margin)
    home, faces = _home("lfw", root), whole.faces
    label = {name: i for i, name in enumerate(faces.names)}
    fold_of = torch.full((len(faces.names),), -1)
    parts = []
    for fold, part in enumerate(("DevTrain", "DevTest")):
        path = home / f"people{part}.txt"
        lines = list(_lines("lfw", path))[1:]
        unknown = [words[0] for _, words in lines if words[0] not in label]
        if unknown:
            raise HorkdError(f"{path.name} names {unknown[0]}, of whom there is no photo in {home}")
        fold_of[[label[words[0]] for _, words in lines]] = fold
        pairs = _read_pairs("lfw", home / f"pairs{part}.txt", faces)
        parts.append((pairs.left, pairs.right, pairs.same, torch.full_like(pairs.fold, fold)))
    return Verification(
        faces, Pairs(*map(torch.cat, zip(*parts, strict=True))), fold_of[faces.labels]
    )


def load_xqlfw(
    root: Path | None = None, crop: Crop = CENTRE_CROP, size: int = 112, margin: int = 0
) -> Verification:
    """Cross-Quality LFW: LFW's people, pairs of one good and one poor photo, 10 folds.

    The name of the pairs' file is that of the authors' download page, the folder's name is the one
    inside `xqlfw.zip` according to public code that reads it. That the pairs are in LFW's format
    was seen in such code, not in the file.

    Args:
        root: folder that holds `xqlfw/`; None takes `HORKD_DATA`.
        crop: which part of a photo is the face.
        size: side of the face after cropping, in pixels.
        margin: pixels of real surroundings on each side of it.

    Raises:
        HorkdError: if files are missing or the pairs name photos that are not there.
    """
    home = _home("xqlfw", root)
    files, labels, names = _by_folder("xqlfw", home / _XQLFW_FOLDER, ".")
    faces = PhotoFiles(home / _XQLFW_FOLDER, files, labels, tuple(names), None, crop, size, margin)
    return Verification(faces, _read_pairs("xqlfw", home / "xqlfw_pairs.txt", faces), None)


def _number(*words: object) -> int:
    """A number below 2⁶⁴ that depends on the words alone, not on any library's generator."""
    text = "/".join(map(str, ("horkd pairs", *words)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _draw(total: int, count: int, *words: object) -> list[int]:
    """`count` different numbers below `total`, all equally likely."""
    if 2 * count > total:
        return sorted(range(total), key=lambda i: _number(*words, i))[:count]
    drawn, trial = {}, 0
    while len(drawn) < count:
        drawn[_number(*words, trial) % total] = None
        trial += 1
    return list(drawn)


def sample_pairs(labels: Tensor, folds: int = 10, per_fold: int = 600, seed: int = 0) -> Pairs:
    """Pairs for a set that has no official ones, in the manner of LFW.

    In each fold one half of the pairs shows the same class, the other different ones, drawn without
    repetition and equally likely among all such pairs of images of the fold; the classes of
    different folds differ. All choices are SHA-256 of the seed and a counter, so that they are the
    same with every version of Python, NumPy and torch.

    Args:
        labels: int64 (N,); images of label -1 are left out.
        folds: number of folds.
        per_fold: pairs in each, an even number.
        seed: another seed gives other pairs.

    Raises:
        HorkdError: if there are too few classes or images.
    """
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise HorkdError(f"labels must be int64 (N,), got {labels.dtype} {tuple(labels.shape)}")
    if folds < 1 or per_fold < 2 or per_fold % 2:
        raise HorkdError(
            "folds must be at least 1 and per_fold an even number from 2 on, "
            f"got {folds} and {per_fold}"
        )
    members: dict[int, list[int]] = {}
    for i, label in enumerate(labels.tolist()):
        if label >= 0:
            members.setdefault(label, []).append(i)
    if len(members) < 2 * folds:
        raise HorkdError(
            f"{folds} folds need at least {2 * folds} classes, there are {len(members)}: "
            "lower folds"
        )
    classes = sorted(members, key=lambda c: (_number(seed, "class", c), c))
    left, right, same, fold = [], [], [], []
    for k in range(folds):
        images, ends = [], []  # ends: where the class of an image ends
        for c in classes[k::folds]:
            images += members[c]
            ends += [len(images)] * len(members[c])
        for equal in (True, False):
            # the partners of image p are those in start .. stop, all behind it
            spans = [(p + 1, e) if equal else (e, len(images)) for p, e in enumerate(ends)]
            upto = list(accumulate(stop - start for start, stop in spans))
            if upto[-1] < per_fold // 2:
                kind = "the same class" if equal else "different classes"
                raise HorkdError(
                    f"fold {k} has {upto[-1]} pairs of {kind}, {per_fold // 2} are wanted: "
                    "lower per_fold or folds, or take more images"
                )
            for rank in _draw(upto[-1], per_fold // 2, seed, k, equal):
                p = bisect_right(upto, rank)
                left.append(images[p])
                right.append(images[spans[p][1] - (upto[p] - rank)])
                same.append(equal)
                fold.append(k)
    return Pairs(torch.tensor(left), torch.tensor(right), torch.tensor(same), torch.tensor(fold))
