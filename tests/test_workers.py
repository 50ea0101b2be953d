"""Work in the background: several processes, signals, state within an epoch, lines in a log."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from horkd import storage
from horkd.errors import HorkdError
from horkd.lab import checkpoint, runner, work
from horkd.lab.checkpoint import Control
from horkd.lab.job import Job
from horkd.lab.pace import missing
from horkd.lab.store import read
from horkd.machine import Interruption, duration
from horkd.studies.presets import get_preset
from horkd.studies.study import choose
from horkd.training import Recipe, State

ROOT = Path(__file__).resolve().parent.parent


# Signals


def send(number: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), number)


def test_a_signal_within_a_step_is_put_off_to_its_end():
    with Interruption() as interruption:
        with interruption.deferred():
            send()
            assert interruption.asked
        with interruption.deferred(), pytest.raises(KeyboardInterrupt):
            send()  # the second time nobody waits


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_at_any_other_time_a_signal_ends_what_is_going_on(number):
    before = signal.getsignal(number)
    with Interruption() as interruption, pytest.raises(KeyboardInterrupt):
        send(number)
    assert interruption.asked
    assert signal.getsignal(number) is before


@pytest.fixture
def small(monkeypatch, tmp_path):
    tiny.patch(monkeypatch)
    monkeypatch.setenv("HORKD_RUNS", str(tmp_path))
    return tmp_path


def test_sigterm_keeps_the_steps_that_were_done(small, monkeypatch):
    config = tiny.student()
    whole = runner.run(config, tiny.SETTINGS, small / "whole").record
    taken = []

    def going() -> bool:
        taken.append(1)
        if len(taken) == 7:  # three steps and the end of the first epoch, three of the second
            send()
        return True

    with Interruption() as interruption, pytest.raises(KeyboardInterrupt):
        runner.run(config, tiny.SETTINGS, small, Control(going=going, interruption=interruption))
    (state,) = small.glob("*/state.safetensors")
    kept = storage.load_tensors(state)[1]
    assert (kept["epoch"], kept["step"]) == (1, 3)  # the very step after which it came
    again = runner.run(config, tiny.SETTINGS, small).record
    assert again["files"] == whole["files"]
    assert again["history"] == whole["history"]


def test_within_an_epoch_the_state_is_kept_every_few_minutes(small, monkeypatch):
    saved = []
    save = storage.save_tensors

    def counted(path, tensors, metadata):
        saved.append((path.name, metadata.get("epoch"), metadata.get("step")))
        return save(path, tensors, metadata)

    monkeypatch.setattr(storage, "save_tensors", counted)
    runner.run(tiny.teacher(), tiny.SETTINGS, None, Control(save_within=0, save_every=0))
    states = [(epoch, step) for name, epoch, step in saved if name == "state.safetensors"]
    places = [(epoch, step) for epoch in range(3) for step in range(4)]
    assert states == [*places[1:], (3, 0)]


def test_a_state_of_before_steps_were_counted_is_taken_up(small):
    config = tiny.teacher()
    whole = runner.run(config, tiny.SETTINGS, small / "whole").record
    with pytest.raises(checkpoint.TimeUp):
        runner.run(config, tiny.SETTINGS, small, Control(deadline=0.0))
    path = small / config.name / "state.safetensors"
    tensors, metadata = storage.load_tensors(path)
    old = {k: v for k, v in metadata.items() if k not in ("step", "elapsed", "reading")}
    storage.save_tensors(path, tensors, old)
    assert runner.run(config, tiny.SETTINGS, small).record["files"] == whole["files"]


def test_seconds_of_a_run_in_parts_are_those_of_all_parts(small):
    config = tiny.teacher(recipe=replace(tiny.RECIPE, epochs=1))
    with pytest.raises(KeyboardInterrupt):
        runner.run(config, tiny.SETTINGS, small, Control(going=lambda: False))
    path = small / config.name / "state.safetensors"
    tensors, metadata = storage.load_tensors(path)
    assert 0 < metadata["elapsed"] < 60
    storage.save_tensors(path, tensors, {**metadata, "elapsed": 1000.0})
    seconds = runner.run(config, tiny.SETTINGS, small).record["seconds"]
    assert 1000 < seconds["epochs"][0] < 1060
    assert 0 <= seconds["around_epochs"] < 60


# Lines


def test_an_epoch_that_takes_long_is_a_line_with_the_time_left(small):
    lines = []
    config = tiny.teacher(recipe=replace(tiny.RECIPE, progressive=((1, 4), (1, 8))))
    runner.run(config, tiny.SETTINGS, small, Control(say=lines.append, report_every=0))
    number, seconds = r"[\d.]+", r"\d+ s"
    for line, epoch, pixels in zip(lines, (1, 2, 3), (4, 8, 16), strict=True):
        expected = (
            f"{config.name}: epoch {epoch} of 3 at {pixels} px, loss {number}, validation top1 "
            f"{number} %, {seconds}" + (f", {seconds} left" if epoch < 3 else "")
        )
        assert re.fullmatch(expected, line)
    assert [entry["pixels"] for entry in read(config).record["history"]] == [4, 8, 16]


def test_time_left_goes_by_the_pixels_of_the_epochs_to_come(small):
    lines = []
    recipe = Recipe(epochs=10, progressive=((4, 8), (2, 12)))
    config = tiny.teacher(recipe=recipe)
    saver = checkpoint.Saver(small / "x", config, tiny.SETTINGS, Control(say=lines.append))
    entry = {"terms": {"loss": 1.0}, "pixels": 8}
    state = State(None, None, None, epoch=4, history=[entry], seconds=[64.0])
    saver._report(state)  # 2 epochs at 12 px and 4 at 16 are to come
    assert lines[0].endswith(f"64 s, {duration(2 * 144 + 4 * 256)} left")


# Several processes


def job(**changes) -> Job:
    """A run of preset smoke, which real processes can do: seconds each."""
    preset = get_preset("smoke")
    found = choose(preset, ("two_stage",), ("student alone",))[0]
    return replace(found, config=replace(found.config, **changes))


@pytest.fixture
def folder(monkeypatch, tmp_path) -> Path:
    monkeypatch.setenv("HORKD_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def comparable(record: dict) -> dict:
    return {n: v for n, v in record.items() if n not in ("seconds", "cost")}


def test_two_workers_leave_the_records_of_one(folder, tmp_path, capfd):
    jobs = [job(seed=seed) for seed in range(3)]
    settings = replace(tiny.SETTINGS)
    shift = work.work_together(jobs, 2, 1, settings=settings)
    assert [run.config for run in shift.done] == [j.config for j in jobs]
    assert (shift.diverged, shift.left) == ([], 0)
    said = capfd.readouterr().out.splitlines()
    # a run that another worker ends just as one asks for it may be said by both
    assert {line.split()[-1] for line in said} == {j.config.name for j in jobs}
    assert {line.split(":")[0] for line in said} <= {"worker 1", "worker 2"}
    for j in jobs:
        assert read(j.config).record["machine"]["threads"] == 1
    alone = subprocess.run(
        [sys.executable, "-c", ALONE], env={**os.environ, "HORKD_RUNS": str(tmp_path / "one")},
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    one = json.loads(alone.stdout.splitlines()[-1])
    two = comparable(read(jobs[0].config).record)
    assert one["files"] == two["files"]
    assert one["results"] == two["results"]


ALONE = """
import json, sys, torch
sys.path.insert(0, "tests")
torch.set_num_threads(1)
import tiny, test_workers
from horkd.lab import runner
record = runner.run(test_workers.job(seed=0).config, tiny.SETTINGS).record
print(json.dumps({n: record[n] for n in ("files", "results")}))
"""


def test_a_run_that_fails_is_said_and_the_others_go_on(folder, capfd):
    good, bad = job(seed=0), job(seed=1, degradation=replace(job().config.degradation, size=999))
    with pytest.raises(HorkdError, match="1 of 1 workers failed, see above"):
        work.work_together([bad, good], 1, settings=tiny.SETTINGS)
    out, err = capfd.readouterr()
    assert re.match(r"worker 1: student alone, seed 1 failed: resolution 999 is above", out)
    assert re.fullmatch(r"horkd: worker 1: resolution 999 is above [^\n]*\n", err)
    assert read(good.config) is not None


def test_what_fails_twice_for_one_reason_is_not_tried_a_third_time(folder):
    size = replace(job().config.degradation, size=999)
    jobs = [job(seed=seed, degradation=size) for seed in (1, 2, 3)]
    said = []
    with pytest.raises(HorkdError, match="resolution 999 is above"):
        work.work(jobs, settings=tiny.SETTINGS, say=said.append)
    assert said == []  # the line that ends it is enough


def test_a_second_signal_of_a_group_changes_nothing_for_a_worker():
    with Interruption((signal.SIGTERM,), patient=True) as interruption:
        with interruption.deferred():
            send()
            send()
        send()
        assert interruption.asked


@pytest.mark.parametrize("workers", [0, -1])
def test_without_a_worker_nothing_is_done(folder, workers):
    with pytest.raises(HorkdError, match="workers and threads must be 1 or more"):
        work.work_together([job()], workers)


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "horkd", "work", "--preset", "smoke", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "HORKD_RUNS": str(folder), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(p) for p in found]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent_and_lose_nothing(tmp_path, monkeypatch, how):
    """Also when the parent is killed and can tell nobody."""
    folder = tmp_path / "runs"
    process = start(folder, "--workers", "2", "--background", "--study", "two_stage")
    try:
        wait_for(lambda: list(folder.glob("*/record.json")))
        workers = [p for p in children(process.pid) if "spawn_main" in cmdline(p)]
        assert len(workers) == 2
        assert {os.getpriority(os.PRIO_PROCESS, p) for p in workers} == {19}
        os.kill(process.pid, how)
        _, err = process.communicate(timeout=60)
        wait_for(lambda: not any(map(alive, workers)), 60)
    finally:
        if process.poll() is None:
            process.kill()
    if how != signal.SIGKILL:
        assert process.returncode == 130, err
        assert err.splitlines()[-1] == (
            "horkd: interrupted; the same command goes on from where it stopped"
        )
    monkeypatch.setenv("HORKD_RUNS", str(folder))
    for path in folder.glob("*/*.safetensors"):  # whole, and of the right run
        storage.load_tensors(path)
    assert not list(folder.glob("*.damaged"))
    jobs = choose(get_preset("smoke"), ("two_stage",))
    assert 0 < len(missing(jobs)) < len(jobs)


def cmdline(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""
