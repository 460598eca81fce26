"""Replayed scores -> axes: trade-off, risk and coverage, reliability, Table I against training, one patch's passes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fmuc import metrics, replay
from fmuc.config import Selection
from fmuc.figure_files import figure, styled
from fmuc.plots import MARKERS, class_label, colour
from fmuc.point_labels import label_points
from fmuc.tables import title

SCORE_COLOURS = dict(zip(replay.SCORES, ("#D55E00", "#0072B2", "#56B4E9", "#009E73", "#CC79A7"), strict=True))
_OUTCOME_COLOURS = dict(zip(replay.OUTCOMES, ("#0072B2", "#D55E00", "#56B4E9", "#E69F00"), strict=True))
_GREY = "#767676"


@styled
def laboratory(scores: replay.Scores, selection: Selection) -> Figure:
    """One rule on the scores of one epoch: its trade-off curve and point, risk and coverage, and what happens to all
    patches of known class. The figure that the widget redraws."""
    fig, (plane, risk, bars) = figure("double", columns=3, aspect=0.9)
    curve = 100 * replay.trade_off(scores, selection)
    classes = scores.plain.shape[-1]
    chosen = replay.replay(scores, selection)
    quality, quantity = replay.quality_quantity(scores.truth, chosen.labels, chosen.mask, classes)
    plane.plot(curve["quantity"], curve["quality"], color="#0072B2", label="threshold moves")
    plane.plot(100 * quantity, 100 * quality, "o", color="#D55E00", label=f"threshold {selection.threshold:g}")
    plane.set(xlabel="pseudo-label quantity (%)", ylabel="pseudo-label quality (%)", xlim=(-2, 102))
    plane.legend(loc="best")
    risk_coverage(risk, scores, selection.temperature, selection.passes)
    counts = replay.outcomes(scores, selection)
    bars.barh(range(len(counts)), counts, color=[_OUTCOME_COLOURS[name] for name in counts.index])
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
    ax.legend(loc="best")
    return ax


@styled
def reliability_diagram(ax: Axes, confidence: np.ndarray, correct: np.ndarray, variant: str) -> Axes:
    """Accuracy against confidence, bin by bin; the area of a dot is the share of patches in its bin."""
    table = metrics.reliability(confidence, correct).query("n > 0")
    ax.plot([0, 100], [0, 100], color=_GREY, linewidth=0.8, linestyle=":", label="calibrated")
    ax.plot(100 * table["confidence"], 100 * table["accuracy"], color=colour(variant), linewidth=0.8)
    ax.scatter(100 * table["confidence"], 100 * table["accuracy"], s=4 + 120 * table["n"] / max(1, table["n"].sum()),
               color=colour(variant), label=variant, alpha=0.8, linewidths=0)
    ax.set(xlabel="confidence (%)", ylabel="right (%)", xlim=(0, 103), ylim=(0, 103))
    ax.legend(loc="upper left")
    return ax


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
    ax.set_xscale("log")
    ax.set_xticks(sorted(epochs), [str(epoch) for epoch in sorted(epochs)])
    ax.minorticks_off()
    ax.set(xlabel="epoch", ylabel="expected calibration error (points)", title=f"{part} pseudo-labels", ylim=(0, None))
    ax.legend(loc="best")
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
                     row: pd.Series) -> Sequence[Axes]:
    """A row of :func:`fmuc.replay.mistakes`: its log-Mel patch (F, T), if there is one, and the cloud of its passes
    (N, C), a dot per pass and class; the pseudo-label in red, the truth in green."""
    picture, cloud = axes
    if patch is not None:
        picture.imshow(patch, origin="lower", aspect="auto", cmap="magma")
        picture.set(xlabel="frame", ylabel="Mel band", title=class_label(f"{row['label']}, truth {row['truth']}"))
        picture.grid(False)
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
