"""The textbook's versions do the same as ours: no speed is won by computing something else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import TINY
from torch import nn
from torch.testing import assert_close

from fmuc import fixmatch, uncertainty
from fmuc.augment import Draw, sharpen, translate
from fmuc.config import Features, Network, Run, Selection
from fmuc.experiments import FM, FMUC, NSYNTH, TUT
from fmuc.fast.activations import FusedActivation
from fmuc.features import log_mel, read_audio
from fmuc.model import CNN420
from fmuc.selection import PseudoLabelCounts
from fmuc.uncertainty import pass_statistics
from tests import textbook

CPU = torch.device("cpu")
NEVER = 1e-9  # a dropout probability that counts as dropout and drops nothing
LOW_FM, LOW_FMUC = replace(FM, threshold=0.7), replace(FMUC, threshold=0.6)


def run_of(selection: Selection, dropout: float) -> Run:
    network = Network(widths=(4, 8), blocks=(1, 2), stem=(3, 2), dropout=dropout)
    run = Run("nsynth", "FM", 0, TINY, labelled_share=0.5, selection=selection, network=network)
    return replace(run, training=replace(run.training, precision="float32"))


def random_views() -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(5)
    labelled, weak, strong = (torch.randn(size, 12, 8, generator=rng) for size in (6, 14, 14))
    return labelled, torch.tensor([0, 1, 2, 2, 1, 0]), weak, strong


def both(run: Run) -> tuple:
    """Our net and optimiser and the textbook's, of equal weights; a head that spreads the confidences."""
    net, optimiser = fixmatch.build(run, 3, CPU)
    with torch.no_grad():
        net.head.weight.mul_(40)
    other, reference = textbook.build(run, 3)
    other.load_state_dict(net.state_dict())
    assert any(isinstance(m, FusedActivation) for m in net.modules())
    assert not any(isinstance(m, FusedActivation) for m in other.modules())
    return net.train(), optimiser, other.train(), reference


def frozen(net: nn.Module) -> None:
    """BatchNorm by its running statistics: whether the weak view is in the batch makes no difference then."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


# Training


@pytest.mark.parametrize(("selection", "dropout", "norms_frozen"), [(LOW_FM, 0.0, True), (LOW_FMUC, NEVER, False)],
                         ids=["FM", "FMUC"])
def test_a_step_has_our_loss_gradients_and_weights(selection, dropout, norms_frozen, monkeypatch):
    run = run_of(selection, dropout)
    net, optimiser, other, reference = both(run)
    if norms_frozen:
        frozen(net), frozen(other)
        monkeypatch.setattr(other, "train", lambda mode=True: nn.Module.train(other, mode) and frozen(other))
    labelled, labels, weak, strong = random_views()
    views = iter([labelled, weak, strong])
    monkeypatch.setattr(fixmatch, "augment", lambda *_: next(views))
    batch = fixmatch.Batch(labelled, labels, weak, torch.full((14,), -1))
    counts = PseudoLabelCounts(3)
    ours = fixmatch.step(net, optimiser, batch, run, torch.Generator(), counts).sum()
    loss = textbook.learn(other, reference, labelled[:, None], labels, weak[:, None], strong[:, None], selection)
    assert 0 < counts.kept.sum() < 14
    assert_close(loss, ours, rtol=1e-5, atol=0)
    for parameter, expected in zip(net.parameters(), other.parameters(), strict=True):
        assert_close(parameter.grad, expected.grad, rtol=1e-4, atol=1e-5 * float(expected.grad.abs().max()))
    for name, value in net.state_dict().items():
        assert_close(value, other.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_the_repeated_batch_has_our_statistics():
    """Many passes with dropout: mean and std over passes agree within what chance allows."""
    torch.manual_seed(0)
    net = CNN420(3, Network(widths=(4, 8), blocks=(1, 1), stem=(3, 2), dropout=0.3))
    x = torch.randn(4, 1, 12, 8)
    expected = pass_statistics(uncertainty.weak_logits(net, x, 4000), 1.0)
    got = pass_statistics(textbook.repeated_logits(net, x, 4000), 1.0)
    for one, two in zip(expected, got, strict=True):
        assert_close(one, two, rtol=0, atol=5 * float(expected.std.max()) / 4000**0.5)


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
