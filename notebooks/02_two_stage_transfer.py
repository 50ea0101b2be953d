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
# # Does each stage of the transfer help?
#
# The paper trains a low-resolution student in two stages. A compact **assistant** first learns from
# the large **teacher**, both at full resolution (*cross-structure*). The **student**, of the same
# structure as the assistant, then learns from the assistant, but sees only degraded images
# (*cross-resolution*). Each stage minimises cross-entropy plus the same relational loss,
#
# $$ L = \alpha L_2 + \beta L_3 + \gamma L_C , $$
#
# on pairs, triplets and class centres. The paper reports the final student without saying what that
# network reaches on its own. Here it stands beside three controls, everything else equal:
#
# * the **student alone**: the same network, resolution, initial weights and batches, labels only;
# * the **student direct**: distilled from the teacher, skipping the assistant;
# * the **assistant alone**: the compact network at full resolution, labels only.

# %% tags=["parameters"]
preset: str = "smoke"  # smoke, quick, cpu, paper-short or paper: sizes and recipe
data: str = ""  # glyphs or cifar100; empty: the preset's own
seeds: int = 0  # seeds of each student; 0: the preset's own number
train_missing: bool = True  # False: report on the runs that are there
out: str = ""  # folder of the report; empty: show, write nothing

# %%
import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown, display

from horkd.errors import HorkdError
from horkd.studies import report
from horkd.studies.claims import claims
from horkd.studies.classification import figures
from horkd.studies.classification.page import TWO_STAGE_CLAIMS, two_stage_page
from horkd.studies.classification.tables import two_stage_table
from horkd.studies.presets import get_preset
from horkd.studies.results import gain, live
from horkd.studies.study import collect, study, trainer

report.style()
pd.set_option("display.max_colwidth", None)
sizes = get_preset(preset, data, seeds)
display(report.describe_arms(study(sizes, "two_stage")))

# %% [markdown]
# ## The runs
#
# Each arm is a configuration. One that has been run before is read, not computed again.

# %%
arms = collect(sizes, "two_stage", trainer(sizes, train_missing=train_missing))
if {"assistant", "student", "student alone"} - arms.keys():
    raise HorkdError("needs assistant, student and student alone: set train_missing = True")
report.save_records([run for runs in arms.values() for run in runs], out)
table = two_stage_table(arms, sizes)
report.save_table(table, out, "two_stage_transfer")
display(table)

# %% [markdown]
# The accuracy is that of the **last** epoch on the test set, which is looked at once, when a run
# has ended. The best epoch, chosen on the validation split, stands beside it. Spreads are standard
# deviations over seeds of the students; teacher and assistant are trained once, so a spread says
# nothing about another teacher.
#
# ## Side by side

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), width_ratios=(1.15, 1))
figures.plot_two_stage(arms, left)
left.set_title(f"Two-stage transfer, preset {sizes.name}, {sizes.data}")
figures.plot_learning_curves(arms, right)
right.set_title("Validation accuracy while training")
report.save_figure(figure, out, "two_stage_transfer")
plt.show()

# %% [markdown]
# ## What each stage is worth
#
# Differences are taken in pairs: the same seed gives both arms the same initial weights and the
# same batches.

# %%
gains = claims(sizes, arms, TWO_STAGE_CLAIMS, live(sizes))
report.save_table(gains, out, "two_stage_gains")
display(gains)

# %% [markdown]
# ## Who drives the student?
#
# The size of each term's gradient at the student's features, as a share of their sum. Weights alone
# don't tell: a term with a large weight may have a small gradient.

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 3.4), sharey=True)
for ax, arm in zip(axes, ("assistant", "student"), strict=True):
    report.plot_gradient_shares(arms[arm][0], ax)
    ax.set_title(f"{arm} (seed {arms[arm][0].config.seed})")
axes[0].get_legend().remove()
axes[1].set_ylabel("")
report.save_figure(figure, out, "two_stage_gradient_shares")
plt.show()

# %% [markdown]
# ## Verdict

# %%
page = two_stage_page(sizes, arms, live(sizes))
display(Markdown(page))
report.save_summary(
    out,
    "02_two_stage_transfer",
    f"{page}\n\n"
    "![Accuracy of every arm](figures/two_stage_transfer.png)\n\n"
    "![Gradient shares](figures/two_stage_gradient_shares.png)",
)

# %%
# The claim of this notebook is what the table says, so check that the table is what was measured.
assert {"teacher", "assistant", "student", "student alone"} <= arms.keys()
for arm, runs in arms.items():
    assert all(r.record["config"]["model"] == table.set_index("arm").network[arm] for r in runs)
    assert len({r.config.seed for r in runs}) == len(runs), "every seed once"
paired = gain(arms, "student", "student alone")
assert len(paired["values"]) == min(len(arms["student"]), len(arms["student alone"]))
