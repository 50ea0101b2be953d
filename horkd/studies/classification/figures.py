"""The main figure of each study, drawn from finished runs."""

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes

from horkd import paper
from horkd.lab.store import Run
from horkd.losses import ORDERS as TERMS
from horkd.studies.arm import FULL, ORDERS
from horkd.studies.claims import mean_and_spread
from horkd.studies.classification.tables import (
    at_resolution,
    effects,
    fed,
    resolutions,
    shares,
    validation,
)
from horkd.studies.presets import Preset
from horkd.studies.report import COLORS, TERM_COLORS, TERM_NAMES
from horkd.studies.results import Arms, gain, top1


def plot_two_stage(arms: Arms, ax: Axes) -> None:
    """Test top-1 of every arm: one dot per seed, a bar at the mean."""
    names = list(arms)[::-1]
    for row, arm in enumerate(names):
        values = top1(arms[arm])
        ax.barh(row, np.mean(values), color=COLORS[arm], alpha=0.75, height=0.62)
        ax.plot(values, [row] * len(values), "o", ms=5, mfc="white", mec="black", mew=1)
        ax.annotate(
            mean_and_spread(values), (max(values), row), (8, 0), textcoords="offset points",
            va="center", fontsize=9,
        )  # fmt: skip
    size = {arm: runs[0].config.degradation.size for arm, runs in arms.items()}
    ax.set_yticks(range(len(names)), [f"{arm}, {size[arm]} px" for arm in names])
    ax.set_xlabel("test top-1 accuracy (%); dots are seeds")
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.2)
    ax.set_xlim(left=0)
    sns.despine(ax=ax, left=True)


def plot_learning_curves(arms: Arms, ax: Axes) -> None:
    """Validation top-1 after every epoch; a thin line per seed."""
    for arm, runs in arms.items():
        for index, run in enumerate(runs):
            history = run.record["history"]
            if "validation" not in history[0]:
                continue
            x = [entry["epoch"] for entry in history]
            y = [entry["validation"]["top1"] for entry in history]
            ax.plot(x, y, color=COLORS[arm], lw=1.6, alpha=0.85, label=arm if not index else None)
    ax.set_xlabel("epoch")
    ax.set_ylabel("validation top-1 (%)")
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    ax.legend(frameon=False, fontsize=9)


#: Families of arms, with colours that colour-blind readers can tell apart (Okabe and Ito).
FAMILIES = {
    "teacher": "#000000",
    "labels only": "#999999",
    "hybrid orders": "#D55E00",
    "other distillation": "#0072B2",
    "horkd+ and its parts": "#009E73",
    "fed small images": "#E69F00",
}


def family(arm: str, run: Run | None) -> str:
    """The family that an arm is drawn as."""
    if run is None:
        return "fed small images"
    if arm == "teacher":
        return "teacher"
    if not (run.config.orders or run.config.baselines):
        return "labels only"
    plus = run.config.balance or run.config.warmup
    if plus or (run.config.orders and run.config.baselines):
        return "horkd+ and its parts"
    if run.config.baselines or run.config.reduction == "rkd":
        return "other distillation"
    return "hybrid orders"


def plot_methods(preset: Preset, arms: Arms, source, pixels: int, ax: Axes) -> None:
    """Test top-1 of every arm at one resolution, the best first; a dot per seed.

    Args:
        preset: sizes.
        arms: finished runs.
        source: for the teacher on small images.
        pixels: which resolution.
        ax: where to draw.
    """
    rows = [
        (arm, top1(found), family(arm, found[0]))
        for arm, found in arms.items()
        if found[0].config.degradation.size == pixels
    ]
    if pixels == preset.low:
        rows += [
            (label, [seen["test"]["top1"]], "fed small images")
            for label, seen in fed(preset, arms, source).items()
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


def plot_cost(preset: Preset, arms: Arms, source, ax: Axes) -> None:
    """Accuracy against multiply-accumulates of one image, all arms."""
    for arm, found in arms.items():
        x = found[0].record["cost"]["macs"] / 1e6
        kind = family(arm, found[0])
        ax.plot(x, np.mean(top1(found)), "o", ms=6, color=FAMILIES[kind], alpha=0.75)
    for seen in fed(preset, arms, source).values():
        y, color = seen["test"]["top1"], FAMILIES["fed small images"]
        ax.plot(seen["macs"] / 1e6, y, "o", ms=6, color=color, alpha=0.75)
    for arm, place in (("teacher", (-8, 4)), ("assistant", (8, 6)), ("student", (-8, -3))):
        if arm in arms:
            x = arms[arm][0].record["cost"]["macs"] / 1e6
            label = f"{arm}, {arms[arm][0].config.degradation.size} px"
            ax.annotate(
                label, (x, np.mean(top1(arms[arm]))), place, textcoords="offset points",
                fontsize=8.5, ha="right" if place[0] < 0 else "left",
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


def plot_subsets(arms: Mapping[str, list[Run]], axes: Sequence[Axes]) -> None:
    """Subsets of orders, the best first: which orders, test accuracy, shares of the gradient.

    Args:
        arms: subset ("23C") -> runs, of one resolution.
        axes: three axes side by side that share their rows.
    """
    names, accuracy, gradient = axes
    ranked = sorted(arms, key=lambda orders: np.mean(top1(arms[orders])))
    for y, orders in enumerate(ranked):
        for x, order in enumerate(ORDERS):
            color = TERM_COLORS[TERMS[order]] if order in orders else "#E0E0E0"
            names.plot(x, y, "o", ms=9, color=color)
        value = np.mean(top1(arms[orders]))
        best = orders == "23C"
        accuracy.barh(y, value, color="#D55E00" if best else "#999999", height=0.65, alpha=0.8)
        accuracy.annotate(
            mean_and_spread(top1(arms[orders])),
            (value, y),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
        left = 0.0
        for term, share in shares(arms[orders][0]).items():
            gradient.barh(y, share, left=left, color=TERM_COLORS[term], height=0.65)
            left += share
    names.set_xticks(range(len(ORDERS)), ORDERS)
    names.set_yticks(range(len(ranked)), ["{" + ",".join(o) + "}" for o in ranked], fontsize=8.5)
    names.set_xlim(-0.6, len(ORDERS) - 0.4)
    names.set_xlabel("orders")
    values = [np.mean(top1(arms[o])) for o in ranked]
    span = max(values) - min(values)
    start = max(0, min(values) - 0.3 * span - 0.3)
    accuracy.set_xlim(start, max(values) + 0.25 * span + 0.3)
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
        mpl.patches.Patch(color=color, label=TERM_NAMES[term])
        for term, color in TERM_COLORS.items()
        if term == "cross_entropy" or term in TERMS.values()
    ]
    gradient.legend(
        handles=handles, frameon=False, fontsize=8, ncols=3, loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
    )  # fmt: skip


def plot_effects(found: Mapping[int, Mapping[str, list[Run]]], ax: Axes) -> None:
    """What adding each order does: one dot per pair of subsets, the mean as a bar."""
    for i, arms in enumerate(found.values()):
        for x, (order, pairs) in enumerate(effects(arms).items()):
            values = list(pairs.values())
            at = x + 0.3 * (i - (len(found) - 1) / 2)
            color = TERM_COLORS[TERMS[order]]
            alpha = 0.9 if i == 0 else 0.45
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


def plot_resolutions(preset: Preset, arms: Arms, axes: Sequence[Axes]) -> None:
    """Accuracy by resolution, and what distillation adds to labels only.

    Args:
        preset: sizes.
        arms: runs of studies two_stage and resolutions.
        axes: two.
    """
    left, right = axes
    sizes = resolutions(preset)
    place = {r: i for i, r in enumerate(sorted(sizes))}
    for kind, (label, color, marker) in KINDS.items():
        names = {r: at_resolution(r, preset)[kind] for r in sizes}
        there = {r: top1(arms[n]) for r, n in names.items() if n in arms}
        look = {"marker": marker, "color": color, "label": label}
        left.plot(range(len(place)), _means(there, place), **look)
        for r in there:
            left.plot([place[r]] * len(there[r]), there[r], "o", ms=3, mfc="white", mec=color)
        if kind == "alone":
            continue
        gains = {
            r: gain(arms, names[r], at_resolution(r, preset)["alone"])["values"]
            for r in there
            if at_resolution(r, preset)["alone"] in arms
        }
        right.plot(range(len(place)), _means(gains, place), **look)
        for r in gains:
            right.plot([place[r]] * len(gains[r]), gains[r], "o", ms=3, mfc="white", mec=color)
    right.axhline(0, color="black", lw=0.8)
    for ax in axes:
        ax.set_xticks(range(len(place)), list(place))
        ax.set_xlabel("resolution of the student (px)")
        sns.despine(ax=ax)
    left.set_ylabel("test top-1 (%)")
    right.set_ylabel("gain over labels only (points)")
    left.legend(frameon=False, fontsize=9)


def _means(values: Mapping[int, list[float]], order: Sequence[int]) -> list[float]:
    """A gap where nothing was measured: no line through it."""
    return [float(np.mean(values[r])) if r in values else np.nan for r in order]


def plot_matrix(table: pd.DataFrame, ax: Axes, rows: str, columns: str) -> None:
    """A table of accuracies (%) as a heat map with its numbers."""
    sns.heatmap(
        table, ax=ax, annot=True, fmt=".1f", cmap="viridis", annot_kws={"fontsize": 9},
        cbar_kws={"label": "test top-1 (%)"}, linewidths=0.5, linecolor="white",
    )  # fmt: skip
    ax.set_ylabel(rows)
    ax.set_xlabel(columns)
    ax.tick_params(axis="y", rotation=0)


def plot_schedules(arms: Arms, names: Sequence[str], ax: Axes) -> None:
    """Validation accuracy after every epoch, seed 0, of some arms."""
    colors = ("#D55E00", "#0072B2", "#009E73", "#999999", "#CC79A7", "#E69F00")
    for name, color in zip([n for n in names if n in arms], colors, strict=False):
        history = arms[name][0].record["history"]
        if validation(arms[name][0]) is None:
            continue
        y = [entry["validation"]["top1"] for entry in history]
        ax.plot([entry["epoch"] for entry in history], y, "o-", ms=3, color=color, label=name)
    ax.set_xlabel("epoch")
    ax.set_ylabel("validation top-1 (%)")
    ax.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    ax.legend(frameon=False, fontsize=8.5)
    sns.despine(ax=ax)
