"""Where a stage-2 training step spends its time.

    python benchmarks/step.py [--preset cpu] [--data cifar100] [--steps 60]

Times the parts of the step of `horkd.training` one by one: making the batch, preprocessing for both
networks (degrading and normalising), the frozen model, the student, the losses, backward,
optimiser, and the rest. Writes reports/benchmarks/step-<preset>-<device>.json. On CUDA every part
ends in a synchronisation, which the training loop doesn't have, so the parts are upper bounds
there.
"""

import argparse
import time
from collections import defaultdict
from dataclasses import dataclass

import pandas as pd
import torch

from horkd import paths, storage
from horkd.data import Batches, load_dataset
from horkd.losses import HybridOrderLoss
from horkd.machine import Settings, commit, describe_machine, exact_matmul, versions
from horkd.networks.network import ModelSpec, Network
from horkd.objectives import Frozen, Objective
from horkd.preprocess import Preprocess
from horkd.studies.presets import get_preset
from horkd.studies.study import configure, study
from horkd.training import State, new_state

NECESSARY = ("frozen model", "student", "losses", "backward", "optimiser")


class Clock:
    """Adds up the seconds between calls by name."""

    def __init__(self, cuda: bool) -> None:
        self.cuda, self.seconds, self.last = cuda, defaultdict(float), 0.0

    def start(self) -> None:
        self.last = time.perf_counter()

    def lap(self, name: str) -> None:
        if self.cuda:
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[name] += now - self.last
        self.last = now


@dataclass
class Step:
    """What a step needs: networks, batches, and what each network sees of them."""

    state: State
    frozen: Frozen
    batches: Batches
    learner_sees: Preprocess
    frozen_sees: Preprocess
    settings: Settings


def prepare(preset_name: str, data_name: str) -> Step:
    """A student's step with untrained networks: the time does not depend on the weights."""
    preset = get_preset(preset_name, data_name)
    config = configure(preset, study(preset, "two_stage")["student"])
    data = load_dataset(config.data, config.per_class)
    torch.manual_seed(0)
    student = Network(ModelSpec(config.model, data.num_classes))
    assistant = Network(ModelSpec(config.frozen.model, data.num_classes))
    settings = Settings().resolve(student)
    frozen = Frozen(settings.place(assistant))
    centers = torch.randn(data.num_classes, assistant.width)
    objective = Objective(1.0, HybridOrderLoss(dict(config.orders), centers))
    state = new_state(settings.place(student), objective.to(settings.device), config.recipe)
    recipe, layout = config.recipe, settings.memory_format
    images = data.train.to(settings.device)
    return Step(
        state,
        frozen,
        Batches(images, recipe.batch_size, recipe.crop, data.flip),
        Preprocess.of(student, data, config.degradation, layout),
        Preprocess.of(assistant, data, config.frozen.degradation, layout),
        settings,
    )


def measure(step: Step, steps: int) -> dict[str, float]:
    """Milliseconds per step of each part, after five steps of warming up."""
    state, batches = step.state, step.batches
    clock, done = Clock(step.settings.device.startswith("cuda")), 0
    state.network.train()
    for epoch in range(1 + (steps + 5) // len(batches)):
        iterator = batches.epoch(epoch)
        while done < steps + 5:
            if done == 5:
                clock.seconds.clear()
            clock.start()
            batch = next(iterator, None)
            if batch is None:
                break
            clock.lap("batch")
            small, full = step.learner_sees(batch[0]), step.frozen_sees(batch[0])
            clock.lap("preprocessing")
            with step.settings.autocast():
                target = step.frozen(full)
                clock.lap("frozen model")
                output = state.network(small)
                clock.lap("student")
                terms = state.objective(output, batch[1], target)
                clock.lap("losses")
            state.optimizer.zero_grad(set_to_none=True)
            terms["loss"].backward()
            clock.lap("backward")
            state.optimizer.step()
            clock.lap("optimiser")
            sums = {name: value.detach().float() for name, value in terms.items()}
            clock.lap("bookkeeping")
            done += bool(sums)
    return {name: 1e3 * s / steps for name, s in clock.seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--data", default="")
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    paths.settle()
    step = prepare(arguments.preset, arguments.data)
    with exact_matmul():
        parts = measure(step, arguments.steps)
    total = sum(parts.values())
    outside = sum(ms for name, ms in parts.items() if name not in NECESSARY)
    table = pd.DataFrame({"part": parts.keys(), "ms per step": parts.values()})
    table["share (%)"] = 100 * table["ms per step"] / total
    print(table.round(2).to_string(index=False))
    print(f"outside forward, backward and optimiser: {100 * outside / total:.1f} %")
    device = torch.device(step.settings.device).type
    path = paths.reports_dir() / "benchmarks" / f"step-{arguments.preset}-{device}.json"
    record = {
        "preset": arguments.preset,
        "data": arguments.data,
        "steps": arguments.steps,
        "batch_size": step.batches.batch_size,
        "ms_per_step": parts,
        "outside_percent": 100 * outside / total,
        "machine": describe_machine(step.settings.device),
        "versions": versions(),
        "commit": commit(),
    }
    storage.save_json(path, record)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
