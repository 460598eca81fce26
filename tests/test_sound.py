"""Sound files as people have them: of any format, with headers that lie, cut, joined or not sound at all."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fmuc.machinery.sound import SoundError, read_audio, read_sound

LENGTH = 16_000
MP3_FRAME = 1152


def noise(channels: int = 1, length: int = LENGTH) -> np.ndarray:
    return np.random.default_rng(channels).uniform(-0.9, 0.9, (length, channels))


def encoded(container: str = "WAV", subtype: str | None = None, sound: np.ndarray | None = None, rate: int = 16_000,
            **options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, noise() if sound is None else sound, rate, format=container, subtype=subtype, **options)
    return file.getvalue()


def with_sizes(wav: bytes, riff: int, data: int) -> bytes:
    """A WAV file whose header says other sizes."""
    at = wav.index(b"data") + 4
    return wav[:4] + struct.pack("<I", riff) + wav[8:at] + struct.pack("<I", data) + wav[at + 4 :]


def saved(folder: Path, content: bytes) -> Path:
    (folder / "sound").write_bytes(content)
    return folder / "sound"


WAV = encoded(subtype="PCM_16")
SIZE = len(WAV)


@pytest.mark.parametrize(("container", "subtype", "channels"), [
    ("WAV", "PCM_16", 1), ("WAV", "PCM_24", 2), ("WAV", "PCM_U8", 1), ("WAV", "FLOAT", 2), ("WAV", "ULAW", 1),
    ("WAVEX", "PCM_24", 5), ("RF64", "PCM_16", 1), ("FLAC", "PCM_16", 2), ("AIFF", "PCM_16", 1), ("OGG", "VORBIS", 2),
    ("AU", "PCM_16", 1), ("CAF", "ALAC_16", 1),
])
def test_any_format_is_read_as_by_libsndfile(container, subtype, channels, tmp_path):
    path = saved(tmp_path, encoded(container, subtype, noise(channels)))
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    sound = read_sound(path)
    assert (sound.samples.dtype, sound.rate, sound.channels, sound.subtype) == (np.float32, rate, channels, subtype)
    assert (sound.note, sound.cut) == ("", False)
    np.testing.assert_allclose(sound.samples, samples.mean(axis=1), rtol=0, atol=2e-7)


@pytest.mark.parametrize(("container", "subtype"), [
    ("WAV", "GSM610"), ("WAV", "G721_32"), ("WAV", "NMS_ADPCM_16"), ("AU", "G721_32"), ("XI", "DPCM_16"),
])
def test_codecs_that_cannot_seek_are_read(container, subtype, tmp_path):
    path = saved(tmp_path, encoded(container, subtype))
    with soundfile.SoundFile(path) as file:
        assert not file.seekable() and len(read_sound(path).samples) == file.frames >= LENGTH


NEVER_CLOSED, STREAM = "never closed", "header of a stream"
HEADERS = {  # file, note
    "RIFF size of the whole file": (with_sizes(WAV, SIZE, SIZE - 44), ""),
    "RIFF size 0": (with_sizes(WAV, 0, SIZE - 44), ""),
    "a list behind the sound that is cut": (WAV + b"LIST\xff\0\0\0abc", ""),
    "all sizes 0": (with_sizes(WAV, 0, 0), NEVER_CLOSED),
    "sizes of a file without samples": (with_sizes(WAV, 36, 0), NEVER_CLOSED),
    "sizes before anything was written": (with_sizes(WAV, 8, 0), NEVER_CLOSED),
    "largest sizes": (with_sizes(WAV, 2**32 - 1, 2**32 - 1), STREAM),
    "two data chunks": (WAV + b"data" + struct.pack("<I", 1000) + bytes(1000), "more than one data chunk"),
    "joined WAV": (WAV + WAV, "more than one data chunk"),
    "joined FLAC": (encoded("FLAC") * 2, "several streams"),
    "joined OGG": (encoded("OGG", "VORBIS") * 2, "several streams"),
    "FLAC without a length": (encoded("FLAC")[:22] + bytes(4) + encoded("FLAC")[26:], ""),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_every_sample_is_read_whatever_the_header_says(kind, tmp_path):
    content, note = HEADERS[kind]
    sound = read_sound(saved(tmp_path, content))
    assert len(sound.samples) == LENGTH and not sound.cut
    assert note in sound.note and bool(sound.note) == bool(note)


@pytest.mark.parametrize(("container", "subtype"), [
    ("WAV", "PCM_16"), ("WAV", "GSM610"), ("AIFF", "PCM_16"), ("W64", "PCM_16"), ("RF64", "PCM_16"), ("AU", "PCM_16"),
    ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III"),
])
def test_a_cut_file_is_read_as_far_as_it_goes_and_called_cut(container, subtype, tmp_path):
    content = encoded(container, subtype, noise(length=10 * LENGTH))
    sound = read_sound(saved(tmp_path, content[: len(content) // 2]))
    assert sound.cut and sound.note.startswith(("cut short", "damaged after"))
    assert 0.4 < len(sound.samples) / (10 * LENGTH) < 0.6


def mp3(mode: str, seconds: int = 10) -> bytes:
    sound = noise(length=seconds * LENGTH) * np.linspace(0.01, 1, seconds * LENGTH)[:, None]
    return encoded("MP3", "MPEG_LAYER_III", sound, bitrate_mode=mode)


def without_xing(content: bytes) -> bytes:
    return content[content.index(content[:2], 1) :]


def id3(size: int) -> bytes:
    return b"ID3\x03\0\0" + bytes([size >> shift & 127 for shift in (21, 14, 7, 0)]) + bytes(size)


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_file_is_read_to_its_end(mode, tmp_path, capfd):
    content, expected = mp3(mode), 10 * LENGTH
    bare = without_xing(content)
    for whole in (content, id3(100_000) + content, content + b"TAG" + bytes(125), content + b"APETAGEX" + bytes(5000)):
        sound = read_sound(saved(tmp_path, whole))
        assert (len(sound.samples), sound.note) == (expected, "")
    for whole in (bare, id3(100_000) + bare, bare + b"APETAGEX" + bytes(5000)):
        sound = read_sound(saved(tmp_path, whole))
        assert expected <= len(sound.samples) < expected + 3 * MP3_FRAME and sound.note == ""


def test_joined_mp3_files_are_read_both(tmp_path):
    content = mp3("VARIABLE")
    joined = read_sound(saved(tmp_path, content + id3(3000) + content))
    assert len(joined.samples) >= 20 * LENGTH and joined.note.startswith("several MP3 files") and not joined.cut
    bare = without_xing(content)
    assert len(read_sound(saved(tmp_path, bare + bare)).samples) >= 20 * LENGTH


def test_what_follows_the_last_frame_of_an_mp3_file_costs_no_sample(tmp_path):
    sound = read_sound(saved(tmp_path, without_xing(mp3("CONSTANT")) + bytes(5000)))
    assert len(sound.samples) >= 10 * LENGTH and sound.note.startswith("damaged after")


def test_a_header_cannot_claim_memory(tmp_path):
    flac = bytearray(encoded("FLAC"))
    flac[21] |= 0x0F  # 2**36 - 1 samples: half a terabyte
    flac[22:26] = b"\xff" * 4
    for content in (bytes(flac), with_sizes(WAV, 2**31 - 100, 2**31 - 200)):
        tracemalloc.start()
        try:
            assert len(read_sound(saved(tmp_path, content)).samples) <= LENGTH
            assert tracemalloc.get_traced_memory()[1] < 32_000_000
        finally:
            tracemalloc.stop()


def holding(content: bytes) -> Callable[[Path], int]:
    return lambda path: path.write_bytes(content)


@pytest.mark.parametrize(("make", "reason"), [
    (holding(b"no sound at all\n" * 100), "is not sound that libsndfile reads .*; replace the file"),
    (holding(WAV[:20]), "is not sound"), (holding(bytes(4096)), "is not sound"), (holding(b""), "is empty"),
    (holding(WAV[:44]), "holds no samples"), (holding(encoded(rate=999)), "has a sample rate of 999 Hz"),
    (holding(encoded(rate=2_000_001)), "has a sample rate of 2000001 Hz"), (Path.mkdir, "is a folder"),
    (os.mkfifo, "is not a regular file"), (lambda path: None, "does not exist"),
    (lambda path: path.symlink_to(path), "cannot be read .Too many levels of symbolic links")])
def test_what_is_not_sound_is_called_what_it_is(tmp_path, make, reason):
    make(tmp_path / "sound")
    with pytest.raises(SoundError, match=f"sound: {reason}") as caught:
        read_sound(tmp_path / "sound")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # as a worker process hands it over


def test_resampling_keeps_a_tone(tmp_path):
    for rate in (44_100, 22_050):
        soundfile.write(tmp_path / f"{rate}.wav", 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate), rate)
    down, same = read_audio(tmp_path / "44100.wav", 22_050), read_audio(tmp_path / "22050.wav", 22_050)
    assert down.shape == same.shape == (22_050,) and down.dtype == np.float32
    np.testing.assert_allclose(down[500:-500], same[500:-500], atol=1e-3)
