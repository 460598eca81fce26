"""Pictures of the primer on uncertainty -> axes: temperature, passes, line and box, entropy, BatchNorm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.image import AxesImage
from matplotlib.patches import Patch
from torch import Tensor

from fmuc.figure_files import styled
from fmuc.plots import COLOURS
from fmuc.uncertainty import EntropyParts, pass_statistics, temperature_softmax

VERDICTS = {"right": "#009E73", "wrong": "#D55E00", "not known": "#999999"}
REGIONS = {"kept by the line alone": "#56B4E9", "kept by the box alone": "#E69F00", "kept by both": "#0072B2"}
CLOUDS = ("white", "#E69F00", "#CC79A7")  # of the toy's classes, on a map
_TEMPERATURES = ("#D55E00", "#0072B2", "#56B4E9", "#009E73")
_GREY = "#767676"


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
           title=f"lead that it takes over {rivals} rival{'s' * (rivals != 1)}")
    return ax


@styled
def pass_cloud(ax: Axes, used: Tensor, more: Tensor, names: Sequence[str], truth: int = -1) -> Axes:
    """Class probabilities of the passes that a rule looks at, (N, C), as black dots and their mean ± std as a bar;
    ``more`` passes (M, C) as light dots; the true class is shaded, if known."""
    place, rng = np.arange(len(names)), np.random.default_rng(0)
    if truth >= 0:
        ax.axvspan(truth - 0.5, truth + 0.5, color="#EAEAEA", zorder=0)
    for cloud, shade, size in ((more, "#9CC9E3", 2), (used, "black", 3.5)):
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
    """Values (side²,) over the toy's plane (see :func:`fmuc.teaching.plane`), with its points (n, 2) by class."""
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
    for (name, layers), shade, mark in zip(variances.items(), ("#D55E00", "#0072B2"), "so", strict=False):
        ratios = [(found.cpu() / wanted.cpu()).double().numpy() for found, wanted in zip(layers, expected, strict=True)]
        low, middle, high = np.transpose([np.percentile(ratio, (25, 50, 75)) for ratio in ratios])
        place = np.arange(1, len(ratios) + 1)
        ax.fill_between(place, low, high, color=shade, alpha=0.2, linewidth=0)
        ax.plot(place, middle, marker=mark, color=shade, markersize=3, linewidth=1.0, label=name)
    ax.axhline(1, color=_GREY, linestyle=":", linewidth=0.8)
    ax.set(xlabel="BatchNorm layer, input to output")
    if len(variances) > 1:
        ax.legend()
    return ax


@styled
def companions(ax: Axes, alone: Tensor, together: Tensor) -> Axes:
    """Confidence of each example (B,) with running statistics against those with the statistics of R different batches
    (R, B): a vertical line from the least to the largest, a dot for the mean."""
    ax.plot([0, 1], [0, 1], ":", color=_GREY, linewidth=0.8)
    ax.vlines(alone, together.min(dim=0).values, together.max(dim=0).values, color="#9CC9E3", linewidth=0.7)
    ax.plot(alone, together.mean(dim=0), ".", color=COLOURS["FMUC"], markersize=2.5)
    ax.set(xlabel="confidence, running statistics", ylabel="the same with batch statistics", xlim=(0, 1), ylim=(0, 1))
    return ax
