"""What a learner minimises: weights, the ramp, and factors that balance the terms."""

import math

import pytest
import tiny
import torch
from oracles import draw
from torch import nn

from horkd.baselines import Baselines
from horkd.errors import HorkdError
from horkd.losses import HybridOrderLoss
from horkd.networks.network import Output
from horkd.objectives import Frozen, Objective

N, WIDTH = 6, 5


def labels() -> torch.Tensor:
    return torch.arange(N) % tiny.CLASSES


def frozen_output() -> Output:
    return Output(
        draw(N, 8, seed=1), draw(N, tiny.CLASSES, seed=2), (draw(N, 3, 4, 4, seed=3),) * 3
    )


def learner_output(scale: float = 1.0) -> Output:
    """Maps come before features, features before logits: as in a network."""
    maps = draw(N, WIDTH, 2, 2, seed=4).requires_grad_()
    features = scale * maps.mean((2, 3))
    return Output(features, features @ draw(WIDTH, tiny.CLASSES, seed=5), (maps,) * 3)


def objective(balance: bool = False, cross_entropy: float = 0.5, **baselines: float) -> Objective:
    relational = HybridOrderLoss({"2": 25.0, "3": 50.0})
    baselines = Baselines(baselines or {"kd": 0.9, "kd_standardised": 2.0})
    return Objective(cross_entropy, relational, baselines, balance)


def oracle_cross_entropy(logits: torch.Tensor) -> float:
    total = 0.0
    for row, label in zip(logits.tolist(), labels().tolist(), strict=True):
        total += math.log(sum(math.exp(z) for z in row)) - row[label]
    return total / len(logits)


def oracle_norm(term: torch.Tensor, features: torch.Tensor) -> float:
    (gradient,) = torch.autograd.grad(term, features, retain_graph=True)
    return math.sqrt(sum(value**2 for row in gradient.tolist() for value in row))


# The sum


def test_terms_of_all_three_kinds_and_their_weighted_sum():
    made = objective()
    learner = learner_output()
    terms = made(learner, labels(), frozen_output())
    names = ["cross_entropy", "order2", "order3", "kd", "kd_standardised"]
    assert list(terms) == ["loss", *names]
    assert list(made.weights) == names
    assert made.distilled == names[1:]
    weights = dict(zip(names, (0.5, 25.0, 50.0, 0.9, 2.0), strict=True))
    assert made.weights == weights
    whole = sum(weights[name] * terms[name].item() for name in names)
    assert terms["loss"].item() == pytest.approx(whole, rel=1e-6)
    expected = oracle_cross_entropy(learner.logits)
    assert terms["cross_entropy"].item() == pytest.approx(expected, rel=1e-5)
    assert all(term.dtype == torch.float32 and term.shape == () for term in terms.values())


def test_each_part_may_be_left_out():
    learner, frozen = learner_output(), frozen_output()
    assert list(Objective()(learner, labels(), None)) == ["loss", "cross_entropy"]
    assert Objective().distilled == []
    alone = Objective(0.0, None, Baselines({"kd": 3.0}))
    terms = alone(learner, labels(), frozen)
    assert list(terms) == ["loss", "kd"]
    assert terms["loss"].item() == pytest.approx(3 * terms["kd"].item())
    assert list(Objective(1.0, None, Baselines({}))(learner, labels(), frozen)) == [
        *("loss", "cross_entropy")
    ]


@pytest.mark.parametrize(
    ("weights", "needed"),
    [({"kd": 1.0}, False), ({"at": 1.0}, True), ({"fitnet": 1.0, "kd": 1.0}, True),
     ({"at": 0.0}, False)],
)  # fmt: skip
def test_maps_are_needed_by_losses_on_maps_only(weights, needed):
    assert Objective(1.0, None, Baselines(weights)).needs_maps is needed
    assert not Objective(1.0, HybridOrderLoss({"2": 1.0})).needs_maps
    assert not Objective().needs_maps


@pytest.mark.parametrize("ramp", [0.0, 0.25, 1.0])
def test_the_ramp_weighs_every_distillation_term_and_not_the_cross_entropy(ramp):
    made = objective()
    full = made(learner_output(), labels(), frozen_output())
    terms = made(learner_output(), labels(), frozen_output(), ramp)
    for name in made.weights:
        assert torch.equal(terms[name], full[name])  # the record shows the terms themselves
    own = 0.5 * full["cross_entropy"].item()
    rest = full["loss"].item() - own
    assert terms["loss"].item() == pytest.approx(own + ramp * rest, rel=1e-5)


def test_no_gradient_reaches_the_frozen_model():
    frozen, learner = Frozen(tiny.network("resnet8x0.5")), tiny.network()
    frozen.network.requires_grad_(True)  # even so
    baselines = Baselines({"kd": 1.0, "fitnet": 1.0, "at": 1.0}, regressor=nn.Conv2d(8, 16, 1))
    made = Objective(1.0, HybridOrderLoss({"2": 1.0}), baselines)
    x = draw(N, 3, 16, 16)
    terms = made(learner(x, True), labels(), frozen.network(x, True))
    terms["loss"].backward()
    assert all(p.grad is None for p in frozen.network.parameters())
    assert all(p.grad is not None for p in learner.parameters())
    assert all(p.grad is not None for p in baselines.regressor.parameters())


def test_the_regressor_is_among_what_is_trained_and_saved():
    made = Objective(1.0, None, Baselines({"fitnet": 1.0}, regressor=nn.Conv2d(2, 3, 1)))
    assert list(made.state_dict()) == ["baselines.regressor.weight", "baselines.regressor.bias"]
    assert len(list(made.parameters())) == 2


# Gradients at the features


def test_gradient_norms_equal_autograd_term_by_term():
    made, learner = objective(), learner_output()
    terms = made(learner, labels(), frozen_output())
    norms = made.rebalance(terms, learner.features)
    assert list(norms) == list(made.weights)
    for name, weight in made.weights.items():
        expected = weight * oracle_norm(terms[name], learner.features)
        assert norms[name].item() == pytest.approx(expected, rel=1e-5), name
    terms["loss"].backward()  # the graph is still there


def test_gradient_norms_do_not_see_the_ramp():
    made, learner = objective(), learner_output()
    full = made.rebalance(made(learner, labels(), frozen_output()), learner.features)
    early = made.rebalance(made(learner, labels(), frozen_output(), 0.1), learner.features)
    assert {n: v.item() for n, v in full.items()} == {n: v.item() for n, v in early.items()}


def test_a_loss_on_maps_counts_as_zero_at_the_features():
    made, learner = objective(at=1000.0, kd=1.0), learner_output()
    norms = made.rebalance(made(learner, labels(), frozen_output()), learner.features)
    assert norms["at"] == 0
    assert norms["kd"] > 0


def test_without_balance_rebalancing_only_measures():
    made, learner = objective(), learner_output()
    terms = made(learner, labels(), frozen_output())
    norms = made.rebalance(terms, learner.features)
    again = made.rebalance(terms, learner.features)
    assert {n: v.item() for n, v in norms.items()} == {n: v.item() for n, v in again.items()}
    assert not made.state_dict()


# Balance


#: The terms that `balance` is about; the others keep their weights.
BALANCED = "order2", "order3"
NOT_BALANCED = {"kd": 0.9, "kd_standardised": 2.0}


def factors_of(made: Objective) -> dict[str, float]:
    """What the weight of each distilled term is multiplied by."""
    found = {name: made.get_buffer(f"factor_{name}").item() for name in BALANCED}
    return found | dict.fromkeys(NOT_BALANCED, 1.0)


def test_before_the_first_measurement_the_orders_count_nothing():
    made = objective(balance=True)
    learner = learner_output()
    terms = made(learner, labels(), frozen_output())
    assert terms["order2"] > 0
    others = sum(weight * terms[name].item() for name, weight in NOT_BALANCED.items())
    expected = 0.5 * terms["cross_entropy"].item() + others
    assert terms["loss"].item() == pytest.approx(expected)


def test_after_a_measurement_weights_are_multiples_of_the_cross_entropys_gradient():
    made, learner = objective(balance=True), learner_output()
    terms = made(learner, labels(), frozen_output())
    norms = made.rebalance(terms, learner.features)
    own = 0.5 * oracle_norm(terms["cross_entropy"], learner.features)
    assert norms["cross_entropy"].item() == pytest.approx(own, rel=1e-5)
    for name in BALANCED:
        assert norms[name].item() == pytest.approx(made.weights[name] * own, rel=1e-5), name
    for name, weight in NOT_BALANCED.items():
        expected = weight * oracle_norm(terms[name], learner.features)
        assert norms[name].item() == pytest.approx(expected, rel=1e-5), name
    # and these are the gradients that the next loss has
    terms = made(learner, labels(), frozen_output())
    factors = factors_of(made)
    for name in BALANCED:
        expected = factors[name] * made.weights[name] * oracle_norm(terms[name], learner.features)
        assert expected == pytest.approx(made.weights[name] * own, rel=1e-5), name
    weighted = {
        name: made.weights[name] * factors[name] * terms[name].item() for name in made.distilled
    }
    whole = 0.5 * terms["cross_entropy"].item() + sum(weighted.values())
    assert terms["loss"].item() == pytest.approx(whole, rel=1e-5)


def test_the_ramp_also_weighs_balanced_terms():
    made, learner = objective(balance=True), learner_output()
    made.rebalance(made(learner, labels(), frozen_output()), learner.features)
    full = made(learner, labels(), frozen_output())
    half = made(learner, labels(), frozen_output(), 0.5)
    own = 0.5 * full["cross_entropy"].item()
    expected = own + (full["loss"].item() - own) / 2
    assert half["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_later_measurements_move_factors_half_of_the_way():
    made = objective(balance=True)

    def measure(scale: float) -> dict[str, float]:
        learner = learner_output(scale)
        terms = made(learner, labels(), frozen_output())
        made.rebalance(terms, learner.features)
        own = 0.5 * oracle_norm(terms["cross_entropy"], learner.features)
        return {n: own / oracle_norm(terms[n], learner.features) for n in BALANCED}

    expected = measure(1.0)
    for scale in (3.0, 0.3):
        now = measure(scale)
        expected = {name: (expected[name] + now[name]) / 2 for name in now}
        for name, value in expected.items():
            factor = made.get_buffer(f"factor_{name}").item()
            assert factor == pytest.approx(value, rel=1e-4), name


def test_the_scale_of_a_balanced_term_does_not_matter():
    """Sums and means of the same loss end at the same gradient."""
    found = []
    for reduction in ("mean", "sum"):
        made = Objective(1.0, HybridOrderLoss({"2": 0.3}, reduction=reduction), balance=True)
        learner = learner_output()
        norms = made.rebalance(made(learner, labels(), frozen_output()), learner.features)
        found.append(norms["order2"].item())
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_factors_are_saved_and_are_not_trained():
    made, learner = objective(balance=True), learner_output()
    made.rebalance(made(learner, labels(), frozen_output()), learner.features)
    assert set(made.state_dict()) == {f"factor_{name}" for name in BALANCED}
    assert not list(made.parameters())
    other = objective(balance=True)
    other.load_state_dict(made.state_dict())
    mine = made(learner, labels(), frozen_output())["loss"]
    assert torch.equal(other(learner, labels(), frozen_output())["loss"], mine)


def test_factors_take_no_part_in_the_gradient():
    made, learner = objective(balance=True), learner_output()
    made.rebalance(made(learner, labels(), frozen_output()), learner.features)
    terms = made(learner, labels(), frozen_output())
    terms["loss"].backward()
    assert all(b.grad is None and not b.requires_grad for b in made.buffers())


def test_a_balanced_step_may_still_be_taken_after_measuring():
    """Factors change in place between loss and backward: the loss keeps those it was made of."""
    made, learner = objective(balance=True), learner_output()
    made.rebalance(made(learner, labels(), frozen_output()), learner.features)
    learner = learner_output(2.0)
    terms = made(learner, labels(), frozen_output())
    before = factors_of(made)
    expected = torch.autograd.grad(
        0.5 * terms["cross_entropy"]
        + sum(made.weights[n] * before[n] * terms[n] for n in made.distilled),
        learner.maps[0],
        retain_graph=True,
    )[0]
    made.rebalance(terms, learner.features)
    terms["loss"].backward()
    torch.testing.assert_close(learner.maps[0].grad, expected)


def test_a_term_without_gradient_is_not_blown_up_by_balance():
    """Equal relations, as at the first step of a learner that starts from the frozen weights."""
    learner = learner_output()
    same = Output(learner.features.detach(), learner.logits.detach())
    made = Objective(1.0, HybridOrderLoss({"2": 1.0}), balance=True)
    made.rebalance(made(learner, labels(), same), learner.features)
    assert made.get_buffer("factor_order2") < 1e6


def test_losses_on_maps_go_with_balanced_orders():
    made = Objective(1.0, HybridOrderLoss({"2": 1.0}), Baselines({"at": 1.0}), balance=True)
    assert set(made.state_dict()) == {"factor_order2"}


def test_balance_needs_a_cross_entropy():
    with pytest.raises(HorkdError, match="balance needs a cross-entropy") as caught:
        objective(balance=True, cross_entropy=0.0)
    assert "\n" not in str(caught.value)
    assert Objective(1.0, balance=True).state_dict() == {}
