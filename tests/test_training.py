"""The training loop: one step against formulas, schedules, the frozen model, and that it learns."""

import copy
import math
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import oracles
import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import nn

from horkd.answers import Answers
from horkd.baselines import Baselines
from horkd.data import ImageSet, normalise
from horkd.data.glyphs import CHARACTERS, glyph_masks
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.losses import HybridOrderLoss, class_centers, order1, order2, order3, order_c
from horkd.machine import Settings, exact_matmul, seeded
from horkd.objectives import Frozen, Objective, Triplet
from horkd.predict import predict
from horkd.preprocess import Preprocess
from horkd.protocols.neighbours import nmi
from horkd.studies.presets import get_preset
from horkd.training import Recipe, State, batches_of, fit, new_state, train

ONE_STEP = Recipe(epochs=1, batch_size=12, learning_rate=0.1, schedule="step", crop=0)
WEIGHTS = {"1": 2.0, "2": 25.0, "3": 50.0, "C": 0.5}


def first(n: int):
    """Two images of each character: one batch without augmentation is the same set every time."""
    return tiny.data().train.select(torch.arange(n))


def frozen_model(name: str = "resnet8x0.5") -> Frozen:
    """Weights of chance, but with BatchNorm statistics of the data: features that differ."""
    network = tiny.network(name, seed=7)
    images = normalise(tiny.data().train.images, tiny.data().mean, tiny.data().std)
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
        network.train()(images)
        for norm in norms:
            norm.momentum = 0.1
    return Frozen(network)


def trained(objective: Objective, recipe: Recipe, **given) -> State:
    """The library's call, on the images of one batch and a few more."""
    return train(
        tiny.network(), objective, first(24), tiny.data(), Degradation(8), recipe, tiny.SETTINGS,
        flip=False, **given,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("objective", "recipe", "said"),
    [(lambda: Objective(1.0, HybridOrderLoss({"2": 1.0})), {"batch_size": 2}, "order 2 needs 3"),
     (lambda: Objective(0.0, HybridOrderLoss({"3": 1.0})), {"batch_size": 1}, "order 3 needs 3"),
     (lambda: Objective(1.0, None, Baselines({"pkt": 1.0})), {"batch_size": 2}, "pkt needs 3"),
     (lambda: Objective(1.0, head=Triplet()), {"batch_size": 4, "per_class": 4},
      "the triplet loss needs 5 images in a batch, with 4"),
     (lambda: Objective(0.0, HybridOrderLoss({"2": 0.0})), {}, "nothing to minimise: give")],
)  # fmt: skip
def test_a_term_that_would_be_zero_in_every_batch_is_refused_before_the_first_step(
    objective, recipe, said
):
    with pytest.raises(HorkdError, match=said) as error:
        trained(objective(), replace(ONE_STEP, **recipe), frozen=frozen_model())
    tiny.one_line(error)


def test_processes_that_share_a_batch_may_have_few_images_each():
    shared = Objective(1.0, HybridOrderLoss({"2": 1.0}, gather=True))
    shared.check_batches(1)
    with pytest.raises(HorkdError, match="order 2 needs 3 images"):
        Objective(1.0, HybridOrderLoss({"2": 1.0})).check_batches(1)


@pytest.mark.filterwarnings("ignore:triplet was zero in every step of the first epoch")
@pytest.mark.parametrize("margin", [-10.0, 0.2])
def test_triplets_that_were_never_found_taught_nothing(margin):
    """None violates a margin far below zero; without two images of a class there is none at all."""
    recipe = replace(ONE_STEP, epochs=2, learning_rate=0.01, batch_size=6)
    images = first(24)
    if margin > 0:
        images = replace(images, labels=torch.arange(24), classes=tuple(map(str, range(24))))
    with pytest.raises(HorkdError, match="triplet was zero in every step of all 2 epochs") as error:
        train(
            tiny.network(), Objective(1.0, head=Triplet(margin)), images, tiny.data(),
            Degradation(8), recipe, tiny.SETTINGS,
        )  # fmt: skip
    tiny.one_line(error)


@pytest.mark.filterwarnings("ignore:triplet was zero in every step of the first epoch")
def test_a_term_that_said_something_once_is_enough():
    """Of the four batches of an epoch one has three classes with two images each."""
    labels = torch.arange(24)
    labels[1] = 0
    images = replace(first(24), labels=labels, classes=tuple(map(str, range(24))))
    recipe = replace(ONE_STEP, epochs=8, learning_rate=0.01, batch_size=12)
    state = train(
        tiny.network(), Objective(1.0, head=Triplet()), images, tiny.data(), Degradation(8), recipe,
        tiny.SETTINGS,
    )  # fmt: skip
    silent = [entry["terms"]["triplet"] == 0 for entry in state.history]
    assert any(silent)
    assert not all(silent)


def test_a_term_that_says_nothing_is_named_after_the_first_epoch():
    """A run of days is not to find out at its end."""
    images = replace(first(24), labels=torch.arange(24), classes=tuple(map(str, range(24))))
    recipe = replace(ONE_STEP, epochs=3, learning_rate=0.01, batch_size=6)
    with pytest.warns(UserWarning, match="first epoch") as said, pytest.raises(HorkdError):
        train(
            tiny.network(), Objective(1.0, head=Triplet()), images, tiny.data(), Degradation(8),
            recipe, tiny.SETTINGS,
        )  # fmt: skip
    assert [str(one.message).split(":")[0] for one in said] == [
        "triplet was zero in every step of the first epoch"
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 1.5), ("epochs", "3"), ("batch_size", 2.0), ("views", True), ("crop", None)],
)
def test_counts_of_a_recipe_are_whole_numbers(field, value):
    with pytest.raises(HorkdError, match=f"{field} must be a whole number, got {value!r}"):
        Recipe(**{field: value})


def distillation(frozen: Frozen, weights=WEIGHTS, cross_entropy: float = 1.0) -> Objective:
    centers = torch.randn(tiny.CLASSES, frozen.network.width, generator=generator(3))
    with torch.random.fork_rng():
        torch.manual_seed(2)
        projector = nn.Linear(16, frozen.network.width)
    return Objective(cross_entropy, HybridOrderLoss(weights, centers, projector))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def task(
    recipe: Recipe, train=None, frozen=None, settings: Settings = tiny.SETTINGS, seed: int = 0
) -> dict:
    """What `fit` is told: crops, what both models see of them, and how to learn."""
    data, layout = tiny.data(), settings.memory_format
    answers = None
    if frozen is not None:
        see = Preprocess.of(frozen.network, data, Degradation(16), layout)
        answers = Answers(frozen, see, settings)
    return {
        "batches": batches_of(data.train if train is None else train, recipe, data.flip),
        "preprocess": Preprocess(Degradation(8), data.mean, data.std, layout),
        "recipe": recipe,
        "settings": settings,
        "seed": seed,
        "answers": answers,
    }


def state_for(objective: Objective, recipe: Recipe, seed: int = 0) -> State:
    return new_state(tiny.network(seed=seed), objective, recipe)


# What cannot be trained

HALF = (0.5, 0.5, 0.5)


def test_batches_of_one_image_are_one_line():
    recipe = Recipe(epochs=1, batch_size=1, crop=0)
    told = task(recipe) | {"preprocess": Preprocess(Degradation(4), HALF, HALF)}
    with pytest.raises(HorkdError, match=r"resnet8x0\.25 cannot be trained on one image") as error:
        fit(state_for(Objective(), recipe), **told)
    tiny.one_line(error)
    fit(state_for(Objective(), recipe), **task(recipe))  # at 8 pixels there is something left


BAD_SEEDS = (-1, 2**63, 2**64, 1.5, "0", None)


@pytest.mark.parametrize("seed", BAD_SEEDS)
def test_bad_seeds_are_one_line(seed):
    recipe = Recipe(epochs=1, batch_size=12)
    asked = (
        lambda: fit(state_for(Objective(), recipe), **task(recipe, seed=seed)),
        lambda: next(batches_of(tiny.data().train, recipe).epoch(seed)),
        lambda: seeded("cpu", seed).__enter__(),
        lambda: tiny.student(seed=seed),
        lambda: nmi(torch.randn(8, 3), torch.arange(8) % 2, seed),
    )
    for ask in asked:
        with pytest.raises(
            HorkdError, match=r"a seed must be a whole number in 0 to 9223"
        ) as error:
            ask()
        assert tiny.one_line(error).endswith(f"(2⁶³ - 1), got {seed!r}")


def test_the_largest_seeds_are_seeds_like_others():
    recipe = Recipe(epochs=2, batch_size=12)
    images = next(batches_of(tiny.data().train, recipe).epoch(2**63 - 1))[0]
    assert len(images) == 12
    assert 0 <= nmi(torch.randn(8, 3), torch.arange(8) % 2, 2**63 - 1) <= 100
    found = [
        fit(state_for(Objective(), recipe), **task(recipe, seed=seed)).history[-1]["terms"]["loss"]
        for seed in (2**63 - 1, 2**63 - 1, 2**62)
    ]
    assert found[0] == found[1] != found[2]


# One step, by formulas


def test_one_step_is_nesterovs():
    """p ← p − lr·(d + m·d) with d = gradient + weight decay·p, in the first step."""
    images = first(12)
    state = state_for(Objective(), ONE_STEP)
    twin = copy.deepcopy(state.network).train()
    fit(state, **task(ONE_STEP, images))
    x = normalise(Degradation(8)(images.images), tiny.data().mean, tiny.data().std)
    loss = F.cross_entropy(twin(x).logits, images.labels)
    loss.backward()
    assert state.history[0]["terms"] == pytest.approx(
        {"loss": loss.item(), "cross_entropy": loss.item()}, rel=1e-5
    )
    for name, p in twin.named_parameters():
        d = p.grad + ONE_STEP.weight_decay * p.detach()
        want = p.detach() - 0.1 * (1 + ONE_STEP.momentum) * d
        torch.testing.assert_close(dict(state.network.named_parameters())[name], want)
    for name, b in twin.named_buffers():  # BatchNorm has seen the batch once
        torch.testing.assert_close(dict(state.network.named_buffers())[name], b)


@pytest.fixture(scope="module")
def distilled():
    """One step with every order, and the features that both models had in it."""
    images, frozen = first(12), frozen_model()
    objective = distillation(frozen)
    state = state_for(objective, ONE_STEP)
    learner, projector = copy.deepcopy((state.network, objective.relational.projector))
    fit(state, **task(ONE_STEP, images, frozen))
    sees = {
        size: normalise(Degradation(size)(images.images), tiny.data().mean, tiny.data().std)
        for size in (8, 16)
    }
    out = learner.train()(sees[8])
    with torch.no_grad():
        f = frozen.network.eval()(sees[16]).features
    return state.history[0], f, out, projector, objective.relational.centers, images.labels


def test_logged_terms_are_the_equations(distilled):
    entry, f, out, projector, centers, labels = distilled
    with torch.no_grad():
        f, g = f.double().numpy(), out.features.double().numpy()
        h = projector(out.features).double().numpy()
    logits = out.logits.detach().double().numpy()
    own = logits[np.arange(12), labels.numpy()]
    want = {
        "cross_entropy": np.mean(np.log(np.exp(logits).sum(1)) - own),
        "order1": np.mean(np.abs(f - h)),
        "order2": oracles.order2(f, g, "mean"),
        "order3": oracles.order3(f, g, "mean"),
        "order_c": oracles.order_c(f, h, centers.double().numpy(), "mean", normalize=True),
    }
    terms = {name: value for name, value in entry["terms"].items() if name != "loss"}
    assert terms == pytest.approx(want, rel=1e-3)
    weights = {"cross_entropy": 1, "order1": 2, "order2": 25, "order3": 50, "order_c": 0.5}
    assert entry["terms"]["loss"] == pytest.approx(sum(weights[n] * terms[n] for n in want))


def test_gradient_shares_are_autograds(distilled):
    entry, f, out, projector, centers, labels = distilled
    leaf = out.features.detach().requires_grad_()
    logits = out.logits.detach() + 0 * leaf.sum()  # replaced below
    weights = {"1": 2.0, "2": 25.0, "3": 50.0, "C": 0.5}
    norms = {}
    for name, term in {
        "order1": lambda g: weights["1"] * order1(f, projector(g)),
        "order2": lambda g: weights["2"] * order2(f, g),
        "order3": lambda g: weights["3"] * order3(f, g),
        "order_c": lambda g: weights["C"] * order_c(f, projector(g), centers, normalize=True),
    }.items():
        (gradient,) = torch.autograd.grad(term(leaf), leaf)
        norms[name] = gradient.norm().item()
    # cross-entropy: (softmax − one-hot)/N through the classifier
    classifier = tiny.network().classifier.weight.detach()
    error = logits.detach().softmax(1) - F.one_hot(labels, tiny.CLASSES)
    norms["cross_entropy"] = (error @ classifier / 12).norm().item()
    whole = sum(norms.values())
    assert entry["gradient_shares"] == pytest.approx(
        {name: norm / whole for name, norm in norms.items()}, rel=1e-3
    )
    assert sum(entry["gradient_shares"].values()) == pytest.approx(1)
    assert all(share > 0 for share in entry["gradient_shares"].values())


def test_the_log_is_the_mean_over_the_epochs_steps():
    seen = []
    objective = Objective()
    objective.register_forward_hook(lambda module, inputs, terms: seen.append(terms["loss"].item()))
    state = fit(state_for(objective, tiny.RECIPE), **task(tiny.RECIPE))
    assert len(seen) == 12
    logged = [entry["terms"]["loss"] for entry in state.history]
    assert logged == pytest.approx([np.mean(seen[i : i + 4]) for i in (0, 4, 8)])
    assert [entry["epoch"] for entry in state.history] == [1, 2, 3]
    assert [entry["gradient_shares"] for entry in state.history] == [{"cross_entropy": 1.0}] * 3


def test_clipping_limits_the_step():
    plain = replace(ONE_STEP, momentum=0.0, weight_decay=0.0)

    def step_length(recipe: Recipe) -> float:
        state = state_for(Objective(), recipe)
        before = copy.deepcopy(list(state.network.parameters()))
        fit(state, **task(recipe, first(12)))
        pairs = zip(state.network.parameters(), before, strict=True)
        return math.sqrt(sum((p - q).square().sum().item() for p, q in pairs))

    free = step_length(plain)
    assert step_length(replace(plain, clip=1e6)) == free
    assert step_length(replace(plain, clip=0.01)) == pytest.approx(0.1 * 0.01, rel=1e-3)
    assert free > 0.002


# Schedules


def test_step_schedule():
    recipe = Recipe(200, 128, 0.1, "step", (60, 120, 160), 0.2)
    rates = {0: 0.1, 60 * 391 - 1: 0.1, 60 * 391: 0.02, 120 * 391: 0.004, 160 * 391: 0.0008}
    rates[200 * 391 - 1] = 0.0008
    assert {s: recipe.rate(s, 391) for s in rates} == pytest.approx(rates)


def test_cosine_schedule():
    recipe = Recipe(2, 128, 0.4, "cosine")
    want = [0.2 * (1 + math.cos(math.pi * d)) for d in (0.125, 0.375, 0.625, 0.875)]
    assert [recipe.rate(s, 2) for s in range(4)] == pytest.approx(want)
    assert want[0] == pytest.approx(0.38478, rel=1e-4)


def test_one_cycle_schedule():
    rates = [Recipe(4, 128, 0.6, "one-cycle").rate(s, 2) for s in range(8)]
    # done: 1/16, 3/16, then down a line from 1 at 1/4 to 0 at 1
    assert rates == pytest.approx([0.15, 0.45, 0.55, 0.45, 0.35, 0.25, 0.15, 0.05])


@pytest.mark.parametrize("schedule", ["step", "cosine", "one-cycle"])
def test_the_optimiser_follows_the_schedule(schedule):
    recipe = replace(tiny.RECIPE, schedule=schedule, milestones=(1, 2))
    state, used = state_for(Objective(), recipe), []
    state.optimizer.register_step_pre_hook(
        lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"])
    )
    fit(state, **task(recipe))
    assert used == [recipe.rate(s, 4) for s in range(12)]
    assert [entry["learning_rate"] for entry in state.history] == used[3::4]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"schedule": "linear"}, "unknown schedule 'linear': choose from step, cosine, one-cycle"),
        ({"epochs": 0}, "must be positive"),
        ({"batch_size": 0}, "must be positive"),
        ({"learning_rate": 0.0}, "must be positive"),
        ({"learning_rate": float("nan")}, "must be positive"),
    ],
)
def test_bad_recipes(arguments, complaint):
    with pytest.raises(HorkdError, match=complaint):
        Recipe(**arguments)


# The frozen model and the projector


def test_the_frozen_model_only_looks():
    frozen = frozen_model()
    before = {n: t.clone() for n, t in frozen.state_dict().items()}
    assert any("running_mean" in n for n in before)
    whole = nn.ModuleList([frozen, Objective()]).train()
    assert whole.training
    assert not any(m.training for m in frozen.modules())
    frozen.train(True)
    assert not any(m.training for m in frozen.modules())
    state = state_for(distillation(frozen), tiny.RECIPE)
    fit(state, **task(tiny.RECIPE, frozen=frozen))
    assert not any(m.training for m in frozen.modules())
    assert all(torch.equal(t, before[n]) for n, t in frozen.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in frozen.parameters())
    optimised = {id(p) for group in state.optimizer.param_groups for p in group["params"]}
    assert not optimised & {id(p) for p in frozen.parameters()}


def test_the_frozen_model_sees_its_own_resolution():
    frozen, sizes = frozen_model(), []
    frozen.network.register_forward_pre_hook(lambda m, inputs: sizes.append(inputs[0].shape[-1]))
    state = state_for(distillation(frozen), ONE_STEP)
    state.network.register_forward_pre_hook(lambda m, inputs: sizes.append(inputs[0].shape[-1]))
    fit(state, **task(ONE_STEP, first(12), frozen))
    assert sizes == [16, 8]


def test_the_projector_is_trained_and_is_not_the_networks():
    frozen = frozen_model()
    objective = distillation(frozen)
    projector = objective.relational.projector
    state = state_for(objective, tiny.RECIPE)
    optimised = {id(p) for group in state.optimizer.param_groups for p in group["params"]}
    assert {id(p) for p in projector.parameters()} <= optimised
    assert {id(p) for p in state.network.parameters()} <= optimised
    before, centers = projector.weight.detach().clone(), objective.relational.centers.clone()
    fit(state, **task(tiny.RECIPE, frozen=frozen))
    assert (projector.weight - before).abs().max() > 1e-3
    assert torch.equal(objective.relational.centers, centers)
    assert not any("projector" in name for name in state.network.state_dict())


def test_a_frozen_model_gets_no_gradient_from_any_term():
    frozen = frozen_model()
    frozen.requires_grad_(True)  # even then
    state = state_for(distillation(frozen), ONE_STEP)
    fit(state, **task(ONE_STEP, first(12), frozen))
    assert all(p.grad is None for p in frozen.parameters())


# The best epoch


def test_the_best_epoch_is_the_first_of_the_best_and_the_last_stays():
    recipe = replace(tiny.RECIPE, epochs=6)
    state, weights = state_for(Objective(), recipe), []

    def keep(state: State) -> None:
        weights.append({n: t.clone() for n, t in state.network.state_dict().items()})

    data, validation = tiny.data(), tiny.data().validation

    def score(network):
        return data.protocol.score(network, validation, data, Degradation(8))

    fit(state, **task(recipe), score=score, after_epoch=keep)
    top1 = [entry["validation"]["top1"] for entry in state.history]
    assert state.best_epoch == 1 + top1.index(max(top1))
    best = weights[state.best_epoch - 1]
    assert all(torch.equal(t, best[n]) for n, t in state.best.items())
    last = state.network.state_dict()
    assert all(torch.equal(t, last[n]) for n, t in weights[-1].items())
    network = tiny.network()
    network.load_state_dict(state.best)
    found = tiny.data().protocol.score(network, validation, tiny.data(), Degradation(8))
    assert found == state.history[state.best_epoch - 1]["validation"]


def test_without_validation_there_is_no_best_epoch():
    state = fit(state_for(Objective(), ONE_STEP), **task(ONE_STEP))
    assert (state.best, state.best_epoch) == (None, 0)
    assert "validation" not in state.history[0]


# Learning


def test_a_diverging_loss_is_one_clear_line():
    recipe = replace(tiny.RECIPE, learning_rate=1e18)
    with pytest.raises(
        HorkdError, match=r"the loss is not finite in epoch \d.*lower the"
    ) as caught:
        fit(state_for(Objective(), recipe), **task(recipe))
    assert "\n" not in str(caught.value)


def plain_characters(faces: list[int]) -> ImageSet:
    """Twenty characters without clutter, in some of the twelve faces, at 16 pixels."""
    masks = glyph_masks()[faces, :20].reshape(-1, 1, 64, 64).expand(-1, 3, -1, -1)
    labels = torch.arange(20).repeat(len(faces))
    return ImageSet(Degradation(16)(masks), labels, CHARACTERS[:20])


def test_a_tiny_network_learns_to_read():
    """From nine faces at 8 pixels, tested on the three others; chance is 5 %."""
    train, test = plain_characters([0, 1, 3, 4, 5, 7, 8, 9, 11]), plain_characters([2, 6, 10])
    data = replace(tiny.data(), train=train, test=test)
    recipe = Recipe(epochs=10, batch_size=20, learning_rate=0.1, crop=1)
    state = new_state(tiny.network("resnet8x0.5", classes=20), Objective(), recipe)
    fit(state, **task(recipe, train))
    losses = [entry["terms"]["loss"] for entry in state.history]
    assert losses[-1] < 0.3 * losses[0]
    assert data.protocol.score(state.network, test, data, Degradation(8))["top1"] > 75


def relations_gap(network, frozen) -> float:
    data = tiny.data()
    g = predict(network, data.train.images, data, Degradation(8)).features
    f = predict(frozen.network, data.train.images, data, Degradation(16)).features
    return order2(f, g).item()


def test_a_learner_of_distances_takes_on_the_frozen_models_distances():
    frozen = frozen_model()
    recipe = Recipe(epochs=12, batch_size=12, learning_rate=0.02, crop=0)
    objective = Objective(0.0, HybridOrderLoss({"2": 25.0}))
    state = state_for(objective, recipe)
    start = relations_gap(state.network, frozen)
    fit(state, **task(recipe, frozen=frozen))
    logged = [entry["terms"]["order2"] for entry in state.history]
    assert set(state.history[0]["terms"]) == {"loss", "order2"}
    assert logged[-1] < 0.5 * logged[0]
    assert relations_gap(state.network, frozen) < 0.7 * start


@pytest.mark.parametrize("order", ["1", "3", "C"])
def test_every_other_order_can_be_learnt_alone(order):
    frozen = frozen_model()
    recipe = Recipe(epochs=8, batch_size=12, learning_rate=0.02, crop=0)
    objective = distillation(frozen, {order: 10.0}, cross_entropy=0.0)
    state = fit(state_for(objective, recipe), **task(recipe, frozen=frozen))
    (name,) = set(state.history[0]["terms"]) - {"loss"}
    assert state.history[-1]["terms"][name] < 0.8 * state.history[0]["terms"][name]


# Settings


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        (Settings("tpu9000"), "cannot use device 'tpu9000'"),
        (Settings("cpu", "fp8"), "'fp8': choose from auto, fp32, bf16"),
        (Settings("cpu", compile="maybe"), "compile is 'maybe': choose from auto, on, off"),
        (Settings("cpu", channels_last=True), "channels_last is True: choose from auto, on, off"),
    ],
)
def test_bad_settings(settings, complaint):
    with pytest.raises(HorkdError, match=complaint) as caught:
        settings.resolve(tiny.network())
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_where_there_is_none():
    with pytest.raises(HorkdError, match="cannot use device 'cuda'"):
        Settings("cuda").resolve(tiny.network())


def test_auto_is_resolved_without_touching_random_numbers_or_the_network():
    network = tiny.network()
    before = copy.deepcopy(network.state_dict())
    state = torch.get_rng_state()
    settings = Settings(progress=False).resolve(network)
    assert torch.equal(torch.get_rng_state(), state)
    assert settings.precision == ("bf16" if torch.cuda.is_available() else "fp32")
    assert {settings.compile, settings.channels_last} <= {"on", "off"}
    assert settings.device == ("cuda" if torch.cuda.is_available() else "cpu")
    assert settings.resolve(network) == settings
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())


@pytest.mark.parametrize("native", [True, False])
def test_on_a_cpu_precision_is_decided_not_timed(monkeypatch, native):
    """A stopwatch chose it once, and one key gave different results."""
    monkeypatch.setattr("horkd.studies.preset.has_bf16", lambda device: native)
    quick, short = get_preset("quick"), get_preset("paper-short")
    cpu = Settings("cpu")
    assert cpu.resolve(tiny.network()).precision == "fp32"
    assert quick.settings(cpu).resolve(tiny.network()).precision == "fp32"
    with nullcontext() if native else pytest.warns(UserWarning, match="not to be compared"):
        assert short.settings(cpu).precision == ("bf16" if native else "fp32")
    for asked in ("fp32", "bf16"):  # the user has the last word
        user = replace(cpu, precision=asked)
        assert quick.settings(user) == short.settings(user) == user
    assert short.settings(Settings("cuda")) == Settings("cuda")


def final_loss(settings: Settings) -> float:
    frozen = Frozen(settings.place(frozen_model().network))
    state = state_for(distillation(frozen), ONE_STEP)
    settings.place(state.network)
    fit(state, **task(ONE_STEP, first(12), frozen, settings))
    return state.history[0]["terms"]["loss"]


def test_precision_and_memory_format_change_only_the_rounding():
    reference = final_loss(tiny.SETTINGS)
    assert final_loss(replace(tiny.SETTINGS, channels_last="off")) == pytest.approx(
        reference, rel=1e-4
    )
    bf16 = final_loss(replace(tiny.SETTINGS, precision="bf16"))
    assert bf16 == pytest.approx(reference, rel=0.05)
    assert bf16 != reference


def test_the_same_seed_trains_the_same_network():
    def train(seed: int) -> State:
        return fit(state_for(Objective(), ONE_STEP), **task(ONE_STEP, seed=seed))

    a, b, c = (train(seed) for seed in (0, 0, 1))
    assert a.history == b.history
    assert a.history != c.history


def test_train_is_fit_from_the_beginning_to_the_end():
    frozen, data = frozen_model(), tiny.data()
    fitted = fit(state_for(distillation(frozen), tiny.RECIPE), **task(tiny.RECIPE, frozen=frozen))
    trained = train(
        tiny.network(), distillation(frozen), data.train, data, Degradation(8), tiny.RECIPE,
        tiny.SETTINGS, flip=data.flip, frozen=frozen, frozen_degradation=Degradation(16),
    )  # fmt: skip
    for mine, theirs in zip(trained.history, fitted.history, strict=True):
        assert mine["terms"] == pytest.approx(theirs["terms"], rel=1e-3)


def test_matrix_products_are_exact_while_training_only():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with exact_matmul():
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_centres_are_those_of_the_frozen_model():
    """In eval mode: predictions of one image don't depend on its batch."""
    data, frozen = tiny.data(), frozen_model()
    features = predict(frozen.network, data.train.images, data, Degradation(16)).features
    centers = class_centers(features, data.train.labels, tiny.CLASSES)
    alone = [
        predict(frozen.network, image[None], data, Degradation(16)).features[0]
        for image in data.train.images[data.train.labels == 2]
    ]
    torch.testing.assert_close(centers[2], torch.stack(alone).mean(0), atol=1e-5, rtol=1e-4)


# Progressive resolution


def test_stages_come_in_their_order_and_the_own_resolution_last():
    recipe = Recipe(epochs=6, progressive=((2, 8), (1, 12)))
    assert [recipe.pixels(epoch, 16) for epoch in range(6)] == [8, 8, 12, 16, 16, 16]
    assert [Recipe(epochs=2).pixels(epoch, 16) for epoch in range(2)] == [16, 16]


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        (((6, 8),), "take all of the 6 epochs"),
        (((2, 8), (9, 12)), "take all of the 6 epochs"),
        (((0, 8),), "all of them positive"),
        (((1, 0),), "all of them positive"),
    ],
)
def test_stages_that_leave_no_epoch_are_refused(stages, says):
    with pytest.raises(HorkdError, match=says):
        Recipe(epochs=6, progressive=stages)


def test_the_learner_is_shown_every_stage_and_the_frozen_model_the_whole_crops():
    recipe = replace(tiny.RECIPE, progressive=((1, 4), (1, 6)))
    frozen, sizes = frozen_model(), {"learner": [], "frozen": []}
    state = state_for(distillation(frozen), recipe)
    for name, module in (("learner", state.network), ("frozen", frozen.network)):
        module.register_forward_pre_hook(
            lambda module, inputs, name=name: sizes[name].append(inputs[0].shape[-1])
        )
    fit(state, **task(recipe, frozen=frozen))
    steps = len(sizes["learner"]) // 3
    assert sizes["learner"] == [4] * steps + [6] * steps + [8] * steps
    assert set(sizes["frozen"]) == {16}
    assert [entry["pixels"] for entry in state.history] == [4, 6, 8]


@pytest.mark.parametrize("crop", [0, 2])
def test_a_stage_is_the_degradation_of_the_full_crop(crop):
    recipe = replace(tiny.RECIPE, epochs=2, crop=crop, progressive=((1, 8),))
    one = task(recipe)
    seed = one["seed"] * 100_003
    crops, _ = next(one["batches"].epoch(seed, 0))
    want = normalise(Degradation(8)(crops), tiny.data().mean, tiny.data().std)
    found = []
    network = tiny.network()
    network.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0]))
    fit(new_state(network, Objective(), recipe), **one)
    assert torch.equal(found[0], want)
