"""Photos on disk, each decoded, cropped and resized when it is asked for.

A set of photos is its list of file names and labels, so that millions of them need no more memory
than their names. Nothing here downloads.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from tqdm.auto import tqdm

from horkd.data.listing import ending
from horkd.data.workers import decoded
from horkd.errors import HorkdError

KINDS = ("centre", "box", "full", "whole")


@dataclass(frozen=True)
class Crop:
    """A square of a photo; in fractions, so that any photo size works.

    Attributes:
        kind: "centre": a square of `scale` times the photo's shorter side, its centre `up` times
            that shorter side above the photo's centre. "box": a square of `scale` times the longer
            side of the face's box, around the box's centre. "full": the largest centred square.
            "whole": all of the photo, squeezed into a square, of which a margin is a part: with 16
            pixels of margin the central 224 of 256. The last two use neither `scale` nor `up`.
        scale: side of the square. The default is for "centre" on LFW and photos framed like it
            (132 of 250 pixels); for "box", 1 is the box itself.
        up: how far above the centre, only for "centre".
    """

    kind: str = "centre"
    scale: float = 132 / 250
    up: float = 6 / 250

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise HorkdError(f"unknown kind of crop {self.kind!r}: choose from {', '.join(KINDS)}")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise HorkdError(f"scale of a crop must be a positive number, got {self.scale}")
        if not math.isfinite(self.up):
            raise HorkdError(f"up of a crop must be a number, got {self.up}")

    def square(
        self, width: int, height: int, box: tuple[float, ...] | None = None
    ) -> tuple[float, float, float]:
        """Centre x, centre y and side of the square, in pixels of a photo of that size.

        Args:
            width: of the photo.
            height: of the photo.
            box: x0, y0, x1, y1 of the face; only for kind "box".
        """
        short = min(width, height)
        if self.kind == "box":
            x0, y0, x1, y1 = box
            return (x0 + x1) / 2, (y0 + y1) / 2, self.scale * max(x1 - x0, y1 - y0)
        if self.kind == "full":
            return width / 2, height / 2, float(short)
        return width / 2, height / 2 - self.up * short, self.scale * short


#: LFW and photos framed like it.
CENTRE_CROP = Crop()
#: Around face boxes: a little more than the box. A guess, not tuned.
BOX_CROP = Crop("box", 1.2)
#: Of faces that are cropped already, and of photos of one thing.
FULL_CROP = Crop("full")
#: What the code published with RKD does to birds, cars and products.
WHOLE_CROP = Crop("whole")


def decode(path: str | Path) -> Image.Image:
    """The photo, upright, as 8-bit RGB; transparency on black, of several frames the first.

    What it is, its content says and not its name.

    Raises:
        HorkdError: if it is absent, damaged or not of 8 bits per channel, or its decoder is not
            installed.
    """
    path = Path(path)
    try:
        with _opened(path) as photo:
            photo.load()
            mode = photo.mode
            if mode in ("I", "F") or mode.startswith("I;"):
                raise ValueError(f"{mode}: not 8 bits per channel")
            photo = ImageOps.exif_transpose(photo)
            if photo.has_transparency_data:
                photo = photo.convert("RGBA")
                photo = Image.alpha_composite(Image.new("RGBA", photo.size, (0, 0, 0, 255)), photo)
            return photo.convert("RGB")
    except HorkdError:
        raise
    except FileNotFoundError:
        raise HorkdError(f"{path} is gone: put the file there again") from None
    except Exception as error:  # decoders fail in many ways
        raise HorkdError(
            f"{path} cannot be decoded ({error}): put a whole copy of 8 bits per channel there"
        ) from None


def _opened(path: Path) -> Image.Image:
    """The file as Pillow sees it, HEIC with the help of pillow-heif.

    Raises:
        HorkdError: if that, or a newer Pillow, is needed and not installed.
    """
    try:
        return Image.open(path)
    except Image.UnidentifiedImageError:
        with path.open("rb") as file:
            if file.read(12)[4:8] != b"ftyp":  # HEIC and AVIF begin so
                raise
    try:
        import pillow_heif
    except ImportError:
        raise HorkdError(
            f"{path} is a HEIC or AVIF file, which Pillow cannot read alone here: pip install -U "
            "pillow pillow-heif, or save it as JPEG"
        ) from None
    pillow_heif.register_heif_opener()
    return Image.open(path)


def _inside(middle: float, step: float, count: int, length: int) -> tuple[int, int, float, float]:
    """Which of `count` output pixels, `step` wide and around `middle`, lie in 0 .. length.

    Returns:
        The first of them, the one after the last, and where both begin in the photo.
    """
    start, slack = middle - step * count / 2, 1e-4  # slack: rounding, in output pixels
    first = min(max(math.ceil(-start / step - slack), 0), count)
    last = min(max(math.floor((length - start) / step + slack), first), count)
    return first, last, max(start + first * step, 0.0), min(start + last * step, float(length))


def _resample(photo: Image.Image, x: float, y: float, side: float, size: int) -> np.ndarray:
    """Uint8 (size, size, 3): the square of that centre and side; black what is not in the photo.

    A pixel is black unless all of it lies in the photo, so that black never bleeds into a face.
    """
    out = np.zeros((size, size, 3), np.uint8)
    left, right, x0, x1 = _inside(x, side / size, size, photo.width)
    top, bottom, y0, y1 = _inside(y, side / size, size, photo.height)
    if left < right and top < bottom:
        part = photo.resize(
            (right - left, bottom - top), Image.Resampling.BICUBIC, (x0, y0, x1, y1)
        )
        out[top:bottom, left:right] = np.asarray(part)
    return out


@dataclass(frozen=True)
class PhotoFiles(TorchDataset):
    """N photos on disk, each decoded, cropped and resized when it is asked for.

    It is a map-style data set for `torch.utils.data.DataLoader`, and can be sent to its workers.

    Attributes:
        root: folder of the photos.
        files: paths below `root`.
        labels: int64 (N,), the class (of faces: the identity), 0 .. len(names) - 1, or -1 for an
            unknown one.
        names: the classes.
        boxes: float (N, 4), x0, y0, x1, y1 of the face in pixels of the upright photo, or None.
        crop: which part of a photo is looked at.
        size: side of the image after cropping, in pixels.
        margin: pixels of real surroundings on each side of it, for random crops. The central
            `size`×`size` pixels show the same region whatever the margin, except for crops of kind
            "whole".
    """

    root: Path
    files: tuple[str, ...]
    labels: Tensor
    names: tuple[str, ...]
    boxes: Tensor | None = None
    crop: Crop = CENTRE_CROP
    size: int = 112
    margin: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(self.root))  # a text will do
        n, labels, boxes = len(self.files), self.labels, self.boxes
        if labels.shape != (n,) or labels.dtype != torch.int64:
            raise HorkdError(
                f"labels must be int64 ({n},), got {labels.dtype} {tuple(labels.shape)}"
            )
        if n and not -1 <= int(labels.min()) <= int(labels.max()) < len(self.names):
            raise HorkdError(
                f"labels run from {int(labels.min())} to {int(labels.max())}, but there are "
                f"{len(self.names)} identities (0 to {len(self.names) - 1}, -1 for unknown)"
            )
        if boxes is not None and (boxes.shape != (n, 4) or not boxes.is_floating_point()):
            raise HorkdError(
                f"boxes must be float ({n}, 4), got {boxes.dtype} {tuple(boxes.shape)}"
            )
        if self.crop.kind == "box" and boxes is None:
            raise HorkdError(
                "a crop of kind box needs face boxes, and this set has none: "
                "choose kind centre or full"
            )
        if self.size < 1 or self.margin < 0:
            raise HorkdError(
                "size must be at least 1 pixel and margin 0 or more, "
                f"got {self.size} and {self.margin}"
            )

    def __getstate__(self) -> dict[str, object]:
        """Tensors as arrays, which are sent to a worker as they are: tensors go by /dev/shm."""
        return {n: v.numpy() if isinstance(v, Tensor) else v for n, v in vars(self).items()}

    def __setstate__(self, state: dict[str, object]) -> None:
        for name, value in state.items():
            is_array = isinstance(value, np.ndarray)
            object.__setattr__(self, name, torch.from_numpy(value) if is_array else value)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Tensor, int, int]:
        """Photo i as uint8 (3, S, S) with S = size + 2 margin, its label, and i.

        Raises:
            HorkdError: if the photo cannot be decoded or its box is empty.
        """
        n, i = len(self.files), int(i)
        if not -n <= i < n:
            raise IndexError(f"photo {i} of {n}")
        i %= n
        photo = decode(self.root / self.files[i])
        box = None
        if self.crop.kind == "box":
            box = tuple(self.boxes[i].tolist())
            if not (box[0] < box[2] and box[1] < box[3] and all(map(math.isfinite, box))):
                raise HorkdError(f"the face box of {self.files[i]} is empty or not finite: {box}")
        side = self.size + 2 * self.margin
        if self.crop.kind == "whole":
            pixels = np.asarray(photo.resize((side, side), Image.Resampling.BICUBIC))
        else:
            x, y, width = self.crop.square(*photo.size, box)
            pixels = _resample(photo, x, y, width * side / self.size, side)
        image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        return image, int(self.labels[i]), i

    @property
    def classes(self) -> tuple[str, ...]:
        """The names, as other image sets call them."""
        return self.names

    @property
    def central(self) -> "PhotoFiles":
        """The photos without their margin; of a whole photo it is cut off after decoding."""
        return self if self.crop.kind == "whole" else replace(self, margin=0)

    def parts(self, batch_size: int) -> Iterator[Tensor]:
        """The images proper, uint8 (B, 3, size, size) at a time, in order."""
        files = self.central
        inner = slice(files.margin, files.margin + files.size)
        for photos, _ in decoded(files, batch_size):
            yield photos[:, :, inner, inner]

    def select(self, index: Tensor) -> "PhotoFiles":
        """The photos at `index` (int64 (M,) or bool (N,)); labels and names stay as they are."""
        index = torch.arange(len(self))[index]
        boxes = None if self.boxes is None else self.boxes[index]
        files = tuple(self.files[i] for i in index.tolist())
        return replace(self, files=files, labels=self.labels[index], boxes=boxes)

    def load(self, index: Tensor | None = None, progress: bool = False) -> Tensor:
        """Decode photos into memory, for small sets.

        Args:
            index: which, int64 (M,) or bool (N,); all if None.
            progress: show a bar.

        Returns:
            uint8 (M, 3, S, S) with S = size + 2 margin.
        """
        chosen = torch.arange(len(self))
        chosen = (chosen if index is None else chosen[index]).tolist()
        side = self.size + 2 * self.margin
        out = torch.empty((len(chosen), 3, side, side), dtype=torch.uint8)
        for row, i in enumerate(tqdm(chosen, desc="photos", disable=None if progress else True)):
            out[row] = self[i][0]
        return out


def require_decoders(photos: PhotoFiles) -> None:
    """Open the first photo of each ending that may need a decoder of its own.

    Raises:
        HorkdError: if there is none, before anything is trained on the others.
    """
    firsts = {ending(file): file for file in reversed(photos.files)}
    for file in (firsts[found] for found in (".heic", ".heif", ".hif", ".avif") if found in firsts):
        try:
            _opened(photos.root / file).close()
        except OSError:  # gone or damaged, which is said when it is looked at
            continue
