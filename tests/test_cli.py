"""The command line: a user's mistake is one line on standard error and exit code 2."""

import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
import watch

from app.bench import load_models
from horkd import storage
from horkd.errors import HorkdError, warnings_as_lines
from horkd.lab import runner
from horkd.lab.store import read
from horkd.networks.network import load_network
from horkd.studies.presets import get_preset, get_presets
from horkd.studies.results import Live, live
from horkd.studies.study import configure, queue, study
from horkd.studies.task import registered, tasks

ROOT = Path(__file__).resolve().parent.parent


def assert_one_line(err: str, complaint: str) -> None:
    assert err.startswith("horkd: "), err
    assert err.count("\n") == 1, err
    assert complaint in err
    assert "Traceback" not in err


MISTAKES = [
    (["work", "--preset", "huge"], "unknown preset 'huge': choose from smoke, quick"),
    (["work", "--data", "mnist"], "unknown data set 'mnist': choose from glyphs, cifar100"),
    (["work", "--study", "table9"], "unknown study 'table9': choose from campaign, two_stage"),
    (["work", "--arm", "pupil"], "unknown arm 'pupil': choose from FitNet, KD"),
    (["work", "--study", "plus"], "study plus has no arm in preset quick"),
    (["work", "--seeds", "-2"], "the number of seeds must be 1 or more, got -2"),
    (["work", "--seeds", "many"], "'--seeds'"),
    (["work", "--minutes", "-1"], "minutes must be positive, got -1"),
    (["work", "--minutes", "nan"], "minutes must be positive, got nan"),
    (["work", "--colour", "red"], "--colour"),
    (["work", "--preset", "smoke", "--device", "tpu9000"], "cannot use device 'tpu9000'"),
    (["work", "--preset", "smoke", "--precision", "fp8"], "'fp8': choose from auto, fp32, bf16"),
    (["work", "--preset", "smoke", "--compile", "yes"], "'yes': choose from auto, on, off"),
    (["queue", "--arm", "pupil"], "unknown arm 'pupil': choose from FitNet, KD"),
    (["queue", "--preset", "smoke", "--device", "tpu9000"], "cannot use device 'tpu9000'"),
    (["fly"], "fly"),
    (["export"], "out"),
    (["export", "folder", "--arm", "pupil"], "unknown arm 'pupil'"),
    (["export", "~nobody-of-this-name/x"], "~nobody-of-this-name/x: no home folder of that user"),
    (["work", "--teacher-weights", "~nobody-of-this-name/x"], "no home folder of that user"),
    (["export", "folder", "--preset", "smoke"], "teacher of preset smoke is not trained"),
    (["reproduce", "--preset", "huge"], "unknown preset 'huge'"),
    (["reproduce", "--only", "77_nothing"], "77_nothing"),
    (["reproduce", "-p", "nonsense=1"], "nonsense"),
    (["reproduce", "-p", "nonsense"], "cannot read the parameter 'nonsense': write NAME=VALUE"),
]


@pytest.mark.parametrize(
    ("arguments", "complaint"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES]
)
def test_a_mistake_is_one_line_and_code_2(horkd, monkeypatch, tmp_path, arguments, complaint):
    tiny.patch(monkeypatch)
    monkeypatch.setenv("HORKD_RUNS", str(tmp_path))
    code, out, err = horkd(*arguments)
    assert code == 2
    assert out == ""
    assert_one_line(err, complaint)


DATA = [
    ("glyphs@64", "", "glyphs has images of one size alone: leave out @64"),
    ("glyphs@", "", "glyphs has images of one size alone: leave out @"),
    ("cifar100@16", "cpu", "cifar100 has images of one size alone: leave out @16"),
    ("@64", "", "unknown data set '@64': choose from glyphs, cifar100"),
    ("glyphs-disjoint@64", "metric", "glyphs-disjoint has images of 32 pixels alone"),
    ("lfw-1@abc", "faces", "cannot read the data set 'lfw-1@abc': write NAME@SIZE"),
    ("umdfaces@" + "9" * 5000, "faces-paper", "write NAME@SIZE, SIZE in pixels"),
    ("cub@abc", "metric-paper", "write cub@SIZE"),
    ("folder:", "metric-paper", "write folder:PATH"),
    ("folder:missing@x", "metric-paper", "there is no folder"),
]


@pytest.mark.parametrize("verb", [("queue",), ("work",), ("export", "out"), ("reproduce",)])
@pytest.mark.parametrize(("data", "preset", "complaint"), DATA, ids=[d[:20] for d, _, _ in DATA])
def test_an_odd_name_of_data_is_one_line(
    horkd, monkeypatch, tmp_path, verb, data, preset, complaint
):
    for name in ("HORKD_RUNS", "HORKD_DATA", "HORKD_REPORTS"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    named = ("--preset", preset) if preset else ()
    code, out, err = horkd(*verb, *named, "--data", data)
    assert (code, out) == (2, "")
    assert_one_line(err, complaint)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seeds", [1001, 2**63, 2**64, 10**30])
@pytest.mark.parametrize("verb", ["queue", "work", "reproduce"])
def test_too_many_seeds_are_one_line(horkd, monkeypatch, tmp_path, verb, seeds):
    monkeypatch.setenv("HORKD_RUNS", str(tmp_path))
    monkeypatch.setenv("HORKD_REPORTS", str(tmp_path))
    code, out, err = horkd(verb, "--seeds", str(seeds))
    assert (code, out) == (2, "")
    assert_one_line(err, f"the number of seeds must be 1000 at most, got {seeds}")


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
        [sys.executable, "-m", "horkd", "work", "--preset", "huge"],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert_one_line(result.stderr, "unknown preset 'huge'")
    assert not (tmp_path / "runs").exists()


def test_a_terminal_that_knows_ascii_only(tmp_path):
    """And not how wide it is. Help has an ellipsis, which becomes a question mark."""
    result = subprocess.run(
        [sys.executable, "-m", "horkd", "queue", "--help"],
        cwd=ROOT,
        env=environment(tmp_path) | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "COLUMNS": "0"},
        capture_output=True,
        encoding="ascii",
    )
    assert result.returncode == 0, result.stderr
    assert "metric, ? (README)" in result.stdout
    assert result.stderr == ""


def test_ctrl_c_ends_with_one_line_and_code_130(tmp_path):
    """Sent while the smoke preset is at work; nothing half-written stays."""
    process = subprocess.Popen(
        [sys.executable, "-m", "horkd", "work", "--preset", "smoke", "--arm", "teacher"],
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
    assert last == "horkd: interrupted; the same command goes on from where it stopped"
    left = {p.name for p in (tmp_path / "runs").rglob("*") if p.is_file()}
    assert all(name.endswith(".lock") for name in left), left


def test_ctrl_c_in_this_process(horkd, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupt)
    code, out, err = horkd("work", "--preset", "smoke")
    assert code == 130
    assert_one_line(err, "interrupted; the same command goes on")
    assert out == ""


def test_missing_data_is_one_line(horkd, monkeypatch, tmp_path):
    monkeypatch.setenv("HORKD_DATA", str(tmp_path))
    with watch.refused(OSError("no network"), "urllib.Request"):
        code, out, err = horkd("work", "--preset", "cpu")
    assert code == 2
    assert out == ""
    assert_one_line(err, f"CIFAR-100 is not in {tmp_path} and could not be downloaded")


def test_a_resolution_above_the_source_is_one_line(horkd, monkeypatch):
    """As a study would ask for it: a preset whose students see 64 pixels."""
    tiny.patch(monkeypatch)
    recipes = {"recipe": tiny.RECIPE, "teacher_recipe": tiny.RECIPE}
    with smoke(low=64, **recipes):
        code, _, err = horkd("work", "--preset", "smoke", "--arm", "student alone")
    assert code == 2
    assert "horkd: resolution 64 is above the 32 pixels of glyphs\n" in err
    with smoke(low=0, **recipes):
        code, _, err = horkd("work", "--preset", "smoke", "--arm", "student alone")
    assert code == 2
    assert_one_line(err, "resolution must be at least 1 pixel, got 0")


def test_a_full_disk_is_one_line(horkd, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    tiny.patch(monkeypatch)
    monkeypatch.setattr(storage, "save_file", full)
    with smoke(**SMALL):
        code, _, err = horkd("work", "--preset", "smoke", "--device", "cpu")
    assert code == 2
    last = err.replace("\r", "\n").strip().splitlines()[-1]
    assert last.startswith("horkd: could not write ")
    assert last.endswith("the disk is full; nothing was changed")


ONE_EPOCH = replace(tiny.RECIPE, epochs=1)
SMALL = {
    "teacher": "resnet8x0.5",
    "compact": "resnet8x0.25",
    "low": 8,
    "recipe": ONE_EPOCH,
    "teacher_recipe": ONE_EPOCH,
}


def smoke(**changes):
    """Within this block preset smoke is another one."""
    task = tasks()["classification"]
    return registered(replace(task, presets=(replace(get_preset("smoke"), **changes),)))


@pytest.fixture
def folder(monkeypatch, tmp_path) -> Iterator[Path]:
    """An empty folder of runs, and a smoke preset of a few steps."""
    tiny.patch(monkeypatch)
    monkeypatch.setenv("HORKD_RUNS", str(tmp_path / "runs"))
    with smoke(**SMALL):
        yield tmp_path / "runs"


def smoke_arm(name: str):
    preset = get_preset("smoke")
    return configure(preset, study(preset, "two_stage")[name])


def states(out: str) -> dict[str, str]:
    """Of the lines of `horkd queue` but the last: what it says of each arm."""
    return {line[23:60].strip(): line[:9].strip() for line in out.splitlines()[:-1]}


SMOKE = ("--preset", "smoke", "--device", "cpu")
TWO_STAGE = (*SMOKE, "--study", "two_stage")
WORK = ("work", *SMOKE, "--precision", "fp32")
LAST = (
    r"(\d+) of (\d+) runs missing, about (\d+ s|\d+ min|[\d.]+ h), judged by ([^;]*)"
    r"(?:; this machine is busy .*)?"
)


def test_queue_lists_what_is_missing_and_does_nothing(horkd, folder):
    code, out, err = horkd("queue", *SMOKE)
    assert (code, err) == (0, "")
    *lines, last = out.splitlines()
    jobs = queue(get_presets("smoke"))
    assert len(lines) == len(jobs)
    for line, job in zip(lines, jobs, strict=True):
        assert line.endswith(f"seed {job.config.seed}  {job.config.name}")
        assert line.split()[2] == job.study
        assert f" {job.arm} " in line
    missing, of, _, source = re.fullmatch(LAST, last).groups()
    assert (int(missing), int(of)) == (len(jobs), len(jobs))
    assert source == "a few steps of each network"
    assert not folder.exists()


def test_queue_of_a_study_an_arm_and_seeds(horkd, folder):
    names = list(study(get_preset("smoke"), "two_stage"))
    assert list(states(horkd("queue", *TWO_STAGE)[1])) == names
    _, out, _ = horkd("queue", *TWO_STAGE, "--arm", "student", "--arm", "teacher", "--seeds", "2")
    assert [line.split("seed ")[0].split()[-1] for line in out.splitlines()[:-1]] == [
        *("teacher", "student", "student")
    ]
    assert [line.split(" seed ")[1][0] for line in out.splitlines()[:-1]] == ["0", "0", "1"]


def test_work_then_queue_then_export(horkd, tmp_path, folder):
    code, out, _ = horkd(*WORK, "--arm", "student", "--minutes", "10")
    assert code == 0
    line, last = out.splitlines()
    assert last == "1 runs done, 0 diverged, 0 missing"
    student = smoke_arm("student")
    record = read(student).record
    assert line.startswith("student, seed 0: test top-1 ")
    assert f"test top-1 {record['results']['test']['top1']:.2f} %" in line
    assert student.name in line

    code, out, _ = horkd("queue", *TWO_STAGE, "--all")
    found = states(out)
    assert list(found) == list(study(get_preset("smoke"), "two_stage"))
    assert [arm for arm, s in found.items() if s == "done"] == ["teacher", "assistant", "student"]
    missing, of, _, source = re.fullmatch(LAST, out.splitlines()[-1]).groups()
    assert (missing, of, source) == ("3", "6", "finished runs")
    _, out, _ = horkd("queue", *TWO_STAGE)
    assert list(states(out)) == ["student alone", "student direct", "assistant alone"]
    code, out, _ = horkd(*WORK, "--arm", "student")
    assert (code, out) == (0, "0 runs done, 0 diverged, 0 missing\n")

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
    network, whole = load_network(tmp_path / "out" / "student.safetensors"), read(student)
    for p, q in zip(network.parameters(), whole.network().parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-3, rtol=1e-3)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def half_copied(horkd, folder) -> Path:
    """Runs of which some are still being copied here, and some are damaged; the teacher is not."""
    assert horkd(*WORK, "--study", "two_stage")[0] == 0
    runs = {arm: folder / smoke_arm(arm).name for arm in study(get_preset("smoke"), "two_stage")}
    cut(runs["assistant"] / "model.safetensors")
    (runs["student"] / "objective.safetensors").unlink()
    cut(runs["student direct"] / "record.json")
    (runs["student alone"] / "record.json").unlink()
    (runs["student alone"] / "diverged.json").write_text('{"epoch": 1')
    (runs["assistant alone"] / "record.json").unlink()
    for name in ("state.safetensors", "views.json", "open_set.json"):  # left behind, and damaged
        (runs["teacher"] / name).write_bytes(b"{")
    return folder


@pytest.mark.filterwarnings("ignore:.*(does not count|left as it is)")
def test_readers_change_nothing(horkd, half_copied, tmp_path):
    """Whoever copies the folders is not disturbed, and what is damaged is told and left."""
    before, preset = tiny.tree(half_copied), get_preset("smoke")
    code, out, err = horkd("queue", *TWO_STAGE)
    assert code == 0
    marked = {"assistant", "student", "student direct"}
    listed = [line for line in out.splitlines() if line.endswith("(incomplete or damaged)")]
    assert {line[23:60].strip() for line in listed} == marked
    assert states(out).keys() == study(preset, "two_stage").keys() - {"teacher"}
    assert "Traceback" not in err
    told = {line.split()[1] for line in err.splitlines() if "incomplete or damaged" in line}
    assert told == {smoke_arm(arm).name for arm in marked}
    assert "done" in states(horkd("queue", *TWO_STAGE, "--all")[1])["teacher"]
    code, _, err = horkd("export", str(tmp_path / "out"), *SMOKE[:2], "--arm", "student")
    assert code == 2
    assert "student of preset smoke is not trained" in err
    assert horkd("export", str(tmp_path / "out"), *SMOKE[:2], "--arm", "teacher")[0] == 0
    assert list(live(preset, ("two_stage",), train_missing=False)) == ["teacher"]
    assert Live(preset, train_missing=False).failed(smoke_arm("student alone")) is None
    assert len(load_models(half_copied / smoke_arm("teacher").name)) == 1
    with pytest.raises(HorkdError):
        load_models(half_copied / smoke_arm("assistant").name)
    assert tiny.tree(half_copied) == before


@pytest.mark.filterwarnings("ignore:.*(does not count|left as it is)")
def test_work_sets_aside_what_cannot_be_read_and_does_it_again(horkd, half_copied):
    names = [smoke_arm(arm).name for arm in ("assistant", "student", "student direct")]
    damaged = {f"{name}.damaged": content(half_copied / name) for name in names}
    code, out, err = horkd(*WORK, "--study", "two_stage")
    assert code == 0
    assert out.splitlines()[-1] == "5 runs done, 0 diverged, 0 missing"
    assert err.count("set aside as") == 4
    assert {path.name: content(path) for path in half_copied.glob("*.damaged")} == damaged


def test_an_arm_that_diverges_is_named_and_the_rest_goes_on(horkd, folder):
    """A teacher that learns, and everything compact at an impossible rate."""
    arms = ("--arm", "student alone", "--arm", "teacher")
    with smoke(recipe=replace(ONE_EPOCH, learning_rate=1e18)):
        code, out, err = horkd(*WORK, *arms)
        listed = horkd("queue", *TWO_STAGE, *arms, "--all")[1]
        again = horkd(*WORK, *arms)[1]
    assert code == 0
    assert "Traceback" not in err
    first, second, last = out.splitlines()
    assert first.startswith("teacher, seed 0: test top-1 ")
    assert second.startswith("student alone, seed 0: the loss is not finite in epoch 1 ")
    assert last == "1 runs done, 1 diverged, 0 missing"
    assert states(listed) == {"teacher": "done", "student alone": "diverged"}
    assert listed.splitlines()[-1].startswith("0 of 2 runs missing, about 0 s, ")
    assert again == "0 runs done, 0 diverged, 0 missing\n"


def test_work_stops_in_time_and_says_what_is_left(horkd, folder):
    code, out, _ = horkd(*WORK, "--study", "two_stage", "--minutes", "1e-9")
    assert code == 0
    assert out.splitlines() == ["time is up; 6 runs to go", "0 runs done, 0 diverged, 6 missing"]
    assert not list(folder.rglob("record.json"))


@pytest.mark.parametrize("cache", ["on", "off"])
def test_the_frozen_models_answers_are_kept_if_wanted(horkd, folder, cache):
    code, *_ = horkd(*WORK, "--arm", "student direct", "--cache", cache)
    assert code == 0
    assert bool(list(folder.glob(".frozen/*/*.safetensors"))) == (cache == "on")


def test_help_names_every_command(horkd):
    code, out, _ = horkd("--help")
    assert code == 0
    for command in ("queue", "work", "reproduce", "export"):
        assert command in out


def test_what_a_library_left_open_is_not_said(capsys):
    before = warnings.showwarning
    with warnings_as_lines("worker 1: "), warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("a file was damaged", stacklevel=1)
        warnings.warn("unclosed event loop", ResourceWarning, stacklevel=1)
    assert warnings.showwarning is before
    assert capsys.readouterr().err == "horkd: worker 1: a file was damaged\n"
