"""Helpers of the teaching notebooks: source listings, sound players, a toy in the plane, what a threshold asks for."""

from __future__ import annotations

import base64
import html
import inspect
import io
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import librosa
import numpy as np
import pandas as pd
import soundfile
import torch
from IPython.display import HTML, Markdown
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from packaging.requirements import Requirement  # comes with matplotlib
from torch import Generator, Tensor, nn
from torch.nn import functional

from fmuc import datasets, experiments, paths, runs
from fmuc.config import Features
from fmuc.model import Dropout

TOY_CENTRES = ((0.0, 1.6), (-1.5, -1.0), (1.5, -1.0))  # one cloud of points per class
_TICKS = (250, 500, 1000, 2000, 4000, 8000)  # Hz


def show_source(*objects: Callable) -> Markdown:
    """Source of functions or classes of this package as highlighted Markdown, each under the name of its file."""
    parts = []
    for item in map(inspect.unwrap, objects):  # decorators such as torch.no_grad() hide the file
        path = paths.relative(Path(inspect.getsourcefile(item)))
        parts.append(f"`{item.__qualname__}` in [`{path}`](../{path})\n\n```python\n{inspect.getsource(item)}```")
    return Markdown("\n\n".join(parts))


def players(sounds: Mapping[str, np.ndarray], sample_rate: int) -> HTML:
    """One audio player per named waveform (L,), side by side; embedded as FLAC, which is lossless and half the size."""
    cells = []
    for name, samples in sounds.items():
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, sample_rate, format="FLAC", subtype="PCM_16")
        data = base64.b64encode(buffer.getvalue()).decode()
        cells.append(f'<figure style="display:inline-block;margin:4px 8px"><figcaption>{html.escape(name)}</figcaption>'
                     f'<audio controls preload="none" src="data:audio/flac;base64,{data}"></audio></figure>')
    return HTML("".join(cells))


def draw_patch(axes: Axes, patch: np.ndarray | Tensor, features: Features, *, limit: float | None = None) -> AxesImage:
    """A patch (F, T) over time in seconds and Mel bands labelled in Hz.

    ``limit`` None: log-Mel values in a one-sided scale; else normalised values in a two-sided one from -limit to limit.
    """
    bands, frames = patch.shape
    scale = {"cmap": "magma", "vmin": 0} if limit is None else {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
    image = axes.imshow(np.asarray(patch), origin="lower", aspect="auto", interpolation="nearest",
                        extent=(0, frames * features.hop / features.sample_rate, -0.5, bands - 0.5), **scale)
    centres = librosa.mel_frequencies(bands + 2, fmin=0, fmax=features.sample_rate / 2)[1:-1]
    ticks = [hertz for hertz in _TICKS if hertz <= centres[-1]]
    axes.set_yticks(np.interp(ticks, centres, np.arange(bands)), [f"{hertz:,}" for hertz in ticks])
    axes.set(xlabel="time (s)", ylabel="Mel band centre (Hz)")
    axes.grid(False)
    return image


def toy_points(per_class: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """Three clouds of points in the plane: (n, 2) and their classes (n,)."""
    labels = torch.arange(len(TOY_CENTRES)).repeat_interleave(per_class)
    noise = torch.randn(len(labels), 2, generator=rng)
    return torch.tensor(TOY_CENTRES)[labels] + 0.45 * noise, labels


def as_input(points: Tensor) -> Tensor:
    """Points (B, 2) in the four axes that a net for images takes: (B, 2, 1, 1)."""
    return points[:, :, None, None]


def train_toy(points: Tensor, labels: Tensor, *, dropout: float = 0.1, steps: int = 400, seed: int = 0) -> nn.Module:
    """A small ReLU net with dropout, trained on all points: (B, 2, 1, 1) -> (B, C) logits. A second on a CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(2, 64), nn.ReLU(), Dropout(dropout), nn.Linear(64, 64), nn.ReLU(),
                            Dropout(dropout), nn.Linear(64, int(labels.max()) + 1))
        optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(steps):
            loss = functional.cross_entropy(net(as_input(points)), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return net.eval()


def plane(extent: float, steps: int) -> Tensor:
    """A grid of ``steps`` x ``steps`` points over [-extent, extent] squared, row by row from below: (steps², 2)."""
    line = torch.linspace(-extent, extent, steps)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def required_confidence(threshold: float, temperature: float, rivals: int) -> float:
    """The softmax without temperature that reaches ``threshold`` once Eq. (1) is applied with ``temperature``.

    ``rivals`` other classes share the rest of the probability equally, all further ones have none. With d the lead of
    the winning logit, Eq. (1) reads 1 / (1 + rivals * exp(-d / temperature)): solved for d, then put in without it.
    """
    if not 0 < threshold < 1 or temperature <= 0 or rivals < 1:
        raise ValueError("threshold must lie in (0, 1), temperature must be positive and rivals at least 1")
    lead = temperature * np.log(rivals * threshold / (1 - threshold))
    return float(1 / (1 + rivals * np.exp(-lead)))


def readiness(profile: str) -> pd.DataFrame:
    """What this machine has and what to do about the rest: columns "item", "state", "if you need it"."""
    wrong = _unfit_packages()
    rows = [("Python packages", f"to be mended: {', '.join(wrong)}" if wrong else "as asked for", "`make setup`"),
            ("graphics processor", "CUDA" if torch.cuda.is_available() else "none",
             "only the profile `paper` needs one")]
    for name in datasets.LOADERS:
        stand_in = name in datasets.STAND_INS
        rows.append((f"data set {name}" + " (stand-in)" * stand_in,
                     "there" if paths.dataset_dir(name).is_dir() else "not there",
                     f"`python -m fmuc data {name}`" if stand_in else "see `data/README.md`"))
    planned = experiments.plan(profile)
    for source, remedy in (("shipped", "comes with the repository"), ("runs", f"`make reproduce PROFILE={profile}`")):
        folder = paths.records_dir(profile, source)
        count = sum(runs.is_finished(folder / run.name) for run in planned)
        rows.append((f"run records of the profile {profile} ({source})", f"{count} of {len(planned)}", remedy))
    return pd.DataFrame(rows, columns=["item", "state", "if you need it"])


def _unfit_packages() -> list[str]:
    """Dependencies of this package that are missing or outside their range."""
    try:
        needed = requires("fmuc") or ()
    except PackageNotFoundError:
        return ["fmuc"]
    unfit = []
    for text in needed:
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue  # of an extra
        try:
            if not wanted.specifier.contains(version(wanted.name)):
                unfit.append(text)
        except PackageNotFoundError:
            unfit.append(wanted.name)
    return unfit


