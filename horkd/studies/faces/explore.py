"""What readers of notebook 06 can look at by themselves: pairs, and what networks say of them."""

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from horkd.data import load_dataset
from horkd.degradation import Degradation
from horkd.lab.looks import Look
from horkd.lab.store import Run
from horkd.protocols import Asked
from horkd.protocols.verification import compare, pair_scores
from horkd.studies import report
from horkd.studies.faces.setting import setting
from horkd.studies.faces.tables import seen_by
from horkd.studies.results import Results


class Pairs:
    """The compared pairs, the hardest first, by a student of the first resolution.

    Needs the teacher and another network.

    Attributes:
        student: the arm whose pairs these are.
        hardest: int64 (P,), the pairs in question by how little sure the student is.
    """

    def __init__(self, results: Results) -> None:
        self.results, self.here = results, setting(results.preset)
        low = self.here.lows[0]
        names = (f"student {low}", "student", *(n for n in results if n != "teacher"))
        self.student = next(name for name in names if name in results)
        self.data = load_dataset(self.here.compared)
        known = self.data.protocol.pairs
        self.images, self.pairs, self.folds = known.images, known.pairs, known.folds
        tested = torch.tensor(self.folds or range(10))
        self.inside = torch.isin(self.pairs.fold, tested).nonzero()[:, 0]
        self._networks: dict[str, torch.nn.Module] = {}
        own = results.config(self.student).degradation
        self.scores = self._cosines(self._run(self.student), own, self.inside)
        hardness = np.where(self.pairs.same[self.inside].numpy(), -self.scores, self.scores)
        self.hardest = self.inside[torch.from_numpy(np.argsort(-hardness))]

    def _run(self, arm: str) -> Run:
        return self.results.runs(arm)[0]

    def _seen_at(self, pixels: int) -> Degradation:
        """What the student is shown of images of some resolution."""
        return Degradation(pixels, upsample=self.results.config(self.student).degradation.upsample)

    def _cosines(self, run: Run, degradation: Degradation, index: torch.Tensor) -> np.ndarray:
        network = self._networks.setdefault(run.config.key, run.network())
        return pair_scores(Asked(network, self.data, degradation), index)

    def versus_teacher(self) -> str:
        """Student and teacher fed the same images, pair by pair, in a sentence."""
        low, teacher = self.here.lows[0], self._run("teacher")
        own = self.results.config(self.student).degradation
        degradation = seen_by(self.here, teacher, low)
        scores = self._cosines(teacher, degradation, self.inside)
        both = compare(
            self._right(self._run(self.student), own, self.scores),
            self._right(teacher, degradation, scores),
        )
        return (
            f"{self.student} − teacher fed {low} px: {both.difference:+.2f} points on {both.n} "
            f"pairs; only the first is right in {both.only_a}, only the second in {both.only_b} "
            f"(McNemar p = {both.p:.2g}, which takes pairs for independent)"
        )

    def _right(self, run: Run, degradation: Degradation, scores: np.ndarray) -> np.ndarray:
        """Which pairs a network decides rightly, by the threshold of the other folds."""
        found = self.results.look(run, Look("verification", self.data.name, degradation))
        threshold = dict(zip(found["folds"], found["thresholds"], strict=True))
        limits = np.array([threshold[int(fold)] for fold in self.pairs.fold[self.inside]])
        return (scores > limits) == self.pairs.same[self.inside].numpy()

    def nobody_was_trained_on(self) -> bool:
        """Whether none of the people tested is among those that students were trained on."""
        if not self.folds or self.data.whole is None:
            return True  # a training set of its own, or characters kept apart
        ends = torch.cat([self.pairs.left[self.inside], self.pairs.right[self.inside]])
        people = self.data.whole.labels
        return not torch.isin(people[ends], people[self.data.train.ids]).any()

    def _photos(self, pair: int, degradation: Degradation) -> np.ndarray:
        """Both images as a network sees them, uint8 (2, H, W, 3)."""
        ends = (self.pairs.left[pair], self.pairs.right[pair])
        both = torch.stack([self.images.central[i] for i in ends])
        return degradation(both).permute(0, 2, 3, 1).numpy()

    def draw(self, rank: int, pixels: int) -> Figure:
        """A pair at a resolution, and what both networks say of it."""
        pair = self.hardest[[rank]]
        asked = (("teacher", Degradation(pixels, upsample=pixels < self.data.size)),
                 (self.student, self._seen_at(pixels)))  # fmt: skip
        said = [
            f"{n} {self._cosines(self._run(n), degradation, pair)[0]:+.2f}"
            for n, degradation in asked
        ]
        figure, axes = plt.subplots(1, 2, figsize=(5, 2.9))
        report.plot_images(axes, self._photos(int(pair), Degradation(pixels)))
        kind = "same" if self.pairs.same[pair] else "different"
        figure.suptitle(f"{kind}, {pixels} px; cosines: {', '.join(said)}", fontsize=10)
        return figure

    def draw_hardest(self, count: int = 6) -> Figure:
        """The hardest same and different pairs, as the student sees them."""
        figure, axes = plt.subplots(4, count, figsize=(11, 6.2))
        degradation = self.results.config(self.student).degradation
        for half, kind in enumerate((True, False)):
            chosen = [i for i in self.hardest.tolist() if bool(self.pairs.same[i]) == kind]
            for column, pair in enumerate(chosen[:count]):
                axis = [axes[2 * half, column], axes[2 * half + 1, column]]
                title = ["same" if kind else "different"]
                report.plot_images(axis, self._photos(pair, degradation), title)
        figure.suptitle(f"the pairs that “{self.student}” finds hardest, as it sees them")
        return figure
