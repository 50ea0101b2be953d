"""Pairs of notebooks: `NN_name.py` (py:percent) is the source of `NN_name.ipynb`.

A notebook made here holds no times or versions, and its cells are numbered by position, so the same
source gives the same bytes. An `.ipynb` whose cells were changed by hand is never written over, and
neither file may hold conflict markers of a merge. Needs the `notebook` extra.
"""

import hashlib
import json
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from horkd.errors import HorkdError
from horkd.storage import DamagedFile, load_json, save_json, write_text

if TYPE_CHECKING:
    from nbformat import NotebookNode

# papermill starts this kernel, and reads the language from here.
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}

#: Beside the notebooks: digests of the cells of each `.ipynb` as it was written here last.
MADE = ".made.json"

#: At the start of a line of either file, of a comment, or of a line of a cell in the `.ipynb`.
_MARKER = re.compile(r'(\s*")?(# )?(<{7}|>{7})( |$)|={7}$|\|{7}( |$)')


def build(source: str | Path) -> "NotebookNode":
    """The notebook that a py:percent file stands for.

    Args:
        source: a `.py` file in jupytext's percent format.

    Returns:
        An nbformat 4.5 notebook: cells with their sources and tags, and the kernel, nothing else.

    Raises:
        HorkdError: if jupytext is not installed.
    """
    return _built(Path(source).read_text(encoding="utf-8"))


def _built(text: str) -> "NotebookNode":
    try:
        import jupytext
    except ImportError as error:
        raise HorkdError("notebooks need jupytext: pip install 'horkd[notebook]'") from error
    return plain(jupytext.reads(text, fmt="py:percent"))


def plain(notebook: "NotebookNode") -> "NotebookNode":
    """The notebook with nothing that differs between machines and times, changed in place."""
    notebook.metadata = {"kernelspec": dict(KERNEL)}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for position, cell in enumerate(notebook.cells):
        cell.id = str(position)  # as nbstripout numbers them
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
    return notebook


def as_text(notebook: "NotebookNode") -> str:
    """The content of its file."""
    import nbformat

    return nbformat.writes(notebook) + "\n"


def write(folder: str | Path) -> list[Path]:
    """Write the `.ipynb` beside each `.py` of a folder; return the files written.

    Raises:
        HorkdError: if the folder holds no notebook, jupytext is not installed, the disk is full, a
            file holds conflict markers, or an `.ipynb` holds what its source does not; nothing is
            written then.
    """
    folder = Path(folder)
    made, known = {}, _made(folder)
    for source in sources_in(folder):
        fresh = build(source)
        if reason := _conflict(source) or _would_lose(source, fresh, known.get(source.stem)):
            raise HorkdError(reason)
        made[source] = fresh
    for source, fresh in made.items():
        target = source.with_suffix(".ipynb")
        write_text(target, as_text(fresh))
        # To JupyterLab a notebook that is later than its source was changed without it.
        os.utime(target, ns=(target.stat().st_atime_ns, source.stat().st_mtime_ns))
    save_json(folder / MADE, {source.stem: _digest(fresh) for source, fresh in made.items()})
    return [source.with_suffix(".ipynb") for source in made]


def stale(folder: str | Path) -> list[str]:
    """One line for each `.ipynb` that is missing, left over or not what its `.py` gives.

    And for each file with conflict markers.

    Raises:
        HorkdError: if the folder holds no notebook, or jupytext is not installed.
    """
    folder = Path(folder)
    sources = sources_in(folder)
    lines = [_conflict(source) or _difference(source) for source in sources]
    left_over = set(folder.glob("*.ipynb")) - {source.with_suffix(".ipynb") for source in sources}
    lines += [f"{target.name} has no {target.stem}.py: remove it" for target in sorted(left_over)]
    return [line for line in lines if line]


def sources_in(folder: str | Path) -> list[Path]:
    """The notebooks' sources in a folder, at least one.

    Raises:
        HorkdError: if there is none.
    """
    sources = sorted(Path(folder).glob("[0-9][0-9]_*.py"))
    if not sources:
        raise HorkdError(f"no notebook NN_name.py in {folder}: run this in a checkout of horkd")
    return sources


def _difference(source: Path) -> str:
    """What sets the stored notebook apart from the one its source gives; empty if nothing does."""
    fresh, target = as_text(build(source)), source.with_suffix(".ipynb")
    if not target.exists():
        return f"{target.name} is missing; run `make notebooks`"
    same = target.read_bytes() == fresh.encode()
    return "" if same else f"{target.name} is not what {source.name} gives; run `make notebooks`"


# What may not be lost ----------------------------------------------------------------------------


def _conflict(source: Path) -> str:
    """Where source or notebook have a conflict marker, in a sentence; empty if nowhere."""
    for path in (source, source.with_suffix(".ipynb")):
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            number = next((n for n, line in enumerate(lines, 1) if _MARKER.match(line)), 0)
            if number:
                remedy = "resolve the merge"
                if path != source:
                    remedy = f"resolve the merge in {source.name}, delete {path.name} and run "
                    remedy += "`make notebooks`"
                return f"{path.name} has a conflict marker in line {number}: {remedy}"
    return ""


def _would_lose(source: Path, fresh: "NotebookNode", known: str | None) -> str:
    """Why the notebook must not be written over, with what to do; empty if it may be.

    It may be where its cells are those of its source, of its source as git has it, or as they were
    written here last. File times say nothing: a clone does not keep them.

    Args:
        source: the `.py` file.
        fresh: what that gives.
        known: digest of the cells that were written here last, if any were.
    """
    import nbformat

    target = source.with_suffix(".ipynb")
    if not target.exists():
        return ""
    try:
        stored, wanted = _digest(nbformat.read(target, as_version=4)), _digest(fresh)
    except Exception:  # a damaged file can fail in any way
        return f"{target.name} cannot be read as a notebook: delete it and run `make notebooks`"
    if stored in (wanted, known):
        return ""
    committed = _committed(source)
    if stored == committed:
        return ""
    if wanted in (known, committed):
        return (
            f"{target.name} has changes that {source.name} lacks. To keep them, run `jupytext --to "
            f"py:percent {shlex.quote(os.path.relpath(target))}`; to drop them, delete "
            f"{target.name}; then run `make notebooks`"
        )
    return (
        f"{target.name} and {source.name} were both changed: bring what is to be kept into "
        f"{source.name}, delete {target.name} and run `make notebooks`"
    )


def _digest(notebook: "NotebookNode") -> str:
    """Of what a source holds of a notebook (cells and tags), and of pictures pasted into cells."""
    cells = [
        [
            cell.cell_type,
            cell.source,
            cell.metadata.get("tags") or [],
            cell.get("attachments") or {},
        ]
        for cell in notebook.cells
    ]
    return hashlib.sha256(json.dumps(cells, sort_keys=True).encode()).hexdigest()


def _made(folder: Path) -> dict[str, str]:
    """Digest of each notebook's cells as written here last."""
    try:
        return load_json(folder / MADE) if (folder / MADE).is_file() else {}
    except DamagedFile:
        return {}


def _committed(source: Path) -> str | None:
    """Digest of the cells of a source as git has it; None if git has none."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        text = subprocess.run(
            ["git", "show", f"HEAD:./{source.name}"],
            cwd=source.parent,
            env=environment,
            capture_output=True,
            check=True,
        ).stdout.decode()
    except (OSError, subprocess.CalledProcessError, UnicodeDecodeError):
        return None
    return _digest(_built(text))
