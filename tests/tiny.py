"""Glyphs few enough, and networks small enough, that a whole run takes a fraction of a second."""

import functools
from dataclasses import replace

import pytest
import torch

from horkd.data import Dataset
from horkd.data.glyphs import CHARACTERS, render
from horkd.degradation import Degradation
from horkd.lab import checkpoint, runner
from horkd.lab.config import RunConfig
from horkd.lab.store import Run
from horkd.machine import Settings
from horkd.networks.network import ModelSpec, Network
from horkd.training import Recipe

CLASSES = 6
#: Everything that could differ between two machines or two calls is fixed.
SETTINGS = Settings("cpu", "fp32", channels_last="on", compile="off", cache="off", progress=False)
RECIPE = Recipe(epochs=3, batch_size=12, learning_rate=0.1, crop=2)


@functools.cache
def data() -> Dataset:
    """Six characters: 48 training, 18 validation, 30 test images."""
    characters = CHARACTERS[:CLASSES]
    splits = {"train": 8, "validation": 3, "test": 5}
    sets = {split: render(characters, n, 0, split) for split, n in splits.items()}
    levels = sets["train"].images.double().div(255).transpose(0, 1).flatten(1)  # (3, pixels)
    mean, std = (tuple(map(float, v)) for v in (levels.mean(1), levels.std(1)))
    return Dataset("glyphs", **sets, unseen=None, flip=False, mean=mean, std=std)


def load(name: str, per_class: int | None = None) -> Dataset:
    """Stands in for `horkd.data.load_dataset`."""
    return replace(data(), name=name)


def network(name: str = "resnet8x0.25", seed: int = 0, classes: int = CLASSES) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Network(ModelSpec(name, classes))


def teacher(**changes) -> RunConfig:
    """A network of features twice as wide as the student's, at 16 pixels."""
    values = {"model": "resnet8x0.5", "degradation": Degradation(16), "recipe": RECIPE}
    return RunConfig(**{**values, **changes})


def student(**changes) -> RunConfig:
    """Distilled at 8 pixels with all orders, through a projector."""
    values = {
        "model": "resnet8x0.25",
        "degradation": Degradation(8),
        "frozen": teacher(),
        "orders": (("1", 1.0), ("2", 25.0), ("3", 50.0), ("C", 1.0)),
        "recipe": RECIPE,
        "seed": 3,
    }
    return RunConfig(**{**values, **changes})


def run(config: RunConfig, folder) -> Run:
    return runner.run(config, SETTINGS, folder)


def patch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs on the six characters, saved after every epoch."""
    patch_data(monkeypatch, load)
    monkeypatch.setattr(checkpoint, "SAVE_EVERY_SECONDS", 0)
    monkeypatch.setattr("horkd.lab.store.latency", lambda network, size: 1.0)


def patch_data(monkeypatch: pytest.MonkeyPatch, stand_in) -> None:
    """Another `load_dataset` for all that trains, tests and exports."""
    for module in ("runner", "looks", "store"):
        monkeypatch.setattr(f"horkd.lab.{module}.load_dataset", stand_in)
