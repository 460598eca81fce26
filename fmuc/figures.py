"""Figures and tables: plots of run records in one style, and their files with data and provenance.

A folder of figures holds ``<name>.{png,svg,csv}`` or ``.{md,csv}`` and one ``manifest.json``, which ties every file to
the records that it was made from. Output is byte-stable: the same records give the same files.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import PIL.Image
from filelock import FileLock
from IPython import get_ipython
from IPython.display import Image, display
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fmuc import paths
from fmuc.analysis import compared, shown_history
from fmuc.equal_quantity import SOFTMAX
from fmuc.evidence import Interval, t_interval
from fmuc.experiments import EQUAL_QUANTITY, FULLY_SUPERVISED, LABELLED_ONLY, TABLE_1
from fmuc.machinery.atomic import write_bytes, write_json
from fmuc.records import Record
from fmuc.tables import ESTIMATES, METRICS, PAIR, PARTS, TITLES, history_table, paper_dataset, read_published, title

# Fonts of other scripts, for names of your own classes; only those that are installed are asked for
_FALLBACKS = ("Noto Sans CJK JP", "Noto Sans JP", "Hiragino Sans", "PingFang SC", "Yu Gothic", "Microsoft YaHei",
              "Noto Emoji", "Segoe UI Emoji")
_INSTALLED = {font.name for font in font_manager.fontManager.ttflist}
STYLE = [Path(__file__).with_name("fmuc.mplstyle"),
         {"font.family": ["DejaVu Sans", *(name for name in _FALLBACKS if name in _INSTALLED)]}]
styled = plt.style.context(STYLE)  # decorates every function that draws, whatever style its caller has set
WIDTHS = {"column": 3.5, "double": 7.16}  # inches
SMALLEST = 6  # points of text at these widths

COLOURS = {"FM": "#D55E00", "FMUC": "#0072B2", LABELLED_ONLY: "#CC79A7", FULLY_SUPERVISED: "#009E73"}
MARKERS = dict(zip((*TABLE_1, *EQUAL_QUANTITY), "o^o^svDP<>X<>", strict=False))  # with its colour a row's own
_OTHER_COLOURS, _OTHER_MARKERS = ("#E69F00", "#56B4E9", "#000000", "#8B5A2B", "#7F3FBF"), "X*ph<>d"
GREY, PAPER_COLOUR = "#777777", "#444444"
SEED_DOT, FAINT_DOT = {"markersize": 3.2, "markeredgewidth": 0}, {"markersize": 2.2, "markeredgewidth": 0, "alpha": 0.6}
MEAN_BAR = {"marker": "_", "markersize": 7, "markeredgewidth": 1.6}


def colour(variant: str) -> str:
    """The colour of a row's method; a name that the paper does not have always gets the same one of a few others."""
    method = variant.split()[0] if variant in MARKERS else variant
    return COLOURS.get(method) or _OTHER_COLOURS[zlib.crc32(variant.encode()) % len(_OTHER_COLOURS)]


def marker(variant: str) -> str:
    """The marker of a variant, by the same rule as its colour."""
    return MARKERS.get(variant) or _OTHER_MARKERS[zlib.crc32(variant.encode()) % len(_OTHER_MARKERS)]


def label(name: str) -> str:
    """A name as text of a figure: long ones are shortened in the middle, and ``$`` does not start mathematics."""
    short = name if len(name) <= 24 else f"{name[:12]}…{name[-11:]}"
    return short.replace("$", r"\$")


def class_label(name: str) -> str:
    """:func:`label` of a class: underscores are spaces."""
    return label(name.replace("_", " "))


# Files


@styled
def figure(width: str = "column", *, rows: int = 1, columns: int = 1, aspect: float = 0.75, **options) -> tuple:
    """``plt.subplots`` in the project's style: (figure, axes). ``aspect`` is height / width of one panel."""
    inches = WIDTHS[width]
    return plt.subplots(rows, columns, figsize=(inches, inches / columns * aspect * rows), **options)


def panels(number: int, aspect: float = 0.75) -> tuple[Figure, list[Axes]]:
    """A panel for each of some data sets, two in a row: (figure, axes)."""
    columns = min(number, 2)
    fig, axes = figure("double" if columns == 2 else "column", rows=-(-number // columns), columns=columns,
                       aspect=aspect, squeeze=False)
    for ax in axes.flat[number:]:
        ax.remove()
    return fig, list(axes.flat[:number])


@styled
def save_figure(fig: Figure, name: str, profile: str, *, source: str = "runs", dataset: str = "",
                records: Sequence[Record] = (), data: pd.DataFrame | Mapping | None = None, alt: str) -> None:
    """Write a figure as PNG and SVG, its ``data`` as CSV (None for a diagram), and its row of the manifest.

    ``profile``, ``source`` and ``dataset`` choose the folder, see :func:`fmuc.paths.figures_dir`. ``records``: the runs
    that it shows; ``alt``: the figure in words. In a notebook the PNG is shown, and the figure closed.
    """
    picture, vector = png(fig, plt.rcParams["savefig.dpi"]), io.BytesIO()
    fig.savefig(vector, format="svg", metadata={"Date": None, "Creator": None})
    contents = {f"{name}.png": picture, f"{name}.svg": vector.getvalue()}
    if data is not None:
        contents[f"{name}.csv"] = csv_bytes(pd.DataFrame(data))
    _save(name, profile, paths.figures_dir(profile, source, dataset), "figure", contents, records, alt)
    if get_ipython() is not None:
        plt.close(fig)
        display(Image(picture, width=round(fig.get_figwidth() * plt.rcParams["figure.dpi"]), alt=alt))


def png(fig: Figure, dpi: float) -> bytes:
    """The figure as a PNG of 256 colours, a third of the bytes, without date or version.

    Its layout is final from now on, the same in every format.
    """
    fig.set_dpi(dpi)
    fig.draw_without_rendering()
    fig.set_layout_engine("none")
    full, file = io.BytesIO(), io.BytesIO()
    fig.savefig(full, format="png", dpi=dpi)
    colours = PIL.Image.open(full).convert("RGB").quantize(256, dither=PIL.Image.Dither.NONE)
    colours.save(file, "PNG", optimize=True, dpi=(dpi, dpi))
    return file.getvalue()


def save_table(frame: pd.DataFrame, name: str, profile: str, *, source: str = "runs", dataset: str = "",
               records: Sequence[Record] = (), alt: str) -> None:
    """Write a table as Markdown and CSV and its row of the manifest, as :func:`save_figure` does."""
    contents = {f"{name}.md": f"{markdown(frame)}\n".encode(), f"{name}.csv": csv_bytes(frame)}
    _save(name, profile, paths.figures_dir(profile, source, dataset), "table", contents, records, alt)


def markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown; the bar between ours and the paper's number does not end a cell."""
    def escape(text: object) -> object:
        return text.replace("|", r"\|") if isinstance(text, str) else text

    return frame.map(escape).rename(columns=escape, index=escape).to_markdown(disable_numparse=True)


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """Content of the CSV file of a figure's or table's data."""
    numbered = isinstance(frame.index, pd.RangeIndex)
    return frame.to_csv(index=not numbered, float_format="%.6g", lineterminator="\n").encode()


def manifest(folder: Path) -> list[dict]:
    """Every row of a folder's manifest, by name; none where nothing was saved."""
    path = folder / "manifest.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return [row for _, row in sorted(rows.items())]


def _save(name: str, profile: str, folder: Path, kind: str, contents: Mapping[str, bytes], records: Sequence[Record],
          alt: str) -> None:
    row = {"name": name, "kind": kind, "profile": profile, "alt": alt,
           "datasets": sorted({record.run.dataset for record in records}),
           "runs": {record.run.name: record.digest for record in sorted(records, key=lambda record: record.run.name)},
           "files": {file: sha256(content).hexdigest() for file, content in contents.items()}}
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".manifest.lock"):  # notebooks run at the same time
        rows = {other["name"]: other for other in manifest(folder)} | {name: row}
        for file, content in contents.items():
            write_bytes(folder / file, content)
        write_json(folder / "manifest.json", dict(sorted(rows.items())))


# Parts of plots


@styled
def row_legend(fig: Figure, rows: Iterable[str]) -> None:
    """Below all panels: the mark of each row of a table."""
    handles = [_handle(label(row), colour(row), marker=marker(row)) for row in rows]
    fig.legend(handles=handles, loc="outside lower center", ncols=5 if fig.get_figwidth() > WIDTHS["column"] else 3)


def _say_if_unknown(ax: Axes, values: pd.DataFrame | pd.Series) -> None:
    """Say on an axis without a single value why it is empty: no true class is known, nor an estimate."""
    if values.isna().to_numpy().all():
        ax.text(0.5, 0.5, "not known", transform=ax.transAxes, ha="center", color=PAPER_COLOUR)


def axis_label(metric: str, known: bool) -> str:
    """The metric of pseudo-labels, or its estimate on validation files where no true class is ``known``."""
    return f"pseudo-label {metric} (%)" if known else f"{metric} on validation files (%)"


def _legend_above(ax: Axes, text: str, handles: Sequence[Line2D] | None = None, columns: int = 3) -> None:
    """A legend between the axes, where it hides nothing, and the title ``text``."""
    handles = ax.get_legend_handles_labels()[0] if handles is None else handles
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1.0), borderaxespad=0.4, ncols=columns)
    ax.set_title(text, pad=7 + 10 * -(-len(handles) // columns))


def _paper_handle(dataset: str, shape: str) -> list[Line2D]:
    """The entry of a legend for the paper's hollow marks; none where it does not have the data set."""
    paper = paper_dataset(dataset)
    return [_handle(f"paper ({TITLES[paper]})", marker=shape, fillstyle="none")] if paper else []


def _handle(text: str, colour: str = PAPER_COLOUR, **style) -> Line2D:
    """An entry of a legend for a mark, of every colour if none is named."""
    return Line2D([], [], linestyle="none", color=colour, label=text, **style)


# Plots: they take data and return Axes


def quality_curves(ax: Axes, records: Sequence[Record], dataset: str, epochs: int | None = None) -> Axes:
    """Fig. 2a: pseudo-label quality of each epoch, not smoothed: thin lines the seeds, a thick one their mean.

    Dotted: what the paper reports (start: its text; end: its Table I), at both ends of our axis whatever its length.
    Where no true class of an unlabelled file is known, the quality on validation files, and the axis says so.
    """
    history, known = shown_history(records, dataset, compared(records, dataset))
    return _curves(ax, history, dataset, "quality", epochs, known)


def quantity_curves(ax: Axes, records: Sequence[Record], dataset: str, epochs: int | None = None) -> Axes:
    """Fig. 2b: share of the unlabelled examples whose pseudo-label is kept; as :func:`quality_curves`."""
    history = history_table(records, dataset, compared(records, dataset))
    return _curves(ax, history, dataset, "quantity", epochs, known=True)


@styled
def _curves(ax: Axes, history: pd.DataFrame, dataset: str, metric: str, epochs: int | None, known: bool) -> Axes:
    history = history[history["epoch"] <= (epochs or np.inf)]
    if not known:
        _say_if_unknown(ax, history[metric])
    for variant, rows in history.groupby("variant", sort=False):
        by_seed = rows.pivot(index="epoch", columns="seed", values=metric)
        by_seed = by_seed if known else by_seed.dropna(how="all")  # estimated now and then
        ax.plot(by_seed, color=colour(variant), linewidth=0.6, alpha=0.5)
        ax.plot(by_seed.mean(axis=1), color=colour(variant), linewidth=1.6,
                label=f"{label(variant)} (n={by_seed.shape[1]})",
                marker="." if len(by_seed) < 15 else None)  # so that a single estimate is seen
    ax.set(xlabel="epoch", ylabel=axis_label(metric, known), xlim=(1, max([2, *history["epoch"]])))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    ax.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5, 10], nbins=7))
    _references(ax, dataset, metric)
    ax.set_ylim(top=min(100.5, ax.get_ylim()[1]))
    _legend_above(ax, title(dataset))
    return ax


def _references(ax: Axes, dataset: str, metric: str) -> None:
    """The paper's values at the start and at the end of the training as dotted lines over a tenth of the axis."""
    start, end = (read_published(name, dataset) for name in ("fig2", "table1"))
    start = start[(start["metric"] == metric) & (start["at"] == "start")].rename(columns={"value": metric})
    marks = pd.concat([start.assign(left=0.0), end.assign(at="end", left=0.9)])
    marks = marks[marks["variant"].isin(PAIR)]
    for _, mark in marks.iterrows():
        ax.axhline(mark[metric], mark["left"], mark["left"] + 0.1, linestyle=":", linewidth=2.0, zorder=3,
                   color=colour(mark["variant"]), gid=f"paper {mark['variant']} {mark['at']}")
    if len(marks):
        ax.plot([], [], ":", color=PAPER_COLOUR, linewidth=2.0, label=f"paper ({TITLES[paper_dataset(dataset)]})")


@styled
def confusion_heatmap(ax: Axes, shares: np.ndarray, classes: Sequence[str]) -> Axes:
    """Fig. 3: ``shares`` (C, C) of each true class (row) among its kept pseudo-labels, in 0 ... 1, shown in %.

    Up to 20 classes have numbers, but for those below 0.5 %; of more than 25 not all are named. A class without any
    kept pseudo-label (NaN) is grey. In a row of panels the first has the names of the true classes, the last the colour
    bar.
    """
    percent, names = 100 * np.asarray(shares, dtype=float), [class_label(name) for name in classes]
    place = ax.get_subplotspec()
    mesh = ax.pcolormesh(np.ma.masked_invalid(percent), vmin=0, vmax=100, cmap="Blues", edgecolors="white",
                         linewidth=0.4)
    ax.set(xlabel="pseudo-label", aspect="equal", facecolor="#D9D9D9")
    ax.invert_yaxis()
    ax.grid(False)
    for (row, column), value in np.ndenumerate(percent) if len(names) <= 20 else ():
        if value >= 0.5:
            ax.text(column + 0.5, row + 0.5, f"{value:.0f}", ha="center", va="center", fontsize=SMALLEST,
                    color="white" if value > 60 else "#262626")
    shown = slice(None, None, 1 + len(names) // 25)  # names that fit beside each other
    middles = np.arange(len(names))[shown] + 0.5
    ax.set_xticks(middles, names[shown], rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks([])
    if place.is_first_col():
        ax.set_yticks(middles, names[shown])
        ax.set_ylabel("true class")
    ax.tick_params(length=0, labelsize=SMALLEST)
    ax.spines[:].set_visible(False)
    if place.is_last_col():
        ax.figure.colorbar(mesh, ax=ax, label="share of the true class (%)", shrink=0.75, pad=0.02)
    return ax


@styled
def table1_plane(ax: Axes, table: pd.DataFrame, dataset: str, curves: pd.DataFrame | None = None) -> Axes:
    """Table I as a plane: quality against quantity, ours filled (mean; small: every seed), the paper's rows hollow.

    Both on validation files where the table has these estimates, since then nobody knows the quality. ``curves``, in
    place of the seeds: what moving a threshold gives, see :func:`fmuc.equal_quantity.threshold_curves`. The marks are
    named by :func:`row_legend`.
    """
    known = ESTIMATES[0] not in table.columns.get_level_values(0)
    quality, quantity = METRICS if known else ESTIMATES
    for variant in table.index:
        style = {"marker": marker(variant), "color": colour(variant), "linestyle": "none"}
        ours, paper = (table.loc[variant, [(quantity, whose), (quality, whose)]] for whose in ("mean", "paper"))
        seeds = [table.loc[variant, (metric, "seeds")] for metric in (quantity, quality)]
        if curves is None and 1 < len(seeds[0]) == len(seeds[1]):
            ax.plot(*seeds, gid=f"seeds {variant}", **FAINT_DOT, **style)
        ax.plot(*paper, fillstyle="none", markeredgewidth=0.9, gid=f"paper {variant}", **style)
        if ours.notna().all():
            ax.plot(*ours, gid=variant, **style)
    ax.set(xlabel=axis_label("quantity", known), ylabel=axis_label("quality", known), title=title(dataset))
    ax.margins(0.08)
    _say_if_unknown(ax, table[[(quality, "mean"), (quality, "paper")]])
    handles = [_handle("ours, mean of seeds", marker="o"), *_paper_handle(dataset, "o")]
    if curves is None:
        handles.insert(1, _handle("ours, each seed", marker="o", **FAINT_DOT))
        ax.legend(handles=handles, loc="best")
    else:
        handles += [ax.plot(line["quantity"], line["quality"], "-" if score == SOFTMAX else "--", color=colour(net),
                            linewidth=1, label=f"{score}, {net}'s nets")[0]
                    for (net, score), line in curves.groupby(["net", "score"], sort=False)]
        _legend_above(ax, title(dataset), handles, columns=2)
    return ax


@styled
def table2_points(ax: Axes, table: pd.DataFrame, dataset: str) -> Axes:
    """Table II, file-wise accuracy: every seed a dot, mean and standard deviation a bar; the paper's numbers hollow."""
    variants = list(table.index.unique("variant"))
    starts = {part: number * (len(variants) + 1) for number, part in enumerate(PARTS)}
    for (part, variant), row in table.iterrows():
        x, seeds = starts[part] + variants.index(variant), np.asarray(row["seeds"], dtype=float)
        style = {"color": colour(variant), "linestyle": "none", "elinewidth": 0.8, "capsize": 2}
        ax.plot(x - 0.3 + np.linspace(-0.06, 0.06, len(seeds)), seeds, "o", color=colour(variant), alpha=0.7,
                gid=f"{part} {variant}", **SEED_DOT)
        if len(seeds):
            ax.errorbar(x, row["mean"], yerr=np.nan_to_num(row["std"]), **MEAN_BAR, **style)
        if not np.isnan(row["paper"]):
            ax.errorbar(x + 0.3, row["paper"], yerr=row["paper_std"], marker="D", fillstyle="none", markersize=4,
                        markeredgewidth=0.8, gid=f"paper {part} {variant}", **style)
    ax.set_xticks([start + i for start in starts.values() for i in range(len(variants))],
                  [label(name) for name in variants] * len(PARTS), rotation=30, ha="right", rotation_mode="anchor")
    ax.set(ylabel="file-wise accuracy (%)", xlim=(-0.6, len(PARTS) * (len(variants) + 1) - 1.4))
    ax.grid(False, axis="x")
    for part, start in starts.items():
        ax.text(start + (len(variants) - 1) / 2, 0.98, f"{part} files", transform=ax.get_xaxis_transform(), ha="center",
                va="top", fontweight="bold")
    ax.margins(y=0.12)  # room for these words
    handles = [_handle("our seeds", marker="o", **SEED_DOT), _handle("our mean ± std", **MEAN_BAR)]
    _legend_above(ax, title(dataset), handles + _paper_handle(dataset, "D"))
    return ax


@styled
def gap_curves(ax: Axes, gaps: Mapping[str, pd.DataFrame], part: str) -> Axes:
    """Each :func:`fmuc.analysis.accuracy_gap` against training steps: mean over seeds, 95 % interval (Student's t)."""
    ax.axhline(0, color=GREY, linewidth=0.8)
    for name, gap in gaps.items():
        intervals = pd.DataFrame([t_interval(seeds) for seeds in gap.to_numpy()], gap.index, Interval._fields)
        style = {"color": colour(name.split(" − ")[0])}
        ax.plot(intervals["mean"], label=f"{name} (n={gap.shape[1]})", **style)
        ax.fill_between(gap.index, intervals["low"], intervals["high"], alpha=0.2, linewidth=0, **style)
    ax.set(xlabel="training steps", ylabel=f"{part} accuracy: difference (points)")
    ax.legend()
    return ax


@styled
def class_dots(ax: Axes, rates: Mapping[str, pd.DataFrame], column: str) -> Axes:
    """``column`` of :func:`fmuc.analysis.class_rates` for each class (a row) and method (a dot)."""
    values = pd.DataFrame({variant: table[column] for variant, table in rates.items()})
    rows = np.arange(len(values))
    ax.hlines(rows, values.min(axis=1), values.max(axis=1), color="#BBBBBB", linewidth=1.0, zorder=1)
    for variant in values:
        ax.plot(values[variant], rows, "o", color=colour(variant), label=label(variant))
    ax.set_yticks(rows, [class_label(name) for name in values.index])
    ax.set(xlabel=f"{column} (%)", xlim=(-3, 103), ylim=(len(values) - 0.4, -0.6))
    return ax
