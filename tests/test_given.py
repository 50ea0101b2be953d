"""Networks that are distilled from as they lie in a file: 8 bits, their digest in the key."""

from dataclasses import replace

import pytest
import tiny
import torch

from horkd import paths, storage
from horkd.cli import main
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab import runner, store
from horkd.lab.config import RunConfig
from horkd.lab.pace import Pace, estimates
from horkd.lab.store import Run, export
from horkd.networks.network import Network, load_network
from horkd.networks.weights import digest
from horkd.predict import predict
from horkd.studies.classification.task import frozen_of
from horkd.studies.presets import get_preset
from horkd.studies.study import configure, queue, study
from horkd.studies.teacher import with_teacher

EVERYTHING = {
    "orders": (("1", 1.0), ("2", 25.0), ("3", 50.0), ("C", 1.0)),
    "baselines": (("kd", 0.9), ("kd_standardised", 1.0)),
}


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    tiny.patch(monkeypatch)
    monkeypatch.setenv("HORKD_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("HORKD_REPORTS", str(tmp_path / "reports"))


@pytest.fixture
def trained() -> Run:
    return runner.run(tiny.teacher(), tiny.SETTINGS)


def exported(trained: Run, bits: int = 8):
    path = paths.reports_dir() / "a-preset" / "models" / "teacher.safetensors"
    return path, export(trained, path, bits, tiny.SETTINGS)


def given(path, **changes) -> RunConfig:
    return RunConfig(
        "resnet8x0.5", Degradation(16), weights=digest(path), classifier=True, **changes
    )


def test_what_eight_bits_cost_is_measured_and_written_down(trained):
    path, results = exported(trained)
    assert results["test"] == trained.record["results"]["test"]
    header = storage.load_tensors(path)[1]
    assert header["rounded"] == results["rounded"]
    assert header["trained_in"] == trained.trained_in
    data, network = tiny.data(), load_network(path)
    hits = [
        int(predict(network, image[None], data, Degradation(16)).logits.argmax())
        for image in data.test.images
    ]
    right = sum(a == b for a, b in zip(hits, data.test.labels.tolist(), strict=True))
    assert results["rounded"]["top1"] == pytest.approx(100 * right / len(hits))


def test_other_files_are_not_tested_again(trained):
    looked = []
    with tiny.before(Network, lambda *_: looked.append(1)):
        assert exported(trained, 16)[1] == {"test": trained.record["results"]["test"]}
    assert not looked


def test_a_student_learns_from_the_very_file(trained):
    """Its classifier included: by softened answers, too."""
    path, _ = exported(trained)
    frozen = given(path)
    student = runner.run(tiny.student(frozen=frozen, **EVERYTHING), tiny.SETTINGS)  # imports it
    imported = store.read(frozen)
    assert imported.record["results"]["test"] == storage.load_tensors(path)[1]["rounded"]
    file = load_network(path).state_dict()
    assert all(torch.equal(t, file[n]) for n, t in imported.network().state_dict().items())
    assert student.record["frozen_files"] == imported.record["files"]
    assert student.record["results"]["agreement"]["kl"] > 0
    assert {"kd", "order_c"} <= student.record["history"][0]["terms"].keys()
    again = tiny.student(frozen=tiny.teacher(), **EVERYTHING)
    assert again.key != student.config.key


def test_the_key_is_that_of_the_weights(trained):
    path, _ = exported(trained)
    key = given(path).key
    assert given(path).key == key
    export(trained, path, 16)
    assert given(path).key != key


def test_a_file_that_is_nowhere_is_one_line(trained):
    path, _ = exported(trained)
    frozen = given(path)
    path.unlink()
    with pytest.raises(HorkdError, match="are not imported yet, and no report has"):
        runner.run(frozen, tiny.SETTINGS)


def test_a_file_of_another_network_is_one_line(trained):
    path, _ = exported(trained)
    with pytest.raises(HorkdError, match=r"holds resnet8x0\.5 with 6 classes"):
        runner.run(replace(given(path), model="resnet8x0.25"), tiny.SETTINGS)
    assert not list((paths.runs_dir()).glob("*/record.json"))[1:]


def test_a_classifier_without_weights_is_refused():
    with pytest.raises(HorkdError, match="classifier= is about given weights"):
        RunConfig("resnet8", Degradation(16), classifier=True)


@pytest.fixture
def preset():
    recipe = replace(tiny.RECIPE, epochs=1)
    return replace(
        get_preset("smoke"), teacher="resnet8x0.5", compact="resnet8x0.25", low=8, per_class=None,
        recipe=recipe, teacher_recipe=recipe,
    )  # fmt: skip


def test_a_preset_distils_from_given_networks_and_trains_the_rest(preset, trained):
    from_arm = configure(preset, study(preset, "table1")["KD"])
    path, _ = exported(runner.run(from_arm.frozen, tiny.SETTINGS))
    with_file = replace(preset, given=(("teacher", digest(path)),))
    kd = configure(with_file, study(preset, "table1")["KD"])
    assert (kd.frozen.weights, kd.frozen.classifies) == (digest(path), True)
    assert replace(kd, frozen=None, baselines=()) == replace(from_arm, frozen=None, baselines=())
    teacher = study(preset, "two_stage")["teacher"]
    assert configure(with_file, teacher) == configure(preset, teacher)  # can still be trained
    assert queue(with_file)[-1].arm == "teacher"  # but nobody waits for it
    times = estimates(queue(with_file)[:1], Pace({("a", 8): 1.0}, "a test"), True)
    assert times.get(kd.frozen.key, 0.0) == 0.0  # nothing is trained
    student = configure(with_file, study(preset, "two_stage")["student"])
    assert student.frozen.frozen == kd.frozen
    assert runner.run(kd, tiny.SETTINGS).record["results"]["agreement"]


def test_a_teacher_of_ones_own_is_given_by_its_file(preset, trained, monkeypatch, tmp_path):
    file = tmp_path / "mine.safetensors"
    frozen = configure(preset, study(preset, "two_stage")["teacher"])
    export(runner.run(frozen, tiny.SETTINGS), file, 8, tiny.SETTINGS)
    chosen = with_teacher(preset, str(file))
    assert chosen.given == (("teacher", digest(file)),)
    assert store.read(frozen_of(chosen, "teacher")) is not None
    for wrong in ({"model": "resnet14"}, {"statistics": "half"}):
        with pytest.raises(HorkdError, match="says itself what it is"):
            with_teacher(preset, str(file), **wrong)


def test_the_command_line_writes_eight_bits(trained, monkeypatch, capsys, tmp_path):
    finished = {"teacher": trained}
    monkeypatch.setattr(store, "read", lambda config: finished.get("teacher"))
    with pytest.raises(SystemExit) as ended:
        main(["export", str(tmp_path / "out"), "--arm", "teacher", "--bits", "8"])
    assert ended.value.code == 0
    assert "% with 8 bits" in capsys.readouterr().out
    assert load_network(tmp_path / "out" / "teacher.safetensors").spec.name == "resnet8x0.5"


def test_another_number_of_bits_is_one_line(trained, tmp_path):
    with pytest.raises(HorkdError, match="bits is 4"):
        export(trained, tmp_path / "x.safetensors", 4)
    assert not (tmp_path / "x.safetensors").exists()
