"""The study of faces: its arms, teachers from files, the command line, sets of people to find."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from fractions import Fraction
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from face_trees import FOLDS, PEOPLE, PHOTOS, face, lfw_tree, name_of
from PIL import Image
from safetensors.torch import save_file

from horkd import paths, storage
from horkd import predict as predict_
from horkd import reproduce as reproduce_
from horkd.data import faces as face_data
from horkd.data import find, load_dataset, training_images
from horkd.data.images import Dataset
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab import looks as looks_
from horkd.lab import pace as pace_
from horkd.lab import runner, work
from horkd.lab.config import RunConfig, config_from_dict
from horkd.lab.looks import Look, known_looks
from horkd.lab.pace import estimates, frozen_macs, learner_macs
from horkd.lab.store import read
from horkd.machine import Settings
from horkd.networks.network import ModelSpec, Network, macs_of
from horkd.networks.weights import digest
from horkd.notebook_kernel import declared
from horkd.protocols import Asked
from horkd.protocols.identification import IDENTIFICATION
from horkd.protocols.verification import VERIFICATION
from horkd.studies import arm as arm_
from horkd.studies.arm import subset_name, subsets
from horkd.studies.faces import arms as face_arms_
from horkd.studies.presets import get_preset, meant_by, presets
from horkd.studies.study import choose, configure, queue, seeds, study
from horkd.studies.task import registered, tasks
from horkd.studies.teacher import with_teacher
from horkd.training import Recipe

FACES, PAPER = get_preset("faces"), get_preset("faces-paper")
both = pytest.mark.parametrize("preset", [FACES, PAPER], ids=lambda p: p.name)


def arms_of(preset) -> dict[str, arm_.Arm]:
    return study(preset, "faces")


def config_of(preset, name: str, seed: int = 0) -> RunConfig:
    return configure(preset, arms_of(preset)[name], seed)


# Arms ---------------------------------------------------------------------------------------------


@both
def test_arms_have_names_of_their_own_and_no_other_study_has_arms(preset):
    listed = face_arms_.face_arms(preset)
    names, kept = [arm.name for arm in listed], list(arms_of(preset))
    assert len(set(names)) == len(names)
    assert kept == [name for name in names if name in kept]
    assert preset is PAPER or kept == names
    assert all(arm.what for arm in listed)
    for one in tasks()["classification"].studies:
        assert bool(study(preset, one.name)) == (one.name == "faces")


#: Arms that are the same run under two names.
TWICE = {
    "faces": {
        ("student 16", "{1,2,3} 16"),
        ("student 16 with classes", "{1,2,3,C} 16"),
        ("student 32 alone", "small teacher"),
    },
    "faces-paper": set(),
}


@both
def test_every_other_arm_is_a_run_of_its_own(preset):
    names: dict[str, list[str]] = {}
    for arm in arms_of(preset).values():
        names.setdefault(configure(preset, arm).key, []).append(arm.name)
    assert {tuple(n) for n in names.values() if len(n) > 1} == TWICE[preset.name]
    keys = {configure(preset, arm, 1).key for arm in arms_of(preset).values()}
    assert keys.isdisjoint(k for k, n in names.items() if n != ["teacher"])


@both
def test_configurations_survive_their_record(preset):
    for arm in arms_of(preset).values():
        config = configure(preset, arm, 2)
        again = config_from_dict(json.loads(json.dumps(asdict(config))))
        assert (again, again.key) == (config, config.key), arm.name


def test_folds_are_data_sets():
    for arm in arms_of(FACES).values():
        config = configure(FACES, arm)
        expected = "lfw" if arm.name == "teacher" else f"lfw-{arm.fold or 1}"
        assert config.data == expected, arm.name
        assert not config.validation
    for kind in ("student 16", "student 32", "tuned 16", "tuned 32"):
        named = [name for name in arms_of(FACES) if name.partition(", fold")[0] == kind]
        assert named == [kind, *(f"{kind}, fold {k}" for k in range(2, 11))]
        configs = [config_of(FACES, name) for name in named]
        assert [c.data for c in configs] == [f"lfw-{k}" for k in range(1, 11)]
        assert {replace(c, data="lfw-1") for c in configs} == {configs[0]}  # nothing else differs


def test_without_folds_there_is_one_training_set():
    assert not any(arm.fold for arm in arms_of(PAPER).values())
    for name in arms_of(PAPER):
        data = "lfw@224" if name == "teacher" else "umdfaces@224"
        assert config_of(PAPER, name).data == data


def test_another_size_goes_into_every_name():
    preset = replace(FACES, data="lfw@16", lows=(8,), assistant=16)
    data = {config_of(preset, name).data for name in arms_of(preset)}
    assert data == {"lfw@16", *(f"lfw-{k}@16" for k in range(1, 11))}
    assert config_of(preset, "teacher").degradation == Degradation(16)


@both
def test_the_frozen_chain_ends_at_the_imported_teacher(preset):
    teacher = config_of(preset, "teacher")
    assert teacher.weights == (preset.weights or "none")
    assert teacher.frozen is None
    assert not teacher.classifies
    assert teacher.model == preset.teacher
    for arm in arms_of(preset).values():
        config = configure(preset, arm, 2)
        if arm.frozen is None:
            assert (config.frozen, config.orders) == (None, ()), arm.name
        elif arm.frozen == "teacher":
            assert config.frozen == teacher, arm.name
        else:
            assert config.frozen == config_of(preset, arm.frozen), arm.name
            assert config.frozen.data == config.data, arm.name
    assistant = config_of(preset, "student 16 of the assistant").frozen
    assert (assistant.frozen, assistant.degradation.size) == (teacher, preset.assistant)
    if preset is PAPER:
        return
    scratch = config_of(preset, "student 16 of the scratch teacher").frozen
    assert (scratch.frozen, scratch.weights, scratch.head) == (None, None, "cosface")
    assert (scratch.model, scratch.degradation) == (preset.teacher, Degradation(112))
    assert config_of(preset, "student 16 of the small teacher").frozen == replace(
        config_of(preset, "student 32 alone"), seed=0
    )


@both
def test_an_assistant_for_both_resolutions(preset):
    one, two = (config_of(preset, f"student {r} of the assistant") for r in (16, 32))
    assert one.frozen == two.frozen == config_of(preset, "assistant")
    assert replace(one, degradation=two.degradation) == two


def test_what_the_papers_preset_leaves_out():
    assert list(arms_of(PAPER)) == [
        *("teacher", "student 16", "student 16 alone", "student 32", "student 32 alone"),
        *("student 16 with names", "student 16 with classes", "student 16 with clusters"),
        *("assistant", "student 16 of the assistant", "student 32 of the assistant"),
    ]


@both
def test_only_some_arms_are_told_names(preset):
    names = {"student 16 alone", "student 32 alone", "student 16 with names"}
    names |= {"small teacher", "scratch teacher"}
    for arm in arms_of(preset).values():
        config = configure(preset, arm)
        assert not config.classifies, arm.name  # a margin head is no part of the network
        if arm.name in names:
            assert (config.head, config.cross_entropy) == ("cosface", 1.0), arm.name
        elif arm.name != "teacher":
            assert (config.head, config.cross_entropy) == ("linear", 0.0), arm.name
            assert config.unit, arm.name
            assert config.orders, arm.name
    centres = [n for n in arms_of(preset) if any(o == "C" for o, _ in config_of(preset, n).orders)]
    assert {n for n in centres if config_of(preset, n).clusters} == {"student 16 with clusters"}
    assert config_of(preset, "student 16 with clusters").clusters == preset.clusters


@both
def test_weights_of_orders_are_the_presets(preset):
    weights = dict(preset.orders)
    for arm in arms_of(preset).values():
        config = configure(preset, arm)
        assert config.orders == tuple((o, weights[o]) for o in arm.orders), arm.name
    assert "".join(o for o, _ in config_of(preset, "student 16").orders) == preset.main


@both
def test_a_control_differs_in_what_is_learnt_alone(preset):
    for pixels in (16, 32):
        student, control = (config_of(preset, f"student {pixels}{end}") for end in ("", " alone"))
        same = {"frozen": None, "orders": (), "unit": False, "head": "cosface"}
        assert replace(student, **same, cross_entropy=1.0) == control
    student, named = config_of(preset, "student 16"), config_of(preset, "student 16 with names")
    assert replace(student, head="cosface", cross_entropy=1.0) == named
    for kind in ("small", "scratch") if preset is FACES else ():
        other = config_of(preset, f"student 16 of the {kind} teacher")
        assert replace(student, frozen=other.frozen) == other


@both
def test_tuned_students_start_from_the_teacher_and_enlarge(preset):
    for name, arm in arms_of(preset).items():
        config = configure(preset, arm)
        if not name.startswith("tuned"):
            assert config.start == "scratch", name
            assert not config.degradation.upsample, name
            continue
        assert config.start == "frozen"
        assert config.model == config.frozen.model == preset.teacher
        assert config.embedding == config.frozen.embedding
        assert (config.mean, config.std) == (config.frozen.mean, config.frozen.std)
        assert config.degradation == Degradation(arm.pixels, upsample=True)
        assert config.recipe == preset.tuned


def test_tuned_students_expect_the_statistics_of_their_teacher():
    half = ((0.5,) * 3, (0.5,) * 3)
    preset = replace(FACES, mean=half[0], std=half[1])
    for name in ("teacher", "tuned 16", "tuned 32, fold 3", "scratch teacher"):
        config = config_of(preset, name)
        assert (config.mean, config.std) == half, name
    assert config_of(preset, "student 16").mean is None
    assert config_of(preset, "student 16").frozen.mean == half[0]


def test_the_slim_student_is_of_the_papers_size():
    for pixels in (16, 32):
        config = config_of(FACES, f"student {pixels} slim")
        assert (config.model, config.embedding) == ("resnet34x0.6", 512)
        network = Network(ModelSpec(config.model, 0, config.embedding))
        count = sum(p.numel() for p in network.parameters())
        assert count == pytest.approx(7.83e6, abs=5e3)


def test_all_subsets_but_the_empty_one():
    names = [subset_name(orders, 16) for orders in subsets() if orders]
    assert [name for name in arms_of(FACES) if name.startswith("{")] == names
    assert len(names) == 15


def test_seeds():
    kinds = arms_of(FACES)
    repeated = [name for name, arm in kinds.items() if len(seeds(FACES, arm)) == 3]
    assert repeated == ["student 16", "student 16 alone", "student 32", "student 32 alone"]
    assert {len(seeds(FACES, arm)) for arm in kinds.values()} == {1, 3}
    everything = replace(FACES, repeat_all=True)
    once = [name for name, arm in kinds.items() if len(seeds(everything, arm)) == 1]
    assert once == ["teacher", "small teacher", "scratch teacher", "assistant"]
    assert {len(seeds(PAPER, arm)) for arm in arms_of(PAPER).values()} == {1}


@both
def test_the_queue_begins_with_the_teacher(preset):
    jobs = queue(preset)
    assert {job.study for job in jobs} == {"faces"}
    assert jobs[0].arm == "teacher"
    assert [job.arm for job in jobs[1:3]] == ["student 16", "student 16 alone"]
    keys = [job.config.key for job in jobs]
    assert len(set(keys)) == len(keys)
    expected = {configure(preset, a, s).key for a in arms_of(preset).values()
                for s in seeds(preset, a)}  # fmt: skip
    assert set(keys) == expected
    numbers = [job.config.seed for job in jobs]
    assert numbers == sorted(numbers)
    there = {"".join(o for o, _ in job.config.orders) for job in jobs}
    assert preset is PAPER or {orders for orders in subsets() if orders} <= there
    place = {job.config.key: i for i, job in enumerate(jobs)}
    for job in jobs:
        if job.config.frozen is not None:
            assert place[job.config.frozen.key] < place[job.config.key], job.arm


def test_choose():
    assert [job.arm for job in choose(FACES, arms=["teacher"])] == ["teacher"]
    jobs = choose(FACES, ["faces"], ["student 16", "tuned 16, fold 7"])
    assert [(job.arm, job.config.seed) for job in jobs] == [
        *(("student 16", 0), ("tuned 16, fold 7", 0), ("student 16", 1), ("student 16", 2))
    ]
    # a subset that is the student itself is that one run
    (job,) = choose(FACES, arms=["{1,2,3} 16"])
    assert job.config == config_of(FACES, "student 16")
    with pytest.raises(HorkdError, match="unknown arm 'student': choose from assistant, ") as error:
        choose(FACES, arms=["student"])
    tiny.one_line(error)
    with pytest.raises(HorkdError, match="study two_stage has no arm in preset faces") as error:
        choose(FACES, ["two_stage"])
    tiny.one_line(error)
    with pytest.raises(HorkdError, match="unknown study 'lfw'"):
        choose(FACES, ["lfw"])


# Presets


@pytest.mark.parametrize("name", ["quick", "cpu", "metric"])
@pytest.mark.parametrize("data", ["lfw", "umdfaces", "lfw-dev"])
def test_other_presets_are_not_made_for_faces(name, data):
    with pytest.raises(HorkdError, match=f"preset {name} is not made for {data}") as error:
        get_preset(name, data)
    assert "sets of faces go with faces, faces-paper, others with the rest" in tiny.one_line(error)


@pytest.mark.parametrize("name", ["faces", "faces-paper"])
@pytest.mark.parametrize("data", ["glyphs", "cifar100"])
def test_presets_of_faces_are_made_for_nothing_else(name, data):
    with pytest.raises(HorkdError, match=f"preset {name} is not made for {data}") as error:
        get_preset(name, data)
    tiny.one_line(error)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("faces", ""),
        ("faces", "lfw"),
        ("faces-paper", ""),
        pytest.param("faces-paper", "umdfaces@224"),
    ],
)  # fmt: skip
def test_presets_take_their_own_data(name, data):
    assert get_preset(name, data) == presets()[name][0]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        *((name, data) for name in ("faces", "faces-paper") for data in ("xqlfw", "uccs")),
        ("faces", "lfw-dev"),
        ("faces", "lfw-3"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(name, data):
    with pytest.raises(HorkdError) as error:
        get_preset(name, data)
    tiny.one_line(error)


def test_folds_and_views_follow_the_training_set():
    large = get_preset("faces", "umdfaces")
    assert (large.data, large.folds, large.recipe.views) == ("umdfaces", (), 0)
    assert large.tuned.views == 0
    small = get_preset("faces-paper", "lfw")
    assert (small.data, small.folds) == ("lfw@224", tuple(range(1, 11)))
    for name, data in (("faces-paper", "vggface2@112"), ("faces-paper", "casia"), ("faces", "")):
        preset = get_preset(name, data)
        assert get_preset(name, preset.data) == preset, "a notebook is given the preset's data"


def test_seeds_of_a_preset_of_faces():
    assert get_preset("faces", "lfw", 1).seeds == 1
    assert len(queue(get_preset("faces", seeds=1))) == len(queue(FACES)) - 8


# Teachers from files ------------------------------------------------------------------------------


@pytest.fixture
def home(faces_tree, monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("HORKD_DATA", str(faces_tree))
    monkeypatch.setenv("HORKD_RUNS", str(tmp_path / "runs"))
    return faces_tree


def small(preset=FACES):
    """The preset on faces of 16 pixels, with tiny networks."""
    recipe = Recipe(epochs=1, batch_size=81, learning_rate=0.05, crop=1, views=1)
    return replace(
        preset, data="lfw@16", teacher="resnet8x0.25", compact="resnet8x0.25", recipe=recipe,
        seeds=1, embedding=None, slim="resnet8x0.25", slim_embedding=8, lows=(8,), assistant=16,
        tuned=recipe, folds=(1, 2, 3), clusters=5,
    )  # fmt: skip


def network(seed: int = 0, model: str = "resnet8x0.25") -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network(ModelSpec(model, 0))


def weights(folder: Path, seed: int = 0, model: str = "resnet8x0.25") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{model}-{seed}.safetensors"
    save_file(network(seed, model).backbone.state_dict(), path)
    return path


@pytest.fixture
def file(tmp_path) -> Path:
    return weights(tmp_path / "weights")


def test_without_a_file_a_preset_stays_as_it_is():
    for preset in (preset for task in tasks().values() for preset in task.presets):
        assert with_teacher(preset, "") is preset
        with pytest.raises(HorkdError):  # statistics of what?
            with_teacher(preset, "", "", "half")


@pytest.mark.parametrize("name", ["smoke", "quick", "cpu", "paper"])
def test_a_preset_that_classifies_takes_only_files_of_our_own(name, file, home):
    for given, complaint in (
        ((file, ""), f"preset {name} takes a teacher of `horkd export`, and .* is not one"),
        (("", "resnet50"), "needs its weights file, too"),
        ((str(file), "resnet50"), "says itself what it is: give its file alone"),
    ):
        with pytest.raises(HorkdError, match=complaint) as error:
            with_teacher(get_preset(name), *given)
        tiny.one_line(error)
    assert not list(paths.runs_dir().glob("*/*"))


def test_files_and_names_that_do_not_fit(tmp_path, file, home):
    with pytest.raises(HorkdError, match=r"there is no weights file .*nothing\.pth") as error:
        with_teacher(small(), tmp_path / "nothing.pth")
    tiny.one_line(error)
    with pytest.raises(HorkdError, match="a teacher's model needs its weights file, too") as error:
        with_teacher(small(), "", "resnet8x0.25")
    assert "--teacher-weights FILE" in tiny.one_line(error)
    with pytest.raises(HorkdError, match="unknown statistics 'mnist': choose from imagenet, half"):
        with_teacher(small(), file, "", "mnist")
    with pytest.raises(HorkdError, match=r"does not fit resnet8x0\.5") as error:
        with_teacher(small(), file, "resnet8x0.5")
    tiny.one_line(error)
    with pytest.raises(HorkdError, match="unknown"):
        with_teacher(small(), file, "resnet")
    assert not list((tmp_path / "runs").glob("*/record.json"))


def test_without_the_data_a_teacher_is_not_imported(monkeypatch, tmp_path, file):
    monkeypatch.setenv("HORKD_DATA", str(tmp_path))
    monkeypatch.setenv("HORKD_RUNS", str(tmp_path / "runs"))
    with pytest.raises(HorkdError, match=r"lfw") as error:
        with_teacher(small(), file)
    tiny.one_line(error)
    assert not list((tmp_path / "runs").glob("*/record.json"))


def times(folder: Path) -> dict[Path, int]:
    """When the files of finished runs were written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("[!.]*/*")}


def test_a_teacher_is_imported_once(file, home, tmp_path):
    preset = with_teacher(small(), str(file))
    assert preset == replace(small(), weights=digest(file))
    assert (preset.mean, preset.std) == (None, None)
    config = config_of(preset, "teacher")
    assert config.data == "lfw@16"
    found = read(config)
    assert found.record["results"]["test"]["n"] == 4 * FOLDS
    state = found.network().backbone.state_dict()
    for name, tensor in network().backbone.state_dict().items():
        torch.testing.assert_close(state[name], tensor)
    before = times(tmp_path / "runs")
    assert with_teacher(small(), file) == preset
    assert times(tmp_path / "runs") == before, "imported again"
    assert read(config).record == found.record
    assert len(list((tmp_path / "runs").glob("*/record.json"))) == 1


def test_another_file_is_another_study(file, home, tmp_path):
    one = with_teacher(small(), file)
    two = with_teacher(small(), weights(tmp_path / "weights", 1))
    for name in arms_of(one):
        same = config_of(one, name).key == config_of(two, name).key
        by_names = name in ("small teacher", "scratch teacher", "student 8 alone")
        of_these = name in (f"student 8 of the {kind} teacher" for kind in ("small", "scratch"))
        assert same == (by_names or of_these), name
    assert len(list((tmp_path / "runs").glob("*/record.json"))) == 2


def test_statistics_and_model_of_a_teacher(home, tmp_path):
    wide = weights(tmp_path / "weights", 0, "resnet8x0.5")
    plain = with_teacher(small(), wide, "resnet8x0.5")
    half = with_teacher(small(), wide, "resnet8x0.5", "half")
    assert plain.teacher == half.teacher == "resnet8x0.5"
    assert half.mean == half.std == (0.5, 0.5, 0.5)
    keys = {config_of(preset, "teacher").key for preset in (plain, half)}
    assert len(keys) == 2
    spec = read(config_of(half, "teacher")).network().spec
    assert (spec.name, spec.mean, spec.num_classes) == ("resnet8x0.5", (0.5, 0.5, 0.5), 0)


def test_statistics_as_six_numbers(file, home):
    preset = with_teacher(small(), file, "", "0.1,0.2,.3/1,2, 3e-1")
    assert (preset.mean, preset.std) == ((0.1, 0.2, 0.3), (1.0, 2.0, 0.3))
    assert read(config_of(preset, "teacher")).network().spec.std == (1.0, 2.0, 0.3)
    half = with_teacher(small(), file, "", "0.5,0.5,0.5/0.5,0.5,0.5")
    assert half == with_teacher(small(), file, "", "half")


@pytest.mark.parametrize(
    "text",
    [
        *("", "/", "0.5", "0,0,0", "0,0/1,1", "0,0,0,0/1,1,1,1", "0,0,0/1,1", "0,0,0/1,1,1/1,1,1"),
        *("0,0,0/1,0,1", "0,0,0/1,-1,1", "0,0,x/1,1,1", "0;0;0/1;1;1", "0,0,nan/1,1,1"),
        *("0,0,0/1,inf,1", "0,0,0/1,nan,1", "Half"),
    ],
)
def test_statistics_that_are_none(file, text):
    with pytest.raises(HorkdError, match="unknown statistics") as error:
        with_teacher(small(), file, "", text)
    assert tiny.one_line(error).endswith("or give means and deviations as m,m,m/s,s,s")


def test_students_of_an_imported_teacher_are_trained(file, home):
    """Relations alone, the tuned teacher and the control, on two folds."""
    preset = with_teacher(small(), file)
    settings = Settings(
        "cpu", "fp32", channels_last="off", compile="off", cache="off", progress=False
    )
    for name in ("student 8", "tuned 8, fold 2", "student 8 alone"):
        config = config_of(preset, name)
        test = runner.run(config, settings).record["results"]["test"]
        assert test["folds"] == [1 if "fold 2" in name else 0], name
        assert test["n"] == 4, name


def test_without_its_file_a_teacher_is_asked_for(home):
    with pytest.raises(HorkdError, match="give their file with --teacher-"):
        runner.run(config_of(small(), "student 8"))


def test_work_tells_what_it_did(file, home):
    preset = with_teacher(small(), file)
    settings = Settings(
        "cpu", "fp32", channels_last="off", compile="off", cache="off", progress=False
    )
    said = []
    shift = work.work(choose(preset, arms=["student 8"]), None, settings, said.append)
    assert len(shift.done) == 1
    assert said[0].startswith("student 8, seed 0: ")


# Time


def test_an_enlarged_face_costs_what_a_full_one_does():
    config = config_of(FACES, "tuned 16")
    one = macs_of(ModelSpec(FACES.teacher, 0), 112)
    images = training_images(config.data)
    assert learner_macs(config) == 3 * one * images * config.recipe.epochs


@both
def test_work_of_students_is_estimated_without_data(preset, monkeypatch, tmp_path):
    monkeypatch.setenv("HORKD_DATA", str(tmp_path))
    monkeypatch.setenv("HORKD_RUNS", str(tmp_path / "runs"))
    jobs = [job for job in queue(preset) if not job.arm.startswith("tuned")]
    # without running the large networks
    pace = pace_.pace([job.config for job in jobs], Settings("cpu"), probe=lambda *_: 100.0)
    times = estimates(jobs, pace, True)
    assert len(times) == len(jobs)
    assert times[config_of(preset, "teacher").key] == 0  # nothing is trained
    assert all(t > 0 for key, t in times.items() if key != config_of(preset, "teacher").key)
    alone, slim = (learner_macs(config_of(preset, f"student 16{e}")) for e in (" alone", ""))
    assert alone == slim
    assert frozen_macs(config_of(preset, "student 16 alone")) == 0
    assert frozen_macs(config_of(preset, "student 16")) > 0


def test_networks_without_classes_are_timed(home):
    preset = replace(small(), weights="0" * 16)
    pace = pace_.pace([config_of(preset, "student 8")], Settings("cpu"))
    assert pace.source == "a few steps of each network"


# The command line and notebooks ------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch, tmp_path) -> list[tuple]:
    """What the command line asks of `reproduce`, which does nothing."""
    calls = []

    def reproduce(*arguments):
        calls.append(arguments)
        return reproduce_.Outcome(tmp_path, tmp_path / "REPORT.md", (), (), {}, 0.0)

    monkeypatch.setattr(reproduce_, "reproduce", reproduce)
    return calls


@pytest.mark.parametrize(
    ("arguments", "preset", "data"),
    [
        ((), "quick", "glyphs"),
        (("--train-data", "lfw"), "faces", "lfw"),
        (("--data", "lfw"), "faces", "lfw"),
        (("--train-data", "glyphs"), "quick", "glyphs"),
        (("--preset", "smoke"), "smoke", "glyphs"),
        (("--preset", "faces"), "faces", "lfw"),
        pytest.param(("--train-data", "umdfaces"), "faces-paper", "umdfaces@224"),
    ],
)  # fmt: skip
def test_data_choose_the_preset(horkd, asked, arguments, preset, data):
    code, _, err = horkd("reproduce", *arguments)
    assert (code, err) == (0, "")
    assert [call[:3] for call in asked] == [(preset, data, ())]
    assert asked[0][3:] == ({}, False)


def test_large_sets_choose_the_papers_preset():
    for data in ("umdfaces", "umdfaces@224", "vggface2", "casia"):
        assert meant_by(data, False) == meant_by(data, True) == "faces-paper"
    assert meant_by("", True) == meant_by("lfw", False) == "faces"
    assert meant_by("", False) == meant_by("glyphs", False) == meant_by("mnist", False) == "quick"
    assert meant_by("cifar100-disjoint", False) == "metric-cpu"


def test_a_notebook_by_number(horkd, asked):
    horkd("reproduce", "--preset", "faces", "--notebooks", "06")
    horkd("reproduce", "--only", "02", "--notebooks", "06_faces", "--seeds", "2", "--force")
    assert asked[0] == ("faces", "lfw", ["06"], {}, False)
    assert asked[1] == ("quick", "glyphs", ["02", "06_faces"], {"seeds": 2}, True)


@pytest.fixture
def small_faces(home) -> Iterator[Path]:
    """Preset faces on small photos, with tiny networks."""
    with registered(replace(tasks()["faces"], presets=(small(),))):
        yield home


def test_a_teachers_file_is_imported_and_passed_on(horkd, asked, small_faces, file, monkeypatch):
    monkeypatch.chdir(file.parent)
    code, _, err = horkd("reproduce", "--teacher-weights", file.name)
    assert (code, err) == (0, "")
    preset, data, only, parameters, force = asked[0]
    assert (preset, data, only, force) == ("faces", "lfw@16", (), False)
    assert parameters == {"teacher_weights": str(file), "teacher_statistics": "imagenet"}
    horkd("reproduce", "--teacher-weights", str(file), "--teacher-model", "resnet8x0.25",
          "--teacher-statistics", "half", "-p", "show_faces=true")  # fmt: skip
    assert asked[1][3] == {
        "teacher_weights": str(file),
        "teacher_model": "resnet8x0.25",
        "teacher_statistics": "half",
        "show_faces": True,
    }
    chosen = with_teacher(get_preset("faces"), file, "", "half")
    assert read(config_of(chosen, "teacher")) is not None


def test_the_notebook_knows_what_it_is_passed():
    known = declared(paths.root() / "notebooks" / "06_faces.ipynb")
    assert {"teacher_weights", "teacher_model", "teacher_statistics", "seeds"} <= set(known)


MISTAKES = [
    (("reproduce", "--preset", "quick", "--train-data", "lfw"), "preset quick is not made for lfw"),
    (("reproduce", "--preset", "faces", "--data", "glyphs"), "preset faces is not made for glyphs"),
    (("reproduce", "--teacher-weights", "nowhere.pth"), "there is no weights file nowhere.pth"),
    (("reproduce", "--preset", "quick", "--teacher-weights", "x"), "train their own teacher"),
    (("reproduce", "--preset", "faces", "--teacher-model", "resnet50"), "needs its weights file"),
    (("reproduce", "--train-data", "lfw@huge"), "cannot read the data set 'lfw@huge'"),
    (("reproduce", "--preset", "faces", "--notebooks", "42"), "there is no notebook 42"),
    (("reproduce", "--preset", "faces", "--notebooks", "6"), "there is no notebook 6"),
    (("work", "--teacher-weights", "nowhere.pth"), "there is no weights file nowhere.pth"),
    (("queue", "--preset", "faces", "--teacher-weights", "nowhere.pth"), "no weights file"),
    (("work", "--preset", "faces", "--study", "table1"), "study table1 has no arm in preset faces"),
    (("work", "--preset", "faces", "--arm", "student"), "unknown arm 'student'"),
    (("work", "--preset", "cpu", "--data", "lfw"), "preset cpu is not made for lfw"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "complaint"), MISTAKES, ids=[" ".join(m[0]) for m in MISTAKES]
)
def test_a_mistake_is_one_line_and_code_2(horkd, arguments, complaint):
    code, out, err = horkd(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("horkd: ")
    assert err.count("\n") == 1
    assert complaint in err


def test_wrong_statistics_are_one_line(horkd, file):
    for command in ("reproduce", "queue", "work"):
        code, _, err = horkd(command, "--preset", "faces", "--teacher-weights", str(file),
                             "--teacher-statistics", "mean")  # fmt: skip
        assert code == 2
        assert err == (
            "horkd: unknown statistics 'mean': choose from imagenet, half, or give means and "
            "deviations as m,m,m/s,s,s\n"
        )


def test_work_without_the_teacher_is_one_line(horkd, home):
    code, out, err = horkd("work", "--preset", "faces", "--arm", "student 16")
    assert (code, out) == (2, "")
    last = err.replace("\r", "\n").strip().splitlines()[-1]
    assert last.startswith("horkd: the weights 631c2db53a7de2d9 of mobilefacenet are not imported")
    assert last.endswith("give their file with --teacher-weights")


def test_the_queue_of_a_teachers_file(horkd, small_faces, file, home):
    """It imports nothing: that is for who trains."""
    arms = ("--arm", "teacher", "--arm", "student 8")
    asked = ("queue", "--preset", "faces", "--teacher-weights", str(file), *arms, "--all",
             "--device", "cpu")  # fmt: skip
    code, out, err = horkd(*asked)
    assert (code, err) == (0, "")
    first, second, last = out.splitlines()
    assert first.split()[:4] == ["0", "s", "faces", "teacher"]
    assert "faces       student 8" in second
    assert last.startswith("2 of 2 runs missing, about ")
    assert not paths.runs_dir().exists()
    with_teacher(get_preset("faces"), file)
    out = horkd(*asked)[1]
    assert out.split()[:2] == ["done", "faces"]
    assert out.splitlines()[-1].startswith("1 of 2 runs missing, about ")


def notebooks(folder: Path, *names: str) -> Path:
    """Notebooks that set what every one has to, and do nothing."""
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("papermill")
    folder.mkdir()
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    for name in names:
        cell = nbformat.v4.new_code_cell(
            'preset: str = ""\ndata: str = ""\nout: str = ""\nteacher_weights: str = ""\n',
            metadata={"tags": ["parameters"]},
        )
        book = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
        nbformat.write(book, folder / f"{name}.ipynb")
    return folder


class Ran(list):
    """Runs no notebook, and keeps which it was asked for, with their parameters."""

    def __call__(self, notebook, out) -> dict:
        self.append((notebook.name, dict(notebook.parameters)))
        return {"inputs": notebook.digest, "seconds": 0.0, "files": []}


ALL = ("00_tour", "02_two_stage_transfer", "06_faces")


def reproduce(ran: Ran, *arguments, **options):
    return reproduce_.reproduce(*arguments, **options, run=ran)


def test_presets_of_faces_have_one_notebook(tmp_path):
    ran, folder = Ran(), notebooks(tmp_path / "notebooks", *ALL)
    given = {"teacher_weights": "/weights"}
    result = reproduce(ran, "faces", parameters=given, out=tmp_path / "out", notebooks=folder)
    assert result.done == ("06_faces",)
    (name, parameters), = ran  # fmt: skip
    assert name == "06_faces"
    assert parameters["teacher_weights"] == "/weights"
    assert (parameters["preset"], parameters["data"]) == ("faces", "lfw")
    ran.clear()
    reproduce(ran, "quick", out=tmp_path / "quick", notebooks=folder)
    assert [name for name, _ in ran] == [ALL[1], ALL[0], ALL[2]]


def test_the_papers_preset_has_it_as_well(tmp_path):
    ran, folder = Ran(), notebooks(tmp_path / "notebooks", *ALL)
    reproduce(ran, "faces-paper", out=tmp_path / "out", notebooks=folder)
    assert [name for name, _ in ran] == ["06_faces"]
    chosen = get_preset(ran[0][1]["preset"], ran[0][1]["data"])  # as the notebook does
    assert chosen == PAPER
    reproduce(ran, chosen.name, chosen.data, out=tmp_path / "out", notebooks=folder)


def test_numbers_are_names_of_notebooks(tmp_path):
    ran, folder = Ran(), notebooks(tmp_path / "notebooks", *ALL)
    only = ["06", "00_tour"]
    reproduce(ran, "quick", only=only, out=tmp_path / "out", notebooks=folder)
    assert [name for name, _ in ran] == ["00_tour", "06_faces"]
    ran.clear()
    reproduce(ran, "faces", only=["02"], out=tmp_path / "faces", notebooks=folder)
    assert [name for name, _ in ran] == ["02_two_stage_transfer"]  # what is asked for by name
    with pytest.raises(HorkdError, match="there is no notebook 07, 6; there are: 00_tour, ") as e:
        reproduce(ran, "faces", only=["06", "07", "6"], out=tmp_path / "new", notebooks=folder)
    tiny.one_line(e)
    assert not (tmp_path / "new").exists()


def test_a_folder_without_the_notebook_of_faces(tmp_path):
    ran, folder = Ran(), notebooks(tmp_path / "notebooks", "00_tour")
    with pytest.raises(HorkdError, match=r"no notebook in .* shows runs of preset faces"):
        reproduce(ran, "faces", out=tmp_path / "out", notebooks=folder)


# People to find -----------------------------------------------------------------------------------


def check_search(search, share=Fraction(4, 5)) -> None:
    """Gallery and probes are disjoint, of the same subjects, and split as they should be."""
    parts = [set(part.tolist()) for part in (search.gallery, search.probes, search.unknown)]
    assert sum(map(len, parts)) == len(set.union(*parts))
    people = search.labels[search.gallery].unique()
    assert torch.equal(people, search.labels[search.probes].unique())
    assert not torch.isin(search.labels[search.unknown], people).any()
    for person in people:
        own = int((search.labels[search.gallery] == person).sum())
        asked = int((search.labels[search.probes] == person).sum())
        assert own == min(ceil(share * (own + asked)), own + asked - 1)


def test_characters_to_find():
    data = load_dataset("glyphs", 8)
    search = data.protocol.search
    check_search(search)
    assert len(search.labels[search.gallery].unique()) == 30
    each = int((data.unseen.labels == 0).sum())
    assert len(search.unknown) == 10 * each
    assert len(search.gallery) == 30 * ceil(each * Fraction(4, 5))
    assert search.what == "30 characters never trained on"
    assert len(search.images) == len(data.unseen) == 40 * each
    assert torch.equal(data.protocol.search.gallery, search.gallery)
    result = IDENTIFICATION(Asked(network(), data, Degradation(8)))
    assert (result["subjects"], result["gallery"]) == (30, len(search.gallery))
    assert 0 <= result["rank5_error"] <= result["rank1_error"] <= 100
    assert [row["far"] for row in result["dir"]] == [0.1, 0.01]
    assert json.loads(json.dumps(result)) == result


def test_identification_is_what_its_features_say():
    """Rank-1 by hand, with the gallery at full resolution and the probes small."""
    data = load_dataset("glyphs", 8)
    search, net = data.protocol.search, network()
    result = IDENTIFICATION(Asked(net, data, Degradation(16), Degradation(32)))
    gallery = predict_.embed(net, search.images[search.gallery], data, Degradation(32)).double()
    probes = predict_.embed(net, search.images[search.probes], data, Degradation(16)).double()
    best = (probes @ gallery.T).argmax(1)
    wrong = search.labels[search.gallery][best] != search.labels[search.probes]
    assert result["rank1_error"] == pytest.approx(100 * wrong.double().mean().item(), abs=0.2)


@pytest.mark.parametrize("fold", [1, 4, 10])
def test_people_of_the_held_out_fold(home, fold):
    data = load_dataset(f"lfw-{fold}@16")
    search = data.protocol.search
    check_search(search)
    names = {data.whole.classes[label] for label in search.labels[search.gallery].tolist()}
    assert names == {name_of(fold - 1, person) for person in range(PEOPLE)}
    assert len(search.gallery) == PEOPLE * (PHOTOS - 1)
    assert len(search.probes) == PEOPLE
    assert len(search.unknown) == 0
    used = torch.cat([search.gallery, search.probes])
    assert not torch.isin(used, data.train.ids).any()
    assert search.what == "LFW, 6 people of the held-out fold"
    result = IDENTIFICATION(Asked(network(), data, Degradation(8)))
    assert (result["subjects"], result["probes"]) == (PEOPLE, PEOPLE)
    assert "dir" not in result


def photo(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    """An empty folder of data sets."""
    monkeypatch.setenv("HORKD_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_people_with_one_photo_are_unknown(own):
    lfw_tree(own)
    single = own / "lfw" / "lfw-deepfunneled" / "Single"
    photo(single / "Single_0001.jpg", face(11, 0, 1))
    people = own / "lfw" / "people.txt"
    lines = people.read_text().splitlines()
    lines[1:2] = [str(PEOPLE + 1), "Single\t1"]  # of the first fold
    people.write_text("\n".join(lines) + "\n")
    data = load_dataset("lfw-1@16")
    search = data.protocol.search
    check_search(search)
    assert [data.whole.classes[label] for label in search.labels[search.unknown]] == ["Single"]
    assert search.what == "LFW, 6 people of the held-out fold"
    result = IDENTIFICATION(Asked(network(), data, Degradation(8)))
    assert [row["n_unknown"] for row in result["dir"]] == [1, 1]
    trained = load_dataset("lfw-2@16").protocol.search
    assert len(trained.unknown) == 0  # Single is trained on there


def test_all_of_lfw_has_nobody_to_find(home):
    with pytest.raises(HorkdError, match="has no subjects that are never trained on") as error:
        IDENTIFICATION(Asked(network(), load_dataset("lfw@16"), Degradation(16)))
    tiny.one_line(error)


def test_people_of_view_1(home):
    data = load_dataset("lfw-dev@16")
    search = data.protocol.search
    check_search(search)
    assert not torch.isin(torch.cat([search.gallery, search.probes]), data.train.ids).any()


SUBJECTS = 180


def uccs_tree(root: Path, subjects: int, photos: int = 3) -> None:
    """Photos of a crowd: every subject in each, at a place of its own, and a stranger."""
    rows = []
    side, columns = 8, 16
    for number in range(photos):
        height = side * (-(-(subjects + 1) // columns))
        crowd = np.zeros((height, side * columns, 3), np.uint8)
        for subject in range(subjects + 1):
            y, x = divmod(subject, columns)
            pixels = face(subject, 0, number, 5)
            place = (slice(y * side, (y + 1) * side), slice(x * side, (x + 1) * side))
            crowd[place] = np.pad(pixels, ((0, 3), (0, 3), (0, 0)), mode="edge")
            name = subject + 1 if subject < subjects else -1
            rows.append((f"{number}.png", len(rows), name, x * side, y * side, side, side))
        photo(root / "uccs" / "validation_images" / f"{number}.png", crowd)
    header = "FILE,FACE_ID,SUBJECT_ID,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT"
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    (root / "uccs" / "validation.csv").write_text("\n".join(lines) + "\n")


def uccs_shown() -> list[set[tuple]]:
    """Gallery, probes and unknown faces: subject and pixels of each."""
    search = load_dataset("uccs@8").protocol.search
    names = (*search.subjects, "nobody")  # -1 is the last
    return [
        {(names[search.labels[i]], search.images[i].numpy().tobytes()) for i in part.tolist()}
        for part in (search.gallery, search.probes, search.unknown)
    ]


@pytest.mark.parametrize("strangers", [1000, pytest.param(2)])
def test_the_order_of_rows_of_uccs_changes_nothing(own, monkeypatch, strangers):
    monkeypatch.setattr(face_data, "STRANGERS", strangers)
    uccs_tree(own, SUBJECTS + 3)
    first = uccs_shown()
    assert len(first[2]) == min(3, strangers)
    path = own / "uccs" / "validation.csv"
    header, *rows = path.read_text().splitlines()
    for seed in range(3):
        mixed = [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]
        path.write_text("\n".join([header, *mixed]) + "\n")
        assert uccs_shown() == first


def test_uccs(own):
    uccs_tree(own, SUBJECTS + 3)
    data = load_dataset("uccs@8")
    assert len(data.train) == 0
    assert len(data.test) == SUBJECTS * 3 + 3  # three photos of a stranger
    search = data.protocol.search
    check_search(search)
    assert (len(search.gallery), len(search.probes)) == (2 * SUBJECTS, SUBJECTS)
    assert search.labels[search.unknown].tolist() == [-1] * 3
    assert len(search.subjects) >= SUBJECTS
    assert search.what == "UCCS, 180 subjects"
    result = IDENTIFICATION(Asked(network(), data, Degradation(8)))
    assert (result["subjects"], result["gallery"], result["probes"]) == (180, 360, 180)
    assert result["rank1_error"] < 90  # patterns differ, noise is small
    assert [row["n_unknown"] for row in result["dir"]] == [3, 3]
    with pytest.raises(HorkdError, match="verification needs faces or the embedded set"):
        VERIFICATION(Asked(network(), data, Degradation(8)))


def test_uccs_with_too_few_subjects(own):
    uccs_tree(own, 5)
    with pytest.raises(HorkdError, match="cannot draw 180 subjects: 5 have two images") as error:
        load_dataset("uccs@8")
    tiny.one_line(error)


def tinyface_tree(root: Path, subjects: int, distractors: int) -> None:
    home = root / "tinyface" / "Testing_Set"
    for subject in range(subjects):
        photo(home / "Gallery_Match" / f"{subject + 7}_1.png", face(subject, 0, 1, 20))
        photo(home / "Gallery_Match" / f"{subject + 7}_2.png", face(subject, 0, 2, 20))
        photo(home / "Probe" / f"{subject + 7}_3.png", face(subject, 0, 3, 20))
    for number in range(distractors):
        photo(home / "Gallery_Distractor" / f"{number}.png", face(50 + number, 0, 1, 20))


def test_tinyface(own):
    tinyface_tree(own, 6, 4)
    data = load_dataset("tinyface@16")
    assert len(data.train) == 0
    search = data.protocol.search
    assert (len(search.gallery), len(search.probes), len(search.unknown)) == (16, 6, 0)
    assert (search.labels[search.gallery] >= 6).sum() == 4, "distractors are nobody of the six"
    assert sorted(search.labels[search.probes].tolist()) == list(range(6))
    result = IDENTIFICATION(Asked(network(), data, Degradation(16)))
    assert (result["subjects"], result["gallery"], result["probes"]) == (6, 16, 6)
    assert result["what"] == "TinyFace, gallery with distractors"
    small = IDENTIFICATION(Asked(network(), data, Degradation(8), Degradation(16)))
    assert 0 <= small["rank5_error"] <= small["rank1_error"] <= 100
    with pytest.raises(HorkdError, match="verification needs faces or the embedded set"):
        VERIFICATION(Asked(network(), data, Degradation(8)))


def test_tinyface_without_distractors(own):
    tinyface_tree(own, 6, 0)
    result = IDENTIFICATION(Asked(network(), load_dataset("tinyface@16"), Degradation(16)))
    assert result["gallery"] == 12


def test_every_distractor_of_tinyface_can_come_before_the_right_one(own):
    """Six people, each of whose probes is a picture that eight distractors show as well."""
    tinyface_tree(own, 6, 0)
    home = own / "tinyface" / "Testing_Set"
    for number in range(8):
        photo(home / "Gallery_Distractor" / f"{number}.png", face(0, 0, 3, 20))
    for subject in range(6):
        photo(home / "Probe" / f"{subject + 7}_3.png", face(0, 0, 3, 20))
    result = IDENTIFICATION(Asked(network(), load_dataset("tinyface@16"), Degradation(16)))
    assert result["rank5_error"] == 100


def test_xqlfw(own):
    lfw_tree(own)
    home = (own / "lfw").rename(own / "xqlfw")
    (home / "lfw-deepfunneled").rename(home / "lfw_original_imgs_min_qual0.85variant11")
    (home / "pairs.txt").rename(home / "xqlfw_pairs.txt")
    data = load_dataset("xqlfw@16")
    assert isinstance(data, Dataset)
    assert len(data.train) == 0
    assert len(data.test) == FOLDS * PEOPLE * PHOTOS
    result = VERIFICATION(Asked(network(), data, Degradation(8)))
    assert result["n"] == 4 * FOLDS
    assert result["folds"] == list(range(FOLDS))
    flipped = VERIFICATION(Asked(network(), data, Degradation(8, upsample=True), flip=True))
    assert flipped["n"] == 4 * FOLDS
    with pytest.raises(HorkdError, match="has no subjects that are never trained on"):
        IDENTIFICATION(Asked(network(), data, Degradation(8)))


@pytest.mark.parametrize("name", ["xqlfw", "uccs", "tinyface"])
def test_sets_that_are_not_there(own, name):
    with pytest.raises(HorkdError, match=name) as error:
        load_dataset(name)
    tiny.one_line(error)
    assert find(name).left_out(f"{name}@16")
    (own / name).mkdir()
    assert not find(name).left_out(f"{name}@16")
    assert not find("umdfaces").left_out("umdfaces")  # without it pages are an error


def test_looks_of_a_finished_teacher_are_kept(file, home):
    """Verification and identification of all that a page asks, read at the second time."""
    preset = with_teacher(small(), file)
    run = read(config_of(preset, "teacher"))
    looks = [Look(task, "lfw-1@16", Degradation(8, upsample=True))
             for task in ("verification", "identification")]  # fmt: skip
    settings = Settings("cpu", "fp32", channels_last="off", compile="off", progress=False)
    first = looks_.ask(run, looks, settings)
    assert first[0]["n"] == 4
    assert first[1]["subjects"] == PEOPLE
    content = storage.load_json(run.folder / "open_set.json")
    assert known_looks(content) == dict(zip(looks, first, strict=True))
    before = times(run.folder.parent)
    assert looks_.ask(run, looks[::-1], settings) == first[::-1]
    assert times(run.folder.parent) == before, "computed again"
