from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter
from torch.testing import assert_close

from fmuc.augment import Draw, add_noise, augment, draw, sharpen, translate
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
    return patch + amount * (patch - uniform_filter(patch.astype(np.float64), size=3, mode="nearest"))


def test_translate_moves_later_and_up_and_repeats_the_edge():
    x = patches()
    frames, bands = torch.tensor([0, 3, -4, 14, -20, 1]), torch.tensor([0, 2, -1, 0, 9, -30])
    moves = zip(x.numpy(), frames.tolist(), bands.tolist(), strict=True)
    expected = np.stack([slow_translate(*args) for args in moves])
    assert_close(translate(x, frames, bands), torch.from_numpy(expected), rtol=0, atol=0)


def test_sharpen_equals_the_unsharp_mask_of_scipy():
    x, amount = patches(), torch.tensor([0.0, 0.2, 0.5, 1.0, 2.0, 3.5])
    expected = np.stack([slow_sharpen(*args) for args in zip(x.numpy(), amount.tolist(), strict=True)])
    assert_close(sharpen(x, amount), torch.from_numpy(expected).float(), rtol=1e-5, atol=1e-5)


def test_noise_is_white_gaussian_of_the_asked_standard_deviation():
    std = torch.tensor([0.0, 0.1, 0.5, 2.0])
    noise = (add_noise(torch.ones(4, 200, 250), std, generator()) - 1).double()
    assert torch.equal(noise[0], torch.zeros_like(noise[0]))
    number = noise[0].numel()
    assert_close(noise.std(dim=(1, 2)), std.double(), rtol=5 / (2 * number) ** 0.5, atol=0)
    assert (noise.mean(dim=(1, 2)).abs() <= 5 * std / number**0.5).all()
    unit = noise[1:] / std[1:, None, None]
    assert ((unit**4).mean(dim=(1, 2)) - 3).abs().max() < 5 * (96 / number) ** 0.5  # the kurtosis of a Gaussian
    for neighbours in (unit[:, 1:] * unit[:, :-1], unit[..., 1:] * unit[..., :-1], unit[1:] * unit[:-1]):
        assert neighbours.mean().abs() < 5 / neighbours.numel() ** 0.5


def slow_view(x: torch.Tensor, d: Draw) -> torch.Tensor:
    slow = [slow_sharpen(slow_translate(patch, int(t), int(f)), float(a))
            for patch, t, f, a in zip(x.numpy(), d.frames, d.bands, d.amount, strict=True)]
    return torch.from_numpy(np.stack(slow)).to(x.dtype)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_view_is_the_drawn_translation_then_sharpening_then_noise(seed):
    x = patches()
    d = draw(STRONG, 6, (10, 15), generator(seed))
    assert d.frames.unique().numel() > 1 and d.noise.unique().numel() == 6 == d.amount.unique().numel()
    noise = augment(x, STRONG, generator(seed)) - slow_view(x, d)
    of_zeros = augment(torch.zeros_like(x), STRONG, generator(seed))
    assert_close(noise, of_zeros, rtol=1e-4, atol=1e-5)  # does not depend on the patches
    unit = of_zeros / d.noise[:, None, None]
    assert (unit.std(dim=(1, 2)) - 1).abs().max() < 5 / (2 * 150) ** 0.5 and unit.unique().numel() == unit.numel()
    assert (unit.mean(dim=(1, 2)) * 150**0.5).abs().max() < 5


@pytest.mark.parametrize("view", [View(), View(shift_time=0.3), View(shift_mel=0.3), View(sharpen=2.0),
                                  replace(STRONG, noise=0.0)], ids=str)
def test_each_part_alone(view):
    x = patches()
    got = augment(x, view, generator())
    assert_close(got, slow_view(x, draw(view, 6, (10, 15), generator())), rtol=1e-5, atol=1e-5)
    assert got.is_contiguous() and torch.equal(x, patches())


@pytest.mark.parametrize("change", [lambda x: x.transpose(1, 2), lambda x: x[:1].expand(6, -1, -1),
                                    lambda x: x[::2, 1:, ::2]], ids=["transposed", "expanded", "every second"])
def test_patches_may_lie_in_memory_in_any_way_and_are_not_touched(change):
    x = change(patches())
    before = x.clone()
    assert torch.equal(augment(x, STRONG, generator()), augment(before.contiguous(), STRONG, generator()))
    assert torch.equal(x, before)


def test_equal_generators_give_equal_views_and_a_generator_moves_on():
    x, rng = patches(), generator(3)
    first, second = augment(x, STRONG, rng), augment(x, STRONG, rng)
    assert torch.equal(first, augment(x, STRONG, generator(3)))
    assert not torch.equal(first, second)


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
