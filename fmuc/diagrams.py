"""Log-Mel patches as pictures; Fig. 1 and Fig. 4 as our own drawings: how FixMatch and FMUC use unlabelled examples."""

from __future__ import annotations

from collections.abc import Mapping

import librosa
import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from torch import Tensor

from fmuc.config import Features
from fmuc.experiments import FM, FMUC
from fmuc.figure_files import styled
from fmuc.plots import COLOURS

HEIGHT, TOP, MIDDLE, BOTTOM = 0.62, 2.3, 1.3, 0.3  # one unit is a little less than an inch at double width
NET_X, SOFTMAX_X, RULE_X, LABEL_X = 2.95, 4.15, 5.6, 7.3
GREY, FILL, NET = "#444444", "#F4F4F4", "#FFF3D6"
TICKS = (250, 500, 1000, 2000, 4000, 8000)  # Hz
Point = tuple[float, float]
Pictures = Mapping[str, np.ndarray] | None


def draw_patch(axes: Axes, patch: np.ndarray | Tensor, features: Features, *, limit: float | None = None) -> AxesImage:
    """A patch (F, T) over time in seconds and Mel bands labelled in Hz.

    ``limit`` None: log-Mel values in a one-sided scale; else normalised values in a two-sided one from -limit to limit.
    """
    bands, frames = patch.shape
    scale = {"cmap": "magma", "vmin": 0} if limit is None else {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    image = axes.imshow(np.asarray(patch), origin="lower", aspect="auto", interpolation="nearest",
                        extent=(0, frames * features.hop / features.sample_rate, -0.5, bands - 0.5), **scale)
    centres = librosa.mel_frequencies(bands + 2, fmin=0, fmax=features.sample_rate / 2)[1:-1]
    ticks = [hertz for hertz in TICKS if hertz <= centres[-1]]
    axes.set_yticks(np.interp(ticks, centres, np.arange(bands)), [f"{hertz:,}" for hertz in ticks])
    axes.set(xlabel="time (s)", ylabel="Mel band centre (Hz)")
    axes.grid(False)
    return image


def draw_cut(axes: Axes, spectrogram: np.ndarray | Tensor, features: Features) -> AxesImage:
    """A spectrogram (F, frames) with the borders of its patches; a tail that is dropped lies under a veil."""
    image = draw_patch(axes, spectrogram, features)
    seconds = features.hop / features.sample_rate  # of a frame
    length = spectrogram.shape[1]
    frames = min(features.patch_frames, length)  # a shorter clip is one patch, filled up
    count = length // frames
    names = {(patch + 0.5) * frames: f"{'patch ' if count <= 8 else ''}{patch + 1}" for patch in range(count)}
    for patch in range(count):
        axes.axvline((patch + 1) * frames * seconds, color="white", linestyle="--")
    if length > count * frames:
        axes.axvspan(count * frames * seconds, length * seconds, color="white", alpha=0.7, linewidth=0)
        names[(count * frames + length) / 2] = "dropped"
    for frame, name in names.items():
        axes.text(frame * seconds, 1.02, name, transform=axes.get_xaxis_transform(), ha="center", va="bottom",
                  fontsize=6)
    axes.set_xlim(0, length * seconds)
    return image


@styled
def fixmatch_diagram(ax: Axes, pictures: Pictures = None) -> Axes:
    """Fig. 1: the unlabelled part of a step of FixMatch; ``pictures``: (F, T) of "example", "weak" and "strong"."""
    _step(ax, pictures, ("CNN420", "softmax", f"largest output\n≥ {FM.threshold:g} ?"), COLOURS["FM"], sheets=0)
    return ax


@styled
def fmuc_diagram(ax: Axes, pictures: Pictures = None) -> Axes:
    """Fig. 4: the same for FMUC: N dropout passes, temperature, mean minus standard deviation."""
    texts = ("CNN420\nwith dropout", f"softmax\n(logits / {FMUC.temperature:g})",
             f"mean − std of the\npasses > {FMUC.threshold:g} ?")
    _step(ax, pictures, texts, COLOURS["FMUC"], sheets=2)
    ax.text((NET_X + SOFTMAX_X) / 2, TOP + HEIGHT / 2 + 0.2, f"N = {FMUC.passes} passes", ha="center", va="bottom",
            color=GREY)
    return ax


def _step(ax: Axes, pictures: Pictures, texts: tuple[str, str, str], colour: str, sheets: int) -> None:
    """Weak view -> network, softmax and rule (``texts``) -> pseudo-label -> target of the strong view's prediction."""
    ax.set(xlim=(-0.05, 7.95), ylim=(-0.3, 2.95), aspect="equal")
    ax.set_axis_off()
    weak, strong = _views(ax, pictures or {})
    net, softmax, rule = texts
    upper = [(NET_X, 0.9, net, NET, sheets), (SOFTMAX_X, 0.9, softmax, FILL, sheets), (RULE_X, 1.2, rule, FILL, 0)]
    lower = [(NET_X, 0.9, "CNN420", NET, 0), (SOFTMAX_X, 0.9, "softmax", FILL, 0)]
    kept = _chain(ax, weak, TOP, upper, colour)
    prediction = _chain(ax, strong, BOTTOM, lower, GREY)
    _box(ax, (LABEL_X, TOP), 1.05, "pseudo-label\n(one-hot)", FILL)
    _box(ax, (LABEL_X, BOTTOM), 1.05, "cross-entropy", FILL)
    _arrow(ax, kept, (LABEL_X - 0.525, TOP), colour, "yes")
    _arrow(ax, prediction, (LABEL_X - 0.525, BOTTOM), GREY, "prediction")
    _arrow(ax, (LABEL_X, TOP - HEIGHT / 2), (LABEL_X, BOTTOM + HEIGHT / 2), colour, "target")
    _arrow(ax, (RULE_X, TOP - HEIGHT / 2), (RULE_X, MIDDLE + 0.2), GREY, "no")
    ax.text(RULE_X, MIDDLE, "not used in\nthis step", ha="center", va="center", color=GREY)
    ax.plot([NET_X, NET_X], [TOP - HEIGHT / 2, BOTTOM + HEIGHT / 2], ":", color=GREY, linewidth=0.9, zorder=0)
    ax.text(NET_X + 0.06, MIDDLE, "same weights", ha="left", va="center", color=GREY)


def _views(ax: Axes, pictures: Mapping[str, np.ndarray]) -> tuple[Point, Point]:
    """An unlabelled example and its two views; returns the right ends of the weak and the strong view."""
    _box(ax, (0.5, MIDDLE), 0.9, "unlabelled\nexample", FILL, picture=pictures.get("example"))
    ends = []
    for view, y, sign in (("weak", TOP, 1), ("strong", BOTTOM, -1)):
        ends.append(_box(ax, (1.75, y), 1.0, f"{view}\naugmentation", FILL, picture=pictures.get(view)))
        corner = f"angle,angleA={sign * 90},angleB=180,rad=5"
        text = 0.2 if sign < 0 and "example" in pictures else 0  # height of the text below the picture
        _arrow(ax, (0.5, MIDDLE + sign * (HEIGHT / 2 + text)), (1.25, y), GREY, bend=corner)
    return tuple(ends)


def _chain(ax: Axes, start: Point, y: float, boxes: list[tuple], colour: str) -> Point:
    """Boxes (x, width, text, fill, sheets) from left to right, joined by arrows; returns the right end of the last."""
    for x, width, text, fill, sheets in boxes:
        _arrow(ax, start, (x - width / 2, y), colour)
        start = _box(ax, (x, y), width, text, fill, sheets=sheets)
    return start


def _box(ax: Axes, centre: Point, width: float, text: str, fill: str, *, sheets: int = 0,
         picture: np.ndarray | None = None) -> Point:
    """A box with its text (``sheets`` more behind it), or a picture with text below; the middle of its right side."""
    x, y = centre
    left, bottom = x - width / 2, y - HEIGHT / 2
    for shift in 0.06 * np.arange(sheets, -1, -1):
        box = FancyBboxPatch((left + shift, bottom + shift), width, HEIGHT, boxstyle="round,pad=0,rounding_size=0.06",
                             facecolor=fill, edgecolor=GREY, linewidth=0.8, zorder=2)
        ax.add_patch(box)
    if picture is None:
        ax.text(x, y, text, ha="center", va="center", linespacing=1.25)
    else:
        extent = (left, left + width, bottom, bottom + HEIGHT)
        image = ax.imshow(picture, origin="lower", aspect="auto", cmap="magma", zorder=3, extent=extent)
        image.set_clip_path(box)
        ax.set(xlim=(-0.05, 7.95), ylim=(-0.3, 2.95), aspect="equal")  # imshow changes them
        ax.text(x, bottom - 0.05, text.replace("\n", " "), ha="center", va="top",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})
    return x + width / 2 + 0.06 * sheets, y


def _arrow(ax: Axes, start: Point, end: Point, colour: str, text: str = "", bend: str = "arc3") -> None:
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=8, shrinkA=0, shrinkB=1, color=colour,
                                 linewidth=1.1, connectionstyle=bend, zorder=1.5))
    upright = start[0] == end[0]
    x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    ax.text(x + 0.06 * upright, y + 0.05 * (not upright), text, color=colour, ha="left" if upright else "center",
            va="center" if upright else "bottom")
