"""The confusions that the paper names, beside ours, and what a simulated data set decides about them beforehand."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd

from fmuc import published
from fmuc.metrics import row_normalised
from fmuc.tables import paper_dataset


def named_confusions(fm: np.ndarray, fmuc: np.ndarray, classes: Sequence[str], dataset: str) -> pd.DataFrame:
    """The confusions that the paper names for Fig. 3, beside ours: (C + 1, C) counts of FixMatch and of FMUC.

    Columns: true, pseudo-label; share of the true class in %: "paper, FM", "ours, FM", "ours, FMUC" (NaN where nothing
    of the class was kept); of our FixMatch: wrong and kept (how many) and place (among all kinds of its mistakes by
    share, 1 the most frequent; missing if never made). Empty where the paper has no such data set or names none.
    """
    named = published.read("fig3")
    named = named.loc[named["dataset"] == paper_dataset(dataset), ["true", "pseudo_label", "share"]]
    shares, other = (100 * row_normalised(kept[: len(classes)]) for kept in (fm, fmuc))
    mistakes, rows = shares[(shares > 0) & ~np.eye(len(classes), dtype=bool)], []
    for true, pseudo, paper in named.itertuples(index=False):
        i, j = classes.index(true), classes.index(pseudo)
        place = 1 + int((mistakes > shares[i, j]).sum()) if fm[i, j] else pd.NA
        rows.append((true, pseudo, paper, shares[i, j], other[i, j], fm[i, j], fm[i].sum(), place))
    columns = ["true", "pseudo-label", "paper, FM", "ours, FM", "ours, FMUC", "wrong", "kept", "place"]
    return pd.DataFrame(rows, columns=columns).astype({"place": "Int64"})


def pair_confusions(kept: np.ndarray, classes: Sequence[str]) -> pd.Series:
    """How often two classes are taken for each other, of both classes' kept pseudo-labels, in %; index (one, other).

    ``kept``: (C + 1, C) counts. NaN where nothing of both was kept.
    """
    totals = kept.sum(axis=1)
    rows = {(classes[i], classes[j]): 100 * (kept[i, j] + kept[j, i]) / (totals[i] + totals[j] or np.nan)
            for i, j in combinations(range(len(classes)), 2)}
    return pd.Series(rows, dtype=float).rename_axis(["one", "other"])


def shared_sources(sources: Mapping[str, Collection[str]]) -> pd.DataFrame:
    """What each two simulated classes have in common by construction; index (one, other) in the order of the classes.

    Columns: in common (names of sources), overlap (of the sources of either, in %), place (by overlap, 1 the largest).
    """
    rows = {}
    for one, other in combinations(sources, 2):
        common = [source for source in sources[one] if source in sources[other]]
        rows[one, other] = (", ".join(common), 100 * len(common) / len({*sources[one], *sources[other]}))
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["in common", "overlap"])
    table.index = pd.MultiIndex.from_tuples(rows, names=["one", "other"])
    return table.assign(place=table["overlap"].rank(ascending=False, method="min").astype(int))
