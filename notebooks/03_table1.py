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
# # Is it better than other distillation, and than none?
#
# Table 1 of the paper compares the assistant (32 px) and the student (16 px) on CIFAR-100 with
# FitNet, attention transfer, RKD and KD. Those four numbers are the ones of RKD's paper, whose
# student is another network, and the row that matters most is missing: the student **without any
# distillation**. Here every method trains the *same* student from the *same* teacher with the same
# recipe, initial weights and batches:
#
# | | minimises, besides the cross-entropy on labels |
# |---|---|
# | hybrid orders | $\alpha L_2 + \beta L_3 + \gamma L_C$, through the assistant or directly |
# | KD | $T^2\, \mathrm{KL}(\mathrm{softmax}(z_f/T) \,\Vert\, \mathrm{softmax}(z_g/T))$, $T = 4$ |
# | KD standardised | the same on z-scores of the logits, $T = 2$ |
# | RKD | distances and angles in the convention of its published code |
# | FitNet, AT | the middle feature map; where every stage is active |
# | labels only | nothing |
#
# The teacher always sees 32 pixels and the student the same crop at its own resolution.

# %% tags=["parameters"]
preset: str = "smoke"  # smoke, quick, cpu, paper-short or paper: sizes and recipe
data: str = ""  # glyphs or cifar100; empty: the preset's own
seeds: int = 0  # seeds of the repeated arms; 0: the preset's own number
train_missing: bool = True  # False: report on the runs that are there
out: str = ""  # folder of the report; empty: show, write nothing

# %%
import ipywidgets as widgets
import matplotlib.pyplot as plt
from IPython.display import Markdown, display

from horkd.errors import HorkdError
from horkd.studies import report
from horkd.studies.claims import claims, mean_and_spread
from horkd.studies.classification import figures
from horkd.studies.classification.explore import Networks, draw_changes
from horkd.studies.classification.page import TABLE1_CLAIMS, table1_page
from horkd.studies.classification.tables import TABLE1, reasons, table1
from horkd.studies.presets import get_preset
from horkd.studies.results import live

report.style()
sizes = get_preset(preset, data, seeds)
results = live(sizes, TABLE1, train_missing)
if not {"student", "student alone"} <= set(results):
    raise HorkdError("needs student and student alone: set train_missing = True")
report.describe_arms(results.arms)

# %% [markdown]
# ## The runs
#
# Each arm is a configuration that is run once and then read. An arm whose loss stops being a finite
# number stays in the table as that: the paper's literal sums do so at the usual learning rate.

# %%
table = report.save_table(table1(results), out, "table1")
results.save_records(out)
table

# %% [markdown]
# The paper's numbers have columns of their own, because they belong to its networks; a difference
# is formed only where ours are the same. "Labels only" is the same network, resolution and recipe,
# with the same seed. † marks training times without the teacher's share: its answers to the same
# crops were read from disk.
#
# ## Accuracy and cost
#
# A diamond is a mean, a circle a seed. Within one resolution all arms of a network cost the same,
# so what a method adds is the height in the lower left panel.

# %%
report.save_figure(figures.draw_table1(results), out, "table1")
plt.show()

# %% [markdown]
# ## Claim by claim

# %%
report.save_table(claims(results, TABLE1_CLAIMS), out, "table1_claims")

# %% [markdown]
# ## Why: who drives the student, and towards what?
#
# Three suspects if one method falls behind another. **Scale**: the share of the gradient that the
# method has at the student's features; a loss that is drowned by the cross-entropy cannot teach.
# **Target**: how often the student ends up giving the answer of the model it learnt from.
# **Schedule**: whether the curves are still climbing, or the gap opens only late.

# %%
report.save_table(reasons(results), out, "table1_why")

# %%
report.save_figure(figures.draw_reasons(results), out, "table1_why")
plt.show()

# %% [markdown]
# The arms named `student + …`, `student, …` and `horkd+` are our extensions, not the paper's form:
# answers added to the relations, relations whose gradient is held at a fixed share, a slow start.
#
# ## Images that change class
#
# Test images that one model gets right and the other wrong, the first ones in the order of the test
# set. Choose the two models.

# %%
networks, shown = Networks(results), list(results)[:24]
report.explore(
    lambda right, wrong: draw_changes(networks, right, wrong),
    right=widgets.Dropdown(options=shown, value="student", description="right"),
    wrong=widgets.Dropdown(options=shown, value="student alone", description="wrong"),
)
first = draw_changes(networks, "student", "student alone")
report.save_figure(first, out, "table1_changes")
plt.close(first)

# %% [markdown]
# ## Verdict

# %%
page = table1_page(results)
display(Markdown(page))
report.save_summary(out, "03_table1", page, {
    "table1": "Accuracy of every arm, and against its cost",
    "table1_why": "Gradient shares and validation accuracy",
    "table1_changes": "Test images that change class",
})  # fmt: skip

# %%
# Every arm is in the table, as a number, a failure or a gap, and every number is a record's.
ours = table.columns[3]
for name in results.arms:
    (cell,) = table.loc[table.arm == name, ours]
    if name in results:
        assert cell == mean_and_spread(results.values(name))
    else:
        assert cell == "not run" or cell.startswith("diverged")
compared = [name for name in ("student", "student alone", "KD") if name in results]
assert len({results.config(name).recipe for name in compared}) == 1, "compared at one recipe"
