"""Other rules on the stored scores of a run, without training: quality against quantity, calibration, mistakes.

Replay asks what a rule *would have chosen* from a net that was trained with another one. It calls the functions of the
training (:func:`fmuc.records.choice`), so a run's own settings give its own choice exactly. It cannot tell what a rule
does to the net that trains on its choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fmuc import datasets, metrics
from fmuc.config import Selection
from fmuc.errors import FmucError
from fmuc.experiments import TABLE_1
from fmuc.features import FeatureCache, open_cache, read_audio
from fmuc.records import Record, choice, find
from fmuc.selection import PseudoLabels
from fmuc.uncertainty import pass_statistics

OUTCOMES = ("kept, right", "kept, wrong", "rejected, right", "rejected, wrong")


class Scores(NamedTuple):
    """Stored scores of P unlabelled patches after ``epoch``."""

    epoch: int
    plain: Tensor  # logits (P, C), float16, dropout off
    passes: Tensor  # logits (N, P, C), float16
    truth: np.ndarray  # (P,), -1 where unknown
    labels: np.ndarray  # (P,), the run's own choice
    kept: np.ndarray  # (P,)
    patches: np.ndarray  # (P,), numbers in the feature cache
    ids: np.ndarray  # (P,) of their clips
    offset: np.ndarray  # (P,) within the clip


def with_scores(records: Sequence[Record], dataset: str) -> dict[str, Record]:
    """Runs of a data set whose records hold scores, by variant in the order of Table I; possibly none."""
    found = {variant: [r for r in find(list(records), dataset, variant) if r.scores] for variant in TABLE_1}
    return {variant: hits[0] for variant, hits in found.items() if hits}


def at_epoch(record: Record, epoch: int | None = None) -> Scores:
    """The scores after one epoch, by default the last stored one; :class:`FmucError` if there are none."""
    if not record.scores:
        raise FmucError(f"{record.run.name}: the record holds no scores of single patches: train the run anew "
                        "(runs with a selection rule and seed 0 keep them)")
    stored = record.scores["epochs"].tolist()
    epoch = stored[-1] if epoch is None else epoch
    if epoch not in stored:
        raise FmucError(f"{record.run.name}: no scores of epoch {epoch}: choose one of {', '.join(map(str, stored))}")
    plain, passes, labels, kept = (record.scores[name][stored.index(epoch)]
                                   for name in ("plain", "passes", "labels", "kept"))
    truth, patches, ids, offset = (record.scores[name] for name in ("truth", "patches", "ids", "offset"))
    return Scores(epoch, torch.from_numpy(plain), torch.from_numpy(passes), truth, labels, kept, patches, ids, offset)


def replay(scores: Scores, selection: Selection) -> PseudoLabels:
    """Return what a rule chooses from the stored logits, each (P,); :class:`FmucError` if it needs more passes."""
    return choice(scores.plain, scores.passes, selection)


def quality_quantity(truth: np.ndarray, labels: np.ndarray, kept: np.ndarray) -> tuple[float, float]:
    """Shares from (P,) each: right of the kept patches of known class (NaN if there are none), and kept of all."""
    known = kept & (truth >= 0)
    return (labels == truth)[known].mean() if known.any() else np.nan, kept.mean()


def summary(scores: Scores, selection: Selection) -> pd.Series:
    """Quality and quantity of a rule in %, and how many patches of known class it keeps or rejects, rightly or wrongly
    (``OUTCOMES``)."""
    chosen, known = replay(scores, selection), scores.truth >= 0
    quality, quantity = quality_quantity(scores.truth, chosen.labels.numpy(), chosen.mask.numpy())
    right, kept = (chosen.labels.numpy() == scores.truth)[known], chosen.mask.numpy()[known]
    counts = [(k & r).sum() for k in (kept, ~kept) for r in (right, ~right)]
    return pd.Series([100 * quality, 100 * quantity, *counts], index=["quality", "quantity", *OUTCOMES])


# Curves


def trade_off(scores: Scores, selection: Selection) -> pd.DataFrame:
    """Quality and quantity (shares) as the threshold falls through every score: columns threshold, quantity, quality.

    A row keeps all scores >= its threshold, so that the points are all choices that some threshold makes. Of two
    thresholds the one on the mean moves and the one on the standard deviation stays.
    """
    chosen = replay(scores, selection)
    score = chosen.score.double().numpy()
    if selection.rule == "two_thresholds":
        every = replay(scores, replace(selection, threshold=1e-30))  # kept by the threshold on the std alone
        score = np.where(every.mask.numpy(), score, -np.inf)
    patches = pd.DataFrame({"threshold": score, "kept": 1, "known": scores.truth >= 0,
                            "right": chosen.labels.numpy() == scores.truth})
    counts = patches[np.isfinite(score)].groupby("threshold").sum().sort_index(ascending=False).cumsum().reset_index()
    return pd.DataFrame({"threshold": counts["threshold"], "quantity": counts["kept"] / len(score),
                         "quality": counts["right"] / counts["known"]})


# Calibration


def confidences(scores: Scores, selection: Selection) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Confidence in its pseudo-label, whether it is right, whether the rule keeps it, and the clip's id; each (K,) of
    the patches of known class. The confidence is the probability that the rule reads: plain, or the mean of passes."""
    chosen = replay(scores, replace(selection, rule="confidence", std_threshold=None))
    kept, known = replay(scores, selection).mask.numpy(), scores.truth >= 0
    confidence = np.clip(chosen.score.double().numpy(), 0.0, 1.0)
    return confidence[known], (chosen.labels.numpy() == scores.truth)[known], kept[known], scores.ids[known]


# Against the trained rows


def common_epoch(records: dict[str, Record]) -> int:
    """The last epoch after which every one of these runs has scores."""
    stored = (set(record.scores["epochs"].tolist()) for record in records.values())
    return max(set.intersection(*stored))


def against_training(records: dict[str, Record], scored: str = "FM") -> pd.DataFrame:
    """Table I three ways, one row per variant; quality and quantity are shares.

    ``replayed``: the rule on the scores of the one net ``scored``; ``trained``: its own net and choice on the same
    patches at the same epoch; ``counted``: all patches offered to the row in that epoch, view by view, while its net
    moved. ``replayed`` against ``trained`` is what feedback on the training does, up to the chance of a training.
    """
    epoch = common_epoch(records)
    base, rows = at_epoch(records[scored], epoch), {}
    for variant, record in records.items():
        chosen, own = replay(base, record.run.selection), at_epoch(record, epoch)
        counted, seen = record.counts(epoch, epoch)
        if not np.array_equal(own.patches, base.patches):
            raise FmucError(f"{record.run.name}: its scores are of other patches than those of {scored}: train both "
                            "on the same data set")
        rows[variant] = (*quality_quantity(base.truth, chosen.labels.numpy(), chosen.mask.numpy()),
                         *quality_quantity(own.truth, own.labels, own.kept),
                         metrics.quality(counted), metrics.quantity(counted, seen))
    columns = pd.MultiIndex.from_product([("replayed", "trained", "counted"), ("quality", "quantity")])
    return pd.DataFrame(rows, index=columns).T.rename_axis("variant")


# Single patches


def mistakes(scores: Scores, selection: Selection, classes: Sequence[str]) -> pd.DataFrame:
    """Every patch of known class: columns at (its place in ``scores``), clip, patch (number in the clip), truth, label,
    mean, std (of the label's probability), score, kept, right; the highest score first."""
    labels, _, score = chosen = replay(scores, selection)
    logits = scores.passes[: selection.passes] if selection.passes else scores.plain[None]
    mean, std = (part.gather(1, labels[:, None]).squeeze(1).numpy()
                 for part in pass_statistics(logits.float(), selection.temperature))
    names = np.array([*classes, ""])  # -1: not known
    table = pd.DataFrame({
        "at": np.arange(len(labels)), "clip": [id.decode() for id in scores.ids.tolist()], "patch": scores.offset,
        "truth": names[scores.truth], "label": names[labels.numpy()], "mean": mean, "std": std,
        "score": score.numpy(), "kept": chosen.mask.numpy(), "right": labels.numpy() == scores.truth})
    return table[scores.truth >= 0].sort_values(["score", "at"], ascending=[False, True])


def data_of(record: Record) -> datasets.Dataset:
    """The data set that a run was trained on; :class:`FmucError` where it is not on this machine."""
    data = datasets.load(record.run.dataset)
    if data.digest != record.provenance["dataset_digest"]:
        raise FmucError(f"{data.name} on this machine is not what {record.run.name} was trained on: 'python -m fmuc "
                        f"data {data.name}' and 'python -m fmuc features' make it anew")
    return data


def sounds(record: Record) -> tuple[datasets.Dataset, FeatureCache]:
    """Data set and feature cache behind a record's scores; :class:`FmucError` where they are not on this machine."""
    data = data_of(record)
    return data, open_cache(data, record.run.features)


def excerpt(data: datasets.Dataset, record: Record, scores: Scores, at: int) -> np.ndarray:
    """The sound of one patch: samples (L,) at the sample rate of the run's features, at least a second."""
    features = record.run.features
    length = features.patch_frames * features.hop
    path = next(clip.path for clip in data.clips if clip.id.encode() == scores.ids[at])
    start = int(scores.offset[at]) * length
    whole = read_audio(path, features.sample_rate)
    return whole[start : start + max(length, features.sample_rate)]
