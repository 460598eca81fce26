"""Pictures of the notebooks: log-Mel patches, Fig. 1 and 4 in our own drawing, temperature and passes, other rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
from fmuc.figures import COLOURS, class_label, colour, figure, marker, styled
from fmuc.records import Record
from fmuc.tables import title
from fmuc.teaching import replay
from fmuc.uncertainty import pass_statistics, temperature_softmax

RIGHT, WRONG, GREY, LIGHT = "#009E73", "#D55E00", "#767676", "#9CC9E3"
VERDICTS = {"right": RIGHT, "wrong": WRONG, "not known": "#999999"}
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

INK, FILL, NET = "#444444", "#F4F4F4", "#FFF3D6"
TOP, MIDDLE, BOTTOM, HEIGHT = 2.3, 1.3, 0.3, 0.62  # one unit is a little less than an inch at double width


@styled
def fixmatch_diagram(ax: Axes, pictures: Pictures = None) -> Axes:
    """Fig. 1: the unlabelled part of a step of FixMatch; ``pictures``: (F, T) of "example", "weak" and "strong"."""
    return _diagram(ax, pictures or {}, COLOURS["FM"], "CNN420", "softmax", f"largest output\n≥ {FM.threshold:g} ?")


@styled
def fmuc_diagram(ax: Axes, pictures: Pictures = None) -> Axes:
    """Fig. 4: the same for FMUC: N dropout passes, temperature, mean minus standard deviation."""
    return _diagram(ax, pictures or {}, COLOURS["FMUC"], f"CNN420, dropout\nN = {FMUC.passes} passes",
                    f"softmax\n(logits / {FMUC.temperature:g})", f"mean − std of the\npasses > {FMUC.threshold:g} ?")


def _diagram(ax: Axes, pictures: Mapping[str, np.ndarray], colour: str, net: str, softmax: str, rule: str) -> Axes:
    """Weak view -> network, softmax and rule -> pseudo-label -> target of the strong view's prediction."""
    boxes = {  # x, y, width, text and fill
        "example": (0.45, MIDDLE, 0.9, "unlabelled\nexample", FILL),
        "weak": (1.7, TOP, 1.0, "weak\naugmentation", FILL),
        "net": (3.0, TOP, 1.15, net, NET),
        "softmax": (4.3, TOP, 0.95, softmax, FILL),
        "rule": (5.7, TOP, 1.25, rule, FILL),
        "pseudo-label": (7.35, TOP, 1.05, "pseudo-label\n(one-hot)", FILL),
        "nothing": (5.7, MIDDLE, 0.9, "not used in\nthis step", "white"),
        "strong": (1.7, BOTTOM, 1.0, "strong\naugmentation", FILL),
        "same net": (3.0, BOTTOM, 1.15, "CNN420", NET),
        "output": (4.3, BOTTOM, 0.95, "softmax", FILL),
        "loss": (7.35, BOTTOM, 1.05, "cross-entropy", FILL),
    }
    arrows = [("example", "weak", INK, ""), ("example", "strong", INK, ""), ("weak", "net", colour, ""),
              ("net", "softmax", colour, ""), ("softmax", "rule", colour, ""), ("rule", "pseudo-label", colour, "yes"),
              ("rule", "nothing", INK, "no"), ("strong", "same net", INK, ""), ("same net", "output", INK, ""),
              ("output", "loss", INK, "prediction"), ("pseudo-label", "loss", colour, "target")]
    drawn = {name: _box(ax, *box, pictures.get(name)) for name, box in boxes.items()}
    for start, end, shade, text in arrows:
        (x, y), (to_x, to_y) = boxes[start][:2], boxes[end][:2]
        ax.add_patch(FancyArrowPatch((x, y), (to_x, to_y), patchA=drawn[start], patchB=drawn[end], arrowstyle="-|>",
                                     mutation_scale=8, shrinkA=0, shrinkB=1, color=shade, linewidth=1.1, zorder=1.5))
        level = y == to_y
        ax.text((x + to_x) / 2 + 0.05 * (not level), (y + to_y) / 2 + 0.05 * level, text, color=shade,
                ha="center" if level else "left", va="bottom" if level else "center")
    ax.plot([3.0, 3.0], [TOP, BOTTOM], ":", color=INK, linewidth=0.9, zorder=0)
    ax.text(3.0, MIDDLE, "  same weights", va="center", color=INK)
    ax.set(xlim=(-0.05, 7.95), ylim=(-0.5, 2.7), aspect="equal")
    ax.set_axis_off()
    return ax


def _box(ax: Axes, x: float, y: float, width: float, text: str, fill: str, picture: np.ndarray | None
         ) -> FancyBboxPatch:
    """A box with its text, or a picture with the text below."""
    left, bottom = x - width / 2, y - HEIGHT / 2
    box = FancyBboxPatch((left, bottom), width, HEIGHT, boxstyle="round,pad=0,rounding_size=0.06", facecolor=fill,
                         edgecolor=INK, linewidth=0.8, zorder=2)
    ax.add_patch(box)
    if picture is None:
        ax.text(x, y, text, ha="center", va="center", linespacing=1.25)
    else:
        ax.imshow(picture, origin="lower", aspect="auto", cmap="magma", zorder=3,
                  extent=(left, left + width, bottom, bottom + HEIGHT)).set_clip_path(box)
        ax.text(x, bottom - 0.05, text, ha="center", va="top")
    return box


# --- temperature and passes ---

REGIONS = {"kept by the line alone": "#56B4E9", "kept by the box alone": "#E69F00", "kept by both": "#CC79A7"}
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


# --- replayed rules ---

_OUTCOME_COLOURS = (RIGHT, WRONG, "#80CEB9", "#EAAE80")  # of ``replay.OUTCOMES``


@styled
def laboratory(scores: replay.Scores, selection: Selection) -> Figure:
    """One rule on the scores of one epoch: its trade-off curve and point, and what happens to all patches of known
    class. The figure that the widget redraws."""
    fig, (plane, bars) = figure("double", columns=2, aspect=0.75)
    curve = 100 * replay.trade_off(scores, selection)
    curve = curve[curve["quantity"] >= 1000 / len(scores.truth)]  # of fewer than ten patches quality is noise
    line = plane.plot(curve["quantity"], curve["quality"], color=GREY, linewidth=1.0, label="threshold moves")
    marks = []
    for variant, rule in TABLE_1.items():
        y, x = replay.summary(scores, rule)[["quality", "quantity"]]
        marks += plane.plot(x, y, marker(variant), color=colour(variant), fillstyle="none", markersize=4,
                            label=variant)
    found = replay.summary(scores, selection)
    this = plane.plot(found["quantity"], found["quality"], "o", color="black",
                      label=f"this rule, threshold {selection.threshold:g}")
    plane.set(xlabel="pseudo-label quantity (%)", ylabel="pseudo-label quality (%)", xlim=(-2, 102))
    plane.legend(handles=[*line, *this], loc="lower left")  # below the curve, which falls
    fig.legend(handles=marks, loc="outside lower center", ncols=4, title_fontsize=6.5,
               title="hollow, on the left: the rules of Table I on these scores")
    counts = found[list(replay.OUTCOMES)]
    drawn = bars.barh(range(len(counts)), counts, color=_OUTCOME_COLOURS)
    bars.bar_label(drawn, fontsize=6.5, padding=2)
    bars.margins(x=0.12)
    bars.set_yticks(range(len(counts)), counts.index)
    bars.invert_yaxis()
    bars.set(xlabel=f"patches after epoch {scores.epoch}")
    return fig


@styled
def reliability_diagram(ax: Axes, parts: Mapping[str, tuple[np.ndarray, np.ndarray]], name: str) -> Axes:
    """Accuracy against confidence, bin by bin, of ``parts``: by variant (confidence, correct), each (K,). The area of a
    dot is the share of the variant's patches in its bin."""
    ax.plot([0, 100], [0, 100], color=GREY, linewidth=0.8, linestyle=":")
    for variant, (confidence, correct) in parts.items():
        bins = metrics.reliability(confidence, correct).query("n > 0")
        ax.scatter(100 * bins["confidence"], 100 * bins["accuracy"], s=4 + 120 * bins["n"] / max(1, bins["n"].sum()),
                   color=colour(variant), alpha=0.8, linewidths=0, clip_on=False, zorder=3)
        ax.plot([], [], "o", color=colour(variant), label=variant)
    ax.set(xlabel="confidence (%)", ylabel="right (%)", xlim=(0, 100), ylim=(0, 100), title=name)
    ax.legend(loc="upper left")
    return ax


@styled
def table1_replay(ax: Axes, rows: pd.DataFrame, dataset: str) -> Axes:
    """:func:`replay.against_training`: a hollow mark is a rule on one net's scores, the filled one its own net's;
    the line between them is what training with the rule changed. :func:`fmuc.figures.row_legend` names the marks."""
    for variant in rows.index:
        x, y = (100 * rows.loc[variant, [("replayed", m), ("trained", m)]].to_numpy() for m in ("quantity", "quality"))
        style = {"marker": marker(variant), "color": colour(variant), "linestyle": "none"}
        ax.plot(x, y, color=colour(variant), linewidth=0.7)
        ax.plot(x[0], y[0], fillstyle="none", **style)
        ax.plot(x[1], y[1], **style)
    for fill, label in (("none", "replayed"), ("full", "trained")):
        ax.plot([], [], "o", color=GREY, fillstyle=fill, label=label)
    ax.set(xlabel="pseudo-label quantity (%)", ylabel="pseudo-label quality (%)", title=title(dataset))
    ax.margins(0.1)
    ax.legend(loc="best")
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
        picture.set_title(f"{class_label(row['label'])}, truth {class_label(row['truth'])}")
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
