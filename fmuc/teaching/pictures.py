"""Pictures of the notebooks: log-Mel patches, Fig. 1 and 4 in our own drawing, temperature and passes, other rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import librosa
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch
from torch import Tensor

from fmuc import metrics
from fmuc.config import Features, Selection
from fmuc.experiments import FM, FMUC, TABLE_1
from fmuc.features import FeatureCache
from fmuc.figures import COLOURS, class_label, colour, figure, label_points, marker, styled
from fmuc.records import Record
from fmuc.tables import title
from fmuc.teaching import replay
from fmuc.uncertainty import EntropyParts, pass_statistics, temperature_softmax

RIGHT, WRONG, GREY, LIGHT = "#009E73", "#D55E00", "#767676", "#9CC9E3"
VERDICTS = {"right": RIGHT, "wrong": WRONG, "not known": "#999999"}
Point = tuple[float, float]
Pictures = Mapping[str, np.ndarray] | None

# --- log-Mel patches ---

TICKS = (250, 500, 1000, 2000, 4000, 8000)  # Hz


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
    seconds, length = features.hop / features.sample_rate, spectrogram.shape[1]
    frames = min(features.patch_frames, length)  # a shorter clip is one patch, filled up
    count = length // frames
    names = {(patch + 0.5) * frames: f"{'patch ' if count <= 8 else ''}{patch + 1}" for patch in range(count)}
    for patch in range(1, count + 1):
        axes.axvline(patch * frames * seconds, color="white", linestyle="--")
    if length > count * frames:
        axes.axvspan(count * frames * seconds, length * seconds, color="white", alpha=0.7, linewidth=0)
        names[(count * frames + length) / 2] = "dropped"
    for frame, name in names.items():
        axes.text(frame * seconds, 1.02, name, transform=axes.get_xaxis_transform(), ha="center", va="bottom",
                  fontsize=6)
    axes.set_xlim(0, length * seconds)
    return image


# --- Fig. 1 and Fig. 4 ---

HEIGHT, TOP, MIDDLE, BOTTOM = 0.62, 2.3, 1.3, 0.3  # one unit is a little less than an inch at double width
NET_X, SOFTMAX_X, RULE_X, LABEL_X = 2.95, 4.15, 5.6, 7.3
INK, FILL, NET = "#444444", "#F4F4F4", "#FFF3D6"


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
            color=INK)
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
    prediction = _chain(ax, strong, BOTTOM, lower, INK)
    _box(ax, (LABEL_X, TOP), 1.05, "pseudo-label\n(one-hot)", FILL)
    _box(ax, (LABEL_X, BOTTOM), 1.05, "cross-entropy", FILL)
    _arrow(ax, kept, (LABEL_X - 0.525, TOP), colour, "yes")
    _arrow(ax, prediction, (LABEL_X - 0.525, BOTTOM), INK, "prediction")
    _arrow(ax, (LABEL_X, TOP - HEIGHT / 2), (LABEL_X, BOTTOM + HEIGHT / 2), colour, "target")
    _arrow(ax, (RULE_X, TOP - HEIGHT / 2), (RULE_X, MIDDLE + 0.2), INK, "no")
    ax.text(RULE_X, MIDDLE, "not used in\nthis step", ha="center", va="center", color=INK)
    ax.plot([NET_X, NET_X], [TOP - HEIGHT / 2, BOTTOM + HEIGHT / 2], ":", color=INK, linewidth=0.9, zorder=0)
    ax.text(NET_X + 0.06, MIDDLE, "same weights", ha="left", va="center", color=INK)


def _views(ax: Axes, pictures: Mapping[str, np.ndarray]) -> tuple[Point, Point]:
    """An unlabelled example and its two views; returns the right ends of the weak and the strong view."""
    _box(ax, (0.5, MIDDLE), 0.9, "unlabelled\nexample", FILL, picture=pictures.get("example"))
    ends = []
    for view, y, sign in (("weak", TOP, 1), ("strong", BOTTOM, -1)):
        ends.append(_box(ax, (1.75, y), 1.0, f"{view}\naugmentation", FILL, picture=pictures.get(view)))
        corner = f"angle,angleA={sign * 90},angleB=180,rad=5"
        text = 0.2 if sign < 0 and "example" in pictures else 0  # height of the text below the picture
        _arrow(ax, (0.5, MIDDLE + sign * (HEIGHT / 2 + text)), (1.25, y), INK, bend=corner)
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
                             facecolor=fill, edgecolor=INK, linewidth=0.8, zorder=2)
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


# --- temperature and passes ---

REGIONS = {"kept by the line alone": "#56B4E9", "kept by the box alone": "#E69F00", "kept by both": "#0072B2"}
CLOUDS = ("white", "#E69F00", "#CC79A7")  # of the toy's classes, on a map
_TEMPERATURES = (WRONG, "#0072B2", "#56B4E9", RIGHT)


@styled
def temperature_bars(ax: Axes, logits: Tensor, temperatures: Sequence[float]) -> Axes:
    """The same logits (C,) as probabilities at each temperature, Eq. (1)."""
    width = 0.82 / len(temperatures)
    for number, (t, shade) in enumerate(zip(temperatures, _TEMPERATURES, strict=False)):
        place = np.arange(len(logits)) + width * (number - (len(temperatures) - 1) / 2)
        ax.bar(place, temperature_softmax(logits, t), width, color=shade, label=f"T = {t:g}")
    ax.set(xlabel="class", ylabel="probability", ylim=(0, 1), title=f"the same {len(logits)} logits")
    ax.set_xticks(range(len(logits)))
    ax.legend()
    return ax


@styled
def lead_curves(ax: Axes, temperatures: Sequence[float], rivals: int = 10, threshold: float = 0.9) -> Axes:
    """Probability of a class whose logit leads ``rivals`` that tie, and the lead that reaches the threshold."""
    lead = torch.linspace(0, 20, 201)
    logits = torch.cat([lead[:, None], torch.zeros(len(lead), rivals)], dim=1)
    for t, shade in zip(temperatures, _TEMPERATURES, strict=False):
        ax.plot(lead, temperature_softmax(logits, t)[:, 0], color=shade, label=f"T = {t:g}")
        needed = t * np.log(rivals * threshold / (1 - threshold))  # Eq. (1) solved for the lead
        if 0 <= needed <= 20:
            ax.plot(needed, threshold, "o", color=shade, markersize=4)
            ax.plot([needed, needed], [0, threshold], ":", color=shade, linewidth=0.8)
    ax.axhline(threshold, color="black", linestyle="--", linewidth=0.8)
    ax.text(0.2, threshold + 0.01, f"threshold {threshold:g}", va="bottom", fontsize=6.5)
    ax.set(xlabel="lead of the winning logit", ylabel="its probability", xlim=(0, 20), ylim=(0, 1.03),
           title=f"lead needed over {rivals} tied rival{'s' * (rivals != 1)}")
    return ax


@styled
def pass_cloud(ax: Axes, used: Tensor, more: Tensor, names: Sequence[str], truth: int = -1) -> Axes:
    """Class probabilities of the passes that a rule looks at, (N, C), as black dots and their mean ± std as a bar;
    ``more`` passes (M, C) as light dots; the true class is shaded, if known."""
    place, rng = np.arange(len(names)), np.random.default_rng(0)
    if truth >= 0:
        ax.axvspan(truth - 0.5, truth + 0.5, color="#EAEAEA", zorder=0)
    for cloud, shade, size in ((more, LIGHT, 2), (used, "black", 3.5)):
        jitter = rng.uniform(-0.3, 0.3, tuple(cloud.shape))
        ax.plot(place + jitter, cloud, ".", color=shade, markersize=size, rasterized=True)
    std, mean = torch.std_mean(used, dim=0, correction=0)
    ax.errorbar(place + 0.42, mean, std, fmt="_", color=COLOURS["FM"])
    ax.set_xticks(place, [name.replace("_", " ") for name in names], rotation=60)
    ax.set(ylim=(-0.03, 1.03), title=f"N = {len(used)}: mean − std = {float((mean - std)[mean.argmax()]):.2f}")
    return ax


@styled
def score_by_passes(ax: Axes, cloud: Tensor, label: str, colour: str, *, draws: int = 400) -> Axes:
    """mean − std of one class against the number of passes N: median and middle 90 % of ``draws`` random choices of N
    of the M passes of the ``cloud`` (M,)."""
    values, rng = cloud.double().numpy(), np.random.default_rng(0)
    numbers = [n for n in (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100) if 2 * n <= len(values)]
    order = rng.permuted(np.tile(np.arange(len(values)), (draws, 1)), axis=1)
    chosen = [values[order[:, :n]] for n in numbers]
    low, middle, high = np.transpose([np.percentile(c.mean(1) - c.std(1), (5, 50, 95)) for c in chosen])
    ax.fill_between(numbers, low, high, color=colour, alpha=0.2, linewidth=0)
    ax.plot(numbers, middle, ".-", color=colour, label=label)
    ax.set_xscale("log")
    shown = [n for n in (1, 2, 5, 10, 20, 50, 100) if n in numbers]
    ax.set_xticks(shown, [str(n) for n in shown])
    ax.minorticks_off()
    ax.set(xlabel="number of passes N", ylabel="mean − std", ylim=(0, 1.03))
    return ax


def winners(logits: Tensor, truth: Tensor, temperature: float) -> pd.DataFrame:
    """Passes (N, B, C) and true classes (B,), -1 where unknown -> mean and std of each winning class, and whether it
    is right: columns mean, std, pseudo-label."""
    mean, std = pass_statistics(logits, temperature)
    largest, label = mean.max(dim=1)
    verdict = np.where(truth < 0, "not known", np.where(label == truth, "right", "wrong"))
    return pd.DataFrame({"mean": largest, "std": std.gather(1, label[:, None])[:, 0], "pseudo-label": verdict})


@styled
def mean_std_plane(ax: Axes, rows: pd.DataFrame, threshold: float = 0.9, mean_threshold: float = 0.7,
                   std_threshold: float = 0.05) -> list:
    """:func:`winners` in the (mean, std) plane, where mean − std > ``threshold`` is one line and two thresholds are a
    box (§V-A; UPS, Rizve et al. 2021). Returns what the legend needs."""
    mean, std = np.meshgrid(np.linspace(0, 1, 1001), np.linspace(0, 0.3, 601))
    kept = (mean - std > threshold) + 2 * ((mean > mean_threshold) & (std < std_threshold))
    kept[std > np.sqrt(mean * (1 - mean))] = 0  # numbers in [0, 1] cannot spread so far
    shades = np.array([(0, 0, 0, 0), *(to_rgba(shade, 0.4) for shade in REGIONS.values())])
    ax.imshow(shades[kept], origin="lower", extent=(0, 1, 0, 0.3), aspect="auto", interpolation="nearest")
    line = np.linspace(0, 1, 1001)
    bound = ax.plot(line, np.sqrt(line * (1 - line)), ":", color="black", linewidth=0.8, label="largest possible std")
    ax.plot(line, line - threshold, color="#0072B2", linewidth=1.2)
    ax.plot([mean_threshold, mean_threshold, 1], [0, std_threshold, std_threshold], "--", color="#8A5A00",
            linewidth=1.2)
    dots = [ax.plot(part["mean"], part["std"], ".", color=VERDICTS[verdict], markersize=3, alpha=0.8,
                    label=f"{verdict} pseudo-label")[0] for verdict, part in rows.groupby("pseudo-label")]
    by_line = rows["mean"] - rows["std"] > threshold
    by_box = (rows["mean"] > mean_threshold) & (rows["std"] < std_threshold)
    ax.set(xlabel="mean of the winning class", ylabel="standard deviation", xlim=(0.1, 1), ylim=(0, 0.3),
           title=f"line: {_share(rows, by_line)}; box: {_share(rows, by_box)}")
    ax.grid(False)
    return [*dots, *bound, *(Patch(color=to_rgba(shade, 0.4), label=name) for name, shade in REGIONS.items())]


def _share(rows: pd.DataFrame, kept: pd.Series) -> str:
    known = (rows["pseudo-label"] != "not known") & kept
    right = f", {(rows['pseudo-label'][known] == 'right').mean():.0%} right" if known.any() else ""
    return f"{int(kept.sum())}{right}"


@styled
def plane_map(ax: Axes, values: Tensor, extent: float, points: Tensor, classes: Tensor, limit: float, title: str
              ) -> AxesImage:
    """Values (side²,) over the toy's plane (see :func:`helpers.plane`), with its points (n, 2) by class."""
    side = round(len(values) ** 0.5)
    image = ax.imshow(values.reshape(side, side), origin="lower", extent=(-extent, extent) * 2, vmin=0, vmax=limit,
                      interpolation="bilinear")
    ax.scatter(*points.T, s=1.6, c=[CLOUDS[c] for c in classes], linewidths=0)
    ax.set(title=title, xlabel="first coordinate", ylabel="second coordinate", xlim=(-extent, extent),
           ylim=(-extent, extent))
    ax.grid(False)
    return image


@styled
def entropy_dots(ax: Axes, parts: EntropyParts, right: Sequence[bool]) -> Axes:
    """Aleatoric against epistemic part of every example, (B,), by whether its pseudo-label is ``right`` (B,)."""
    right = np.asarray(right)
    for verdict, which in (("right", right), ("wrong", ~right)):
        ax.plot(parts.aleatoric[which], parts.epistemic[which], ".", color=VERDICTS[verdict], markersize=3, alpha=0.8,
                label=f"{verdict} pseudo-label")
    ax.set(xlabel="aleatoric part (nats)", ylabel="epistemic part (nats)", xlim=(0, None),
           ylim=(0, 1.25 * ax.get_ylim()[1]))  # room for the legend above the dots
    ax.legend(loc="upper left")
    return ax


@styled
def variance_ratios(ax: Axes, variances: Mapping[str, Sequence[Tensor]], expected: Sequence[Tensor]) -> Axes:
    """Variance before each BatchNorm divided by the ``expected`` one, layer by layer: the line is the median of the
    layer's channels, the band its middle half. ``variances`` by what they were measured with."""
    for (name, layers), shade, mark in zip(variances.items(), (WRONG, "#0072B2"), "so", strict=False):
        ratios = [(found.cpu() / wanted.cpu()).double().numpy() for found, wanted in zip(layers, expected, strict=True)]
        low, middle, high = np.transpose([np.percentile(ratio, (25, 50, 75)) for ratio in ratios])
        place = np.arange(1, len(ratios) + 1)
        ax.fill_between(place, low, high, color=shade, alpha=0.2, linewidth=0)
        ax.plot(place, middle, marker=mark, color=shade, markersize=3, linewidth=1.0, label=name)
    ax.axhline(1, color=GREY, linestyle=":", linewidth=0.8)
    ax.set(xlabel="BatchNorm layer, input to output")
    if len(variances) > 1:
        ax.legend()
    return ax


@styled
def companions(ax: Axes, alone: Tensor, together: Tensor) -> Axes:
    """Confidence of each example (B,) with running statistics against those with the statistics of R different batches
    (R, B): a vertical line from the least to the largest, a dot for the mean."""
    ax.plot([0, 1], [0, 1], ":", color=GREY, linewidth=0.8)
    ax.vlines(alone, together.min(dim=0).values, together.max(dim=0).values, color=LIGHT, linewidth=0.7)
    ax.plot(alone, together.mean(dim=0), ".", color=COLOURS["FMUC"], markersize=2.5)
    ax.set(xlabel="confidence, running statistics", ylabel="the same with batch statistics", xlim=(0, 1), ylim=(0, 1))
    return ax


# --- replayed rules ---

SCORE_STYLES = {score: {"color": shade, "marker": sign, "markersize": 3, "linewidth": 1.0}
                for score, shade, sign in zip(replay.SCORES, (WRONG, "#0072B2", "#56B4E9", RIGHT, "#CC79A7"), "osD^v",
                                              strict=True)}
_OUTCOME_COLOURS = (RIGHT, WRONG, "#80CEB9", "#EAAE80")  # of ``replay.OUTCOMES``


@styled
def laboratory(scores: replay.Scores, selection: Selection) -> Figure:
    """One rule on the scores of one epoch: its trade-off curve and point, risk and coverage, and what happens to all
    patches of known class. The figure that the widget redraws."""
    fig, (plane, risk, bars) = figure("double", columns=3, aspect=1.05)
    curve = 100 * replay.trade_off(scores, selection)
    line = plane.plot(curve["quantity"], curve["quality"], color=GREY, linewidth=1.0, label="threshold moves")
    marks = []
    for variant, rule in TABLE_1.items():
        y, x = replay.summary(scores, rule)[["quality", "quantity"]]
        marks += plane.plot(x, y, marker(variant), color=colour(variant), fillstyle="none", markersize=4,
                            label=variant)
    quality, quantity = replay.summary(scores, selection)[["quality", "quantity"]]
    this = plane.plot(quantity, quality, "o", color="black", label=f"this rule, threshold {selection.threshold:g}")
    plane.set(xlabel="pseudo-label quantity (%)", ylabel="pseudo-label quality (%)", xlim=(-2, 102))
    plane.legend(handles=[*line, *this], loc="lower left")  # below the curve, which falls
    fig.legend(handles=marks, loc="outside lower center", ncols=4, title_fontsize=6.5,
               title="hollow, on the left: the rules of Table I on these scores")
    risk_coverage(risk, scores, selection.temperature, selection.passes)
    counts = replay.outcomes(scores, selection)
    drawn = bars.barh(range(len(counts)), counts, color=_OUTCOME_COLOURS)
    bars.bar_label(drawn, fontsize=6.5, padding=2)
    bars.margins(x=0.12)
    bars.set_yticks(range(len(counts)), counts.index)
    bars.invert_yaxis()
    bars.set(xlabel=f"patches after epoch {scores.epoch}")
    return fig


@styled
def risk_coverage(ax: Axes, scores: replay.Scores, temperature: float, passes: int) -> Axes:
    """Risk against coverage of every uncertainty score, over the patches of known class."""
    labels, values = replay.uncertainty_scores(scores, temperature, passes)
    known = scores.truth >= 0
    for name in values:
        curve = 100 * replay.risk_coverage(values[name][known].to_numpy(), (labels == scores.truth)[known])
        ax.plot(curve["coverage"], curve["risk"], label=name, **SCORE_STYLES[name] | {"marker": ""})
    ax.set(xlabel="coverage (% of patches, surest first)", ylabel="risk (% wrong)", xlim=(0, 100), ylim=(0, None))
    ax.set_ylim(top=1.5 * max(ax.get_ylim()[1], 1e-9))  # room for the legend above the curves
    ax.legend(loc="upper left", fontsize=6, labelspacing=0.2)
    return ax


@styled
def auroc_curves(ax: Axes, table: pd.DataFrame, name: str) -> Axes:
    """AUROC of every uncertainty score over the stored epochs, from :func:`replay.score_table` with a column
    epoch; epochs on a logarithmic axis, the dotted line is chance. The legend is the figure's: panels have no room."""
    for score, rows in table.groupby("score", sort=False):
        ax.plot(rows["epoch"], 100 * rows["AUROC"], label=score, **SCORE_STYLES[score])
    ax.axhline(50, color=GREY, linewidth=0.8, linestyle=":")
    _epoch_axis(ax, table["epoch"])
    ax.set(ylabel="AUROC (%)" if ax.get_subplotspec().is_first_col() else "", title=class_label(name))
    return ax


def _epoch_axis(ax: Axes, epochs: Iterable[int]) -> None:
    known = sorted(set(epochs))
    ax.set_xscale("log")
    ax.set_xticks(known, [str(epoch) for epoch in known])
    ax.minorticks_off()
    ax.set(xlabel="epoch")


@styled
def reliability_diagram(ax: Axes, parts: Mapping[str, tuple[np.ndarray, np.ndarray]], name: str) -> Axes:
    """Accuracy against confidence, bin by bin, of ``parts``: by variant (confidence, correct), each (K,). The area of a
    dot is the share of the variant's patches in its bin."""
    ax.plot([0, 100], [0, 100], color=GREY, linewidth=0.8, linestyle=":")
    for variant, (confidence, correct) in parts.items():
        _reliability_dots(ax, metrics.reliability(confidence, correct), variant, 120)
    ax.set(xlabel="confidence (%)", ylabel="right (%)", xlim=(0, 100), ylim=(0, 100), title=name)
    ax.legend(loc="upper left")
    return ax


def _reliability_dots(ax: Axes, table: pd.DataFrame, variant: str, area: float) -> None:
    """A dot for each bin that holds something; all of them together have ``area`` square points and a bit."""
    table = table[table["n"] > 0]
    ax.scatter(100 * table["confidence"], 100 * table["accuracy"], s=4 + area * table["n"] / max(1, table["n"].sum()),
               color=colour(variant), alpha=0.8, linewidths=0, clip_on=False, zorder=3)
    ax.plot([], [], "o", color=colour(variant), label=variant)


@styled
def reliability_over_epochs(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Reliability diagrams after every stored epoch, above of all, below of the selected pseudo-labels; ``tables``: by
    variant what :func:`replay.reliabilities` gives. Dots as in :func:`reliability_diagram`."""
    epochs = sorted(set.union(*(set(table["epoch"]) for table in tables.values())))
    fig, axes = figure("double", rows=2, columns=len(epochs), aspect=1.25, sharex=True, sharey=True, squeeze=False)
    for row, part in zip(axes, ("all", "selected"), strict=True):
        for ax, epoch in zip(row, epochs, strict=True):
            ax.plot([0, 100], [0, 100], color=GREY, linewidth=0.8, linestyle=":")
            for variant, table in tables.items():
                _reliability_dots(ax, table[(table["epoch"] == epoch) & (table["part"] == part)], variant, 50)
            ax.set(xlabel="confidence (%)", ylabel=f"{part}: right (%)", xlim=(0, 100), ylim=(0, 100),
                   xticks=(0, 50, 100))
            ax.label_outer()
    for ax, epoch in zip(axes[0], epochs, strict=True):
        ax.set_title(f"epoch {epoch}")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(tables))
    return fig


@styled
def calibration_curves(ax: Axes, tables: dict[str, pd.DataFrame], part: str) -> Axes:
    """Expected calibration error with its interval over the stored epochs, one line per variant
    (:func:`replay.calibration`); epochs on a logarithmic axis."""
    epochs: set[int] = set()
    for variant, table in tables.items():
        rows = table[(table["part"] == part) & (table["n"] > 0)]
        epochs.update(rows["epoch"])
        ax.fill_between(rows["epoch"], 100 * rows["low"], 100 * rows["high"], color=colour(variant), alpha=0.2,
                        linewidth=0)
        ax.plot(rows["epoch"], 100 * rows["error"], marker="o", color=colour(variant), label=variant)
    _epoch_axis(ax, epochs)
    ax.set(ylabel="ECE (points)", title=f"{part} pseudo-labels")
    ax.set_ylim(0, 1.3 * ax.get_ylim()[1])  # room for the legend above the bands
    ax.legend(loc="upper left", ncols=2)
    return ax


@styled
def table1_replay(ax: Axes, rows: pd.DataFrame, dataset: str) -> Axes:
    """:func:`replay.against_training`: a hollow mark is a rule on one net's scores, the filled one its own net's;
    the line between them is what training with the rule changed."""
    points = []
    for variant in rows.index:
        x, y = (100 * rows.loc[variant, [("replayed", m), ("trained", m)]].to_numpy() for m in ("quantity", "quality"))
        style = {"marker": marker(variant), "color": colour(variant), "linestyle": "none"}
        ax.plot(x, y, color=colour(variant), linewidth=0.7)
        ax.plot(x[0], y[0], fillstyle="none", **style)
        ax.plot(x[1], y[1], **style)
        if np.isfinite([x[1], y[1]]).all():
            points.append((variant, x[1], y[1]))
    for fill, label in (("none", "replayed"), ("full", "trained")):
        ax.plot([], [], "o", color=GREY, fillstyle=fill, label=label)
    ax.set(xlabel="pseudo-label quantity (%)", ylabel="pseudo-label quality (%)", title=title(dataset))
    ax.margins(0.1)
    ax.legend(loc="best")
    label_points(ax, points, colour)
    return ax


@styled
def patch_and_passes(axes: Sequence[Axes], patch: np.ndarray | None, probabilities: np.ndarray, classes: Sequence[str],
                     row: pd.Series, features: Features) -> Sequence[Axes]:
    """A row of :func:`replay.mistakes`: its normalised log-Mel patch (F, T), if there is one, and the cloud of its
    passes (N, C), a dot per pass and class; the pseudo-label in red, the truth in green."""
    picture, cloud = axes
    if patch is not None:
        image = draw_patch(picture, patch, features, limit=3)
        picture.figure.colorbar(image, ax=picture, label="normalised value")
        picture.set_title(class_label(f"{row['label']}, truth {row['truth']}"))
    else:
        picture.set_axis_off()
    spread = np.linspace(-0.25, 0.25, len(probabilities))
    for number, name in enumerate(classes):
        shade = RIGHT if name == row["truth"] else WRONG if name == row["label"] else GREY
        cloud.plot(100 * probabilities[:, number], number + spread, ".", color=shade, markersize=2.5)
    cloud.set_yticks(range(len(classes)), [class_label(name) for name in classes], fontsize=6)
    cloud.set(xlabel="probability in each pass (%)", xlim=(-3, 103), ylim=(len(classes) - 0.5, -0.5))
    return axes


@styled
def example_patches(record: Record, chosen: Mapping[str, pd.Series], cache: FeatureCache | None) -> Figure:
    """Rows of :func:`replay.mistakes` by what they show, each as :func:`patch_and_passes`, after the last stored
    epoch; without ``cache`` (see :func:`replay.sounds`) the passes alone."""
    scores, temperature = replay.at_epoch(record), record.run.selection.temperature
    fig, axes = figure("double", rows=max(1, len(chosen)), columns=2, aspect=0.35 + 0.017 * len(record.classes),
                       squeeze=False)
    for pair, (kind, row) in zip(axes, chosen.items(), strict=False):
        patch = None if cache is None else cache.normalised(scores.patches[[row["at"]]])[0]
        clouds = temperature_softmax(scores.passes[:, row["at"]], temperature).numpy()
        patch_and_passes(pair, patch, clouds, record.classes, row, record.run.features)
        pair[1].set_title(f"{kind}, T = {temperature:g}")
    return fig
