"""Replayed scores -> axes: trade-off, risk and coverage, reliability, Table I against training, one patch's passes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fmuc import metrics, replay
from fmuc.config import Features, Selection
from fmuc.diagrams import draw_patch
from fmuc.experiments import TABLE_1
from fmuc.feature_cache import FeatureCache
from fmuc.figure_files import figure, styled
from fmuc.plots import MARKERS, class_label, colour
from fmuc.point_labels import label_points
from fmuc.runs import Record
from fmuc.tables import title

SCORE_COLOURS = dict(zip(replay.SCORES, ("#D55E00", "#0072B2", "#56B4E9", "#009E73", "#CC79A7"), strict=True))
_OUTCOME_COLOURS = dict(zip(replay.OUTCOMES, ("#009E73", "#D55E00", "#80CEB9", "#EAAE80"), strict=True))
_SCORE_MARKERS = dict(zip(replay.SCORES, "osD^v", strict=True))
_GREY = "#767676"


@styled
def laboratory(scores: replay.Scores, selection: Selection) -> Figure:
    """One rule on the scores of one epoch: its trade-off curve and point, risk and coverage, and what happens to all
    patches of known class. The figure that the widget redraws."""
    fig, (plane, risk, bars) = figure("double", columns=3, aspect=1.05)
    curve = 100 * replay.trade_off(scores, selection)
    classes = scores.plain.shape[-1]
    chosen = replay.replay(scores, selection)
    quality, quantity = replay.quality_quantity(scores.truth, chosen.labels, chosen.mask, classes)
    line = plane.plot(curve["quantity"], curve["quality"], color=_GREY, linewidth=1.0, label="threshold moves")
    marks = []
    for variant, rule in TABLE_1.items():
        y, x = replay.summary(scores, rule)[["quality", "quantity"]]
        marks += plane.plot(x, y, MARKERS[variant], color=colour(variant), fillstyle="none", markersize=4,
                            label=variant)
    this = plane.plot(100 * quantity, 100 * quality, "o", color="black",
                      label=f"this rule, threshold {selection.threshold:g}")
    plane.set(xlabel="pseudo-label quantity (%)", ylabel="pseudo-label quality (%)", xlim=(-2, 102))
    plane.legend(handles=[*line, *this], loc="lower left")  # below the curve, which falls
    fig.legend(handles=marks, loc="outside lower center", ncols=4, title_fontsize=6.5,
               title="hollow, on the left: the rules of Table I on these scores")
    risk_coverage(risk, scores, selection.temperature, selection.passes)
    counts = replay.outcomes(scores, selection)
    drawn = bars.barh(range(len(counts)), counts, color=[_OUTCOME_COLOURS[name] for name in counts.index])
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
        ax.plot(curve["coverage"], curve["risk"], color=SCORE_COLOURS[name], linewidth=1.0, label=name)
    ax.set(xlabel="coverage (% of patches, surest first)", ylabel="risk (% wrong)", xlim=(0, 100), ylim=(0, None))
    ax.set_ylim(top=1.5 * max(ax.get_ylim()[1], 1e-9))  # room for the legend above the curves
    ax.legend(loc="upper left", fontsize=6, labelspacing=0.2)
    return ax


@styled
def auroc_curves(ax: Axes, table: pd.DataFrame, name: str) -> Axes:
    """AUROC of every uncertainty score over the stored epochs, from :func:`fmuc.replay.score_table` with a column
    epoch; epochs on a logarithmic axis, the dotted line is chance. The legend is the figure's: panels have no room."""
    for score, rows in table.groupby("score", sort=False):
        ax.plot(rows["epoch"], 100 * rows["AUROC"], marker=_SCORE_MARKERS[score], markersize=3, linewidth=1.0,
                color=SCORE_COLOURS[score], label=score)
    ax.axhline(50, color=_GREY, linewidth=0.8, linestyle=":")
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
    ax.plot([0, 100], [0, 100], color=_GREY, linewidth=0.8, linestyle=":")
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
    variant what :func:`fmuc.replay.reliabilities` gives. Dots as in :func:`reliability_diagram`."""
    epochs = sorted(set.union(*(set(table["epoch"]) for table in tables.values())))
    fig, axes = figure("double", rows=2, columns=len(epochs), aspect=1.25, sharex=True, sharey=True, squeeze=False)
    for row, part in zip(axes, ("all", "selected"), strict=True):
        for ax, epoch in zip(row, epochs, strict=True):
            ax.plot([0, 100], [0, 100], color=_GREY, linewidth=0.8, linestyle=":")
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
    (:func:`fmuc.replay.calibration`); epochs on a logarithmic axis."""
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
    """:func:`fmuc.replay.against_training`: a hollow mark is a rule on one net's scores, the filled one its own net's;
    the line between them is what training with the rule changed."""
    points = []
    for variant in rows.index:
        x, y = (100 * rows.loc[variant, [("replayed", m), ("trained", m)]].to_numpy() for m in ("quantity", "quality"))
        style = {"marker": MARKERS[variant], "color": colour(variant), "linestyle": "none"}
        ax.plot(x, y, color=colour(variant), linewidth=0.7)
        ax.plot(x[0], y[0], fillstyle="none", **style)
        ax.plot(x[1], y[1], **style)
        if np.isfinite([x[1], y[1]]).all():
            points.append((variant, x[1], y[1]))
    for fill, label in (("none", "replayed"), ("full", "trained")):
        ax.plot([], [], "o", color=_GREY, fillstyle=fill, label=label)
    ax.set(xlabel="pseudo-label quantity (%)", ylabel="pseudo-label quality (%)", title=title(dataset))
    ax.margins(0.1)
    ax.legend(loc="best")
    label_points(ax, points, colour)
    return ax


@styled
def patch_and_passes(axes: Sequence[Axes], patch: np.ndarray | None, probabilities: np.ndarray, classes: Sequence[str],
                     row: pd.Series, features: Features) -> Sequence[Axes]:
    """A row of :func:`fmuc.replay.mistakes`: its normalised log-Mel patch (F, T), if there is one, and the cloud of its
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
        shade = "#D55E00" if name == row["label"] else "#009E73" if name == row["truth"] else _GREY
        if row["right"] and name == row["truth"]:
            shade = "#009E73"
        cloud.plot(100 * probabilities[:, number], number + spread, ".", color=shade, markersize=2.5)
    cloud.set_yticks(range(len(classes)), [class_label(name) for name in classes], fontsize=6)
    cloud.set(xlabel="probability in each pass (%)", xlim=(-3, 103), ylim=(len(classes) - 0.5, -0.5))
    return axes


@styled
def example_patches(record: Record, chosen: Mapping[str, pd.Series], cache: FeatureCache | None) -> Figure:
    """Rows of :func:`fmuc.replay.mistakes` by what they show, each as :func:`patch_and_passes`, after the last stored
    epoch; without ``cache`` (see :func:`fmuc.replay.sounds`) the passes alone."""
    scores, temperature = replay.at_epoch(record), record.run.selection.temperature
    fig, axes = figure("double", rows=max(1, len(chosen)), columns=2, aspect=0.35 + 0.017 * len(record.classes),
                       squeeze=False)
    for pair, (kind, row) in zip(axes, chosen.items(), strict=False):
        patch = None if cache is None else cache.normalised(scores.patches[[row["at"]]])[0]
        clouds = replay.probabilities(scores, row["at"], temperature)
        patch_and_passes(pair, patch, clouds, record.classes, row, record.run.features)
        pair[1].set_title(f"{kind}, T = {temperature:g}")
    return fig
