"""Face data sets in the layouts of their publishers, decoded one photo at a time.

Nothing here downloads. A set is opened by listing its folders and its text files; a photo is read
when it is asked for, so that millions of them need no more memory than their names.

| set | loader | face boxes | layout as in |
|---|---|---|---|
| LFW | `load_lfw` | no | the files themselves |
| XQLFW | `load_xqlfw` | no | the authors' download page, and public code that reads it |
| UMDFaces | `load_training_faces` | yes | public code that reads the CSV files |
| VGGFace2 | `load_training_faces` | yes | public code that quotes the first lines of the CSV file |
| CASIA-WebFace | `load_training_faces` | no | public code that names its files |
| UCCS | `load_uccs` | yes | the organisers' code |
| TinyFace | `load_tinyface` | no | public code that names its files |

Only LFW was tried on its files. The other loaders follow the sources that their docstrings name,
and refuse in one line what does not look as described there.
"""

import csv
import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from horkd.data.listing import (
    LAYOUTS,
    PUBLISHED,
    LeftOut,
    Missing,
    absent,
    as_tensor,
    by_folder,
    home_of,
    photo_names,
)
from horkd.data.photos import BOX_CROP, CENTRE_CROP, FULL_CROP, Crop, PhotoFiles
from horkd.errors import HorkdError

TRAINING = ("umdfaces", "vggface2", "casia")


_BOX_COLUMNS = ("FACE_X", "FACE_Y", "FACE_WIDTH", "FACE_HEIGHT")


@dataclass(frozen=True)
class GallerySet:
    """Photos to find in a gallery.

    Attributes:
        gallery: photos of known identities.
        probes: photos to find; labels and names are those of the gallery.
        distractors: photos of nobody in the probes, label -1, that enlarge the gallery; or None.
    """

    gallery: PhotoFiles
    probes: PhotoFiles
    distractors: PhotoFiles | None


def _rows(name: str, path: Path, columns: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Line number and the values of `columns` of each row of a CSV file, one row at a time.

    Raises:
        HorkdError: if the file is absent, damaged or has not these columns.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, skipinitialspace=True)
            header = [title.strip() for title in next(reader, [])]
            lacking = [column for column in columns if column not in header]
            if lacking:
                raise HorkdError(
                    f"{path} has no column {', '.join(lacking)}: "
                    f"its columns are {', '.join(header) or '(none)'}"
                )
            places = [header.index(column) for column in columns]
            for row in reader:
                if not row:
                    continue
                if len(row) <= max(places):
                    raise HorkdError(
                        f"{path}, line {reader.line_num}: {len(row)} values for "
                        f"{len(header)} columns; put the official file there again"
                    )
                yield reader.line_num, [row[place].strip() for place in places]
    except FileNotFoundError:
        raise absent(name, path) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise HorkdError(f"cannot read {path}: {error}") from None


def _corners(path: Path, line: int, values: list[str]) -> tuple[float, float, float, float]:
    """Corners x0, y0, x1, y1 of a box that is given as x, y, width, height.

    Raises:
        HorkdError: if they are no numbers or the box is empty.
    """
    try:
        x, y, width, height = map(float, values)
    except ValueError:
        x = y = width = height = math.nan
    if not (width > 0 and height > 0 and all(map(math.isfinite, (x, y, width, height)))):
        raise HorkdError(
            f"{path}, line {line}: {', '.join(values)} is no face box (x, y, width, height): "
            "correct or remove that line"
        )
    return x, y, x + width, y + height


def load_training_faces(
    name: str,
    root: str | Path | None = None,
    crop: Crop | None = None,
    size: int = 112,
    margin: int = 0,
) -> PhotoFiles:
    """A set to train on.

    "umdfaces": column names as in public code that reads `umdfaces_batch*_ultraface.csv` (FILE,
    FACE_X, FACE_Y, FACE_WIDTH, FACE_HEIGHT), not checked against the files. The identity is the
    folder in FILE, because it is not known whether SUBJECT_ID counts on from batch to batch. The
    batches that are there are read.

    "vggface2": the training part; the boxes' file has the columns NAME_ID, X, Y, W, H and rows such
    as `"n000001/0001_01",60,60,79,109` as quoted in public code, not checked against the files.

    "casia": folders and files named as in public code, not checked against the files.

    Args:
        name: one of `TRAINING`.
        root: folder that holds a folder of that name; None takes `HORKD_DATA`.
        crop: which part of a photo is the face; None takes `BOX_CROP` where boxes are there,
            else the LFW-like `CENTRE_CROP` for casia and `FULL_CROP` for vggface2.
        size: side of the face after cropping, in pixels.
        margin: pixels of real surroundings on each side of it.

    Raises:
        HorkdError: if the name is unknown, or files are missing or damaged.
    """
    if name not in TRAINING:
        raise HorkdError(f"unknown training set {name!r}: choose from {', '.join(TRAINING)}")
    home = home_of(name, root)
    if name == "umdfaces":
        return _umdfaces(home, crop or BOX_CROP, size, margin)
    if name == "vggface2":
        return _vggface2(home, crop, size, margin)
    files, labels, names = by_folder(name, home, r"\d{7}$")
    return PhotoFiles(home, files, labels, tuple(names), None, crop or CENTRE_CROP, size, margin)


def _umdfaces(home: Path, crop: Crop, size: int, margin: int) -> PhotoFiles:
    batches = [b for b in (f"umdfaces_batch{i}" for i in (1, 2, 3)) if (home / b).is_dir()]
    if not batches:
        raise absent("umdfaces", home / "umdfaces_batch1")
    files, boxes, labels, label = [], array("d"), array("q"), {}
    for batch in batches:
        path, there, missing = home / batch / f"{batch}_ultraface.csv", {}, Missing()
        for line, (file, *box) in _rows("umdfaces", path, ("FILE", *_BOX_COLUMNS)):
            person, _, photo = file.rpartition("/")
            if not person:
                raise HorkdError(f"{path}, line {line}: expected folder/photo.jpg, got {file!r}")
            if person not in there:
                there[person] = set(photo_names(home / batch / person))
            if photo not in there[person]:
                missing.add(file)
            files.append(f"{batch}/{file}")
            boxes.extend(_corners(path, line, box))
            labels.append(label.setdefault(person, len(label)))
        missing.check(path, home / batch)
    if not files:
        raise HorkdError(f"the CSV files in {home} name no photos: put the official ones there")
    names = sorted(label)
    rank = torch.empty(len(names), dtype=torch.int64)
    rank[[label[name] for name in names]] = torch.arange(len(names))
    corners = as_tensor(boxes, torch.float64).float().reshape(-1, 4)
    labels = rank[as_tensor(labels, torch.int64)]
    return PhotoFiles(home, tuple(files), labels, tuple(names), corners, crop, size, margin)


def _vggface2(home: Path, crop: Crop | None, size: int, margin: int) -> PhotoFiles:
    root, path = home / "train", home / "bb_landmark" / "loose_bb_train.csv"
    if crop is None:
        crop = BOX_CROP if path.is_file() else FULL_CROP
    files, labels, names = by_folder("vggface2", root, r"n\d{6}$")
    boxes = None
    if crop.kind == "box":
        ends = torch.bincount(labels).cumsum(0).tolist()
        span = dict(zip(names, zip([0, *ends], ends, strict=False), strict=True))
        boxes, missing = torch.full((len(files), 4), math.nan), Missing()
        view = boxes.numpy()
        for line, (key, *box) in _rows("vggface2", path, ("NAME_ID", "X", "Y", "W", "H")):
            file = f"{key}.jpg"
            low, high = span.get(key.partition("/")[0], (0, 0))
            place = bisect_left(files, file, low, high)  # a folder's photos are sorted
            if place < high and files[place] == file:
                view[place] = _corners(path, line, box)
            else:
                missing.add(file)
        missing.check(path, root)
        without = boxes[:, 0].isnan().nonzero()[:, 0]
        if len(without):
            raise HorkdError(
                f"{path} has no box for {len(without)} photos, first {files[without[0]]}: put the "
                "official file there again"
            )
    return PhotoFiles(root, files, labels, tuple(names), boxes, crop, size, margin)


def load_uccs(
    root: str | Path | None = None,
    split: str = "validation",
    crop: Crop = BOX_CROP,
    size: int = 112,
    margin: int = 0,
) -> PhotoFiles:
    """UnConstrained College Students: faces in surveillance photos, one entry for each face.

    Unknown subjects (SUBJECT_ID -1) have label -1. Two layouts are read, as in the code that the
    organisers published with their challenges, not checked against the files: the third
    challenge's `<split>.csv` with `<split>_images/`, or the second one's `protocol/<split>.csv`
    with `<split>/`. Columns as in the third challenge's code: FILE, SUBJECT_ID, FACE_X, FACE_Y,
    FACE_WIDTH, FACE_HEIGHT; the second one's code reads the same values by position, so that its
    titles are a guess. "training" is part of the second challenge only.

    Args:
        root: folder that holds `uccs/`; None takes `HORKD_DATA`.
        split: "validation" or "training". The test splits have no labels.
        crop: which part of a photo is the face.
        size: side of the face after cropping, in pixels.
        margin: pixels of real surroundings on each side of it.

    Raises:
        HorkdError: if files are missing or damaged.
    """
    if split not in ("validation", "training"):
        raise HorkdError(f"unknown split {split!r} of UCCS: choose validation or training")
    home = home_of("uccs", root)
    path, folder = home / f"{split}.csv", home / f"{split}_images"
    if not path.is_file() and (home / "protocol").is_dir():
        path, folder = home / "protocol" / f"{split}.csv", home / split
    there, missing = set(photo_names(folder)), Missing()
    files, boxes, subjects = [], array("d"), array("q")
    for line, (file, subject, *box) in _rows("uccs", path, ("FILE", "SUBJECT_ID", *_BOX_COLUMNS)):
        try:
            subjects.append(max(int(subject), -1))
        except ValueError:
            raise HorkdError(f"{path}, line {line}: SUBJECT_ID {subject!r} is no number") from None
        if file not in there:
            missing.add(file)
        files.append(file)
        boxes.extend(_corners(path, line, box))
    if not files:
        raise HorkdError(f"{path} names no faces: put the official file there again")
    missing.check(path, folder)
    subjects = as_tensor(subjects, torch.int64)
    known = subjects[subjects >= 0].unique()
    labels = torch.where(subjects < 0, -1, torch.searchsorted(known, subjects))
    corners = as_tensor(boxes, torch.float64).float().reshape(-1, 4)
    names = tuple(map(str, known.tolist()))
    return PhotoFiles(folder, tuple(files), labels, names, corners, crop, size, margin)


def load_tinyface(
    root: str | Path | None = None, crop: Crop = FULL_CROP, size: int = 112, margin: int = 0
) -> GallerySet:
    """TinyFace's test set: small faces from the web, to be found in a gallery.

    The identity is the number before the first "_" of a file's name in Gallery_Match and Probe, as
    public code describes the names. Most public code takes it from `gallery_match_img_ID_pairs.mat`
    and `probe_img_ID_pairs.mat` beside these folders instead, which needs SciPy and is not done
    here. That both agree was not checked against the files. By that code the official test has
    4,443 gallery photos, 3,728 probes and 153,428 distractors.

    Args:
        root: folder that holds `tinyface/`; None takes `HORKD_DATA`.
        crop: which part of a photo is the face; the photos are cropped already.
        size: side of the face after cropping, in pixels.
        margin: pixels of real surroundings on each side of it.

    Raises:
        HorkdError: if files are missing or their names do not begin with a number.
    """
    home = home_of("tinyface", root) / "Testing_Set"
    found, ids, left_out = {}, {}, LeftOut(PUBLISHED)
    for part in ("Gallery_Match", "Probe"):
        found[part] = photo_names(home / part, left_out)
        if not found[part]:
            raise HorkdError(
                f"{home / part} has no photos: it must look like {LAYOUTS['tinyface']}"
            )
        ids[part] = []
        for file in found[part]:
            number = file.partition("_")[0]
            if not number.isdecimal():
                raise HorkdError(f"{home / part / file}: the name must begin with a number and _")
            ids[part].append(int(number))
    known = sorted({i for part in ids.values() for i in part})
    label, names = {i: k for k, i in enumerate(known)}, tuple(map(str, known))

    def faces(part: str, files: list[str], labels: list[int]) -> PhotoFiles:
        labels = torch.tensor(labels, dtype=torch.int64)
        return PhotoFiles(home / part, tuple(files), labels, names, None, crop, size, margin)

    gallery, probes = (faces(p, found[p], [label[i] for i in ids[p]]) for p in found)
    others = photo_names(home / "Gallery_Distractor", left_out)
    left_out.warn(home)
    distractors = faces("Gallery_Distractor", others, [-1] * len(others)) if others else None
    return GallerySet(gallery, probes, distractors)
