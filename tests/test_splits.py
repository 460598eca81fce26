from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fmuc.datasets import Clip, Dataset
from fmuc.errors import FmucError
from fmuc.splits import draw_split, open_set


def make_dataset(train: list[int], *, unknown: int = 0) -> Dataset:
    """``train[c]`` train clips of class c, 2 valid and 3 test clips each, ``unknown`` train clips without label."""
    names = [f"c{c}" for c in range(len(train))]
    clips = [Clip(f"{name}-{split}-{i}", Path("x"), name, "g", split)
             for name, size in zip(names, train, strict=True)
             for split, count in (("train", size), ("valid", 2), ("test", 3)) for i in range(count)]
    clips += [Clip(f"unknown-{i}", Path("x"), None, "g", "train") for i in range(unknown)]
    return Dataset("made", tuple(names), tuple(clips))


def per_class(dataset: Dataset, indices: np.ndarray) -> np.ndarray:
    return np.bincount(dataset.labels()[indices], minlength=len(dataset.classes))


@pytest.mark.parametrize("seed", range(3))
def test_split_partitions_the_train_files_and_leaves_valid_out(seed):
    dataset = make_dataset([40, 30, 7], unknown=5)
    split = draw_split(dataset, 0.2, seed)
    train = dataset.indices("train").tolist()
    assert sorted([*split.labelled, *split.unlabelled]) == train
    assert split.test.tolist() == dataset.indices("test").tolist()
    assert (dataset.labels()[split.labelled] >= 0).all()
    for part in (split.labelled, split.unlabelled, split.test):
        assert part.dtype == np.int64 and (np.diff(part) > 0).all()
        assert not set(part.tolist()) & set(dataset.indices("valid").tolist())


def test_shares_are_those_of_the_largest_remainder_method():
    rng = np.random.default_rng(0)
    for _ in range(30):
        sizes, share = rng.integers(20, 300, 6), rng.uniform(0.06, 0.9)
        quotas = share * sizes
        expected = np.floor(quotas).astype(int)
        missing = round(share * sizes.sum()) - expected.sum()
        expected[np.argsort(expected - quotas)[:missing]] += 1
        dataset = make_dataset(sizes.tolist())
        assert per_class(dataset, draw_split(dataset, share, 1).labelled).tolist() == expected.tolist()


def test_every_class_that_occurs_has_a_labelled_file():
    dataset = make_dataset([500, 3, 0, 1])
    assert per_class(dataset, draw_split(dataset, 0.01, 0).labelled).tolist() == [3, 1, 0, 1]
    assert per_class(dataset, draw_split(dataset, 0.0001, 0).labelled).tolist() == [1, 1, 0, 1]
    assert len(draw_split(dataset, 1.0, 0).labelled) == 504


def test_ties_favour_no_class_over_the_seeds():
    dataset = make_dataset([5, 5, 5])  # 10 % is one or two files: the second goes to a class drawn by lot
    extra = [np.argmax(per_class(dataset, draw_split(dataset, 4 / 15, seed).labelled)) for seed in range(60)]
    assert np.bincount(extra, minlength=3).min() >= 8


def test_seed_decides_the_draw():
    dataset = make_dataset([40, 40])
    first, again, other = (draw_split(dataset, 0.2, seed) for seed in (3, 3, 4))
    assert first.digest == again.digest != other.digest
    assert first.labelled.tolist() == again.labelled.tolist() != other.labelled.tolist()


def test_train_split_without_labels_is_refused():
    with pytest.raises(FmucError, match="made has no labelled clip"):
        draw_split(make_dataset([0], unknown=3), 0.5, 0)


@pytest.mark.parametrize("outside", [0.0, 0.25, 0.5])
def test_an_open_set_has_the_asked_share_of_held_out_classes_and_always_the_same_other_files(outside):
    data = make_dataset([20] * 8)
    truth, closed = data.labels(), draw_split(data, 0.1, seed=3)
    found, none = open_set(closed, data, outside), open_set(closed, data, 0.0)
    held_out = truth[found.unlabelled] >= 5
    assert held_out.mean() == pytest.approx(outside, abs=0.01)
    assert found.unlabelled[~held_out].tolist() == none.unlabelled.tolist()
    assert len(none.unlabelled) == 54 and set(found.unlabelled) <= set(closed.unlabelled)  # 3 classes of 18 left
    for part in (found.labelled, found.test):
        assert len(part) and truth[part].max() == 4
    assert set(found.labelled) == {i for i in closed.labelled if truth[i] < 5}


def test_an_open_set_refuses_a_share_that_needs_more_files_than_there_are():
    data, few = make_dataset([5] * 6), make_dataset([5, 5])
    with pytest.raises(FmucError, match="held-out classes in made"):
        open_set(draw_split(data, 0.2, seed=0), data, 0.9)
    with pytest.raises(FmucError, match="made has 2 classes"):
        open_set(draw_split(few, 0.2, seed=0), few, 0.0)
