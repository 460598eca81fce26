"""Training, validation and test files drawn by whole groups and stratified by class."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np

from fmuc.errors import FmucError
from fmuc.sound_lists import SoundFile

_FEW_FOLDS, _MOST_FOLDS = 10, 50


def groups_per_class(files: Iterable[SoundFile]) -> dict[str, int]:
    """How many groups have a labelled file of each class, sorted by class."""
    groups = defaultdict(set)
    for file in files:
        if file.label:
            groups[file.label].add(file.group)
    return {label: len(groups[label]) for label in sorted(groups)}


def require_training_labels(where: str, files: Sequence[SoundFile], splits: Sequence[str]) -> None:
    """:class:`FmucError` if a class has no labelled file in train."""
    trained = {file.label for file, split in zip(files, splits, strict=True) if split == "train"}
    for label, count in groups_per_class(files).items():
        if label not in trained:
            raise FmucError(f"{where}: class {label!r} ({count} groups) has no labelled file in train: give some of "
                            "them the split train, or leave the column split out")


def draw_splits(where: str, files: Sequence[SoundFile], shares: dict[str, float], seed: int) -> list[str]:
    """A split for each file, no group in two of them; ``shares`` of test and then valid, 0 for none.

    Groups with labelled files are dealt out so that each class has its share of files in each split as far as whole
    groups allow, and one file at least. Where each file is a group, the shares come out to 0.03 and a few files of each
    class; few or unequal groups make them coarser. Shares below 0.02 are taken for 0.02. Files of unknown class go with
    their group, and to train if no file of it is labelled.
    """
    wanted = {split: share for split, share in shares.items() if share}
    known = [file for file in files if file.label]
    counts = groups_per_class(known)
    label = min(counts, key=counts.get)
    found = f"{where}: class {label!r} has labelled files in {counts[label]} group{'s'[:counts[label] != 1]}"
    remedy = "add recordings, hold out fewer splits (a share of 0), or give a column split in a CSV file"
    if counts[label] <= len(wanted):
        raise FmucError(f"{found}, but {', '.join(('train', *reversed(wanted)))} need one each: {remedy}")
    names, groups = np.unique([file.group for file in known], return_inverse=True)
    labels = np.unique([file.label for file in known], return_inverse=True)[1]
    place = np.full(len(names), "train", dtype=object)
    for position, (split, share) in enumerate(wanted.items()):
        rest = np.flatnonzero(place[groups] == "train")
        held = _hold_out(labels[rest], groups[rest], share * len(known) / len(rest), len(wanted) - position, seed)
        if held is None:
            raise FmucError(f"{found}, some of which it shares with other classes: no way was found to have every "
                            f"class in {', '.join(('train', *reversed(wanted)))} with whole groups: {remedy}")
        place[held] = split
    placed = dict(zip(names.tolist(), place, strict=True))
    return [placed.get(file.group, "train") for file in files]


def _hold_out(labels: np.ndarray, groups: np.ndarray, share: float, remain: int, seed: int) -> np.ndarray | None:
    """Groups with about ``share`` of the files: every class is in them, and in ``remain`` groups or more of the rest.

    ``labels`` and ``groups`` (files,) are numbered from 0. The files are dealt into folds, of which neighbouring ones
    are held out; of several ways the one closest to ``share``, None if there is none.
    """
    codes, groups = np.unique(groups, return_inverse=True)
    sizes, present = np.bincount(groups), np.zeros((len(codes), labels.max() + 1), dtype=bool)
    present[groups, labels] = True
    for parts, folds in _fractions(share, min(len(codes), np.bincount(labels).max())):
        fold = _deal(labels, groups, folds, seed)
        windows = [(fold - first) % folds < parts for first in range(folds)]
        fit = [held for held in windows if present[held].any(axis=0).all()
               and (present[~held].sum(axis=0) >= remain).all()]
        if fit:
            return codes[min(fit, key=lambda held: abs(sizes[held].sum() - share * sizes.sum()))]
    return None


def _fractions(share: float, most: int) -> list[tuple[int, int]]:
    """(parts, folds) from the closest to ``share`` on; more than ten folds only for a small share."""
    counts = {*range(2, _FEW_FOLDS + 1), min(round(1 / share), _MOST_FOLDS)}
    fractions = {Fraction(parts, folds) for folds in counts if 2 <= folds <= most
                 for parts in range(1, folds if folds <= _FEW_FOLDS else 2)}
    return [part.as_integer_ratio() for part in sorted(fractions, key=lambda part: (abs(part - share), part))]


def _deal(labels: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of each group, stratified by class: (groups,)."""
    from sklearn.model_selection import StratifiedGroupKFold  # a second, which loading a data set need not wait for

    fold = np.empty(groups.max() + 1, dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # classes with fewer files than folds: see _hold_out
        dealt = StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(labels, labels, groups)
        for number, (_, held) in enumerate(dealt):
            fold[groups[held]] = number
    return fold
