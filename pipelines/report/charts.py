"""Small pictures as SVG: shapes only, stretched to their box; words and numbers stay HTML.

Text inside a stretched SVG would be unreadable on a phone, so captions and scales are the
template's. Colours are CSS classes, so that light and dark are one file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 600.0, 120.0


@dataclass(frozen=True)
class Point:
    """x: UTC epoch seconds. y: a count."""

    x: float
    y: float


@dataclass(frozen=True)
class Bar:
    """parts: (CSS class, count) from the bottom up. title: what a pointer sees."""

    title: str
    parts: Sequence[tuple[str, float]]


def line(points: Sequence[Point], *, label: str, start_s: float, end_s: float) -> Markup:
    """A step line of `points` (ascending x) between two instants; y from zero to the highest."""
    if not points:
        return _svg(label, Markup(""))
    top = max(point.y for point in points) or 1.0
    xs = [_scaled(point.x, start_s, end_s) for point in points]
    ys = [HEIGHT - point.y / top * HEIGHT * 0.94 for point in points]
    path = f"M{xs[0]:.1f},{ys[0]:.1f}" + "".join(
        f"H{x:.1f}V{y:.1f}" for x, y in zip(xs[1:], ys[1:], strict=True)
    )
    area = f"{path}H{WIDTH:.1f}V{HEIGHT}H{xs[0]:.1f}Z"
    return _svg(
        label,
        Markup('<path class="area" d="{}"/><path class="line" d="{}"/>').format(
            area, f"{path}H{WIDTH:.1f}"
        ),
    )


def bars(groups: Sequence[Bar], *, label: str, limit: float | None = None) -> Markup:
    """Stacked bars of equal width, in order; `limit` draws a line across at that height."""
    highest = max((sum(count for _, count in bar.parts) for bar in groups), default=0.0)
    top = max(highest, limit or 0.0) or 1.0
    step = WIDTH / max(1, len(groups))
    drawn = [_bar(bar, index * step, step, HEIGHT * 0.94 / top) for index, bar in enumerate(groups)]
    if limit is not None:
        y = HEIGHT - limit * HEIGHT * 0.94 / top
        drawn.append(
            Markup('<path class="limit" d="M0,{}H{}"/>').format(f"{y:.1f}", f"{WIDTH:.0f}")
        )
    return _svg(label, Markup("").join(drawn))


def _bar(bar: Bar, x: float, step: float, scale: float) -> Markup:
    bottom, shapes = HEIGHT, [Markup("<title>{}</title>").format(bar.title)]
    for css, count in bar.parts:
        height = count * scale
        bottom -= height
        shapes.append(
            Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"/>').format(
                css, f"{x:.2f}", f"{bottom:.2f}", f"{max(0.6, step * 0.86):.2f}", f"{height:.2f}"
            )
        )
    return Markup("<g>{}</g>").format(Markup("").join(shapes))


def _scaled(x: float, start_s: float, end_s: float) -> float:
    return min(1.0, max(0.0, (x - start_s) / max(1e-9, end_s - start_s))) * WIDTH


def _svg(label: str, shapes: Markup) -> Markup:
    return Markup(
        '<svg viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(f"{WIDTH:.0f}", f"{HEIGHT:.0f}", escape(label), shapes)
