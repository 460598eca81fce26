"""The textbook's versions do the same as ours: our step is FixMatch's and FMUC's, and no speed is won by computing
something else."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import TINY
from torch import nn
from torch.testing import assert_close

from fmuc import fixmatch
from fmuc.augment import Draw, augment, sharpen, translate
from fmuc.config import Features, Network, Run, Selection
from fmuc.experiments import FM, FMUC, NSYNTH, TUT
from fmuc.fast.activations import FusedActivation
from fmuc.features import log_mel, read_audio
from fmuc.selection import PseudoLabelCounts
from tests import textbook


def run_of(selection: Selection, dropout: float) -> Run:
    network = Network(widths=(4, 8), blocks=(1, 2), stem=(3, 2), dropout=dropout)
    run = Run("nsynth", "FM", 0, TINY, labelled_share=0.5, selection=selection, network=network)
    return replace(run, training=replace(run.training, precision="float32"))


def freeze_norms(net: nn.Module) -> None:
    """BatchNorm by its running statistics: whether the weak view is in the batch makes no difference then."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


# Training


@pytest.mark.parametrize(("selection", "dropout"), [
    (replace(FM, threshold=0.7), 0.0), (replace(FMUC, threshold=0.4), 0.1),
    (replace(FMUC, threshold=0.7, passes=0), 0.0),
], ids=["FM", "FMUC", "w/o MC-Dr."])
def test_a_step_has_our_loss_gradients_weights_and_counts(selection, dropout):
    run, rng = run_of(selection, dropout), torch.Generator().manual_seed(5)
    labelled, unlabelled = (torch.randn(size, 12, 8, generator=rng) for size in (6, 14))
    labels, truth = torch.tensor([0, 1, 2, 2, 1, 0]), torch.randint(-1, 3, (14,), generator=rng)
    net, optimiser = fixmatch.build(run, 3, torch.device("cpu"))
    with torch.no_grad():
        net.head.weight.mul_(40)  # spreads the confidences
    other, counts = deepcopy(net.train()), PseudoLabelCounts(3)
    reference = torch.optim.Adam(other.parameters(), lr=run.training.learning_rate)
    if not selection.passes:
        freeze_norms(net), freeze_norms(other)
    torch.manual_seed(11)
    losses = fixmatch.step(net, optimiser, fixmatch.Batch(labelled, labels, unlabelled, truth), run,
                           torch.Generator().manual_seed(1), counts)
    rng, views = torch.Generator().manual_seed(1), run.augmentation
    x = augment(labelled, views.weak, rng)
    weak, strong = augment(unlabelled, views.weak, rng), augment(unlabelled, views.strong, rng)
    torch.manual_seed(11)  # and the same dropout masks
    loss, pseudo_labels, kept = textbook.learn(other, reference, x[:, None], labels, weak[:, None], strong[:, None],
                                               selection)
    assert_close(loss, losses.sum(), rtol=1e-5, atol=0)
    for parameter, expected in zip(net.parameters(), other.parameters(), strict=True):
        assert_close(parameter.grad, expected.grad, rtol=1e-4, atol=1e-5 * float(expected.grad.abs().max()))
    for name, value in net.state_dict().items():
        assert_close(value, other.state_dict()[name], rtol=1e-4, atol=1e-5)
    table = np.zeros((4, 3), dtype=int)
    for true, label, keep in zip(truth.tolist(), pseudo_labels.tolist(), kept.tolist(), strict=True):
        table[true, label] += keep  # -1 is the last row
    np.testing.assert_array_equal(counts.kept.numpy(), table)
    assert 0 < sum(kept) < 14


def test_the_textbook_has_our_initial_weights_and_the_plain_operators():
    run = run_of(FM, 0.1)
    ours, theirs = fixmatch.build(run, 3, torch.device("cpu"))[0], textbook.build(run, 3)[0]
    assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    fused = [any(isinstance(module, FusedActivation) for module in net.modules()) for net in (ours, theirs)]
    assert fused == [True, False]


# Views


@pytest.mark.parametrize("drawn", [Draw(0, 0, 0.0, 0.0), Draw(-2, 1, 0.0, 0.0), Draw(1, -2, 0.0, 0.7)], ids=str)
def test_a_view_is_ours(drawn):
    patch = torch.randn(1, 12, 8, generator=torch.Generator().manual_seed(2))
    before = patch.clone()
    got = textbook.transform(patch[0].numpy(), drawn, np.random.default_rng(0))
    moved = translate(patch, torch.tensor([drawn.frames]), torch.tensor([drawn.bands]))
    expected = sharpen(moved, torch.tensor([drawn.amount]))[0].numpy()
    np.testing.assert_allclose(got[1:-1, 1:-1], expected[1:-1, 1:-1], atol=1e-3)
    edge = np.ones((12, 8), bool)
    edge[1:-1, 1:-1] = False
    np.testing.assert_allclose(got[edge], moved[0].numpy()[edge], atol=1e-3)  # not sharpened there
    assert got.dtype == np.float32 and torch.equal(patch, before)


# Features


@pytest.mark.parametrize(("preset", "rate", "channels", "subtype"), [
    (NSYNTH, 16_000, 1, "PCM_16"), (TUT, 44_100, 2, "PCM_24"),
], ids=["nsynth", "tut2017"])
def test_log_mel_is_ours(preset: Features, rate: int, channels: int, subtype: str, tmp_path: Path):
    t = np.arange(2 * rate) / rate
    tone = 0.3 * np.sin(2 * np.pi * np.outer(t, [220, 330][:channels]))
    sound = tone + 0.02 * np.random.default_rng(0).standard_normal((len(t), channels))
    soundfile.write(tmp_path / "a.wav", sound, rate, subtype=subtype)
    ours = log_mel(read_audio(tmp_path / "a.wav", preset.sample_rate), preset).numpy()
    np.testing.assert_allclose(textbook.log_mel(tmp_path / "a.wav", preset), ours, rtol=0, atol=1e-4)
