"""Who is labelled: labelled, unlabelled and test files of a run (paper §III), drawn by file from one seed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fmuc.config import Run
from fmuc.datasets import Dataset, short_digest
from fmuc.errors import FmucError
from fmuc.machinery.atomic import write_json

_STREAM, _OPEN = 1, 7  # set these draws apart from other uses of a run's seed
HELD_OUT = 3  # classes of an open set that nobody labels: the last ones


@dataclass(frozen=True, eq=False)
class Split:
    """Ascending, disjoint clip indices into ``dataset.clips`` (int64), and what they were drawn with.

    A file is labelled or unlabelled as a whole. ``test`` is the data set's own test split, the same for every seed.
    """

    labelled: np.ndarray
    unlabelled: np.ndarray
    test: np.ndarray
    labelled_share: float
    seed: int
    labels: str = "part"

    @property
    def digest(self) -> str:
        """Of the three index lists."""
        return short_digest([part.tolist() for part in (self.labelled, self.unlabelled, self.test)])


def draw_split(dataset: Dataset, labelled_share: float, seed: int, labels: str = "part") -> Split:
    """Labelled, unlabelled and test files (paper §III; stratified, D14).

    ``labels="part"``: ``labelled_share`` of the labelled files of the train split, per class in proportion (largest
    remainder, ties broken by the seed) and at least one of each class; the rest of the train split is unlabelled.
    ``labels="all"``: every train file with a label, nothing unlabelled. The valid split is never used.
    Raises :class:`FmucError` if no train file has a label.
    """
    train, truth = dataset.indices("train"), dataset.labels()
    known = train[truth[train] >= 0]
    if not known.size:
        raise FmucError(f"{dataset.name} has no labelled clip in its train split; see data/README.md")
    if labels == "part":
        known = _stratified(known, truth[known], labelled_share, np.random.default_rng([seed, _STREAM]))
    rest = np.setdiff1d(train, known) if labels == "part" else np.empty(0, dtype=np.int64)
    return Split(np.sort(known), rest, dataset.indices("test"), labelled_share, seed, labels)


def split_of(run: Run, dataset: Dataset) -> Split:
    """The split that ``run`` trains on."""
    seed = run.seed if run.split_seed is None else run.split_seed
    split = draw_split(dataset, run.labelled_share, seed, run.labels)
    return split if run.outside is None else open_set(split, dataset, run.outside)


def open_set(split: Split, dataset: Dataset, outside: float) -> Split:
    """Hold the last ``HELD_OUT`` classes out of the labelled and test files (the paper's outlook, §VII).

    ``outside`` is their share among the unlabelled files. At every share these hold the same files of the other
    classes, as many as there are unlabelled files of the held-out ones, or all if they are fewer. Raises
    :class:`FmucError` for a share that would need more files of the held-out classes than there are.
    """
    truth, first = dataset.labels(), len(dataset.classes) - HELD_OUT
    if first < 2:
        raise FmucError(f"{dataset.name} has {len(dataset.classes)} classes: an open set needs {HELD_OUT + 2} or more")
    rng = np.random.default_rng([split.seed, _OPEN])
    order = rng.permutation(split.unlabelled)
    within, beyond = order[truth[order] < first], order[truth[order] >= first]
    within = within[: len(beyond)]
    wanted = round(len(within) * outside / (1 - outside))
    if wanted > len(beyond):
        raise FmucError(f"outside is {outside:g}, which needs {wanted} files of held-out classes in {dataset.name}: "
                        f"it has {len(beyond)}")
    return replace(split, labelled=split.labelled[truth[split.labelled] < first],
                   unlabelled=np.sort(np.concatenate([within, beyond[:wanted]])),
                   test=split.test[truth[split.test] < first])


def _stratified(files: np.ndarray, truth: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """round(share * n) of n files, per class in proportion by the largest remainder, one of each class at least.

    Handing out one place at a time to the class that is furthest below its quota is the largest-remainder method, and
    stays correct when the minimum of one has put a small class above its quota.
    """
    classes = rng.permutation(np.unique(truth))  # the order decides ties, so no class is favoured over the seeds
    quotas = share * np.array([np.count_nonzero(truth == label) for label in classes])
    counts = np.ones(len(classes), dtype=np.int64)
    for _ in range(round(share * len(files)) - len(classes)):
        counts[np.argmax(quotas - counts)] += 1
    return np.concatenate([rng.permutation(files[truth == label])[:count]
                           for label, count in zip(classes, counts, strict=True)])


def save_split(split: Split, dataset: Dataset, path: Path) -> None:
    """Write the labelled clips' ids, the draw and the data set's digest as JSON, whole or not at all."""
    write_json(path, {
        "dataset": dataset.name, "dataset_digest": dataset.digest, "labelled_share": split.labelled_share,
        "seed": split.seed, "labels": split.labels, "split_digest": split.digest,
        "labelled": [dataset.clips[i].id for i in split.labelled],
    })
