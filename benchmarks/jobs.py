"""What the benchmark measures: training steps, peak memory, log-Mel spectrograms, and the whole of the profile mini.

Each training step exists three times: the textbook's (``tests/textbook.py``), ours in plain PyTorch (without
``fmuc.fast``), and ours as it runs. They take turns within one process, so that whatever else the machine does affects
all of them; ratios are medians of the rounds' own ratios.
"""

from __future__ import annotations

import operator
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch

from fmuc import experiments, features, fixmatch, paths, records
from fmuc.batches import PatchSource
from fmuc.config import Features, Run
from fmuc.devices import precision
from fmuc.model import CNN420
from fmuc.selection import PseudoLabelCounts
from tests import textbook

CPU, CLASSES, PATCHES = torch.device("cpu"), 11, 512
KINDS = ("textbook", "plain", "ours")


class Row(NamedTuple):
    """One line of the table: medians of the textbook, of our plain PyTorch and of ours; ``target`` as in "≥ 4"."""

    job: str
    textbook: float
    plain: float
    ours: float
    unit: str
    ratio: float
    target: str = ""
    note: str = ""

    @property
    def met(self) -> bool:
        sign, limit = self.target.split()
        return {"≥": operator.ge, "≤": operator.le}[sign](self.ratio, float(limit))


def take_turns(functions: Sequence[Callable[[], object]], rounds: int) -> np.ndarray:
    """Seconds of one call of each function in each round, after a call that does not count: (rounds, functions)."""
    def seconds(function: Callable[[], object]) -> float:
        started = time.perf_counter()
        function()
        return time.perf_counter() - started

    for function in functions:
        function()
    return np.array([[seconds(function) for function in functions] for _ in range(rounds)])


def median_ratio(first: np.ndarray, second: np.ndarray) -> float:
    """Median over the rounds of ``first / second``, each (rounds,)."""
    return float(np.median(first / second))


def in_process(function: Callable, *arguments: object) -> object:
    """The function's result from a fresh process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


# --- training steps ---


def random_cache(shape: Features) -> features.FeatureCache:
    """Random patches in memory."""
    size = (PATCHES, shape.mel_bands, shape.patch_frames)
    patches = np.random.default_rng(0).standard_normal(size, dtype=np.float32).astype(np.float16)
    bands = np.zeros(shape.mel_bands, np.float32)
    return features.FeatureCache(patches, np.arange(PATCHES), bands, bands + 1, "")


def plain_net(run: Run) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Our net and optimiser without ``fmuc.fast``."""
    net = CNN420(CLASSES, run.network).to(memory_format=torch.channels_last)
    return net, torch.optim.Adam(net.parameters(), lr=run.training.learning_rate, fused=True)


def make_step(kind: str, run: Run, cache: features.FeatureCache) -> Callable[[], object]:
    """A function that draws random patches and makes one training step with them; ``kind``: one of ``KINDS``."""
    rng, training = np.random.default_rng(0), run.training

    def indices() -> tuple[torch.Tensor, torch.Tensor]:
        sizes = training.labelled_batch, training.unlabelled_batch
        return tuple(torch.from_numpy(rng.integers(PATCHES, size=size)) for size in sizes)

    if kind == "textbook":
        net, optimiser = textbook.build(run, CLASSES)
        patches = textbook.load_everything(cache)

        def step() -> None:
            labelled, unlabelled = indices()
            textbook.step(net, optimiser, patches[labelled], labelled % CLASSES, patches[unlabelled], run, rng)
    else:
        net, optimiser = fixmatch.build(run, CLASSES, CPU) if kind == "ours" else plain_net(run)
        source, counts = PatchSource(cache, CPU), PseudoLabelCounts(CLASSES, CPU)
        generator = torch.Generator().manual_seed(0)

        def step() -> None:
            labelled, unlabelled = indices()
            batch = fixmatch.Batch(source.gather(labelled), labelled % CLASSES, source.gather(unlabelled),
                                   unlabelled % CLASSES)
            fixmatch.step(net, optimiser, batch, run, generator, counts)

    net.train()
    return step


def steps(profile: str, dataset: str, rounds: int, least: int) -> list[Row]:
    """FM and FMUC steps of a profile, textbook, plain and ours, and what uncertainty costs: ours beside ours."""
    made = {variant: experiments.make_run(profile, dataset, variant) for variant in ("FM", "FMUC")}
    cache = random_cache(made["FM"].features)
    names = [(variant, kind) for variant in made for kind in KINDS]
    taken = take_turns([make_step(kind, made[variant], cache) for variant, kind in names], rounds)
    seconds = dict(zip(names, taken.T, strict=True))
    rows = []
    for variant, run in made.items():
        book, plain, ours = (seconds[variant, kind] for kind in KINDS)
        note = (f"{run.training.labelled_batch} + {run.training.unlabelled_batch} patches in {precision(run, CPU)}; "
                f"plain PyTorch {median_ratio(book, plain):.2f} times as fast as the textbook")
        rows.append(Row(f"{variant} step, {profile}", *np.median([book, plain, ours], axis=1).tolist(), "s",
                        median_ratio(book, ours), f"≥ {least}", note))
    extra = [median_ratio(seconds["FMUC", kind], seconds["FM", kind]) for kind in KINDS]
    return [*rows, Row(f"FMUC step / FM step, {profile}", *extra, "times", extra[-1], "≤ 1.8")]


def _growth(kind: str, run: Run) -> float:
    """Peak memory of this process after a step with N = 50 by that after one with N = 5."""
    peaks = []
    for passes in (5, 50):
        make_step(kind, replace(run, selection=replace(run.selection, passes=passes)), random_cache(run.features))()
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return peaks[1] / peaks[0]


def _shrunk(run: Run, by: int) -> Run:
    training = run.training
    return replace(run, training=replace(training, labelled_batch=training.labelled_batch // by,
                                         unlabelled_batch=training.unlabelled_batch // by))


def memory(profile: str, dataset: str, shrink: int) -> list[Row]:
    """How the peak memory of an FMUC step grows with N; the textbook's batch is divided by ``shrink``."""
    run = experiments.make_run(profile, dataset, "FMUC")
    growth = [in_process(_growth, kind, _shrunk(run, shrink) if kind == "textbook" else run) for kind in KINDS]
    return [Row("peak memory of the FMUC step, N = 50 / N = 5", *growth, "times", growth[-1], "≤ 1.05",
                f"the textbook's at 1/{shrink} of the batch: it would not fit everywhere")]


# --- features ---


def log_mel(settings: Features, seconds: float, rate: int, rounds: int, least: int) -> list[Row]:
    """Sound file to log-Mel spectrogram, decoding included, beside librosa."""
    rng, count = np.random.default_rng(0), 8
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, f"{number}.wav") for number in range(count)]
        for file in files:
            soundfile.write(file, rng.uniform(-0.5, 0.5, (round(seconds * rate), 1 + (rate > 20_000))), rate)

        def ours(file: Path) -> torch.Tensor:
            return features.log_mel(features.read_audio(file, settings.sample_rate), settings)

        apart = max(float(np.abs(textbook.log_mel(file, settings) - np.asarray(ours(file))).max()) for file in files)
        taken = take_turns([lambda: [textbook.log_mel(file, settings) for file in files],
                            lambda: [ours(file) for file in files]], rounds) / count
    book, own = np.median(taken, axis=0).tolist()
    return [Row(f"log-Mel of {seconds:g} s at {rate} Hz", book, float("nan"), own, "s",
                median_ratio(*taken.T), f"≥ {least}", f"differs from librosa by at most {apart:.0e}")]


# --- whole commands ---


def mini_runs() -> list[Row]:
    """Minutes of the runs that ``make reproduce`` trains, by their shipped records, two at a time."""
    planned = {run.name for run in experiments.reproduced("mini")}
    shipped = [record for record in records.load_all("mini", "shipped") if record.run.name in planned]
    minutes = sum(record.provenance["wall_seconds"] for record in shipped) / 60 / 2
    return [Row("runs that make reproduce trains", float("nan"), float("nan"), minutes, "min", minutes, "≤ 25",
                f"{len(shipped)} runs by the times in their records, two at a time")]


def figures() -> list[Row]:
    """Seconds of ``make figures``: every notebook executed from the shipped records."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "fmuc", "figures", "--profile", "mini"], cwd=paths.ROOT, check=True,
                       env=os.environ | {"FMUC_FIGURES": folder}, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
    return [Row("make figures", float("nan"), float("nan"), seconds, "s", seconds, "≤ 90")]
