"""Processes that decode photos and that share a queue: started by any script, and when they die."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image

from horkd.data import FileBatches, PhotoFiles
from horkd.data.photos import FULL_CROP
from horkd.data.workers import FEW, workers_for
from horkd.errors import HorkdError
from horkd.processes import loader_failures, without_main

ROOT = Path(__file__).resolve().parent.parent


def run_script(text: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """A plain script without a main guard, as somebody writes it, in a process of its own."""
    (folder / "mine.py").write_text(text)
    return subprocess.run(
        [sys.executable, folder / "mine.py"], cwd=folder, capture_output=True, text=True,
        timeout=150, env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}",
                          "HORKD_RUNS": str(folder / "runs"), **environment},
    )  # fmt: skip


TRAINS = """
from horkd.degradation import Degradation
from horkd.lab import runner
from horkd.lab.config import RunConfig
from horkd.machine import Settings
from horkd.training import Recipe

print("the script runs", flush=True)
config = RunConfig(
    "resnet8x0.25", Degradation(8), data="folder:FOLDER@8", validation=False,
    recipe=Recipe(epochs=1, batch_size=300, crop=0, batches=2),
)
found = runner.run(config, Settings("cpu", "fp32", progress=False))
print("trained on", found.record["training_images"])
"""


def test_a_script_without_a_main_guard_trains_on_photos(tmp_path):
    """Its data workers must not run it again: they would wait for the lock of their parent."""
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    each = FEW // 4 + 1
    for name, count in {"train/a": each, "train/b": each, "train/c": each, "train/d": each,
                        "test/x": 2, "test/y": 2}.items():  # fmt: skip
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(count):
            os.link(tmp_path / "photo.png", folder / f"{i}.png")
    text = TRAINS.replace("FOLDER", str(tmp_path / "photos"))
    done = run_script(text, tmp_path, HORKD_DATA_WORKERS="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["the script runs", f"trained on {4 * each}"]


WORKS = """
import test_workers, tiny
from horkd.lab import work

print("the script runs", flush=True)
shift = work.work_together([test_workers.job(seed=0)], 1, settings=tiny.SETTINGS)
print(len(shift.done), "done")
"""


def test_a_script_without_a_main_guard_starts_workers(tmp_path):
    done = run_script(WORKS, tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "the script runs"
    assert said[1].startswith("worker 1: student alone, seed 0: test ")
    assert said[2:] == ["1 done"]


NEEDED = """
from pathlib import Path
import torch
from horkd.data import FileBatches, PhotoFiles

class Mine(PhotoFiles):
    pass

files = Mine(Path("FOLDER"), tuple("abcd"), torch.zeros(4).long(), ("a",))
list(FileBatches(files, 2, crop=0, workers=1).epoch(0))
"""


def test_a_script_that_children_need_and_that_has_no_main_guard_ends(tmp_path):
    """It defines what its children are sent, so that they have to run it."""
    done = run_script(NEEDED, tmp_path)
    assert done.returncode == 1
    says = "horkd.errors.HorkdError: "
    child, parent = [line for line in done.stderr.splitlines() if line.startswith(says)]
    assert 'put what it does under `if __name__ == "__main__":`' in child
    assert parent.startswith(f"{says}a process that decodes photos ended before its time")


def test_the_script_is_known_again_afterwards():
    main = sys.modules["__main__"]
    before = {name: getattr(main, name, "none") for name in ("__file__", "__spec__")}
    with without_main(PhotoFiles):
        assert (main.__file__, main.__spec__) == (None, None)
    assert {name: getattr(main, name, "none") for name in before} == before
    with without_main(PhotoFiles, test_the_script_is_known_again_afterwards):
        assert {name: getattr(main, name, "none") for name in before} == before


# Data workers


@pytest.fixture
def files(tmp_path) -> PhotoFiles:
    for i in range(40):
        Image.new("RGB", (20, 20), (5 * i, 0, 0)).save(tmp_path / f"{i}.png")
    names = tuple(f"{i}.png" for i in range(40))
    return PhotoFiles(tmp_path, names, torch.arange(40) % 4, tuple("abcd"), None, FULL_CROP, 16)


@pytest.mark.parametrize("where", ["between batches", "within a step"])
def test_a_data_worker_that_is_killed_is_one_line(files, where):
    """As for want of memory. Torch may say so at any moment, wherever its parent is."""

    def killed() -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid, signal.SIGKILL)

    def train() -> None:
        with loader_failures():
            for _ in FileBatches(files, 2, crop=0, workers=1).epoch(0):
                killed()
                end = time.monotonic() + (20 if where == "within a step" else 0)
                while time.monotonic() < end:
                    time.sleep(0.01)

    with pytest.raises(HorkdError, match="a process that decodes photos ended before") as error:
        train()
    assert "set HORKD_DATA_WORKERS to fewer, or to 0 for none" in tiny.one_line(error)


@pytest.mark.parametrize(("asked", "workers"), [("0", 0), ("3", 3), (" 12 ", 12)])
def test_the_number_of_data_workers_is_a_setting(monkeypatch, files, asked, workers):
    monkeypatch.setenv("HORKD_DATA_WORKERS", asked)
    assert [workers_for(photos) for photos in (1, FEW + 1)] == [workers, workers]
    assert FileBatches(files, 2, crop=0).workers == workers
    monkeypatch.setenv("HORKD_DATA_WORKERS", "")
    assert workers_for(FEW) == 0
    assert 1 <= workers_for(FEW + 1) <= 8


@pytest.mark.parametrize("asked", ["-1", "many", "1.5", "²", "99999"])
def test_other_settings_are_one_line(monkeypatch, files, asked):
    monkeypatch.setenv("HORKD_DATA_WORKERS", asked)
    with pytest.raises(HorkdError, match="write the number of processes") as error:
        FileBatches(files, 2, crop=0)
    assert f"HORKD_DATA_WORKERS is {asked!r}" in tiny.one_line(error)


SMALL = """
import sys
from pathlib import Path
import torch
from horkd.data import FileBatches, PhotoFiles
from horkd.errors import warnings_as_lines

names = tuple(f"{i}.png" for i in range(40))
files = PhotoFiles(Path(sys.argv[1]), names, torch.zeros(40).long(), ("a",), size=112)
with warnings_as_lines():
    for workers in (1, 0):
        batches = FileBatches(files, 20, crop=0, workers=workers).epoch(0)
        print(sum(int(crops.sum()) for crops, _ in batches))
"""


def can_mount() -> bool:
    """Whether a process may have a /dev/shm of its own here."""
    asked = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    return (
        bool(shutil.which("unshare")) and not subprocess.run(asked, capture_output=True).returncode
    )


@pytest.mark.skipif(not can_mount(), reason="needs a /dev/shm of its own")
@pytest.mark.parametrize("options", ["size=64k", "ro"])
def test_data_workers_need_no_shared_memory(files, tmp_path, options):
    """A batch here is 753 KB, and containers have some MB. Without any there are no processes."""
    (tmp_path / "small.py").write_text(SMALL)
    mount = f'mount -t tmpfs -o {options} tmpfs /dev/shm && exec "$@"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", mount, "sh", sys.executable, "small.py", files.root],
        cwd=tmp_path, capture_output=True, text=True, timeout=150,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    helped, alone = map(int, done.stdout.split())
    assert helped == alone > 0
    said = done.stderr.splitlines()
    if options == "ro":
        assert len(said) == 1
        assert said[0].startswith("horkd: no processes can be started to decode photos ([Errno 30]")
    else:
        assert said == []
