"""The state of an unfinished run: kept, reported on, stopped, taken up again."""

import dataclasses
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from horkd import storage
from horkd.errors import HorkdError
from horkd.lab.config import RunConfig, config_from_dict
from horkd.machine import Interruption, Settings, commit, duration
from horkd.protocols import headline
from horkd.training import State


class TimeUp(HorkdError):
    """The time given to a run is over; it goes on from the last epoch when asked again."""


@dataclass(frozen=True)
class Control:
    """How a run is watched and stopped; nothing of it changes what comes out.

    Attributes:
        deadline: what `clock` says when it is time to stop: after an epoch, if another one of its
            length would not end by then. The first epoch of a call is not cut short.
        wait: for another process that trains the same; False raises Busy instead.
        interruption: Ctrl-C and SIGTERM, if they are to be put off to the end of a step.
        say: gets a line after each epoch that is not over in moments.
        going: asked after each step and epoch; a run stops when it says False.
        save_every: seconds; an epoch shorter than this is not worth a checkpoint of its own.
        save_within: seconds; within an epoch the state is kept this often.
        report_every: seconds; an epoch shorter than this is not worth a line in a log.
        clock: seconds that pass.
    """

    deadline: float | None = None
    wait: bool = True
    interruption: Interruption | None = None
    say: Callable[[str], None] = lambda line: None
    going: Callable[[], bool] = lambda: True
    save_every: float = 10.0
    save_within: float = 180.0
    report_every: float = 10.0
    clock: Callable[[], float] = time.monotonic


class Saver:
    """Keeps the state, reports on it, and stops the run where that is asked for."""

    def __init__(
        self, path: str | Path, config: RunConfig, settings: Settings, control: Control
    ) -> None:
        path = Path(path)
        self.path, self.config, self.settings = path, config, settings
        self.control = control
        self.last = self.control.clock()

    def after_step(self, state: State) -> None:
        """Within an epoch the state is kept every few minutes, and when the run is to stop."""
        stop = self._stop()
        if stop or self.control.clock() - self.last >= self.control.save_within:
            self._save(state)
        if stop:
            raise KeyboardInterrupt

    def after_epoch(self, state: State) -> None:
        """Between two epochs, unless the last write was moments ago."""
        self._report(state)
        now, deadline = self.control.clock(), self.control.deadline
        late = deadline is not None and now + state.seconds[-1] > deadline
        late = late and state.epoch < self.config.recipe.epochs
        stop = self._stop()
        if late or stop or now - self.last >= self.control.save_every:
            self._save(state)  # also at the very end: the tests to come may take minutes
        if stop:
            raise KeyboardInterrupt
        if late:
            raise TimeUp(
                f"time is up after epoch {state.epoch} of {self.config.recipe.epochs} of "
                f"{self.config.name}"
            )

    def _stop(self) -> bool:
        going, interruption = self.control.going(), self.control.interruption
        return not going or (interruption is not None and interruption.asked)

    def _report(self, state: State) -> None:
        """One line: epoch, loss, score, seconds, time left."""
        if state.seconds[-1] < self.control.report_every:
            return
        recipe, entry = self.config.recipe, state.history[-1]
        size = self.config.degradation.size
        parts = [f"epoch {state.epoch} of {recipe.epochs}"]
        if recipe.progressive:
            parts[0] += f" at {entry['pixels']} px"
        parts.append(f"loss {entry['terms']['loss']:.4g}")
        if "validation" in entry:
            score = headline(entry["validation"])
            parts.append(f"validation {score.key} {score.percent:.2f} %")
        parts.append(f"{state.seconds[-1]:.0f} s")
        # an epoch takes as long as its images have pixels; the fastest of equal ones tells, since
        # others may have waited for the frozen model's answers
        pixels = [recipe.pixels(epoch, size) ** 2 for epoch in range(recipe.epochs)]
        own = pixels[state.epoch - 1]
        done = zip(reversed(state.seconds), reversed(pixels[: state.epoch]), strict=False)
        left = min(s for s, p in done if p == own) * sum(pixels[state.epoch :]) / own
        if left:
            parts.append(f"{duration(left)} left")
        self.control.say(f"{self.config.name}: {', '.join(parts)}")

    def _save(self, state: State) -> None:
        tensors = {f"network.{n}": t for n, t in state.network.state_dict().items()}
        tensors |= {f"objective.{n}": t for n, t in state.objective.state_dict().items()}
        tensors |= {f"best.{n}": t for n, t in (state.best or {}).items()}
        if state.step:
            tensors |= {f"sums.{n}": t for n, t in state.sums.items()}
            tensors |= {f"norms.{n}": t for n, t in state.norms.items()}
            tensors |= {f"random.{n}": t for n, t in state.generators.state().items()}
        for index, slot in state.optimizer.state_dict()["state"].items():
            for name, value in slot.items():
                if value is not None:
                    tensors[f"optimizer.{index}.{name}"] = value
        metadata = {
            "epoch": state.epoch,
            "step": state.step,
            "reading": state.reading,
            "elapsed": time.perf_counter() - state.begun if state.step else 0.0,
            "history": state.history,
            "seconds": state.seconds,
            "remembered": state.remembered,
            "best_epoch": state.best_epoch,
            "config": asdict(self.config),
            "settings": asdict(self.settings),
            "commits": list(dict.fromkeys([*state.commits, commit()])),
            "trained_in": with_present(state, self.settings),
        }
        storage.save_tensors(self.path, tensors, metadata)
        self.last = self.control.clock()


def as_before(settings: Settings, path: str | Path) -> Settings:
    """Settings left to the machine ("auto") as an interrupted run had them; its precision anyway.

    A run that changed its precision on the way would be neither the one nor the other. On another
    device, because that is asked for or the first one is gone, only the precision stays.
    """
    path = Path(path)
    try:
        saved = storage.load_tensors(path)[1]["settings"] if path.is_file() else {}
    except (storage.DamagedFile, KeyError):  # `resume` deals with it
        return settings
    device = saved.get("device", "")
    moved = settings.device not in ("auto", device) or (
        device.startswith("cuda") and not torch.cuda.is_available()
    )
    if "precision" in saved and settings.precision not in ("auto", saved["precision"]):
        warnings.warn(
            f"{path.parent.name} was begun in {saved['precision']} and goes on in it, not in "
            f"{settings.precision}",
            stacklevel=2,
        )
        settings = dataclasses.replace(settings, precision="auto")
    open_ones = [f.name for f in dataclasses.fields(settings) if f.name in saved]
    if moved:
        open_ones = [name for name in open_ones if name == "precision"]
    return dataclasses.replace(
        settings, **{n: saved[n] for n in open_ones if getattr(settings, n) == "auto"}
    )


def with_present(state: State, settings: Settings) -> list[dict[str, str]]:
    """All that a run was trained in, what trains it now included."""
    now = settings.trained_in()
    return [*(part for part in state.trained_in if part != now), now]


def _is_of(saved: object, config: RunConfig) -> bool:
    """Whether a saved configuration is this one; fields that came later have their defaults."""
    try:
        return config_from_dict(saved).key == config.key
    except (HorkdError, TypeError):
        return False


def resume(state: State, path: str | Path, config: RunConfig) -> bool:
    """Put a saved state into `state`, if there is one; a damaged or foreign one is set aside."""
    path = Path(path)
    if not path.is_file():
        return False
    try:
        tensors, metadata = storage.load_tensors(path)
        if not _is_of(metadata.get("config"), config):
            raise storage.DamagedFile(f"{path} is the state of another configuration")
        if any(name.startswith("momentum.") for name in tensors):
            raise storage.DamagedFile(f"{path} was written by an earlier version of horkd")
    except storage.DamagedFile as error:
        storage.set_aside(path, str(error))
        return False

    def part(prefix: str) -> dict[str, Tensor]:
        return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}

    device = next(state.network.parameters()).device
    state.network.load_state_dict(part("network."))
    state.objective.load_state_dict(part("objective."))
    state.best = {n: t.to(device) for n, t in part("best.").items()} or None
    saved = state.optimizer.state_dict()
    slots: dict[int, dict[str, Tensor]] = {}
    for key, tensor in part("optimizer.").items():
        index, _, name = key.partition(".")
        slots.setdefault(int(index), {})[name] = tensor
    state.optimizer.load_state_dict({**saved, "state": slots})
    state.epoch, state.best_epoch = metadata["epoch"], metadata["best_epoch"]
    state.history, state.seconds = metadata["history"], metadata["seconds"]
    state.remembered = metadata["remembered"]
    state.step, state.elapsed = metadata.get("step", 0), metadata.get("elapsed", 0.0)
    state.reading = metadata.get("reading", False)
    state.commits = metadata.get("commits", [])
    state.trained_in = metadata.get("trained_in", [])
    state.sums, state.norms = (
        {n: t.to(device) for n, t in part(prefix).items()} for prefix in ("sums.", "norms.")
    )
    state.random = part("random.")
    return True
