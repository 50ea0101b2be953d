"""Pieces of the page as HTML and SVG: curves, neighbours, distances. Pure functions of numbers.

Text takes the page's colour and so follows its light and dark look; every picture has a text for
those who do not see it. Names of classes are escaped: they may come from anybody's model file.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from torch import Tensor

from app.pictures import enlarged

#: Role -> (name, colour, dashes). At least 3:1 against white and against the dark page.
LOOKS = {
    "teacher": ("teacher, full resolution", "#0072B2", ""),
    "teacher small": ("teacher fed the small image", "#0072B2", "6 4"),
    "student": ("student", "#D55E00", ""),
    "alone": ("undistilled: the same network, labels only", "#767676", "2 3"),
}
_WIDTH, _HEIGHT = 420, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 14, 40

STYLE = """
<style>
.horkd figure { margin: 0; }
.horkd svg { width: 100%; height: auto; display: block; font: 13px system-ui, sans-serif; }
.horkd .pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(270px, 1fr));
  gap: 1rem; }
.horkd .tiles { display: flex; flex-wrap: wrap; gap: .5rem; }
.horkd .tiles figure { width: 92px; font-size: 12px; line-height: 1.3; overflow-wrap: anywhere; }
.horkd .tiles img, .horkd .seen img { width: 100%; image-rendering: pixelated; border-radius: 4px; }
.horkd .seen { display: grid; grid-template-columns: 1fr 1fr; gap: .75rem; max-width: 480px; }
.horkd .pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr));
  gap: 1rem .9rem; }
.horkd .pairs figure > div { display: grid; grid-template-columns: 1fr 1fr; gap: 6px; }
.horkd .pairs img { width: 100%; image-rendering: pixelated; border-radius: 4px; }
.horkd .pairs figcaption { font-size: 13px; line-height: 1.4; }
.horkd h4 { margin: .75rem 0 .35rem; font-size: 1rem; }
.horkd p { margin: .35rem 0; }
.horkd .legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: 13px; }
.horkd .legend svg { display: inline; width: 30px; height: 10px; }
.horkd .hint { border: 2px solid #B45309; border-radius: 6px; padding: .5rem .75rem;
  margin: .5rem 0; }
</style>
"""


def page(*parts: str) -> str:
    """Pieces together, with their style."""
    return f'{STYLE}<div class="horkd">{"".join(parts)}</div>'


def hint(text: str) -> str:
    """A remark that must not be overlooked."""
    return f'<div class="hint" role="note">{escape(text)}</div>'


def image(pixels: Tensor, alt: str, side: int = 96) -> str:
    """A picture inside the page itself.

    Args:
        pixels: uint8 (3, S, S), shown with visible pixels.
        alt: what it shows.
        side: in pixels.
    """
    file = io.BytesIO()
    enlarged(pixels, side).save(file, "PNG")
    code = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{escape(alt, quote=True)}" src="data:image/png;base64,{code}">'


@dataclass(frozen=True)
class Curve:
    """One line of a figure.

    Attributes:
        role: one of `LOOKS`.
        values: size in pixels -> percent.
        marked: sizes with a dot: those that networks were trained at.
    """

    role: str
    values: Mapping[int, float]
    marked: Sequence[int] = ()


def curves(title: str, axis: str, lines: Sequence[Curve], current: int) -> str:
    """A figure of percentages by resolution, the current one marked."""
    sizes = sorted({s for line in lines for s in line.values})
    first, last = sizes[0], max(sizes[-1], sizes[0] + 1)

    def x(size: float) -> float:
        return _LEFT + (size - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)

    def y(percent: float) -> float:
        return _TOP + (1 - percent / 100) * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for percent in (0, 25, 50, 75, 100):
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(percent):.1f}" y2="{y(percent):.1f}"'
            ' stroke="currentColor" stroke-opacity=".18"/>'
            f'<text x="{_LEFT - 6}" y="{y(percent) + 4:.1f}" text-anchor="end">{percent}</text>'
        )
    every = max(1, round(len(sizes) / 8))
    for size in sizes[::-1][::every]:
        parts.append(
            f'<text x="{x(size):.1f}" y="{_HEIGHT - _BOTTOM + 17}" text-anchor="middle">{size}'
            "</text>"
        )
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 5}" text-anchor="middle">'
        "resolution (pixels)</text>"
        f'<text x="12" y="{_HEIGHT / 2 - 12}" text-anchor="middle" '
        f'transform="rotate(-90 12 {_HEIGHT / 2 - 12})">{escape(axis)}</text>'
        f'<line x1="{x(current):.1f}" x2="{x(current):.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" '
        'stroke="currentColor" stroke-opacity=".55" stroke-width="1.5"/>'
    )
    for line in lines:
        parts.append(_line(line, x, y, current))
    said = "; ".join(
        f"{LOOKS[line.role][0]} {line.values[current]:.0f} %"
        for line in lines
        if current in line.values
    )
    label = escape(f"{title}. At {current} pixels: {said}.", quote=True)
    return (
        f"<figure><h4>{escape(title)}</h4>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}" '
        f'fill="currentColor">{"".join(parts)}</svg></figure>'
    )


def _line(line: Curve, x, y, current: int) -> str:
    _, colour, dashes = LOOKS[line.role]
    points = " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in sorted(line.values.items()))
    out = (
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.2" '
        f'stroke-dasharray="{dashes}"/>'
    )
    for size in set(line.marked) & set(line.values):
        place = f'cx="{x(size):.1f}" cy="{y(line.values[size]):.1f}"'
        out += f'<circle {place} r="3.2" fill="{colour}"/>'
    if current in line.values:
        out += (
            f'<circle cx="{x(current):.1f}" cy="{y(line.values[current]):.1f}" r="6" fill="none" '
            f'stroke="{colour}" stroke-width="2.2"/>'
        )
    return out


def legend(roles: Sequence[str], more: str = "") -> str:
    """What the lines are."""
    items = []
    for role in roles:
        name, colour, dashes = LOOKS[role]
        items.append(
            f'<span><svg viewBox="0 0 30 10" aria-hidden="true"><line x1="0" x2="30" y1="5" y2="5" '
            f'stroke="{colour}" stroke-width="3" stroke-dasharray="{dashes}"/></svg> '
            f"{escape(name)}</span>"
        )
    return f'<div class="legend">{"".join(items)}</div><p>{escape(more)}</p>'


def tiles(title: str, items: Sequence[tuple[Tensor, str, str]]) -> str:
    """A row of small pictures: (uint8 (3, S, S), alt text, caption) each."""
    figures = "".join(
        f"<figure>{image(pixels, alt)}<figcaption>{escape(caption)}</figcaption></figure>"
        for pixels, alt, caption in items
    )
    return f'<h4>{escape(title)}</h4><div class="tiles">{figures}</div>'


def pairs(items: Sequence[tuple[Tensor, Tensor, str, Sequence[str]]]) -> str:
    """A grid of image pairs: (sharp, small, true class, what is said of it) each."""
    figures = []
    for sharp, small, name, said in items:
        both = image(sharp, f"{name} at full resolution") + image(small, f"{name}, small")
        lines = "".join(f"<br>{escape(line)}" for line in said)
        figures.append(
            f"<figure><div>{both}</div><figcaption><strong>{escape(name)}</strong>{lines}"
            "</figcaption></figure>"
        )
    return f'<div class="pairs">{"".join(figures)}</div>'


def distances(names: Sequence[str], rows: Mapping[str, Sequence[float]]) -> str:
    """Distances to class centres, one line a class, one dot a model.

    Args:
        names: of classes.
        rows: role -> a distance for each, in units of that model's mean over all classes.
    """
    step, left = 24, 128
    height = _TOP + step * len(names) + _BOTTOM
    values = [v for row in rows.values() for v in row]
    low, high = min(0.5, *values) * 0.95, max(1.0, *values) * 1.05

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (_WIDTH - left - _RIGHT)

    parts = []
    for i, name in enumerate(names):
        y = _TOP + step * (i + 0.5)
        ends = [x(row[i]) for row in rows.values()]
        parts.append(
            f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{escape(_short(name))}</text>'
            f'<line x1="{min(ends):.1f}" x2="{max(ends):.1f}" y1="{y}" y2="{y}" '
            'stroke="currentColor" stroke-opacity=".35" stroke-width="2"/>'
        )
        for role, row in rows.items():
            colour = LOOKS[role][1]
            parts.append(f'<circle cx="{x(row[i]):.1f}" cy="{y}" r="6" fill="{colour}"/>')
    bottom = _TOP + step * len(names)
    for tick in (0.4, 0.6, 0.8, 1.0, 1.2):
        if low <= tick <= high:
            parts.append(
                f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{_TOP}" y2="{bottom}" '
                'stroke="currentColor" stroke-opacity=".18"/>'
                f'<text x="{x(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>'
            )
    parts.append(
        f'<text x="{(left + _WIDTH - _RIGHT) / 2}" y="{bottom + 34}" text-anchor="middle">'
        "distance (mean over all classes = 1)</text>"
    )
    said = "; ".join(
        f"{name}: " + ", ".join(f"{role} {row[i]:.2f}" for role, row in rows.items())
        for i, name in enumerate(names)
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" fill="currentColor" '
        f'aria-label="{escape("Distances to class centres. " + said, quote=True)}">'
        f"{''.join(parts)}</svg>"
    )


def _short(name: str, length: int = 17) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def scale(similarity: float, threshold: float | None) -> str:
    """Where a similarity lies between −1 and 1, and where the threshold."""

    def x(value: float) -> float:
        return 10 + (min(max(value, -1), 1) + 1) / 2 * 400

    parts = [
        '<line x1="10" x2="410" y1="34" y2="34" stroke="currentColor" stroke-opacity=".4" '
        'stroke-width="3"/>',
        f'<circle cx="{x(similarity):.1f}" cy="34" r="8" fill="#D55E00"/>',
        f'<text x="{x(similarity):.1f}" y="18" text-anchor="middle">{similarity:.2f}</text>',
        '<text x="10" y="60">-1: opposite</text>',
        '<text x="410" y="60" text-anchor="end">1: alike</text>',
    ]
    said = f"Similarity {similarity:.2f}"
    if threshold is not None:
        said += f", threshold {threshold:.2f}"
        parts.append(
            f'<line x1="{x(threshold):.1f}" x2="{x(threshold):.1f}" y1="24" y2="44" '
            'stroke="currentColor" stroke-width="2.5"/>'
            f'<text x="{x(threshold):.1f}" y="80" text-anchor="middle">threshold {threshold:.2f}'
            "</text>"
        )
    return (
        f'<svg viewBox="0 0 420 86" role="img" aria-label="{said}" fill="currentColor">'
        f"{''.join(parts)}</svg>"
    )
