"""ReLU, BatchNorm and dropout at once, as a module: see :mod:`fmuc.fast.kernels`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fmuc.fast import kernels
from fmuc.model import Activation


class FusedActivation(Activation):
    """One pass over memory instead of three operators, on the CPU; elsewhere the plain ones."""

    def forward(self, x: Tensor) -> Tensor:
        if not _usable(x, self.norm, self.dropout):
            return super().forward(x)
        dropped = kernels.quantised(self.dropout.p) if self.dropout.training else 0
        return _ReluNormDropout.apply(x, self.norm.weight, self.norm.bias, self.norm, dropped)


def _usable(x: Tensor, norm: nn.Module, dropout: nn.Module) -> bool:
    """Whether the kernels can take this input: on the CPU, of a known type, learning only in training."""
    if type(norm) is not nn.BatchNorm2d or type(dropout) is not nn.Dropout:
        return False
    if not norm.affine or not norm.track_running_stats or norm.momentum is None or norm.weight.dtype != torch.float32:
        return False
    learns = torch.is_grad_enabled() and (x.requires_grad or norm.weight.requires_grad)
    return (x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and (norm.training or not learns)
            and x.numel() > x.shape[1])


class _ReluNormDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d, dropped: int) -> Tensor:
        y, seed = _empty(x), kernels.draw_seed() if dropped else np.zeros(2, np.uint32)
        affine = weight.detach().numpy(), bias.detach().numpy()
        running = norm.running_mean.numpy(), norm.running_var.numpy()
        if norm.training:
            norm.num_batches_tracked.add_(1)
            ctx.statistics = kernels.learn_and_activate(_flat(x), _flat(y), *affine, *running, norm.momentum, norm.eps,
                                                        dropped, seed)
        else:
            kernels.activate(_flat(x), _flat(y), *kernels.factors(*affine, *running, norm.eps, dropped), dropped, seed)
        ctx.save_for_backward(x, weight)
        ctx.eps, ctx.mask = norm.eps, (dropped, seed)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple:
        x, weight = ctx.saved_tensors
        out = _empty(x)
        of_weight, of_bias = torch.from_numpy(kernels.gradients(
            _flat(x), _flat(grad), _flat(out), weight.detach().numpy(), ctx.statistics, ctx.eps, *ctx.mask))
        return out, of_weight, of_bias, None, None


def _flat(x: Tensor) -> np.ndarray:
    """(B, C, H, W) -> its values in the order channels last, (B H W C,); bfloat16 as its bits."""
    x = x.detach().permute(0, 2, 3, 1).contiguous()
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy().reshape(-1)


def _empty(x: Tensor) -> Tensor:
    """Uninitialised, of the shape of ``x``, channels last."""
    batch, channels, height, width = x.shape
    return torch.empty(batch, height, width, channels, dtype=x.dtype).permute(0, 3, 1, 2)
