"""LFW and sets like it: photos, and pairs of them in folds."""

from array import array
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from horkd.data.listing import Missing, as_tensor, by_folder, home_of, lines_of, read_counts
from horkd.data.photos import CENTRE_CROP, Crop, PhotoFiles
from horkd.errors import HorkdError
from horkd.protocols.verification import Pairs

_LFW_FOLDERS = ("lfw-deepfunneled", "lfw_funneled", "lfw")
_XQLFW_FOLDER = "lfw_original_imgs_min_qual0.85variant11"


@dataclass(frozen=True)
class FacePairs:
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


def _read_pairs(name: str, path: Path, faces: PhotoFiles) -> Pairs:
    """The pairs of a file in LFW's format.

    The first line holds the number of folds F and of pairs n. For each fold follow n lines "name,
    number, number" of equal and n lines "name, number, name, number" of different people.

    Raises:
        HorkdError: if the file is not so, or names photos that are not there.
    """
    where = {file: i for i, file in enumerate(faces.files)}
    missing, sides, same, fold = Missing(), (array("q"), array("q")), [], array("q")
    lines = lines_of(name, path)
    line, words = next(lines, (1, []))
    if len(words) == 1:  # View 1 of LFW has one fold per file and names pairs alone
        words = ["1", *words]
    folds, each = read_counts(path, line, words, 2, "the number of folds and of pairs")
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
        numbers = read_counts(path, line, numbers, 2, "numbers of photos")
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
    left, right = (as_tensor(side, torch.int64) for side in sides)
    return Pairs(left, right, torch.tensor(same), as_tensor(fold, torch.int64))


def _read_people(path: Path, faces: PhotoFiles) -> Tensor:
    """The fold of each photo, int64 (N,), from a file in the format of LFW's people.txt.

    The first line holds the number of folds. For each fold follow a line with its number of people
    and as many lines "name, number of photos".

    Raises:
        HorkdError: if the file is not so, if it and the photos disagree, or if folds share people.
    """
    label = {name: i for i, name in enumerate(faces.names)}
    has = torch.bincount(faces.labels, minlength=len(label)).tolist()
    files, missing, wrong = set(faces.files), Missing(), []
    fold_of = dict.fromkeys(label, -1)
    lines = lines_of("lfw", path)
    line, words = next(lines, (1, []))
    (folds,) = read_counts(path, line, words, 1, "the number of folds")
    for k in range(folds):
        line, words = next(lines, (line + 1, []))
        (people,) = read_counts(path, line, words, 1, f"the number of people of fold {k}")
        for _ in range(people):
            line, words = next(lines, (line + 1, []))
            (count,) = read_counts(path, line, words[1:], 1, "name and number of photos")
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
    root: str | Path | None = None, crop: Crop = CENTRE_CROP, size: int = 112, margin: int = 0
) -> FacePairs:
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
    home = home_of("lfw", root)
    folder = next((f for f in _LFW_FOLDERS if (home / f).is_dir()), _LFW_FOLDERS[0])
    files, labels, names = by_folder("lfw", home / folder, ".")
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
    return FacePairs(faces, pairs, folds)


def load_lfw_development(
    root: str | Path | None = None, crop: Crop = CENTRE_CROP, size: int = 112, margin: int = 0
) -> FacePairs:
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
    home, faces = home_of("lfw", root), whole.faces
    label = {name: i for i, name in enumerate(faces.names)}
    fold_of = torch.full((len(faces.names),), -1)
    parts = []
    for fold, part in enumerate(("DevTrain", "DevTest")):
        path = home / f"people{part}.txt"
        lines = list(lines_of("lfw", path))[1:]
        unknown = [words[0] for _, words in lines if words[0] not in label]
        if unknown:
            raise HorkdError(f"{path.name} names {unknown[0]}, of whom there is no photo in {home}")
        fold_of[[label[words[0]] for _, words in lines]] = fold
        pairs = _read_pairs("lfw", home / f"pairs{part}.txt", faces)
        parts.append((pairs.left, pairs.right, pairs.same, torch.full_like(pairs.fold, fold)))
    return FacePairs(faces, Pairs(*map(torch.cat, zip(*parts, strict=True))), fold_of[faces.labels])


def load_xqlfw(
    root: str | Path | None = None, crop: Crop = CENTRE_CROP, size: int = 112, margin: int = 0
) -> FacePairs:
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
    home = home_of("xqlfw", root)
    files, labels, names = by_folder("xqlfw", home / _XQLFW_FOLDER, ".")
    faces = PhotoFiles(home / _XQLFW_FOLDER, files, labels, tuple(names), None, crop, size, margin)
    return FacePairs(faces, _read_pairs("xqlfw", home / "xqlfw_pairs.txt", faces), None)
