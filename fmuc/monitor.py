"""The run monitor: quality, quantity and accuracy of a plan's runs while they train, from what lies on the disk.

Nothing is asked of the training: the last checkpoint of an unfinished run carries its history, a record its own. So any
process that sees the data folder can watch, at any time, and no draw and no result depends on whether one does.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fmuc import checkpoints, experiments, paths
from fmuc.config import Run
from fmuc.errors import FmucError
from fmuc.figures import MARKERS, PAPER_COLOUR, axis_label, colour, figure, styled, write_file
from fmuc.records import is_finished
from fmuc.tables import title

METRICS = ("quality", "quantity", "test_accuracy", "unlabelled_accuracy", "validation_quality", "validation_quantity")
RUN = ("dataset", "variant", "seed", "planned", "finished")
_STYLES = {"test": "-", "unlabelled": ":"}  # of the accuracies
_LARGEST_HEADER = 2**24  # bytes: a history of a hundred thousand epochs


def progress(runs: Sequence[Run], folder: Path) -> pd.DataFrame:
    """What the ``runs`` below ``folder`` have done so far: a row for each epoch of each run, from its files.

    Columns: dataset, variant, seed, planned (epochs), finished (whether its record is there), epoch and ``METRICS`` in
    % (NaN: not measured then). A run without an epoch, or whose files cannot be read now, has one row with the epoch 0.
    """
    return _frame([(run, folder / run.name) for run in runs])


def _frame(places: Sequence[tuple[Run, Path]]) -> pd.DataFrame:
    rows = []
    for run, place in places:
        finished = is_finished(place)
        known = {"dataset": run.dataset, "variant": run.variant, "seed": run.seed, "planned": run.training.epochs,
                 "finished": finished}
        history = (_recorded(place) if finished else _checkpointed(place, run)) or [{"epoch": 0}]
        rows += [known | {"epoch": row["epoch"]} | {name: 100 * row.get(name, np.nan) for name in METRICS}
                 for row in history]
    return pd.DataFrame(rows, columns=[*RUN, "epoch", *METRICS])


def _recorded(place: Path) -> list[dict]:
    try:
        return _numbers(pd.read_csv(place / "history.csv").to_dict("records"))
    except (OSError, ValueError, KeyError, TypeError):  # damaged, or being replaced: `verify` is there to say so
        return []


def _checkpointed(place: Path, run: Run) -> list[dict]:
    """The history in the newest checkpoint that can be read; the header alone, none of the weights."""
    for path in checkpoints.files(place):
        try:
            content = _content(path)
            if content["run"] == run.id:
                return _numbers(content["rows"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # replaced or damaged
            continue
    return []


def _content(path: Path) -> dict:
    """JSON content of a checkpoint without its tensors and, unlike in training, without its checksum."""
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _LARGEST_HEADER:
            raise ValueError("no header")
        return json.loads(json.loads(file.read(length))["__metadata__"]["fmuc"])


def _numbers(rows: list[dict]) -> list[dict]:
    """The rows' epoch and metrics as numbers; an error where they are none."""
    wanted = {"epoch", *METRICS}
    return [{"epoch": int(row["epoch"])} | {name: float(value) for name, value in row.items() if name in wanted}
            for row in rows]


@styled
def draw(frame: pd.DataFrame) -> Figure:
    """A frame of :func:`progress` as a figure: a row of panels for each data set, a line for each run.

    Colour: the method; marker: the variant, where the run is now. Finished runs are pale. Accuracies are file-wise:
    solid on the test files, dotted on the left-out unlabelled ones.
    """
    names = list(dict.fromkeys(frame["dataset"]))
    if not names:
        raise FmucError("there is no run to draw: name a profile and a data set that have runs")
    fig, axes = figure("double", rows=len(names), columns=3, aspect=0.85, squeeze=False)
    for row, name in zip(axes, names, strict=True):
        part = frame[frame["dataset"] == name]
        known = bool(part["quality"].notna().any() or part["validation_quality"].isna().all())
        for ax, metric in zip(row, ("quality", "quantity"), strict=False):
            _lines(ax, part, metric if known else f"validation_{metric}")
            ax.set_ylabel(axis_label(metric, known))
        for which, style in _STYLES.items():
            _lines(row[2], part, f"{which}_accuracy", style)
        row[2].set_ylabel("file-wise accuracy (%)")
        for ax in row:
            _finish(ax, int(part["planned"].max()))
        row[0].set_title(f"{title(name)}: {counts(part)}", loc="left")
    shown = [variant for variant in experiments.VARIANTS if variant in set(frame["variant"])]
    handles = [Line2D([], [], color=colour(v), marker=MARKERS.get(v, "."), label=v, linewidth=1) for v in shown]
    handles += [Line2D([], [], color="black", linestyle=style, label=f"accuracy: {which} files")
                for which, style in _STYLES.items()]
    fig.legend(handles=handles, loc="outside lower center", ncols=4)
    return fig


def _lines(ax: Axes, part: pd.DataFrame, metric: str, style: str = "-") -> None:
    for (variant, seed), rows in part.groupby(["variant", "seed"], sort=False):
        rows = rows[rows[metric].notna()]
        if len(rows):
            ax.plot(rows["epoch"], rows[metric], color=colour(variant), linestyle=style, linewidth=1.0,
                    marker=MARKERS.get(variant, "."), markersize=3.5, markevery=[-1], clip_on=False,
                    alpha=0.4 if rows["finished"].all() else 1.0, gid=f"{variant} s{seed} {metric}")


def _finish(ax: Axes, epochs: int) -> None:
    ax.set(xlabel="epoch", xlim=(0, max(epochs, 2)))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    if ax.lines:
        low, high = ax.get_ylim()
        ax.set_ylim(max(low, -1.5), min(high, 101.5))
    else:
        ax.set_ylim(0, 100)
        ax.text(0.5, 0.5, "nothing yet", transform=ax.transAxes, ha="center", color=PAPER_COLOUR)


def counts(frame: pd.DataFrame) -> str:
    """How far the runs of a frame are, in words."""
    last = frame.groupby(["dataset", "variant", "seed"], sort=False)[["epoch", "planned", "finished"]].last()
    begun = int((~last["finished"] & (last["epoch"] > 0)).sum())
    done = last["epoch"].where(~last["finished"], last["planned"]).sum()
    return (f"{int(last['finished'].sum())} of {len(last)} runs finished, {begun} begun, "
            f"{done / last['planned'].sum():.0%} of the epochs")


def draw_until_done(profile: str, dataset: str | None, path: Path, *, every: float, once: bool = False,
                    report: Callable[[str], None] = print) -> pd.DataFrame:
    """Keep the PNG ``path`` as the runs are until all are finished (``once``: draw it and end).

    ``report`` gets a line for each new picture. Returns the last frame. Raises :class:`FmucError` as :func:`follow` and
    :func:`write` do.
    """
    for frame in follow(profile, dataset, every=every):
        write(frame, path)
        report(f"{counts(frame)}: {paths.relative(path)}")
        if once:
            break
    return frame


def default_file(profile: str, dataset: str | None = None) -> Path:
    """Where ``python -m fmuc watch`` draws: beside the runs."""
    return paths.runs_dir(profile) / (f"progress-{dataset}.png" if dataset else "progress.png")


def write(frame: pd.DataFrame, path: Path) -> None:
    """Draw the frame into the PNG ``path``, whole or not at all; :class:`FmucError` where it cannot be written."""
    try:
        write_file(path, _png(frame))
    except OSError as error:
        raise FmucError(f"{paths.relative(path)}: cannot be written ({error.strerror or error}): name another file "
                        "with --output") from None


@styled
def _png(frame: pd.DataFrame) -> bytes:
    fig, buffer = draw(frame), io.BytesIO()
    try:
        fig.savefig(buffer, format="png")
    finally:
        plt.close(fig)  # else a figure would be kept for every refreshing
    return buffer.getvalue()


def follow(profile: str, dataset: str | None = None, *, every: float = 5.0) -> Iterator[pd.DataFrame]:
    """:func:`progress` of a profile's plan now, then whenever it has changed, looked up ``every`` few seconds.

    Ends after the frame in which every run is finished. Raises :class:`FmucError` for an unknown profile or data set.
    """
    if not every > 0:
        raise FmucError(f"the seconds between two looks must be positive, not {every}")
    runs, folder, before = experiments.plan(profile, dataset), paths.runs_dir(profile), None
    while True:
        frame = progress(runs, folder)
        if before is None or not frame.equals(before):
            yield frame
        if frame["finished"].all():
            return
        before = frame
        time.sleep(every)


def watch(profile: str = "mini", dataset: str | None = None, *, every: float = 5.0) -> None:
    """In Jupyter: the figure of :func:`draw`, refreshed in place until all runs of the plan are finished.

    They train in another process (``make reproduce``, ``python -m fmuc train``). Interrupting the cell ends the
    watching only. For a run that this notebook trains itself see :func:`live`.
    """
    show = _display()
    try:
        for frame in follow(profile, dataset, every=every):
            show(frame)
    except KeyboardInterrupt:
        print("no longer watching; training is not affected")


def live(run: Run, folder: Path) -> Callable[[dict], None]:
    """For ``train(run, folder=folder, on_epoch=live(run, folder))``: the figure in a notebook, after each epoch."""
    show = _display()
    return lambda row: show(_frame([(run, folder)]))


def _display() -> Callable[[pd.DataFrame], None]:
    """A function that shows frames in a notebook, one in the place of the other."""
    from IPython.display import Image, display

    handle = None

    def show(frame: pd.DataFrame) -> None:
        nonlocal handle
        picture = Image(data=_png(frame), format="png", width=860, alt=f"Progress of training: {counts(frame)}")
        if handle is None:
            handle = display(picture, display_id=True)
        else:
            handle.update(picture)

    return show
