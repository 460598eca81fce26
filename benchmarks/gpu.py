"""Check and time training steps on a GPU: ``bash benchmarks/gpu.sh``.

A float32 step must equal the CPU's. Then FM and FMUC steps are timed in float32 and bfloat16, with and without CUDA
graphs (``torch.compile``), and the hours of the profile's plan are summed up. With ``--device cpu`` the same code runs
on the CPU.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import NamedTuple

import torch
from tabulate import tabulate

from fmuc import experiments
from fmuc.config import Augmentation, Run, View
from fmuc.devices import pick_device
from fmuc.fixmatch import Batch, build, step

CLASSES = 11
GRAPHS = {"mode": "reduce-overhead"}  # torch.compile with CUDA graphs


class Row(NamedTuple):
    """One timed variant: milliseconds a step, patches a second (labelled and unlabelled), largest memory."""

    variant: str
    precision: str
    graphs: str
    ms: float
    patches: float
    gigabytes: float


def random_batch(run: Run, device: torch.device) -> Batch:
    """Patches and labels from a fixed seed, the same on every device."""
    rng, training = torch.Generator().manual_seed(0), run.training
    sizes = training.labelled_batch, training.unlabelled_batch
    patches = [torch.randn(size, run.features.mel_bands, run.features.patch_frames, generator=rng) for size in sizes]
    labels = torch.randint(0, CLASSES, sizes[:1], generator=rng)
    return Batch(patches[0].to(device), labels.to(device), patches[1].to(device))


def largest_difference(run: Run, device: torch.device, steps: int = 3) -> float:
    """Largest difference between weights after some float32 steps on the CPU and on ``device``, dropout and views off.

    Relative to the largest change of a weight from its start.
    """
    still = View(shift_time=0.0)
    run = replace(run, training=replace(run.training, precision="float32"), augmentation=Augmentation(still, still),
                  network=replace(run.network, dropout=0.0), selection=replace(experiments.FM, threshold=0.0))
    ends = []
    for place in (torch.device("cpu"), device):
        net, optimiser = build(run, CLASSES, place)
        start, batch = deepcopy(net), random_batch(run, place)
        for _ in range(steps):
            step(net, optimiser, batch, run, torch.Generator(place))
        ends.append([p.detach().cpu() for p in net.parameters()])
    moved = max((end - p.detach().cpu()).abs().max() for end, p in zip(ends[1], start.parameters(), strict=True))
    return float(max((a - b).abs().max() for a, b in zip(*ends, strict=True)) / moved)


def timed(run: Run, device: torch.device, graphs: bool, steps: int) -> Row:
    """Median of some steps, after as many that do not count (compiling, warming up)."""
    net, optimiser = build(run, CLASSES, device)
    batch, rng, seconds = random_batch(run, device), torch.Generator(device).manual_seed(0), []
    if graphs:
        net.forward = torch.compile(net.forward, **GRAPHS)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(2 * steps):
        started = time.perf_counter()
        step(net, optimiser, batch, run, rng).tolist()  # waits for the device
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds[steps:])
    memory = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else float("nan")
    size = run.training.labelled_batch + run.training.unlabelled_batch
    return Row(run.variant, run.training.precision, "on" if graphs else "off", 1000 * median, size / median, memory)


def rows(profile: str, dataset: str, device: torch.device, steps: int) -> Iterator[Row]:
    """FM and FMUC in both precisions; CUDA graphs only where there is CUDA."""
    for variant in ("FM", "FMUC"):
        run = experiments.make_run(profile, dataset, variant)
        for precision in ("float32", "bfloat16"):
            run = replace(run, training=replace(run.training, precision=precision))
            for graphs in (False, True) if device.type == "cuda" else (False,):
                try:
                    yield timed(run, device, graphs, steps)
                except Exception as error:  # of whatever a compiler calls
                    print(f"{variant}, {precision}, CUDA graphs {graphs}: {type(error).__name__}: {error}"[:300],
                          file=sys.stderr)


def hours(profile: str, measured: list[Row]) -> float:
    """Of the profile's plan, one run at a time: each run by the fastest row of its kind, supervised ones as FM."""
    fastest = {variant: min(row.ms for row in measured if row.variant == variant) for variant in ("FM", "FMUC")}
    return sum(run.training.epochs * run.training.iterations_per_epoch
               * fastest["FMUC" if run.selection and run.selection.passes else "FM"]
               for run in experiments.plan(profile)) / 1000 / 3600


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--profile", default="paper")
    parser.add_argument("--dataset", default="nsynth")
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args(arguments)
    device = pick_device(args.device)
    print(torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU", f"torch {torch.__version__}")
    difference = largest_difference(experiments.make_run(args.profile, args.dataset, "FM"), device)
    print(f"float32 against the CPU: weights differ by {difference:.1e} of their change")
    measured = []
    for row in rows(args.profile, args.dataset, device, args.steps):
        measured.append(row)
        print(row, flush=True)  # what is measured stays, whatever happens next
    print(tabulate(measured, headers=Row._fields, floatfmt=".4g"))
    print(f"hours of the plan {args.profile}, one run at a time: {hours(args.profile, measured):.2f}")
    return 0 if difference < 0.01 else 1


if __name__ == "__main__":
    sys.exit(main())
