"""Face data sets: crops of photos, and readers of the official layouts, on small drawn trees."""

import csv
import io
import itertools
import math
import os
import pickle
import warnings
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import watch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import of_fold
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch.utils.data import DataLoader

from horkd.data.face_sets import TRAINING, load_tinyface, load_training_faces, load_uccs
from horkd.data.lfw import load_lfw, load_xqlfw
from horkd.data.listing import LAYOUTS
from horkd.data.pairs import sample_pairs
from horkd.data.photos import BOX_CROP, CENTRE_CROP, FULL_CROP, Crop, PhotoFiles
from horkd.errors import HorkdError
from horkd.protocols.verification import Pairs


def ramp(width: int, height: int) -> np.ndarray:
    """A photo with its columns in red and its rows in green, so that a crop tells its place."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    return np.stack([x, y, np.full_like(x, 200)], -1).astype(np.uint8)


def write(path: Path, pixels=None, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = ramp(20, 20) if pixels is None else pixels
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(path, **options)
    return path


def plain(colour: tuple[int, int, int], size: int = 20) -> np.ndarray:
    return np.full((size, size, 3), colour, np.uint8)


def one(path: Path, **fields) -> PhotoFiles:
    return PhotoFiles(
        path.parent, (path.name,), torch.zeros(1, dtype=torch.int64), ("A",), **fields
    )


def expected(x: float, y: float, side: float, size: int) -> np.ndarray:
    """Column and row in the photo under each pixel of a crop: what a ramp shows there."""
    step = side / size
    columns = [x - side / 2 + (j + 0.5) * step - 0.5 for j in range(size)]
    rows = [y - side / 2 + (j + 0.5) * step - 0.5 for j in range(size)]
    return np.stack(np.meshgrid(columns, rows))


# Crops


@pytest.mark.parametrize("margin", [0, 10])
def test_centre_crop_shows_the_square_above_the_centre(tmp_path, margin):
    path = write(tmp_path / "a.png", ramp(250, 250))
    image, label, index = one(path, margin=margin)[0]
    whole = 112 + 2 * margin
    assert image.dtype == torch.uint8
    assert image.shape == (3, whole, whole)
    assert (label, index) == (0, 0)
    want = expected(125, 119, 132 * whole / 112, whole)
    assert np.abs(image[:2].numpy() - want).max() <= 1
    assert (image[2] == 200).all()


@pytest.mark.parametrize(("width", "height"), [(250, 200), (160, 250)])
def test_centre_crop_counts_in_shorter_sides(tmp_path, width, height):
    path = write(tmp_path / "a.png", ramp(width, height))
    image = one(path, crop=Crop("centre", 0.5, 0.1), size=40)[0][0]
    short = min(width, height)
    want = expected(width / 2, height / 2 - 0.1 * short, 0.5 * short, 40)
    assert np.abs(image[:2].numpy() - want).max() <= 1


@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_box_crop_is_a_square_around_the_box(tmp_path, scale):
    path = write(tmp_path / "a.png", ramp(250, 200))
    boxes = torch.tensor([[60.5, 40.0, 110.5, 120.0]])
    image = one(path, boxes=boxes, crop=Crop("box", scale), size=32)[0][0]
    assert np.abs(image[:2].numpy() - expected(85.5, 80, 80 * scale, 32)).max() <= 1


def test_full_crop_is_the_largest_centred_square(tmp_path):
    path = write(tmp_path / "a.png", ramp(60, 40))
    image = one(path, crop=FULL_CROP, size=40)[0][0]
    assert torch.equal(image, torch.from_numpy(ramp(60, 40)[:, 10:50].transpose(2, 0, 1).copy()))


CROPS = [
    (CENTRE_CROP, None),
    (FULL_CROP, None),
    (Crop("box", 1.2), (10.0, 20.0, 60.0, 90.0)),
    (Crop("box", 1.5), (-20.0, 5.0, 40.0, 70.0)),
    (Crop("box", 1.3), (70.25, 60.5, 130.0, 140.0)),
    (Crop("centre", 1.7, 0.3), None),
]


@pytest.mark.parametrize(("crop", "box"), CROPS)
@pytest.mark.parametrize("size", [24, 112])
def test_margin_keeps_the_central_region(tmp_path, crop, box, size):
    noise = np.random.default_rng(0).integers(1, 256, (100, 120, 3), np.uint8)
    path = write(tmp_path / "a.png", noise)
    boxes = None if box is None else torch.tensor([box])
    for margin in (1, 7):
        inner = one(path, boxes=boxes, crop=crop, size=size)[0][0].int()
        outer = one(path, boxes=boxes, crop=crop, size=size, margin=margin)[0][0].int()
        centre = outer[:, margin : margin + size, margin : margin + size]
        assert (centre - inner).abs().max() <= 1


@pytest.mark.parametrize(
    "box",
    [
        (-30.0, 10.0, 30.0, 70.0),
        (80.0, 60.0, 150.0, 140.0),
        (-50.0, -50.0, 200.0, 200.0),
        (500.0, 500.0, 560.0, 560.0),
        (-900.0, 3.0, -800.0, 4.0),
        (119.9, 50.0, 140.0, 60.0),
    ],
)
def test_what_is_not_in_the_photo_is_black_and_the_rest_is_not(tmp_path, box):
    path = write(tmp_path / "a.png", np.full((100, 120, 3), 255, np.uint8))
    size = 50
    image = one(path, boxes=torch.tensor([box]), crop=Crop("box", 1.0), size=size)[0][0]
    side = max(box[2] - box[0], box[3] - box[1])
    left, top, step = (box[0] + box[2] - side) / 2, (box[1] + box[3] - side) / 2, side / size
    for row, column in itertools.product(range(size), range(size)):
        x, y = left + column * step, top + row * step
        inside = x >= -0.01 and x + step <= 120.01 and y >= -0.01 and y + step <= 100.01
        assert (image[:, row, column] == (255 if inside else 0)).all(), (row, column)


@given(
    width=st.integers(1, 60),
    height=st.integers(1, 60),
    size=st.integers(1, 40),
    margin=st.integers(0, 9),
    box=st.tuples(
        st.floats(-80, 80, width=32),
        st.floats(-80, 80, width=32),
        st.floats(0.125, 90, width=32),
        st.floats(0.125, 90, width=32),
    ),
    scale=st.floats(0.01, 20),
)
@settings(max_examples=150, deadline=None)
def test_no_box_crashes(tmp_path_factory, width, height, size, margin, box, scale):
    path = tmp_path_factory.getbasetemp() / f"white{width}x{height}.png"
    if not path.is_file():
        write(path, np.full((height, width, 3), 255, np.uint8))
    corners = torch.tensor([[box[0], box[1], box[0] + box[2], box[1] + box[3]]])
    face = one(path, boxes=corners, crop=Crop("box", scale), size=size, margin=margin)[0][0]
    assert face.shape == (3, size + 2 * margin, size + 2 * margin)
    assert set(face.unique().tolist()) <= {0, 255}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("oval",), "unknown kind of crop 'oval': choose from centre, box, full"),
        (("centre", 0.0), "positive number, got 0.0"),
        (("box", -1.0), "positive number"),
        (("box", math.nan), "positive number"),
        (("centre", 1.0, math.inf), "up of a crop"),
    ],
)
def test_odd_crops_are_refused(arguments, says):
    with pytest.raises(HorkdError) as error:
        Crop(*arguments)
    assert says in tiny.one_line(error)


# Decoding


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    grey = Image.fromarray(np.full((20, 20, 3), 255, np.uint8)).convert(mode)
    suffix = "jpg" if mode in ("CMYK", "YCbCr") else "png"
    image = one(write(tmp_path / f"a.{suffix}", grey), crop=FULL_CROP, size=10)[0][0]
    assert image.shape == (3, 10, 10)
    assert (image >= 254).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_flattened_on_black(tmp_path, mode):
    pixels = np.full((20, 20, 4), 255, np.uint8)
    pixels[:, 10:, 3] = 0
    image = Image.fromarray(pixels)
    if mode == "LA":
        image = image.convert("LA")
    options = {}
    if mode == "P":
        image = Image.fromarray((pixels[:, :, 3] > 0).astype(np.uint8)).convert("P")
        image.putpalette([90, 90, 90, 255, 255, 255])
        options = {"transparency": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        face = one(write(tmp_path / "a.png", image, **options), crop=FULL_CROP, size=20)[0][0]
    assert (face[:, :, :10] == 255).all()
    assert (face[:, :, 10:] == 0).all()


def test_exif_orientation_is_applied(tmp_path):
    upright = ramp(40, 30)
    for orientation, stored in {
        3: np.rot90(upright, 2),
        6: np.rot90(upright),
        8: np.rot90(upright, 3),
    }.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = write(tmp_path / f"{orientation}.png", np.ascontiguousarray(stored), exif=exif)
        face = one(path, crop=FULL_CROP, size=30)[0][0]
        want = upright[:, 5:35].transpose(2, 0, 1)
        assert np.array_equal(face.numpy(), want), orientation


def test_jpeg_is_decoded_whole(tmp_path):
    """Draft mode would decode a large JPEG at a fraction of its size."""
    path = write(tmp_path / "a.jpg", ramp(250, 250), quality=95)

    with watch.failing(AssertionError("draft mode"), JpegImageFile.draft):
        small = one(path, crop=FULL_CROP, size=16)[0][0]
    assert np.abs(small[:2].numpy() - expected(125, 125, 250, 16)).max() <= 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no photo at all"),
        lambda path: path.write_bytes(path.read_bytes()[:-400]),
        lambda path: Image.fromarray(np.zeros((20, 20), np.uint16)).save(path),
        lambda path: path.unlink(),
    ],
)
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_photo_that_cannot_be_decoded_is_named(tmp_path, suffix, damage):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    path = write(tmp_path / f"broken.{suffix}", noise)
    if "Image" in damage.__code__.co_names:
        path = path.with_suffix(".png")
    files = one(path)
    damage(path)
    with pytest.raises(HorkdError) as error:
        files[0]
    assert f"broken.{path.suffix[1:]}" in tiny.one_line(error)


# PhotoFiles


def coloured(tmp_path: Path, n: int = 6) -> PhotoFiles:
    """Photo i has the colour (10 i, 0, 0) and label i % 3."""
    for i in range(n):
        write(tmp_path / f"{i}.png", plain((10 * i, 0, 0)))
    files = tuple(f"{i}.png" for i in range(n))
    boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0]]).repeat(n, 1) + torch.arange(n)[:, None] / 100
    return PhotoFiles(tmp_path, files, torch.arange(n) % 3, ("a", "b", "c"), boxes, FULL_CROP, 8)


def test_select_and_load(tmp_path):
    files = coloured(tmp_path)
    assert len(files) == 6
    assert len(list(files)) == 6
    chosen = files.select(torch.tensor([5, 1, 1]))
    assert chosen.files == ("5.png", "1.png", "1.png")
    assert chosen.names == files.names
    assert chosen.labels.tolist() == [2, 1, 1]
    assert torch.equal(chosen.boxes, files.boxes[[5, 1, 1]])
    assert [(int(x[0, 0, 0]), y, i) for x, y, i in chosen] == [(50, 2, 0), (10, 1, 1), (10, 1, 2)]
    assert files.select(files.labels == 1).files == ("1.png", "4.png")
    everything = files.load()
    assert everything.dtype == torch.uint8
    assert everything.shape == (6, 3, 8, 8)
    assert everything[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]
    assert torch.equal(files.load(torch.tensor([3, 0])), everything[[3, 0]])
    assert torch.equal(files.load(files.labels == 1), everything[[1, 4]])
    assert files.load(torch.tensor([], dtype=torch.int64)).shape == (0, 3, 8, 8)
    assert torch.equal(files[-1][0], files[5][0])
    assert files[-1][2] == 5
    for i in (6, -7):
        with pytest.raises(IndexError):
            files[i]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_when_asked_for(tmp_path, capsys):
    files = coloured(tmp_path, 2)
    files.load()
    files.load(progress=True)
    assert not capsys.readouterr().err, "not into a log"
    with redirect_stderr(Terminal()) as shown:
        files.load(progress=True)
    assert "photos" in shown.getvalue()


@pytest.mark.parametrize(("workers", "start"), [(0, None), (2, None), (1, "spawn")])
def test_data_loader(tmp_path, workers, start):
    files = coloured(tmp_path)
    loader = DataLoader(files, 4, num_workers=workers, multiprocessing_context=start)
    images, labels, index = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert torch.equal(images, files.load())
    assert torch.equal(labels, files.labels)
    assert index.tolist() == list(range(6))


def test_a_worker_names_the_broken_photo(tmp_path):
    files = coloured(tmp_path)
    (tmp_path / "4.png").write_bytes(b"")
    with pytest.raises(HorkdError, match=r"4\.png"):
        list(DataLoader(files, 3, num_workers=1))


def test_face_files_can_be_pickled(tmp_path):
    files = coloured(tmp_path)
    copy = pickle.loads(pickle.dumps(files))
    assert copy.files == files.files
    assert copy.crop == files.crop
    assert torch.equal(copy.load(), files.load())


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "labels must be int64 (2,)"),
        ({"labels": torch.zeros(2)}, "labels must be int64 (2,)"),
        ({"labels": torch.tensor([0, 1])}, "labels run from 0 to 1, but there are 1"),
        ({"labels": torch.tensor([0, -2])}, "labels run from -2"),
        ({"boxes": torch.zeros(2, 3)}, "boxes must be float (2, 4)"),
        ({"boxes": torch.zeros(2, 4, dtype=torch.int64)}, "boxes must be float (2, 4)"),
        ({"crop": BOX_CROP}, "needs face boxes"),
        ({"size": 0}, "size must be at least 1"),
        ({"margin": -1}, "margin 0 or more"),
    ],
)
def test_odd_face_files_are_refused(fields, says):
    whole = {"labels": torch.zeros(2, dtype=torch.int64), **fields}
    with pytest.raises(HorkdError) as error:
        PhotoFiles(root=Path(), files=("a", "b"), names=("x",), **whole)
    assert says in tiny.one_line(error)


@pytest.mark.parametrize(
    "box", [(5.0, 5.0, 5.0, 9.0), (5.0, 9.0, 8.0, 2.0), (0.0, 0.0, math.nan, 1.0)]
)
def test_an_empty_box_is_named(tmp_path, box):
    files = one(write(tmp_path / "a.png"), boxes=torch.tensor([box]), crop=BOX_CROP)
    with pytest.raises(HorkdError) as error:
        files[0]
    assert "box of a.png is empty" in tiny.one_line(error)


# LFW and XQLFW

PEOPLE = {"Ann_A": 3, "Bob_B": 1, "Cid_C": 2, "Dora_D": 2, "Eve_E": 1}
PAIRS = (
    "2\t1\n"
    "Ann_A\t1\t3\nAnn_A\t2\tBob_B\t1\n"
    "Dora_D\t2\t1\nEve_E\t1\tCid_C\t2\n"
)  # fmt: skip
FOLDS = "2\n2\nAnn_A\t3\nBob_B\t1\n3\nCid_C\t2\nDora_D\t2\nEve_E\t1\n"


def lfw_tree(root: Path, folder: str = "lfw-deepfunneled") -> Path:
    for k, (name, count) in enumerate(PEOPLE.items()):
        for i in range(1, count + 1):
            write(root / "lfw" / folder / name / f"{name}_{i:04d}.jpg", plain((40 * k, 20 * i, 0)))
    (root / "lfw" / "pairs.txt").write_text(PAIRS)
    (root / "lfw" / "people.txt").write_text(FOLDS)
    return root


@pytest.mark.parametrize("folder", ["lfw-deepfunneled", "lfw_funneled", "lfw"])
def test_lfw(tmp_path, folder):
    lfw = load_lfw(lfw_tree(tmp_path, folder), size=8, margin=1)
    faces, pairs = lfw.faces, lfw.pairs
    assert faces.root == tmp_path / "lfw" / folder
    assert faces.names == tuple(PEOPLE)
    assert len(faces) == 9
    assert faces.labels.tolist() == [0, 0, 0, 1, 2, 2, 3, 3, 4]
    assert lfw.folds.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    named = [(faces.files[i], faces.files[j]) for i, j in zip(pairs.left, pairs.right, strict=True)]
    assert named == [
        ("Ann_A/Ann_A_0001.jpg", "Ann_A/Ann_A_0003.jpg"),
        ("Ann_A/Ann_A_0002.jpg", "Bob_B/Bob_B_0001.jpg"),
        ("Dora_D/Dora_D_0002.jpg", "Dora_D/Dora_D_0001.jpg"),
        ("Eve_E/Eve_E_0001.jpg", "Cid_C/Cid_C_0002.jpg"),
    ]
    assert pairs.same.tolist() == [True, False, True, False]
    assert pairs.fold.tolist() == [0, 0, 1, 1]
    assert of_fold(pairs, 1).left.tolist() == [7, 8]
    assert len(of_fold(pairs, 1)) == 2
    image, label, _ = faces[7]
    assert label == 3
    assert image.shape == (3, 10, 10)
    assert (image[:, 5, 5].int() - torch.tensor([120, 40, 0])).abs().max() <= 3
    assert faces.crop == CENTRE_CROP


def test_the_deep_funneled_photos_come_first(tmp_path):
    lfw_tree(lfw_tree(tmp_path), "lfw_funneled")
    assert load_lfw(tmp_path).faces.root.name == "lfw-deepfunneled"


def test_lfw_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HORKD_DATA", str(lfw_tree(tmp_path)))
    assert len(load_lfw().pairs) == 4


def test_opening_lists_and_does_not_decode(tmp_path):
    for path in sorted(lfw_tree(tmp_path).rglob("*.jpg")):
        path.write_bytes(b"")
    hidden = tmp_path / "lfw" / "lfw-deepfunneled" / "Ann_A"
    (hidden / "._Ann_A_0001.jpg").write_bytes(b"")
    (hidden / "notes.txt").write_text("not a photo")
    lfw = load_lfw(tmp_path)
    assert len(lfw.faces) == 9
    with pytest.raises(HorkdError) as error:
        lfw.faces[0]
    assert "Ann_A_0001.jpg" in tiny.one_line(error)


def test_files_of_other_endings_are_counted_and_the_set_stays_the_same(tmp_path):
    home = lfw_tree(tmp_path) / "lfw" / "lfw-deepfunneled"
    before = load_lfw(tmp_path).faces.files
    for name in ("x.gif", "y.GIF", "z.webp", "Thumbs.db", ".DS_Store"):
        (home / "Ann_A" / name).write_bytes(b"x")
    (home / "__MACOSX").mkdir()  # nobody's name
    says = r"3 files are left out \(2 \.gif, 1 \.webp\): photos are \.jpg, \.jpeg, \.png$"
    with pytest.warns(UserWarning, match=says) as said:
        assert load_lfw(tmp_path).faces.files == before
    assert len(said) == 1


LOADERS = {
    "lfw": load_lfw,
    "xqlfw": load_xqlfw,
    "uccs": load_uccs,
    "tinyface": load_tinyface,
    **{name: lambda root=None, name=name: load_training_faces(name, root) for name in TRAINING},
}


def test_every_layout_has_a_loader():
    assert sorted(LAYOUTS) == sorted(LOADERS)
    assert not any("\n" in layout for layout in LAYOUTS.values())


@pytest.mark.parametrize("name", LOADERS)
def test_without_data_the_tree_is_described(tmp_path, monkeypatch, name):
    monkeypatch.delenv("HORKD_DATA", raising=False)
    with pytest.raises(HorkdError) as error:
        LOADERS[name]()
    message = tiny.one_line(error)
    assert "set HORKD_DATA" in message
    assert LAYOUTS[name] in message
    for make in (lambda: None, (tmp_path / name).mkdir):
        make()  # first no folder, then an empty one
        with pytest.raises(HorkdError) as error:
            LOADERS[name](tmp_path)
        message = tiny.one_line(error)
        assert str(tmp_path / name) in message
        assert LAYOUTS[name] in message


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ("", "line 1: expected the number of folds and of pairs"),
        ("10\n", "has 0 pairs, its first line promises 20"),  # one fold, as in View 1
        ("2\t0\n", "line 1: expected"),
        (PAIRS.replace("Ann_A\t1\t3", "Ann_A\t1"), "line 2: expected name, number, number, got"),
        (PAIRS.replace("\tBob_B\t1", "\t3"), "line 3: expected name, number, name, number"),
        (PAIRS.replace("1\t3", "1\tx"), "line 2: expected numbers of photos"),
        (PAIRS.replace("1\t3", "3\t3"), "line 2: not a pair of two photos"),
        (PAIRS.replace("Bob_B\t1", "Ann_A\t1"), "line 3: not a pair"),
        (PAIRS.replace("Eve_E\t1\tCid_C\t2\n", ""), "has 3 pairs, its first line promises 4"),
        (PAIRS + "Ann_A\t1\t2\n", "line 6: more than 2 folds of 2 pairs"),
        (PAIRS.replace("1\t3", "1\t9").replace("Cid_C\t2", "Cid_X\t2"), "names 2 photos"),
        (PAIRS.replace("1\t3", "1\t9").replace("Cid_C\t2", "Cid_X\t2"), "Ann_A/Ann_A_0009.jpg"),
        (PAIRS.replace("Bob_B\t1", "Cid_C\t1"), "1 pairs show people of another fold"),
    ],
)
def test_damaged_pairs(tmp_path, pairs, says):
    (lfw_tree(tmp_path) / "lfw" / "pairs.txt").write_text(pairs)
    with pytest.raises(HorkdError) as error:
        load_lfw(tmp_path)
    assert says in tiny.one_line(error)
    assert "pairs.txt" in str(error.value)


@pytest.mark.parametrize(
    ("people", "says"),
    [
        ("", "line 1: expected the number of folds"),
        (FOLDS.replace("2\n2\n", "2\nAnn\n", 1), "line 2: expected the number of people of fold 0"),
        (FOLDS.replace("Eve_E\t1\n", ""), "line 8: expected name and number of photos"),
        (FOLDS.replace("Bob_B\t1", "Bob_B"), "line 4: expected name and number of photos"),
        (FOLDS.replace("Dora_D\t2", "Ann_A\t3"), "line 7: Ann_A is named twice"),
        (FOLDS + "1\nFay_F\t1\n", "line 9: more than 2 folds"),
        (FOLDS.replace("Bob_B\t1", "Bob_B\t3"), "names 2 photos"),
        (FOLDS.replace("Bob_B\t1", "Bob_B\t3"), "first Bob_B/Bob_B_0002.jpg"),
        (FOLDS.replace("Ann_A\t3", "Ann_A\t2"), "disagree on 1 people: Ann_A has 3, not 2"),
        (FOLDS.replace("3\nCid", "2\nCid").replace("Eve_E\t1\n", ""), "Eve_E is not named"),
    ],
)
def test_damaged_people(tmp_path, people, says):
    (lfw_tree(tmp_path) / "lfw" / "people.txt").write_text(people)
    with pytest.raises(HorkdError) as error:
        load_lfw(tmp_path)
    assert says in tiny.one_line(error)
    assert "people.txt" in str(error.value)


def test_missing_parts_of_lfw(tmp_path):
    (lfw_tree(tmp_path) / "lfw" / "people.txt").unlink()
    with pytest.raises(HorkdError, match=r"people\.txt is not there: .*lfw/pairs\.txt"):
        load_lfw(tmp_path)
    (tmp_path / "lfw" / "people.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(HorkdError, match="cannot read"):
        load_lfw(tmp_path)
    (tmp_path / "lfw" / "lfw-deepfunneled" / "Nobody").mkdir()
    with pytest.raises(HorkdError, match="Nobody has no photos"):
        load_lfw(tmp_path)


def test_xqlfw(tmp_path):
    lfw_tree(tmp_path)
    home = (tmp_path / "lfw").rename(tmp_path / "xqlfw")
    (home / "lfw-deepfunneled").rename(home / "lfw_original_imgs_min_qual0.85variant11")
    (home / "pairs.txt").rename(home / "xqlfw_pairs.txt")
    xqlfw = load_xqlfw(tmp_path)
    assert xqlfw.folds is None
    assert len(xqlfw.pairs) == 4
    assert len(xqlfw.faces) == 9
    (home / xqlfw.faces.root / "Ann_A" / "Ann_A_0003.jpg").unlink()
    with pytest.raises(HorkdError, match=r"xqlfw_pairs\.txt names 1 photos .*Ann_A_0003"):
        load_xqlfw(tmp_path)


# Sets to train on


def write_csv(path: Path, header: str, *rows: tuple) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([header.split(","), *rows])


UMD = "SUBJECT_ID,FILE,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT,PITCH"


def umd_tree(root: Path) -> Path:
    home = root / "umdfaces"
    rows = {
        1: [(7, "zoe/zoe_0001.jpg", 5, 5, 10, 8, 0.1), (7, "zoe/zoe_0002.jpg", 0, 0, 20, 20, 0)],
        3: [(1, "al/al_0009.jpg", -4.5, 2, 9, 9, 0)],
    }
    for batch, content in rows.items():
        folder = home / f"umdfaces_batch{batch}"
        write_csv(folder / f"umdfaces_batch{batch}_ultraface.csv", UMD, *content)
        for row in content:
            write(folder / row[1], ramp(20, 20), quality=95)
    return root


def test_umdfaces(tmp_path):
    faces = load_training_faces("umdfaces", umd_tree(tmp_path), Crop("box", 1.0), size=10)
    assert faces.names == ("al", "zoe")
    assert faces.labels.tolist() == [1, 1, 0]
    assert faces.files[2] == "umdfaces_batch3/al/al_0009.jpg"
    assert faces.boxes.tolist() == [[5, 5, 15, 13], [0, 0, 20, 20], [-4.5, 2, 4.5, 11]]
    assert np.abs(faces[0][0][:2].numpy() - expected(10, 9, 10, 10)).max() <= 4
    assert (faces[2][0][:, :, 0] == 0).all()  # left of the photo
    assert load_training_faces("umdfaces", tmp_path).crop == BOX_CROP


@pytest.mark.parametrize(
    ("header", "row", "says"),
    [
        (UMD.replace("FACE_X", "X"), (), "has no column FACE_X: its columns are SUBJECT_ID, FILE"),
        (UMD, (1, "al/al_0009.jpg", 1, 1, 0, 5, 0), "line 2: 1, 1, 0, 5 is no face box"),
        (UMD, (1, "al/al_0009.jpg", 1, 1, "?", 5, 0), "line 2: 1, 1, ?, 5 is no face box"),
        (UMD, (1, "al/al_0009.jpg", 1, 1, "nan", 5, 0), "no face box"),
        (UMD, (1, "al/al_0009.jpg", 1), "line 2: 3 values for 7 columns"),
        (UMD, (1, "al_0009.jpg", 1, 1, 5, 5, 0), "expected folder/photo.jpg, got 'al_0009.jpg'"),
        (UMD, (1, "al/al_0001.jpg", 1, 1, 5, 5, 0), "names 1 photos that are not in"),
        (UMD, (1, "bo/al_0001.jpg", 1, 1, 5, 5, 0), "first bo/al_0001.jpg"),
    ],
)
def test_damaged_umdfaces(tmp_path, header, row, says):
    path = umd_tree(tmp_path) / "umdfaces" / "umdfaces_batch3" / "umdfaces_batch3_ultraface.csv"
    write_csv(path, header, row)
    with pytest.raises(HorkdError) as error:
        load_training_faces("umdfaces", tmp_path)
    assert says in tiny.one_line(error)
    assert path.name in str(error.value)


def test_csv_files_without_rows_or_text(tmp_path):
    home = tmp_path / "umdfaces" / "umdfaces_batch1"
    write_csv(home / "umdfaces_batch1_ultraface.csv", UMD)
    with pytest.raises(HorkdError, match="name no photos"):
        load_training_faces("umdfaces", tmp_path)
    (home / "umdfaces_batch1_ultraface.csv").write_bytes(b"")
    with pytest.raises(HorkdError, match=r"has no column FILE.*\(none\)"):
        load_training_faces("umdfaces", tmp_path)
    (home / "umdfaces_batch1_ultraface.csv").write_bytes(UMD.encode() + b"\n1,\xff\xfe,1,1,1,1,1")
    with pytest.raises(HorkdError, match="cannot read"):
        load_training_faces("umdfaces", tmp_path)


def vgg_tree(root: Path, boxes: bool = True) -> Path:
    home = root / "vggface2"
    rows = []
    for person, count in (("n000010", 2), ("n000002", 3)):
        for i in range(1, count + 1):
            write(home / "train" / person / f"{i:04d}_01.jpg", ramp(20, 20))
            rows.append((f"{person}/{i:04d}_01", i, 2, 10, 12))
    if boxes:
        write_csv(home / "bb_landmark" / "loose_bb_train.csv", "NAME_ID,X,Y,W,H", *rows)
    return root


def test_vggface2_with_boxes(tmp_path):
    faces = load_training_faces("vggface2", vgg_tree(tmp_path), size=8)
    assert faces.crop == BOX_CROP
    assert faces.names == ("n000002", "n000010")
    assert faces.labels.tolist() == [0, 0, 0, 1, 1]
    assert faces.files[3] == "n000010/0001_01.jpg"
    assert faces.boxes[:, 0].tolist() == [1, 2, 3, 1, 2]
    assert faces.boxes[4].tolist() == [2, 2, 12, 14]
    assert load_training_faces("vggface2", tmp_path, FULL_CROP).boxes is None


def test_vggface2_without_boxes(tmp_path):
    faces = load_training_faces("vggface2", vgg_tree(tmp_path, boxes=False))
    assert faces.crop == FULL_CROP
    assert faces.boxes is None
    assert len(faces) == 5
    with pytest.raises(HorkdError, match=r"loose_bb_train\.csv is not there"):
        load_training_faces("vggface2", tmp_path, BOX_CROP)


def test_vggface2_boxes_and_photos_must_agree(tmp_path):
    path = vgg_tree(tmp_path) / "vggface2" / "bb_landmark" / "loose_bb_train.csv"
    whole = path.read_text(encoding="utf-8-sig")
    path.write_text(whole.replace("n000002/0002_01,2,2,10,12\n", ""))
    with pytest.raises(HorkdError, match=r"no box for 1 photos, first n000002/0002_01\.jpg"):
        load_training_faces("vggface2", tmp_path)
    path.write_text(whole + "n000010/0009_01,1,1,1,1\nn000099/0001_01,1,1,1,1\n")
    with pytest.raises(HorkdError, match=r"names 2 photos .*first n000010/0009_01\.jpg"):
        load_training_faces("vggface2", tmp_path)


def test_casia(tmp_path):
    for person, photo in (("0000099", "001"), ("0000045", "002"), ("0000045", "001")):
        write(tmp_path / "casia" / person / f"{photo}.jpg")
    write(tmp_path / "casia" / "other" / "001.jpg")
    faces = load_training_faces("casia", tmp_path)
    assert faces.files == ("0000045/001.jpg", "0000045/002.jpg", "0000099/001.jpg")
    assert faces.names == ("0000045", "0000099")
    assert faces.labels.tolist() == [0, 0, 1]
    assert faces.crop == CENTRE_CROP
    with pytest.raises(HorkdError, match="needs face boxes"):
        load_training_faces("casia", tmp_path, BOX_CROP)


def test_unknown_training_set(tmp_path):
    with pytest.raises(HorkdError, match="unknown training set 'celeba': choose from umdfaces"):
        load_training_faces("celeba", tmp_path)


@pytest.mark.parametrize("name", ["umdfaces", "vggface2"])
def test_training_sets_open_without_decoding(tmp_path, name):
    """No photo is opened or looked at: what is listed need not even be there."""
    for path in sorted({"umdfaces": umd_tree, "vggface2": vgg_tree}[name](tmp_path).rglob("*.jpg")):
        path.unlink()
        path.symlink_to("nowhere")
    with watch.refused(AssertionError("a photo is opened"), "open", ending=".jpg"):
        faces = load_training_faces(name, tmp_path)
    with pytest.raises(HorkdError, match="is gone: put the file there again"):
        faces[0]


# UCCS and TinyFace

UCCS = "FILE,FACE_ID,SUBJECT_ID,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT"
UCCS_ROWS = [
    ("a.jpg", 1, 30, 2, 2, 8, 8),
    ("a.jpg", 2, -1, 10, 4, 6, 8),
    ("b.jpg", 3, 4, 1, 1, 5, 5),
    ("b.jpg", 4, 30, 9, 9, 5, 5),
]


def uccs_tree(root: Path, third: bool = True) -> Path:
    home = root / "uccs"
    table = home / "validation.csv" if third else home / "protocol" / "validation.csv"
    write_csv(table, UCCS, *UCCS_ROWS)
    for name in "ab":
        write(home / ("validation_images" if third else "validation") / f"{name}.jpg")
    return root


@pytest.mark.parametrize("third", [True, False])
def test_uccs(tmp_path, third):
    faces = load_uccs(uccs_tree(tmp_path, third), size=6)
    assert faces.names == ("4", "30")
    assert faces.labels.tolist() == [1, -1, 0, 1]
    assert faces.files == ("a.jpg", "a.jpg", "b.jpg", "b.jpg")
    assert faces.boxes[1].tolist() == [10, 4, 16, 12]
    assert faces[1][0].shape == (3, 6, 6)
    assert faces[1][1] == -1


def test_damaged_uccs(tmp_path):
    path = uccs_tree(tmp_path) / "uccs" / "validation.csv"
    write_csv(path, UCCS, *UCCS_ROWS, ("c.jpg", 5, 4, 1, 1, 5, 5))
    with pytest.raises(HorkdError, match=r"validation\.csv names 1 photos .*first c\.jpg"):
        load_uccs(tmp_path)
    write_csv(path, UCCS, ("a.jpg", 5, "x", 1, 1, 5, 5))
    with pytest.raises(HorkdError, match="SUBJECT_ID 'x' is no number"):
        load_uccs(tmp_path)
    write_csv(path, UCCS.replace("SUBJECT_ID", "ID"), *UCCS_ROWS)
    with pytest.raises(HorkdError, match="no column SUBJECT_ID: its columns are FILE, FACE_ID, ID"):
        load_uccs(tmp_path)
    write_csv(path, UCCS)
    with pytest.raises(HorkdError, match="names no faces"):
        load_uccs(tmp_path)
    with pytest.raises(HorkdError, match=r"training\.csv is not there"):
        load_uccs(tmp_path, "training")
    with pytest.raises(HorkdError, match="unknown split 'test'"):
        load_uccs(tmp_path, "test")


def test_tinyface(tmp_path):
    home = tmp_path / "tinyface" / "Testing_Set"
    for file in ("Gallery_Match/10_1.jpg", "Gallery_Match/9_2.jpg", "Probe/10_3.jpg"):
        write(home / file, ramp(16, 20))
    faces = load_tinyface(tmp_path, size=16)
    assert faces.distractors is None
    assert faces.gallery.names == faces.probes.names == ("9", "10")
    assert faces.gallery.files == ("10_1.jpg", "9_2.jpg")
    assert faces.gallery.labels.tolist() == [1, 0]
    assert faces.probes.labels.tolist() == [1]
    assert np.abs(faces.probes[0][0][:2].numpy() - expected(8, 10, 16, 16)).max() <= 4
    write(home / "Gallery_Distractor" / "x_1.jpg")
    others = load_tinyface(tmp_path).distractors
    assert others.labels.tolist() == [-1]
    assert others.names == faces.gallery.names
    write(home / "Probe" / "10_4.png").rename(home / "Probe" / "10_4.tif")
    with pytest.warns(UserWarning, match=r"1 file is left out \(1 \.tif\)"):
        load_tinyface(tmp_path)
    (home / "Probe" / "10_4.tif").unlink()
    write(home / "Probe" / "unnamed.jpg")
    with pytest.raises(HorkdError, match=r"unnamed\.jpg: the name must begin with a number"):
        load_tinyface(tmp_path)


# Pairs


def test_pairs_refuse_odd_fields():
    left, same = torch.zeros(3, dtype=torch.int64), torch.ones(3, dtype=torch.bool)
    with pytest.raises(HorkdError, match=r"right of pairs must be torch\.int64 \(3,\)"):
        Pairs(left, left[:2], same, left)
    with pytest.raises(HorkdError, match="same of pairs must be"):
        Pairs(left, left, left, left)


def check_pairs(pairs: Pairs, labels: torch.Tensor, folds: int, per_fold: int) -> None:
    assert len(pairs) == folds * per_fold
    rows = zip(
        *(x.tolist() for x in (pairs.left, pairs.right, pairs.same, pairs.fold)), strict=True
    )
    seen, fold_of = set(), {}
    for i, j, same, k in rows:
        assert i != j
        assert 0 <= k < folds
        assert frozenset((i, j)) not in seen
        seen.add(frozenset((i, j)))
        a, b = int(labels[i]), int(labels[j])
        assert min(a, b) >= 0
        assert (a == b) == same
        assert fold_of.setdefault(a, k) == k
        assert fold_of.setdefault(b, k) == k
    for k in range(folds):
        mine = of_fold(pairs, k)
        assert len(mine) == per_fold
        assert int(mine.same.sum()) == per_fold // 2


@given(data=st.data(), folds=st.integers(1, 4), seed=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_sampled_pairs(data, folds, seed):
    sizes = data.draw(st.lists(st.integers(2, 6), min_size=2 * folds, max_size=2 * folds + 5))
    labels = [c for c, n in enumerate(sizes) for _ in range(n)] + [-1] * 3
    labels = torch.tensor(data.draw(st.permutations(labels)))
    per_fold = data.draw(st.sampled_from([2, 4]))  # 2 classes of 2 images have 2 equal pairs
    pairs = sample_pairs(labels, folds, per_fold, seed)
    check_pairs(pairs, labels, folds, per_fold)
    again = sample_pairs(labels.clone(), folds, per_fold, seed)
    assert all(torch.equal(getattr(pairs, f), getattr(again, f)) for f in ("left", "right", "fold"))


def test_sampled_pairs_of_many_images():
    labels = torch.arange(5000) % 50
    pairs = sample_pairs(labels)
    check_pairs(pairs, labels, 10, 600)
    other = sample_pairs(labels, seed=1)
    assert not torch.equal(pairs.left, other.left)
    used = torch.cat([pairs.left, pairs.right])
    assert len(used.unique()) > 3500  # spread over the images


def test_all_pairs_are_equally_likely():
    labels, counts = torch.tensor([0, 0, 0, 1, 1, 1]), {}
    for seed in range(600):
        pairs = sample_pairs(labels, 1, 2, seed)
        for i, j in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True):
            pair = min(i, j), max(i, j)
            counts[pair] = counts.get(pair, 0) + 1
    assert len(counts) == 6 + 9
    for (i, j), n in counts.items():
        mean = 600 / (6 if labels[i] == labels[j] else 9)
        assert abs(n - mean) < 5 * math.sqrt(mean), (i, j)


def test_sampled_pairs_are_the_same_everywhere():
    """Pairs are part of a result, so that they may never change."""
    pairs = sample_pairs(torch.arange(12) % 4, folds=2, per_fold=4, seed=3)
    assert (pairs.left.tolist(), pairs.right.tolist()) == SAMPLED


SAMPLED = ([2, 4, 0, 0, 1, 1, 7, 11], [10, 8, 6, 2, 5, 9, 1, 1])


@pytest.mark.parametrize(
    ("labels", "arguments", "says"),
    [
        (torch.zeros(4), (1, 2), "labels must be int64"),
        (torch.zeros(2, 2, dtype=torch.int64), (1, 2), "labels must be int64 (N,)"),
        (torch.arange(8) % 4, (0, 2), "folds must be at least 1"),
        (torch.arange(8) % 4, (2, 3), "even number"),
        (torch.arange(8) % 4, (3, 2), "3 folds need at least 6 classes, there are 4"),
        (torch.arange(8) % 4, (2, 6), "pairs of the same class, 3 are wanted"),
        (torch.tensor([-1, -1, 0, 1]), (2, 2), "there are 2"),
        (torch.tensor([0, 0, 0, 0, 0, 1]), (1, 12), "fold 0 has 5 pairs of different classes"),
    ],
)
def test_too_few_images_for_pairs(labels, arguments, says):
    with pytest.raises(HorkdError) as error:
        sample_pairs(labels, *arguments)
    assert says in tiny.one_line(error)


# The real LFW


@pytest.fixture(scope="module")
def real_lfw():
    root = os.environ.get("HORKD_DATA", "").strip()
    if not root:
        pytest.skip("HORKD_DATA is not set")
    if not (Path(root) / "lfw" / "lfw-deepfunneled").is_dir():
        pytest.skip("HORKD_DATA has no lfw/lfw-deepfunneled")
    return load_lfw()


def test_real_lfw_has_its_official_counts(real_lfw):
    faces, pairs, folds = real_lfw.faces, real_lfw.pairs, real_lfw.folds
    assert len(faces) == 13233
    assert len(faces.names) == 5749
    assert len(pairs) == 6000
    assert int(pairs.same.sum()) == 3000
    assert pairs.fold.bincount().tolist() == [600] * 10
    assert torch.equal(pairs.same, faces.labels[pairs.left] == faces.labels[pairs.right])
    for k in range(10):
        mine, others = faces.labels[folds == k].unique(), faces.labels[folds != k].unique()
        assert not torch.isin(mine, others).any()
        part = of_fold(pairs, k)
        assert (folds[part.left] == k).all()
        assert (folds[part.right] == k).all()


def test_real_lfw_decodes(real_lfw):
    index = torch.arange(0, 13233, 700)
    images = real_lfw.faces.load(index)
    assert images.shape == (len(index), 3, 112, 112)
    assert (images.float().std((1, 2, 3)) > 10).all()  # photos, not blanks
