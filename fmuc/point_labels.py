"""Texts beside points of a plot: each hides as little as can be and, if it can be, is nearest to its own point."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

_SIZE = 6  # points
_NEAR, _LEADER = 11, "#999999"  # points: a label farther away has a line to its point
_DISTANCES, _ANGLES = (7, 11, 16, 22, 30, 40), np.deg2rad(range(0, 360, 30))  # points; 0 to the right


def label_points(ax: Axes, points: Sequence[tuple[str, float, float]], colour: Callable[[str], str]) -> None:
    """A label at each (text, x, y) in ``colour(text)`` that hides no marker, no line, no other label and not the legend
    or, where there is no such place, as few of them as can be."""
    ax.figure.draw_without_rendering()
    pixels = ax.figure.dpi / 72  # per point
    taken = [ax.get_legend().get_window_extent(), *_markers(ax, pixels)]
    strokes = list(_strokes(ax, pixels))
    inside = ax.bbox.padded(-_SIZE * pixels)  # the panels beside this one may still make it a little narrower
    places = [ax.transData.transform((x, y)) for _, x, y in points]
    for number, (text, x, y) in enumerate(points):
        measure = ax.text(x, y, text, fontsize=_SIZE)
        size = measure.get_window_extent().size
        measure.remove()
        chosen, least = None, None
        for distance, box in _candidates(places[number], size, pixels):
            gaps = [_gap(box, place) for place in places]
            out = not (inside.containsx(box.x0) and inside.containsx(box.x1))
            flaws = (out, box.count_overlaps(taken), box.count_overlaps(strokes), gaps[number] > min(gaps))
            if least is None or flaws < least:
                chosen, least = (distance, box), flaws
            if not any(flaws):
                break
        distance, box = chosen
        taken.append(box.padded(pixels))
        leader = {"arrowstyle": "-", "color": _LEADER, "linewidth": 0.4} if distance > _NEAR else None
        offset = (np.array([box.x0, (box.y0 + box.y1) / 2]) - places[number]) / pixels
        ax.annotate(text, (x, y), xytext=offset, textcoords="offset points", ha="left", va="center", fontsize=_SIZE,
                    color=colour(text), arrowprops=leader)


def _markers(ax: Axes, pixels: float) -> Iterator[Bbox]:
    """The boxes of all markers; a value that does not exist has none."""
    for line in ax.lines:
        half = (line.get_markersize() / 2 + 1) * pixels  # with its edge
        points = line.get_xydata()
        for point in ax.transData.transform(points[np.isfinite(points).all(axis=1)]):
            yield Bbox([point - half, point + half])


def _strokes(ax: Axes, pixels: float) -> Iterator[Bbox]:
    """Small boxes along all lines, two points apart."""
    for line in ax.lines:
        corners = ax.transData.transform(line.get_xydata()) if line.get_linestyle() != "None" else np.empty((0, 2))
        for start, end in pairwise(corners):
            if np.isfinite([start, end]).all():
                steps = 2 + int(np.hypot(*(end - start)) / (2 * pixels))
                for point in np.linspace(start, end, steps):
                    yield Bbox([point - pixels, point + pixels])


def _candidates(place: np.ndarray, size: np.ndarray, pixels: float) -> Iterator[tuple[float, Bbox]]:
    """Distance in points and box in pixels of a label, nearest first: beside the point, above and below it."""
    for distance, angle in product(_DISTANCES, _ANGLES):
        offset = distance * np.array([np.cos(angle), np.sin(angle)]) * pixels
        sides = (0.5 * (1 - np.sign(round(offset[0]))),)  # 0: label on the right, 0.5: centred, 1: on the left
        for side in sides if abs(np.sin(angle)) < 0.8 else (*sides, 0.25, 0.75):
            corner = place + offset - size * (side, 0.5)
            yield distance, Bbox([corner, corner + size])


def _gap(box: Bbox, point: np.ndarray) -> float:
    """Distance of a point from a box, 0 inside."""
    return float(np.hypot(*np.maximum(0, np.maximum(box.min - point, point - box.max))))
