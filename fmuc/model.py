"""CNN420: the ResNet of the paper (§V-A) with dropout before every convolution of a block (Chen et al. 2019, [21])."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from fmuc.config import Network

PARAMETERS = {11: 419_707, 15: 420_223}  # of the default Network, by number of classes


class Dropout(nn.Module):
    """Inverted dropout whose masks come from 16 random bits per element.

    One 64-bit integer draw yields four masks' worth of bits, which on a CPU costs a fraction of ``nn.Dropout``'s
    Bernoulli draw. The probability is quantised to k / 65536: 0.1 becomes 0.1000061. Survivors are scaled by the
    exact inverse of the quantised keep probability, so the expectation is preserved.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout probability must lie in [0, 1), not {p}")
        self.p = p
        self.dropped = round(p * 65536)
        self.scale = 65536 / (65536 - self.dropped)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.dropped == 0:
            return x
        if x.is_cuda:  # the fused kernel of the library is the fast one there
            return functional.dropout(x, self.p, training=True)
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        # the mask takes the activation's own memory layout (channels_last or not): no conversion, same distribution
        keep = torch.as_strided(bits, x.size(), x.stride()) >= self.dropped - 32768
        return x * (keep * self.scale).to(x.dtype)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def _unit(channels_in: int, channels_out: int, stride: int, dropout: float) -> nn.Sequential:
    """ReLU -> BatchNorm -> dropout -> 3x3 convolution."""
    return nn.Sequential(
        nn.ReLU(),
        nn.BatchNorm2d(channels_in),
        Dropout(dropout),
        nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
    )


class Block(nn.Module):
    """Two units and a shortcut; nothing after the addition."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.units = nn.Sequential(
            _unit(channels_in, channels_out, stride, dropout), _unit(channels_out, channels_out, 1, dropout)
        )
        same = channels_in == channels_out and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.units(x)


class CNN420(nn.Module):
    """Log-Mel patches (B, 1, F, T) -> logits (B, C)."""

    def __init__(self, classes: int, network: Network = Network()) -> None:
        super().__init__()
        kernel, stride = network.stem
        self.stem = nn.Conv2d(1, network.widths[0], kernel, stride, padding=kernel // 2, bias=False)
        blocks, channels = [], network.widths[0]
        for stage, (width, count) in enumerate(zip(network.widths, network.blocks, strict=True)):
            for index in range(count):
                blocks.append(Block(channels, width, 2 if stage > 0 and index == 0 else 1, network.dropout))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(channels) if network.final_norm else nn.Identity()
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.stem(x)))  # (B, widths[-1], F', T')
        return self.head(x.mean(dim=(2, 3)))


def parameter_count(net: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)
