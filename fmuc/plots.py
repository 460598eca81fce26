"""Data -> axes: the figures of the paper from run records and tables. Every function draws on the axes it is given.

A method has the same colour everywhere, a variant of it the same marker (Okabe and Ito's colours). Published numbers
are hollow or dotted and say so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fmuc import published
from fmuc.analysis import shown_history
from fmuc.experiments import FULLY_SUPERVISED, LABELLED_ONLY, TABLE_1, TABLE_2
from fmuc.figure_files import SMALLEST, figure, manifest, save_figure, save_table, styled
from fmuc.point_labels import label_points
from fmuc.runs import Record
from fmuc.tables import (
    ESTIMATES,
    METRICS,
    PARTS,
    TITLES,
    history_table,
    metrics_of,
    paper_dataset,
    published_table1,
    title,
)

__all__ = ["COLOURS", "MARKERS", "axis_label", "colour", "confusion_heatmap", "figure", "manifest", "quality_curves",
           "quantity_curves", "save_figure", "save_table", "table1_plane", "table2_points"]

COLOURS = {"FM": "#D55E00", "FMUC": "#0072B2", LABELLED_ONLY: "#CC79A7", FULLY_SUPERVISED: "#009E73"}
MARKERS = dict(zip(TABLE_1, "o^o^svDP", strict=True))  # equal for the default and for the raised threshold
PAPER_COLOUR = "#444444"


def colour(variant: str) -> str:
    """The colour of a variant is that of its method."""
    return COLOURS[variant] if variant in COLOURS else COLOURS[variant.split()[0]]


def axis_label(metric: str, known: bool) -> str:
    """The metric of pseudo-labels, or its estimate on validation files where no true class is ``known``."""
    return f"pseudo-label {metric} (%)" if known else f"{metric} on validation files (%)"


def nothing_known(ax: Axes) -> None:
    """Say on an empty axis why it is empty: no true class is known, nor an estimate."""
    ax.text(0.5, 0.5, "not known", transform=ax.transAxes, ha="center", color=PAPER_COLOUR)


def quality_curves(ax: Axes, records: Sequence[Record], dataset: str, *, variants: Sequence[str] = ("FM", "FMUC"),
                   epochs: int | None = None) -> Axes:
    """Fig. 2a: pseudo-label quality of each epoch, not smoothed: thin lines the seeds, a thick one their mean.

    Dotted: what the paper reports (start: its text; end: its Table I), at both ends of our axis whatever its length.
    Where no true class of an unlabelled file is known, the quality on validation files, and the axis says so.
    """
    return _curves(ax, records, dataset, "quality", variants, epochs)


def quantity_curves(ax: Axes, records: Sequence[Record], dataset: str, *, variants: Sequence[str] = ("FM", "FMUC"),
                    epochs: int | None = None) -> Axes:
    """Fig. 2b: share of the unlabelled examples whose pseudo-label is kept; as :func:`quality_curves`."""
    return _curves(ax, records, dataset, "quantity", variants, epochs)


@styled
def _curves(ax: Axes, records: Sequence[Record], dataset: str, metric: str, variants: Sequence[str],
            epochs: int | None) -> Axes:
    history, known = history_table(records, dataset, variants), True
    if metric == "quality":
        history, known = shown_history(records, dataset, variants)
    history = history[history["epoch"] <= (epochs or np.inf)]
    if not known and history[metric].isna().all():
        nothing_known(ax)
        ax.set_ylim(0, 100)
    for variant, rows in history.groupby("variant", sort=False):
        by_seed = rows.pivot(index="epoch", columns="seed", values=metric)
        by_seed = by_seed if known else by_seed.dropna(how="all")  # estimated now and then
        if by_seed.shape[1] > 1:
            ax.plot(by_seed, color=colour(variant), linewidth=0.6, alpha=0.5)
        ax.plot(by_seed.mean(axis=1), color=colour(variant), linewidth=1.6, label=f"{variant} (n={by_seed.shape[1]})",
                marker="." if len(by_seed) < 15 else None)  # so that a value between two missing ones is seen
    last = max(history["epoch"], default=1)
    ax.set(xlabel="epoch", ylabel=axis_label(metric, known), xlim=(1, max(last, 2)))
    ax.set_title(title(dataset), pad=17)  # the legend stands between: no line is below it
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    ax.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], nbins=7))
    _references(ax, dataset, metric, variants)
    ax.set_ylim(top=min(100.5, ax.get_ylim()[1]))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), borderaxespad=0.4, ncols=3)
    return ax


def _references(ax: Axes, dataset: str, metric: str, variants: Sequence[str]) -> None:
    """The paper's values at the start and at the end of the training as dotted lines over a tenth of the axis."""
    for variant, at, value in _published(dataset, metric, variants):
        span = (0.0, 0.1) if at == "start" else (0.9, 1.0)
        line = Line2D(span, (value, value), transform=ax.get_yaxis_transform(), color=colour(variant), linestyle=":",
                      linewidth=2.0, zorder=3, gid=f"paper {variant} {at}")
        ax.add_line(line)
        ax.update_datalim([(1, value)], updatex=False)
    ax.autoscale_view(scalex=False)
    if paper_dataset(dataset):
        ax.plot([], [], ":", color=PAPER_COLOUR, linewidth=2.0, label=f"paper ({TITLES[paper_dataset(dataset)]})")


def _published(dataset: str, metric: str, variants: Sequence[str]) -> list[tuple[str, str, float]]:
    paper, figure_2 = published_table1(), published.read("fig2")
    paper = paper[paper["dataset"] == paper_dataset(dataset)]
    figure_2 = figure_2[(figure_2["dataset"] == paper_dataset(dataset)) & (figure_2["metric"] == metric)]
    start = figure_2[figure_2["at"] == "start"]
    values = [(row.variant, "start", row.value) for row in start.itertuples()]
    values += [(row.variant, "end", getattr(row, metric)) for row in paper.itertuples()]
    return [value for value in values if value[0] in variants]


def class_label(name: str) -> str:
    """A class as text of a figure: no sign of it is taken for mathematics."""
    return name.replace("_", " ").replace("$", r"\$")


@styled
def confusion_heatmap(ax: Axes, shares: np.ndarray, classes: Sequence[str]) -> Axes:
    """Fig. 3: ``shares`` (C, C) of each true class (row) among its kept pseudo-labels, in 0 ... 1, shown in %.

    Numbers below 0.5 % are left out; small cells have whole numbers, and smaller ones none, nor all of the names; a
    class without any kept pseudo-label (NaN) is grey. In a row of panels the first has the names of the true classes,
    the last the colour bar.
    """
    import seaborn as sns  # only here: with SciPy's statistics it takes a second, and no other figure asks for it

    percent = 100 * np.asarray(shares, dtype=float)
    names, place = [class_label(name) for name in classes], ax.get_subplotspec()
    first, last = (place is None or place.is_first_col()), (place is None or place.is_last_col())
    cell = _cell(ax, names)
    size, decimals = (cell / 2.6, 1) if cell / 2.6 >= SMALLEST else (cell / 2, 0)  # of the numbers: what fits the cell
    every = max(1, int(np.ceil(1.25 * SMALLEST / cell)))  # of the names: what fits beside each other
    ax.set_facecolor("#D9D9D9")
    ax.grid(False)
    numbers = _numbers(percent, decimals) if size >= SMALLEST else False
    ax.figure.set_visible(False)  # seaborn draws the whole figure, to see whether names overlap that are turned below
    try:
        sns.heatmap(percent, ax=ax, mask=np.isnan(percent), annot=numbers, fmt="", vmin=0, vmax=100, cmap="Blues",
                    square=True, linewidths=0.4, linecolor="white", xticklabels=names,
                    yticklabels=names if first else False, cbar=last,
                    cbar_kws={"label": "share of the true class (%)", "shrink": 0.75, "pad": 0.02} if last else None,
                    annot_kws={"fontsize": min(7, size)})
    finally:
        ax.figure.set_visible(True)
    ax.set(xlabel="pseudo-label", ylabel="true class" if first else "")
    ax.tick_params(length=0, labelsize=min(6.5, max(SMALLEST, 0.8 * cell)))
    places = np.arange(0, len(names), every)
    ax.set_xticks(places + 0.5, names[::every], rotation=45, ha="right", rotation_mode="anchor")
    if first:
        ax.set_yticks(places + 0.5, names[::every])
    ax.tick_params(axis="y", rotation=0)
    return ax


def _numbers(percent: np.ndarray, decimals: int) -> np.ndarray:
    """Texts of the cells, at most four characters long, without decimals at most three."""
    return np.array([["" if not value >= 0.5 else "100" if value >= 99.95 else f"{value:.{decimals}f}" for value in row]
                     for row in percent])


def _cell(ax: Axes, names: Sequence[str]) -> float:
    """Width of a cell in points, from the grid of panels: the layout is final only when the last panel is drawn."""
    place = ax.get_subplotspec()
    panels = place.get_gridspec().ncols if place else 1
    beside = 4 * max(map(len, names)) + 65  # names on the left, colour bar on the right, what lies between
    return (72 * ax.figure.get_figwidth() - beside) / panels / len(names)


@styled
def table1_plane(ax: Axes, table: pd.DataFrame, dataset: str) -> Axes:
    """Table I as a plane: quality against quantity, ours filled (mean; small: every seed), the paper's rows hollow.

    Both on validation files where the table has these estimates, since then nobody knows the quality.
    """
    known = ESTIMATES[0] not in metrics_of(table)
    quality, quantity = METRICS if known else ESTIMATES
    points = []
    for variant in table.index:
        style = {"marker": MARKERS[variant], "color": colour(variant), "linestyle": "none"}
        ours, paper = (table.loc[variant, [(quantity, whose), (quality, whose)]] for whose in ("mean", "paper"))
        seeds = [table.loc[variant, (metric, "seeds")] for metric in (quantity, quality)]
        if 1 < len(seeds[0]) == len(seeds[1]):
            ax.plot(*seeds, markersize=2.2, markeredgewidth=0, alpha=0.6, gid=f"seeds {variant}", **style)
        ax.plot(*paper, fillstyle="none", markeredgewidth=0.9, gid=f"paper {variant}", **style)
        if ours.notna().all():
            ax.plot(*ours, gid=variant, **style)
            points.append((variant, *ours))
    ax.set(xlabel=axis_label("quantity", known), ylabel=axis_label("quality", known), title=title(dataset))
    ax.margins(0.08)
    if table[[(quality, "mean"), (quality, "paper")]].isna().all(axis=None):
        nothing_known(ax)
        ax.set(xlim=(0, 100), ylim=(0, 100))
    handles = [Line2D([], [], marker="o", linestyle="none", color=PAPER_COLOUR, label="ours")]
    if table[(quality, "n")].max() > 1:
        handles[0].set_label("ours, mean")
        handles.append(Line2D([], [], marker="o", markersize=2.2, markeredgewidth=0, alpha=0.6, linestyle="none",
                              color=PAPER_COLOUR, label="ours, each seed"))
    if paper_dataset(dataset):
        handles.append(Line2D([], [], marker="o", linestyle="none", color=PAPER_COLOUR, fillstyle="none",
                              label=f"paper ({TITLES[paper_dataset(dataset)]})"))
    ax.legend(handles=handles, loc="best")
    label_points(ax, points, colour)
    return ax


@styled
def table2_points(ax: Axes, table: pd.DataFrame, dataset: str) -> Axes:
    """Table II, file-wise accuracy: every seed a dot, mean and standard deviation a bar; the paper's numbers hollow."""
    for (part, variant), row in table.iterrows():
        x = PARTS.index(part) * (len(TABLE_2) + 1) + TABLE_2.index(variant)
        seeds = np.asarray(row["seeds"], dtype=float)
        style = {"color": colour(variant), "linestyle": "none"}
        ax.plot(x - 0.3 + np.linspace(-0.06, 0.06, len(seeds)), seeds, marker="o", markersize=3.2, alpha=0.7,
                markeredgewidth=0, gid=f"{part} {variant}", **style)
        if len(seeds):
            ax.errorbar(x, row["mean"], yerr=None if np.isnan(row["std"]) else row["std"], marker="_", markersize=7,
                        markeredgewidth=1.6, capsize=2, capthick=0.8, elinewidth=0.8, **style)
        if not np.isnan(row["paper"]):
            ax.errorbar(x + 0.3, row["paper"], yerr=row["paper_std"], marker="D", fillstyle="none", capsize=2,
                        elinewidth=0.7, markersize=4, markeredgewidth=0.8, gid=f"paper {part} {variant}", **style)
    if table[["mean", "paper"]].isna().all(axis=None):
        nothing_known(ax)
        ax.set_ylim(0, 100)
    _parts_axis(ax, dataset)
    return ax


def _parts_axis(ax: Axes, dataset: str) -> None:
    """Names of methods below their points, the two parts above, and what filled and hollow mean."""
    width = len(TABLE_2) + 1
    ax.set_xticks([part * width + i for part in range(len(PARTS)) for i in range(len(TABLE_2))],
                  TABLE_2 * len(PARTS), rotation=30, ha="right", rotation_mode="anchor")
    ax.set(ylabel="file-wise accuracy (%)", xlim=(-0.6, len(PARTS) * width - 1.4))
    ax.set_title(title(dataset), pad=17)  # the legend stands between
    ax.grid(False, axis="x")
    for part, name in enumerate(PARTS):
        ax.text(part * width + 1.5, 0.98, f"{name} files", transform=ax.get_xaxis_transform(), ha="center", va="top",
                fontweight="bold")
    low, high = ax.get_ylim()
    ax.set_ylim(low, high + 0.12 * (high - low))
    handles = [Line2D([], [], marker="o", linestyle="none", color=PAPER_COLOUR, markersize=3.2, label="our seeds"),
               Line2D([], [], marker="_", linestyle="none", color=PAPER_COLOUR, markersize=7, markeredgewidth=1.6,
                      label="our mean ± std")]
    if paper_dataset(dataset):
        handles.append(Line2D([], [], marker="D", linestyle="none", color=PAPER_COLOUR, fillstyle="none",
                              label=f"paper ({TITLES[paper_dataset(dataset)]})"))
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), borderaxespad=0.4, ncols=3)
