"""Where things live, whatever folder the caller was started in.

nbmake runs a notebook in the notebook's folder, papermill in the caller's, JupyterLab wherever it
was opened; every path therefore goes through this module.

| what | default | override |
|---|---|---|
| data sets | none: found on disk only if told where | `HORKD_DATA` |
| runs (records and checkpoints) | `runs/` in the checkout | `HORKD_RUNS` |
| reports | `reports/` in the checkout | `HORKD_REPORTS` |
| cache (the embedded set, digests of photos) | `~/.cache/horkd` | `HORKD_CACHE` |

A command takes a relative folder from where it was started, once and for all (`settle`): its
notebooks and workers are told the whole path. Elsewhere it would be another folder in each
notebook, so there it is refused.
"""

import os
from pathlib import Path

from horkd.errors import HorkdError

#: The settings that name a folder.
SETTINGS = ("HORKD_DATA", "HORKD_RUNS", "HORKD_REPORTS", "HORKD_CACHE")


def typed_path(path: str | Path, setting: str = "") -> Path:
    """A path that somebody typed, with the home folders that `~` and `~name` stand for.

    Args:
        path: what was typed.
        setting: the variable that it was written in, if it was.

    Raises:
        HorkdError: if there is no such user, or the home of this one is not known.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise HorkdError(
            f"{f'{setting} is ' if setting else ''}{path}: no home folder of that user is known "
            "here; write the whole path"
        ) from None


def settle() -> None:
    """Make relative folders in the settings absolute, for this process and those that it starts.

    For the start of a command: a relative folder is taken from where the command was started.

    Raises:
        HorkdError: as `typed_path`.
    """
    for name in SETTINGS:
        if value := os.environ.get(name, "").strip():
            os.environ[name] = str(typed_path(value, name).resolve())


def _setting(name: str) -> Path | None:
    value = os.environ.get(name, "").strip()
    if not value:
        return None
    if value[0] != "~" and not Path(value).is_absolute():
        raise HorkdError(
            f"{name} is {value}, which is another folder for each notebook and script: write its "
            "whole path"
        )
    return typed_path(value, name).resolve()


def root() -> Path:
    """The checkout: the nearest folder above the package, or above the caller, with `notebooks/`.

    Falls back to the current folder, so that an installed package still has a place to write to.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package, Path.cwd(), *Path.cwd().parents):
        if (folder / "notebooks").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    return Path.cwd()


def data_dir() -> Path | None:
    """The folder of the data sets (`HORKD_DATA`), or None when it is not set.

    Raises:
        HorkdError: if `HORKD_DATA` is set to something that is not a folder.
    """
    folder = _setting("HORKD_DATA")
    if folder is not None and not folder.is_dir():
        raise HorkdError(
            f"HORKD_DATA is {folder}, which is not a folder: point it at your data sets"
        )
    return folder


def runs_dir() -> Path:
    """Where runs keep their records and checkpoints."""
    return _setting("HORKD_RUNS") or root() / "runs"


def reports_dir() -> Path:
    """Where batch runs leave tables, figures and executed notebooks."""
    return _setting("HORKD_REPORTS") or published_dir()


def published_dir() -> Path:
    """The reports and networks that come with the checkout, wherever new ones are written."""
    return root() / "reports"


def cache_dir() -> Path:
    """Where the embedded set is kept once it is drawn.

    Raises:
        HorkdError: if nothing says where, and there is no home folder.
    """
    if folder := _setting("HORKD_CACHE"):
        return folder
    base = os.environ.get("XDG_CACHE_HOME", "").strip()
    if Path(base).is_absolute():  # a relative one does not count, by the standard that has it
        return Path(base) / "horkd"
    try:
        return Path.home() / ".cache" / "horkd"
    except RuntimeError:
        raise HorkdError("this user has no home folder: set HORKD_CACHE to a folder") from None
