"""Weak and strong views of normalised log-Mel patches: translation, Gaussian noise, sharpening (paper §I, Fig. 1).

Every function takes (B, F, T) and returns a new tensor. Magnitudes are drawn first, then applied.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torch.nn import functional

from fmuc.config import View


class Draw(NamedTuple):
    """What was drawn for each example: shifts in frames and bands (integers), noise std, sharpening amount; (B,)."""

    frames: Tensor
    bands: Tensor
    noise: Tensor
    amount: Tensor


def draw(view: View, batch: int, shape: tuple[int, int], rng: Generator) -> Draw:
    """Magnitudes for ``batch`` patches of ``shape`` (F, T), uniform in the ranges of ``view``."""
    largest_t, largest_f = round(view.shift_time * shape[1]), round(view.shift_mel * shape[0])
    frames, bands = (torch.randint(-largest, largest + 1, (batch,), generator=rng, device=rng.device)
                     for largest in (largest_t, largest_f))
    noise, amount = (torch.empty(batch, device=rng.device).uniform_(0, largest, generator=rng)
                     for largest in (view.noise, view.sharpen))
    return Draw(frames, bands, noise, amount)


def translate(x: Tensor, frames: Tensor, bands: Tensor) -> Tensor:
    """Move each patch by whole frames and bands; what leaves one edge is dropped, the edge value is repeated."""
    batch, mels, length = x.shape
    rows = (torch.arange(mels, device=x.device) - bands[:, None]).clamp_(0, mels - 1)  # (B, F)
    cols = (torch.arange(length, device=x.device) - frames[:, None]).clamp_(0, length - 1)  # (B, T)
    index = rows[:, :, None] * length + cols[:, None, :]  # (B, F, T)
    return x.flatten(1).gather(1, index.flatten(1)).view_as(x)


def add_noise(x: Tensor, std: Tensor, rng: Generator) -> Tensor:
    """Additive white Gaussian noise; ``std`` (B,) in units of the normalised patch."""
    noise = torch.empty_like(x).normal_(generator=rng)
    return torch.addcmul(x, noise, std[:, None, None])


def sharpen(x: Tensor, amount: Tensor) -> Tensor:
    """Unsharp mask: x + amount * (x - 3x3 mean of x), edges repeated; ``amount`` (B,)."""
    padded = functional.pad(x[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]  # separable box: adding beats a 1-channel convolution
    blurred = (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / 9
    return torch.addcmul(x, x - blurred, amount[:, None, None])


def augment(x: Tensor, view: View, rng: Generator) -> Tensor:
    """One random view of each patch: (B, F, T) -> (B, F, T)."""
    d = draw(view, len(x), (x.shape[1], x.shape[2]), rng)
    if view.shift_time or view.shift_mel:
        x = translate(x, d.frames, d.bands)
    if view.sharpen:
        x = sharpen(x, d.amount)
    if view.noise:
        x = add_noise(x, d.noise, rng)
    return x
