"""The fused ReLU-BatchNorm-dropout for the CPU, installed from outside; without this folder all works, but slower."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fmuc.model import Activation


def install(net: nn.Module) -> str | None:
    """Let each :class:`fmuc.model.Activation` of ``net`` run fused; return None, or why it stays as it is.

    Weights, names and results stay the same, but for rounding and for dropout's mask, which comes from another
    generator. An edited class is left alone: the fused version is compared with it first. Subclasses are not touched.
    """
    activations = [module for module in net.modules() if type(module) is Activation]
    if not activations:
        return None
    try:
        from fmuc.fast.activations import FusedActivation
    except (ImportError, RuntimeError) as error:  # RuntimeError: Numba finds no folder for its cache
        return " ".join(str(error).split())
    if not _equal(Activation, FusedActivation):
        return "fmuc.model.Activation was edited"
    for module in activations:
        module.__class__ = FusedActivation
    return None


def _equal(plain: type[Activation], fused: type[Activation]) -> bool:
    """Whether both compute the same output, gradients and running statistics of a small batch, and drop alike."""
    x = torch.linspace(-2, 2, 2 * 8 * 3 * 3).reshape(2, 8, 3, 3).sin()
    results = []
    for kind in (plain, fused):
        module, given = kind(8, 0.0), x.clone().requires_grad_()
        out = module(given)
        (out * x.cos()).sum().backward()
        with torch.no_grad():
            results.append([out, given.grad, *module.state_dict().values(), module.eval()(x)])
    return all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*results, strict=True)) and _drops_last(plain, x)


@torch.no_grad()
def _drops_last(kind: type[Activation], x: Tensor) -> bool:
    """Whether dropout acts on the output: without it, each value is either the same, scaled, or zero."""
    with torch.random.fork_rng(devices=[]):
        out, whole = kind(8, 0.5)(x), kind(8, 0.0)(x)
    return torch.allclose(out, torch.where(out == 0, 0.0, 2 * whole), atol=1e-4)
