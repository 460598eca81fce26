"""What is committed agrees with itself: records, tables, data of figures, notebooks, README and docs.

Nothing is trained, drawn or executed, and only committed files are read, so that this holds after a reproduction on any
machine. Numbers are compared with a tolerance, pictures only by their checksums.
"""

from __future__ import annotations

import json
import re
from hashlib import sha256

import nbformat
import numpy as np
import pandas as pd
import pytest

from fmuc import figures, paths, tables
from fmuc.experiments import plan, presets
from fmuc.machinery import notebooks
from fmuc.metrics import quality, quantity
from fmuc.records import Record, load_record
from tools import outputs, readme

STORED = sorted(paths.SHIPPED_RECORDS.glob("*/*"))
RECORDS, FIGURES = paths.SHIPPED_RECORDS / "mini", paths.FIGURES / "mini"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def same(text: str, other: str) -> bool:
    """Whether two texts differ at most in the last digits of their numbers."""
    first, second = (NUMBER.findall(part) for part in (text, other))
    return NUMBER.sub("#", text) == NUMBER.sub("#", other) and np.allclose(
        np.array(first, float), np.array(second, float), rtol=1e-4)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [load_record(RECORDS / run.name) for run in plan("mini")]


# --- records ---------------------------------------------------------------------------------------------------------

def test_records_are_those_of_the_plan():
    assert {path.name for path in RECORDS.iterdir()} == {run.name for run in plan("mini")}
    for folder in paths.SHIPPED_RECORDS.iterdir():
        assert {path.name for path in folder.iterdir()} <= {run.name for run in plan(folder.name)}


def test_all_runs_are_of_one_code_and_those_of_a_data_set_saw_the_same_files(records):
    assert len({json.loads((path / "run.json").read_text())["provenance"]["code"] for path in STORED}) == 1
    saw = {(record.run.dataset, record.provenance["dataset_digest"]) for record in records}
    assert len(saw) == len({dataset for dataset, _ in saw})


@pytest.mark.parametrize("folder", STORED, ids=lambda path: path.name)
def test_a_record_agrees_with_itself(folder):
    record = load_record(folder)
    run, history, kept, seen = record.run, record.history, record.kept, record.seen
    assert folder.name == run.name and len(kept) == run.training.epochs
    assert (kept >= 0).all() and (kept.sum(axis=2) <= seen * (1 + 1e-5)).all()  # kept are sums of weights
    steps = run.training.iterations_per_epoch if run.selection else 0
    assert (seen.sum(axis=1) == steps * run.training.unlabelled_batch).all()
    counted = [[quality(kept[i]), quantity(kept[i], seen[i])] for i in range(len(kept))]
    np.testing.assert_allclose(history[["quality", "quantity"]], counted, rtol=1e-5)
    for part in tables.PARTS:
        check_accuracy(record, part)
    split = json.loads((folder / "split.json").read_text())
    ids = [*split["labelled"], *(i.decode() for part in tables.PARTS for i in record.files[f"{part}_ids"])]
    assert len(set(ids)) == len(ids)
    assert split["seed"] == (run.seed if run.split_seed is None else run.split_seed)


def check_accuracy(record: Record, part: str) -> None:
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
        assert (best & ~ties).mean() - 1e-6 <= value <= best.mean() + 1e-6
    for value in (history.iloc[-10:].mean(), record.files[f"{part}_correct"][known].astype(float).mean()):
        assert value == pytest.approx(record.results[f"{part}_accuracy"], abs=1e-3)


# --- figures, notebooks, pages ---------------------------------------------------------------------------------------

def test_tables_and_curves_are_those_of_the_records(records):
    names = presets("mini")
    ones = [tables.table1(records, name, preset.training.epochs) for name, preset in names.items()]
    ones = [tables.format_table1(one, name) for one, name in zip(ones, names, strict=True)]
    twos = [tables.format_table2(tables.table2(records, name), name) for name in names]
    curves = [tables.history_table(records, name, ("FM", "FMUC")).assign(dataset=name) for name in names]
    frames = {"table1": pd.concat(ones, axis=1), "table2": pd.concat(twos), "fig2b_quantity": pd.concat(curves)}
    for name, frame in frames.items():
        assert same((FIGURES / f"{name}.csv").read_text(), figures.csv_bytes(frame).decode()), name


def test_every_figure_is_the_file_that_was_made_from_these_records():
    digests, listed = {path.name: load_record(path).digest for path in STORED}, {}
    for row in figures.manifest(FIGURES):
        assert row["runs"].items() <= digests.items(), f"{row['name']} was made from other records"
        listed |= row["files"]
    found = {path.name: sha256(path.read_bytes()).hexdigest() for path in FIGURES.glob("*.*")}
    del found["manifest.json"]
    assert found == listed


@pytest.mark.parametrize("path", notebooks.find(), ids=lambda path: path.stem)
def test_notebooks_show_the_records(path):
    metadata = nbformat.read(path, as_version=4).metadata["fmuc"]
    assert metadata["records"] == notebooks.records_digest("mini", "shipped")
    assert metadata["outputs"] == outputs.outputs_digest(notebooks.read(path))  # as they were when it was executed


def test_pages_show_the_records():
    for page, text in readme.pages("mini").items():
        assert same(page.read_text(encoding="utf-8"), text), page
