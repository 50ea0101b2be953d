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
# # What is a 16-pixel student, and does it learn from relations?
#
# A network trained on sharp images fails on small ones, and a small image is often all there is: a
# face far away, a thumbnail, a distant sign. This tour trains a network *for* small images, with
# the help of one that has seen them sharp, and asks what that help was worth.

# %% tags=["parameters"]
preset: str = "smoke"  # smoke, quick, cpu, paper-short or paper: sizes and recipe
data: str = ""  # glyphs or cifar100; empty: the preset's own
seeds: int = 0  # seeds of each student; 0: the preset's own number
train_missing: bool = True  # False: only read runs that are there
images: int = 6  # how many test images to look at
out: str = ""  # folder of the report; empty: show, write nothing

# %%
import io
from dataclasses import replace

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display
from matplotlib.patches import FancyBboxPatch

from horkd import paper
from horkd import predict as predict_
from horkd.data import load_dataset
from horkd.degradation import KERNELS, Degradation
from horkd.errors import HorkdError
from horkd.machine import Settings, describe_machine, latency
from horkd.networks.network import macs, parameters
from horkd.protocols import classification
from horkd.studies import report
from horkd.studies.claims import mean_and_spread, unequal
from horkd.studies.presets import get_preset
from horkd.studies.results import live
from horkd.studies.study import study

report.style()
pd.set_option("display.max_colwidth", None)
sizes = get_preset(preset, data, seeds)
dataset = load_dataset(sizes.data, sizes.per_class)
test = dataset.test
names = [name.replace("_", " ") for name in test.classes]
full, low = Degradation(dataset.size), Degradation(sizes.low)
enlarged = replace(low, upsample=True)  # reduced, then enlarged back by the same kernel
if not 2 <= images <= len(test):
    raise HorkdError(f"images must lie in 2 to {len(test)}, got {images}")


def pixels(view: Degradation, index: list[int]) -> np.ndarray:
    """Test images as a model with this view gets them, (N, S, S, 3)."""
    return view(test.images[index]).permute(0, 2, 3, 1).numpy()


# %% [markdown]
# ## What each model sees
#
# The first test images, in native pixels. Teacher and assistant get the left column; the student
# gets the one marked for it, a quarter of the pixels, and has to name the same class.

# %%
columns = {
    f"{s} px" + {dataset.size: "\nteacher, assistant", sizes.low: "\nstudent"}.get(s, "\n"): s
    for s in sorted({dataset.size, 24, sizes.low, 12, 8}, reverse=True)
}
figure, axes = plt.subplots(min(images, 5), len(columns), figsize=(8, 1.45 * min(images, 5) + 0.4))
for ax, (title, size) in zip(axes.T, columns.items(), strict=True):
    report.plot_images(ax, pixels(Degradation(size), range(len(ax))), [title])
for ax, label in zip(axes[:, 0], test.labels, strict=False):
    ax.set_ylabel(names[label], rotation=0, ha="right", va="center", fontsize=10)
report.save_figure(figure, out, "tour_resolutions")
plt.show()

# %% [markdown]
# What a small image looks like depends on the kernel that made it. The paper does not name its
# own; here it is antialiased bicubic, applied to 8-bit images after augmentation. "Nearest" drops
# pixels and aliases. The last column, small and then enlarged again, is fed to the teacher below.

# %%
columns = {f"{dataset.size} px": full}
columns |= {f"{kernel}, {sizes.low} px": replace(low, kernel=kernel) for kernel in KERNELS}
columns |= {f"bicubic, back at {dataset.size} px": enlarged}
figure, axes = plt.subplots(2, len(columns), figsize=(11, 3.9))
for ax, (title, view) in zip(axes.T, columns.items(), strict=True):
    report.plot_images(ax, pixels(view, [0, 1]), [title])
report.save_figure(figure, out, "tour_kernels")
plt.show()

# %% [markdown]
# ## The idea
#
# Copying the teacher's features does not work when the student cannot see what they are made of.
# *Relations* can survive: which images lie near each other ($L_2$, distances of pairs), at which
# angles ($L_3$, triplets), how far from the centre of every class ($L_C$). The step is too long to
# take at once, so it is taken twice: first the **structure** shrinks, from the teacher to a compact
# assistant that still sees sharp images, then the **resolution**, from the assistant to the
# student. In each stage the model on the left is frozen, and the one on the right learns from the
# labels (cross-entropy) and from the relations between the left one's features.

# %%
figure, ax = plt.subplots(figsize=(10, 3.7))
arrow = {"arrowstyle": "-|>", "color": "0.35", "mutation_scale": 16}
streams = (("teacher", sizes.teacher, full), ("assistant", sizes.compact, full))
streams += (("student", sizes.compact, low),)
for x, (role, network, view) in zip((2.5, 10, 17.5), streams, strict=True):
    side = 2.6 * view.size / dataset.size  # the images are drawn to scale
    ax.imshow(
        pixels(view, [0])[0], extent=(x - side / 2, x + side / 2, 0, side), interpolation="nearest"
    )
    ax.text(x + side / 2 + 0.2, 0.1, f"{view.size} px", fontsize=10, color="0.3")
    ax.annotate("", (x, 4.3), (x, side), arrowprops=arrow)
    box = FancyBboxPatch((x - 2.4, 4.4), 4.8, 2, "round,pad=0,rounding_size=0.3")
    box.set(facecolor=report.COLORS[role], edgecolor="none")
    ax.add_patch(box)
    ax.text(x, 5.4, f"{role}\n{network}", color="white", ha="center", va="center", fontsize=12)
terms = " + ".join(rf"L_{order}" for order, _ in sizes.orders)
for x, step in ((6.25, "stage 1\nsmaller network"), (13.75, "stage 2\nsmaller image")):
    ax.annotate("", (x + 1.4, 5.4), (x - 1.4, 5.4), arrowprops=arrow | {"lw": 3})
    ax.text(x, 6.0, step, ha="center", fontsize=9.5)
    ax.text(x, 4.5, f"${terms}$", ha="center", fontsize=11)
ax.set(xlim=(0, 20), ylim=(-0.1, 7.4), aspect="equal")
ax.axis("off")
report.save_figure(figure, out, "tour_idea")
plt.show()

# %% [markdown]
# ## The runs
#
# The three models, and one control that the paper leaves out: the **student alone**, the same
# network at the same resolution, trained on the labels only, from the same initial weights and
# batches. What has been trained before is read.

# %%
roles = ("teacher", "assistant", "student", "student alone")
results = live(sizes, ("two_stage",), train_missing, only=roles)
arms = results.found
if set(arms) < set(roles):
    raise HorkdError(f"not trained yet: {', '.join(r for r in roles if r not in arms)}")
results.save_records(out)

# %% [markdown]
# The teacher gets two more tries, on the student's images. It is the honest comparison for "a large
# network fails on small images": once enlarged back to the size it knows, once as they are, which
# a network that ends in average pooling can take.

# %%
tries = {
    "teacher": ("teacher", full),
    f"teacher fed {low.size} px enlarged": ("teacher", enlarged),
    f"teacher fed {low.size} px": ("teacher", low),
    "assistant": ("assistant", full),
    "student": ("student", low),
    "student alone": ("student alone", low),
}
device = "cuda" if torch.cuda.is_available() else "cpu"
place = Settings(device, channels_last="on").place
logits = {
    name: [
        predict_.predict(place(run.network()), test.images, dataset, view).logits.cpu()
        for run in arms[arm]
    ]
    for name, (arm, view) in tries.items()
}
accuracy = {n: [classification.accuracy(x, test.labels)["top1"] for x in logits[n]] for n in tries}
agreement = {
    n: [classification.agreement(x, logits["teacher"][0])["same_answer"] for x in logits[n]]
    for n in tries
}

# %% [markdown]
# ## What they answer
#
# The three likeliest classes of each model; ✓ marks the right one. The images follow a rule, not
# taste: going through the test set in order, the first half are those that the student gets right,
# the second half those that it gets wrong, each of another class. Half and half is for looking; how
# often each happens stands in the title.


# %%
def first_of_each_class(wanted: torch.Tensor, count: int) -> list[int]:
    """The first `count` test images where `wanted` (N,) holds, each of another class."""
    first = {}
    for index in wanted.nonzero().flatten().tolist():
        first.setdefault(int(test.labels[index]), index)
    return list(first.values())[:count]


def draw_predictions(index: list[int]) -> plt.Figure:
    """One row per test image: what there is to see, and the top three of every model."""
    figure, axes = plt.subplots(
        1, len(tries) + 2, figsize=(12.5, 0.88 * len(index) + 0.6), sharey=True,
        width_ratios=[0.85, 0.85, *[1.3] * len(tries)],
    )  # fmt: skip
    for ax, view in zip(axes, (full, low), strict=False):
        for row, picture in enumerate(pixels(view, index)):
            ax.imshow(
                picture, extent=(0, 3.5, 4 * row + 3.15, 4 * row - 0.35), interpolation="nearest"
            )
        ax.set(xlim=(0, 3.5), xticks=[], yticks=[])
        ax.set_title(f"{view.size} px", fontsize=9)
        ax.grid(visible=False)
    for row, label in enumerate(test.labels[index]):
        axes[0].text(-0.3, 4 * row + 1.4, names[label], ha="right", va="center", fontsize=10)
    for ax, (name, (arm, _)) in zip(axes[2:], tries.items(), strict=True):
        draw_top3(ax, logits[name][0][index], test.labels[index], report.COLORS[arm])
        ax.set_title(name.replace(" fed", "\nfed"), fontsize=9)
    axes[0].set_ylim(4 * len(index) - 0.6, -0.6)
    for ax in axes:
        for spine in ax.spines.values():
            spine.set_visible(False)
    return figure


def draw_top3(ax: plt.Axes, answers: torch.Tensor, labels: torch.Tensor, color: str) -> None:
    """Three bars per row of logits (N, C): their length is the probability."""
    probability, classes = answers.softmax(1).topk(3)
    for row, label in enumerate(labels):
        for rank in range(3):
            right = bool(classes[row, rank] == label)
            y = 4 * row + 0.3 + 1.1 * rank
            ax.barh(
                y, probability[row, rank], height=0.95, color=color, alpha=0.42 if right else 0.17
            )
            name = names[classes[row, rank]] + ("  ✓" if right else "")
            ax.text(
                0.02, y, name, va="center", fontsize=8.5, fontweight="bold" if right else "normal"
            )
    ax.set(xlim=(0, 1), xticks=[])
    ax.grid(visible=False)
    ax.axvline(0, color="0.5", lw=0.8)


correct = logits["student"][0].argmax(1) == test.labels
right = first_of_each_class(correct, images - images // 2)
wrong = first_of_each_class(~correct, images // 2)
figure = draw_predictions([*right, *wrong])
figure.suptitle(
    f"Top three answers; the student (seed {arms['student'][0].config.seed}) is right on "
    f"{accuracy['student'][0]:.1f} % of {len(test):,} test images, "
    f"here on the first {len(right)} of {len(right) + len(wrong)}",
    x=0.01, ha="left", fontsize=11,
)  # fmt: skip
report.save_figure(figure, out, "tour_predictions")
plt.show()

# %% [markdown]
# In JupyterLab the slider goes to any other test image.


# %%
# An Image widget instead of `interact`: that one's Output widget now and then makes papermill wait
# for ever, because nbclient answers it on the channel on which it awaits the end of the cell.
def picture(index: int) -> bytes:
    """One test image's predictions as a PNG file."""
    file = io.BytesIO()
    figure = draw_predictions([index])
    figure.savefig(file, format="png", dpi=90)
    plt.close(figure)
    return file.getvalue()


slider = ipywidgets.IntSlider(len(test) // 2, 0, len(test) - 1, description="test image")
view = ipywidgets.Image(value=picture(slider.value), format="png")
slider.observe(lambda change: view.set_trait("value", picture(change["new"])), "value")
display(ipywidgets.VBox([slider, view]))

# %% [markdown]
# ## The numbers
#
# Test top-1 after the last epoch, mean ± standard deviation over the students' seeds. MACs are
# multiply-accumulates for one image at the resolution the network runs at. The paper's numbers
# stand in their own column: other networks, other data unless it says CIFAR-100.

# %%
ours = f"test top-1 % ({sizes.data}, {sizes.teacher} → {sizes.compact})"
chance = 100 / dataset.num_classes
theirs = "paper % (CIFAR-100, ResNet50 → ResNet18)"
rows_of_table_1 = {name: arm.row for name, arm in study(sizes, "two_stage").items()}
sees = {full: f"{full.size}", low: f"{low.size}", enlarged: f"{low.size} → {full.size}"}
rows = []
for name, (arm, view) in tries.items():
    network = place(arms[arm][0].network())
    side = low.size if view == low else full.size
    published = paper.row(rows_of_table_1.get(name))
    rows.append({
        "model": name,
        "sees (px)": sees[view],
        "network": arms[arm][0].config.model,
        "MACs (M)": f"{macs(network, side) / 1e6:.2f}",
        "parameters (M)": f"{parameters(network) / 1e6:.3f}",
        "ms per image": f"{latency(network, side):.2f}",
        ours: mean_and_spread(accuracy[name]),
        "n": len(arms[arm]),
        "same answer as the teacher %": mean_and_spread(agreement[name]),
        theirs: "–" if published is None else f"{published:.2f}",
    })  # fmt: skip
table = pd.DataFrame(rows)
report.save_table(table, out, "tour")
display(table)

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 3.5), sharey=True)
titles = ("Right answers", "The same answer as the teacher at full resolution")
for ax, values, title in zip(axes, (accuracy, agreement), titles, strict=True):
    for row, (name, (arm, _)) in enumerate(tries.items()):
        hollow = name != arm  # the teacher outside its own resolution
        ax.barh(
            row, np.mean(values[name]), height=0.62, alpha=0.75, hatch="///" if hollow else "",
            facecolor="white" if hollow else report.COLORS[arm], edgecolor=report.COLORS[arm],
        )  # fmt: skip
        ax.plot(values[name], [row] * len(values[name]), "o", ms=5, mfc="white", mec="black")
        ax.annotate(
            mean_and_spread(values[name]), (max(values[name]), row), (8, 0),
            textcoords="offset points", va="center", fontsize=9,
        )  # fmt: skip
    ax.set_title(title)
    ax.set_xlabel(f"% of {len(test):,} test images; dots are seeds")
    ax.set_xticks([t for t in ax.get_xticks() if t <= 100])
    ax.grid(axis="y", visible=False)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.margins(x=0.22)
    ax.set_xlim(left=0)
labels = [n if "fed" in n else f"{n}, {sees[view]} px" for n, (_, view) in tries.items()]
axes[0].set_yticks(range(len(tries)), labels)
axes[0].axvline(chance, color="black", lw=1, ls=":")
axes[0].set_xlabel(axes[0].get_xlabel() + f"; dotted: chance, {chance:g} %")
axes[0].invert_yaxis()
report.save_figure(figure, out, "tour_numbers")
plt.show()

# %% [markdown]
# ## Verdict

# %%
relations = results.gain("student", "student alone")
word = {
    "holds": "Yes, it learns from relations",
    "does not hold": "No, here the relations cost accuracy",
    "not shown": "Not shown",
}[relations.verdict]
mean = {name: float(np.mean(values)) for name, values in accuracy.items()}
learned = max(mean.values()) > 5 * chance
caution = "" if learned else (
    f"**Trained too little to say anything**: no model is far above chance ({chance:g} %); this "
    "size only shows that everything runs.\n\n"
)  # fmt: skip
cost = table.set_index("model")["MACs (M)"].astype(float)
machine = describe_machine(device)
trained = arms["student"][0].record["machine"]
verdict = f"""{caution}\
- **Small images and the teacher**: {mean["teacher"]:.1f} % at {full.size} px; on the same images
  reduced to {low.size} px, {mean[f"teacher fed {low.size} px enlarged"]:.1f} % enlarged back and
  {mean[f"teacher fed {low.size} px"]:.1f} % as they are.
- **The {low.size}-pixel student**: {mean["student"]:.1f} % with {cost["student"]:.2f} M
  multiply-accumulates, against the teacher's {cost["teacher"]:.2f} M. Alone, without any teacher,
  it reaches {mean["student alone"]:.1f} %.
- **Does it learn from relations? {word}**: student − student alone is {relations.text}. A
  difference counts from three seeds and a 95 % interval without zero.
- **Does it become like its teacher?** They give the same answer on
  {mean_and_spread(agreement["student"])} % of the images; the student alone on
  {mean_and_spread(agreement["student alone"])} %.

{sizes.teacher} → {sizes.compact}, {sizes.data}, {sizes.recipe.epochs} epochs
({sizes.teacher_recipe.epochs} for the teacher), trained on {trained["name"]},
threads: {trained["threads"]}; milliseconds on {machine["name"]}, threads: {machine["threads"]}.
{unequal(run for runs in arms.values() for run in runs)}""".strip()
display(Markdown(verdict))
report.save_summary(
    out,
    "00_tour",
    f"{verdict}\n\n{report.markdown(table)}\n\n"
    "![Every model, right answers and agreement](figures/tour_numbers.png)\n\n"
    "![Top three answers on a few test images](figures/tour_predictions.png)\n\n"
    "![What each model sees](figures/tour_resolutions.png)\n\n"
    "![The same image through each kernel](figures/tour_kernels.png)\n\n"
    "![Teacher, assistant, student](figures/tour_idea.png)",
)

# %%
# What was looked at is what the records say, and the pictures follow their rule.
measured = {
    arm: dict(zip([run.config.seed for run in arms[arm]], accuracy[arm], strict=True))
    for arm in roles
}
for arm in roles:  # rounding may flip an image or two on another machine
    assert np.allclose(list(measured[arm].values()), results.values(arm), atol=0.3), arm
paired = [
    a - measured["student alone"].get(seed, np.nan) for seed, a in measured["student"].items()
]
paired = [value for value in paired if not np.isnan(value)]
assert np.allclose(paired, relations.values, atol=0.6)
assert agreement["teacher"] == [100.0]
assert correct[right].all()
assert not correct[wrong].any()
assert len(set(test.labels[right].tolist())) == len(right), "one image of a class"
assert cost["student"] < cost["assistant"], "fewer pixels, less work"

# %% [markdown]
# ## Where to go next
#
# | notebook | its question |
# |---|---|
# | `01_relational_potentials` | what do distances, angles and centres see of a batch? |
# | `02_two_stage_transfer` | does each stage help, and is the assistant needed? |
# | `03_table1` | is it better than other distillation? |
# | `04_order_ablation` | which orders does it need? |
# | `05_resolution_sweep` | from which resolution on does it help? |
#
# | to | type |
# |---|---|
# | run every notebook and write a report, on two cores in minutes | `make reproduce` |
# | open the notebooks | `make lab` |
# | train on CIFAR-100 without a GPU, in hours, resumable | `python -m horkd work --preset cpu` |
# | run only this one, larger | `papermill notebooks/00_tour.ipynb tour.ipynb -p preset quick` |
