"""Figures of the study of faces."""

from collections.abc import Mapping, Sequence

import numpy as np
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from horkd.studies.faces.tables import Tested, tested
from horkd.studies.results import Results

#: How a line is drawn (`Tested.line`): its name, colour, dashes and marker.
LINES = {
    "teacher": ("teacher, fed enlarged images", "#000000", "-", "s"),
    "student": ("student", "#D55E00", "-", "o"),
    "alone": ("student, labels only", "#999999", "--", "^"),
    "tuned": ("teacher's weights, tuned", "#009E73", "-", "D"),
    "no labels": ("student, no labels", "#0072B2", "-.", "v"),
}


def panels(results: Results) -> dict[int, list[Tested]]:
    """The networks that figures show, by resolution, the full one first."""
    found: dict[int, list[Tested]] = {}
    for row in tested(results):
        if row.line:
            found.setdefault(row.pixels, []).append(row)
    return dict(sorted(found.items(), reverse=True))


def plot_roc(rows: Sequence[Tested], ax: Axes) -> None:
    """TAR against FAR of the first seeds, on a logarithmic axis down to one false accept."""
    lowest = 1.0
    for row in rows:
        _, color, dashes, _ = LINES[row.line]
        found: Mapping = row.results[0]
        far, tar = np.array(found["roc"]["far"]), np.array(found["roc"]["tar"])
        one = 1 / found["tar"][0]["n_different"]
        lowest = min(lowest, one)
        # what lies left of one false accept is drawn at the axis
        ax.step(np.maximum(far, one), 100 * tar, dashes, where="post", color=color, lw=1.6,
                label=f"{row.label} (AUC {found['auc']:.3f})")  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlim(lowest, 1)
    ax.set_ylim(0, 101)
    ax.set_xlabel("false accept rate")
    ax.set_ylabel("true accept rate (%)")
    ax.legend(frameon=False, fontsize=8, loc="best")
    sns.despine(ax=ax)


def plot_faces(results: Results, ax: Axes) -> None:
    """Accuracy against resolution: a line for the teacher, marks for the networks trained here."""
    rows = tested(results)
    pixels = sorted({row.pixels for row in rows})
    teacher = sorted((r for r in rows if r.line == "teacher"), key=lambda row: row.pixels)
    name, color, _, marker = LINES["teacher"]
    ax.plot([pixels.index(r.pixels) for r in teacher], [np.mean(r.accuracies) for r in teacher],
            f"{marker}-", color=color, label=name)  # fmt: skip
    shown = set()
    for row in rows:
        if row.line in ("", "teacher"):
            continue
        name, color, _, marker = LINES[row.line]
        x = [pixels.index(row.pixels)] * len(row.accuracies)
        ax.plot(x, row.accuracies, marker, color=color, ms=7, mec="white", ls="none",
                label=None if name in shown else name)  # fmt: skip
        shown.add(name)
    ax.set_xticks(range(len(pixels)), pixels)
    ax.set_xlabel("resolution (px)")
    ax.set_ylabel("verification accuracy (%)")
    ax.legend(frameon=False, fontsize=8.5, loc="lower right")
    sns.despine(ax=ax)


def draw_faces(results: Results) -> Figure:
    """Accuracy by resolution, and the ROC curves of the largest five."""
    figure = plt.figure(figsize=(12, 7.2))
    grid = figure.add_gridspec(2, 3)
    first = figure.add_subplot(grid[0, 0])
    plot_faces(results, first)
    preset = results.preset
    first.set_title(f"{preset.teacher} → {preset.compact}, {preset.data}")
    for place, (pixels, rows) in enumerate(list(panels(results).items())[:5], 1):
        ax = figure.add_subplot(grid[place // 3, place % 3])
        plot_roc(rows, ax)
        ax.set_title(f"{pixels} px")
    return figure
