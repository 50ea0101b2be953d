"""Batches of crops, image sets, and CIFAR-100 from its official files."""

import os
import pickle
import urllib.error
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import watch
from torchvision.datasets import CIFAR100

from horkd.data import Batches, ImageSet, load_dataset, normalise, training_images
from horkd.data.cifar import MEAN, STD, load_cifar100
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.preprocess import Preprocess


def noise_images(n: int, size: int = 8, classes: int = 3, seed: int = 0) -> ImageSet:
    """Images of noise: a crop of one cannot be mistaken for a crop of another."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(1, 256, (n, 3, size, size), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.arange(n) % classes, tuple("abc"[:classes]))


def windows(image: torch.Tensor, crop: int, flip: bool) -> dict[bytes, tuple[int, int, bool]]:
    """Every crop that an image may turn into, with where it came from; padded by hand."""
    image, size = image.numpy(), image.shape[-1]
    padded = np.zeros((3, size + 2 * crop, size + 2 * crop), np.uint8)
    padded[:, crop : crop + size, crop : crop + size] = image
    found = {}
    for top in range(2 * crop + 1):
        for left in range(2 * crop + 1):
            window = padded[:, top : top + size, left : left + size]
            found[window.tobytes()] = (top, left, False)
            if flip:
                found[window[:, :, ::-1].tobytes()] = (top, left, True)
    return found


def origins(images: ImageSet, crops: torch.Tensor, crop: int, flip: bool):
    """(index, top, left, mirrored) of every crop; KeyError if it is no window of any image."""
    table = {
        key: (index, *where)
        for index, image in enumerate(images.images)
        for key, where in windows(image, crop, flip).items()
    }
    return [table[c.numpy().tobytes()] for c in crops]


def whole_epoch(batches: Batches, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    crops, labels = zip(*batches.epoch(seed), strict=True)
    return torch.cat(crops), torch.cat(labels)


# Batches


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("crop", [0, 1, 2])
def test_crops_are_windows_of_the_padded_image_each_image_once(crop, flip):
    images = noise_images(24)
    crops, labels = whole_epoch(Batches(images, 6, crop, flip), seed=1)
    found = origins(images, crops, crop, flip)
    assert sorted(index for index, *_ in found) == list(range(24))
    assert labels.tolist() == [int(images.labels[index]) for index, *_ in found]
    assert crops.dtype == torch.uint8


def test_every_position_and_both_sides_occur_equally_often():
    images = noise_images(40)
    batches = Batches(images, 40, crop=1, flip=True)
    seen = [
        o for seed in range(18) for o in origins(images, whole_epoch(batches, seed)[0], 1, True)
    ]
    count = np.zeros((3, 3, 2))
    for _, top, left, mirrored in seen:
        count[top, left, int(mirrored)] += 1
    expected = len(seen) / count.size  # 40
    chi_square = ((count - expected) ** 2 / expected).sum()
    assert chi_square < 40.8  # 99.9 % of a χ² with 17 degrees of freedom


def test_draws_differ_from_image_to_image():
    images = noise_images(30)
    found = origins(images, whole_epoch(Batches(images, 30, 2, True), 0)[0], 2, True)
    assert len({(top, left, mirrored) for _, top, left, mirrored in found}) > 15


def test_characters_are_never_mirrored():
    data = tiny.data()
    assert not data.flip
    images = data.train.select(torch.arange(8))
    for seed in range(4):
        crops, _ = whole_epoch(Batches(images, 8, 2, data.flip), seed)
        origins(images, crops, 2, flip=False)  # every one is an unmirrored window


def test_without_augmentation_images_come_as_they_are():
    images = noise_images(12)
    crops, _ = whole_epoch(Batches(images, 4, crop=0, flip=False), 0)
    assert {c.numpy().tobytes() for c in crops} == {i.numpy().tobytes() for i in images.images}


def test_seeds():
    batches = Batches(noise_images(32), 8, 2, True)
    first, again, other = (whole_epoch(batches, seed) for seed in (5, 5, 6))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    state = torch.get_rng_state()
    whole_epoch(batches, 5)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's random numbers are used


def test_the_incomplete_batch_is_dropped_and_others_get_their_turn():
    images = noise_images(23)
    batches = Batches(images, 5, 0, False)
    assert len(batches) == 4
    assert [len(labels) for _, labels in batches.epoch(0)] == [5] * 4
    missing = set()
    for seed in range(12):
        crops, _ = whole_epoch(batches, seed)
        used = {index for index, *_ in origins(images, crops, 0, False)}
        assert len(used) == 20
        missing |= set(range(23)) - used
    assert len(missing) > 10


@pytest.mark.parametrize("batch_size", [0, -1, 13])
def test_a_batch_size_that_does_not_fit(batch_size):
    with pytest.raises(HorkdError, match=f"batch size {batch_size} does not fit 12 training"):
        Batches(noise_images(12), batch_size)


def test_both_models_see_the_same_crop_and_flip():
    """What the learner sees is what the frozen model sees, degraded: same window, same side."""
    data = replace(tiny.data(), flip=True)
    frozen_sees, learner_sees = (
        Preprocess(Degradation(size), data.mean, data.std) for size in (32, 8)
    )
    mean, std = (torch.tensor(v)[:, None, None] for v in (data.mean, data.std))
    for crops, _ in Batches(data.train, 12, 2, data.flip).epoch(0):
        full, low = frozen_sees(crops), learner_sees(crops)
        levels = ((full * std + mean) * 255).round().to(torch.uint8)
        assert torch.equal(levels, crops)
        again = normalise(Degradation(8)(levels), data.mean, data.std)
        torch.testing.assert_close(low, again)


def test_normalise():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8)[None, :, None, None]
    out = normalise(images, (0.5, 0.1, 0.0), (0.25, 0.5, 2.0))
    torch.testing.assert_close(out.flatten(), torch.tensor([-2.0, 0.2, 0.5]))
    assert out.dtype == torch.float32


# Image sets


@pytest.mark.parametrize(
    ("images", "labels", "complaint"),
    [
        (torch.zeros(2, 3, 4, 5, dtype=torch.uint8), [0, 1], r"images must be \(N, 3, S, S\)"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), [0, 1], r"images must be \(N, 3, S, S\)"),
        (torch.zeros(2, 3, 4, 4), [0, 1], "images must be uint8, got torch.float32"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), [0], r"labels must be int64 \(2,\)"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), [0.0, 1.0], r"labels must be int64 \(2,\)"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), [0, 2], "labels run from 0 to 2, but there"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), [-1, 1], "labels run from -1 to 1, but there"),
    ],
)
def test_an_image_set_is_checked(images, labels, complaint):
    with pytest.raises(HorkdError, match=complaint):
        ImageSet(images, torch.tensor(labels), ("a", "b"))


def test_select_keeps_images_and_labels_together():
    images = noise_images(9)
    index = torch.tensor([7, 0, 4])
    part = images.select(index)
    assert torch.equal(part.images, images.images[[7, 0, 4]])
    assert part.labels.tolist() == [1, 0, 1]
    assert (len(part), part.size, part.classes) == (3, 8, ("a", "b", "c"))


def test_an_unknown_data_set():
    with pytest.raises(HorkdError, match="unknown data set 'mnist': choose from glyphs, cifar100"):
        load_dataset("mnist")


# CIFAR-100: bad input


@pytest.fixture
def no_network():
    """What was asked of it."""
    with watch.refused(urllib.error.URLError("no network"), "urllib.Request") as asked:
        yield asked


@pytest.fixture
def data_folder(monkeypatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HORKD_DATA", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("per_class", [0, 451])
def test_cifar_per_class_out_of_range(per_class, no_network, data_folder):
    """Before anything is read."""
    with pytest.raises(HorkdError, match=f"per_class must lie in 1 to 450 .*got {per_class}"):
        load_cifar100(per_class)


def test_missing_data_without_network_is_one_clear_line(no_network, data_folder):
    with pytest.raises(HorkdError) as caught:
        load_cifar100()
    assert no_network
    assert f"CIFAR-100 is not in {data_folder} and could not be downloaded" in tiny.one_line(caught)
    assert "set HORKD_DATA to the folder that holds cifar-100-python/" in str(caught.value)


def test_without_horkd_data_it_is_looked_for_in_the_cache(no_network, monkeypatch, tmp_path):
    monkeypatch.delenv("HORKD_DATA", raising=False)
    monkeypatch.setenv("HORKD_CACHE", str(tmp_path / "cache"))
    with pytest.raises(HorkdError, match=f"is not in {tmp_path / 'cache' / 'data'} and could not"):
        load_dataset("cifar100")


def test_horkd_data_that_is_no_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HORKD_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(HorkdError, match=f"HORKD_DATA is {tmp_path}/nowhere, which is not a"):
        load_cifar100()


@pytest.mark.parametrize(
    "files",
    [
        {"train": b""},
        {"train": b"truncated", "test": b"truncated", "meta": b"truncated"},
        {"train": pickle.dumps({"data": [1]})},
    ],
)
def test_truncated_files_name_their_folder_and_are_not_replaced(files, no_network, data_folder):
    folder = data_folder / CIFAR100.base_folder
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    with pytest.raises(HorkdError) as caught:
        load_cifar100()
    assert f"the CIFAR-100 files in {folder} are incomplete or damaged" in tiny.one_line(caught)
    assert not no_network
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == files


# CIFAR-100: the real files


@pytest.fixture(scope="module")
def cifar():
    folder = os.environ.get("HORKD_DATA", "")
    if not folder or not (Path(folder) / CIFAR100.base_folder).is_dir():
        pytest.skip("HORKD_DATA has no cifar-100-python")
    return load_dataset("cifar100")  # read once per process


@pytest.fixture(scope="module")
def official_labels(cifar) -> dict[str, list[int]]:
    """Read straight from the official pickles."""
    folder = Path(os.environ["HORKD_DATA"]) / CIFAR100.base_folder
    return {
        split: pickle.loads((folder / split).read_bytes(), encoding="latin1")["fine_labels"]
        for split in ("train", "test")
    }


def test_cifar_sizes_and_balance(cifar):
    sizes = {"train": 450, "validation": 50, "test": 100}
    for split, per_class in sizes.items():
        images = getattr(cifar, split)
        assert images.images.shape == (100 * per_class, 3, 32, 32)
        assert torch.bincount(images.labels).tolist() == [per_class] * 100
    assert (cifar.name, cifar.num_classes, cifar.size) == ("cifar100", 100, 32)
    assert cifar.flip
    assert cifar.unseen is None


def test_cifar_classes_are_the_official_ones_in_order(cifar, official_labels):
    assert cifar.train.classes[:3] == ("apple", "aquarium_fish", "baby")
    assert cifar.train.classes[-2:] == ("woman", "worm")
    assert list(cifar.train.classes) == sorted(cifar.train.classes)
    assert cifar.test.labels.tolist() == official_labels["test"]


def test_cifar_validation_and_training_are_the_official_training_set(cifar):
    """As multisets: the official set holds a few images twice."""
    folder = Path(os.environ["HORKD_DATA"]) / CIFAR100.base_folder
    official = pickle.loads((folder / "train").read_bytes(), encoding="latin1")
    rows = [
        bytes(row) + bytes([c])
        for row, c in zip(*map(official.get, ("data", "fine_labels")), strict=True)
    ]
    ours = [
        image.numpy().tobytes() + bytes([int(label)])
        for split in (cifar.train, cifar.validation)
        for image, label in zip(split.images, split.labels, strict=True)
    ]
    assert sorted(ours) == sorted(rows)


def test_cifar_validation_is_the_same_every_time(cifar):
    again = load_cifar100()
    assert torch.equal(again.validation.images, cifar.validation.images)
    assert torch.equal(again.train.labels, cifar.train.labels)


def test_cifar_statistics(cifar):
    images = torch.cat([cifar.train.images, cifar.validation.images]).transpose(0, 1).flatten(1)
    for channel, mean, std in zip(images, MEAN, STD, strict=True):
        share = torch.bincount(channel, minlength=256).double() / channel.numel()
        level = torch.arange(256).double() / 255
        found = (share * level).sum()
        assert abs(found - mean) < 1e-4
        assert abs((share * (level - found) ** 2).sum().sqrt() - std) < 1e-4


def test_cifar_few_per_class(cifar):
    few = load_dataset("cifar100", 8)
    assert [len(s) for s in (few.train, few.validation, few.test)] == [800, 800, 800]
    assert torch.bincount(few.train.labels).tolist() == [8] * 100
    every = {i.numpy().tobytes() for i in cifar.train.images}
    assert all(i.numpy().tobytes() in every for i in few.train.images)


def test_a_data_set_is_read_once_per_process(cifar):
    assert load_dataset("cifar100") is cifar


@pytest.mark.parametrize("per_class", [None, 20, 50, 60])
def test_images_of_cifar_are_counted_as_they_are_read(per_class):
    base = os.environ.get("HORKD_DATA", "")
    if not base or not (Path(base) / CIFAR100.base_folder).is_dir():
        pytest.skip("HORKD_DATA has no cifar-100-python")
    data = load_dataset("cifar100", per_class)
    assert training_images("cifar100", per_class) == len(data.train)
    both = len(data.train) + len(data.validation)
    assert training_images("cifar100", per_class, validation=False) == both
