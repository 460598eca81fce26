from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from fmuc.fast.kernels import advance, draw_seed, fill, sequences

SEEDS = [(0, 0), (1, 0), (0, 1), (2**32 - 1, 2**32 - 1), (123456789, 987654321), (3, 2**31)]
NUMBER = 2**18


def bits(seed: tuple[int, int], start: int = 0, number: int = NUMBER) -> np.ndarray:
    numbers = np.empty(number, np.uint32)
    fill(numbers, start, np.array(seed, np.uint32))
    return numbers


def next_bits(seed: tuple[int, int], number: int = NUMBER, width: int = 512) -> np.ndarray:
    """Of ``width`` sequences, number after number."""
    state = sequences(width, np.array(seed, np.uint32))
    return np.concatenate([advance(state, step).copy() for step in range(number // width)])


both_kinds = pytest.mark.parametrize("draw", [bits, next_bits], ids=["fill", "advance"])


def slow_hash(position: int, seed: tuple[int, int]) -> int:
    """In Python's integers, cut to 32 bits after each operation."""
    x = (position + seed[0]) % 2**32
    x = (x ^ x >> 17) * 0xED5AD4BB % 2**32
    x = (x + seed[1]) % 2**32
    x = (x ^ x >> 11) * 0xAC4C1B51 % 2**32
    x = (x ^ x >> 15) * 0x31848BAB % 2**32
    return x ^ x >> 14


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("start", [0, 1, 1023, 2**31 - 50, 2**32 - 50])  # the last one begins anew at 2^32
def test_the_numbers_are_the_hash_of_their_position(seed, start):
    assert bits(seed, start, 200).tolist() == [slow_hash(start + k, seed) for k in range(200)]


@pytest.mark.parametrize("number", [1, 16, 37])
def test_each_sequence_is_marsaglias(number):
    state = sequences(number, np.array((5, 6), np.uint32))
    words = [[int(row[k]) for row in state] for k in range(number)]
    for step in range(9):
        got = advance(state, step).tolist()
        for last in words:
            x = (last[0] ^ last[0] << 11) % 2**32
            last.append(last[3] ^ last[3] >> 19 ^ x ^ x >> 8)
            del last[0]
        assert got == [last[3] for last in words]


def test_sequences_begin_at_different_places():
    state = sequences(512, np.array((5, 6), np.uint32))
    assert state.any(axis=0).all() and len(np.unique(state)) == state.size  # a sequence of zeros would stay there


@pytest.mark.parametrize("number", [0, 1, 15, 16, 17, 1000])
def test_a_piece_is_the_same_whatever_surrounds_it(number):
    np.testing.assert_array_equal(bits((5, 6), 37, number), bits((5, 6))[37 : 37 + number])


@both_kinds
@pytest.mark.parametrize("seed", SEEDS)
def test_dropout_of_a_tenth_by_16_bits_drops_a_tenth_and_has_no_pattern(seed, draw):
    dropped = (draw(seed).view(np.uint16) < 6554).astype(np.float64)
    share, deviation = 6554 / 2**16, (6554 / 2**16 * (1 - 6554 / 2**16)) ** 0.5
    assert abs(dropped.mean() - share) < 5 * deviation / len(dropped) ** 0.5
    centred = (dropped - share) / deviation
    for lag in (1, 2, 3, 4, 5, 8, 16, 32, 64, 128, 256, 512, 1024, 2048):
        products = centred[lag:] * centred[:-lag]
        assert abs(products.mean()) < 5 / len(products) ** 0.5, lag


@both_kinds
@pytest.mark.parametrize("seed", SEEDS)
def test_each_byte_and_each_pair_of_bytes_is_uniform(seed, draw):
    in_bytes = draw(seed).view(np.uint8).reshape(-1, 4)
    for place in range(4):
        for other in (np.zeros(NUMBER, np.uint8), np.roll(in_bytes[:, place], 1), in_bytes[:, (place + 1) % 4]):
            pairs = in_bytes[:, place].astype(int) * 16 + (other >> 4)
            counts = np.bincount(pairs, minlength=4096)
            counts = counts if other.any() else counts[::16]
            expected = NUMBER / len(counts)
            statistic = ((counts - expected) ** 2 / expected).sum()
            assert 1e-6 < chi2.cdf(statistic, len(counts) - 1) < 1 - 1e-6


@both_kinds
@pytest.mark.parametrize("seed", SEEDS)
def test_each_bit_is_as_often_one_as_zero(seed, draw):
    shares = [(draw(seed) >> np.uint32(place) & np.uint32(1)).mean() for place in range(32)]
    np.testing.assert_allclose(shares, 0.5, rtol=0, atol=5 * 0.5 / NUMBER**0.5)


@both_kinds
def test_numbers_of_different_seeds_have_nothing_to_do_with_each_other(draw):
    centred = [draw(seed) / 2**31 - 1 for seed in SEEDS]
    for i, one in enumerate(centred):
        for other in centred[:i]:
            assert abs((one * other).mean()) < 5 / 3 / NUMBER**0.5


@both_kinds
def test_another_second_half_gives_no_shifted_copy(draw):
    one, other = draw((7, 1), number=4096), draw((7, 2), number=4096)
    equal = len(np.intersect1d(one, other))
    assert len(np.unique(one)) > 4090 and equal < 5  # of 16 million pairs, 1 in 4e9 is equal by chance


def test_no_number_comes_twice_in_a_sequence():
    """Each step of the hash can be undone, so that 2^32 positions give 2^32 numbers."""
    assert len(np.unique(bits((4, 9)))) == NUMBER


def test_a_seed_is_drawn_from_the_given_generator():
    rng = torch.Generator().manual_seed(3)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first, second = draw_seed(rng), draw_seed(rng)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.shape == (2,) and first.dtype == np.uint32 and first.tolist() != second.tolist()
    rng.manual_seed(3)
    assert [draw_seed(rng).tolist(), draw_seed(rng).tolist()] == [first.tolist(), second.tolist()]


def test_without_a_generator_a_seed_comes_from_the_global_one():
    torch.manual_seed(3)
    first = draw_seed()
    assert first.tolist() != draw_seed().tolist()
    torch.manual_seed(3)
    assert draw_seed().tolist() == first.tolist()


def test_seeds_use_all_32_bits_of_both_halves():
    rng = torch.Generator().manual_seed(0)
    seeds = np.stack([draw_seed(rng) for _ in range(2000)])
    for place in range(32):
        ones = (seeds >> np.uint32(place) & np.uint32(1)).mean(axis=0)
        np.testing.assert_allclose(ones, 0.5, rtol=0, atol=5 * 0.5 / 2000**0.5)
