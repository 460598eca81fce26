"""Yours beside the shipped runs and the paper: every number with its intervals, every claim with its verdicts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from textwrap import fill

import numpy as np
import pandas as pd
from tabulate import tabulate

from fmuc import tables
from fmuc.claims import from_paper, judge, limits, number, points
from fmuc.equal_quantity import conclusion
from fmuc.errors import FmucError
from fmuc.evidence import Interval, t_interval
from fmuc.experiments import chosen
from fmuc.records import Record, available
from fmuc.tables import CLUSTER, METRICS, NAMES, PAIR, PARTS

SIDES = {"shipped": "shipped", "yours": "runs"}  # where their records are
LEGEND = """± is the sample standard deviation over n seeds; accuracies are means of the last ten evaluations.
minus FM: difference seed by seed in points, its 95 % interval (Student's t), and in how many seeds it is above 0.
over groups: its 95 % bootstrap interval over instruments, places or speakers; none for fewer than five of them.
A claim holds if the intervals of its differences lie where it says, and is contradicted if one lies wholly elsewhere.
The paper's Table I has no intervals: there the sign decides. Intervals are not corrected for the number of claims.
in spread? 'within': your mean lies in the 95 % prediction interval of the shipped seeds (Student's t), which holds the
mean of as many new seeds as yours 19 times out of 20. 'equal': to one decimal. 'one seed' shipped has no spread."""
ROUNDING = """Noise that seeds do not show, measured once with the same code and seeds on two makes of CPU: rounding
alone moved one run's test accuracy by a standard deviation of 1.8 (nsynth-gm) and 2.3 points (scenes-sim)."""


def compare(profile: str, dataset: str | None = None) -> dict:
    """The paper's numbers, the shipped ones and yours, ready for JSON; what does not exist is None.

    "data sets": for each "header", "epochs", "runs", "numbers" (a row for each metric and variant, with its verdict,
    see ``LEGEND``, and its difference to FM), "claims" (by the paper's own numbers and on each side) and
    "equal quantity" (see :func:`fmuc.equal_quantity.conclusion`); "across": see :func:`fmuc.tables.across`, for each
    side and part. ``dataset`` as in :func:`fmuc.records.load_all`.
    """
    sources = {whose: available(profile, source, dataset) for whose, source in SIDES.items()}
    result = {}
    for name, preset in chosen(profile, dataset).items():
        records = {whose: [r for r in found if r.run.dataset == name] for whose, found in sources.items()}
        if any(records.values()):
            result[name] = _compare(records, name, preset.training.epochs)
    if not result:
        option = f" --dataset {dataset}" if dataset else ""
        raise FmucError(f"no run records of {dataset or profile}, neither shipped nor yours: train the runs with "
                        f"'python -m fmuc train --profile {profile}{option}'")
    return {"data sets": result, "across": {whose: {part: tables.across(found, part) for part in PARTS}
                                            for whose, found in sources.items()}}


def _compare(records: Mapping[str, Sequence[Record]], dataset: str, epochs: int) -> dict:
    sides = pd.concat({whose: _numbers(found, dataset, epochs) for whose, found in records.items()}, axis=1)
    numbers = sides.drop(columns=["seeds", "paper", "paper_std"], level=1)
    numbers.columns = map("_".join, numbers.columns)
    numbers.insert(0, "paper", sides.xs("paper", axis=1, level=1).max(axis=1))
    numbers[["low", "high", "verdict"]] = [_verdict(row["shipped"], row["yours"]) for _, row in sides.iterrows()]
    ran = {whose: found for whose, found in records.items() if found}
    paper = tables.paper_dataset(dataset)
    judged = {"paper": judge(from_paper(tables.paper_numbers(paper)), paper)} if paper else {}
    judged |= {whose: tables.claims(found, dataset, epochs) for whose, found in ran.items()}
    return {"header": tables.header(dataset), "epochs": epochs, "runs": {whose: len(records[whose]) for whose in SIDES},
            "numbers": json.loads(numbers.reset_index().to_json(orient="records", double_precision=4)),
            "claims": {whose: [claim._asdict() for claim in found] for whose, found in judged.items()},
            "equal quantity": {whose: conclusion(found, dataset, epochs) for whose, found in ran.items()}}


def _numbers(records: Sequence[Record], dataset: str, epochs: int) -> pd.DataFrame:
    """Tables I and II below each other and the difference of each row to FM: index (metric or part, variant)."""
    one, two = tables.table1(records, dataset, epochs), tables.table2(records, dataset)
    parts = {metric: one[metric] for metric in one.columns.unique(0)} | {part: two.loc[part] for part in PARTS}
    numbers = pd.concat(parts, names=["metric", "variant"])
    pairs = [(variant, "FM") for variant in numbers.index.unique("variant") if variant != "FM"]
    apart = pd.concat([tables.differences(records, dataset, pairs, epochs).loc[lambda t: t.index.isin(METRICS, 0)],
                       tables.differences(records, dataset, pairs).loc[lambda t: t.index.isin(PARTS, 0)]])
    return numbers.join(apart.droplevel("minus").add_prefix("minus_fm_"))


def _verdict(shipped: pd.Series, yours: pd.Series) -> tuple[float, float, str]:
    """Interval of the shipped seeds and where your number lies, see ``LEGEND``; "–" if one does not exist."""
    if pd.isna(shipped["mean"]) or pd.isna(yours["mean"]):
        return np.nan, np.nan, "–"
    _, low, high, *_ = t_interval(shipped["seeds"], yours["n"])
    if number(shipped["mean"]) == number(yours["mean"]):
        return low, high, "equal"
    return low, high, "one seed" if np.isnan(low) else "within" if low <= yours["mean"] <= high else "outside"


def as_text(comparison: Mapping) -> str:
    """:func:`compare` as a text to read, 120 columns wide."""
    blocks = ["\n\n".join(_blocks(part)) for part in comparison["data sets"].values()]
    rows = [(f"{NAMES[part]}, {whose}", *(_interval(found[row]) for row in PAIR), _interval(found["better"], 100))
            for whose, parts in comparison["across"].items() for part, found in parts.items() if found]
    if rows:
        headers = ["over the data sets, in %", *(f"interquartile mean {row}" for row in PAIR),
                   "FMUC better, probability"]
        blocks.append(tabulate(rows, headers, disable_numparse=True)
                      + "\nIntervals: 95 % bootstrap, stratified by data set (as in rliable).\n"
                        "Accuracies are not normalised: an interquartile mean leans to the data set in the middle.")
    return "\n\n\n".join([*blocks, LEGEND, ROUNDING])


def _interval(interval: Sequence[float], scale: float = 1.0) -> str:
    mean, low, high, *_ = (scale * value for value in interval)
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def _blocks(part: Mapping) -> Iterator[str]:
    """The tables of one data set: each metric, then the claims."""
    sides = [whose for whose in SIDES if part["runs"][whose]]
    runs = ", ".join(f"{count} {whose}" for whose, count in part["runs"].items())
    yield f"{part['header']}\nRuns: {runs}; Table I: last tenth of {part['epochs']} epochs"
    for metric, rows in pd.DataFrame(part["numbers"]).groupby("metric", sort=False):
        apart = rows.filter(like=f"{sides[-1]}_minus_fm_").astype(float)
        apart.columns = [*Interval._fields, *CLUSTER]
        texts = {fill(f"{NAMES[metric]} in %", 18): rows["variant"], "paper": rows["paper"].map(number)}
        for whose in sides:
            ours = rows[[f"{whose}_mean", f"{whose}_std", f"{whose}_n"]].to_numpy(float)
            texts[whose] = [tables.cell(*row) for row in ours]
        if len(sides) == 2:
            texts["in spread?"] = rows["verdict"]
        texts[f"minus FM ({sides[-1]})"] = [points(Interval(*row[:5])) for row in apart.to_numpy()]
        if metric in PARTS:
            texts["over groups"] = [limits(*row) for row in apart[list(CLUSTER[:2])].to_numpy()]
        yield tabulate(texts, headers="keys", disable_numparse=True)
    claimed = [[*(claim["verdict"] for claim in claims), claims[0]["section"], claims[0]["text"], claims[-1]["ours"]]
               for claims in zip(*part["claims"].values(), strict=True)]
    headers = [*part["claims"], "", "claim of the paper", f"decided by ({sides[-1]})"]
    yield tabulate(claimed, headers, maxcolwidths=[None] * (len(headers) - 2) + [33, 33])
    yield from (fill(f"{whose}: {text}", 120) for whose, text in part["equal quantity"].items() if text)
