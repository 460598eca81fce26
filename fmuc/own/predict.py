"""A trained run on sound files: class, mean and standard deviation over dropout passes, and what its rule says (§V-A).

The run's folder is enough: ``run.json`` (configuration and classes) and its last checkpoint (weights and the statistics
per Mel band). Neither the data set nor its features are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fmuc import checkpoints, paths
from fmuc.config import Features, Run, Selection
from fmuc.errors import FmucError
from fmuc.experiments import FMUC
from fmuc.features import cut_patches, log_mel, read_audio
from fmuc.fixmatch import as_images, build
from fmuc.records import is_finished, load_record
from fmuc.selection import select
from fmuc.uncertainty import temperature_softmax, weak_logits

_BATCH = 256  # patches at a time


class Prediction(NamedTuple):
    """One sound file. ``mean``, ``std``: of the class's tempered probability over the dropout passes, averaged over
    the file's patches first; ``std`` is NaN where the rule has no dropout passes. ``accepted``: what the rule says of
    the file; ``accepted_patches`` of ``patches``: what it says of each patch, as in training."""

    file: str
    label: str
    mean: float
    std: float
    accepted: bool
    accepted_patches: int
    patches: int


@dataclass(frozen=True, eq=False)
class Predictor:
    """A trained net with all that a prediction needs; ``bands`` (2, F): mean and standard deviation per Mel band.

    ``selection`` is the run's rule; a supervised run, which has none, takes FMUC's.
    """

    run: Run
    classes: tuple[str, ...]
    net: nn.Module
    bands: Tensor

    @property
    def selection(self) -> Selection:
        return self.run.selection or FMUC

    def patches(self, path: Path) -> Tensor:
        """Normalised patches of a sound file, as training has them: (P, 1, F, T)."""
        x = patches_of_file(path, self.run.features)
        mean, std = self.bands[..., None]
        return as_images((x - mean) / std)

    def predict(self, path: Path, seed: int = 0) -> Prediction:
        """Predict one sound file; ``seed`` draws the dropout masks. Raises :class:`FmucError` for an unusable file."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            rule, x = self.selection, self.patches(path)
            logits = torch.cat([weak_logits(self.net, part, rule.passes, rule.batch_norm)
                                for part in x.split(_BATCH)], dim=1)  # (N, P, C)
        by_patch = select(logits, rule)
        passes = temperature_softmax(logits, rule.temperature).mean(dim=1, keepdim=True)  # (N, 1, C): of the file
        std, mean = torch.std_mean(passes, dim=0, correction=0)
        chosen = select(rule.temperature * passes.log(), rule)
        index = int(chosen.labels)
        spread = float(std[0, index]) if rule.passes else float("nan")
        return Prediction(str(path), self.classes[index], float(mean[0, index]), spread, bool(chosen.mask),
                          int(by_patch.mask.sum()), len(x))


def patches_of_file(path: Path, features: Features) -> Tensor:
    """Patches (P, F, T) of a sound file with the precision that a feature cache has."""
    return cut_patches(log_mel(read_audio(path, features.sample_rate), features), features.patch_frames).half().float()


def load_predictor(folder: Path) -> Predictor:
    """The net of a finished run; :class:`FmucError` for a folder without one or with a damaged checkpoint."""
    if not is_finished(folder):
        raise FmucError(f"{paths.relative(folder)}: holds no finished run: train it to its end "
                        "('python -m fmuc train')")
    record, saved = load_record(folder), checkpoints.files(folder)
    if not saved:
        raise FmucError(f"{paths.relative(folder)} holds no checkpoint: records that come with the repository have no "
                        "weights; train the run here ('python -m fmuc train')")
    net, _ = build(record.run, len(record.classes), torch.device("cpu"))
    try:
        tensors, content = checkpoints.read(saved[0], run=record.run.id)
        if len(content["rows"]) != record.run.training.epochs:
            raise ValueError(f"it is of epoch {len(content['rows'])}, not of the last one")
        net.load_state_dict(checkpoints.net_state(tensors))
        bands = torch.stack([tensors["bands.mean"], tensors["bands.std"]])
    except Exception as error:  # whatever is wrong with the file, the remedy is the same
        reason = " ".join(str(error).split())
        raise FmucError(f"{paths.relative(saved[0])}: cannot be used ({reason}): delete the folder and train the run "
                        "again") from None
    return Predictor(record.run, record.classes, net.eval(), bands)


def find_run(text: str) -> Path:
    """The folder of a run from its path, or from its name, or the beginning or the id of its name, in any profile.

    Raises :class:`FmucError` where no run or more than one fits.
    """
    if Path(text).is_dir():
        return Path(text)
    root = paths.data_root() / "runs"
    found = [folder for folder in sorted(root.glob("*/*_s*_*"))
             if is_finished(folder) and (folder.name.startswith(text) or folder.name.endswith(f"_{text}"))]
    exact = [folder for folder in found if folder.name == text] or found
    if len(exact) == 1:
        return exact[0]
    if not found:
        raise FmucError(f"no finished run {text!r} under {paths.relative(root)}: 'python -m fmuc plan' lists the runs")
    names = ", ".join(folder.name for folder in found[:5]) + (", ..." if len(found) > 5 else "")
    raise FmucError(f"{text!r} fits {len(found)} runs ({names}): name one of them")


def predict_files(run: str, files: Sequence[Path], seed: int = 0) -> list[Prediction]:
    """Predictions of a run (see :func:`find_run`) for sound files, in their order."""
    predictor = load_predictor(find_run(run))
    return [predictor.predict(path, seed) for path in files]


def plain(prediction: Prediction) -> dict:
    """A prediction for JSON: None for a standard deviation that does not exist."""
    return {**prediction._asdict(), "std": None if np.isnan(prediction.std) else prediction.std}


def table(predictions: Sequence[Prediction]) -> dict[str, list]:
    """Columns to print: file, class, mean, std, accepted by the rule, accepted patches."""
    return {
        "file": [p.file for p in predictions],
        "class": [p.label for p in predictions],
        "mean": [f"{p.mean:.3f}" for p in predictions],
        "std": ["–" if np.isnan(p.std) else f"{p.std:.3f}" for p in predictions],
        "accepted": ["yes" if p.accepted else "no" for p in predictions],
        "accepted patches": [f"{p.accepted_patches} of {p.patches}" for p in predictions],
    }
