"""What is committed agrees with itself: records, tables, data of figures, notebooks, README and docs.

Nothing is trained, drawn or executed, and only committed files are read, so that this holds after a reproduction on any
machine. Numbers are compared with a tolerance, pictures only by their checksums.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from fmuc import figures, paths, tables
from fmuc.experiments import STUDIES, plan, presets
from fmuc.machinery import notebooks
from fmuc.metrics import quality, quantity
from fmuc.records import Record, load_record, sealed
from tools import outputs, readme

RECORDS, FIGURES = paths.SHIPPED_RECORDS / "mini", paths.FIGURES / "mini"
PARTS = ("test", "unlabelled")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def same(text: str, other: str) -> bool:
    """Whether two texts differ at most in the last digits of their numbers."""
    first, second = (NUMBER.findall(part) for part in (text, other))
    return NUMBER.sub("#", text) == NUMBER.sub("#", other) and np.allclose(
        np.array(first, float), np.array(second, float), rtol=1e-4)


# --- what must hold; each function yields what is wrong ---


def wrong_in_record(folder: Path) -> Iterator[str]:
    record = load_record(folder)
    training, steps = record.run.training, record.run.training.iterations_per_epoch if record.run.selection else 0
    if folder.name != record.run.name or len(record.kept) != training.epochs:
        yield "name or epochs"
    if (record.kept < 0).any() or (record.kept.sum(axis=2) > record.seen * (1 + 1e-5)).any():  # sums of weights
        yield "more kept"
    if (record.seen.sum(axis=1) != steps * training.unlabelled_batch).any():
        yield "examples seen"
    computed = {"quality": [quality(kept) for kept in record.kept],
                "quantity": [quantity(kept, seen) for kept, seen in zip(record.kept, record.seen, strict=True)]}
    for column, values in computed.items():
        if not np.allclose(record.history[column], values, rtol=1e-5, equal_nan=True):
            yield f"{column} of the history"
    for part in PARTS:
        yield from _wrong_accuracy(record, part)
    split = json.loads((folder / "split.json").read_text())
    ids = [*split["labelled"], *(i.decode() for part in PARTS for i in record.files[f"{part}_ids"])]
    drawn = record.run.seed if record.run.split_seed is None else record.run.split_seed
    if len(set(ids)) < len(ids) or split["seed"] != drawn:
        yield "split"


def _wrong_accuracy(record: Record, part: str) -> Iterator[str]:
    """The last accuracy against the probabilities, whose rounding to float16 may make two equal; the mean of the last
    ten against the history and against how often each file was right."""
    labels, probabilities = record.files[f"{part}_labels"], record.files[f"{part}_probabilities"]
    known = labels >= 0
    if not known.any():
        return
    probabilities, labels = probabilities[known], labels[known]
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)
    ties, best = (probabilities == own).sum(axis=1) > 1, (probabilities <= own).all(axis=1)
    history = record.history[f"{part}_accuracy"].dropna()
    for value in (record.results[f"{part}_accuracy_last"], history.iloc[-1]):
        if not (best & ~ties).mean() - 1e-6 <= value <= best.mean() + 1e-6:
            yield f"last {part} accuracy"
    for value in (history.iloc[-10:].mean(), record.files[f"{part}_correct"][known].astype(float).mean()):
        if not np.isclose(value, record.results[f"{part}_accuracy"], atol=1e-3):
            yield f"{part} accuracy"


def wrong_in_figures(folder: Path, records: list[Record]) -> Iterator[str]:
    """Tables and curves against the records, and the provenance of every file."""
    names = presets("mini")
    ones = [tables.table1(records, name, preset.training.epochs) for name, preset in names.items()]
    ones = [tables.format_table1(one, name) for one, name in zip(ones, names, strict=True)]
    twos = [tables.format_table2(tables.table2(records, name), name) for name in names]
    curves = [tables.history_table(records, name, ("FM", "FMUC")).assign(dataset=name) for name in names]
    frames = {"table1": pd.concat(ones, axis=1), "table2": pd.concat(twos), "fig2b_quantity": pd.concat(curves)}
    for name, frame in frames.items():
        if not same((folder / f"{name}.csv").read_text(), figures.csv_bytes(frame).decode()):
            yield f"{name}.csv is not what the records give"
    studies = (load_record(path) for study in STUDIES for path in (paths.SHIPPED_RECORDS / study).iterdir())
    digests, listed = {record.run.name: record.digest for record in (*records, *studies)}, set()
    for row in figures.manifest(folder):
        if row["runs"].items() - digests.items():
            yield f"{row['name']} was made from other records"
        listed |= row["files"].keys()
        for file, digest in row["files"].items():
            if not (folder / file).is_file() or sha256((folder / file).read_bytes()).hexdigest() != digest:
                yield f"{file} is not the file that was saved"
    if unlisted := {path.name for path in folder.glob("*.*")} - listed - {"manifest.json"}:
        yield f"{unlisted} have no provenance"


def wrong_in_notebook(path: Path) -> Iterator[str]:
    metadata = nbformat.read(path, as_version=4).metadata.get("fmuc", {})
    if metadata.get("records") != notebooks.records_digest(RECORDS):
        yield "was executed with other records"
    if metadata.get("outputs") != outputs.outputs_digest(notebooks.read(path)):
        yield "code or outputs are not as they were when it was executed"


def wrong_in_pages(computed: dict[Path, str], texts: dict[Path, str]) -> list[str]:
    """Names of the pages whose texts are not what the records say."""
    return [page.name for page, text in computed.items() if not same(texts[page], text)]


# --- what is committed is right ---


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [load_record(RECORDS / run.name) for run in plan("mini")]


def test_records_are_those_of_the_plan_and_agree_with_themselves():
    assert {path.name for path in RECORDS.iterdir()} == {run.name for run in plan("mini")}
    for folder in paths.SHIPPED_RECORDS.iterdir():
        assert {path.name for path in folder.iterdir()} <= {run.name for run in plan(folder.name)}
    everything = [*paths.SHIPPED_RECORDS.glob("*/*")]
    assert not {path.name: wrong for path in everything if (wrong := [*wrong_in_record(path)])}
    assert len({load_record(path).provenance["code"] for path in everything}) == 1


def test_runs_of_one_data_set_saw_the_same_files(records):
    for name in {record.run.dataset for record in records}:
        assert len({r.provenance["dataset_digest"] for r in records if r.run.dataset == name}) == 1


def test_figures_are_those_of_the_records(records):
    assert not [*wrong_in_figures(FIGURES, records)]


@pytest.mark.parametrize("path", notebooks.find(), ids=lambda path: path.stem)
def test_notebooks_show_the_records(path):
    assert not [*wrong_in_notebook(path)]


def test_pages_show_the_records_and_a_changed_one_is_found():
    computed = readme.pages("mini")
    texts = {page: page.read_text(encoding="utf-8") for page in computed}
    assert not wrong_in_pages(computed, texts)
    texts[readme.RESULTS] = re.sub(r"\d\.\d ± ", "9.9 ± ", texts[readme.RESULTS])
    assert wrong_in_pages(computed, texts) == [readme.RESULTS.name]


# --- and would be wrong if something were changed ---


def edit_arrays(path: Path, edit: Callable[[dict[str, np.ndarray]], object]) -> None:
    with np.load(path) as arrays:
        content = {name: arrays[name] for name in arrays.files}
    edit(content)
    np.savez_compressed(path, **content)


def edit_text(path: Path, pattern: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert re.search(pattern, text)
    path.write_text(re.sub(pattern, new, text, count=1), encoding="utf-8")


@pytest.mark.parametrize(("corrupt", "wrong"), [
    (lambda at: edit_text(at / "history.csv", r"(?m)^(3,[^,]+,[^,]+,)[^,]+", r"\g<1>0.123"), "quality of the history"),
    (lambda at: edit_arrays(at / "counts.npz", lambda a: a["kept"].__setitem__((1, 0, 0), 10**6)), "more kept"),
    (lambda at: edit_arrays(at / "counts.npz", lambda a: a["seen"].__setitem__((1, -1), 7)), "examples seen"),
    (lambda at: edit_arrays(at / "files.npz", lambda a: a.update(test_labels=a["test_labels"][::-1])),
     "last test accuracy"),
    (lambda at: edit_text(at / "run.json", r'"test_accuracy": [\d.]+', '"test_accuracy": 0.987'), "test accuracy"),
    (lambda at: edit_arrays(at / "files.npz", lambda a: a.update(test_correct=a["test_correct"] * 0)), "test accuracy"),
    (lambda at: edit_text(at / "split.json", r'"seed": \d', '"seed": 7'), "split"),
], ids=["history", "kept", "seen", "predictions", "accuracy", "right files", "split"])
def test_a_changed_record_is_found_though_its_checksums_are_right(tmp_path, corrupt, wrong):
    (original,) = RECORDS.glob("nsynth-gm_fmuc_s1_*")
    folder = shutil.copytree(original, tmp_path / original.name)
    corrupt(folder)
    content = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(sealed(content, folder)))
    assert wrong in [*wrong_in_record(folder)]


@pytest.mark.parametrize(("corrupt", "wrong"), [
    (lambda at: edit_text(at / "table1.csv", r"\d\.\d ±", "9.9 ±"), "table1.csv is not what the records give"),
    (lambda at: (at / "fig1.svg").write_text("<svg/>"), "fig1.svg is not the file that was saved"),
    (lambda at: (at / "fig9.csv").write_text("1"), "{'fig9.csv'} have no provenance"),
], ids=["table", "picture", "stray file"])
def test_a_changed_figure_is_found(tmp_path, records, corrupt, wrong):
    corrupt(shutil.copytree(FIGURES, tmp_path / "mini"))
    assert wrong in [*wrong_in_figures(tmp_path / "mini", records)]


def test_figures_of_other_records_are_found(records):
    other = [record for record in records if record.run.seed]
    assert "table1 was made from other records" in [*wrong_in_figures(FIGURES, other)]


def test_a_changed_notebook_is_found(tmp_path):
    copy = Path(shutil.copy(notebooks.find()[-1], tmp_path))
    edit_text(copy, '"from fmuc import', '"from  fmuc import')
    assert [*wrong_in_notebook(copy)]
