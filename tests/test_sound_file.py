"""Own decoding of plain WAV files against libsndfile's, on whole and on damaged files."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fmuc import sound_file
from fmuc.sound_file import read_mono


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


def test_a_longer_claim_than_the_file_takes_no_memory(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", noise(1), 8000, subtype="PCM_16")
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[40:44] = (2**31).to_bytes(4, "little")  # the length of the samples
    (tmp_path / "a.wav").write_bytes(content)
    monkeypatch.setattr(sound_file.wave.Wave_read, "readframes", lambda *args: pytest.fail("asked for two gigabytes"))
    assert np.array_equal(read_mono(tmp_path / "a.wav")[0], by_libsndfile(tmp_path / "a.wav")[0])


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
