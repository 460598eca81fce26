"""Texts beside points of a plot: each hides nothing and, if it can be, is nearer to its own point than to others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import numpy as np
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

_SIZE = 6  # points
_DISTANCES, _ANGLES = (7, 11, 16, 22, 30, 40), np.deg2rad(range(0, 360, 30))  # points; 0 to the right
_ALIGNMENTS = {0: "left", 0.5: "center", 1: "right"}


def label_points(ax: Axes, points: Sequence[tuple[str, float, float]], colour: Callable[[str], str]) -> None:
    """A label at each (text, x, y) that hides no marker, no other label and not the legend, in ``colour(text)``."""
    ax.figure.draw_without_rendering()
    pixels = ax.figure.dpi / 72  # per point
    taken = [ax.get_legend().get_window_extent(), *_markers(ax, pixels)]
    places = [ax.transData.transform((x, y)) for _, x, y in points]
    for number, (text, x, y) in enumerate(points):
        measure = ax.text(x, y, text, fontsize=_SIZE)
        size = measure.get_window_extent().size
        measure.remove()
        chosen = None
        for offset, side, box in _candidates(places[number], size, pixels):
            if box.count_overlaps(taken) or not (ax.bbox.containsx(box.x0) and ax.bbox.containsx(box.x1)):
                continue
            gaps = [_gap(box, place) for place in places]
            if chosen is None or gaps[number] == min(gaps):
                chosen = offset, side, box
            if gaps[number] == min(gaps):
                break
        offset, side, box = chosen or (offset, side, box)
        taken.append(box)
        ax.annotate(text, (x, y), xytext=offset, textcoords="offset points", fontsize=_SIZE, color=colour(text),
                    va="center", ha=_ALIGNMENTS[side],
                    arrowprops={"arrowstyle": "-", "color": colour(text), "linewidth": 0.4})


def _markers(ax: Axes, pixels: float) -> Iterator[Bbox]:
    """The boxes of all markers; a value that does not exist has none."""
    for line in ax.lines:
        half = line.get_markersize() / 2 * pixels
        points = line.get_xydata()
        for point in ax.transData.transform(points[np.isfinite(points).all(axis=1)]):
            yield Bbox([point - half, point + half])


def _candidates(place: np.ndarray, size: np.ndarray, pixels: float) -> Iterator[tuple[np.ndarray, float, Bbox]]:
    """Offset in points, side (0: label on the right, 0.5: centred, 1: on the left) and box in pixels, nearest first."""
    for distance, angle in product(_DISTANCES, _ANGLES):
        offset = distance * np.array([np.cos(angle), np.sin(angle)])
        side = 0.5 * (1 - np.sign(round(offset[0])))
        corner = place + offset * pixels - size * (side, 0.5)
        yield offset, side, Bbox([corner, corner + size])


def _gap(box: Bbox, point: np.ndarray) -> float:
    """Distance of a point from a box, 0 inside."""
    return float(np.hypot(*np.maximum(0, np.maximum(box.min - point, point - box.max))))
