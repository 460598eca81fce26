"""A broken sound file in every command that reads sound: one clear line or finding, and nothing half-written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import note_names, write_nsynth_split

from fmuc.__main__ import main as command

TONE = np.sin(np.arange(8000) / 9)
BROKEN = {"nothing": b"", "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8, "zeros": bytes(4096)}


@pytest.fixture
def note(data_root: Path) -> Path:
    """The sound file to break, of a small set in NSynth's layout."""
    for split, per_family in (("train", 2), ("test", 1)):
        folder = write_nsynth_split(data_root / "nsynth-gm-smoke", split, note_names(split, per_family))
    return folder / "audio" / "guitar_acoustic_test-060-100.wav"


def main(arguments: list[str]) -> int:
    """Exit status of a command."""
    with pytest.raises(SystemExit) as caught:
        command(arguments)
    return int(caught.value.code or 0)


def one_line(capfd: pytest.CaptureFixture) -> str:
    lines = [line for line in capfd.readouterr().err.replace("\r", "\n").splitlines() if line.startswith("fmuc: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("damage", BROKEN)
def test_features(note, data_root, capfd, damage):
    note.write_bytes(BROKEN[damage])
    arguments = ["features", "--profile", "smoke", "--dataset", "nsynth-gm-smoke", "--workers", "1"]
    assert main(arguments) == 1
    line = one_line(capfd)
    assert note.name in line and "replace the file or take it out" in line
    assert [path for path in (data_root / "features").rglob("*") if path.suffix != ".lock"] == []
    soundfile.write(note, TONE, 16_000)
    assert main(arguments) == 0  # repaired, the same command works


@pytest.mark.parametrize("damage", BROKEN)
def test_import(data_root, capfd, damage):
    source = data_root / "sounds"
    for label in ("dog", "cat"):
        (source / label).mkdir(parents=True)
        for number in range(4):
            soundfile.write(source / label / f"{number}.wav", TONE, 16_000)
    (source / "dog" / "2.wav").write_bytes(BROKEN[damage])
    assert main(["data", "folder", str(source), "--name", "pets"]) == 1
    assert "dog/2.wav" in one_line(capfd)
    assert not (data_root / "pets").exists()


@pytest.mark.parametrize("damage", BROKEN)
def test_check(note, capfd, damage):
    note.write_bytes(BROKEN[damage])
    assert main(["data", "check", "nsynth-gm-smoke", "--workers", "1"]) == 1
    printed = capfd.readouterr()
    assert "guitar_acoustic_test-060-100" in printed.out
    assert printed.err.count("fmuc: nsynth-gm-smoke: the report names errors") == 1
