"""The command line: a user's mistake is one line on standard error and exit code 2."""

import os
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

from horkd import cli, presets, runs, storage
from horkd.models import load_network
from horkd.presets import TWO_STAGE, get_preset, two_stage

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def horkd(monkeypatch, capsys):
    """Call the command line in this process: (exit code, standard output, standard error)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["horkd", *arguments])
        with warnings.catch_warnings():  # restores what main does to warnings
            warnings.simplefilter("always")
            with pytest.raises(SystemExit) as stopped:
                cli.main()
        return stopped.value.code or 0, *capsys.readouterr()

    return call


def assert_one_line(err: str, complaint: str) -> None:
    assert err.startswith("horkd: "), err
    assert err.count("\n") == 1, err
    assert complaint in err
    assert "Traceback" not in err


MISTAKES = [
    (["train", "--preset", "huge"], "unknown preset 'huge': choose from smoke, quick"),
    (["train", "--data", "mnist"], "unknown data set 'mnist': choose from glyphs, cifar100"),
    (["train", "--arm", "pupil"], "unknown arm 'pupil': choose from teacher, assistant"),
    (["train", "--seeds", "-2"], "the number of seeds must be 1 or more, got -2"),
    (["train", "--seeds", "many"], "'--seeds'"),
    (["train", "--colour", "red"], "--colour"),
    (["train", "--preset", "smoke", "--device", "tpu9000"], "cannot use device 'tpu9000'"),
    (["train", "--preset", "smoke", "--precision", "fp8"], "'fp8': choose from auto, fp32, bf16"),
    (["train", "--preset", "smoke", "--compile", "yes"], "'yes': choose from auto, on, off"),
    (["fly"], "fly"),
    (["export"], "out"),
    (["export", "folder", "--arm", "pupil"], "unknown arm 'pupil'"),
    (["export", "folder", "--preset", "smoke"], "teacher of preset smoke is not trained"),
    (["reproduce", "--preset", "huge"], "unknown preset 'huge'"),
    (["reproduce", "--data", "mnist"], "unknown data set 'mnist'"),
    (["reproduce", "--only", "77_nothing"], "77_nothing"),
    (["reproduce", "-p", "nonsense=1"], "nonsense"),
    (["reproduce", "-p", "nonsense"], "cannot read the parameter 'nonsense': write NAME=VALUE"),
]


@pytest.mark.parametrize(
    ("arguments", "complaint"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES]
)
def test_a_mistake_is_one_line_and_code_2(horkd, monkeypatch, arguments, complaint):
    tiny.patch(monkeypatch)
    monkeypatch.setattr(runs, "_finished", lambda *_: None)
    code, out, err = horkd(*arguments)
    assert code == 2
    assert out == ""
    assert_one_line(err, complaint)


def environment(tmp_path: Path) -> dict[str, str]:
    return {
        **os.environ,
        "HORKD_RUNS": str(tmp_path / "runs"),
        "HORKD_DATA": "",
        "HORKD_CACHE": str(tmp_path / "cache"),
    }


def test_a_mistake_in_a_process_of_its_own(tmp_path):
    """What a user sees: nothing of Python's."""
    result = subprocess.run(
        [sys.executable, "-m", "horkd", "train", "--preset", "huge"],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert_one_line(result.stderr, "unknown preset 'huge'")
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_ends_with_one_line_and_code_130(tmp_path):
    """Sent while the smoke preset is at work; nothing half-written stays."""
    process = subprocess.Popen(
        [sys.executable, "-m", "horkd", "train", "--preset", "smoke", "--arm", "teacher"],
        cwd=ROOT,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not list((tmp_path / "runs").glob(".locks/*.lock")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    last = err.replace("\r", "\n").strip().rpartition("\n")[2]
    assert last == "horkd: interrupted; the same command goes on from the last saved epoch"
    left = {p.name for p in (tmp_path / "runs").rglob("*") if p.is_file()}
    assert all(name.endswith(".lock") for name in left), left


def test_ctrl_c_in_this_process(horkd, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "run", interrupt)
    code, out, err = horkd("train", "--preset", "smoke")
    assert code == 130
    assert_one_line(err, "interrupted; the same command goes on")
    assert out == ""


def test_missing_data_is_one_line(horkd, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)
    monkeypatch.setenv("HORKD_DATA", str(tmp_path))
    code, out, err = horkd("train", "--preset", "cpu")
    assert code == 2
    assert out == ""
    assert_one_line(err, f"CIFAR-100 is not in {tmp_path} and could not be downloaded")


def test_a_resolution_above_the_source_is_one_line(horkd, monkeypatch):
    """As a study would ask for it: a preset whose students see 64 pixels."""
    tiny.patch(monkeypatch)
    smoke = replace(get_preset("smoke"), low=64, recipe=tiny.RECIPE, teacher_recipe=tiny.RECIPE)
    monkeypatch.setitem(presets.PRESETS, "smoke", smoke)
    code, _, err = horkd("train", "--preset", "smoke", "--arm", "student alone")
    assert code == 2
    assert "horkd: resolution 64 is above the 32 pixels of glyphs\n" in err
    monkeypatch.setitem(presets.PRESETS, "smoke", replace(smoke, low=0))
    code, _, err = horkd("train", "--preset", "smoke", "--arm", "student alone")
    assert code == 2
    assert_one_line(err, "resolution must be at least 1 pixel, got 0")


def test_a_full_disk_is_one_line(horkd, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    tiny.patch(monkeypatch)
    small_smoke(monkeypatch)
    monkeypatch.setattr(storage, "save_file", full)
    code, _, err = horkd("train", "--preset", "smoke", "--device", "cpu")
    assert code == 2
    last = err.replace("\r", "\n").strip().splitlines()[-1]
    assert last.startswith("horkd: could not write ")
    assert last.endswith("the disk is full; nothing was changed")


def small_smoke(monkeypatch) -> None:
    recipe = replace(tiny.RECIPE, epochs=1)
    smoke = replace(
        get_preset("smoke"),
        teacher="resnet8x0.5",
        compact="resnet8x0.25",
        low=8,
        recipe=recipe,
        teacher_recipe=recipe,
    )
    monkeypatch.setitem(presets.PRESETS, "smoke", smoke)


def test_train_list_read_and_export(horkd, monkeypatch, tmp_path):
    tiny.patch(monkeypatch)
    small_smoke(monkeypatch)
    monkeypatch.setenv("HORKD_RUNS", str(tmp_path / "runs"))
    code, out, _ = horkd("train", "--preset", "smoke", "--list")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["missing"] * len(TWO_STAGE)
    assert not list(tmp_path.rglob("record.json"))

    arguments = ("train", "--preset", "smoke", "--device", "cpu", "--precision", "fp32")
    code, out, _ = horkd(*arguments, "--arm", "student")
    assert code == 0
    (line,) = out.splitlines()
    student = two_stage(get_preset("smoke"))["student"]
    record = runs.read(student).record
    assert f"test top-1 {record['results']['test']['top1']:.2f} %" in line
    assert student.name in line

    monkeypatch.setattr(runs, "_train", None)  # from here on everything is read
    code, out, _ = horkd("train", "--preset", "smoke", "--list")
    states = {line[9:25].strip(): line.split()[0] for line in out.splitlines()}
    assert [arm for arm, s in states.items() if s == "there"] == ["teacher", "assistant", "student"]
    assert horkd(*arguments, "--arm", "student")[1].splitlines() == [line]

    monkeypatch.setattr(runs, "load_dataset", tiny.load)
    code, out, _ = horkd("export", str(tmp_path / "out"), "--preset", "smoke")
    assert code == 0
    files = {p.name for p in (tmp_path / "out").iterdir()}
    assert files == {"teacher.safetensors", "assistant.safetensors", "student.safetensors"}
    exported, metadata = storage.load_tensors(tmp_path / "out" / "student.safetensors")
    assert metadata["key"] == student.key
    assert metadata["degradation"]["size"] == 8
    assert metadata["classes"] == list(tiny.data().train.classes)
    assert metadata["test"] == record["results"]["test"]
    assert not any("projector" in name or "centers" in name for name in exported)
    network, whole = load_network(tmp_path / "out" / "student.safetensors"), runs.read(student)
    for p, q in zip(network.parameters(), whole.network().parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-3, rtol=1e-3)


def test_help_names_every_command(horkd):
    code, out, _ = horkd("--help")
    assert code == 0
    for command in ("train", "reproduce", "export"):
        assert command in out
