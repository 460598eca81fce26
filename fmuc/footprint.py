"""What a plan needs on the disk and in memory, worked out from its presets: no data set has to be there."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn import functional

from fmuc import paths, train
from fmuc.config import Features, Run
from fmuc.datasets import LABELS, NSYNTH_FAMILIES
from fmuc.errors import FmucError
from fmuc.model import CNN420, parameter_count
from fmuc.own import importing as own_audio
from fmuc.own.check import PUBLISHED, Published
from fmuc.standins import nsynth_gm, scenes_sim

_WAV_HEADER, _NPY_HEADER = 44, 128  # bytes
_CLASSES = {"nsynth": len(NSYNTH_FAMILIES), "tut2017": len(LABELS)}
_ID = 32  # bytes of a clip's name in a record, on average
# Beside what the backward pass needs, a step holds the convolutions' work space, gradients on their way and gaps of the
# heap. Measured with CNN420: 0.8 times as much again.
WORKING = 1.8


@dataclass(frozen=True)
class Extent:
    """A data set in numbers: ``clips`` by split, ``seconds`` of a clip, bytes of all sound files (0: none is ours)."""

    classes: int
    clips: Mapping[str, int]
    seconds: float
    sound_bytes: int

    def patches(self, features: Features, *splits: str) -> int:
        """Patches of the given splits (default: all), by the rule of :func:`fmuc.features.cut_patches`."""
        frames = 1 + round(self.seconds * features.sample_rate) // features.hop
        return sum(self.clips[split] for split in splits or self.clips) * max(1, frames // features.patch_frames)


def extent(dataset: str) -> Extent:
    """Published and stand-in data sets as they are when whole; your own audio from the record of its import."""
    if dataset in PUBLISHED:
        published, classes = PUBLISHED[dataset], _CLASSES[dataset]
        return _as_wav(published, classes, {split: count * (classes if published.per_class else 1)
                                            for split, count in published.clips.items()})
    if dataset in nsynth_gm.SIZES:
        classes = _CLASSES["nsynth"]  # synth_lead is in the training split alone, as in NSynth
        return _as_wav(PUBLISHED["nsynth"], classes, {split: count * (classes - (split != "train"))
                                                      for split, count in nsynth_gm.SIZES[dataset].items()})
    if dataset in scenes_sim.SIZES:
        clips = {split: len(LABELS) * places * each for split, (places, each) in scenes_sim.SIZES[dataset].items()}
        return _as_wav(replace(PUBLISHED["tut2017"], subtype="PCM_16"), len(LABELS), clips)
    return _own(paths.dataset_dir(dataset))


def _as_wav(like: Published, classes: int, clips: Mapping[str, int]) -> Extent:
    bits = int(like.subtype.removeprefix("PCM_"))
    size = _WAV_HEADER + round(like.seconds * like.sample_rate) * like.channels * bits // 8
    return Extent(classes, clips, like.seconds, sum(clips.values()) * size)


def _own(folder: Path) -> Extent:
    """No sound of it lies in the data folder; its clips count as equally long."""
    try:
        report = json.loads((folder / own_audio.RECORD).read_text(encoding="utf-8"))["report"]
        clips, seconds, classes = report["splits"], report["seconds"], report["classes"]
        return Extent(classes, clips, seconds / sum(clips.values()), 0)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise FmucError(f"{paths.relative(folder / own_audio.RECORD)} is damaged ({error!r}): import the audio again "
                        "(python -m fmuc data folder PATH --name NAME --force)") from None


class Disk(NamedTuple):
    """Bytes of a data set and of its runs. ``records``: at most, since they are compressed."""

    sound: int
    features: int
    checkpoints: int
    records: int


def disk(runs: Sequence[Run], size: Extent) -> Disk:
    """What the ``runs`` of one data set leave on the disk, warm starts (D12) among the checkpoints."""
    features, seeds = runs[0].features, {run.seed for run in runs if run.selection is not None}
    patches = size.patches(features)
    cache = patches * (features.mel_bands * features.patch_frames * 2 + 8) + 2 * _NPY_HEADER
    warm = len(seeds) * state_bytes(runs[0], size.classes) if runs[0].training.warm_start else 0
    return Disk(size.sound_bytes, cache, warm + sum(checkpoint_bytes(run, size.classes) for run in runs),
                sum(_record_bytes(run, size) for run in runs))


@lru_cache(maxsize=64)
def state_bytes(run: Run, classes: int) -> int:
    """Weights, running statistics and the two moments of Adam."""
    with torch.device("meta"):
        net = CNN420(classes, run.network)
    return sum(tensor.nbytes for tensor in net.state_dict().values()) + 2 * 4 * parameter_count(net)


def checkpoint_bytes(run: Run, classes: int) -> int:
    """A checkpoint: state of the training, and pseudo-label counts of every epoch."""
    return state_bytes(run, classes) + run.training.epochs * (classes + 1) ** 2 * 8


def _record_bytes(run: Run, size: Extent) -> int:
    """Files with their names, labels and probabilities, the labelled ones by name alone."""
    labelled = round(run.labelled_share * size.clips["train"]) if run.labels == "part" else size.clips["train"]
    predicted = size.clips["test"] + size.clips["train"] - labelled
    return predicted * (_ID + 8 + 2 * size.classes) + labelled * _ID


class Memory(NamedTuple):
    """Bytes that a run on the CPU holds at most: program, patches (0: mapped), weights and Adam, activations."""

    program: int
    patches: int
    weights: int
    activations: int

    @property
    def total(self) -> int:
        return sum(self)


def memory(run: Run, size: Extent) -> Memory:
    """Memory of ``run`` on the CPU. The N weak passes add nothing: they come one after another, without gradient."""
    values = size.patches(run.features) * run.features.mel_bands * run.features.patch_frames
    resident = values * 4 if values * 4 <= train.RESIDENT_BYTES else 0
    weights = state_bytes(run, size.classes) * 4 // 3  # and the gradient
    activations = round(WORKING * trained_patches(run) * saved_bytes(replace(run, selection=None), size.classes))
    return Memory(program_bytes(), resident, weights, activations)


def trained_patches(run: Run) -> int:
    """Patches of a step's training pass."""
    training = run.training
    return training.supervised_batch if run.selection is None else training.labelled_batch + training.unlabelled_batch


@lru_cache(maxsize=16)
def saved_bytes(run: Run, classes: int) -> int:
    """Bytes a patch that the training pass keeps for the backward pass on the CPU: counted in two small batches."""
    net = train.build(run, classes, torch.device("cpu"))[0].train()
    few, more = (_saved(net, run, patches) for patches in (2, 4))
    return (more - few) // 2


def _saved(net: CNN420, run: Run, patches: int) -> int:
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    x = train.as_images(torch.zeros(patches, run.features.mel_bands, run.features.patch_frames))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), train.autocast(run, x.device):
        functional.cross_entropy(net(x).float(), torch.zeros(patches, dtype=torch.int64))
    return sum(storage.nbytes() for storage in kept.values())


def program_bytes() -> int:
    """Python with its libraries: what this process, which has loaded the same ones, holds now."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
