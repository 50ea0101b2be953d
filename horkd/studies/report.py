"""Records to tables and figures. Everything here is a function of finished runs.

A notebook passes `out`, the folder of its report. An empty `out` shows and writes nothing.

    <out>/tables/<name>.csv, .md      figures/<name>.png
          records/<run>.json          summaries/<notebook>.md
"""

import io
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from horkd import storage
from horkd.lab.store import Run
from horkd.studies.arm import Arm

#: One colour per role, distinguishable for colour-blind readers (Okabe and Ito).
COLORS = {
    "teacher": "#000000",
    "assistant": "#0072B2",
    "student": "#D55E00",
    "student alone": "#999999",
    "student direct": "#CC79A7",
    "assistant alone": "#56B4E9",
}


TERM_COLORS = {
    "cross_entropy": "#999999",
    "order1": "#E69F00",
    "order2": "#56B4E9",
    "order3": "#009E73",
    "order_c": "#D55E00",
    "kd": "#0072B2",
    "kd_standardised": "#CC79A7",
    "fitnet": "#F0E442",
    "at": "#000000",
    "triplet": "#999999",
    "pkt": "#332288",
    "darkrank": "#882255",
    "mkd_absolute": "#44AA99",
    "mkd_relative": "#DDCC77",
}


TERM_NAMES = {
    "cross_entropy": "cross-entropy",
    "order1": "order 1",
    "order2": "order 2",
    "order3": "order 3",
    "order_c": "order C",
    "kd": "KD",
    "kd_standardised": "standardised KD",
    "fitnet": "FitNet",
    "at": "AT",
    "triplet": "triplet loss",
    "pkt": "PKT",
    "darkrank": "DarkRank",
    "mkd_absolute": "MKD absolute",
    "mkd_relative": "MKD relative",
}


def style() -> None:
    """The look of every figure and table."""
    pd.set_option("display.max_colwidth", None)
    pd.set_option("display.max_columns", None)
    sns.set_theme(context="notebook", style="whitegrid", font="DejaVu Sans", rc={
        "figure.dpi": 100,
        "savefig.dpi": 130,
        "savefig.bbox": "tight",
        "figure.constrained_layout.use": True,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.labelsize": 10,
    })  # fmt: skip


def save_figure(figure: Figure, out: str | Path, name: str) -> None:
    """Write `figures/<name>.png`, the same bytes for the same figure."""
    if not out:
        return
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    with storage.replacing(Path(out) / "figures" / f"{name}.png") as temporary:
        # opaque: without the alpha channel it is a tenth smaller
        Image.open(drawn).convert("RGB").save(temporary, "PNG", optimize=True)


def save_table(table: pd.DataFrame, out: str | Path, name: str) -> pd.DataFrame:
    """Write `tables/<name>.csv` and `.md`; cells that are text in the Markdown are text in both.

    Returns:
        The table, to be shown.
    """
    if out:
        folder = Path(out) / "tables"
        storage.write_text(folder / f"{name}.csv", table.to_csv(index=False))
        storage.write_text(folder / f"{name}.md", markdown(table) + "\n")
    return table


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table whose cells stand as they are: "1.00" does not become 1."""
    return table.to_markdown(index=False, disable_numparse=True)


def save_records(runs: Iterable[Run], out: str | Path) -> None:
    """Copy records, with tests on other images, to `records/`: no number without one."""
    if not out:
        return
    for run in runs:
        for source, ending in (
            ("record.json", ".json"),
            ("views.json", ".views.json"),
            ("open_set.json", ".open_set.json"),
        ):
            target = Path(out) / "records" / f"{run.config.name}{ending}"
            if (run.folder / source).is_file():
                with storage.replacing(target) as temporary:
                    shutil.copyfile(run.folder / source, temporary)


def save_summary(
    out: str | Path, name: str, text: str, figures: Mapping[str, str] | None = None
) -> None:
    """Write `summaries/<name>.md`, what the report's index page quotes of a notebook.

    Args:
        out: the report's folder.
        name: of the notebook.
        text: Markdown.
        figures: name -> what it shows, of figures below the text.
    """
    shown = [f"![{what}](figures/{figure}.png)" for figure, what in (figures or {}).items()]
    if out:
        content = "\n\n".join([text.strip(), *shown])
        storage.write_text(Path(out) / "summaries" / f"{name}.md", content + "\n")


def explore(draw: Callable[..., Figure], **controls: Any) -> None:
    """Show a figure with controls that draw it anew; without a front end, with their first values.

    Args:
        draw: takes the controls' values by name.
        controls: ipywidgets.
    """
    import ipywidgets
    from IPython.display import display

    def drawn() -> Figure:
        figure = draw(**{name: control.value for name, control in controls.items()})
        plt.close(figure)  # shown below, once
        return figure

    layout = {"flex_flow": "wrap"}
    display(ipywidgets.HBox(list(controls.values()), layout=layout))
    shown = display(drawn(), display_id=True)
    for control in controls.values():
        control.observe(lambda _: shown.update(drawn()), names="value")


def plot_gradient_shares(run: Run, ax: Axes) -> None:
    """Each term's share of the gradient at the learner's features, by epoch."""
    history = run.record["history"]
    terms = list(history[0]["gradient_shares"])
    x = [entry["epoch"] for entry in history]
    y = [[100 * entry["gradient_shares"][term] for entry in history] for term in terms]
    bottom = np.zeros(len(x))
    for term, values in zip(terms, y, strict=True):
        ax.bar(
            x,
            values,
            bottom=bottom,
            color=TERM_COLORS.get(term),
            label=TERM_NAMES.get(term, term),
            width=0.8,
        )
        bottom += values
    ax.set_xlabel("epoch")
    ax.set_ylabel("share of the gradient at the features (%)")
    ax.set_ylim(0, 100)
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    ax.grid(axis="x", visible=False)
    ax.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))


def plot_images(axes: Sequence[Axes], images: np.ndarray, titles: Sequence[str] = ()) -> None:
    """Show uint8 images (N, H, W, 3), one per axis, each pixel a square."""
    for index, (ax, image) in enumerate(zip(axes, images, strict=False)):
        ax.imshow(image, interpolation="nearest")
        ax.set_xticks([])
        ax.set_yticks([])
        ax.grid(visible=False)
        for spine in ax.spines.values():
            spine.set_visible(False)
        if index < len(titles):
            ax.set_title(titles[index], fontsize=9, loc="center")


def describe_arms(arms: Mapping[str, Arm]) -> pd.DataFrame:
    """What each arm is."""
    return pd.DataFrame({"arm": list(arms), "what it is": [arm.what for arm in arms.values()]})
