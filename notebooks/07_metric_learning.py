# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Does a low-resolution student keep its teacher's neighbourhoods?
#
# Retrieval asks for the nearest images of a query: the same bird species, car model or product.
# A network for it is trained on some classes and tested on others, so there is nothing to classify:
# all that counts is which images lie close together. That is what relations are about, and so the
# paper's student of metric learning learns from relations **alone**, without any label:
#
# - the teacher learns by the triplet loss (margin 0.2, negatives drawn by their distance) and ends
#   in a vector of unit length;
# - the assistant, compact, learns orders 2, 3 and C from it at full resolution (stage 1);
# - the student learns the same from the assistant, at a low resolution (stage 2).
#
# An image is found if its class is right (Recall@K: among the K nearest). Every test image is query
# and, for all others, gallery. At `smoke` and `quick` the images are characters; preset `metric`
# has all arms on them, `metric-cpu` CIFAR-100 with 80 classes to train on and 20 to find, and
# `metric-paper` birds, cars and products as in the paper, for those who have them and a GPU. On
# CIFAR-100 labels are learnt by a margin softmax instead of triplets, which from random weights and
# in few epochs teach little there.

# %% tags=["parameters"]
preset: str = "smoke"  # smoke, quick; metric, metric-cpu, metric-paper
data: str = ""  # of the last three, another set: cub, cars, sop, folder:PATH; empty: its own
seeds: int = 0  # seeds of the repeated arms; 0: the preset's own number
select: str = ""  # the epoch that counts: validation, last, or test as published code has it
teacher_weights: str = ""  # presets of metric learning: weights of a teacher trained elsewhere
teacher_model: str = ""  # its architecture: torchvision:resnet50, or @512 after it
teacher_statistics: str = "imagenet"  # what its images are normalised by: imagenet or half
train_missing: bool = True  # False: report on the runs that are there
out: str = ""  # folder of the report; empty: show, write nothing

# %%
import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display

from horkd.data import load_dataset
from horkd.data.retrieval import plain_name
from horkd.degradation import Degradation
from horkd.lab import looks as looks_
from horkd.protocols import neighbours
from horkd.studies import report
from horkd.studies.presets import get_preset
from horkd.studies.results import live, save_records
from horkd.studies.retrieval import figures as metric_figures
from horkd.studies.retrieval import page as metric_page
from horkd.studies.retrieval import tables as metric_tables
from horkd.studies.retrieval.arms import METRIC
from horkd.studies.study import study
from horkd.studies.teacher import with_teacher

report.style()
pd.set_option("display.max_colwidth", None)
sizes = with_teacher(
    get_preset(preset, data, seeds, select, task="retrieval"),
    teacher_weights,
    teacher_model,
    teacher_statistics,
)
metric_tables.sizes_of(sizes)
display(report.describe_arms(study(sizes, "metric")))

# %% [markdown]
# ## Every network, by itself
#
# R-precision is the share of right images among as many as the class has; MAP@R also asks how early
# they come (Musgrave et al. 2020). NMI compares clusters with classes. The teacher is also fed the
# students' images, enlarged.

# %%
source = live(sizes, train_missing)
arms = metric_tables.metric_arms(sizes, source)
metric_tables.look_at_all(sizes, arms, source)
table = metric_tables.retrieval_table(sizes, arms, source)
report.save_table(table, out, "retrieval")
display(table)

# %% [markdown]
# ## Table 4 and Fig. 3
#
# The paper's rows as printed, and the arms that stand for them here. PKT, DarkRank, both MKD rows
# and ResNet101 were taken by the paper from another study, with a ResNet101 as teacher.

# %%
published = metric_tables.published(sizes, arms)
report.save_table(published, out, "table4")
display(published)

# %%
rows = metric_tables.tested(sizes, arms, source)
crossed = metric_tables.across_rows(sizes, arms, source)
main = sizes.lows[0]
figure, axes = plt.subplots(1, 3, figsize=(14.5, 5), layout="constrained")
metric_figures.plot_metric(rows, axes[0])
networks = f"{sizes.teacher} → {sizes.compact}".replace("torchvision:", "")
axes[0].set_title(f"here: {networks}, {plain_name(sizes.data)}", fontsize=11)
metric_figures.plot_table4(axes[1])
axes[1].set_title("the paper: ResNet50 → ResNet18", fontsize=11)
metric_figures.plot_across([row for row in crossed if row.pixels == main], axes[2])
axes[2].set_title(f"queries of {main} px in two indices", fontsize=11)
report.save_figure(figure, out, "metric_learning")
plt.show()

# %%
effect = metric_page.assistant_effect(sizes, arms)
display(Markdown(effect or "no resolution has both a student with and one without assistant"))

# %% [markdown]
# ## In an index that is there already
#
# A deployed system has an index of sharp images, made by the teacher. A student that learnt
# relations alone has the teacher's neighbourhoods, but turned, shifted and scaled at will: its
# query has to be **aligned** first, by the rotation, scale and offset that fit best on training
# images, which change no relation. A student that also learns the features themselves (order 1)
# needs no such step.

# %%
table = metric_tables.across_table(sizes, arms, source)
report.save_table(table, out, "retrieval_across")
display(table)

# %% [markdown]
# ## Looking at it
#
# A query as the student sees it, its nearest images by the teacher, which sees them sharp, and by
# the student, which sees them small. The queries are the first image of each of the first classes:
# they were not chosen. Then choose a query and a resolution.

# %%
dataset = load_dataset(sizes.data, sizes.per_class)
labels = dataset.test.labels
SHOWN = 4  # neighbours of each network


def student_at(pixels: int) -> str | None:
    """The best known kind of student at a resolution."""
    names = (f"{METRIC}student {pixels}{ending}" for ending in ("", " direct", " alone"))
    return next((name for name in names if name in arms), None)


embedded = {}


def features(name: str) -> torch.Tensor:
    """What an arm's first network says of every test image."""
    if name not in embedded:
        embedded[name] = looks_.features(arms[name][0])
    return embedded[name]


def pictures(index: torch.Tensor) -> torch.Tensor:
    """Test images at full resolution, uint8 (N, 3, S, S)."""
    test = dataset.test.central
    if isinstance(test, torch.Tensor):
        return test[index]
    inner = slice(test.margin, test.margin + test.size)
    return test.load(index)[:, :, inner, inner]


def seen(index: torch.Tensor, pixels: int) -> np.ndarray:
    """Images as a network of that resolution sees them."""
    return Degradation(pixels)(pictures(index)).permute(0, 2, 3, 1).numpy()


def look(queries: list[int], pixels: int) -> plt.Figure:
    """Neighbours by teacher and student of some queries."""
    student = student_at(pixels)
    pairs = [(metric_tables.TEACHER, metric_tables.full(sizes)), (student, pixels)]
    asked, found = torch.tensor(queries), []
    for name, resolution in pairs:
        if name not in arms:
            continue
        near, _ = neighbours.nearest(features(name)[asked], features(name), SHOWN, asked)
        images = seen(near.flatten(), resolution)
        images = images.reshape(len(queries), SHOWN, *images.shape[1:])
        right = (labels[near] == labels[asked][:, None]).numpy()
        found.append(
            (f"nearest by {metric_tables.short(name)}, which sees {resolution} px", images, right)
        )
    widths = [1.0, *([0.3, *[1.0] * SHOWN] * len(found))]
    figure, axes = plt.subplots(
        len(queries),
        len(widths),
        figsize=(1.15 * sum(widths), 1.25 * len(queries) + 0.3),
        squeeze=False,
        layout="constrained",
        width_ratios=widths,
    )
    metric_figures.plot_neighbours(seen(asked, pixels), found, axes)
    plt.close(figure)
    return figure


first = [int((labels == c).nonzero()[0]) for c in labels.unique()[:5]]
if student_at(main) is not None:
    figure = look(first, main)
    report.save_figure(figure, out, "neighbours")
    display(figure)
picture = "\n\n![Queries and their neighbours](figures/neighbours.png)" if student_at(main) else ""

# %%
choices = [r for r in sorted((*sizes.lows, metric_tables.full(sizes))) if student_at(r)]
if choices:
    query = widgets.IntSlider(0, 0, len(labels) - 1, description="query")
    query.continuous_update = False
    pixels = widgets.Dropdown(
        options=choices, value=main if main in choices else choices[0], description="px"
    )
    display(widgets.HBox([query, pixels]))
    shown = display(look([query.value], pixels.value), display_id=True)
    for control in (query, pixels):
        control.observe(lambda _: shown.update(look([query.value], pixels.value)), names="value")

# %% [markdown]
# ## Verdict

# %%
page = metric_page.metric_page(sizes, arms, source)
save_records(sizes, ("metric",), arms, source, out)
display(Markdown(page))
report.save_summary(
    out,
    "07_metric_learning",
    f"{page}\n\n![Recall by resolution, the paper's, and in the teacher's index]"
    f"(figures/metric_learning.png){picture}",
)

# %%
# No class is trained on and tested, and no query finds itself.
trained = {*dataset.train.classes, *(dataset.validation.classes if dataset.validation else ())}
assert not trained & set(dataset.test.classes)
if metric_tables.TEACHER in arms:
    own = torch.arange(len(labels))
    near, _ = neighbours.nearest(
        features(metric_tables.TEACHER), features(metric_tables.TEACHER), 1, own
    )
    assert (near[:, 0] != own).all()
    again = neighbours.measure(features(metric_tables.TEACHER), labels)["recall"]["1"]
    kept = arms[metric_tables.TEACHER][0].record["results"]["test"]["recall"]["1"]
    assert abs(again - kept) < 1.0, "the record is of this network and these images"
