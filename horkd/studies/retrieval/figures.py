"""Figures of the study of metric learning."""

from collections.abc import Sequence

import numpy as np
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from horkd import paper
from horkd.data.retrieval import plain_name
from horkd.studies.results import Results
from horkd.studies.retrieval.tables import Across, across_rows, sizes_of, tested

#: How a line of Fig. 3 is drawn (`Tested.line`): label, colour, marker, dashes.
LINES = {
    "teacher": ("teacher, fed enlarged images", "#000000", "D", "--"),
    "student": ("from the assistant", "#D55E00", "o", "-"),
    "direct": ("from the teacher", "#CC79A7", "^", "-"),
    "alone": ("labels only", "#999999", "s", "-"),
    "raw": ("raw pixels, no network", "#56B4E9", "v", ":"),
}


_SETS = (("cars", "Cars196", "#0072B2", "o"), ("cub", "CUB-200-2011", "#009E73", "^"),
         ("sop", "SOP", "#E69F00", "s"))  # fmt: skip


_BELOW = {"frameon": False, "fontsize": 8.5, "loc": "upper center", "handletextpad": 0.3,
          "columnspacing": 1.0}  # fmt: skip


def plot_metric(results: Results, ax: Axes) -> None:
    """Fig. 3 from our runs: Recall@1 against the student's resolution, mean and seeds."""
    rows = tested(results)
    pixels = sorted({row.pixels for row in rows})
    for line, (label, color, marker, dashes) in LINES.items():
        found = {row.pixels: row.rates() for row in rows if row.line == line}
        order = sorted(found)
        if not order:
            continue
        x = [pixels.index(r) for r in order]
        ax.plot(x, [np.mean(found[r]) for r in order], marker=marker, color=color, label=label,
                ms=6, mec="white", ls=dashes)  # fmt: skip
        for place, r in zip(x, order, strict=True):
            if len(found[r]) > 1:
                ax.vlines(place, min(found[r]), max(found[r]), color=color, lw=1.2)
    ax.set_xticks(range(len(pixels)), pixels)
    ax.set_xlabel("resolution (px); bars: lowest to highest seed")
    ax.set_ylabel("Recall@1 (%)")
    ax.margins(y=0.08)
    ax.set_ylim(bottom=0)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(bbox_to_anchor=(0.45, -0.16), ncols=2, **_BELOW)
    sns.despine(ax=ax)


def plot_table4(ax: Axes) -> None:
    """Fig. 3 as printed in Table 4: the paper's students against their resolution."""
    students = [row for row in paper.TABLE_4 if row.model.startswith("OUR")]
    pixels = sorted(row.resolution for row in students)
    place = {r: i for i, r in enumerate(pixels)}
    teacher = next(row for row in paper.TABLE_4 if row.model.startswith("Teacher"))
    for name, label, color, marker in _SETS:
        values = {row.resolution: getattr(row, name) for row in students}
        ax.plot(range(len(pixels)), [values[r] for r in pixels], marker=marker, color=color,
                label=label)  # fmt: skip
        ax.axhline(getattr(teacher, name), color=color, lw=1, ls=":")
    ax.set_xticks([place[r] for r in pixels], pixels)
    ax.set_xlabel("resolution (px); dotted: their teachers at 256 px")
    ax.set_ylabel("Recall@1 (%)")
    ax.margins(y=0.08)
    ax.set_ylim(bottom=0)
    ax.legend(bbox_to_anchor=(0.45, -0.16), ncols=3, **_BELOW)
    sns.despine(ax=ax)


def plot_across(rows: Sequence[Across], ax: Axes) -> None:
    """Recall@1 of students in their own index and in the teacher's, mean over seeds."""
    kinds = (
        ("its own index", "alone", "#999999", "s", -0.18),
        ("teacher's, aligned", "aligned", "#0072B2", "o", 0.0),
        ("teacher's, as it is", "as_is", "#D55E00", "X", 0.18),
    )
    for label, name, color, marker, shift in kinds:
        there = [(at, getattr(row, name)) for at, row in enumerate(rows)]
        there = [(at + shift, np.mean(values)) for at, values in there if values is not None]
        if there:
            y, x = zip(*there, strict=True)
            ax.plot(x, y, marker, color=color, ms=7, mec="white", ls="none", label=label)
    labels = [f"{row.label} (n = {len(row.alone)})" for row in rows]
    ax.set_yticks(range(len(rows)), labels, fontsize=8.5)
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.set_xlabel("Recall@1 (%)")
    if rows:
        ax.legend(bbox_to_anchor=(0.35, -0.16), ncols=3, **_BELOW)
    sns.despine(ax=ax)


def draw_metric(results: Results) -> Figure:
    """Fig. 3 here and as printed, and queries in two indices."""
    sizes = sizes_of(results.preset)
    main = sizes.lows[0]
    figure, axes = plt.subplots(1, 3, figsize=(14.5, 5), layout="constrained")
    plot_metric(results, axes[0])
    networks = f"{sizes.teacher} → {sizes.compact}".replace("torchvision:", "")
    axes[0].set_title(f"here: {networks}, {plain_name(sizes.data)}", fontsize=11)
    plot_table4(axes[1])
    axes[1].set_title("the paper: ResNet50 → ResNet18", fontsize=11)
    plot_across([row for row in across_rows(results) if row.pixels == main], axes[2])
    axes[2].set_title(f"queries of {main} px in two indices", fontsize=11)
    return figure


RIGHT, WRONG = "#009E73", "#D55E00"


def plot_neighbours(
    queries: np.ndarray,
    found: Sequence[tuple[str, np.ndarray, np.ndarray]],
    axes: Sequence[Sequence[Axes]],
) -> None:
    """Queries and their nearest images: a green frame and ✓ where the class is right, else ✗.

    Args:
        queries: uint8 (Q, H, W, 3).
        found: per network its title, its neighbours uint8 (Q, K, H, W, 3) and whether they are
            right, bool (Q, K).
        axes: Q rows of one axis for the query and, for each network, one that stays empty and K.
    """
    for row, line in enumerate(axes):
        images = [queries[row]]
        marks: list[bool | None] = [None]
        for _, neighbours, right in found:
            images += [None, *neighbours[row]]
            marks += [None, *(bool(r) for r in right[row])]
        for ax, image, mark in zip(line, images, marks, strict=True):
            if image is None:
                ax.set_axis_off()
                continue
            ax.imshow(image, interpolation="nearest")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.grid(visible=False)
            for spine in ax.spines.values():
                spine.set_visible(mark is not None)
                spine.set(color=RIGHT if mark else WRONG, linewidth=3)
            if mark is not None:
                ax.text(0.04, 0.04, "✓" if mark else "✗", transform=ax.transAxes, fontsize=11,
                        color="white", va="bottom", weight="bold",
                        bbox={"color": RIGHT if mark else WRONG, "pad": 1})  # fmt: skip
    axes[0][0].set_title(f"query, {queries.shape[2]} px", fontsize=10)
    at = 2
    for title, neighbours, _ in found:
        # not a title: wider than its axis, it would stretch the column
        axes[0][at].annotate(title, (0, 1), (0, 5), "axes fraction", "offset points", fontsize=10,
                             annotation_clip=False).set_in_layout(False)  # fmt: skip
        at += neighbours.shape[1] + 1
