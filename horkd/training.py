"""One training loop. Teacher, assistant and student differ only in what they see and minimise."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from horkd.answers import Remembered, of_view
from horkd.data import (
    Batches,
    Dataset,
    FileBatches,
    ImageSet,
    PhotoFiles,
    ReducedBatches,
    normalise,
)
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.evaluate import score
from horkd.machine import Interruption, Settings, exact_matmul, seeded
from horkd.networks.network import Network, Output
from horkd.objectives import Frozen, Objective
from horkd.predict import chunk, statistics

#: The gradient shares are measured on one step of this many, and at least once an epoch.
GRADIENT_EVERY = 25


class Diverged(HorkdError):
    """The loss is no longer a finite number."""

    def __init__(self, epoch: int, terms: dict[str, float], known: str = "") -> None:
        self.epoch, self.terms = epoch, dict(sorted(terms.items()))
        shown = ", ".join(f"{name} {value:.3g}" for name, value in self.terms.items())
        super().__init__(
            f"the loss is not finite in epoch {epoch} ({shown}): lower the learning rate or the "
            f"weights of the loss{f' ({known})' if known else ''}"
        )


@dataclass(frozen=True)
class Recipe:
    """How a network is optimised: SGD with Nesterov momentum, or Adam, and a schedule over steps.

    Attributes:
        epochs: passes over the training images, or so many times `batches`.
        batch_size: images per step, also the batch over which relations are taken.
        learning_rate: the peak.
        schedule: "step" multiplies by `decay` at the `milestones`; "cosine" falls to zero;
            "one-cycle" climbs linearly (warm-up) and falls linearly to zero.
        milestones: epochs, for "step".
        decay: factor, for "step".
        momentum: Nesterov momentum, of SGD.
        weight_decay: L2 penalty on all parameters.
        clip: largest norm of the gradient, or None for no clipping.
        crop: how far random crops move, in pixels of the full resolution; 0 for none.
        views: how many different crops there are of each image over all epochs (`Batches`); 0 draws
            a new one every epoch. With views the frozen model's answers are computed once.
        optimizer: "sgd", or "adam" with its usual moments.
        per_class: images of each class in a batch (`horkd.data.batches.balanced_order`); 0 for
            batches regardless of classes.
        batches: batches in an epoch; None for as many as one pass has.
        climb: share of all steps in which "one-cycle" climbs.
        progressive: (epochs, pixels) of the first stages: the learner sees so many epochs at so
            many pixels, reduced by the project's own degradation from the same crops, and the rest
            at its own resolution. `((8, 16), (6, 24))` trains 8 epochs at 16 px and 6 at 24 px.
            Progressive resizing, as in Howard's DAWNBench entry of 2018; not in the paper.
    """

    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 0.1
    schedule: str = "one-cycle"
    milestones: tuple[int, ...] = ()
    decay: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip: float | None = None
    crop: int = 4
    views: int = 0
    optimizer: str = "sgd"
    per_class: int = 0
    batches: int | None = None
    climb: float = 0.25
    progressive: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.optimizer not in ("sgd", "adam"):
            raise HorkdError(f"unknown optimizer {self.optimizer!r}: choose from sgd, adam")
        if self.per_class < 0 or (self.batches is not None and self.batches < 1):
            raise HorkdError("per_class must be 0 or more, batches positive or None for one pass")
        if self.schedule not in ("step", "cosine", "one-cycle"):
            raise HorkdError(
                f"unknown schedule {self.schedule!r}: choose from step, cosine, one-cycle"
            )
        if self.epochs < 1 or self.batch_size < 1 or not self.learning_rate > 0:
            raise HorkdError("epochs, batch_size and learning_rate must be positive")
        if self.crop < 0 or self.weight_decay < 0 or not 0 <= self.momentum < 1:
            raise HorkdError("crop and weight_decay must be 0 or more, momentum in 0 to below 1")
        if not 0 < self.climb < 1:
            raise HorkdError(f"climb must lie between 0 and 1, got {self.climb}")
        if any(epochs < 1 or pixels < 1 for epochs, pixels in self.progressive):
            raise HorkdError("progressive is pairs (epochs, pixels), all of them positive")
        if sum(epochs for epochs, _ in self.progressive) >= self.epochs and self.progressive:
            raise HorkdError(
                f"the stages of progressive take all of the {self.epochs} epochs: leave some for "
                "the network's own resolution"
            )
        if not 0 <= self.views < 65_536:
            raise HorkdError(f"views must lie in 0 to 65535, got {self.views}")
        if self.clip is not None and not self.clip > 0:
            raise HorkdError(f"clip must be positive, or None for no clipping; got {self.clip}")

    def pixels(self, epoch: int, size: int) -> int:
        """What a learner of resolution `size` sees in an epoch, counted from 0, in pixels."""
        for epochs, pixels in self.progressive:
            if epoch < epochs:
                return pixels
            epoch -= epochs
        return size

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of a step, counted from 0 over the whole run."""
        total = self.epochs * steps_per_epoch
        if self.schedule == "step":
            passed = sum(step >= m * steps_per_epoch for m in self.milestones)
            return self.learning_rate * self.decay**passed
        done = (step + 0.5) / total
        if self.schedule == "cosine":
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
        return self.learning_rate * min(done / self.climb, (1 - done) / (1 - self.climb))


@dataclass
class State:
    """Where a training run stands: all that is needed to go on.

    Attributes:
        network, objective, optimizer: modules and their momentum.
        epoch: finished epochs.
        history, seconds: an entry for each.
        remembered: epochs whose frozen answers were read.
        best, best_epoch: weights of the best epoch on the validation split.
        step: finished steps of the epoch that is under way; 0 between two epochs.
        reading: whether the frozen model's answers in this epoch were there at its beginning.
        sums, norms: of the terms and of their gradients over these steps.
        elapsed: seconds that they took before the run was taken up again.
        begun: `time.perf_counter()` at the beginning of the epoch, less `elapsed`.
        commits: of the code that trained it so far.
        generators: what the epoch draws from.
        random: where the generators stood, of a state that was saved within an epoch.
    """

    network: Network
    objective: Objective
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    history: list[dict] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    remembered: list[int] = field(default_factory=list)
    best: dict[str, Tensor] | None = None
    best_epoch: int = 0
    step: int = 0
    reading: bool = False
    sums: dict[str, Tensor] = field(default_factory=dict)
    norms: dict[str, Tensor] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    elapsed: float = 0.0
    begun: float = 0.0
    generators: "Generators | None" = None
    random: dict[str, Tensor] = field(default_factory=dict)


def new_state(network: Network, objective: Objective, recipe: Recipe) -> State:
    """A run that has not begun; the projector, if any, is optimised with the network."""
    trained = [*network.parameters(), *objective.parameters()]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adam":
        return State(network, objective, torch.optim.Adam(trained, rate, weight_decay=decay))
    optimizer = torch.optim.SGD(
        trained,
        lr=rate,
        momentum=recipe.momentum,
        weight_decay=decay,
        nesterov=recipe.momentum > 0,
    )
    return State(network, objective, optimizer)


@dataclass(frozen=True)
class Task:
    """What is learnt from what, and how. The teacher's task has no frozen model.

    Attributes:
        data: for the channel statistics and whether mirror images are allowed.
        train: training images, on the device.
        degradation: what the learner sees of them.
        recipe: optimisation.
        settings: resolved settings of this machine.
        seed: of the order of images, crops, flips and noise.
        frozen: the model to distil from, or None.
        frozen_degradation: what the frozen model sees of the same crops.
        validation: scored after every epoch to find the best one; None scores nothing. (With
            `RunConfig.select` "test" these are the test images.)
        warmup: epochs over which the distillation terms rise linearly to their weights.
        answers: folder for the frozen model's answers (`horkd.answers`), or None.
    """

    data: Dataset
    train: ImageSet | PhotoFiles
    degradation: Degradation
    recipe: Recipe
    settings: Settings
    seed: int
    frozen: Frozen | None = None
    frozen_degradation: Degradation | None = None
    validation: ImageSet | PhotoFiles | None = None
    warmup: float = 0.0
    answers: Path | None = None

    def view(
        self,
        degradation: Degradation,
        seed: int,
        network: Network | None = None,
        generator: torch.Generator | None = None,
    ) -> Callable[[Tensor], Tensor]:
        """What a network sees of a batch of crops: degraded, normalised, in its memory format.

        Args:
            degradation: of the crops.
            seed: of its noise.
            network: whose channel statistics normalise; the data's without one.
            generator: what the noise is drawn from instead of a new one.
        """
        if generator is None:
            generator = torch.Generator(self.settings.device).manual_seed(seed)
        known = getattr(network, "spec", None) is not None
        mean, std = statistics(network, self.data) if known else (self.data.mean, self.data.std)

        def see(crops: Tensor) -> Tensor:
            x = normalise(degradation(crops, generator), mean, std)
            return x.contiguous(memory_format=self.settings.memory_format)

        return see

    def batches(self, reduced: bool = False) -> Batches:
        """Batches of the training images, in memory or from disk.

        Args:
            reduced: nobody but the learner looks at the crops, so that they may come as it sees
                them where that is always the same.
        """
        kind = Batches if isinstance(self.train, ImageSet) else FileBatches
        recipe, own = self.recipe, self.degradation
        found = kind(
            self.train,
            recipe.batch_size,
            recipe.crop,
            self.data.flip,
            recipe.views,
            recipe.per_class,
            recipe.batches,
        )
        plain = not (own.upsample or own.blur or own.noise or own.jpeg or recipe.progressive)
        if reduced and recipe.views and plain and own.size < self.train.size:
            return ReducedBatches(found, own)
        return found

    def frozen_answers(
        self,
        seed: int,
        epoch: int,
        maps: bool,
        batches: Batches | None = None,
        generator: torch.Generator | None = None,
    ) -> Remembered | None:
        """What the frozen model says of the crops of an epoch, batch by batch; None without one.

        Args:
            seed: of the epoch.
            epoch: its number, from 0.
            maps: whether maps are needed, which are never kept.
            batches: what hands out the crops; only needed for fixed views.
            generator: of the noise that the frozen model sees, None for a new one.
        """
        if self.frozen is None:
            return None
        see = self.view(self.frozen_degradation, seed, self.frozen.network, generator)
        if self.recipe.views and self.answers is not None and not maps:
            number = epoch % self.recipe.views
            known = epoch >= self.recipe.views or self._view_file(number).is_file()
            order = batches.order(seed)
            # by image id in the whole set; without one, by place among the training images
            index = (order if self.data.whole is None else batches.ids[order]).cpu()
            stored = self.view_answers(number)
            answers = Remembered(None, self.frozen, self.settings.device, stored, index)
            answers.read = known  # else this very epoch has waited for them
            return answers
        path = None if maps or self.answers is None else self.answers / f"{epoch}.safetensors"
        return Remembered(path, lambda x: self.frozen(see(x), maps), self.settings.device)

    def view_answers(self, number: int) -> Output:
        """What the frozen model says of a view of every image.

        Of the whole set, by the images' ids; without one of the training images, in their order.
        """
        frozen, whole = self.frozen.network, self.data.whole or self.train
        see = self.view(self.frozen_degradation, number, frozen)
        settings, recipe = self.settings, self.recipe
        batches = Batches(whole.to("cpu"), 1, recipe.crop, self.data.flip, recipe.views)
        at_a_time = chunk(frozen, self.frozen_degradation, whole.size)

        def look(first: int, last: int) -> Output:
            crops = batches.view(number, at_a_time, first, last)
            steps = -(-(last - first) // at_a_time)
            hidden = None if settings.progress else True
            features, logits = [], []
            for part in tqdm(crops, f"view {number}", steps, leave=False, disable=hidden):
                with settings.autocast():
                    answer = self.frozen(see(part.to(settings.device)))
                features.append(answer.features.cpu())
                logits.append(answer.logits.cpu())
            return Output(torch.cat(features), torch.cat(logits))

        half = settings.precision == "bf16"
        return of_view(self._view_file(number), look, len(whole), half)

    def _view_file(self, number: int) -> Path:
        return self.answers / f"view-{number}.safetensors"


def fit(
    state: State,
    task: Task,
    label: str = "",
    after_epoch: Callable[[State], None] = lambda state: None,
    after_step: Callable[[State], None] = lambda state: None,
    interruption: Interruption | None = None,
) -> State:
    """Train until the recipe's epochs are done, from wherever `state` stands.

    Everything random in an epoch is seeded by (seed, epoch), and the state of every generator is a
    part of `state`: a run that goes on from a saved state, also from within an epoch, ends as one
    that was never interrupted.

    Args:
        state: changed in place; its modules are on the device already.
        task: what to learn.
        label: for the progress bar.
        after_epoch: called with the state after every epoch.
        after_step: called with the state after every step but the last one of an epoch.
        interruption: held back during steps, for `after_step` to act on.

    Raises:
        Diverged: if the loss is no longer a finite number.
    """
    recipe = task.recipe
    maps, asked = state.objective.needs_maps, bool(state.objective.distilled)
    batches = task.batches(reduced=not asked or (task.answers is not None and not maps))
    with (
        exact_matmul(),
        tqdm(
            total=recipe.epochs * len(batches),
            initial=state.epoch * len(batches) + state.step,
            desc=label,
            unit="step",
            disable=None if task.settings.progress else True,  # None: only on a terminal
            mininterval=1.0,
            dynamic_ncols=True,
        ) as bar,
    ):
        while state.epoch < recipe.epochs:
            start = state.begun = time.perf_counter() - state.elapsed
            entry = _epoch(state, task, batches, bar, after_step, interruption or Interruption())
            if not all(t.isfinite().all() for t in state.network.state_dict().values()):
                raise Diverged(state.epoch + 1, entry["terms"])  # in the very last step
            # a network without a classifier has nothing to be scored by on classes it knows
            scored = task.data.disjoint or state.network.classifier is not None
            if task.validation is not None and scored:
                result = score(state.network, task.validation, task.data, task.degradation)
                if math.isnan(result[main_metric(result)]):
                    raise Diverged(state.epoch + 1, entry["terms"])
                _keep_best(state, result)
                entry["validation"] = result
                bar.set_postfix_str(f"validation {result[main_metric(result)]:.1f} %")
            state.history.append(entry)
            state.epoch += 1
            state.seconds.append(time.perf_counter() - start)
            state.step, state.elapsed = 0, 0.0
            state.sums, state.norms, state.generators = {}, {}, None
            after_epoch(state)
    return state


def main_metric(result: Mapping[str, float]) -> str:
    """The name of what epochs are compared by: recall1 of retrieval, else top1."""
    return "recall1" if "recall1" in result else "top1"


def _keep_best(state: State, result: Mapping[str, float]) -> None:
    """Copy the weights if no earlier epoch was as good on the validation split."""
    name = main_metric(result)
    if state.best is None or result[name] > max(e["validation"][name] for e in state.history):
        state.best = {n: t.detach().clone() for n, t in state.network.state_dict().items()}
        state.best_epoch = state.epoch + 1


def _epoch(
    state: State,
    task: Task,
    batches: Batches,
    bar: tqdm,
    after_step: Callable[[State], None],
    interruption: Interruption,
) -> dict:
    """The rest of a pass over the images, from `state.step` on.

    Sums stay on the device; nothing is read back before the end.
    """
    seed = task.seed * 100_003 + state.epoch
    random = state.generators = Generators(task.settings.device, seed)
    pixels = task.recipe.pixels(state.epoch, task.degradation.size)
    seen = replace(task.degradation, size=pixels)
    learner_sees = task.view(seen, seed, state.network, random.learner)
    maps = state.objective.needs_maps
    asked = bool(state.objective.distilled)  # a run may only start from the frozen weights
    frozen = None
    if asked:
        frozen = task.frozen_answers(seed, state.epoch, maps, batches, random.frozen)
    if frozen and state.step:
        frozen.skip(state.step * task.recipe.batch_size)
    elif frozen:
        state.reading = frozen.read
    trained = [p for group in state.optimizer.param_groups for p in group["params"]]
    state.network.train()
    # losses that draw, do so from torch's generators
    with seeded(task.settings.device, seed), interruption.deferred():
        if state.random:
            random.restore(state.random)
            state.random = {}
        for crops, labels in batches.epoch(seed, state.epoch, state.step):
            if not crops.device == labels.device == trained[0].device:  # read from disk
                crops, labels = crops.to(trained[0].device), labels.to(trained[0].device)
            done = state.epoch * len(batches) + state.step
            rate = task.recipe.rate(done, len(batches))
            ramp = min(1.0, (done + 1) / (task.warmup * len(batches))) if task.warmup else 1.0
            for group in state.optimizer.param_groups:
                group["lr"] = rate
            with task.settings.autocast():
                target = frozen(crops) if frozen else None
                output = state.network(learner_sees(crops), maps)
                terms = state.objective(output, labels, target, ramp)
            if state.step % GRADIENT_EVERY == 0:
                _accumulate(state.norms, state.objective.rebalance(terms, output.features))
            state.optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()
            if task.recipe.clip is not None:
                torch.nn.utils.clip_grad_norm_(trained, task.recipe.clip)
            state.optimizer.step()
            _accumulate(state.sums, terms)
            state.step += 1
            bar.update()
            if state.step < len(batches):
                after_step(state)
    means = {name: value.item() / len(batches) for name, value in state.sums.items()}
    if not all(math.isfinite(v) for v in means.values()):
        raise Diverged(state.epoch + 1, means)
    if frozen:
        frozen.keep()
        if state.reading:
            state.remembered.append(state.epoch + 1)
    measured = {name: value.item() for name, value in state.norms.items()}
    whole = sum(measured.values()) or 1.0
    entry = {
        "epoch": state.epoch + 1,
        "learning_rate": rate,
        "terms": means,
        "gradient_shares": {name: value / whole for name, value in measured.items()},
    }
    return entry | ({"pixels": pixels} if task.recipe.progressive else {})


class Generators:
    """What an epoch draws from: torch's global generators, and one for each model's noise."""

    def __init__(self, device: str, seed: int) -> None:
        self.device = device if device.startswith("cuda") else None
        self.learner = torch.Generator(device).manual_seed(seed)
        self.frozen = torch.Generator(device).manual_seed(seed)

    def state(self) -> dict[str, Tensor]:
        """Where they stand, as tensors on the CPU."""
        found = {"cpu": torch.get_rng_state()}
        if self.device:
            found["cuda"] = torch.cuda.get_rng_state(self.device)
        return found | {"learner": self.learner.get_state(), "frozen": self.frozen.get_state()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Put them where they stood; those of another kind of device stay as they are."""
        torch.set_rng_state(state["cpu"])
        if self.device and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], self.device)
        if bool(self.device) == ("cuda" in state):
            self.learner.set_state(state["learner"])
            self.frozen.set_state(state["frozen"])


def _accumulate(sums: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        value = value.detach().float()
        sums[name] = sums[name] + value if name in sums else value
