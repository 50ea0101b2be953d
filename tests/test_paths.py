"""Where things live: one meaning for a setting, whichever folder a process was started in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from horkd import paths
from horkd.errors import HorkdError

ASKED = {
    "HORKD_DATA": paths.data_dir,
    "HORKD_RUNS": paths.runs_dir,
    "HORKD_REPORTS": paths.reports_dir,
    "HORKD_CACHE": paths.cache_dir,
}
by_name = pytest.mark.parametrize("name", paths.SETTINGS)


@pytest.fixture
def elsewhere(monkeypatch, tmp_path) -> Path:
    """A folder to work in, with folders `rel` and `notebooks/rel`."""
    (tmp_path / "notebooks" / "rel").mkdir(parents=True)
    (tmp_path / "rel").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_setting_is_asked_here():
    assert set(ASKED) == set(paths.SETTINGS)


@by_name
def test_a_relative_folder_is_taken_from_where_the_command_started(name, monkeypatch, elsewhere):
    monkeypatch.setenv(name, " rel")
    paths.settle()
    monkeypatch.chdir("notebooks")  # as a notebook's kernel
    assert ASKED[name]() == elsewhere / "rel"
    print_it = f"import os; print(os.environ[{name!r}])"
    told = subprocess.run([sys.executable, "-c", print_it], capture_output=True, text=True)
    assert told.stdout == f"{elsewhere / 'rel'}\n"


@by_name
def test_a_relative_folder_that_no_command_settled_is_refused(name, monkeypatch, elsewhere):
    monkeypatch.setenv(name, "rel")
    with pytest.raises(HorkdError, match=f"{name} is rel, .* write its whole path"):
        ASKED[name]()


def test_an_empty_setting_is_none(monkeypatch):
    for name in paths.SETTINGS:
        monkeypatch.setenv(name, " ")
    paths.settle()
    assert paths.data_dir() is None
    assert paths.reports_dir() == paths.published_dir() == paths.root() / "reports"
    assert paths.runs_dir() == paths.root() / "runs"


def test_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HORKD_RUNS", "~/runs")
    assert paths.runs_dir() == tmp_path / "runs"


@by_name
@pytest.mark.parametrize("ask", ["settle", "read"])
def test_the_home_of_nobody(name, ask, monkeypatch):
    monkeypatch.setenv(name, "~nobody-of-that-name/x")
    with pytest.raises(HorkdError, match=f"{name} is ~nobody-of-that-name/x: no home folder of"):
        paths.settle() if ask == "settle" else ASKED[name]()


def test_a_relative_cache_of_the_desktop_does_not_count(monkeypatch, tmp_path):
    monkeypatch.delenv("HORKD_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "rel")
    assert paths.cache_dir() == tmp_path / ".cache" / "horkd"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert paths.cache_dir() == tmp_path / "caches" / "horkd"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can be somebody else"
)
def test_a_user_without_a_home_is_told_what_to_set():
    script = (
        "import os; from horkd import paths; from horkd.errors import HorkdError\n"
        "os.setuid(54321)\n"
        "try: paths.cache_dir()\n"
        "except HorkdError as error: print(error)"
    )
    homeless = {
        n: v for n, v in os.environ.items() if n not in ("HOME", "HORKD_CACHE", "XDG_CACHE_HOME")
    }
    said = subprocess.run(
        [sys.executable, "-c", script], env=homeless, capture_output=True, text=True
    )
    assert said.stdout == "this user has no home folder: set HORKD_CACHE to a folder\n", said.stderr


def test_published_networks_stay_where_they_are(monkeypatch, tmp_path):
    """`HORKD_REPORTS` says where reports are written; what comes with the checkout is in it."""
    monkeypatch.setenv("HORKD_REPORTS", str(tmp_path))
    assert paths.reports_dir() == tmp_path
    assert (paths.published_dir() / "quick-glyphs" / "models").is_dir()
