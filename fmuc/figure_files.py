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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import PIL.Image
import PIL.ImageChops
from IPython import get_ipython
from IPython.display import Image, display
from matplotlib.figure import Figure
from matplotlib.text import Text

from fmuc import paths
from fmuc.errors import FmucError
from fmuc.runs import Record

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
def save_figure(fig: Figure, name: str, profile: str, *, dataset: str = "", records: Sequence[Record] = (),
                data: pd.DataFrame | Mapping | None = None, alt: str) -> dict:
    """Write a figure as PNG and SVG, its data as CSV, and its row of the manifest; returns the row.

    In a notebook the PNG is shown as well, and the figure closed: what is seen there is the file. ``dataset``: the one
    that the figure is restricted to, if any; ``data``: what it shows (None for a diagram); ``records``: the runs it
    comes from; ``alt``: the figure in words for those who cannot see it. Raises :class:`FmucError` for text smaller
    than ``SMALLEST`` points, before anything is written.
    """
    with _laid_out(fig, plt.rcParams["savefig.dpi"]) as dpi:
        picture = _png(fig, dpi)
        _require_readable(fig, name)  # now that ticks have their texts
        contents = {f"{name}.png": picture, f"{name}.svg": _svg(fig)}
    if data is not None:
        contents[f"{name}.csv"] = csv_bytes(pd.DataFrame(data))
    row = _save(name, profile, dataset, "figure", contents, records, alt)
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


def save_table(frame: pd.DataFrame, name: str, profile: str, *, dataset: str = "", records: Sequence[Record] = (),
               alt: str) -> dict:
    """Write a table as Markdown and CSV and its row of the manifest; returns the row (see :func:`save_figure`)."""
    return _save(name, profile, dataset, "table", table_files(frame, name), records, alt)


def table_files(frame: pd.DataFrame, name: str) -> dict[str, bytes]:
    """Contents of a table's files by their names."""
    return {f"{name}.md": f"{markdown(frame)}\n".encode(), f"{name}.csv": csv_bytes(frame)}


def manifest(profile: str, dataset: str = "") -> list[dict]:
    """Every row of a profile's manifest, by name."""
    files = sorted((paths.figures_dir(profile, dataset) / "manifest").glob("*.json"))
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


def _save(name: str, profile: str, dataset: str, kind: str, contents: Mapping[str, bytes], records: Sequence[Record],
          alt: str) -> dict:
    if not re.fullmatch(r"[a-z0-9_]+", name):
        raise FmucError(f"name {name!r} of a {kind}: use small letters, digits and _ only")
    if not alt.strip():
        raise FmucError(f"{kind} {name!r} has no alt text: say in 'alt' what it shows")
    folder = paths.figures_dir(profile, dataset)
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
