"""Whether the code that runs is that of the checkout that is meant.

An environment knows the package, and its commands their interpreter, by absolute paths. In a copied
or moved checkout they lead to the one that it was copied from.
"""

import os
import sys
from collections.abc import Iterable
from pathlib import Path

from horkd.errors import HorkdError


def is_checkout(folder: str | Path) -> bool:
    """Whether a folder is one of this project's, with code and notebooks."""
    wanted = ("horkd/__init__.py", "notebooks", "pyproject.toml")
    return all((Path(folder) / name).exists() for name in wanted)


def mistaken(
    package: str | Path, prefix: str | Path, current: str | Path, named: Iterable[str | Path]
) -> str:
    """Why the code of one checkout runs where another is meant; empty if none does.

    Args:
        package: the folder that the running package lies in.
        prefix: of the environment.
        current: the folder that the caller is in.
        named: folders that code is asked for from, before the environment: nobody names them by
            mistake.
    """
    package, prefix, current = Path(package).resolve(), Path(prefix), Path(current)
    if not is_checkout(package) or package in {Path(folder).resolve() for folder in named}:
        return ""
    here = next((folder for folder in (current, *current.parents) if is_checkout(folder)), None)
    for folder in (prefix.parent, here):
        if folder is not None and is_checkout(folder) and folder.resolve() != package:
            return (
                f"this would run the code of {package}, but {folder.resolve()} is meant: run "
                "`make setup` (or `pip install -e .`) there, as after copying or moving it"
            )
    return ""


def require_own_code() -> None:
    """Refuse to run the code of a checkout that this one was copied from.

    Raises:
        HorkdError: if that is so.
        SystemExit: with that line, if it is a command that was started.
    """
    try:
        current = Path.cwd()
    except OSError:  # the folder is gone
        return
    asked = [*sys.path[:1], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    named = [current / folder for folder in asked]
    line = mistaken(Path(__file__).resolve().parents[1], Path(sys.prefix), current, named)
    if not line:
        return
    if sys.argv[:1] == ["-m"] or Path(sys.argv[0]).name == "horkd":
        sys.exit(f"horkd: {line}")
    raise HorkdError(line)
