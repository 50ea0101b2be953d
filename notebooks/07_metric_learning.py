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
import torch
from IPython.display import Markdown, display

from horkd.protocols.neighbours import measure
from horkd.studies import report
from horkd.studies.presets import get_preset
from horkd.studies.results import live
from horkd.studies.retrieval import figures, tables
from horkd.studies.retrieval.explore import Neighbours
from horkd.studies.retrieval.page import assistant_effect, metric_page
from horkd.studies.retrieval.tables import RETRIEVAL, TEACHER
from horkd.studies.study import study
from horkd.studies.teacher import with_teacher

report.style()
sizes = with_teacher(
    get_preset(preset, data, seeds, select, task="retrieval"),
    teacher_weights,
    teacher_model,
    teacher_statistics,
)
main = tables.sizes_of(sizes).lows[0]
report.describe_arms(study(sizes, "metric"))

# %% [markdown]
# ## Every network, by itself
#
# R-precision is the share of right images among as many as the class has; MAP@R also asks how early
# they come (Musgrave et al. 2020). NMI compares clusters with classes. The teacher is also fed the
# students' images, enlarged.

# %%
results = live(sizes, RETRIEVAL, train_missing)
tables.look_at_all(results)
report.save_table(tables.retrieval_table(results), out, "retrieval")

# %% [markdown]
# ## Table 4 and Fig. 3
#
# The paper's rows as printed, and the arms that stand for them here. PKT, DarkRank, both MKD rows
# and ResNet101 were taken by the paper from another study, with a ResNet101 as teacher.

# %%
report.save_table(tables.published(results), out, "table4")

# %%
report.save_figure(figures.draw_metric(results), out, "metric_learning")
plt.show()

# %%
effect = assistant_effect(results)
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
report.save_table(tables.across_table(results), out, "retrieval_across")

# %% [markdown]
# ## Looking at it
#
# A query as the student sees it, its nearest images by the teacher, which sees them sharp, and by
# the student, which sees them small. The queries are the first image of each of the first classes:
# they were not chosen. Then choose a query and a resolution.

# %%
images = Neighbours(results)
pictures = {"metric_learning": "Recall by resolution, the paper's, and in the teacher's index"}
if main in images.choices:
    figure = images.draw(images.firsts(), main)
    report.save_figure(figure, out, "neighbours")
    pictures["neighbours"] = "Queries and their neighbours"
    display(figure)

# %%
if images.choices:
    query = widgets.IntSlider(0, 0, len(images.labels) - 1, description="query")
    query.continuous_update = False
    start = main if main in images.choices else images.choices[0]
    pixels = widgets.Dropdown(options=images.choices, value=start, description="px")
    report.explore(lambda query, pixels: images.draw([query], pixels), query=query, pixels=pixels)

# %% [markdown]
# ## Verdict

# %%
page = metric_page(results)
results.save_records(out)
display(Markdown(page))
report.save_summary(out, "07_metric_learning", page, pictures)

# %%
# No class is trained on and tested, and no query finds itself.
splits = images.data
trained = {*splits.train.classes, *(splits.validation.classes if splits.validation else ())}
assert not trained & set(splits.test.classes)
if TEACHER in results:
    own = torch.arange(len(images.labels))
    assert (images.nearest(TEACHER, own, 1)[:, 0] != own).all()
    again = measure(images.features(TEACHER), images.labels)["recall"]["1"]
    assert abs(again - results.values(TEACHER)[0]) < 1.0, "the record is of this network"
