"""Sets for metric learning: readers of the official layouts on small drawn trees, and splits."""

import os
import pickle
import re
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pillow_heif
import pytest
import tiny
import torch
import watch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat
from torch.utils.data import DataLoader
from torchvision.datasets import CIFAR100

from horkd import predict as predict_
from horkd import storage
from horkd.data import cifar, fingerprint, is_retrieval, load_dataset, look_again
from horkd.data.faces import MEAN, STD
from horkd.data.fingerprint import listing_digest
from horkd.data.folder import split_of
from horkd.data.glyphs import CHARACTERS, UNSEEN_CHARACTERS, load_glyphs
from horkd.data.images import Dataset, ImageSet
from horkd.data.photos import FULL_CROP, WHOLE_CROP, PhotoFiles
from horkd.data.retrieval import (
    RETRIEVAL as NAMES,
)
from horkd.data.retrieval import (
    load_retrieval,
    of_photos,
    parse_retrieval,
    plain_name,
    retrieval_images,
)
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab.config import RunConfig
from horkd.protocols import Asked
from horkd.protocols.retrieval import RETRIEVAL, Retrieval


def colour(number: int) -> tuple[int, int, int]:
    """Of a photo, so that an image tells which it is."""
    return 10 * (number % 25), 10 * (number // 25), 250


def write(path: Path, number: int = 0, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 14), colour(number)).convert(mode).save(path)
    return path


def refusal(name: str, *arguments) -> str:
    with pytest.raises(HorkdError) as error:
        load_retrieval(name, *arguments)
    return tiny.one_line(error, longest=1000 + len(name))


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A data folder, with a space in its name."""
    root = tmp_path / "my data"
    root.mkdir()
    monkeypatch.setenv("HORKD_DATA", str(root))
    return root


def images_of(split) -> dict[str, list[str]]:
    """Files of each class."""
    found: dict[str, list[str]] = {name: [] for name in split.names}
    for file, label in zip(split.files, split.labels.tolist(), strict=True):
        found[split.names[label]].append(file)
    return found


def check(data: Dataset) -> None:
    """What holds for every set."""
    assert isinstance(data.protocol, Retrieval)
    assert data.held_apart
    assert data.unseen is None
    splits = (data.train, data.validation, data.test)
    names = [name for split in splits for name in split.classes]
    assert len(names) == len(set(names)), "no class is in two splits"
    for split in splits:
        assert split.labels.unique().tolist() == list(range(len(split.classes)))
        assert split.size == data.size
    if isinstance(data.test, PhotoFiles):
        files = [file for split in splits for file in split.files]
        assert len(files) == len(set(files))
        assert data.train.root == data.validation.root
        assert (data.mean, data.std, data.flip) == (MEAN, STD, True)
        assert all(split.crop == WHOLE_CROP for split in splits)
    joined = data.training(validation=False)
    assert joined.classes == data.train.classes + data.validation.classes


# Names


@pytest.mark.parametrize(
    ("name", "base", "size"),
    [
        ("cub", "cub", 256),
        ("cub@224", "cub", 224),
        ("cars@8", "cars", 8),
        ("sop@1024", "sop", 1024),
        ("glyphs-disjoint", "glyphs-disjoint", 32),
        ("cifar100-disjoint", "cifar100-disjoint", 32),
        ("folder:birds", "folder:birds", 256),
        ("folder:birds@64", "folder:birds", 64),
        ("folder:/me@home/birds", "folder:/me@home/birds", 256),
        ("folder:/me@home/birds@96", "folder:/me@home/birds", 96),
        ("folder:a@64@96", "folder:a@64", 96),
        ("folder:a@", "folder:a@", 256),
        ("folder:a@64b", "folder:a@64b", 256),
        ("folder:a@²", "folder:a@²", 256),
        ("folder:a@٣٢", "folder:a@٣٢", 256),
    ],
)
def test_names(name, base, size):
    assert is_retrieval(name)
    assert parse_retrieval(name) == (base, size)


@pytest.mark.parametrize(
    "name", ["glyphs", "cifar100", "lfw-1", "cub-disjoint", "", "folder", "Cub"]
)
def test_other_names(name):
    assert not is_retrieval(name)
    with pytest.raises(
        HorkdError, match=r"unknown set for retrieval .*glyphs-disjoint.*folder:PATH"
    ):
        parse_retrieval(name)
    with pytest.raises(HorkdError, match="unknown set for retrieval"):
        retrieval_images(name)
    assert "unknown set for retrieval" in refusal(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cub@", "write cub@SIZE, SIZE in pixels, 8 to 1024"),
        ("cub@big", "write cub@SIZE"),
        ("cub@-8", "write cub@SIZE"),
        ("cub@64@32", "write cub@SIZE"),
        ("cars@7", "write cars@SIZE"),
        ("sop@1025", "write sop@SIZE"),
        ("sop@" + "9" * 5000, "write sop@SIZE"),
        ("sop@٣٢", "write sop@SIZE"),
        ("folder:birds@7", "write folder:birds@SIZE"),
        ("folder:", "write folder:PATH"),
        ("folder:@64", "write folder:PATH"),
        ("glyphs-disjoint@64", "glyphs-disjoint has images of 32 pixels alone: leave out @64"),
        ("cifar100-disjoint@32", "leave out @32"),
    ],
)
def test_odd_names(name, says):
    assert is_retrieval(name)
    assert says in refusal(name)


@pytest.mark.parametrize(
    ("name", "photos"),
    [
        *((name, True) for name in ("cub", "cub@224", "cars", "cars@8", "sop", "sop@1024")),
        *((name, True) for name in ("folder:birds", "folder:birds@64", "folder:glyphs-disjoint")),
        *((name, False) for name in ("glyphs-disjoint", "cifar100-disjoint")),
        *((name, False) for name in ("glyphs", "cifar100", "lfw", "umdfaces@224", "folder", "")),
    ],
)
def test_sets_of_photos(name, photos):
    assert of_photos(name) is photos


@pytest.mark.parametrize("name", ["cub@", "cars@7", "folder:", "glyphs-disjoint@64"])
def test_odd_names_of_photos(name):
    with pytest.raises(HorkdError):
        of_photos(name)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        # four digits of the name's SHA-256, as sha256sum has them: the same on every machine
        ("folder:/a/b c", "folder-b-c-77e8"),
        ("folder:/a/b/", "folder-b-3909"),
        ("folder:birds@128", "folder-birds@128-964a"),
        ("folder:../my birds (2)@64", "folder-my-birds-2-@64-f154"),
        ("folder:/", "folder--7491"),
        *((name, name) for name in ("glyphs", "cub@224", "glyphs-disjoint", "lfw-3@16")),
    ],
)
def test_names_as_parts_of_files(name, plain):
    assert plain_name(name) == plain


def test_folders_of_one_name_are_told_apart():
    names = [f"folder:{place}/birds{size}" for place in ("/a", "/b", "a", "..") for size in
             ("", "@64", "@96")]  # fmt: skip
    plain = [plain_name(name) for name in names]
    assert len(set(plain)) == len(names)
    assert all(re.fullmatch(r"folder-birds(@\d+)?-[0-9a-f]{4}", one) for one in plain)


@pytest.mark.parametrize("per_class", [0, -1, True, 2.0, "2"])
@pytest.mark.parametrize("name", [*NAMES, "folder:x"])
def test_odd_per_class(name, per_class):
    assert "per_class must be a whole number of at least 1" in refusal(name, per_class)


# Trees in the official layouts

CUB = {1: 2, 3: 1, 7: 3, 99: 2, 100: 2, 101: 1, 102: 2, 200: 2}  # images of each class
MODES = ("RGB", "L", "CMYK", "P")


def cub_rows() -> list[tuple[int, str, int]]:
    """Number, file, class; the first images of all classes, then the second ones, and so on."""
    rows = sorted((k, c) for c, count in CUB.items() for k in range(count))
    return [
        (i, f"{c:03d}.Bird_{c}/Bird_{k}_{i}.{'png' if i % 4 == 3 else 'jpg'}", c)
        for i, (k, c) in enumerate(rows, 1)
    ]


def cub_lists(folder: Path, rows=None) -> None:
    rows = cub_rows() if rows is None else rows
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "images.txt").write_text("".join(f"{i} {file}\n" for i, file, _ in rows))
    (folder / "image_class_labels.txt").write_text("".join(f"{i} {c}\n" for i, _, c in rows))


def cub_tree(root: Path, place: str = "cub/CUB_200_2011") -> Path:
    cub_lists(root / place)
    for i, file, _ in cub_rows():
        write(root / place / "images" / file, i, MODES[i % 4])
    return root / place


CARS = {1: "AM General Hummer SUV 2000", 2: "Ram C/V Cargo Van 2012", 97: "Car 97", 98: "Car 98"}
CARS |= {99: "Car 99", 196: "smart fortwo Convertible 2012"}


def cars_kaggle(root: Path) -> Path:
    """Two photos of each class in train, one in test; both number them from 00001.jpg on."""
    folder = root / "cars"
    names = [CARS.get(c, f"Car {c}") for c in range(1, 197)]
    folder.mkdir()
    (folder / "names.csv").write_text("".join(f"{name}\n" for name in names))
    for split, each in (("train", 2), ("test", 1)):
        rows = []
        for i, c in enumerate(each * sorted(CARS, reverse=True), 1):
            rows.append(f"{i:05d}.jpg,39,116,569,375,{c}\n")
            place = folder / "car_data" / "car_data" / split / CARS[c].replace("/", "-")
            write(place / f"{i:05d}.jpg", i if split == "train" else 100 + i)
        (folder / f"anno_{split}.csv").write_text("".join(rows))
    return folder


def annotations(rows: list[tuple[str, object]]) -> np.ndarray:
    """As in cars_annos.mat."""
    fields = [
        ("relative_im_path", object),
        ("bbox_x1", object),
        ("class", object),
        ("test", object),
    ]
    return np.array([(file, 1.0, c, 0) for file, c in rows], dtype=fields)


def cars_original(root: Path) -> Path:
    folder = root / "cars"
    rows = [(f"car_ims/{i:06d}.jpg", np.uint8(c)) for i, c in enumerate(3 * sorted(CARS), 1)]
    for i, (file, _) in enumerate(rows, 1):
        write(folder / file, i)
    names = np.array([CARS.get(c, f"Car {c}") for c in range(1, 197)], dtype=object)
    savemat(folder / "cars_annos.mat", {"annotations": annotations(rows), "class_names": names})
    return folder


SOP_TITLES = "image_id class_id super_class_id path\n"


def sop_rows() -> dict[str, list[str]]:
    rows: dict[str, list[str]] = {"train": [], "test": []}
    for i in range(1, 19):
        c, split = (i + 1) // 2, "train" if i <= 12 else "test"
        kind = ("chair", "bicycle")[c % 2]
        rows[split].append(f"{i} {c} {1 + c % 2} {kind}_final/11{c}_{i % 2}.JPG\n")
    return rows


def sop_tree(root: Path, place: str = "sop/Stanford_Online_Products") -> Path:
    for split, rows in sop_rows().items():
        for row in rows:
            i, _, _, file = row.split()
            write(root / place / file, int(i))
        (root / place / f"Ebay_{split}.txt").write_text(SOP_TITLES + "".join(rows))
    return root / place


def class_tree(folder: Path, classes, each: int = 2) -> Path:
    for k, name in enumerate(classes):
        for i in range(each):
            write(folder / name / f"{i}.png", each * k + i)
    return folder


TREES = {
    "cub": cub_tree,
    "cars": cars_kaggle,
    "sop": sop_tree,
    "folder:my birds": lambda root: class_tree(root / "my birds", "abcdefghijkl"),
}


def test_cub(home):
    cub_tree(home)
    data = load_retrieval("cub")
    check(data)
    assert data.name == "cub"
    assert data.train.classes == ("001.Bird_1", "003.Bird_3", "007.Bird_7", "099.Bird_99")
    assert data.validation.classes == ("100.Bird_100",)
    assert data.test.classes == ("101.Bird_101", "102.Bird_102", "200.Bird_200")
    for split in (data.train, data.validation, data.test):
        for name, files in images_of(split).items():
            assert files == [file for _, file, c in cub_rows() if f"{c:03d}.Bird_{c}" == name]
    assert data.test.root == home / "cub" / "CUB_200_2011" / "images"


def test_cub_without_a_folder_of_its_own(home):
    cub_tree(home, "CUB_200_2011")
    data = load_retrieval("cub@64")
    check(data)
    assert data.test.root == home / "CUB_200_2011" / "images"
    assert (data.name, data.size) == ("cub@64", 64)


def test_every_mode_is_decoded_to_its_colours(home):
    cub_tree(home)
    number = {file: i for i, file, _ in cub_rows()}
    data = load_retrieval("cub@16")
    seen = set()
    for split in (data.train, data.validation, data.test):
        for (image, label, k), file in zip(split, split.files, strict=True):
            i = number[file]
            assert image.shape == (3, 18, 18)
            assert split.files[k] == file
            assert split.names[label] == file.rpartition("/")[0]
            want = torch.tensor(colour(i)).float()
            if MODES[i % 4] == "L":
                want = (want * torch.tensor([0.299, 0.587, 0.114])).sum().expand(3)
            assert (image.float().mean((1, 2)) - want).abs().max() < (30 if i % 4 == 3 else 6), file
            seen.add(MODES[i % 4])
    assert seen == set(MODES)


def test_cars_from_kaggle(home):
    folder = cars_kaggle(home)
    data = load_retrieval("cars")
    check(data)
    assert data.train.classes == tuple(CARS[c] for c in (1, 2, 97))
    assert data.validation.classes == (CARS[98],)
    assert data.test.classes == (CARS[99], CARS[196])
    files = images_of(data.train)[CARS[2]]  # 6 classes from the last to the first, twice
    place = "car_data/car_data/{}/Ram C-V Cargo Van 2012/{}.jpg"
    assert files == [
        place.format(*x) for x in (("train", "00005"), ("train", "00011"), ("test", "00005"))
    ]
    assert data.train.root == folder
    split = data.train.select(data.train.labels == 1)
    images = split.load()[:, :, 100, 100].float()
    want = torch.tensor([colour(i) for i in (5, 11, 105)]).float()
    assert (images - want).abs().max() < 6


def test_cars_as_first_published(home):
    cars_original(home)
    data = load_retrieval("cars@32")
    check(data)
    assert data.train.classes == tuple(CARS[c] for c in (1, 2, 97))
    assert data.validation.classes == (CARS[98],)
    assert images_of(data.test) == {
        CARS[99]: [f"car_ims/0000{i:02d}.jpg" for i in (5, 11, 17)],
        CARS[196]: [f"car_ims/0000{i:02d}.jpg" for i in (6, 12, 18)],
    }
    image, label, _ = data.test[1]
    assert label == 1
    assert (image[:, 10, 10].float() - torch.tensor(colour(6)).float()).abs().max() < 6


def test_cars_without_names(home):
    folder = cars_original(home)
    rows = [(f"car_ims/{i:06d}.jpg", c) for i, c in enumerate((1, 2, 3, 150, 160), 1)]
    savemat(folder / "cars_annos.mat", {"annotations": annotations(rows)})
    data = load_retrieval("cars")
    assert data.train.classes + data.validation.classes + data.test.classes == tuple(
        map(str, (1, 2, 3, 150, 160))
    )


@pytest.mark.parametrize("place", ["sop/Stanford_Online_Products", "Stanford_Online_Products"])
def test_sop(home, place):
    sop_tree(home, place)
    data = load_retrieval("sop")
    check(data)
    assert data.train.classes == ("1", "2", "3", "4", "5")
    assert data.validation.classes == ("6",)
    assert data.test.classes == ("7", "8", "9")
    assert images_of(data.test)["8"] == ["chair_final/118_1.JPG", "chair_final/118_0.JPG"]
    assert data.test.root == home / place
    assert data.test[0][0].shape == (3, 292, 292)


# Folders


@pytest.fixture
def forgetful():
    """Calling it notices what changed in the folder."""
    return lambda: look_again("folder:birds")


def key_of(name: str) -> str:
    return RunConfig(model="resnet8x0.25", degradation=Degradation(8), data=name).key


def test_the_first_half_of_the_classes_is_trained_on(home):
    names = [f"bird {c}" for c in "cabedfgihjk"]
    folder = class_tree(home / "my birds", names, 3)
    (folder / "notes.txt").write_text("stray")
    write(folder / ".hidden" / "x.jpg")
    write(folder / "bird a" / "._0.jpg")
    write(folder / "bird a" / ".ipynb_checkpoints" / "0-checkpoint.jpg")
    (folder / "bird a" / "Thumbs.db").write_bytes(b"")
    write(folder / "bird a" / "9.JPEG")
    write(folder / "bird b" / "10.Png")
    data = load_retrieval("folder:my birds")
    check(data)
    assert data.train.classes == tuple(f"bird {c}" for c in "abcde")
    assert data.validation.classes == ("bird f",)
    assert data.test.classes == tuple(f"bird {c}" for c in "ghijk")
    found = images_of(data.train)
    assert found["bird a"] == [f"bird a/{x}" for x in ("0.png", "1.png", "2.png", "9.JPEG")]
    assert found["bird b"] == [f"bird b/{x}" for x in ("0.png", "1.png", "10.Png", "2.png")]
    assert data.name == "folder:my birds"


@given(classes=st.integers(5, 40))
@settings(max_examples=15, deadline=None)
def test_sizes_of_the_splits(tmp_path_factory, classes):
    folder = tmp_path_factory.mktemp("classes")
    for c in range(classes):
        (folder / f"{c:02d}").mkdir()
        (folder / f"{c:02d}" / "a.jpg").touch()
    data = load_retrieval(f"folder:{folder}")
    check(data)
    trained = (classes + 1) // 2
    held = max(1, trained // 5)
    sizes = [len(s.classes) for s in (data.train, data.validation, data.test)]
    assert sizes == [trained - held, held, classes - trained]
    names = data.train.classes + data.validation.classes + data.test.classes
    assert names == tuple(f"{c:02d}" for c in range(classes))


def test_train_and_test_are_the_split(home):
    class_tree(home / "birds" / "train", "abcd")
    class_tree(home / "birds" / "test", "xyz", 1)
    data = load_retrieval("folder:birds@32")
    check(data)
    assert [s.classes for s in (data.train, data.validation, data.test)] == [
        ("a", "b", "c"),
        ("d",),
        ("x", "y", "z"),
    ]
    assert data.train.files == tuple(f"train/{c}/{i}.png" for c in "abc" for i in range(2))
    assert data.test.files == ("test/x/0.png", "test/y/0.png", "test/z/0.png")
    assert data.train[5][0][:, 5, 5].tolist() == list(colour(5))


@pytest.mark.parametrize("names", [("Train", "Test"), ("TRAINING", "testing")])
def test_the_split_by_other_names(home, names):
    class_tree(home / "birds" / names[0], "abc")
    class_tree(home / "birds" / names[1], "xy")
    data = load_retrieval("folder:birds@32")
    check(data)
    assert data.train.files == tuple(f"{names[0]}/{c}/{i}.png" for c in "ab" for i in range(2))
    assert data.test.classes == ("x", "y")


SPLIT_TREES = {
    "all three": ["train/a", "train/b", "val/a", "val/b", "test/a", "test/b"],
    "without a test": ["train/a", "train/b", "train/c", "valid/d", "valid/e"],
    "another name": ["train/a", "train/b", "train/c", "Validation/d", "test/e", "test/f"],
    "with years": ["train2017/a", "train2017/b", "val2017/c", "val2017/d"],
    "among classes, with years": ["a", "b", "c", "d", "train2017", "val2017"],
    "in capitals": ["TRAIN/a", "TRAIN/b", "TRAIN/c", "VAL/d", "VAL/e"],
    "among classes": ["a", "b", "c", "test", "train"],
    "alone among classes": ["a", "b", "c", "d", "e", "Val"],
    "beside something else": ["train/a", "train/b", "train/c", "test/d", "test/e", "models/f"],
    "without classes in them": ["train", "test"],
    "a test without labels": ["train/a", "train/b", "train/c", "test"],
    "one alone": ["train/a", "train/b", "train/c", "train/d", "train/e"],
}


@pytest.mark.parametrize("tree", SPLIT_TREES)
def test_splits_are_not_taken_for_classes(home, forgetful, tree):
    for name in SPLIT_TREES[tree]:
        class_tree(home / "birds", [name], 3)
    message = refusal("folder:birds@32")
    split = next(p.name for p in sorted((home / "birds").iterdir()) if split_of(p.name))
    assert split in message
    assert "give it another name" in message
    named = re.search(r"name one split \(folder:([^)]+)\)", message)
    if named:  # which is of use
        assert len([p for p in Path(named[1]).iterdir() if p.is_dir()]) > 1
    else:
        assert "without" in tree or "among" in tree
    with pytest.raises(HorkdError, match="is taken for the name of a split, not of a class"):
        key_of("folder:birds@32")  # nothing is queued


NAMES_OF = {
    "train": ["Train", "train2017", "Training Set", "train_data", "train ", "trainval"],
    "validation": ["VAL", "valid_images", "dev"],
    "test": ["Testing_Set", "test-v2", "eval"],
    "query": ["query"],
    "gallery": ["Gallery"],
    None: ["trains", "testudo", "data", "001", "devil", "é"],
}


@pytest.mark.parametrize(
    ("split", "name"), [(s, n) for s, names in NAMES_OF.items() for n in names]
)
def test_names_of_splits(split, name):
    assert split_of(name) == split


def test_images_beside_the_classes_are_counted(home):
    folder = class_tree(home / "birds", "abcde")
    for name in ("loose.png", "loose too.jpg", "notes.txt"):
        (folder / name).write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"images beside the folders of classes .* \(2\)"):
        load_retrieval("folder:birds")


def test_one_split_by_its_name(home):
    class_tree(home / "birds" / "train", "abcdef")
    class_tree(home / "birds" / "val", "abcdef")
    data = load_retrieval("folder:birds/train@32")
    check(data)
    assert (data.train.classes, data.test.classes) == (("a", "b"), tuple("def"))


def test_splits_within_a_split(home):
    for half, classes in (("train", "abc"), ("test", ["x", "y", "train"])):
        class_tree(home / "birds" / half, classes)
    assert f"{home}/birds/test/train is taken for a split, not for a class" in refusal(
        "folder:birds"
    )


def test_a_folder_around_the_one_of_classes(home):
    class_tree(home / "download" / "birds", "abcde")
    assert refusal("folder:download") == (
        f"{home}/download holds the one folder birds, and that holds others: name that one, "
        f"folder:{home}/download/birds"
    )
    (home / "download" / "__MACOSX" / "birds").mkdir(parents=True)  # as an archive has it
    assert "name that one" in refusal("folder:download")
    check(load_retrieval("folder:download/birds"))


def test_what_systems_leave_is_no_class(home):
    folder = class_tree(home / "birds", "abcde")
    class_tree(folder, ["__MACOSX", "@eaDir", ".trash", "a/@eaDir"])
    for litter in ("Thumbs.db", ".DS_Store", "desktop.ini", "._0.png"):
        (folder / "a" / litter).write_bytes(b"x")
    data = load_retrieval("folder:birds")
    assert data.train.classes + data.validation.classes + data.test.classes == tuple("abcde")
    assert images_of(data.train)["a"] == ["a/0.png", "a/1.png"]


@pytest.mark.parametrize("names", [("duck", "Duck"), ("B\u00e4r", "Ba\u0308r")])
def test_classes_that_differ_in_capitals_or_accents_alone(home, names):
    class_tree(home / "birds", ["a", "c", "d", *names])
    assert "which differ in capitals alone: join them" in refusal("folder:birds")
    class_tree(home / "split" / "train", ["a", "c", names[0]])
    class_tree(home / "split" / "test", ["x", "y", names[1]])
    assert f"has the class {names[0]} in train and in test" in refusal("folder:split")


def test_folders_within_those_of_all_classes(home):
    for name in "abcde":
        class_tree(home / "birds" / name, ["young", "old"], 1)
    with pytest.warns(UserWarning, match="no class has images of its own") as said:
        data = load_retrieval("folder:birds")
    assert len(said) == 1
    assert images_of(data.train)["a"] == ["a/old/0.png", "a/young/0.png"]
    write(home / "birds" / "c" / "0.png")
    check(load_retrieval("folder:birds"))  # without a warning, which would be an error


def test_links_among_folders(home, tmp_path):
    class_tree(tmp_path / "elsewhere", ["d"])
    folder = class_tree(home / "birds", "abc")
    (folder / "d").symlink_to(tmp_path / "elsewhere" / "d")
    (folder / "e").symlink_to(folder / "gone")  # to nowhere
    class_tree(folder, "f")
    (folder / "a" / "again").symlink_to(folder / "a")  # a circle, which is gone round once
    data = load_retrieval("folder:birds")
    assert data.train.classes + data.validation.classes + data.test.classes == tuple("abcdf")
    assert images_of(data.train)["a"] == ["a/0.png", "a/1.png"]
    assert images_of(data.test)["d"] == ["d/0.png", "d/1.png"]
    (folder / "b" / "all").symlink_to(folder)
    message = refusal("folder:birds")
    assert f"{folder}/b/all/a is a part of a and of b, by a link: remove the link" in message


# Endings

PHOTOS = ("a.JPG", "b.jpeg", "c.jpe", "d.jfif", "e.Png", "f.webp", "g.gif", "h.BMP", "i.tif",
          "j.TIFF", "k.heic", "l.HEIF", "m.avif", "n.ppm", "o.pgm")  # fmt: skip


def test_a_folder_is_read_as_the_demo_reads_pictures(home):
    """Every format by its own ending, and two under another's."""
    pillow_heif.register_heif_opener()  # to write some
    folder = class_tree(home / "birds", "abcde", 1)
    for k, name in enumerate(PHOTOS):
        write(folder / "a" / name, k, "L" if name.endswith("pgm") else "RGB")
    write(folder / "b" / "x.png", 7).rename(folder / "b" / "x.jpg")
    write(folder / "b" / "y.heic", 9).rename(folder / "b" / "y.jpg")
    frames = [Image.new("RGB", (20, 14), colour(k)) for k in (30, 40)]
    frames[0].save(folder / "b" / "z.gif", save_all=True, append_images=frames[1:])
    train = load_retrieval("folder:birds@16").train
    assert images_of(train)["a"] == ["a/0.png", *(f"a/{name}" for name in sorted(PHOTOS))]
    shown = {file: train[i][0].float().mean((1, 2)) for i, file in enumerate(train.files)}
    for k, name in enumerate(PHOTOS):
        if not name.endswith("pgm"):
            assert (shown[f"a/{name}"] - torch.tensor(colour(k)).float()).abs().max() < 12, name
    for name, k in (("x.jpg", 7), ("y.jpg", 9), ("z.gif", 30)):  # of several frames the first
        assert (shown[f"b/{name}"] - torch.tensor(colour(k)).float()).abs().max() < 12, name


def test_what_is_left_out_is_counted(home, forgetful):
    folder = class_tree(home / "birds", "abcde")
    for name in ("1.psd", "2.PSD", "3.mp4", "photo", "notes.txt", "boxes.XML", "Thumbs.db"):
        (folder / "a" / name).write_bytes(b"x")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        key_of("folder:birds")
        load_retrieval("folder:birds")
    (line,) = [str(one.message) for one in said]  # said once
    assert line.startswith(
        f"{folder}: 4 files are left out (2 .psd, 1 .mp4, 1 without ending): photos are .jpg, "
    )
    assert "\n" not in line


def test_heic_without_its_decoder_is_refused_before_anything_is_trained(home, monkeypatch):
    folder = class_tree(home / "birds", "abcde")
    # a file of that kind which no decoder knows, also if one was installed by another test
    (folder / "b" / "9.heic").write_bytes(b"\0\0\0\x18ftypnone" + bytes(100))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    message = refusal("folder:birds")
    assert f"{folder}/b/9.heic is a HEIC or AVIF file" in message
    assert "pip install -U pillow pillow-heif" in message
    assert listing_digest("folder:birds")  # records can be read all the same


def test_where_folders_are_looked_for(home, tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    message = refusal("folder:birds@me")
    assert f"there is no folder {home}/birds@me: name one" in message
    class_tree(work / "birds@me", "abcde", 1)
    assert refusal("folder:birds@me") == message  # not where a command happens to run
    class_tree(home / "birds@me", "abcde", 1)
    assert load_retrieval("folder:birds@me@64").train.root == home / "birds@me"
    monkeypatch.delenv("HORKD_DATA")
    message = refusal("folder:birds@me")
    assert "set HORKD_DATA to the folder that holds birds@me, or give its absolute path" in message
    assert load_retrieval(f"folder:{work}/birds@me").train.root == work / "birds@me"
    assert load_retrieval(f"folder:{home}/birds@me").train.root == home / "birds@me"
    assert f"there is no folder {home}/bees: name one" in refusal(f"folder:{home}/bees")
    monkeypatch.setenv("HOME", str(work))
    assert load_retrieval("folder:~/birds@me").train.root == work / "birds@me"
    assert "no home folder of that user" in refusal("folder:~nobody-of-this-name/birds@me")


def test_odd_folders(home):
    (home / "empty").mkdir()
    assert "folder:empty has 0 classes to train on and 0 to test on: at least" in refusal(
        "folder:empty"
    )
    class_tree(home / "four", "abcd")
    assert "has 2 classes to train on and 2 to test on" in refusal("folder:four")
    class_tree(home / "five", "abcde")
    assert load_retrieval("folder:five").validation.classes == ("c",)
    write(home / "five" / "f.jpg" / "notes.txt" / "a.jpg").rename(home / "five" / "f.jpg" / "a.txt")
    message = refusal("folder:five")
    assert f"{home}/five/f.jpg has no images (.jpg" in message
    class_tree(home / "both" / "train", "abc")
    class_tree(home / "both" / "test", "xbc")
    message = refusal("folder:both")
    assert f"{home}/both has the class b in train and in test (2 such classes)" in message
    class_tree(home / "one" / "train", "abc")
    class_tree(home / "one" / "test", "x")
    assert "has 3 classes to train on and 1 to test on" in refusal("folder:one")
    class_tree(home / "hole" / "train", "abc")
    class_tree(home / "hole" / "test", "xy")
    (home / "hole" / "test" / "z").mkdir()
    assert f"{home}/hole/test/z has no images" in refusal("folder:hole")


@pytest.mark.parametrize("locked", ["birds", "birds/b", "birds/b/more"])
def test_a_folder_that_cannot_be_listed(home, locked):
    root = class_tree(home / "birds", "abcde")
    write(root / "b" / "more" / "9.png")
    denied = PermissionError(13, "Permission denied", str(home / locked))
    with watch.refused(denied, "os.scandir", ending=locked):
        assert f"cannot list {home / locked}: Permission denied" in refusal("folder:birds")


# Which photos a folder holds


def split_tree(home: Path) -> Path:
    """Three classes to train on, two to test on, with two photos each."""
    class_tree(home / "birds" / "train", "abc")
    class_tree(home / "birds" / "test", "xy")
    return home / "birds"


def halves_tree(home: Path) -> Path:
    return class_tree(home / "birds", "abcdefgh")


TRAIN_A = {split_tree: "train/a", halves_tree: "a"}
TRAIN_B = {split_tree: "train/b", halves_tree: "b"}
TEST = {split_tree: "test/x", halves_tree: "g"}
OTHERS = {
    "a photo is added": lambda a, b, test: write(a / "9.png", 5),
    "a photo is added to the test": lambda a, b, test: write(test / "9.png", 5),
    "a photo is added below": lambda a, b, test: write(a / "more" / "9.png", 5),
    "a photo is removed": lambda a, b, test: (a / "1.png").unlink(),
    "a photo is removed from the test": lambda a, b, test: (test / "0.png").unlink(),
    "a photo has another size": lambda a, b, test: (a / "0.png").write_bytes(b"x"),
    "a photo is edited in place": lambda a, b, test: edit(a / "0.png"),
    "a photo is edited in the past": lambda a, b, test: edit(a / "0.png", times=(10**18, 10**18)),
    "two photos change names": lambda a, b, test: swap(a / "0.png", a / "1.png"),
    "photos of two classes are exchanged": lambda a, b, test: swap(a / "0.png", b / "0.png"),
    "the folder is replaced": lambda a, b, test: replaced(a),
    "a photo has another name": lambda a, b, test: (a / "0.png").rename(a / "8.png"),
    "a photo is of another class": lambda a, b, test: (a / "1.png").rename(b / "9.png"),
    "a photo is tested": lambda a, b, test: (a / "1.png").rename(test / "9.png"),
    "a class has another name": lambda a, b, test: a.rename(a.with_name("aa")),
    "a class is added": lambda a, b, test: write(test.with_name("zz") / "0.png"),
    "a class is removed": lambda a, b, test: shutil.rmtree(a),
}  # fmt: skip
SAME = {
    "nothing": lambda a, b, test: None,
    "a photo is written again": lambda a, b, test: (a / "0.png").write_bytes(
        (a / "0.png").read_bytes()
    ),
    "a photo is older": lambda a, b, test: os.utime(a / "0.png", (0, 0)),
    "a photo is read-only": lambda a, b, test: (a / "0.png").chmod(0o444),
    "notes are added": lambda a, b, test: (a / "notes.txt").write_text("x"),
    "notes are added above": lambda a, b, test: (a.parent / "notes.txt").write_text("x"),
    "a copy is hidden": lambda a, b, test: write(a / ".ipynb_checkpoints" / "0.png"),
    "a class is hidden": lambda a, b, test: write(a.parent / ".trash" / "0.png"),
    "an empty folder is added below": lambda a, b, test: (a / "empty").mkdir(),
    "the order on the disk": lambda a, b, test: rewritten(a),
}


def edit(path: Path, times: tuple[int, int] | None = None) -> None:
    """Other pixels in as many bytes, with the times that the photo had, or these."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    with path.open("r+b") as file:
        file.write(content)
    os.utime(path, ns=times or (stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size


def swap(one: Path, other: Path) -> None:
    """Two photos of one size exchange their names."""
    edit(one)
    assert one.stat().st_size == other.stat().st_size
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def replaced(folder: Path) -> None:
    """Another folder of the same names and sizes."""
    shutil.copytree(folder, folder.with_name(".new"))
    edit(folder.with_name(".new") / "0.png")
    shutil.rmtree(folder)
    folder.with_name(".new").rename(folder)


def rewritten(folder: Path) -> None:
    """The same photos, the last made first."""
    photos = [(path, path.read_bytes()) for path in sorted(folder.iterdir(), reverse=True)]
    shutil.rmtree(folder)
    folder.mkdir()
    for path, content in photos:
        path.write_bytes(content)


@pytest.mark.parametrize("tree", [split_tree, halves_tree])
@pytest.mark.parametrize("what", OTHERS)
def test_other_photos_make_other_keys(home, forgetful, tree, what):
    root = tree(home)
    before, key = listing_digest("folder:birds@16"), key_of("folder:birds@16")
    assert re.fullmatch("[0-9a-f]{16}", before)
    OTHERS[what](root / TRAIN_A[tree], root / TRAIN_B[tree], root / TEST[tree])
    forgetful()
    assert listing_digest("folder:birds@16") != before
    assert key_of("folder:birds@16") != key


def test_photos_that_change_places_make_another_key(home, forgetful):
    """Names and sizes are the same, but not which has which."""
    root = split_tree(home)
    one, other = root / "train" / "a" / "0.png", root / "train" / "b" / "0.png"
    one.write_bytes(b"longer than the other")
    other.write_bytes(b"short")
    before = listing_digest("folder:birds")
    one.write_bytes(b"short")
    other.write_bytes(b"longer than the other")
    forgetful()
    assert listing_digest("folder:birds") != before


@pytest.mark.parametrize("tree", [split_tree, halves_tree])
@pytest.mark.parametrize("what", SAME)
def test_the_same_photos_keep_their_key(home, forgetful, tree, what):
    root = tree(home)
    before, key = listing_digest("folder:birds@16"), key_of("folder:birds@16")
    SAME[what](root / TRAIN_A[tree], root / TRAIN_B[tree], root / TEST[tree])
    forgetful()
    assert listing_digest("folder:birds@16") == before
    assert key_of("folder:birds@16") == key


def test_a_listing_is_of_what_is_in_a_folder(home, forgetful, tmp_path):
    root = split_tree(home)
    digest = listing_digest("folder:birds")
    assert listing_digest("folder:birds@64") == digest
    assert listing_digest(f"folder:{root}") == digest
    shutil.copytree(root, tmp_path / "copy")
    assert listing_digest(f"folder:{tmp_path}/copy") == digest
    keys = {key_of(name) for name in ("folder:birds", "folder:birds@64", f"folder:{root}")}
    assert len(keys) == 3  # names are parts of keys, too


def test_a_folder_is_listed_once_per_process(home, forgetful):
    root = split_tree(home)
    before, key = listing_digest("folder:birds"), key_of("folder:birds")
    assert before == listing_digest("folder:birds")
    write(root / "train" / "a" / "9.png")
    assert listing_digest("folder:birds") == before  # a run keeps its key while it is trained
    assert key_of("folder:birds") == key
    forgetful()
    assert listing_digest("folder:birds") != before


def test_no_photo_is_decoded_for_a_listing(home, forgetful):
    for path in split_tree(home).rglob("*.png"):
        path.write_bytes(b"damaged")
    assert listing_digest("folder:birds")


def test_only_changed_photos_are_read_again(home, forgetful, monkeypatch, tmp_path):
    """By another process, too: sizes and times are kept with the digests."""
    monkeypatch.setenv("HORKD_CACHE", str(tmp_path / "cache"))
    root = split_tree(home)
    photos = sorted(root.rglob("*.png"))
    monkeypatch.setattr(fingerprint, "YOUNG", 0)
    before = listing_digest("folder:birds")
    (kept,) = (tmp_path / "cache" / "photos").glob("*.json")
    files = storage.load_json(kept)["files"]
    names = [path.relative_to(root).as_posix() for path in photos]
    assert sorted(files) == names
    files[names[1]][3] = "not read"
    storage.save_json(kept, {"files": files})
    forgetful()
    assert listing_digest("folder:birds") == before  # nothing changed: not even the cache is read
    os.utime(photos[0])
    forgetful()
    assert listing_digest("folder:birds") != before  # the others' digests come from there
    kept.write_text("damaged")
    os.utime(photos[0])
    forgetful()
    assert listing_digest("folder:birds") == before


def test_a_cache_that_cannot_be_written_costs_a_warning(home, forgetful, monkeypatch, tmp_path):
    split_tree(home)
    before = listing_digest("folder:birds")
    (tmp_path / "file").touch()
    monkeypatch.setenv("HORKD_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(fingerprint, "YOUNG", 0)
    with pytest.warns(UserWarning, match="going on without a cache of photos' digests: "):
        forgetful()
    assert listing_digest("folder:birds") == before


def test_a_data_set_has_the_photos_that_are_there(home, forgetful):
    """Once the process has noticed them."""
    root = split_tree(home)
    before = load_dataset("folder:birds@16")
    assert load_dataset("folder:birds@16") is before
    os.utime(root / "train" / "a" / "0.png", (0, 0))
    forgetful()
    assert load_dataset("folder:birds@16") is before
    write(root / "train" / "a" / "9.png")
    forgetful()
    assert len(load_dataset("folder:birds@16").train) == len(before.train) + 1


def test_folders_of_one_name_in_two_places_are_two(home, forgetful, monkeypatch, tmp_path):
    split_tree(home)
    before = listing_digest("folder:birds")
    write(split_tree(tmp_path / "elsewhere") / "train" / "a" / "9.png")
    monkeypatch.setenv("HORKD_DATA", str(tmp_path / "elsewhere"))
    assert listing_digest("folder:birds") != before


def test_a_listing_of_no_folder(home, forgetful):
    for ask in (listing_digest, key_of):
        with pytest.raises(HorkdError, match="there is no folder") as error:
            ask("folder:birds")
        assert "\n" not in str(error.value)
    split_tree(home)
    assert listing_digest("folder:birds")  # that it was not there is not remembered


def test_other_sets_are_not_listed_for_a_key(monkeypatch):
    def no(_name):
        raise AssertionError("only folders are listed")

    monkeypatch.setattr("horkd.lab.config.listing_digest", no)
    monkeypatch.delenv("HORKD_DATA", raising=False)
    assert len({key_of(name) for name in ("cub", "cub@224", "sop", "glyphs-disjoint")}) == 4


def test_a_listing_of_names_in_another_encoding(home, forgetful):
    """As unpacked from an old archive; such photos are decoded all the same."""
    root = split_tree(home)
    (root / "train" / "a" / "0.png").rename(root / "train" / "a" / os.fsdecode(b"\xe4.png"))
    assert load_retrieval("folder:birds@8").train.load().shape[0] == 4
    assert listing_digest("folder:birds")


def test_a_listing_with_a_link_to_nowhere(home, forgetful):
    (split_tree(home) / "train" / "a" / "8.png").symlink_to(home / "gone.png")
    with pytest.raises(HorkdError, match=r"8\.png"):
        listing_digest("folder:birds")


# Photos of every set


@pytest.mark.parametrize(("size", "margin"), [(224, 16), (256, 18), (96, 7), (8, 1), (1024, 73)])
def test_margin(home, size, margin):
    class_tree(home / "x", "abcde", 1)
    data = load_retrieval(f"folder:x@{size}")
    for split in (data.train, data.validation, data.test):
        assert (split.size, split.margin) == (size, margin)
    assert data.train[0][0].shape == (3, size + 2 * margin, size + 2 * margin)
    if size >= 96:
        assert abs(size / (size + 2 * margin) - 224 / 256) < 0.004


@pytest.mark.parametrize(("width", "height"), [(256, 256), (512, 128), (200, 640)])
def test_the_crop_is_the_centre_of_the_squeezed_photo(home, width, height):
    """A ramp from left to right and from top to bottom tells where each pixel comes from."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    pixels = (np.stack([x, y, 0 * x], -1) * 255).round().astype(np.uint8)
    folder = class_tree(home / "x", "abcde", 1)
    Image.fromarray(pixels).save(folder / "a" / "0.png")
    split = load_retrieval("folder:x@224").train
    image = split[0][0]
    assert image.shape == (3, 256, 256)
    if (width, height) == (256, 256):  # nothing is resized
        assert torch.equal(image, torch.from_numpy(pixels).permute(2, 0, 1))
    place = (torch.arange(256) + 0.5) / 256 * 255
    want = torch.stack(torch.meshgrid(place, place, indexing="xy"))
    assert (image[:2].float() - want).abs()[:, 2:-2, 2:-2].max() < 2
    centre = image[:, 16:240, 16:240]
    assert abs(int(centre[0, 0, 0]) - 16.5 / 256 * 255) < 2
    assert abs(int(centre[1, -1, 0]) - 239.5 / 256 * 255) < 2


def noise(path: Path, number: int) -> None:
    """A photo that looks different everywhere, and is no square."""
    rng = np.random.default_rng(number)
    shape = (30 + 7 * number, 44 - 3 * number, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(path)


@pytest.fixture
def noisy(home) -> Dataset:
    """Photos of 28 pixels and a margin of two."""
    for k, name in enumerate("abcdef"):
        for i in range(2):
            noise(home / "noise" / name / f"{i}.png", 2 * k + i)
    data = load_retrieval("folder:noise@28")
    assert (data.size, data.test.margin, data.test.crop) == (28, 2, WHOLE_CROP)
    return data


def by_hand(files: PhotoFiles) -> torch.Tensor:
    """Each photo squeezed into 32 pixels, of which the central 28 are left."""
    images = []
    for file in files.files:
        photo = Image.open(files.root / file).convert("RGB")
        squeezed = np.asarray(photo.resize((32, 32), Image.Resampling.BICUBIC))
        images.append(torch.from_numpy(squeezed[2:30, 2:30].copy()).permute(2, 0, 1))
    return torch.stack(images)


@pytest.mark.parametrize("batch_size", [1, 4, 500])
def test_a_network_is_tested_on_the_centre_of_whole_photos(noisy, batch_size):
    parts = list(predict_._parts(noisy.test, batch_size))
    assert [len(part) for part in parts] == {1: [1] * 6, 4: [4, 2], 500: [6]}[batch_size]
    want = by_hand(noisy.test)
    assert torch.equal(torch.cat(parts), want)
    # not all of the photo, made smaller
    assert not torch.equal(replace(noisy.test, margin=0).load(), want)


@pytest.mark.parametrize("pixels", [28, 14])
@pytest.mark.parametrize("batch_size", [4, None])
def test_features_of_whole_photos_are_of_their_centre(noisy, batch_size, pixels):
    net, view = tiny.network(), Degradation(pixels)
    disk = predict_.predict(net, noisy.test, noisy, view, batch_size)
    memory = predict_.predict(net, by_hand(noisy.test), noisy, view)
    torch.testing.assert_close(disk.features, memory.features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(disk.logits, memory.logits, atol=1e-5, rtol=1e-5)
    squeezed = predict_.predict(net, replace(noisy.test, margin=0).load(), noisy, view)
    assert (disk.features - squeezed.features).abs().max() > 1e-2


def test_retrieval_among_whole_photos_is_among_their_centres(noisy):
    net, view = tiny.network(), Degradation(28)
    images = ImageSet(by_hand(noisy.test), noisy.test.labels, noisy.test.classes)
    found = RETRIEVAL(Asked(net, noisy, view))
    assert found == RETRIEVAL(Asked(net, replace(noisy, test=images), view))
    assert found["queries"] == 6


def test_the_margin_of_other_crops_is_left_out_before_decoding(noisy):
    files = replace(noisy.test, crop=FULL_CROP)
    parts = torch.cat(list(predict_._parts(files, 4)))
    assert parts.shape == (6, 3, 28, 28)
    assert torch.equal(parts, replace(files, margin=0).load())


@pytest.mark.parametrize("name", TREES)
def test_sets_open_without_decoding(home, name):
    TREES[name](home)
    for path in home.rglob("*"):
        if path.suffix.lower() in (".jpg", ".png"):
            path.write_bytes(b"damaged")

    no = AssertionError("no photo is opened when a set is opened")
    jpeg, png = (watch.refused(no, "open", ending=kind) for kind in (".jpg", ".png"))
    with jpeg, png:
        data = load_retrieval(name)
    check(data)
    for split in (data.train, data.validation, data.test):
        with pytest.raises(HorkdError) as error:
            split[0]
        message = str(error.value)
        assert "\n" not in message
        assert f"{split.root / split.files[0]} cannot be decoded" in message


def test_a_missing_photo_is_named_when_it_is_asked_for(home):
    folder = cub_tree(home)
    file = next(file for _, file, c in cub_rows() if c == 200)
    (folder / "images" / file).unlink()
    test = load_retrieval("cub").test
    with pytest.raises(HorkdError, match=re.escape(f"{folder / 'images' / file} is gone")):
        test[test.files.index(file)]


@pytest.mark.parametrize(("workers", "start"), [(0, None), (2, None)])
@pytest.mark.parametrize("name", TREES)
def test_data_loader(home, name, workers, start):
    TREES[name](home)
    test = load_retrieval(f"{name}@8").test
    loader = DataLoader(test, 2, num_workers=workers, multiprocessing_context=start)
    images, labels, index = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert torch.equal(images, test.load())
    assert torch.equal(labels, test.labels)
    assert index.tolist() == list(range(len(test)))


@pytest.mark.parametrize("name", TREES)
def test_the_first_images_of_each_class(home, name):
    TREES[name](home)
    everything, some = load_retrieval(name), load_retrieval(name, 1)
    check(some)
    for split in ("train", "validation", "test"):
        whole, part = getattr(everything, split), getattr(some, split)
        assert part.classes == whole.classes
        assert images_of(part) == {name: files[:1] for name, files in images_of(whole).items()}
        places = [whole.files.index(file) for file in part.files]
        assert places == sorted(places)


@pytest.mark.parametrize("name", TREES)
def test_sets_are_pickled(home, name):
    TREES[name](home)
    data = load_retrieval(name)
    copy = pickle.loads(pickle.dumps(data))
    assert copy.train.files == data.train.files
    assert torch.equal(copy.test.labels, data.test.labels)


# Absent and damaged sets


@pytest.mark.parametrize(
    ("name", "path", "whose"),
    [
        ("cub", "cub/CUB_200_2011", "Caltech-UCSD Birds-200-2011, from Caltech"),
        ("cars", "cars", "Cars196, from Stanford"),
        ("sop", "sop/Stanford_Online_Products", "Stanford Online Products, from Stanford"),
    ],
)
def test_absent_sets(home, name, path, whose, monkeypatch):
    message = refusal(name)
    assert f"{home / path} is not there: the data folder must hold {name}/" in message
    assert whose in message
    monkeypatch.delenv("HORKD_DATA")
    message = refusal(f"{name}@224")
    assert f"set HORKD_DATA to the folder that holds {name}/" in message
    assert whose in message


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("cub", "images.txt"),
        ("cub", "image_class_labels.txt"),
        ("cub", "images"),
        ("cars", "names.csv"),
        ("cars", "anno_train.csv"),
        ("cars", "anno_test.csv"),
        ("cars", "car_data"),
        ("sop", "Ebay_train.txt"),
        ("sop", "Ebay_test.txt"),
    ],
)
def test_absent_parts(home, name, part):
    folder = TREES[name](home)
    (folder / part).rename(folder / "elsewhere")
    absent = "cars_annos.mat" if part == "names.csv" else part
    message = refusal(name)
    assert f"{folder / absent}" in message
    assert "is not there: the data folder must hold" in message


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("cub", "images.txt"),
        ("cars", "anno_test.csv"),
        ("cars", "names.csv"),
        ("sop", "Ebay_test.txt"),
    ],
)
@pytest.mark.parametrize(
    ("content", "says"), [(b"", "is empty"), (b"\n", "is empty"), (b"\xff\xfe1 2\n", "cannot read")]
)
def test_lists_without_text(home, name, part, content, says):
    folder = TREES[name](home)
    (folder / part).write_bytes(content)
    message = refusal(name)
    assert says in message
    assert str(folder / part) in message


@pytest.mark.parametrize("name", ["cub", "cars", "sop"])
def test_without_pytorch_metric_learning(home, name, monkeypatch):
    TREES[name](home)
    module = {"cars": "cars196"}.get(name, name)
    monkeypatch.setitem(sys.modules, f"pytorch_metric_learning.datasets.{module}", None)
    assert "pip install 'horkd[metric]'" in refusal(name)


def test_a_layout_that_pytorch_metric_learning_does_not_know(home):
    from pytorch_metric_learning.datasets.cub import CUB as Reader

    folder = cub_tree(home)

    with watch.failing(FileNotFoundError(2, "No such file", "other.txt"), Reader.generate_split):
        message = refusal("cub")
    assert f"pytorch-metric-learning cannot read cub in {folder.parent}" in message
    assert "other.txt" in message


NUMBERS = "line 5: expected an image's number and its class, 1 to 200, got "
FILE = "images.txt, line 3: expected an image's number and its folder/file without spaces, got "


@pytest.mark.parametrize(
    ("part", "line", "row", "says"),
    [
        ("images.txt", 15, None, "images.txt has 14 lines, image_class_labels.txt has 15"),
        ("image_class_labels.txt", 15, None, "has 15 lines, image_class_labels.txt has 14"),
        ("image_class_labels.txt", 5, "6 100", "line 5: image 6, where images.txt has image 5"),
        ("image_class_labels.txt", 5, "5", f"{NUMBERS}'5'"),
        ("image_class_labels.txt", 5, "5 201", f"{NUMBERS}'5 201'"),
        ("image_class_labels.txt", 5, "5 0", f"{NUMBERS}'5 0'"),
        ("image_class_labels.txt", 5, "5 -3", f"{NUMBERS}'5 -3'"),
        ("image_class_labels.txt", 5, "5 x", f"{NUMBERS}'5 x'"),
        ("image_class_labels.txt", 5, "5 " + "9" * 5000, f"{NUMBERS}'5 999"),
        ("image_class_labels.txt", 5, "", f"{NUMBERS}''"),
        (
            "image_class_labels.txt",
            14,
            "14 20",
            "has class 20, others of its folder have class 200",
        ),
        ("images.txt", 3, "3 7.x/a photo.jpg", f"{FILE}'3 7.x/a photo.jpg'"),
        ("images.txt", 3, "3", f"{FILE}'3'"),
        ("images.txt", 3, "3 a.jpg", f"{FILE}'3 a.jpg'"),
        ("images.txt", 3, "3 /etc/a.jpg", f"{FILE}'3 /etc/a.jpg'"),
        (
            "images.txt",
            14,
            "14 007.Bird_7/Bird_0_3.png",
            "line 14: 007.Bird_7/Bird_0_3.png was named",
        ),
    ],
)
def test_damaged_cub(home, part, line, row, says):
    path = cub_tree(home) / part
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows[: line - 1], *([] if row is None else [row]), *rows[line:]]))
    message = refusal("cub")
    assert says in message
    assert str(path.parent) in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        ((101, 102, 103, 104), "has 0 classes to train on and 4 to test on"),
        ((1, 2, 3, 4), "has 4 classes to train on and 0 to test on"),
        ((1, 2, 101, 102), "has 2 classes to train on and 2 to test on"),
        ((1, 2, 3, 200), "has 3 classes to train on and 1 to test on"),
    ],
)
def test_a_half_without_classes(home, classes, says):
    folder = home / "cub" / "CUB_200_2011"
    cub_lists(folder, [(i, f"{c}.x/{i}.jpg", c) for i, c in enumerate(classes, 1)])
    (folder / "images").mkdir()
    assert says in refusal("cub")


ROW = "a file, the four numbers of its box and its class, 1 to 196"


@pytest.mark.parametrize(
    ("part", "row", "says"),
    [
        ("anno_train.csv", "00002.jpg,39,116", f"line 2: expected {ROW}, got '00002.jpg,39,116'"),
        ("anno_train.csv", "fname,x1,y1,x2,y2,class", f"line 2: expected {ROW}"),
        ("anno_train.csv", "00002.jpg,1,1,1,1,0", "line 2: expected"),
        ("anno_test.csv", "00002.jpg,1,1,1,1,197", "anno_test.csv, line 2: expected"),
        ("anno_test.csv", ",1,1,1,1,1", "line 2: expected"),
        ("anno_test.csv", "/a.jpg,1,1,1,1,1", "line 2: expected"),
        ("anno_test.csv", "00001.jpg,1,1,1,1,2", "line 2: 00001.jpg was named before"),
        ("names.csv", "", "class 2 has no name in names.csv"),
    ],
)
def test_damaged_cars(home, part, row, says):
    path = cars_kaggle(home) / part
    rows = path.read_text().splitlines()
    path.write_text("\n".join([rows[0], row, *rows[2:]]) + "\n")
    message = refusal("cars")
    assert says in message
    assert str(path.parent) in message


def test_cars_of_too_few_names(home):
    folder = cars_kaggle(home)
    names = (folder / "names.csv").read_text().splitlines()
    (folder / "names.csv").write_text("\n".join(names[:150]))
    message = refusal("cars")
    assert f"{folder}/anno_train.csv, line 1: class 196 has no name in names.csv" in message


def test_damaged_cars_annos(home):
    path = cars_original(home) / "cars_annos.mat"
    whole = path.read_bytes()
    for content in (b"", b"no mat file", whole[:200], whole[:-300]):
        path.write_bytes(content)
        assert f"cannot read {path} (" in refusal("cars")
    savemat(path, {"other": np.zeros(3)})
    assert f"cannot read {path} (" in refusal("cars")
    savemat(path, {"annotations": np.zeros(3)})
    assert f"cannot read {path} (" in refusal("cars")
    rows = [("car_ims/000001.jpg", 1), ("car_ims/000002.jpg", 2)]
    for row, says in (
        (("car_ims/000003.jpg", 0), "annotation 3: expected a photo and its class, 1 to 196, got"),
        (("car_ims/000003.jpg", 197), "got 'car_ims/000003.jpg 197'"),
        (("/car_ims/000003.jpg", 3), "annotation 3: expected"),
        (("car_ims/000002.jpg", 2), "annotation 3: car_ims/000002.jpg was named before"),
        (("car_ims/000003.jpg", "x"), "cannot read"),
        (("car_ims/000003.jpg", np.zeros(0)), "cannot read"),
    ):
        savemat(path, {"annotations": annotations([*rows, row])})
        message = refusal("cars")
        assert says in message
        assert str(path) in message
    savemat(path, {"annotations": annotations(rows[:1])})
    assert "has 1 classes to train on and 0 to test on" in refusal("cars")
    path.write_bytes(whole)
    (path.parent / "car_ims").rename(path.parent / "elsewhere")
    assert f"{path.parent}/car_ims is not there" in refusal("cars")


@pytest.mark.parametrize(
    ("split", "line", "row", "says"),
    [
        ("train", 1, "1 1 1 a_final/1.JPG", "Ebay_train.txt, line 1: expected the titles image_id"),
        (
            "train",
            3,
            "2 1 1",
            "Ebay_train.txt, line 3: expected image_id class_id super_class_id path",
        ),
        ("train", 3, "2 0 1 a_final/2.JPG", "line 3: expected"),
        ("test", 3, "2 22635 1 a_final/2.JPG", "Ebay_test.txt, line 3: expected"),
        ("test", 3, "x 7 1 a_final/2.JPG", "line 3: expected"),
        ("test", 3, "2 7 1 a final/2.JPG", "path without spaces), got '2 7 1 a final/2.JPG'"),
        ("test", 3, "2 7 1 /a_final/2.JPG", "line 3: expected"),
        ("test", 3, "", "line 3: expected"),
        ("test", 3, "2 6 1 a_final/2.JPG", "line 3: class 6 is in Ebay_train.txt, too"),
        ("test", 3, "2 7 1 bicycle_final/111_1.JPG", "bicycle_final/111_1.JPG was named before"),
    ],
)
def test_damaged_sop(home, split, line, row, says):
    path = sop_tree(home) / f"Ebay_{split}.txt"
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows[: line - 1], row, *rows[line:]]) + "\n")
    message = refusal("sop")
    assert says in message
    assert str(path) in message


def test_sop_without_rows(home):
    folder = sop_tree(home)
    (folder / "Ebay_test.txt").write_text(SOP_TITLES)
    assert "sop has 6 classes to train on and 0 to test on" in refusal("sop")


# The embedded set and CIFAR-100


def test_glyphs():
    data, official = load_retrieval("glyphs-disjoint", 8), load_glyphs(8)
    check(data)
    assert data.validation.classes == CHARACTERS[4::5]
    assert data.train.classes == tuple(c for i, c in enumerate(CHARACTERS) if i % 5 != 4)
    assert data.test.classes == UNSEEN_CHARACTERS
    assert (len(data.train), len(data.validation)) == (640, 160)
    assert torch.equal(data.test.images, official.unseen.images)
    assert (data.name, data.size, data.flip) == ("glyphs-disjoint", 32, False)
    assert (data.mean, data.std) == (official.mean, official.std)
    for split in (data.train, data.validation):
        for image, label, i in zip(split.images, split.labels, split.ids, strict=True):
            assert torch.equal(image, official.train.images[i])
            assert split.classes[label] == CHARACTERS[official.train.labels[i]]
    assert len(torch.cat([data.train.ids, data.validation.ids]).unique()) == 800


@pytest.fixture
def small_cifar(home) -> dict[str, np.ndarray]:
    """Official files in form, with 53 + 2 training and 2 test images of each class.

    The first bytes of an image are its place in its file, its file and its class.
    """
    folder = home / CIFAR100.base_folder
    folder.mkdir()
    labels = {}
    for k, (split, each) in enumerate({"train": 55, "test": 2}.items()):
        labels[split] = np.random.default_rng(k).permutation(np.repeat(np.arange(100), each))
        pixels = np.zeros((len(labels[split]), 3072), np.uint8)
        place = np.arange(len(pixels))
        pixels[:, 0], pixels[:, 1], pixels[:, 2], pixels[:, 3] = (
            place // 256, place % 256, k, labels[split],
        )  # fmt: skip
        content = {"data": pixels, "fine_labels": labels[split].tolist()}
        (folder / split).write_bytes(pickle.dumps(content))
    return labels


def origin(images: ImageSet) -> list[tuple[int, int, int]]:
    """Place in the file, file (0: train) and class of each image, as drawn in `small_cifar`."""
    first = images.images[:, 0, 0, :4].long()
    return [(256 * a + b, k, c) for a, b, k, c in first.tolist()]


@pytest.fixture
def unchecked(monkeypatch):
    """Take files that are not the official ones."""
    names = [f"class {c:02d}" for c in range(100)]

    def opened(root: Path, train: bool) -> SimpleNamespace:
        file = root / CIFAR100.base_folder / ("train" if train else "test")
        content = pickle.loads(file.read_bytes())
        pixels = content["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return SimpleNamespace(data=pixels, targets=content["fine_labels"], classes=names)

    monkeypatch.setattr(cifar, "_open", opened)


@pytest.mark.parametrize("per_class", [None, 3])
def test_cifar(small_cifar, unchecked, per_class):
    data = load_retrieval("cifar100-disjoint", per_class)
    check(data)
    names = tuple(f"class {c:02d}" for c in range(100))
    assert data.train.classes == names[:64]
    assert data.validation.classes == names[64:80]
    assert data.test.classes == names[80:]
    assert (data.mean, data.std, data.flip, data.size) == (cifar.MEAN, cifar.STD, True, 32)
    wanted = {"train": (range(64), (0,)), "validation": (range(64, 80), (0,))}
    wanted["test"] = range(80, 100), (0, 1)
    for split, (classes, files) in wanted.items():
        images = getattr(data, split)
        want = [
            (i, k, c)
            for k in files
            for i, c in enumerate(small_cifar["train" if k == 0 else "test"].tolist())
            if c in classes
        ]
        if per_class is not None:
            seen: dict[int, int] = {}
            kept = []
            for row in want:
                seen[row[2]] = seen.get(row[2], 0) + 1
                if seen[row[2]] <= per_class:
                    kept.append(row)
            want = kept
        assert origin(images) == want
        if split != "test":  # ids are places in the official file
            assert images.ids.tolist() == [i for i, _, _ in want]
        assert [classes[label] for label in images.labels.tolist()] == [c for _, _, c in want]


def test_cifar_per_class(small_cifar):
    assert "per_class must lie in 1 to 500 for cifar100-disjoint, got 501" in refusal(
        "cifar100-disjoint", 501
    )


@pytest.mark.timeout(120)
def test_real_cifar():
    folder = os.environ.get("HORKD_DATA", "").strip()
    if not folder or not (Path(folder) / CIFAR100.base_folder).is_dir():
        pytest.skip("HORKD_DATA has no cifar-100-python")
    data = load_retrieval("cifar100-disjoint")
    check(data)
    assert [len(s) for s in (data.train, data.validation, data.test)] == [32_000, 8_000, 12_000]
    assert set(data.train.labels.bincount().tolist()) == {500}
    assert set(data.test.labels.bincount().tolist()) == {600}
    assert data.train.classes[0] == "apple"
    assert data.test.classes[-1] == "worm"
    assert len(data.train) == retrieval_images("cifar100-disjoint")


# Numbers of training images


@pytest.mark.parametrize(
    ("name", "per_class", "validation", "count"),
    [
        ("glyphs-disjoint", None, False, 10_000),
        ("glyphs-disjoint", None, True, 8_000),
        ("glyphs-disjoint", 8, True, 640),
        ("glyphs-disjoint", 200, False, 20_000),
        ("cifar100-disjoint", None, False, 40_000),
        ("cifar100-disjoint", None, True, 32_000),
        ("cifar100-disjoint", 10, True, 640),
        ("cub", None, False, 5_864),
        ("cub@224", None, True, 4_692),
        ("cub", 10, False, 1_000),
        ("cars", None, False, 8_054),
        ("cars@64", None, True, 6_493),
        ("sop", None, False, 59_551),
        ("sop", 1, False, 11_318),
    ],
)
def test_numbers_of_training_images(name, per_class, validation, count):
    assert retrieval_images(name, per_class, validation) == count


def test_numbers_of_training_images_agree_with_the_set(home):
    data = load_retrieval("glyphs-disjoint", 4)
    for validation in (False, True):
        count = retrieval_images("glyphs-disjoint", 4, validation)
        assert count == len(data.training(validation))
    class_tree(home / "x", "abcdefghijk", 3)
    data = load_retrieval("folder:x", 2)
    assert retrieval_images("folder:x", 2) == len(data.train) == 10
    assert retrieval_images("folder:x@64", validation=False) == 18
    with pytest.raises(HorkdError, match="there is no folder"):
        retrieval_images("folder:y")
