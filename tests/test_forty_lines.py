"""The plain PyTorch of notebook 01 is FixMatch and FMUC as the package has them, in as many lines as its title says."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from fmuc import augment, experiments, fixmatch
from fmuc.experiments import FM, FMUC
from fmuc.machinery import notebooks
from fmuc.selection import select

(NOTEBOOK,) = notebooks.find(["01"])
CELLS = [cell for cell in notebooks.read(NOTEBOOK).cells if cell.cell_type == "code"]


def source(tag: str) -> str:
    return "\n\n".join(cell.source for cell in CELLS if tag in cell.metadata.get("tags", ()))


@pytest.fixture
def page(trainable) -> dict:
    """The names that the notebook defines up to its first training, on a tiny data set."""
    names: dict = {}
    for cell in CELLS:
        if "train(fixmatch_net" in cell.source:
            break
        if "display(" not in cell.source and "save_figure(" not in cell.source:
            exec(compile(cell.source, NOTEBOOK.name, "exec"), names)
    exec(source("fmuc"), names)
    return names


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def test_as_many_lines_as_the_title_says():
    assert len(lines(source("method"))) <= 40
    rule = source("method").partition("@torch.no_grad()\ndef fixmatch_rule")[2].partition("\n\n")[0]
    before, after = lines(rule)[1:], lines(source("fmuc"))[2:]
    assert len([line for line in after if line not in before]) == 5


def test_views_are_those_of_the_package(page):
    x = torch.randn(6, 1, 5, 9)
    torch.manual_seed(1)
    shifted = page["shift"](x, 3)
    torch.manual_seed(1)
    frames = torch.randint(-3, 4, (6, 1, 1, 1)).flatten()
    assert torch.equal(shifted[:, 0], augment.translate(x[:, 0], frames, torch.zeros(6, dtype=torch.int64)))
    torch.manual_seed(2)
    noisy = page["noise"](x, 0.5)
    torch.manual_seed(2)
    std = 0.5 * torch.rand(6, 1, 1, 1)
    torch.testing.assert_close(noisy, x + std * torch.randn_like(x))


def fixed(view: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The view with the same draws for the same number of patches, whenever it is taken."""
    def drawn(x: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(len(x))
            return view(x)
    return drawn


def test_a_step_is_that_of_the_package(page, monkeypatch):
    page |= {name: fixed(page[name]) for name in ("weak", "strong")}
    run = experiments.make_run("smoke", "nsynth-gm-smoke", "FM")
    run = replace(run, training=replace(run.training, precision="float32"))
    views = {run.augmentation.weak: page["weak"], run.augmentation.strong: page["strong"]}
    monkeypatch.setattr(fixmatch, "augment", lambda x, view, rng: views[view](x[:, None])[:, 0])
    torch.manual_seed(0)
    ours = page["make_net"]()
    with torch.no_grad():
        ours[-1].weight.mul_(40)  # a net that has learnt nothing is not sure of anything
    for module in ours.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    theirs = copy.deepcopy(ours)
    x, y, u, truth = page["x_labelled"], page["y_labelled"], page["x_unlabelled"], page["truth"]
    both = [torch.optim.Adam(net.parameters(), lr=0.01) for net in (ours, theirs)]
    kept_so_far = 0
    for _ in range(3):
        loss, _, kept = page["step"](ours, both[0], page["fixmatch_rule"], x, y, u)
        batch = fixmatch.Batch(x[:, 0], y, u[:, 0], truth)
        losses = fixmatch.step(theirs, both[1], batch, run, torch.Generator())
        torch.testing.assert_close(loss, losses.sum())
        kept_so_far += int(kept.sum())
    assert 0 < kept_so_far < 3 * len(u)
    for one, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


class Replay(nn.Module):
    """Gives stored logits (N, B, C), one pass after the other."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits, self.dropout = iter(logits), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return next(self.logits)


@pytest.mark.parametrize(("name", "selection", "passes"), [("fixmatch_rule", FM, 1), ("fmuc_rule", FMUC, FMUC.passes)])
def test_rules_are_those_of_the_package(page, name, selection, passes):
    rng = torch.Generator().manual_seed(0)
    centres = torch.randn(400, 11, generator=rng) * torch.linspace(0.5, 12, 400)[:, None]
    logits = centres + torch.randn(passes, 400, 11, generator=rng)
    label, kept = page[name](Replay(logits), torch.zeros(400, 1))
    expected = select(logits, selection)
    assert torch.equal(label, expected.labels)
    assert torch.equal(kept, expected.mask)
    assert 0.1 < kept.float().mean() < 0.9


def test_fmuc_switches_only_dropout_on(page):
    net = page["make_net"]()
    state = copy.deepcopy(net.state_dict())
    page["fmuc_rule"](net, page["x_labelled"])
    assert {type(module) for module in net.modules() if module.training} == {nn.Dropout}
    for before, after in zip(state.values(), net.state_dict().values(), strict=True):
        assert torch.equal(before, after)
