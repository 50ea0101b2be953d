"""Runs: keys, records, and that no interruption and no damage changes a result."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import tiny
import torch
import watch

from horkd import predict as predict_
from horkd import storage
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab import runner
from horkd.lab.config import RunConfig, config_from_dict
from horkd.lab.store import Run, diverged, read
from horkd.losses import class_centers
from horkd.machine import Settings
from horkd.networks.network import ModelSpec, Network, load_network, save_network
from horkd.networks.weights import digest
from horkd.objectives import Objective
from horkd.protocols import classification
from horkd.protocols.classification import Classification
from horkd.studies.presets import get_preset, presets
from horkd.studies.study import configure, study
from horkd.training import Diverged, Recipe

pytestmark = pytest.mark.usefixtures("six_characters")


@pytest.fixture
def count_steps() -> Iterator[list[int]]:
    """One entry per training step."""
    steps = []
    with tiny.before(Objective, lambda *_: steps.append(1)):
        yield steps


@pytest.fixture(scope="module")
def whole(six_characters, tmp_path_factory) -> Run:
    """The student's run (after its teacher's), never interrupted."""
    return tiny.run(tiny.student(), tmp_path_factory.mktemp("whole"))


@pytest.fixture
def with_teacher(whole, tmp_path) -> Path:
    """A folder of runs in which the teacher is finished."""
    tiny.copy_run(whole.folder.parent, tmp_path, tiny.teacher())
    return tmp_path


def assert_same(run: Run, whole: Run) -> None:
    assert tiny.comparable(run.record) == tiny.comparable(whole.record)
    on_disk = storage.load_json(run.folder / "record.json")
    assert tiny.comparable(on_disk) == tiny.comparable(whole.record)
    assert {p.name for p in run.folder.iterdir()} == {p.name for p in whole.folder.iterdir()}
    assert len(run.record["seconds"]["epochs"]) == len(whole.record["history"])


# What a run leaves


def test_a_runs_record(whole):
    record = whole.record
    assert record["name"] == whole.folder.name == whole.config.name
    assert record["key"] == whole.config.key
    assert [entry["epoch"] for entry in record["history"]] == [1, 2, 3]
    assert set(record["history"][0]["terms"]) == {
        *("loss", "cross_entropy", "order1", "order2", "order3", "order_c")
    }
    assert record["results"]["test"]["n"] == 30
    assert record["training_images"] == 48
    assert record["settings"]["precision"] == "fp32"
    assert record["machine"]["device"] == "cpu"
    assert set(record["versions"]) >= {"python", "torch", "torchvision", "numpy", "pillow"}
    assert record["seconds"]["total"] == sum(record["seconds"]["epochs"]) > 0
    assert {p.name for p in whole.folder.iterdir()} == {
        *("record.json", "model.safetensors", "objective.safetensors")
    }
    assert config_from_dict(record["config"]) == whole.config
    assert record == storage.load_json(whole.folder / "record.json")


def test_the_loss_is_the_weighted_sum_of_the_logged_terms(whole):
    weights = {"cross_entropy": 1, "order1": 1, "order2": 25, "order3": 50, "order_c": 1}
    for entry in whole.record["history"]:
        terms = entry["terms"]
        assert terms["loss"] == pytest.approx(sum(w * terms[n] for n, w in weights.items()))
        assert sum(entry["gradient_shares"].values()) == pytest.approx(1)


def test_results_are_those_of_the_saved_network_at_its_last_epoch(whole):
    data, results = tiny.data(), whole.record["results"]
    network = whole.network()
    assert results["test"] == data.protocol.score(network, data.test, data, Degradation(8))
    frozen = read(whole.config.frozen, whole.folder.parent).network()
    logits = predict_.predict(network, data.test.images, data, Degradation(8)).logits
    target = predict_.predict(frozen, data.test.images, data, Degradation(16)).logits
    assert results["agreement"] == pytest.approx(classification.agreement(logits, target))
    validation = data.protocol.score(network, data.validation, data, Degradation(8))
    assert whole.record["history"][-1]["validation"] == validation
    top1 = [entry["validation"]["top1"] for entry in whole.record["history"]]
    assert results["best"]["epoch"] == 1 + top1.index(max(top1))
    assert results["best"]["validation"]["top1"] == max(top1)


class Falling(Classification):
    """Three epochs whose validation accuracy is made to fall."""

    def __init__(self) -> None:
        super().__init__()
        self.fake, self.weights = iter([50.0, 40.0, 30.0]), []

    def score(self, network, images, channels, degradation):
        found = super().score(network, images, channels, degradation)
        if len(images) == len(tiny.data().validation):
            self.weights.append({n: t.clone() for n, t in network.state_dict().items()})
            found["top1"] = next(self.fake)
        return found


def test_the_last_epoch_is_the_result_also_when_another_was_better(tmp_path):
    falling, config = Falling(), tiny.teacher()
    real, weights = tiny.data().protocol.score, falling.weights
    with tiny.registered(lambda name, per_class: replace(tiny.load(name), protocol=falling)):
        run = tiny.run(config, tmp_path)
    assert run.record["results"]["best"]["epoch"] == 1
    saved = run.network().state_dict()
    assert all(torch.equal(t, weights[-1][n]) for n, t in saved.items())
    data, network = tiny.data(), run.network()
    assert run.record["results"]["test"] == real(network, data.test, data, config.degradation)
    network.load_state_dict(weights[0])
    best = real(network, data.test, data, config.degradation)
    assert run.record["results"]["best"]["test"] == best


def test_without_validation_all_images_train_and_nothing_is_best(tmp_path):
    run = tiny.run(tiny.teacher(validation=False), tmp_path)
    assert run.record["training_images"] == 48 + 18
    assert "best" not in run.record["results"]
    assert "validation" not in run.record["history"][0]


def test_the_projector_stays_out_of_the_students_file(whole):
    objective, _ = storage.load_tensors(whole.folder / "objective.safetensors")
    assert objective["relational.projector.weight"].shape == (32, 16)
    model, metadata = storage.load_tensors(whole.folder / "model.safetensors")
    assert set(model) == set(tiny.network().state_dict())
    assert metadata["spec"] == asdict(ModelSpec("resnet8x0.25", tiny.CLASSES))
    assert load_network(whole.folder / "model.safetensors", tiny.network().spec).width == 16


def test_centres_are_the_frozen_models_over_all_training_images(whole):
    data = tiny.data()
    frozen = read(whole.config.frozen, whole.folder.parent).network()
    with torch.no_grad():
        features = torch.cat(
            [
                predict_.predict(frozen, image[None], data, Degradation(16)).features
                for image in data.train.images
            ]
        )
    want = torch.stack([features[data.train.labels == c].mean(0) for c in range(tiny.CLASSES)])
    torch.testing.assert_close(whole.centers(), want, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(class_centers(features, data.train.labels, tiny.CLASSES), want)


def test_the_teacher_has_no_centres_and_no_objective_file(whole):
    teacher = read(whole.config.frozen, whole.folder.parent)
    assert teacher.centers() is None
    assert "agreement" not in teacher.record["results"]
    assert not (teacher.folder / "objective.safetensors").exists()


def test_training_a_student_leaves_its_teacher_alone(whole, with_teacher):
    folder = with_teacher / tiny.teacher().name
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    tiny.run(tiny.student(orders=(("2", 1.0),)), with_teacher)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_equal_widths_need_no_projector(with_teacher):
    config = tiny.student(model="resnet8x0.5", recipe=replace(tiny.RECIPE, epochs=1))
    run = tiny.run(config, with_teacher)
    objective, _ = storage.load_tensors(run.folder / "objective.safetensors")
    assert set(objective) == {"relational.centers"}


def test_start_from_the_frozen_models_weights(with_teacher):
    """With a rate of almost nothing the learner stays where it starts."""
    recipe = replace(tiny.RECIPE, epochs=1, learning_rate=1e-12)
    config = tiny.student(model="resnet8x0.5", start="frozen", recipe=recipe)
    teacher = read(config.frozen, with_teacher).network()
    run = tiny.run(config, with_teacher)
    for (name, p), q in zip(run.network().named_parameters(), teacher.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=0, msg=name)
    again = tiny.run(replace(config, start="scratch"), with_teacher)
    first = next(again.network().parameters())
    assert (first - next(teacher.parameters())).abs().max() > 0.01


def test_arms_of_one_seed_start_from_the_same_weights(monkeypatch, with_teacher):
    recipe = replace(tiny.RECIPE, epochs=1, learning_rate=1e-12)
    distilled = tiny.run(tiny.student(recipe=recipe), with_teacher).network()
    alone = tiny.run(tiny.student(recipe=recipe, frozen=None, orders=()), with_teacher).network()
    other = tiny.run(tiny.student(recipe=recipe, seed=4), with_teacher).network()
    for p, q in zip(distilled.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-6, rtol=0)
    assert (next(distilled.parameters()) - next(other.parameters())).abs().max() > 0.01


# Once


def test_the_same_configuration_is_read(whole, count_steps):
    again = tiny.run(tiny.student(), whole.folder.parent)
    assert again.record == whole.record
    assert not count_steps
    assert read(tiny.student(), whole.folder.parent).record == whole.record


def test_read_trains_nothing(tmp_path, count_steps):
    assert read(tiny.student(), tmp_path) is None
    assert not count_steps
    assert list(tmp_path.iterdir()) == []


def test_a_run_trains_its_teacher_first_and_shares_it(tmp_path, count_steps):
    tiny.run(tiny.student(orders=(("2", 1.0),)), tmp_path)
    assert len(count_steps) == 2 * 12
    tiny.run(tiny.student(orders=(("3", 1.0),)), tmp_path)
    assert len(count_steps) == 3 * 12
    assert read(tiny.teacher(), tmp_path) is not None


def test_the_folder_is_horkd_runs_by_default(monkeypatch, tmp_path):
    monkeypatch.setenv("HORKD_RUNS", str(tmp_path / "elsewhere"))
    config = tiny.teacher(recipe=replace(tiny.RECIPE, epochs=1))
    run = runner.run(config, tiny.SETTINGS)
    assert run.folder == tmp_path / "elsewhere" / config.name
    assert read(config).record == run.record


def test_two_at_once_train_it_once(tmp_path, count_steps):
    config, found = tiny.teacher(), []
    threads = [
        threading.Thread(target=lambda: found.append(tiny.run(config, tmp_path))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(count_steps) == 12
    assert len(found) == 3
    assert found[0].record == found[1].record == found[2].record


# Interruptions


def interrupted(config: RunConfig, folder: Path, step: int, **control) -> None:
    """Run until Ctrl-C within a step, which must come."""
    with tiny.before(Objective, tiny.Stop(step)), pytest.raises(KeyboardInterrupt):
        tiny.run(config, folder, **control)


def interrupted_file(config: RunConfig, folder: Path, file: int, after: bool) -> None:
    """Run until Ctrl-C before or after a file is renamed, which must come."""
    stop = tiny.Stop(file)
    # after it is renamed, the temporary file is looked for to be removed
    event = "os.remove" if after else "os.rename"

    def act(_event: str, arguments: tuple) -> None:
        if str(arguments[0]).endswith(".tmp"):
            stop()

    with watch.on_event(act, event), pytest.raises(KeyboardInterrupt):
        tiny.run(config, folder)


@pytest.mark.parametrize("step", [1, 4, 5, 7, 12])
def test_interrupted_within_an_epoch(whole, with_teacher, count_steps, step):
    interrupted(tiny.student(), with_teacher, step)
    done = (step - 1) // 4  # whole epochs
    count_steps.clear()
    assert_same(tiny.run(tiny.student(), with_teacher), whole)
    assert len(count_steps) == 12 - 4 * done


# The files that a run renames into place: state, state, model, objective, record.
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("file", [1, 2, 3, 4, 5])
def test_interrupted_while_a_file_is_put_in_its_place(whole, with_teacher, file, after):
    interrupted_file(tiny.student(), with_teacher, file, after)
    assert_same(tiny.run(tiny.student(), with_teacher), whole)


@pytest.mark.parametrize("file", [1, 2, 3, 4])
def test_interrupted_while_tensors_are_written(whole, with_teacher, file):
    def half(tensors, path, metadata=None):
        nonlocal file
        file -= 1
        real(tensors, path, metadata=metadata)
        if file == 0:
            path.write_bytes(path.read_bytes()[:1000])
            raise KeyboardInterrupt

    real = storage.save_file
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "save_file", half)
        with pytest.raises(KeyboardInterrupt):
            tiny.run(tiny.student(), with_teacher)
    assert_same(tiny.run(tiny.student(), with_teacher), whole)


@pytest.mark.parametrize("call", [1, 6, 11, 16, 17, 18, 19, 25])
def test_interrupted_while_a_network_only_looks(whole, with_teacher, call):
    """The centres, the frozen model's answers, scores after epochs, tests, latency."""
    stop = tiny.Stop(call)

    def looking(network, inputs, output):
        if not network.training:
            stop()

    with tiny.after(Network, looking), pytest.raises(KeyboardInterrupt):
        tiny.run(tiny.student(), with_teacher)
    assert_same(tiny.run(tiny.student(), with_teacher), whole)


def test_interrupted_again_and_again(whole, with_teacher, count_steps):
    config = tiny.student()
    for step in (3, 6, 2):
        interrupted(config, with_teacher, step)
    interrupted_file(config, with_teacher, 2, after=True)
    assert_same(tiny.run(config, with_teacher), whole)


def test_interrupted_while_the_teacher_is_trained(whole, tmp_path):
    interrupted(tiny.student(), tmp_path, 6)
    assert read(tiny.teacher(), tmp_path) is None
    assert_same(tiny.run(tiny.student(), tmp_path), whole)
    teacher = read(tiny.teacher(), tmp_path)
    assert_same(teacher, read(tiny.teacher(), whole.folder.parent))


def test_short_epochs_are_not_saved_one_by_one(whole, with_teacher, count_steps):
    interrupted(tiny.student(), with_teacher, 11, save_every=1e9)
    assert not list((with_teacher / tiny.student().name).glob("state*"))
    count_steps.clear()
    assert_same(tiny.run(tiny.student(), with_teacher), whole)
    assert len(count_steps) == 12


def test_noise_and_flips_also_resume(tmp_path):
    config = tiny.teacher(degradation=Degradation(8, blur=0.5, noise=8, upsample=True))
    whole = tiny.run(config, tmp_path / "whole")
    interrupted(config, tmp_path / "parts", 7)
    assert_same(tiny.run(config, tmp_path / "parts"), whole)


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(monkeypatch, whole, with_teacher):
    real = storage.save_file

    def full(tensors, path, metadata=None):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage, "save_file", full)
    with pytest.raises(HorkdError, match="the disk is full; nothing was changed") as caught:
        tiny.run(tiny.student(), with_teacher)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(storage, "save_file", real)
    assert_same(tiny.run(tiny.student(), with_teacher), whole)


CHILD = textwrap.dedent("""\
    import os, sys, time
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    import pytest, tiny, torch
    from horkd.objectives import Objective

    folder = Path(sys.argv[2])
    torch.set_num_threads(int(sys.argv[3]))
    tiny.patch(pytest.MonkeyPatch())
    forward = Objective.forward

    def counted(self, *args):
        with open(folder / "steps", "a") as file:
            print(os.getpid(), file=file)
        mine = (folder / "steps").read_text().split().count(str(os.getpid()))
        while mine == 6 and not (folder / "go on").exists():
            time.sleep(0.01)
        return forward(self, *args)

    Objective.forward = counted
    tiny.run(tiny.student(), folder)
    """)


def test_two_processes_and_the_one_that_trains_is_killed(whole, with_teacher):
    """SIGKILL in the second epoch; the other process, which was waiting, goes on from the first."""
    folder = with_teacher
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), str(folder)]
    command.append(str(torch.get_num_threads()))
    children = [subprocess.Popen(command) for _ in range(2)]
    steps = folder / "steps"
    try:
        while not steps.exists() or len(steps.read_text().split()) < 6:
            assert all(child.poll() is None for child in children)
            time.sleep(0.01)
        (busy,) = {int(pid) for pid in steps.read_text().split()}  # the other waits
        os.kill(busy, signal.SIGKILL)
        (folder / "go on").touch()
        codes = sorted(child.wait() for child in children)
    finally:
        for child in children:
            child.kill()
    assert codes == [-signal.SIGKILL, 0]
    by_whom = [int(pid) == busy for pid in steps.read_text().split()]
    assert by_whom == [True] * 6 + [False] * 8
    run = read(tiny.student(), folder)
    for left in run.folder.glob(".*.tmp"):  # what SIGKILL may leave, and nobody reads
        left.unlink()
    assert_same(run, whole)


# Damage


def damage_record(folder: Path) -> None:
    path = folder / "record.json"
    text = path.read_text()
    path.write_text(re.sub(r'("top1": )(\d)', lambda m: f"{m[1]}9{m[2]}", text, count=1))


def truncate(name: str):
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def flip(name: str):
    """One bit of the last weight."""

    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[-2] ^= 1
        (folder / name).write_bytes(content)

    return damage


def other_weights(folder: Path) -> None:
    """A whole file of the right architecture, but of another run."""
    network = tiny.network("resnet8x0.25", seed=9)
    save_network(folder / "model.safetensors", network, key="0")


def listed(folder: Path) -> None:
    (folder / "record.json").write_text("[]\n")


@pytest.mark.parametrize(
    "damage",
    [
        damage_record,
        truncate("record.json"),
        listed,
        truncate("model.safetensors"),
        flip("model.safetensors"),
        other_weights,
        lambda folder: (folder / "model.safetensors").unlink(),
        flip("objective.safetensors"),
        lambda folder: (folder / "objective.safetensors").unlink(),
    ],
    ids=[
        *("digit", "half a record", "another json", "half a model", "bit", "another run"),
        *("no model", "bit of objective", "no objective"),
    ],
)
def test_a_damaged_run_is_set_aside_and_done_again(whole, with_teacher, damage, count_steps):
    folder = tiny.copy_run(whole.folder.parent, with_teacher, tiny.student())
    damage(folder)
    damaged = {p.name: p.read_bytes() for p in folder.iterdir()}
    with pytest.warns(UserWarning, match=r"set aside as .*\.damaged and done again") as warned:
        run = tiny.run(tiny.student(), with_teacher)
    assert len(warned) == 1
    assert "\n" not in str(warned[0].message)
    assert len(count_steps) == 12
    assert_same(run, whole)
    (aside,) = with_teacher.glob("*.damaged")
    assert {p.name: p.read_bytes() for p in aside.iterdir()} == damaged


def test_the_record_of_another_configuration_is_not_taken(whole, with_teacher, count_steps):
    other = tiny.student(seed=5)
    source = tiny.copy_run(whole.folder.parent, with_teacher, tiny.student())
    source.rename(with_teacher / other.name)
    with pytest.warns(UserWarning, match="is the record of another configuration"):
        run = tiny.run(other, with_teacher)
    assert len(count_steps) == 12
    assert run.record["key"] == other.key


def altered_history(folder: Path) -> None:
    """A digit of what was logged in the first epoch."""
    path = folder / "state.safetensors"
    content = path.read_bytes()
    position = re.search(rb'cross_entropy\\": \d\.\d\d', content).end() - 1
    digit = b"%d" % ((content[position] - ord("0") + 1) % 10)
    path.write_bytes(content[:position] + digit + content[position + 1 :])


@pytest.mark.parametrize(
    "damage",
    [truncate("state.safetensors"), flip("state.safetensors"), altered_history],
    ids=["half", "bit of a weight", "digit of the history"],
)
def test_a_damaged_state_is_set_aside(whole, with_teacher, damage, count_steps):
    interrupted(tiny.student(), with_teacher, 10)
    folder = with_teacher / tiny.student().name
    damage(folder)
    damaged = (folder / "state.safetensors").read_bytes()
    count_steps.clear()
    with pytest.warns(UserWarning, match="state.safetensors.damaged"):
        run = tiny.run(tiny.student(), with_teacher)
    assert len(count_steps) == 12
    aside = run.folder / "state.safetensors.damaged"
    assert aside.read_bytes() == damaged
    aside.unlink()
    assert_same(run, whole)


def test_a_damaged_teacher_is_done_again_for_a_new_student(whole, with_teacher):
    flip("model.safetensors")(with_teacher / tiny.teacher().name)
    with pytest.warns(UserWarning, match="set aside"):
        run = tiny.run(tiny.student(), with_teacher)
    assert_same(run, whole)


# Configurations


def test_keys_are_what_they_were():
    """Runs of earlier versions are found: a change here orphans every record there is."""
    teacher = RunConfig(
        "resnet14x2",
        Degradation(32),
        data="cifar100",
        recipe=Recipe(epochs=8, batch_size=128, learning_rate=0.2),
    )
    assert teacher.name == "cifar100-resnet14x2-32px-ce-seed0-713eeacdca9f"
    student = RunConfig(
        "resnet8x2",
        Degradation(16, "area"),
        frozen=teacher,
        orders=(("2", 25.0), ("C", 1.0)),
        data="cifar100",
        recipe=Recipe(epochs=5, schedule="step", milestones=(2, 4)),
        seed=2,
    )
    assert student.name == f"cifar100-resnet8x2-16px-2C-seed2-{student.key}"
    assert student.key == "32aa8b3642f1"


VARIANTS = {
    RunConfig: {
        "model": "resnet8x0.5",
        "degradation": Degradation(16),
        "frozen": tiny.teacher(seed=1),
        "orders": (("2", 25.0),),
        "reduction": "rkd",
        "cross_entropy": 0.5,
        "start": "frozen",
        "data": "cifar100",
        "per_class": 5,
        "validation": False,
        "recipe": Recipe(),
        "seed": 4,
        "baselines": (("kd", 0.9),),
        "temperature": 2.0,
        "balance": True,
        "warmup": 1.0,
        "embedding": 12,
        "head": "cosface",
        "unit": True,
        "clusters": 5,
        "weights": "0123456789abcdef",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "normalized": True,
        "backbone": "imagenet",
        "select": "test",
        "trial": True,
        "classifier": True,
    },
    Recipe: {
        "epochs": 4,
        "batch_size": 24,
        "learning_rate": 0.2,
        "schedule": "cosine",
        "milestones": (1,),
        "decay": 0.1,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "clip": 1.0,
        "crop": 0,
        "views": 3,
        "optimizer": "adam",
        "per_class": 5,
        "batches": 7,
        "climb": 0.5,
        "progressive": ((1, 4),),
    },
    Degradation: {
        "size": 4,
        "kernel": "area",
        "upsample": True,
        "blur": 1.0,
        "noise": 1.0,
        "jpeg": 50,
    },
}


def variant(kind: type, name: str) -> RunConfig:
    value, base = VARIANTS[kind][name], tiny.student()
    if kind is Recipe:
        return replace(base, recipe=replace(base.recipe, **{name: value}))
    if kind is Degradation:
        return replace(base, degradation=replace(base.degradation, **{name: value}))
    if name == "trial":  # what it learns from is one, too
        return replace(base, trial=True, frozen=replace(base.frozen, trial=True))
    if name == "classifier":  # of given weights
        return replace(base, weights="d", classifier=True)
    if name == "start":
        return replace(base, start="frozen", model=base.frozen.model)
    if name in ("data", "per_class", "validation"):
        value = {name: value}
        return replace(base, frozen=replace(base.frozen, **value), **value)
    return replace(base, **{name: value})


@pytest.mark.parametrize("kind", VARIANTS)
def test_every_field_changes_the_key(kind):
    assert set(VARIANTS[kind]) == {f.name for f in dataclasses.fields(kind)}
    keys = {name: variant(kind, name).key for name in VARIANTS[kind]}
    assert len({*keys.values(), tiny.student().key}) == len(keys) + 1, keys


def test_a_change_of_the_teacher_changes_the_students_key():
    for change in ({"seed": 1}, {"degradation": Degradation(32)}, {"recipe": Recipe()}):
        config = tiny.student(frozen=tiny.teacher(**change))
        assert config.key != tiny.student().key


def test_defaults_do_not_count_and_equal_configurations_are_one_run():
    explicit = RunConfig("resnet8", Degradation(16, "bicubic", blur=0.0), recipe=Recipe(), seed=0)
    short = RunConfig("resnet8", Degradation(16))
    assert (explicit, explicit.key, explicit.name) == (short, short.key, short.name)
    # 25 == 25.0: equal configurations, however they were written
    whole, real = (
        tiny.student(orders=(("2", w),), cross_entropy=c) for w, c in ((25, 2), (25.0, 2.0))
    )
    assert whole == real
    assert whole.key == real.key
    rates = [tiny.teacher(recipe=replace(tiny.RECIPE, learning_rate=r)) for r in (1, 1.0)]
    assert rates[0].key == rates[1].key


def test_round_trip_through_json():
    config = tiny.student(
        frozen=tiny.student(frozen=tiny.teacher(validation=False), validation=False),
        degradation=Degradation(8, jpeg=50),
        recipe=Recipe(schedule="step", milestones=(1, 2), clip=1.0),
        validation=False,
    )
    again = config_from_dict(json.loads(json.dumps(asdict(config))))
    assert again == config
    assert again.key == config.key
    assert hash(again) == hash(config)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"sead": 1}, "unknown field sead: choose from model, degradation"),
        ({"recipe": {"epoch": 1}}, r"unknown field recipe\.epoch: choose from epochs"),
        ({"frozen": {"recipe": {"x": 1}}}, r"unknown field frozen\.recipe\.x"),
        ({"degradation": {}}, "size"),
        ({"degradation": {"size": 0}}, "resolution must be at least 1 pixel, got 0"),
        ({"model": "resnet9"}, "unknown model 'resnet9'"),
        ({"recipe": {"schedule": "none"}}, "unknown schedule 'none'"),
    ],
)
def test_bad_fields(change, complaint):
    content = {"model": "resnet8", "degradation": {"size": 16}, **change}
    with pytest.raises(HorkdError, match=complaint) as caught:
        config_from_dict(content)
    assert "\n" not in str(caught.value)


def batches(size: int, per_class: int = 0, **changes) -> dict:
    """Fields of a student that learns order 2 from batches of so many images, unless changed."""
    recipe = replace(tiny.RECIPE, batch_size=size, per_class=per_class)
    return {"orders": (("2", 1.0),), "recipe": recipe, **changes}


def test_a_missing_field_is_named():
    with pytest.raises(HorkdError, match="model"):
        config_from_dict({"degradation": {"size": 16}})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"frozen": None}, "distillation needs a frozen model"),
        ({"start": "warm"}, "unknown start 'warm': choose from scratch, frozen"),
        ({"start": "frozen"}, "start='frozen' needs a frozen run of the same model"),
        ({"data": "cifar100"}, "must be trained on the same images"),
        ({"per_class": 5}, "must be trained on the same images"),
        ({"orders": (), "cross_entropy": 0.0}, "nothing to minimise"),
        ({"orders": (("2", 0.0),), "cross_entropy": 0.0}, "nothing to minimise"),
        ({"model": "resnet8y2"}, "unknown model 'resnet8y2'"),
        ({"frozen": None, "orders": (), "baselines": (("kd", 1.0),)}, "needs a frozen model"),
        ({"cross_entropy": 0.0, "balance": True}, "balance needs a cross-entropy"),
        ({"orders": (("2", 0.0), ("C", 0.0))}, "all have weight 0, so that nothing is distilled"),
        ({"orders": (), "baselines": (("kd", 0.0),)}, "all have weight 0"),
        (batches(1), "order 2 needs 3 images in a batch, with 1 it is always zero: set batch_size"),
        (batches(2), "order 2 needs 3 images in a batch, with 2 it is always zero"),
        (batches(2, orders=(("3", 1.0),)), "order 3 needs 3 images in a batch"),
        (batches(2, orders=(("3", 1.0),), cross_entropy=0.0), "order 3 needs 3 images in a batch"),
        (batches(2, orders=(), baselines=(("pkt", 1.0),)), "pkt needs 3 images in a batch"),
        (batches(2, orders=(), baselines=(("darkrank", 1.0),)), "darkrank needs 3 images"),
        (batches(1, orders=(), baselines=(("mkd_relative", 1.0),)), "mkd_relative needs 2 images"),
        (
            batches(4, orders=(), baselines=(("kd", 1.0),), head="triplet", per_class=4),
            "the triplet loss needs 5 images in a batch, with 4",
        ),
        ({"warmup": 3.5}, "warmup must lie in 0 to 3 epochs, got 3.5"),
        ({"warmup": -1.0}, "warmup must lie in 0 to 3 epochs, got -1.0"),
    ],
)
def test_bad_configurations(change, complaint):
    with pytest.raises(HorkdError, match=complaint) as error:
        tiny.student(**change)
    tiny.one_line(error)


@pytest.mark.parametrize(
    "change",
    [batches(3), batches(1, orders=(("1", 1.0), ("C", 1.0), ("2", 0.0))),
     batches(2, orders=(), baselines=(("mkd_relative", 1.0),)),
     batches(1, orders=(), baselines=(("kd", 1.0), ("at", 1.0), ("pkt", 0.0))),
     batches(5, orders=(), baselines=(("kd", 1.0),), head="triplet", per_class=4),
     batches(2, orders=(("C", 1.0),), head="triplet", cross_entropy=0.0, per_class=2)],
)  # fmt: skip
def test_the_smallest_batches_that_say_anything(change):
    assert tiny.student(**change).recipe.batch_size


@pytest.mark.filterwarnings("ignore:.*was zero in every step of the first epoch")
def test_what_was_zero_in_every_step_is_no_finished_run(tmp_path, count_steps):
    """One class to tell apart: neither the labels nor a softened answer say anything."""

    def one_class(name, per_class=None):
        data = tiny.load(name)
        splits = {n: getattr(data, n) for n in ("train", "validation", "test")}
        splits = {n: s.select(s.labels == 0) for n, s in splits.items()}
        return replace(data, **{n: replace(s, classes=s.classes[:1]) for n, s in splits.items()})

    recipe = replace(tiny.RECIPE, batch_size=4)
    first = tiny.teacher(recipe=recipe)
    second = tiny.student(
        frozen=tiny.teacher(recipe=recipe, weights="0" * 16, classifier=True),
        recipe=recipe, orders=(("2", 1.0),), baselines=(("kd", 1.0),), cross_entropy=0.0,
    )  # fmt: skip
    network = tiny.network("resnet8x0.5", classes=1)
    save_network(tmp_path / "given.safetensors", network)
    second = replace(
        second, frozen=replace(second.frozen, weights=digest(tmp_path / "given.safetensors"))
    )
    with tiny.registered(one_class):
        runner.import_network(
            second.frozen, tmp_path / "given.safetensors", tiny.SETTINGS, tmp_path
        )
        for config, words in (
            (first, "cross_entropy was zero in every step of all 3 epochs, so that nothing was"),
            (second, "kd was zero in every step of all 3 epochs"),
        ):
            for again in range(2):
                count_steps.clear()
                with pytest.raises(HorkdError, match=words) as error:
                    tiny.run(config, tmp_path)
                tiny.one_line(error)
                assert bool(count_steps) is not bool(again), "known from its state the second time"
            assert not (tmp_path / config.name / "record.json").exists()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"degradation": Degradation(33)}, "resolution 33 is above the 32 pixels of glyphs"),
        ({"orders": (("4", 1.0),)}, "unknown order '4': choose from 1, 2, 3, C"),
        ({"orders": (("2", -1.0),)}, "the weight of order 2 is -1.0"),
        ({"reduction": "median"}, "unknown reduction 'median'"),
        ({"recipe": replace(tiny.RECIPE, batch_size=49)}, "batch size 49 does not fit 48"),
    ],
)
def test_bad_runs_are_one_line_and_leave_nothing(change, complaint, with_teacher):
    """Also when it only shows once the data are there."""
    with pytest.raises(HorkdError, match=complaint) as caught:
        tiny.run(tiny.student(**change), with_teacher)
    assert "\n" not in str(caught.value)
    assert not list(with_teacher.glob("*/record.json.*"))
    assert {p.name for p in with_teacher.iterdir()} <= {tiny.teacher().name, ".locks"}


def test_a_run_that_diverges_leaves_a_note_and_is_not_tried_again(with_teacher, count_steps):
    config = tiny.student(recipe=replace(tiny.RECIPE, learning_rate=1e18))
    with pytest.raises(Diverged, match="the loss is not finite in epoch 1 ") as first:
        tiny.run(config, with_teacher)
    assert "\n" not in str(first.value)
    assert {p.name for p in (with_teacher / config.name).iterdir()} == {"diverged.json"}
    note = diverged(config, with_teacher)
    assert (note["key"], note["name"], note["epoch"]) == (config.key, config.name, 1)
    assert config_from_dict(note["config"]) == config
    assert set(note["terms"]) >= {"loss", "cross_entropy", "order2"}
    assert read(config, with_teacher) is None
    assert diverged(tiny.student(), with_teacher) is None
    assert count_steps
    count_steps.clear()
    with pytest.raises(Diverged) as second:
        tiny.run(config, with_teacher)
    assert second.value.epoch == first.value.epoch
    assert {n: str(v) for n, v in second.value.terms.items()} == note["terms"]
    assert "\n" not in str(second.value)
    assert not count_steps


@pytest.mark.parametrize(
    "change",
    [
        {"degradation": Degradation(33)},
        {"orders": (("4", 1.0),)},
        {"orders": (("2", -1.0),)},
        {"reduction": "median"},
    ],
    ids=str,
)
def test_a_mistake_does_not_cost_the_teachers_training(change, tmp_path, count_steps):
    with pytest.raises(HorkdError):
        tiny.run(tiny.student(**change), tmp_path)
    assert not count_steps


def test_an_empty_class_is_named(with_teacher):
    def without_class_2(name, per_class=None):
        data = tiny.load(name)
        return replace(data, train=data.train.select(data.train.labels != 2))

    with (
        tiny.registered(without_class_2),
        pytest.raises(HorkdError, match="no example of class 2"),
    ):
        tiny.run(tiny.student(), with_teacher)


def test_an_unknown_device_is_one_line(with_teacher):
    with pytest.raises(HorkdError, match="cannot use device 'tpu9000'"):
        runner.run(tiny.student(), Settings("tpu9000"), with_teacher)


# Presets


def test_unknown_presets_and_data():
    with pytest.raises(HorkdError, match="unknown preset 'huge': choose from smoke, quick, cpu,"):
        get_preset("huge")
    with pytest.raises(HorkdError, match="unknown data set 'mnist': choose from glyphs, cifar100"):
        get_preset("smoke", "mnist")
    with pytest.raises(HorkdError, match="number of seeds must be 1 or more, got -1"):
        get_preset("smoke", seeds=-1)


def test_presets_keep_what_is_not_changed():
    quick = presets()["quick"][0]
    assert get_preset("quick") == get_preset("quick", "", 0) == quick
    assert get_preset("quick", seeds=7) == replace(quick, seeds=7)
    assert get_preset("quick", "cifar100").data == "cifar100"


def test_a_compiled_run_is_the_plain_one(monkeypatch, tmp_path):
    """Graph capture of learner and frozen model, forward and backward; no C++ compiler needed."""
    calls = []

    def compile(module):
        calls.append(module)
        module._compiled_call_impl = torch.compile(module._call_impl, backend="aot_eager")

    monkeypatch.setattr(runner, "compiled", compile)
    plain = runner.run(tiny.student(), tiny.SETTINGS, tmp_path / "plain")
    compiled = runner.run(
        tiny.student(), replace(tiny.SETTINGS, compile="on"), tmp_path / "compiled"
    )
    assert len(calls) == 3  # the teacher, then the student and its frozen teacher
    assert compiled.network().state_dict().keys() == plain.network().state_dict().keys()
    for one, other in zip(compiled.record["history"], plain.record["history"], strict=True):
        assert one["terms"] == pytest.approx(other["terms"], rel=1e-3)


def test_features_are_float32_under_autocast():
    network = tiny.network().eval()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert network(torch.randn(2, 3, 16, 16)).features.dtype == torch.float32


@pytest.mark.parametrize("name", ["paper-short", "paper"])
def test_the_papers_networks_build_and_take_a_step(name, tmp_path):
    """ResNet50, ResNet18 with a projector to 2048, ResNet18 at 16 pixels: one batch each."""
    data = tiny.data()
    few = {
        split: getattr(data, split).select(torch.arange(tiny.CLASSES))
        for split in ("train", "validation", "test")
    }
    few["validation"] = few["validation"].select(torch.arange(0))
    preset = get_preset(name)
    assert not preset.validation
    one_step = {
        field: replace(getattr(preset, field), epochs=1, batch_size=4, progressive=())
        for field in ("teacher_recipe", "recipe")
    }
    small = replace(preset, **one_step)
    arms = {name: configure(small, arm) for name, arm in study(small, "two_stage").items()}
    with tiny.registered(lambda name, n=None: replace(data, name=name, **few)):
        student = tiny.run(arms["student"], tmp_path)  # the teacher and the assistant first
    assistant, teacher = (read(arms[a], tmp_path) for a in ("assistant", "teacher"))
    assert (teacher.config.model, assistant.config.model) == ("resnet50", "resnet18")
    assert student.network().spec == assistant.network().spec
    assert assistant.centers().shape == (tiny.CLASSES, 2048)
    assert student.centers().shape == (tiny.CLASSES, 512)
    projected, _ = storage.load_tensors(assistant.folder / "objective.safetensors")
    assert projected["relational.projector.weight"].shape == (2048, 512)
    literal, _ = storage.load_tensors(student.folder / "objective.safetensors")
    factors = {f"factor_{term}" for term in ("order2", "order3", "order_c") if preset.balance}
    assert set(literal) == {"relational.centers", *factors}  # equal widths: no projector
    for run in (assistant, student):
        assert set(run.record["history"][0]["terms"]) == {
            *("loss", "cross_entropy", "order2", "order3", "order_c")
        }
        assert all(share > 0 for share in run.record["history"][0]["gradient_shares"].values())
    assert student.record["cost"]["macs"] * 3.9 < assistant.record["cost"]["macs"]
    assert set(teacher.record["history"][0]["terms"]) == {"loss", "cross_entropy"}
