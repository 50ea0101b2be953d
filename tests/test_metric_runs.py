"""Metric learning: balanced batches, Adam, the triplet loss, selection, retrieval, Table 4."""

import functools
import itertools
import json
import math
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import watch
from PIL import Image
from pytorch_metric_learning.utils import common_functions
from safetensors.torch import save_file
from test_runs import assert_same, interrupted
from torch import Tensor

from horkd import data, storage
from horkd import predict as predict_
from horkd.data import (
    Batches,
    Dataset,
    FileBatches,
    ImageSet,
    load_dataset,
    look_again,
    training_images,
)
from horkd.data.batches import balanced_order
from horkd.data.glyphs import CHARACTERS, render
from horkd.data.retrieval import load_retrieval
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab import looks as looks_
from horkd.lab import prepare, runner
from horkd.lab.config import RunConfig, config_from_dict, set_fields
from horkd.lab.looks import Look, ask
from horkd.lab.pace import images_of, learner_macs
from horkd.lab.prepare import _SAID, answers_folder
from horkd.lab.store import Run, export, read
from horkd.machine import seeded
from horkd.networks import weights as weights_
from horkd.networks.network import ModelSpec, Network, load_network, macs_of, save_network
from horkd.networks.weights import load_pretrained
from horkd.objectives import Objective, Triplet
from horkd.paper import TABLE_4
from horkd.preprocess import Preprocess
from horkd.protocols import Asked, alignment, headline, neighbours, retrieval
from horkd.protocols.retrieval import PIXELS, RETRIEVAL, Retrieval
from horkd.studies import teacher as teacher_
from horkd.studies.presets import get_preset
from horkd.studies.retrieval.presets import METRIC_ORDERS
from horkd.studies.study import choose, configure, queue, seeds, study, usual_exports
from horkd.studies.task import tasks
from horkd.studies.teacher import with_teacher
from horkd.training import Diverged, Recipe, batches_of, fit, new_state

#: Classes of the three splits, and images of each class.
TRAIN, HELD, TESTED, EACH = 6, 4, 5, 8
#: Four batches of four classes with three images each in an epoch.
RECIPE = Recipe(
    epochs=3, batch_size=12, learning_rate=0.01, crop=2, optimizer="adam", per_class=3, batches=4
)
SGD = replace(RECIPE, optimizer="sgd", learning_rate=0.1)
ONE = replace(RECIPE, epochs=1, batches=2)


@functools.cache
def disjoint() -> Dataset:
    """Fifteen characters: six to train on, four to select by, five to be tested on."""
    ends = (0, TRAIN, TRAIN + HELD, TRAIN + HELD + TESTED)
    train, held, test = (
        render(CHARACTERS[first:end], EACH, 0, "train") for first, end in itertools.pairwise(ends)
    )
    whole = tiny.data()
    return Dataset(
        "glyphs-disjoint", train, held, test, None, False, whole.mean, whole.std, Retrieval()
    )


def load(name: str, per_class: int | None = None) -> Dataset:
    return disjoint() if name == "glyphs-disjoint" else tiny.load(name)


@pytest.fixture(autouse=True, scope="module")
def small():
    with tiny.registered(load):
        yield


@pytest.fixture(autouse=True)
def forgetful():
    _SAID.clear()


def teacher(**changes) -> RunConfig:
    values = {
        "model": "resnet8x0.5",
        "degradation": Degradation(16),
        "data": "glyphs-disjoint",
        "recipe": RECIPE,
        "embedding": 16,
        "head": "triplet",
        "normalized": True,
        "select": "validation",
    }
    return RunConfig(**{**values, **changes})


def student(**changes) -> RunConfig:
    """Relations alone, as stage 2 has them."""
    values = {
        "frozen": teacher(),
        "degradation": Degradation(8),
        "orders": (("2", 25.0), ("3", 50.0), ("C", 1.0)),
        "cross_entropy": 0.0,
        "head": "linear",
        "normalized": False,
        "seed": 3,
    }
    return teacher(**{**values, **changes})


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory) -> Path:
    """Runs of the teacher and the student, never interrupted."""
    folder = tmp_path_factory.mktemp("runs")
    tiny.run(student(), folder)
    return folder


@pytest.fixture
def finished(folder) -> Run:
    return read(student(), folder)


def copied(folder: Path, target: Path, config: RunConfig) -> Path:
    """A folder of runs in which this one is finished."""
    (target / config.name).mkdir(parents=True)
    for file in (folder / config.name).iterdir():
        (target / config.name / file.name).write_bytes(file.read_bytes())
    return target


# Balanced batches


def counts(batch: Tensor, labels: Tensor) -> list[int]:
    """How many images each class has in a batch, sorted."""
    return sorted(n for n in labels[batch].bincount().tolist() if n)


@pytest.mark.parametrize(
    ("classes", "size", "per_class", "expected"),
    [
        (40, 128, 5, [3] + [5] * 25),  # as in the code published with RKD
        (40, 120, 5, [5] * 24),
        (26, 128, 5, [3] + [5] * 25),
        (10, 128, 5, [11] + [13] * 9),  # too few classes: more images of each
        (4, 12, 1, [3] * 4),
        (1, 10, 5, [10]),
    ],
)
def test_batches_have_so_many_classes_and_images(classes, size, per_class, expected):
    labels = torch.arange(classes).repeat(14)
    order = balanced_order(labels, size, per_class, 7, 0)
    assert (order.shape, order.dtype) == ((7 * size,), torch.int64)
    for batch in order.view(7, size):
        assert counts(batch, labels) == expected
        assert len(batch.unique()) == size  # each image once


def test_classes_of_a_batch_are_drawn_anew():
    labels = torch.arange(30).repeat_interleave(6)
    order = balanced_order(labels, 20, 4, 50, 1)
    drawn = {tuple(sorted(labels[b].unique().tolist())) for b in order.view(50, 20)}
    assert len(drawn) > 45
    assert set(order.tolist()) == set(range(180))  # every image is within reach


def test_balanced_batches_follow_the_seed():
    labels = torch.arange(8).repeat(5)
    first = balanced_order(labels, 12, 3, 6, 7)
    assert torch.equal(first, balanced_order(labels, 12, 3, 6, 7))
    assert not torch.equal(first, balanced_order(labels, 12, 3, 6, 8))
    assert not torch.equal(first, balanced_order(labels, 12, 3, 6, 2**31 + 7))
    assert torch.equal(first[:12], balanced_order(labels, 12, 3, 1, 7))


def test_the_packages_own_generator_stays_as_it_was():
    own, drawn = common_functions.NUMPY_RANDOM, torch.get_rng_state()
    state = own.get_state()[1].copy()
    balanced_order(torch.arange(8).repeat(5), 12, 3, 6, 7)
    assert common_functions.NUMPY_RANDOM is own
    assert np.array_equal(own.get_state()[1], state)
    assert torch.equal(torch.get_rng_state(), drawn)

    broken = watch.failing(ValueError("no more"), common_functions.safe_random_choice)
    with broken, pytest.raises(ValueError, match="no more"):
        balanced_order(torch.arange(8).repeat(5), 12, 3, 6, 7)
    assert common_functions.NUMPY_RANDOM is own


def test_a_class_with_fewer_images_gives_some_twice():
    labels = torch.tensor([0, 0, 1, 1, 1, 2] + [3] * 9)
    order = balanced_order(labels, 20, 5, 3, 0).view(3, 20)
    for batch in order:
        assert labels[batch].bincount().tolist() == [5] * 4
        assert (batch == 5).sum() == 5  # the only image of class 2
    assert len({tuple(b.sort().values.tolist()) for b in order}) > 1


def test_without_the_package_balanced_batches_are_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning.samplers", None)
    with pytest.raises(HorkdError, match=r"pip install 'horkd\[metric\]'") as error:
        balanced_order(torch.arange(4).repeat(3), 4, 2, 1, 0)
    tiny.one_line(error)


def numbered(count: int, classes: int, size: int = 4) -> ImageSet:
    """Images of one colour, their number."""
    pixels = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, size, size)
    names = tuple(str(c) for c in range(classes))
    return ImageSet(pixels.contiguous(), torch.arange(count) % classes, names)


@pytest.mark.parametrize(
    "fields", [{}, {"per_class": 3}, {"count": 9}, {"per_class": 2, "count": 5}]
)
def test_an_epoch_hands_out_its_order(fields):
    images = numbered(30, 5)
    batches = Batches(images, 6, crop=1, flip=True, **fields)
    epoch = list(batches.epoch(11))
    assert len(epoch) == len(batches) == fields.get("count", 5)
    order = batches.order(11)
    central = torch.cat([crops[:, 0, 1, 1] for crops, _ in epoch]).long()
    # a crop that leaves the image shows black there, but not in the middle
    assert torch.equal(central, order)
    assert torch.equal(torch.cat([labels for _, labels in epoch]), images.labels[order])
    if fields.get("per_class"):
        expected = balanced_order(images.labels, 6, fields["per_class"], len(batches), 11)
        assert torch.equal(order, expected)


def test_an_epoch_may_be_longer_than_one_pass():
    images = numbered(30, 5)
    order = Batches(images, 6, count=12).order(4)
    assert len(order) == 72
    for part in (order[:30], order[30:60]):
        assert sorted(part.tolist()) == list(range(30))
    assert len(order[60:].unique()) == 12
    assert not torch.equal(order[:30], order[30:60])
    short = Batches(images, 6, count=2).order(4)
    assert torch.equal(short, order[:12])


def test_batches_regardless_of_classes_are_as_they_always_were():
    """The draws of all results so far: a permutation, then crops, then mirror images."""
    images = disjoint().train
    batches = Batches(images, 10, crop=2, flip=True)
    g = torch.Generator().manual_seed(5)
    order = torch.randperm(48, generator=g)[:40]
    top, left = (torch.randint(5, (40,), generator=g) for _ in range(2))
    mirrored = torch.rand(40, generator=g) < 0.5
    inner = images.margin
    framed = images.images
    if not inner:
        framed, inner = torch.nn.functional.pad(framed, (2, 2, 2, 2)), 2
    for step, (crops, labels) in enumerate(batches.epoch(5)):
        for i in range(10):
            k = 10 * step + i
            y, x = inner - 2 + int(top[k]), inner - 2 + int(left[k])
            want = framed[order[k], :, y : y + images.size, x : x + images.size]
            assert torch.equal(crops[i], want.flip(-1) if mirrored[k] else want)
            assert labels[i] == images.labels[order[k]]
    assert torch.equal(batches.order(5), order)


def class_tree(folder: Path, classes: int, each: int, side: int = 12) -> Path:
    """Photos of noise, each class around a colour of its own."""
    draw = np.random.default_rng(0)
    for c in range(classes):
        (folder / f"{c:02}").mkdir(parents=True)
        colour = draw.integers(0, 200, 3)
        for i in range(each):
            pixels = colour + draw.integers(0, 56, (side, side, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{c:02}" / f"{i}.png")
    return folder


def test_photos_come_in_the_same_balanced_batches(tmp_path):
    train = load_dataset(f"folder:{class_tree(tmp_path / 'birds', 9, 4)}@8").train
    labels = train.labels
    assert labels.bincount().tolist() == [4] * 4
    files = FileBatches(train, 6, crop=0, flip=False, per_class=3, count=5, workers=0)
    memory = Batches(ImageSet(torch.zeros(16, 3, 8, 8, dtype=torch.uint8), labels, train.classes),
                     6, crop=0, flip=False, per_class=3, count=5)  # fmt: skip
    assert len(files) == len(memory) == 5
    order = files.order(3)
    assert torch.equal(order, memory.order(3))
    found = list(files.epoch(3))
    assert torch.equal(torch.cat([y for _, y in found]), labels[order])
    single = FileBatches(train, 1, crop=0, flip=False, workers=0)
    photos = {int(k): x[0] for k, (x, _) in zip(single.order(0), single.epoch(0), strict=True)}
    crops = torch.cat([x for x, _ in found])
    assert all(torch.equal(crops[i], photos[int(k)]) for i, k in enumerate(order))


@pytest.mark.parametrize("flip", [True, False])
def test_crops_of_photos_are_those_of_the_same_photos_in_memory(flip, tmp_path):
    """Balanced, with a margin to move in, mirrored one by one."""
    train = load_dataset(f"folder:{class_tree(tmp_path / 'birds', 9, 4, 40)}@28").train
    assert train.margin == 2
    memory = ImageSet(train.load(), train.labels, train.classes, train.margin)
    fields = {"crop": 2, "flip": flip, "per_class": 3, "count": 6}
    disk = FileBatches(train, 7, **fields, workers=0)
    for seed in (0, 5):
        pairs = zip(disk.epoch(seed), Batches(memory, 7, **fields).epoch(seed), strict=True)
        for (crops, labels), (wanted, names) in pairs:
            assert (crops.shape, crops.dtype) == ((7, 3, 28, 28), torch.uint8)
            assert torch.equal(crops, wanted)
            assert torch.equal(labels, names)


def test_training_draws_nothing_from_the_generators_outside():
    whole, objective = disjoint(), Objective(1.0, head=Triplet())
    network = Network(ModelSpec("resnet8x0.5", 0, 16, unit=True))
    batches = batches_of(whole.train, ONE, whole.flip)
    see = Preprocess.of(network, whole, Degradation(8))
    score = functools.partial(
        whole.protocol.score, images=whole.test, channels=whole, degradation=Degradation(8)
    )
    torch.manual_seed(5)
    before = torch.get_rng_state()
    state = common_functions.NUMPY_RANDOM.get_state()[1].copy()
    one = new_state(network, objective, ONE)
    fit(one, batches, see, ONE, tiny.SETTINGS, 0, score=score, metric="recall1")
    assert torch.equal(torch.get_rng_state(), before)
    assert np.array_equal(common_functions.NUMPY_RANDOM.get_state()[1], state)
    with seeded("cpu", 3):
        inside = torch.rand(2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(2), inside)


# The recipe


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"optimizer": "lion"}, "unknown optimizer 'lion': choose from sgd, adam"),
        ({"per_class": -1}, "per_class must be 0 or more"),
        ({"batches": 0}, "batches positive or None for one pass"),
    ],
)
def test_bad_recipes(fields, says):
    with pytest.raises(HorkdError, match=says) as error:
        Recipe(**fields)
    tiny.one_line(error)


def test_defaults_leave_older_keys_as_they_are():
    config = tiny.student()
    assert config.recipe.optimizer == "sgd"
    assert (config.recipe.per_class, config.recipe.batches) == (0, None)
    names = set_fields(config)
    assert not {"normalized", "backbone", "select"} & set(names)
    keys = {replace(config, **c).key for c in ({}, {"normalized": True}, {"select": "test"})}
    changes = ({"optimizer": "adam"}, {"per_class": 2}, {"batches": 3})
    keys |= {replace(config, recipe=replace(config.recipe, **c)).key for c in changes}
    assert len(keys) == 6


def test_adams_steps_are_torchs():
    recipe = replace(RECIPE, epochs=1, batches=3, crop=0, learning_rate=0.003, weight_decay=0.01)
    network, twin = (tiny.network("resnet8x0.5") for _ in range(2))
    state = new_state(network, Objective(), recipe)
    assert type(state.optimizer) is torch.optim.Adam
    train = tiny.data()
    see = Preprocess.of(network, train, Degradation(8))
    fit(state, batches_of(train.train, recipe, train.flip), see, recipe, tiny.SETTINGS, 2)
    twin.train()
    adam = torch.optim.Adam(twin.parameters(), 0.003, weight_decay=0.01)
    # the seed of an epoch is as in `_epoch`
    order = balanced_order(train.train.labels, 12, 3, 3, 2 * 100_003).view(3, 12)
    losses = []
    for step, batch in enumerate(order):
        adam.param_groups[0]["lr"] = recipe.rate(step, 3)
        logits = twin(see(train.train.central[batch])).logits
        loss = torch.nn.functional.cross_entropy(logits, train.train.labels[batch])
        adam.zero_grad()
        loss.backward()
        if step == 0:  # by hand: p − lr · d / (|d| + ε) in the first step
            d = {n: p.grad + 0.01 * p.detach() for n, p in twin.named_parameters()}
            old = {n: p.detach().clone() for n, p in twin.named_parameters()}
        adam.step()
        if step == 0:
            for name, p in twin.named_parameters():
                want = old[name] - recipe.rate(0, 3) * d[name] / (d[name].abs() + 1e-8)
                torch.testing.assert_close(p.detach(), want, atol=1e-6, rtol=1e-4)
        losses.append(loss.item())
    assert state.history[0]["terms"]["cross_entropy"] == pytest.approx(np.mean(losses), rel=1e-5)
    for (name, p), q in zip(network.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-5, rtol=1e-4, msg=name)


# Interruptions

RUNS = {
    "triplet, Adam": lambda: teacher(),
    "triplet, SGD": lambda: teacher(recipe=SGD),
    "triplet, one pass": lambda: teacher(recipe=replace(RECIPE, batches=None)),
    "relations, Adam": lambda: student(),
    "relations, SGD": lambda: student(
        recipe=replace(SGD, learning_rate=0.001), orders=(*student().orders, ("1", 1.0))
    ),
    "relations, any batches": lambda: student(recipe=replace(RECIPE, per_class=0, batches=None)),
    "relations, views": lambda: student(recipe=replace(RECIPE, views=2)),
    "triplet and relations": lambda: student(
        cross_entropy=1.0, head="triplet", baselines=(("mkd_relative", 1.0),)
    ),
    "by the test": lambda: teacher(select="test", validation=False),
    "margin": lambda: teacher(head="cosface", normalized=False),
}


@pytest.mark.parametrize("name", list(RUNS))
def test_an_interrupted_run_ends_as_one_that_was_not(name, folder, tmp_path):
    config = RUNS[name]()
    for part in ("whole", "parts"):
        if config.frozen:
            copied(folder, tmp_path / part, config.frozen)
    whole = tiny.run(config, tmp_path / "whole")
    steps = len(Batches(disjoint().training(config.validation), 12, count=config.recipe.batches))
    interrupted(config, tmp_path / "parts", 2 * steps + 2)
    state = tmp_path / "parts" / config.name / "state.safetensors"
    assert state.is_file()
    again = tiny.run(config, tmp_path / "parts")
    assert_same(again, whole)
    assert [e["epoch"] for e in again.record["history"]] == [1, 2, 3]
    assert again.record["files"] == whole.record["files"]


def test_the_state_of_adam_is_all_there(folder, tmp_path):
    interrupted(teacher(), tmp_path, 6)
    path = tmp_path / teacher().name / "state.safetensors"
    tensors, _ = storage.load_tensors(path)
    parameters = list(Network(ModelSpec("resnet8x0.5", 0, 16)).parameters())
    for i, p in enumerate(parameters):
        assert tensors[f"optimizer.{i}.exp_avg"].shape == p.shape
        assert tensors[f"optimizer.{i}.exp_avg_sq"].shape == p.shape
        assert tensors[f"optimizer.{i}.step"].item() == 4


def test_a_state_of_an_earlier_version_is_set_aside(folder, tmp_path):
    whole = read(teacher(), folder)
    interrupted(teacher(), tmp_path, 6)
    path = tmp_path / teacher().name / "state.safetensors"
    tensors, metadata = storage.load_tensors(path)
    old = {n.replace("optimizer.", "momentum."): t for n, t in tensors.items()}
    storage.save_tensors(path, old, metadata)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        again = tiny.run(teacher(), tmp_path)
    assert again.record["history"] == whole.record["history"]
    assert again.record["files"] == whole.record["files"]


@pytest.mark.parametrize("views", [0, 2])
def test_answers_kept_for_balanced_batches_change_nothing(views, folder, tmp_path):
    recipe = replace(RECIPE, views=views)
    config = student(recipe=recipe, orders=(("1", 1.0), ("2", 1.0)))
    found = []
    for cache in ("off", "on", "on again"):
        copied(folder, tmp_path / cache, config.frozen)
        on = replace(tiny.SETTINGS, cache=cache[:3].strip())
        if cache == "on again":  # answers of other batches of the same images are there
            plain = replace(recipe, per_class=0, batches=None)
            runner.run(replace(config, recipe=plain), on, tmp_path / cache)
        found.append(runner.run(config, on, tmp_path / cache).record)
    for other in found[1:]:
        assert [e["epoch"] for e in other["history"]] == [1, 2, 3]
        for ours, theirs in zip(other["history"], found[0]["history"], strict=True):
            assert ours["terms"] == pytest.approx(theirs["terms"], rel=1e-3)


GAPS = Degradation(16)


def answered(config: RunConfig, cache: str, folder: Path) -> Run:
    return runner.run(config, replace(tiny.SETTINGS, cache=cache), folder)


def of_gaps(**changes) -> tuple[RunConfig, RunConfig]:
    """Teacher and student of order C on the set as it is, with two fixed views."""
    recipe = Recipe(
        epochs=3, batch_size=32, learning_rate=0.01, crop=2, views=2, per_class=4, batches=4
    )
    fields = {"model": "resnet8x0.25", "per_class": 8, "recipe": recipe, "select": "last"}
    index = teacher(**fields, degradation=GAPS)
    learner = {"frozen": index, "orders": (("1", 1.0), ("C", 1.0)), **fields, **changes}
    return index, student(**learner)


@pytest.fixture
def gaps() -> Iterator[Dataset]:
    """Real disjoint glyphs: every fifth class is held out, so that ids have gaps."""
    whole = load_retrieval("glyphs-disjoint", 8)
    train = whole.train
    assert whole.whole is None
    assert len(train) == 80 * 8
    assert int(train.ids.max()) > len(train)
    with tiny.registered(lambda name, per_class: whole):
        yield whole


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_kept_answers_of_a_part_without_a_whole_are_of_its_own_crops(optimizer, gaps, tmp_path):
    index, config = of_gaps()
    config = replace(config, recipe=replace(config.recipe, optimizer=optimizer))
    trained = tiny.run(index, tmp_path / "off")
    found = {}
    for cache in ("off", "on"):
        if cache == "on":
            copied(tmp_path / "off", tmp_path / cache, index)
        found[cache] = answered(config, cache, tmp_path / cache)
    for entries in zip(*(run.record["history"] for run in found.values()), strict=True):
        off, on = (entry["terms"] for entry in entries)
        assert set(off) == {"loss", "order1", "order_c"}
        assert on == pytest.approx(off, rel=1e-3)
        assert entries[1]["validation"]["recall1"] == pytest.approx(
            entries[0]["validation"]["recall1"], abs=5
        )
    # the kept answers themselves: of the views' crops, in the order of the training images
    files = sorted((tmp_path / "on" / ".frozen").rglob("*.safetensors"))
    assert [file.name for file in files] == ["view-0.safetensors", "view-1.safetensors"]
    network = trained.network()
    for number, file in enumerate(files):
        tensors, _ = storage.load_tensors(file)
        batches = Batches(gaps.train, 32, 2, gaps.flip, 2)
        shown, labels = zip(*batches.epoch(11, number), strict=True)
        order = batches.order(11)
        assert torch.equal(gaps.train.labels[order], torch.cat(labels))
        want = predict_.predict(network, torch.cat(shown), gaps, GAPS).features
        kept = next(t for name, t in tensors.items() if "features" in name)
        assert len(kept) == len(gaps.train)
        torch.testing.assert_close(kept[order].float(), want, atol=1e-3, rtol=1e-3)


def test_kept_answers_of_a_folder_are_of_its_photos(birds, tmp_path):
    """Other photos under the same names are other images: what was said of them is not read."""
    frozen, root = teacher(), tmp_path / "birds"
    stub = Run(frozen, tmp_path, {"files": {"model": "a digest"}})
    settings = replace(tiny.SETTINGS, cache="on")
    network = Network(ModelSpec("resnet8x0.5", 0, 16))

    def kept(name: str, **changes) -> Path:
        look_again(name)
        config = student(data=name, frozen=teacher(data=name), **changes)
        whole = load_dataset(name) if name.startswith("folder:") else disjoint()
        return answers_folder(config, stub, network, whole, settings, tmp_path)

    first = kept(birds)
    assert first.parent == tmp_path / ".frozen"
    assert kept(birds) == first
    photo = root / "01" / "0.png"
    before = photo.read_bytes()
    for size in ((90, 30), (30, 90)):
        Image.new("RGB", size).save(photo)
        assert kept(birds) != first
    photo.write_bytes(bytes([*before[:-1], before[-1] ^ 1]))  # edited in place
    assert kept(birds) != first
    photo.write_bytes(before)
    assert kept(birds) == first
    (root / "01" / "2.png").rename(root / "01" / "9.png")
    assert kept(birds) != first
    (root / "01" / "9.png").rename(root / "01" / "2.png")
    other = kept("glyphs-disjoint")
    Image.new("RGB", (90, 30)).save(photo)
    assert kept("glyphs-disjoint") == other


def bitmaps(folder: Path) -> str:
    """Eight classes of three photos each, all files of one size."""
    for c in range(8):
        for i in range(3):
            path = folder / f"{c}" / f"{i}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([c, i]).integers(0, 255, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(path)
    return f"folder:{folder}@32"


def turned(folder: Path) -> None:
    """All photos edited in place: as many bytes, the same times."""
    for path in folder.rglob("*.bmp"):
        stat = path.stat()
        picture = Image.open(path)
        picture.load()
        picture.rotate(90).save(path)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert path.stat().st_size == stat.st_size


def on_photos(name: str, **changes) -> RunConfig:
    quick = replace(RECIPE, epochs=1, batches=2, batch_size=6, per_class=3, crop=2)
    return teacher(data=name, model="resnet8x0.25", select="last", recipe=quick, **changes)


def test_photos_that_were_edited_in_place_are_another_run(tmp_path):
    """In one process, as in a notebook that is run again."""
    runs, config = tmp_path / "runs", on_photos(bitmaps(tmp_path / "photos"))
    first = tiny.run(config, runs)
    look = Look("retrieval", config.data, Degradation(8))
    known = ask(first, [look], tiny.SETTINGS)
    for path in (tmp_path / "photos").rglob("*.bmp"):
        os.utime(path)
    assert tiny.run(config, runs).folder == first.folder  # touched: nothing is done again
    assert ask(first, [look], tiny.SETTINGS) == known
    turned(tmp_path / "photos")
    second = tiny.run(config, runs)
    assert second.folder != first.folder
    assert second.record["results"] != first.record["results"]
    assert ask(second, [look], tiny.SETTINGS) != known
    other = Look("retrieval", config.data, Degradation(4))
    for late in (
        lambda: ask(first, [other], tiny.SETTINGS),
        lambda: looks_.at_resolutions(first, [Degradation(4)], tiny.SETTINGS),
        lambda: looks_.features(first, tiny.SETTINGS),
        lambda: export(first, tmp_path / "x.safetensors"),
    ):
        with pytest.raises(HorkdError, match=r"changed since .* trained on them") as error:
            late()
        tiny.one_line(error)
    turned(tmp_path / "photos")
    turned(tmp_path / "photos")
    turned(tmp_path / "photos")  # as they were
    assert tiny.run(config, runs).folder == first.folder
    assert ask(first, [other], tiny.SETTINGS)


def test_photos_that_change_during_a_run_leave_no_record(tmp_path):
    """It may have seen both; what it learns from is another run, too."""
    runs, name = tmp_path / "runs", bitmaps(tmp_path / "photos")
    config = on_photos(name)
    steps = []

    def edited(module, inputs):
        if not steps:
            turned(tmp_path / "photos")
        steps.append(1)

    with (
        tiny.before(Objective, edited),
        pytest.raises(HorkdError, match=r"changed while .* nothing is recorded, run it again") as e,
    ):
        tiny.run(config, runs)
    tiny.one_line(e)
    assert not list(runs.glob("*/record.json"))
    assert not list(runs.glob("*/state.safetensors"))
    assert tiny.run(config, runs).record["key"] == config.key


def test_what_a_frozen_model_says_of_photos_is_of_their_pixels(tmp_path):
    """Centres of order C come from it; memory of a process is a cache, too."""
    runs, name = tmp_path / "runs", bitmaps(tmp_path / "photos")
    frozen = tiny.run(on_photos(name), runs)
    network = frozen.network()

    def said() -> Tensor:
        data = load_dataset(name)
        return prepare.says(frozen, network, data, "train", data.train.central).features

    before = said()
    assert torch.equal(said(), before)
    turned(tmp_path / "photos")
    look_again(name)
    assert not torch.allclose(said(), before)


# The triplet loss


def drawn(count: int, width: int = 8, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=g)


def test_the_triplet_loss_is_its_formula():
    features, labels = drawn(20), torch.arange(5).repeat(4)
    triplet = Triplet()
    torch.manual_seed(1)
    loss = triplet(features, labels)
    torch.manual_seed(1)
    mined = [t.tolist() for t in triplet.miner(features, labels)]
    unit = [(f.double() / f.double().norm()) for f in features]
    losses = []
    for a, p, n in zip(*mined, strict=True):
        assert labels[a] == labels[p] != labels[n]
        assert a != p
        gap = (unit[a] - unit[p]).norm().item() - (unit[a] - unit[n]).norm().item()
        losses.append(max(0.0, gap + 0.2))
    assert len(losses) > 40
    assert loss.item() == pytest.approx(sum(losses) / sum(v > 0 for v in losses), rel=1e-5)
    torch.manual_seed(2)
    assert triplet(features, labels).item() != loss.item()  # other negatives
    torch.manual_seed(1)
    assert triplet(7 * features, labels).item() == pytest.approx(loss.item(), rel=1e-4)


def test_the_term_is_called_triplet_and_has_its_weight():
    labels = torch.arange(4).repeat(3)
    network = Network(ModelSpec("resnet8x0.5", 0, 16, unit=True)).train()
    output = network(torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    objective = Objective(0.5, head=Triplet())
    assert objective.on_labels == "triplet"
    assert objective.distilled == []
    torch.manual_seed(0)
    terms = objective(output, labels, None)
    assert set(terms) == {"loss", "triplet"}
    assert terms["loss"].item() == pytest.approx(0.5 * terms["triplet"].item())
    assert Objective(1.0).on_labels == "cross_entropy"
    assert not list(Triplet().parameters())


def test_a_student_of_triplets_and_relations_logs_both(folder, tmp_path):
    copied(folder, tmp_path, teacher())
    config = student(cross_entropy=2.0, head="triplet", normalized=True, warmup=1.0, recipe=RECIPE)
    record = tiny.run(config, tmp_path).record
    names = {"triplet", "order2", "order3", "order_c"}
    weights = {"triplet": 2, "order2": 25, "order3": 50, "order_c": 1}
    for entry in record["history"]:
        assert set(entry["terms"]) == {"loss", *names}
        assert set(entry["gradient_shares"]) == names
    terms = record["history"][-1]["terms"]  # after the warm-up
    assert terms["loss"] == pytest.approx(sum(w * terms[n] for n, w in weights.items()), rel=1e-5)


@pytest.mark.parametrize(
    ("features", "labels"),
    [
        (drawn(6), torch.zeros(6, dtype=torch.int64)),  # one class
        (drawn(6), torch.arange(6)),  # no two of a class
        (torch.ones(6, 8), torch.arange(3).repeat(2)),
        (torch.zeros(6, 8), torch.arange(3).repeat(2)),
        (drawn(1), torch.zeros(1, dtype=torch.int64)),
    ],
    ids=["one class", "lonely", "equal", "zero", "one image"],
)
def test_the_triplet_loss_of_odd_batches_has_a_finite_gradient(features, labels):
    features = features.clone().requires_grad_()
    loss = Triplet()(features, labels)
    assert torch.isfinite(loss)
    loss.backward()
    assert features.grad.isfinite().all()


def test_without_the_package_the_triplet_loss_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning.miners", None)
    with pytest.raises(HorkdError, match=r"pip install 'horkd\[metric\]'") as error:
        Triplet()
    tiny.one_line(error)


WILD = {"optimizer": "sgd", "learning_rate": 1e18}


def test_a_diverging_triplet_run_says_so(tmp_path):
    with pytest.raises(Diverged):
        tiny.run(teacher(recipe=replace(RECIPE, **WILD)), tmp_path)


def test_a_run_that_diverges_in_an_epochs_last_step_says_so(tmp_path):
    recipe = replace(RECIPE, **{**WILD, "learning_rate": 1e30}, batches=1)
    with pytest.raises(HorkdError) as error:
        tiny.run(teacher(recipe=recipe), tmp_path)
    if not isinstance(error.value, Diverged):
        raise error.value


# Which epoch counts


class RiseAndFall(Retrieval):
    """Scores that rise and fall; what was scored, and the weights at that time."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def score(self, network, images, channels, degradation):
        result = super().score(network, images, channels, degradation)
        assert set(result) == {"recall1", "n"}
        state = {n: t.clone() for n, t in network.state_dict().items()}
        self.seen.append((len(images), state))
        return {**result, "recall1": [10.0, 30.0, 30.0][len(self.seen) - 1]}


@pytest.fixture
def scores():
    protocol = RiseAndFall()
    with tiny.registered(lambda name, per_class: replace(disjoint(), protocol=protocol)):
        yield protocol.seen


def same(network: Network, state: dict) -> bool:
    return all(torch.equal(t, state[n]) for n, t in network.state_dict().items())


@pytest.mark.parametrize("select", ["validation", "test"])
def test_the_first_of_the_best_epochs_is_the_result(select, scores, tmp_path):
    config = teacher(select=select, validation=select == "validation")
    run = tiny.run(config, tmp_path)
    results, whole = run.record["results"], disjoint()
    images = whole.validation if select == "validation" else whole.test
    assert [n for n, _ in scores] == [len(images)] * 3
    assert len(whole.validation) != len(whole.test)
    states = [state for _, state in scores]
    network = run.network()
    assert same(network, states[1])
    score = {"recall1": 30.0, "n": len(images)}
    assert results["selected"] == {"by": select, "epoch": 2, "score": score}
    assert [e["validation"]["recall1"] for e in run.record["history"]] == [10.0, 30.0, 30.0]
    assert results["test"] == retrieved(as_trained(network, states[1]))
    assert "best" not in results
    network = as_trained(network, states[2])
    # without clusters, which take minutes of a large set
    last = {name: rate for name, rate in retrieved(network).items() if name != "nmi"}
    assert results["last"] == {"epoch": 3, "test": last}
    assert "nmi" in results["test"]
    assert last["map_at_r"] != results["test"]["map_at_r"]


def test_the_last_epoch_counts_by_default(scores, tmp_path):
    run = tiny.run(teacher(select="last"), tmp_path)
    results, states = run.record["results"], [state for _, state in scores]
    network = run.network()
    assert same(network, states[2])
    assert results["test"] == retrieved(as_trained(network, states[2]))
    assert not {"selected", "last"} & set(results)
    network = as_trained(network, states[1])
    assert results["best"]["epoch"] == 2
    assert results["best"]["test"] == retrieved(network)


def as_trained(network: Network, state: dict) -> Network:
    """A network as it is in training: another memory format rounds otherwise, and ranks so."""
    network.load_state_dict(state)
    return tiny.SETTINGS.resolve(network).place(network)


def retrieved(network: Network, size: int = 16) -> dict:
    found = RETRIEVAL(Asked(network, disjoint(), Degradation(size)))
    return json.loads(json.dumps(found))


def test_real_scores_are_recall_at_1(folder):
    record = read(teacher(), folder).record
    scores = [entry["validation"]["recall1"] for entry in record["history"]]
    epoch = record["results"]["selected"]["epoch"]
    assert epoch == 1 + scores.index(max(scores))
    network, whole = read(teacher(), folder).network(), disjoint()
    found = predict_.predict(network, whole.validation.central, whole, Degradation(16)).features
    rates = neighbours.measure(found, whole.validation.labels)
    assert max(scores) == rates["recall"]["1"]
    assert record["results"]["selected"]["score"]["n"] == HELD * EACH
    assert headline({"recall1": 1.0, "n": 2}).key == "recall1"
    assert headline({"top1": 1.0, "n": 2}).key == "top1"


@pytest.mark.parametrize("select", ["last", "test"])
def test_without_validation_all_classes_train(select, tmp_path):
    config = teacher(select=select, validation=False, recipe=ONE, head="cosface", normalized=False)
    run = tiny.run(config, tmp_path)
    assert run.record["training_images"] == (TRAIN + HELD) * EACH
    extras, _ = storage.load_tensors(run.folder / "objective.safetensors")
    assert extras["head.W"].shape == (16, TRAIN + HELD)
    train = disjoint().training(validation=False)
    assert train.labels.bincount().tolist() == [EACH] * (TRAIN + HELD)
    assert train.classes == disjoint().train.classes + disjoint().validation.classes
    assert disjoint().training() is disjoint().train
    assert ("selected" in run.record["results"]) == (select == "test")


def test_centres_are_of_all_classes_that_train(tmp_path):
    all_of_them = {"select": "last", "validation": False, "recipe": ONE}
    config = student(frozen=teacher(**all_of_them), **all_of_them)
    assert tiny.run(config, tmp_path).centers().shape == (TRAIN + HELD, 16)


def test_a_classifier_learns_all_classes_that_train(tmp_path):
    config = teacher(head="linear", normalized=False, select="last", validation=False, recipe=ONE)
    network = tiny.run(config, tmp_path).network()
    assert network.spec.num_classes == TRAIN + HELD


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"select": "best"}, "unknown selection 'best': choose from "),
        ({"validation": False}, "needs the validation split: set validation=True"),
        ({"head": "quadruplet"}, "unknown head 'quadruplet': choose from linear, cosface"),
        ({"backbone": "imagenet", "weights": "0" * 16}, "backbone= is for networks that are train"),
        ({"recipe": replace(RECIPE, per_class=0)}, "triplets need several images of a class: set "),
        ({"recipe": replace(RECIPE, per_class=1)}, r"a class: set recipe\.per_class to 2"),
        (
            {"backbone": "imagenet", "frozen": teacher(), "start": "frozen"},
            "backbone= is for networks that are trained",
        ),
    ],
)
def test_odd_configurations(fields, says):
    with pytest.raises(HorkdError, match=says) as error:
        teacher(**fields)
    tiny.one_line(error)


def test_only_triplets_need_several_images_of_a_class():
    plain = replace(RECIPE, per_class=0)
    assert teacher(recipe=replace(RECIPE, per_class=2)).head == "triplet"
    assert teacher(recipe=plain, head="cosface").recipe.per_class == 0
    assert student(recipe=plain, head="triplet").cross_entropy == 0.0  # it has no triplets


@pytest.mark.parametrize("select", ["validation", "test"])
def test_nothing_can_be_selected_without_a_score(select, tmp_path):
    """No classifier, and the same classes in every split."""
    of = {"data": "glyphs", "recipe": ONE, "select": select}
    with pytest.raises(HorkdError, match="a classifier or a disjoint set") as error:
        tiny.run(teacher(**of), tmp_path)
    tiny.one_line(error)


def test_classifiers_can_be_selected_too(tmp_path):
    of = {"data": "glyphs", "head": "linear", "normalized": False}
    record = tiny.run(teacher(**of), tmp_path).record
    best = max(entry["validation"]["top1"] for entry in record["history"])
    assert record["results"]["selected"]["score"]["top1"] == best
    assert set(record["results"]["last"]["test"]) == {"top1", "top5", "n"}


# Networks


def test_normalized_networks_end_in_unit_vectors(folder, finished):
    whole = disjoint()
    network = read(teacher(), folder).network()
    assert network.spec == ModelSpec("resnet8x0.5", 0, 16, unit=True)
    found = predict_.predict(network, whole.test.central, whole, Degradation(16)).features
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(found)))
    other = predict_.predict(finished.network(), whole.test.central, whole, Degradation(8)).features
    assert not finished.network().spec.unit
    assert (other.norm(dim=1) - 1).abs().max() > 0.01


def test_exported_students_can_be_loaded(folder, finished, tmp_path):
    for run, size in ((read(teacher(), folder), 16), (finished, 8)):
        path = tmp_path / f"{size}.safetensors"
        export(run, path)
        network = load_network(path)
        assert network.spec == run.network().spec
        x = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            ours, theirs = network(x).features, run.network()(x).features
        torch.testing.assert_close(ours, theirs, atol=0.02, rtol=0.02)
        torch.testing.assert_close(load_pretrained(path, run.network().spec)(x).features, ours)


METHODS = {
    "pkt": {"baselines": (("pkt", 1.0),), "normalized": True},
    "darkrank": {"baselines": (("darkrank", 1.0),), "normalized": True},
    "mkd": {"baselines": (("mkd_relative", 10.0),)},
    "mkd absolute": {"baselines": (("mkd_absolute", 1.0),)},
    "mkd+at": {"baselines": (("mkd_relative", 10.0), ("at", 1000.0))},
    "rkd": {"orders": (("2", 1.0), ("3", 2.0)), "reduction": "rkd"},
}


@pytest.mark.parametrize("name", list(METHODS))
def test_methods_of_table_4_train(name, folder, tmp_path):
    copied(folder, tmp_path, teacher())
    triplet = {"head": "triplet", "normalized": True, "cross_entropy": 1.0}
    fields = {**({} if "mkd" not in name else triplet), **METHODS[name]}
    config = student(**{"orders": (), "recipe": ONE, **fields})
    run = tiny.run(config, tmp_path)
    (entry,) = run.record["history"]
    assert all(math.isfinite(v) for v in entry["terms"].values())
    assert ("triplet" in entry["terms"]) == ("mkd" in name)
    for term, _ in config.baselines:
        assert entry["terms"][term] > 0
    assert 0 <= run.record["results"]["test"]["recall"]["1"] <= 100
    before = Network(run.network().spec).state_dict()
    assert set(run.network().state_dict()) == set(before)


def test_backbones_start_from_what_is_named(monkeypatch, folder, tmp_path):
    asked = []

    def start(network, weights):
        asked.append((network.spec, weights))
        with torch.no_grad():
            for p in network.parameters():
                p.fill_(0.125)

    monkeypatch.setattr("horkd.lab.runner.start_backbone", start)
    monkeypatch.setattr("horkd.lab.runner.imagenet_name", lambda model: f"weights of {model}")
    still = replace(ONE, learning_rate=1e-12)
    config = teacher(backbone="imagenet", recipe=still)
    assert config.key != teacher(recipe=still).key
    run = tiny.run(config, tmp_path)
    assert asked == [(run.network().spec, "imagenet")]
    for p in run.network().parameters():
        torch.testing.assert_close(p, torch.full_like(p, 0.125))
    assert run.record["backbone"] == "weights of resnet8x0.5"
    other = tiny.run(teacher(recipe=still), tmp_path)
    assert "backbone" not in other.record
    assert len(asked) == 1
    digest = "0123456789abcdef"  # a file says itself which weights it holds
    local = tiny.run(teacher(recipe=still, backbone=digest), tmp_path)
    assert asked[1:] == [(local.network().spec, digest)]
    assert "backbone" not in local.record


@pytest.fixture
def eighths(monkeypatch) -> list[str]:
    """Backbones start from eighths; the weights that were asked for."""
    asked = []

    def start(network, weights):
        asked.append(weights)
        with torch.no_grad():
            for p in network.parameters():
                p.mul_(0.125)

    monkeypatch.setattr("horkd.lab.runner.start_backbone", start)
    return asked


LOCAL = "0123456789abcdef"


def test_a_resumed_run_asks_for_no_weights(eighths, tmp_path):
    """They may be gone by then, and the state has them."""
    config = teacher(backbone=LOCAL)
    whole = tiny.run(config, tmp_path / "whole")
    assert eighths == [LOCAL]
    interrupted(config, tmp_path / "parts", 6)
    assert eighths == [LOCAL] * 2
    assert_same(tiny.run(config, tmp_path / "parts"), whole)
    assert eighths == [LOCAL] * 2


def test_without_a_state_the_weights_are_asked_for_again(eighths, tmp_path):
    config = teacher(backbone=LOCAL)
    whole = tiny.run(config, tmp_path / "whole")
    interrupted(config, tmp_path / "parts", 2)
    assert not (tmp_path / "parts" / config.name / "state.safetensors").exists()
    assert_same(tiny.run(config, tmp_path / "parts"), whole)
    assert eighths == [LOCAL] * 3


def test_after_a_damaged_state_a_run_starts_from_the_weights_again(eighths, tmp_path):
    config = teacher(backbone=LOCAL)
    whole = tiny.run(config, tmp_path / "whole")
    interrupted(config, tmp_path / "parts", 6)
    (tmp_path / "parts" / config.name / "state.safetensors").write_bytes(b"damaged")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = tiny.run(config, tmp_path / "parts")
    (again.folder / "state.safetensors.damaged").unlink()
    assert_same(again, whole)
    assert eighths == [LOCAL] * 3


def test_our_own_networks_have_no_imagenet_weights(tmp_path):
    with pytest.raises(HorkdError, match=r"no ImageNet weights for resnet8x0\.5") as error:
        tiny.run(teacher(backbone="imagenet", recipe=ONE), tmp_path)
    tiny.one_line(error)
    assert not list(tmp_path.glob("*/record.json"))


# Retrieval


def features(network: Network, size: int, images: ImageSet | None = None) -> Tensor:
    images = images or disjoint().test
    return predict_.predict(network, images.central, disjoint(), Degradation(size)).features


def test_retrieve_is_measure_of_the_features(finished):
    network, labels = finished.network(), disjoint().test.labels
    found = RETRIEVAL(Asked(network, disjoint(), Degradation(8)))
    own = features(network, 8)
    nmi = neighbours.nmi(own, labels)
    assert found == neighbours.measure(own, labels) | {"nmi": nmi}
    assert found["queries"] == found["gallery"] == TESTED * EACH
    assert json.loads(json.dumps(found)) == finished.record["results"]["test"]
    across = RETRIEVAL(Asked(network, disjoint(), Degradation(8), Degradation(16)))
    itself = torch.arange(len(labels))
    assert across == neighbours.measure(own, labels, features(network, 16), labels, itself)
    assert RETRIEVAL(Asked(network, disjoint(), Degradation(8), Degradation(8))) == found
    assert disjoint().protocol.test(network, disjoint(), Degradation(8)) == found


def test_features_of_a_run_are_what_its_network_says(folder):
    for config, size in ((student(), 8), (teacher(), 16)):
        run = read(config, folder)
        found = looks_.features(run, tiny.SETTINGS)
        assert (found.shape, found.device.type) == ((TESTED * EACH, 16), "cpu")
        whole = disjoint()
        levels = Degradation(size)(whole.test.images) / 255
        mean, std = (torch.tensor(v)[:, None, None] for v in (whole.mean, whole.std))
        with torch.no_grad():
            want = run.network()((levels - mean) / std).features
        torch.testing.assert_close(found, want, atol=1e-4, rtol=1e-4)
        rates = neighbours.measure(found, whole.test.labels)
        assert rates["recall"] == run.record["results"]["test"]["recall"]


def test_retrieve_refuses(finished):
    with pytest.raises(HorkdError, match="glyphs has no test classes of its own") as error:
        RETRIEVAL(Asked(finished.network(), tiny.data(), Degradation(8)))
    assert "glyphs-disjoint" in tiny.one_line(error)
    with pytest.raises(HorkdError, match="retrieval knows no mirrored images") as error:
        RETRIEVAL(Asked(finished.network(), disjoint(), Degradation(8), flip=True))
    tiny.one_line(error)


def test_pixels_are_found_by_a_loop_over_images(folder):
    data = disjoint()
    images = Degradation(8)(data.test.images).double().flatten(1) / 255
    labels = data.test.labels.tolist()
    hits = 0
    for i, query in enumerate(images):
        others = [((query - other).norm().item(), j) for j, other in enumerate(images) if j != i]
        hits += labels[min(others)[1]] == labels[i]
    run = read(student(), folder)
    look = Look("pixels", "glyphs-disjoint", Degradation(8))
    [found] = ask(run, [look], tiny.SETTINGS)
    assert found["recall"]["1"] == pytest.approx(100 * hits / len(labels))
    assert found == PIXELS(Asked(None, data, Degradation(8)))  # whatever the network


def test_pixels_refuse():
    with pytest.raises(HorkdError, match="glyphs has no test classes of its own"):
        PIXELS(Asked(None, tiny.data(), Degradation(8)))
    for more in ({"flip": True}, {"other": Degradation(16)}):
        with pytest.raises(HorkdError, match="knows neither other= nor flip=") as error:
            PIXELS(Asked(None, disjoint(), Degradation(8), **more))
        tiny.one_line(error)


def test_looks_at_retrieval_are_kept(folder, tmp_path):
    copied(folder, tmp_path, student())
    run = read(student(), tmp_path)
    looks = [
        Look("retrieval", "glyphs-disjoint", Degradation(8)),
        Look("retrieval", "glyphs-disjoint", Degradation(8), Degradation(12)),
    ]
    found = ask(run, looks, tiny.SETTINGS)
    network = run.network()
    for look, result in zip(looks, found, strict=True):
        want = RETRIEVAL(Asked(network, disjoint(), look.degradation, look.other))
        assert result == json.loads(json.dumps(want))
    assert (run.folder / "open_set.json").is_file()
    with tiny.registered(tiny.nothing):
        assert ask(run, looks, tiny.SETTINGS) == found
    with pytest.raises(HorkdError, match="glyphs has no test classes of its own"):
        ask(run, [Look("retrieval", "glyphs", Degradation(8))], tiny.SETTINGS)


ACROSS = Look("across", "glyphs-disjoint", Degradation(8))


@pytest.mark.parametrize("wide", [False, True])
def test_queries_in_the_teachers_index(wide, folder, tmp_path):
    copied(folder, tmp_path, teacher())
    config = student(embedding=24 if wide else 16, recipe=ONE)
    run = tiny.run(config, tmp_path)
    (found,) = ask(run, [ACROSS], tiny.SETTINGS)
    own, index = run.network(), read(teacher(), tmp_path).network()
    test, train = disjoint().test, disjoint().train
    labels, itself = test.labels, torch.arange(len(test))
    queries, gallery = features(own, 8), features(index, 16)
    transform = alignment.align(features(own, 8, train), features(index, 16, train))
    aligned = neighbours.measure(transform(queries), labels, transform.pad(gallery), labels, itself)
    as_is = None if wide else neighbours.measure(queries, labels, gallery, labels, itself)
    want = {"as_is": as_is, "aligned": aligned, "aligned_by": len(train)}
    assert found == json.loads(json.dumps(want))
    with tiny.registered(tiny.nothing):
        assert ask(run, [ACROSS], tiny.SETTINGS) == [found]


def test_across_by_hand():
    labels = torch.arange(5).repeat(6)
    index = drawn(30) + 3 * drawn(5, seed=1)[labels]
    turn = torch.linalg.qr(drawn(8, seed=2)).Q
    moved = 2 * index @ turn + 5
    found = retrieval.across(moved, index, labels, (moved[:20], index[:20]))
    itself = torch.arange(30)
    assert found["aligned"] == neighbours.measure(index, labels, index, labels, itself)
    assert found["as_is"] == neighbours.measure(moved, labels, index, labels, itself)
    assert found["aligned_by"] == 20
    wide = retrieval.across(moved[:, :6], index, labels, (moved[:, :6], index))
    assert wide["as_is"] is None


def test_across_needs_a_teacher(folder, tmp_path):
    run = read(teacher(), folder)
    with pytest.raises(HorkdError, match="has no teacher whose index it could query") as error:
        ask(run, [ACROSS], tiny.SETTINGS)
    tiny.one_line(error)
    copied(folder, tmp_path, student())
    with pytest.raises(HorkdError, match=r"the teacher .* is not there") as error:
        ask(read(student(), tmp_path), [ACROSS], tiny.SETTINGS)
    tiny.one_line(error)


@pytest.mark.parametrize(
    "look",
    [
        replace(ACROSS, data="glyphs"),  # no test classes of its own
        replace(ACROSS, flip=True),
        replace(ACROSS, other=Degradation(12)),
    ],
    ids=["data", "flip", "other"],
)
def test_across_refuses_what_it_does_not_do(look, finished):
    with pytest.raises(HorkdError) as error:
        ask(finished, [look], tiny.SETTINGS)
    tiny.one_line(error)


# Presets and arms

each_preset = pytest.mark.parametrize(
    "preset", tasks()["retrieval"].presets, ids=lambda preset: preset.name
)
PAPERS = ["cub", "cars", "sop", "cub@224", "folder:birds", "folder:/birds@128"]


def arms_of(preset) -> dict:
    return study(preset, "metric")


def named(preset, name: str, seed: int = 0) -> RunConfig:
    return configure(preset, arms_of(preset)[f"metric {name}"], seed)


@each_preset
def test_every_arm_has_a_name_of_its_own_and_survives_its_record(preset):
    for name, arm in arms_of(preset).items():
        assert name == arm.name
        assert name.startswith("metric ")
        assert arm.what
        config = configure(preset, arm, 2)
        assert config.select == preset.select == "validation"
        assert config.validation
        assert config.data == preset.data
        # orders of relations of networks from scratch are learnt by SGD, all else by Adam
        by_sgd = bool(config.orders) and not preset.backbone
        assert config.recipe.optimizer == ("sgd" if by_sgd else "adam")
        assert config.embedding == preset.embedding
        assert config.backbone == preset.backbone
        again = config_from_dict(json.loads(json.dumps(asdict(config))))
        assert (again, again.key) == (config, config.key)
    for other in tasks()["classification"].studies:
        assert not study(preset, other.name)


@each_preset
def test_only_the_assistant_has_two_names(preset):
    full = data.full_size(preset.data)
    names: dict[str, list[str]] = {}
    for name, arm in arms_of(preset).items():
        names.setdefault(configure(preset, arm).key, []).append(name)
    twice = [found for found in names.values() if len(found) > 1]
    both = ["metric assistant", f"metric student {full} direct"]
    assert twice == ([both] if both[1] in arms_of(preset) else [])


@each_preset
def test_the_chain_and_its_controls(preset):
    sizes, full = preset, data.full_size(preset.data)
    main = sizes.lows[0]
    labels = "cosface" if preset.name == "metric-cpu" else "triplet"
    teacher, assistant = named(preset, "teacher"), named(preset, "assistant")
    pupil = named(preset, f"student {main}", 1)
    assert (teacher.frozen, assistant.frozen, pupil.frozen) == (None, teacher, assistant)
    assert pupil.teacher == teacher
    for config in (assistant, pupil):
        assert config.cross_entropy == 0.0
        assert dict(config.orders) == {o: w for o, w in METRIC_ORDERS if o != "1"}
    assert (teacher.degradation, assistant.degradation) == (Degradation(full), Degradation(full))
    assert pupil.degradation == Degradation(main)
    assert (teacher.head, teacher.normalized, teacher.classifies) == (labels, True, False)
    direct, alone = (named(preset, f"student {main} {k}", 1) for k in ("direct", "alone"))
    assert direct == replace(pupil, frozen=teacher)
    bare = {"frozen": None, "orders": (), "cross_entropy": 1.0, "head": labels}
    bare["recipe"] = sizes.other_recipe
    assert alone == replace(pupil, **bare, normalized=True)
    index = named(preset, f"student {main} for the index", 1)
    assert {o for o, _ in index.orders} == {"1", "2", "3"}
    assert replace(index, orders=direct.orders) == direct
    for name, arm in arms_of(preset).items():
        config = configure(preset, arm, 1)
        compact = name not in ("metric teacher", "metric large")
        assert (config.model == sizes.compact) == compact
        learnt = sizes.recipe if config.orders else sizes.other_recipe
        assert config.recipe == (learnt if compact else sizes.teacher_recipe)
        if compact:  # the same batches in all arms that are compared
            for field in ("batch_size", "per_class", "batches", "crop"):
                assert getattr(config.recipe, field) == getattr(pupil.recipe, field)
        assert not config.classifies


@each_preset
def test_what_is_distilled_from_is_trained_once_and_before(preset):
    preset = replace(preset, seeds=3)
    for name in ("teacher", "assistant"):
        assert list(seeds(preset, arms_of(preset)[f"metric {name}"])) == [0]
    main = preset.lows[0]
    counted = {name: len(seeds(preset, arm)) for name, arm in arms_of(preset).items()}
    for kind in ("", " alone", " direct"):
        assert counted[f"metric student {main}{kind}"] == 3
    if preset.repeat_all:
        assert {n for name, n in counted.items() if name not in studies_frozen()} == {3}
    done = set()
    for job in queue(preset, "metric"):
        assert job.study == "metric"
        assert job.config.frozen is None or job.config.frozen.key in done
        done.add(job.config.key)


def studies_frozen() -> set[str]:
    return {"metric teacher", "metric assistant"}


@pytest.mark.parametrize("name", PAPERS)
def test_every_row_of_table_4_is_one_arm(name):
    preset = get_preset("metric-paper", name)
    found: dict[str, list[RunConfig]] = {}
    for arm in arms_of(preset).values():
        if arm.row is not None:
            found.setdefault(arm.row, []).append(configure(preset, arm))
    assert set(found) == {row.model for row in TABLE_4}
    full = data.full_size(name)
    for row in TABLE_4:
        (config,) = found[row.model]
        assert config.degradation.size * 256 / full == row.resolution
        assert config.data == name
    models = {row: configs[0].model for row, configs in found.items()}
    assert models.pop("Teacher (ResNet50)") == "torchvision:resnet50"
    assert models.pop("ResNet101") == "torchvision:resnet101"
    assert set(models.values()) == {"torchvision:resnet18"}
    assert found["MKD+AT"][0].baselines == (("mkd_relative", 10.0), ("at", 1000.0))
    assert [b for b, _ in found["DarkRank"][0].baselines] == ["darkrank"]
    assert [b for b, _ in found["PKT"][0].baselines] == ["pkt"]


@pytest.mark.parametrize(
    ("name", "lows", "crop"),
    [
        ("cub", (96, 224, 160, 128), 18),
        ("cub@224", (84, 196, 140, 112), 16),
        ("sop@128", (48, 112, 80, 64), 9),
        ("folder:birds@64", (24, 56, 40, 32), 5),
    ],
)
def test_resolutions_and_crops_follow_the_size_of_the_photos(name, lows, crop):
    preset = get_preset("metric-paper", name)
    assert preset.data == name
    assert preset.lows == lows
    assert preset.recipe.crop == preset.teacher_recipe.crop == crop
    for arm in arms_of(preset).values():
        assert configure(preset, arm).recipe.crop == crop
    assert preset.recipe.batches == 100


def test_the_crop_is_the_margin_of_the_photos(tmp_path):
    name = f"folder:{class_tree(tmp_path / 'birds', 6, 2)}@96"
    assert load_dataset(name).train.margin == get_preset("metric-paper", name).recipe.crop


@pytest.mark.parametrize("select", ["test", "last"])
@each_preset
def test_other_selections_train_on_everything(preset, select):
    other = get_preset(preset.name, select=select, task="retrieval")
    keys = {configure(preset, arm).key for arm in arms_of(preset).values()}
    assert list(arms_of(other)) == list(arms_of(preset))
    for arm in arms_of(other).values():
        config = configure(other, arm)
        assert (config.select, config.validation) == (select, False)
        assert config.key not in keys
    assert study(other, "table1") == study(preset, "table1")
    assert get_preset(preset.name, select="validation", task="retrieval") == preset


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("metric", "glyphs"), "preset metric is not made for glyphs: sets with disjoint classes"),
        (("metric", "lfw"), "preset metric is not made for lfw"),
        (("quick", "cub"), "go with metric, metric-cpu, metric-paper, others with the rest"),
        (("faces", "cub"), "preset faces is not made for cub"),
        (("metric", "cub"), "preset metric is not made for cub: take metric-paper"),
        (("metric-cpu", "folder:x"), "is not made for folder:x: take metric-paper"),
        (("metric-paper", "glyphs-disjoint"), "take metric or metric-cpu"),
        (("metric-paper", "cub@7"), "cannot read the data set 'cub@7'"),
        (("metric", "glyphs-disjoint@16"), "has images of 32 pixels alone"),
        (("metric-paper", "folder:"), "write folder:PATH"),
        (("cpu", "", 0, "test"), "preset cpu has no study of metric learning to select for"),
        (("faces", "", 0, "last"), "preset faces has no study of metric learning"),
        (("metric", "birds"), r"unknown data set 'birds': choose from glyphs, .*folder:PATH"),
    ],
)
def test_odd_presets(arguments, says):
    with pytest.raises(HorkdError, match=says) as error:
        get_preset(*arguments)
    tiny.one_line(error)


def test_an_unknown_selection_is_refused():
    with pytest.raises(HorkdError, match="unknown selection 'best'") as error:
        queue(get_preset("metric", select="best"), "metric")
    tiny.one_line(error)


def test_a_folder_may_be_called_disjoint():
    preset = get_preset("metric-paper", "folder:/birds-disjoint")
    assert preset.lows == (96, 224, 160, 128)


def test_a_selection_for_a_study_that_other_data_lack_is_refused():
    with pytest.raises(HorkdError):
        get_preset("smoke", "cifar100", select="test")


def test_other_data_leave_metric_learning_to_its_presets():
    assert study(get_preset("smoke", "cifar100"), "metric") == {}
    with pytest.raises(HorkdError, match="no study of metric learning: choose from smoke, quick"):
        get_preset("smoke", "cifar100", task="retrieval")
    swapped = get_preset("metric", "cifar100-disjoint")
    assert swapped.lows == get_preset("metric").lows


def test_exports():
    assert usual_exports(get_preset("smoke")) == ["teacher", "assistant", "student"]
    for name in ("metric", "metric-paper"):
        preset = get_preset(name)
        names = usual_exports(preset)
        assert names == [f"metric student {r}" for r in preset.lows]
        assert {job.arm for job in choose(preset, (), names)} == set(names)


# Weights files


@pytest.fixture
def birds(tmp_path, monkeypatch) -> str:
    """Photos of ten classes to learn and select by, and of ten to be tested on."""
    monkeypatch.setenv("HORKD_RUNS", str(tmp_path / "runs"))
    return f"folder:{class_tree(tmp_path / 'birds', 20, 3, 40)}@32"


def test_a_teacher_from_a_file(birds, tmp_path):
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(0)
        path = tmp_path / "resnet18.safetensors"
        save_file(torchvision.models.resnet18(weights=None).state_dict(), path)
    preset = get_preset("metric-paper", birds)
    with pytest.warns(UserWarning, match="taken for a classifier and left out"):
        known = with_teacher(preset, path, "torchvision:resnet18", "half")
    assert known.weights == weights_.digest(path)
    assert known.mean == (0.5,) * 3
    teacher = named(known, "teacher")
    assert (teacher.model, teacher.normalized) == ("torchvision:resnet18", True)
    found = read(teacher)
    assert found.record["results"]["test"]["queries"] == 30
    assert found.network().width == 512
    quick = replace(RECIPE, epochs=1, batches=2, batch_size=6, per_class=3, crop=2)
    known = replace(known, compact="resnet8x0.5", recipe=quick, embedding=8, backbone=None)
    run = tiny.run(named(known, "student 12 direct"), tmp_path / "runs")
    assert run.record["config"]["frozen"]["weights"] == teacher.weights
    assert run.record["frozen_files"] == found.record["files"]
    assert run.record["results"]["selected"]["epoch"] == 1
    assert run.record["training_images"] == 24  # eight of ten classes
    assert run.centers().shape == (8, 512)
    for name in ("assistant", "student 12", "MKD 12", "student 12 for the index"):
        assert named(known, name).teacher == teacher
    assert named(known, "student 12 alone").frozen is None


def test_among_one_class_everything_is_found(birds, tmp_path):
    """Every epoch would be perfect, and the first one the result."""
    few = f"folder:{class_tree(tmp_path / 'few', 18, 3, 40)}@32"
    quick = replace(RECIPE, epochs=1, batches=2, batch_size=6, per_class=3, crop=2)
    for preset, refused in ((get_preset("metric-paper", few), True),
                            (get_preset("metric-paper", few, select="last"), False)):  # fmt: skip
        sizes = replace(
            preset, compact="resnet8x0.5", backbone=None, other_recipe=quick, embedding=8
        )
        alone = named(sizes, "student 12 alone")
        if refused:
            with pytest.raises(HorkdError, match="too few classes to hold two out") as error:
                tiny.run(alone, tmp_path / "runs")
            assert "--select last" in tiny.one_line(error)
        else:
            assert tiny.run(alone, tmp_path / "runs").record["training_images"] == 27


def test_a_teacher_that_ends_in_an_embedding(birds, tmp_path):
    """Students take the width of the index that such a teacher makes, and it stays as it is."""
    import timm

    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = timm.create_model("resnet18", num_classes=24).eval()
    path = tmp_path / "resnet18.safetensors"
    save_file(theirs.state_dict(), path)
    preset = get_preset("metric-paper", birds)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no layer is left out
        known = with_teacher(preset, path, "timm:resnet18@24")
    teacher = named(known, "teacher")
    assert (teacher.embedding, named(known, "student 12 direct").embedding) == (24, 24)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        ours, want = read(teacher).network()(x).features, theirs(x)
    torch.testing.assert_close(ours, want / want.norm(dim=1, keepdim=True))
    with pytest.warns(UserWarning, match=r"fc\.weight \(24×512\) is taken for a classifier"):
        pooled = with_teacher(preset, path, "timm:resnet18")
    assert named(pooled, "teacher").key != teacher.key

    again = tmp_path / "ours.safetensors"  # what horkd exports is named with its width, too
    save_network(again, read(teacher).network())
    known = with_teacher(preset, again, "timm:resnet18@24")
    assert named(known, "student 12").embedding == 24
    with pytest.raises(HorkdError, match=r"name what it holds \(timm:resnet18@24\)") as error:
        with_teacher(preset, again, "timm:resnet18")
    tiny.one_line(error)
    for model, says in (("timm:resnet18@", "after @ stands"), ("timm:resnet18@0", "after @ stands"),
                        ("timm:resnet18@25", "has 0 linear layers of 25×512")):  # fmt: skip
        with pytest.raises(HorkdError, match=says) as error:
            with_teacher(preset, path, model)
        tiny.one_line(error)


def test_every_method_fits_a_given_teacher(tmp_path):
    """ResNet50's 2048 features: students take that width, for the index as for MKD absolute."""
    (tmp_path / "weights.pth").write_bytes(b"weights")
    file = tmp_path / "weights.pth"
    given = teacher_.with_teacher(get_preset("metric-paper"), file, bring=False)
    for arm in ("MKD absolute 256", "student 96 for the index"):
        assert named(given, arm).embedding == 2048


@pytest.mark.parametrize("name", ["{}/birds", "{}/birds/../birds", "{}/birds/", "{}/birds@64"])
def test_a_runs_folder_lies_right_below_the_folder_of_all_runs(name, tmp_path):
    for i in range(5):
        (tmp_path / "birds" / f"c{i}").mkdir(parents=True)
        (tmp_path / "birds" / f"c{i}" / "a.png").write_bytes(b"")
    config = teacher(data="folder:" + name.format(tmp_path))
    assert (tmp_path / config.name).resolve().parent == tmp_path.resolve()


# Costs, the queue, the command line


def test_costs_count_what_a_run_is_shown():
    config = named(get_preset("metric"), "student 16")
    recipe = config.recipe
    assert images_of(config) == recipe.batches * recipe.batch_size
    spec = ModelSpec(config.model, 0)
    macs = macs_of(spec, 16)
    assert learner_macs(config) == 3 * macs * images_of(config) * recipe.epochs
    plain = replace(config, recipe=replace(recipe, batches=None))
    assert images_of(plain) == training_images("glyphs-disjoint")
    assert str(headline({"recall": {"1": 12.345}})) == "Recall@1 12.35"
    assert str(headline({"top1": 1.0})) == "top-1 1.00"
    assert str(headline({"accuracy": 1.0})) == "verification 1.00"


@pytest.fixture
def horkd(horkd, monkeypatch, tmp_path):
    monkeypatch.setenv("HORKD_RUNS", str(tmp_path / "runs"))
    return horkd


SMOKE = ("--preset", "smoke", "--study", "metric")


def test_the_queue_lists_metric_learning(horkd):
    listed = {}
    for select in ("", "validation", "test"):
        chosen = ("--select", select) if select else ()
        code, out, err = horkd("queue", *SMOKE, "--device", "cpu", *chosen)
        assert (code, err) == (0, "")
        *lines, last = out.splitlines()
        listed[select] = [line.split()[-1] for line in lines]
        jobs = queue(get_preset("smoke", select=select, task="retrieval"), "metric")
        assert listed[select] == [job.config.name for job in jobs]
        assert last.startswith(f"{len(jobs)} of {len(jobs)} runs missing")
    assert listed[""] == listed["validation"]
    assert not set(listed[""]) & set(listed["test"])


@pytest.mark.parametrize("command", ["queue", "work"])
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((*SMOKE, "--select", "best"), "unknown selection 'best'"),
        (("--preset", "cpu", "--select", "test"), "preset cpu has no study of metric learning"),
        (("--preset", "metric", "--data", "cub"), "preset metric is not made for cub"),
        ((*SMOKE, "--arm", "metric pupil"), "unknown arm 'metric pupil'"),
    ],
)
def test_mistakes_are_one_line_and_code_2(horkd, command, arguments, says):
    code, out, err = horkd(command, *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("horkd: ")
    assert err.count("\n") == 1
    assert says in err
