"""Relations over the batches of two processes against one process with the whole batch."""

import os
import sys

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from horkd.errors import HorkdError
from horkd.fast.distributed import gather
from horkd.losses import HybridOrderLoss

WEIGHTS = {"1": 0.5, "2": 25.0, "3": 50.0, "C": 1.5}
pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch has no gloo"
)


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, frozen features, centres: the same in every process."""
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((10, 4), (10, 6), (3, 6))
    )


class Learner(nn.Module):
    """A network and its loss in one module, so that DDP averages the projector's gradients too."""

    def __init__(self, centers: torch.Tensor, gather: bool) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 5)).double()
        self.loss = HybridOrderLoss(WEIGHTS, centers, nn.Linear(5, 6).double(), gather=gather)

    def forward(self, x: torch.Tensor, frozen: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.loss(frozen, self.network(x))


def step(learner: nn.Module, x: torch.Tensor, frozen: torch.Tensor) -> tuple[dict, dict]:
    terms = learner(x, frozen)
    terms["loss"].backward()
    inner = getattr(learner, "module", learner)
    gradients = {name: p.grad.clone() for name, p in inner.named_parameters()}
    return {name: value.detach() for name, value in terms.items()}, gradients


def process(rank: int, rendezvous: str, sizes: list[int], out: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=len(sizes))
    x, frozen, centers = batch()
    own = slice(sum(sizes[:rank]), sum(sizes[: rank + 1]))
    for together in (True, False):
        learner = DistributedDataParallel(Learner(centers, together))
        terms, gradients = step(learner, x[own], frozen[own])
        torch.save((terms, gradients), f"{out}/{rank}-{together}.pt")
    rows = x[own].clone().requires_grad_()
    whole = gather(rows)
    ((rank + 1) * (whole**2).sum()).backward()
    torch.save((whole.detach(), rows.grad), f"{out}/{rank}-rows.pt")
    try:
        torch.autograd.grad((gather(rows) ** 3).sum(), rows, create_graph=True)
        refused = ""
    except HorkdError as error:
        refused = str(error)
    nothing = gather(rows[:0] if rank else rows.bfloat16()[:2].double())  # one batch is empty
    torch.save((refused, nothing.detach()), f"{out}/{rank}-edges.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module", params=[[5, 5], [7, 3]], ids=["halves", "uneven"])
def results(request, tmp_path_factory) -> tuple[list[int], str]:
    """What two gloo processes left: (sizes of their batches, folder)."""
    out = str(tmp_path_factory.mktemp("processes"))
    here = os.environ.get("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", here)
        mp.spawn(process, (f"file://{out}/rendezvous", request.param, out), nprocs=2)
    return request.param, out


@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_equal_one_with_the_whole_batch(results, rank):
    _, out = results
    x, frozen, centers = batch()
    expected, expected_gradients = step(Learner(centers, gather=True), x, frozen)
    terms, gradients = torch.load(f"{out}/{rank}-True.pt")
    assert set(terms) == {"loss", "order1", "order2", "order3", "order_c"}
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-10, atol=0)
    for name, gradient in expected_gradients.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-8, atol=1e-12)
        assert gradient.any()


def test_relations_within_each_process_are_another_loss(results):
    """So the comparison above can fail."""
    _, out = results
    x, frozen, centers = batch()
    expected, expected_gradients = step(Learner(centers, gather=False), x, frozen)
    terms, gradients = torch.load(f"{out}/0-False.pt")
    for name in ("order2", "order3"):
        assert abs(terms[name] - expected[name]) > 1e-3 * expected[name]
    assert any(
        (gradients[name] - gradient).norm() > 1e-2 * gradient.norm()
        for name, gradient in expected_gradients.items()
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_gathered_rows_are_in_order_and_their_gradients_add_up(results, rank):
    sizes, out = results
    x, _, _ = batch()
    whole, gradient = torch.load(f"{out}/{rank}-rows.pt")
    assert torch.equal(whole, x)
    own = x[sum(sizes[:rank]) : sum(sizes[: rank + 1])]
    torch.testing.assert_close(gradient, (1 + 2) * 2 * own)  # of both processes' losses


@pytest.mark.parametrize("rank", [0, 1])
def test_second_derivatives_are_refused_and_empty_batches_gathered(results, rank):
    _, out = results
    refused, rows = torch.load(f"{out}/{rank}-edges.pt")
    assert "create_graph" in refused
    assert rows.shape == (2, 4)


def test_alone_nothing_is_gathered():
    x = torch.randn(3, 2, requires_grad=True)
    assert gather(x) is x
