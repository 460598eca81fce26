"""ReLU, BatchNorm and dropout at once: the CPU's version of ``model.Activation``, with gradient and without.

Survivors of dropout are scaled by the exact inverse of what its quantised probability leaves (``fmuc.kernels``); the
backward pass makes the same mask again.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fmuc.kernels import activate, add_and_activate, gradient, gradient_sums, moments
from fmuc.random_bits import draw_seed

NO_SEED = np.zeros(2, np.uint32)  # of a call that drops nothing


def _flat(x: Tensor) -> np.ndarray:
    """(B, C, H, W) -> its values in the order channels last, (B H W C,); bfloat16 as its bits."""
    flat = x.detach().permute(0, 2, 3, 1).contiguous().view(-1)
    return (flat.view(torch.uint16) if flat.dtype == torch.bfloat16 else flat).numpy()


def _double(x: Tensor) -> np.ndarray:
    return x.detach().numpy().astype(np.float64)


def _empty(x: Tensor, times: int = 1) -> Tensor:
    """Uninitialised, of the shape of ``x`` or of ``times`` as many examples, channels last."""
    batch, channels, height, width = x.shape
    return torch.empty(times * batch, height, width, channels, dtype=x.dtype).permute(0, 3, 1, 2)


def usable(x: Tensor, norm: nn.BatchNorm2d) -> bool:
    """Whether :func:`relu_norm_dropout` can take this input: on the CPU, of a known type, learning only in training."""
    learns = torch.is_grad_enabled() and (x.requires_grad or norm.weight.requires_grad)
    return (x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16) and (norm.training or not learns)
            and norm.weight.dtype == torch.float32 and x.numel() > x.shape[1])


class _ReluNormDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d, dropped: int) -> Tensor:
        flat, y = _flat(x), _empty(x)
        count = x.numel() // x.shape[1]  # of values per channel
        if norm.training:
            mean, squares = moments(flat, x.shape[1]) / count
            with np.errstate(invalid="ignore"):  # inf - inf; the loss will tell
                variance = np.maximum(squares - mean**2, 0.0)
            _update(norm, mean, variance * count / (count - 1))
        else:
            mean, variance = _double(norm.running_mean), _double(norm.running_var)
        seed = draw_seed() if dropped else NO_SEED
        activate(flat, _flat(y), *_coefficients(norm, mean, variance, dropped), dropped, seed)
        ctx.save_for_backward(x, weight)
        ctx.moments, ctx.eps, ctx.mask = (mean, variance), norm.eps, (dropped, seed)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple:
        """BatchNorm's gradient (Ioffe and Szegedy 2015, §3), through the ReLU before and the dropout after it."""
        x, weight = ctx.saved_tensors
        (mean, variance), (dropped, seed) = ctx.moments, ctx.mask
        flat, g, out = _flat(x), _flat(grad), _empty(x)
        count, survivors = x.numel() // x.shape[1], 65536 / (65536 - dropped)
        inverse = 1 / np.sqrt(variance + ctx.eps)
        sums, products = gradient_sums(flat, g, x.shape[1], dropped, seed) * survivors
        of_weight = (products - mean * sums) * inverse
        scale = _double(weight) * inverse
        of_x = -scale * of_weight * inverse / count
        constant = -scale * sums / count - of_x * mean
        coefficients = (values.astype("f4") for values in (scale * survivors, of_x, constant))
        gradient(flat, g, _flat(out), *coefficients, dropped, seed)
        return out, *(torch.from_numpy(values.astype(np.float32)) for values in (of_weight, sums)), None, None


def _update(norm: nn.BatchNorm2d, mean: np.ndarray, variance: np.ndarray) -> None:
    """Running statistics of one more batch; ``variance`` is the unbiased one, as in PyTorch."""
    with torch.no_grad():
        norm.num_batches_tracked += 1
        for running, new in ((norm.running_mean, mean), (norm.running_var, variance)):
            running.lerp_(torch.from_numpy(new.astype(np.float32)), norm.momentum)


def _coefficients(norm: nn.BatchNorm2d, mean: np.ndarray, variance: np.ndarray, dropped: int) -> tuple:
    """What a positive value is multiplied by and what is added, dropout's factor included: two times (C,) float32."""
    scale, survivors = _double(norm.weight) / np.sqrt(variance + norm.eps), 65536 / (65536 - dropped)
    shift = _double(norm.bias) - mean * scale
    return (scale * survivors).astype(np.float32), (shift * survivors).astype(np.float32)


def _dropped(dropout: nn.Dropout) -> int:
    """How many of 65,536 random values drop an element."""
    return min(round(dropout.p * 65536), 65535) if dropout.training else 0


def relu_norm_dropout(x: Tensor, norm: nn.BatchNorm2d, dropout: nn.Dropout) -> Tensor:
    """dropout(norm(relu(x))) of (B, C, H, W) in the modes of both modules, in bfloat16 or float32 like ``x``.

    Updates the running statistics as ``norm`` would. Draws its mask from torch's global generator.
    """
    return _ReluNormDropout.apply(x, norm.weight, norm.bias, norm, _dropped(dropout))


class FrozenActivation:
    """dropout(norm(relu(x))) without gradient, for modules that stay as they are now, ``norm`` in evaluation mode.

    Of the same bits as :func:`relu_norm_dropout` after the same draws, without what each of its calls works out anew.
    """

    def __init__(self, norm: nn.BatchNorm2d, dropout: nn.Dropout) -> None:
        self.dropped = _dropped(dropout)
        mean, variance = _double(norm.running_mean), _double(norm.running_var)
        self.coefficients = _coefficients(norm, mean, variance, self.dropped)

    def __call__(self, x: Tensor, times: int = 1) -> Tensor:
        """(B, C, H, W) -> (times B, C, H, W), channels last: the batch several times, each with a mask of its own."""
        y = _empty(x, times)
        activate(_flat(x), _flat(y), *self.coefficients, self.dropped, self._seed())
        return y

    def of_sum(self, x: Tensor, branch: Tensor) -> tuple[Tensor, Tensor]:
        """x + branch and the activation of that, each (B, C, H, W); x may stand for a batch of its copies."""
        total, y = _empty(branch), _empty(branch)
        flat = (_flat(values) for values in (x, branch, total, y))
        add_and_activate(*flat, *self.coefficients, self.dropped, self._seed())
        return total, y

    def _seed(self) -> np.ndarray:
        return draw_seed() if self.dropped else NO_SEED
