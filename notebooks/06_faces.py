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
# # How small can a face be before the student fails?
#
# A face in a surveillance picture is 16 or 32 pixels wide. A network that was trained on sharp
# faces can be fed the small one, enlarged; a student can be trained to see in small faces what
# its teacher sees in sharp ones. The paper tests both questions of face recognition:
#
# - **verification** (Table 2): do two pictures show the same person? Ten folds of pairs; the
#   threshold on the cosine of two features is chosen on nine folds and applied to the tenth;
# - **identification** (Table 3): who is it? A gallery of known people, and probes to find there.
#
# Both are about people that no student was trained on. At the sizes `smoke` and `quick` the
# "people" are 40 characters that are never trained on. Preset `faces` is about Labeled Faces in
# the Wild, with a teacher that others trained on millions of faces; its students see photos of
# LFW alone, **without names**, as features and their relations need none.

# %% tags=["parameters"]
preset: str = "smoke"  # smoke, quick; faces (LFW) or faces-paper (UMDFaces, for a GPU)
data: str = ""  # training data; empty: the preset's own
seeds: int = 0  # seeds of the repeated arms; 0: the preset's own number
teacher_weights: str = (
    ""  # presets faces: the teacher's weights file, unless it is imported already
)
teacher_model: str = ""  # its architecture, if it is not the preset's: torchvision:resnet50
teacher_statistics: str = "imagenet"  # what its images are normalised by: imagenet or half
train_missing: bool = True  # False: report on the runs that are there
show_faces: bool = False  # presets faces: also show photos of people
out: str = ""  # folder of the report; empty: show, write nothing

# %%
import ipywidgets as widgets
import matplotlib.pyplot as plt
from IPython.display import Markdown, display

from horkd.studies import report
from horkd.studies.faces import figures, tables
from horkd.studies.faces.explore import Pairs
from horkd.studies.faces.page import faces_page, model_card
from horkd.studies.faces.setting import FACES, setting
from horkd.studies.presets import get_preset
from horkd.studies.results import live
from horkd.studies.study import study
from horkd.studies.teacher import with_teacher

report.style()
sizes = with_teacher(
    get_preset(preset, data, seeds), teacher_weights, teacher_model, teacher_statistics
)
here = setting(sizes)
report.describe_arms(study(sizes, "faces"))

# %% [markdown]
# ## Verification
#
# TAR is the share of same pairs that are accepted when at most so many of the different pairs are.

# %%
results = live(sizes, FACES, train_missing)
tables.look_at_all(results)
report.save_table(tables.verification_table(results), out, "faces_verification")

# %%
report.save_figure(figures.draw_faces(results), out, "faces")
plt.show()

# %% [markdown]
# ## Table 2
#
# The paper's rows as printed, of other networks, training sets and alignments. What was measured
# here stands below them and is named so: over the folds that were tested, three or more, or else on
# the first one alone, where one accuracy has a standard error of about a point.

# %%
report.save_table(tables.published(results), out, "faces_table2")

# %% [markdown]
# ## Table 3 and identification
#
# UCCS, which the paper uses, is given out on request only: put it into `$HORKD_DATA/uccs`, and the
# report has a table of it. The one below is about other subjects: it shows how the same networks
# compare, and nothing about the paper's numbers.

# %%
identified = report.save_table(tables.identification_table(results), out, "faces_identification")
display(tables.published_identification(), identified)

# %% [markdown]
# ## One image small, or both
#
# The teacher fed one image of each pair at the low resolution and the other one at the full one.

# %%
report.save_table(tables.mixed_table(results), out, "faces_mixed")

# %% [markdown]
# ## The hardest pairs
#
# Same pairs that the student finds least alike, different ones that it finds most alike. Choose a
# pair and a resolution: what do teacher and student say of it?

# %%
pairs = Pairs(results) if {"teacher"} < set(results) else None
shown = pairs is not None and (not here.lfw or show_faces)
if pairs is not None:
    print(pairs.versus_teacher())
if shown:
    report.save_figure(pairs.draw_hardest(), out, "faces_hardest")
    plt.show()

# %%
if shown:
    rank = widgets.IntSlider(0, 0, min(200, len(pairs.hardest)) - 1, description="pair")
    rank.continuous_update = False
    pixels = widgets.Dropdown(options=here.ladder, value=here.lows[0], description="px")
    report.explore(pairs.draw, rank=rank, pixels=pixels)
else:
    print("photos of people are shown with show_faces=True")

# %% [markdown]
# ## What these networks are for

# %%
display(Markdown(model_card(sizes)))

# %% [markdown]
# ## Verdict

# %%
page = faces_page(results)
results.save_records(out)
display(Markdown(page))
pictures = {"faces": "Verification by resolution, and ROC curves"}
report.save_summary(
    out, "06_faces", page, pictures | ({"faces_hardest": "Hardest pairs"} if shown else {})
)

# %%
# Nobody who is tested was trained on, whatever the photo.
assert pairs is None or pairs.nobody_was_trained_on()
counts = {found["n"] for row in tables.tested(results) for found in row.results}
assert len(counts) == 1, "all on the same pairs"
