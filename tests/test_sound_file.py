"""Own decoding of plain WAV files against libsndfile's, on whole and on damaged files."""

from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fmuc import features as sound_file
from fmuc.errors import FmucError
from fmuc.features import read_audio, read_mono


def noise(channels: int, length: int = 3001) -> np.ndarray:
    """Loud noise with both extremes of every format in it."""
    sound = np.random.default_rng(channels).uniform(-1, 1, (length, channels))
    sound[:2] = [[1.0], [-1.0]]
    return sound


def by_libsndfile(path: Path) -> tuple[np.ndarray, int]:
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return samples.mean(axis=1), rate


@pytest.fixture
def no_libsndfile(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise AssertionError("left to libsndfile")

    monkeypatch.setattr(sound_file, "_read_any", fail)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_plain_wav_is_decoded_here_to_the_same_bits(subtype, channels, tmp_path, no_libsndfile):
    soundfile.write(tmp_path / "a.wav", noise(channels), 44_100, subtype=subtype)
    expected, rate = by_libsndfile(tmp_path / "a.wav")
    mono, own_rate = read_mono(tmp_path / "a.wav")
    assert (mono.dtype, own_rate, abs(mono).max()) == (np.float32, rate, 1.0)
    assert np.array_equal(mono, expected)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
@pytest.mark.parametrize("length", [1, 2, 3, 2**15 - 1, 2**15, 2**15 + 1, 3 * 2**15 + 2])
def test_plain_wav_of_any_length_is_decoded_to_the_same_bits(length, subtype, channels, tmp_path, no_libsndfile):
    soundfile.write(tmp_path / "a.wav", np.resize(noise(channels), (length, channels)), 8000, subtype=subtype)
    assert np.array_equal(read_mono(tmp_path / "a.wav")[0], by_libsndfile(tmp_path / "a.wav")[0])


@pytest.mark.parametrize("size", [3, 26, 5000])
def test_what_stands_before_the_samples_is_passed_over(size, tmp_path):
    """A chunk that is not of the samples: of an odd length, after which a byte is empty, and beyond the first pages."""
    soundfile.write(tmp_path / "a.wav", noise(1), 8000, subtype="PCM_16")
    whole = (tmp_path / "a.wav").read_bytes()
    chunk = b"LIST" + size.to_bytes(4, "little") + bytes(size + size % 2)
    total = (len(whole) + len(chunk) - 8).to_bytes(4, "little")
    (tmp_path / "b.wav").write_bytes(whole[:4] + total + whole[8:36] + chunk + whole[36:])
    assert np.array_equal(read_mono(tmp_path / "b.wav")[0], by_libsndfile(tmp_path / "a.wav")[0])


@pytest.mark.parametrize(("container", "subtype", "channels"), [
    ("WAV", "PCM_16", 5), ("WAV", "PCM_24", 3), ("WAV", "PCM_U8", 1), ("WAV", "PCM_32", 2), ("WAV", "FLOAT", 2),
    ("WAV", "DOUBLE", 1), ("WAV", "ULAW", 1), ("WAVEX", "PCM_24", 2), ("FLAC", "PCM_16", 2), ("AIFF", "PCM_16", 1),
])
def test_other_files_are_read_as_by_libsndfile(container, subtype, channels, tmp_path):
    soundfile.write(tmp_path / "a", noise(channels), 8000, subtype=subtype, format=container)
    expected, rate = by_libsndfile(tmp_path / "a")
    mono, own_rate = read_mono(tmp_path / "a")
    assert (mono.dtype, own_rate) == (np.float32, rate)
    np.testing.assert_allclose(mono, expected, rtol=0, atol=2e-7)


def test_a_longer_claim_than_the_file_takes_no_memory(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(1), 8000, subtype="PCM_16")
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[40:44] = (2**31).to_bytes(4, "little")  # the length of the samples
    (tmp_path / "a.wav").write_bytes(content)
    expected = by_libsndfile(tmp_path / "a.wav")[0]
    tracemalloc.start()
    try:
        assert np.array_equal(read_mono(tmp_path / "a.wav")[0], expected)
        assert tracemalloc.get_traced_memory()[1] < 32_000_000
    finally:
        tracemalloc.stop()


def attempt(read: Callable[[Path], tuple[np.ndarray, int]], path: Path) -> tuple[np.ndarray, int] | None:
    try:
        return read(path)
    except (soundfile.SoundFileError, OSError):
        return None


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_a_damaged_header_is_judged_as_by_libsndfile(subtype, tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(2, 64), 8000, subtype=subtype)
    whole = (tmp_path / "a.wav").read_bytes()
    for at in range(44):
        for value in (0, 1, 2, 0x40, 0x7F, 0xFF):
            (tmp_path / "b.wav").write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            expected, found = attempt(by_libsndfile, tmp_path / "b.wav"), attempt(read_mono, tmp_path / "b.wav")
            assert (expected is None) == (found is None), (at, value)
            if expected is not None:
                assert found[1] == expected[1], (at, value)
                np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=2e-7, err_msg=str((at, value)))


def test_truncated_files_are_left_to_libsndfile(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(2), 8000, subtype="PCM_24")
    whole = (tmp_path / "a.wav").read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for length in (50, 1000, len(whole) - 1):
            (tmp_path / "b.wav").write_bytes(whole[:length])
            assert np.array_equal(read_mono(tmp_path / "b.wav")[0], by_libsndfile(tmp_path / "b.wav")[0])


def flac(path: Path, samples: np.ndarray) -> Path:
    soundfile.write(path, samples, 16_000, format="FLAC")
    return path


@pytest.mark.parametrize("claimed", [2**36 - 1, 0])
def test_a_flac_header_that_claims_everything_or_nothing_takes_no_memory(tmp_path, claimed):
    """2**36 - 1 samples are half a terabyte; 0 stands for a length that was not known when the header was written."""
    path = flac(tmp_path / "a.flac", noise(1, 5000) * 0.9)
    content = bytearray(path.read_bytes())
    content[21] = content[21] & 0xF0 | claimed >> 32
    content[22:26] = (claimed & 0xFFFFFFFF).to_bytes(4, "big")
    path.write_bytes(content)
    tracemalloc.start()
    try:
        assert attempt(read_mono, path) is None
        assert tracemalloc.get_traced_memory()[1] < 32_000_000
    finally:
        tracemalloc.stop()


def test_a_very_long_file_is_read_piece_by_piece_to_the_same_bits(tmp_path, monkeypatch):
    path = flac(tmp_path / "a.flac", noise(2, 20_000) * 0.9)
    whole = read_mono(path)[0]
    monkeypatch.setattr(sound_file, "_TRUSTED", 30_000)
    assert np.array_equal(read_mono(path)[0], whole)


def test_a_file_that_unpacks_to_more_than_any_sound_does_is_refused(tmp_path, monkeypatch):
    path = flac(tmp_path / "a.flac", np.zeros((500_000, 1)))
    assert len(read_mono(path)[0]) == 500_000 > 30 * path.stat().st_size
    monkeypatch.setattr(sound_file, "_TRUSTED", 10_000)
    assert len(read_mono(path)[0]) == 500_000
    monkeypatch.setattr(sound_file, "_DENSEST", 30)
    with pytest.raises(OSError, match="more than 30 samples per byte"):
        read_mono(path)


@pytest.mark.parametrize("rate", [1, 999, 2_000_001])
def test_a_sample_rate_that_nobody_records_with_is_refused(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", noise(1) * 0.5, rate, subtype="PCM_16")
    with pytest.raises(FmucError, match=f"a.wav: has a sample rate of {rate} Hz"):
        read_audio(tmp_path / "a.wav", 16_000)
