"""Exercises: one source, stubs that are refused, answers that are accepted, mistakes that are explained."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import nbformat
import numpy as np
import pytest
import torch
from scipy import stats

from fmuc import augment, experiments, metrics
from fmuc.config import Features
from fmuc.features import cut_patches, log_mel
from fmuc.machinery import notebooks
from fmuc.selection import select
from fmuc.teaching.exercises import SOURCES, Check, check, judge, same, sources
from fmuc.uncertainty import entropy_parts, prediction_mode, temperature_softmax
from tools import exercises

EXERCISES = sources()
TASKS = {exercise.name: exercise for some in EXERCISES.values() for exercise in some}
CHECKS = {name: exercise.check() for name, exercise in TASKS.items()}
# what the guide says to type, and the notebook holds
LIVE = ("fixmatch_rule", "my_rule", "(kept * each).mean()", "0.50", "return label, ", "p = torch.softmax(net(x)")

each_task = pytest.mark.parametrize("name", TASKS)


def test_notebooks_and_solutions_are_as_their_source(capsys):
    assert exercises.main(["--check"]) == 0, capsys.readouterr().err
    assert len(TASKS) == sum(map(len, EXERCISES.values()))  # every name occurs once


@pytest.mark.parametrize("number", EXERCISES)
def test_every_exercise_is_complete(number):
    assert len(EXERCISES[number]) >= 3
    assert all(each.text and each.hints and each.cases and "raise NotImplementedError" in each.stub
               for each in EXERCISES[number])
    text = (SOURCES / f"{number}.py").read_text(encoding="utf-8")
    assert text.count(" => ") == sum(len(each.wrong) for each in EXERCISES[number])


@each_task
def test_solution_is_accepted_and_the_stub_is_not(name, capsys):
    check(TASKS[name].run(TASKS[name].solution)[name])
    assert capsys.readouterr().out.startswith(f"{name}: right, in all of {len(CHECKS[name].cases)} ")
    check(TASKS[name].run(TASKS[name].stub)[name])
    assert capsys.readouterr().out == f"not yet written: {name} still raises NotImplementedError.\n"


@each_task
def test_every_typical_mistake_gets_its_own_explanation(name):
    assert len(CHECKS[name].mistakes) >= 2
    for mistake, explanation in CHECKS[name].mistakes:
        said = judge(mistake, CHECKS[name])
        assert said == explanation if explanation else "in place" in said


# --- the right functions are those of the package ---


PACKAGE = {  # the package's answer, or that of a slow reference
    "translate": lambda x, frames: augment.translate(x[None], torch.tensor([frames]), torch.tensor([0]))[0],
    "keep": lambda logits, threshold: select(logits[None], replace(experiments.FM, threshold=threshold))[:2],
    "tempered_softmax": lambda logits, t: temperature_softmax(torch.tensor(logits), t),
    "mean_minus_std": lambda p: select(torch.tensor(p).log(), replace(experiments.FMUC, temperature=1.0))[::2],
    "uncertainty_parts": lambda p: entropy_parts(torch.tensor(p))[1:],
    "frame_count": lambda samples, window, hop: log_mel(np.zeros(samples, np.float32), Features(
        sample_rate=16_000, window=window, hop=hop, mel_bands=8, patch_frames=2)).shape[1],
    "cut": lambda spectrogram, frames: cut_patches(torch.tensor(spectrogram), frames),
    "shares_of_true_class": metrics.row_normalised,
    "classes_of_files": lambda p, files: metrics.filewise_probabilities(p, files).argmax(axis=1),
    "calibration_error": metrics.expected_calibration_error,
    "rank_correlation": lambda ours, papers: stats.spearmanr(ours, papers).statistic,
    "t_interval": lambda x, level: stats.t.interval(level, len(x) - 1, loc=np.mean(x), scale=stats.sem(x)),
}


@pytest.mark.parametrize("name", PACKAGE)
def test_right_answers_agree_with_the_package(name):
    for case in CHECKS[name].cases:
        assert same(PACKAGE[name](*copy.deepcopy(case)), CHECKS[name].right(*copy.deepcopy(case)))


def test_right_answers_on_training_agree_with_the_package():
    for (net,) in CHECKS["mc_ready"].cases:
        modes = CHECKS["mc_ready"].read(CHECKS["mc_ready"].right(copy.deepcopy(net)))
        with prediction_mode(net, dropout=True):
            assert [module.training for module in net.modules()] == modes
    paper = experiments.make_run("paper", "nsynth", "FMUC")
    batch = paper.training.labelled_batch, paper.training.unlabelled_batch, paper.selection.passes
    assert CHECKS["units_of_step"].right(*batch) == experiments.step_units(paper)


# --- what is said of other answers ---


def twice(x: np.ndarray) -> np.ndarray:
    return 2 * x


DOUBLE = Check([(np.array([[1.0, 2.0, 3.0]]),)], twice, [(lambda x: x**2, "This is the square.")])


def in_place(x):
    x *= 2
    return x


@pytest.mark.parametrize(("answer", "said"), [
    (twice, ""),
    (lambda x: [[2.0, 4.0, 6.0]], ""),
    (lambda x: x * x, "This is the square."),
    (in_place, "in_place changes its argument in place"),
    (lambda x: None, "returns None: is a `return` missing?"),
    (lambda x: x.no_such_thing, r"\(\[\[1., 2., 3.\]\]\) raises AttributeError"),
    (lambda x: 2 * x[0], r"the result has the shape \(3,\), it should have \(1, 3\)"),
    (lambda x: 3 * x, r"gives \[\[3., 6., 9.\]\], it should be \[\[2., 4., 6.\]\]"),
    (lambda x: "six", "it should be"),
    (lambda x: (x, x), "it should be"),
    (lambda x: 2 * x + np.array([0, 0, np.nan]), "nan"),
])
def test_judgement(answer, said):
    found = judge(answer, DOUBLE)
    assert (re.search(said, found) if said else not found), found


@pytest.mark.parametrize("wrong", [3, lambda x: x, np.ones(2), None])
def test_what_is_no_exercise_is_named(wrong, capsys):
    check(wrong)
    assert "no exercise has the name of" in capsys.readouterr().out


# --- writing them into notebooks ---


def test_a_changed_source_is_found_and_only_its_cells_are_written(monkeypatch, capsys):
    changed = {**EXERCISES, "01": [EXERCISES["01"][0]._replace(title="Another"), *EXERCISES["01"][1:]]}
    written = {}
    monkeypatch.setattr(exercises, "sources", lambda: changed)
    monkeypatch.setattr(exercises, "write_file", written.__setitem__)
    (path,) = notebooks.find(["01_"])
    assert exercises.main(["--check"]) == 1
    assert path.name in capsys.readouterr().err
    assert exercises.main(["--write"]) == 0
    assert written.keys() == {path, exercises.SOLUTIONS / path.name, exercises.MISTAKES}
    for notebook in (path, exercises.SOLUTIONS / path.name):
        pairs = zip(notebooks.read(notebook).cells, nbformat.reads(written[notebook], as_version=4).cells, strict=True)
        assert [after.source.partition("\n")[0].lstrip("#") for before, after in pairs if after != before] == [
            " 1.1 Another"]


def test_the_guide_names_cells_and_exercises_that_there_are():
    text = exercises.GUIDE.read_text(encoding="utf-8")
    assert len(re.findall(r"\[\d\d\[", text)) == len(exercises.CELL.findall(text)) > 10
    titles = {f"{int(number)}.{n}": exercise.title
              for number, some in EXERCISES.items() for n, exercise in enumerate(some, 1)}
    live = "\n".join(cell.source for cell in notebooks.read(notebooks.find(["01_"])[0]).cells)
    assert [code for code in LIVE if code not in text.replace("`", "") or code not in live] == []
    labs = re.search(r"## Lab 1(.*?)## Handing out", text, re.S)[1]
    assert set(re.findall(r"\b\d\.\d\b", labs)) <= titles.keys()
    for number, rest in re.findall(r"\b(\d\.\d) (?=([A-Z][^|]+))", labs):
        assert rest.startswith(titles[number]), number
