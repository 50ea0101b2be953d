"""Any file that a visitor sends, as a square picture; or one line that says why not.

A file is opened by one of a few decoders, measured before it is decoded, and only its first frame
is read. What is not looked at is cut off before colours are converted, and large files are decoded
one at a time, so that no file costs more than some seconds and half a gigabyte.
"""

import contextlib
import re
import threading
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pillow_heif
import torch
from PIL import ExifTags, Image
from torch import Tensor

from horkd.errors import HorkdError

pillow_heif.register_heif_opener()

#: Decoders that may see a stranger's file. Not among them: those that start other programs (EPS),
#: hold several images of different sizes (ICO), take anything for theirs (TGA), or decode in
#: Python (PPM).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF")
#: Formats that browsers show by themselves.
SHOWN = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")


@dataclass(frozen=True)
class Limits:
    """What a file may cost.

    Attributes:
        bytes: of the file.
        pixels: of the whole picture, and of a tile of a TIFF.
        scans: of a progressive JPEG; cameras and programs write ten or so, and each costs a pass.
        comments: of a GIF.
    """

    bytes: int = 20 * 2**20
    pixels: int = 64_000_000
    scans: int = 100
    comments: int = 2000


LIMITS = Limits()
#: Pixels above which files are decoded one at a time.
LARGE = 16_000_000
#: Where a TIFF's sample format is noted, since parts of a picture have no tags.
SIGNED = "horkd: signed"
_one_at_a_time = threading.Lock()
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


def read(path: str | Path, limits: Limits = LIMITS) -> Picture:
    """Decode a photo: upright, 8-bit RGB, transparency on white, its central square.

    Args:
        path: of any file.
        limits: beyond which it is refused.

    Raises:
        HorkdError: if it is no image that can be read, is damaged, or is too large; in one line
            without the path, fit to be shown to whoever sent it.
    """
    path, notes = Path(path), []
    try:
        size = path.stat().st_size
    except (OSError, ValueError):
        raise HorkdError("this picture is no longer here: send it again") from None
    if not size:
        raise HorkdError("this file is empty: send a photo (JPEG, PNG, WebP, HEIC, …)")
    if size > limits.bytes:
        raise HorkdError(
            f"this file has {size / 2**20:.0f} MB and the limit is {limits.bytes // 2**20} MB: "
            "send a smaller one"
        )
    photo, whole, kind = _decode(path, notes, limits)
    if whole[0] != whole[1]:
        notes.append(f"Of {whole[0]}×{whole[1]} pixels only the central square is looked at.")
    if photo.width > SIDE:
        photo = photo.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return Picture(photo, whole, kind, tuple(notes))


def _decode(
    path: Path, notes: list[str], limits: Limits
) -> tuple[Image.Image, tuple[int, int], str]:
    """The first frame's central square, upright, as 8-bit RGB; the whole size; the format."""
    try:
        _refuse_slow(path, limits)
        with Image.open(path, formats=FORMATS) as photo:
            kind, (width, height) = photo.format, photo.size
            if max(width * height, _tile(photo)) > limits.pixels:
                raise _too_large(width, height, limits)
            if photo.tile and photo.tile[0][0] == "bmp_rle":  # decoded in Python
                raise HorkdError("compressed BMP files cannot be read here: save it as PNG")
            if getattr(photo, "is_animated", False) and kind not in ("MPO", "HEIF"):
                notes.append("Of several frames only the first is looked at.")
            if kind in ("JPEG", "MPO"):  # decodes a large photo at a half, a quarter or an eighth
                photo.draft(photo.mode, (2 * SIDE, 2 * SIDE))
            with _one_at_a_time if width * height > LARGE else contextlib.nullcontext():
                drafted = photo.size
                photo.load()
                if photo.size != drafted:  # HEIC: its header was not true
                    width, height = photo.size
                photo.info[SIGNED] = getattr(photo, "tag_v2", {}).get(339) in (2, (2,))
                orientation = _orientation(photo)
                if orientation in _TURNS:
                    photo = photo.transpose(_TURNS[orientation])
                whole = (height, width) if orientation >= 5 else (width, height)
                return _plain(_central(photo), notes), whole, kind
    except HorkdError:
        raise
    except Image.UnidentifiedImageError:
        raise HorkdError(
            "this is not a picture that can be read here: send a JPEG, PNG, WebP, GIF, BMP, TIFF, "
            "HEIC or AVIF file"
        ) from None
    except Image.DecompressionBombError:
        raise HorkdError(
            f"this picture is larger than {limits.pixels // 10**6} megapixels: send a smaller one"
        ) from None
    except MemoryError:
        raise HorkdError("this picture needs too much memory: send a smaller one") from None
    except Exception:  # decoders fail in many ways
        raise HorkdError(
            "this picture is damaged or cut off: save it anew, or send another one"
        ) from None


#: EXIF's orientations and how to undo them.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _orientation(photo: Image.Image) -> int:
    """EXIF's orientation, 1 if there is none. HEIC's and AVIF's decoders have turned theirs."""
    try:
        found = photo.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # metadata that cannot be read
        return 1
    return found if found in _TURNS else 1


def _refuse_slow(path: Path, limits: Limits) -> None:
    """Refuse files that are small and yet cost their decoder minutes, or gigabytes.

    JPEG: a pass over the whole picture for each scan. GIF: time that grows with the square of the
    number of comments. HEIC: cut to a few pixels only after all have been decoded.
    """
    data = path.read_bytes()
    if data.startswith(b"\xff\xd8") and _scans(data, limits.scans) > limits.scans:
        raise HorkdError("this picture was saved in too many passes: save it anew")
    if data.startswith(b"GIF8") and data.count(b"\x21\xfe") > limits.comments:
        raise HorkdError("this picture holds too many comments: save it anew")
    if data[4:8] == b"ftyp":
        for match in re.finditer(b"ispe....(....)(....)", data, re.DOTALL):
            width, height = (int.from_bytes(side, "big") for side in match.groups())
            if width * height > limits.pixels:
                raise _too_large(width, height, limits)


def _scans(data: bytes, most: int) -> int:
    """Scans of a JPEG file's first picture, counted up to one more than `most`."""
    count, at = 0, 2
    while count <= most:
        marker = _MARKER.search(data, at)
        if marker is None or marker[1] == b"\xd9":
            break
        count += marker[1] == b"\xda"
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return count


#: A JPEG marker that a segment of data follows, or the end of the picture.
_MARKER = re.compile(rb"\xff+([^\x00\x01\xd0-\xd8\xff])", re.DOTALL)


def _tile(photo: Image.Image) -> int:
    """Pixels of one tile of a TIFF file, which is decoded whole; 0 for other files."""
    tags = getattr(photo, "tag_v2", {})
    sides = [tags.get(number, 0) for number in (322, 323)]
    return sides[0] * sides[1] if all(isinstance(side, int) for side in sides) else 0


def _central(photo: Image.Image) -> Image.Image:
    short = min(photo.size)
    if photo.size == (short, short):
        return photo
    left, top = (photo.width - short) // 2, (photo.height - short) // 2
    return photo.crop((left, top, left + short, top + short))


def _too_large(width: int, height: int, limits: Limits) -> HorkdError:
    return HorkdError(
        f"this picture has {width}×{height} pixels and the limit is "
        f"{limits.pixels // 10**6} megapixels: send a smaller one"
    )


def _plain(photo: Image.Image, notes: list[str]) -> Image.Image:
    """8-bit RGB of any mode; large ones reduced by whole numbers first, to save memory."""
    mode = photo.mode
    try:
        if mode.startswith("I") or mode == "F":
            notes.append("More than 8 bits per channel were rounded to 8.")
            return _to_8_bits(photo).convert("RGB")
        if photo.has_transparency_data:
            photo = _reduced(photo if mode == "RGBA" else photo.convert("RGBA"))
            if photo.getchannel("A").getextrema()[0] < 255:
                notes.append("Transparent parts are shown on white.")
            white = Image.new("RGBA", photo.size, (255, 255, 255, 255))
            photo = Image.alpha_composite(white, photo)
        if mode in ("L", "RGB", "CMYK"):
            photo = _reduced(photo)
        return _reduced(photo.convert("RGB"))
    except MemoryError:
        raise
    except Exception:
        raise HorkdError(
            f"pictures of colour mode {mode} cannot be read here: save it as RGB"
        ) from None


def _reduced(photo: Image.Image) -> Image.Image:
    """Means of square blocks, still at least twice as wide as what is kept."""
    times = photo.width // (2 * SIDE)
    return photo.reduce(times) if times > 1 else photo


def _to_8_bits(photo: Image.Image) -> Image.Image:
    """Grey levels of 16 or 32 bits, or in floating point, as 8 bits, transparent ones white.

    16 bits are divided by 257; other integers by the least such scale that holds them; floating
    point is taken as 0 to 1, or as 0 to its largest value if that is above 1.
    """
    levels = np.asarray(photo)
    if levels.dtype == np.int32 and levels.min() < 0:  # Pillow has no 32 bits without a sign
        levels = levels.clip(0) if photo.info.get(SIGNED) else levels.view(np.uint32)
    if levels.dtype.kind == "f":
        levels = np.nan_to_num(levels, nan=0, posinf=0, neginf=0).clip(0)
        white = max(levels.max(), 1)
    else:
        white = 2**16 - 1 if levels.max() < 2**16 else 2**32 - 1
    if "transparency" in photo.info:
        levels = np.where(levels == photo.info["transparency"], white, levels)
    times = max(1, photo.width // (2 * SIDE))
    side = photo.width // times
    blocks = levels[: side * times, : side * times].reshape(side, times, side, times)
    means = blocks.mean((1, 3), dtype=np.float32)
    return Image.fromarray((means * (255 / white)).round().clip(0, 255).astype(np.uint8))
