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
#
# The method is one page of code: `horkd/two_stages.py`. The runs below are made of the same parts.

# %% tags=["parameters"]
preset: str = "smoke"  # smoke, quick, cpu, paper-short or paper: sizes and recipe
data: str = ""  # glyphs or cifar100; empty: the preset's own
seeds: int = 0  # seeds of each student; 0: the preset's own number
train_missing: bool = True  # False: report on the runs that are there
out: str = ""  # folder of the report; empty: show, write nothing

# %%
import matplotlib.pyplot as plt
from IPython.display import Markdown, display

from horkd.errors import HorkdError
from horkd.studies import report
from horkd.studies.claims import claims
from horkd.studies.classification import figures
from horkd.studies.classification.page import TWO_STAGE_CLAIMS, two_stage_page
from horkd.studies.classification.tables import TWO_STAGE, two_stage_table
from horkd.studies.presets import get_preset
from horkd.studies.results import live

report.style()
sizes = get_preset(preset, data, seeds)
results = live(sizes, TWO_STAGE, train_missing)
if not {"assistant", "student", "student alone"} <= set(results):
    raise HorkdError("needs assistant, student and student alone: set train_missing = True")
results.save_records(out)
report.describe_arms(results.arms)

# %% [markdown]
# ## The runs
#
# Each arm is a configuration. One that has been run before is read, not computed again.

# %%
table = report.save_table(two_stage_table(results), out, "two_stage_transfer")
table

# %% [markdown]
# The accuracy is that of the **last** epoch on the test set, which is looked at once, when a run
# has ended. The best epoch, chosen on the validation split, stands beside it. Spreads are standard
# deviations over seeds of the students; teacher and assistant are trained once, so a spread says
# nothing about another teacher.
#
# ## Side by side

# %%
report.save_figure(figures.draw_two_stage(results), out, "two_stage_transfer")
plt.show()

# %% [markdown]
# ## What each stage is worth
#
# Differences are taken in pairs: the same seed gives both arms the same initial weights and the
# same batches.

# %%
report.save_table(claims(results, TWO_STAGE_CLAIMS), out, "two_stage_gains")

# %% [markdown]
# ## Who drives the student?
#
# The size of each term's gradient at the student's features, as a share of their sum. Weights alone
# don't tell: a term with a large weight may have a small gradient.

# %%
report.save_figure(figures.draw_shares(results), out, "two_stage_gradient_shares")
plt.show()

# %% [markdown]
# ## Verdict

# %%
page = two_stage_page(results)
display(Markdown(page))
report.save_summary(
    out, "02_two_stage_transfer", page,
    {"two_stage_transfer": "Accuracy of every arm", "two_stage_gradient_shares": "Gradient shares"},
)  # fmt: skip

# %%
# The claim of this notebook is what the table says, so check that the table is what was measured.
for arm in results:
    runs = results.runs(arm)
    assert all(r.record["config"]["model"] == table.set_index("arm").network[arm] for r in runs)
    assert len({r.config.seed for r in runs}) == len(runs), "every seed once"
paired = results.gain("student", "student alone")
assert paired.n == min(len(results.runs(arm)) for arm in ("student", "student alone"))
