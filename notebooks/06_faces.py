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
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown, display

from horkd.data import load_dataset
from horkd.degradation import Degradation
from horkd.lab.looks import Look
from horkd.protocols import Asked, verification
from horkd.studies import report
from horkd.studies.faces import figures as face_figures
from horkd.studies.faces import page as face_page
from horkd.studies.faces import tables as face_tables
from horkd.studies.presets import get_preset
from horkd.studies.results import live, save_records
from horkd.studies.study import study
from horkd.studies.teacher import with_teacher

report.style()
pd.set_option("display.max_colwidth", None)
sizes = with_teacher(
    get_preset(preset, data, seeds), teacher_weights, teacher_model, teacher_statistics
)
display(report.describe_arms(study(sizes, "faces")))

# %% [markdown]
# ## Verification
#
# TAR is the share of same pairs that are accepted when at most so many of the different pairs are.

# %%
source = live(sizes, train_missing)
arms = face_tables.face_arms(sizes, source)
face_tables.look_at_all(sizes, arms, source)
table = face_tables.verification_table(sizes, arms, source)
report.save_table(table, out, "faces_verification")
display(table)

# %%
rows = face_tables.tested(sizes, arms, source)
curves = face_tables.curves(sizes, arms, source)
figure = plt.figure(figsize=(12, 7.2))
grid = figure.add_gridspec(2, 3)
face_figures.plot_faces(rows, figure.add_subplot(grid[0, 0]))
for panel, (pixels, lines) in enumerate(list(curves.items())[:5], 1):
    ax = figure.add_subplot(grid[panel // 3, panel % 3])
    face_figures.plot_roc(lines, ax)
    ax.set_title(f"{pixels} px")
figure.axes[0].set_title(f"{sizes.teacher} → {sizes.compact}, {sizes.data}")
report.save_figure(figure, out, "faces")
plt.show()

# %% [markdown]
# ## Table 2
#
# The paper's rows as printed, of other networks, training sets and alignments. What was measured
# here stands below them and is named so: over the folds that were tested, three or more, or else on
# the first one alone, where one accuracy has a standard error of about a point.

# %%
published = face_tables.published(sizes, arms, source)
report.save_table(published, out, "faces_table2")
display(published)

# %% [markdown]
# ## Table 3 and identification
#
# UCCS, which the paper uses, is given out on request only: put it into `$HORKD_DATA/uccs`, and the
# report has a table of it. The one below is about other subjects: it shows how the same networks
# compare, and nothing about the paper's numbers.

# %%
identified = face_tables.identification_table(sizes, arms, source)
report.save_table(identified, out, "faces_identification")
display(face_tables.published_identification(), identified)

# %% [markdown]
# ## One image small, or both
#
# The teacher fed one image of each pair at the low resolution and the other one at the full one.

# %%
mixed = face_tables.mixed_table(sizes, arms, source)
report.save_table(mixed, out, "faces_mixed")
display(mixed)

# %% [markdown]
# ## The hardest pairs
#
# Same pairs that the student finds least alike, different ones that it finds most alike. Choose a
# pair and a resolution: what do teacher and student say of it?

# %%
low = face_tables.lows(sizes)[0]
name = next((n for n in (f"student {low}", "student", *arms) if n in arms and n != "teacher"), None)
photos = not face_tables.of_people(sizes) or show_faces
if name is not None:
    student, teacher = arms[name][0], arms["teacher"][0]
    dataset = load_dataset(face_tables.tested_on(sizes))
    tested = dataset.protocol.pairs
    images, pairs, folds = tested.images, tested.pairs, tested.folds
    inside = torch.isin(pairs.fold, torch.tensor(folds or range(10))).nonzero()[:, 0]
    asked = Asked(student.network(), dataset, student.config.degradation)
    scores = verification.pair_scores(asked, inside)
    hardness = np.where(pairs.same[inside].numpy(), -scores, scores)
    hardest = inside[torch.from_numpy(np.argsort(-hardness))]
    view = face_tables.view_of(sizes, teacher, low)
    others = verification.pair_scores(Asked(teacher.network(), dataset, view), inside)

    def right(run, seen, given):
        """Which pairs a network decides rightly, by the threshold of the other folds."""
        look = Look("verification", dataset.name, seen)
        found = source.looks(run, [look])[0]
        threshold = dict(zip(found["folds"], found["thresholds"], strict=True))
        limits = np.array([threshold[int(f)] for f in pairs.fold[inside]])
        return (given > limits) == pairs.same[inside].numpy()

    both = verification.compare(
        right(student, student.config.degradation, scores), right(teacher, view, others)
    )
    print(
        f"{name} − teacher fed {low} px: {both.difference:+.2f} points on {both.n} pairs; only the "
        f"first is right in {both.only_a}, only the second in {both.only_b} (McNemar p = "
        f"{both.p:.2g}, which takes pairs for independent)"
    )
networks = {}


def alike(run, view: Degradation, pair: int) -> float:
    """The cosine that a run's network gives to a pair, seen through `view`."""
    network = networks.setdefault(run.config.key, run.network())
    index = torch.tensor([pair])
    return float(verification.pair_scores(Asked(network, dataset, view), index)[0])


def look(rank: int, pixels: int) -> plt.Figure:
    """A pair at a resolution, and what both networks say of it."""
    pair = int(hardest[rank])
    view = Degradation(pixels)
    both = torch.stack([images.central[i] for i in (pairs.left[pair], pairs.right[pair])])
    figure, axes = plt.subplots(1, 2, figsize=(5, 2.9))
    report.plot_images(axes, view(both).permute(0, 2, 3, 1).numpy())
    enlarged = Degradation(pixels, upsample=pixels < dataset.size)
    said = [f"teacher {alike(teacher, enlarged, pair):+.2f}"]
    own = student.config.degradation
    seen = Degradation(pixels, upsample=own.upsample)
    said.append(f"{name} {alike(student, seen, pair):+.2f}")
    kind = "same" if pairs.same[pair] else "different"
    figure.suptitle(f"{kind}, {pixels} px; cosines: {', '.join(said)}", fontsize=10)
    plt.close(figure)
    return figure


if name is not None and photos:
    figure, axes = plt.subplots(4, 6, figsize=(11, 6.2))
    for half, kind in enumerate((True, False)):
        chosen = [i for i in hardest.tolist() if bool(pairs.same[i]) == kind][:6]
        for column, pair in enumerate(chosen):
            both = torch.stack([images.central[i] for i in (pairs.left[pair], pairs.right[pair])])
            small = student.config.degradation(both).permute(0, 2, 3, 1).numpy()
            axis = [axes[2 * half, column], axes[2 * half + 1, column]]
            report.plot_images(axis, small, [f"{'same' if kind else 'different'}"])
    figure.suptitle(f"the pairs that “{name}” finds hardest, as it sees them")
    report.save_figure(figure, out, "faces_hardest")
    plt.show()

# %%
if name is not None and photos:
    rank = widgets.IntSlider(0, 0, min(200, len(hardest)) - 1, description="pair")
    rank.continuous_update = False
    pixels = widgets.Dropdown(options=list(face_tables.ladder(sizes)), value=low, description="px")
    display(widgets.HBox([rank, pixels]))
    shown = display(look(rank.value, pixels.value), display_id=True)
    for control in (rank, pixels):
        control.observe(lambda _: shown.update(look(rank.value, pixels.value)), names="value")
else:
    print("photos of people are shown with show_faces=True")

# %% [markdown]
# ## What these networks are for

# %%
display(Markdown(face_page.model_card(sizes)))

# %% [markdown]
# ## Verdict

# %%
page = face_page.faces_page(sizes, arms, source)
save_records(sizes, ("faces",), arms, source, out)
display(Markdown(page))
hardest_figure = "\n\n![Hardest pairs](figures/faces_hardest.png)" if photos else ""
report.save_summary(
    out,
    "06_faces",
    f"{page}\n\n![Verification by resolution, and ROC curves](figures/faces.png){hardest_figure}",
)

# %%
# Nobody who is tested was trained on, whatever the photo.
data_tested = load_dataset(face_tables.tested_on(sizes))
if face_tables.of_people(sizes) and data_tested.protocol.pairs.folds:
    pairs, folds = data_tested.protocol.pairs.pairs, data_tested.protocol.pairs.folds
    ends = torch.cat([pairs.left, pairs.right])[
        torch.isin(pairs.fold, torch.tensor(folds)).repeat(2)
    ]
    people = data_tested.whole.labels
    assert not torch.isin(people[ends], people[data_tested.train.ids]).any()
assert len({found["n"] for row in rows for found in row.results}) == 1, "all on the same pairs"
