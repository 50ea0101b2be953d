"""The main figure of each study, drawn from finished runs."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from horkd import paper
from horkd.losses import ORDERS as TERMS
from horkd.studies import report
from horkd.studies.arm import ORDERS, subset_name
from horkd.studies.claims import mean_and_spread
from horkd.studies.classification.presets import FULL
from horkd.studies.classification.tables import (
    ablations,
    at_resolution,
    crossed,
    effects,
    fed,
    in_braces,
    resolutions,
    shares,
    swapped,
    validation,
)
from horkd.studies.report import COLORS, TERM_COLORS, TERM_NAMES
from horkd.studies.results import Results


def plot_two_stage(results: Results, ax: Axes) -> None:
    """Test top-1 of every arm: one dot per seed, a bar at the mean."""
    names = list(results)[::-1]
    for row, arm in enumerate(names):
        values = results.values(arm)
        ax.barh(row, np.mean(values), color=COLORS[arm], alpha=0.75, height=0.62)
        ax.plot(values, [row] * len(values), "o", ms=5, mfc="white", mec="black", mew=1)
        ax.annotate(
            mean_and_spread(values), (max(values), row), (8, 0), textcoords="offset points",
            va="center", fontsize=9,
        )  # fmt: skip
    labels = [f"{arm}, {results.config(arm).degradation.size} px" for arm in names]
    ax.set_yticks(range(len(names)), labels)
    ax.set_xlabel("test top-1 accuracy (%); dots are seeds")
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.2)
    ax.set_xlim(left=0)
    sns.despine(ax=ax, left=True)


def plot_learning_curves(results: Results, ax: Axes) -> None:
    """Validation top-1 after every epoch; a thin line per seed."""
    for arm in results:
        for index, run in enumerate(results.runs(arm)):
            if validation(run) is None:
                continue
            x, y = _validation_curve(run)
            ax.plot(x, y, color=COLORS[arm], lw=1.6, alpha=0.85, label=arm if not index else None)
    ax.set_xlabel("epoch")
    ax.set_ylabel("validation top-1 (%)")
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=9)


def _validation_curve(run) -> tuple[list[int], list[float]]:
    """Epochs and validation top-1 (%)."""
    history = run.record["history"]
    return [e["epoch"] for e in history], [e["validation"]["top1"] for e in history]


#: Families of arms, with colours that colour-blind readers can tell apart (Okabe and Ito).
FAMILIES = {
    "teacher": "#000000",
    "labels only": "#999999",
    "hybrid orders": "#D55E00",
    "other distillation": "#0072B2",
    "horkd+ and its parts": "#009E73",
    "fed small images": "#E69F00",
}


def family(results: Results, arm: str) -> str:
    """The family that an arm is drawn as."""
    if results.is_teacher(arm):
        return "teacher"
    config = results.config(arm)
    if not (config.orders or config.baselines):
        return "labels only"
    balanced = config.balance and not results.preset.balance
    if balanced or config.warmup or (config.orders and config.baselines):
        return "horkd+ and its parts"
    if config.baselines or config.reduction == "rkd":
        return "other distillation"
    return "hybrid orders"


def plot_methods(results: Results, pixels: int, ax: Axes) -> None:
    """Test top-1 of every arm at one resolution, the best first; a dot per seed."""
    rows = [
        (arm, results.values(arm), family(results, arm))
        for arm in results
        if results.config(arm).degradation.size == pixels
    ]
    if pixels == results.preset.low:
        rows += [
            (label, [seen["test"]["top1"]], "fed small images")
            for label, seen in fed(results).items()
        ]
    rows.sort(key=lambda row: np.mean(row[1]))
    for y, (_, values, kind) in enumerate(rows):
        color = FAMILIES[kind]
        ax.plot([0, np.mean(values)], [y, y], color=color, lw=1.2, alpha=0.5)
        ax.plot(values, [y] * len(values), "o", ms=4, mfc="none", mec=color, mew=1)
        ax.plot(np.mean(values), y, "D", ms=5, color=color)
        ax.annotate(
            mean_and_spread(values), (max(values), y), (7, 0), textcoords="offset points",
            va="center", fontsize=8,
        )  # fmt: skip
    ax.set_yticks(range(len(rows)), [row[0] for row in rows], fontsize=8.5)
    low = min((min(row[1]) for row in rows), default=0)
    high = max((max(row[1]) for row in rows), default=1)
    margin = max(1.0, 0.25 * (high - low))
    ax.set_xlim(max(0, low - margin), high + 2 * margin)
    ax.set_xlabel("test top-1 (%)")
    ax.set_title(f"{pixels} px")
    ax.grid(axis="y", visible=False)
    sns.despine(ax=ax, left=True)


def plot_cost(results: Results, ax: Axes) -> None:
    """Accuracy against multiply-accumulates of one image, all arms."""
    places = {
        arm: (results.runs(arm)[0].record["cost"]["macs"] / 1e6, np.mean(results.values(arm)))
        for arm in results
    }
    for arm, (x, y) in places.items():
        ax.plot(x, y, "o", ms=6, color=FAMILIES[family(results, arm)], alpha=0.75)
    for seen in fed(results).values():
        y, color = seen["test"]["top1"], FAMILIES["fed small images"]
        ax.plot(seen["macs"] / 1e6, y, "o", ms=6, color=color, alpha=0.75)
    for arm, shift in (("teacher", (-8, 4)), ("assistant", (8, 6)), ("student", (-8, -3))):
        if arm in places:
            label = f"{arm}, {results.config(arm).degradation.size} px"
            ax.annotate(
                label, places[arm], shift, textcoords="offset points", fontsize=8.5,
                ha="right" if shift[0] < 0 else "left",
            )  # fmt: skip
    ax.set_xscale("log")
    ax.xaxis.set_major_formatter(mpl.ticker.FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    ax.margins(x=0.2)
    ax.set_xlabel("multiply-accumulates of one image (millions)")
    ax.set_ylabel("test top-1 (%)")
    handles = [
        mpl.lines.Line2D([], [], marker="o", ls="", color=color, label=name)
        for name, color in FAMILIES.items()
    ]
    ax.legend(handles=handles, frameon=False, fontsize=8.5, loc="best")
    sns.despine(ax=ax)


def plot_paper(ax: Axes) -> None:
    """The paper's Table 1 in a panel of its own."""
    rows = sorted(paper.TABLE_1, key=lambda row: row.top1)
    for y, row in enumerate(rows):
        color = (
            "#000000" if "Teacher" in row.model else "#D55E00" if "OUR" in row.model else "#0072B2"
        )
        ax.plot(row.top1, y, "D" if row.resolution == FULL else "o", ms=6, color=color)
        ax.annotate(
            f"{row.top1:.2f}", (row.top1, y), (7, 0), textcoords="offset points", va="center",
            fontsize=8,
        )  # fmt: skip
    ax.set_yticks(
        range(len(rows)), [f"{row.model}, {row.resolution} px" for row in rows], fontsize=8.5
    )
    ax.margins(x=0.25)
    ax.set_xlabel("top-1 (%)")
    ax.set_title("The paper (ResNet50 → ResNet18, VGG11)")
    ax.grid(axis="y", visible=False)
    sns.despine(ax=ax, left=True)


def plot_subsets(results: Results, pixels: int, axes: Sequence[Axes]) -> None:
    """Subsets of orders, the best first: which orders, test accuracy, shares of the gradient.

    Args:
        results: runs.
        pixels: which resolution.
        axes: three axes side by side that share their rows.
    """
    names, accuracy, gradient = axes
    values = {o: results.values(subset_name(o, pixels)) for o in ablations(results)[pixels]}
    ranked = sorted(values, key=lambda orders: np.mean(values[orders]))
    for y, orders in enumerate(ranked):
        for x, order in enumerate(ORDERS):
            color = TERM_COLORS[TERMS[order]] if order in orders else "#E0E0E0"
            names.plot(x, y, "o", ms=9, color=color)
        mean, best = np.mean(values[orders]), orders == "23C"
        accuracy.barh(y, mean, color="#D55E00" if best else "#999999", height=0.65, alpha=0.8)
        accuracy.annotate(
            mean_and_spread(values[orders]), (mean, y), (4, 0), textcoords="offset points",
            va="center", fontsize=8,
        )  # fmt: skip
        left = 0.0
        for term, share in shares(results.runs(subset_name(orders, pixels))[0]).items():
            gradient.barh(y, share, left=left, color=TERM_COLORS[term], height=0.65)
            left += share
    names.set_xticks(range(len(ORDERS)), ORDERS)
    names.set_yticks(range(len(ranked)), [in_braces(o) for o in ranked], fontsize=8.5)
    names.set_xlim(-0.6, len(ORDERS) - 0.4)
    names.set_xlabel("orders")
    lowest, highest = np.mean(values[ranked[0]]), np.mean(values[ranked[-1]])
    span = highest - lowest
    start = max(0, lowest - 0.3 * span - 0.3)
    accuracy.set_xlim(start, highest + 0.25 * span + 0.3)
    accuracy.set_xlabel("test top-1 (%)" + ("; axis is cut" if start else ""))
    gradient.set_xlim(0, 100)
    gradient.set_xlabel("share of the gradient (%)")
    for ax in axes:
        ax.grid(visible=False)
        ax.set_ylim(-0.7, len(ranked) - 0.3)
        sns.despine(ax=ax, left=True)
    for ax in axes[1:]:
        ax.set_yticks([])
    handles = [
        mpl.patches.Patch(color=TERM_COLORS[term], label=TERM_NAMES[term])
        for term in ("cross_entropy", *TERMS.values())
    ]
    gradient.legend(
        handles=handles, frameon=False, fontsize=8, ncols=3, loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
    )  # fmt: skip


def draw_subsets(results: Results, pixels: int) -> Figure:
    """The subsets at one resolution."""
    count = len(ablations(results)[pixels])
    figure, axes = plt.subplots(
        1, 3, figsize=(12, 0.32 * count + 1.6), width_ratios=(0.55, 1.3, 1.3)
    )
    plot_subsets(results, pixels, axes)
    axes[0].set_title(f"{pixels} px")
    preset = results.preset
    axes[1].set_title(f"{preset.name}, {preset.data}; orange: the paper's best")
    return figure


def plot_effects(results: Results, ax: Axes) -> None:
    """What adding each order does: one dot per pair of subsets, the mean as a bar."""
    found = {pixels: effects(results, pixels) for pixels in ablations(results)}
    for i, by_order in enumerate(found.values()):
        for order, pairs in by_order.items():
            values = list(pairs.values())
            at = ORDERS.index(order) + 0.3 * (i - (len(found) - 1) / 2)
            alpha = 0.9 if i == 0 else 0.45
            color = TERM_COLORS[TERMS[order]]
            ax.bar(at, np.mean(values), width=0.26, color=color, alpha=alpha)
            ax.plot([at] * len(values), values, "o", ms=3.5, mfc="white", mec="black")
    ax.axhline(0, color="black", lw=0.8)
    labels = ", ".join(f"{pixels} px" for pixels in found)
    ax.set_xlabel(f"left to right: {labels}" if len(found) > 1 else labels)
    ax.set_xticks(range(len(ORDERS)), [f"order {o}" for o in ORDERS])
    ax.set_ylabel("change in test top-1 (points)")
    ax.grid(axis="x", visible=False)
    sns.despine(ax=ax)


KINDS = {
    "alone": ("labels only", "#999999", "s"),
    "direct": ("from the teacher", "#CC79A7", "^"),
    "student": ("from the assistant", "#D55E00", "o"),
}


def plot_resolutions(results: Results, axes: Sequence[Axes]) -> None:
    """Accuracy by resolution, and what distillation adds to labels only, on two axes."""
    left, right = axes
    sizes = sorted(resolutions(results))
    for kind, (label, color, marker) in KINDS.items():
        names = {r: at_resolution(results, r) for r in sizes}
        there = {r: results.values(n[kind]) for r, n in names.items() if n[kind] in results}
        gains = {r: results.gain(n[kind], n["alone"]) for r, n in names.items()}
        added = {r: gain.values for r, gain in gains.items() if gain}
        for ax, found in ((left, there), (right, {} if kind == "alone" else added)):
            if ax is right and kind == "alone":
                continue
            look = {"marker": marker, "color": color, "label": label}
            ax.plot(range(len(sizes)), _means(found, sizes), **look)
            for r in found:
                x = [sizes.index(r)] * len(found[r])
                ax.plot(x, found[r], "o", ms=3, mfc="white", mec=color)
    right.axhline(0, color="black", lw=0.8)
    for ax in axes:
        ax.set_xticks(range(len(sizes)), sizes)
        ax.set_xlabel("resolution of the student (px)")
        sns.despine(ax=ax)
    left.set_ylabel("test top-1 (%)")
    right.set_ylabel("gain over labels only (points)")
    left.legend(frameon=False, fontsize=9)


def _means(values: Mapping[int, list[float]], order: Sequence[int]) -> list[float]:
    """A gap where nothing was measured: no line through it."""
    return [float(np.mean(values[r])) if r in values else np.nan for r in order]


def plot_matrix(table: pd.DataFrame, ax: Axes, rows: str, columns: str) -> None:
    """A table of accuracies (%) as a heat map with its numbers; no axes for an empty one."""
    if table.empty:
        ax.axis("off")
        return
    sns.heatmap(
        table, ax=ax, annot=True, fmt=".1f", cmap="viridis", annot_kws={"fontsize": 9},
        cbar_kws={"label": "test top-1 (%)"}, linewidths=0.5, linecolor="white",
    )  # fmt: skip
    ax.set_ylabel(rows)
    ax.set_xlabel(columns)
    ax.tick_params(axis="y", rotation=0)


def draw_crossed(results: Results) -> Figure:
    """Students on other resolutions, and on other kernels."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), width_ratios=(1.15, 1))
    plot_matrix(crossed(results), left, "trained at (px)", "tested at (px)")
    plot_matrix(swapped(results), right, "trained on", f"tested on, {results.preset.low} px")
    right.tick_params(axis="x", rotation=20)
    return figure


def plot_schedules(results: Results, names: Sequence[str], ax: Axes) -> None:
    """Validation accuracy after every epoch, seed 0, of some arms."""
    colors = ("#D55E00", "#0072B2", "#009E73", "#999999", "#CC79A7", "#E69F00")
    for name, color in zip([n for n in names if n in results], colors, strict=False):
        run = results.runs(name)[0]
        if validation(run) is not None:
            ax.plot(*_validation_curve(run), "o-", ms=3, color=color, label=name)
    ax.set_xlabel("epoch")
    ax.set_ylabel("validation top-1 (%)")
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=8.5)
    sns.despine(ax=ax)


def draw_two_stage(results: Results) -> Figure:
    """Accuracy of every arm, and how they got there."""
    preset = results.preset
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), width_ratios=(1.15, 1))
    plot_two_stage(results, left)
    left.set_title(f"Two-stage transfer, preset {preset.name}, {preset.data}")
    plot_learning_curves(results, right)
    right.set_title("Validation accuracy while training")
    return figure


def draw_shares(results: Results) -> Figure:
    """Who drives assistant and student."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.4), sharey=True)
    for ax, arm in zip(axes, ("assistant", "student"), strict=True):
        run = results.runs(arm)[0]
        report.plot_gradient_shares(run, ax)
        ax.set_title(f"{arm} (seed {run.config.seed})")
    axes[0].get_legend().remove()
    axes[1].set_ylabel("")
    return figure


def draw_table1(results: Results) -> Figure:
    """Both resolutions of Table 1, the cost, and the paper's numbers."""
    preset = results.preset
    figure, axes = plt.subplots(2, 2, figsize=(13, 9.5), height_ratios=(1.25, 1))
    plot_methods(results, preset.low, axes[0, 0])
    plot_methods(results, FULL, axes[0, 1])
    plot_cost(results, axes[1, 0])
    plot_paper(axes[1, 1])
    networks = f"{preset.teacher} → {preset.compact}"
    figure.suptitle(f"Table 1, preset {preset.name}: {networks}, {preset.data}")
    return figure


def draw_reasons(results: Results) -> Figure:
    """Who drives two of the students, and whether the curves still climb."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), width_ratios=(1, 1, 1.2))
    shown = [n for n in ("student", "horkd+", "KD") if n in results]
    for ax, name in zip(axes[:2], shown, strict=False):
        report.plot_gradient_shares(results.runs(name)[0], ax)
        ax.set_title(f"{name} (seed 0)")
        ax.legend(
            frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.16)
        )
    axes[1].set_ylabel("")
    plot_schedules(results, ("student", "KD", "horkd+", "student alone"), axes[2])
    axes[2].set_title("validation accuracy (seed 0)")
    return figure
