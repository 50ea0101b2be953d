"""Glyphs few enough, and networks small enough, that a whole run takes a fraction of a second."""

import functools
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from horkd import data as data_
from horkd.data import DATASETS, Dataset, Source
from horkd.data.glyphs import CHARACTERS, render
from horkd.data.unseen import with_unseen as classification_with
from horkd.degradation import Degradation
from horkd.lab import runner
from horkd.lab.checkpoint import Control
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
    """Stands in for the loader of any data set."""
    return replace(data(), name=name)


def with_unseen(characters: int = 30, each: int = 4) -> Dataset:
    """The same with characters that no network is trained on."""
    unseen = render(CHARACTERS[10 : 10 + characters], each, 0, "unseen")
    return replace(data(), unseen=unseen, protocol=classification_with(unseen))


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


#: Saved after every epoch.
CONTROL = Control(save_every=0)


def run(config: RunConfig, folder, **control) -> Run:
    return runner.run(config, SETTINGS, folder, replace(CONTROL, **control))


def comparable(record: dict) -> dict:
    """All of a record but how long it took; the digests of the files stand for every weight."""
    cost = {name: value for name, value in record["cost"].items() if name != "latency_ms"}
    return {n: v for n, v in record.items() if n != "seconds"} | {"cost": cost}


def sources(stand_in=load) -> dict[str, Source]:
    """Every data set, read by `stand_in(name, per_class)`."""
    return {name: replace(source, load=stand_in) for name, source in DATASETS.items()}


def registered(stand_in=load):
    """A context in which every data set is read by `stand_in`."""
    return data_.registered(sources(stand_in))


def patch(monkeypatch: pytest.MonkeyPatch, stand_in=load) -> None:
    """The same for the duration of a test."""
    for name, source in sources(stand_in).items():
        monkeypatch.setitem(DATASETS, name, source)


def one_line(error: pytest.ExceptionInfo, longest: int = 2000) -> str:
    """What an error says, which has to be one line that can be read."""
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < longest
    return message


def copy_run(source: Path, target: Path, config: RunConfig) -> Path:
    """The folder of the same run under `target`."""
    return Path(shutil.copytree(source / config.name, target / config.name))


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file and folder below one: size and time of its last change."""
    paths = [folder, *folder.rglob("*")]
    return {str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns) for p in paths}


@contextmanager
def before(kind: type, act):
    """`act(module, inputs)` is called before each forward pass of a module of that kind."""

    def hook(module, inputs):
        if isinstance(module, kind):
            act(module, inputs)

    handle = register_module_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def after(kind: type, act):
    """`act(module, inputs, output)` after each forward pass may return another output."""

    def hook(module, inputs, output):
        return act(module, inputs, output) if isinstance(module, kind) else None

    handle = register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


class Stop:
    """Raises Ctrl-C when it is called for the n-th time."""

    def __init__(self, call: int) -> None:
        self.left = call

    def __call__(self, *_) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def nothing(name: str, per_class: int | None = None) -> Dataset:
    """Stands in where no data set may be read."""
    raise AssertionError(f"{name} is read")
