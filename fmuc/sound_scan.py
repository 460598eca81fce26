"""One pass over the sound of every clip: length, format, peak, clipping, damage, and a hash of what is heard.

Files are read block by block in worker processes, and nothing that a header claims decides how much is allocated.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from functools import reduce
from typing import NamedTuple

import numpy as np
import soundfile
from tqdm import tqdm

from fmuc.datasets import Dataset
from fmuc.errors import FmucError
from fmuc.rendering import in_order

_FULL_SCALE = 1 - 2**-15  # the largest positive value of 16 bits
_BLOCK = 1 << 18  # samples (of all channels) in memory at a time, whatever a header claims
_TASK = 8  # files per task: short enough for an even load and a prompt Ctrl-C
_OPEN_LENGTH = 0x7FFFF000  # bytes and more: what writers to a pipe put where they cannot come back to
# libsndfile's log of a file whose header and size disagree; wrong byte rates look the same but for the name
_CLAIM = re.compile(r"^\s*(?:riff|riff size|form|data|data size|ssnd)\s*: (\d+) \(should be (\d+)\)", re.I | re.M)


class Sound(NamedTuple):
    """What decoding a file told about it; ``problem`` if that was not possible."""

    problem: str | None = None
    frames: int = 0
    rate: int = 0
    channels: int = 0
    subtype: str = ""
    content: bytes = b""  # hash of the samples, empty if they are all zero or not finite: these are found otherwise
    finite: bool = True
    peak: float = 0.0  # of the mean of the channels
    clipped: float = 0.0  # share of the samples
    cut: bool = False
    open_length: bool = False


def decoded(dataset: Dataset, workers: int | None, progress: bool) -> Iterator[Sound]:
    """The sounds of all clips in their order."""
    files = [os.fspath(clip.path) for clip in dataset.clips]
    tasks = [files[i : i + _TASK] for i in range(0, len(files), _TASK)]
    workers = max(1, min(workers or os.cpu_count() or 1, len(tasks)))
    try:
        with (tqdm(total=len(files), desc=f"check of {dataset.name}", unit="clip", disable=not progress) as bar,
              closing(in_order(_decode_all, tasks, None, workers)) as results):
            for sounds in results:
                bar.update(len(sounds))
                yield from sounds
    except BrokenProcessPool:
        raise FmucError(f"{dataset.name}: a process that reads sound files ended early (too little memory, or a script "
                        "without 'if __name__ == \"__main__\":'): use one worker") from None


def _decode_all(files: Sequence[str], _: None) -> list[Sound]:
    return [decode(file) for file in files]


def decode(path: str) -> Sound:
    """The whole file, read once; whatever is wrong with it is its ``problem``."""
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe would block for ever
            return Sound(problem="no regular file")
        if not status.st_size:
            return Sound()
        with soundfile.SoundFile(path) as file, np.errstate(all="ignore"):
            return _measure(file)
    except Exception as error:  # whatever a decoder raises is a fact about the file
        reason = getattr(error, "error_string", None) or getattr(error, "strerror", None)
        return Sound(problem=(reason or f"{type(error).__name__}: {error}").rstrip("."))


def _measure(file: soundfile.SoundFile) -> Sound:
    """Read to the end of the file, not to the number of frames that its header claims."""
    content, frames, finite, peak, clipped = hashlib.sha256(), 0, True, 0.0, 0
    buffer = np.empty((max(1, _BLOCK // file.channels), file.channels), dtype=np.float32)
    before = np.zeros((2, file.channels), dtype=bool)  # whether the last two frames were at full scale
    while len(block := file.read(out=buffer)):
        high, low = block.max(), block.min()
        finite = finite and bool(np.isfinite(high) and np.isfinite(low))
        heard = reduce(np.add, block.T) / file.channels + 0  # + 0: no negative zero
        peak = max(peak, float(heard.max()), -float(heard.min()))
        if max(high, -low) >= _FULL_SCALE:
            full = np.concatenate([before, np.abs(block) >= _FULL_SCALE])
            clipped += np.count_nonzero(full[2:] & full[1:-1] & full[:-2])
            before = full[-2:]
        else:
            before = np.zeros_like(before)
        content.update(np.ascontiguousarray(heard))
        frames += len(block)
    claims = [int(claim) for claim, there in _CLAIM.findall(file.extra_info) if int(claim) > int(there) + 1]
    open_length = any(claim >= _OPEN_LENGTH for claim in claims)
    cut = frames < file.frames or (bool(claims) and not open_length)
    return Sound(None, frames, file.samplerate, file.channels, file.subtype,
                  content.digest() if finite and peak else b"", finite, peak,
                  clipped / max(1, frames * file.channels), cut, open_length)
