"""``check(answer)``: the exercises of the notebooks (docs/exercises) by the name of the function asked for."""

from __future__ import annotations

from collections.abc import Callable

from fmuc.exercise_data import DATA, FEATURES
from fmuc.exercise_judge import judge
from fmuc.exercise_method import FIXMATCH, TRAINING, UNCERTAINTY
from fmuc.exercise_quality import CONFUSIONS, QUALITY
from fmuc.exercise_results import ABLATIONS, ACCURACY

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
