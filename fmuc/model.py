"""CNN420: the ResNet of the paper (§V-A) with dropout before every convolution of a block (Chen et al. 2019, [21]).

A network of your own is a class ``(classes, Network) -> nn.Module`` that maps (B, 1, F, T) to logits (B, C), and an
entry in :data:`NETWORKS`. MC-Dropout needs ``nn.Dropout`` layers in it.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from fmuc.config import Network
from fmuc.errors import ConfigError

PARAMETERS = {11: 419_707, 15: 420_223}  # of the default Network, by number of classes


def _conv(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps the size of its input, but for the stride."""
    return nn.Conv2d(channels_in, channels_out, kernel, stride, padding=kernel // 2, bias=False)


class Activation(nn.Module):
    """ReLU -> BatchNorm -> dropout: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.norm(functional.relu(x)))


class Block(nn.Module):
    """Two units of activation and 3x3 convolution beside a shortcut; nothing after the addition."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.units = nn.Sequential(
            nn.Sequential(Activation(channels_in, dropout), _conv(channels_in, channels_out, 3, stride)),
            nn.Sequential(Activation(channels_out, dropout), _conv(channels_out, channels_out, 3)),
        )
        same = channels_in == channels_out and stride == 1
        self.shortcut = nn.Identity() if same else _conv(channels_in, channels_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.units(x)


class CNN420(nn.Module):
    """Log-Mel patches (B, 1, F, T) -> logits (B, C)."""

    def __init__(self, classes: int, network: Network = Network()) -> None:
        super().__init__()
        kernel, stride = network.stem
        self.stem = _conv(1, network.widths[0], kernel, stride)
        blocks, channels = [], network.widths[0]
        for stage, (width, count) in enumerate(zip(network.widths, network.blocks, strict=True)):
            for index in range(count):
                blocks.append(Block(channels, width, 2 if stage > 0 and index == 0 else 1, network.dropout))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(channels) if network.final_norm else nn.Identity()
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.stem(x)))
        return self.head(x.mean(dim=(2, 3)))


NETWORKS = {"cnn420": CNN420}


def make_network(classes: int, network: Network) -> nn.Module:
    """A freshly initialised net; :class:`ConfigError` for a kind that :data:`NETWORKS` does not have."""
    if network.kind not in NETWORKS:
        raise ConfigError(f"unknown network.kind {network.kind!r}: known are {', '.join(NETWORKS)}")
    return NETWORKS[network.kind](classes, network)


def parameter_count(net: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)
