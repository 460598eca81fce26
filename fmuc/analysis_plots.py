"""Data -> axes: what the notebooks draw beside the figures of the paper, in the colours of :mod:`fmuc.plots`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from fmuc.analysis import shown_history
from fmuc.figure_files import styled
from fmuc.plots import axis_label, class_label, colour, nothing_known
from fmuc.runs import Record
from fmuc.tables import title

GREY = "#777777"


@styled
def training_curves(axes: Sequence[Axes], record: Record) -> Sequence[Axes]:
    """A run's history on three axes: losses; quality and quantity (empty for supervised runs); file-wise accuracies."""
    history, main = record.history, colour(record.run.variant)
    panels = (({"loss_labelled": "labelled part", "loss_unlabelled": "unlabelled part"}, 1, "loss (nats)"),
              ({"quality": "quality", "quantity": "quantity"}, 100, "pseudo-labels (%)"),
              ({"test_accuracy": "test", "unlabelled_accuracy": "unlabelled"}, 100, "file-wise accuracy (%)"))
    for ax, (columns, factor, label) in zip(axes, panels, strict=True):
        styles = zip(columns.items(), ("-", "--"), (main, GREY), strict=True)
        for (column, name), line, shade in styles:
            values = history[column].dropna() if column in history else pd.Series(dtype=float)
            marker = "o" if len(values) < len(history) else None  # evaluated now and then
            ax.plot(values.index, factor * values, line, color=shade, marker=marker, markersize=2.5, label=name)
        ax.set(xlabel="epoch", ylabel=label, xlim=(0.5, len(history) + 0.5))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        ax.legend(loc="best")
    axes[1].set_title(f"{title(record.run.dataset)}: {record.run.variant}, seed {record.run.seed}")
    return axes


@styled
def tradeoff_paths(ax: Axes, records: Sequence[Record], dataset: str, *, variants: Sequence[str] = ("FM", "FMUC"),
                   epochs: int | None = None) -> Axes:
    """Quality against quantity, an arrow's path over the epochs: thin every seed, thick their mean, from o to ■.

    Both on validation files where no true class of an unlabelled file is known.
    """
    history, known = shown_history(records, dataset, variants)
    history = history[history["epoch"] <= (epochs or np.inf)].dropna(subset=["quality"])
    for variant, rows in history.groupby("variant", sort=False):
        for _, seed in rows.groupby("seed"):
            ax.plot(seed["quantity"], seed["quality"], color=colour(variant), linewidth=0.5, alpha=0.4)
        mean = rows.groupby("epoch")[["quantity", "quality"]].mean()
        ax.plot(mean["quantity"], mean["quality"], color=colour(variant), linewidth=1.6, label=variant)
        for place, marker in ((0, "o"), (-1, "s")):
            ax.plot(*mean.iloc[place], marker=marker, color=colour(variant), markeredgecolor="white", zorder=3)
    ax.set(xlabel=axis_label("quantity", known), ylabel=axis_label("quality", known), title=title(dataset))
    if ax.lines:
        ax.plot([], [], "o", color=GREY, label="first epoch")
        ax.plot([], [], "s", color=GREY, label="last epoch")
        ax.legend(loc="best")
    elif not known:
        nothing_known(ax)
        ax.set(xlim=(0, 100), ylim=(0, 100))
    return ax


@styled
def class_dots(ax: Axes, rates: Mapping[str, pd.DataFrame], column: str) -> Axes:
    """``column`` of :func:`fmuc.analysis.class_rates` for each class (a row) and method (a dot)."""
    classes = [class_label(str(name)) for name in next(iter(rates.values())).index]
    rows = np.arange(len(classes))
    values = pd.DataFrame({variant: table[column].to_numpy() for variant, table in rates.items()})
    ax.hlines(rows, values.min(axis=1), values.max(axis=1), color="#BBBBBB", linewidth=1.0, zorder=1)
    for variant in values:
        ax.plot(values[variant], rows, "o", color=colour(variant), label=variant)
    ax.set_yticks(rows, classes)
    ax.set(xlabel=f"{column} (%)", xlim=(-3, 103), ylim=(len(classes) - 0.4, -0.6))
    return ax


@styled
def gap_curves(ax: Axes, gap: pd.DataFrame, label: str) -> Axes:
    """Points of accuracy between two methods over the evaluated epochs: dots the seeds, a line their mean."""
    ax.axhline(0, color=GREY, linewidth=0.8)
    for seed in gap:
        ax.plot(gap.index, gap[seed], "o", color=colour("FMUC"), markersize=2.5, alpha=0.5,
                label="each seed" if seed == gap.columns[0] else None)
    ax.plot(gap.index, gap.mean(axis=1), color=colour("FMUC"), label=f"mean (n={gap.shape[1]})")
    ax.set(xlabel="epoch", ylabel=label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if gap.notna().any(axis=None):
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), borderaxespad=0.4, ncols=2)  # no dot is below it
    else:
        nothing_known(ax)
    return ax
