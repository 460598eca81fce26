"""What training costs: work of a step by formula, seconds of its parts by measurement, the forecast of a plan.

The unit of work is one patch through the net without gradient; a training pass (forward and backward) counts three.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import pandas as pd
import torch

from fmuc.augment import augment
from fmuc.config import Run
from fmuc.selection import pseudo_label
from fmuc.train import Batch, Trainer, as_images, build, pick_device, step

TRAINED = 3  # a backward pass costs about twice the forward pass


def step_units(run: Run) -> int:
    """Units of work of one step: N µB for the pseudo-labels, 3 (B + µB) for the training pass (Fig. 1 and 4)."""
    training = run.training
    if run.selection is None:
        return TRAINED * training.supervised_batch
    weak = max(run.selection.passes, 1) * training.unlabelled_batch
    return weak + TRAINED * (training.labelled_batch + training.unlabelled_batch)


def run_units(run: Run) -> int:
    """Units of work of a whole run, warm start (D12) included, evaluations left out."""
    training = run.training
    warm_start = training.warm_start if run.selection is not None else 0
    steps = training.epochs * training.iterations_per_epoch
    return steps * step_units(run) + warm_start * TRAINED * training.supervised_batch


def step_parts(trainer: Trainer, repeats: int = 10) -> pd.Series:
    """Measured seconds of the parts of a semi-supervised step; the trainer's net is trained by it, so use a spare one.

    The training pass is what the whole step takes beyond the views and the pseudo-labels.
    """
    run, rng = trainer.run, trainer.seed_epoch(1)
    batch = trainer.batch(0, unlabelled=True)
    views, images = run.augmentation, as_images(batch.unlabelled)

    def draw_views() -> None:
        for patches, view in ((batch.labelled, views.weak), (batch.unlabelled, views.weak),
                              (batch.unlabelled, views.strong)):
            augment(patches, view, rng)

    seconds = pd.Series({
        "read patches": _seconds(lambda: trainer.batch(0, unlabelled=True), repeats),
        "weak and strong views": _seconds(draw_views, repeats),
        "pseudo-labels": _seconds(lambda: pseudo_label(trainer.net, images, run.selection), repeats),
    })
    whole = _seconds(lambda: step(trainer.net, trainer.optimiser, batch, run, rng), repeats)
    seconds["training pass and Adam"] = max(whole - seconds.iloc[1:].sum(), 0.0)
    return seconds


def seconds_per_unit(run: Run, classes: int, device: str = "auto", repeats: int = 3, shrink: int = 1) -> float:
    """Measured seconds of one unit of work with the run's net and patch size, on random patches.

    ``shrink`` divides the batch sizes, so that a large step can be tried on a CPU, where the cost of a patch hardly
    depends on the batch.
    """
    where, training = pick_device(device), run.training
    sizes = ("labelled_batch", "unlabelled_batch", "supervised_batch")
    smaller = {size: max(getattr(training, size) // shrink, 2) for size in sizes}
    small = replace(run, training=replace(training, **smaller))
    net, optimiser = build(small, classes, where)
    rng, batch = torch.Generator(where).manual_seed(run.seed), _random_batch(small, classes, where)
    net.train()
    return _seconds(lambda: step(net, optimiser, batch, small, rng), repeats) / step_units(small)


def forecast(runs: Sequence[Run], seconds_per_unit: float) -> pd.DataFrame:
    """Runs, epochs, units of work a step and hours of each data set and variant, in the order of the plan."""
    rows = pd.DataFrame([
        {"data set": run.dataset, "variant": run.variant, "epochs": run.training.epochs,
         "units a step": step_units(run), "hours": run_units(run) * seconds_per_unit / 3600}
        for run in runs
    ])
    keys = ["data set", "variant", "epochs", "units a step"]
    return rows.groupby(keys, sort=False)["hours"].agg(runs="size", hours="sum").reset_index()


def _random_batch(run: Run, classes: int, device: torch.device) -> Batch:
    training, shape = run.training, (run.features.mel_bands, run.features.patch_frames)
    size = training.labelled_batch if run.selection is not None else training.supervised_batch
    rng = torch.Generator(device).manual_seed(run.seed)

    def draw(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        patches = torch.randn(count, *shape, generator=rng, device=device)
        return patches, torch.randint(classes, (count,), generator=rng, device=device)

    return Batch(*draw(size), *(draw(training.unlabelled_batch) if run.selection is not None else (None, None)))


def _seconds(function: Callable[[], object], repeats: int) -> float:
    """Mean seconds of a call after one that is not counted; waits for the GPU."""
    def wait() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    function()
    wait()
    started = time.perf_counter()
    for _ in range(repeats):
        function()
    wait()
    return (time.perf_counter() - started) / repeats
