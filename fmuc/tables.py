"""Run records -> Tables I and II beside the paper's numbers, rank correlation and claims. Every number is in %."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from tabulate import tabulate

from fmuc import claims as rules
from fmuc import paths
from fmuc.claims import THIRDS, Claim, number, spread
from fmuc.errors import FmucError
from fmuc.experiments import TABLE_1, TABLE_2, Preset, chosen
from fmuc.metrics import quality, quantity
from fmuc.own.importing import read_csv
from fmuc.records import Record, load_all

NUMBERS = {"table1": ("quality", "quantity"), "table2": ("mean", "std"), "fig2": ("value",), "fig3": ("epoch", "share")}
TEXTS = {"table1": ("dataset", "variant"), "table2": ("dataset", "split", "variant"),
         "fig2": ("dataset", "variant", "metric", "at"), "fig3": ("dataset", "variant", "true", "pseudo_label")}
_REMEDY = "restore it from git"


def read(name: str) -> pd.DataFrame:
    """One table, tidy; its numbers are in % (but for an epoch), NaN where the paper has none.

    Raises :class:`FmucError` with the line for what cannot be one of the paper's numbers, and for a row that is there
    twice.
    """
    path, seen = paths.PUBLISHED / f"{name}.csv", {}
    rows = read_csv(path, (*TEXTS[name], *NUMBERS[name]), (), _REMEDY)
    for where, row in rows:
        for column in TEXTS[name]:
            if not (row[column].isprintable() and row[column].strip()):
                raise FmucError(f"{where}: {column} must be a name, not {row[column][:80]!r}; {_REMEDY}")
        for column in NUMBERS[name]:
            if row[column] and not _is_share(row[column]):
                raise FmucError(f"{where}: {column} must be a number from 0 to 100, not {row[column][:80]!r}; "
                                f"{_REMEDY}")
        key = tuple(row[column] for column in TEXTS[name])
        if key in seen:
            raise FmucError(f"{where}: {', '.join(key)} is there twice, first in {seen[key]}; {_REMEDY}")
        seen[key] = where
    frame = pd.DataFrame([row for _, row in rows])[list(rows[0][1])]
    return frame.assign(**{column: pd.to_numeric(frame[column]) for column in NUMBERS[name]})


def _is_share(text: str) -> bool:
    try:
        return text.isascii() and 0 <= float(text) <= 100
    except ValueError:
        return False


PAPER = {"nsynth-gm": "nsynth", "nsynth": "nsynth", "scenes-sim": "tut2017", "tut2017": "tut2017"}
TITLES = {"nsynth": "NSynth", "tut2017": "TUT2017"}
METRICS, PARTS = ("quality", "quantity"), ("test", "unlabelled")
ESTIMATES = tuple(f"validation_{metric}" for metric in METRICS)  # where the truth of unlabelled files is not known
COLUMNS = (*METRICS, *THIRDS, *PARTS, "known", *ESTIMATES)


def paper_dataset(dataset: str) -> str | None:
    """The published data set in whose place ``dataset`` stands; None for one that the paper does not have."""
    return PAPER.get(dataset.removesuffix("-smoke"))


def title(dataset: str) -> str:
    """A data set's name in headers: the paper's own, or ours marked as a stand-in."""
    if dataset in TITLES:
        return TITLES[dataset]
    return f"{dataset} (stand-in)" if paper_dataset(dataset) else dataset


def header(dataset: str) -> str:
    """Whose numbers stand in a formatted table: ours and, where there is a published counterpart, the paper's."""
    paper = paper_dataset(dataset)
    return f"{title(dataset)} | paper: {TITLES[paper]}" if paper else title(dataset)


def published_table1() -> pd.DataFrame:
    """The paper's Table I, tidy: columns dataset, variant, quality, quantity."""
    return read("table1")


def published_table2() -> pd.DataFrame:
    """The paper's Table II, tidy: columns dataset, part, variant, mean, std."""
    frame = read("table2").rename(columns={"split": "part"})
    return frame.replace({"part": {"unlabeled": "unlabelled"}})


def last_tenth(epochs: int) -> tuple[int, int]:
    """First and last epoch that Table I reads: the last tenth of the training, at least one epoch (D13)."""
    return epochs - max(1, epochs // 10) + 1, epochs


def thirds(record: Record, epochs: int | None = None) -> tuple[float, float, float]:
    """Quality in each third of the first ``epochs`` epochs (default: all), from counts; NaN where none was kept."""
    parts = np.array_split(record.kept[:epochs], 3)
    return tuple(100 * quality(part.sum(axis=0)) for part in parts)


def measured(records: Sequence[Record], dataset: str, epochs: int | None = None) -> pd.DataFrame:
    """One row per run of a data set: index (variant, seed), columns ``COLUMNS`` in %, NaN where there is no value.

    Quality and quantity come from the counts of the first ``epochs`` epochs (default: all): the learning rate is
    constant, so the beginning of a longer run of Table II is the run of Table I. Accuracies are those of the whole run.
    "known" is the share of the unlabelled examples whose true class is known; "validation_quality" and
    "validation_quantity" are the estimates of the last epoch that has them.
    """
    rows: dict[tuple[str, int], dict] = {}
    for record in (r for r in records if r.run.dataset == dataset):
        run, trained = record.run, len(record.kept)
        if (run.variant, run.seed) in rows:
            raise FmucError(f"two records of {dataset}, {run.variant}, seed {run.seed}, one of them {run.name}: "
                            "delete the one of another configuration")
        if epochs and run.selection and trained < epochs:
            raise FmucError(f"{run.name} has {trained} epochs, Table I needs {epochs}: delete it and train it again")
        kept, seen = record.counts(*last_tenth(epochs or trained))
        values = [quality(kept), quantity(kept, seen), *np.divide(thirds(record, epochs), 100),
                  *(record.results.get(f"{part}_accuracy", np.nan) for part in PARTS),
                  seen[:-1].sum() / seen.sum() if seen.sum() else np.nan, *_estimates(record, epochs or trained)]
        rows[run.variant, run.seed] = dict(zip(COLUMNS, np.multiply(values, 100), strict=True))
    index = pd.MultiIndex.from_tuples(list(rows), names=["variant", "seed"])
    return pd.DataFrame(list(rows.values()), index=index, columns=list(COLUMNS), dtype=float).sort_index()


def _estimates(record: Record, epochs: int) -> tuple[float, float]:
    """Quality and quantity on the validation files in the last epoch up to ``epochs`` that has them, else NaN."""
    rows = record.history.reindex(columns=list(ESTIMATES)).loc[:epochs].dropna(how="all")
    return tuple(rows.iloc[-1]) if len(rows) else (np.nan, np.nan)


def truth_known(records: Sequence[Record], dataset: str) -> bool:
    """Whether any unlabelled example of the data set has a known true class, so that quality can be measured at all.

    True where nothing was pseudo-labelled yet.
    """
    seen = sum((record.seen.sum(axis=0) for record in records if record.run.dataset == dataset), start=np.zeros(1))
    return bool(seen[:-1].any() or not seen.any())


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

    Index: the eight variants in the paper's order; columns (metric, x) for the metrics quality and quantity and x of
    mean, std, n (runs with a value), seeds (their values), paper. Where no true class of an unlabelled example is
    known, the metrics validation_quality and validation_quantity come as well.
    """
    runs, paper = measured(records, dataset, epochs), published_table1()
    paper = paper[paper["dataset"] == paper_dataset(dataset)].set_index("variant")
    paper = paper.reindex(columns=[*METRICS, *ESTIMATES]).astype(float)
    metrics = METRICS if truth_known(records, dataset) else (*METRICS, *ESTIMATES)
    return pd.concat({m: _summary(runs[m], list(TABLE_1)).assign(paper=paper[m]) for m in metrics}, axis=1)


def table2(records: Sequence[Record], dataset: str) -> pd.DataFrame:
    """Table II, file-wise accuracy: index (part, variant); columns mean, std, n, seeds, paper, paper_std."""
    runs, paper = measured(records, dataset), published_table2()
    paper = paper[paper["dataset"] == paper_dataset(dataset)].set_index(["part", "variant"])[["mean", "std"]]
    ours = pd.concat({part: _summary(runs[part], TABLE_2) for part in PARTS}, names=["part"])
    return ours.join(paper.rename(columns={"mean": "paper", "std": "paper_std"}))


def metrics_of(table: pd.DataFrame) -> list[str]:
    """The metrics of a :func:`table1`, in its order."""
    return list(table.columns.get_level_values(0).unique())


def cell(row: Mapping, dataset: str) -> str:
    """Ours and the paper's number: ``86.7 ± 0.4 (n=3) | paper 86.7``; "–" for what was not run or not published.

    The paper's side is left out for a data set in whose place the paper has none.
    """
    ours = "–" if pd.isna(row["mean"]) else f"{spread(row['mean'], row['std'])} (n={row['n']})"
    paper = f" | paper {spread(row['paper'], row.get('paper_std', np.nan))}"
    return ours + paper if paper_dataset(dataset) else ours


def format_table1(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """:func:`table1` as text; a quality that nobody can know is "unknown", with the validation estimate beside it."""
    columns = {}
    for metric in metrics_of(table):
        texts = [cell(row, dataset) for _, row in table[metric].iterrows()]
        if metric == "quality" and ESTIMATES[0] in metrics_of(table):
            ran = table[("quantity", "n")] > 0
            texts = ["unknown" if there else text for text, there in zip(texts, ran, strict=True)]
        columns[f"{_METRIC_NAMES[metric]} in %: {header(dataset)}"] = texts
    return pd.DataFrame(columns, index=table.index)


_METRIC_NAMES = {**{m: m for m in METRICS}, **{f"validation_{m}": f"{m} on validation files" for m in METRICS}}


def format_table2(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """:func:`table2` as text: a row for each part, a column for each method."""
    texts = pd.Series([cell(row, dataset) for _, row in table.iterrows()], index=table.index).unstack("variant")
    texts = texts.loc[list(PARTS), list(TABLE_2)].rename_axis(columns=None)
    return texts.rename(index=lambda part: f"{part} in %: {header(dataset)}").rename_axis("file-wise accuracy")


def history_table(records: Sequence[Record], dataset: str, variants: Sequence[str] = tuple(TABLE_1)) -> pd.DataFrame:
    """Every epoch of every run, tidy and in %: columns variant, seed, epoch, quality, quantity and, where evaluated,
    test_accuracy and unlabelled_accuracy."""
    columns = [*METRICS, *(f"{part}_accuracy" for part in PARTS)]
    frames = [
        record.history.reindex(columns=columns).mul(100).reset_index().assign(variant=variant, seed=record.run.seed)
        for variant in variants
        for record in sorted(records, key=lambda r: r.run.seed)
        if (record.run.dataset, record.run.variant) == (dataset, variant)
    ]
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


def compare(profile: str, source: str = "runs", dataset: str | None = None) -> dict:
    """Ours against the paper, ready for JSON; what does not exist is None.

    ``{<data set>: {"table1": {"rows", "spearman"}, "table2", "claims", "regime", ...}}``; ``source`` and ``dataset``
    as in :func:`fmuc.records.load_all`.
    """
    records, result = load_all(profile, source, dataset), {}
    for name, preset in chosen(profile, dataset).items():
        ours = [record for record in records if record.run.dataset == name]
        result[name] = _plain({"records": len(ours), **_compare(ours, preset)})
    return result


def _compare(records: Sequence[Record], preset: Preset) -> dict:
    dataset, epochs = preset.dataset, preset.training.epochs
    one, two = table1(records, dataset, epochs), table2(records, dataset)
    fm = {metric: one.loc["FM", (metric, "mean")] for metric in METRICS}
    above = two.loc[("unlabelled", "FM"), "mean"] - two.loc[("test", "FM"), "mean"]
    return {
        "header": header(dataset),
        "epochs": epochs,
        "truth_known": truth_known(records, dataset),
        "table1": {"rows": {v: {m: one.loc[v, m].to_dict() for m in metrics_of(one)} for v in one.index},
                   "spearman": spearman(records, dataset, epochs)},
        "table2": {part: {v: two.loc[(part, v)].to_dict() for v in TABLE_2} for part in PARTS},
        "claims": [asdict(claim) | {"verdict": claim.verdict} for claim in claims(records, dataset, epochs)],
        "regime": {"fm_quantity": fm["quantity"], "fm_quality": fm["quality"],
                   "unlabelled_above_test": None if pd.isna(above) else bool(above > 0)},
    }


def _plain(value: object) -> object:
    """The same for JSON: numbers of Python rounded to 1e-4, lists, None for NaN."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return None if np.isnan(value) else round(float(value), 4)
    return int(value) if isinstance(value, np.integer) else value


def format_compare(comparison: Mapping) -> str:
    """:func:`compare` as a text to read."""
    return "\n\n\n".join(_format_dataset(name, part) for name, part in comparison.items())


def _format_dataset(dataset: str, part: Mapping) -> str:
    one, two = part["table1"]["rows"], part["table2"]
    frame = pd.DataFrame.from_dict({v: {(m, key): value for m, row in rows.items() for key, value in row.items()}
                                    for v, rows in one.items()}, orient="index")
    texts = format_table1(frame, dataset).rename(columns=lambda name: name.partition(":")[0])
    tables = [tabulate(texts, headers=["Table I", *texts], disable_numparse=True),
              tabulate([[v, *(cell(two[p][v], dataset) for p in PARTS)] for v in TABLE_2],
                       headers=["Table II: accuracy in %", *PARTS], disable_numparse=True)]
    lines = [f"{claim['verdict']:>13}  {claim['section']:<4}  {claim['text']}"
             + (f"\n{'':21}{claim['ours']}" if claim["ours"] else "") for claim in part["claims"]]
    head = (f"{part['header']}\nrecords of runs: {part['records']}; Table I reads the last tenth of {part['epochs']} "
            "epochs; ± is the sample standard deviation over seeds")
    blocks = [head, tables[0], _format_ranks(dataset, part), tables[1], _format_regime(part),
              "Claims of the paper in our runs:\n" + "\n".join(lines)]
    return "\n\n".join(block for block in blocks if block)


def _format_ranks(dataset: str, part: Mapping) -> str:
    if not paper_dataset(dataset):
        return ""
    rank = part["table1"]["spearman"]
    rho = [f"{m} {'–' if rank[m] is None else format(rank[m], '.2f')} ({rank['rows'][m]} rows)" for m in METRICS]
    return f"Spearman's rank correlation with the paper: {', '.join(rho)}"


def _format_regime(part: Mapping) -> str:
    regime = part["regime"]
    above = {None: "not known", True: "yes", False: "no"}[regime["unlabelled_above_test"]]
    quality = (f"with a quality of {number(regime['fm_quality'])} %" if part["truth_known"] else
               "whose quality is not known")
    return (f"Regime: FM keeps {number(regime['fm_quantity'])} %, {quality}; "
            f"unlabelled accuracy above test accuracy: {above}")
