"""What readers of notebooks 03 to 05 can look at by themselves: figures that ask the networks."""

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from horkd.data import load_dataset
from horkd.degradation import Degradation
from horkd.predict import predict
from horkd.studies import report
from horkd.studies.arm import subset_name
from horkd.studies.classification.figures import KINDS, plot_schedules
from horkd.studies.classification.tables import at_resolution, in_braces, resolutions
from horkd.studies.results import Results


class Networks:
    """What the first runs of arms say of test images, which is asked once.

    Attributes:
        data: the data set of the preset.
    """

    def __init__(self, results: Results) -> None:
        self.results = results
        self.data = load_dataset(results.preset.data, results.preset.per_class)
        self._networks: dict[str, torch.nn.Module] = {}
        self._answers: dict[str, np.ndarray] = {}

    def probabilities(self, arm: str, index: slice | list[int]) -> torch.Tensor:
        """Probabilities (N, C) of test images as the arm sees them."""
        run = self.results.runs(arm)[0]
        network = self._networks.setdefault(arm, run.network())
        images = self.data.test.images[index]
        return predict(network, images, self.data, run.config.degradation).logits.softmax(1)

    def answers(self, arm: str) -> np.ndarray:
        """Top-1 classes (N,) of all test images."""
        if arm not in self._answers:
            self._answers[arm] = self.probabilities(arm, slice(None)).argmax(1).numpy()
        return self._answers[arm]

    def class_name(self, label: int) -> str:
        """A class in words."""
        return self.data.test.classes[label].replace("_", " ")


def draw_changes(networks: Networks, right: str, wrong: str, count: int = 8) -> Figure:
    """The first test images that one arm names and another does not, as the first sees them."""
    labels = networks.data.test.labels.numpy()
    found = (networks.answers(right) == labels) & (networks.answers(wrong) != labels)
    index = found.nonzero()[0]
    figure, axes = plt.subplots(1, count, figsize=(1.5 * count, 2.3))
    degradation = networks.results.config(right).degradation
    images = _seen(networks.data.test.images[index[:count]], degradation) if len(index) else ()
    titles = [
        f"{networks.class_name(labels[i])}\nnot {networks.class_name(networks.answers(wrong)[i])}"
        for i in index[:count]
    ]
    report.plot_images(axes, images, titles)
    for ax in axes[len(images) :]:
        ax.axis("off")
    of = f"{len(index)} of {len(labels)} test images"
    figure.suptitle(f"{of}: right by {right}, wrong by {wrong}")
    return figure


def _seen(images: torch.Tensor, degradation: Degradation) -> np.ndarray:
    """Degraded images as uint8 (N, H, W, 3)."""
    return degradation(images).permute(0, 2, 3, 1).numpy()


def draw_subset(results: Results, pixels: int, chosen: Mapping[str, bool]) -> Figure:
    """Learning curve and gradient shares of a subset of orders, beside labels only.

    Args:
        results: runs.
        pixels: which resolution.
        chosen: order -> whether it is in the subset.
    """
    orders = "".join(order for order, there in chosen.items() if there)
    name = subset_name(orders, pixels)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2))
    plot_schedules(results, [name, subset_name("", pixels)], left)
    if name in results:
        report.plot_gradient_shares(results.runs(name)[0], right)
        right.set_title(f"test top-1 {results.values(name)[0]:.2f} %")
    else:
        right.set_title(f"{in_braces(orders)} at {pixels} px: not run")
    return figure


def draw_image(networks: Networks, index: int) -> Figure:
    """A test image at every resolution, and what each student gives to its class."""
    results, test = networks.results, networks.data.test
    sizes, label = sorted(resolutions(results)), int(test.labels[index])
    figure = plt.figure(figsize=(11, 4.2))
    grid = figure.add_gridspec(2, len(sizes), height_ratios=(1, 1.3))
    for column, r in enumerate(sizes):
        image = _seen(test.images[[index]], Degradation(r))
        report.plot_images([figure.add_subplot(grid[0, column])], image, [f"{r} px"])
    ax = figure.add_subplot(grid[1, :])
    for kind, dashes in (("student", "-"), ("alone", "--")):
        names = [at_resolution(results, r)[kind] for r in sizes]
        there = [(x, name) for x, name in enumerate(names) if name in results]
        y = [networks.probabilities(name, [index])[0, label].item() for _, name in there]
        legend, color, marker = KINDS[kind]
        ax.plot([x for x, _ in there], y, dashes, marker=marker, color=color, label=legend)
    ax.set_xticks(range(len(sizes)), [f"{r}" for r in sizes])
    ax.set_ylim(-0.03, 1.03)
    ax.set_xlabel("resolution (px)")
    ax.set_ylabel("probability of the right class")
    ax.legend(frameon=False, fontsize=9)
    figure.suptitle(f"test image {index}: {networks.class_name(label)}")
    return figure
