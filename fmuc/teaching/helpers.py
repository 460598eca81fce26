"""Helpers of the notebooks: data sets, source listings, players, sliders, a toy in the plane."""

from __future__ import annotations

import base64
import html
import inspect
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import soundfile
import torch
from IPython import get_ipython
from IPython.display import HTML, Image, Markdown, display
from ipywidgets import interactive
from matplotlib.figure import Figure
from torch import Generator, Tensor, nn
from torch.nn import functional

from fmuc import experiments, features, figures, paths
from fmuc.datasets import Dataset
from fmuc.errors import FmucError
from fmuc.experiments import Preset
from fmuc.machinery.fetch import is_there
from fmuc.standins.render import ensure
from fmuc.tables import paper_dataset
from fmuc.train import Trainer

TOY_CENTRES = ((0.0, 1.6), (-1.5, -1.0), (1.5, -1.0))  # one cloud of points per class
_MP3_LEVEL = 0.8  # of 0 to 1: ten seconds at 22.05 kHz are some 50 kB of a notebook, with all audible bands
_NOTE = re.compile(r".+-(\d{3})-(\d{3})")  # NSynth's note names: <instrument>-<MIDI pitch>-<MIDI velocity>


class Words(NamedTuple):
    """What a file, a group of files and a class are called; plural with s, but classes by ``classes``."""

    clip: str
    group: str
    classes: str


_WORDS = {"fsdd": Words("recording", "speaker", "digits"), "nsynth": Words("note", "instrument", "families"),
          "tut2017": Words("clip", "recording", "scenes")}


def sound_set(profile: str, dataset: str = "") -> tuple[Dataset, Preset, Words]:
    """The data set that a notebook looks at, what the profile does with it, and what its parts are called.

    It is the one that is named, else FSDD, else nsynth-gm-smoke. FSDD must be there, and the profile paper does not
    have it. A stand-in that is not there yet is rendered (seconds). Raises :class:`FmucError` for an unknown name.
    """
    name = dataset or ("fsdd" if profile != "paper" and is_there("fsdd") else "nsynth-gm-smoke")
    words = _WORDS.get(_place(name), Words("file", "group", "classes"))
    return ensure(name, progress=False), preset_for(profile, name), words


def preset_for(profile: str, name: str) -> Preset:
    """What ``profile`` does with a data set, or with the one in its place: another size of it, or the real data."""
    same = [preset for other, preset in experiments.presets(profile).items() if _place(other) == _place(name)]
    return same[0] if same else experiments.preset(profile, name)


def _place(name: str) -> str:
    """The paper's data set in whose place this one stands, or its own name without its size."""
    return paper_dataset(name) or name.removesuffix("-smoke")


def examples_of(data: Dataset, label: str) -> list[int]:
    """Training clips of a class: notes by their distance from middle C played fairly loud, others in their order.

    Raises :class:`FmucError` if there is none.
    """
    found = [i for i in data.indices("train") if data.clips[i].label == label]
    if not found:
        there = sorted({clip.label for clip in data.clips if clip.label and clip.split == "train"})
        raise FmucError(f"{data.name} has no training clip of the class {label!r}: choose one of {', '.join(there)}")
    return sorted(found, key=lambda i: _from_middle_c(data.clips[i].id))


def _from_middle_c(id: str) -> float:
    note = _NOTE.fullmatch(id)
    return abs(int(note[1]) - 60) + abs(int(note[2]) - 100) / 25 if note else 0.0


def brief_trainer(profile: str, data: Dataset, preset: Preset, *, labelled_share: float, steps: int,
                  seed: int) -> Trainer:
    """A FixMatch run of the profile on ``data`` after ``steps`` supervised steps; nothing is written but the features.

    Its net knows a little, as when the first pseudo-label is asked for.
    """
    features.extract(data, preset.features, workers=1, progress=False)
    run = experiments.make_run(profile, preset.dataset, "FM", seed)
    training = replace(run.training, warm_start=steps, supervised_batch=32)
    run = replace(run, dataset=data.name, labelled_share=labelled_share, training=training)
    with TemporaryDirectory() as folder:  # for the warm start, which nobody else shares
        trainer = Trainer(run, data, Path(folder) / run.name)
        trainer.warm_up()
    return trainer


def show_source(*objects: Callable) -> Markdown:
    """Source of functions or classes of this package as highlighted Markdown, each under the name of its file."""
    parts = []
    for item in map(inspect.unwrap, objects):  # decorators such as torch.no_grad() hide the file
        path = paths.relative(Path(inspect.getsourcefile(item)))
        parts.append(f"`{item.__qualname__}` in [`{path}`](../{path})\n\n```python\n{inspect.getsource(item)}```")
    return Markdown("\n\n".join(parts))


def players(sounds: Mapping[str, np.ndarray], sample_rate: int) -> HTML:
    """One audio player per named waveform (L,), side by side; embedded as MP3, so that a page of them stays small."""
    cells = []
    for name, samples in sounds.items():
        data = base64.b64encode(mp3(samples, sample_rate)).decode()
        cells.append(f'<figure style="display:inline-block;margin:4px 8px"><figcaption>{html.escape(name)}</figcaption>'
                     f'<audio controls preload="none" src="data:audio/mpeg;base64,{data}"></audio></figure>')
    return HTML("".join(cells))


def mp3(samples: np.ndarray, sample_rate: int) -> bytes:
    """A waveform (L,) as the content of an MP3 file."""
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format="MP3", compression_level=_MP3_LEVEL, bitrate_mode="VARIABLE")
    return file.getvalue()


def show(fig: Figure) -> Image:
    """A figure that is not saved, at the screen's resolution; closes it."""
    picture = figures.png(fig, fig.dpi)
    plt.close(fig)
    return Image(picture, width=round(fig.bbox.width))


def explore(draw: Callable[..., Figure], **controls: object) -> None:
    """Show the figure that ``draw`` returns under a slider or list for each of ``controls``, as ipywidgets takes them.

    Without a front end, as in papermill, it is drawn once, and a line of text takes the place of the widget.
    """
    known = inspect.signature(draw).parameters
    widgets = {name: interactive.widget_from_abbrev(control, known[name].default) for name, control in controls.items()}
    if not _attended():
        plt.close(draw(**{name: widget.value for name, widget in widgets.items()}))
        print(f"Run this cell in JupyterLab to move {', '.join(controls)}.".replace("_", " "))
        return

    def redraw(**values: object) -> None:
        try:
            display(show(draw(**values)))
        except FmucError as error:
            print(error)

    for widget in widgets.values():
        widget.continuous_update = False  # one picture when the handle is let go, not a queue of them
    display(interactive(redraw, **widgets))


def _attended() -> bool:
    """Whether a front end asked for this cell: it allows questions (``input``), a batch does not."""
    kernel = getattr(get_ipython(), "kernel", None)
    return kernel is not None and bool(kernel.get_parent().get("content", {}).get("allow_stdin"))


def toy_points(per_class: int, rng: Generator, spread: float = 0.45) -> tuple[Tensor, Tensor]:
    """Three clouds of points in the plane: (n, 2) and their classes (n,); from a ``spread`` of about 1 they overlap."""
    labels = torch.arange(len(TOY_CENTRES)).repeat_interleave(per_class)
    noise = torch.randn(len(labels), 2, generator=rng)
    return torch.tensor(TOY_CENTRES)[labels] + spread * noise, labels


def as_input(points: Tensor) -> Tensor:
    """Points (B, 2) in the four axes that a net for images takes: (B, 2, 1, 1)."""
    return points[:, :, None, None]


def train_toy(points: Tensor, labels: Tensor, *, seed: int = 0) -> nn.Module:
    """A small ReLU net with dropout, trained on all points: (B, 2, 1, 1) -> (B, C) logits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Flatten(), nn.Linear(2, 64), nn.ReLU(), nn.Dropout(0.1),
                            nn.Linear(64, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, len(TOY_CENTRES)))
        optimiser = torch.optim.Adam(net.parameters(), lr=0.01, fused=True)
        for _ in range(200):
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
    lead = temperature * np.log(rivals * threshold / (1 - threshold))
    return float(1 / (1 + rivals * np.exp(-lead)))
