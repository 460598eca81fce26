"""Small data sets made on the fly; nothing here reads the real ones."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # else each process has a thread per core, and they wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when PyTorch is imported

import numpy as np
import pytest
import soundfile
import torch
from local_server import LocalServer

from fmuc import datasets, features
from fmuc.config import Features
from fmuc.experiments import NSYNTH_SMALL

# A shell that starts the suite in the background lets it ignore Ctrl-C, and so would every process the tests start
signal.signal(signal.SIGINT, signal.default_int_handler)

FAMILIES = ("bass", "guitar", "vocal")


def pytest_configure(config: pytest.Config) -> None:
    """librosa is compiled before there are workers: two that do it at once may crash (Numba issue 10128)."""
    if config.getoption("numprocesses", None):
        import librosa.core.pitch  # noqa: F401 (the tests use no function that this leaves uncompiled)


def write_nsynth_split(root: Path, split: str, notes: dict[str, str], *, rate: int = 16000, length: int = 8000) -> Path:
    """One split in NSynth's layout: ``notes`` maps the note's name to its family; every note is a different sound."""
    folder = root / f"nsynth-{split}"
    (folder / "audio").mkdir(parents=True)
    index = {}
    for number, (note, family) in enumerate(notes.items()):
        noise = np.random.default_rng(number).random(length)
        sound = 0.3 * np.sin(np.arange(length) * (number + 1) / 50) + 0.01 * noise
        soundfile.write(folder / "audio" / f"{note}.wav", sound, rate, subtype="PCM_16")
        instrument, pitch, velocity = note.split("-")
        index[note] = {
            "note": number, "note_str": note, "instrument": 0, "instrument_str": instrument, "pitch": int(pitch),
            "velocity": int(velocity), "sample_rate": rate, "qualities": [0] * 10, "qualities_str": [],
            "instrument_family": 0, "instrument_family_str": family, "instrument_source": 0,
            "instrument_source_str": "acoustic",
        }
    (folder / "examples.json").write_text(json.dumps(index, indent=1))
    return folder


def note_names(split: str, per_family: int) -> dict[str, str]:
    """Names and families of ``per_family`` notes of each of three families, in no particular order."""
    names = {f"{family}_acoustic_{split}-{60 + i:03d}-100": family for i in range(per_family) for family in FAMILIES}
    return dict(reversed(names.items()))


@pytest.fixture
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder that ``FMUC_DATA`` points to."""
    monkeypatch.setenv("FMUC_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def nsynth_root(data_root: Path) -> Path:
    """A tiny data set ``nsynth``: 3 families; 12 notes in train, 3 in valid, 6 in test; half a second each."""
    root = data_root / "nsynth"
    for split, per_family in (("train", 4), ("valid", 1), ("test", 2)):
        write_nsynth_split(root, split, note_names(split, per_family))
    return root


@pytest.fixture
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests to this machine go round any proxy."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server(direct: None) -> Iterator[LocalServer]:
    """A running server without files."""
    with LocalServer() as server:
        yield server


TINY = Features(sample_rate=16_000, window=512, hop=512, mel_bands=12, patch_frames=8)  # two patches of half a second


@pytest.fixture(scope="session")
def _trainable_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See :func:`trainable`."""
    root = tmp_path_factory.mktemp("trainable")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FMUC_DATA", str(root))
        for name, preset in (("nsynth", TINY), ("nsynth-gm-smoke", NSYNTH_SMALL)):
            for split, per_family in (("train", 8), ("valid", 1), ("test", 3)):
                write_nsynth_split(root / name, split, note_names(split, per_family))
            features.extract(datasets.load(name), preset, workers=1, progress=False)
    return root


@pytest.fixture
def trainable(_trainable_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with two tiny data sets whose features are there, made once: ``nsynth`` (features ``TINY``) and
    ``nsynth-gm-smoke`` (those of the profile smoke); 3 families; 24 notes in train, 9 in test. Runs of a test stay
    its own."""
    for part in _trainable_root.iterdir():
        (tmp_path / part.name).symlink_to(part)
    monkeypatch.setenv("FMUC_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the processes of a plan compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
