"""Whether bfloat16 changes the tables (D15): Table II's runs once more in float32.

``python -m benchmarks.precision mini nsynth-gm`` trains what is missing and writes ``figures/precision-nsynth-gm.*``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from fmuc import experiments, paths, tables
from fmuc.config import Run
from fmuc.errors import FmucError
from fmuc.machinery import parallel
from fmuc.records import Record, load_all, load_record

COLUMNS = {"quality": "quality", "quantity": "quantity", "unlabelled": "accuracy, unlabelled files",
           "test": "accuracy, test files"}


def in_float32(run: Run) -> Run:
    """The same run in float32, with an id and a folder of its own."""
    return replace(run, training=replace(run.training, precision="float32"))


def train_float32(profile: str, low: Sequence[Record]) -> list[Record]:
    """Train what is missing of the float32 runs of bfloat16 records; return their records."""
    if other := {record.provenance["precision"] for record in low} - {"bfloat16"}:
        raise FmucError(f"these runs were trained in {', '.join(other)}: compare runs trained in bfloat16")
    runs = [in_float32(record.run) for record in low]
    parallel.train_plan(runs, profile)
    return [load_record(paths.runs_dir(profile) / run.name) for run in runs]


def compare(low: pd.DataFrame, high: pd.DataFrame) -> pd.DataFrame:
    """Two tables of ``tables.measured`` -> means, sample standard deviations and differences by (variant, metric).

    ``within``: whether the means differ by at most the larger deviation over the seeds.
    """
    rows = {}
    for variant in dict.fromkeys(low.index.get_level_values("variant")):
        for column, metric in COLUMNS.items():
            one, two = (table.loc[variant, column].dropna() for table in (low, high))
            if len(one) and len(two):
                stds, difference = (one.std(ddof=1), two.std(ddof=1)), two.mean() - one.mean()
                rows[variant, metric] = {
                    "bfloat16": one.mean(), "std_bfloat16": stds[0], "float32": two.mean(), "std_float32": stds[1],
                    "difference": difference, "seeds": len(one), "within": bool(abs(difference) <= np.nanmax(stds))}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["variant", "metric"])


def expected_outside(seeds: int) -> float:
    """Share of means outside if both precisions drew from one normal distribution; simulated."""
    one, two = np.random.default_rng(0).standard_normal((2, 200_000, seeds))
    allowed = np.maximum(one.std(axis=1, ddof=1), two.std(axis=1, ddof=1))
    return float((np.abs(one.mean(axis=1) - two.mean(axis=1)) > allowed).mean())


def report(frame: pd.DataFrame, dataset: str) -> str:
    """The comparison as Markdown with a sentence that sums it up."""
    shown = frame.reset_index()[["variant", "metric"]]
    for name in ("bfloat16", "float32"):
        shown[name] = [f"{mean:.1f} ± {std:.1f}" for mean, std in frame[[name, f"std_{name}"]].to_numpy()]
    shown["difference"] = frame["difference"].map("{:+.1f}".format).to_numpy()
    shown["within the spread"] = frame["within"].map({True: "yes", False: "no"}).to_numpy()
    kept, seeds = int(frame["within"].sum()), int(frame["seeds"].max())
    chance = f" By chance, {expected_outside(seeds) * len(frame):.1f} would differ by more." if seeds > 1 else ""
    table = shown.to_markdown(index=False, disable_numparse=True)
    return (f"{tables.title(dataset)}, in %: {kept} of {len(frame)} means in float32 differ from those in bfloat16 by "
            f"at most the larger standard deviation over {seeds} seeds.{chance}\n\n{table}\n")


def main(profile: str, dataset: str) -> None:
    low = [record for record in load_all(profile, "shipped", dataset) if record.run.variant in experiments.TABLE_2]
    frame = compare(*(tables.measured(part, dataset) for part in (low, train_float32(profile, low))))
    frame.to_csv(paths.FIGURES / f"precision-{dataset}.csv", float_format="%.4g")
    (paths.FIGURES / f"precision-{dataset}.md").write_text(report(frame, dataset), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
