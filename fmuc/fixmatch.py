"""One training step of FixMatch and of FMUC (paper §I, §V-A, Fig. 1 and 4): views, pseudo-labels, loss, update."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from fmuc.augment import augment
from fmuc.config import Run
from fmuc.devices import autocast
from fmuc.model import make_network
from fmuc.selection import Memory, PseudoLabelCounts, PseudoLabels, pseudo_label


@dataclass(frozen=True)
class Batch:
    """Input of one step: patches (B, F, T) and labels (B,). ``truth`` (-1 unknown) is counted, never learnt from;
    ``examples``: which of the unlabelled examples they are."""

    labelled: Tensor
    labels: Tensor
    unlabelled: Tensor | None = None
    truth: Tensor | None = None
    examples: Tensor | None = None


def as_images(x: Tensor) -> Tensor:
    """(B, F, T) -> (B, 1, F, T), channels last."""
    return x[:, None].contiguous(memory_format=torch.channels_last)


def semi_supervised_loss(
    logits_labelled: Tensor, labels: Tensor, logits_strong: Tensor, pseudo: PseudoLabels
) -> tuple[Tensor, Tensor]:
    """Labelled and unlabelled cross-entropy; their plain sum is the training loss (§I).

    The unlabelled part is averaged over all B unlabelled examples, kept or not (FixMatch [2], D4). A rule's weights
    count as such.
    """
    labelled = functional.cross_entropy(logits_labelled.float(), labels)
    each = functional.cross_entropy(logits_strong.float(), pseudo.labels, reduction="none")  # (B,)
    return labelled, (each * pseudo.mask).mean()


def step(
    net: nn.Module,
    optimiser: torch.optim.Optimizer,
    batch: Batch,
    run: Run,
    rng: torch.Generator,
    counts: PseudoLabelCounts | None = None,
    memory: Memory | None = None,
) -> Tensor:
    """One optimiser step, supervised where there is nothing unlabelled.

    Returns the detached (labelled, unlabelled) losses, (2,), still on the device. ``rng`` draws the views; dropout
    draws from the global generator. ``counts`` and the ``memory`` of an adaptive rule are updated.
    """
    with autocast(run, batch.labelled.device):
        x = augment(batch.labelled, run.augmentation.weak, rng)
        if run.selection is None or batch.unlabelled is None:
            labelled = functional.cross_entropy(net(as_images(x)).float(), batch.labels)
            unlabelled = torch.zeros_like(labelled)
        else:
            weak = augment(batch.unlabelled, run.augmentation.weak, rng)
            strong = augment(batch.unlabelled, run.augmentation.strong, rng)
            if memory is not None:
                memory.examples = batch.examples
            pseudo = pseudo_label(net, as_images(weak), run.selection, memory)
            logits = net(as_images(torch.cat([x, strong])))
            labelled, unlabelled = semi_supervised_loss(logits[: len(x)], batch.labels, logits[len(x) :], pseudo)
            if counts is not None:
                counts.update(batch.truth, pseudo)
    optimiser.zero_grad(set_to_none=True)
    (labelled + unlabelled).backward()
    optimiser.step()
    return torch.stack([labelled.detach(), unlabelled.detach()])


def build(run: Run, classes: int, device: torch.device) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Freshly initialised net (from the run's seed) and Adam (§III)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        net = make_network(classes, run.network)
    net = net.to(device).to(memory_format=torch.channels_last)
    if device.type == "cpu":
        _speed_up(net)
    return net, torch.optim.Adam(net.parameters(), lr=run.training.learning_rate, fused=True)


def _speed_up(net: nn.Module) -> None:
    """Install the fused activation where it can be; without the folder ``fast`` all is the same, but slower."""
    try:
        from fmuc import fast
    except ImportError:
        return
    if problem := fast.install(net):
        print(f"fmuc: the fused activation is not used ({problem}): training is slower", file=sys.stderr)
