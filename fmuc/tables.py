"""Run records -> Tables I and II beside the paper's numbers, differences between rows, claims. Every number is in %.

The rows of a table are those of :mod:`fmuc.experiments`, then the variants of your own runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fmuc import evidence, paths
from fmuc.claims import THIRDS, Claim, from_runs, gain, judge, limits, number, points, spread
from fmuc.config import Run
from fmuc.errors import FmucError
from fmuc.evidence import Interval
from fmuc.experiments import ALL_ROWS, TABLE_1, TABLE_2
from fmuc.metrics import quality, quantity
from fmuc.records import Record, find
from fmuc.train import EVALUATIONS

METRICS, PARTS = ("quality", "quantity"), ("test", "unlabelled")
ESTIMATES = tuple(f"validation_{metric}" for metric in METRICS)  # where the truth of unlabelled files is not known
LAST = tuple(f"{part}_last" for part in PARTS)
ACCURACIES = [f"{part}_accuracy" for part in PARTS]  # columns of a history
COLUMNS = (*METRICS, *THIRDS, *PARTS, *LAST, *ESTIMATES)
NAMES = {**{m: m for m in METRICS}, **{f"validation_{m}": f"{m} on validation files" for m in METRICS},
         **{part: f"accuracy on {part} files" for part in PARTS}}
PAIR = ("FM", "FMUC")
REPEATS = 3  # of the paper's Table II

PAPER = {"nsynth-gm": "nsynth", "nsynth": "nsynth", "scenes-sim": "tut2017", "tut2017": "tut2017"}
TITLES = {"nsynth": "NSynth", "tut2017": "TUT2017", "fsdd": "FSDD (real recordings; not in the paper)",
          "fsdd-smoke": "fsdd-smoke (real recordings; not in the paper)"}


def paper_dataset(dataset: str) -> str | None:
    """The published data set in whose place ``dataset`` stands; None for one that the paper does not have."""
    return PAPER.get(dataset.removesuffix("-smoke"))


def read_published(name: str, dataset: str | None = None) -> pd.DataFrame:
    """One of the paper's tables or figures, tidy, in %; all of it, or what it has for a data set or its stand-in."""
    frame = pd.read_csv(paths.PUBLISHED / f"{name}.csv")
    frame = frame.rename(columns={"split": "part"}).replace({"unlabeled": "unlabelled"})
    return frame if dataset is None else frame[frame["dataset"] == paper_dataset(dataset)]


def title(dataset: str) -> str:
    """A data set's name in headers: the paper's own, or ours marked as a stand-in."""
    return TITLES.get(dataset, f"{dataset} (stand-in)" if paper_dataset(dataset) else dataset)


def header(dataset: str) -> str:
    """Whose numbers stand in a formatted table: ours and, where it has such a data set, the paper's."""
    paper = paper_dataset(dataset)
    return f"{title(dataset)} | paper: {TITLES[paper]}" if paper else title(dataset)


def last_tenth(epochs: int) -> tuple[int, int]:
    """First and last epoch that Table I reads: the last tenth of the training, at least one epoch (D13)."""
    return epochs - max(1, epochs // 10) + 1, epochs


def measured(records: Sequence[Record], dataset: str, epochs: int | None = None) -> pd.DataFrame:
    """One row per run of a data set: index (variant, seed), columns ``COLUMNS``, NaN where there is no value.

    All of the first ``epochs`` epochs (default: the whole run): the learning rate is constant, so the beginning of a
    longer run of Table II is the run of Table I. Quality and quantity are from the counts of the last tenth (D13),
    accuracies the mean of the last ``EVALUATIONS``, beside the last one alone; the estimates on validation files are
    those of the last epoch that has them.
    """
    rows: dict[tuple[str, int], dict] = {}
    for record in (r for r in records if r.run.dataset == dataset):
        run, last = record.run, len(record.kept[:epochs])
        if (run.variant, run.seed) in rows:
            raise FmucError(f"two records of {dataset}, {run.variant}, seed {run.seed}, one of them {run.name}: "
                            "delete the one of another configuration")
        kept, seen = record.counts(*last_tenth(last))
        history = record.history.reindex(columns=[*ACCURACIES, *ESTIMATES]).loc[:last]
        evaluated = [history[column].dropna() for column in ACCURACIES]
        thirds = (part.sum(axis=0) for part in np.array_split(record.kept[:last], 3))
        values = [quality(kept), quantity(kept, seen), *map(quality, thirds),
                  *(values.tail(EVALUATIONS).mean() for values in evaluated),
                  *(values.tail(1).mean() for values in evaluated), *history[list(ESTIMATES)].ffill().iloc[-1]]
        rows[run.variant, run.seed] = dict(zip(COLUMNS, np.multiply(values, 100), strict=True))
    index = pd.MultiIndex.from_tuples(list(rows), names=["variant", "seed"])
    return pd.DataFrame(list(rows.values()), index=index, columns=list(COLUMNS), dtype=float).sort_index()


def truth_known(records: Sequence[Record], dataset: str) -> bool:
    """Whether any unlabelled example of the data set has a known true class, so that quality can be measured at all.

    True where nothing was pseudo-labelled yet.
    """
    seen = sum((record.seen.sum(axis=0) for record in records if record.run.dataset == dataset), start=np.zeros(1))
    return bool(seen[:-1].any() or not seen.any())


def own_variants(records: Sequence[Record], dataset: str) -> dict[str, Run]:
    """One run of each variant of a data set that is no row of :mod:`fmuc.experiments`, by variant."""
    return {r.run.variant: r.run for r in records if r.run.dataset == dataset and r.run.variant not in ALL_ROWS}


def _summary(values: pd.Series, variants: Sequence[str]) -> pd.DataFrame:
    """Mean, sample standard deviation (ddof = 1; NaN for one seed), n and every seed's value, per variant.

    The paper does not say which of the two standard deviations its Table II shows.
    """
    rows = []
    for variant in variants:
        seeds = values.xs(variant, level="variant").dropna() if variant in values.index else pd.Series(dtype=float)
        rows.append({"mean": seeds.mean(), "std": seeds.std(ddof=1), "n": len(seeds), "seeds": tuple(seeds)})
    return pd.DataFrame(rows, index=pd.Index(variants, name="variant"))


def table1(records: Sequence[Record], dataset: str, epochs: int) -> pd.DataFrame:
    """Table I from the counts of the last tenth of ``epochs`` epochs (D13), the paper's numbers beside ours.

    Index: its rows, then what else was run and selects pseudo-labels; columns (metric, x) for x of mean, std, n (runs
    with a value), seeds (their values), paper. Where no true class is known, the metrics include ``ESTIMATES``.
    """
    runs, paper = measured(records, dataset, epochs), read_published("table1", dataset).set_index("variant")
    paper = paper.reindex(columns=[*METRICS, *ESTIMATES]).astype(float)
    metrics = METRICS if truth_known(records, dataset) else (*METRICS, *ESTIMATES)
    others = (r.run.variant for r in records if r.run.dataset == dataset and r.run.selection)
    rows = dict.fromkeys([*TABLE_1, *others])
    return pd.concat({m: _summary(runs[m], list(rows)).assign(paper=paper[m]) for m in metrics}, axis=1)


def table2(records: Sequence[Record], dataset: str) -> pd.DataFrame:
    """Table II, file-wise accuracy: index (part, variant); columns mean, std, n, seeds, last, paper, paper_std.

    Means of the last ``EVALUATIONS``; "last": of the last one alone, mean over seeds. Your own variants come last,
    those that have trained as long as the paper's.
    """
    runs, paper = measured(records, dataset), read_published("table2", dataset)
    paper = paper.set_index(["part", "variant"])[["mean", "std"]].set_axis(["paper", "paper_std"], axis=1)
    epochs = max((r.run.training.epochs for v in TABLE_2 for r in find(records, dataset, v)), default=0)
    own = [variant for variant, run in own_variants(records, dataset).items() if run.training.epochs >= epochs]
    last = runs[list(LAST)].groupby(level="variant").mean()
    ours = pd.concat({part: _summary(runs[part], [*TABLE_2, *own]).join(last[f"{part}_last"].rename("last"))
                      for part in PARTS}, names=["part"])
    return ours.join(paper)


def paper_numbers(paper: str) -> pd.DataFrame:
    """What is published about a data set, in the columns of :func:`measured`: index (variant, column); mean, std, n.

    Table I and Fig. 2 (of FM: how the quality starts and ends) have no standard deviation.
    """
    one, two, curves = (read_published(name, paper) for name in ("table1", "table2", "fig2"))
    ends = curves.assign(column=curves["at"].map({"start": THIRDS[0], "end": THIRDS[2]}))
    parts = [one.melt("variant", METRICS, "column", "mean"), ends.rename(columns={"value": "mean"}),
             two.rename(columns={"part": "column"}).assign(n=REPEATS)]
    return pd.concat(parts).set_index(["variant", "column"])[["mean", "std", "n"]].astype(float)


def cell(mean: float, std: float, n: float) -> str:
    """``86.7 ± 0.4 (n=3)``; "–" for what was not run."""
    return "–" if pd.isna(mean) else f"{spread(mean, std)} (n={n:.0f})"


def _beside_paper(row: Mapping, dataset: str) -> str:
    """Ours and, where the paper has the data set, its number: ``86.7 ± 0.4 (n=3), last 86.1 | paper 86.7``."""
    last = "" if pd.isna(row.get("last", np.nan)) else f", last {number(row['last'])}"
    paper = f" | paper {spread(row['paper'], row.get('paper_std', np.nan))}" if paper_dataset(dataset) else ""
    return cell(row["mean"], row["std"], row["n"]) + last + paper


def format_table1(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """:func:`table1` as text; a quality that nobody can know is "unknown", with the validation estimate beside it."""
    columns = {}
    for metric in table.columns.unique(0):
        texts = table[metric].apply(_beside_paper, axis=1, dataset=dataset)
        if metric == "quality" and ESTIMATES[0] in table.columns.unique(0):
            texts = texts.mask(table["quantity", "n"] > 0, "unknown")
        columns[f"{NAMES[metric]} in %: {header(dataset)}"] = texts
    return pd.DataFrame(columns)


def format_table2(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """:func:`table2` as text: a row for each part, a column for each method."""
    texts = table.apply(_beside_paper, axis=1, dataset=dataset)
    wide = texts.unstack("variant")[texts.index.unique("variant")].loc[list(PARTS)].rename_axis(columns=None)
    return wide.rename(index=lambda part: f"{part} in %: {header(dataset)}").rename_axis("file-wise accuracy")


def history_table(records: Sequence[Record], dataset: str, variants: Sequence[str],
                  metrics: Sequence[str] = METRICS) -> pd.DataFrame:
    """Every epoch of every run, tidy: columns variant, seed, epoch, quality, quantity and, where evaluated,
    test_accuracy and unlabelled_accuracy. ``metrics``: ``ESTIMATES`` for the quality and quantity on validation
    files."""
    columns = [*metrics, *ACCURACIES]
    frames = {(variant, record.run.seed): 100 * record.history.reindex(columns=columns)
              for variant in variants for record in find(records, dataset, variant)}
    keys = ["variant", "seed", "epoch"]
    table = pd.concat(frames, names=keys).reset_index() if frames else pd.DataFrame(columns=[*keys, *columns])
    return table.rename(columns=dict(zip(metrics, METRICS, strict=True)))


def claims(records: Sequence[Record], dataset: str, epochs: int) -> list[Claim]:
    """Every claim of the paper (see :mod:`fmuc.claims`), decided on our records of one data set.

    Pseudo-labels are those of Table I's ``epochs``, accuracies those of whole runs.
    """
    runs = measured(records, dataset, epochs)
    runs[list(PARTS)] = measured(records, dataset)[list(PARTS)]
    unknown = {"test": "there are no test files of known class"} if runs["test"].isna().all() else {}
    if not truth_known(records, dataset):
        why = "the true classes of the unlabelled files are not known"
        unknown |= dict.fromkeys(("quality", *THIRDS, "unlabelled"), why)
    return judge(from_runs(runs), paper_dataset(dataset), unknown)


# Differences

CLUSTER = ("cluster_low", "cluster_high", "groups")
NO_GROUPS = (np.nan,) * len(CLUSTER)


def differences(records: Sequence[Record], dataset: str, pairs: Sequence[tuple[str, str]],
                epochs: int | None = None) -> pd.DataFrame:
    """Rows minus other rows in points, seed by seed on common seeds: index (metric, variant, minus).

    Columns: those of :class:`fmuc.evidence.Interval`; of the accuracies of whole runs also the interval over groups of
    files (cluster_low, cluster_high) and how many groups there are. ``epochs``: only the first of every run.
    """
    rows, keys, measure = [], ["metric", "variant", "minus"], from_runs(measured(records, dataset, epochs))
    for metric in (*METRICS, *PARTS):
        for ours, other in pairs:
            if interval := measure(gain(ours, other, metric)[0].terms):
                whole = metric in PARTS and not epochs
                groups = _over_groups(records, dataset, ours, other, metric) if whole else NO_GROUPS
                rows.append((metric, ours, other, *interval, *groups))
    return pd.DataFrame(rows, columns=[*keys, *Interval._fields, *CLUSTER]).set_index(keys).astype(float)


def _over_groups(records: Sequence[Record], dataset: str, ours: str, other: str, part: str) -> tuple:
    """The interval of a difference in accuracy if other groups (instruments, places, speakers) had been recorded."""
    seeds = []
    for pair in ((a, b) for a in find(records, dataset, ours) for b in find(records, dataset, other, a.run.seed)):
        right = [record.files.get(f"{part}_correct", np.empty(0)).astype(float) for record in pair]
        if len(right[0]) == len(right[1]) > 0:  # full supervision has no unlabelled files
            known = pair[0].files[f"{part}_labels"] >= 0
            seeds.append((100 * (right[0] - right[1])[known], pair[0].files[f"{part}_groups"][known]))
    return evidence.clustered(seeds, evidence.group_mean) if seeds else NO_GROUPS


def format_differences(table: pd.DataFrame) -> pd.DataFrame:
    """A table like that of :func:`differences` as text: mean, interval over seeds, seeds in favour; and over groups."""
    return pd.DataFrame({"difference": [points(Interval(*row)) for row in table[list(Interval._fields)].to_numpy()],
                         "over groups": [limits(*row) or "–" for row in table[list(CLUSTER[:2])].to_numpy()]},
                        index=table.index)


def across(records: Sequence[Record], part: str) -> dict[str, Interval]:
    """FMUC and FM over all data sets that have both: interquartile mean of each, probability that FMUC is better.

    Empty for fewer than two data sets. Bootstrap intervals, stratified by data set, as rliable has them.
    """
    fm, fmuc = [], []
    for dataset in dict.fromkeys(record.run.dataset for record in records):
        rows = {row: runs.to_numpy() for row, runs in measured(records, dataset)[part].dropna().groupby("variant")}
        if "FM" in rows and "FMUC" in rows:
            fm.append(rows["FM"])
            fmuc.append(rows["FMUC"])
    if len(fm) < 2:
        return {}
    return {"FMUC": evidence.stratified(evidence.interquartile_mean, fmuc),
            "FM": evidence.stratified(evidence.interquartile_mean, fm),
            "better": evidence.stratified(evidence.probability_of_improvement, fmuc, fm)}


def spearman(records: Sequence[Record], dataset: str, epochs: int) -> dict[str, tuple[float, int]]:
    """Rank correlation of our rows of Table I with the paper's, by quality and by quantity, and over how many rows."""
    table, result = table1(records, dataset, epochs), {}
    for metric in METRICS:
        both = table[metric][["mean", "paper"]].astype(float).dropna()
        result[metric] = both.corr("spearman").loc["mean", "paper"], len(both)
    return result
