"""``torch.compile`` with CUDA graphs for the part of the net that a step calls most; an option, never needed.

At the paper's scale a step on a fast GPU is many small kernels: launching them one by one can take longer than they
run. CUDA graphs launch each pass at once. Results stay those of the same arithmetic within rounding.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from fmuc.config import Run
from fmuc.model import CNN420
from fmuc.uncertainty import prediction_mode

OPTIONS = {"mode": "reduce-overhead"}  # CUDA graphs


def compile_net(net: CNN420, images: Tensor, run: Run) -> str | None:
    """Compile ``net.after_stem`` in place and try it on ``images`` (B, 1, F, T); None, or why the net stays as it is.

    The trial, a training pass and the passes of the weak view, leaves weights, statistics and random state alone.
    """
    if images.device.type != "cuda" and OPTIONS.get("backend", "inductor") == "inductor":
        return "CUDA graphs need a GPU"
    state, plain = deepcopy(net.state_dict()), net.after_stem
    modes = {module: module.training for module in net.modules()}
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            net.after_stem = torch.compile(plain, **OPTIONS)
            _try(net, images, run)
            problem = None
        except Exception as error:  # of whatever library that a compiler calls
            net.after_stem = plain
            problem = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    net.load_state_dict(state)
    net.zero_grad(set_to_none=True)
    for module, mode in modes.items():
        module.training = mode
    return problem


def _try(net: CNN420, images: Tensor, run: Run) -> None:
    for _ in range(2):  # the second call replays what the first one recorded
        net.train()
        net(images).float().sum().backward()
        net.zero_grad(set_to_none=True)
        dropout = run.selection is not None and run.selection.passes > 0
        with torch.no_grad(), prediction_mode(net, dropout=dropout):
            net(images).float().sum().item()
