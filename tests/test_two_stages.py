"""The method in one page: what it leaves alone, what it sees, and that the studies do the same."""

import copy
import doctest
import importlib
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import tiny
import torch

import horkd
from horkd import two_stages
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.lab import runner
from horkd.networks import Network
from horkd.preprocess import Channels
from horkd.two_stages import distil, statistics, transfer


def weights(network: Network) -> dict[str, torch.Tensor]:
    return {name: t.detach().clone() for name, t in network.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def three():
    """Teacher twice as wide as assistant and student."""
    return (
        tiny.network("resnet8x0.5", seed=1),
        tiny.network("resnet8x0.25", seed=2),
        tiny.network("resnet8x0.25", seed=3),
    )


def test_only_assistant_and_student_learn(three):
    teacher, assistant, student = three
    before = [weights(network) for network in three]
    first, second = transfer(
        *three, tiny.data().train, low=8, recipe=tiny.RECIPE, settings=tiny.SETTINGS
    )
    assert same(weights(teacher), before[0])
    assert not same(weights(assistant), before[1])
    assert not same(weights(student), before[2])
    for history in (first, second):
        assert [entry["epoch"] for entry in history] == [1, 2, 3]
        assert history[-1]["terms"]["loss"] < history[0]["terms"]["loss"]


@pytest.mark.parametrize(
    ("weights_", "size", "said"),
    [({}, 12, "no order has a weight, so that nothing is distilled"),
     ({"2": 0.0, "C": 0}, 12, "no order has a weight"),
     ({"4": 1.0}, 12, "unknown order '4': choose from 1, 2, 3, C"),
     ({"2": 25.0}, 2, "order 2 needs 3 images in a batch, with 2 it is always zero"),
     ({"3": 50.0, "C": 1.0}, 2, "order 3 needs 3 images in a batch"),
     (two_stages.WEIGHTS, 1, "order 2 needs 3 images in a batch, with 1 it is always zero")],
)  # fmt: skip
def test_losses_that_are_zero_whatever_is_said_are_refused(three, weights_, size, said):
    before = [weights(network) for network in three]
    recipe = replace(tiny.RECIPE, batch_size=size)
    for attempt in (
        lambda: transfer(*three, tiny.data().train, 8, weights=weights_, recipe=recipe),
        lambda: distil(
            *three[:2], tiny.data().train, Degradation(8), weights=weights_, recipe=recipe
        ),
    ):
        with pytest.raises(HorkdError, match=said) as error:
            attempt()
        tiny.one_line(error)
    assert all(same(weights(network), b) for network, b in zip(three, before, strict=True))


def test_stage_two_leaves_the_assistant_as_stage_one_made_it(three):
    teacher, assistant, student = three
    data = tiny.data().train
    plain = {"recipe": tiny.RECIPE, "settings": tiny.SETTINGS, "seed": 5}
    alone = copy.deepcopy(assistant)
    distil(teacher, alone, data, Degradation(data.size), **plain)
    transfer(teacher, assistant, student, data, low=8, **plain)
    assert same(weights(assistant), weights(alone))


def test_each_sees_its_own_version_of_the_same_crops(three):
    seen = {}

    def watch(name):
        def hook(module, inputs):
            seen.setdefault(name, set()).add(tuple(inputs[0].shape[-2:]))

        return hook

    for name, network in zip(("teacher", "assistant", "student"), three, strict=True):
        network.register_forward_pre_hook(watch(name))
    transfer(*three, tiny.data().train, low=8, recipe=tiny.RECIPE, settings=tiny.SETTINGS)
    assert seen == {"teacher": {(32, 32)}, "assistant": {(32, 32)}, "student": {(8, 8)}}


def test_it_is_what_the_studies_do(tmp_path):
    """A run of the laboratory from the same weights ends in the same weights, bit for bit."""
    with tiny.registered():
        config = tiny.student(
            model="resnet8x0.5",
            frozen=tiny.teacher(degradation=Degradation(32)),
            orders=(("2", 25.0), ("3", 50.0), ("C", 1.0)),
        )
        run = tiny.run(config, tmp_path)
        frozen = runner.run(config.frozen, tiny.SETTINGS, tmp_path).network()
    data = tiny.data()
    learner = tiny.network("resnet8x0.5", seed=config.seed)
    history = distil(
        frozen, learner, data.train, config.degradation, Channels(data.mean, data.std),
        dict(config.orders), config.recipe, data.flip, config.seed, tiny.SETTINGS,
    )  # fmt: skip
    assert same(weights(learner), weights(run.network()))
    theirs = [entry["terms"] for entry in run.record["history"]]
    assert [entry["terms"] for entry in history] == theirs


def test_the_same_seed_is_the_same_student(three):
    twice = []
    for _ in range(2):
        networks = [copy.deepcopy(network) for network in three]
        transfer(*networks, tiny.data().train, 8, recipe=tiny.RECIPE, settings=tiny.SETTINGS)
        twice.append(weights(networks[2]))
    assert same(*twice)


def test_a_learner_for_other_classes_is_one_line(three):
    teacher, _, _ = three
    other = tiny.network("resnet8x0.25", classes=3)
    with pytest.raises(HorkdError, match=r"3 classes, and the images are of 6: build it with"):
        distil(teacher, other, tiny.data().train, Degradation(8))


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64])
def test_a_bad_seed_is_one_line_before_anything_is_trained(three, seed):
    before = [weights(network) for network in three]
    with pytest.raises(HorkdError, match="a seed must be a whole number in 0 to 9223"):
        transfer(*three, tiny.data().train, 8, recipe=tiny.RECIPE, seed=seed)
    assert all(same(weights(n), b) for n, b in zip(three, before, strict=True))


def test_statistics_are_those_of_the_images():
    found = statistics(tiny.data().train)
    assert found.mean == pytest.approx(tiny.data().mean, abs=1e-6)
    assert found.std == pytest.approx(tiny.data().std, abs=1e-6)


def test_the_example_runs():
    found = doctest.testmod(two_stages)
    assert found.attempted
    assert not found.failed


def test_the_package_offers_a_dozen_names():
    assert len(horkd.__all__) in range(10, 16)
    for name in horkd.__all__:
        assert getattr(horkd, name).__module__.startswith("horkd.")
    assert set(horkd.__all__) <= set(dir(horkd))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        horkd.nothing  # noqa: B018


def test_the_map_names_what_is_there():
    """Every name and file of the docstring's table exists."""
    rows = re.findall(r"^\| .*? \| (.*?) \| (.*?) \|$", horkd.__doc__, re.MULTILINE)
    assert len(rows) > 10
    for names, where in rows[1:]:
        modules = [
            importlib.import_module(f"horkd.{name}") for name in re.findall(r"`(\w+)`", where)
        ]
        assert modules
        for name in re.findall(r"`(\w+)`", names):
            assert any(hasattr(module, name) for module in modules), name


def test_importing_is_fast():
    """Neither the package nor its losses bring in what only tables, figures and data need."""
    code = (
        "import sys, horkd; from horkd.losses import HybridOrderLoss; "
        "print(*(set(sys.modules) & {'pandas', 'sklearn', 'matplotlib', 'scipy', 'seaborn', "
        "'torchvision', 'gradio'}))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
    code = "import sys, horkd; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
