"""Run records -> what the notebooks look at beside the tables. Values in %."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from fmuc import tables
from fmuc.claims import Claim
from fmuc.metrics import expected_calibration_error, row_normalised
from fmuc.records import Record, find
from fmuc.tables import ESTIMATES, EVALUATIONS, METRICS, PAIR, PARTS, history_table, truth_known


def data_sets(records: Sequence[Record]) -> list[str]:
    """Names of the data sets of the records, each once, in their order."""
    return list(dict.fromkeys(record.run.dataset for record in records))


def claims_table(claims: Sequence[Claim], *sections: str) -> pd.DataFrame:
    """Claims of the given sections (default: all) with the verdict on our runs, one row each."""
    rows = [(claim.section, claim.text, claim.verdict, claim.ours or "–")
            for claim in claims if not sections or claim.section in sections]
    return pd.DataFrame(rows, columns=["paper", "claim", "in our runs", "ours, in points"])


def correlation(value: float) -> str:
    """A correlation to two decimals; "–" for one that does not exist."""
    return "–" if pd.isna(value) else f"{value:.2f}"


def compared(records: Sequence[Record], dataset: str) -> list[str]:
    """The variants that curves show: FM, FMUC and your own that select pseudo-labels."""
    return [*PAIR, *(v for v, run in tables.own_variants(records, dataset).items() if run.selection)]


def shown_history(records: Sequence[Record], dataset: str, variants: Sequence[str]) -> tuple[pd.DataFrame, bool]:
    """:func:`fmuc.tables.history_table`, and whether the true classes of unlabelled files are known.

    If not, nobody knows the quality of a pseudo-label: quality and quantity are then those on validation files in the
    epochs that have them (D18). The column "of" says on which files.
    """
    known = truth_known(records, dataset)
    history = history_table(records, dataset, variants, METRICS if known else ESTIMATES)
    return history.assign(of="unlabelled files" if known else "validation files"), known


# Confusions: all counts are (C + 1, C), the last row for unknown true classes

def outcomes(kept: np.ndarray, seen: np.ndarray) -> pd.Series:
    """Shares of the unlabelled examples offered, of known class: "kept, right", "kept, wrong" and "left out"."""
    right, total, offered = np.trace(kept), kept[:-1].sum(), seen[:-1].sum()
    counts = {"kept, right": right, "kept, wrong": total - right, "left out": offered - total}
    return 100 * pd.Series(counts, dtype=float) / offered


def top_confusions(kept: np.ndarray, classes: Sequence[str], count: int = 5) -> pd.DataFrame:
    """The ``count`` most frequent kinds of wrong kept pseudo-labels, by their share of the true class as in Fig. 3.

    Columns: true, pseudo-label, wrong (how many), kept (how many of the true class), share. Ties in the order of the
    classes.
    """
    totals = kept.sum(axis=1)
    rows = [(classes[i], classes[j], kept[i, j], totals[i], 100 * kept[i, j] / totals[i])
            for i, j in np.argwhere(kept[:-1] > 0) if i != j]
    table = pd.DataFrame(rows, columns=["true", "pseudo-label", "wrong", "kept", "share"])
    return table.sort_values("share", ascending=False, kind="stable").head(count).reset_index(drop=True)


def confusion(record: Record, epoch: int) -> pd.DataFrame:
    """Fig. 3 for one epoch: share of each true class (row) among its kept pseudo-labels (column), in 0 ... 1."""
    return pd.DataFrame(row_normalised(record.counts(epoch, epoch)[0][:-1]), record.classes, record.classes)


def surviving_mistakes(fm: np.ndarray, fmuc: np.ndarray, classes: Sequence[str], count: int = 5) -> pd.DataFrame:
    """FM's most frequent confusions, all its mistakes and its right ones: patches kept by FM and by FMUC.

    Both were offered equally many patches. The last column is FMUC's share of FM's.
    """
    rows = []
    for true, pseudo in top_confusions(fm, classes, count)[["true", "pseudo-label"]].itertuples(index=False):
        cell = classes.index(true), classes.index(pseudo)
        rows.append((f"{true} → {pseudo}", fm[cell], fmuc[cell]))
    right = np.trace(fm), np.trace(fmuc)
    rows += [("all mistakes", fm[:-1].sum() - right[0], fmuc[:-1].sum() - right[1]), ("right ones", *right)]
    table = pd.DataFrame(rows, columns=["true → pseudo-label", *PAIR])
    return table.assign(**{"FMUC keeps (%)": 100 * table["FMUC"] / table["FM"].where(table["FM"] > 0)})


def error_concentration(kept: np.ndarray, count: int = 5) -> tuple[float, float]:
    """Share of all wrong kept pseudo-labels in the ``count`` fullest of the C (C - 1) cells beside the diagonal.

    Second: the mean share in the fullest if as many mistakes fell on these cells at random. NaN without any mistake.
    """
    wrong = kept[:-1][~np.eye(kept.shape[1], dtype=bool)].astype(int)
    drawn = np.random.default_rng(0).multinomial(wrong.sum(), np.full(wrong.size, 1 / wrong.size), size=1000)
    fullest = [np.sort(cells)[..., -count:].sum(axis=-1).mean() for cells in (wrong, drawn)]
    return tuple(100 * held / wrong.sum() if wrong.sum() else float("nan") for held in fullest)


def class_rates(kept: np.ndarray, seen: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """Per class: offered, kept (both of the true class), quantity, quality, and precision in %.

    ``quality``: right ones among the kept examples of this true class (a diagonal cell of Fig. 3); ``precision``:
    right ones among the examples that were given this class as pseudo-label.
    """
    offered, of_true, as_label, right = (
        pd.Series(values, pd.Index(classes, name="class"))
        for values in (seen[:-1], kept[:-1].sum(axis=1), kept[:-1].sum(axis=0), np.diag(kept)))
    return pd.DataFrame({"offered": offered, "kept": of_true, "quantity": 100 * (of_true / offered),
                         "quality": 100 * (right / of_true), "precision": 100 * (right / as_label)})


def named_confusions(fm: np.ndarray, fmuc: np.ndarray, classes: Sequence[str], dataset: str) -> pd.DataFrame:
    """The confusions that the paper names for Fig. 3, beside ours; empty where it names none.

    Columns: true, pseudo-label; share of the true class: "paper, FM", "ours, FM", "ours, FMUC" (NaN where nothing of
    the class was kept); of our FM: wrong and kept (how many) and place (among its kinds of mistakes by share, 1 the
    most frequent; missing if never made).
    """
    named = tables.read_published("fig3", dataset)[["true", "pseudo_label", "share"]]
    shares, other = (100 * row_normalised(kept[:-1]) for kept in (fm, fmuc))
    mistakes, rows = shares[(shares > 0) & ~np.eye(len(classes), dtype=bool)], []
    for true, pseudo, paper in named.itertuples(index=False):
        i, j = classes.index(true), classes.index(pseudo)
        place = 1 + int((mistakes > shares[i, j]).sum()) if fm[i, j] else pd.NA
        rows.append((true, pseudo, paper, shares[i, j], other[i, j], fm[i, j], fm[i].sum(), place))
    columns = ["true", "pseudo-label", "paper, FM", "ours, FM", "ours, FMUC", "wrong", "kept", "place"]
    return pd.DataFrame(rows, columns=columns).astype({"place": "Int64"})


# Differences between rows

def accuracy_gap(records: Sequence[Record], dataset: str, part: str, ours: str = "FMUC",
                 other: str = "FM") -> pd.DataFrame:
    """One row's file-wise accuracy minus another's, in points: training steps x seeds that both were evaluated at.

    Each is the mean of the last :data:`fmuc.tables.EVALUATIONS` up to there, like the accuracies of the tables.
    """
    sides, column = [], f"{part}_accuracy"
    for variant in (ours, other):
        runs = {}
        for record in find(records, dataset, variant):
            values = 100 * record.history.reindex(columns=[column])[column].dropna()
            runs[record.run.seed] = values.set_axis(values.index * record.run.training.iterations_per_epoch)
        sides.append(pd.DataFrame(runs).rolling(EVALUATIONS, min_periods=1).mean())
    return (sides[0] - sides[1]).dropna(axis=1, how="all").dropna().rename_axis("step")


def calibration(records: Sequence[Record], dataset: str) -> pd.DataFrame:
    """How far the final predictions for files of known class can be believed, one row per run and part.

    Columns: part, variant, seed, accuracy, confidence (mean of the largest file-wise probability), error (expected
    calibration error, Guo et al. 2017 [12]).
    """
    rows = []
    for record in (r for r in records if r.run.dataset == dataset):
        for part in PARTS:
            labels = record.files[f"{part}_labels"]
            probabilities = record.files[f"{part}_probabilities"][labels >= 0].astype(float)
            if len(probabilities):
                confidence = np.clip(probabilities.max(axis=1), 0.0, 1.0)
                correct = probabilities.argmax(axis=1) == labels[labels >= 0]
                values = correct.mean(), confidence.mean(), expected_calibration_error(confidence, correct)
                rows.append((part, record.run.variant, record.run.seed, *np.multiply(values, 100)))
    return pd.DataFrame(rows, columns=["part", "variant", "seed", "accuracy", "confidence", "error"])
