"""Figures of the study of faces."""

from collections.abc import Mapping, Sequence

import numpy as np
import seaborn as sns
from matplotlib.axes import Axes

#: How networks for faces are drawn, by what the label begins with.
FACE_LOOKS = {
    "teacher": ("#000000", "-", "s"),
    "tuned": ("#009E73", "-", "D"),
    "alone": ("#999999", "--", "^"),
    "student": ("#D55E00", "-", "o"),
    "no labels": ("#0072B2", "-.", "v"),
}


def face_look(label: str) -> tuple[str, str, str]:
    """Colour, line and marker of a network by its label."""
    if label.startswith("teacher"):
        return FACE_LOOKS["teacher"]
    for key in ("no labels", "alone", "tuned"):
        if key in label:
            return FACE_LOOKS[key]
    return FACE_LOOKS["student"]


def plot_roc(curves: Mapping[str, tuple[str, Mapping]], ax: Axes) -> None:
    """TAR against FAR, on a logarithmic axis down to one false accept.

    Args:
        curves: label -> (kind, what `protocols.verification.verify` gave).
        ax: where.
    """
    lowest = 1.0
    for label, (_, found) in curves.items():
        color, line, _ = face_look(label)
        far, tar = np.array(found["roc"]["far"]), np.array(found["roc"]["tar"])
        one = 1 / found["tar"][0]["n_different"]
        lowest = min(lowest, one)
        # what lies left of one false accept is drawn at the axis
        ax.step(np.maximum(far, one), 100 * tar, line, where="post", color=color, lw=1.6,
                label=f"{label} (AUC {found['auc']:.3f})")  # fmt: skip
    ax.set_xscale("log")
    ax.set_xlim(lowest, 1)
    ax.set_ylim(0, 101)
    ax.set_xlabel("false accept rate")
    ax.set_ylabel("true accept rate (%)")
    ax.legend(frameon=False, fontsize=8, loc="best")
    sns.despine(ax=ax)


def plot_faces(rows: Sequence, ax: Axes) -> None:
    """Accuracy against resolution: a line for the teacher, marks for the networks trained here.

    Args:
        rows: of `face_findings.tested`.
        ax: where.
    """
    pixels = sorted({row.pixels for row in rows})
    place = {r: i for i, r in enumerate(pixels)}
    named = [row for row in rows if not row.label.startswith(("{", "assistant", "scratch"))]
    teacher = sorted((row for row in named if row.kind == "teacher"), key=lambda row: row.pixels)
    ax.plot([place[r.pixels] for r in teacher], [np.mean(r.accuracies) for r in teacher], "s-",
            color="black", label="teacher, fed enlarged images")  # fmt: skip
    shown = set()
    for row in named:
        if row.kind == "teacher":
            continue
        color, _, marker = face_look(row.label)
        name = row.label.replace(f" {row.pixels}", "")
        plain = name in ("student", "student alone", "tuned", "student, no labels")
        if not plain:
            continue
        label = {"tuned": "teacher's weights, tuned", "student alone": "student, labels only"}
        ax.plot([place[row.pixels]] * len(row.accuracies), row.accuracies, marker, color=color,
                ms=7, mec="white", ls="none",
                label=None if name in shown else label.get(name, name))  # fmt: skip
        shown.add(name)
    ax.set_xticks(range(len(pixels)), pixels)
    ax.set_xlabel("resolution (px)")
    ax.set_ylabel("verification accuracy (%)")
    ax.legend(frameon=False, fontsize=8.5, loc="lower right")
    sns.despine(ax=ax)
