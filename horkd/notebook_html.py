"""An executed notebook as one small HTML page that needs no network and runs no script.

nbconvert's own pages load MathJax, require.js and the widget manager from the web and carry 270 kB
of style sheets each. Here its bare `basic` template is used; equations become pictures (drawn by
matplotlib's mathtext, their TeX as the alternative text), a widget is replaced by the output it
captured when the notebook ran, and the machine's own paths are taken out.
"""

import base64
import html
import io
import os
import re
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from horkd import paths

if TYPE_CHECKING:
    from nbformat import NotebookNode

LARGE_PICTURE = 150_000  # bytes; a larger PNG is redrawn with at most 256 colours
PICTURE_SIDE = 1200  # pixels; the longer side of a redrawn PNG

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_STATE = "application/vnd.jupyter.widget-state+json"

STYLE = """
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1b1b; background: #fff;
       font: 16px/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
pre, code { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
pre { font-size: 13px; line-height: 1.4; overflow-x: auto; margin: 0; white-space: pre-wrap; }
.input_area { background: #f6f7f8; border-left: 3px solid #9bb; padding: .5rem .8rem; }
.input, .output_wrapper { margin: .7rem 0; }
.output_area { margin: .4rem 0; overflow-x: auto; }
.prompt, .anchor-link { display: none; }
.output_stderr { background: #fdf3f1; }
img { max-width: 100%; }
.rendered_html table { border-collapse: collapse; font-size: 14px; }
.rendered_html th, .rendered_html td { padding: .2rem .6rem; border-bottom: 1px solid #ddd; }
blockquote { margin-left: 0; padding-left: 1rem; border-left: 3px solid #ddd; color: #555; }
.equation { text-align: center; margin: .8rem 0; }
.note { color: #666; font-size: 13px; }
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style></head>
<body>
{body}
</body>
</html>
"""


def to_html(notebook: "NotebookNode", title: str) -> str:
    """The page of an executed notebook.

    Args:
        notebook: as papermill leaves it; not changed.
        title: the page's title.

    Returns:
        A whole HTML document: style and pictures inside, no script, no address to load from.
    """
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    notebook = _prepared(notebook)
    exporter = HTMLExporter(template_name="basic", exclude_anchor_links=True)
    body, _ = exporter.from_notebook_node(notebook)
    style = STYLE + HtmlFormatter(style="default").get_style_defs(".highlight")
    return PAGE.format(title=html.escape(title), style=style, body=body)


def without_paths(text: str) -> str:
    """The text without this machine's folders: `.` for the checkout, `~` for home, `$HORKD_…`."""
    names = {str(paths.root()): ".", str(Path.home()): "~"}
    for variable in ("HORKD_DATA", "HORKD_RUNS", "HORKD_REPORTS", "HORKD_CACHE"):
        if os.environ.get(variable, "").strip():
            names[str(Path(os.environ[variable]).expanduser().resolve())] = f"${variable}"
    for folder in sorted(names, key=len, reverse=True):
        if len(folder) > 1:
            whole = rf"(?<![\w.-]){re.escape(folder)}(?![\w.-])"  # not /home/me in /home/me2
            text = re.sub(whole, names[folder].replace("\\", r"\\"), text)
    return text


def _prepared(notebook: "NotebookNode") -> "NotebookNode":
    """A copy with equations drawn, widgets resolved, large pictures redrawn, paths taken out."""
    notebook = deepcopy(notebook)
    widgets = notebook.metadata.pop("widgets", {}).get(WIDGET_STATE, {}).get("state", {})
    for cell in notebook.cells:
        cell.source = without_paths(cell.source)
        if cell.cell_type == "markdown":
            cell.source = draw_equations(cell.source)
        if cell.cell_type == "code":
            resolved = [r for o in cell.outputs for r in _without_widget(o, widgets)]
            cell.outputs = [_presentable(output) for output in resolved]
    return notebook


def _without_widget(output: "NotebookNode", widgets: dict[str, Any]) -> list["NotebookNode"]:
    """The output itself, or what a widget captured: a control keeps its first view, a bar goes."""
    from nbformat.v4 import new_output

    data = output.get("data", {})
    if "application/javascript" in data:
        return []
    if WIDGET_VIEW not in data:
        return [output]
    captured = _captured(data[WIDGET_VIEW].get("model_id", ""), widgets)
    if not captured:
        return []
    note = '<p class="note">Interactive in JupyterLab; this is the view it starts with.</p>'
    return [*captured, new_output("display_data", data={"text/html": note})]


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
    if "text/markdown" in data:
        data["text/markdown"] = draw_equations(data["text/markdown"])
    if "text/latex" in data:  # would be shown as bare TeX
        data["text/html"] = draw_equations(data.pop("text/latex"))
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


# Equations ---------------------------------------------------------------------------------------

_CODE_OR_MATH = re.compile(
    r"(?P<code>```.*?```|~~~.*?~~~|`[^`\n]*`)"
    r"|\$\$(?P<display>.+?)\$\$"
    r"|(?<![\\$\w])\$(?P<inline>[^\s$](?:[^$\n]*[^\s$\\])?)\$(?![\w$])",
    re.DOTALL,
)
# What mathtext lacks but does not need.
_SYNONYMS = {
    r"\lVert": r"\Vert ", r"\rVert": r"\Vert ", r"\lvert": r"\vert ", r"\rvert": r"\vert ",
    r"\tfrac": r"\frac", r"\bigl": "", r"\bigr": "", r"\Bigl": "", r"\Bigr": "", r"\big": "",
    r"\Big": "", r"\limits": "", r"\nonumber": "",
}  # fmt: skip
_POINTS, _DPI = 12, 200


def draw_equations(markdown: str) -> str:
    """Markdown with `$…$` and `$$…$$` outside code replaced by pictures of the equations.

    TeX that mathtext cannot draw stays readable, as code.
    """

    def replace(match: re.Match) -> str:
        if match["code"] is not None:
            return match["code"]
        if match["display"] is not None:
            lines = "<br>".join(_picture(line) for line in _lines(match["display"]))
            return f'<div class="equation">{lines}</div>'
        return _picture(match["inline"])

    return _CODE_OR_MATH.sub(replace, markdown)


def _lines(tex: str) -> list[str]:
    """The rows of an equation, an `aligned` environment being one picture per row."""
    tex = re.sub(r"\\(begin|end)\{(aligned|align\*?|split|gathered|equation\*?)\}", "", tex)
    tex = re.sub(r"\\tag\{([^}]*)\}", r"\\qquad\\mathrm{(\1)}", tex).replace("&", "")
    tex = tex.replace(r"\frac", r"\dfrac")  # full size, as TeX sets displayed fractions
    return [" ".join(row.split()) for row in tex.split(r"\\") if row.strip()]


def _picture(tex: str) -> str:
    """An `<img>` of one equation, set on the text's baseline; `<code>` if it cannot be drawn."""
    from matplotlib import mathtext
    from matplotlib.font_manager import FontProperties
    from PIL import Image

    plain = re.sub(r"\\[A-Za-z]+", lambda m: _SYNONYMS.get(m[0], m[0]), tex)
    font = FontProperties(size=_POINTS, math_fontfamily="stix")
    buffer = io.BytesIO()
    try:
        depth = mathtext.math_to_image(f"${plain}$", buffer, prop=font, dpi=_DPI, format="png")
    except ValueError:
        return f"<code>{html.escape(tex)}</code>"
    height = Image.open(buffer).height / _DPI * 72 / _POINTS
    encoded = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<img alt="{html.escape(tex)}" src="data:image/png;base64,{encoded}" '
        f'style="height:{height:.2f}em;vertical-align:{-depth / _POINTS:.2f}em">'
    )
