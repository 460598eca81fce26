"""Figures and tables as files: one style, byte-stable output, and a row of the manifest with data, runs and checksums.

A row ties its files to the records that they were made from: each run with the digest of its record (``fmuc verify``).
``figures/<profile>[-<data set>]/<name>.{png,svg,csv}`` or ``.{md,csv}``; ``manifest/<name>.json`` beside them is the
row. One file a row, so that notebooks that run at the same time cannot lose each other's.
"""

from __future__ import annotations

import html
import io
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from itertools import pairwise, product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import PIL.Image
import PIL.ImageChops
from IPython import get_ipython
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from fmuc import paths
from fmuc.analysis import shown_history
from fmuc.errors import FmucError
from fmuc.experiments import FULLY_SUPERVISED, LABELLED_ONLY, TABLE_1, TABLE_2
from fmuc.records import Record
from fmuc.tables import (
    ESTIMATES,
    METRICS,
    PARTS,
    TITLES,
    history_table,
    metrics_of,
    paper_dataset,
    read_published,
    title,
)

STYLE = Path(__file__).with_name("fmuc.mplstyle")
styled = plt.style.context(STYLE)  # decorates every function that draws, whatever style its caller has set
WIDTHS = {"column": 3.5, "double": 7.16}  # inches
SMALLEST = 6  # points of text at these widths
ROW = ("name", "kind", "profile", "alt", "datasets", "runs", "files")  # keys of a row of the manifest
NOTICEABLE = 10  # of 255: by so much no colour of a PNG may differ; a colour map of many shades would show bands


@styled
def figure(width: str = "column", *, rows: int = 1, columns: int = 1, aspect: float = 0.75, **options) -> tuple:
    """``plt.subplots`` in the project's style: (figure, axes). ``aspect`` is height / width of one panel."""
    inches = WIDTHS[width]
    return plt.subplots(rows, columns, figsize=(inches, inches / columns * aspect * rows), **options)


@styled
def save_figure(fig: Figure, name: str, profile: str, *, source: str = "runs", dataset: str = "",
                records: Sequence[Record] = (), data: pd.DataFrame | Mapping | None = None, alt: str) -> dict:
    """Write a figure as PNG and SVG, its data as CSV, and its row of the manifest; returns the row.

    In a notebook the PNG is shown as well, and the figure closed: what is seen there is the file. ``source`` and
    ``dataset``, the one that the figure is restricted to, choose the folder (:func:`fmuc.paths.figures_dir`);
    ``data``: what it shows (None for a diagram); ``records``: the runs it
    comes from; ``alt``: the figure in words for those who cannot see it. Raises :class:`FmucError` for text smaller
    than ``SMALLEST`` points, before anything is written.
    """
    with _laid_out(fig, plt.rcParams["savefig.dpi"]) as dpi:
        picture = _png(fig, dpi)
        _require_readable(fig, name)  # now that ticks have their texts
        contents = {f"{name}.png": picture, f"{name}.svg": _svg(fig)}
    if data is not None:
        contents[f"{name}.csv"] = csv_bytes(pd.DataFrame(data))
    row = _save(name, profile, paths.figures_dir(profile, source, dataset), "figure", contents, records, alt)
    if get_ipython() is not None:
        plt.close(fig)
        display(Image(picture, width=round(fig.get_figwidth() * plt.rcParams["figure.dpi"]), alt=alt))
    return row


def png(fig: Figure, dpi: float) -> bytes:
    """The figure as a PNG of 256 colours, a third of the bytes, unless one of its colours would noticeably differ."""
    with _laid_out(fig, dpi):
        return _png(fig, dpi)


@contextmanager
def _laid_out(fig: Figure, dpi: float) -> Iterator[float]:
    """Give the figure its layout at this resolution, for good: Matplotlib would make it anew for each format.

    Every ``savefig`` gives a figure without a layout engine the default one, so that there must be no default here.
    """
    fig.set_dpi(dpi)
    layout = fig.get_layout_engine()
    with plt.rc_context({"figure.constrained_layout.use": False, "figure.autolayout": False}):
        if layout is not None:
            layout.execute(fig)
            fig.set_layout_engine(None)
        yield dpi


def _png(fig: Figure, dpi: float) -> bytes:
    pixels, file = io.BytesIO(), io.BytesIO()
    fig.savefig(pixels, format="rgba", dpi=dpi)
    size = fig.canvas.get_width_height(physical=True)
    picture = PIL.Image.frombuffer("RGBA", size, pixels.getbuffer()).convert("RGB")
    palette = picture.quantize(256, PIL.Image.Quantize.MAXCOVERAGE, dither=PIL.Image.Dither.NONE)
    apart = PIL.ImageChops.difference(picture, palette.convert("RGB")).getextrema()  # (least, most) of each channel
    (palette if max(map(max, apart)) < NOTICEABLE else picture).save(file, "PNG", dpi=(dpi, dpi))
    return file.getvalue()


def _svg(fig: Figure) -> bytes:
    file = io.BytesIO()
    fig.savefig(file, format="svg", metadata={"Date": None, "Creator": None})  # neither dates nor versions
    return file.getvalue()


def _require_readable(fig: Figure, name: str) -> None:
    small = sorted({text.get_text() for text in fig.findobj(Text)
                    if text.get_visible() and text.get_text().strip() and text.get_fontsize() < SMALLEST - 1e-6})
    if small:
        raise FmucError(f"figure {name!r} has text smaller than {SMALLEST} points ({', '.join(small)[:80]}): enlarge "
                        "it or leave some out")


def save_table(frame: pd.DataFrame, name: str, profile: str, *, source: str = "runs", dataset: str = "",
               records: Sequence[Record] = (), alt: str) -> dict:
    """Write a table as Markdown and CSV and its row of the manifest; returns the row (see :func:`save_figure`)."""
    folder = paths.figures_dir(profile, source, dataset)
    return _save(name, profile, folder, "table", table_files(frame, name), records, alt)


def table_files(frame: pd.DataFrame, name: str) -> dict[str, bytes]:
    """Contents of a table's files by their names."""
    return {f"{name}.md": f"{markdown(frame)}\n".encode(), f"{name}.csv": csv_bytes(frame)}


def manifest(folder: Path) -> list[dict]:
    """Every row of a folder's manifest, by name."""
    files = sorted((folder / "manifest").glob("*.json"))
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def markdown(frame: pd.DataFrame) -> str:
    """A table in Markdown; the bar between ours and the paper's number does not end a cell."""
    def escape(text: object) -> object:
        return text.replace("|", r"\|") if isinstance(text, str) else text

    escaped = frame.map(escape).rename(columns=escape, index=escape)
    return escaped.to_markdown(disable_numparse=True)


def plain(text: str) -> str:
    """``text`` for Markdown in which no class or file of your own audio can be taken for HTML, whatever its name."""
    return html.escape(text, quote=False)


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """Content of the CSV file of a figure's or table's data."""
    numbered = isinstance(frame.index, pd.RangeIndex)
    return frame.to_csv(index=not numbered, float_format="%.6g", lineterminator="\n").encode()


def _save(name: str, profile: str, folder: Path, kind: str, contents: Mapping[str, bytes], records: Sequence[Record],
          alt: str) -> dict:
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise FmucError(f"name {name!r} of a {kind}: use small letters, digits and _ only")
    if not alt.strip():
        raise FmucError(f"{kind} {name!r} has no alt text: say in 'alt' what it shows")
    runs = {record.run.name: record.digest for record in sorted(records, key=lambda record: record.run.name)}
    sums = {file: sha256(content).hexdigest() for file, content in contents.items()}
    datasets = sorted({record.run.dataset for record in records})
    row = dict(zip(ROW, (name, kind, profile, alt, datasets, runs, sums), strict=True))
    for file, content in contents.items():
        write_file(folder / file, content)
    write_file(folder / "manifest" / f"{name}.json", (json.dumps(row, indent=1, ensure_ascii=False) + "\n").encode())
    return row


def write_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


_SIZE = 6  # points
_NEAR, _LEADER = 11, "#999999"  # points: a label farther away has a line to its point
_DISTANCES, _ANGLES = (7, 11, 16, 22, 30, 40), np.deg2rad(range(0, 360, 30))  # points; 0 to the right


def label_points(ax: Axes, points: Sequence[tuple[str, float, float]], colour: Callable[[str], str]) -> None:
    """A label at each (text, x, y) in ``colour(text)`` that hides no marker, no line, no other label and not the legend
    or, where there is no such place, as few of them as can be."""
    ax.figure.draw_without_rendering()
    pixels = ax.figure.dpi / 72  # per point
    taken = [ax.get_legend().get_window_extent(), *_markers(ax, pixels)]
    strokes = list(_strokes(ax, pixels))
    inside = ax.bbox.padded(-_SIZE * pixels)  # the panels beside this one may still make it a little narrower
    places = [ax.transData.transform((x, y)) for _, x, y in points]
    for number, (text, x, y) in enumerate(points):
        measure = ax.text(x, y, text, fontsize=_SIZE)
        size = measure.get_window_extent().size
        measure.remove()
        chosen, least = None, None
        for distance, box in _candidates(places[number], size, pixels):
            gaps = [_gap(box, place) for place in places]
            out = not (inside.containsx(box.x0) and inside.containsx(box.x1))
            flaws = (out, box.count_overlaps(taken), box.count_overlaps(strokes), gaps[number] > min(gaps))
            if least is None or flaws < least:
                chosen, least = (distance, box), flaws
            if not any(flaws):
                break
        distance, box = chosen
        taken.append(box.padded(pixels))
        leader = {"arrowstyle": "-", "color": _LEADER, "linewidth": 0.4} if distance > _NEAR else None
        offset = (np.array([box.x0, (box.y0 + box.y1) / 2]) - places[number]) / pixels
        ax.annotate(text, (x, y), xytext=offset, textcoords="offset points", ha="left", va="center", fontsize=_SIZE,
                    color=colour(text), arrowprops=leader)


def _markers(ax: Axes, pixels: float) -> Iterator[Bbox]:
    """The boxes of all markers; a value that does not exist has none."""
    for line in ax.lines:
        half = (line.get_markersize() / 2 + 1) * pixels  # with its edge
        points = line.get_xydata()
        for point in ax.transData.transform(points[np.isfinite(points).all(axis=1)]):
            yield Bbox([point - half, point + half])


def _strokes(ax: Axes, pixels: float) -> Iterator[Bbox]:
    """Small boxes along all lines, two points apart."""
    for line in ax.lines:
        corners = ax.transData.transform(line.get_xydata()) if line.get_linestyle() != "None" else np.empty((0, 2))
        for start, end in pairwise(corners):
            if np.isfinite([start, end]).all():
                steps = 2 + int(np.hypot(*(end - start)) / (2 * pixels))
                for point in np.linspace(start, end, steps):
                    yield Bbox([point - pixels, point + pixels])


def _candidates(place: np.ndarray, size: np.ndarray, pixels: float) -> Iterator[tuple[float, Bbox]]:
    """Distance in points and box in pixels of a label, nearest first: beside the point, above and below it."""
    for distance, angle in product(_DISTANCES, _ANGLES):
        offset = distance * np.array([np.cos(angle), np.sin(angle)]) * pixels
        sides = (0.5 * (1 - np.sign(round(offset[0]))),)  # 0: label on the right, 0.5: centred, 1: on the left
        for side in sides if abs(np.sin(angle)) < 0.8 else (*sides, 0.25, 0.75):
            corner = place + offset - size * (side, 0.5)
            yield distance, Bbox([corner, corner + size])


def _gap(box: Bbox, point: np.ndarray) -> float:
    """Distance of a point from a box, 0 inside."""
    return float(np.hypot(*np.maximum(0, np.maximum(box.min - point, point - box.max))))


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
    paper, figure_2 = read_published("table1"), read_published("fig2")
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
