"""Which runs are missing, and how long they take on this machine.

Work is counted in multiply-accumulates: three per weight and place for training (forward, and twice
that for both gradients), one for looking. How many a second this machine does of a network is
learnt from the records of its finished runs of equal precision and threads, or else from a few
steps of each network, as it will be trained.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from horkd import answers, paths, storage
from horkd.baselines import ON_MAPS
from horkd.data import CLASSES, full_size, training_images
from horkd.errors import HorkdError
from horkd.lab import store
from horkd.lab.config import RunConfig, config_from_dict
from horkd.lab.job import Job, chain
from horkd.lab.store import diverged
from horkd.machine import BUSY, Settings, describe_machine, load
from horkd.networks.network import ModelSpec, Network, macs_of


def _image_macs(model: str, classes: int, size: int) -> int:
    return macs_of(ModelSpec(model, classes), size)


def _side(config: RunConfig) -> int:
    """Pixels that a network computes on, in the end."""
    return full_size(config.data) if config.degradation.upsample else config.degradation.size


def images_of(config: RunConfig) -> int:
    """How many images a run is shown in an epoch."""
    recipe = config.recipe
    if recipe.batches:
        return recipe.batches * recipe.batch_size
    return training_images(config.data, config.per_class, config.validation)


def _stages(config: RunConfig) -> dict[int, int]:
    """Epochs of training by the pixels that the network computes on."""
    found: dict[int, int] = {}
    for epoch in range(config.recipe.epochs):
        side = config.recipe.pixels(epoch, _side(config))
        found[side] = found.get(side, 0) + 1
    return found


def _stage_macs(config: RunConfig) -> dict[int, float]:
    """Multiply-accumulates of training the learner, by the pixels that it computes on."""
    if config.weights:  # given, not trained
        return {}
    classes = CLASSES.get(config.data, 0)
    return {
        side: 3.0 * _image_macs(config.model, classes, side) * images_of(config) * epochs
        for side, epochs in _stages(config).items()
    }


def learner_macs(config: RunConfig) -> float:
    """Multiply-accumulates of training the learner, without its frozen model."""
    return sum(_stage_macs(config).values())


def frozen_macs(config: RunConfig) -> float:
    """Multiply-accumulates of the frozen model over a run; 0 without distillation.

    To fixed views it looks once.
    """
    if config.frozen is None or not (config.orders or config.baselines):
        return 0.0
    one = _image_macs(config.frozen.model, CLASSES.get(config.data, 0), _side(config.frozen))
    views = config.recipe.views if _cacheable(config) else 0
    return one * images_of(config) * min(views or config.recipe.epochs, config.recipe.epochs)


def _cacheable(config: RunConfig) -> bool:
    """Whether the frozen model's answers can be kept: maps never are."""
    return not any(name in ON_MAPS for name, _ in config.baselines)


#: A probe takes at least so many steps and seconds, unless that would be longer than `LONGEST`.
PROBE_STEPS, PROBE_SECONDS = 3, 0.4


#: Seconds after which no further step is taken; one step may take half of that.
LONGEST = 8.0


@dataclass(frozen=True)
class Pace:
    """How fast this machine trains, when it has nothing else to do.

    Attributes:
        rates: (network, pixels) -> multiply-accumulates a second in training.
        source: where that is known from, for a sentence.
        looks: the same of a frozen model's passes; where it is not known, the learner's rate.
        load: processes that wanted a core at the time of asking, per core.
    """

    rates: dict[tuple[str, int], float]
    source: str
    looks: dict[tuple[str, int], float] | None = None
    load: float = 0.0

    @property
    def busy(self) -> bool:
        """Whether others are at work on this machine, so that all will take longer."""
        return self.load > BUSY

    def _rate(self, model: str, side: int) -> float:
        return self.rates.get((model, side)) or statistics.median(self.rates.values())

    def learner_seconds(self, config: RunConfig) -> float:
        """Estimate of training alone."""
        stages = _stage_macs(config).items()
        return sum(macs / self._rate(config.model, side) for side, macs in stages)

    def seconds(self, config: RunConfig) -> float:
        """Estimate for one run from its first epoch, its frozen model already trained."""
        whole = self.learner_seconds(config)
        looked = frozen_macs(config)
        if looked:
            known = (self.looks or {}).get((config.frozen.model, _side(config.frozen)))
            whole += looked / (known or self._rate(config.model, _side(config)))
        return whole


Step = Callable[[torch.Tensor], None]


def pace(
    configs: Sequence[RunConfig],
    settings: Settings,
    probe: Callable[[Step, int, int, Settings], float] | None = None,
) -> Pace:
    """From finished runs on this kind of machine; from a few training steps where there are none.

    Args:
        configs: what is to be estimated; only their networks are timed.
        settings: device and precision. Threads are those of this process.
        probe: how steps are timed, `images_a_second` by default.
    """
    probe = probe or images_a_second
    busy = load()
    resolved = settings.resolve(Network(ModelSpec("resnet8", 2)))  # refuses what is not there
    found: dict[tuple[str, int], list[float]] = {}
    for config, seconds in _finished(resolved):
        kind = (config.model, _side(config))
        found.setdefault(kind, []).append(_all_macs(config) / seconds)
    known = {kind: statistics.median(rates) for kind, rates in found.items()}
    kinds: dict[tuple[str, int], tuple[int, int]] = {}
    looked: dict[tuple[str, int], int] = {}
    for config in configs:
        classes = CLASSES.get(config.data, 0)
        for side in _stages(config):
            kinds.setdefault((config.model, side), (config.recipe.batch_size, classes))
        if frozen_macs(config) and (config.model, _side(config)) not in known:
            looked.setdefault((config.frozen.model, _side(config.frozen)), classes)
    probed = {
        (model, side): _time_training(model, side, batch, classes, settings, probe)
        for (model, side), (batch, classes) in kinds.items()
        if (model, side) not in known
    }
    looks = {
        (model, side): _time_looking(model, side, classes, settings, probe)
        for (model, side), classes in looked.items()
    }
    source = "finished runs" if known else "a few steps of each network"
    if known and probed:
        source = "finished runs and a few steps of the other networks"
    return Pace(known | probed or {("", 0): 1e9}, source, looks, busy)


def _finished(settings: Settings) -> Iterator[tuple[RunConfig, float]]:
    """Runs of this kind of machine, and what they take where nothing else runs, in seconds.

    Only those of equal precision and threads, and not those whose frozen model's answers were
    there already. Records that are damaged or of another version are skipped.
    """
    here = describe_machine(settings.device)
    for path in sorted(paths.runs_dir().glob("*/record.json")):
        try:
            record = storage.load_json(path)
            seconds = record["seconds"]
            given = record["config"].get("weights")  # trained elsewhere
            read = seconds.get("frozen_answers_read")
            alike = record["machine"]["name"] == here["name"] and (
                (record["settings"]["precision"], record["machine"]["threads"])
                == (settings.precision, here["threads"])
            )
            if not alike or read or given or record["config"]["recipe"].get("progressive"):
                continue
            # the fastest epoch: whatever else ran beside the others made them slower
            whole = min(seconds["epochs"]) * len(seconds["epochs"])
            if whole > 0:
                yield config_from_dict(record["config"]), whole
        except (HorkdError, KeyError, TypeError, AttributeError, ValueError):
            continue


def _time_training(
    model: str, side: int, batch: int, classes: int, settings: Settings, probe: Callable
) -> float:
    """Multiply-accumulates a second of training steps with batches of that size."""
    network = Network(ModelSpec(model, classes)).train()
    settings = settings.resolve(network)  # the memory format depends on the network
    network = settings.place(network)

    def step(images: torch.Tensor) -> None:
        with settings.autocast():
            out = network(images)
            # of the size of a cross-entropy: gradients too small for float32 would be slow
            loss = (out.logits if classes else out.features).float().logsumexp(1).mean()
        network.zero_grad(set_to_none=True)
        loss.backward()
        loss.item()  # waits for the device

    rate = probe(step, side, batch, settings)
    return 3.0 * _image_macs(model, classes, side) * rate


def _time_looking(
    model: str, side: int, classes: int, settings: Settings, probe: Callable
) -> float:
    network = Network(ModelSpec(model, classes)).eval()
    settings = settings.resolve(network)
    network = settings.place(network)

    @torch.no_grad()
    def look(images: torch.Tensor) -> None:
        with settings.autocast():
            network(images).features.sum().item()

    return _image_macs(model, classes, side) * probe(look, side, 128, settings)


def images_a_second(
    step: Step,
    side: int,
    batch: int,
    settings: Settings,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """How many images of random numbers go through a step.

    The fastest of a few steps tells, since whatever disturbs makes them slower.

    Args:
        step: takes a batch, and returns when the device is done.
        side: pixels.
        batch: images.
        settings: resolved ones.
        clock: seconds.
    """
    x = torch.randn(batch, 3, side, side, device=settings.device)
    x = x.contiguous(memory_format=settings.memory_format)
    few = max(2, batch // 16)
    seconds = []
    with torch.random.fork_rng(devices=[]):
        step(x[:few])  # the first one also sets up the kernels
        start = clock()
        step(x[:few])
        whole = (clock() - start) * batch / few
        if whole > LONGEST / 2:
            x = x[: max(few, int(batch * LONGEST / 2 / whole))]
        step(x)
        while True:
            start = clock()
            step(x)
            seconds.append(clock() - start)
            enough = len(seconds) >= PROBE_STEPS and sum(seconds) > PROBE_SECONDS
            if enough or sum(seconds) > LONGEST:
                return len(x) / min(seconds)


def missing(jobs: Iterable[Job]) -> list[Job]:
    """Jobs that are neither finished nor known to diverge, they or what they learn from."""
    return [
        job
        for job in jobs
        if store.read(job.config) is None and not any(map(diverged, chain(job.config)))
    ]


def estimates(jobs: Iterable[Job], pace: Pace, cached: bool) -> dict[str, float]:
    """Seconds of each missing run by key, with those of the models that have to be trained first.

    Args:
        jobs: the missing ones, in the order in which they will be done.
        pace: of this machine.
        cached: whether the frozen model's answers are kept, so that only the first run of a frozen
            model, seed and batch size waits for them, or with fixed views the first of all.
    """
    seconds: dict[str, float] = {}
    answered: set[tuple] = set()
    for job in jobs:
        for config in reversed(chain(job.config)):
            if config.key in seconds or (config is not job.config and store.read(config)):
                continue
            seconds[config.key] = pace.seconds(config)
            if not frozen_macs(config) or not _cacheable(config):
                continue
            recipe = config.recipe
            own = () if recipe.views else (config.seed, recipe.batch_size)
            crops = (config.frozen.key, recipe.views, *own)
            if (cached or recipe.views) and crops in answered:
                seconds[config.key] = pace.learner_seconds(config)
            answered.add(crops)
    return seconds


def answers_bytes(jobs: Iterable[Job], half: bool) -> int:
    """Bytes that the frozen models' answers to fixed views will take on disk.

    Args:
        jobs: the missing ones.
        half: in float16, as those of networks that run in bf16.
    """
    sizes: dict[tuple, int] = {}
    for config in (job.config for job in jobs):
        views = config.recipe.views
        if not (views and frozen_macs(config) and _cacheable(config)):
            continue
        with torch.device("meta"):
            classes = CLASSES.get(config.data, 0) if config.frozen.classifies else 0
            network = Network(ModelSpec(config.frozen.model, classes, config.frozen.embedding))
        one = answers.view_size(images_of(config), network.width + classes, half)
        kind = (config.frozen.key, config.validation, config.recipe.crop)
        sizes[kind] = max(sizes.get(kind, 0), one * min(views, config.recipe.epochs))
    return sum(sizes.values())


def _all_macs(config: RunConfig) -> float:
    return learner_macs(config) + frozen_macs(config)
