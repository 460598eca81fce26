"""The jobs of the benchmark, each measured beside its textbook version: see :mod:`benchmarks.bench`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import numpy as np
import soundfile
import torch

from benchmarks.timing import (
    Row,
    ceiling,
    faster,
    in_a_process,
    last_line,
    peak_bytes,
    seconds_of_a_call,
    take_turns,
    two_at_a_time,
)
from fmuc import calibration, experiments, features, footprint, forecast, paths, train
from fmuc import parallel as schedule
from fmuc import records as runs
from fmuc.augment import augment
from fmuc.config import Features, Run
from fmuc.datasets import Clip, Dataset
from fmuc.errors import FmucError
from fmuc.features import read_audio
from fmuc.selection import PseudoLabelCounts
from tests import textbook

CPU = torch.device("cpu")
LONGEST = {False: 30.0, True: 2.0}  # seconds that one step of the textbook's may take, by ``quick``
TOLERANCE = 1e-4  # of log-Mel values against librosa's
CLASSES = 11


# Training steps


def _random_cache(shape: Features, patches: int, path: Path | None = None) -> features.FeatureCache:
    """Random patches, in memory or in a file that is mapped (where they repeat after 1,024)."""
    size, rng = (patches, shape.mel_bands, shape.patch_frames), np.random.default_rng(0)
    values = rng.standard_normal((min(patches, 1024), *size[1:]), dtype=np.float32).astype(np.float16)
    if path is not None:
        with open(path, "wb") as file:  # not through a map, whose pages would count as this process's memory
            features.write_header(file, patches, shape)
            for start in range(0, patches, 1024):
                file.write(values[: patches - start].data)
        values = np.load(path, mmap_mode="r")
    bands = np.zeros(shape.mel_bands, np.float32)
    return features.FeatureCache(values, np.arange(len(values)), bands, bands + 1, shape, "")


def _smaller(run: Run, shrink: int) -> Run:
    training = run.training
    return replace(run, training=replace(training, labelled_batch=training.labelled_batch // shrink,
                                         unlabelled_batch=training.unlabelled_batch // shrink))


def _indices(run: Run, patches: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Random labelled and unlabelled patches of a step."""
    sizes = run.training.labelled_batch, run.training.unlabelled_batch
    return tuple(torch.from_numpy(rng.integers(patches, size=size)) for size in sizes)


def textbook_step(run: Run, cache: features.FeatureCache) -> Callable[[], object]:
    """A function that makes one step of the textbook's, reading its patches included."""
    net, optimiser = textbook.build(run, CLASSES)
    patches, rng = textbook.load_everything(cache), np.random.default_rng(0)
    net.train()

    def step() -> None:
        labelled, unlabelled = _indices(run, len(patches), rng)
        textbook.step(net, optimiser, patches[labelled], labelled % CLASSES, patches[unlabelled], run, rng)

    return step


def our_step(run: Run, cache: features.FeatureCache) -> Callable[[], object]:
    """A function that makes one step of ours, reading its patches included."""
    net, optimiser = train.build(run, CLASSES, CPU)
    source, rng = train.PatchSource(cache, CPU), np.random.default_rng(0)
    views, counts = torch.Generator().manual_seed(0), PseudoLabelCounts(CLASSES, CPU)
    net.train()

    def step() -> None:
        labelled, unlabelled = _indices(run, len(cache.patches), rng)
        batch = train.Batch(source.gather(labelled), labelled % CLASSES, source.gather(unlabelled),
                            unlabelled % CLASSES)
        train.step(net, optimiser, batch, run, views, counts)

    return step


def _affordable(run: Run, cache: features.FeatureCache, quick: bool) -> tuple[Run, str]:
    """The run with its whole batch, or with an eighth of it where one step of the textbook's would take too long."""
    eighth = _smaller(run, 8)
    probe = textbook_step(eighth, cache)
    probe()
    eight = 8 * seconds_of_a_call(probe, 1) > LONGEST[quick]
    run = eighth if eight else run
    batch = f"{run.training.labelled_batch} + {run.training.unlabelled_batch} patches"
    return run, f"an eighth of the batch: {batch}" if eight else batch


def _steps(profile: str, dataset: str, variant: str, quick: bool) -> tuple[np.ndarray, Run, str]:
    """Seconds of a step of the textbook's and of ours, (rounds, 2), of a run that is affordable, and what it is."""
    run = experiments.make_run(profile, dataset, variant)
    cache = _random_cache(run.features, 1024)
    run, note = _affordable(run, cache, quick)
    seconds = take_turns([textbook_step(run, cache), our_step(run, cache)], 3 if quick else 7)
    return seconds, run, f"{note}; ours in {train.precision(run, CPU)}"


def fm_step(quick: bool) -> list[Row]:
    """FixMatch at the paper's scale."""
    native = train.precision(experiments.make_run("paper", "nsynth", "FM"), CPU) == "bfloat16"
    seconds, _, note = _steps("paper", "nsynth", "FM", quick)
    return [faster("FM step, paper", seconds, 4 if native else 3, note)]


def fmuc_step(quick: bool) -> list[Row]:
    """FMUC at the paper's scale, and what uncertainty costs: beside our FM step alone, in a process of their own."""
    seconds, run, note = _steps("paper", "nsynth", "FMUC", quick)
    both = in_a_process(_beside_fm, run, 3 if quick else 21)
    fm, ours = np.median(both, axis=0).tolist()
    return [faster("FMUC step, paper", seconds, 3, note),
            Row("FMUC step against our FM step, paper", fm, ours, "s", float(np.median(both[:, 1] / both[:, 0])), 1.7,
                True, note)]


def _beside_fm(run: Run, rounds: int) -> np.ndarray:
    """Seconds of our FM step and of ours of ``run``, in turns: (rounds, 2)."""
    cache = _random_cache(run.features, 1024)
    return take_turns([our_step(replace(run, selection=experiments.FM), cache), our_step(run, cache)], rounds)


def mini_steps(quick: bool) -> list[Row]:
    """Both methods at the sizes of the profile mini."""
    rows = []
    for variant in ("FM", "FMUC"):
        seconds, _, note = _steps("mini", "nsynth-gm", variant, quick)
        rows.append(faster(f"{variant} step, mini", seconds, 3, note))
    return rows


def strong_view(quick: bool) -> list[Row]:
    """The strong view of an unlabelled batch."""
    run = experiments.make_run("paper", "nsynth", "FM")
    size = 28 if quick else run.training.unlabelled_batch
    patches = torch.randn(size, run.features.mel_bands, run.features.patch_frames)
    view, rng, generator = run.augmentation.strong, np.random.default_rng(0), torch.Generator().manual_seed(0)
    seconds = take_turns([lambda: textbook.augment(patches, view, rng), lambda: augment(patches, view, generator)],
                         3 if quick else 7)
    return [faster("strong view", seconds, 5, f"{size} patches")]


# Memory


def _peak_of_a_step(make: Callable[[Run, features.FeatureCache], Callable], passes: int, shrink: int) -> int:
    run = _smaller(experiments.make_run("paper", "nsynth", "FMUC"), shrink)
    run = replace(run, selection=replace(run.selection, passes=passes))
    make(run, _random_cache(run.features, 512))()
    return peak_bytes()


def memory(quick: bool) -> list[Row]:
    """How peak memory grows with N. The textbook's at an eighth of the batch: it would not fit everywhere."""
    shrink, growth = 8 if quick else 1, []
    for make, part in ((textbook_step, 8), (our_step, shrink)):
        few, many = (in_a_process(_peak_of_a_step, make, passes, part) for passes in (5, 50))
        growth.append(many / few)
    note = f"ours {many / 2**20:.0f} MB at N = 50; the textbook's, and ours if quick, at an eighth of the batch"
    return [Row("peak memory of the FMUC step, N = 50 to N = 5", *growth, "times", growth[1], 1.05, True, note)]


# Features and patches


def write_clips(folder: Path, count: int, seconds: float, rate: int, channels: int, subtype: str) -> list[Path]:
    """``count`` decaying tones in noise as WAV files."""
    rng, t = np.random.default_rng(0), np.arange(int(seconds * rate)) / rate
    files = [folder / f"{number}.wav" for number in range(count)]
    for number, file in enumerate(files):
        tone = 0.3 * np.exp(-t)[:, None] * np.sin(2 * np.pi * 110 * (number + 1) * t)[:, None]
        soundfile.write(file, tone + 0.02 * rng.standard_normal((len(t), channels)), rate, subtype=subtype)
    return files


def _log_mel_row(job: str, files: Sequence[Path], preset: Features, repeats: int, note: str) -> Row:
    def ours(file: Path) -> torch.Tensor:
        return features.log_mel(read_audio(file, preset.sample_rate), preset)

    apart = max(float(np.abs(textbook.log_mel(file, preset) - ours(file).numpy()).max()) for file in files)
    if apart > TOLERANCE:
        raise FmucError(f"log-Mel differs from librosa's by {apart:.2g}, more than {TOLERANCE:g}: compare the versions "
                        "of torchaudio and librosa with requirements.lock")
    seconds = take_turns([lambda: [textbook.log_mel(file, preset) for file in files],
                          lambda: [ours(file) for file in files]], repeats)
    return faster(job, seconds / len(files), 6, f"{note}; apart by at most {apart:.1g}")


def log_mel(quick: bool) -> list[Row]:
    """Sound file -> log-Mel spectrogram, decoding included."""
    count, repeats = (4, 3) if quick else (32, 15)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = write_clips(Path(folder), count, 4, 16_000, 1, "PCM_16")
        rows.append(_log_mel_row("log-Mel of 4 s", files, experiments.NSYNTH, repeats, "16 kHz, mono, 16 bit"))
        files = write_clips(Path(folder), count, 10, 44_100, 2, "PCM_24")
        rows.append(_log_mel_row("log-Mel of 10 s", files, experiments.TUT, repeats,
                                 "44.1 kHz, stereo, 24 bit, to 22.05 kHz"))
    return rows


def feature_processes(quick: bool) -> list[Row]:
    """Two feature processes against one, once every process is at work."""
    rounds, span = (1, 2.0) if quick else (9, 3.0)
    with tempfile.TemporaryDirectory() as folder:
        files = write_clips(Path(folder), 64, 4, 16_000, 1, "PCM_16")
        clips = tuple(Clip(str(i), files[i % 64], "a", str(i), "train") for i in range(200_000))  # more than are read
        dataset = Dataset("bench", ("a",), clips)
        both = [features.chunks(dataset, experiments.NSYNTH, workers) for workers in (1, 2)]
        for chunks in both:
            _clips_for(chunks, 2 * span)  # until every process has started
        seconds = [[_seconds_of_a_thousand(chunks, span) for chunks in both] for _ in range(rounds)]
        for chunks in both:
            chunks.close()
    return [faster("log-Mel, two processes against one", seconds, 1.8,
                   f"seconds of 1,000 clips of 4 s after start-up; {ceiling(rounds)}")]


def _seconds_of_a_thousand(chunks: Iterator[features.Chunk], span: float) -> float:
    """Seconds of 1,000 clips, over ``span`` seconds after those chunks that were finished during the other's turn."""
    _clips_for(chunks, span / 4)
    clips, spent = _clips_for(chunks, span)
    return spent / clips * 1000


def _clips_for(chunks: Iterator[features.Chunk], span: float) -> tuple[int, float]:
    """Clips that were made in ``span`` seconds, and the seconds that they took."""
    begun, clips, spent = time.perf_counter(), 0, 0.0
    while spent < span:
        clips += len(next(chunks).counts)
        spent = time.perf_counter() - begun
    return clips, spent


def memory_map(quick: bool) -> list[Row]:
    """Wait of the training loop for patches of a file that is never in memory, and memory by size of that file."""
    run, count = experiments.make_run("paper", "nsynth", "FM"), 2_048 if quick else 32_768
    run = _smaller(run, 8) if quick else run
    few, many = (in_a_process(_wait_and_memory, run, size) for size in (count // 4, count))
    size = count * run.features.mel_bands * run.features.patch_frames * 2 / 2**20
    note = (f"FM steps of {run.training.labelled_batch} + {run.training.unlabelled_batch} patches, every one read from "
            f"the disk; {size:.0f} MB of patches instead of a quarter take {many[1] / few[1]:.2f} times the memory")
    return [Row("wait for the memory map, % of a step", float("nan"), 100 * many[0], "%", 100 * many[0], 2, True, note)]


def _wait_and_memory(run: Run, count: int) -> tuple[float, int]:
    """Share of the time of a ``Trainer``'s steps that goes into its batches, and peak memory; changes this process."""
    train.RESIDENT_BYTES = 0
    with tempfile.TemporaryDirectory(dir=paths.data_root()) as root:  # not /tmp, which may be memory itself
        os.environ["FMUC_DATA"] = root
        dataset = _random_data(run, count)
        trainer = train.Trainer(run, dataset, Path(root), "cpu")
        trainer.net.train()
        rng, times = trainer.seed_epoch(1), []
        forget(paths.features_dir(run.dataset, run.features.id) / "patches.npy")  # once: no step wants a patch again
        for index in range(6):
            started = time.perf_counter()
            batch = trainer.batch(index, unlabelled=True)
            waited = time.perf_counter() - started
            train.step(trainer.net, trainer.optimiser, batch, run, rng)
            times.append((waited, time.perf_counter() - started))
    waits, steps = zip(*times[1:], strict=True)
    return sum(waits) / sum(steps), peak_bytes()


def _random_data(run: Run, count: int) -> Dataset:
    """A data set of one random patch a clip, its features in the data folder, its sounds nowhere."""
    classes = tuple("abc")
    clips = tuple(Clip(str(i), Path(f"{i}.wav"), classes[i % 3], str(i), "train") for i in range(count))
    dataset = Dataset(run.dataset, classes, clips)
    folder = paths.features_dir(run.dataset, run.features.id)
    folder.mkdir(parents=True)
    cache = _random_cache(run.features, count, folder / "patches.npy")
    np.save(folder / "index.npy", cache.clip_of_patch)
    np.savez(folder / "bands.npz", mean=cache.mean, std=cache.std)
    (folder / "features.json").write_text(json.dumps(features.made_from(dataset, run.features, count)))
    return dataset


def forget(file: Path) -> None:
    """Drop a file from the page cache where the system can be asked to."""
    if hasattr(os, "posix_fadvise"):
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# Whole profiles


def parallel_runs(quick: bool) -> list[Row]:
    """Two single-threaded runs of mini at a time against one after the other."""
    rounds, steps = (1, 20) if quick else (5, 60)
    seconds = two_at_a_time(_many_steps, steps, rounds)
    return [faster("two runs at a time against one after the other, mini", seconds, 1.8,
                   f"two runs of {steps} FM steps; {ceiling(rounds)}")]


def _many_steps(steps: int, ready: Barrier | None) -> float:
    """Seconds of ``steps`` steps of mini, begun when every process is ``ready``."""
    run = experiments.make_run("mini", "nsynth-gm", "FM")
    step = our_step(run, _random_cache(run.features, 1024))
    for _ in range(5):
        step()
    if ready is not None:
        ready.wait()
    return steps * seconds_of_a_call(step, steps)


def mini_profile(quick: bool) -> list[Row]:
    """Forecast of all runs of mini beside what they took, by the records here, else by the shipped ones."""
    profile = "mini"
    try:
        records, source = runs.load_all(profile), "trained here"
    except FmucError:
        records, source = runs.load_all(profile, "shipped"), "shipped"
    workers, trained = schedule.default_workers("cpu"), [record.run for record in records]
    sizes = {name: footprint.extent(name) for name in dict.fromkeys(run.dataset for run in trained)}
    speed = calibration.measure(trained, {name: size.classes for name, size in sizes.items()}, device="cpu",
                                workers=workers, seconds=1 if quick else 3, progress=False)
    whole, trainings = (forecast.run_seconds(trained, sizes, speed, start=start) for start in (True, False))
    recorded = [record.provenance["wall_seconds"] for record in records]
    took, expected = (forecast.until_the_end(seconds, workers, speed) / 60
                      for seconds in (np.add(recorded, np.subtract(whole, trainings)), whole))
    planned = len(experiments.plan(profile))
    note = (f"{len(records)} of {planned} runs, {source}, {workers} at a time, longest first; {sum(recorded) / 60:.1f} "
            "of computing by the records; start-up and final predictions, which they leave out, as timed now")
    return [Row("all runs of mini, minutes", float("nan"), took, "min", took, 20, True, note),
            Row("forecast of mini against what it took", took, expected, "min",
                max(expected / took, took / expected), 1.5, True, f"either way; steps timed {workers} at a time")]


def figures(quick: bool) -> list[Row]:
    """Every figure and table of mini from the shipped records, executed anew."""
    def execute() -> None:
        command = [sys.executable, "-m", "fmuc", "figures", "--profile", "mini", "--force"]
        done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise FmucError(f"make figures failed: {last_line(done.stderr)}")

    seconds = min(seconds_of_a_call(execute, 1) for _ in range(1 if quick else 3))
    return [Row("make figures", float("nan"), seconds, "s", seconds, 60, True,
                f"{os.cpu_count()} cores" + ("" if quick else "; the fastest of three"))]
