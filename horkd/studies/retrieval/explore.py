"""What readers of notebook 07 can look at by themselves: queries and their neighbours."""

import functools

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from horkd.data import load_dataset
from horkd.degradation import Degradation
from horkd.protocols import neighbours
from horkd.studies.results import Results
from horkd.studies.retrieval.arms import METRIC
from horkd.studies.retrieval.figures import plot_neighbours
from horkd.studies.retrieval.tables import TEACHER, full, sizes_of


class Neighbours:
    """Test images and their neighbours by teacher and students.

    Args:
        results: runs.
        shown: neighbours of each query.
    """

    def __init__(self, results: Results, shown: int = 4) -> None:
        self.results, self.shown = results, shown
        sizes = sizes_of(results.preset)
        self.full = full(results.preset)
        self.data = load_dataset(sizes.data, results.preset.per_class)
        self.labels = self.data.test.labels
        self.features = functools.cache(results.features)
        #: Resolutions that have a student.
        self.choices = [r for r in sorted((*sizes.lows, self.full)) if self.student_at(r)]

    def student_at(self, pixels: int) -> str | None:
        """The best known kind of student at a resolution."""
        names = (f"{METRIC}student {pixels}{ending}" for ending in ("", " direct", " alone"))
        return next((name for name in names if name in self.results), None)

    def firsts(self, count: int = 5) -> list[int]:
        """The first image of each of the first classes: queries that nobody chose."""
        return [int((self.labels == c).nonzero()[0]) for c in self.labels.unique()[:count]]

    def nearest(self, arm: str, queries: torch.Tensor, count: int) -> torch.Tensor:
        """The nearest test images (Q, K) of some, without themselves."""
        features = self.features(arm)
        return neighbours.nearest(features[queries], features, count, queries)[0]

    def _seen(self, index: torch.Tensor, pixels: int) -> np.ndarray:
        """Test images as a network of that resolution sees them, uint8 (N, H, W, 3)."""
        test = self.data.test.central
        if isinstance(test, torch.Tensor):
            images = test[index]
        else:
            inner = slice(test.margin, test.margin + test.size)
            images = test.load(index)[:, :, inner, inner]
        return Degradation(pixels)(images).permute(0, 2, 3, 1).numpy()

    def draw(self, queries: list[int], pixels: int) -> Figure:
        """Neighbours of some queries by the teacher and by the student of a resolution."""
        asked, found = torch.tensor(queries), []
        for arm, resolution in ((TEACHER, self.full), (self.student_at(pixels), pixels)):
            if arm not in self.results:
                continue
            near = self.nearest(arm, asked, self.shown)
            images = self._seen(near.flatten(), resolution)
            images = images.reshape(*near.shape, *images.shape[1:])
            right = (self.labels[near] == self.labels[asked][:, None]).numpy()
            title = f"nearest by {self.results.label(arm)}, which sees {resolution} px"
            found.append((title, images, right))
        widths = [1.0, *([0.3, *[1.0] * self.shown] * len(found))]
        size = (1.15 * sum(widths), 1.25 * len(queries) + 0.3)
        figure, axes = plt.subplots(
            len(queries), len(widths), figsize=size, squeeze=False, layout="constrained",
            width_ratios=widths,
        )  # fmt: skip
        plot_neighbours(self._seen(asked, pixels), found, axes)
        plt.close(figure)
        return figure
