"""Any file that a visitor sends, as a square picture; or one line that says why not.

A file is opened by one of a few decoders, measured before it is decoded, and only its first frame
is read, so that neither a huge nor a hostile file costs more than a second and some memory.
"""

import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pillow_heif
import torch
from PIL import Image, ImageOps
from torch import Tensor

from horkd.errors import HorkdError

pillow_heif.register_heif_opener()

#: Decoders that may see a stranger's file. Not among them: those that start other programs (EPS),
#: fetch more files, or hold several images of different sizes (ICO).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF", "PPM", "TGA")
#: Formats that browsers show by themselves.
SHOWN = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")
MAX_BYTES = 20 * 2**20
MAX_PIXELS = 64_000_000
#: Side of the square that is kept of a photo, in pixels: a multiple of 32 and of 112.
SIDE = 448


@dataclass(frozen=True, eq=False)
class Picture:
    """The central square of a photo.

    Attributes:
        square: RGB, at most `SIDE` pixels wide; larger photos are reduced to that by antialiased
            bicubic interpolation.
        whole: width and height of the photo, upright, in pixels.
        format: of the file, as Pillow names it.
        notes: what was done to the photo, in sentences.
    """

    square: Image.Image
    whole: tuple[int, int] = (SIDE, SIDE)
    format: str = "PNG"
    notes: tuple[str, ...] = field(default=())

    def at(self, size: int) -> Tensor:
        """The picture as networks see it at full resolution: uint8 (1, 3, size, size)."""
        small = self.square.resize((size, size), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.asarray(small).copy()).permute(2, 0, 1)[None].contiguous()

    def shown(self) -> Image.Image:
        """The picture for a page, `SIDE` pixels wide; very small ones with visible pixels."""
        small = self.square.width <= 64
        kernel = Image.Resampling.NEAREST if small else Image.Resampling.BICUBIC
        return self.square.resize((SIDE, SIDE), kernel)


def as_image(pixels: Tensor) -> Image.Image:
    """A uint8 (3, S, S) image for Pillow."""
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def enlarged(image: Tensor, side: int = SIDE) -> Image.Image:
    """One uint8 (3, S, S) image, `side` pixels wide, with visible pixels: no smoothing."""
    return as_image(image).resize((side, side), Image.Resampling.NEAREST)


def read(path: str | Path) -> Picture:
    """Decode a photo: upright, 8-bit RGB, transparency on white, its central square.

    Raises:
        HorkdError: if it is no image that can be read, is damaged, or is too large; in one line
            without the path, fit to be shown to whoever sent it.
    """
    path, notes = Path(path), []
    try:
        size = path.stat().st_size
    except OSError:
        raise HorkdError("this picture is no longer here: send it again") from None
    if not size:
        raise HorkdError("this file is empty: send a photo (JPEG, PNG, WebP, HEIC, …)")
    if size > MAX_BYTES:
        raise HorkdError(
            f"this file has {size / 2**20:.0f} MB and the limit is {MAX_BYTES // 2**20} MB: "
            "send a smaller one"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd metadata; what cannot be decoded raises
        photo, whole, kind = _decode(path, notes)
        photo = _plain(photo, notes)
    if whole[0] != whole[1]:
        notes.append(f"Of {whole[0]}×{whole[1]} pixels only the central square is looked at.")
    short = min(photo.size)
    left, top = (photo.width - short) // 2, (photo.height - short) // 2
    square = photo.crop((left, top, left + short, top + short))
    if short > SIDE:
        square = square.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return Picture(square, whole, kind, tuple(notes))


def _decode(path: Path, notes: list[str]) -> tuple[Image.Image, tuple[int, int], str]:
    """The first frame, upright, in the file's own mode; its whole size; the file's format."""
    try:
        with Image.open(path, formats=FORMATS) as photo:
            kind, (width, height) = photo.format, photo.size
            if width * height > MAX_PIXELS:
                raise _too_large(width, height)
            if getattr(photo, "is_animated", False) and kind not in ("MPO", "HEIF"):
                notes.append("Of several frames only the first is looked at.")
            if kind in ("JPEG", "MPO"):  # decodes a large photo at a half, a quarter or an eighth
                photo.draft(photo.mode, (2 * SIDE, 2 * SIDE))
            photo.load()
            try:
                upright = ImageOps.exif_transpose(photo)
            except Exception:  # orientation written in a way that cannot be read
                upright = photo.copy()
            turned = upright.size == photo.size[::-1] != photo.size
            return upright, (height, width) if turned else (width, height), kind
    except HorkdError:
        raise
    except Image.UnidentifiedImageError:
        raise HorkdError(
            "this is not a picture that can be read here: send a JPEG, PNG, WebP, GIF, BMP, TIFF, "
            "HEIC or AVIF file"
        ) from None
    except Image.DecompressionBombError:
        raise HorkdError(
            f"this picture is larger than {MAX_PIXELS // 10**6} megapixels: send a smaller one"
        ) from None
    except MemoryError:
        raise HorkdError("this picture needs too much memory: send a smaller one") from None
    except Exception:  # decoders fail in many ways
        raise HorkdError(
            "this picture is damaged or cut off: save it anew, or send another one"
        ) from None


def _too_large(width: int, height: int) -> HorkdError:
    return HorkdError(
        f"this picture has {width}×{height} pixels and the limit is "
        f"{MAX_PIXELS // 10**6} megapixels: send a smaller one"
    )


def _plain(photo: Image.Image, notes: list[str]) -> Image.Image:
    """8-bit RGB of any mode."""
    try:
        if photo.mode.startswith("I") or photo.mode == "F":
            notes.append("More than 8 bits per channel were rounded to 8.")
            photo = _to_8_bits(photo)
        if photo.has_transparency_data:
            photo = photo.convert("RGBA")
            notes.append("Transparent parts are shown on white.")
            white = Image.new("RGBA", photo.size, (255, 255, 255, 255))
            photo = Image.alpha_composite(white, photo)
        return photo.convert("RGB")
    except Exception:
        raise HorkdError(
            f"pictures of colour mode {photo.mode} cannot be read here: save it as RGB"
        ) from None


def _to_8_bits(photo: Image.Image) -> Image.Image:
    """Grey levels of 16 or 32 bits, or in floating point, as 8 bits.

    16 bits are divided by 257; other integers by the least such scale that holds them; floating
    point is taken as 0 to 1, or as 0 to its largest value if that is above 1.
    """
    values = np.nan_to_num(np.asarray(photo, np.float32), nan=0, posinf=0, neginf=0).clip(0)
    top = values.max(initial=0)
    if photo.mode == "F":
        scale = 255 / max(top, 1)
    else:
        scale = 255 / (2**16 - 1 if top < 2**16 else 2**32 - 1)
    return Image.fromarray((values * scale).round().clip(0, 255).astype(np.uint8))
