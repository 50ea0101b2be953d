"""Two embedding spaces made one by a similarity transform, and retrieval across them.

Least squares over similarity transforms: Schönemann 1966, Schönemann, Carroll 1970.
"""

from dataclasses import dataclass

import torch
from scipy.linalg import orthogonal_procrustes
from torch import Tensor

from horkd.checks import float_table, is_tensor
from horkd.errors import HorkdError

#: Rows no further from their mean than this many float spacings of its length are all equal.
COLLAPSED = 8


@dataclass(frozen=True, eq=False)
class Alignment:
    """A similarity transform between two spaces: rotation or reflection, one scale, offset.

    Both spaces are padded with zeros to the same width W = max(Ds, Dt).

    Args:
        rotation: float64 (W, W), orthogonal; rows are multiplied by it from the right.
        scale: 0 or more.
        source_mean: float64 (Ds,).
        target_mean: float64 (Dt,).
    """

    rotation: Tensor
    scale: float
    source_mean: Tensor
    target_mean: Tensor

    @property
    def width(self) -> int:
        """W, of what `__call__` and `pad` give."""
        return len(self.rotation)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        """Rows (N, Ds) of the source in the target's space, (N, W).

        In float32, or float64 if `x` is, and on its device.

        Raises:
            HorkdError: if they are not as wide as the source.
        """
        self._check(x, "source", len(self.source_mean))
        moved = _widened(x.cpu().double() - self.source_mean, self.width) @ self.rotation
        moved = self.scale * moved + _widened(self.target_mean[None], self.width)
        return moved.to(precision(x)).to(x.device)

    @torch.no_grad()
    def pad(self, y: Tensor) -> Tensor:
        """Rows (N, Dt) of the target with zeros up to width W, which change no distance.

        In float32, or float64 if `y` is, and on its device.

        Raises:
            HorkdError: if they are not as wide as the target.
        """
        self._check(y, "target", len(self.target_mean))
        return _widened(y.to(precision(y)), self.width)

    def _check(self, x: Tensor, name: str, width: int) -> None:
        is_tensor(x, f"the {name}")
        if x.ndim != 2 or x.shape[1] != width:
            raise HorkdError(
                f"the {name} was (N, {width}) when aligned, got {tuple(x.shape)}: use one network"
            )


@torch.no_grad()
def align(source: Tensor, target: Tensor) -> Alignment:
    """The similarity transform that takes source to target best, in least squares.

    Relations (distances over their mean, angles) say nothing on rotation, scale and offset, so the
    embeddings of a student that learned from them alone must be aligned before they can query its
    teacher's gallery. No transform of this kind changes a relation.

    It minimises Σ_i ‖scale · (x_i − x̄) · rotation + ȳ − y_i‖² (orthogonal Procrustes), in float64.
    Directions in which the M rows do not extend are turned in any way that is left.

    Args:
        source: float (M, Ds), such as a student's embeddings of training images.
        target: float (M, Dt), the teacher's of the same images; the widths may differ.

    Returns:
        The transform; scale 0 if all source rows are equal, up to rounding.

    Raises:
        HorkdError: on shapes that do not fit or embeddings that are not finite.
    """
    float_table(source, "source embeddings")
    float_table(target, "target embeddings")
    if len(source) != len(target):
        raise HorkdError(
            f"{len(source)} source and {len(target)} target embeddings: "
            "align with those of the same images"
        )
    width = max(source.shape[1], target.shape[1])
    x, y = source.cpu().double(), target.cpu().double()
    mean_x, mean_y = x.mean(0), y.mean(0)
    x = x - mean_x
    rotation, stretch = orthogonal_procrustes(
        _widened(x, width).numpy(), _widened(y - mean_y, width).numpy()
    )
    variance = float(x.square().sum())
    spacing = torch.finfo(precision(source)).eps * float(mean_x.norm())
    collapsed = variance <= len(x) * (COLLAPSED * spacing) ** 2
    scale = 0.0 if collapsed else float(stretch) / variance
    return Alignment(torch.from_numpy(rotation), scale, mean_x, mean_y)


def precision(x: Tensor) -> torch.dtype:
    """float64 of float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _widened(x: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, width - x.shape[1]))
