"""Relations over the batches of several processes.

A batch of 256 images on four processes has 256² pairs; four batches of 64 have 4 · 64². So
relational losses are taken over the rows of all processes, gathered with their gradients.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from horkd.fast.distances import refuse_second_derivative


class _Gather(Function):
    @staticmethod
    def forward(ctx, x: Tensor, sizes: list[int], group: dist.ProcessGroup | None) -> Tensor:
        ctx.sizes, ctx.group = sizes, group
        padded = x.new_zeros(max(sizes), *x.shape[1:])
        padded[: len(x)] = x.detach()
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        refuse_second_derivative()
        # Every process's loss depends on these rows: the gradients of all of them add up.
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient, group=ctx.group)
        rank = dist.get_rank(ctx.group)
        start = sum(ctx.sizes[:rank])
        return gradient[start : start + ctx.sizes[rank]], None, None


def gather(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Rows of all processes in the order of their ranks, differentiable; `x` itself if alone.

    The gradient is that of the sum of the losses of all processes, as it must be for
    DistributedDataParallel, which divides by their number. Forward and backward are collective: all
    processes must call them, equally often.

    Args:
        x: (N_rank, ...), the same shape but for N_rank on all processes; N_rank may differ.
        group: processes to gather from; all of them by default.

    Returns:
        (Σ N_rank, ...).
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(group) == 1:
        return x
    size = torch.tensor([len(x)], device=x.device)
    sizes = [torch.empty_like(size) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, size, group=group)
    return _Gather.apply(x, [int(s) for s in sizes], group)
