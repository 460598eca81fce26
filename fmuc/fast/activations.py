"""ReLU, BatchNorm and dropout at once: the CPU's version of ``model.Activation``, with gradient and without.

Survivors of dropout are scaled by the exact inverse of what its quantised probability leaves (``fmuc.fast.kernels``); the
backward pass makes the same mask again.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fmuc.fast.kernels import activate, add_and_activate, draw_seed, drop, factors, gradients, learn_and_activate

NO_SEED = np.zeros(2, np.uint32)  # of a call that drops nothing


def _flat(x: Tensor) -> np.ndarray:
    """(B, C, H, W) -> its values in the order channels last, (B H W C,); bfloat16 as its bits."""
    x = x.detach().permute(0, 2, 3, 1).contiguous()
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy().reshape(-1)


def _empty(x: Tensor, times: int = 1) -> Tensor:
    """Uninitialised, of the shape of ``x`` or of ``times`` as many examples, channels last."""
    batch, channels, height, width = x.shape
    return torch.empty(times * batch, height, width, channels, dtype=x.dtype).permute(0, 3, 1, 2)


def _affine(norm: nn.BatchNorm2d) -> tuple[np.ndarray, np.ndarray]:
    return norm.weight.detach().numpy(), norm.bias.detach().numpy()


def _running(norm: nn.BatchNorm2d) -> tuple[np.ndarray, np.ndarray]:
    return norm.running_mean.numpy(), norm.running_var.numpy()


def usable(x: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Whether :func:`relu_norm_dropout` can take this input: on the CPU, of a known type, learning only in training."""
    learns = torch.is_grad_enabled() and (x.requires_grad or norm.weight.requires_grad)
    return (x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and (norm.training or not learns)
            and norm.weight.dtype == torch.float32 and x.numel() > x.shape[1])


class _ReluNormDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d, dropped: int) -> Tensor:
        y, mask = _empty(x), (dropped, draw_seed() if dropped else NO_SEED)
        affine, running = _affine(norm), _running(norm)
        if norm.training:
            norm.num_batches_tracked.add_(1)
            ctx.statistics = learn_and_activate(_flat(x), _flat(y), *affine, *running, norm.momentum, norm.eps, *mask)
        else:
            activate(_flat(y.copy_(x)), *factors(*affine, *running, norm.eps, dropped), *mask)
        ctx.save_for_backward(x, weight)
        ctx.eps, ctx.mask = norm.eps, mask
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple:
        x, weight = ctx.saved_tensors
        out = _empty(x)
        of_weight, of_bias = torch.from_numpy(gradients(
            _flat(x), _flat(grad), _flat(out), weight.detach().numpy(), ctx.statistics, ctx.eps, *ctx.mask))
        return out, of_weight, of_bias, None, None


def _quantised(probability: float) -> int:
    """How many of 65,536 random values drop an element."""
    return min(round(probability * 65536), 65535)


def relu_norm_dropout(x: Tensor, norm: nn.BatchNorm2d, dropout: nn.Dropout) -> Tensor:
    """dropout(norm(relu(x))) of (B, C, H, W) in the modes of both modules, in bfloat16 or float32 like ``x``.

    Updates the running statistics as ``norm`` would. Draws its mask from torch's global generator.
    """
    dropped = _quantised(dropout.p) if dropout.training else 0
    return _ReluNormDropout.apply(x, norm.weight, norm.bias, norm, dropped)


class FrozenActivation:
    """dropout(norm(relu(x))) without gradient, of modules as they are now: ``norm`` as in evaluation mode.

    ``probability``: of dropout, 0 for none. Of the same bits as :func:`relu_norm_dropout` after the same draws, without
    what each of its calls works out anew, and in place: what overwrites its input moves a third less memory.
    """

    def __init__(self, norm: nn.BatchNorm2d, probability: float) -> None:
        self.channels, self.dropped = norm.num_features, _quantised(probability)
        self.factors = factors(*_affine(norm), *_running(norm), norm.eps, self.dropped)

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape, channels last; overwrites x if it is so, too."""
        x = x.contiguous(memory_format=torch.channels_last)
        activate(_flat(x), *self.factors, self.dropped, self._seed())
        return x

    def without_mask(self, x: Tensor) -> Tensor:
        """What is the same for all passes: (B, C, H, W), channels last; x stays as it is."""
        y = x.clone(memory_format=torch.channels_last)
        activate(_flat(y), *self.factors, 0, NO_SEED)
        return y

    def masked(self, values: Tensor, times: int) -> Tensor:
        """The activation (times B, C, H, W) from that of :meth:`without_mask`, each copy with a mask of its own."""
        if times == 1 and not self.dropped:
            return values
        y = _empty(values, times)
        drop(_flat(values), _flat(y), self.channels, self.dropped, self._seed())
        return y

    def of_sum(self, x: Tensor, branch: Tensor) -> tuple[Tensor, Tensor]:
        """x + branch and the activation of that, each (B, C, H, W); x may stand for a batch of its copies.

        Overwrites ``branch`` with the sum if it is channels last.
        """
        branch = branch.contiguous(memory_format=torch.channels_last)
        y = _empty(branch)
        add_and_activate(_flat(x), _flat(branch), _flat(y), *self.factors, self.dropped, self._seed())
        return branch, y

    def _seed(self) -> np.ndarray:
        return draw_seed() if self.dropped else NO_SEED
