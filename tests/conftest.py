import os
import signal
import tempfile
import warnings
from pathlib import Path

import leftovers
import pytest
import watch

from horkd import paths

paths.settle()  # `HORKD_DATA=data make test`

# Read when torch is imported, here and in every process that a test starts: several threads each
# get in each other's way where several tests run at once.
os.environ["OMP_NUM_THREADS"] = "1"

# Tests ask this machine only, whatever proxies their owner has. Here before gradio is imported.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "*"

# A shell that starts this in the background has it ignore Ctrl-C, and children inherit that: the
# tests that interrupt a process would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Fixtures import what needs torch, which takes seconds, only when they are asked for.

#: Notebooks and the longest files, which `make test` gives to its workers first: none of them is
#: then left for one worker at the end.
FIRST = ("test_demo_browser.py", "test_demo_client.py", "test_work.py", "test_metric_runs.py")


def pytest_collection_modifyitems(items):
    def place(item) -> int:
        return 0 if item.path.suffix == ".ipynb" else 1 if item.path.name in FIRST else 2

    items.sort(key=place)
    for item in items:
        if place(item) == 0:
            item.add_marker(pytest.mark.timeout(600))  # a notebook trains for minutes


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    """One folder for all workers of this call, for what is costly to make and never changes."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def temporary_folder(tmp_path_factory):
    """Temporary files of the tests, and of processes that they start, are in a folder of theirs."""
    folder = str(tmp_path_factory.mktemp("tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left(temporary_folder):
    """No module leaves anything behind for the next one."""
    with leftovers.nothing_is_left():
        yield


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path_factory, shared_folder):
    """No test reads or writes the runs, reports and caches of whoever runs the tests."""
    base = tmp_path_factory.getbasetemp()
    monkeypatch.setenv("HORKD_RUNS", str(base / "runs"))
    monkeypatch.setenv("HORKD_REPORTS", str(base / "reports"))
    monkeypatch.setenv("HORKD_CACHE", str(shared_folder / "cache"))  # drawn characters and such


@pytest.fixture(scope="session")
def faces_tree(tmp_path_factory) -> Path:
    """A data folder with the small LFW of `face_trees`, which no test changes."""
    from face_trees import lfw_tree

    return lfw_tree(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def six_characters():
    """Every data set is the six characters of `tiny`, for all tests of a module."""
    import tiny

    with tiny.registered():
        yield


@pytest.fixture
def passes():
    """Images in each batch that a frozen model has looked at in training."""
    import tiny

    from horkd.objectives import Frozen

    seen = []
    with tiny.before(Frozen, lambda module, inputs: seen.append(len(inputs[0]))):
        yield seen


@pytest.fixture
def horkd(capsys):
    """Call the command line in this process: (exit code, standard output, standard error)."""
    from horkd import cli

    def call(*arguments: str) -> tuple[int, str, str]:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            with pytest.raises(SystemExit) as stopped:
                cli.main(arguments)
        return stopped.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture
def no_network():
    """Asking for another machine, or for any address at all, fails the test."""
    error = AssertionError("nothing may be asked of the network here")
    with watch.refused(error, "socket.connect", "socket.getaddrinfo"):
        yield
