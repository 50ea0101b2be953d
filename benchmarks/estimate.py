"""How far is `horkd queue` off? Estimate and measurement of the same training, one after the other.

    OMP_NUM_THREADS=1 python benchmarks/estimate.py [--precision bf16] [--out reports/benchmarks]

Every network is estimated as `horkd queue` does it where no run is finished, by a few steps, and
then trained for some batches by the training loop itself, with augmentation, degradation and
optimiser, on random images; a frozen one answers to a fixed view, as it does for its learners. A
row says how many seconds an epoch of CIFAR-100 (50,000 images) takes by both. Give it a machine
that has nothing else to do: on a busy one it refuses.
"""

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch

from horkd import machine as machine_
from horkd import paths, storage
from horkd.answers import Answers, FixedViews
from horkd.data import Dataset, ImageSet
from horkd.data.cifar import MEAN, STD
from horkd.degradation import Degradation
from horkd.lab.config import RunConfig
from horkd.lab.pace import pace
from horkd.machine import BUSY, Settings, commit, describe_machine, versions
from horkd.networks.network import ModelSpec, Network
from horkd.objectives import Frozen, Objective
from horkd.preprocess import Preprocess
from horkd.studies.report import markdown
from horkd.training import Recipe, train

IMAGES = 50_000
#: Network, pixels, batches: some seconds to a minute each.
CASES = (
    ("resnet8x2", 16, 150),
    ("resnet8x2", 32, 60),
    ("resnet18", 16, 50),
    ("resnet18", 32, 20),
    ("resnet50", 16, 20),
    ("resnet50", 32, 16),
    ("vgg11", 16, 60),
)
#: Networks that only look: pixels, images.
LOOKS = (("resnet18", 32, 4000), ("resnet50", 32, 2000))


def images(count: int) -> Dataset:
    """Random images with the shape of CIFAR-100."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 100
    split = ImageSet(pixels, labels, tuple(map(str, range(100))))
    return Dataset("random", split, None, split, None, True, MEAN, STD)


def measured(model: str, pixels: int, batches: int, settings: Settings) -> float:
    """Seconds of an epoch, from so many batches after five to warm up."""
    data = images(128 * 20)
    torch.manual_seed(0)
    network = settings.place(Network(ModelSpec(model, 100)))
    seconds = []
    for count in (5, batches):
        recipe = Recipe(epochs=1, learning_rate=0.01, batches=count)
        state = train(network, Objective(), data.train, data, Degradation(pixels), recipe, settings)
        seconds.append(state.seconds[0])
    return seconds[-1] * IMAGES / (128 * batches)


def looked(model: str, pixels: int, count: int, settings: Settings) -> float:
    """Seconds of a frozen network's answers to a view of all images."""
    data = images(count)
    frozen = Frozen(settings.place(Network(ModelSpec(model, 100))))
    views = FixedViews(data.train, 1, Recipe().crop, data.flip)
    preprocess = Preprocess.of(frozen.network, data, Degradation(pixels), settings.memory_format)
    with tempfile.TemporaryDirectory() as folder:
        answers = Answers(frozen, preprocess, settings, Path(folder), views)
        start = time.perf_counter()
        answers.of_view(0)
        return (time.perf_counter() - start) * IMAGES / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--out", type=Path, help="folder (default: that of the reports)")
    options = parser.parse_args()
    paths.settle()
    out = options.out or paths.reports_dir() / "benchmarks"
    settings = Settings("cpu", options.precision, progress=False)
    load = machine_.load()
    if load > BUSY:
        parser.exit(2, f"this machine is busy ({load:.1f} processes a core): try again when not\n")
    resolved = settings.resolve(Network(ModelSpec("resnet18", 100)))
    rows, numbers = [], []

    def add(what: str, model: str, pixels: int, estimate: float, real: float) -> None:
        numbers.append({"what": what, "network": model, "pixels": pixels, "estimate": estimate,
                        "measured": real})  # fmt: skip
        rows.append({
            "what": what, "network": model, "px": pixels, "estimate, s an epoch": f"{estimate:.0f}",
            "measured, s an epoch": f"{real:.0f}", "estimate / measured": f"{estimate / real:.2f}",
        })  # fmt: skip
        print(rows[-1], flush=True)

    one = Recipe(epochs=1)
    with tempfile.TemporaryDirectory() as empty, patch.dict(os.environ, HORKD_RUNS=empty):
        # nothing is finished there
        for model, pixels, batches in CASES:
            config = RunConfig(
                model, Degradation(pixels), data="cifar100", validation=False, recipe=one
            )
            estimate = pace([config], settings).seconds(config)
            add("training", model, pixels, estimate, measured(model, pixels, batches, resolved))
        for model, pixels, count in LOOKS:
            frozen = RunConfig(
                model, Degradation(pixels), data="cifar100", validation=False, recipe=one
            )
            config = replace(frozen, model="resnet8", frozen=frozen, orders=(("2", 1.0),))
            known = pace([config], settings)
            estimate = known.seconds(config) - known.learner_seconds(config)
            add("frozen", model, pixels, estimate, looked(model, pixels, count, resolved))
    import pandas as pd

    machine = describe_machine("cpu")
    text = (
        "# Estimates of `horkd queue` against measurements\n\n"
        f"{machine['name']}, {machine['threads']} thread(s) of {os.cpu_count()} cores, "
        f"{options.precision}, batch 128; load before it began {load:.2f} per core. An epoch "
        f"is {IMAGES:,} images; a few batches of it were trained.\n\n"
        f"{markdown(pd.DataFrame(rows))}\n"
    )
    storage.write_text(out / "estimate.md", text)
    content = {
        "rows": numbers, "machine": machine, "precision": options.precision, "load": load,
        "commit": commit(), "versions": versions(),
    }  # fmt: skip
    storage.write_text(out / "estimate.json", json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
