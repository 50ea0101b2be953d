"""Accuracy and agreement against loops, and what `predict` does and leaves alone."""

import math

import pytest
import tiny
import torch

from horkd.data import ImageSet
from horkd.degradation import Degradation
from horkd.errors import HorkdError
from horkd.machine import latency
from horkd.predict import predict
from horkd.protocols.classification import accuracy, agreement

HALF = Degradation(16)


def logits(n: int, classes: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, classes, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n", "classes"), [(40, 12), (7, 5), (9, 3), (1, 2)])
def test_accuracy_is_a_loops(n, classes):
    x, labels = logits(n, classes), torch.arange(n) * 7 % classes
    top1 = top5 = 0
    for row, label in zip(x.tolist(), labels.tolist(), strict=True):
        ranking = sorted(range(classes), key=lambda c: -row[c])
        top1 += ranking[0] == label
        top5 += label in ranking[:5]
    want = {"top1": 100 * top1 / n, "top5": 100 * top5 / n, "n": n}
    assert accuracy(x, labels) == pytest.approx(want)


def test_accuracy_with_fewer_than_five_classes():
    assert accuracy(logits(20, 4), torch.arange(20) % 4)["top5"] == 100


def test_agreement_is_a_loops():
    ours, theirs = logits(30, 6), logits(30, 6, seed=1).mul(2)
    same = divergence = 0.0
    for a, b in zip(ours.tolist(), theirs.tolist(), strict=True):
        same += a.index(max(a)) == b.index(max(b))
        q, p = ([math.exp(v) / sum(map(math.exp, row)) for v in row] for row in (a, b))
        divergence += sum(y * math.log(y / x) for x, y in zip(q, p, strict=True))
    want = {"same_answer": 100 * same / 30, "kl": divergence / 30}
    assert agreement(ours, theirs) == pytest.approx(want, rel=1e-5)


def test_agreement_with_itself():
    x = logits(10, 6)
    assert agreement(x, x) == pytest.approx({"same_answer": 100, "kl": 0}, abs=1e-12)
    assert agreement(x + 3, x)["kl"] == pytest.approx(0, abs=1e-9)  # a shift is no difference
    assert agreement(x, logits(10, 6, 1))["kl"] > 0
    assert agreement(x * 1e4, x)["kl"] < math.inf


@pytest.fixture
def network():
    """With statistics that make eval mode differ from training mode."""
    network = tiny.network("resnet8x0.5")
    network(torch.randn(8, 3, 16, 16) + 1)
    return network


def test_predictions_do_not_depend_on_the_batches(network):
    data = tiny.data()
    whole = predict(network, data.test.images, data, HALF)
    assert whole.features.shape == (30, 32)
    assert whole.logits.shape == (30, tiny.CLASSES)
    assert {whole.features.dtype, whole.logits.dtype} == {torch.float32}
    for batch_size in (1, 7, 30):
        parts = predict(network, data.test.images, data, HALF, batch_size)
        torch.testing.assert_close(parts.features, whole.features, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(parts.logits, whole.logits, atol=1e-5, rtol=1e-4)


def test_noise_is_the_same_every_time(network):
    data, noisy = tiny.data(), Degradation(16, noise=20)
    first, again = (predict(network, data.test.images, data, noisy).logits for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, predict(network, data.test.images, data, HALF).logits)


@pytest.mark.parametrize("training", [True, False])
def test_the_network_is_left_as_it_was(network, training):
    data = tiny.data()
    network.train(training)
    before = {n: t.clone() for n, t in network.state_dict().items()}
    data.protocol.score(network, data.test, data, HALF)
    latency(network, 8, repeats=3)
    assert network.training is training
    assert all(m.training is training for m in network.modules())
    assert all(torch.equal(t, before[n]) for n, t in network.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


def test_predictions_are_made_in_eval_mode(network):
    data = tiny.data()
    in_training = predict(network.train(), data.test.images, data, HALF).logits
    in_eval = predict(network.eval(), data.test.images, data, HALF).logits
    assert torch.equal(in_training, in_eval)


def test_the_mode_is_restored_also_after_an_error(network):
    data = tiny.data()
    network.train()
    with pytest.raises(HorkdError, match="above the source"):
        predict(network, data.test.images, data, Degradation(33))
    assert network.training


def test_a_score_is_the_accuracy_of_the_predictions(network):
    data = tiny.data()
    x = predict(network, data.test.images, data, HALF).logits
    assert data.protocol.score(network, data.test, data, HALF) == accuracy(x, data.test.labels)


def test_a_perfect_and_a_hopeless_network(network):
    """Labels taken from the network's own answers."""
    data = tiny.data()
    answers = predict(network, data.test.images, data, HALF).logits.argsort(1, descending=True)
    for rank, top1, top5 in ((0, 100, 100), (4, 0, 100), (5, 0, 0)):
        images = ImageSet(data.test.images, answers[:, rank].contiguous(), data.test.classes)
        found = data.protocol.score(network, images, data, HALF)
        assert found == {"top1": top1, "top5": top5, "n": 30}


def test_no_images(network):
    data = tiny.data()
    with pytest.raises(HorkdError, match="there are no images to predict"):
        predict(network, data.test.images[:0], data, HALF)


def test_latency_is_a_median_in_milliseconds(network):
    clock = iter(t for i in range(8) for t in (i, i + (0.5 if i < 3 else 0.001 * i)))
    # three to warm up, then 3, 4, 5, 6, 7 ms
    found = latency(network, 8, repeats=5, clock=lambda: next(clock))
    assert found == pytest.approx(5)
