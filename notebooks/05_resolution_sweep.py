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
# # From which resolution on does it help to have seen the image sharp?
#
# A student at 24 pixels sees almost what its teacher sees; one at 4 pixels sees a smear. Somewhere
# between, knowing the high-resolution image should help most: enough is missing for help to be
# needed, enough is left for help to be of use. The paper shows 16 pixels on CIFAR-100. Here the
# same network is trained at every resolution, on labels only, from the teacher, and from the
# assistant. Two questions of practice come with it: what does a student do on images of another
# resolution, and on small images that were made by another kernel?

# %% tags=["parameters"]
preset: str = "smoke"  # smoke, quick, cpu, paper-short or paper: sizes and recipe
data: str = ""  # glyphs or cifar100; empty: the preset's own
seeds: int = 0  # seeds of the repeated arms; 0: the preset's own number
train_missing: bool = True  # False: report on the runs that are there
out: str = ""  # folder of the report; empty: show, write nothing

# %%
import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display

from horkd import predict as predict_
from horkd.data import load_dataset
from horkd.degradation import Degradation
from horkd.studies import report
from horkd.studies.classification import figures
from horkd.studies.classification.page import resolutions_page
from horkd.studies.classification.tables import (
    at_resolution,
    crossed,
    resolution_table,
    resolutions,
    swapped,
)
from horkd.studies.presets import get_preset
from horkd.studies.results import gather, live, save_records, top1
from horkd.studies.study import study

report.style()
pd.set_option("display.max_colwidth", None)
sizes = get_preset(preset, data, seeds)
display(report.describe_arms(study(sizes, "resolutions")))

# %% [markdown]
# ## The runs

# %%
source = live(sizes, train_missing)
arms = gather(sizes, ("two_stage", "resolutions"), source)
table = resolution_table(sizes, arms)
report.save_table(table, out, "resolutions")
display(table)

# %% [markdown]
# At full resolution "from the teacher" is the assistant itself, and "from the assistant" a second
# generation of it. The three numbers under *n* are seeds of the three columns. MACs are for one
# image.
#
# ## Accuracy by resolution

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 4))
figures.plot_resolutions(sizes, arms, axes)
axes[0].set_title(f"Preset {sizes.name}: {sizes.teacher} → {sizes.compact}, {sizes.data}")
axes[1].set_title("What distillation adds (paired by seed)")
report.save_figure(figure, out, "resolutions")
plt.show()

# %% [markdown]
# ## Another resolution, another kernel
#
# Left: a student trained at r gets images of r′ pixels as they are; average pooling takes any size.
# The diagonal is what it was trained for. Right: students trained on images reduced by one kernel
# get images reduced by another; the last column blurs, adds noise and compresses, as a camera
# does.

# %%
matrix = crossed(sizes, arms, source)
kernels = swapped(sizes, arms, source)
figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.2), width_ratios=(1.15, 1))
for ax, values, labels in (
    (left, matrix, ("trained at (px)", "tested at (px)")),
    (right, kernels, ("trained on", f"tested on, {sizes.low} px")),
):
    if values.empty:
        ax.axis("off")
    else:
        figures.plot_matrix(values, ax, *labels)
right.tick_params(axis="x", rotation=20)
report.save_figure(figure, out, "resolutions_crossed")
plt.show()
save_records(sizes, ("two_stage", "resolutions"), arms, source, out)

# %% [markdown]
# ## One image, all resolutions
#
# The probability that each student gives to the right class, at the resolution it was trained for.
# Choose an image; a dashed line is the same network without distillation.

# %%
dataset = load_dataset(sizes.data, sizes.per_class)
test = dataset.test
networks: dict[str, torch.nn.Module] = {}


def probability(name: str, index: int) -> float:
    """What an arm's first run gives to the right class of a test image."""
    run = arms[name][0]
    network = networks.setdefault(name, run.network())
    logits = predict_.predict(network, test.images[[index]], dataset, run.config.degradation).logits
    return logits.softmax(1)[0, test.labels[index]].item()


def look(index: int) -> plt.Figure:
    """A test image at every resolution, and what the students make of it."""
    steps = sorted(resolutions(sizes))
    figure = plt.figure(figsize=(11, 4.2))
    grid = figure.add_gridspec(2, len(steps), height_ratios=(1, 1.3))
    for column, r in enumerate(steps):
        image = Degradation(r)(test.images[[index]]).permute(0, 2, 3, 1).numpy()
        report.plot_images([figure.add_subplot(grid[0, column])], image, [f"{r} px"])
    ax = figure.add_subplot(grid[1, :])
    for kind, style in (("student", "-"), ("alone", "--")):
        names = {r: at_resolution(r, sizes)[kind] for r in steps}
        x = [i for i, r in enumerate(steps) if names[r] in arms]
        y = [probability(names[steps[i]], index) for i in x]
        label, color, marker = figures.KINDS[kind]
        ax.plot(x, y, style, marker=marker, color=color, label=label)
    ax.set_xticks(range(len(steps)), [f"{r}" for r in steps])
    ax.set_ylim(-0.03, 1.03)
    ax.set_xlabel("resolution (px)")
    ax.set_ylabel("probability of the right class")
    ax.legend(frameon=False, fontsize=9)
    figure.suptitle(f"test image {index}: {test.classes[test.labels[index]].replace('_', ' ')}")
    plt.close(figure)
    return figure


slider = widgets.IntSlider(len(test) // 2, 0, len(test) - 1, description="test image")
slider.continuous_update = False
display(slider)
first = look(slider.value)
report.save_figure(first, out, "resolutions_image")
view = display(first, display_id=True)
slider.observe(lambda change: view.update(look(change["new"])), names="value")

# %% [markdown]
# ## Verdict

# %%
page = resolutions_page(sizes, arms, source)
display(Markdown(page))
report.save_summary(
    out,
    "05_resolution_sweep",
    f"{page}\n\n![Accuracy and gain by resolution](figures/resolutions.png)\n\n"
    "![Other resolutions and other kernels](figures/resolutions_crossed.png)\n\n"
    "![One image at every resolution](figures/resolutions_image.png)",
)

# %%
# The diagonal of the matrix is the accuracy on record, whatever machine measured it again.
for r in matrix.index:
    run = arms[at_resolution(r, sizes)["student"]][0]
    assert np.isclose(matrix.loc[r, r], top1([run])[0], atol=0.3), r
