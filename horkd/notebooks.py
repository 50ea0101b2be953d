"""Executed notebooks fit to be kept, and the command that makes notebooks from their source.

    python -m horkd.notebooks           # write every .ipynb anew
    python -m horkd.notebooks --check   # exit 1, naming them, if some are not what their .py gives

`horkd.notebook_pairs` says what a pair is. Needs the `notebook` extra.
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
from horkd.notebook_pairs import plain, stale, write

if TYPE_CHECKING:
    from nbformat import NotebookNode

LARGE_PICTURE = 150_000  # bytes; a larger PNG is redrawn with at most 256 colours
PICTURE_SIDE = 1200  # pixels; the longer side of a redrawn PNG

_WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_WIDGET_STATE = "application/vnd.jupyter.widget-state+json"


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
    return plain(notebook)


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
        print(line, file=sys.stderr)
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
