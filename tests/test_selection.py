"""The table of rules and its contract; what each rule keeps is in ``test_paper_maths``."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from fmuc.config import ConfigError, Selection
from fmuc.experiments import FM, FMUC, TABLE_1
from fmuc.selection import RULES, PseudoLabels, check_rule, select
from fmuc.uncertainty import entropy, pass_statistics

ENTROPY = Selection(rule="entropy", threshold=1.5, passes=5)


def raw_entropy(logits: Tensor, selection: Selection) -> PseudoLabels:
    """A rule with a wrong sign: its score is high where the net is not sure."""
    mean, _ = pass_statistics(logits, selection.temperature)
    return PseudoLabels(mean.argmax(dim=1), entropy(mean) < selection.threshold, entropy(mean))


def negated_entropy(logits: Tensor, selection: Selection) -> PseudoLabels:
    labels, mask, score = raw_entropy(logits, selection)
    return PseudoLabels(labels, mask, -score)


def kept_where_unsure(logits: Tensor, selection: Selection) -> PseudoLabels:
    labels, mask, score = negated_entropy(logits, selection)
    return PseudoLabels(labels, ~mask, score)


def test_an_unknown_rule_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="'confidense'.*confidence, mean_minus_std, two_thresholds"):
        check_rule(replace(FM, rule="confidense"), 3)


@pytest.mark.parametrize("classes", [2, 11, 200])
@pytest.mark.parametrize("name", TABLE_1)
def test_the_papers_rules_are_accepted(name, classes):
    for passes in (0, 1, 5, 50):
        check_rule(replace(TABLE_1[name], passes=passes), classes)
    check_rule(replace(TABLE_1[name], temperature=100.0), classes)


@pytest.mark.parametrize("limit", [0.1, 0.9, 1.5, 2.3])  # nats: of 11 classes at most 2.4
def test_a_rule_may_score_in_its_own_units(limit, monkeypatch):
    monkeypatch.setitem(RULES, "entropy", negated_entropy)
    check_rule(replace(ENTROPY, threshold=limit), 11)
    undecided, certain = torch.zeros(5, 1, 11), 50 * torch.eye(11)[:1].expand(5, 1, 11)
    assert select(torch.cat([undecided, certain], dim=1), replace(ENTROPY, threshold=limit)).mask.tolist() == [0, 1]


@pytest.mark.parametrize(("rule", "named"), [(raw_entropy, "must be higher where the net is surer"),
                                             (kept_where_unsure, "keep no pseudo-label at all")])
def test_a_rule_that_breaks_the_contract_is_refused(rule, named, monkeypatch):
    monkeypatch.setitem(RULES, "entropy", rule)
    with pytest.raises(ConfigError, match=f"the rule entropy .*{named}") as caught:
        check_rule(ENTROPY, 11)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("selection", "named"), [
    (replace(FM, threshold=1.5), r"scores 1; lower selection.threshold \(1.5\)"),
    (replace(FMUC, threshold=1.0), "lower selection.threshold"),
    (replace(FMUC, threshold=2.0, score="max_of_difference"), "lower selection.threshold"),
    (replace(TABLE_1["FMUC two thresh."], std_threshold=0.0), "keep no pseudo-label at all"),
    (replace(TABLE_1["FMUC two thresh."], std_threshold=None), "selection.std_threshold is missing"),
])
def test_a_threshold_that_no_certain_prediction_reaches_is_refused(selection, named):
    with pytest.raises(ConfigError, match=named):
        check_rule(selection, 11)
    check_rule(replace(selection, threshold=0.9, std_threshold=0.05), 11)
