"""The embedded data set: characters in the twelve DejaVu text faces that matplotlib ships.

Nothing is downloaded. Every image is 32×32 RGB: one character of random face, size, shape,
position and colour over a coloured low-frequency background, with parts of other characters at
the border, and noise. 100 characters are the classes; 40 more appear in no other split and serve
open-set work (verification, identification, retrieval).

The same seed gives the same bytes, whatever the number of threads. Between machines whose
floating-point units round differently single values may differ by one level of 255.
"""

import hashlib
import math
from collections.abc import Sequence
from functools import lru_cache
from io import BytesIO
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from horkd.data.images import Dataset, ImageSet
from horkd.data.source import Source
from horkd.data.unseen import with_unseen
from horkd.errors import HorkdError
from horkd.paths import cache_dir
from horkd.storage import cached

VERSION = 4
"""Raise it with every change to what is drawn: it is part of the cache's file name."""

SIZE = 32
"""Side of the images, in pixels."""

# Chosen so that no two look alike in any face: one script only for A/Α/А, one case only for c/C,
# and no pair that this renderer, which draws every character at the same size, would merge (0/O).
CHARACTERS: tuple[str, ...] = tuple(
    "ABCDEFGHJKLMNOPQRSTUVWXYZabdefght123456789"  # Latin and digits
    "ΓΔΞΠΣΦΨΩΘβδζηλμξω"  # Greek
    "БДЖИЦЧШЪЫЭЮЯЉ"  # Cyrillic
    "&@#%?!§€£¥$¶+=∞√∇∂→←♠♥*«☺~^<"  # signs
)
"""The 100 classes of train, validation and test."""

UNSEEN_CHARACTERS: tuple[str, ...] = tuple(
    "æþƷɮʞЊѢѓђй"  # Latin and Cyrillic
    "ԲԴԶԽՁՃՊՎაბდკლქჩყჰჭ"  # Armenian and Georgian
    "☼♀♂♫♣‡⌘½№{>¿"  # signs
)
"""The 40 classes of the unseen split."""

FACES: tuple[str, ...] = tuple(
    f"DejaVu{family}{style}.ttf"
    for family, styles in {
        "Sans": ("", "-Bold", "-Oblique", "-BoldOblique"),
        "SansMono": ("", "-Bold", "-Oblique", "-BoldOblique"),
        "Serif": ("", "-Bold", "-Italic", "-BoldItalic"),
    }.items()
    for style in styles
)
"""The twelve font files, in matplotlib's `fonts/ttf`."""

MIN_CONTRAST = 0.5
"""Least Euclidean distance of a character's RGB colour from its background's, channels 0 to 1."""

_CANVAS = 64  # masks and geometry: twice SIZE, then averaged 2×2
_EXTENT = 48  # longer side of a character in its mask, in pixels
_CLUTTER = 2  # other characters at the border of every image


def fonts() -> Path:
    """The folder of the typefaces, which come with matplotlib."""
    return Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@lru_cache(maxsize=1)
def glyph_masks() -> torch.Tensor:
    """Coverage of every known character in every face, centred, its longer side 48 pixels.

    Returns:
        uint8 (12, 140, 64, 64), 255 inside; characters as in `CHARACTERS + UNSEEN_CHARACTERS`.

    Raises:
        HorkdError: if matplotlib's fonts are not where they should be.
    """
    folder = fonts()
    known = CHARACTERS + UNSEEN_CHARACTERS
    masks = torch.empty(len(FACES), len(known), _CANVAS, _CANVAS, dtype=torch.uint8)
    for i, face in enumerate(FACES):
        try:
            # By content: given a path that is missing, Pillow takes the system's font of that name.
            file = BytesIO((folder / face).read_bytes())
            font = ImageFont.truetype(file, 96, layout_engine=ImageFont.Layout.BASIC)
        except OSError as error:
            raise HorkdError(f"cannot read {folder / face}: reinstall matplotlib") from error
        for j, character in enumerate(known):
            masks[i, j] = _mask(character, font)
    return masks


def _mask(character: str, font: ImageFont.FreeTypeFont) -> torch.Tensor:
    """uint8 (64, 64): `character` fitted to the canvas."""
    # The box of the ink; font.getbbox would count the advance as well.
    ink, (x, y) = font.getmask2(character, mode="L")
    left, top, right, bottom = (a + b for a, b in zip(ink.getbbox(), (x, y, x, y), strict=True))
    zoom = _EXTENT / max(right - left, bottom - top)
    origin = (_CANVAS - zoom * (left + right)) / 2, (_CANVAS - zoom * (top + bottom)) / 2
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    fitted = font.font_variant(size=font.size * zoom)
    ImageDraw.Draw(canvas).text(origin, character, fill=255, font=fitted)
    return torch.frombuffer(bytearray(canvas.tobytes()), dtype=torch.uint8).view(_CANVAS, _CANVAS)


def render(
    characters: Sequence[str],
    per_class: int,
    seed: int,
    split: str,
    masks: torch.Tensor | None = None,
) -> ImageSet:
    """Draw `per_class` images of each character.

    Images are interleaved: image 0 of every character, then image 1 of every character, and so
    on. Each such round has its own random stream, seeded by (seed, split, round), so a smaller
    set is a prefix of a larger one. The characters at the border are always of `CHARACTERS`, so
    that a set of `CHARACTERS` never shows anything of `UNSEEN_CHARACTERS`.

    Args:
        characters: distinct members of `CHARACTERS` or `UNSEEN_CHARACTERS`; they are the class
            names, and their order gives the labels.
        per_class: images for each character, at least 1.
        seed: any integer.
        split: name of the split; other names give other images.
        masks: what to draw the characters by; `glyph_masks()` by default.

    Returns:
        per_class * len(characters) images, uint8 (N, 3, 32, 32).

    Raises:
        HorkdError: if per_class is below 1, or characters are none, unknown or repeated.
    """
    _check_per_class(per_class)
    position = {c: i for i, c in enumerate(CHARACTERS + UNSEEN_CHARACTERS)}
    unknown = [c for c in characters if c not in position]
    if unknown:
        raise HorkdError(f"no such character in the embedded set: {' '.join(unknown)}")
    if not characters or len(set(characters)) != len(characters):
        raise HorkdError("characters must be distinct, and at least one")
    index = torch.tensor([position[c] for c in characters])
    images = torch.empty(per_class, len(characters), 3, SIZE, SIZE, dtype=torch.uint8)
    for i in range(per_class):
        images[i] = _draw(index, _generator(seed, split, i), masks)
    labels = torch.arange(len(characters)).repeat(per_class)
    return ImageSet(images.flatten(0, 1), labels, tuple(characters))


def _check_per_class(per_class: int) -> None:
    if isinstance(per_class, bool) or not isinstance(per_class, int) or per_class < 1:
        raise HorkdError(f"per_class must be a whole number of at least 1, got {per_class!r}")


def _generator(seed: int, split: str, index: int) -> torch.Generator:
    digest = hashlib.sha256(f"{VERSION}/{seed}/{split}/{index}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))  # it reads 32 bits


def _draw(
    index: torch.Tensor, generator: torch.Generator, masks: torch.Tensor | None = None
) -> torch.Tensor:
    """uint8 (n, 3, 32, 32): one image for each of the characters at `index` (int64 (n,))."""
    coverage = _coverage(index, generator, masks)
    background, colours = _colours(len(index), generator)
    images = _paint(coverage, background, colours, generator)
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def _uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> torch.Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def _coverage(
    index: torch.Tensor, generator: torch.Generator, masks: torch.Tensor | None = None
) -> torch.Tensor:
    """Place each character, and others at the border.

    Returns:
        float (n, 1 + clutter, 32, 32), 0 to 1; layer 0 is the character itself.
    """
    n, layers = len(index), 1 + _CLUTTER
    face = torch.randint(len(FACES), (n, 1), generator=generator).expand(n, layers)
    others = torch.randint(len(CHARACTERS), (n, _CLUTTER), generator=generator)
    drawn = torch.cat([index[:, None], others], dim=1)  # (n, layers)
    masks = glyph_masks() if masks is None else masks
    masks = masks[face, drawn].flatten(0, 1)[:, None].float() / 255

    scale = _uniform(generator, 0.75, 1.05, n, layers)  # longer side: 18 to 25 pixels of 32
    room = 1 - scale[:, 0] * _EXTENT / _CANVAS  # free space on either side, canvas is -1 to 1
    centre = _uniform(generator, -1, 1, n, layers, 2)
    centre[:, 0] *= 0.5 * room[:, None]
    _push_to_border(centre[:, 1:], generator)
    grid = _sampling_grid(scale.flatten(), centre.flatten(0, 1), generator)
    placed = F.grid_sample(masks, grid, mode="bilinear", align_corners=False)
    return F.avg_pool2d(placed, _CANVAS // SIZE).view(n, layers, SIZE, SIZE)


def _push_to_border(centre: torch.Tensor, generator: torch.Generator) -> None:
    """Move centres (n, k, 2) in place to the image's edges (±1) or a little beyond."""
    shape = centre.shape[:2]
    axis = torch.randint(2, (*shape, 1), generator=generator)
    side = 2.0 * torch.randint(2, (*shape, 1), generator=generator) - 1
    centre.scatter_(2, axis, side * _uniform(generator, 1.0, 1.3, *shape, 1))


def _sampling_grid(
    scale: torch.Tensor, centre: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Grid (m, 64, 64, 2) for `grid_sample`: scale (m,), centre (m, 2), random shape.

    A character is stretched, then slanted, then rotated; the grid is the inverse of that, written
    out by element, since a matrix product may round differently with another number of threads.
    """
    m = len(scale)
    angle = _uniform(generator, -math.pi / 15, math.pi / 15, m)  # 12 degrees
    shear = _uniform(generator, -0.3, 0.3, m)
    stretch = torch.exp(_uniform(generator, -0.2, 0.2, m))
    cos, sin = angle.cos(), angle.sin()
    axis = (torch.arange(_CANVAS) + 0.5) * (2 / _CANVAS) - 1
    x = axis[None, None, :] - centre[:, 0, None, None]  # (m, 1, 64)
    y = axis[None, :, None] - centre[:, 1, None, None]  # (m, 64, 1)
    at = (slice(None), None, None)
    upright = cos[at] * x + sin[at] * y  # (m, 64, 64)
    v = cos[at] * y - sin[at] * x
    u = upright - shear[at] * v
    return torch.stack([u / (scale * stretch)[at], v / (scale / stretch)[at]], dim=-1)


def _colours(n: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Background (n, 3) and layer colours (n, 1 + clutter, 3), channels 0 to 1.

    Layer 0, the character, differs from the background by at least `MIN_CONTRAST`.
    """
    background = _uniform(generator, 0.1, 0.9, n, 3)
    clutter = _uniform(generator, 0, 1, n, _CLUTTER, 3)
    candidates = _uniform(generator, 0, 1, n, 8, 3)
    # The far corner of the colour cube always has contrast enough.
    corner = (background < 0.5).float()[:, None]
    candidates = torch.cat([candidates, corner], dim=1)  # (n, 9, 3)
    contrast = (candidates - background[:, None]).square().sum(dim=2).sqrt()
    first = (contrast >= MIN_CONTRAST).to(torch.uint8).argmax(dim=1)
    character = candidates[torch.arange(n), first]
    return background, torch.cat([character[:, None], clutter], dim=1)


def _paint(
    coverage: torch.Tensor,
    background: torch.Tensor,
    colours: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Colour the layers over an uneven background and add noise.

    Args:
        coverage: (n, layers, 32, 32); layer 0 comes on top.
        background: (n, 3).
        colours: (n, layers, 3).
        generator: source of the unevenness and the noise.

    Returns:
        float (n, 3, 32, 32), about 0 to 1, not clipped.
    """
    n = len(coverage)
    coarse = _uniform(generator, -1, 1, n, 3, 4, 4)
    uneven = F.interpolate(coarse, size=(SIZE, SIZE), mode="bicubic", align_corners=False)
    images = background[:, :, None, None] + uneven * _uniform(generator, 0.02, 0.12, n, 1, 1, 1)
    for layer in reversed(range(coverage.shape[1])):
        colour = colours[:, layer, :, None, None]
        images = images + coverage[:, layer, None] * (colour - images)
    noise = torch.randn(n, 3, SIZE, SIZE, generator=generator)
    return images + noise * _uniform(generator, 0.01, 0.05, n, 1, 1, 1)


def load_glyphs(per_class: int = 100, seed: int = 0, cache: str | Path | None = None) -> Dataset:
    """The embedded set, drawn once and then read from the cache.

    Train has `per_class` images of each of the 100 characters, validation a fifth of that (at
    least 5), test two fifths (at least 10), unseen as many as test of each of the 40 others.

    Args:
        per_class: training images of each character, at least 1.
        seed: any integer; other seeds give other images of the same characters.
        cache: folder to keep the set in; default `horkd.paths.cache_dir()`. A folder that cannot
            be written to costs a warning and the next drawing. A damaged file is set aside.

    Raises:
        HorkdError: if per_class is below 1.
    """
    _check_per_class(per_class)
    folder = cache_dir() if cache is None else Path(cache)
    path = folder / f"glyphs-{per_class}-s{seed}-v{VERSION}.safetensors"
    images = cached(
        path,
        _plan(per_class),
        lambda: _draw_splits(per_class, seed),
        "a cache of the embedded set",
    )
    train, validation, test = (
        _labelled(images[split], CHARACTERS) for split in ("train", "validation", "test")
    )
    mean, std = _statistics(train.images)
    unseen = _labelled(images["unseen"], UNSEEN_CHARACTERS)
    return Dataset(
        name="glyphs",
        train=train,
        validation=validation,
        test=test,
        unseen=unseen,
        flip=False,
        mean=mean,
        std=std,
        protocol=with_unseen(unseen),
    )


def _plan(per_class: int) -> dict[str, tuple[tuple[str, ...], int]]:
    """Characters, and images of each, of every split."""
    test = max(2 * per_class // 5, 10)
    return {
        "train": (CHARACTERS, per_class),
        "validation": (CHARACTERS, max(per_class // 5, 5)),
        "test": (CHARACTERS, test),
        "unseen": (UNSEEN_CHARACTERS, test),
    }


def _draw_splits(per_class: int, seed: int) -> dict[str, torch.Tensor]:
    return {
        split: render(characters, count, seed, split).images
        for split, (characters, count) in _plan(per_class).items()
    }


def _labelled(images: torch.Tensor, characters: tuple[str, ...]) -> ImageSet:
    labels = torch.arange(len(characters)).repeat(len(images) // len(characters))
    return ImageSet(images, labels, characters)


def _statistics(
    images: torch.Tensor,
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and standard deviation of each channel of uint8 images, on the scale 0 to 1.

    Computed from counts of the 256 levels: exact, and the same with any number of threads.
    """
    level = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in images.unbind(dim=1):
        share = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean.append(float((share * level).sum()))
        std.append(math.sqrt(float((share * (level - mean[-1]).square()).sum())))
    return tuple(mean), tuple(std)


def _load(name: str, per_class: int | None) -> Dataset:
    return load_glyphs() if per_class is None else load_glyphs(per_class)


def _images(name: str, per_class: int | None, validation: bool) -> int:
    each = per_class or 100
    return len(CHARACTERS) * (each if validation else each + max(5, each // 5))


SOURCE = Source(_load, lambda name: SIZE, _images, classes=len(CHARACTERS), version=VERSION)
