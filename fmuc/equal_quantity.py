"""Is FMUC a better filter or a stricter threshold? Scores at equal quantity, on the same nets and between trained rows.

At equal quantity only the order of a score counts. Records keep every score of the whole unlabelled pool
(:mod:`fmuc.pool`); quality and quantity are those of the patches of known class, in %.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from fmuc.claims import MARGIN, number, points
from fmuc.evidence import Interval, clustered, t_interval, verdict
from fmuc.metrics import area_under_risk, quality_of_surest, surest
from fmuc.records import Record, find
from fmuc.tables import CLUSTER, METRICS, PAIR, TITLES, measured, paper_dataset, read_published, title

SCORES = SOFTMAX, FILTER = "max softmax", "mean - std, 5"  # of FixMatch and of FMUC
THRESHOLDS = ("FM", "FM thresh. 0.99", "FM thresh. 0.999", "FM thresh. 0.9999")
ROWS = (*THRESHOLDS, "FM thinned", "FMUC thresh. 0.6", "FMUC thresh. 0.75", "FMUC", "FMUC w/o MC-Dr.")  # of the picture
MEASURES = ("quality", "mean quality")
STEPS = 200  # of the pool, between which a bootstrap interpolates
ONCE = np.ones((1, 1))  # the whole pool as one group, drawn once


class Pool(NamedTuple):
    """Scores of a net: ``names`` (S,), ``certainty`` and whether the label is ``right`` (S, n), ``groups`` (n,)."""

    names: list[str]
    certainty: np.ndarray
    right: np.ndarray
    groups: np.ndarray


def pools(records: Sequence[Record], dataset: str, net: str, epochs: int,
          scores: Sequence[str] | None = None) -> list[Pool]:
    """The pool of each seed of a row after ``epochs`` epochs, or the nearest that was kept; patches of known class.

    ``scores``: only these.
    """
    found = []
    for pool in (record.pool for record in find(records, dataset, net) if record.pool):
        at, known = np.abs(pool["epochs"] - epochs).argmin(), pool["truth"] >= 0
        names = [name.decode() for name in pool["names"]]
        rows = [names.index(score) for score in scores or names]
        certainty, labels = (pool[part][at][rows][:, known] for part in ("certainty", "labels"))
        found.append(Pool(list(scores or names), certainty, labels == pool["truth"][known], pool["groups"][known]))
    return found


def threshold_curves(records: Sequence[Record], dataset: str, epochs: int) -> pd.DataFrame:
    """Quality at every quantity if a score's threshold is moved: net, score, quantity, quality (mean over seeds)."""
    shares, rows = np.arange(0.02, 1.001, 0.02), []
    for net in PAIR:
        found = pools(records, dataset, net, epochs, SCORES)
        for i, score in enumerate(SCORES if found else ()):
            counts = [surest(pool.certainty[i], pool.right[i]) for pool in found]
            rows += [(net, score, 100 * share, 100 * np.mean([quality_of_surest(seed, share) for seed in counts]))
                     for share in shares]
    return pd.DataFrame(rows, columns=["net", "score", "quantity", "quality"])


def score_differences(records: Sequence[Record], dataset: str, epochs: int, share: float,
                      scores: Sequence[str] | None = None) -> pd.DataFrame:
    """Every score minus the plain softmax on the same nets, in points: index (net, score, measure).

    Measures: "quality" of the surest ``share`` of the pool, and "mean quality" over all quantities, which is one minus
    the area under the risk-coverage curve. Columns as in :func:`fmuc.tables.differences`, and the "value" itself.
    ``scores``: only these, the plain softmax first.
    """
    def gains(pool: Pool, index: np.ndarray, times: np.ndarray) -> np.ndarray:
        values = _measures(pool, share, index, times, STEPS)
        return values - values[0]

    rows, keys = [], ["net", "score", "measure"]
    for net in PAIR:
        if not (found := pools(records, dataset, net, epochs, scores)):
            continue
        values = np.stack([_measures(pool, share)[..., 0] for pool in found])  # (seeds, S, measures)
        low, high, groups = clustered([(pool, pool.groups) for pool in found], gains)
        low, high = (np.broadcast_to(end, values.shape[1:]) for end in (low, high))
        for i, score in enumerate(found[0].names):
            for j, measure in enumerate(MEASURES):
                interval = t_interval(values[:, i, j] - values[:, 0, j])
                rows.append((net, score, measure, *interval, low[i, j], high[i, j], groups, values[:, i, j].mean()))
    return pd.DataFrame(rows, columns=[*keys, *Interval._fields, *CLUSTER, "value"]).set_index(keys).astype(float)


def _measures(pool: Pool, share: float, index: np.ndarray | None = None, times: np.ndarray = ONCE,
              steps: int | None = None) -> np.ndarray:
    """Every score's ``MEASURES`` in %, (S, 2, draws), for groups drawn ``times`` (draws, groups)."""
    counts = (times @ surest(*score, index, times.shape[1], steps)
              for score in zip(pool.certainty, pool.right, strict=True))  # (2, draws, steps)
    return 100 * np.array([(quality_of_surest(count, share), 1 - area_under_risk(count)) for count in counts])


def trained_difference(runs: pd.DataFrame) -> Interval:
    """FMUC minus FM trained with the threshold that keeps as many, in points, over the seeds where there is one.

    ``runs``: :func:`fmuc.tables.measured`. Between the trained thresholds FM is interpolated, never beyond them.
    """
    values = []
    for _, rows in runs[list(METRICS)].groupby(level="seed"):
        rows = rows.droplevel("seed")
        fm = rows.reindex(THRESHOLDS).dropna().sort_values("quantity")
        if "FMUC" in rows.index and len(fm) > 1:
            fmuc = rows.loc["FMUC"]
            as_many = np.interp(fmuc["quantity"], fm["quantity"], fm["quality"], left=np.nan, right=np.nan)
            values.append(fmuc["quality"] - as_many)
    return t_interval([value for value in values if not np.isnan(value)])


class Comparison(NamedTuple):
    """FMUC against a stricter threshold in points of quality, at the quantity in % that FMUC keeps.

    ``on_fm``, ``on_fmuc``: its score minus the plain softmax on either method's nets; ``trained``: see
    :func:`trained_difference`.
    """

    quantity: float
    on_fm: Interval
    on_fmuc: Interval
    trained: Interval

    @property
    def words(self) -> dict[str, str]:
        """What FMUC's rule is, compared with a stricter threshold, by where they were compared."""
        places = {"on FM's nets": self.on_fm, "on FMUC's nets": self.on_fmuc, "between trained rows": self.trained}
        return {place: _word(interval) for place, interval in places.items()}

    @property
    def judged(self) -> str:
        """:attr:`words` as the end of a sentence, whichever way they come out."""
        said = defaultdict(list)
        for place, word in self.words.items():
            said[word].append(place)
        return ", ".join(f"{word} {' and '.join(places)}" for word, places in said.items())


def _word(interval: Interval) -> str:
    if not interval.n:
        return "not compared"
    if verdict(interval, -MARGIN, MARGIN) == "holds":
        return f"as good (within {MARGIN:g} point)"
    return {"holds": "better", "contradicted": "worse", "not decidable": "undecided"}[verdict(interval)]


def compare(records: Sequence[Record], dataset: str, epochs: int) -> Comparison | None:
    """All comparisons at the quantity that FMUC keeps; None without pools or pseudo-labels."""
    runs = measured(records, dataset, epochs)
    quantity = runs.query("variant == 'FMUC'")["quantity"].mean()
    scores = score_differences(records, dataset, epochs, quantity / 100, SCORES)
    if len(scores.index.unique("net")) < len(PAIR) or not quantity > 0:
        return None
    on_fm, on_fmuc = (Interval(*scores.loc[(net, FILTER, "quality"), list(Interval._fields)]) for net in PAIR)
    return Comparison(quantity, on_fm, on_fmuc, trained_difference(runs))


def conclusion(records: Sequence[Record], dataset: str, epochs: int) -> str:
    """:func:`compare` in words; empty where there is none."""
    found = compare(records, dataset, epochs)
    if found is None:
        return ""
    on_fm, on_fmuc, trained = map(points, found[1:])
    trained = trained if found.trained.n else "not known: no threshold of FM that was trained keeps as few"
    return (f"{title(dataset)}: at the quantity that FMUC keeps ({found.quantity:.0f} %), the quality of its score "
            f"(mean − std, N = 5, T = 2) minus that of the plain softmax is {on_fm} points on FM's nets and {on_fmuc} "
            f"on FMUC's; FMUC minus FM trained with as strict a threshold is {trained}. Compared with a stricter "
            f"threshold, FMUC's rule is {found.judged}." + papers(dataset))


def papers(dataset: str) -> str:
    """What the paper's own Table I says about it, without intervals; empty for a data set that it does not have."""
    paper = paper_dataset(dataset)
    if not paper:
        return ""
    table = read_published("table1", dataset).set_index("variant")[list(METRICS)]
    apart = (table.loc["FMUC"] - table.loc[THRESHOLDS[1]]).map(lambda points: number(points, "+"))
    return (f" In the paper's Table I, on {TITLES[paper]}, FMUC minus {THRESHOLDS[1]} is {apart['quality']} points of "
            f"quality and {apart['quantity']} of quantity.")
