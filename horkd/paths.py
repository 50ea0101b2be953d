"""Where things live, whatever folder the caller was started in.

nbmake runs a notebook in the notebook's folder, papermill in the caller's, JupyterLab wherever it
was opened; every path therefore goes through this module.

| what | default | override |
|---|---|---|
| data sets | none: found on disk only if told where | `HORKD_DATA` |
| runs (records and checkpoints) | `runs/` in the checkout | `HORKD_RUNS` |
| reports | `reports/` in the checkout | `HORKD_REPORTS` |
| cache (the embedded set, digests of photos) | `~/.cache/horkd` | `HORKD_CACHE` |
"""

import os
from pathlib import Path

from horkd.errors import HorkdError


def _setting(name: str) -> Path | None:
    value = os.environ.get(name, "").strip()
    return Path(value).expanduser().resolve() if value else None


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
    return _setting("HORKD_REPORTS") or root() / "reports"


def cache_dir() -> Path:
    """Where the embedded set is kept once it is drawn."""
    base = os.environ.get("XDG_CACHE_HOME", "").strip()
    return _setting("HORKD_CACHE") or (Path(base) if base else Path.home() / ".cache") / "horkd"
