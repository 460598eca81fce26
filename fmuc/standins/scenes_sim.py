"""scenes-sim: a small stand-in for TUT Acoustic Scenes 2017, simulated scenes in that data set's own layout.

It is **not** TUT2017 (Mesaros, Heittola and Virtanen 2016): it holds no recorded sound.  It lets the whole pipeline
run in minutes without a download, on 10 s stereo clips at 44.1 kHz with TUT2017's 15 labels, files and folders.
What differs, on purpose or of necessity:

* Every recording is a *place* of its own, drawn from its scene (``scenes``); all test places are unseen.  A
  recording holds a few clips, TUT2017's many, and one scene has 15 training places here.
* Which scenes resemble which is decided by the recipe: sources are shared among scenes that are close in meaning, as
  park and forest path; train, tram, bus and car; café and grocery store; home, office and library.  Confusions of these
  are there **by construction** and say nothing about real acoustic scenes.
* Samples have 16 bits; there are no folds, and no list of recording errors: nothing went wrong.

The same parameters give the same bytes for any number of workers, with the same versions of numpy and scipy on the
same kind of processor.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from fmuc.datasets import DEVELOPMENT, EVALUATION
from fmuc.machinery.sound import wav
from fmuc.machinery.workers import run_parallel
from fmuc.standins.scenes import RATE, SCENES, record

PARTS = {"train": DEVELOPMENT, "test": EVALUATION}
SIZES = {  # split -> (recordings per scene, clips per recording)
    "scenes-sim": {"train": (15, 3), "test": (7, 2)},
    "scenes-sim-smoke": {"train": (2, 2), "test": (1, 1)},  # to look at, to listen to and for tests
}
SECONDS = 10  # of a clip
RENDERER = 1  # raise it whenever the same parameters give other samples


class Recording(NamedTuple):
    """One place; ``files`` are named without a folder, ``stream`` seeds its random numbers."""

    name: str
    scene: str
    split: str
    files: tuple[str, ...]
    originals: tuple[str, ...]  # the names before anonymisation, equal to ``files`` in the development part
    stream: tuple[int, ...]


def parameters(sizes: Mapping[str, tuple[int, int]], seed: int) -> dict:
    """All that the rendered bytes depend on. ``sizes``: recordings per scene and clips per recording of each split."""
    return {"renderer": RENDERER, "sizes": {split: list(size) for split, size in sizes.items()}, "seed": seed,
            "bits": 16}


def render(root: Path, sizes: Mapping[str, tuple[int, int]], seed: int, workers: int, progress: bool) -> None:
    """Fill the folder ``root`` with TUT2017's two folders."""
    recordings = plan(sizes, seed)
    for split, part in PARTS.items():
        _write_lists(root / part, split, [recording for recording in recordings if recording.split == split])
    written = run_parallel(write_recording, ((recording, root) for recording in recordings), workers)
    for _ in tqdm(written, "scenes-sim", len(recordings), unit="recording", disable=not progress):
        pass


def plan(sizes: Mapping[str, tuple[int, int]], seed: int) -> list[Recording]:
    """Every recording of the data set; names and the evaluation part's file names tell nothing about the scene."""
    rng = np.random.default_rng(seed)
    places = [(split, scene, i) for split in PARTS for scene in SCENES for i in range(sizes[split][0])]
    numbers = rng.permutation(len(places))
    anonymous = iter(rng.permutation(len(SCENES) * sizes["test"][0] * sizes["test"][1]))
    recordings = []
    for (split, scene, i), number in zip(places, numbers, strict=True):
        name = f"{chr(ord('a') + number // 1000)}{number % 1000:03d}"
        originals = tuple(f"{name}_{SECONDS * k}_{SECONDS * (k + 1)}.wav" for k in range(sizes[split][1]))
        files = originals if split == "train" else tuple(f"{next(anonymous)}.wav" for _ in originals)
        stream = (seed, list(PARTS).index(split), list(SCENES).index(scene), i)
        recordings.append(Recording(name, scene, split, files, originals, stream))
    return recordings


def _write_lists(part: Path, split: str, recordings: Sequence[Recording]) -> None:
    """The tab-separated lists of one part of TUT2017 that name its clips, sorted by file."""
    (part / "audio").mkdir(parents=True)
    clips = sorted((f"audio/{file}", r.scene, r.name, f"audio/{original}")
                   for r in recordings for file, original in zip(r.files, r.originals, strict=True))
    if split == "train":
        _write_rows(part / "meta.txt", (clip[:3] for clip in clips))
        return
    setup = part / "evaluation_setup"
    setup.mkdir()
    _write_rows(setup / "evaluate.txt", (clip[:2] for clip in clips))
    _write_rows(setup / "map.txt", sorted((original, file) for file, *_, original in clips))


def _write_rows(path: Path, rows: Iterable[Sequence[str]]) -> None:
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8", newline="\n")


def write_recording(recording: Recording, root: Path) -> None:
    """Simulate one recording and write its clips, consecutive stretches of it."""
    length = SECONDS * RATE
    sound = record(recording.scene, length * len(recording.files), np.random.default_rng(recording.stream))
    for i, file in enumerate(recording.files):
        clip = sound[:, i * length:(i + 1) * length].T
        (root / PARTS[recording.split] / "audio" / file).write_bytes(wav(clip, RATE))
