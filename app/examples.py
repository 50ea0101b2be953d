"""Example pictures for the demo, drawn by the code below.

A visitor who has no picture at hand clicks one of these. They are drawings, neither photographs
nor data-set images, and the same every time, because their noise comes from fixed seeds.
Coordinates are pixels of a 256-pixel picture, with y downwards.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

SIDE = 256
_SCALE = 4  # drawn this much larger, then shrunk: smooth edges
_FULL = SIDE * _SCALE

_Colour = tuple[int, int, int]
_Pair = tuple[float, float]
_Points = Sequence[_Pair]


@dataclass(frozen=True)
class Example:
    """A picture to click on.

    Attributes:
        name: what it shows, for a caption.
        label: its CIFAR-100 class, or None if it is none of them.
        draw: makes the picture, RGB and 256 pixels wide and high.
    """

    name: str
    label: str | None
    draw: Callable[[], Image.Image]


# Shapes: masks at full scale, white inside.


def _scaled(points: _Points) -> list[tuple[float, float]]:
    return [(x * _SCALE, y * _SCALE) for x, y in points]


def _polygons(*outlines: _Points) -> Image.Image:
    mask = Image.new("L", (_FULL, _FULL))
    for points in outlines:
        ImageDraw.Draw(mask).polygon(_scaled(points), fill=255)
    return mask


def _oval(x: float, y: float, rx: float, ry: float) -> Image.Image:
    mask = Image.new("L", (_FULL, _FULL))
    ImageDraw.Draw(mask).ellipse(_scaled([(x - rx, y - ry), (x + rx, y + ry)]), fill=255)
    return mask


def _ring(x: float, y: float, radius: float, width: float) -> Image.Image:
    outer, inner = radius + width / 2, radius - width / 2
    return ImageChops.subtract(_oval(x, y, outer, outer), _oval(x, y, inner, inner))


def _boxes(*boxes: tuple[float, float, float, float], radius: float = 0) -> Image.Image:
    mask = Image.new("L", (_FULL, _FULL))
    for x0, y0, x1, y1 in boxes:
        corners = _scaled([(x0, y0), (x1, y1)])
        ImageDraw.Draw(mask).rounded_rectangle(corners, radius * _SCALE, fill=255)
    return mask


def _strokes(width: float, *lines: _Points) -> Image.Image:
    mask = Image.new("L", (_FULL, _FULL))
    for points in lines:
        ImageDraw.Draw(mask).line(_scaled(points), 255, round(width * _SCALE), joint="curve")
    return mask


def _blur(mask: Image.Image, radius: float, strength: float = 1.0) -> Image.Image:
    small = mask.reduce(_SCALE).filter(ImageFilter.GaussianBlur(radius))
    return small.point(lambda level: level * strength).resize((_FULL, _FULL))


# Colours to paste through a shape, and light.


def _ramp(*colours: _Colour, across: bool = False, span: _Pair = (0, SIDE)) -> Image.Image:
    """Colours evenly spaced over `span`, from top to bottom or from left to right."""
    strip = _blend(np.arange(SIDE)[:, None] + 0.5, np.linspace(*span, len(colours)), colours)
    strip = strip.transpose(Image.Transpose.TRANSPOSE) if across else strip
    return strip.resize((_FULL, _FULL), Image.Resampling.BILINEAR)


def _glow(x: float, y: float, reach: float, *colours: _Colour) -> Image.Image:
    """Colours evenly spaced from (x, y) outwards over `reach`."""
    v, u = np.mgrid[:SIDE, :SIDE] + 0.5
    small = _blend(np.hypot(u - x, v - y), np.linspace(0, reach, len(colours)), colours)
    return small.resize((_FULL, _FULL))


def _blend(at: np.ndarray, stops: np.ndarray, colours: Sequence[_Colour]) -> Image.Image:
    channels = [np.interp(at, stops, levels) for levels in zip(*colours, strict=True)]
    return Image.fromarray(np.stack(channels, -1).round().astype(np.uint8))


def _studio() -> Image.Image:
    return _ramp((255, 255, 255), (250, 250, 250), (234, 234, 236))


def _shadow(image: Image.Image, shape: Image.Image, depth: float = 0.5, blur: float = 6) -> None:
    image.paste((40, 38, 45), mask=_blur(shape, blur, depth))


def _shine(image: Image.Image, x: float, y: float, rx: float, ry: float, strength: float) -> None:
    image.paste((255, 255, 255), mask=_blur(_oval(x, y, rx, ry), min(rx, ry) / 3, strength))


def _texture(
    image: Image.Image, area: Image.Image, seed: int, cell: tuple[int, int], depth: float
) -> None:
    """Lighten and darken `area` in random patches of `cell` (width, height) pixels."""
    shape = SIDE // cell[1], SIDE // cell[0]
    noise = np.random.default_rng(seed).normal(128, depth, shape)
    patches = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
    patches = patches.resize((_FULL, _FULL), Image.Resampling.BICUBIC).convert("RGB")
    image.paste(ImageChops.overlay(image, patches), mask=area)


def _finish(image: Image.Image) -> Image.Image:
    """The picture at its final size, with the grain of a camera."""
    pixels = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS), np.float32)
    noise = np.random.default_rng(0).normal(0, 2, (SIDE, SIDE, 1))
    return Image.fromarray((pixels + noise).round().clip(0, 255).astype(np.uint8))


# Pictures.


def _orange() -> Image.Image:
    image = _studio()
    _shadow(image, _oval(132, 220, 86, 13))
    body = _oval(128, 130, 94, 91)
    image.paste(_glow(98, 96, 165, (255, 184, 62), (250, 146, 20), (190, 84, 4)), mask=body)
    _texture(image, body, seed=3, cell=(3, 3), depth=9)
    image.paste((120, 110, 30), mask=_blur(_oval(140, 66, 9, 7), 2, 0.9))
    _shine(image, 92, 92, 18, 14, 0.55)
    return _finish(image)


def _pear() -> Image.Image:
    image = _studio()
    _shadow(image, _oval(132, 228, 66, 11))
    neck = _polygons([(95, 84), (165, 84), (172, 106), (196, 150), (60, 150), (86, 106)])
    body = ImageChops.lighter(_oval(128, 164, 70, 66), _oval(130, 84, 36, 42))
    rounded = _blur(ImageChops.lighter(body, neck), 7)  # no corner where the parts meet
    body = rounded.point(lambda level: 255 * (level > 127))
    image.paste(_glow(102, 140, 140, (226, 222, 92), (176, 190, 50), (90, 110, 16)), mask=body)
    _texture(image, body, seed=5, cell=(4, 4), depth=7)
    image.paste((92, 62, 30), mask=_strokes(7, [(130, 46), (132, 30), (142, 12)]))
    _shine(image, 98, 146, 11, 24, 0.5)
    return _finish(image)


def _petals(number: int, length: float, turn: float) -> list[_Points]:
    t = np.linspace(0, 1, 25)
    along = length * np.concatenate([t, t[::-1]])
    side = 15 * np.sin(np.pi * t**0.8)
    side = np.concatenate([-side, side[::-1]])
    found = []
    for angle in 2 * np.pi * np.arange(number) / number + turn:
        s, c = np.sin(angle), np.cos(angle)
        found.append(list(zip(128 + along * s + side * c, 122 - along * c + side * s, strict=True)))
    return found


def _sunflower() -> Image.Image:
    image = _ramp((92, 150, 214), (150, 190, 226), (70, 120, 46), (44, 88, 28))
    _texture(image, _boxes((0, 130, 256, 256)), seed=7, cell=(16, 16), depth=20)
    image.paste((60, 120, 36), mask=_strokes(12, [(128, 128), (132, 256)]))
    back, front = _petals(21, 108, 0.0), _petals(21, 94, 0.15)
    image.paste((236, 166, 6), mask=_polygons(*back))
    image.paste((250, 196, 14), mask=_polygons(*back[::2]))
    _shadow(image, _polygons(*front), 0.25, 3)
    image.paste((252, 206, 28), mask=_polygons(*front))
    image.paste((255, 222, 50), mask=_polygons(*front[::2]))
    core = _oval(128, 122, 43, 43)
    image.paste(_glow(128, 122, 44, (96, 62, 20), (60, 34, 12), (92, 48, 8)), mask=core)
    _texture(image, core, seed=8, cell=(3, 3), depth=40)
    return _finish(image)


def _mushroom() -> Image.Image:
    image = _ramp((60, 88, 44), (48, 74, 34), (66, 56, 30))
    _texture(image, _boxes((0, 0, 256, 256)), seed=21, cell=(8, 8), depth=34)
    _shadow(image, _oval(132, 232, 50, 10), 0.8)
    stem = _polygons([(108, 120), (148, 120), (156, 226), (140, 236), (114, 236), (98, 226)])
    flesh = (176, 160, 130), (246, 238, 216), (220, 206, 176), (140, 122, 94)
    image.paste(_ramp(*flesh, across=True, span=(98, 158)), mask=stem)
    image.paste((70, 40, 20), mask=ImageChops.darker(_blur(_oval(128, 128, 60, 20), 6, 0.7), stem))
    cap = ImageChops.darker(_oval(128, 128, 100, 98), _boxes((0, 0, 256, 126)))
    cap = ImageChops.lighter(cap, _oval(128, 126, 100, 20))
    image.paste(_glow(100, 60, 140, (222, 160, 100), (170, 100, 50), (92, 46, 18)), mask=cap)
    _texture(image, cap, seed=22, cell=(8, 8), depth=12)
    _shine(image, 96, 66, 20, 10, 0.4)
    return _finish(image)


def _plain() -> Image.Image:
    image = _ramp((84, 146, 220), (150, 194, 236), (214, 230, 242), span=(0, 140))
    for x, y, rx in ((60, 52, 50), (180, 36, 70), (210, 84, 46), (110, 96, 60)):
        _shine(image, x, y, rx, 9, 0.7)
    field = _boxes((0, 140, 256, 256))
    image.paste(_ramp((150, 158, 76), (176, 172, 70), (126, 140, 44), span=(140, 256)), mask=field)
    _texture(image, field, seed=16, cell=(32, 4), depth=16)
    _texture(image, _boxes((0, 180, 256, 256)), seed=17, cell=(4, 8), depth=16)
    return _finish(image)


def _rocket() -> Image.Image:
    image = _ramp((28, 74, 160), (88, 146, 216), (170, 206, 238))
    for x, y, r in ((128, 250, 40), (96, 252, 34), (160, 252, 34), (128, 226, 24)):
        image.paste((250, 246, 240), mask=_blur(_oval(x, y, r, r), 8, 0.95))
    flame = _blur(_polygons([(114, 184), (142, 184), (132, 240), (124, 240)]), 2)
    image.paste(_ramp((255, 250, 190), (255, 160, 40), span=(186, 236)), mask=flame)
    fins = _polygons([(110, 150), (146, 150), (168, 196), (88, 196)])
    image.paste(_ramp((206, 52, 50), (140, 24, 26), across=True, span=(88, 168)), mask=fins)
    hull = [(128, 14), (140, 34), (147, 62), (147, 186), (109, 186), (109, 62), (116, 34)]
    white = (150, 156, 166), (255, 255, 255), (226, 228, 232), (120, 124, 134)
    image.paste(_ramp(*white, across=True, span=(109, 147)), mask=_polygons(hull))
    image.paste((30, 32, 40), mask=_boxes((109, 84, 147, 92), (109, 140, 147, 148)))
    return _finish(image)


def _bicycle() -> Image.Image:
    image = _studio()
    _shadow(image, _oval(128, 206, 112, 6), 0.4)
    rear, front, crank, seat, head = (62, 154), (194, 154), (120, 156), (100, 86), (172, 84)
    for x, y in (rear, front):
        spokes = [(46 * np.sin(a), 46 * np.cos(a)) for a in np.pi * np.arange(12) / 12]
        lines = [[(x - u, y - v), (x + u, y + v)] for u, v in spokes]
        image.paste((150, 152, 158), mask=_strokes(1, *lines))
        image.paste((24, 24, 28), mask=_ring(x, y, 48, 7))
        image.paste((170, 172, 178), mask=_ring(x, y, 43, 2))
        image.paste((60, 60, 66), mask=_oval(x, y, 5, 5))
    frame = [(96, 72), seat, crank, rear, seat, head, crank], [(166, 62), head, front]
    image.paste((190, 28, 34), mask=_strokes(8, *frame))
    image.paste((30, 24, 22), mask=_polygons([(74, 64), (120, 66), (116, 72), (92, 76), (74, 72)]))
    image.paste((40, 40, 46), mask=_strokes(5, [(150, 66), (166, 62), (184, 56), (192, 66)]))
    image.paste((60, 60, 66), mask=_ring(*crank, 13, 4))
    image.paste((50, 50, 56), mask=_strokes(4, [crank, (134, 178), (126, 178), (144, 178)]))
    return _finish(image)


def _keyboard() -> Image.Image:
    image = _ramp((186, 140, 96), (150, 104, 64))
    _texture(image, _boxes((0, 0, 256, 256)), seed=20, cell=(64, 2), depth=9)
    _shadow(image, _oval(130, 192, 122, 10))
    case = _boxes((6, 64, 250, 192), radius=8)
    image.paste(_ramp((70, 70, 76), (30, 30, 34), span=(64, 196)), mask=case)
    cells = [(row, k) for row in range(5) for k in range(14) if row < 4 or not 4 <= k <= 9]
    at = [(14 + 16.4 * k, 74 + 22.5 * row) for row, k in cells]
    keys = [(79, 164, 176, 183), *((x, y, x + 14, y + 19) for x, y in at)]  # the space bar, others
    tops = [(x0 + 1.5, y0 + 1, x1 - 1.5, y1 - 4) for x0, y0, x1, y1 in keys]
    image.paste((18, 18, 20), mask=_boxes(*keys, radius=3))
    image.paste((100, 100, 108), mask=_boxes(*tops, radius=3))
    return _finish(image)


def _rainbow() -> Image.Image:
    image = _ramp((96, 150, 214), (190, 214, 236))
    colours = (220, 40, 40), (245, 140, 30), (250, 225, 50), (60, 170, 70), (50, 110, 210)
    for k, colour in enumerate((*colours, (110, 60, 170))):
        image.paste(colour, mask=_ring(128, 220, 140 - 14 * k, 14))
    return _finish(image)


def _code() -> Image.Image:
    """A square of black and white cells, like those that telephones read; it says nothing."""
    dark = np.random.default_rng(3).random((21, 21)) < 0.5
    for i, j in ((0, 0), (0, 14), (14, 0)):
        dark[i : i + 7, j : j + 7] = True
        dark[i + 1 : i + 6, j + 1 : j + 6] = False
        dark[i + 2 : i + 5, j + 2 : j + 5] = True
    image = _ramp((250, 250, 246), (244, 244, 240))
    cells = [(23 + 10 * j, 23 + 10 * i) for i, j in np.argwhere(dark).tolist()]
    image.paste((20, 20, 22), mask=_boxes(*((x, y, x + 10, y + 10) for x, y in cells)))
    return _finish(image)


EXAMPLES: tuple[Example, ...] = (
    Example("a sunflower", "sunflower", _sunflower),
    Example("a rocket", "rocket", _rocket),
    Example("a pear", "pear", _pear),
    Example("an orange", "orange", _orange),
    Example("a mushroom", "mushroom", _mushroom),
    Example("a plain", "plain", _plain),
    Example("a bicycle", "bicycle", _bicycle),
    Example("a keyboard", "keyboard", _keyboard),
    Example("a rainbow", None, _rainbow),
    Example("a square code", None, _code),
)
