"""The degradation operator: a low-resolution image from a high-resolution one.

Training, evaluation and the demo all call this one operator, on 8-bit images, after augmentation
and before normalisation. What it returns is again 8-bit: a small image in the world is stored with
256 levels, and a student trained on finer ones would be tested on something else.
"""

import functools
import io
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from horkd.checks import at_least_one, is_tensor, plain_fields, uint8_images, whole_number
from horkd.errors import HorkdError

KERNELS = ("bicubic", "area", "bilinear", "nearest")


@functools.lru_cache(maxsize=256)
def _weights_on(device: torch.device, source: int, target: int, kernel: str) -> Tensor:
    """`_weights`, kept on the device: copying them anew would halt a GPU every step."""
    return _weights(source, target, kernel).to(device)


def _weights(source: int, target: int, kernel: str) -> Tensor:
    """(target, source) matrix of one resampling pass.

    Row t holds the weights of the source pixels in target pixel t. "area" is the exact overlap of
    both pixels; the others are the response of torch's resize to impulses (bicubic and bilinear
    antialiased, which makes them Pillow's filters). Like Pillow's, the weights are multiples of
    2⁻²²: float64 then adds them without rounding, on any device, to Pillow's very bytes.
    """
    if kernel == "area":
        ratio = source / target
        t, s = torch.arange(target)[:, None].double(), torch.arange(source)[None].double()
        overlap = torch.minimum((t + 1) * ratio, s + 1) - torch.maximum(t * ratio, s)
        return _to_22_bits(overlap.clamp(min=0) / ratio)
    impulses = torch.eye(source, dtype=torch.float64)[:, None]  # (source, 1, source)
    if kernel == "nearest":
        out = F.interpolate(impulses, size=target, mode="nearest-exact")
    else:
        impulses = impulses[:, :, None].expand(-1, -1, 2, -1)  # two equal rows: this mode is 2-d
        out = F.interpolate(impulses, size=(2, target), mode=kernel, antialias=True)[:, :, 0]
    return _to_22_bits(out[:, 0].T.contiguous())


def _to_22_bits(weights: Tensor) -> Tensor:
    return (weights * 2**22).round() / 2**22


def _round(x: Tensor) -> Tensor:
    return x.add_(0.5).floor_().clamp_(0, 255)


def resize(images: Tensor, size: int, kernel: str = "bicubic") -> Tensor:
    """Resample square 8-bit images, antialiased, rounding after each of two passes as Pillow does.

    Args:
        images: uint8 (N, C, S, S).
        size: side of the result, in pixels; smaller or larger than S.
        kernel: one of `KERNELS`.

    Returns:
        uint8 (N, C, size, size); the input itself if `size` is S.

    Raises:
        HorkdError: if the images are no square 8-bit ones, or there is no such size or kernel.
    """
    is_tensor(images, "images to resize")
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[2] != images.shape[3]:
        raise HorkdError(
            f"resize takes uint8 (N, C, S, S), got {images.dtype} {tuple(images.shape)}"
        )
    at_least_one("size", size)
    if kernel not in KERNELS:
        raise HorkdError(f"unknown kernel {kernel!r}: choose from {', '.join(KERNELS)}")
    side = images.shape[-1]
    if size == side:
        return images
    weights = _weights_on(images.device, side, size, kernel)
    with torch.autocast(images.device.type, enabled=False):
        x = _round(images.double() @ weights.T)  # columns
        x = _round(weights @ x)  # rows
    return x.to(torch.uint8)


def _jpeg(images: Tensor, quality: int) -> Tensor:
    """Each image through a JPEG file of that quality; on the CPU, one by one."""
    if not len(images):
        return images
    out = []
    for image in images.permute(0, 2, 3, 1).cpu().numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        out.append(np.array(Image.open(file)))
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).to(images.device)


@dataclass(frozen=True)
class Degradation:
    """x ↦ x̂: blur, downsample, noise, JPEG, and if wished the way back to the source size.

    Example:
        >>> Degradation(16)(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([2, 3, 16, 16])

    Attributes:
        size: side of the low-resolution image, in pixels.
        kernel: how to downsample: "bicubic" (antialiased), "area", "bilinear" (antialiased) or
            "nearest" (aliases). The paper does not say which it used.
        upsample: enlarge the result back to the source size by the same kernel.
        blur: standard deviation of a Gaussian applied before downsampling, in source pixels.
        noise: standard deviation of Gaussian noise added after downsampling, in levels of 255.
        jpeg: JPEG quality (1 to 100) applied after the noise, or None.
    """

    size: int
    kernel: str = "bicubic"
    upsample: bool = False
    blur: float = 0.0
    noise: float = 0.0
    jpeg: int | None = None

    def __post_init__(self) -> None:
        plain_fields(self)
        whole_number(self.size, "resolution")
        if self.size < 1:
            raise HorkdError(f"resolution must be at least 1 pixel, got {self.size}")
        if self.kernel not in KERNELS:
            raise HorkdError(f"unknown kernel {self.kernel!r}: choose from {', '.join(KERNELS)}")
        if not (0 <= self.blur < math.inf and 0 <= self.noise < math.inf):
            raise HorkdError(f"blur and noise must be 0 or more, got {self.blur} and {self.noise}")
        if self.jpeg is not None and not 1 <= whole_number(self.jpeg, "JPEG quality") <= 100:
            raise HorkdError(f"JPEG quality must lie in 1 to 100, got {self.jpeg}")

    def __call__(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Degrade a batch.

        Args:
            images: uint8 (N, 3, S, S) with S ≥ `size`.
            generator: source of the noise, on the images' device; not used without noise.

        Returns:
            uint8 (N, 3, size, size), or (N, 3, S, S) with `upsample`. The input itself, unchanged,
            when S equals `size` and no blur, noise or JPEG is asked for.

        Raises:
            HorkdError: if the images are not square 8-bit ones or smaller than `size`.
        """
        uint8_images(images, "degrade")
        width = images.shape[-1]
        if self.size > width:
            raise HorkdError(
                f"resolution {self.size} is above the source's {width} pixels: "
                "degrading cannot add detail"
            )
        x = images
        if self.blur:
            from torchvision.transforms.v2.functional import gaussian_blur  # slow to import

            # no wider than what reflection at the border can fill
            kernel = min(2 * int(np.ceil(3 * self.blur)) + 1, 2 * width - 1)
            with torch.autocast(x.device.type, enabled=False):
                x = gaussian_blur(x.float(), [kernel, kernel], [self.blur, self.blur])
            x = _round(x).to(torch.uint8)
        x = resize(x, self.size, self.kernel)
        if self.noise:
            noise = torch.randn(x.shape, generator=generator, device=x.device)
            x = _round(x.float() + self.noise * noise).to(torch.uint8)
        if self.jpeg is not None:
            x = _jpeg(x, self.jpeg)
        return resize(x, width, self.kernel) if self.upsample else x
