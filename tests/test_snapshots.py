"""Scores of single patches: the run's own choice comes out of them exactly, and taking them changes nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_train import RUN, trainer

from fmuc import datasets
from fmuc import records as snapshots
from fmuc.config import Selection
from fmuc.errors import FmucError
from fmuc.experiments import TABLE_1
from fmuc.records import load_record
from fmuc.selection import select
from fmuc.train import train

pytestmark = pytest.mark.usefixtures("trainable")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "runs" / "run"


def test_more_passes_than_stored_are_refused():
    with pytest.raises(FmucError, match="selection.passes is 11, but 10 passes"):
        snapshots.choice(torch.zeros(3, 2), torch.zeros(10, 3, 2), replace(TABLE_1["FMUC"], passes=11))


def test_the_same_patches_for_every_row_and_never_a_labelled_one(folder):
    one, other = (trainer(folder, replace(RUN, selection=TABLE_1[row])) for row in ("FM", "FMUC"))
    assert np.array_equal(one.scored, other.scored) and len(one.scored) > 0
    assert set(one.scored.tolist()) <= set(one.unlabelled.tolist())
    assert not len(trainer(folder, replace(RUN, seed=1)).scored)
    assert not len(trainer(folder, replace(RUN, selection=None)).scored)


@pytest.mark.parametrize("row", ["FM", "FMUC", "FMUC w/o MC-Dr."])
def test_the_record_holds_scores_and_the_runs_own_choice(folder, row):
    run = replace(RUN, variant=row, selection=TABLE_1[row])
    train(run, device="cpu", folder=folder, progress=False)
    record = load_record(folder)
    scores = record.scores
    assert scores["epochs"].tolist() == snapshots.epochs(run.training.epochs)
    assert scores["passes"].shape[1] == snapshots.PASSES
    data = datasets.load(run.dataset)
    truth = {clip.id: number for clip, number in zip(data.clips, data.labels(), strict=True)}
    assert [truth[id.decode()] for id in scores["ids"]] == scores["truth"].tolist()
    number = run.selection.passes
    for plain, passes, labels, kept in zip(*(scores[name] for name in snapshots.Snapshot._fields), strict=True):
        chosen = select(torch.from_numpy(passes[:number] if number else plain[None]).float(), run.selection)
        assert np.array_equal(chosen.labels, labels) and np.array_equal(chosen.mask, kept)


def test_masks_differ_between_passes_and_not_between_calls_and_no_draw_of_the_training_changes(folder):
    run = trainer(folder)
    before = torch.random.get_rng_state()
    one, again, other = (run.snapshot(epoch) for epoch in (1, 1, 2))
    assert torch.equal(one.passes, again.passes) and not torch.equal(one.passes, other.passes)
    assert not torch.equal(one.passes[0], one.passes[1])
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_net_without_dropout_has_no_passes(folder):
    run = replace(RUN, network=replace(RUN.network, dropout=0.0), selection=Selection("confidence", 0.95))
    assert trainer(folder, run).snapshot(1).passes.shape[0] == 0
