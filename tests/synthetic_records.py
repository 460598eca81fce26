"""Fabricated run records, for tests of tables and plots only: their numbers are made up and no run was trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from fmuc import experiments, metrics
from fmuc.datasets import NSYNTH_FAMILIES as CLASSES
from fmuc.records import Record

OFFERED = 1000  # unlabelled examples per class and epoch

# Final quality and quantity, accuracies on test and unlabelled files; close to the paper's shape, not its numbers
SYNTHETIC = pd.DataFrame.from_dict(orient="index", columns=["quality", "quantity", "test", "unlabelled"], data={
    "FM": (0.79, 0.90, 0.70, 0.74),
    "FM thresh. 0.99": (0.82, 0.74, 0.70, 0.74),
    "FMUC": (0.88, 0.70, 0.72, 0.79),
    "FMUC thresh. 0.95": (0.86, 0.61, 0.71, 0.76),
    "FMUC two thresh.": (0.85, 0.69, 0.71, 0.75),
    "FMUC w/o temp.": (0.80, 0.88, 0.70, 0.74),
    "FMUC w. temp. 4": (0.94, 0.30, 0.66, 0.70),
    "FMUC w/o MC-Dr.": (0.84, 0.72, 0.71, 0.76),
    "Labelled part only": (np.nan, np.nan, 0.60, 0.62),
    "Fully supervised": (np.nan, np.nan, 0.78, np.nan),
})


def fabricate_counts(quality: float, quantity: float, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """One epoch's (C + 1, C) kept and (C + 1,) seen counts; each class is mistaken for its three successors."""
    kept, seen = np.zeros((classes + 1, classes), dtype=np.int64), np.zeros(classes + 1, dtype=np.int64)
    if np.isnan(quantity):  # a supervised run
        return kept, seen
    seen[:classes] = OFFERED
    number = round(OFFERED * quantity)
    wrong = number - round(number * quality) if number else 0
    shares = (number - wrong, wrong // 2, wrong // 3, wrong - wrong // 2 - wrong // 3)
    true = np.arange(classes)
    for step, share in enumerate(shares):
        kept[true, (true + step) % classes] = share
    return kept, seen


def synthetic_record(variant: str, quality: Sequence[float], quantity: Sequence[float], *, seed: int = 0,
                     dataset: str = "nsynth-gm", test: float = np.nan, unlabelled: float = np.nan) -> Record:
    """A record with the given quality and quantity in every epoch (up to rounding to counts)."""
    run = experiments.make_run("mini", "nsynth-gm", variant, seed)
    run = replace(run, dataset=dataset, training=replace(run.training, epochs=len(quality)))
    counts = [fabricate_counts(a, b, len(CLASSES)) for a, b in zip(quality, quantity, strict=True)]
    epochs = pd.RangeIndex(1, len(quality) + 1, name="epoch")
    history = pd.DataFrame({"quality": [metrics.quality(kept) for kept, _ in counts],
                            "quantity": [metrics.quantity(*both) for both in counts]}, index=epochs)
    history.loc[len(quality), ["test_accuracy", "unlabelled_accuracy"]] = test, unlabelled
    results = {"test_accuracy": test, "unlabelled_accuracy": unlabelled}
    kept, seen = (np.stack(part) for part in zip(*counts, strict=True))
    return Record(run, tuple(CLASSES), results, {"commit": "synthetic"}, history, kept, seen, {})


def with_files(record: Record, groups: int = 8, files: int = 40, shift: float = 0.0) -> Record:
    """The record with predictions for ``files`` test and unlabelled files of some groups, right with its accuracy."""
    rng, arrays = np.random.default_rng([record.run.seed, groups]), {}
    for part in ("test", "unlabelled"):
        group = rng.integers(groups, size=files)
        right = (group / groups + rng.normal(0, 0.1, files) + shift).clip(0, 1)
        arrays |= {f"{part}_labels": rng.integers(-1, len(record.classes), files),
                   f"{part}_correct": right.astype(np.float16),
                   f"{part}_groups": np.array([f"group {g}".encode() for g in group])}
    return replace(record, files=arrays)


def with_pool(record: Record, lead: float, groups: int = 12, patches: int = 400) -> Record:
    """The record with scores of a pool after its last epoch: the second and third order the patches better than the
    first, the plain softmax, by ``lead``; every seventh patch is of unknown class."""
    rng = np.random.default_rng(record.run.seed)
    truth, group = rng.integers(0, 5, patches), rng.integers(groups, size=patches)
    right = rng.random(patches) < 0.5 + group / groups / 2
    labels, noise = np.where(right, truth, (truth + 1) % 5), rng.normal(0, 1, patches)
    certainty = np.stack([(1 + more) * right + noise for more in (0.0, lead, lead)])
    truth[::7] = -1
    pool = {"epochs": np.array([len(record.history)]), "truth": truth, "groups": np.array([b"%d" % g for g in group]),
            "names": np.array([b"max softmax", b"mean, 5", b"mean - std, 5"]),
            "certainty": certainty[None].astype(np.float16), "labels": np.stack([labels] * 3)[None]}
    return replace(record, pool=pool)


def without_truth(record: Record, estimates: dict[int, tuple[float, float]]) -> Record:
    """The record had nobody labelled its unlabelled files: ``estimates`` are (quality, quantity) on validation files by
    epoch."""
    kept, seen = np.zeros_like(record.kept), np.zeros_like(record.seen)
    kept[:, -1], seen[:, -1] = record.kept.sum(axis=1), record.seen.sum(axis=1)
    history = record.history.assign(quality=np.nan, unlabelled_accuracy=np.nan)
    for epoch, values in estimates.items():
        history.loc[epoch, ["validation_quality", "validation_quantity"]] = values
    return replace(record, kept=kept, seen=seen, history=history)


def synthetic_plan(dataset: str = "nsynth-gm", epochs: int = 30, numbers: pd.DataFrame = SYNTHETIC
                   ) -> list[Record]:
    """Records of all rows of Tables I and II, with three seeds."""
    records = []
    for variant, quality, quantity, test, unlabelled in numbers.itertuples():
        for seed in range(3):
            rng = np.random.default_rng([len(variant), seed])
            approach = 1 - np.exp(-np.arange(epochs) / (epochs / 5))
            noise = rng.normal(0, 0.003, (2, epochs))
            shift = 0.008 * (seed - 1)
            records.append(synthetic_record(
                variant, quality - 0.07 * (1 - approach) + noise[0] + shift,
                np.clip(quantity * (0.2 + 0.8 * approach) + noise[1] - shift, 0, 1), seed=seed, dataset=dataset,
                test=test + shift + rng.normal(0, 0.002),
                unlabelled=unlabelled + shift + rng.normal(0, 0.002)))
    return records
