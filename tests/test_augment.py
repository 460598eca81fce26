from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from torch.testing import assert_close

from fmuc.augment import Draw, augment, draw
from fmuc.config import View

STRONG = View(shift_time=0.2, shift_mel=0.1, noise=0.5, sharpen=1.0)


def patches(batch: int = 6, bands: int = 10, frames: int = 15) -> torch.Tensor:
    return torch.randn(batch, bands, frames, generator=torch.Generator().manual_seed(7))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slow_translate(patch: np.ndarray, frames: int, bands: int) -> np.ndarray:
    """Every value taken from where it was before the move; beyond an edge, the edge's value."""
    mels, length = patch.shape
    moved = np.empty_like(patch)
    for f in range(mels):
        for t in range(length):
            moved[f, t] = patch[min(max(f - bands, 0), mels - 1), min(max(t - frames, 0), length - 1)]
    return moved


def slow_sharpen(patch: np.ndarray, amount: float) -> np.ndarray:
    """The unsharp mask of SciPy."""
    return patch + amount * (patch - uniform_filter(patch.astype(np.float64), size=3, mode="nearest"))


def slow_view(x: torch.Tensor, d: Draw) -> torch.Tensor:
    slow = [slow_sharpen(slow_translate(patch, int(t), int(f)), float(a))
            for patch, t, f, a in zip(x.numpy(), d.frames, d.bands, d.amount, strict=True)]
    return torch.from_numpy(np.stack(slow)).to(x.dtype)


def test_a_view_is_the_drawn_translation_then_sharpening_then_gaussian_noise():
    x = patches(6, 50, 60)
    d = draw(STRONG, 6, (50, 60), generator())
    noise = augment(x, STRONG, generator()) - slow_view(x, d)
    of_zeros = augment(torch.zeros_like(x), STRONG, generator())
    assert_close(noise, of_zeros, rtol=1e-4, atol=1e-5)  # does not depend on the patches
    unit = noise / d.noise[:, None, None]
    assert unit.mean().abs() < 5 / unit.numel() ** 0.5
    assert_close(unit.std(dim=(1, 2)), torch.ones(6), rtol=0, atol=5 / (2 * 3000) ** 0.5)
    assert (unit**4).mean().item() == pytest.approx(3, abs=5 * (96 / unit.numel()) ** 0.5)  # the kurtosis of a Gaussian


@pytest.mark.parametrize("view", [View(), View(shift_time=0.3), View(shift_mel=0.3), View(sharpen=2.0),
                                  replace(STRONG, noise=0.0)], ids=str)
def test_each_part_alone(view):
    x = patches()
    got = augment(x, view, generator())
    assert_close(got, slow_view(x, draw(view, 6, (10, 15), generator())), rtol=1e-5, atol=1e-5)
    assert got.is_contiguous() and torch.equal(x, patches())


def test_shifts_are_uniform_over_whole_steps_of_the_range_and_its_ends():
    number = 20_000
    d = draw(View(shift_time=0.2, shift_mel=0.1), number, (32, 25), generator())
    for shift, largest in ((d.frames, 5), (d.bands, 3)):
        values, counts = shift.unique(return_counts=True)
        assert values.tolist() == list(range(-largest, largest + 1))
        share = 1 / len(values)
        assert_close(counts / number, torch.full_like(counts, share, dtype=torch.float), rtol=0,
                     atol=5 * (share * (1 - share) / number) ** 0.5)


def test_strengths_are_uniform_from_zero_to_the_largest_and_independent():
    number = 20_000
    d = draw(View(noise=0.5, sharpen=3.0), number, (32, 32), generator())
    for strength, largest in ((d.noise, 0.5), (d.amount, 3.0)):
        assert 0 <= strength.min() < 0.01 * largest and 0.99 * largest < strength.max() < largest
        histogram = torch.histc(strength, bins=10, min=0, max=largest) / number
        assert_close(histogram, torch.full((10,), 0.1), rtol=0, atol=5 * (0.09 / number) ** 0.5)
    assert abs(torch.corrcoef(torch.stack([d.noise, d.amount]))[0, 1]) < 5 / number**0.5
    assert not d.frames.any() and not d.bands.any()
