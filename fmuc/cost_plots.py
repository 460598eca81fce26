"""The figure of how cost grows: time and memory against clips, dropout passes and runs, and its files."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fmuc import figures as figure_files
from fmuc import paths
from fmuc.figures import styled

AXES = {"clips": "clips", "N": "dropout passes N", "runs": "runs"}
TITLES = {"clips": "more clips", "N": "more passes (paper's net, ⅛ of its batch)", "runs": "more runs (30 steps each)"}
UNITS = {"s": "seconds", "MB": "MB"}
COLOURS, MARKS, GREY = ("#0072B2", "#D55E00", "#009E73"), "osD", "#444444"  # Okabe and Ito


@styled
def growth_figure(frame: pd.DataFrame) -> Figure:
    """Rows of :func:`fmuc.growth.growth` as two rows of panels, time and memory: points measured, lines the model."""
    fig, axes = figure_files.figure("double", rows=len(UNITS), columns=len(AXES), aspect=0.72)
    for row, unit in zip(axes, UNITS, strict=True):
        for ax, against in zip(row, AXES, strict=True):
            _panel(ax, frame[(frame["against"] == against) & (frame["unit"] == unit)], against)
            ax.set(xlabel=AXES[against], ylabel=UNITS[unit])
    for ax, against in zip(axes[0], AXES, strict=True):
        ax.set_title(TITLES[against])
    kinds = [Line2D([], [], color=GREY, label="model"), Line2D([], [], color=GREY, marker="o", ls="", label="measured")]
    fig.legend(handles=kinds, loc="outside lower center", ncols=2)
    return fig


def _panel(ax: Axes, rows: pd.DataFrame, against: str) -> None:
    for (what, part), colour, mark in zip(rows.groupby("what", sort=False), COLOURS, MARKS, strict=False):
        line, points = (part[part["source"] == source] for source in ("model", "measured"))
        shown = line[line["value"] > 0]
        ax.plot(shown["number"], shown["value"], color=colour, label=what,
                drawstyle="steps-mid" if against == "runs" else "default")
        if len(shown) < len(line):  # from here on patches are mapped
            ax.plot(*shown[["number", "value"]].iloc[-1], "|", color=colour, markersize=9)
            ax.annotate("beyond: on the disk", shown[["number", "value"]].iloc[-1], (-4, 5), fontsize=6, ha="right",
                        textcoords="offset points", color=colour)
        ax.plot(points["number"], points["value"], mark, color=colour, markeredgecolor="white", markeredgewidth=0.5)
    ax.legend(loc="lower right" if rows["unit"].iloc[0] == "MB" else "upper left")
    if against == "clips":
        ax.set(xscale="log", yscale="log", ylim=(None, 6 * rows["value"].max()))
    else:
        ax.set(ylim=(0, 1.3 * rows["value"].max()))
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], integer=True))


@styled
def write_growth(frame: pd.DataFrame) -> list[Path]:
    """``figures/bench_growth.png`` and ``.csv``, each whole or not at all."""
    picture = io.BytesIO()
    growth_figure(frame).savefig(picture, format="png", metadata={"Software": None})
    contents = {"png": picture.getvalue(),
                "csv": frame.to_csv(index=False, float_format="%.6g", lineterminator="\n").encode()}
    files = [paths.FIGURES / f"bench_growth.{kind}" for kind in contents]
    for file, content in zip(files, contents.values(), strict=True):
        figure_files.write_file(file, content)
    return files
