"""A trained run on sound files: class, mean and standard deviation over dropout passes, and what its rule says (§V-A).

The run's folder is enough: its record (configuration and classes) and its last checkpoint (weights and the statistics
per Mel band). Neither the data set nor its features are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fmuc import paths
from fmuc.config import Run, Selection
from fmuc.errors import FmucError
from fmuc.experiments import FMUC
from fmuc.features import file_patches
from fmuc.fixmatch import as_images, build
from fmuc.machinery import checkpoints
from fmuc.records import is_finished, load_record
from fmuc.selection import select
from fmuc.uncertainty import temperature_softmax, weak_logits


class Prediction(NamedTuple):
    """One sound file. ``mean``, ``std`` (None without dropout passes): of the class's tempered probability over the
    passes, averaged over the file's patches first. ``accepted``: by the rule, as a file, and patches as in training."""

    file: str
    label: str
    mean: float
    std: float | None
    accepted: bool
    accepted_patches: int
    patches: int


@dataclass(frozen=True, eq=False)
class Predictor:
    """A trained net with all that a prediction needs; ``bands`` (2, F): mean and standard deviation per Mel band."""

    run: Run
    classes: tuple[str, ...]
    net: nn.Module
    bands: Tensor

    @property
    def selection(self) -> Selection:
        """The run's rule; a supervised run, which has none, takes FMUC's."""
        return self.run.selection or FMUC

    def patches(self, path: Path) -> Tensor:
        """Normalised patches of a sound file with the precision of a feature cache: (P, 1, F, T)."""
        mean, std = self.bands[..., None]
        return as_images((file_patches(path, self.run.features).float() - mean) / std)

    def predict(self, path: Path, seed: int = 0) -> Prediction:
        """Predict one sound file; ``seed`` draws the dropout masks."""
        rule, x = self.selection, self.patches(path)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            logits = weak_logits(self.net, x, rule.passes, rule.batch_norm)  # (N, P, C)
        passes = temperature_softmax(logits, rule.temperature).mean(dim=1, keepdim=True)  # (N, 1, C): of the file
        chosen = select(rule.temperature * passes.log(), rule)
        std, mean = torch.std_mean(passes[:, 0, int(chosen.labels)], dim=0, correction=0)
        return Prediction(str(path), self.classes[int(chosen.labels)], float(mean), float(std) if rule.passes else None,
                          bool(chosen.mask), int(select(logits, rule).mask.sum()), len(x))


def load_predictor(folder: Path) -> Predictor:
    """The net of a finished run."""
    where = paths.relative(folder)
    if not is_finished(folder):
        raise FmucError(f"{where}: holds no finished run: train it to its end ('python -m fmuc train')")
    record, saved = load_record(folder), checkpoints.files(folder)
    if not saved:
        raise FmucError(f"{where} holds no checkpoint: records that come with the repository have no weights; train "
                        "the run here ('python -m fmuc train')")
    net, _ = build(record.run, len(record.classes), torch.device("cpu"))
    try:
        tensors, _ = checkpoints.read(saved[0], run=record.run.id)
        net.load_state_dict(checkpoints.net_state(tensors))
        bands = torch.stack([tensors["bands.mean"], tensors["bands.std"]])
    except Exception as error:  # whatever is wrong with the file, the remedy is the same
        reason = " ".join(str(error).split())
        raise FmucError(f"{paths.relative(saved[0])}: cannot be used ({reason}): delete the folder and train the run "
                        "again") from None
    return Predictor(record.run, record.classes, net.eval(), bands)


def find_run(text: str) -> Path:
    """The folder of a run from its path, or from the beginning or the id of its name, in any profile."""
    if (folder := Path(text).expanduser()).is_dir():
        return folder
    root = paths.data_root() / "runs"
    found = [folder for folder in sorted(root.glob("*/*_s*_*")) if is_finished(folder)
             and (folder.name.startswith(text) or folder.name.endswith(f"_{text}"))]
    if len(found) != 1:
        names = ", ".join(folder.name for folder in found[:5]) or "none"
        raise FmucError(f"{text!r} must fit one finished run under {paths.relative(root)}, and fits {names}: "
                        "'python -m fmuc plan' lists the runs")
    return found[0]


def predict_files(run: str, files: Sequence[Path], seed: int = 0) -> tuple[list[Prediction], list[str]]:
    """Predictions of a run (see :func:`find_run`) for the sound files that can be used, and a line for each other."""
    predictor, predictions, errors = load_predictor(find_run(run)), [], []
    for file in files:
        try:
            predictions.append(predictor.predict(Path(file).expanduser(), seed))
        except FmucError as error:
            errors.append(str(error))
    return predictions, errors
