"""Notebooks as files: made from their source, and executed ones fit to be kept.

`NN_name.py` (py:percent) is the source of `NN_name.ipynb`:

    python -m horkd.notebooks           # write every .ipynb anew
    python -m horkd.notebooks --check   # exit 1, naming them, if some are not what their .py gives

A notebook made here holds no times or versions, and its cells are numbered by position, so the same
source and the same results give the same bytes. Needs the `notebook` extra.
"""

import argparse
import base64
import io
import os
import re
import sys
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from horkd import paths
from horkd.errors import HorkdError, printable_output
from horkd.storage import write_text

if TYPE_CHECKING:
    from nbformat import NotebookNode

# papermill starts this kernel, and reads the language from here.
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}

LARGE_PICTURE = 150_000  # bytes; a larger PNG is redrawn with at most 256 colours
PICTURE_SIDE = 1200  # pixels; the longer side of a redrawn PNG

_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_WIDGET_STATE = "application/vnd.jupyter.widget-state+json"


# Pairs -------------------------------------------------------------------------------------------


def build(source: str | Path) -> "NotebookNode":
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
    return _plain(notebook)


def _plain(notebook: "NotebookNode") -> "NotebookNode":
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
        HorkdError: if the folder holds no notebook, jupytext is not installed or the disk is full.
    """
    folder = Path(folder)
    written = []
    for source in _sources(folder):
        target = source.with_suffix(".ipynb")
        write_text(target, as_text(build(source)))
        written.append(target)
    return written


def stale(folder: str | Path) -> list[str]:
    """One line for each `.ipynb` that is missing, left over or not what its `.py` gives.

    Raises:
        HorkdError: if the folder holds no notebook, or jupytext is not installed.
    """
    folder = Path(folder)
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
    fresh, target = as_text(build(source)), source.with_suffix(".ipynb")
    if not target.exists():
        return f"{target.name} is missing"
    same = target.read_bytes() == fresh.encode()
    return "" if same else f"{target.name} is not what {source.name} gives"


# Executed notebooks ------------------------------------------------------------------------------


def executed(notebook: "NotebookNode") -> "NotebookNode":
    """An executed notebook as a report keeps it.

    Widgets are replaced by what they first showed, large pictures are redrawn, and the machine's
    folders, times and versions are taken out.

    Args:
        notebook: as papermill leaves it; not changed.
    """
    notebook = deepcopy(notebook)
    widgets = notebook.metadata.get("widgets", {}).get(_WIDGET_STATE, {}).get("state", {})
    for cell in notebook.cells:
        cell.source = without_paths(cell.source)
        if cell.cell_type == "code":
            resolved = [r for o in cell.outputs for r in _without_widget(o, widgets)]
            cell.outputs = [_presentable(output) for output in resolved]
    return _plain(notebook)


def without_paths(text: str) -> str:
    """The text without this machine's folders: `.` for the checkout, `~` for home, `$HORKD_…`."""
    names = {str(paths.root()): ".", os.path.expanduser("~"): "~"}
    for variable in paths.SETTINGS:
        if value := os.environ.get(variable, "").strip():
            names[str(paths.typed_path(value, variable).resolve())] = f"${variable}"
    for folder in sorted(names, key=len, reverse=True):
        if len(folder) > 1:
            whole = rf"(?<![\w.-]){re.escape(folder)}(?![\w.-])"  # not /home/me in /home/me2
            text = re.sub(whole, names[folder].replace("\\", r"\\"), text)
    return text


def _without_widget(output: "NotebookNode", widgets: dict[str, Any]) -> list["NotebookNode"]:
    """The output itself, or what a widget captured: a control keeps its first view, a bar goes."""
    from nbformat.v4 import new_output

    data = output.get("data", {})
    if "application/javascript" in data:
        return []
    if _WIDGET_VIEW not in data:
        return [output]
    captured = _captured(data[_WIDGET_VIEW].get("model_id", ""), widgets)
    if not captured:
        return []
    note = "*Interactive in JupyterLab; this is the view it starts with.*"
    return [*captured, new_output("display_data", data={"text/markdown": note})]


def _captured(model_id: str, widgets: dict[str, Any]) -> list["NotebookNode"]:
    """What the Output and Image widgets at or below a widget hold, in order."""
    from nbformat import from_dict
    from nbformat.v4 import new_output

    model = widgets.get(model_id, {})
    state = model.get("state", {})
    if model.get("model_name") == "OutputModel":
        return [from_dict(output) for output in state.get("outputs", [])]
    if model.get("model_name") == "ImageModel":
        pictures = [b["data"] for b in model.get("buffers", []) if b["path"] == ["value"]]
        return [new_output("display_data", data={"image/png": picture}) for picture in pictures]
    children = [child.removeprefix("IPY_MODEL_") for child in state.get("children", [])]
    return [output for child in children for output in _captured(child, widgets)]


def _presentable(output: "NotebookNode") -> "NotebookNode":
    """One output with overwritten progress lines, large pictures and paths dealt with."""
    if output.output_type == "stream":
        lines = (line.rstrip("\r").rpartition("\r")[2] for line in output.text.split("\n"))
        output.text = without_paths("\n".join(lines))
    data = output.get("data", {})
    for kind in ("text/plain", "text/html", "text/markdown"):
        if kind in data:
            data[kind] = without_paths("".join(data[kind]))
    if output.output_type == "error":
        output.evalue = without_paths(output.evalue)
        output.traceback = [without_paths(line) for line in output.traceback]
    if "image/png" in data:
        data["image/png"] = _smaller_png(data["image/png"])
    return output


def _smaller_png(encoded: str) -> str:
    """A base64 PNG, redrawn with at most 256 colours and `PICTURE_SIDE` pixels if it is large."""
    from PIL import Image

    raw = base64.b64decode(encoded)
    if len(raw) <= LARGE_PICTURE:
        return encoded
    picture = Image.open(io.BytesIO(raw)).convert("RGBA")
    flat = Image.new("RGB", picture.size, "white")
    flat.paste(picture, mask=picture.getchannel("A"))
    flat.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    buffer = io.BytesIO()
    flat.quantize(256, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return min(encoded, base64.b64encode(buffer.getvalue()).decode(), key=len)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code (0 fine, 1 stale, 2 bad input)."""
    printable_output()
    parser = argparse.ArgumentParser(
        prog="python -m horkd.notebooks", description="Pair notebooks."
    )
    parser.add_argument(
        "--check", action="store_true", help="compare only, and exit 1 if one is stale"
    )
    parser.add_argument("--folder", type=Path, help="where they are (default: notebooks/)")
    options = parser.parse_args(arguments)
    try:
        folder = paths.typed_path(options.folder or paths.root() / "notebooks")
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
