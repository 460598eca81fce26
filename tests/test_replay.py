"""Replay: the run's own choice exactly, and every threshold on its curve."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_train import RUN

from fmuc.errors import FmucError
from fmuc.experiments import TABLE_1
from fmuc.records import choice, load_record
from fmuc.teaching import replay
from fmuc.train import train


@pytest.fixture
def scores() -> replay.Scores:
    rng = np.random.default_rng(3)
    plain = torch.from_numpy(8 * rng.standard_normal((60, 4))).half()
    passes = (plain + torch.from_numpy(rng.standard_normal((10, 60, 4)))).half()
    truth = np.where(rng.random(60) < 0.7, plain.argmax(1).numpy(), rng.integers(-1, 4, 60))
    own = choice(plain, passes, TABLE_1["FMUC"])
    ids = np.array([f"clip{i // 3}".encode() for i in range(60)])
    return replay.Scores(5, plain, passes, truth, own.labels.numpy(), own.mask.numpy(), np.arange(60), ids,
                         np.arange(60) % 3)


@pytest.mark.usefixtures("trainable")
def test_replay_of_a_trained_run_gives_its_recorded_choice(tmp_path):
    folder = tmp_path / "runs" / "run"
    train(replace(RUN, selection=TABLE_1["FM"]), device="cpu", folder=folder, progress=False)
    record = load_record(folder)
    for epoch in record.scores["epochs"].tolist():
        taken = replay.at_epoch(record, epoch)
        chosen = replay.replay(taken, record.run.selection)
        assert np.array_equal(chosen.labels, taken.labels) and np.array_equal(chosen.mask, taken.kept)
    confidence, correct, kept, ids = replay.confidences(taken, record.run.selection)
    known = taken.truth >= 0
    assert np.array_equal(kept, taken.kept[known]) and np.array_equal(ids, taken.ids[known])
    assert np.array_equal(correct, (taken.labels == taken.truth)[known]) and (confidence[kept] >= 0.95).all()
    rows = replay.against_training({"FM": record})
    assert rows.loc["FM", "replayed"].equals(rows.loc["FM", "trained"])
    with pytest.raises(FmucError, match="no scores of epoch 3"):
        replay.at_epoch(record, 3)
    with pytest.raises(FmucError, match="holds no scores"):
        replay.at_epoch(replace(record, scores={}))


@pytest.mark.parametrize("rule", TABLE_1)
def test_every_threshold_of_a_rule_lies_on_its_curve(scores, rule):
    selection = TABLE_1[rule]
    curve = replay.trade_off(scores, selection)
    for threshold in (0.3, 0.6, 0.9, selection.threshold):
        chosen = replay.replay(scores, replace(selection, threshold=threshold))
        kept, known = chosen.mask.numpy(), scores.truth >= 0
        if not kept.any():
            continue
        at = curve.iloc[(curve["quantity"] - kept.mean()).abs().argmin()]
        assert at["quantity"] == pytest.approx(kept.mean())
        right = (chosen.labels.numpy() == scores.truth)[kept & known]
        assert at["quality"] == pytest.approx(right.mean(), nan_ok=True)


def test_outcomes_and_mistakes_count_the_same(scores):
    counts = replay.summary(scores, TABLE_1["FMUC"])[list(replay.OUTCOMES)]
    table = replay.mistakes(scores, TABLE_1["FMUC"], ("a", "b", "c", "d"))
    assert counts.sum() == len(table) == (scores.truth >= 0).sum()
    assert counts["kept, wrong"] == len(table.query("kept and not right"))
    assert counts["rejected, right"] == len(table.query("right and not kept"))
