"""The most float32 instructions and bytes per second of a CUDA device, by measurement."""

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch.utils.benchmark import Timer

_LANES = 1024
_CHAINS = 8


@triton.jit
def _multiply_add(out, rounds, lanes: tl.constexpr):
    """Eight independent chains of multiply-adds in registers: nothing else to wait for."""
    index = tl.program_id(0) * lanes + tl.arange(0, lanes)
    x = index.to(tl.float32) * 1e-9
    a, b, c, d = x, x + 1, x + 2, x + 3
    e, f, g, h = x + 4, x + 5, x + 6, x + 7
    for _ in range(rounds):
        a = a * x + 0.5
        b = b * x + 0.5
        c = c * x + 0.5
        d = d * x + 0.5
        e = e * x + 0.5
        f = f * x + 0.5
        g = g * x + 0.5
        h = h * x + 0.5
    tl.store(out + index, a + b + c + d + e + f + g + h)


def _seconds(call: Callable[[], object]) -> float:
    """The best of the times of a call."""
    timer = Timer("call()", globals={"call": call})
    return min(timer.blocked_autorange(min_run_time=0.5).times)


def instructions_per_second(device: str = "cuda", rounds: int = 4096) -> float:
    """Float32 multiply-adds per second, each counted as one instruction."""
    programs = 16 * torch.cuda.get_device_properties(device).multi_processor_count
    out = torch.empty(programs * _LANES, device=device)
    seconds = _seconds(lambda: _multiply_add[(programs,)](out, rounds, lanes=_LANES, num_warps=4))
    return programs * _LANES * _CHAINS * rounds / seconds


def bytes_per_second(device: str = "cuda", size: int = 1 << 28) -> float:
    """Bytes read and written per second by a copy of `size` numbers."""
    source = torch.zeros(size, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _seconds(lambda: target.copy_(source))
