# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What do the relational potentials see?
#
# Relational distillation does not ask a student to copy the features of a frozen model. It asks
# for the same *relations* between images: which are near each other, at which angles they lie,
# how far they are from every class centre. A potential ψ turns a tuple of features into one number;
# the loss of order *n* compares the potentials of both models over all tuples of *n* images,
#
# $$ L_n = \sum \ell\left(\psi(f_1, \ldots, f_n), \psi(g_1, \ldots, g_n)\right) \tag{1} $$
#
# with features $f$ of the frozen model and $g$ of the learner. This notebook looks at the
# potentials themselves: on four points in the plane, then on trained networks.

# %% tags=["parameters"]
preset: str = "smoke"  # smoke, quick, cpu, paper-short or paper: sizes and recipe
data: str = ""  # glyphs or cifar100; empty: the preset's own
seeds: int = 0  # seeds of each student; 0: the preset's own number
train_missing: bool = True  # False: report on the runs that are there
shown_classes: int = 10  # classes in the relation matrices
shown_images: int = 6  # test images of each of them
out: str = ""  # folder of the report; empty: show, write nothing

# %%
import re
import time

import ipywidgets as widgets
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import Markdown, display
from torchvision.utils import make_grid

from horkd.data import load_dataset
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.fast.distances import NEAR_DUPLICATE
from horkd.losses import class_centers, order1, order2, order3, order_c
from horkd.networks.network import ModelSpec, Network
from horkd.potentials import angle_cosines, center_distances, pairwise_distances
from horkd.predict import predict
from horkd.studies import report
from horkd.studies.claims import unequal
from horkd.studies.presets import get_preset
from horkd.studies.results import Gain, live

report.style()
sizes = get_preset(preset, data, seeds)

# %% [markdown]
# ## Four points in the plane
#
# Four features $x_1, \ldots, x_4$ of width 2, and two class centres $u_1, u_2$. Each potential is
# computed twice: by its equation, in plain code, and by `horkd.potentials`.

# %%
points = torch.tensor([[0.2, 0.1], [2.3, 0.5], [2.8, 2.0], [0.5, 1.6]])
centers = torch.tensor([[1.2, -1.0], [1.4, 3.2]])
n = len(points)

# %% [markdown]
# **Order 2** sees the distance of a pair, in units of the mean distance μ of the batch:
#
# $$ \psi_d(a, b) = \frac{\lVert a - b \rVert_2}{\mu}, \qquad
# \mu = \frac{1}{N(N-1)} \sum_{i \neq j} \lVert x_i - x_j \rVert_2 \tag{3} $$

# %%
distance = torch.tensor([[(a - b).norm() for b in points] for a in points])
mu = distance.sum() / (n * (n - 1))
psi_d = distance / mu

# %% [markdown]
# **Order 3** sees the cosine of the angle that $a$ and $c$ make at the vertex $b$:
#
# $$ \psi_a(a, b, c) = \left\langle \frac{a - b}{\lVert a - b \rVert_2},
# \frac{c - b}{\lVert c - b \rVert_2} \right\rangle \tag{4, 5} $$
#
# A triple without an angle, $a = b$ or $c = b$, is 0 here and takes no part in the loss.

# %%
psi_a = torch.zeros(n, n, n)
for i, j, k in np.ndindex(n, n, n):
    if j not in (i, k):
        to_i, to_k = points[i] - points[j], points[k] - points[j]
        psi_a[i, j, k] = (to_i / to_i.norm()) @ (to_k / to_k.norm())

# %% [markdown]
# **Order C** sees the distance to the class centres of the frozen model, not divided by anything:
#
# $$ \psi_e(a, u) = \lVert a - u \rVert_2, \qquad
# u_c = \mathrm{mean\ feature\ of\ class\ } c \tag{6, 7} $$

# %%
psi_e = torch.tensor([[(a - u).norm() for u in centers] for a in points])

# %%
by_library = {
    "ψ_d": pairwise_distances(points),
    "ψ_a": angle_cosines(points),
    "ψ_e": center_distances(points, centers),
}
by_equation = {"ψ_d": psi_d, "ψ_a": psi_a, "ψ_e": psi_e}
examples = {"ψ_d": ("ψ_d(x1, x2)", (0, 1)), "ψ_a": ("ψ_a(x1, x2, x3)", (0, 1, 2)),
            "ψ_e": ("ψ_e(x1, u1)", (0, 0))}  # fmt: skip
checked = pd.DataFrame(
    [
        {
            "example": text,
            "by the equation": f"{by_equation[name][at]:.5f}",
            "by the library": f"{by_library[name][at]:.5f}",
            "numbers": by_equation[name].numel(),
            "largest difference": f"{(by_library[name] - by_equation[name]).abs().max():.0e}",
        }
        for name, (text, at) in examples.items()
    ]
)
display(checked)


# %% [markdown]
# The same numbers where they belong: ψ_d on the six pairs, ψ_a at the four corners (four of the
# twelve angles), ψ_e on the lines to the centres.


# %%
def label(ax, xy, text, size=9):
    box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.85}
    ax.text(*xy, text, ha="center", va="center", fontsize=size, bbox=box, zorder=4)


def draw_points(points, centers, limits):
    """ψ_d, ψ_a and ψ_e of four points in the plane, written where they are measured."""
    d, a = pairwise_distances(points).numpy(), angle_cosines(points).numpy()
    e, mean = center_distances(points, centers).numpy(), points.mean(dim=0).numpy()
    x, u = points.numpy(), centers.numpy()
    span = limits[1] - limits[0]
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.3), sharex=True, sharey=True)
    for i in range(4):
        for j in range(i):
            axes[0].plot(*x[[i, j]].T, color=report.COLORS["assistant"], lw=1)
            share = 0.3 if i - j == 2 else 0.5  # the diagonals' labels keep clear of their crossing
            label(axes[0], x[i] + share * (x[j] - x[i]), f"{d[i, j]:.2f}")
        before, after = (i - 1) % 4, (i + 1) % 4
        axes[1].plot(*x[[i, after]].T, color=report.COLORS["assistant"], lw=1)
        arms = [np.degrees(np.arctan2(*(x[k] - x[i])[::-1])) for k in (before, after)]
        first = arms[0] if (arms[1] - arms[0]) % 360 <= 180 else arms[1]
        opening = min((arms[1] - arms[0]) % 360, (arms[0] - arms[1]) % 360)
        wedge = mpl.patches.Wedge(x[i], 0.06 * span, first, first + opening, alpha=0.4)
        wedge.set_facecolor(report.COLORS["student"])
        axes[1].add_patch(wedge)
        middle = np.radians(first + opening / 2)
        at = x[i] + 0.125 * span * np.array([np.cos(middle), np.sin(middle)])
        label(axes[1], at, f"{a[before, i, after]:.2f}")
        for c in range(len(u)):
            ends = np.stack([x[i], u[c]])
            axes[2].plot(*ends.T, color=report.COLORS["student"], lw=1, ls=("-", ":")[c])
            label(axes[2], 0.55 * ends[0] + 0.45 * ends[1], f"{e[i, c]:.2f}", 8)
    for ax in axes:
        ax.plot(*x.T, "o", color="black", ms=6, zorder=5)
        for i in range(4):
            away = (x[i] - mean) / max(np.linalg.norm(x[i] - mean), 1e-6)
            ax.annotate(f"$x_{i + 1}$", x[i], 12 * away, textcoords="offset points",
                        ha="center", va="center", zorder=6)  # fmt: skip
        ax.set(xlim=limits, ylim=limits, aspect="equal", xlabel="feature 1")
    axes[2].plot(*u.T, "X", color=report.COLORS["student"], ms=9, zorder=5)
    for c in range(len(u)):
        axes[2].annotate(f"$u_{c + 1}$", u[c], (12, 0), textcoords="offset points",
                         va="center", zorder=6)  # fmt: skip
    axes[0].set(ylabel="feature 2", title=r"order 2: $\psi_d$, distance in units of the mean")
    axes[1].set_title(r"order 3: $\psi_a$, cosine of the angle at a corner")
    axes[2].set_title(r"order C: $\psi_e$, distance to a class centre")
    return figure


figure = draw_points(points, centers, (-1.6, 3.6))
report.save_figure(figure, out, "potentials_four_points")
plt.show()

# %% [markdown]
# Move a point, or turn, scale and shift all four while the centres stay: ψ_d and ψ_a move with
# the shape alone, ψ_e with everything. The view starts turned, enlarged and shifted: compare it
# with the picture above. (The controls work in JupyterLab; elsewhere this is their first view.)


# %%
def moved(x4, y4, turn, scale, shift):
    """The four points after the controls' changes."""
    x = torch.cat([points[:3], torch.tensor([[x4, y4]])])
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    rotation = torch.tensor([[cos, sin], [-sin, cos]], dtype=x.dtype)
    middle = x.mean(dim=0)
    return (x - middle) @ rotation * scale + middle + shift


def draw_moved(**controls):
    return draw_points(moved(**controls), centers, (-2.6, 5.6))


def slider(value, low, high, step, name):
    return widgets.FloatSlider(
        value, min=low, max=high, step=step, description=name, continuous_update=False
    )


controls = {
    "x4": slider(0.5, -2, 5, 0.1, "x₄, feature 1"),
    "y4": slider(1.6, -2, 5, 0.1, "x₄, feature 2"),
    "turn": slider(50, -180, 180, 5, "turn (°)"),
    "scale": slider(1.5, 0.1, 2, 0.1, "scale"),
    "shift": slider(0.8, -2, 2, 0.1, "shift"),
}
report.explore(draw_moved, **controls)

# %% [markdown]
# ## The networks
#
# A teacher, its assistant (the frozen model of stage 2), students distilled from the assistant, and
# the controls: the same networks trained on labels only, and the student's network before any
# training. Runs that are there are read.

# %%
wanted = ("teacher", "assistant", "student", "student alone")
results = live(sizes, ("two_stage",), train_missing, only=wanted)
by_seed = {arm: {run.config.seed: run for run in results.runs(arm)} for arm in wanted}
paired = [seed for seed in by_seed["student"] if seed in by_seed["student alone"]]
if not (by_seed["teacher"] and by_seed["assistant"] and paired):
    raise HorkdError(f"needs {', '.join(wanted)}, of one seed: set train_missing = True")
results.save_records(out)

images = load_dataset(sizes.data, sizes.per_class)
full, low = images.size, sizes.low
networks = {
    (arm, seed): run.network()
    for arm, runs in by_seed.items()
    for seed, run in runs.items()
    if arm in ("teacher", "assistant") or seed in paired
}
for seed in paired:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # as the training of this seed starts
        networks["untrained", seed] = Network(ModelSpec(sizes.compact, images.num_classes))
choices = list(dict.fromkeys(arm for arm, _ in networks))
first_seed = {arm: next(s for a, s in networks if a == arm) for arm in choices}
assistant_centers = by_seed["student"][paired[0]].centers()


def size_of(arm):
    """The resolution that a network is made for, in pixels."""
    return full if arm in ("teacher", "assistant") else low


def embed(arm, pixels, seed=None, size=None, upsample=False):
    """Features (N, D) of uint8 images as a network sees them, by default at its resolution."""
    seed = first_seed[arm] if seed is None else seed
    degradation = Degradation(size or size_of(arm), upsample=upsample)
    return predict(networks[arm, seed], pixels, images, degradation).features


# %% [markdown]
# ## What a relation does not see
#
# The student's features of 100 test images are turned, shifted and scaled at random, 20 times
# each; the frozen model's and its centres stay. Shown is the largest change. Orders 2 and 3 should
# not notice. Orders 1 and C should: they tie the student to the frozen model's coordinates.

# %%
generator = torch.Generator().manual_seed(0)
batches = torch.randperm(len(images.test), generator=generator)[:400].split(100)
sample = images.test.images[batches[0]]
f, g = embed("assistant", sample), embed("student", sample)
u = assistant_centers

measures = {
    "ψ_d": pairwise_distances,
    "ψ_a": angle_cosines,
    "ψ_e": lambda g: center_distances(g, u),
    "order 1": lambda g: order1(f, g),
    "order 2": lambda g: order2(f, g),
    "order 3": lambda g: order3(f, g),
    "order C": lambda g: order_c(f, g, u),
}
moves = {
    "rotation": lambda g, z: g @ torch.linalg.qr(z)[0],
    "translation": lambda g, z: g + z[0] * g.abs().mean(),
    "scaling": lambda g, z: g * 10 ** z[0, 0].clamp(-0.5, 0.5),
}
draws = [torch.randn(g.shape[1], g.shape[1], generator=generator) for _ in range(20)]
changes = pd.DataFrame(index=list(measures), columns=list(moves), dtype=float)
for name, measure in measures.items():
    before = measure(g)
    for move, change in moves.items():
        largest = [(measure(change(g, z)) - before).abs().max() / before.abs().max() for z in draws]
        changes.loc[name, move] = float(max(largest))


def tex(name):
    """ψ_d as it is set in a figure."""
    return re.sub(r"ψ_(.)", r"$\\psi_\1$", name)


figure, ax = plt.subplots(figsize=(6.2, 4.2))
texts = changes.map(lambda v: f"{v:.2f}" if v >= 0.01 else f"{v:.0e}" if v else "0")
shade = ax.imshow(np.log10(changes.clip(lower=1e-8)), cmap="viridis", vmin=-8, vmax=1)
for row, column in np.ndindex(*changes.shape):
    dark = changes.iloc[row, column] < 1e-3
    ax.text(column, row, texts.iloc[row, column], ha="center", va="center", fontsize=9,
            color="white" if dark else "black")  # fmt: skip
ax.set_xticks(range(len(moves)), [f"{move}\nof all $g$" for move in moves])
ax.set_yticks(range(len(measures)), [tex(name) for name in measures])
ax.set_aspect("auto")
ax.grid(visible=False)
ax.set_title("Change of potentials and losses (largest of 20 draws)")
bar = figure.colorbar(shade, ticks=[-8, -6, -4, -2, 0])
bar.set_label("log₁₀ of the largest change / largest value")
report.save_figure(figure, out, "potentials_invariances")
report.save_table(
    texts.rename_axis("largest change / largest value").reset_index(),
    out,
    "potentials_invariances",
)
plt.show()

# %% [markdown]
# Rounding in float32 is about 1e-7; angles between near neighbours amplify it.
#
# ## Relation matrices, side by side
#
# The same test images, sorted by class. The teacher and the assistant see them at full resolution,
# the students at theirs. A model that groups classes shows dark blocks on the diagonal of ψ_d. The
# bottom row subtracts the frozen model: white is a relation learnt exactly.

# %%
shown = torch.linspace(0, images.num_classes - 1, shown_classes).round().long().unique()
index = torch.cat([(images.test.labels == c).nonzero()[:shown_images, 0] for c in shown])
matrix_images = images.test.select(index)
N = len(matrix_images)
names = [images.test.classes[c] for c in shown]
blocks = [int((matrix_images.labels == c).sum()) for c in shown]
arm_names = ("teacher", "assistant", "student", "student alone")
features = {arm: embed(arm, matrix_images.images) for arm in arm_names}


def heat(ax, matrix, title, low, high, diverging=False, rows=True, columns=True):
    """A matrix over images sorted by class; returns what a colour bar needs."""
    cmap = "RdBu_r" if diverging else "viridis"
    shade = ax.imshow(
        matrix, cmap=cmap, vmin=low, vmax=high, interpolation="nearest", aspect="auto"
    )
    ticks = np.cumsum([0, *blocks])[:-1] + np.array(blocks) / 2 - 0.5
    ax.set_yticks(ticks if rows else [], names if rows else [], fontsize=8)
    across = ticks if matrix.shape[1] == len(matrix) else range(len(names))
    turn = 90 if max(map(len, names)) > 2 else 0
    ax.set_xticks(across if columns else [], names if columns else [], fontsize=8, rotation=turn)
    ax.grid(visible=False)
    ax.set_title(title, fontsize=10)
    return shade


def colour_bar(shade, axes, text, extend="both"):
    """A colour bar; arrows say that a few outliers lie beyond its ends."""
    bar = axes[0].figure.colorbar(shade, ax=axes, pad=0.02, extend=extend)
    bar.set_label(text, fontsize=9)
    bar.ax.tick_params(labelsize=8)


def range_of(matrices):
    """Limit of a colour scale: 99.5 % of the entries lie within."""
    return max(float(x.abs().flatten().quantile(0.995)) for x in matrices)


pairs = {"student": "assistant", "student alone": "assistant"}
d = {arm: pairwise_distances(x) for arm, x in features.items()}
differences = {
    "assistant − teacher": d["assistant"] - d["teacher"],
    "student − assistant": d["student"] - d["assistant"],
    "student alone − assistant": d["student alone"] - d["assistant"],
}
top, limit = range_of(d.values()), range_of(differences.values())

figure, axes = plt.subplots(2, 4, figsize=(10, 5.2))
for column, arm in enumerate(arm_names):
    shade = heat(axes[0, column], d[arm], f"{arm}, {size_of(arm)} px", 0, top, rows=column == 0)
colour_bar(shade, axes[0], r"$\psi_d$ (mean distance = 1)", "max")
for column, (title, matrix) in enumerate(differences.items(), 1):
    mean = f"\nmean square {matrix.square().sum() / (N * (N - 1)):.4f}"
    shade = heat(
        axes[1, column], matrix, title + mean, -limit, limit, diverging=True, rows=column == 1
    )
colour_bar(shade, axes[1], r"difference of $\psi_d$")
first = matrix_images.images[np.cumsum([0, *blocks])[:-1]]
views = torch.stack([first, Degradation(low, upsample=True)(first)], dim=1).flatten(0, 1)
grid = make_grid(views, nrow=4, padding=1, pad_value=255)
axes[1, 0].imshow(grid.permute(1, 2, 0), interpolation="nearest")
axes[1, 0].axis("off")
axes[1, 0].set_title(f"one image of each class,\nat {full} px and at {low} px", fontsize=10)
report.save_figure(figure, out, "potentials_distances")
plt.show()

# %% [markdown]
# ψ_a has three indices. Shown is the slice whose vertex *j* is the first image: how do all other
# pairs look from there? ψ_e is drawn against the assistant's centres of the shown classes. The
# control never met these centres and has coordinates of its own, so its ψ_e to them says nothing
# about what it knows. The measurement below therefore also takes each model's own centres.

# %%
vertex = 0
a = {arm: angle_cosines(x)[:, vertex] for arm, x in features.items() if arm != "teacher"}
e = {
    arm: center_distances(x, assistant_centers[shown])
    for arm, x in features.items()
    if arm != "teacher"
}
figure, axes = plt.subplots(2, 5, figsize=(13, 5.8))
for row, (values, title, unit) in enumerate(
    ((a, r"$\psi_a$, vertex = first image", "cosine"), (e, r"$\psi_e$", "feature units"))
):
    far = {arm: values[arm] - values["assistant"] for arm in pairs}
    limit, top = range_of(far.values()), 1 if row == 0 else range_of(values.values())
    for column, arm in enumerate(values):
        text = f"{title if column == 0 else ''}\n{arm}"
        shade = heat(axes[row, column], values[arm], text, -top if row == 0 else 0, top, row == 0,
                     rows=column == 0)  # fmt: skip
    colour_bar(shade, axes[row, :3], unit, "neither" if row == 0 else "max")
    for column, arm in enumerate(pairs, 3):
        text = f"{arm}\n− assistant"
        shade = heat(axes[row, column], far[arm], text, -limit, limit, True, rows=False)
    colour_bar(shade, axes[row, 3:], "difference")
for ax in axes[1]:
    ax.set_xlabel("class centre")
report.save_figure(figure, out, "potentials_angles_and_centres")
plt.show()

# %% [markdown]
# Any two embeddings, at any resolution: choose what each side sees. Left and right may be the same
# network at two resolutions.


# %%
def draw_pair(left, left_size, right, right_size):
    x = embed(left, matrix_images.images, size=left_size)
    y = embed(right, matrix_images.images, size=right_size)
    p, q = pairwise_distances(x), pairwise_distances(y)
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.6))
    top, limit = range_of([p, q]), max(range_of([q - p]), 1e-3)
    heat(axes[0], p, rf"$\psi_d$, {left} at {left_size} px", 0, top)
    shade = heat(axes[1], q, rf"$\psi_d$, {right} at {right_size} px", 0, top, rows=False)
    colour_bar(shade, axes[:2], r"$\psi_d$", "max")
    text = f"right − left: $L_2$ = {order2(x, y):.4f}, $L_3$ = {order3(x, y):.4f}"
    shade = heat(axes[2], q - p, text, -limit, limit, diverging=True, rows=False)
    colour_bar(shade, axes[2:], r"difference of $\psi_d$")
    return figure


resolutions = sorted({full, low, *(s for s in (24, 16, 12, 8) if s < full)}, reverse=True)
controls = {
    "left": widgets.Dropdown(options=choices, value="teacher", description="left"),
    "left_size": widgets.Dropdown(options=resolutions, value=full, description="sees (px)"),
    "right": widgets.Dropdown(options=choices, value="teacher", description="right"),
    "right_size": widgets.Dropdown(options=resolutions, value=low, description="sees (px)"),
}
report.explore(draw_pair, **controls)

# %% [markdown]
# ## Has distillation made the relations alike?
#
# The mean squared difference of each potential to the frozen model (the assistant), over distinct
# tuples in up to four batches of 100 test images of all classes. ψ_e is divided by the frozen
# model's mean centre distance, as in training; with *own* centres, each model's ψ_e goes to its own
# class means (of up to 20 training images a class), each divided by its own mean.
#
# **All relations equal** stands for a model without any structure (a regular simplex: every
# distance 1, every angle 60°); it is as far off as the frozen model's relations vary.


# %%
def own_centers(arm, seed):
    """Class means of a network's features over 20 training images per class."""
    x = embed(arm, few.images, seed)
    return class_centers(x, few.labels, images.num_classes)


def gaps(f, g, centers_f=None, centers_g=None):
    """Mean squared difference of each potential between two batches of features."""
    n = len(f)
    distance = pairwise_distances(g) - pairwise_distances(f)
    angle = angle_cosines(g) - angle_cosines(f)
    result = {
        "ψ_d": float(distance.square().sum() / (n * (n - 1))),
        "ψ_a": float(angle.square().sum() / (n * (n - 1) * (n - 2))),
    }
    if centers_g is not None:
        result["ψ_e"] = float(order_c(f, g, assistant_centers, normalize=True))
        p, q = center_distances(f, centers_f), center_distances(g, centers_g)
        result["ψ_e, own centres"] = float((q / q.mean() - p / p.mean()).square().mean())
    return result


few = images.train.select(
    torch.cat([(images.train.labels == c).nonzero()[:20, 0] for c in range(images.num_classes)])
)
test_batches = [images.test.images[b] for b in batches]
frozen = [embed("assistant", batch) for batch in test_batches]
frozen_centers = own_centers("assistant", 0)
rows = []
for arm in ("student", "student alone", "untrained"):
    for seed in paired:
        learner_centers = own_centers(arm, seed)
        found = [
            gaps(f, embed(arm, batch, seed), frozen_centers, learner_centers)
            for f, batch in zip(frozen, test_batches, strict=True)
        ]
        rows.append({"learner": arm, "seed": seed, **pd.DataFrame(found).mean()})
simplex = pd.DataFrame([gaps(f, torch.eye(len(f))) for f in frozen]).mean()
rows.append({"learner": "all relations equal", **simplex})
measured = pd.DataFrame(rows)


def several(values):
    values = values.dropna()
    spread = f" ± {values.std():.4f}" if len(values) > 1 else ""
    return f"{values.mean():.4f}{spread}" if len(values) else "–"


potentials = ["ψ_d", "ψ_a", "ψ_e", "ψ_e, own centres"]
table = measured.groupby("learner", sort=False)[potentials].agg(several).reset_index()
table.insert(
    1, "n", [measured.seed[measured.learner == arm].count() or "–" for arm in table.learner]
)
report.save_table(table, out, "potentials_likeness")
display(table)

# %%
learners = list(table.learner)[::-1]
colours = {**report.COLORS, "untrained": "#E69F00", "all relations equal": "#CCCCCC"}
figure, axes = plt.subplots(1, 4, figsize=(13.5, 2.9), sharex=True, sharey=True)
for ax, potential in zip(axes, potentials, strict=True):
    for row, learner in enumerate(learners):
        values = measured.loc[measured.learner == learner, potential].dropna()
        if len(values):
            ax.plot(values.mean(), row, "o", ms=13, color=colours[learner])
            ax.plot(values, [row] * len(values), "o", ms=4, mfc="white", mec="black", mew=1)
        else:
            ax.text(0.03, row, "has no centres", va="center", fontsize=8, color="#777777",
                    transform=ax.get_yaxis_transform())  # fmt: skip
    ax.set_yticks(range(len(learners)), learners)
    ax.set_title(tex(potential))
    ax.set_xlabel("mean squared difference")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    ax.margins(x=0.15, y=0.2)
figure.suptitle("Relations compared with the frozen model's: left is more alike; dots are seeds",
                fontsize=11, x=0.01, ha="left")  # fmt: skip
report.save_figure(figure, out, "potentials_likeness")
plt.show()

# %% [markdown]
# ## What lower resolution does to relations
#
# The teacher's own relations at full resolution, against the same teacher fed with fewer pixels:
# natively, or enlarged back to the size it was trained at. The dots at the student's resolution are
# networks made for it, distilled and not.

# %%
teacher_full = [embed("teacher", batch) for batch in test_batches]


def to_teacher(features):
    """Orders 2 and 3 between the teacher at full resolution and other features of the batches."""
    both = list(zip(teacher_full, features, strict=True))
    return {
        "order 2": float(np.mean([order2(f, g) for f, g in both])),
        "order 3": float(np.mean([order3(f, g) for f, g in both])),
    }


rows = []
for size in resolutions:
    for way, upsample in (("native", False), ("enlarged back", True)):
        seen = [embed("teacher", batch, size=size, upsample=upsample) for batch in test_batches]
        rows.append({"what": f"teacher, {way}", "pixels": size, **to_teacher(seen)})
for arm in ("student", "student alone"):
    for seed in paired:
        seen = [embed(arm, batch, seed) for batch in test_batches]
        rows.append({"what": arm, "pixels": low, **to_teacher(seen)})
resolution = pd.DataFrame(rows)
report.save_table(resolution.round(5), out, "potentials_resolution")

styles = {
    "teacher, native": {"color": report.COLORS["teacher"], "ls": "-", "marker": "o"},
    "teacher, enlarged back": {"color": report.COLORS["teacher"], "ls": "--", "marker": "s"},
    "student": {"color": report.COLORS["student"], "ls": "", "marker": "D"},
    "student alone": {"color": report.COLORS["student alone"], "ls": "", "marker": "X"},
}
figure, axes = plt.subplots(1, 2, figsize=(11, 3.6))
for ax, order in zip(axes, ("order 2", "order 3"), strict=True):
    for what, look in styles.items():
        part = resolution[resolution.what == what]
        ax.plot(part.pixels, part[order], label=what, ms=7, **look)
    ax.set_xticks(resolutions)
    ax.invert_xaxis()
    ax.set_xlabel("resolution seen (px)")
    ax.set_ylabel(f"{order} to the teacher at {full} px")
    ax.set_title(f"Loss of {order}: what fewer pixels do")
axes[0].legend(frameon=False, fontsize=9)
report.save_figure(figure, out, "potentials_resolution")
plt.show()

# %% [markdown]
# ## Who drives the student?
#
# The size of each term's gradient at the student's features, as a share of their sum.

# %%
run = by_seed["student"][paired[0]]
figure, ax = plt.subplots(figsize=(7.5, 3.4))
report.plot_gradient_shares(run, ax)
ax.set_title(f"student, seed {run.config.seed}")
report.save_figure(figure, out, "potentials_gradient_shares")
plt.show()
shares = run.record["history"][-1]["gradient_shares"]
driver = max(shares, key=shares.get)
drives = (
    f"In the student's last epoch the largest share of the gradient comes from "
    f"{report.TERM_NAMES[driver]} ({100 * shares[driver]:.0f} %); "
    + ", ".join(f"{report.TERM_NAMES[t]} {100 * s:.0f} %" for t, s in shares.items() if t != driver)
    + "."
)
display(Markdown(drives))

# %% [markdown]
# ## What order 3 costs, and why the Gram form is the same number
#
# Written out, an angle takes two difference vectors and their scalar product: N² vectors of length
# D, N³ products of length D. But the scalar product at vertex j only combines products of features,
# the entries of the Gram matrix $G = X X^T$, and these only combine squared distances (the law of
# cosines):
#
# $$ \langle x_i - x_j,\ x_k - x_j \rangle = G_{ik} - G_{ij} - G_{jk} + G_{jj}
#    = \tfrac{1}{2} \left( d_{ij}^2 + d_{jk}^2 - d_{ik}^2 \right) $$
#
# So N² distances know all N³ angles. D occurs only in the one matrix product that gives the
# distances, and no array needs more than N² numbers if the angles are taken block by block. Both
# ways are timed below on random features, forward and backward, with the frozen model's side.


# %%
def written_out(x):
    """Cosines [j, i, k] at vertex j from all difference vectors (N, N, D)."""
    differences = x[None] - x[:, None]
    length = differences.norm(dim=2)
    floor = NEAR_DUPLICATE * length.sum() / (len(x) * (len(x) - 1))
    unit = differences / torch.maximum(length, floor)[..., None]
    return unit @ unit.transpose(1, 2)


def order3_written_out(frozen, learner):
    """Order 3 in the convention of the code published with RKD."""
    with torch.no_grad():
        target = written_out(frozen)
    return F.smooth_l1_loss(written_out(learner), target)


gram_gap = {}
for arm in ("assistant", "student"):
    x = features[arm].double()
    written, library = written_out(x).transpose(0, 1), angle_cosines(x)
    gram_gap[arm] = (written - library).abs().max().item()

WIDTH, REPEATS = 512, 3
rows = []
for n in (16, 32, 64, 128):
    generator = torch.Generator().manual_seed(n)
    frozen, learner = (torch.randn(n, WIDTH, generator=generator) for _ in range(2))
    learner.requires_grad_()
    row = {"N": n}
    for way, loss in (
        ("written out", order3_written_out),
        ("horkd", lambda f, g: order3(f, g, reduction="rkd")),
    ):
        seconds = []
        for _ in range(1 + REPEATS):  # the first call warms up
            learner.grad = None
            start = time.perf_counter()
            value = loss(frozen, learner)
            value.backward()
            seconds.append(time.perf_counter() - start)
        row |= {f"{way} (ms)": 1e3 * min(seconds[1:]), f"loss, {way}": value.item()}
    rows.append(row)
cost = pd.DataFrame(rows)
cost["ratio"] = cost["written out (ms)"] / cost["horkd (ms)"]
report.save_table(cost.round(6), out, "potentials_cost")

figure, ax = plt.subplots(figsize=(7.5, 3.6))
for way, look in (
    ("written out", {"color": "#777777", "ls": "--"}),
    ("horkd", {"color": "#009E73"}),
):
    ax.plot(cost["N"], cost[f"{way} (ms)"], marker="o", lw=1.8, label=way, **look)
for _, at in cost.iterrows():
    ax.annotate(
        f"{at['ratio']:.1f}×", (at["N"], at["written out (ms)"]),
        xytext=(0, 7), textcoords="offset points", ha="center", fontsize=9,
    )  # fmt: skip
ax.set_xscale("log", base=2)
ax.set_xticks(cost["N"], labels=cost["N"])
ax.set_yscale("log")
ax.margins(y=0.15)
ax.set_xlabel("images in a batch, N")
ax.set_ylabel("forward + backward (ms)")
ax.set_title(f"Order 3, random features of width {WIDTH}, best of {REPEATS}")
ax.legend(frameon=False, fontsize=9)
report.save_figure(figure, out, "potentials_cost")
plt.show()
costs = (
    f"All angles of {N} test images from their distances differ from those of the difference "
    f"vectors by at most {max(gram_gap.values()):.0e}. At N = {cost['N'].iloc[-1]}, D = {WIDTH}, "
    f"order 3 takes {cost['horkd (ms)'].iloc[-1]:.1f} ms instead of "
    f"{cost['written out (ms)'].iloc[-1]:.0f} ms; larger sizes and memory are in "
    "`reports/benchmarks/`."
)
display(Markdown(costs))

# %% [markdown]
# ## Verdict

# %%
invariant = ["ψ_d", "ψ_a", "order 2", "order 3"]
tied = ["ψ_e", "order 1", "order C"]
mean = measured.groupby("learner")[potentials].mean()
lines = [
    f"Turning, shifting or scaling the student's features changes ψ_d, ψ_a and orders 2 and 3 by "
    f"at most {changes.loc[invariant].max(axis=None):.0e} of their size; ψ_e and orders 1 and C "
    f"change by up to {changes.loc[tied].min(axis=None):.1f} (the least sensitive) to "
    f"{changes.loc[tied].max(axis=None):.1f} times theirs (the most sensitive)."
]
for potential in potentials:
    values = measured.pivot_table(index="seed", columns="learner", values=potential)
    closer = (values["student alone"] - values["student"]).to_numpy()
    claim = Gain(tuple(closer))
    lines.append(
        f"**{potential}**, mean squared difference to the assistant: student "
        f"{mean.loc['student', potential]:.4f}, student alone "
        f"{mean.loc['student alone', potential]:.4f}, untrained "
        f"{mean.loc['untrained', potential]:.4f} (n = {len(closer)}). "
        f'"Distillation makes it more alike": {claim.verdict}.'
    )
at = resolution[resolution.what == "teacher, native"].set_index("pixels").loc[low]
rest = resolution.groupby("what")[["order 2", "order 3"]].mean()
lines.append(
    f"Fed natively with {low} px, the teacher's own relations are off by {at['order 2']:.4f} "
    f"(order 2) and {at['order 3']:.4f} (order 3); the student's are off by "
    f"{rest.loc['student', 'order 2']:.4f} "
    f"and {rest.loc['student', 'order 3']:.4f}, those of the student alone by "
    f"{rest.loc['student alone', 'order 2']:.4f} and {rest.loc['student alone', 'order 3']:.4f}."
)
lines.append(drives)
lines.append(costs)
machine = run.record["machine"]
verdict = "\n".join(f"- {line}" for line in lines) + (
    f"\n\nNetworks {sizes.teacher} → {sizes.compact}, {sizes.data}, students at {low} px, "
    f"{sizes.recipe.epochs} epochs, {machine['name']}, {machine['threads']} threads. A difference "
    "counts from three seeds and a 95 % interval without zero, each potential by itself. "
    f"{unequal(run for runs in by_seed.values() for run in runs.values())}"
)
verdict = verdict.strip()
display(Markdown(verdict))
report.save_summary(
    out,
    "01_relational_potentials",
    f"{verdict}\n\n{report.markdown(table)}\n\n"
    "![Relations compared with the frozen model's](figures/potentials_likeness.png)\n\n"
    "![Distances of all pairs](figures/potentials_distances.png)\n\n"
    "![Invariances](figures/potentials_invariances.png)\n\n"
    "![Resolution and relations](figures/potentials_resolution.png)\n\n"
    "![What order 3 costs](figures/potentials_cost.png)",
)

# %%
# What holds by construction, whatever was learnt.
for name, values in by_equation.items():
    assert torch.allclose(values, by_library[name], atol=1e-5), name
assert changes.loc[invariant].max(axis=None) < 1e-3, "orders 2 and 3 see no position or scale"
assert changes.loc[tied].min(axis=None) > 1e-2, "orders 1 and C do"
assert max(gram_gap.values()) < 1e-9, "the same angles from distances"
assert np.allclose(cost["loss, written out"], cost["loss, horkd"], rtol=1e-4), "the same loss"
for arm, matrix in d.items():
    assert matrix.shape == (N, N)
    assert torch.allclose(matrix, matrix.T)
    assert abs(float(matrix.sum()) / (N * (N - 1)) - 1) < 1e-4, "each model in its own units"
    assert angle_cosines(features[arm]).abs().max() < 1 + 1e-4
assert e["student"].shape == (N, len(shown))
same = resolution[(resolution.pixels == full) & resolution.what.str.startswith("teacher")]
assert np.allclose(same[["order 2", "order 3"]], 0, atol=1e-6), "the same input, the same relations"
