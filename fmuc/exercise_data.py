"""Right functions, cases and typical mistakes of the exercises on data and features (docs/exercises/01 and 02)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from fmuc.exercise_judge import Exercise

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
