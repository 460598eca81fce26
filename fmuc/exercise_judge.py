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
from torch import nn

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
