"""Faces as data sets: trained on some people, tested on pairs of photos of others.

| name | trained on | tested on |
|---|---|---|
| `lfw-1` … `lfw-10` | nine folds of LFW, without the tested people | the other fold's 600 pairs |
| `lfw-dev` | LFW's View 1, for choosing settings: its training people | its 1,000 test pairs |
| `lfw` | nothing | all 6,000 pairs: for networks trained elsewhere |
| `umdfaces`, `vggface2`, `casia` | their photos, decoded one by one | all 6,000 pairs of LFW |
| `xqlfw` | nothing | its 6,000 pairs, one photo of each poor |
| `uccs` | nothing | identification: 180 subjects, four fifths of their photos as gallery |
| `tinyface` | nothing | identification: its gallery, distractors and probes |

`NAME@SIZE` gives faces of another size than 112 pixels: `umdfaces@224`. People of UMDFaces whose
names are in LFW, too, are left out of training; VGGFace2 and CASIA-WebFace have no names.
"""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from horkd import paths
from horkd.data.face_sets import GallerySet, load_tinyface, load_training_faces, load_uccs
from horkd.data.images import Dataset, ImageSet
from horkd.data.lfw import FacePairs, load_lfw, load_lfw_development, load_xqlfw
from horkd.data.photos import PhotoFiles
from horkd.data.source import Source
from horkd.data.unseen import FOLDS, search, split, within
from horkd.errors import HorkdError
from horkd.protocols import Protocol
from horkd.protocols.identification import Identification, Search
from horkd.protocols.verification import Pairs, PairSet, Verification

#: Statistics that face networks of torchvision's kind are fed by; a network that expects others
#: says so in its specification.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIZE = 112
#: How far random crops move, as a share of the side: 4 pixels of 112.
MARGIN = 4 / 112
LARGE = ("umdfaces", "vggface2", "casia")
#: Sets that nothing is trained on.
TESTS = ("lfw", "xqlfw", "uccs", "tinyface")
FACES = ("lfw", "lfw-dev", *(f"lfw-{k}" for k in range(1, FOLDS + 1)), *LARGE, *TESTS[1:])
#: Subjects of UCCS that identification is about, as in the paper.
SUBJECTS = 180
#: Faces of unknown subjects of UCCS that serve as open set.
STRANGERS = 1000
#: Photos that each is trained on, known without reading it; the folds of LFW differ a little.
PHOTOS = {
    "lfw-dev": 9525,
    **dict.fromkeys(TESTS, 0),
    "umdfaces": 367_888,
    "vggface2": 3_141_890,
    "casia": 494_414,
}


def parse(name: str) -> tuple[str, int]:
    """(data set, side of its faces in pixels) of `NAME` or `NAME@SIZE`.

    Raises:
        HorkdError: if the size is not a number of pixels.
    """
    base, at, size = name.partition("@")
    if not at:
        return base, SIZE
    digits = size.isascii() and size.isdecimal() and len(size) <= 4
    if not digits or not 8 <= int(size) <= 1024:
        raise HorkdError(f"cannot read the data set {name!r}: write NAME@SIZE, SIZE in pixels")
    return base, int(size)


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
    if base in TESTS[1:]:
        return _test_only(name, base, Path(root) if root else None, size)
    whole, pairs, people = _lfw(root, size, base == "lfw-dev")
    folds = found = None
    train: ImageSet | PhotoFiles = whole.select(torch.zeros(0, dtype=torch.int64))
    if base in LARGE:
        train = load_training_faces(base, size=size, margin=round(MARGIN * size))
        train = _without(train, whole.classes)
    elif base != "lfw":
        tested = 1 if base == "lfw-dev" else int(base.removeprefix("lfw-")) - 1
        folds = (tested,)
        train = _relabelled(whole.select((people >= 0) & (people != tested)))
        found = partial(_fold_search, whole, train)
    asked = PairSet(whole, pairs, folds, whole_of(name))
    return Dataset(
        name,
        train,
        None,
        whole,
        None,
        flip=True,
        mean=MEAN,
        std=STD,
        protocol=Verification(lambda: asked, found),
        whole=None if base in LARGE else whole,
    )


def _test_only(name: str, base: str, root: Path | None, size: int) -> Dataset:
    """A set that networks are tested on."""
    protocol: Protocol
    test: ImageSet | PhotoFiles
    if base == "xqlfw":
        found = load_xqlfw(root, size=size)
        test = ImageSet(found.faces.load(progress=True), found.faces.labels, found.faces.names)
        asked = PairSet(test, found.pairs, None, whole_of(name))
        protocol = Verification(lambda: asked)
    elif base == "uccs":
        search = _uccs(str(root or ""), size)
        test = ImageSet(search.images, search.labels.clamp(min=0), search.subjects)
        protocol = Identification(search=lambda: search)
    else:  # whose distractors are many: they stay on disk
        test = _joined(load_tinyface(root, size=size))
        protocol = Identification(search=partial(_tinyface, test))
    return Dataset(name, _nothing(size), None, test, None, True, MEAN, STD, protocol)


def _fold_search(whole: ImageSet, trained: ImageSet) -> Search:
    """Of a fold of LFW all people with two photos or more; those of a single one are unknown.

    Args:
        whole: all photos.
        trained: those that were trained on.
    """
    held = torch.ones(len(whole), dtype=torch.bool)
    held[trained.ids] = False
    labels = torch.where(held, whole.labels, -1)
    count = int((labels[held].bincount(minlength=len(whole.classes)) > 1).sum())
    gallery, probes = split(labels, whole.classes, within(labels), count)
    what = f"LFW, {count} people of the held-out fold"
    return search(whole.central, labels, gallery, probes, what)


def _nothing(size: int) -> ImageSet:
    return ImageSet(torch.zeros(0, 3, size, size, dtype=torch.uint8), torch.zeros(0).long(), ())


@functools.lru_cache(maxsize=1)
def _uccs(root: str, size: int) -> Search:
    """The subjects that `split_subjects` draws, and up to a thousand faces of unknown ones.

    The photos are large and show many people: only what takes part is decoded.
    """
    faces = load_uccs(Path(root) if root else None, size=size)
    gallery, probes = split(faces.labels, faces.names, faces.files, SUBJECTS)
    strangers = (faces.labels < 0).nonzero()[:, 0].tolist()
    strangers = sorted(strangers, key=lambda i: _order(faces, i))[:STRANGERS]
    parts = [torch.from_numpy(gallery), torch.from_numpy(probes), torch.tensor(strangers).long()]
    ends = [len(part) for part in parts]
    chosen = faces.select(torch.cat(parts))
    place = torch.arange(len(chosen)).split(ends)
    what = f"UCCS, {len(chosen.labels[place[0]].unique())} subjects"
    images = chosen.load(progress=True)
    return Search(images, *place, chosen.labels, what, chosen.names)


def _order(faces: PhotoFiles, i: int) -> bytes:
    """A place in line that depends on photo and box alone."""
    return hashlib.sha256(f"uccs/{faces.files[i]}/{faces.boxes[i].tolist()}".encode()).digest()


def _joined(found: GallerySet) -> PhotoFiles:
    """Gallery, probes and distractors in one list; its folders tell which is which."""
    parts = [p for p in (found.gallery, found.probes, found.distractors) if p is not None]
    files = tuple(f"{part.root.name}/{file}" for part in parts for file in part.files)
    labels = torch.cat([part.labels for part in parts])
    return replace(found.gallery, root=found.gallery.root.parent, files=files, labels=labels)


@functools.lru_cache(maxsize=2)
def _lfw(root: str, size: int, development: bool) -> tuple[ImageSet, Pairs, torch.Tensor]:
    """All photos, the pairs of View 1 or 2, and the fold of each photo (-1: in none)."""
    load = load_lfw_development if development else load_lfw
    found: FacePairs = load(Path(root) if root else None, size=size, margin=round(MARGIN * size))
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


def _without(faces: PhotoFiles, tested: Sequence[str]) -> PhotoFiles:
    """Photos of people whose names are not among the tested ones, where folders are names.

    UMDFaces has names; VGGFace2 and CASIA-WebFace have numbers, of which nothing can be told here.
    """
    names = {_plain(name) for name in tested}
    kept = torch.tensor([_plain(name) not in names for name in faces.names])[faces.labels]
    if bool(kept.all()):
        return faces
    left = faces.select(kept.nonzero()[:, 0])
    people, labels = left.labels.unique(return_inverse=True)
    return replace(left, labels=labels, names=tuple(left.names[p] for p in people.tolist()))


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def _relabelled(images: ImageSet) -> ImageSet:
    """The same images with classes for the people in them alone."""
    people, labels = images.labels.unique(return_inverse=True)
    return replace(images, labels=labels, classes=tuple(images.classes[p] for p in people))


def _tinyface(faces: PhotoFiles) -> Search:
    part = [file.partition("/")[0] for file in faces.files]
    probes = torch.tensor([p == "Probe" for p in part])
    # each distractor is somebody of its own, who may come before the right one
    own = len(faces.names) + torch.arange(len(faces))
    return Search(
        faces,
        (~probes).nonzero()[:, 0],
        probes.nonzero()[:, 0],
        torch.zeros(0, dtype=torch.int64),
        torch.where(faces.labels < 0, own, faces.labels),
        "TinyFace, gallery with distractors",
    )


def _size(name: str) -> int:
    return parse(name)[1]


def _images(name: str, per_class: int | None, validation: bool) -> int:
    return PHOTOS.get(
        parse(name)[0], 11_910
    )  # a tenth of LFW's 13,233 photos is in the tested fold


def _load(name: str, per_class: int | None) -> Dataset:
    return load_faces(name)


def _left_out(name: str) -> bool:
    base, home = name.partition("@")[0], paths.data_dir()
    return base in TESTS[1:] and not (home is not None and (home / base).is_dir())


SOURCES = dict.fromkeys(FACES, Source(_load, _size, _images, "faces", left_out=_left_out))
