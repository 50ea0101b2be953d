"""Faces as data sets, on a small tree in LFW's layout, and the batches that they are trained on."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from face_trees import FOLDS, PEOPLE, PHOTOS, casia_tree, face, lfw_tree, name_of
from oracles import of_fold
from PIL import Image

from horkd import data as package
from horkd.data import (
    Batches,
    FileBatches,
    ImageSet,
    PhotoFiles,
    is_faces,
    load_dataset,
    normalise,
)
from horkd.data.batches import _hash
from horkd.data.face_sets import load_training_faces
from horkd.data.faces import load_faces, parse, whole_of
from horkd.data.lfw import load_lfw, load_lfw_development
from horkd.data.photos import FULL_CROP
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.networks.network import ModelSpec, Network
from horkd.predict import chunk, embed, predict
from horkd.preprocess import Preprocess
from horkd.protocols import Asked
from horkd.protocols.thresholds import auc, eer, roc, tar_at_far
from horkd.protocols.verification import VERIFICATION, cosine, k_fold, summary


@pytest.fixture
def home(faces_tree, monkeypatch) -> Path:
    monkeypatch.setenv("HORKD_DATA", str(faces_tree))
    return faces_tree


def people(images: ImageSet, of: torch.Tensor | None = None) -> set[str]:
    labels = images.labels if of is None else images.labels[of]
    return {images.classes[label] for label in labels.tolist()}


# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lfw", ("lfw", 112)),
        ("lfw-3@16", ("lfw-3", 16)),
        ("umdfaces@1024", ("umdfaces", 1024)),
        ("lfw@8", ("lfw", 8)),
        ("glyphs", ("glyphs", 112)),
    ],
)
def test_parse(name, expected):
    assert parse(name) == expected


@pytest.mark.parametrize("size", ["", "7", "1025", "16px", "-16", "1.5", "x", "16@16"])
def test_odd_sizes_are_refused(size):
    with pytest.raises(HorkdError, match="write NAME@SIZE") as error:
        parse(f"lfw@{size}")
    assert f"lfw@{size}" in tiny.one_line(error)


def test_digits_that_are_no_number():
    with pytest.raises(HorkdError, match="write NAME@SIZE"):
        parse("lfw@²²")


def test_which_names_are_faces():
    assert all(map(is_faces, ("lfw", "lfw-1", "lfw-10@16", "lfw-dev", "casia@64")))
    assert not any(map(is_faces, ("glyphs", "cifar100", "lfw-0", "lfw-11", "celeba@16")))
    assert {"lfw", "lfw-dev", "lfw-1", "lfw-10", "umdfaces"} <= set(package.DATASETS)


def test_whole_of():
    names = ("lfw", "lfw-1", "lfw-10", "lfw-dev", "lfw@112")
    assert {whole_of(name) for name in names} == {"lfw@112"}
    assert whole_of("lfw-7@16") == whole_of("lfw-dev@16") == "lfw@16"
    assert whole_of("umdfaces@16") == "umdfaces@16"
    assert whole_of("glyphs") == "glyphs"


def test_unknown_names(home):
    for name in ("lfw-0", "lfw-11", "celeba"):
        with pytest.raises(HorkdError, match="unknown set of faces"):
            load_faces(name)
        with pytest.raises(HorkdError, match=f"unknown data set '{name}'"):
            load_dataset(name)


def test_absent_photos_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("HORKD_DATA", str(tmp_path))
    with pytest.raises(HorkdError, match="lfw is not there: the data folder must hold") as error:
        load_dataset("lfw-1@16")
    tiny.one_line(error)
    monkeypatch.delenv("HORKD_DATA")
    with pytest.raises(HorkdError, match="set HORKD_DATA to the folder that holds lfw/"):
        load_dataset("lfw@16")


# Folds of LFW


@pytest.mark.parametrize("k", range(1, FOLDS + 1))
def test_training_people_are_never_tested(home, k):
    data = load_dataset(f"lfw-{k}@16")
    assert data.protocol.pairs.folds == (k - 1,)
    tested = of_fold(data.protocol.pairs.pairs, k - 1)
    index = torch.cat([tested.left, tested.right])
    assert people(data.test, index) <= {name_of(k - 1, person) for person in range(PEOPLE)}
    assert people(data.train) == {
        name_of(fold, person) for fold in range(FOLDS) for person in range(PEOPLE) if fold != k - 1
    }
    others = (
        data.protocol.pairs.pairs.fold != k - 1
    )  # the threshold may come from people trained on
    assert people(data.test, data.protocol.pairs.pairs.left[others]) <= people(data.train)
    # neither a person nor a photo in both
    pixels = {image.numpy().tobytes() for image in data.train.images}
    assert not pixels & {image.numpy().tobytes() for image in data.test.images[index]}


def test_a_fold_as_a_data_set(home):
    data = load_dataset("lfw-4@16")
    assert data.name == "lfw-4@16"
    assert data.size == data.train.size == data.test.size == 16
    assert data.validation is None
    assert data.unseen is None
    assert data.flip
    assert len(data.train) == (FOLDS - 1) * PEOPLE * PHOTOS
    assert len(data.test) == len(data.whole) == FOLDS * PEOPLE * PHOTOS
    assert data.num_classes == (FOLDS - 1) * PEOPLE
    assert len(data.protocol.pairs.pairs) == FOLDS * 4
    assert data.train.margin == data.whole.margin == 1
    assert data.train.images.shape[-1] == 18


def test_classes_of_a_fold_are_numbered_anew(home):
    data = load_dataset("lfw-1@16")  # the first people are left out
    train = data.train
    assert train.labels.unique().tolist() == list(range(54))
    assert train.labels.bincount().tolist() == [PHOTOS] * 54
    assert train.classes == tuple(
        name_of(fold, person) for fold in range(1, FOLDS) for person in range(PEOPLE)
    )
    for image, label, i in zip(train.images, train.labels.tolist(), train.ids, strict=True):
        assert torch.equal(image, data.whole.images[i])
        assert train.classes[label] == data.whole.classes[data.whole.labels[i]]


def test_all_folds_share_the_images_of_the_whole(monkeypatch, tmp_path):
    monkeypatch.setenv("HORKD_DATA", str(lfw_tree(tmp_path)))  # of which nothing is cached
    a, b = load_dataset("lfw-1@16"), load_dataset("lfw-2@16")
    assert a.whole.images is b.whole.images is load_dataset("lfw-dev@16").whole.images
    assert a.whole.images.data_ptr() == b.test.images.data_ptr()
    assert not set(a.train.ids.tolist()) ^ set(range(180)) - set(range(18))
    assert set(b.train.ids.tolist()) == set(range(180)) - set(range(18, 36))


def test_lfw_itself_is_for_tests_alone(home):
    data = load_dataset("lfw@16")
    assert len(data.train) == 0
    assert data.protocol.pairs.folds is None
    assert len(data.protocol.pairs.pairs) == FOLDS * 4
    with pytest.raises(HorkdError, match="does not fit 0 training images"):
        Batches(data.train, 1)


def test_view_1(home):
    data = load_dataset("lfw-dev@16")
    trained = {name_of(f, p) for f in range(6) for p in range(PEOPLE)}
    assert people(data.train) == trained == set(data.train.classes)
    assert data.protocol.pairs.folds == (1,)
    tested = of_fold(data.protocol.pairs.pairs, 1)
    used = people(data.test, torch.cat([tested.left, tested.right]))
    assert used <= {name_of(f, p) for f in range(7, 10) for p in range(PEOPLE)}
    assert len(tested) == len(of_fold(data.protocol.pairs.pairs, 0)) == 4


def test_load_lfw_development_names_the_photos_of_its_files(home):
    found, whole = load_lfw_development(home, size=8), load_lfw(home, size=8)
    assert found.faces.files == whole.faces.files
    assert torch.equal(found.faces.labels, whole.faces.labels)
    files = found.faces.files
    named = [
        (files[i], files[j], same, fold)
        for i, j, same, fold in zip(
            found.pairs.left.tolist(),
            found.pairs.right.tolist(),
            found.pairs.same.tolist(),
            found.pairs.fold.tolist(),
            strict=True,
        )
    ]
    assert named[:3] == [
        ("P0_0/P0_0_0001.jpg", "P0_0/P0_0_0002.jpg", True, 0),
        ("P0_1/P0_1_0003.jpg", "P0_1/P0_1_0001.jpg", True, 0),
        ("P0_0/P0_0_0001.jpg", "P0_2/P0_2_0002.jpg", False, 0),
    ]
    assert named[4] == ("P7_0/P7_0_0001.jpg", "P7_0/P7_0_0002.jpg", True, 1)
    assert [found.folds[files.index(f"P{k}_5/P{k}_5_0003.jpg")] for k in (0, 5, 6, 7, 9)] == [
        *(0, 0, -1, 1, 1)
    ]


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("peopleDevTrain.txt", None, "peopleDevTrain.txt is not there"),
        ("pairsDevTest.txt", None, "pairsDevTest.txt is not there"),
        ("peopleDevTest.txt", "1\nNobody\t3\n", "peopleDevTest.txt names Nobody"),
        ("pairsDevTest.txt", "2\nP7_0\t1\t2\n", "has 1 pairs, its first line promises 4"),
        ("pairsDevTrain.txt", "1\nP0_0\t1\t9\nP0_0\t1\tP0_1\t1\n", "first P0_0/P0_0_0009.jpg"),
        ("pairsDevTrain.txt", "two\n", "expected the number of folds"),
    ],
)
def test_damaged_view_1(tmp_path, file, content, says):
    path = lfw_tree(tmp_path, side=5) / "lfw" / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(HorkdError) as error:
        load_lfw_development(tmp_path)
    assert says in tiny.one_line(error)


def test_sizes(home):
    for size, margin in ((8, 0), (16, 1), (40, 1), (112, 4)):
        data = load_dataset(f"lfw-1@{size}")
        assert (data.size, data.train.margin) == (size, margin)
        assert data.whole.central.shape == (180, 3, size, size)


def test_large_sets_stay_on_disk(tmp_path, monkeypatch):
    casia_tree(lfw_tree(tmp_path))
    monkeypatch.setenv("HORKD_DATA", str(tmp_path))
    data = load_dataset("casia@28")
    assert isinstance(data.train, PhotoFiles)
    assert (data.train.size, data.train.margin) == (28, 1)
    assert data.num_classes == 5
    assert data.train.classes[4] == "0000004"
    assert data.size == 28
    assert data.protocol.pairs.folds is None  # nobody of LFW is trained on
    assert data.whole is None
    assert (len(data.test), len(data.protocol.pairs.pairs)) == (180, 40)


def test_people_of_lfw_are_left_out_of_a_training_set_with_names(tmp_path, monkeypatch):
    lfw_tree(tmp_path)
    people = ["Ann_A", "p0_0", "P 9-5", "Zoe", "P10_0", "P0_0x"]  # the 2nd and 3rd are in LFW
    batch = tmp_path / "umdfaces" / "umdfaces_batch1"
    rows = ["FILE,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT"]
    for person, name in enumerate(people):
        for photo in range(2):
            file = f"{name}/{name}_{photo}.jpg"
            (batch / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(face(30, person, photo)).save(batch / file)
            rows.append(f"{file},5,5,30,30")
    (batch / "umdfaces_batch1_ultraface.csv").write_text("\n".join(rows) + "\n")
    monkeypatch.setenv("HORKD_DATA", str(tmp_path))
    train = load_dataset("umdfaces@16").train
    kept = ["Ann_A", "Zoe", "P10_0", "P0_0x"]
    assert sorted(train.classes) == sorted(kept)
    assert train.labels.unique().tolist() == list(range(4))
    assert train.labels.bincount().tolist() == [2] * 4
    for file, label in zip(train.files, train.labels.tolist(), strict=True):
        assert Path(file).parent.name == train.classes[label]
    whole = load_training_faces("umdfaces", size=16, margin=train.margin)
    place = [whole.files.index(file) for file in train.files]
    assert torch.equal(train.load(), whole.load()[place])  # boxes went with their photos


# Pairs of any data set


def test_pairs_of_characters_are_disjoint_in_characters():
    data = tiny.with_unseen()
    asked = data.protocol.pairs
    images, pairs, folds = asked.images, asked.pairs, asked.folds
    assert images is data.unseen
    assert folds is None
    assert pairs.fold.unique().tolist() == list(range(10))
    left, right = images.labels[pairs.left], images.labels[pairs.right]
    assert torch.equal(pairs.same, left == right)
    used = [
        set(left[pairs.fold == k].tolist() + right[pairs.fold == k].tolist()) for k in range(10)
    ]
    assert sum(map(len, used)) == len(set().union(*used))
    counts = pairs.fold.bincount()
    assert (counts == counts[0]).all()
    assert 2 * int(pairs.same.sum()) == len(pairs)
    again = tiny.with_unseen().protocol.pairs.pairs
    assert torch.equal(again.left, pairs.left)
    assert torch.equal(again.right, pairs.right)


@pytest.mark.parametrize(("characters", "each"), [(20, 2), (20, 3), (29, 2), (40, 5), (25, 9)])
def test_there_are_enough_pairs_for_any_number_of_characters(characters, each):
    pairs = tiny.with_unseen(characters, each).protocol.pairs.pairs
    assert 20 <= len(pairs) <= 6000
    assert pairs.fold.unique().tolist() == list(range(10))


def test_pairs_of_the_embedded_set():
    data = load_dataset("glyphs", 5)
    images, pairs = data.protocol.pairs.images, data.protocol.pairs.pairs
    assert len(images) == 40 * 10
    assert not set(images.classes) & set(data.train.classes)
    each = 2 * 4 * 45  # as many as four characters of ten images have of the same
    assert pairs.fold.bincount().tolist() == [each] * 10


def test_a_data_set_without_pairs_is_refused():
    with pytest.raises(HorkdError, match="no classes that are never trained on") as error:
        VERIFICATION(Asked(network(), tiny.data(), Degradation(8)))
    assert "glyphs" in tiny.one_line(error)


def test_pairs_of_faces_are_their_own(home):
    data = load_dataset("lfw-2@16")
    assert data.protocol.pairs.images is data.test
    assert data.protocol.pairs.folds == (1,)


# Images with a margin


def numbered(n: int = 12, size: int = 5, margin: int = 2) -> ImageSet:
    """Each pixel tells image, row and column."""
    side = size + 2 * margin
    images = torch.zeros(n, 3, side, side, dtype=torch.uint8)
    images[:, 0] = torch.arange(n)[:, None, None]
    images[:, 1] = torch.arange(side)[:, None]
    images[:, 2] = torch.arange(side)
    return ImageSet(images, torch.arange(n) % 3, ("a", "b", "c"), margin)


def test_margin_and_central():
    images = numbered()
    assert images.size == 5
    assert images.central.shape == (12, 3, 5, 5)
    assert images.central[3, :, 0, 0].tolist() == [3, 2, 2]
    assert images.central[3, :, -1, -1].tolist() == [3, 6, 6]
    assert images.central.data_ptr() >= images.images.data_ptr()  # a view, no copy
    plain = numbered(margin=0)
    assert torch.equal(plain.central, plain.images)


@pytest.mark.parametrize("margin", [-1, 3, 9])
def test_a_margin_that_does_not_fit(margin):
    with pytest.raises(HorkdError, match=f"a margin of {margin} does not fit images of 6 pixels"):
        ImageSet(torch.zeros(1, 3, 6, 6, dtype=torch.uint8), torch.zeros(1).long(), ("a",), margin)


def test_select_keeps_the_numbers_of_the_whole():
    whole = numbered()
    part = whole.select(torch.tensor([7, 2, 9, 4]))
    assert part.ids.tolist() == [7, 2, 9, 4]
    assert part.labels.tolist() == [1, 2, 0, 1]
    assert (part.margin, part.classes) == (2, whole.classes)
    again = part.select(part.labels == 1)
    assert again.ids.tolist() == [7, 4]
    assert torch.equal(again.images, whole.images[[7, 4]])
    assert again.to("cpu").ids.tolist() == [7, 4]
    assert whole.ids is None
    assert whole.to("cpu").ids is None
    nothing = whole.select(torch.zeros(0, dtype=torch.int64))
    assert len(nothing) == len(nothing.ids) == 0
    assert nothing.size == 5


# Batches


def whole_epoch(batches: Batches, seed: int, number: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(map(torch.cat, zip(*batches.epoch(seed, number), strict=True)))


def places(crops: torch.Tensor) -> list[tuple[int, int, int, bool]]:
    """Image, top, left and mirrored of crops of `numbered`."""
    found = []
    for crop in crops.int():
        image, top = int(crop[0, 0, 0]), int(crop[1, 0, 0])
        columns = crop[2, 0].tolist()
        mirrored = columns[0] > columns[-1]
        left = min(columns)
        side = crop.shape[-1]
        # the crop is a whole piece of that image
        assert (crop[0] == image).all()
        assert (crop[1] == top + torch.arange(side)[:, None]).all()
        assert sorted(columns) == list(range(left, left + side))
        found.append((image, top, left, mirrored))
    return found


@pytest.mark.parametrize("views", [0, 50])
def test_crops_come_from_the_margin(views):
    batches = Batches(numbered(), 4, crop=2, flip=True, views=views)
    seen = set()
    for epoch in range(60):
        seen |= {place[1:] for place in places(whole_epoch(batches, epoch, epoch)[0])}
    assert seen == {(t, left, m) for t in range(5) for left in range(5) for m in (False, True)}
    # crops that use only a part of the margin stay around the middle
    few = Batches(numbered(), 4, crop=1, flip=False, views=views)
    tops = {place[1:] for e in range(40) for place in places(whole_epoch(few, e, e)[0])}
    assert tops == {(t, left, False) for t in (1, 2, 3) for left in (1, 2, 3)}


def test_no_crops_and_no_mirroring_are_the_images_proper():
    images = numbered()
    for views in (0, 3):
        crops, labels = whole_epoch(Batches(images, 4, crop=0, flip=False, views=views), 5, 1)
        order = crops[:, 0, 0, 0].long()
        assert torch.equal(crops, images.central[order])
        assert torch.equal(labels, images.labels[order])


def test_a_margin_that_is_too_small_is_refused():
    with pytest.raises(HorkdError, match="crops of ±3 pixels need a margin; there are 2"):
        Batches(numbered(), 4, crop=3)
    black = Batches(numbered(margin=0), 4, crop=3)  # without a margin the outside is black
    assert whole_epoch(black, 0)[0].shape == (12, 3, 5, 5)


@pytest.mark.parametrize("views", [0, 4])
def test_the_order_is_the_order_of_the_epoch(views):
    batches = Batches(numbered(n=14), 4, crop=2, views=views)
    for seed in (0, 9):
        order = batches.order(seed)
        assert len(order) == 12  # whole batches
        assert len(order.unique()) == 12
        crops, labels = whole_epoch(batches, seed, 3)
        assert crops[:, 0, 0, 0].tolist() == order.tolist()
        assert torch.equal(labels, batches.labels[order])
    assert not torch.equal(batches.order(0), batches.order(9))


def by_image(batches: Batches, seed: int, number: int) -> dict[int, tuple]:
    return {place[0]: place[1:] for place in places(whole_epoch(batches, seed, number)[0])}


def test_views_depend_on_image_and_view_alone():
    batches = Batches(numbered(), 4, crop=2, views=3)
    first = by_image(batches, 0, 1)
    assert first == by_image(batches, 17, 1) == by_image(batches, 3, 4)  # again from the start
    assert first != by_image(batches, 0, 2)
    assert by_image(Batches(numbered(), 3, crop=2, views=2), 8, 1) == first
    part = numbered().select(torch.tensor([11, 3, 8, 5, 0, 6]))  # a part of the set sees the same
    few = by_image(Batches(part, 2, crop=2, views=3), 1, 1)
    assert few == {i: first[i] for i in (11, 3, 8, 5, 0, 6)}
    free = Batches(numbered(), 4, crop=2)
    assert by_image(free, 0, 1) == by_image(free, 0, 2) != by_image(free, 1, 1)


def test_view_0_is_the_image_itself():
    images = numbered()
    batches = Batches(images, 4, crop=2, views=3)
    assert set(by_image(batches, 5, 0).values()) == {(2, 2, False)}
    assert torch.equal(torch.cat(list(batches.view(0, 5))), images.central)


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("margin", [0, 2])
def test_view_hands_out_what_the_epochs_show(number, margin):
    images = numbered(n=13, margin=margin)
    batches = Batches(images, 4, crop=2, views=3)
    everything = torch.cat(list(batches.view(number, 5)))
    assert [len(b) for b in batches.view(number, 5)] == [5, 5, 3]
    crops, _ = whole_epoch(batches, 7, number)
    assert torch.equal(crops, everything[batches.order(7)])
    other_size = torch.cat(list(batches.view(number, 13)))
    assert torch.equal(everything, other_size)


def test_hash_is_even():
    """Crops and mirroring of many images and views: all equally often, and independent."""
    span = 9
    ids = torch.arange(13_233)
    for view in (1, 2, 19):
        bits = _hash(ids * 65_536 + view)
        assert (bits >= 0).all()
        tops, lefts = (bits & 0xFFFF) % span, (bits >> 20 & 0xFFFF) % span
        mirrored = (bits >> 40) % 2
        cells = (tops * span + lefts) * 2 + mirrored
        counts = cells.bincount(minlength=2 * span**2).double()
        mean = len(ids) / (2 * span**2)
        chi = ((counts - mean).square() / mean).sum().item()
        assert abs(chi - 161) < 5 * math.sqrt(2 * 161)
    each = torch.stack([_hash(ids * 65_536 + v) % span for v in range(1, 9)]).double()
    correlation = torch.corrcoef(each) - torch.eye(8, dtype=torch.float64)
    assert correlation.abs().max() < 5 / math.sqrt(len(ids))


def test_hash_is_splitmix64():
    def scalar(x: int) -> int:
        mask = 2**64 - 1
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
        x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
        return (x ^ x >> 31) & 2**62 - 1

    values = [0, 1, 2, 65_536, 13_232 * 65_536 + 7, 2**40 + 12_345]
    assert _hash(torch.tensor(values)).tolist() == [scalar(x) for x in values]


# Batches from disk


@pytest.fixture
def files(tmp_path) -> PhotoFiles:
    """23 photos of 24 pixels with a margin of 2 in 16."""
    for i in range(23):
        Image.fromarray(face(30, i, 0, 25)).save(tmp_path / f"{i}.png")
    names = tuple(f"{i}.png" for i in range(23))
    return PhotoFiles(tmp_path, names, torch.arange(23) % 4, tuple("abcd"), None, FULL_CROP, 16, 2)


def loaded(files: PhotoFiles) -> ImageSet:
    return ImageSet(files.load(), files.labels, files.classes, files.margin)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("crop", [0, 1, 2])
def test_photos_give_the_batches_of_their_images(files, crop, flip):
    disk = FileBatches(files, 5, crop, flip, workers=0)
    memory = Batches(loaded(files), 5, crop, flip)
    assert len(disk) == len(memory) == 4
    for seed in (0, 3):
        pairs = list(zip(disk.epoch(seed), memory.epoch(seed), strict=True))
        assert len(pairs) == 4
        for (x, y), (crops, labels) in pairs:
            assert x.dtype == torch.uint8
            assert torch.equal(x, crops)
            assert torch.equal(y, labels)
        assert torch.equal(disk.order(seed), memory.order(seed))


def test_workers_change_nothing(files):
    alone = whole_epoch(FileBatches(files, 5, 2, workers=0), 4)
    helped = whole_epoch(FileBatches(files, 5, 2, workers=2), 4)
    assert torch.equal(alone[0], helped[0])
    assert torch.equal(alone[1], helped[1])


@pytest.mark.parametrize(
    "workers",
    [0, pytest.param(1)],
)
def test_a_photo_that_is_gone_ends_the_epoch(files, workers):
    (files.root / "7.png").unlink()
    with pytest.raises(HorkdError, match=r"7\.png is gone") as error:
        list(FileBatches(files, 23, 2, workers=workers).epoch(0))
    tiny.one_line(error)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"batch_size": 24}, "batch size 24 does not fit 23 training images"),
        ({"batch_size": 0}, "batch size 0 does not fit"),
        ({"batch_size": 4, "crop": 3}, "crops of ±3 pixels need a margin; there are 2"),
        ({"batch_size": 4, "crop": 2, "views": 2}, "fixed views need a set in memory"),
    ],
)
def test_odd_batches_from_disk_are_refused(files, arguments, says):
    with pytest.raises(HorkdError) as error:
        FileBatches(files, **arguments)
    assert says in tiny.one_line(error)


# Evaluation


def network(name: str = "resnet8x0.25", classes: int = 0, seed: int = 0, **spec: object) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network(ModelSpec(name, classes, **spec)).eval()


def test_statistics_are_the_networks_own_where_it_has_some():
    data = tiny.data()
    plain = Preprocess.of(network(), data, Degradation(8))
    assert (plain.mean, plain.std) == (data.mean, data.std)
    net = network(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0))
    own = Preprocess.of(net, data, Degradation(8))
    assert (own.mean, own.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    "own",
    [
        {},
        {"mean": (0.1, 0.2, 0.3), "std": (1.0, 2.0, 3.0)},
        {"mean": (0.1, 0.2, 0.3)},
        pytest.param({"std": (1.0, 2.0, 3.0)}),
    ],
)
def test_training_and_tests_feed_a_network_alike(own):
    data, net, d = tiny.data(), network(**own), Degradation(8)
    images, seen = data.test.images[:3], []
    want = normalise(d(images), own.get("mean", data.mean), own.get("std", data.std))
    net.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    predict(net, images, data, d)
    torch.testing.assert_close(Preprocess.of(net, data, d)(images), want)
    torch.testing.assert_close(seen[0], want)


def test_large_images_go_in_few_at_a_time():
    net = network()
    assert chunk(net, Degradation(16), 112) == 500
    assert chunk(net, Degradation(16, upsample=True), 112) == 100_000 // 112**2
    assert chunk(net, Degradation(112), 112) == 100_000 // 112**2
    assert chunk(net, Degradation(112), 32) == 500  # nothing is larger than the images
    assert chunk(net, Degradation(500), 500) == 4
    assert chunk(net, Degradation(64), 64) < 500


@pytest.mark.parametrize("batch_size", [1, 7, 23, None])
def test_predict_of_photos_is_predict_of_their_images(files, batch_size):
    files = replace(files, margin=0)
    data, net = tiny.data(), network(classes=3)
    disk = predict(net, files, data, Degradation(8), batch_size)
    memory = predict(net, files.load(), data, Degradation(8))
    torch.testing.assert_close(disk.features, memory.features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(disk.logits, memory.logits, atol=1e-5, rtol=1e-5)
    assert disk.logits.shape == (23, 3)
    with_margin = predict(net, replace(files, margin=2), data, Degradation(8))
    assert torch.equal(with_margin.features, predict(net, files, data, Degradation(8)).features)


def test_nothing_to_predict(home):
    data = load_dataset("lfw@16")
    with pytest.raises(HorkdError, match="no images to predict"):
        predict(network(), data.train.central, data, Degradation(16))


def test_predict_feeds_a_network_its_own_statistics():
    data = tiny.data()
    mean, std = (0.3, 0.5, 0.7), (0.2, 0.4, 0.6)
    own, plain = network(mean=mean, std=std), network()
    images = data.test.images
    found = predict(own, images, data, Degradation(16)).features
    want = predict(plain, images, replace(data, mean=mean, std=std), Degradation(16)).features
    assert torch.equal(found, want)
    assert not torch.equal(found, predict(plain, images, data, Degradation(16)).features)


def test_embeddings_have_unit_length_and_may_see_the_mirror_image():
    data, net, d = tiny.data(), network(), Degradation(8)
    images = data.test.images
    plain = predict(net, images, data, d).features.double()
    mirrored = predict(net, images.flip(3), data, d).features.double()
    one = embed(net, images, data, d).double()
    torch.testing.assert_close(one, plain / plain.norm(dim=1, keepdim=True), atol=1e-6, rtol=0)
    both = embed(net, images, data, d, flip=True).double()
    total = plain + mirrored
    torch.testing.assert_close(both, total / total.norm(dim=1, keepdim=True), atol=1e-6, rtol=0)
    torch.testing.assert_close(
        embed(net, images.flip(3), data, d, flip=True).double(), both, atol=1e-5, rtol=0
    )


def test_mirror_images_need_a_set_in_memory(files):
    assert embed(network(), files, tiny.data(), Degradation(8)).shape == (23, 16)
    with pytest.raises(HorkdError, match="flip needs images in memory"):
        embed(network(), files, tiny.data(), Degradation(8), flip=True)


@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("other", [None, 8])
@pytest.mark.parametrize("name", ["lfw-3@16", "lfw@16"])
def test_verify_pair_by_pair(home, name, other, flip):
    data, net, d = load_dataset(name), network(), Degradation(16)
    second = d if other is None else Degradation(other)
    scores = []
    for i, j in zip(
        data.protocol.pairs.pairs.left.tolist(),
        data.protocol.pairs.pairs.right.tolist(),
        strict=True,
    ):
        a = embed(net, data.test.central[i : i + 1], data, d, flip)
        b = embed(net, data.test.central[j : j + 1], data, second, flip)
        scores.append(float(cosine(a, b)[0]))
    found = VERIFICATION(Asked(net, data, d, None if other is None else second, flip))
    want = summary(
        scores,
        data.protocol.pairs.pairs.same,
        data.protocol.pairs.pairs.fold,
        data.protocol.pairs.folds,
    )
    for key in ("accuracy", "auc", "eer", "folds", "n"):
        assert found[key] == pytest.approx(want[key], abs=1e-6), key
    assert found["thresholds"] == pytest.approx(want["thresholds"], abs=1e-5)
    assert found["folds"] == ([2] if name == "lfw-3@16" else list(range(10)))
    assert found["n"] == 4 * len(found["folds"])


def test_a_pair_with_one_image_degraded(home):
    data, net = load_dataset("lfw@16"), network()
    both, one = (
        VERIFICATION(Asked(net, data, Degradation(16), other))
        for other in (None, Degradation(4, upsample=True))
    )
    assert both["thresholds"] != one["thresholds"]
    same = VERIFICATION(Asked(net, data, Degradation(16), Degradation(16)))
    assert same == both


def test_a_network_without_classifier_is_verified(home):
    data = tiny.with_unseen()
    without, with_classes = network(), network(classes=tiny.CLASSES)
    assert "accuracy" in data.protocol.test(without, data, Degradation(8))
    assert "top1" in data.protocol.test(with_classes, data, Degradation(8))
    faces = load_dataset("lfw-1@16")
    assert "accuracy" in faces.protocol.test(network(classes=54), faces, Degradation(8))


# What a record keeps of a verification


def drawn(folds: int = 5, each: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    fold = np.arange(folds).repeat(each)
    same = generator.random(len(fold)) < 0.5
    return generator.normal(0.8 * same, 1).round(2), same, fold


@pytest.mark.parametrize("folds", [None, (3,), (1, 4)])
def test_summary_says_what_the_parts_say(folds):
    scores, same, fold = drawn()
    found = summary(scores, same, fold, folds)
    assert set(found) == {
        *("accuracy", "standard_error", "folds", "accuracies", "thresholds", "n"),
        *("auc", "eer", "tar", "roc"),
    }
    parts = k_fold(scores, same, fold, folds)
    tested = np.isin(fold, parts.folds)
    s, y = scores[tested], same[tested]
    assert found["accuracy"] == parts.mean == pytest.approx(np.mean(found["accuracies"]))
    assert found["standard_error"] == parts.standard_error
    assert (found["standard_error"] is None) == (folds == (3,))
    assert found["folds"] == list(parts.folds) == sorted(folds or range(5))
    assert found["accuracies"] == list(parts.accuracies)
    assert found["thresholds"] == list(parts.thresholds)
    assert found["n"] == parts.n == tested.sum()
    assert found["auc"] == auc(s, y)
    assert found["eer"] == eer(s, y)
    assert found["tar"] == tar_at_far(s, y)
    far, tar, _ = roc(s, y, 60)
    assert found["roc"]["far"] == pytest.approx(far.tolist(), abs=1e-6)
    assert found["roc"]["tar"] == pytest.approx(tar.tolist(), abs=1e-6)


@pytest.mark.parametrize("scores", ["drawn", "perfect", "constant"])
def test_summary_is_plain_json(scores):
    s, same, fold = drawn()
    s = {"drawn": s, "perfect": same.astype(float), "constant": np.zeros(len(s))}[scores]
    for folds in (None, [2]):
        found = summary(torch.tensor(s), torch.tensor(same), torch.tensor(fold), folds)
        assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_summary_of_a_perfect_and_of_a_useless_network():
    s, same, fold = drawn()
    perfect = summary(same.astype(float), same, fold)
    assert (perfect["accuracy"], perfect["auc"], perfect["eer"]) == (100, 1, 0)
    assert all(row["tar"] == 1 for row in perfect["tar"])
    useless = summary(np.zeros(len(s)), same, fold)
    assert useless["auc"] == 0.5
    assert useless["eer"] == 0.5


def test_summary_keeps_the_curve_short():
    generator = np.random.default_rng(1)
    same, fold = np.arange(6000) % 2 == 0, np.arange(6000) // 600
    found = summary(generator.normal(same, 1), same, fold, points=20)
    far, tar = found["roc"]["far"], found["roc"]["tar"]
    assert len(far) == len(tar) <= 20
    assert (far[0], tar[0], far[-1], tar[-1]) == (0, 0, 1, 1)
    assert far == sorted(far)
    assert tar == sorted(tar)
