"""How far is `horkd queue` off? Estimate and measurement of the same training, one after the other.

    OMP_NUM_THREADS=1 python benchmarks/estimate.py [--precision bf16] [--out reports/benchmarks]

Every network is estimated as `horkd queue` does it where no run is finished, by a few steps, and
then trained for some batches by the training loop itself, with augmentation, degradation and
optimiser, on random images. A row says how many seconds an epoch of CIFAR-100 (50,000 images) takes
by both. Give it a machine that has nothing else to do.
"""

import argparse
import json
import os
import tempfile
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import torch

from horkd import storage, work
from horkd.data import Dataset, ImageSet
from horkd.data.cifar import MEAN, STD
from horkd.models import ModelSpec, Network
from horkd.objectives import Objective
from horkd.report import markdown
from horkd.resolution import Degradation
from horkd.runs import RunConfig, commit, versions
from horkd.train import Recipe, Settings, Task, describe_machine, fit, new_state

IMAGES = 50_000
#: Network, pixels, batches: some seconds to a minute each.
CASES = (
    ("resnet8x2", 16, 150),
    ("resnet8x2", 32, 60),
    ("resnet18", 16, 50),
    ("resnet18", 32, 20),
    ("resnet50", 16, 20),
    ("resnet50", 32, 8),
    ("vgg11", 16, 60),
)


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
        task = Task(data, data.train, Degradation(pixels), recipe, settings, 0)
        seconds.append(fit(new_state(network, Objective(), recipe), task).seconds[0])
    return seconds[-1] * IMAGES / (128 * batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks"))
    options = parser.parse_args()
    settings = Settings("cpu", options.precision, progress=False)
    load = work.load()
    rows, numbers = [], []
    for model, pixels, batches in CASES:
        config = RunConfig(
            model, Degradation(pixels), data="cifar100", validation=False, recipe=Recipe(epochs=1)
        )
        resolved = settings.resolve(Network(ModelSpec("resnet18", 100)))
        with tempfile.TemporaryDirectory() as empty, redirect_stderr(StringIO()):
            work.paths.runs_dir = lambda empty=empty: Path(empty)  # nothing is finished there
            estimate = work.pace([config], settings).seconds(config)
        real = measured(model, pixels, batches, resolved)
        numbers.append({"network": model, "pixels": pixels, "estimate": estimate, "measured": real})
        rows.append({
            "network": model, "px": pixels, "estimate, s an epoch": f"{estimate:.0f}",
            "measured, s an epoch": f"{real:.0f}", "estimate / measured": f"{estimate / real:.2f}",
        })  # fmt: skip
        print(rows[-1], flush=True)
    import pandas as pd

    machine = describe_machine("cpu")
    text = (
        "# Estimates of `horkd queue` against measurements\n\n"
        f"{machine['name']}, {machine['threads']} thread(s) of {os.cpu_count()} cores, "
        f"{options.precision}, batch 128; load before it began {load:.2f} per core. An epoch "
        f"is {IMAGES:,} images; a few batches of it were trained.\n\n"
        f"{markdown(pd.DataFrame(rows))}\n"
    )
    storage.write_text(options.out / "estimate.md", text)
    content = {
        "rows": numbers, "machine": machine, "precision": options.precision, "load": load,
        "commit": commit(), "versions": versions(),
    }  # fmt: skip
    storage.write_text(options.out / "estimate.json", json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
