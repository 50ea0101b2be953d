"""Pairs of notebooks: `NN_name.py` (py:percent, the source) and the `NN_name.ipynb` made from it.

    python -m horkd.notebooks           # write every .ipynb anew
    python -m horkd.notebooks --check   # exit 1, naming them, if some are not what their .py gives

A notebook made here holds no outputs, times or versions, and its cells are numbered by position, so
the same source gives the same bytes. Needs the `notebook` extra.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from horkd import paths
from horkd.errors import HorkdError
from horkd.storage import write_text

if TYPE_CHECKING:
    from nbformat import NotebookNode

# papermill starts this kernel, and reads the language from here.
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def build(source: Path) -> "NotebookNode":
    """The notebook that a py:percent file stands for.

    Args:
        source: a `.py` file in jupytext's percent format.

    Returns:
        An nbformat 4.5 notebook: cells with their sources and tags, and the kernel, nothing else.

    Raises:
        HorkdError: if jupytext is not installed.
    """
    try:
        import jupytext
    except ImportError as error:
        raise HorkdError("notebooks need jupytext: pip install 'horkd[notebook]'") from error
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata = {"kernelspec": dict(KERNEL)}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for position, cell in enumerate(notebook.cells):
        cell.id = str(position)  # as nbstripout numbers them
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
    return notebook


def write(folder: Path) -> list[Path]:
    """Write the `.ipynb` beside each `.py` of a folder; return the files written.

    Raises:
        HorkdError: if the folder holds no notebook, jupytext is not installed or the disk is full.
    """
    written = []
    for source in _sources(folder):
        notebook = build(source)
        import nbformat  # comes with jupytext, whose absence `build` explains

        target = source.with_suffix(".ipynb")
        write_text(target, nbformat.writes(notebook) + "\n")
        written.append(target)
    return written


def stale(folder: Path) -> list[str]:
    """One line for each `.ipynb` that is missing, left over or not what its `.py` gives.

    Raises:
        HorkdError: if the folder holds no notebook, or jupytext is not installed.
    """
    sources = _sources(folder)
    lines = [_difference(source) for source in sources]
    left_over = set(folder.glob("*.ipynb")) - {source.with_suffix(".ipynb") for source in sources}
    lines += [f"{target.name} has no {target.stem}.py" for target in sorted(left_over)]
    return [line for line in lines if line]


def _sources(folder: Path) -> list[Path]:
    sources = sorted(folder.glob("[0-9][0-9]_*.py"))
    if not sources:
        raise HorkdError(f"no notebook NN_name.py in {folder}: run this in a checkout of horkd")
    return sources


def _difference(source: Path) -> str:
    """What sets the stored notebook apart from the one its source gives; empty if nothing does."""
    fresh, target = build(source), source.with_suffix(".ipynb")
    if not target.exists():
        return f"{target.name} is missing"
    import nbformat
    from jupytext.compare import NotebookDifference, compare_notebooks

    try:
        stored = nbformat.read(target, as_version=4)
    except Exception:  # a damaged file raises whatever its first unexpected entry leads to
        return f"{target.name} cannot be read as a notebook"
    try:
        compare_notebooks(stored, fresh, "ipynb", compare_outputs=True, compare_ids=True)
    except NotebookDifference as error:
        reason = str(error).strip().splitlines()[0].rstrip(": ")
        return f"{target.name} is not what {source.name} gives ({reason})"
    return ""


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code (0 fine, 1 stale, 2 bad input)."""
    parser = argparse.ArgumentParser(
        prog="python -m horkd.notebooks", description="Pair notebooks."
    )
    parser.add_argument(
        "--check", action="store_true", help="compare only, and exit 1 if one is stale"
    )
    parser.add_argument("--folder", type=Path, help="where they are (default: notebooks/)")
    options = parser.parse_args(arguments)
    folder = options.folder or paths.root() / "notebooks"
    try:
        if not options.check:
            for target in write(folder):
                print(target)
            return 0
        lines = stale(folder)
    except HorkdError as error:
        print(error, file=sys.stderr)
        return 2
    for line in lines:
        print(f"{line}; run `make notebooks`", file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
