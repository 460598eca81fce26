"""The paper's claims of §IV to §VI as rules on measured rows: each holds, does not hold, or was not run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fmuc.experiments import FULLY_SUPERVISED, LABELLED_ONLY, TABLE_1, TABLE_2

THIRDS = ("quality_third_1", "quality_third_2", "quality_third_3")
TOLERANCE = 1.0  # percentage points within which two rows count as equally good
NO_TEMPERATURE, NO_DROPOUT, TWO = "FMUC w/o temp.", "FMUC w/o MC-Dr.", "FMUC two thresh."

Decision = tuple[bool, str]


@dataclass(frozen=True)
class Claim:
    """One claim in our own words; ``holds``: None where a row that it needs was not run, or where it needs true classes
    that nobody knows; ``ours``: what decides it."""

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
    """A claim, the variants it needs, and its decision from their rows; ``paper``: the one data set it is made for;
    ``truth``: whether it is about the true classes of unlabelled examples, ``test``: about test files."""

    key: str
    section: str
    text: str
    variants: tuple[str, ...]
    decide: Callable[[pd.DataFrame], Decision]
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
    """Decide every claim on ``runs`` (index (variant, seed), columns in %, see :func:`fmuc.tables.measured`).

    Rows are compared on the seeds that they have in common. A value that does not exist (the quality of no
    pseudo-label) supports no claim. ``paper``: the published data set in whose place ours stands.
    """
    return [_judge(rule, runs) for rule in RULES if rule.paper in (None, paper)]


def _judge(rule: Rule, runs: pd.DataFrame) -> Claim:
    seeds = [set(runs.loc[[v]].index.get_level_values("seed")) if v in runs.index else set() for v in rule.variants]
    common = sorted(set.intersection(*seeds))
    if not common:
        return Claim(rule.key, rule.text, rule.section, None, "")
    rows = runs.loc[(list(rule.variants), common), :]
    if rule.truth and (rows["known"] == 0).any():
        return Claim(rule.key, rule.text, rule.section, None, "the true classes of the unlabelled files are not known")
    if rule.test and rows["test"].isna().all():
        return Claim(rule.key, rule.text, rule.section, None, "there are no test files of known class")
    holds, ours = rule.decide(rows)
    return Claim(rule.key, rule.text, rule.section, bool(holds), f"{ours} ({_seeds(common)})")


def _seeds(seeds: list[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _means(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over the seeds of each variant; NaN if any seed has no value."""
    return rows.groupby(level="variant").mean().mask(rows.isna().groupby(level="variant").any())


def _say(m: pd.DataFrame, column: str, *variants: str) -> str:
    return f"{column}: " + ", ".join(f"{variant} {number(m.loc[variant, column])}" for variant in variants)


def _say_thirds(m: pd.DataFrame, *variants: str) -> str:
    sides = [f"{variant} {', '.join(number(m.loc[variant, third]) for third in THIRDS)}" for variant in variants]
    return f"quality by thirds: {'; '.join(sides)}"


def _every_third(rows: pd.DataFrame) -> Decision:
    m = _means(rows)
    return all(m.loc["FMUC", third] > m.loc["FM", third] for third in THIRDS), _say_thirds(m, "FMUC", "FM")


def _recovers(rows: pd.DataFrame) -> Decision:
    m = _means(rows)
    return m.loc["FM", THIRDS[2]] > m.loc["FM", THIRDS[0]], _say_thirds(m, "FM")


def _lower_quantity(rows: pd.DataFrame) -> Decision:
    m = _means(rows)
    return m.loc["FMUC", "quantity"] < m.loc["FM", "quantity"], _say(m, "quantity", "FMUC", "FM")


def _trade(strict: str, loose: str, better: bool) -> Callable[[pd.DataFrame], Decision]:
    """The stricter row keeps less, and its quality is higher (``better``) or not."""

    def decide(rows: pd.DataFrame) -> Decision:
        m = _means(rows)
        gain = m.loc[strict, "quality"] - m.loc[loose, "quality"]
        holds = (gain > 0 if better else gain <= 0) and m.loc[strict, "quantity"] < m.loc[loose, "quantity"]
        return holds, "; ".join(_say(m, column, strict, loose) for column in ("quality", "quantity"))

    return decide


def _extreme(rows: pd.DataFrame) -> Decision:
    m, hottest = _means(rows), "FMUC w. temp. 4"
    others = m.drop(index=hottest)
    best = others["quality"].fillna(-np.inf).idxmax()  # a row that kept nothing has no quality
    least = others["quantity"].idxmin()
    holds = (m.loc[hottest, "quality"] > others["quality"].max()
             and m.loc[hottest, "quantity"] < others["quantity"].min())
    return holds, f"{_say(m, 'quality', hottest, best)}; {_say(m, 'quantity', hottest, least)}"


def _close_to_fm(rows: pd.DataFrame) -> Decision:
    m, columns = _means(rows), ["quality", "quantity"]
    to_fm = (m.loc[NO_TEMPERATURE, columns] - m.loc["FM", columns]).abs()
    to_fmuc = (m.loc[NO_TEMPERATURE, columns] - m.loc["FMUC", columns]).abs()
    return (to_fm < to_fmuc).all(), "; ".join(_say(m, column, NO_TEMPERATURE, "FM", "FMUC") for column in columns)


def _most_effective(rows: pd.DataFrame) -> Decision:
    m = _means(rows)["quality"]
    temperature, dropout = m["FMUC"] - m[NO_TEMPERATURE], m["FMUC"] - m[NO_DROPOUT]
    return 0 < temperature > dropout, (f"gain in quality: by temperature {number(temperature, '+')}, "
                                       f"by MC-Dropout {number(dropout, '+')}")


def _one_threshold(rows: pd.DataFrame) -> Decision:
    m, columns = _means(rows), ["quality", "quantity"]
    holds = (m.loc["FMUC", columns] >= m.loc[TWO, columns] - TOLERANCE).all()
    return holds, "; ".join(_say(m, column, "FMUC", TWO) for column in columns)


def _dropout_helps(rows: pd.DataFrame) -> Decision:
    m = _means(rows)
    return m.loc[NO_DROPOUT, "quality"] < m.loc["FMUC", "quality"], _say(m, "quality", NO_DROPOUT, "FMUC")


def _dropout_negligible(rows: pd.DataFrame) -> Decision:
    m, columns = _means(rows), ["quality", "quantity"]
    holds = ((m.loc[NO_DROPOUT, columns] - m.loc["FMUC", columns]).abs() <= TOLERANCE).all()
    return holds, "; ".join(_say(m, column, NO_DROPOUT, "FMUC") for column in columns)


def _more_accurate(better: str, worse: str, part: str) -> Callable[[pd.DataFrame], Decision]:
    """Mean file-wise accuracy on ``part`` is higher; says the spread and for how many seeds it is so."""

    def decide(rows: pd.DataFrame) -> Decision:
        mean, std = _means(rows)[part], rows[part].groupby(level="variant").std()
        seeds = rows.loc[better, part] > rows.loc[worse, part]
        sides = ", ".join(f"{v} {spread(mean[v], std[v])}" for v in (better, worse))
        return mean[better] > mean[worse], f"{part} accuracy: {sides}; higher in {seeds.sum()} of {len(seeds)} seeds"

    return decide


def _gain_shrinks(rows: pd.DataFrame) -> Decision:
    m = _means(rows)
    gain = m.loc["FMUC"] - m.loc["FM"]
    text = f"gain in quality {number(gain['quality'], '+')}, in test accuracy {number(gain['test'], '+')}"
    return gain["quality"] > max(gain["test"], 0), text


def _known_domain(rows: pd.DataFrame) -> Decision:
    m = _means(rows)
    holds = all(m.loc[v, "unlabelled"] > m.loc[v, "test"] for v in ("FM", "FMUC"))
    return holds, "; ".join(_say(m, f"{part}", "FM", "FMUC") for part in ("unlabelled", "test"))


def _on_top(rows: pd.DataFrame) -> Decision:
    m = _means(rows)["test"]
    others = m.drop(FULLY_SUPERVISED)
    return (m[FULLY_SUPERVISED] > others).all(), _say(_means(rows), "test", *TABLE_2[::-1])


PAIR = ("FMUC", "FM")
RULES = (
    Rule("fm_recovers", "§IV", "FM's pseudo-labels get better during the training", ("FM",), _recovers),
    Rule("quality_every_third", "§V-B", "FMUC's quality is above FM's in every third of the training", PAIR,
         _every_third),
    Rule("quantity_below", "§V-B", "FMUC keeps fewer pseudo-labels than FM", PAIR, _lower_quantity, truth=False),
    Rule("fm_threshold", "§V-B", "Raising FM's threshold to 0.99 raises the quality and lowers the quantity",
         ("FM thresh. 0.99", "FM"), _trade("FM thresh. 0.99", "FM", better=True)),
    Rule("fmuc_threshold", "§V-B", "Raising FMUC's threshold to 0.95 lowers the quantity without raising the quality",
         ("FMUC thresh. 0.95", "FMUC"), _trade("FMUC thresh. 0.95", "FMUC", better=False), "nsynth"),
    Rule("fmuc_threshold", "§V-B", "Raising FMUC's threshold to 0.95 raises the quality and lowers the quantity",
         ("FMUC thresh. 0.95", "FMUC"), _trade("FMUC thresh. 0.95", "FMUC", better=True), "tut2017"),
    Rule("temperature_4", "§V-B", "T = 4 has the best quality and the least quantity of all rows", tuple(TABLE_1),
         _extreme),
    Rule("no_temperature", "§V-B", "Without temperature, quality and quantity are closer to FM's than to FMUC's",
         (NO_TEMPERATURE, *PAIR), _close_to_fm),
    Rule("temperature_most", "§V-B", "Temperature raises the quality by more than MC-Dropout does",
         ("FMUC", NO_TEMPERATURE, NO_DROPOUT), _most_effective),
    Rule("one_threshold", "§V-B", f"One combined threshold is as good as two (at most {TOLERANCE:g} point behind in "
         "quality and in quantity)", ("FMUC", TWO), _one_threshold),
    Rule("mc_dropout", "§V-B", "Without MC-Dropout the quality is lower (by Table I; the text names the quantity)",
         (NO_DROPOUT, "FMUC"), _dropout_helps, "nsynth"),
    Rule("mc_dropout", "§V-B", f"MC-Dropout hardly matters (at most {TOLERANCE:g} point in quality and in quantity)",
         (NO_DROPOUT, "FMUC"), _dropout_negligible, "tut2017"),
    Rule("test_accuracy", "§VI", "FMUC is more accurate than FM on test files", PAIR, _more_accurate(*PAIR, "test"),
         truth=False, test=True),
    Rule("unlabelled_accuracy", "§VI", "FMUC is more accurate than FM on the left-out unlabelled files", PAIR,
         _more_accurate(*PAIR, "unlabelled")),
    Rule("gain_shrinks", "§VI", "FMUC gains more in pseudo-label quality than in test accuracy", PAIR, _gain_shrinks,
         test=True),
    Rule("known_domain", "§VI", "FM and FMUC are more accurate on unlabelled files than on test files", PAIR,
         _known_domain, test=True),
    Rule("fm_helps", "§I", "FM is more accurate on test files than training on the labelled part alone",
         ("FM", LABELLED_ONLY), _more_accurate("FM", LABELLED_ONLY, "test"), truth=False,
         test=True),
    Rule("supervision_on_top", "§VI", "Full supervision is the most accurate on test files", TABLE_2, _on_top,
         truth=False, test=True),
)
