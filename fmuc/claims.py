"""The paper's claims of §IV to §VI as rules on measured rows: each holds, does not hold, or was not run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fmuc.experiments import FULLY_SUPERVISED, LABELLED_ONLY, TABLE_2

THIRDS = ("quality_third_1", "quality_third_2", "quality_third_3")
BOTH = ["quality", "quantity"]
TOLERANCE = 1.0  # percentage points within which two rows count as equally good
NO_TEMPERATURE, NO_DROPOUT, TWO, HOTTEST = "FMUC w/o temp.", "FMUC w/o MC-Dr.", "FMUC two thresh.", "FMUC w. temp. 4"
ROWS = ("FM", "FM thresh. 0.99", "FMUC", "FMUC thresh. 0.95", TWO, NO_TEMPERATURE, HOTTEST, NO_DROPOUT)  # the paper's

Decision = tuple[bool, str]  # and the numbers that decide
Decide = Callable[[pd.DataFrame, pd.DataFrame], Decision]  # from the means (variant x column) and the rows of each seed


@dataclass(frozen=True)
class Claim:
    """A claim in our own words; ``holds``: None where what it needs was not run or is not known; ``ours``: what decides
    it."""

    key: str
    text: str
    section: str
    holds: bool | None
    ours: str

    @property
    def verdict(self) -> str:
        if self.holds is None:
            return "unknown" if self.ours else "not run"
        return "holds" if self.holds else "does not hold"


@dataclass(frozen=True)
class Rule:
    """A claim and its decision from the rows of ``variants``; ``paper``: the one data set that it is made for;
    ``truth``: it is about true classes of unlabelled examples, ``test``: about test files."""

    key: str
    section: str
    text: str
    variants: tuple[str, ...]
    decide: Decide
    paper: str | None = None
    truth: bool = True
    test: bool = False


def number(value: float | None, sign: str = "") -> str:
    """One decimal; "–" for a value that does not exist."""
    return "–" if pd.isna(value) else f"{value:{sign}.1f}"


def spread(mean: float | None, std: float | None) -> str:
    """Mean ± standard deviation; the mean alone where there is only one value."""
    return number(mean) if pd.isna(mean) or pd.isna(std) else f"{mean:.1f} ± {std:.1f}"


def judge(runs: pd.DataFrame, paper: str | None) -> list[Claim]:
    """Decide every claim on ``runs`` as :func:`fmuc.tables.measured` gives them.

    Rows are compared on the seeds that they have in common. A value that does not exist (the quality of no
    pseudo-label) supports no claim. ``paper``: the published data set in whose place ours stands.
    """
    return [Claim(rule.key, rule.text, rule.section, *_decide(rule, runs))
            for rule in RULES if rule.paper in (None, paper)]


def _decide(rule: Rule, runs: pd.DataFrame) -> tuple[bool | None, str]:
    """``holds`` and ``ours`` of a claim."""
    seeds = [set(runs.loc[[v]].index.get_level_values("seed")) if v in runs.index else set() for v in rule.variants]
    common = sorted(set.intersection(*seeds))
    if not common:
        return None, ""
    rows = runs.loc[(list(rule.variants), common), :]
    if rule.truth and (rows["known"] == 0).any():
        return None, "the true classes of the unlabelled files are not known"
    if rule.test and rows["test"].isna().all():
        return None, "there are no test files of known class"
    by_variant = rows.groupby(level="variant")
    means = by_variant.mean().mask(rows.isna().groupby(level="variant").any())  # NaN if any seed has no value
    holds, ours = rule.decide(means, rows)
    return bool(holds), f"{ours} (seed{'s' if len(common) > 1 else ''} {', '.join(map(str, common))})"


def _say(means: pd.DataFrame, columns: Sequence[str], *variants: str) -> str:
    parts = [", ".join(f"{variant} {number(means.loc[variant, column])}" for variant in variants) for column in columns]
    return "; ".join(f"{column}: {part}" for column, part in zip(columns, parts, strict=True))


def _every_third(means: pd.DataFrame, rows: pd.DataFrame) -> Decision:
    return (means.loc["FMUC", list(THIRDS)] > means.loc["FM", list(THIRDS)]).all(), _say_thirds(means, "FMUC", "FM")


def _recovers(means: pd.DataFrame, rows: pd.DataFrame) -> Decision:
    return means.loc["FM", THIRDS[2]] > means.loc["FM", THIRDS[0]], _say_thirds(means, "FM")


def _say_thirds(means: pd.DataFrame, *variants: str) -> str:
    sides = [f"{variant} {', '.join(map(number, means.loc[variant, list(THIRDS)]))}" for variant in variants]
    return f"quality by thirds: {'; '.join(sides)}"


def _higher(column: str, high: str, low: str) -> Decide:
    """The first variant's mean of ``column`` is higher than the second's."""
    def decide(means: pd.DataFrame, rows: pd.DataFrame) -> Decision:
        return means.loc[high, column] > means.loc[low, column], _say(means, (column,), low, high)

    return decide


def _trade(strict: str, loose: str, better: bool) -> Decide:
    """The stricter row keeps less, and its quality is higher (``better``) or not."""
    def decide(means: pd.DataFrame, rows: pd.DataFrame) -> Decision:
        gain = means.loc[strict, "quality"] - means.loc[loose, "quality"]
        holds = (gain > 0 if better else gain <= 0) and means.loc[strict, "quantity"] < means.loc[loose, "quantity"]
        return holds, _say(means, BOTH, strict, loose)

    return decide


def _extreme(means: pd.DataFrame, rows: pd.DataFrame) -> Decision:
    others = means.drop(index=HOTTEST)
    best = others["quality"].fillna(-np.inf).idxmax()  # a row that kept nothing has no quality
    holds = (means.loc[HOTTEST, "quality"] > others["quality"].max()
             and means.loc[HOTTEST, "quantity"] < others["quantity"].min())
    least = others["quantity"].idxmin()
    return holds, f"{_say(means, ('quality',), HOTTEST, best)}; {_say(means, ('quantity',), HOTTEST, least)}"


def _most_effective(means: pd.DataFrame, rows: pd.DataFrame) -> Decision:
    temperature, dropout = means.loc["FMUC", "quality"] - means.loc[[NO_TEMPERATURE, NO_DROPOUT], "quality"]
    return 0 < temperature > dropout, (f"gain in quality: by temperature {number(temperature, '+')}, "
                                       f"by MC-Dropout {number(dropout, '+')}")


def _one_threshold(means: pd.DataFrame, rows: pd.DataFrame) -> Decision:
    behind = means.loc[TWO] - means.loc["FMUC"]
    return (behind[BOTH] <= TOLERANCE).all(), _say(means, BOTH, "FMUC", TWO)


def _dropout_negligible(means: pd.DataFrame, rows: pd.DataFrame) -> Decision:
    apart = (means.loc[NO_DROPOUT] - means.loc["FMUC"]).abs()
    return (apart[BOTH] <= TOLERANCE).all(), _say(means, BOTH, NO_DROPOUT, "FMUC")


def _more_accurate(better: str, worse: str, part: str) -> Decide:
    """Mean file-wise accuracy on ``part`` is higher; says the spread and for how many seeds it is so."""
    def decide(means: pd.DataFrame, rows: pd.DataFrame) -> Decision:
        mean, std = means[part], rows[part].groupby(level="variant").std()
        seeds = rows.loc[better, part] > rows.loc[worse, part]
        sides = ", ".join(f"{v} {spread(mean[v], std[v])}" for v in (better, worse))
        return mean[better] > mean[worse], f"{part} accuracy: {sides}; higher in {seeds.sum()} of {len(seeds)} seeds"

    return decide


def _gain_shrinks(means: pd.DataFrame, rows: pd.DataFrame) -> Decision:
    gain = means.loc["FMUC"] - means.loc["FM"]
    text = f"gain in quality {number(gain['quality'], '+')}, in test accuracy {number(gain['test'], '+')}"
    return 0 < gain["test"] < gain["quality"], text


def _known_domain(means: pd.DataFrame, rows: pd.DataFrame) -> Decision:
    pair = means.loc[["FM", "FMUC"]]
    return (pair["unlabelled"] > pair["test"]).all(), _say(means, ("unlabelled", "test"), "FM", "FMUC")


def _on_top(means: pd.DataFrame, rows: pd.DataFrame) -> Decision:
    others = means["test"].drop(FULLY_SUPERVISED)
    return (means.loc[FULLY_SUPERVISED, "test"] > others).all(), _say(means, ("test",), *TABLE_2[::-1])


PAIR = ("FMUC", "FM")
RULES = (
    Rule("fm_recovers", "§IV", "FM's pseudo-labels get better during the training", ("FM",), _recovers),
    Rule("quality_every_third", "§V-B", "FMUC's quality is above FM's in every third of the training", PAIR,
         _every_third),
    Rule("quantity_below", "§V-B", "FMUC keeps fewer pseudo-labels than FM", PAIR, _higher("quantity", "FM", "FMUC"),
         truth=False),
    Rule("fm_threshold", "§V-B", "Raising FM's threshold to 0.99 raises the quality and lowers the quantity",
         ("FM thresh. 0.99", "FM"), _trade("FM thresh. 0.99", "FM", better=True)),
    Rule("fmuc_threshold", "§V-B", "Raising FMUC's threshold to 0.95 lowers the quantity without raising the quality",
         ("FMUC thresh. 0.95", "FMUC"), _trade("FMUC thresh. 0.95", "FMUC", better=False), "nsynth"),
    Rule("fmuc_threshold", "§V-B", "Raising FMUC's threshold to 0.95 raises the quality and lowers the quantity",
         ("FMUC thresh. 0.95", "FMUC"), _trade("FMUC thresh. 0.95", "FMUC", better=True), "tut2017"),
    Rule("temperature_4", "§V-B", "T = 4 has the best quality and the least quantity of all rows", ROWS, _extreme),
    Rule("no_temperature", "§V-B", "Without temperature the quality is lower", (NO_TEMPERATURE, "FMUC"),
         _higher("quality", "FMUC", NO_TEMPERATURE)),
    Rule("temperature_most", "§V-B", "Temperature raises the quality by more than MC-Dropout does",
         ("FMUC", NO_TEMPERATURE, NO_DROPOUT), _most_effective),
    Rule("one_threshold", "§V-B", f"One combined threshold is as good as two (at most {TOLERANCE:g} point behind in "
         "quality and in quantity)", ("FMUC", TWO), _one_threshold),
    Rule("mc_dropout", "§V-B", "Without MC-Dropout the quality is lower (by Table I; the text names the quantity)",
         (NO_DROPOUT, "FMUC"), _higher("quality", "FMUC", NO_DROPOUT), "nsynth"),
    Rule("mc_dropout", "§V-B", f"MC-Dropout hardly matters (at most {TOLERANCE:g} point in quality and in quantity)",
         (NO_DROPOUT, "FMUC"), _dropout_negligible, "tut2017"),
    Rule("test_accuracy", "§VI", "FMUC is more accurate than FM on test files", PAIR, _more_accurate(*PAIR, "test"),
         truth=False, test=True),
    Rule("unlabelled_accuracy", "§VI", "FMUC is more accurate than FM on the left-out unlabelled files", PAIR,
         _more_accurate(*PAIR, "unlabelled")),
    Rule("gain_shrinks", "§VI", "FMUC gains test accuracy, but less than it gains pseudo-label quality", PAIR,
         _gain_shrinks, test=True),
    Rule("known_domain", "§VI", "FM and FMUC are more accurate on unlabelled files than on test files", PAIR,
         _known_domain, test=True),
    Rule("fm_helps", "§I", "FM is more accurate on test files than training on the labelled part alone",
         ("FM", LABELLED_ONLY), _more_accurate("FM", LABELLED_ONLY, "test"), truth=False, test=True),
    Rule("supervision_on_top", "§VI", "Full supervision is the most accurate on test files", TABLE_2, _on_top,
         truth=False, test=True),
)
