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
import pandas as pd
from IPython.display import Markdown, display

from horkd.studies import report
from horkd.studies.arm import ORDERS
from horkd.studies.classification import figures
from horkd.studies.classification.page import orders_page
from horkd.studies.classification.tables import (
    effects,
    main_effect,
    order_arms,
    order_table,
    weight_table,
)
from horkd.studies.presets import get_preset
from horkd.studies.results import live, save_records, top1
from horkd.studies.study import configure, study

report.style()
pd.set_option("display.max_colwidth", None)
sizes = get_preset(preset, data)
display(report.describe_arms(study(sizes, "orders")))

# %% [markdown]
# ## The runs
#
# Weights are the preset's (order 1: 1, since the paper's total gives it none of its own). The share
# of the gradient is measured at the student's features and averaged over epochs; the rest is the
# cross-entropy's.

# %%
source = live(sizes, train_missing)
found = order_arms(sizes, source)
table = order_table(found)
report.save_table(table, out, "orders")
everything = {f"{p} {o}": runs for p, arms in found.items() for o, runs in arms.items()}
save_records(sizes, ("orders",), everything, source, out)
display(table)

# %% [markdown]
# ## The sixteen subsets, and who drives the student

# %%
for pixels, arms in found.items():
    figure, axes = plt.subplots(
        1, 3, figsize=(12, 0.32 * len(arms) + 1.6), width_ratios=(0.55, 1.3, 1.3)
    )
    figures.plot_subsets(arms, axes)
    axes[0].set_title(f"{pixels} px")
    axes[1].set_title(f"{sizes.name}, {sizes.data}; orange: the paper's best")
    report.save_figure(figure, out, f"orders_{pixels}px")
    plt.show()

# %% [markdown]
# ## What adding an order does
#
# For each order, the difference between two runs that differ in nothing else: eight pairs at each
# resolution. Runs of one seed share initial weights, batches and the frozen model, so eight pairs
# of one seed are a description of that seed, and a claim still needs three.

# %%
figure, ax = plt.subplots(figsize=(7, 3.6))
figures.plot_effects(found, ax)
ax.set_title("Adding an order; dots are pairs of subsets")
report.save_figure(figure, out, "orders_effects")
plt.show()

# %% [markdown]
# ## Any two subsets
#
# Accuracy on the validation split while training, and each order's share of the gradient in the
# last epoch. Pick the orders.


# %%
def picked(arms: dict, orders: str) -> plt.Figure:
    """Learning curve and gradient shares of a subset, beside labels only."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2))
    named = {"{" + ",".join(orders) + "}": arms.get(orders)} | {"{}": arms.get("")}
    named = {name: runs for name, runs in named.items() if runs}
    figures.plot_schedules(named, list(named), left)
    if orders in arms:
        report.plot_gradient_shares(arms[orders][0], right)
        right.set_title(f"test top-1 {top1(arms[orders])[0]:.2f} %")
    else:
        right.set_title("not run")
    plt.close(figure)
    return figure


boxes = {order: widgets.Checkbox(order in "23C", description=f"order {order}") for order in ORDERS}
where = widgets.Dropdown(options=[(f"{p} px", p) for p in found], description="resolution")


def current() -> plt.Figure:
    chosen = "".join(order for order, box in boxes.items() if box.value)
    return picked(found[where.value], chosen)


display(widgets.HBox([where, *boxes.values()], layout={"flex_flow": "wrap"}))
view = display(current(), display_id=True)
for control in (where, *boxes.values()):
    control.observe(lambda _: view.update(current()), names="value")

# %% [markdown]
# ## The weights
#
# One weight at a time, a tenth and ten times the preset's, judged on the **validation** split; the
# test set takes no part. Empty where the preset leaves the sweep out or nothing was run yet.

# %%
if train_missing:
    for arm in study(sizes, "weights").values():
        source.find(configure(sizes, arm))
weights = weight_table(sizes, source)
if not weights.empty:
    report.save_table(weights, out, "weights")
    sweep = [source.find(configure(sizes, a)) for a in study(sizes, "weights").values()]
    report.save_records([run for run in sweep if run], out)
display(weights)

# %% [markdown]
# ## Verdict

# %%
page = orders_page(sizes, found, source)
display(Markdown(page))
pictures = "\n\n".join(
    f"![Subsets of orders at {pixels} px](figures/orders_{pixels}px.png)" for pixels in found
)
report.save_summary(
    out,
    "04_order_ablation",
    f"{page}\n\n{pictures}\n\n![What adding an order does](figures/orders_effects.png)",
)

# %%
# All subsets of a complete ablation are there once, and the empty one has no distillation.
for arms in found.values():
    assert len({run.config.key for runs in arms.values() for run in runs}) == len(arms)
    assert all({o for o, _ in runs[0].config.orders} == set(name) for name, runs in arms.items())
    assert "" not in arms or arms[""][0].config.frozen is None
    for order, pairs in effects(arms).items():
        assert len({subset for subset, _ in pairs}) <= 8, order
        assert np.isclose(main_effect(pairs)["mean"], np.mean(list(pairs.values())))
