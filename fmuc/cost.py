"""What training costs: work of a step by formula, seconds of its parts by measurement, the forecast of a plan.

The unit of work is one patch through the net without gradient; a training pass (forward and backward) counts three.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pandas as pd
import torch

from fmuc.augment import augment
from fmuc.config import Run
from fmuc.selection import pseudo_label
from fmuc.train import Batch, Trainer, as_images, autocast, build, pick_device, semi_supervised_loss, step

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


def step_parts(trainer: Trainer, repeats: int = 20) -> pd.Series:
    """Measured seconds of the four parts of a semi-supervised step; trains the trainer's net, so use a spare one."""
    run, net, rng = trainer.run, trainer.net, trainer.seed_epoch(1)
    batch = trainer.batch(0, unlabelled=True)
    size = len(batch.labels)
    images = as_images(torch.cat([batch.labelled, batch.unlabelled]))
    weak = as_images(batch.unlabelled)
    pseudo = pseudo_label(net, weak, run.selection)

    def draw_views() -> None:
        views = run.augmentation
        for patches, view in ((batch.labelled, views.weak), (batch.unlabelled, views.weak),
                              (batch.unlabelled, views.strong)):
            augment(patches, view, rng)

    def select() -> None:
        with autocast(run, trainer.device):
            pseudo_label(net, weak, run.selection)

    def learn() -> None:
        with autocast(run, trainer.device):
            logits = net(images)
            losses = semi_supervised_loss(logits[:size], batch.labels, logits[size:], pseudo)
        trainer.optimiser.zero_grad(set_to_none=True)
        sum(losses).backward()
        trainer.optimiser.step()

    net.train()
    parts = {"read patches": lambda: trainer.batch(0, unlabelled=True), "weak and strong views": draw_views,
             "pseudo-labels": select, "training pass and Adam": learn}
    return pd.Series({name: _seconds(part, repeats) for name, part in parts.items()})


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


def forecast(runs: Sequence[Run], seconds: Mapping[str, float]) -> pd.DataFrame:
    """Runs, epochs, units of work a step and hours of each data set and variant, in the order of the plan.

    ``seconds``: those of a unit, by data set (patches differ in size).
    """
    rows = pd.DataFrame([
        {"data set": run.dataset, "variant": run.variant, "epochs": run.training.epochs,
         "units a step": step_units(run), "hours": run_units(run) * seconds[run.dataset] / 3600}
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
    """Shortest of some calls after one that is not counted: what else runs on the machine only ever adds."""
    function()
    times = []
    for _ in range(repeats):
        wait()
        started = time.perf_counter()
        function()
        wait()
        times.append(time.perf_counter() - started)
    return min(times)


def wait() -> None:
    """Until the GPU, if there is one, has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
