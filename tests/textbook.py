"""The code that the benchmark measures ours against: each job as it is commonly written, correct and plain.

FixMatch with one forward pass over all views and FMUC with the batch repeated N times, in float32, NCHW and with the
plain operators of ``fmuc.model``; views drawn sample by sample with Pillow; log-Mel file by file with librosa; every
patch in memory.
"""

from __future__ import annotations

from pathlib import Path

import librosa
import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn
from torch.nn import functional

from fmuc.augment import Draw
from fmuc.config import Features, Run, Selection, View
from fmuc.features import FeatureCache
from fmuc.model import CNN420

# Pillow filters only whole numbers, and of 32-bit ones only those above zero: pixel = (value + _ZERO) * _UNIT
_UNIT, _ZERO = 2**12, 64


def log_mel(path: Path, features: Features) -> np.ndarray:
    """log(1 + Mel) of a sound file, peak-normalised: float32 (F, 1 + L // hop); ``features.log_mel`` by librosa."""
    samples, rate = librosa.load(path, sr=features.sample_rate, mono=True)
    mel = librosa.feature.melspectrogram(y=librosa.util.normalize(samples), sr=rate, n_fft=features.window,
                                         hop_length=features.hop, n_mels=features.mel_bands, power=1.0)
    return np.log1p(mel)


def load_everything(cache: FeatureCache) -> Tensor:
    """All normalised patches in memory: (P, F, T) float32."""
    patches = (np.array(cache.patches, dtype=np.float32) - cache.mean[:, None]) / cache.std[:, None]
    return torch.from_numpy(patches)


def draw(view: View, shape: tuple[int, int], rng: np.random.Generator) -> Draw:
    """Magnitudes for one patch of ``shape`` (F, T), as plain numbers."""
    frames, bands = round(view.shift_time * shape[1]), round(view.shift_mel * shape[0])
    return Draw(int(rng.integers(-frames, frames + 1)), int(rng.integers(-bands, bands + 1)),
                rng.uniform(0, view.noise), rng.uniform(0, view.sharpen))


def transform(patch: np.ndarray, drawn: Draw, rng: np.random.Generator) -> np.ndarray:
    """Translated, sharpened and noisy copy of one patch (F, T); like any filter of Pillow, sharpening leaves out the
    outermost rows and columns."""
    mels, length = patch.shape
    image = Image.fromarray(np.rint((patch + _ZERO) * _UNIT).astype(np.int32))
    if drawn.frames or drawn.bands:
        right, down = abs(drawn.frames), abs(drawn.bands)
        padded = Image.fromarray(np.pad(np.asarray(image), ((down, down), (right, right)), mode="edge"))
        left, top = right - drawn.frames, down - drawn.bands
        image = padded.crop((left, top, left + length, top + mels))
    if drawn.amount:
        kernel = np.full(9, -drawn.amount / 9)
        kernel[4] += 1 + drawn.amount
        image = image.filter(ImageFilter.Kernel((3, 3), kernel.tolist(), scale=1))
    view = np.asarray(image, dtype=np.float32) / _UNIT - _ZERO
    if drawn.noise:
        view = view + drawn.noise * rng.standard_normal(view.shape, dtype=np.float32)
    return view


def augment(patches: Tensor, view: View, rng: np.random.Generator) -> Tensor:
    """One random view of each patch, sample by sample: (B, F, T) -> (B, F, T)."""
    shape = (patches.shape[1], patches.shape[2])
    return torch.from_numpy(np.stack([transform(patch, draw(view, shape, rng), rng) for patch in patches.numpy()]))


def build(run: Run, classes: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Freshly initialised net and Adam."""
    torch.manual_seed(run.seed)
    net = CNN420(classes, run.network)
    return net, torch.optim.Adam(net.parameters(), lr=run.training.learning_rate)


def select(probabilities: Tensor, selection: Selection) -> tuple[Tensor, Tensor]:
    """FixMatch's rule or FMUC's: tempered softmax (N, B, C) -> pseudo-labels and whether they are kept, each (B,)."""
    confidence, labels = torch.max(probabilities.mean(dim=0), dim=1)
    if selection.rule == "confidence":
        return labels, confidence >= selection.threshold
    std = probabilities.std(dim=0, unbiased=False)[torch.arange(len(labels)), labels]
    return labels, confidence - std > selection.threshold


def repeated_logits(net: nn.Module, weak: Tensor, passes: int) -> Tensor:
    """MC-Dropout by repeating the batch: (B, 1, F, T) -> (N, B, C). The net is in training mode afterwards."""
    net.eval()
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    with torch.no_grad():
        logits = net(weak.repeat(passes, 1, 1, 1))
    net.train()
    return logits.view(passes, len(weak), -1)


def learn(net: nn.Module, optimiser: torch.optim.Optimizer, labelled: Tensor, labels: Tensor, weak: Tensor,
          strong: Tensor, selection: Selection) -> tuple[Tensor, Tensor, Tensor]:
    """One optimiser step on given views (B, 1, F, T) of a net in training mode: loss, pseudo-labels, which are kept.

    Without dropout passes the weak view goes through the net in one batch with the others, as in most public FixMatch
    code; BatchNorm then sees it, too.
    """
    if selection.passes:
        weak_logits = repeated_logits(net, weak, selection.passes)
        logits = net(torch.cat([labelled, strong]))
        logits_labelled, logits_strong = logits.split([len(labelled), len(strong)])
    else:
        logits = net(torch.cat([labelled, weak, strong]))
        logits_labelled, logits_weak, logits_strong = logits.split([len(labelled), len(weak), len(strong)])
        weak_logits = logits_weak.detach()[None]
    pseudo_labels, keep = select(torch.softmax(weak_logits / selection.temperature, dim=-1), selection)
    loss = functional.cross_entropy(logits_labelled, labels)
    loss = loss + (functional.cross_entropy(logits_strong, pseudo_labels, reduction="none") * keep).mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.detach(), pseudo_labels, keep


def step(net: nn.Module, optimiser: torch.optim.Optimizer, labelled: Tensor, labels: Tensor, unlabelled: Tensor,
         run: Run, rng: np.random.Generator) -> Tensor:
    """One step from normalised patches (B, F, T) and labels (B,); returns its loss."""
    views = run.augmentation
    x = augment(labelled, views.weak, rng)
    weak, strong = augment(unlabelled, views.weak, rng), augment(unlabelled, views.strong, rng)
    loss, _, _ = learn(net, optimiser, x[:, None], labels, weak[:, None], strong[:, None], run.selection)
    return loss
