"""Whether bfloat16 changes the tables (D15): the rows of Table II with all their seeds, once more in float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from fmuc import experiments, paths, tables
from fmuc import figures as figure_files
from fmuc import parallel as schedule
from fmuc.claims import spread
from fmuc.config import Run
from fmuc.errors import FmucError
from fmuc.records import load_all, load_record

COLUMNS = {"quality": "quality", "quantity": "quantity", "unlabelled": "accuracy, unlabelled files",
           "test": "accuracy, test files"}


def in_float32(run: Run) -> Run:
    """The same run in float32: an id and a folder of its own."""
    return replace(run, training=replace(run.training, precision="float32"))


def compare(profile: str, dataset: str, *, device: str = "auto", workers: int | None = None,
            progress: bool = True) -> pd.DataFrame:
    """Train what is missing of the float32 runs and put them beside the bfloat16 runs trained here, else the shipped.

    Index (variant, metric); columns bfloat16, float32 (means in %), their sample standard deviations over the seeds
    ``std_bfloat16``, ``std_float32``, the difference of the means, ``seeds``, and ``within``: whether it is at most the
    larger of the two deviations. Raises :class:`FmucError` where the other runs were not in bfloat16, and for failures.
    """
    try:
        records = load_all(profile, "runs", dataset)
    except FmucError:
        records = load_all(profile, "shipped", dataset)
    low = [record for record in records if record.run.variant in experiments.TABLE_2]
    if other := {record.provenance["precision"] for record in low} - {"bfloat16"}:
        raise FmucError(f"the runs of {dataset} were trained in {', '.join(other)}: this machine has no fast bfloat16")
    runs = [in_float32(record.run) for record in low]
    if failures := schedule.train_plan(runs, profile, device=device, workers=workers, progress=progress):
        raise FmucError("; ".join(f"run {f.run} failed: {f.message}" for f in failures))
    high = [load_record(paths.runs_dir(profile) / run.name) for run in runs]
    return beside(tables.measured(low, dataset), tables.measured(high, dataset))


def beside(low: pd.DataFrame, high: pd.DataFrame) -> pd.DataFrame:
    """Two tables of runs as of ``tables.measured`` -> the comparison that :func:`compare` returns."""
    rows = {}
    for variant in dict.fromkeys(low.index.get_level_values("variant")):
        for column, metric in COLUMNS.items():
            one, two = (table.loc[variant, column].dropna() for table in (low, high))
            if len(one) and len(two):
                difference, allowed = two.mean() - one.mean(), np.nanmax([one.std(ddof=1), two.std(ddof=1)])
                rows[variant, metric] = {
                    "bfloat16": one.mean(), "std_bfloat16": one.std(ddof=1), "float32": two.mean(),
                    "std_float32": two.std(ddof=1), "difference": difference, "seeds": len(one),
                    "within": bool(abs(difference) <= allowed),
                }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["variant", "metric"])


def expected_outside(seeds: int) -> float:
    """Share of means that would not be ``within`` if either precision drew from the same normal distribution.

    Simulated, for so many seeds that a deviation means something, at least 2.
    """
    one, two = np.random.default_rng(0).standard_normal((2, 200_000, seeds))
    allowed = np.maximum(one.std(axis=1, ddof=1), two.std(axis=1, ddof=1))
    return float((np.abs(one.mean(axis=1) - two.mean(axis=1)) > allowed).mean())


def readable(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean ± std of either precision, difference, and whether it lies within the spread over the seeds."""
    shown = {name: [spread(*values) for values in zip(frame[name], frame[f"std_{name}"], strict=True)]
             for name in ("bfloat16", "float32")}
    shown["difference"] = frame["difference"].map("{:+.1f}".format)
    shown["within the spread"] = frame["within"].map({True: "yes", False: "no"})
    return pd.DataFrame(shown, index=frame.index)


def write(frame: pd.DataFrame, dataset: str) -> list[Path]:
    """``figures/precision-<data set>.csv`` and ``.md``, each whole or not at all."""
    text = figure_files.markdown(readable(frame).reset_index().set_index("variant"))
    kept, seeds = int(frame["within"].sum()), int(frame["seeds"].max())
    chance = ("" if seeds < 2 else f" If the precision changed nothing, {expected_outside(seeds) * len(frame):.1f} of "
              "them would be expected to differ by more (simulated).")
    text = (f"{tables.title(dataset)}, in %: {kept} of {len(frame)} means in float32 differ from those in bfloat16 by "
            f"at most the larger standard deviation over {seeds} seeds.{chance}\n\n{text}\n")
    files = [paths.FIGURES / f"precision-{dataset}.{kind}" for kind in ("csv", "md")]
    figure_files.write_file(files[0], frame.to_csv(float_format="%.4g", lineterminator="\n").encode())
    figure_files.write_file(files[1], text.encode())
    return files
