"""Photos a batch at a time, decoded by processes of their own, a few batches ahead.

How many processes is decided by `HORKD_DATA_WORKERS`, if it is set.
"""

import multiprocessing
import os
import warnings
from collections.abc import Iterator, Sequence
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from horkd.errors import HorkdError
from horkd.processes import loader_failures, require_main_guard, without_main

if TYPE_CHECKING:
    from horkd.data.photos import PhotoFiles

#: So many photos are decoded here before a process has started.
FEW = 1000
#: Processes, where nobody says how many.
MOST = 8


def workers_for(photos: int) -> int:
    """Processes that decode so many photos; 0 decodes them in this one.

    Raises:
        HorkdError: if `HORKD_DATA_WORKERS` is no whole number of 0 or more.
    """
    asked = os.environ.get("HORKD_DATA_WORKERS", "").strip()
    if asked:
        if not (asked.isascii() and asked.isdecimal() and len(asked) < 5):
            raise HorkdError(
                f"HORKD_DATA_WORKERS is {asked!r}: write the number of processes that decode "
                "photos, 0 for none, or leave it unset"
            )
        return int(asked)
    return min(MOST, os.cpu_count() or 1) if photos > FEW else 0


def decoded(
    files: "PhotoFiles",
    batch_size: int,
    order: Sequence[int] | None = None,
    workers: int | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Photos with their margin, uint8 (B, 3, S, S), and labels, int64 (B,).

    Args:
        files: the photos.
        batch_size: B; the last batch may be smaller.
        order: which photos; None for all as they come.
        workers: processes; None leaves it to `workers_for`.

    Raises:
        HorkdError: if a photo cannot be decoded, or a process died.
    """
    workers = workers_for(len(files)) if workers is None else workers
    with loader_failures():
        try:
            for photos, labels in _batches(files, batch_size, order, workers):
                yield torch.from_numpy(photos), torch.from_numpy(labels)
        except HorkdError as error:  # a worker's comes with its traceback around it
            line = str(error).strip().splitlines()[-1]
            raise HorkdError(line.removeprefix("horkd.errors.HorkdError: ")) from None


def _batches(
    files: "PhotoFiles", batch_size: int, order: Sequence[int] | None, workers: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The batches of a loader with so many processes."""
    context = _context() if workers else None
    loader = DataLoader(
        files,
        batch_size,
        sampler=order,
        num_workers=workers if context else 0,
        collate_fn=_stacked,
        multiprocessing_context=context,
        generator=torch.Generator(),  # not the global one, which initial weights are drawn from
    )
    with without_main(type(files)):
        batches = iter(loader)
    yield from batches


def _context() -> BaseContext | None:
    """How processes are started; None, with a warning, where there can be none."""
    require_main_guard()
    context = multiprocessing.get_context("spawn")  # a forked child with OpenMP threads can hang
    try:
        context.Lock()
    except (OSError, ImportError) as error:  # there is no /dev/shm, or it is full or read-only
        warnings.warn(
            f"no processes can be started to decode photos ({error}): going on without, slower",
            stacklevel=2,
        )
        return None
    return context


def _stacked(batch: list[tuple[Tensor, int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Photos and labels as arrays: tensors would be sent through /dev/shm.

    Containers have little of that, and a worker that fills it is killed.
    """
    photos, labels, _ = zip(*batch, strict=True)
    return torch.stack(photos).numpy(), np.array(labels, np.int64)
