"""One training loop. Teacher, assistant and student differ only in what they see and minimise."""

import math
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from tqdm.auto import tqdm

from horkd.answers import Answers, Remembered
from horkd.checks import SEEDS, plain_fields, require_seed, require_whole
from horkd.data.batches import Batches, FileBatches, ReducedBatches
from horkd.data.images import Dataset, ImageSet
from horkd.data.photos import PhotoFiles
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.machine import Interruption, Settings, exact_matmul, seeded
from horkd.networks.network import Network
from horkd.objectives import Frozen, Objective
from horkd.preprocess import Channels, Preprocess
from horkd.processes import loader_failures

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
        plain_fields(self)
        require_whole(epochs=self.epochs, batch_size=self.batch_size, crop=self.crop)
        require_whole(views=self.views, per_class=self.per_class, batches=self.batches or 0)
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
        trained_in: precision, device and version of torch that it was trained in so far.
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
    trained_in: list[dict[str, str]] = field(default_factory=list)
    elapsed: float = 0.0
    begun: float = 0.0
    generators: "Generators | None" = None
    random: dict[str, Tensor] = field(default_factory=dict)

    def end_epoch(self, entry: dict, seconds: float) -> None:
        """Note a finished epoch; nothing of its steps is kept."""
        self.history.append(entry)
        self.epoch += 1
        self.seconds.append(seconds)
        self.step, self.elapsed = 0, 0.0
        self.sums, self.norms, self.generators = {}, {}, None


def new_state(network: Network, objective: Objective, recipe: Recipe) -> State:
    """A run that has not begun; the projector, if any, is optimised with the network.

    Raises:
        HorkdError: if the weights are of half precision, which small steps would not move.
    """
    for kept in network.parameters():
        if kept.dtype in (torch.float16, torch.bfloat16):
            raise HorkdError(
                f"the network's weights are {kept.dtype}, which loses small steps of training: "
                'train it after network.float(), with Settings(precision="bf16") for speed'
            )
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


def batches_of(
    images: ImageSet | PhotoFiles,
    recipe: Recipe,
    flip: bool = True,
    reduce: Degradation | None = None,
) -> Batches:
    """Batches of training images, in memory or from disk.

    Args:
        images: the training images; in memory they lie on the device.
        recipe: batch size, crops, fixed views, and images of a class in a batch.
        flip: mirror half of the images.
        reduce: what the learner sees, if nobody else looks at the crops: they may come as it sees
            them where that is always the same.
    """
    kind = Batches if isinstance(images, ImageSet) else FileBatches
    found = kind(
        images,
        recipe.batch_size,
        recipe.crop,
        flip,
        recipe.views,
        recipe.per_class,
        recipe.batches,
    )
    if reduce is None or not recipe.views or recipe.progressive or reduce.size >= images.size:
        return found
    if reduce.upsample or reduce.blur or reduce.noise or reduce.jpeg:
        return found
    return ReducedBatches(found, reduce)


def train(
    network: Network,
    objective: Objective,
    images: ImageSet,
    channels: Channels | Dataset,
    degradation: Degradation,
    recipe: Recipe,
    settings: Settings | None = None,
    seed: int = 0,
    flip: bool = True,
    frozen: Frozen | None = None,
    frozen_degradation: Degradation | None = None,
) -> State:
    """Train a network on images in memory from the beginning to the end.

    Args:
        network: what learns; trained in place, and left on the device.
        objective: what it minimises; placed likewise.
        images: the training images.
        channels: statistics that normalise them.
        degradation: what the learner sees.
        recipe: optimisation.
        settings: of the machine.
        seed: of the order of images, crops, flips and noise.
        flip: whether a mirrored image still belongs to its class.
        frozen: the model to distil from, or None.
        frozen_degradation: what it sees of the same crops.

    Raises:
        Diverged: if the loss is no longer a finite number.
        HorkdError: if a term of the objective would be, or was, zero in every batch.
    """
    objective.check_batches(recipe.batch_size, recipe.per_class)
    settings = (settings or Settings()).resolve(network)
    state = new_state(settings.place(network), objective.to(settings.device), recipe)
    layout = settings.memory_format
    answers = None
    if frozen is not None:
        sees = Preprocess.of(frozen.network, channels, frozen_degradation, layout)
        answers = Answers(settings.place(frozen), sees, settings)
    return fit(
        state,
        batches_of(images.to(settings.device), recipe, flip),
        Preprocess.of(network, channels, degradation, layout),
        recipe,
        settings,
        seed,
        answers=answers,
    )


def fit(
    state: State,
    batches: Batches,
    preprocess: Preprocess,
    recipe: Recipe,
    settings: Settings,
    seed: int,
    *,
    answers: Answers | None = None,
    score: Callable[[Network], dict[str, float]] | None = None,
    metric: str = "top1",
    warmup: float = 0.0,
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
        batches: crops of the training images.
        preprocess: what the learner sees of a crop.
        recipe: optimisation.
        settings: resolved settings of this machine.
        seed: of the order of images, crops, flips and noise.
        answers: what the frozen model says of the same crops; None without one.
        score: of a network after every epoch, to find the best one; None scores nothing.
        metric: the entry of a score that epochs are compared by.
        warmup: epochs over which the distillation terms rise linearly to their weights.
        label: for the progress bar.
        after_epoch: called with the state after every epoch.
        after_step: called with the state after every step but the last one of an epoch.
        interruption: held back during steps, for `after_step` to act on.

    Raises:
        Diverged: if the loss is no longer a finite number.
        HorkdError: if the seed is none, a process that decodes photos died, or a term of the
            objective was zero in every step of the run.
    """
    require_seed(seed)
    epoch = _Epoch(batches, preprocess, recipe, settings, seed, answers, warmup, after_step)
    with (
        exact_matmul(),
        loader_failures(),
        tqdm(
            total=recipe.epochs * len(batches),
            initial=state.epoch * len(batches) + state.step,
            desc=label,
            unit="step",
            disable=None if settings.progress else True,  # None: only on a terminal
            mininterval=1.0,
            dynamic_ncols=True,
        ) as bar,
    ):
        while state.epoch < recipe.epochs:
            start = state.begun = time.perf_counter() - state.elapsed
            entry = epoch.rest(state, bar, interruption or Interruption())
            if not all(t.isfinite().all() for t in state.network.state_dict().values()):
                raise Diverged(state.epoch + 1, entry["terms"])  # in the very last step
            if score is not None:
                result = score(state.network)
                if math.isnan(result[metric]):
                    raise Diverged(state.epoch + 1, entry["terms"])
                _keep_best(state, result, metric)
                entry["validation"] = result
                bar.set_postfix_str(f"validation {result[metric]:.1f} %")
            state.end_epoch(entry, time.perf_counter() - start)
            if state.epoch < recipe.epochs:
                _warn_of_silence(state)
            after_epoch(state)
    state.objective.check_learning(state.history)
    return state


def _warn_of_silence(state: State) -> None:
    """Say after the first epoch what would be refused after the last one."""
    if len(state.history) == 1 and (silent := state.objective.silent(state.history)):
        warnings.warn(
            f"{', '.join(silent)} was zero in every step of the first epoch: if it stays so, the "
            "run will not be recorded",
            stacklevel=3,
        )


def _keep_best(state: State, result: Mapping[str, float], metric: str) -> None:
    """Copy the weights if no earlier epoch was as good on the validation split."""
    earlier = (entry["validation"][metric] for entry in state.history)
    if state.best is None or result[metric] > max(earlier):
        state.best = {n: t.detach().clone() for n, t in state.network.state_dict().items()}
        state.best_epoch = state.epoch + 1


@dataclass(frozen=True)
class _Epoch:
    """A pass over the batches; attributes as the arguments of `fit`."""

    batches: Batches
    preprocess: Preprocess
    recipe: Recipe
    settings: Settings
    seed: int
    answers: Answers | None
    warmup: float
    after_step: Callable[[State], None]

    def rest(self, state: State, bar: tqdm, interruption: Interruption) -> dict:
        """The steps from `state.step` on; the entry of the epoch in the history.

        Sums stay on the device; nothing is read back before the end.
        """
        # of any seed of the run one that torch takes
        seed, device = (self.seed * 100_003 + state.epoch) % SEEDS, self.settings.device
        random = state.generators = Generators(device, seed)
        pixels = self.recipe.pixels(state.epoch, self.preprocess.degradation.size)
        learner_sees = partial(self.preprocess.at(pixels), generator=random.learner)
        frozen = self._frozen(state, seed, random.frozen)
        state.network.train()
        # losses that draw, do so from torch's generators
        with seeded(device, seed), interruption.deferred():
            if state.random:
                random.restore(state.random)
                state.random = {}
            for crops, labels in self.batches.epoch(seed, state.epoch, state.step):
                self._step(state, crops.to(device), labels.to(device), learner_sees, frozen)
                bar.update()
                if state.step < len(self.batches):
                    self.after_step(state)
        means = {name: value.item() / len(self.batches) for name, value in state.sums.items()}
        if not all(math.isfinite(v) for v in means.values()):
            raise Diverged(state.epoch + 1, means)
        if frozen:
            frozen.keep()
            if state.reading:
                state.remembered.append(state.epoch + 1)
        return self._entry(state, means, pixels)

    def _frozen(self, state: State, seed: int, noise: torch.Generator) -> Remembered | None:
        """The frozen model's answers from `state.step` on; None if no term needs them."""
        if self.answers is None or not state.objective.distilled:
            return None  # a run may only start from the frozen weights
        maps = state.objective.needs_maps
        frozen = self.answers.epoch(state.epoch, seed, maps, self.batches, noise)
        if state.step:
            frozen.skip(state.step * self.recipe.batch_size)
        else:
            state.reading = frozen.read
        return frozen

    def _step(
        self,
        state: State,
        crops: Tensor,
        labels: Tensor,
        learner_sees: Callable[[Tensor], Tensor],
        frozen: Remembered | None,
    ) -> None:
        """One step of the optimiser on a batch of crops."""
        done = state.epoch * len(self.batches) + state.step
        ramp = 1.0
        if self.warmup:
            ramp = min(1.0, (done + 1) / (self.warmup * len(self.batches)))
        for group in state.optimizer.param_groups:
            group["lr"] = self.recipe.rate(done, len(self.batches))
        with self.settings.autocast():
            target = frozen(crops) if frozen else None
            output = state.network(learner_sees(crops), state.objective.needs_maps)
            terms = state.objective(output, labels, target, ramp)
        if state.step % GRADIENT_EVERY == 0:
            _accumulate(state.norms, state.objective.rebalance(terms, output.features))
        state.optimizer.zero_grad(set_to_none=True)
        terms["loss"].backward()
        if self.recipe.clip is not None:
            trained = [p for group in state.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(trained, self.recipe.clip)
        state.optimizer.step()
        _accumulate(state.sums, terms)
        state.step += 1

    def _entry(self, state: State, means: dict[str, float], pixels: int) -> dict:
        measured = {name: value.item() for name, value in state.norms.items()}
        whole = sum(measured.values()) or 1.0
        last = (state.epoch + 1) * len(self.batches) - 1
        entry = {
            "epoch": state.epoch + 1,
            "learning_rate": self.recipe.rate(last, len(self.batches)),
            "terms": means,
            "gradient_shares": {name: value / whole for name, value in measured.items()},
        }
        return entry | ({"pixels": pixels} if self.recipe.progressive else {})


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
