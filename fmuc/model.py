"""CNN420: the ResNet of the paper (§V-A) with dropout before every convolution of a block (Chen et al. 2019, [21])."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from fmuc.config import Network
from fmuc.convolution import Convolution
from fmuc.fast import activations

PARAMETERS = {11: 419_707, 15: 420_223}  # of the default Network, by number of classes


class Activation(nn.Module):
    """ReLU -> BatchNorm -> dropout: (B, C, H, W) -> (B, C, H, W), channels last.

    On the CPU one pass over memory does the work of the three operators (``fmuc.fast.activations``).
    """

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        if activations.usable(x, self.norm):
            return activations.relu_norm_dropout(x, self.norm, self.dropout)
        return self.dropout(self.norm(functional.relu(x)))


def _unit(channels_in: int, channels_out: int, stride: int, dropout: float) -> nn.Sequential:
    """ReLU -> BatchNorm -> dropout -> 3x3 convolution."""
    return nn.Sequential(
        Activation(channels_in, dropout), Convolution(channels_in, channels_out, 3, stride)
    )


class Block(nn.Module):
    """Two units and a shortcut; nothing after the addition."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.units = nn.Sequential(
            _unit(channels_in, channels_out, stride, dropout), _unit(channels_out, channels_out, 1, dropout)
        )
        same = channels_in == channels_out and stride == 1
        self.shortcut = nn.Identity() if same else Convolution(channels_in, channels_out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.units(x)


class CNN420(nn.Module):
    """Log-Mel patches (B, 1, F, T) -> logits (B, C)."""

    def __init__(self, classes: int, network: Network = Network()) -> None:
        super().__init__()
        kernel, stride = network.stem
        self.stem = Convolution(1, network.widths[0], kernel, stride)
        blocks, channels = [], network.widths[0]
        for stage, (width, count) in enumerate(zip(network.widths, network.blocks, strict=True)):
            for index in range(count):
                blocks.append(Block(channels, width, 2 if stage > 0 and index == 0 else 1, network.dropout))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.norm = nn.BatchNorm2d(channels) if network.final_norm else nn.Identity()
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.after_stem(self.stem(x))

    def after_stem(self, x: Tensor) -> Tensor:
        """Output of the stem (B, widths[0], F', T') -> logits (B, C). All of dropout is in here."""
        return self.head(self.norm(self.blocks(x)).mean(dim=(2, 3)))


def parameter_count(net: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)
