"""The paper's claims as differences between rows, in points: each holds, is contradicted, or is not decidable.

A claim holds if the 95 % intervals of all its differences lie where it says, and is contradicted if one of them lies
wholly elsewhere. The intervals are not corrected for the number of claims. "As good as" means within a stated margin,
which is ours: the paper names none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import NamedTuple

import pandas as pd

from fmuc.evidence import Interval, t_interval, verdict, welch
from fmuc.experiments import FULLY_SUPERVISED, LABELLED_ONLY, TABLE_1

THIRDS = ("quality_third_1", "quality_third_2", "quality_third_3")
MARGIN = 1.0  # points within which two rows count as equally good
SHOWN = 3  # differences that a verdict names; the closest ones

Terms = Sequence[tuple[float, str, str]]  # weight, variant and column of each number of a sum
Measure = Callable[[Terms], Interval | None]  # None where a row was not run


class Difference(NamedTuple):
    """A weighted sum of rows' numbers that a claim says lies between ``low`` and ``high``."""

    text: str
    terms: Terms
    low: float = 0.0
    high: float = inf


class Rule(NamedTuple):
    """A claim in our own words and its differences; ``paper``: the one data set that the paper makes it for."""

    key: str
    section: str
    text: str
    differences: Sequence[Difference]
    paper: str | None = None


class Claim(NamedTuple):
    """A claim with its verdict (*holds*, *contradicted*, *not decidable*, *not run*, *unknown*) and what decides it."""

    key: str
    section: str
    text: str
    verdict: str
    ours: str


def number(value: float | None, sign: str = "") -> str:
    """One decimal with a true minus; "–" for a value that does not exist."""
    return "–" if pd.isna(value) else f"{value:{sign}z.1f}".replace("-", "−")


def spread(mean: float | None, std: float | None) -> str:
    """Mean ± standard deviation; the mean alone where there is only one value."""
    return number(mean) if pd.isna(mean) or pd.isna(std) else f"{mean:.1f} ± {std:.1f}"


def limits(low: float, high: float) -> str:
    """The ends of an interval in brackets, nothing for none."""
    return "" if pd.isna(low) else f"[{number(low, '+')}, {number(high, '+')}]"


def points(interval: Interval) -> str:
    """Mean, 95 % interval and seeds in favour: ``+1.2 [−0.3, +2.7] 4/5``; what has no interval stands alone."""
    seeds = f"{interval.favour:g}/{interval.n:g}" if interval.n and not pd.isna(interval.mean) else ""
    ends = limits(interval.low, interval.high) if interval.low != interval.high or interval.n else ""
    return " ".join(filter(None, [number(interval.mean, "+"), ends, seeds]))


def from_runs(runs: pd.DataFrame) -> Measure:
    """Differences of our runs (:func:`fmuc.tables.measured`), seed by seed on the seeds that all rows have."""
    def measure(terms: Terms) -> Interval | None:
        if not {variant for _, variant, _ in terms} <= set(runs.index.get_level_values("variant")):
            return None
        parts = [weight * runs[column].xs(variant, level="variant") for weight, variant, column in terms]
        seeds = pd.concat(parts, axis=1, join="inner").sum(axis=1, skipna=False)
        return t_interval(seeds) if len(seeds) else None

    return measure


def from_paper(numbers: pd.DataFrame) -> Measure:
    """Differences of published numbers: index (variant, column), columns mean, std, n.

    Table I has single numbers without an interval, so their sign decides; Table II mean, standard deviation and n = 3.
    """
    def measure(terms: Terms) -> Interval | None:
        found = [(variant, column) in numbers.index for _, variant, column in terms]
        return welch([(weight, *numbers.loc[(v, c)]) for weight, v, c in terms]) if all(found) else None

    return measure


def judge(measure: Measure, paper: str | None, unknown: Mapping[str, str] = {}) -> list[Claim]:
    """Decide the paper's claims. ``paper``: the published data set in whose place ours stands, None for all of them.

    ``unknown``: the columns that cannot be known, and why.
    """
    return [Claim(rule.key, rule.section, rule.text, *_decide(rule, measure, unknown))
            for rule in RULES if rule.paper is None or paper in (None, rule.paper)]


def _decide(rule: Rule, measure: Measure, unknown: Mapping[str, str]) -> tuple[str, str]:
    """Verdict, and the differences that decide it: the contradicted or open ones, if any, the closest first."""
    measured = [(difference, measure(difference.terms)) for difference in rule.differences]
    if any(interval is None for _, interval in measured):
        return "not run", ""
    for _, _, column in (term for difference in rule.differences for term in difference.terms):
        if column in unknown:
            return "unknown", unknown[column]
    decided = {"contradicted": [], "not decidable": [], "holds": []}
    for difference, interval in measured:
        room = min(interval.mean - difference.low, difference.high - interval.mean)
        word = verdict(interval, difference.low, difference.high)
        decided[word].append((room, f"{difference.text} {points(interval)}"))
    word = next(word for word, found in decided.items() if found)
    texts = [text for _, text in sorted(decided[word])]
    return word, "; ".join(texts[:SHOWN]) + (f"; {len(texts) - SHOWN} more" if len(texts) > SHOWN else "")


def gain(ours: str, other: str, *columns: str, low: float = 0.0, high: float = inf) -> list[Difference]:
    """Ours minus the other row, in each column."""
    return [Difference(f"{column}: {ours} − {other}".replace("_", " "), ((1, ours, column), (-1, other, column)), low,
                       high) for column in columns]


def exceeds(text: str, first: Difference, second: Difference) -> Difference:
    """The first difference is larger than the second."""
    return Difference(text, (*first.terms, *((-weight, *term) for weight, *term in second.terms)))


FM_99, STRICT, TWO = "FM thresh. 0.99", "FMUC thresh. 0.95", "FMUC two thresh."
NO_TEMPERATURE, HOTTEST, NO_DROPOUT = "FMUC w/o temp.", "FMUC w. temp. 4", "FMUC w/o MC-Dr."
QUALITY, TEST, UNLABELLED = gain("FMUC", "FM", "quality", "test", "unlabelled")
COLDER = [row for row in TABLE_1 if row != HOTTEST]

RULES = (
    Rule("fm_helps", "§I", "FM is more accurate on test files than training on the labelled part alone",
         gain("FM", LABELLED_ONLY, "test")),
    Rule("fm_recovers", "§IV", "FM's pseudo-labels get better during the training",
         [Difference("FM's quality: last third − first", ((1, "FM", THIRDS[2]), (-1, "FM", THIRDS[0])))]),
    Rule("quality", "§V-B", "FMUC's pseudo-labels are better than FM's", [QUALITY]),
    Rule("quality_every_third", "§V-B", "They are so in every third of the training (Fig. 2a)",
         gain("FMUC", "FM", *THIRDS)),
    Rule("quantity_below", "§V-B", "FMUC keeps fewer pseudo-labels than FM", gain("FM", "FMUC", "quantity")),
    Rule("fm_threshold", "§V-B", "Raising FM's threshold to 0.99 raises the quality, and lowers the quantity by more",
         [*gain(FM_99, "FM", "quality"), exceeds("quantity lost − quality gained", *gain("FM", FM_99, "quantity"),
                                                 *gain(FM_99, "FM", "quality"))]),
    Rule("stricter_not_better", "§V-B", f"Raising FMUC's threshold to 0.95 lowers the quantity and raises the quality "
         f"by less than {MARGIN:g} point, if at all (NSynth)",
         [*gain("FMUC", STRICT, "quantity"), *gain(STRICT, "FMUC", "quality", low=-inf, high=MARGIN)], "nsynth"),
    Rule("stricter_better", "§V-B", "Raising FMUC's threshold to 0.95 lowers the quantity and raises the quality "
         "(TUT2017)", [*gain("FMUC", STRICT, "quantity"), *gain(STRICT, "FMUC", "quality")], "tut2017"),
    Rule("one_threshold", "§V-B", f"One combined threshold is as good as two (less than {MARGIN:g} point behind in "
         "quality and in quantity)", gain("FMUC", TWO, "quality", "quantity", low=-MARGIN)),
    Rule("no_temperature", "§V-B", "Without temperature the quality is lower", gain("FMUC", NO_TEMPERATURE, "quality")),
    Rule("temperature_4", "§V-B", "T = 4 has the best quality and the least quantity of all rows",
         [difference for row in COLDER
          for difference in (*gain(HOTTEST, row, "quality"), *gain(row, HOTTEST, "quantity"))]),
    Rule("mc_dropout", "§V-B", "Without MC-Dropout the quality is lower (NSynth: by its Table I; its text names the "
         "quantity)", gain("FMUC", NO_DROPOUT, "quality"), "nsynth"),
    Rule("mc_dropout_negligible", "§V-B", f"MC-Dropout changes quality and quantity by less than {MARGIN:g} point "
         "(TUT2017)", gain("FMUC", NO_DROPOUT, "quality", "quantity", low=-MARGIN, high=MARGIN), "tut2017"),
    Rule("test_accuracy", "§VI", "FMUC is more accurate than FM on test files", [TEST]),
    Rule("unlabelled_accuracy", "§VI", "FMUC is more accurate than FM on the left-out unlabelled files", [UNLABELLED]),
    Rule("gain_shrinks", "§VI", "FMUC gains test accuracy, but less than pseudo-label quality",
         [TEST, exceeds("gain in quality − in test", QUALITY, TEST)]),
    Rule("known_domain", "§VI", "FMUC gains accuracy on unlabelled files, and more than on test files",
         [UNLABELLED, exceeds("gain on unlabelled − on test", UNLABELLED, TEST)]),
    Rule("gap_remains", "§VI", "Full supervision stays more accurate on test files than FMUC and FM",
         [*gain(FULLY_SUPERVISED, "FMUC", "test"), *gain(FULLY_SUPERVISED, "FM", "test")]),
    Rule("temperature_most", "§VII", "Temperature raises the quality, and by more than MC-Dropout",
         [*gain("FMUC", NO_TEMPERATURE, "quality"),
          exceeds("gain by temperature − by MC-Dropout", *gain("FMUC", NO_TEMPERATURE, "quality"),
                  *gain("FMUC", NO_DROPOUT, "quality"))]),
)
