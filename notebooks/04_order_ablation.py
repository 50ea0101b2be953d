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
# # Which orders does the student need?
#
# The paper's Fig. 4 compares subsets of the orders {1, 2, 3, C} and draws three conclusions: more
# orders help; among equal numbers of orders the higher ones help more; the best subset is {2, 3, C}
# and *not* all four, since order 1 is redundant. The figure prints no numbers and no spread.
#
# Here all sixteen subsets are trained, at the low resolution (stage 2, from the assistant) and, in
# larger presets, at the full one (stage 1, from the teacher). The empty subset is the undistilled
# control. Sixteen runs answer more than they seem to: every order is in eight of them and out of
# eight others that are otherwise equal.

# %% tags=["parameters"]
preset: str = "smoke"  # smoke, quick, cpu, paper-short or paper: sizes and recipe
data: str = ""  # glyphs or cifar100; empty: the preset's own
train_missing: bool = True  # False: report on the runs that are there
out: str = ""  # folder of the report; empty: show, write nothing

# %%
import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display

from horkd.studies import report
from horkd.studies.arm import ORDERS, subset_name
from horkd.studies.classification import figures
from horkd.studies.classification.explore import draw_subset
from horkd.studies.classification.page import orders_page
from horkd.studies.classification.tables import (
    ORDER_STUDY,
    ablations,
    effects,
    main_effect,
    order_table,
    weight_runs,
    weight_table,
)
from horkd.studies.presets import get_preset
from horkd.studies.results import live

report.style()
sizes = get_preset(preset, data)
results = live(sizes, ORDER_STUDY, train_missing)
found = ablations(results)
report.describe_arms(results.arms)

# %% [markdown]
# ## The runs
#
# Weights are the preset's (order 1: 1, since the paper's total gives it none of its own). The share
# of the gradient is measured at the student's features and averaged over epochs; the rest is the
# cross-entropy's.

# %%
results.save_records(out)
report.save_table(order_table(results), out, "orders")

# %% [markdown]
# ## The sixteen subsets, and who drives the student

# %%
for pixels in found:
    report.save_figure(figures.draw_subsets(results, pixels), out, f"orders_{pixels}px")
    plt.show()

# %% [markdown]
# ## What adding an order does
#
# For each order, the difference between two runs that differ in nothing else: eight pairs at each
# resolution. Runs of one seed share initial weights, batches and the frozen model, so eight pairs
# of one seed are a description of that seed, and a claim still needs three.

# %%
figure, ax = plt.subplots(figsize=(7, 3.6))
figures.plot_effects(results, ax)
ax.set_title("Adding an order; dots are pairs of subsets")
report.save_figure(figure, out, "orders_effects")
plt.show()

# %% [markdown]
# ## Any two subsets
#
# Accuracy on the validation split while training, and each order's share of the gradient in every
# epoch. Pick the orders.

# %%
report.explore(
    lambda pixels, **orders: draw_subset(results, pixels, orders),
    pixels=widgets.Dropdown(options=[(f"{p} px", p) for p in found], description="resolution"),
    **{order: widgets.Checkbox(order in "23C", description=f"order {order}") for order in ORDERS},
)

# %% [markdown]
# ## The weights
#
# One weight at a time, a tenth and ten times the preset's, judged on the **validation** split; the
# test set takes no part. Empty where the preset leaves the sweep out or nothing was run yet.

# %%
weights = weight_table(results)
if not weights.empty:
    report.save_table(weights, out, "weights")
    report.save_records(weight_runs(results).values(), out)
weights

# %% [markdown]
# ## Verdict

# %%
page = orders_page(results)
display(Markdown(page))
shown = {f"orders_{pixels}px": f"Subsets of orders at {pixels} px" for pixels in found}
shown["orders_effects"] = "What adding an order does"
report.save_summary(out, "04_order_ablation", page, shown)

# %%
# All subsets of a complete ablation are there once, and the empty one has no distillation.
for pixels, known in found.items():
    configs = {orders: results.config(subset_name(orders, pixels)) for orders in known}
    assert len({config.key for config in configs.values()}) == len(known)
    assert all({o for o, _ in config.orders} == set(name) for name, config in configs.items())
    assert "" not in configs or configs[""].frozen is None
    for order, pairs in effects(results, pixels).items():
        assert len({subset for subset, _ in pairs}) <= 8, order
        assert np.isclose(main_effect(pairs).mean, np.mean(list(pairs.values())))
