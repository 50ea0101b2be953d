"""Records to tables and figures. Everything here is a function of finished runs.

A notebook passes `out`, the folder of its report. An empty `out` shows and writes nothing.

    <out>/tables/<name>.csv, .md      figures/<name>.png
          records/<run>.json          summaries/<notebook>.md
"""

import io
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from horkd import paper, storage
from horkd.errors import HorkdError
from horkd.presets import Preset
from horkd.runs import Run
from horkd.studies import Arm, study

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
    """The look of every figure."""
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


def save_table(table: pd.DataFrame, out: str | Path, name: str) -> None:
    """Write `tables/<name>.csv` and `.md`; cells that are text in the Markdown are text in both."""
    if not out:
        return
    folder = Path(out) / "tables"
    storage.write_text(folder / f"{name}.csv", table.to_csv(index=False))
    storage.write_text(folder / f"{name}.md", markdown(table) + "\n")


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


def save_summary(out: str | Path, name: str, text: str) -> None:
    """Write `summaries/<name>.md`, what the report's index page quotes of a notebook."""
    if out:
        storage.write_text(Path(out) / "summaries" / f"{name}.md", text.strip() + "\n")


def mean_and_spread(values: Sequence[float]) -> str:
    """`mean ± standard deviation`, without a spread for a single value."""
    mean = f"{np.mean(values):.2f}"
    return f"{mean} ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else mean


#: Two-sided 95 % quantile of Student's t for n values; more than ten are treated as ten.
STUDENT_T = {3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}

Arms = Mapping[str, Sequence[Run]]  # arm -> its runs, one per seed, in the order of seeds


def top1(runs: Sequence[Run]) -> list[float]:
    """Test top-1 (%) of the last epoch, one per run."""
    return [run.record["results"]["test"]["top1"] for run in runs]


def headline(runs: Sequence[Run]) -> list[float]:
    """What a test is summed up by, in percent, one per run: top-1, or Recall@1 of retrieval."""
    tests = [run.record["results"]["test"] for run in runs]
    return [test["top1"] if "top1" in test else test["recall"]["1"] for test in tests]


def two_stage_table(arms: Arms, preset: Preset) -> pd.DataFrame:
    """One row per arm: accuracy with n and spread, cost, and the paper's number beside it.

    Args:
        arms: finished runs of study two_stage.
        preset: what they were made with.
    """
    networks = f"{preset.teacher} → {preset.compact}"
    ours = f"test top-1 % ({preset.data}, {networks})"
    theirs = "paper % (CIFAR-100, ResNet50 → ResNet18)"
    rows, kinds = [], study(preset, "two_stage")
    for arm, runs in arms.items():
        record = runs[0].record
        best = [run.record["results"].get("best", {}).get("test", {}).get("top1") for run in runs]
        published = paper.row(kinds[arm].row)
        rows.append({
            "arm": arm,
            "pixels": record["config"]["degradation"]["size"],
            "network": record["config"]["model"],
            ours: mean_and_spread(top1(runs)),
            "n": len(runs),
            "best epoch %": "–" if None in best else mean_and_spread(best),
            theirs: "–" if published is None else f"{published:.2f}",
            "parameters (M)": f"{record['cost']['parameters'] / 1e6:.2f}",
            "MACs (M)": f"{record['cost']['macs'] / 1e6:.1f}",
            "training (s)": f"{np.mean([r.record['seconds']['total'] for r in runs]):.0f}",
        })  # fmt: skip
    return pd.DataFrame(rows)


def gain(arms: Arms, arm: str, control: str) -> dict[str, object]:
    """Difference of two arms in test top-1 or Recall@1, in points, paired over seeds.

    Returns:
        `values` per seed, `mean`, `std` (None for one seed), `n`, and `text` for a sentence.
    """
    controls = zip(arms[control], headline(arms[control]), strict=True)
    pairs = {run.config.seed: value for run, value in controls}
    values = [
        a - pairs[r.config.seed]
        for r, a in zip(arms[arm], headline(arms[arm]), strict=True)
        if r.config.seed in pairs
    ]
    if not values:
        raise HorkdError(f"{arm} and {control} have no seed in common: nothing to compare")
    mean = float(np.mean(values))
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    spread = f" ± {std:.2f}" if std is not None else ""
    each = ", ".join(f"{v:+.2f}" for v in values)
    text = f"{mean:+.2f}{spread} points (n = {len(values)}{'; ' + each if std is not None else ''})"
    return {"values": values, "mean": mean, "std": std, "n": len(values), "text": text}


def verdict(difference: Mapping[str, object]) -> str:
    """The claim that a difference is positive "holds", "does not hold" or is "not shown".

    It needs at least three seeds, and a 95 % confidence interval (Student's t) without zero.
    """
    n, mean, std = difference["n"], difference["mean"], difference["std"]
    if n < 3 or abs(mean) <= STUDENT_T.get(n, 2.262) * std / np.sqrt(n):
        return "not shown"
    return "holds" if mean > 0 else "does not hold"


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
