"""Run records -> Tables I and II beside the paper's numbers, and yours beside the shipped ones. Every number is in %.

The rows of a table are those of :mod:`fmuc.experiments`, then the variants of your own runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from scipy.special import stdtrit
from tabulate import tabulate

from fmuc import claims as rules
from fmuc import paths
from fmuc.claims import THIRDS, Claim, number, spread
from fmuc.config import Run
from fmuc.errors import FmucError
from fmuc.experiments import TABLE_1, TABLE_2, VARIANTS, chosen
from fmuc.metrics import quality, quantity
from fmuc.records import Record, available, find

METRICS, PARTS = ("quality", "quantity"), ("test", "unlabelled")
ESTIMATES = tuple(f"validation_{metric}" for metric in METRICS)  # where the truth of unlabelled files is not known
COLUMNS = (*METRICS, *THIRDS, *PARTS, "known", *ESTIMATES)
NAMES = {**{m: m for m in METRICS}, **{f"validation_{m}": f"{m} on validation files" for m in METRICS},
         **{part: f"accuracy on {part} files" for part in PARTS}}

SIDES = {"shipped": "shipped", "yours": "runs"}  # of a comparison: where their records are

PAPER = {"nsynth-gm": "nsynth", "nsynth": "nsynth", "scenes-sim": "tut2017", "tut2017": "tut2017"}
TITLES = {"nsynth": "NSynth", "tut2017": "TUT2017"}
_PUBLISHED = {"table1": METRICS, "table2": ("mean", "std"), "fig2": ("value",), "fig3": ("share",)}  # columns in %


def read_published(name: str) -> pd.DataFrame:
    """Return one of the paper's tables or figures, tidy; :class:`FmucError` for what cannot be the paper's number."""
    path = paths.PUBLISHED / f"{name}.csv"
    try:
        frame = pd.read_csv(path)
        if frame.empty or not isinstance(frame.index, pd.RangeIndex):
            raise ValueError("it is empty, or a line has more fields than the header")
        shares = frame[list(_PUBLISHED[name])].apply(pd.to_numeric, errors="coerce")
        texts = frame.drop(columns=list(_PUBLISHED[name]))
    except (OSError, ValueError, KeyError, OverflowError) as error:
        raise FmucError(f"{paths.relative(path)}: {str(error)[:200]}: restore it from git") from None
    wrong = ~((shares >= 0) & (shares <= 100)).all(axis=1) | texts.isna().any(axis=1) | texts.duplicated()
    if wrong.any():
        raise FmucError(f"{paths.relative(path)}, line {wrong.idxmax() + 2}: not a share in % with its names, or there "
                        "twice: restore it from git")
    return frame.rename(columns={"split": "part"}).replace({"unlabeled": "unlabelled"})


def paper_dataset(dataset: str) -> str | None:
    """The published data set in whose place ``dataset`` stands; None for one that the paper does not have."""
    return PAPER.get(dataset.removesuffix("-smoke"))


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

    Quality and quantity come from the counts of the first ``epochs`` epochs (default: all): the learning rate is
    constant, so the beginning of a longer run of Table II is the run of Table I. Accuracies are those of the whole run.
    "known" is the share of the unlabelled examples whose true class is known; the estimates on validation files are
    those of the last epoch that has them.
    """
    rows: dict[tuple[str, int], dict] = {}
    for record in (r for r in records if r.run.dataset == dataset):
        run, last = record.run, min(epochs or len(record.kept), len(record.kept))
        if (run.variant, run.seed) in rows:
            raise FmucError(f"two records of {dataset}, {run.variant}, seed {run.seed}, one of them {run.name}: "
                            "delete the one of another configuration")
        kept, seen = record.counts(*last_tenth(last))
        estimates = record.history.reindex(columns=list(ESTIMATES)).loc[:last].ffill().iloc[-1]
        thirds = (part.sum(axis=0) for part in np.array_split(record.kept[:last], 3))
        values = [quality(kept), quantity(kept, seen), *map(quality, thirds),
                  *(record.results.get(f"{part}_accuracy", np.nan) for part in PARTS),
                  seen[:-1].sum() / seen.sum() if seen.sum() else np.nan, *estimates]
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
    """One run of each variant of a data set that no row of the paper is, by variant."""
    return {r.run.variant: r.run for r in records if r.run.dataset == dataset and r.run.variant not in VARIANTS}


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

    Index: its rows, then your own variants that select pseudo-labels; columns (metric, x) for x of mean, std, n (runs
    with a value), seeds (their values), paper. Where no true class is known, the metrics include ``ESTIMATES``.
    """
    runs, paper = measured(records, dataset, epochs), read_published("table1")
    paper = paper[paper["dataset"] == paper_dataset(dataset)].set_index("variant")
    paper = paper.reindex(columns=[*METRICS, *ESTIMATES]).astype(float)
    metrics = METRICS if truth_known(records, dataset) else (*METRICS, *ESTIMATES)
    own = [variant for variant, run in own_variants(records, dataset).items() if run.selection]
    return pd.concat({m: _summary(runs[m], [*TABLE_1, *own]).assign(paper=paper[m]) for m in metrics}, axis=1)


def table2(records: Sequence[Record], dataset: str) -> pd.DataFrame:
    """Table II, file-wise accuracy: index (part, variant); columns mean, std, n, seeds, paper, paper_std.

    Your own variants come last, those that have trained as long as the paper's.
    """
    runs, paper = measured(records, dataset), read_published("table2")
    paper = paper[paper["dataset"] == paper_dataset(dataset)].set_index(["part", "variant"])[["mean", "std"]]
    epochs = max((r.run.training.epochs for v in TABLE_2 for r in find(records, dataset, v)), default=0)
    own = [variant for variant, run in own_variants(records, dataset).items() if run.training.epochs >= epochs]
    ours = pd.concat({part: _summary(runs[part], [*TABLE_2, *own]) for part in PARTS}, names=["part"])
    return ours.join(paper.rename(columns={"mean": "paper", "std": "paper_std"}))


def cell(mean: float, std: float, n: float) -> str:
    """``86.7 ± 0.4 (n=3)``; "–" for what was not run."""
    return "–" if pd.isna(mean) else f"{spread(mean, std)} (n={n:.0f})"


def _beside_paper(row: Mapping, dataset: str) -> str:
    """Ours and, where the paper has the data set, its number: ``86.7 ± 0.4 (n=3) | paper 86.7``."""
    paper = f" | paper {spread(row['paper'], row.get('paper_std', np.nan))}" if paper_dataset(dataset) else ""
    return cell(row["mean"], row["std"], row["n"]) + paper


def format_table1(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """:func:`table1` as text; a quality that nobody can know is "unknown", with the validation estimate beside it."""
    columns = {}
    for metric in table.columns.unique(0):
        texts = [_beside_paper(row, dataset) for _, row in table[metric].iterrows()]
        if metric == "quality" and ESTIMATES[0] in table.columns.unique(0):
            ran = table[("quantity", "n")] > 0
            texts = ["unknown" if there else text for text, there in zip(texts, ran, strict=True)]
        columns[f"{NAMES[metric]} in %: {header(dataset)}"] = texts
    return pd.DataFrame(columns, index=table.index)


def format_table2(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """:func:`table2` as text: a row for each part, a column for each method."""
    texts = pd.Series([_beside_paper(row, dataset) for _, row in table.iterrows()], index=table.index)
    wide = texts.unstack("variant")[texts.index.unique("variant")].loc[list(PARTS)].rename_axis(columns=None)
    return wide.rename(index=lambda part: f"{part} in %: {header(dataset)}").rename_axis("file-wise accuracy")


def history_table(records: Sequence[Record], dataset: str, variants: Sequence[str]) -> pd.DataFrame:
    """Every epoch of every run, tidy: columns variant, seed, epoch, quality, quantity and, where evaluated,
    test_accuracy and unlabelled_accuracy."""
    columns = [*METRICS, *(f"{part}_accuracy" for part in PARTS)]
    frames = [record.history.reindex(columns=columns).mul(100).reset_index()
              .assign(variant=variant, seed=record.run.seed)
              for variant in variants for record in find(records, dataset, variant)]
    order = ["variant", "seed", "epoch", *columns]
    return pd.concat(frames, ignore_index=True)[order] if frames else pd.DataFrame(columns=order)


def claims(records: Sequence[Record], dataset: str, epochs: int) -> list[Claim]:
    """Every claim of the paper (see :mod:`fmuc.claims`), decided on our records of one data set."""
    return rules.judge(measured(records, dataset, epochs), paper_dataset(dataset))


def spearman(records: Sequence[Record], dataset: str, epochs: int) -> dict:
    """Rank correlation of our rows of Table I with the paper's, for quality and for quantity, and how many rows it has.

    Rows without a number on either side are left out; NaN where fewer than two rows differ.
    """
    table, result = table1(records, dataset, epochs), {"rows": {}}
    for metric in METRICS:
        both = table[metric][["mean", "paper"]].astype(float).dropna()
        result["rows"][metric] = len(both)
        result[metric] = float(both.rank().corr().iloc[0, 1]) if (both.nunique() > 1).all() else float("nan")
    return result


# Yours beside the shipped runs

RULE = """'within': your mean lies in the 95 % prediction interval of the shipped seeds (Student's t), which holds the
mean of as many new seeds as yours 19 times out of 20. 'equal': to one decimal. One shipped seed has no known spread."""


def prediction_interval(seeds: Sequence[float], new: int) -> tuple[float, float]:
    """95 % interval for the mean of ``new`` further seeds, from n seeds: mean ± t(n - 1) s sqrt(1 / n + 1 / new).

    Student's t accounts for n being small; values of seeds are taken to be normally distributed. NaN for n < 2.
    """
    if len(seeds) < 2 or not new:
        return np.nan, np.nan
    half = stdtrit(len(seeds) - 1, 0.975) * np.std(seeds, ddof=1) * np.sqrt(1 / len(seeds) + 1 / new)
    return float(np.mean(seeds) - half), float(np.mean(seeds) + half)


def _verdict(shipped: pd.Series, yours: pd.Series) -> dict:
    """Interval of the shipped seeds and where your number lies, see ``RULE``; "–" if one of the two does not exist."""
    if pd.isna(shipped["mean"]) or pd.isna(yours["mean"]):
        return {"low": np.nan, "high": np.nan, "verdict": "–"}
    low, high = prediction_interval(shipped["seeds"], yours["n"])
    word = "no spread known" if np.isnan(low) else "within" if low <= yours["mean"] <= high else "outside"
    return {"low": low, "high": high, "verdict": "equal" if number(shipped["mean"]) == number(yours["mean"]) else word}


def compare(profile: str, dataset: str | None = None) -> dict:
    """The paper's numbers, the shipped ones and yours, ready for JSON; what does not exist is None.

    ``{<data set>: {"header", "epochs", "runs", "numbers", "claims"}}``; "numbers" has a row for each metric and variant
    with its verdict, see ``RULE``, and "claims" those of each source. ``dataset`` as in :func:`fmuc.records.load_all`.
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
    return result


def _compare(records: Mapping[str, Sequence[Record]], dataset: str, epochs: int) -> dict:
    sides = pd.concat({whose: _all_numbers(found, dataset, epochs) for whose, found in records.items()}, axis=1)
    rows = [{"metric": metric, "variant": variant, "paper": np.fmax(*(row[whose]["paper"] for whose in SIDES)),
             **{f"{whose}_{key}": row[whose][key] for whose in SIDES for key in ("mean", "std", "n")},
             **_verdict(*(row[whose] for whose in SIDES))} for (metric, variant), row in sides.iterrows()]
    judged = {whose: [asdict(claim) | {"verdict": claim.verdict} for claim in claims(found, dataset, epochs)]
              for whose, found in records.items() if found}
    return {"header": header(dataset), "epochs": epochs, "runs": {whose: len(records[whose]) for whose in SIDES},
            "numbers": json.loads(pd.DataFrame(rows).to_json(orient="records", double_precision=4)), "claims": judged}


def _all_numbers(records: Sequence[Record], dataset: str, epochs: int) -> pd.DataFrame:
    """Tables I and II below each other: index (metric or part, variant)."""
    one, two = table1(records, dataset, epochs), table2(records, dataset)
    parts = {part: two.loc[part] for part in PARTS}
    return pd.concat({metric: one[metric] for metric in one.columns.unique(0)} | parts)


def format_compare(comparison: Mapping) -> str:
    """:func:`compare` as a text to read."""
    return "\n\n\n".join([*map(_format_dataset, comparison.values()), RULE])


def _format_dataset(part: Mapping) -> str:
    sides = [whose for whose in SIDES if part["runs"][whose]]
    runs = ", ".join(f"{count} {whose}" for whose, count in part["runs"].items())
    blocks = [f"{part['header']}\nRuns: {runs}; ± is the sample standard deviation over seeds; "
              f"Table I: last tenth of {part['epochs']} epochs"]
    for metric, rows in pd.DataFrame(part["numbers"]).groupby("metric", sort=False):
        texts = {f"{NAMES[metric]} in %": rows["variant"], "paper": rows["paper"].map(number),
                 **{whose: [cell(*row) for row in rows.filter(like=f"{whose}_").to_numpy(float)] for whose in sides},
                 **({"yours in the shipped spread?": rows["verdict"]} if len(sides) == 2 else {})}
        blocks.append(tabulate(texts, headers="keys", disable_numparse=True))
    claimed = [[*(claim["verdict"] for claim in claims), claims[0]["section"], claims[0]["text"], claims[-1]["ours"]]
               for claims in zip(*part["claims"].values(), strict=True)]
    blocks.append(tabulate(claimed, [*sides, "", "claim of the paper", f"decided by ({sides[-1]})"], maxcolwidths=50))
    return "\n\n".join(blocks)
