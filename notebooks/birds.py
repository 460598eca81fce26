"""Material of notebook 12: a folder of simulated bird calls as users have sound files, and what its maker knows of it.

No bird was recorded: calls are whistles and struck wood in wind, leaves or traffic, each species with a plain trait or
two of a real one. The species of the files in ``unlabelled`` are withheld from the folder; so what training estimates
without them can be compared with the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import soundfile
import soxr  # comes with librosa
import torch
from scipy.special import betaincinv

from fmuc.augment import augment
from fmuc.datasets import Dataset
from fmuc.fixmatch import as_images
from fmuc.own.predict import Predictor
from fmuc.selection import pseudo_label
from fmuc.standins.scenes import RATE, SOURCES, glide, scatter, struck

Rng = np.random.Generator
STRANGER = "wren"  # among the unlabelled files only: no folder is named so
AROUND, LEVEL = ("leaves", "traffic", "wind"), (-24, -2)  # what else is heard; its RMS in dB against the calls' peak


class Recorder(NamedTuple):
    """What a recording is written as; ``rate`` in Hz, ``subtype`` is libsndfile's, ``share`` of the recordings."""

    suffix: str
    rate: int
    channels: int
    subtype: str
    share: float


RECORDERS = (Recorder(".wav", 44_100, 2, "PCM_16", 0.3), Recorder(".wav", 48_000, 1, "PCM_24", 0.3),
             Recorder(".flac", 24_000, 1, "PCM_16", 0.3),
             Recorder(".ogg", 32_000, 1, "VORBIS", 0.1))  # encoding takes as long as making the sound


def _phrase(*parts: np.ndarray | float) -> np.ndarray:
    """Sounds one after another, with numbers for pauses in s: (L,) float32."""
    return np.concatenate([np.zeros(int(part * RATE), np.float32) if isinstance(part, float) else part
                           for part in parts])


def _blackbird(rng: Rng) -> np.ndarray:
    low = rng.uniform(1500, 2100)
    notes = [glide(rng.uniform(0.08, 0.3), *(low * rng.uniform(0.9, 1.6, 2))) for _ in range(rng.integers(4, 8))]
    return _phrase(*(part for note in notes for part in (note, rng.uniform(0.02, 0.1))))


def _chiffchaff(rng: Rng) -> np.ndarray:
    low = rng.uniform(3300, 4200)
    notes = [glide(0.1, 1.5 * hz, hz) for hz in low * rng.choice([1, 1.15], rng.integers(5, 10))]
    return _phrase(*(part for note in notes for part in (note, rng.uniform(0.15, 0.24))))


def _cuckoo(rng: Rng) -> np.ndarray:
    high, low = rng.uniform(580, 700) * np.array([1, 2 ** (-rng.uniform(3, 4.5) / 12)])
    return _phrase(glide(0.2, high, 0.97 * high), 0.14, glide(0.28, low, 0.97 * low))


def _great_tit(rng: Rng) -> np.ndarray:
    low = rng.uniform(3300, 4200)
    pair = (glide(0.09, 1.4 * low, 1.3 * low), 0.05, glide(0.12, low, low), rng.uniform(0.05, 0.1))
    return _phrase(*pair * rng.integers(3, 7))


def _woodpecker(rng: Rng) -> np.ndarray:
    knock = struck(rng, 700, 2600, 6, 0.02)[:int(0.05 * RATE)]
    return _phrase(*(knock, rng.uniform(0, 0.01)) * rng.integers(10, 18))


def _wren(rng: Rng) -> np.ndarray:
    low = rng.uniform(3800, 5200)
    trill = (glide(0.04, 1.25 * low, low), rng.uniform(0.02, 0.04))
    return _phrase(glide(0.15, low, 1.3 * low), 0.05, *trill * rng.integers(12, 24))


SPECIES: dict[str, Callable[[Rng], np.ndarray]] = {
    "blackbird": _blackbird, "chiffchaff": _chiffchaff, "cuckoo": _cuckoo, "great tit": _great_tit,
    "woodpecker": _woodpecker,
}


def sing(species: str, n: int, rng: Rng) -> np.ndarray:
    """``n`` samples at 44.1 kHz of one bird at one place: float32 (2, n) with a drawn peak between -18 and -2 dBFS."""
    song = {**SPECIES, STRANGER: _wren}[species]
    phrases = [song(rng) for _ in range(3)]
    starts = np.cumsum([0.1, *(len(phrases[0]) / RATE + rng.uniform(0.2, 1, n // RATE))])
    around = SOURCES[rng.choice(AROUND)](rng, n) * np.float32(10 ** (rng.uniform(*LEVEL) / 20))
    heard = around + scatter(rng, n, starts, phrases, spread_db=2, place=rng.uniform(0.2, 0.8))
    return heard * np.float32(10 ** (rng.uniform(-18, -2) / 20) / np.abs(heard).max())


def make(folder: Path, seed: int, *, recordings: int = 12, unlabelled: int = 90, strangers: int = 10) -> dict[str, str]:
    """Write the demonstration into the new ``folder``; the species of each file in ``unlabelled`` comes back.

    Each species has a folder with ``recordings`` of it, in turn a sub-folder of three parts and a single file. Of the
    ``unlabelled`` files, which are recordings of their own, ``strangers`` have a species without a folder. Each
    recording has one of ``RECORDERS``; a file is 1.2 to 3.2 s long. The same seed makes the same sounds.
    """
    rng, truth = np.random.default_rng(seed), {}
    for species in SPECIES:
        for number in range(1, recordings + 1):
            _record(folder / species / f"rec{number:02d}", species, 3 if number % 2 else 1, rng)
    drawn = [*rng.choice(list(SPECIES), unlabelled - strangers).tolist(), *[STRANGER] * strangers]
    for number, species in enumerate(rng.permutation(drawn).tolist(), 1):
        file = _record(folder / "unlabelled" / f"field{number:03d}", species, 1, rng)
        truth[file.relative_to(folder).as_posix()] = species
    (folder / "notes.txt").write_text("This is no sound file: it is skipped and counted.\n", encoding="utf-8")
    return truth


def _record(name: Path, species: str, parts: int, rng: Rng) -> Path:
    """Write one recording: a file of this name, or a folder of several; the (last) file comes back."""
    recorder = RECORDERS[rng.choice(len(RECORDERS), p=[each.share for each in RECORDERS])]
    lengths = rng.integers(12, 33, parts) * (RATE // 10)  # tenths of a second: whole samples at each of the rates
    sound = sing(species, int(lengths.sum()), rng)
    (name if parts > 1 else name.parent).mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(np.split(sound, np.cumsum(lengths)[:-1], axis=1), 1):
        file = name / f"part{number}{recorder.suffix}" if parts > 1 else name.with_suffix(recorder.suffix)
        samples = part.mean(axis=0) if recorder.channels == 1 else part.T
        soundfile.write(file, soxr.resample(samples, RATE, recorder.rate), recorder.rate, recorder.subtype)
    return file


def with_faults(table: pd.DataFrame, base: Path) -> pd.DataFrame:
    """The list of a clean data set (path relative to ``base``, label, group, split) with three faults of real ones.

    A WAV file of train comes again in test, as FLAC with another name and bit depth; a silent file is in train; a
    recording of train has its first part in valid. The two new files are written into ``base``.
    """
    wav = next(row for row in table.itertuples() if row.split == "train" and row.label and row.path.endswith(".wav")
               and soundfile.info(base / row.path).subtype == "PCM_16")
    sound, rate = soundfile.read(base / wav.path)
    soundfile.write(base / "copy.flac", sound, rate, "PCM_24")
    soundfile.write(base / "silence.wav", np.zeros(3 * rate), rate, "PCM_16")
    new = pd.DataFrame({"path": ["copy.flac", "silence.wav"], "label": wav.label, "group": "",
                        "split": ["test", "train"]})
    found = table[(table["split"] == "train") & (table["label"] != "") & (table["path"] != wav.path)]
    torn = found.index[found.duplicated("group", keep="last")][0]
    return pd.concat([table.assign(split=table["split"].where(table.index != torn, "valid")), new], ignore_index=True)


def tree(files: Iterable[str], most: int | None = None, indent: str = "") -> str:
    """POSIX paths as a tree: the first ``most`` entries (default: all), and of each folder the first two."""
    entries: dict[str, list[str]] = {}  # what is below each
    for name, _, below in (file.partition("/") for file in sorted(files)):
        entries.setdefault(name, []).extend([below] if below else [])
    lines = []
    for name, below in list(entries.items())[:most]:
        lines += [f"{indent}{name}/", tree(below, 2, f"{indent}    ")] if below else [f"{indent}{name}"]
    if most and len(entries) > most:
        lines.append(f"{indent}... and {len(entries) - most} more")
    return "\n".join(lines)


def judged(predictor: Predictor, data: Dataset, truth: Mapping[str, str], *, views: int = 6,
           seed: int = 0) -> pd.DataFrame:
    """What the predictor's rule does with weak views of the clips that ``truth`` names (id -> true class).

    A row for each patch and each of its ``views``; columns file, group, true, pseudo (the chosen class) and kept.
    """
    weak, rows, rng = predictor.run.augmentation.weak, [], torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # of the dropout masks
        for clip in (clip for clip in data.clips if clip.id in truth):
            patches = predictor.patches(clip.path)[:, 0].repeat(views, 1, 1)  # (views * P, F, T)
            found = pseudo_label(predictor.net, as_images(augment(patches, weak, rng)), predictor.selection)
            rows += [(clip.id, clip.group, truth[clip.id], predictor.classes[label], kept)
                     for label, kept in zip(found.labels.tolist(), found.mask.tolist(), strict=True)]
    return pd.DataFrame(rows, columns=["file", "group", "true", "pseudo", "kept"]).astype({"kept": bool})


class Assessment(NamedTuple):
    """Shares of :func:`judged` rows: ``quality`` of the kept ones with its 95 % interval ``low`` to ``high``, and
    ``quantity``; ``groups`` of which anything was kept. NaN where nothing was."""

    quality: float
    low: float
    high: float
    quantity: float
    groups: int


def assess(rows: pd.DataFrame) -> Assessment:
    """Quality and quantity of pseudo-labels, and how far the quality can be trusted.

    The patches of a group are mostly right or wrong together, so the interval counts each group as one trial.
    """
    kept = rows[rows["kept"]]
    right, groups = float((kept["true"] == kept["pseudo"]).mean()), kept["group"].nunique()
    return Assessment(right, *interval(right, groups), float(rows["kept"].mean()), groups)


def interval(share: float, trials: int) -> tuple[float, float]:
    """95 % confidence interval of Clopper and Pearson (1934) for a ``share`` of right ones among ``trials``."""
    if not trials:
        return float("nan"), float("nan")
    right, wrong = share * trials, (1 - share) * trials
    low = betaincinv(right, wrong + 1, 0.025) if right else 0.0
    high = betaincinv(right + 1, wrong, 0.975) if wrong else 1.0
    return float(low), float(high)
