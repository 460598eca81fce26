"""Exercises: one source, stubs that are refused, answers that are accepted, mistakes that are explained."""

from __future__ import annotations

import ast
import copy
import re
from dataclasses import replace
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from scipy import stats

from fmuc import augment, experiments, metrics, notebooks
from fmuc.config import Features
from fmuc.errors import FmucError
from fmuc.features import cut_patches, log_mel
from fmuc.selection import PseudoLabelCounts, PseudoLabels, select
from fmuc.teaching.exercises import Check, check, judge, read, same
from fmuc.uncertainty import prediction_mode, temperature_softmax
from tools import exercises

SOURCES = exercises.sources()
TASKS = [(source, exercise) for source in SOURCES for exercise in source.exercises]
LONGEST = 15  # lines of a code cell

each_source = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.number)
each_task = pytest.mark.parametrize(("source", "exercise"), TASKS, ids=[exercise.name for _, exercise in TASKS])


CHECKS = {exercise.name: exercise.check() for _, exercise in TASKS}


def test_notebooks_and_solutions_are_as_their_source(capsys):
    assert exercises.main(["--check"]) == 0, capsys.readouterr().err


def test_every_name_occurs_once():
    assert len(CHECKS) == len(TASKS)


@each_source
def test_three_exercises_or_more(source):
    assert len(source.exercises) >= 3


@each_source
def test_cells_are_short_and_define_no_class(source):
    for solved in (False, True):
        for cell in exercises.cells(source, solved):
            if cell.cell_type == "code":
                assert len(cell.source.splitlines()) <= LONGEST, cell.source
                assert not any(isinstance(node, ast.ClassDef) for node in ast.walk(ast.parse(cell.source)))


@each_task
def test_solution_is_accepted_and_the_stub_is_not(source, exercise, capsys):
    check(exercise.run(exercise.solution)[exercise.name])
    assert capsys.readouterr().out.startswith(f"{exercise.name}: right, in all of {len(CHECKS[exercise.name].cases)} ")
    check(exercise.run(exercise.stub)[exercise.name])
    assert capsys.readouterr().out == f"not yet written: {exercise.name} still raises NotImplementedError.\n"


@each_task
def test_every_typical_mistake_gets_its_own_explanation(source, exercise):
    known = CHECKS[exercise.name]
    assert len(known.mistakes) >= 2
    for mistake, explanation in known.mistakes:
        said = judge(mistake, known)
        assert said == explanation if explanation else "in place" in said


def named(answer, name: str):
    def call(*arguments):
        return answer(*arguments)

    call.__name__ = name
    return call


def test_guide_names_exercises_that_there_are():
    titles = {f"{int(source.number)}.{number}": exercise.title
              for source in SOURCES for number, exercise in enumerate(source.exercises, 1)}
    labs = exercises.GUIDE.read_text(encoding="utf-8").partition("## Lab 1")[2].partition("<!-- mistakes -->")[0]
    named = re.findall(r"\b(\d\.\d)\b(?: ([A-Z][^,|.;]*\w[?]?))?", labs)
    assert len(named) > 30
    for number, title in named:
        assert number in titles
        assert not title or titles[number].startswith(title), f"{number} is {titles[number]!r}"
    taught = set(re.findall(r"\b(\d\.\d)\b", labs.partition("## What students")[0]))
    assert {f"{n}" for n in titles if n[0] in "123469"} <= taught  # 07 and 08 are set as a whole


# --- the right functions are those of the package ---


def cases(name: str):
    return [(case, CHECKS[name].right(*copy.deepcopy(case))) for case in CHECKS[name].cases]


def test_right_functions_on_views_agree_with_the_package():
    for (patch, frames), right in cases("translate"):
        assert same(augment.translate(patch[None], torch.tensor([frames]), torch.tensor([0]))[0], right)
    for (patch, _, amount), _ in cases("sharpen"):
        padded = torch.nn.functional.pad(patch[None], (1, 1, 1, 1), mode="replicate")
        mean = torch.nn.functional.avg_pool2d(padded, 3, 1)[0]
        right = CHECKS["sharpen"].right(patch, mean, amount)
        assert same(augment.sharpen(patch[None], torch.tensor([amount]))[0], right)


def test_right_functions_on_selection_agree_with_the_package():
    for (logits, threshold), right in cases("keep"):
        found = select(logits[None], replace(experiments.FM, threshold=threshold))
        assert same((found.labels, found.mask), right)
    for (logits, temperature), right in cases("tempered_softmax"):
        assert same(temperature_softmax(torch.tensor(logits), temperature), right)
    for (probabilities,), right in cases("mean_minus_std"):
        found = select(torch.tensor(probabilities).log(), replace(experiments.FMUC, temperature=1.0))
        assert same((found.labels, found.score), right)
    for (net,), right in cases("mc_ready"):
        modes = CHECKS["mc_ready"].read(right)
        with prediction_mode(net, dropout=True):
            assert [module.training for module in net.modules()] == modes


def test_right_functions_on_features_agree_with_the_package():
    for (samples, window, hop), right in cases("frame_count"):
        features = Features(sample_rate=16_000, window=window, hop=hop, mel_bands=8, patch_frames=2)
        assert log_mel(np.zeros(samples, np.float32), features).shape == (8, right)
    for (spectrogram, frames), right in cases("cut"):
        assert same(cut_patches(torch.tensor(spectrogram), frames), right)


def test_right_functions_on_results_agree_with_the_package():
    for (true, pseudo, kept, classes), right in cases("confusion"):
        counts = PseudoLabelCounts(classes)
        counts.update(torch.tensor(true), PseudoLabels(torch.tensor(pseudo), torch.tensor(kept), torch.tensor(kept)))
        assert same(counts.kept[:classes], right)
        rates = metrics.quality(right), metrics.quantity(right, counts.seen.numpy())
        assert same(CHECKS["quality_and_quantity"].right(true, pseudo, kept), rates)
    for (counts,), right in cases("shares_of_true_class"):
        assert same(metrics.row_normalised(counts), right)
    for (probabilities, file_of_patch), right in cases("classes_of_files"):
        assert same(metrics.filewise_probabilities(probabilities, file_of_patch).argmax(axis=1), right)
    for (confidence, was_right, bins), right in cases("calibration_error"):
        assert same(metrics.expected_calibration_error(confidence, was_right, bins), right)
    for (ours, papers), right in cases("rank_correlation"):
        assert same(stats.spearmanr(ours, papers).statistic, right)
    for (values, level), right in cases("t_interval"):
        known = stats.t.interval(level, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
        assert same(tuple(known), right)
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


def forgets(x):
    x + x


def fails(x):
    return x.no_such_thing


@pytest.mark.parametrize(("answer", "said"), [
    (twice, ""),
    (lambda x: [[2.0, 4.0, 6.0]], ""),
    (lambda x: x * x, "This is the square."),
    (in_place, "in_place changes its argument in place"),
    (forgets, "forgets returns None: is a `return` missing?"),
    (fails, r"fails\(\[\[1., 2., 3.\]\]\) raises AttributeError"),
    (lambda x: 2 * x[0], r"the result has the shape \(3,\), it should have \(1, 3\)"),
    (lambda x: 3 * x, r"gives \[\[3., 6., 9.\]\], it should be \[\[2., 4., 6.\]\]"),
    (lambda x: "six", "it should"),
    (lambda x: {1: 2}, "it should"),
    (lambda x: (x, x), "it should"),
    (lambda x: [[1.0], [2.0, 3.0]], "it should"),
    (lambda x: 2 * x + np.array([0, 0, np.nan]), "nan"),
])
def test_judgement(answer, said):
    found = judge(answer, DOUBLE)
    assert (re.search(said, found) if said else not found), found


def softmax_by_torch(logits, temperature):
    return torch.softmax(torch.tensor(logits) / temperature, dim=-1)


def confusion_by_loop(true, pseudo, kept, classes):
    counts = [[0] * classes for _ in range(classes)]
    for row, column, is_kept in zip(true, pseudo, kept, strict=True):
        counts[row][column] += int(is_kept)
    return counts


def interval_by_scipy(values, level):
    return stats.t.interval(level, len(values) - 1, loc=values.mean(), scale=stats.sem(values))


def sample_deviation_by_hand(probabilities):
    passes, examples, _ = probabilities.shape
    mean = sum(probabilities) / passes
    label = [int(np.argmax(row)) for row in mean]
    spread = [(sum((p[i, label[i]] - mean[i, label[i]]) ** 2 for p in probabilities) / np.float64(passes - 1)) ** 0.5
              for i in range(examples)]
    return label, [mean[i, label[i]] - spread[i] for i in range(examples)]


def patches_by_windows(spectrogram, frames):
    starts = range(0, spectrogram.shape[1] - frames + 1, frames)
    return np.stack([spectrogram[:, start : start + frames] for start in starts])


def in_per_cent(true, pseudo, kept):
    right, kept = (100 * (kept & (true == pseudo)).sum(), 100 * kept.mean())
    return right, kept


@pytest.mark.parametrize(("name", "answer", "said"), [
    ("tempered_softmax", softmax_by_torch, "^$"),
    ("confusion", confusion_by_loop, "^$"),
    ("t_interval", interval_by_scipy, "^$"),
    ("cut", patches_by_windows, "^$"),
    ("mean_minus_std", sample_deviation_by_hand, "divisor N − 1"),
    ("quality_and_quantity", in_per_cent, r"gives \(300, .*\), it should be \(0.75, "),
    ("keep", lambda logits, threshold: logits.argmax(dim=1), "it should be"),
    ("compress", lambda magnitudes: magnitudes, "it should be"),
])
def test_answers_in_other_words(name, answer, said):
    assert re.search(said, judge(named(answer, name), CHECKS[name]))


@pytest.mark.parametrize("wrong", [3, lambda x: x, np.ones(2), None])
def test_what_is_no_exercise_is_named(wrong, capsys):
    check(wrong)
    assert "no exercise has the name of" in capsys.readouterr().out


# --- notebooks ---


@each_source
def test_untouched_exercises_execute_and_reject(source, capsys):
    names: dict = {}
    for cell in exercises.cells(source, solved=False):
        if cell.cell_type == "code":
            exec(cell.source, names)
    said = capsys.readouterr().out.splitlines()
    assert len(said) == len(source.exercises)
    assert all(line.startswith("not yet written") for line in said)


@each_source
def test_stored_solutions_execute_and_are_accepted(source, capsys):
    names: dict = {}
    stored = notebooks.read(exercises.SOLUTIONS / exercises.notebook(source).name)
    for cell in stored.cells:
        if cell.cell_type == "code":
            exec(cell.source, names)
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said] == [exercise.name for exercise in source.exercises]
    assert all(": right" in line for line in said), said


def test_solutions_are_no_notebooks_of_the_batch():
    assert not [path for path in notebooks.find() if path.parent.name == "solutions"]


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """One notebook and the guide in a folder of their own, the exercises not yet in the notebook."""
    source = SOURCES[0]
    whole = exercises.notebook(source)
    cells = [cell for cell in notebooks.read(whole).cells if not cell.id.startswith(exercises.PREFIX)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / whole.name)
    (tmp_path / "guide.md").write_text("# Guide\n<!-- mistakes -->\n<!-- /mistakes -->\n", encoding="utf-8")
    find = notebooks.find
    monkeypatch.setattr(notebooks, "find", lambda only=None: [tmp_path / path.name for path in find(only)])
    monkeypatch.setattr(exercises, "SOLUTIONS", tmp_path / "solutions")
    monkeypatch.setattr(exercises, "GUIDE", tmp_path / "guide.md")
    return SimpleNamespace(number=source.number, path=tmp_path / whole.name, before=cells)


def test_drift_is_found_and_mended(copies, capsys):
    arguments = ["--only", copies.number]
    assert exercises.main(["--check", *arguments]) == 1
    assert copies.path.name in capsys.readouterr().err
    assert exercises.main(["--write", *arguments]) == 0
    assert exercises.main(["--check", *arguments]) == 0
    whole = notebooks.read(copies.path)
    assert whole.cells[: len(copies.before)] == copies.before
    whole.cells[-2].source += "\n# edited"
    nbformat.write(whole, copies.path)
    assert exercises.main(["--check", *arguments]) == 1
    whole.cells.append(whole.cells.pop(0))  # a cell behind the exercises
    nbformat.write(whole, copies.path)
    exercises.write([copies.number])
    assert [cell.id for cell in notebooks.read(copies.path).cells[: len(copies.before)]] == [
        *[cell.id for cell in copies.before[1:]], copies.before[0].id]


def test_writing_again_changes_nothing_and_keeps_outputs(copies):
    exercises.write([copies.number])
    whole = notebooks.read(copies.path)
    whole.cells[-1].outputs = [nbformat.v4.new_output("stream", text="not yet written")]
    whole.cells[-1].execution_count = 7
    nbformat.write(whole, copies.path)
    before = copies.path.read_bytes()
    assert exercises.write([copies.number]) == []
    whole.cells[-3].source += "x"
    nbformat.write(whole, copies.path)
    assert exercises.write([copies.number])
    assert copies.path.read_bytes() == before


GOOD = '''# %% setup
import numpy as np

# %% exercise: A title
# A text.
#
# hint: A hint.
def one(x):
    ### BEGIN SOLUTION
    return x + 1
    ### END SOLUTION

# %% cases
cases = [(1,), (2,)]

# %% wrong
# x + 1 => x
#   Nothing was added,
#   so all stays as it was.
'''


def test_a_source_is_read(tmp_path):
    (tmp_path / "01.py").write_text(GOOD, encoding="utf-8")
    setup, (exercise,) = read(tmp_path / "01.py")
    assert setup == exercise.setup == "import numpy as np"
    assert (exercise.title, exercise.text, exercise.hints) == ("A title", "A text.", ["A hint."])
    assert exercise.stub == "def one(x):\n    raise NotImplementedError"
    assert exercise.solution == "def one(x):\n    return x + 1"
    known = exercise.check()
    assert (known.cases, known.right(1)) == ([(1,), (2,)], 2)
    assert judge(named(lambda x: x, "one"), known) == "Nothing was added, so all stays as it was."


@pytest.mark.parametrize(("part", "instead"), [
    ("# %% setup", "# %% imports"), ("# hint: A hint.\n", ""), ("# A text.\n", ""), ("    ### END SOLUTION\n", ""),
    ("def one(x):", "if True:"), ("x + 1 =>", "x + 2 =>"), (" => x", ""), ("#   Nothing", "# Nothing"),
])
def test_a_broken_source_is_named(tmp_path, part, instead):
    assert part in GOOD
    (tmp_path / "01.py").write_text(GOOD.replace(part, instead), encoding="utf-8")
    with pytest.raises(FmucError, match=r"01.py: the part '# %% \w+.*' is not as"):
        read(tmp_path / "01.py")


def test_unknown_number_is_one_line(capsys):
    assert exercises.main(["--check", "--only", "77"]) == 1
    assert capsys.readouterr().err.startswith("error: no exercises")
