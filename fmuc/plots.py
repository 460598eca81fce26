"""Data -> axes: the figures of the paper from run records and tables. Every function draws on the axes it is given.

A method has the same colour everywhere, a variant of it the same marker (Okabe and Ito's colours). Published numbers
are hollow or dotted and say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from fmuc import paths
from fmuc.experiments import FULLY_SUPERVISED, LABELLED_ONLY, TABLE_1, TABLE_2
from fmuc.figure_files import figure, manifest, save_figure, save_table, styled
from fmuc.runs import Record
from fmuc.tables import PARTS, TITLES, history_table, paper_dataset, published_table1, title

__all__ = ["COLOURS", "MARKERS", "colour", "confusion_heatmap", "figure", "manifest", "quality_curves",
           "quantity_curves", "save_figure", "save_table", "table1_plane", "table2_points"]

COLOURS = {"FM": "#D55E00", "FMUC": "#0072B2", LABELLED_ONLY: "#CC79A7", FULLY_SUPERVISED: "#009E73"}
MARKERS = dict(zip(TABLE_1, "o^o^svDP", strict=True))  # equal for the default and for the raised threshold
PAPER_COLOUR = "#444444"


def colour(variant: str) -> str:
    """The colour of a variant is that of its method."""
    return COLOURS[variant] if variant in COLOURS else COLOURS[variant.split()[0]]


def quality_curves(ax: Axes, records: Sequence[Record], dataset: str, *, variants: Sequence[str] = ("FM", "FMUC"),
                   epochs: int | None = None) -> Axes:
    """Fig. 2a: pseudo-label quality of each epoch, not smoothed: thin lines the seeds, a thick one their mean.

    Dotted: what the paper reports (start: its text; end: its Table I), at both ends of our axis whatever its length.
    """
    return _curves(ax, records, dataset, "quality", variants, epochs)


def quantity_curves(ax: Axes, records: Sequence[Record], dataset: str, *, variants: Sequence[str] = ("FM", "FMUC"),
                    epochs: int | None = None) -> Axes:
    """Fig. 2b: share of the unlabelled examples whose pseudo-label is kept; as :func:`quality_curves`."""
    return _curves(ax, records, dataset, "quantity", variants, epochs)


@styled
def _curves(ax: Axes, records: Sequence[Record], dataset: str, metric: str, variants: Sequence[str],
            epochs: int | None) -> Axes:
    history = history_table(records, dataset, variants)
    history = history[history["epoch"] <= (epochs or np.inf)]
    for variant, rows in history.groupby("variant", sort=False):
        by_seed = rows.pivot(index="epoch", columns="seed", values=metric)
        if by_seed.shape[1] > 1:
            ax.plot(by_seed, color=colour(variant), linewidth=0.6, alpha=0.5)
        ax.plot(by_seed.mean(axis=1), color=colour(variant), linewidth=1.6, label=f"{variant} (n={by_seed.shape[1]})",
                marker="." if len(by_seed) < 15 else None)  # so that a value between two missing ones is seen
    last = max(history["epoch"], default=1)
    ax.set(xlabel="epoch", ylabel=f"pseudo-label {metric} (%)", title=title(dataset), xlim=(1, max(last, 2)))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    ax.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], nbins=7))
    _references(ax, dataset, metric, variants)
    ax.set_ylim(top=min(100.5, ax.get_ylim()[1]))
    ax.legend(loc="best")
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
    paper, figure_2 = published_table1(), pd.read_csv(paths.PUBLISHED / "fig2.csv")
    paper = paper[paper["dataset"] == paper_dataset(dataset)]
    figure_2 = figure_2[(figure_2["dataset"] == paper_dataset(dataset)) & (figure_2["metric"] == metric)]
    start = figure_2[figure_2["at"] == "start"]
    values = [(row.variant, "start", row.value) for row in start.itertuples()]
    values += [(row.variant, "end", getattr(row, metric)) for row in paper.itertuples()]
    return [value for value in values if value[0] in variants]


@styled
def confusion_heatmap(ax: Axes, shares: np.ndarray, classes: Sequence[str]) -> Axes:
    """Fig. 3: ``shares`` (C, C) of each true class (row) among its kept pseudo-labels, in 0 ... 1, shown in %.

    Numbers below 0.5 % are left out; a class without any kept pseudo-label (NaN) is grey.
    """
    percent = 100 * np.asarray(shares, dtype=float)
    texts = np.array([[f"{value:.3g}" if value >= 99.95 else f"{value:.1f}" if value >= 0.5 else "" for value in row]
                      for row in percent])
    names = [name.replace("_", " ") for name in classes]
    ax.set_facecolor("#D9D9D9")
    ax.grid(False)
    sns.heatmap(percent, ax=ax, mask=np.isnan(percent), annot=texts, fmt="", vmin=0, vmax=100, cmap="Blues",
                square=True, linewidths=0.4, linecolor="white", xticklabels=names, yticklabels=names,
                cbar_kws={"label": "share of the true class (%)", "shrink": 0.75, "pad": 0.02})
    ax.set(xlabel="pseudo-label", ylabel="true class")
    ax.tick_params(length=0)
    ax.set_xticklabels(names, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticklabels(names, rotation=0)
    place = ax.get_subplotspec()  # from the grid, not the layout: that is final only when the last panel is drawn
    panel = 72 * ax.figure.get_figwidth() / (place.get_gridspec().ncols if place else 1)  # points
    cell = 0.6 * panel / len(classes)  # names and colour bar take the rest
    for number in ax.texts:
        number.set_fontsize(min(7, cell / 2.6))
    return ax


@styled
def table1_plane(ax: Axes, table: pd.DataFrame, dataset: str) -> Axes:
    """Table I as a plane: quality against quantity, ours filled (mean over seeds), the paper's rows hollow."""
    points = []
    for variant in table.index:
        style = {"marker": MARKERS[variant], "color": colour(variant), "linestyle": "none"}
        ours, paper = (table.loc[variant, [("quantity", whose), ("quality", whose)]] for whose in ("mean", "paper"))
        ax.plot(*paper, fillstyle="none", markeredgewidth=0.9, gid=f"paper {variant}", **style)
        if ours.notna().all():
            ax.plot(*ours, gid=variant, **style)
            points.append((variant, *ours))
    ax.set(xlabel="pseudo-label quantity (%)", ylabel="pseudo-label quality (%)", title=title(dataset))
    ax.margins(0.08)
    handles = [Line2D([], [], marker="o", linestyle="none", color=PAPER_COLOUR, label="ours")]
    if paper_dataset(dataset):
        handles.append(Line2D([], [], marker="o", linestyle="none", color=PAPER_COLOUR, fillstyle="none",
                              label=f"paper ({TITLES[paper_dataset(dataset)]})"))
    ax.legend(handles=handles, loc="best")
    _label_points(ax, points)
    return ax


def _label_points(ax: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """A label at each (text, x, y), at the nearest place that hides no marker, no other label and not the legend."""
    ax.figure.draw_without_rendering()
    pixels = ax.figure.dpi / 72  # per point
    taken = [ax.get_legend().get_window_extent()]
    for line in ax.lines:
        half = line.get_markersize() / 2 * pixels
        taken += [Bbox([point - half, point + half]) for point in ax.transData.transform(line.get_xydata())]
    for text, x, y in points:
        measure = ax.text(x, y, text, fontsize=6)
        size = measure.get_window_extent().size
        measure.remove()
        for distance, angle in product((7, 11, 16, 22, 30, 40), np.deg2rad(range(0, 360, 30))):
            offset = distance * np.array([np.cos(angle), np.sin(angle)])
            side = 0.5 * (1 - np.sign(round(offset[0])))  # 0 label on the right, 0.5 centred, 1 on the left
            corner = ax.transData.transform((x, y)) + offset * pixels - size * (side, 0.5)
            box = Bbox([corner, corner + size])
            if not box.count_overlaps(taken) and ax.bbox.containsx(box.x0) and ax.bbox.containsx(box.x1):
                break
        taken.append(box)
        ax.annotate(text, (x, y), xytext=offset, textcoords="offset points", fontsize=6, color=colour(text),
                    va="center", ha={0: "left", 0.5: "center", 1: "right"}[side],
                    arrowprops={"arrowstyle": "-", "color": colour(text), "linewidth": 0.4})


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
