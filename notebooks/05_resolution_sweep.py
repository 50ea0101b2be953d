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
from IPython.display import Markdown, display

from horkd.studies import report
from horkd.studies.classification import figures
from horkd.studies.classification.explore import Networks, draw_image
from horkd.studies.classification.page import resolutions_page
from horkd.studies.classification.tables import (
    RESOLUTIONS,
    at_resolution,
    crossed,
    resolution_table,
)
from horkd.studies.presets import get_preset
from horkd.studies.results import live
from horkd.studies.study import study

report.style()
sizes = get_preset(preset, data, seeds)
results = live(sizes, RESOLUTIONS, train_missing)
report.describe_arms(study(sizes, "resolutions"))

# %% [markdown]
# ## The runs

# %%
report.save_table(resolution_table(results), out, "resolutions")

# %% [markdown]
# At full resolution "from the teacher" is the assistant itself, and "from the assistant" a second
# generation of it. The three numbers under *n* are seeds of the three columns. MACs are for one
# image.
#
# ## Accuracy by resolution

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 4))
figures.plot_resolutions(results, axes)
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
report.save_figure(figures.draw_crossed(results), out, "resolutions_crossed")
plt.show()
results.save_records(out)

# %% [markdown]
# ## One image, all resolutions
#
# The probability that each student gives to the right class, at the resolution it was trained for.
# Choose an image; a dashed line is the same network without distillation.

# %%
networks = Networks(results)
count = len(networks.data.test)
slider = widgets.IntSlider(count // 2, 0, count - 1, description="test image")
slider.continuous_update = False
report.explore(lambda index: draw_image(networks, index), index=slider)
first = draw_image(networks, slider.value)
report.save_figure(first, out, "resolutions_image")
plt.close(first)

# %% [markdown]
# ## Verdict

# %%
page = resolutions_page(results)
display(Markdown(page))
report.save_summary(out, "05_resolution_sweep", page, {
    "resolutions": "Accuracy and gain by resolution",
    "resolutions_crossed": "Other resolutions and other kernels",
    "resolutions_image": "One image at every resolution",
})  # fmt: skip

# %%
# The diagonal of the matrix is the accuracy on record, whatever machine measured it again.
matrix = crossed(results)
for r in matrix.index:
    known = results.values(at_resolution(results, r)["student"])[0]
    assert np.isclose(matrix.loc[r, r], known, atol=0.3), r
