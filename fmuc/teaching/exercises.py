"""The exercises of the notebooks, and what is wrong with an answer to one.

``docs/exercises/NN.py`` holds those of notebook NN, in parts that begin with ``# %%``:

* ``setup``: imports of all exercises of the file
* ``exercise: TITLE``: the task as comments, ``# hint:`` lines, and a function with its answer between the lines
  ``### BEGIN SOLUTION`` and ``### END SOLUTION``, as nbgrader marks it
* ``cases``: code that sets ``cases``, a list of arguments; a function ``read`` there says what is compared of a result
* ``wrong``: typical mistakes, each a line ``# PART OF THE ANSWER => INSTEAD`` and below it its explanation
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from fmuc import paths

SOURCES = paths.ROOT / "docs" / "exercises"
LONGEST = 200  # characters of a value in a message
_ANSWER = re.compile(r"^( *)### BEGIN SOLUTION\n(.*?)^ *### END SOLUTION\n?", re.M | re.S)


class Check(NamedTuple):
    """Arguments of some calls, the right function, and mistakes as (function, explanation) pairs."""

    cases: Sequence[tuple]
    right: Callable
    mistakes: Sequence[tuple[Callable, str]]
    read: Callable = lambda result: result  # what is compared of a result


class Exercise(NamedTuple):
    """One exercise of a file: Markdown, hints and code; ``wrong`` as (part of the answer, instead, explanation)."""

    title: str
    text: str
    hints: list[str]
    code: str
    setup: str
    cases: list[str]
    wrong: list[tuple[str, str, str]]

    @property
    def name(self) -> str:
        """The function that is asked for."""
        return re.search(r"^def (\w+)\(", self.code, re.M)[1]

    @property
    def stub(self) -> str:
        """The code that students get."""
        return _ANSWER.sub(r"\1raise NotImplementedError\n", self.code).strip()

    @property
    def solution(self) -> str:
        """The code with the answer."""
        return _ANSWER.sub(r"\2", self.code).strip()

    def run(self, code: str) -> dict:
        """Execute ``code`` after the file's set-up and return its names."""
        names: dict = {}
        exec(self.setup, names)
        exec(code, names)
        return names

    def check(self) -> Check:
        """Return what an answer is judged by."""
        given = self.run("\n".join(self.cases))
        mistakes = [(self.run(self.solution.replace(part, instead))[self.name], explanation)
                    for part, instead, explanation in self.wrong]
        return Check(given["cases"], self.run(self.solution)[self.name], mistakes, given.get("read", lambda x: x))


# --- reading the files ---


def sources() -> dict[str, list[Exercise]]:
    """All exercises by the number of their notebook ("03")."""
    return {file.stem: read(file) for file in sorted(SOURCES.glob("[0-9][0-9].py"))}


def read(file: Path) -> list[Exercise]:
    """Return the exercises of a file."""
    setup, exercises = "", []
    for part in re.split(r"^# %% ", f"\n{file.read_text(encoding='utf-8')}", flags=re.M)[1:]:
        head, _, body = part.partition("\n")
        if head == "setup":
            setup = body.strip()
        elif head == "cases":
            exercises[-1].cases.append(body.strip())
        elif head == "wrong":
            found = re.findall(r"^# (.+?) => (.+)\n((?:#   .*\n)*)", body, flags=re.M)
            exercises[-1].wrong.extend((part, instead, " ".join(text.replace("#", " ").split()))
                                       for part, instead, text in found)
        else:
            exercises.append(_exercise(head.removeprefix("exercise: "), body, setup))
    return exercises


def _exercise(title: str, body: str, setup: str) -> Exercise:
    comments, code = re.fullmatch(r"((?:#[^\n]*\n)+)(def \w+\(.*)", body, re.S).groups()
    text, *hints = re.split(r"^# hint: ", comments, flags=re.M)
    return Exercise(title, re.sub(r"^# ?", "", text, flags=re.M).strip(),
                    [" ".join(hint.replace("\n#", " ").split()) for hint in hints], code, setup, [], [])


# --- judging an answer ---


def check(answer: Callable) -> None:
    """Print whether an answer, recognised by the function's name, is right, or what is wrong with it and why."""
    known = {exercise.name: exercise for exercises in sources().values() for exercise in exercises}
    name = getattr(answer, "__name__", "")
    if name not in known:
        print(f"no exercise has the name of {answer!r}: keep the name of the function and hand over the function "
              "itself, without calling it")
        return
    exercise = known[name].check()
    print(judge(answer, exercise) or f"{name}: right, in all of {len(exercise.cases)} cases")


def judge(answer: Callable, check: Check) -> str:
    """What is wrong with an answer, in a sentence or two; empty if nothing is."""
    name, found, expected = answer.__name__, [], _results(check, check.right)
    for case, value in zip(check.cases, expected, strict=True):
        given = copy.deepcopy(case)
        try:
            with warnings.catch_warnings(action="ignore"):
                found.append(check.read(answer(*given)))
        except NotImplementedError:
            return f"not yet written: {name} still raises NotImplementedError."
        except Exception as error:
            return f"{name}{shown(case)} raises {type(error).__name__}: {error}"
        if not same(given, case):
            return f"{name} changes its argument in place: work on a copy, since the caller still needs the original."
        if found[-1] is None and value is not None:
            return f"{name} returns None: is a `return` missing?"
    if same(found, expected):
        return ""
    for mistake, explanation in check.mistakes:
        if explanation and same(found, _results(check, mistake)):
            return explanation
    return _first_difference(name, check.cases, found, expected)


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
        return one is other


def shown(value: object) -> str:
    """A value as one line: the shape of a larger array, the numbers of a small one."""
    if isinstance(value, tuple):
        return f"({', '.join(map(shown, value))})"
    if isinstance(value, (np.ndarray, torch.Tensor)):
        array = _array(value)
        small = np.array2string(array, precision=4, suppress_small=True, separator=", ")
        return f"<array {array.shape}>" if array.size > 12 else " ".join(small.split())
    value = value.item() if isinstance(value, np.generic) else value
    return f"{value:.6g}" if isinstance(value, float) else " ".join(repr(value).split())[:LONGEST]


def _array(value: object) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)


def _results(check: Check, function: Callable) -> list | None:
    """What a function returns in all cases; None for a mistake that fails in one, so that nobody can have made it."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return [check.read(function(*copy.deepcopy(case))) for case in check.cases]
    except Exception:
        return None


def _first_difference(name: str, cases: Sequence[tuple], found: Sequence, expected: Sequence) -> str:
    case, got, wanted = next(trio for trio in zip(cases, found, expected, strict=True) if not same(*trio[1:]))
    shapes = [getattr(value, "shape", None) for value in (got, wanted)]
    if None not in shapes and shapes[0] != shapes[1]:
        return f"{name}{shown(case)}: the result has the shape {tuple(shapes[0])}, it should have {tuple(shapes[1])}"
    return f"{name}{shown(case)}: gives {shown(got)}, it should be {shown(wanted)}"
