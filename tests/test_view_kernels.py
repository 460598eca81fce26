"""The kernel against the functions of ``augment``, which are tested against slow references themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch.testing import assert_close

from fmuc import augment, view_kernels
from fmuc.augment import Draw
from fmuc.fast.kernels import fill

SEED = np.array([12345, 67890], np.uint32)
SHAPES = [(1, 1), (1, 7), (7, 1), (2, 2), (3, 2), (10, 15), (32, 32), (33, 31), (128, 126)]


def patches(shape: tuple[int, int], batch: int = 8) -> torch.Tensor:
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(7))


def some_draw(shape: tuple[int, int]) -> Draw:
    """Every kind of move, no noise, no sharpening, either one alone, both; moves as far as there is room."""
    mels, length = shape
    frames = torch.tensor([0, 1, -1, length - 1, 1 - length, length // 2, 0, -(length // 3)])
    bands = torch.tensor([0, 0, 1, 1 - mels, mels - 1, -(mels // 2), mels // 3, -1])
    noise = torch.tensor([0, 0.5, 0, 0.25, 1.0, 0.5, 0.1, 2.0])
    return Draw(frames, bands, noise, torch.tensor([0, 0, 1.0, 0.5, 2.0, 3.5, 0, 0.3]))


def views(x: torch.Tensor, drawn: Draw, seed: np.ndarray = SEED) -> torch.Tensor:
    out = torch.full_like(x, torch.nan)
    view_kernels.views(x.numpy(), *(part.numpy() for part in drawn), seed, out.numpy())
    return out


def noise(batch: int, shape: tuple[int, int], seed: np.ndarray = SEED) -> torch.Tensor:
    """What the kernel adds at a standard deviation of one: (B, F, T)."""
    nothing = torch.zeros(batch, dtype=torch.long)
    return views(torch.zeros(batch, *shape), Draw(nothing, nothing, torch.ones(batch), torch.zeros(batch)), seed)


def slow_noise(batch: int, shape: tuple[int, int]) -> torch.Tensor:
    """Box and Muller's transform in float64: half of a chunk's numbers make radii, half angles."""
    chunk = view_kernels.CHUNK
    chunks = -(-shape[0] * shape[1] // chunk)
    numbers = np.empty(batch * chunks * chunk, np.uint32)
    fill(numbers, 0, SEED)
    first, second = np.split(numbers.reshape(batch, chunks, chunk), 2, axis=2)
    radius = np.sqrt(-2 * np.log((first % 2**31 + 0.5) / 2**31))
    angle = second.view(np.int32) * (np.pi / 2**31)
    values = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=2)
    flat = values.reshape(batch, -1)[:, : shape[0] * shape[1]]
    return torch.from_numpy(flat.reshape(batch, *shape)).float()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_views_are_moved_then_sharpened_then_noisy(shape):
    x, d = patches(shape), some_draw(shape)
    before = x.clone()
    expected = augment.sharpen(augment.translate(x, d.frames, d.bands), d.amount)
    expected += d.noise[:, None, None] * slow_noise(8, shape)
    assert_close(views(x, d), expected, rtol=1e-5, atol=1e-4)
    assert_close(views(x, d._replace(noise=torch.zeros(8))),
                 augment.sharpen(augment.translate(x, d.frames, d.bands), d.amount), rtol=1e-5, atol=1e-5)
    assert torch.equal(x, before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_patches_that_are_only_moved_are_equal_to_the_last_bit(shape):
    x, d = patches(shape), some_draw(shape)
    d = d._replace(noise=torch.zeros(8), amount=torch.zeros(8))
    assert torch.equal(views(x, d), augment.translate(x, d.frames, d.bands))


@pytest.mark.parametrize("amount", [0.0, 0.7])
def test_moves_beyond_the_patch_repeat_its_edge(amount):
    x, frames = patches((6, 9)), torch.tensor([9, -9, 30, -30, 0, 0, 0, 20])
    d = Draw(frames, torch.tensor([0, 0, 0, 0, 6, -6, 50, -50]), torch.zeros(8), torch.full((8,), amount))
    expected = augment.sharpen(augment.translate(x, d.frames, d.bands), d.amount)
    assert_close(views(x, d), expected, rtol=1e-5, atol=1e-5)


def test_nan_and_infinity_stay_where_they_belong():
    x = patches((12, 20))
    x[0, 3, 19] = x[4, 0, 19] = x[7, 3, 19] = x[7, 8, 6] = torch.nan  # at the ends of rows after the move
    x[1, 5, 0], x[5, 8, 5] = torch.inf, -torch.inf
    d = some_draw((12, 20))
    moved = augment.translate(x, d.frames, d.bands)
    expected = torch.where(d.amount[:, None, None] == 0, moved, augment.sharpen(moved, d.amount))
    got = views(x, d._replace(noise=torch.zeros(8)))
    assert torch.equal(got.isnan(), expected.isnan()) and got[[0, 4, 5, 7]].isnan().flatten(1).any(dim=1).all()
    assert got[1].isinf().any()  # sharpening makes NaN of it: inf - inf
    assert_close(got, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
    assert torch.equal(views(x, d).isnan(), got.isnan())


def test_noise_of_a_patch_depends_on_its_number_and_the_seed_alone():
    field = noise(4, (30, 50))
    assert torch.equal(field[:2], noise(2, (30, 50))) and torch.equal(field, noise(4, (30, 50)))
    assert torch.equal(field[0].flatten()[:1000], noise(1, (20, 50)).flatten())  # a whole chunk or a part of it
    for other in (field.flip(0), noise(4, (30, 50), SEED + np.uint32(1)), noise(4, (30, 50), SEED[::-1].copy())):
        assert abs(float((field * other).mean())) < 5 / field.numel() ** 0.5


@pytest.mark.parametrize("shape", [(128, 128), (32, 32), (20, 21)], ids=str)
def test_noise_is_standard_normal_and_white(shape):
    values = noise(2**20 // (shape[0] * shape[1]), shape).double().flatten()
    number = len(values)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10_170)):
        assert abs(float((values**power).mean()) - moment) < 5 * (variance / number) ** 0.5, power
    assert kstest(values.numpy(), "norm").pvalue > 1e-5
    assert 4.2 < values.abs().max() < 6.7
    for lag in (1, 2, 3, 4, 16, 21, 32, 64, 128, 512, 1024, 16384):
        for power in (1, 2):  # squares, too: they would show radii or angles in common
            centred = values**power - (power - 1)
            products = centred[lag:] * centred[:-lag]
            assert abs(float(products.mean())) < 5 * float(centred.var()) / len(products) ** 0.5, (lag, power)


def test_radii_have_the_distribution_of_rayleigh():
    """Every 4,097th of the 2^31 numbers and the ends: exp(-R^2 / 2) is uniform."""
    near = np.arange(1000)
    numbers = np.concatenate([np.arange(0, 2**31, 4097), near, 2**31 - 1 - near]).astype(np.int32)
    radius, sine = np.empty((2, len(numbers)), np.float32)
    view_kernels._gaussian(numbers, np.zeros_like(numbers), radius, sine)
    assert not sine.any()
    uniform, expected = np.exp(-(radius.astype(np.float64) ** 2) / 2), (numbers + 0.5) / 2**31
    np.testing.assert_allclose(uniform, expected, rtol=4e-6, atol=0)  # the tail
    np.testing.assert_allclose(uniform, expected, rtol=0, atol=2e-7)
    assert radius.max() == pytest.approx((2 * 32 * np.log(2)) ** 0.5, rel=1e-6)
    negative = np.empty((2, len(numbers)), np.float32)
    view_kernels._gaussian(numbers | np.int32(-(2**31)), np.zeros_like(numbers), *negative)  # 31 bits count
    np.testing.assert_array_equal(negative[0], radius)


def test_angles_are_spread_evenly():
    """Every 8,191st of the 2^32 numbers."""
    numbers = np.arange(-(2**31), 2**31, 8191).astype(np.int32)
    cosine, sine = np.empty((2, len(numbers)), np.float32)
    radius = (2 * 32 * np.log(2)) ** 0.5
    view_kernels._gaussian(np.zeros_like(numbers), numbers, cosine, sine)
    angle = numbers * (np.pi / 2**31)
    np.testing.assert_allclose(cosine / radius, np.cos(angle), rtol=0, atol=2e-6)
    np.testing.assert_allclose(sine / radius, np.sin(angle), rtol=0, atol=2e-6)
