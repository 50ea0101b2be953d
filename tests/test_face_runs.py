"""Runs on faces: networks of others as teachers, views computed once, heads and orders."""

import dataclasses
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
import torch.nn.functional as F
from face_trees import casia_tree, lfw_tree
from safetensors.torch import save_file
from torch import Tensor

from horkd import answers, storage
from horkd import predict as predict_
from horkd.data import load_dataset, normalise
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab import looks as looks_
from horkd.lab import runner
from horkd.lab.config import RunConfig, config_from_dict
from horkd.lab.prepare import _SAID
from horkd.lab.runner import import_network
from horkd.lab.store import Run, export, read
from horkd.losses import HybridOrderLoss, class_centers, unit_length
from horkd.networks import weights as weights_
from horkd.networks.network import ModelSpec, Network, Output
from horkd.networks.weights import digest
from horkd.objectives import Frozen, Objective, margin_head
from horkd.training import Recipe

# Batches here are odd, and the networks a few channels wide: channels_last then makes the backward
# pass of torch 2.15 on two threads write outside of its memory.
OFF = replace(tiny.SETTINGS, channels_last="off")
ON = replace(OFF, cache="on")
#: 18 steps: nine folds of 18 photos in batches of 27, over three epochs and two views.
RECIPE = Recipe(epochs=3, batch_size=27, learning_rate=0.05, crop=1, views=2)
PHOTOS = 180
TEACHER = "resnet8x0.5"


@pytest.fixture(autouse=True)
def faces(faces_tree, monkeypatch) -> None:
    monkeypatch.setenv("HORKD_DATA", str(faces_tree))
    _SAID.clear()
    answers._VIEWS.clear()


def weights(folder: Path, model: str = TEACHER, seed: int = 0, suffix: str = "safetensors") -> Path:
    """A network trained elsewhere: random, with statistics that do something."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Network(ModelSpec(model, 0))
        state = network.backbone.state_dict()
        for name, tensor in state.items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif name.endswith("running_mean"):
                tensor.normal_(std=0.2)
    path = folder / f"{model.replace(':', '-')}-{seed}.{suffix}"
    save_file(state, path)
    return path


def given(path: Path, model: str = TEACHER, **changes) -> RunConfig:
    values = {
        "model": model,
        "degradation": Degradation(16),
        "data": "lfw@16",
        "validation": False,
        "weights": digest(path),
    }
    return RunConfig(**{**values, **changes})


def student(teacher: RunConfig, **changes) -> RunConfig:
    values = {
        "model": "resnet8x0.25",
        "degradation": Degradation(8),
        "frozen": teacher,
        "orders": (("2", 1.0), ("3", 1.0)),
        "cross_entropy": 0.0,
        "data": "lfw-1@16",
        "validation": False,
        "recipe": RECIPE,
    }
    return RunConfig(**{**values, **changes})


@pytest.fixture
def path(tmp_path) -> Path:
    return weights(tmp_path / "weights")


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def teacher(path, folder) -> RunConfig:
    """Imported into `folder`."""
    config = given(path)
    import_network(config, path, OFF, folder)
    return config


@pytest.fixture
def glyphs() -> Iterator[None]:
    """The six characters instead of any data set."""
    with tiny.registered():
        yield


def kept(folder: Path) -> list[str]:
    return sorted(p.name for p in (folder / ".frozen").glob("*/*.safetensors"))


def assert_same(run: Run, other: Run) -> None:
    """Digests stand for every weight; only settings and seconds may differ."""
    differing = {"settings", "seconds"}
    mine, theirs = (
        {n: v for n, v in tiny.comparable(r.record).items() if n not in differing}
        for r in (run, other)
    )
    assert mine == theirs


# Networks of others


def test_an_imported_network_is_a_finished_run(path, folder):
    config = given(path)
    run = import_network(config, path, OFF, folder)
    record = storage.load_json(run.folder / "record.json")
    assert record == run.record
    assert run.folder == folder / config.name
    assert "given" in config.name
    assert (record["key"], record["history"], record["training_images"]) == (config.key, [], 0)
    assert record["results"]["test"]["n"] == 40
    assert record["results"]["test"]["folds"] == list(range(10))
    assert record["seconds"]["total"] == 0
    assert record["cost"]["parameters"] > 0
    assert record["frozen_files"] is None
    assert set(record["files"]) == {"model.safetensors"}
    assert config_from_dict(record["config"]) == config
    network = run.network()
    assert network.classifier is None
    expected = weights_.load_pretrained(path, ModelSpec(TEACHER, 0)).state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in network.state_dict().items())
    data = load_dataset("lfw@16")
    found = data.protocol.test(OFF.place(network), data, Degradation(16))
    assert found == record["results"]["test"]
    assert read(config, folder).record == record


def test_every_finished_run_has_the_same_fields(teacher, folder):
    imported = read(teacher, folder).record
    trained = runner.run(student(teacher), OFF, folder).record
    assert set(imported) == set(trained)
    assert set(imported["seconds"]) == set(trained["seconds"])


def test_a_second_import_reads(path, folder):
    config, looked = given(path), []
    first = import_network(config, path, OFF, folder)
    with tiny.before(Network, lambda *_: looked.append(1)):
        assert import_network(config, path, OFF, folder).record == first.record
        assert runner.run(config, OFF, folder).record == first.record
    assert not looked


def test_another_file_is_refused(path, folder, tmp_path):
    other = weights(tmp_path / "weights", seed=1)
    config = given(path)
    with pytest.raises(HorkdError, match=f"has digest {digest(other)}") as error:
        import_network(config, other, OFF, folder)
    assert config.weights in tiny.one_line(error)
    with pytest.raises(HorkdError, match="there is no weights file") as error:
        import_network(config, tmp_path / "none.pt", OFF, folder)
    tiny.one_line(error)
    assert not (folder / config.name).exists()


def test_a_file_of_another_architecture_is_refused(path, folder):
    config = given(path, model="resnet8x0.25")
    with pytest.raises(HorkdError, match=r"does not fit resnet8x0\.25") as error:
        import_network(config, path, OFF, folder)
    tiny.one_line(error)
    assert read(config, folder) is None


def test_a_network_that_is_not_imported_is_not_trained(path, folder):
    config = given(path)
    for asked in (config, student(config)):
        with pytest.raises(HorkdError, match=f"{config.weights} of {TEACHER} are not imported yet"):
            runner.run(asked, OFF, folder)
    assert read(config, folder) is None


def test_two_files_are_two_runs(path, tmp_path):
    other = weights(tmp_path / "weights", seed=1)
    a, b = given(path), given(other)
    assert a.key != b.key
    assert student(a).key != student(b).key
    assert not a.classifies


def test_a_damaged_import_is_set_aside_and_made_again(path, folder):
    config = given(path)
    run = import_network(config, path, OFF, folder)
    file = run.folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="set aside"):
        again = import_network(config, path, OFF, folder)
    assert again.record["files"] == run.record["files"]
    assert again.record["results"] == run.record["results"]


@pytest.mark.parametrize("name", ["torchvision:resnet18", "mobilefacenetx0.125"])
def test_teachers_of_other_kinds(name, tmp_path, folder):
    """At the size that they need, with a student at a tenth of it."""
    size = 112 if name.startswith("mobile") else 32
    path = weights(tmp_path / "weights", name)
    config = given(path, name, data=f"lfw@{size}", degradation=Degradation(size))
    imported = import_network(config, path, OFF, folder)
    assert imported.record["cost"]["macs"] > 0
    assert ":" not in imported.folder.name
    recipe = replace(RECIPE, epochs=1, batch_size=81)
    asked = student(config, data=f"lfw-1@{size}", recipe=recipe, orders=(("1", 1.0),))
    run = runner.run(asked, ON, folder)
    assert run.record["results"]["test"]["n"] == 4
    assert kept(folder) == ["view-0.safetensors"]


def test_mobilefacenet_as_a_student_of_small_faces(teacher, folder, path):
    """It takes 112 pixels, into which small images are enlarged."""
    config = given(path, data="lfw@112")
    import_network(config, path, OFF, folder)
    recipe = replace(RECIPE, epochs=1, batch_size=81)
    asked = student(
        config,
        model="mobilefacenetx0.125",
        degradation=Degradation(8, upsample=True),
        data="lfw-1@112",
        orders=(("2", 1.0),),
        recipe=recipe,
    )
    assert runner.run(asked, ON, folder).record["results"]["test"]["n"] == 4
    too_small = replace(asked, degradation=Degradation(8))
    with pytest.raises(HorkdError, match="takes images of 112 pixels"):
        runner.run(too_small, OFF, folder)


def test_an_exported_student_is_imported_as_a_teacher(teacher, folder, tmp_path):
    first = runner.run(student(teacher), OFF, folder)
    path = tmp_path / "export.safetensors"
    export(first, path)
    config = given(path, "resnet8x0.25", degradation=Degradation(8))
    imported = import_network(config, path, OFF, folder)
    expected = first.network().state_dict()
    for name, tensor in imported.network().state_dict().items():
        rounded = expected[name].half().float() if tensor.is_floating_point() else tensor
        assert torch.equal(tensor, rounded), name
    asked = student(config, data="lfw-3@16", degradation=Degradation(4))
    assert runner.run(asked, OFF, folder).record["results"]["test"]["folds"] == [2]


def test_a_chain_of_teachers(teacher, folder):
    assistant = student(teacher, model="resnet8x0.5", degradation=Degradation(12))
    config = student(assistant, orders=(("1", 1.0),))
    assert config.teacher == teacher
    run = runner.run(config, OFF, folder)
    assert run.record["frozen_files"] == read(assistant, folder).record["files"]


def test_other_resolutions_of_a_finished_run(teacher, folder):
    run = runner.run(student(teacher), OFF, folder)
    at_4, at_8 = looks_.at_resolutions(run, [Degradation(4), Degradation(8)], OFF)
    assert at_8 == run.record["results"]["test"]
    assert at_4["n"] == 4
    assert looks_.at_resolutions(run, [Degradation(4)], OFF) == [at_4]


# Training sets on disk


@pytest.fixture
def large(tmp_path, monkeypatch) -> None:
    """20 photos on disk."""
    monkeypatch.setenv("HORKD_DATA", str(casia_tree(lfw_tree(tmp_path / "large"))))


@pytest.mark.parametrize("changes", [{}, {"clusters": 3, "unit": True}, {"head": "cosface"}])
def test_trained_from_disk(large, teacher, folder, changes, monkeypatch):
    recipe = replace(RECIPE, views=0, batch_size=6)
    orders = (("1", 1.0), ("C", 1.0))
    config = student(
        teacher, data="casia@16", orders=orders, cross_entropy=1.0, recipe=recipe, **changes
    )
    run = runner.run(config, ON, folder)
    assert run.record["training_images"] == 20
    assert run.record["results"]["test"]["n"] == 40  # all folds of LFW
    assert run.centers().shape == (changes.get("clusters", 5), 32)
    (run.folder / "record.json").unlink()
    _SAID.clear()
    again = runner.run(config, ON, folder)  # from the kept answers
    assert again.record["seconds"]["frozen_answers_read"] == [1, 2, 3]
    assert_same(again, run)


def test_what_is_known_in_memory_changes_no_result(large, teacher, folder):
    recipe = replace(RECIPE, views=0, batch_size=6)
    config = student(teacher, data="casia@16", orders=(("C", 1.0),), recipe=recipe)
    run = runner.run(config, OFF, folder)
    (run.folder / "record.json").unlink()
    assert_same(runner.run(config, OFF, folder), run)


@pytest.mark.parametrize(
    ("order", "settings"),
    [
        ("2", ON),
        ("2", OFF),
        ("C", OFF),
        pytest.param(*("C", ON)),
    ],
)
def test_views_of_photos_on_disk_are_refused(large, teacher, folder, order, settings):
    config = student(
        teacher, data="casia@16", orders=((order, 1.0),), recipe=replace(RECIPE, batch_size=6)
    )
    with pytest.raises(HorkdError, match="fixed views need a set in memory"):
        runner.run(config, settings, folder)


# Views are computed once


def test_folds_and_seeds_share_the_views(teacher, folder, passes):
    runner.run(student(teacher), ON, folder)
    assert sum(passes) == RECIPE.views * PHOTOS  # each view of each photo once
    passes.clear()
    for changes in (
        {"seed": 1},
        {"data": "lfw-2@16"},
        {"data": "lfw-dev@16", "seed": 2},
        {"data": "lfw-10@16", "degradation": Degradation(4)},
        {"orders": (("1", 1.0), ("C", 1.0))},
        {"recipe": replace(RECIPE, epochs=2, batch_size=20, learning_rate=0.01)},
    ):
        answers._VIEWS.clear()  # as in another process
        run = runner.run(student(teacher, **changes), ON, folder)
        assert run.record["seconds"]["frozen_answers_read"] == list(
            range(1, run.config.recipe.epochs + 1)
        )
    assert passes == []
    assert kept(folder) == ["view-0.safetensors", "view-1.safetensors"]


def test_other_views_are_computed_anew(teacher, folder, passes, tmp_path):
    runner.run(student(teacher), ON, folder)
    passes.clear()
    more = replace(RECIPE, views=3)
    runner.run(student(teacher, recipe=more), ON, folder)
    assert sum(passes) == PHOTOS  # of the third view alone
    passes.clear()
    runner.run(student(teacher, recipe=replace(RECIPE, crop=0)), ON, folder)
    assert sum(passes) == 2 * PHOTOS
    passes.clear()
    path = weights(tmp_path / "weights", seed=5)
    other = given(path)
    import_network(other, path, OFF, folder)
    runner.run(student(other), ON, folder)
    assert sum(passes) == 2 * PHOTOS


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"orders": (("1", 1.0), ("C", 0.5)), "unit": True},
        {"orders": (("C", 1.0),), "clusters": 5},
        {"cross_entropy": 1.0, "data": "lfw-dev@16", "seed": 4},
    ],
)
def test_kept_views_change_no_result(teacher, folder, changes, tmp_path):
    """`cache` off computes every answer anew."""
    config = student(teacher, **changes)
    cached = runner.run(config, ON, folder)
    (tmp_path / "other").mkdir()
    imported = folder / teacher.name
    target = tmp_path / "other" / teacher.name
    target.mkdir()
    for file in imported.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    anew = runner.run(config, OFF, tmp_path / "other")
    assert anew.record["seconds"]["frozen_answers_read"] == []
    assert not (tmp_path / "other" / ".frozen").exists()
    # batches of other sizes round differently
    for mine, theirs in zip(cached.record["history"], anew.record["history"], strict=True):
        assert mine["terms"] == pytest.approx(theirs["terms"], rel=1e-4)
    a, b = cached.network().state_dict(), anew.network().state_dict()
    for name, tensor in a.items():
        torch.testing.assert_close(tensor, b[name], atol=2e-4, rtol=1e-3, msg=name)
    # and again from what is kept
    answers._VIEWS.clear()
    (cached.folder / "record.json").unlink()
    assert_same(runner.run(config, ON, folder), cached)


def test_views_of_glyphs(glyphs, folder, passes):
    """A set without a whole: the views are those of its training images."""
    recipe = replace(tiny.RECIPE, views=2)
    config = tiny.student(recipe=recipe)
    cached = runner.run(config, ON, folder)
    assert sum(passes) == 2 * 48
    passes.clear()
    anew = runner.run(replace(config, seed=9), ON, folder)
    assert not passes
    assert anew.record["seconds"]["frozen_answers_read"] == [1, 2, 3]
    (cached.folder / "record.json").unlink()
    again = runner.run(config, OFF, folder)
    for mine, theirs in zip(cached.record["history"], again.record["history"], strict=True):
        assert mine["terms"] == pytest.approx(theirs["terms"], rel=1e-4)
    # trained on the validation images as well: other images, other views
    passes.clear()
    both = tiny.student(recipe=recipe, validation=False, frozen=tiny.teacher(validation=False))
    runner.run(both, ON, folder)
    assert sum(passes) == 2 * 66


def test_a_damaged_view_is_computed_anew(teacher, folder, passes):
    first = runner.run(student(teacher), ON, folder)
    (file,) = (folder / ".frozen").glob("*/view-1.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    answers._VIEWS.clear()
    passes.clear()
    (first.folder / "record.json").unlink()
    with pytest.warns(UserWarning, match=r"view-1\.safetensors"):
        again = runner.run(student(teacher), ON, folder)
    assert sum(passes) == PHOTOS
    assert_same(again, first)


# Interruptions


@pytest.mark.parametrize("step", [3, 7, 13])
@pytest.mark.parametrize("settings", [ON, OFF], ids=["cache", "no-cache"])
@pytest.mark.parametrize(
    "changes",
    [
        {"orders": (("1", 1.0), ("C", 1.0)), "clusters": 4, "unit": True},
        {"cross_entropy": 1.0, "head": "cosface"},
    ],
    ids=["clusters", "cosface"],
)
def test_an_interrupted_run_ends_the_same(teacher, folder, changes, settings, step):
    config = student(teacher, **changes)
    whole = runner.run(config, settings, folder)
    (whole.folder / "record.json").unlink()
    for file in whole.folder.iterdir():
        file.unlink()
    with tiny.before(Objective, tiny.Stop(step)), pytest.raises(KeyboardInterrupt):
        runner.run(config, settings, folder, tiny.CONTROL)
    assert read(config, folder) is None
    answers._VIEWS.clear()
    again = runner.run(config, settings, folder)
    assert_same(again, whole)
    assert len(again.record["seconds"]["epochs"]) == 3


# What is learnt


def centres(config: RunConfig, folder: Path) -> tuple[Tensor, Tensor, Tensor]:
    """The run's centres, and features and labels of its training images by hand."""
    run = runner.run(config, ON, folder)
    data = load_dataset(config.data)
    network = read(config.frozen, folder).network()
    features = torch.cat(
        [
            predict_.predict(network, image[None], data, config.frozen.degradation).features
            for image in data.train.central
        ]
    )
    return run.centers(), features, data.train.labels


@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("fold", [1, 10])
def test_centres_of_people(teacher, folder, unit, views, fold):
    config = student(
        teacher,
        orders=(("C", 1.0),),
        unit=unit,
        data=f"lfw-{fold}@16",
        recipe=replace(RECIPE, epochs=1, views=views),
    )
    found, features, labels = centres(config, folder)
    features = unit_length(features) if unit else features
    want = torch.stack([features[labels == c].mean(0) for c in range(54)])
    torch.testing.assert_close(found, want, atol=1e-4, rtol=1e-4)
    assert (found.norm(dim=1).max() <= 1 + 1e-6) == unit


def test_centres_of_clusters(teacher, folder):
    config = student(teacher, orders=(("C", 1.0),), clusters=6, recipe=replace(RECIPE, epochs=1))
    found, features, _ = centres(config, folder)
    assert found.shape == (6, 32)
    nearest = torch.cdist(features, found).argmin(1)
    assert len(nearest.unique()) == 6
    for c in range(6):  # each centre is the mean of what is nearest to it
        torch.testing.assert_close(found[c], features[nearest == c].mean(0), atol=1e-3, rtol=1e-3)
    again, _, _ = centres(replace(config, seed=3), folder)
    assert torch.equal(again, found)


def test_more_clusters_than_images_are_refused(teacher, folder):
    config = student(teacher, orders=(("C", 1.0),), clusters=163)
    with pytest.raises(HorkdError, match="163 clusters need as many images; there are 162"):
        runner.run(config, OFF, folder)


def test_without_cross_entropy_there_is_no_classifier(teacher, folder):
    config = student(teacher)
    run = runner.run(config, ON, folder)
    assert not config.classifies
    assert run.network().classifier is None
    assert set(run.record["history"][0]["terms"]) == {"loss", "order2", "order3"}
    assert set(run.record["results"]) == {"test"}
    with_labels = runner.run(replace(config, cross_entropy=1.0), ON, folder)
    assert with_labels.network().classifier.out_features == 54
    assert set(with_labels.record["history"][0]["terms"]) >= {"cross_entropy"}
    assert "accuracy" in with_labels.record["results"]["test"]


@pytest.mark.parametrize("changes", [{"cross_entropy": 0.0}, {"head": "arcface"}])
def test_without_a_classifier_there_is_no_best_epoch(changes, folder):
    """A validation split is held out and of no use; the characters never seen are the test."""
    with tiny.registered(lambda name, per_class: tiny.with_unseen()):
        run = runner.run(tiny.student(**changes), OFF, folder)
    assert run.network().classifier is None
    assert set(run.record["results"]) == {"test"}
    assert run.record["results"]["test"]["folds"] == list(range(10))
    assert run.record["training_images"] == 48


@pytest.mark.parametrize("name", ["kd", "kd_standardised"])
def test_answers_of_a_network_without_classes_are_refused(teacher, folder, name):
    config = student(teacher, orders=(), baselines=((name, 1.0),), cross_entropy=1.0)
    with pytest.raises(HorkdError, match=r"kd compares logits over the same classes") as error:
        runner.run(config, OFF, folder)
    tiny.one_line(error)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("fitnet"),
        "at",
    ],
)
def test_a_librarys_network_has_no_maps_to_learn_from(tmp_path, folder, name):
    path = weights(tmp_path / "weights", "torchvision:mobilenet_v3_small")
    config = given(path, "torchvision:mobilenet_v3_small")
    import_network(config, path, OFF, folder)
    asked = student(config, orders=(), baselines=((name, 1.0),), cross_entropy=1.0)
    with pytest.raises(HorkdError, match="maps") as error:
        runner.run(asked, OFF, folder)
    tiny.one_line(error)


def test_a_run_without_teacher_on_faces(folder):
    config = RunConfig(
        "resnet8x0.25", Degradation(8), data="lfw-1@16", validation=False, recipe=RECIPE
    )
    run = runner.run(config, OFF, folder)
    assert run.record["training_images"] == 162
    assert run.record["results"]["test"]["folds"] == [0]
    assert "best" not in run.record["results"]


@pytest.mark.parametrize("head", ["cosface", "arcface"])
def test_a_margin_head_is_trained_and_stays_outside(teacher, folder, head):
    config = student(teacher, head=head, cross_entropy=1.0, orders=(("2", 1.0),))
    run = runner.run(config, ON, folder)
    assert run.network().classifier is None
    saved, _ = storage.load_tensors(run.folder / "objective.safetensors")
    assert saved["head.W"].shape == (16, 54)
    assert set(storage.load_tensors(run.folder / "model.safetensors")[0]) == set(
        Network(ModelSpec("resnet8x0.25", 0)).state_dict()
    )
    terms = [entry["terms"]["cross_entropy"] for entry in run.record["history"]]
    assert terms[-1] < terms[0]
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        first = Network(ModelSpec("resnet8x0.25", 0))
        start = margin_head(head, 54, 16).W
    assert not torch.equal(start, saved["head.W"])
    # the network itself starts as one that has another head
    slow = replace(config, recipe=replace(RECIPE, epochs=1, learning_rate=1e-12))
    for p, q in zip(
        runner.run(slow, ON, folder).network().parameters(), first.parameters(), strict=True
    ):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=0)


def test_start_from_imported_weights(teacher, folder):
    recipe = replace(RECIPE, epochs=1, learning_rate=1e-12)
    config = student(teacher, model=TEACHER, start="frozen", recipe=recipe)
    network = runner.run(config, ON, folder).network()
    imported = read(teacher, folder).network()
    for (name, p), q in zip(network.named_parameters(), imported.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=0, msg=name)


def test_start_from_imported_weights_with_a_classifier_is_refused(teacher):
    with pytest.raises(HorkdError, match="a classifier in both networks or in none"):
        student(teacher, model=TEACHER, start="frozen", cross_entropy=1.0)


def test_there_is_no_validation_split_of_faces(teacher, folder):
    config = student(teacher, validation=True)
    with pytest.raises(HorkdError, match="no validation split: set validation=False") as error:
        runner.run(config, OFF, folder)
    assert "lfw-1@16" in tiny.one_line(error)


def test_both_models_must_see_one_crop(folder, path):
    config = given(path, data="lfw@40", degradation=Degradation(40))
    import_network(config, path, OFF, folder)
    with pytest.raises(HorkdError, match=r"lfw@40 and lfw-1@32 differ in size") as error:
        runner.run(student(config, data="lfw-1@32"), OFF, folder)
    tiny.one_line(error)


def test_a_resolution_above_the_faces_is_refused(teacher, folder):
    with pytest.raises(HorkdError, match="resolution 17 is above the 16 pixels"):
        runner.run(student(teacher, degradation=Degradation(17)), OFF, folder)


def test_crops_need_a_margin(teacher, folder):
    config = student(teacher, recipe=replace(RECIPE, crop=2))
    with pytest.raises(HorkdError, match="crops of ±2 pixels need a margin; there are 1"):
        runner.run(config, OFF, folder)


def test_fields_of_face_runs_are_part_of_the_key(path):
    teacher = given(path)
    plain = student(teacher)
    others = [
        student(teacher, unit=True),
        student(teacher, clusters=4),
        student(teacher, head="cosface", cross_entropy=1.0),
        student(teacher, cross_entropy=1.0),
        student(teacher, mean=(0.5, 0.5, 0.5)),
        student(teacher, std=(0.5, 0.5, 0.5)),
        student(teacher, data="lfw-2@16"),
        student(teacher, recipe=replace(RECIPE, views=0)),
        student(replace(teacher, mean=(0.5, 0.5, 0.5))),
    ]
    keys = {config.key for config in (plain, *others)}
    assert len(keys) == len(others) + 1
    for config in (plain, *others):
        assert config_from_dict(json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_equal_statistics_are_the_same_run(path):
    whole, broken = given(path, mean=(0, 0, 0)), given(path, mean=(0.0, 0.0, 0.0))
    assert whole == broken
    assert whole.key == broken.key


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"head": "sphere"}, "unknown head 'sphere': choose from linear, cosface, arcface"),
        ({"clusters": -1}, "clusters must be 0 or more"),
        ({"orders": ()}, "nothing to minimise"),
    ],
)
def test_odd_configurations_are_refused(path, changes, says):
    with pytest.raises(HorkdError) as error:
        student(given(path), **changes)
    assert says in tiny.one_line(error)


# Normalisation


MEAN, STD = (0.5, 0.4, 0.3), (0.1, 0.2, 0.3)


@pytest.mark.parametrize("settings", [ON, OFF], ids=["cache", "no-cache"])
def test_a_teacher_is_fed_by_its_own_statistics(path, folder, settings):
    config = given(path, mean=MEAN, std=STD)
    plain = given(path)
    assert config.key != plain.key
    imported = import_network(config, path, OFF, folder)
    assert imported.network().spec == ModelSpec(TEACHER, 0, mean=MEAN, std=STD)
    assert imported.record["results"] != import_network(plain, path, OFF, folder).record["results"]
    data, seen, learnt = load_dataset("lfw-1@16"), [], []

    def fed(network, inputs):
        if network.training:
            learnt.append(inputs[0].clone())

    asked = student(config, recipe=replace(RECIPE, epochs=1))
    with (
        tiny.before(Frozen, lambda module, inputs: seen.append(inputs[0].clone())),
        tiny.before(Network, fed),
    ):
        runner.run(asked, settings, folder)
    levels = torch.cat(seen) * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    levels = (levels * 255).round().long()
    theirs = {tuple(image.flatten().tolist()) for image in levels}
    photos = data.whole if settings is ON else data.train  # view 0: the photos themselves
    ours = {tuple(image.flatten().tolist()) for image in photos.central.long()}
    assert theirs == ours
    # the student is fed by the statistics of the data: view 0, the photos themselves
    small = normalise(asked.degradation(data.train.central), data.mean, data.std)
    known = {tuple(image.flatten().tolist()) for image in small}
    assert {tuple(image.flatten().tolist()) for image in torch.cat(learnt)} <= known
    assert len(learnt) == 6


def test_a_student_may_have_statistics_of_its_own(teacher, folder):
    run = runner.run(student(teacher, mean=MEAN, std=STD), ON, folder)
    network, data = run.network(), load_dataset("lfw-1@16")
    assert (network.spec.mean, network.spec.std) == (MEAN, STD)
    found = data.protocol.test(OFF.place(network), data, Degradation(8))
    assert run.record["results"]["test"] == found


# Losses between features of unit length


def features(n: int = 7, width: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_unit_is_normalising_by_hand(reduction):
    f, g = features(seed=1) * 3, features(seed=2)
    labels = torch.arange(7) % 3
    f1, g1 = (x / x.square().sum(1, keepdim=True).sqrt() for x in (f, g))
    centers = class_centers(f1, labels, 3)
    weights = {"1": 1.0, "2": 2.0, "3": 3.0, "C": 4.0}
    unit = HybridOrderLoss(weights, centers, reduction=reduction, unit=True)
    plain = HybridOrderLoss(weights, centers, reduction=reduction)
    found, want = unit(f, g), plain(f1, g1)
    assert set(found) == set(want)
    for name, value in want.items():
        torch.testing.assert_close(found[name], value, msg=name)
        assert value > 0
    scaled = unit(f, g * torch.rand(7, 1, dtype=torch.float64).add(0.1))
    for name, value in found.items():
        torch.testing.assert_close(scaled[name], value, msg=name)
    assert abs(float(plain(f, g)["loss"] - found["loss"])) > 1e-3


def test_unit_with_a_projector_normalises_behind_it():
    f, g = features(width=5), features(width=3, seed=1)
    projector = torch.nn.Linear(3, 5).double()
    unit = HybridOrderLoss({"1": 1.0, "2": 1.0}, projector=projector, unit=True)
    plain = HybridOrderLoss({"1": 1.0}, unit=False)
    found = unit(f, g)
    want = plain(F.normalize(f), F.normalize(projector(g)))["order1"]
    torch.testing.assert_close(found["order1"], want)
    second = HybridOrderLoss({"2": 1.0})(F.normalize(f), F.normalize(g))["order2"]
    torch.testing.assert_close(found["order2"], second)


def test_unit_gradients():
    f = features()
    loss = HybridOrderLoss({"1": 1.0, "2": 1.0, "3": 1.0}, unit=True)
    g = features(seed=3).requires_grad_()
    torch.autograd.gradcheck(lambda x: loss(f, x)["loss"], g)
    loss(f, g)["loss"].backward()
    along = (g.grad * g.detach()).sum(1)  # nothing pulls at the length
    torch.testing.assert_close(along, torch.zeros(7, dtype=torch.float64), atol=1e-10, rtol=0)
    zero = torch.zeros(4, 5, requires_grad=True)
    loss(f[:4].float(), zero)["loss"].backward()
    assert zero.grad.isfinite().all()


# Margin softmax


def by_hand(name: str, w: Tensor, x: Tensor, labels: Tensor) -> Tensor:
    """Mean of −log softmax over 64 · cosines, the true class's lowered by the margin; float64."""
    total = torch.zeros((), dtype=torch.float64)
    for i in range(len(x)):
        logits = []
        for c in range(w.shape[1]):
            cosine = (x[i] @ w[:, c]) / (x[i].norm() * w[:, c].norm())
            if c == labels[i]:
                angle = torch.acos(cosine)
                cosine = cosine - 0.35 if name == "cosface" else torch.cos(angle + 0.5)
            logits.append(64 * cosine)
        logits = torch.stack(logits)
        total = total + torch.logsumexp(logits, 0) - logits[labels[i]]
    return total / len(x)


@pytest.mark.parametrize("name", ["cosface", "arcface"])
def test_margin_heads_are_those_of_their_papers(name):
    torch.manual_seed(0)
    head = margin_head(name, 4, 5).double()
    x = features(9).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 3])
    found = head(x, labels)
    want = by_hand(name, head.W, x, labels)
    torch.testing.assert_close(found, want, atol=1e-6, rtol=1e-6)
    ours = torch.autograd.grad(found, (x, head.W), retain_graph=True)
    theirs = torch.autograd.grad(want, (x, head.W))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    # margin in radians, not in degrees: 0.5° would hardly change the loss
    plain = F.cross_entropy(64 * F.normalize(x) @ F.normalize(head.W, dim=0), labels)
    assert found - plain > 5


@pytest.mark.parametrize("name", ["cosface", "arcface"])
def test_a_margin_only_counts_on_the_true_class(name):
    head = margin_head(name, 3, 3).double()
    head.W.data = torch.eye(3, dtype=torch.float64)
    x = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)
    cosine = math.sqrt(0.5)
    lowered = cosine - 0.35 if name == "cosface" else math.cos(math.pi / 4 + 0.5)
    logits = 64 * torch.tensor([[lowered, cosine, 0.0]], dtype=torch.float64)
    want = F.cross_entropy(logits, torch.tensor([0]))
    torch.testing.assert_close(head(x, torch.tensor([0])), want, atol=1e-6, rtol=1e-6)


def output(x: Tensor, classes: int = 0) -> Output:
    return Output(x, x.new_zeros(len(x), classes))


@pytest.mark.parametrize("name", ["cosface", "arcface"])
def test_the_head_is_the_cross_entropy_of_an_objective(name):
    torch.manual_seed(0)
    head = margin_head(name, 4, 5)
    relational = HybridOrderLoss({"2": 3.0})
    objective = Objective(0.5, relational, head=head)
    x = features().float().requires_grad_()
    labels = torch.arange(7) % 4
    frozen = output(features(seed=5).float())
    terms = objective(output(x), labels, frozen, ramp=0.25)
    assert set(terms) == {"loss", "cross_entropy", "order2"}
    torch.testing.assert_close(
        terms["cross_entropy"].double(), by_hand(name, head.W.double(), x.double(), labels),
        atol=1e-3, rtol=1e-4,
    )  # fmt: skip
    want = 0.5 * terms["cross_entropy"] + 0.25 * 3 * terms["order2"]
    torch.testing.assert_close(terms["loss"], want)
    terms["loss"].backward()
    assert x.grad.abs().sum() > 0
    assert head.W.grad.abs().sum() > 0
    assert any(p is head.W for p in objective.parameters())
    assert "head.W" in objective.state_dict()


def test_gradient_norms_and_balance_with_a_head():
    torch.manual_seed(0)
    objective = Objective(1.0, HybridOrderLoss({"2": 2.0}), balance=True, head=margin_head(
        "cosface", 4, 5
    ))  # fmt: skip
    x = features().float().requires_grad_()
    labels, frozen = torch.arange(7) % 4, output(features(seed=5).float())
    terms = objective(output(x), labels, frozen)
    norms = objective.rebalance(terms, x)
    (gradient,) = torch.autograd.grad(objective.head(x, labels), x)
    torch.testing.assert_close(norms["cross_entropy"], gradient.norm())
    torch.testing.assert_close(norms["order2"], 2 * norms["cross_entropy"])


def test_gradient_reaches_the_network_through_a_head():
    network = tiny.network(classes=0)
    objective = Objective(1.0, head=margin_head("arcface", 6, 16))
    out = network(torch.randn(8, 3, 8, 8))
    objective(out, torch.arange(8) % 6, None)["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert next(network.parameters()).grad.abs().sum() > 0


def test_a_head_computes_in_float32_under_autocast():
    torch.manual_seed(0)
    objective = Objective(1.0, head=margin_head("cosface", 4, 5))
    x, labels = features().bfloat16(), torch.arange(7) % 4
    with torch.autocast("cpu", torch.bfloat16):
        term = objective(output(x), labels, None)["cross_entropy"]
    assert term.dtype == torch.float32
    want = by_hand("cosface", objective.head.W.double(), x.double(), labels)
    torch.testing.assert_close(term.double(), want, atol=1e-3, rtol=1e-4)


def test_the_package_of_the_heads_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning.losses", None)
    with pytest.raises(HorkdError, match=r"pip install 'horkd\[metric\]'"):
        margin_head("cosface", 4, 5)
