"""What would be left behind by a test is noticed."""

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import leftovers
import matplotlib.pyplot as plt
import pytest
import torch
from leftovers import nothing_is_left


def thread():
    going = threading.Event()
    one = threading.Thread(target=going.wait, name="ours")
    one.start()
    return lambda: (going.set(), one.join())


def process():
    one = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    return lambda: one.communicate(b"\n")


def port():
    one = socket.create_server(("127.0.0.1", 0))
    return one.close


def folder():
    path = tempfile.mkdtemp()
    return lambda: shutil.rmtree(path)


def variable():
    os.environ["HORKD_LEFT"] = "1"
    return lambda: os.environ.pop("HORKD_LEFT")


def current():
    before = os.getcwd()
    os.chdir("/")
    return lambda: os.chdir(before)


def handler():
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    return lambda: signal.signal(signal.SIGTERM, before)


def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    return lambda: torch.set_num_threads(before)


def gradients():
    torch.set_grad_enabled(False)
    return lambda: torch.set_grad_enabled(True)


def figure():
    one = plt.figure()
    return lambda: plt.close(one)


def log():
    logger = logging.getLogger("asyncio")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    return lambda: logger.setLevel(before)


def path():
    sys.path.append("/nowhere")
    return lambda: sys.path.remove("/nowhere")


SAID = {
    thread: "a thread still runs: ours",
    process: "a process still runs: ",
    port: "a port is still open: port ",
    folder: "a temporary file or folder is left: tmp",
    variable: "an environment variable is changed: HORKD_LEFT was None, is '1'",
    current: "what the process shares is changed: current folder was ",
    handler: "a signal is handled otherwise: SIGTERM was ",
    threads: "a setting of torch is changed: threads was ",
    gradients: "a setting of torch is changed: gradients was True, is False",
    figure: "a figure is still open: figure ",
    log: "a log is more or less talkative: asyncio was ",
    path: "what the process shares is changed: sys.path was ",
}


@pytest.mark.parametrize("leave", SAID, ids=lambda leave: leave.__name__)
def test_what_is_left_is_named_and_what_is_not_is_no_fault(leave, monkeypatch):
    with nothing_is_left():
        leave()()
    monkeypatch.setattr(leftovers, "PATIENCE", 0)
    undo = lambda: None  # noqa: E731
    try:
        with pytest.raises(AssertionError) as found, nothing_is_left():
            undo = leave()
    finally:
        undo()
    first, line = str(found.value).splitlines()
    assert first == "something is left behind"
    assert line.startswith(SAID[leave])


def test_a_module_that_leaves_something_fails(tmp_path: Path):
    """As `conftest.py` asks it, in a process of its own."""
    here = Path(__file__).parent
    for name in ("conftest.py", "leftovers.py", "watch.py"):
        shutil.copy(here / name, tmp_path)
    (tmp_path / "test_tidy.py").write_text("def test_tidy():\n    pass\n")
    (tmp_path / "test_untidy.py").write_text(
        textwrap.dedent("""\
            import os
            import threading
            import leftovers

            leftovers.PATIENCE = 0

            def test_untidy():
                os.environ["HORKD_LEFT"] = "1"
            """)
    )
    told = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--rootdir=.", "--basetemp=base", "."],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert "2 passed, 1 error" in told.stdout, told.stdout + told.stderr
    assert "an environment variable is changed: HORKD_LEFT was None, is '1'" in told.stdout
