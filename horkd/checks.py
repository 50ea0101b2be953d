"""Checks of what is handed in: one line that names what is wrong."""

import dataclasses
import operator
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from horkd.errors import HorkdError


def unit_rows(embeddings: ArrayLike | Tensor, name: str = "embeddings") -> np.ndarray:
    """Embeddings (N, D) at unit length in float64; zero vectors stay zero.

    Args:
        embeddings: (N, D), of any finite size.
        name: what an error calls them.

    Raises:
        HorkdError: if they are no table of finite numbers or there is none.
    """
    x = numbers(embeddings, name)
    if x.ndim != 2 or not x.size:
        raise HorkdError(f"{name} must be one row per image, (N, D), got shape {x.shape}")
    if not np.isfinite(x).all():
        bad = int((~np.isfinite(x)).any(1).sum())
        raise HorkdError(f"{bad} of {len(x)} {name} are not finite: check the network")
    largest = np.abs(x).max(1, keepdims=True)  # squares must neither overflow nor vanish
    x = x / np.where(largest > 0, largest, 1)
    length = np.sqrt(np.square(x).sum(1, keepdims=True))
    return x / np.where(length > 0, length, 1)


def whole_numbers(values: ArrayLike | Tensor, name: str, length: int) -> np.ndarray:
    """Labels or folds as int64 (length,).

    Args:
        values: what was given.
        name: what an error calls them.
        length: how many there have to be.

    Raises:
        HorkdError: if they are no whole numbers, or too many or too few.
    """
    x = _plain(values)
    if x.shape != (length,) or (x.size and not np.issubdtype(x.dtype, np.integer)):
        raise HorkdError(f"{name} must be {length} whole numbers, got {x.dtype} of shape {x.shape}")
    return x.astype(np.int64)


def _plain(values: ArrayLike | Tensor) -> np.ndarray:
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    return (values.double() if values.is_floating_point() else values).numpy()  # NumPy has no bf16


def numbers(values: ArrayLike | Tensor, name: str) -> np.ndarray:
    """A table of numbers in float64, of any shape.

    Args:
        values: what was given.
        name: what an error calls it.

    Raises:
        HorkdError: if it is none.
    """
    try:
        return _plain(values).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise HorkdError(f"{name} must be a table of numbers: {error}") from None


#: Seeds are below this: torch's generators take no larger ones.
SEEDS = 2**63


def require_seed(seed: object) -> None:
    """Refuse what is no seed.

    Raises:
        HorkdError: if it is no whole number in 0 to 2⁶³ - 1.
    """
    whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if not whole or not 0 <= seed < SEEDS:
        raise HorkdError(
            f"a seed must be a whole number in 0 to {SEEDS - 1} (2⁶³ - 1), got {seed!r}"
        )


def require_whole(**values: object) -> None:
    """Refuse what is no whole number.

    Args:
        values: by name.

    Raises:
        HorkdError: if one is none.
    """
    for name, value in values.items():
        if not isinstance(value, int | np.integer) or isinstance(value, bool):
            raise HorkdError(f"{name} must be a whole number, got {value!r}")


def flags(values: ArrayLike | Tensor, name: str) -> np.ndarray:
    """Bool (P,).

    Args:
        values: what was given.
        name: what an error calls it.

    Raises:
        HorkdError: if it is anything else.
    """
    x = _plain(values)
    if x.ndim != 1 or (x.size and x.dtype != bool):
        raise HorkdError(f"{name} must be bool (P,), got {x.dtype} of shape {x.shape}")
    return x.astype(bool)


def at_least_one(name: str, *values: int) -> None:
    """Refuse numbers below one.

    Args:
        name: what an error calls them.
        values: the numbers.

    Raises:
        HorkdError: if one of them is.
    """
    for value in values:
        if whole_number(value, name) < 1:
            raise HorkdError(f"{name} must be 1 or more, got {value}")


def whole_number(value: int, name: str) -> int:
    """A whole number as Python's own, whoever made it.

    Args:
        value: what was given; numpy's integers and tensors of one integer are whole numbers, too.
        name: what an error calls it.

    Raises:
        HorkdError: if it is none.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise HorkdError(f"{name} must be a whole number, got {value!r}") from None


def plain_fields(made: object) -> None:
    """Turn numpy's numbers in a frozen dataclass's fields into Python's: JSON knows no others.

    Args:
        made: the dataclass, in its `__post_init__`.
    """
    for field in dataclasses.fields(made):
        value = getattr(made, field.name)
        object.__setattr__(made, field.name, _plain_number(value))


def _plain_number(value: object) -> object:
    if isinstance(value, np.generic):
        return value.item()
    return tuple(map(_plain_number, value)) if type(value) is tuple else value


def is_tensor(x: Tensor, name: str) -> None:
    """Refuse lists and numpy arrays where gradients or a device are the point.

    Args:
        x: what was given.
        name: what an error calls it.

    Raises:
        HorkdError: if it is no tensor.
    """
    if not isinstance(x, Tensor):
        raise HorkdError(
            f"{name} must be a torch tensor, got {type(x).__name__}: torch.as_tensor makes one"
        )


def exact(x: Tensor, name: str) -> Tensor:
    """A tensor in float32, or float64 where it is that already.

    Args:
        x: of any numbers.
        name: what an error calls it.

    Raises:
        HorkdError: if it is no tensor.
    """
    is_tensor(x, name)
    return x if x.dtype == torch.float64 else x.float()


def as_its_weights(module: nn.Module, x: Tensor) -> Tensor:
    """A tensor in the precision of a module's weights; as it is if there are none."""
    weight = next(module.parameters(), None)
    return x if weight is None else x.to(weight.dtype)


def same_device(x: Tensor, name: str, y: Tensor, other: str) -> None:
    """Refuse tensors of two devices.

    Args:
        x: one of them.
        name: what an error calls it.
        y: the other one.
        other: what an error calls that.

    Raises:
        HorkdError: if they are not on the same one.
    """
    if x.device != y.device:
        raise HorkdError(f"{name} are on {x.device}, {other} on {y.device}: move one of them")


def uint8_images(images: Tensor, name: str) -> None:
    """Refuse what are no square 8-bit images (N, 3, S, S), before anything is drawn from them.

    Args:
        images: what was given.
        name: who takes them.

    Raises:
        HorkdError: if they are anything else.
    """
    if not isinstance(images, Tensor):
        raise HorkdError(
            f"{name} takes a torch tensor uint8 (N, 3, S, S), got {type(images).__name__}"
        )
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise HorkdError(
            f"{name} takes uint8 (N, 3, S, S), got {images.dtype} {tuple(images.shape)}"
        )
    height, width = images.shape[-2:]
    if height != width:
        raise HorkdError(f"{name} takes square images, got {width}×{height}: crop them first")


def row_parts(x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows in float64 on the CPU (other devices may not have it), some at a time."""
    step = max(1, 2**20 // x.shape[1])
    for start in range(0, len(x), step):
        where = slice(start, start + step)
        yield where, x[where].cpu().double()


def float_table(x: Tensor, name: str) -> None:
    """Refuse what is not a table of embeddings, one row per image.

    Args:
        x: what was given.
        name: what an error calls it.

    Raises:
        HorkdError: if it is no float tensor (N, D), empty, or not finite in float32.
    """
    if not isinstance(x, Tensor) or x.ndim != 2 or not x.numel() or not x.is_floating_point():
        got = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise HorkdError(f"{name} must be one row per image, a float tensor (N, D), got {got}")
    bad = sum(int((~part.float().isfinite()).any(1).sum()) for _, part in row_parts(x))
    if bad:
        raise HorkdError(f"{bad} of {len(x)} {name} are not finite in float32: check the network")
