"""Broken sound files through every command that reads sound: one clear line, and nothing half-written."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import note_names, write_nsynth_split

from fmuc.__main__ import main

TONE = np.sin(np.arange(8000) / 9)


def wav(sound: np.ndarray, path: Path, subtype: str = "FLOAT") -> bytes:
    soundfile.write(path, sound, 16_000, subtype=subtype, format="WAV")
    return path.read_bytes()


def with_format(content: bytes, tag: int) -> bytes:
    at = content.index(b"fmt ") + 8
    return content[:at] + struct.pack("<H", tag) + content[at + 2 :]


def huge_flac(path: Path) -> bytes:
    """A FLAC file whose header claims 2**36 - 1 samples: half a terabyte once decoded."""
    soundfile.write(path, TONE, 16_000, format="FLAC")
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F  # the upper four of 36 bits, at the end of byte 13 of STREAMINFO
    content[22:26] = b"\xff" * 4
    return bytes(content)


BROKEN: dict[str, Callable[[Path], bytes]] = {
    "nothing": lambda path: b"",
    "a text": lambda path: b"no sound at all\n" * 100,
    "a picture": lambda path: b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8,
    "random bytes": lambda path: np.random.default_rng(0).bytes(4096),
    "zeros": lambda path: bytes(4096),
    "half a header": lambda path: wav(TONE, path)[:20],
    "a header alone": lambda path: wav(TONE[:0], path, "PCM_16"),
    "a header without its format": lambda path: wav(TONE, path).replace(b"fmt ", b"fmx "),
    "a format nobody knows": lambda path: with_format(wav(TONE, path, "PCM_16"), 0x4242),
    "no channel": lambda path: wav(TONE, path, "PCM_16")[:22] + b"\0\0" + wav(TONE, path, "PCM_16")[24:],
    "not a number": lambda path: wav(np.r_[TONE, np.nan], path),
    "infinity": lambda path: wav(np.r_[np.inf, TONE], path),
    "half a FLAC header": lambda path: huge_flac(path)[:30],
    "a length of half a terabyte": huge_flac,
}


@pytest.fixture
def note(data_root: Path) -> Path:
    """The sound file to break, of a small set in NSynth's layout."""
    for split, per_family in (("train", 2), ("test", 1)):
        folder = write_nsynth_split(data_root / "nsynth-gm-smoke", split, note_names(split, per_family))
    return folder / "audio" / "guitar_acoustic_test-060-100.wav"


def one_line(capfd: pytest.CaptureFixture) -> str:
    lines = [line for line in capfd.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("fmuc: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("damage", [damage for damage in BROKEN if damage != "a length of half a terabyte"])
def test_features_of_a_broken_sound_file(note, data_root, capfd, damage):
    note.write_bytes(BROKEN[damage](note))
    arguments = ["features", "--profile", "smoke", "--dataset", "nsynth-gm-smoke", "--workers", "1"]
    assert main(arguments) == 1
    line = one_line(capfd)
    assert note.name in line and "replace the file or take it out" in line and "Traceback" not in line
    assert [path for path in data_root.rglob("*") if "features" in path.name and path.is_file()] == []
    assert list((data_root / "features").iterdir()) == []
    soundfile.write(note, TONE, 16_000)
    assert main(arguments) == 0  # repaired, the same command works


UNHEARD = ("not a number", "infinity", "a length of half a terabyte")  # an import reads headers, `data check` sounds


@pytest.mark.parametrize("damage", [damage for damage in BROKEN if damage not in UNHEARD])
def test_import_of_a_broken_sound_file(data_root, tmp_path, capfd, damage):
    source = data_root / "sounds"
    for label in ("dog", "cat"):
        (source / label).mkdir(parents=True)
        for number in range(4):
            soundfile.write(source / label / f"{number}.wav", TONE, 16_000)
    broken = source / "dog" / "2.wav"
    broken.write_bytes(BROKEN[damage](broken))
    assert main(["data", "folder", str(source), "--name", "pets"]) == 1
    line = one_line(capfd)
    assert "dog/2.wav" in line and "remove or repair" in line
    assert not [path for path in data_root.iterdir() if "pets" in path.name]


@pytest.mark.parametrize("damage", BROKEN)
def test_check_of_a_broken_sound_file_is_a_finding(note, capfd, damage):
    note.write_bytes(BROKEN[damage](note))
    assert main(["data", "check", "nsynth-gm-smoke", "--workers", "1"]) == 1
    printed = capfd.readouterr()
    assert "guitar_acoustic_test-060-100" in printed.out
    assert printed.err.count("fmuc: nsynth-gm-smoke: the report names errors") == 1
