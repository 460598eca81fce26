"""What is wrong with the answer to an exercise, and why.

An answer is called with a few cases and compared with the right function. If it differs, it is compared with the
functions that typical mistakes lead to: the one that gives the same is explained.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import ndtri, stdtrit  # quantiles; scipy.stats, which has them, too, takes a second to import
from torch import Tensor, nn
from torch.nn import functional

_LONGEST = 200  # characters of a value in a message


class Exercise(NamedTuple):
    """What an answer is compared with: the arguments of some calls, the right function, and (mistake, explanation)
    pairs. ``read`` makes of what is returned what is compared."""

    cases: Sequence[tuple]
    right: Callable
    mistakes: Sequence[tuple[Callable, str]]
    read: Callable = lambda value: value


def judge(answer: Callable, exercise: Exercise) -> str:
    """What is wrong with an answer, in a sentence or two; empty if nothing is."""
    name = answer.__name__
    expected = [exercise.read(exercise.right(*copy.deepcopy(case))) for case in exercise.cases]
    found = []
    for case, value in zip(exercise.cases, expected, strict=True):
        given = copy.deepcopy(case)
        try:
            with warnings.catch_warnings(action="ignore"):
                found.append(exercise.read(answer(*given)))
        except NotImplementedError:
            return f"not yet written: {name} still raises NotImplementedError."
        except Exception as error:
            return f"{name}({shown(case)}) raises {type(error).__name__}: {error}"
        if not same(given, case):
            return f"{name} changes its argument in place: work on a copy, since the caller still needs the original."
        if found[-1] is None and value is not None:
            return f"{name} returns None: is a `return` missing?"
    if all(map(same, found, expected)):
        return ""
    for mistake, explanation in exercise.mistakes:
        if all(same(value, _attempt(exercise, mistake, case))
               for value, case in zip(found, exercise.cases, strict=True)):
            return explanation
    return _first_difference(name, exercise.cases, found, expected)


def same(one: object, other: object) -> bool:
    """Whether two values agree: arrays and tensors by shape and to 1e-5 (NaN equals NaN), tuples part by part."""
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, (set, str, dict, type(None))) or isinstance(other, (set, str, dict, type(None))):
        return isinstance(one, type(other)) and one == other
    if isinstance(one, nn.Module):  # compared by what ``read`` makes of it
        return True
    try:
        one, other = _array(one), _array(other)
        return one.shape == other.shape and np.allclose(one, other, rtol=1e-5, atol=1e-5, equal_nan=True)
    except (TypeError, ValueError):
        return bool(one is other)


def shown(value: object) -> str:
    """A value as one line: shapes of larger arrays, numbers of small ones."""
    if isinstance(value, tuple):
        return ", ".join(map(shown, value))
    if isinstance(value, (np.ndarray, torch.Tensor)):
        array = _array(value)
        if array.size > 12:
            return f"<array {array.shape}>"
        return " ".join(np.array2string(array, precision=4, suppress_small=True, separator=", ").split())
    value = value.item() if isinstance(value, np.generic) else value
    return f"{value:.6g}" if isinstance(value, float) else " ".join(repr(value).split())[:_LONGEST]


def _array(value: object) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _shape(value: object) -> tuple[int, ...] | None:
    try:
        return _array(value).shape
    except ValueError:  # rows of unequal length
        return None


def _attempt(exercise: Exercise, mistake: Callable, case: tuple) -> object:
    try:
        with warnings.catch_warnings(action="ignore"):
            return exercise.read(mistake(*copy.deepcopy(case)))
    except Exception:  # this mistake cannot be made here
        return object()


def _first_difference(name: str, cases: Sequence[tuple], found: Sequence, expected: Sequence) -> str:
    case, got, wanted = next(trio for trio in zip(cases, found, expected, strict=True) if not same(*trio[1:]))
    if isinstance(wanted, tuple):
        if not isinstance(got, tuple) or len(got) != len(wanted):
            return f"{name} must return {len(wanted)} values, not {shown(got)}"
        got, wanted = next(pair for pair in zip(got, wanted, strict=True) if not same(*pair))
    shape, right = _shape(got), _shape(wanted)
    if shape != right:
        return f"{name}({shown(case)}): the result has the shape {shape}, it should have {right}"
    return f"{name}({shown(case)}): gives {shown(got)}, it should be {shown(wanted)}"


# --- 01 data and splits ---


def _shared(name: Callable[[str], str]) -> Callable[[list[str], list[str]], set[str]]:
    return lambda train, test: set(map(name, train)) & set(map(name, test))


def _instrument(note: str) -> str:
    return note.split("-")[0]


_TRAIN = ["bass_synthetic_033-022-050", "bass_synthetic_033-023-075", "guitar_acoustic_010-060-100"]
_TEST = ["bass_synthetic_033-030-100", "guitar_acoustic_011-060-100", "vocal_synthetic_001-060-025"]


def _draw(labels: np.ndarray, share: float, least: int = 1, total: int | None = None) -> np.ndarray:
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.sort(np.concatenate([m[: max(least, round(share * (total or len(m))))] for m in members]))


_CLASSES = np.array([0] * 10 + [1] * 6 + [2] + [0, 1] * 2)
_PATCHES, _CLIPS = np.repeat(np.arange(5), (4, 4, 2, 4, 1)), np.array([1, 2, 4])

DATA = {
    "shared_instruments": Exercise(
        [(_TRAIN, _TEST), (["organ_electronic_104-060-050"], ["organ_electronic_104-060-127"])], _shared(_instrument),
        [(_shared(str), "Whole notes are compared. No note is in both lists, and yet its instrument may be: this is "
          "the leak that the split by instruments avoids."),
         (_shared(lambda note: note.split("_")[0]), "Families are compared (up to the first underscore). They should "
          "occur on both sides; instruments should not."),
         (_shared(lambda note: note.rsplit("-", 1)[0]), "The pitch is still in the name: the same instrument at "
          "another pitch goes unnoticed."),
         (lambda train, test: set(map(_instrument, [*train, *test])), "This is every instrument of either list; asked "
          "for are those of both: & instead of |.")]),
    "draw_labelled": Exercise(
        [(_CLASSES, 0.3), (_CLASSES, 0.05)], _draw,
        [(lambda y, s: _draw(y, s, least=0), "A small class gets no labelled file, so the network can never learn it: "
          "one at least of each class."),
         (lambda y, s: _draw(y, s, total=len(y)), "Each class gets the share of *all* files: too many, and as many of "
          "a small class as of a large one."),
         (lambda y, s: np.arange(round(s * len(y))), "The first files of the whole list are taken, whatever their "
          "classes: the draw is not stratified."),
         (lambda y, s: y[_draw(y, s)], "These are classes; asked for are the places of the files in the list.")]),
    "chance_of_a_label": Exercise(
        [(4, 0.25), (13, 0.05), (300, 0.01)], lambda k, s: 1 - (1 - s) ** k,
        [(lambda k, s: s * k, "k · s is the expected number of labelled files, not a chance: of 300 files at 1 % it "
          "would be 3."),
         (lambda k, s: (1 - s) ** k, "This is the chance that none of them is labelled; asked for is the opposite."),
         (lambda k, s: 1 - s**k, "This is the chance that not all files are labelled."),
         (lambda k, s: s**k, "This is the chance that all files are labelled; one is enough.")]),
    "pool_of": Exercise(
        [(_PATCHES, _CLIPS), (_PATCHES, np.array([0]))], lambda of, clips: np.flatnonzero(np.isin(of, clips)),
        [(lambda of, clips: np.searchsorted(of, clips), "Only the first patch of each clip is in the pool. This is the "
          "mistake of footnote 1: most of the unlabelled data are lost."),
         (lambda of, clips: clips, "Numbers of clips are used as numbers of patches: clip 1 is not patch 1 where clips "
          "have several patches."),
         (lambda of, clips: np.flatnonzero(~np.isin(of, clips)), "These are the patches of all other clips."),
         (lambda of, clips: of[np.isin(of, clips)], "These are the clips of the patches; asked for are the numbers of "
          "the patches.")]),
}

# --- 02 features ---


def _cut(spectrogram: np.ndarray, frames: int) -> np.ndarray:
    count = spectrogram.shape[1] // frames
    return spectrogram[:, : count * frames].reshape(len(spectrogram), count, frames).transpose(1, 0, 2)


def _filled_up(spectrogram: np.ndarray, frames: int) -> np.ndarray:
    return _cut(np.pad(spectrogram, ((0, 0), (0, -spectrogram.shape[1] % frames))), frames)


def _normalise(patches: np.ndarray, train: np.ndarray, axes: Sequence[int] = (0, 2), power: int = 1) -> np.ndarray:
    mean, std = train.mean(axis=tuple(axes), keepdims=True), train.std(axis=tuple(axes), keepdims=True)
    return (patches - mean) / std**power


_BANDS = np.array([1.0, 3.0, 0.5])[:, None]
_DRAWN = np.random.default_rng(0)
_NEW, _KNOWN = (_BANDS * _DRAWN.normal(2, 1, (count, 3, 4)) for count in (2, 6))
_SPECTROGRAM = np.arange(22.0).reshape(2, 11)

FEATURES = {
    "frame_count": Exercise(
        [(64_000, 1024, 512), (220_500, 1024, 342), (1500, 1024, 512)], lambda samples, window, hop: 1 + samples // hop,
        [(lambda n, window, hop: 1 + (n - window) // hop, "These are the frames that lie wholly within the sound. "
          "Centred, the sound is longer by half a window at both ends."),
         (lambda n, window, hop: n // hop, "The frame around sample 0 is missing: the first centre is 0, not hop."),
         (lambda n, window, hop: -(-n // hop), "Rounded up: this is one too few where the length is a multiple of the "
          "hop, since sample 0 has a frame, too."),
         (lambda n, window, hop: n / hop, "A number of frames is whole: use // and count the frame around sample 0.")]),
    "compress": Exercise(
        [(np.array([[0.0, 0.5, 1.0], [10.0, 100.0, 1e-4]]),)], np.log1p,
        [(np.log, "log(0) is minus infinity: one silent bin would spoil mean and variance of its band."),
         (lambda x: np.log10(1 + x), "This is the logarithm to base 10; asked for is the natural one. (After the "
          "normalisation it would not matter. Why?)"),
         (lambda x: np.log1p(x**2), "The magnitudes are squared first: that is a power spectrogram.")]),
    "cut": Exercise(
        [(_SPECTROGRAM, 3), (_SPECTROGRAM, 2)], _cut,
        [(lambda x, n: _cut(x, n)[:1], "Only the first patch is left. This is the mistake of footnote 1: most of each "
          "recording is lost."),
         (lambda x, n: x[:, : x.shape[1] // n * n].reshape(-1, len(x), n), "The shape is right, the content is not: "
          "reshape alone reads row by row, so that a patch gets frames of one band as if they were bands. Split the "
          "axis of the frames, then transpose."),
         (lambda x, n: _cut(x, n).transpose(1, 0, 2), "The axes are (F, P, frames): put the patches first."),
         (_filled_up, "The tail is filled up with zeros to one more patch; it should be dropped.")]),
    "normalise": Exercise(
        [(_NEW, _KNOWN), (_KNOWN[:1], _KNOWN)], _normalise,
        [(lambda x, train: _normalise(x, train, (0, 1)), "Mean and deviation are those of each frame (axes 0 and 1 "
          "were averaged). The bands stay as different as they were."),
         (lambda x, train: _normalise(x, train, (0, 1, 2)), "One mean for everything: low bands stay louder than high "
          "ones. Each Mel band has its own."),
         (lambda x, train: _normalise(x, x), "The statistics are those of the patches themselves. Test patches must "
          "be normalised as the training patches were, else the test set takes part in its own preparation."),
         (lambda x, train: _normalise(x, x, (1, 2)), "Each patch is normalised by itself: loud and soft patches "
          "become the same."),
         (lambda x, train: _normalise(x, train, power=2), "Divided by the variance; unit variance needs the standard "
          "deviation."),
         (lambda x, train: _normalise(x, train, power=0), "The variance of the bands is not yet one: divide by the "
          "standard deviation.")]),
}


def _numbers(*shape: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- 03 FixMatch ---

def _keep(logits: Tensor, threshold: float, softmax_over: int = 1, classes_over: int = 1) -> tuple[Tensor, Tensor]:
    confidence, labels = torch.softmax(logits, softmax_over).max(classes_over)
    return labels, confidence >= threshold


def _losses(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.cross_entropy(logits, labels, reduction="none")


def _moved(patch: Tensor, frames: int) -> Tensor:
    return patch[:, (torch.arange(patch.shape[1]) - frames).clamp(0, patch.shape[1] - 1)]


_LABELS, _SOME = torch.tensor([0, 2, 1, 1]), torch.tensor([True, False, True, False])

FIXMATCH = {
    "keep": Exercise(
        [(_numbers(6, 3, scale=3.0), 0.8), (torch.tensor([[5.0, 0.0], [0.4, 0.5], [1.0, 1.5]]), 0.95)], _keep,
        [(lambda z, t: _keep(z, t, softmax_over=0), "The softmax runs over the examples (dim=0): then the batch "
          "competes for each class. Probabilities of one example, along dim=1, must add up to 1."),
         (lambda z, t: _keep(z, t, classes_over=0), "The maximum is taken over the examples (dim=0): that gives the "
          "example that is surest of each class, (C,) values. The class of each example is the maximum along dim=1."),
         (lambda z, t: (z.argmax(1), z.max(1)[0] >= t), "The threshold is compared with logits. A logit of 1 says "
          "nothing by itself; take the softmax first."),
         (lambda z, t: (_keep(z, t)[0], ~_keep(z, t)[1]), "The mask is the wrong way round: it keeps what the network "
          "is not sure of.")]),
    "unlabelled_loss": Exercise(
        [(_numbers(4, 3), _LABELS, _SOME), (_numbers(4, 3, seed=1), _LABELS, torch.zeros(4, dtype=torch.bool))],
        lambda z, y, m: (_losses(z, y) * m).mean(),
        [(lambda z, y, m: _losses(z, y)[m].mean(), "This is the mean over the kept examples only: a batch that keeps "
          "one pseudo-label pulls as hard as one that keeps all, and a batch that keeps none gives NaN. FixMatch "
          "divides by the number of all unlabelled examples."),
         (lambda z, y, m: _losses(z, y).mean(), "The mask has no effect: rejected pseudo-labels train the network, "
          "too."),
         (lambda z, y, m: (_losses(z, y) * m).sum(), "The sum is not divided by the number of unlabelled examples: the "
          "loss would grow with the batch."),
         (lambda z, y, m: (_losses(z.softmax(1), y) * m).mean(), "A softmax is applied twice: cross_entropy takes "
          "logits and has its own. Fed with probabilities, the loss of an example cannot fall below 0.55 with three "
          "classes, however right and sure it is.")]),
    "translate": Exercise(
        [(torch.arange(12.0).view(3, 4) ** 2, 1), (torch.arange(12.0).view(3, 4) ** 2, -2)], _moved,
        [(lambda x, k: torch.roll(x, k, 1), "What leaves one edge comes back at the other (as with torch.roll): the "
          "end of a note would sound before its beginning."),
         (lambda x, k: _moved(x, -k), "The patch moves to the left: frame t of the result is frame t − frames, not "
          "t + frames."),
         (lambda x, k: _moved(x.T, k).T, "The Mel bands are moved, not the frames: time is the last axis."),
         (lambda x, k: _moved(torch.ones_like(x), k) * torch.where(
             ((torch.arange(x.shape[1]) - k) < 0) | ((torch.arange(x.shape[1]) - k) >= x.shape[1]), 0, _moved(x, k)),
          "The free edge is filled with zeros. In a normalised patch zero is the mean of the band, not silence; repeat "
          "the frame at the edge.")]),
    "sharpen": Exercise(
        [(_numbers(3, 4), _numbers(3, 4, seed=1), 0.5), (_numbers(3, 4), _numbers(3, 4, seed=1), 0.0)],
        lambda x, mean, amount: x + amount * (x - mean),
        [(lambda x, mean, amount: x - amount * (x - mean), "The detail is taken away instead of added: this blurs."),
         (lambda x, mean, amount: amount * (x - mean), "Only the detail is left: it is added to the patch."),
         (lambda x, mean, amount: x + amount * mean, "The local mean is added, not the detail: what sharpens is the "
          "difference between the patch and its local mean.")]),
}

# --- 04 uncertainty ---


def _softmax(logits: np.ndarray, temperature: float = 1.0, axis: int = -1) -> np.ndarray:
    weights = np.exp((logits - logits.max(axis=axis, keepdims=True)) / temperature)
    return weights / weights.sum(axis=axis, keepdims=True)


def _unnormalised(logits: np.ndarray, temperature: float) -> np.ndarray:
    return np.exp((logits - logits.max(axis=-1, keepdims=True)) / temperature)


def _overflowing(logits: np.ndarray, temperature: float) -> np.ndarray:
    weights = np.exp(logits / temperature)
    return weights / weights.sum(axis=-1, keepdims=True)


def _score(p: np.ndarray, std: Callable[[np.ndarray], np.ndarray] = lambda p: p.std(0), times: float = 1,
           labels: Callable[[np.ndarray], np.ndarray] = lambda p: p.mean(0).argmax(1)) -> tuple[np.ndarray, np.ndarray]:
    each, chosen = np.arange(p.shape[1]), labels(p)
    return chosen, (p.mean(0) - times * np.broadcast_to(std(p), p.shape[1:]))[each, chosen]


def _entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(np.clip(p, 1e-12, 1))).sum(axis=-1)


def _parts(p: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Aleatoric, epistemic and total entropy: (N, B, C) -> (B,) each."""
    total, aleatoric = _entropy(p.mean(axis=0)), _entropy(p).mean(axis=0)
    return aleatoric, total - aleatoric, total


def _overflowing_parts(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    aleatoric, mean = -(p * np.log(p)).sum(axis=2).mean(axis=0), p.mean(axis=0)
    return aleatoric, -(mean * np.log(mean)).sum(axis=1) - aleatoric


_DRAWN_METHOD = np.random.default_rng(0)
_LOGITS = _DRAWN_METHOD.normal(0, 3, (3, 4))
_PASSES = _softmax(_DRAWN_METHOD.normal(0, 3, (5, 6, 4)))
_DIVIDED = np.array([[[0.3, 0.4, 0.3]], [[0.6, 0.38, 0.02]]])  # the class of the largest mean is not that of mean - std
_CERTAIN = np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]])
_MEAN, _STD = np.array([0.91, 0.97, 0.97, 0.75, 0.75, 0.6, 0.88]), np.array([0.0, 0.06, 0.08, 0.02, 0.2, 0.01, 0.04])

UNCERTAINTY = {
    "tempered_softmax": Exercise(
        [(_LOGITS, 2.0), (np.array([4000.0, 3990.0]), 4.0), (_LOGITS, 1.0)], _softmax,
        [(lambda z, t: _softmax(z, 1 / t), "The logits are multiplied by the temperature: that makes the output more "
          "confident. Eq. (1) divides."),
         (lambda z, t: _softmax(z), "The temperature has no effect: divide the logits by it."),
         (lambda z, t: _softmax(z, t, axis=0), "The sum runs over the examples (axis 0). The probabilities of one "
          "example, along the last axis, must add up to 1."),
         (_overflowing, "exp of a large number is infinite, and infinite / infinite is NaN: subtract the largest logit "
          "of each example first."),
         (lambda z, t: _softmax(z) / t, "The probabilities are divided by the temperature, so they no longer add up to "
          "1: Eq. (1) divides the logits."),
         (_unnormalised, "The exponentials are not divided by their sum.")]),
    "mean_minus_std": Exercise(
        [(_PASSES,), (_DIVIDED,), (_PASSES[:1],)], _score,
        [(lambda p: _score(p, lambda p: p.std(0, ddof=1)), "This is the sample standard deviation (divisor N − 1): "
          "larger, and NaN for one pass, which then would keep nothing. Asked for is the one of the population."),
         (lambda p: _score(p, lambda p: p.mean(0).std(1, keepdims=True)), "The deviation runs over the classes. It is "
          "large for a confident network; uncertainty is the deviation over the passes, axis 0."),
         (lambda p: _score(p, lambda p: p.var(0)), "The variance is subtracted, a number of another unit and much "
          "smaller than the standard deviation."),
         (lambda p: _score(p, times=-1), "The standard deviation is added: the less the passes agree, the better the "
          "score would be."),
         (lambda p: _score(p, times=0), "The standard deviation does not enter the score."),
         (lambda p: _score(p, labels=lambda p: (p.mean(0) - p.std(0)).argmax(1)), "The class is that of the largest "
          "difference, not of the largest mean. This is the other reading of the paper (deviation D7)."),
         (lambda p: _score(p, labels=lambda p: p[0].argmax(1)), "The class is that of the first pass; the mean over "
          "all passes decides.")]),
    "kept_by": Exercise(
        [(_MEAN, _STD)], lambda mean, std: (mean - std > 0.9, (mean > 0.7) & (std < 0.05)),
        [(lambda m, s: (m > 0.9, (m > 0.7) & (s < 0.05)), "FMUC's rule lacks the standard deviation: this is a mere "
          "threshold on the mean."),
         (lambda m, s: (m + s > 0.9, (m > 0.7) & (s < 0.05)), "The standard deviation is added: disagreement of the "
          "passes would help a pseudo-label to be kept."),
         (lambda m, s: (m - s > 0.9, (m > 0.7) | (s < 0.05)), "One of the two thresholds suffices here; UPS keeps the "
          "intersection of both masks: &."),
         (lambda m, s: (m - s > 0.9, (m > 0.7) & (s > 0.05)), "The second threshold is the wrong way round: it keeps "
          "what the passes do not agree on.")]),
    "uncertainty_parts": Exercise(
        [(_PASSES,), (_CERTAIN,)], lambda p: _parts(p)[:2],
        [(lambda p: _parts(p)[1::-1], "The two parts are exchanged: aleatoric is the mean entropy of the passes; "
          "epistemic is what their contradiction adds."),
         (lambda p: _parts(p)[::2], "The second value is the entropy of the mean, the whole uncertainty: subtract the "
          "aleatoric part."),
         (lambda p: _parts(p)[2:0:-1], "The first value is the entropy of the mean, the whole uncertainty; aleatoric "
          "is the mean of the entropies."),
         (lambda p: tuple(part / np.log(2) for part in _parts(p)[:2]), "These are bits (logarithm to base 2); asked "
          "for are nats."),
         (_overflowing_parts, "0 · log 0 gives NaN in floating-point numbers: clip the probabilities.")]),
}

# --- 05 training ---


def _modes(net: nn.Module, training: Callable[[str, nn.Module], bool]) -> nn.Module:
    for name, module in net.named_modules():
        module.training = training(name, module)
    return net


def _is_dropout(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Dropout)


_NET = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(0.1), nn.Sequential(nn.BatchNorm2d(2), nn.Dropout(0.1)))
_OLD, _WEIGHTS = _numbers(3, 2), _numbers(3, 2, seed=1)

TRAINING = {
    "units_of_step": Exercise(
        [(32, 224, 5), (32, 224, 1), (16, 112, 10)], lambda b, u, n: n * u + 3 * (b + u),
        [(lambda b, u, n: u + 3 * (b + u), "The weak views go through the network N times, not once."),
         (lambda b, u, n: n * u + 3 * b, "The strong views are trained on, too: their forward and backward passes are "
          "missing."),
         (lambda b, u, n: 3 * n * u + 3 * (b + u), "The weak views have no backward pass: they count once for each "
          "dropout pass, not three times."),
         (lambda b, u, n: n * u + b + u, "What is trained on counts three times: forward and backward."),
         (lambda b, u, n: n * (b + u) + 3 * (b + u), "Labelled patches need no pseudo-label: only the unlabelled ones "
          "take the dropout passes.")]),
    "mc_ready": Exercise(
        [(_NET,), (copy.deepcopy(_NET).eval(),)], lambda net: _modes(net, _is_dropout),
        [(lambda net: net.train(), "All layers are in training mode. BatchNorm then takes the statistics of the batch "
          "and updates the running ones in each of the N passes: FMUC would differ from FixMatch in more than its "
          "selection."),
         (lambda net: net.eval(), "Dropout is off: all passes are the same, and their standard deviation is 0."),
         (lambda net: _modes(net, lambda name, m: isinstance(m, nn.Dropout) and "." not in name), "Dropout layers "
          "inside of blocks stay off: `children` sees the outermost layers only, `modules` all."),
         (lambda net: _modes(net, lambda name, m: isinstance(m, (nn.Dropout, nn.BatchNorm2d))), "BatchNorm is in "
          "training mode, too: its running statistics would be updated in every pass."),
         (lambda net: _modes(net, lambda name, m: m.training or isinstance(m, nn.Dropout)), "What was in training mode "
          "stays in it: call eval() first.")],
        read=lambda net: [module.training for module in net.modules()] if isinstance(net, nn.Module) else net),
    "moving_average": Exercise(
        [(_OLD, _WEIGHTS, 0.9), (_OLD, _WEIGHTS, 0.999)], lambda old, new, decay: decay * old + (1 - decay) * new,
        [(lambda old, new, decay: (1 - decay) * old + decay * new, "The shares are exchanged: with a decay of 0.999 "
          "the average would be little else than the newest weights."),
         (lambda old, new, decay: decay * old + new, "The shares add up to more than 1: the average would grow to many "
          "times the weights."),
         (lambda old, new, decay: (old + new) / 2, "The decay has no effect: old and new count by halves.")]),
}


NAN = float("nan")

# --- 06 quality and quantity ---


def _rates(true: np.ndarray, pseudo: np.ndarray, kept: np.ndarray) -> tuple[float, float]:
    return (true == pseudo)[kept].mean() if kept.any() else NAN, kept.mean()


def _risks(order: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return lambda score, right: np.cumsum(~right[order(score)]) / np.arange(1, len(score) + 1)


def _surest_first(score: np.ndarray) -> np.ndarray:
    return np.argsort(-score)


_TRUE, _PSEUDO = np.array([0, 0, 1, 1, 2, 2, 2, 0]), np.array([0, 1, 1, 1, 2, 0, 2, 2])
_KEPT = np.array([True, True, True, False, True, False, False, False])
_RIGHT_OF_BATCH, _KEPT_OF_BATCH = np.array([1, 40, 0, 18]), np.array([1, 80, 0, 20])
_SCORES, _IS_RIGHT = np.array([0.2, 0.9, 0.5, 0.7, 0.4]), np.array([True, True, False, True, False])

QUALITY = {
    "quality_and_quantity": Exercise(
        [(_TRUE, _PSEUDO, _KEPT), (_TRUE, _PSEUDO, np.zeros(8, dtype=bool))], _rates,
        [(lambda t, p, k: (((t == p) & k).mean(), k.mean()), "The right ones are divided by the number of all "
          "examples: that is quality times quantity. Quality is a share of the kept ones."),
         (lambda t, p, k: ((t == p).mean(), k.mean()), "This is the accuracy of all pseudo-labels, kept or not. A rule "
          "is judged by what it keeps."),
         (lambda t, p, k: ((t == p).sum() / k.sum() if k.any() else NAN, k.mean()), "The right ones are counted "
          "whether kept or not: the quality could pass 1."),
         (lambda t, p, k: (_rates(t, p, k)[0] if k.any() else 0.0, k.mean()), "Nothing kept does not mean that all is "
          "wrong: the quality is unknown, NaN. A zero would pull down every mean."),
         (lambda t, p, k: (_rates(t, p, k)[0], ((t == p) & k).mean()), "Quantity asks what is kept, right or wrong."),
         (lambda t, p, k: (_rates(t, p, k)[0], k.sum()), "Quantity is a share; this is a number of examples.")]),
    "epoch_quality": Exercise(
        [(_RIGHT_OF_BATCH, _KEPT_OF_BATCH)], lambda right, kept: right.sum() / kept.sum(),
        [(lambda right, kept: np.mean(right / kept), "A batch that keeps nothing has 0 / 0 = NaN, and with it the "
          "whole mean is NaN. Add up the counts first."),
         (lambda right, kept: np.nanmean(right / kept), "The mean of the batches' qualities: one kept pseudo-label "
          "weighs as much as eighty. Add up the counts first, divide last."),
         (lambda right, kept: np.mean(right / np.maximum(kept, 1)), "A batch that keeps nothing counts as a quality of "
          "0, and each batch weighs the same. Add up the counts first."),
         (lambda right, kept: right[-1] / kept[-1], "This is the quality of the last batch, not of the epoch.")]),
    "targets": Exercise(
        [(0.95, 0.2), (0.75, 0.8)], lambda quality, quantity: (quality * quantity, (1 - quality) * quantity),
        [(lambda q, n: (q * n, 1 - q), "1 − quality is the share of wrong ones among the *kept*; of all it is "
          "smaller by the factor of the quantity."),
         (lambda q, n: (q * n, 1 - q * n), "What is not kept is counted as wrong. It has no target at all."),
         (lambda q, n: (q, (1 - q) * n), "The first value is a share of the kept ones: multiply it by the quantity.")]),
    "risk_coverage": Exercise(
        [(_SCORES, _IS_RIGHT)], _risks(_surest_first),
        [(_risks(np.argsort), "The least sure come first: argsort sorts upwards."),
         (_risks(lambda score: np.arange(len(score))), "The scores have no effect: the examples are in the order in "
          "which they came."),
         (lambda s, r: np.cumsum(r[_surest_first(s)]) / np.arange(1, len(s) + 1), "This is the share of right ones: "
          "the risk is the share of wrong ones."),
         (lambda s, r: np.cumsum(~r[_surest_first(s)]) / len(s), "Divided by the number of all examples: among the k "
          "surest ones there are k."),
         (lambda s, r: (~r[_surest_first(s)]).astype(float), "This says of each example whether it is wrong: add up "
          "those before it.")]),
}

# --- 07 confusions ---


def _counts(rows: np.ndarray, columns: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(rows * classes + columns, minlength=classes**2).reshape(classes, classes)


def _shares(part: np.ndarray, total: np.ndarray, empty: float = NAN) -> np.ndarray:
    total = np.broadcast_to(total, part.shape)
    return np.divide(part, total, out=np.full(part.shape, empty), where=total > 0)


def _once(true: np.ndarray, pseudo: np.ndarray, kept: np.ndarray, classes: int) -> np.ndarray:
    return np.minimum(_counts(true[kept], pseudo[kept], classes), 1)


def _worst(counts: np.ndarray) -> tuple[int, int]:
    true, pseudo = np.unravel_index((counts - np.diag(np.diag(counts))).argmax(), counts.shape)
    return int(true), int(pseudo)


_DRAWN_QUALITY = np.random.default_rng(0)
_MANY = (*(_DRAWN_QUALITY.integers(0, 3, (2, 40))), _DRAWN_QUALITY.random(40) < 0.7)
_CONFUSED = np.array([[6, 3, 1, 0], [1, 8, 2, 0], [0, 0, 0, 0], [5, 1, 1, 0]])

CONFUSIONS = {
    "confusion": Exercise(
        [(*_MANY, 3)], lambda true, pseudo, kept, classes: _counts(true[kept], pseudo[kept], classes),
        [(_once, "Each pair counts once, however often it occurs: NumPy's `counts[rows, columns] += 1` adds to each "
          "cell only once. Use np.add.at."),
         (lambda t, p, k, c: _counts(p[k], t[k], c), "Rows and columns are exchanged: the row is the true class."),
         (lambda t, p, k, c: _counts(t, p, c), "Rejected pseudo-labels are counted, too: they never reach the "
          "network.")]),
    "shares_of_true_class": Exercise(
        [(_CONFUSED,)], lambda counts: _shares(counts, counts.sum(1, keepdims=True)),
        [(lambda n: _shares(n, n.sum(0)), "Each column adds up to 1: these are shares of the patches that were given a "
          "class. Fig. 3 divides by the row's sum, the true class."),
         (lambda n: _shares(n, n.sum()), "Divided by the sum of all counts: frequent classes would seem to be "
          "confused most."),
         (lambda n: _shares(n, n.sum(1)), "Column j is divided by the sum of row j: (C, C) / (C,) works along the "
          "columns. keepdims=True keeps the sums beside their rows."),
         (lambda n: _shares(n, n.sum(1, keepdims=True), empty=0.0), "A class of which nothing was kept has no shares: "
          "NaN, not 0. Zero would say that it is never right.")]),
    "precision": Exercise(
        [(_CONFUSED,)], lambda counts: _shares(np.diag(counts), counts.sum(0)),
        [(lambda n: _shares(np.diag(n), n.sum(1)), "Divided by the sums of the rows: this is how many of a *true* "
          "class got their class (recall)."),
         (lambda n: np.diag(n) / n.sum(), "Divided by the sum of all counts; each class has its own denominator."),
         (lambda n: _shares(np.diag(n), n.sum(0), empty=0.0), "A class that was never given has no precision: NaN, "
          "not 0.")]),
    "worst_confusion": Exercise(
        [(_CONFUSED,)], _worst,
        [(lambda n: tuple(map(int, np.unravel_index(n.argmax(), n.shape))), "The largest cell lies on the diagonal: "
          "these are the right ones, not confusions."),
         (lambda n: _worst(n)[::-1], "True class and pseudo-label are exchanged: the row is the true class.")]),
}


_DRAWN_RESULTS = np.random.default_rng(0)

# --- 08 Table I ---


def _row(right: np.ndarray, kept: np.ndarray, offered: np.ndarray, part: slice | None = None) -> tuple[float, float]:
    part = part or slice(-(len(kept) // 10), None)
    return right[part].sum() / kept[part].sum(), kept[part].sum() / offered[part].sum()


def _mean_row(right: np.ndarray, kept: np.ndarray, offered: np.ndarray) -> tuple[float, float]:
    part = slice(-(len(kept) // 10), None)
    return (right / kept)[part].mean(), (kept / offered)[part].mean()


def _dominates(quality: np.ndarray, quantity: np.ndarray) -> np.ndarray:
    """(rows, rows): whether the first dominates the second."""
    as_good = (quality[:, None] >= quality) & (quantity[:, None] >= quantity)
    return as_good & ~as_good.T


def _ranks(values: np.ndarray) -> np.ndarray:
    return values.argsort().argsort()


_EPOCHS = np.arange(1, 21)
_OFFERED = np.full(20, 200)
_KEPT_OF_EPOCH = 5 * _EPOCHS + 60 * (_EPOCHS % 2)
_RIGHT_OF_EPOCH = 2 * _EPOCHS + 50 * (_EPOCHS % 2)
_QUALITY = np.array([0.70, 0.80, 0.80, 0.90, 0.85, 0.95])
_QUANTITY = np.array([0.95, 0.60, 0.70, 0.50, 0.40, 0.10])
_OURS, _PAPERS = np.array([0.1, 0.9, 0.3, 0.2, 0.95, 0.5]), np.array([3.0, 40.0, 90.0, 1.0, 50.0, 55.0])

ABLATIONS = {
    "table_row": Exercise(
        [(_RIGHT_OF_EPOCH, _KEPT_OF_EPOCH, _OFFERED)], _row,
        [(lambda r, k, o: _row(r, k, o, slice(-1, None)), "Only the last epoch is read, the noisiest of all choices: "
          "the last tenth has more epochs than one here."),
         (lambda r, k, o: _row(r, k, o, slice(None)), "The whole training is read, beginnings included: the last tenth "
          "is asked for."),
         (lambda r, k, o: _row(r, k, o, slice(None, len(k) // 10)), "This is the first tenth of the training."),
         (_mean_row, "The epochs' qualities are averaged: an epoch that keeps little weighs as much as one that keeps "
          "much. Add up the counts first, divide last."),
         (lambda r, k, o: (_row(r, o, o)[0], _row(r, k, o)[1]), "The right ones are divided by all that were offered: "
          "quality is a share of the kept ones.")]),
    "gain_in_points": Exercise(
        [(0.6, 0.5), (0.7, 0.8)], lambda quality, reference: 100 * (quality - reference),
        [(lambda q, r: 100 * (q - r) / r, "This is the relative gain in per cent; percentage points are the plain "
          "difference."),
         (lambda q, r: q - r, "Points are hundredths: multiply by 100."),
         (lambda q, r: 100 * (r - q), "The sign is the wrong way round: a better quality is a positive gain."),
         (lambda q, r: 100 * abs(q - r), "A loss must stay a loss: no absolute value.")]),
    "not_dominated": Exercise(
        [(_QUALITY, _QUANTITY)], lambda q, n: ~_dominates(q, n).any(axis=0),
        [(lambda q, n: ~_dominates(q, n).any(axis=1), "These are the rows that dominate none: the axis is the other "
          "one."),
         (lambda q, n: _dominates(q, n).any(axis=0), "These are the dominated rows: the opposite is asked for."),
         (lambda q, n: ~_dominates(q, n).sum(axis=0) >= 1 - len(q), "A row counts as dominated only if all others "
          "dominate it; one is enough."),
         (lambda q, n: (q == q.max()) | (n == n.max()), "Only the best in quality and the best in quantity are left: "
          "in between lie compromises that nothing dominates.")]),
    "rank_correlation": Exercise(
        [(_OURS, _PAPERS)], lambda ours, papers: np.corrcoef(_ranks(ours), _ranks(papers))[0, 1],
        [(lambda a, b: np.corrcoef(a, b)[0, 1], "This is the correlation of the values (Pearson's): take their ranks "
          "first."),
         (lambda a, b: np.corrcoef(a.argsort(), b.argsort())[0, 1], "argsort gives the places of the sorted values, "
          "not the rank of each value: apply it twice."),
         (lambda a, b: (_ranks(a) == _ranks(b)).mean(), "This is the share of equal ranks: a rank that is off by one "
          "counts as much as one that is off by ten.")]),
}

# --- 09 Table II ---


def _files(p: np.ndarray, file_of_patch: np.ndarray, make: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    return np.array([make(p[file_of_patch == file]) for file in np.unique(file_of_patch)])


def _votes(p: np.ndarray) -> np.ndarray:
    return np.bincount(p.argmax(axis=1), minlength=p.shape[1])


def _interval(values: np.ndarray, quantile: float, ddof: int = 1, root: bool = True) -> tuple[float, float]:
    half = quantile * np.std(values, ddof=ddof) / (np.sqrt(len(values)) if root else 1)
    return np.mean(values) - half, np.mean(values) + half


def _t(values: np.ndarray, level: float, freedom: int = -1) -> float:
    return stdtrit(len(values) + freedom, (1 + level) / 2)


def _error(confidence: np.ndarray, right: np.ndarray, index: np.ndarray, weighted: bool = True, sign: bool = False,
           shares: bool = True) -> float:
    inside = [index == number for number in np.unique(index)]
    gaps = np.array([right[some].mean() - confidence[some].mean() for some in inside])
    sizes = np.array([some.mean() if shares else some.sum() for some in inside])
    return ((gaps if sign else np.abs(gaps)) * (sizes if weighted else 1 / len(gaps))).sum()


def _bin(confidence: np.ndarray, bins: int) -> np.ndarray:
    return np.minimum((confidence * bins).astype(int), bins - 1)


_PROBABILITIES = np.array([[0.9, 0.05, 0.05], [0.4, 0.6, 0.0], [0.45, 0.55, 0.0], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7],
                           [0.02, 0.0, 0.98], [0.34, 0.33, 0.33], [0.3, 0.6, 0.1], [0.3, 0.65, 0.05],
                           [0.66, 0.3, 0.04]])
_FILE_OF_PATCH = np.array([3, 3, 3, 5, 5, 5, 7, 9, 9, 9])
_SEEDS, _OTHERS = np.array([0.72, 0.75, 0.71]), np.array([0.70, 0.74, 0.68])
# In the last bin, those below 1 are underconfident, those of 1 overconfident
_CONFIDENCE = np.concatenate([_DRAWN_RESULTS.uniform(0.3, 0.9, 30), np.full(8, 0.93), np.ones(6)])
_WAS_RIGHT = np.concatenate([_DRAWN_RESULTS.random(30) < 0.6, np.full(8, True), [True, True, False, True, False, True]])

ACCURACY = {
    "classes_of_files": Exercise(
        [(_PROBABILITIES, _FILE_OF_PATCH)], lambda p, of: _files(p, of, lambda x: x.mean(0)).argmax(1),
        [(lambda p, of: _files(p, of, lambda x: x.max(0)).argmax(1), "The largest value of any patch decides: one "
          "overconfident patch outvotes all others. Take the mean."),
         (lambda p, of: _files(p, of, lambda x: x[0]).argmax(1), "Only the first patch of each file is used."),
         (lambda p, of: _files(p, of, _votes).argmax(1), "This is a majority vote of the patches: a patch that is sure "
          "counts as much as one that is not. Average the probabilities, then decide."),
         (lambda p, of: _files(p, of, lambda x: x.mean(0)).argmax(0), "argmax over axis 0 finds for each class the "
          "file that has most of it; the class of a file is the maximum along axis 1."),
         (lambda p, of: p.argmax(1), "These are classes of patches; each file has one.")]),
    "t_interval": Exercise(
        [(_SEEDS, 0.95), (_OTHERS, 0.8)], lambda x, level: _interval(x, _t(x, level)),
        [(lambda x, level: _interval(x, ndtri((1 + level) / 2)), "This is the normal distribution's "
          "quantile (1.96 at 95 %): far too small for three seeds, whose standard deviation is itself a guess."),
         (lambda x, level: _interval(x, _t(x, level), ddof=0), "The population's standard deviation (divisor n) is too "
          "small for a sample: ddof=1."),
         (lambda x, level: _interval(x, _t(x, level), root=False), "The standard deviation is not divided by √n: this "
          "speaks of single seeds, not of their mean."),
         (lambda x, level: _interval(x, stdtrit(len(x) - 1, level)), "The quantile is one-sided: 5 % would "
          "lie below and 5 % above, so that the level is 90 %. Take (1 + level) / 2."),
         (lambda x, level: _interval(x, 1, root=False), "Mean ± standard deviation describes the spread of seeds; it "
          "is no confidence interval of the mean."),
         (lambda x, level: _interval(x, _t(x, level, freedom=0)), "The degrees of freedom are n − 1: the mean has used "
          "one up.")]),
    "paired_difference": Exercise(
        [(_SEEDS, _OTHERS)], lambda a, b: ((a - b).mean(), (a - b).std(ddof=1)),
        [(lambda a, b: ((a - b).mean(), (a - b).std()), "This is the population's standard deviation; the sample's "
          "divides by n − 1: ddof=1."),
         (lambda a, b: ((a - b).mean(), np.hypot(a.std(ddof=1), b.std(ddof=1))), "The spreads are added as if the "
          "seeds of the two methods were independent. What a seed does to both cancels in the difference: take the "
          "differences first."),
         (lambda a, b: ((a - b).mean(), a.std(ddof=1) - b.std(ddof=1)), "A difference of two standard deviations is "
          "not the standard deviation of the differences."),
         (lambda a, b: ((b - a).mean(), (b - a).std(ddof=1)), "The sign is the wrong way round: FMUC − FM.")]),
    "calibration_error": Exercise(
        [(_CONFIDENCE, _WAS_RIGHT, 10), (_CONFIDENCE, _WAS_RIGHT, 4)], lambda c, r, n: _error(c, r, _bin(c, n)),
        [(lambda c, r, n: _error(c, r, _bin(c, n), weighted=False), "All bins weigh the same, however few files they "
          "hold: weight them by their share of the files."),
         (lambda c, r, n: _error(c, r, _bin(c, n), sign=True), "Overconfident and underconfident bins cancel each "
          "other: take the absolute value in each bin."),
         (lambda c, r, n: _error(c, r, (c * n).astype(int)), "A confidence of exactly 1 falls into a bin of its own "
          "behind the last one; and an overconfident network has many of them."),
         (lambda c, r, n: _error(c, r, np.zeros(len(c))), "There is only one bin: mean confidence minus accuracy of "
          "all files hides where the errors are."),
         (lambda c, r, n: _error(c, r, _bin(c, n), shares=False), "The weights are numbers of files; they must be "
          "shares, which add up to 1.")]),
}


EXERCISES = {**DATA, **FEATURES, **FIXMATCH, **UNCERTAINTY, **TRAINING, **QUALITY, **CONFUSIONS, **ABLATIONS,
             **ACCURACY}


def check(answer: Callable) -> None:
    """Print whether an answer, recognised by the function's name, is right, or else what is wrong with it and why."""
    exercise = EXERCISES.get(getattr(answer, "__name__", ""))
    if exercise is None:
        print(f"no exercise has the name of {answer!r}: keep the name of the function and hand over the function "
              "itself, without calling it")
    else:
        print(judge(answer, exercise) or f"{answer.__name__}: right, in all of {len(exercise.cases)} cases")
