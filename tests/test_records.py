from __future__ import annotations

import getpass
import json
import os
import pickle
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from synthetic_records import synthetic_record, with_files, with_pool

from fmuc import paths, records
from fmuc.config import Run
from fmuc.errors import FmucError
from fmuc.experiments import make_run, plan
from fmuc.records import FILES, Record, belongs, load_all, load_record, save_record


def record(run: Run) -> Record:
    """A fabricated record of ``run`` with every kind of array, names in bytes and other letters among them."""
    rng = np.random.default_rng(run.seed)
    scores = {"epochs": np.array([1, 4]), "ids": np.array(["a", "b-é".encode()], dtype="S"),
              "passes": rng.standard_normal((2, 5, 2, 3)).astype(np.float16), "kept": rng.random((2, 2)) > 0.5}
    made = with_pool(with_files(synthetic_record("FMUC", [np.nan, 0.5, 0.6, 0.7], [0.0, 0.5, 0.5, 0.5])), 0.5)
    return replace(made, run=run, results={"test_accuracy": 0.5}, scores=scores)


RUN = make_run("smoke", "nsynth-gm-smoke", "FMUC")


def saved(run: Run, runs: Path) -> Path:
    """A folder below ``runs`` with a record of ``run``."""
    folder = runs / run.name
    folder.mkdir(parents=True)
    (folder / "split.json").write_text("{}")
    save_record(record(run), folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(RUN, tmp_path)


def test_a_record_read_back_is_the_same(folder):
    before, after = record(RUN), load_record(folder)
    assert (after.run, after.classes, after.results, after.provenance) == (
        before.run, before.classes, before.results, before.provenance)
    pd.testing.assert_frame_equal(after.history, before.history)
    assert np.array_equal(before.kept, after.kept) and np.array_equal(before.seen, after.seen)
    for part in ("files", "scores", "pool"):
        written, read = getattr(before, part), getattr(after, part)
        assert written.keys() == read.keys() and all(np.array_equal(written[name], read[name]) for name in written)
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_run_json_is_the_last_file_and_is_what_makes_a_run_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "savez_compressed", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_record(record(RUN), tmp_path)
    assert not records.is_finished(tmp_path) and not records.is_finished(tmp_path / "nothing here")


def reseal(folder: Path, edit: Callable[[dict], object] = lambda content: None) -> None:
    """Edit ``run.json`` and make all checksums right, as somebody would who wants it to be believed."""
    content = json.loads((folder / "run.json").read_text())
    edit(content)
    (folder / "run.json").write_text(json.dumps(records.sealed(content, folder)))


@pytest.mark.parametrize(("edit", "named"), [
    (lambda content: content["config"]["selection"].update(threshold=0.5), RUN.id),
    (lambda content: content.update(format=99), "format 99"),
    (lambda content: content["config"].update(colour="red"), "colour"),
    (lambda content: content.update(classes=["bass"]), "do not fit"),
    (lambda content: content.pop("provenance"), "provenance"),
], ids=["edited config", "format", "unknown key", "classes", "no provenance"])
def test_an_edited_run_json_is_refused_in_one_line(folder, edit: Callable[[dict], object], named):
    reseal(folder, edit)
    with pytest.raises(FmucError, match=f"{RUN.name}.*{named}.*train") as caught:
        load_record(folder)
    assert "\n" not in str(caught.value)


def alter(path: Path) -> None:
    """Change a file that can still be read."""
    path.write_bytes(path.read_bytes().replace(b'"test_accuracy": 0.5', b'"test_accuracy": 0.6') + b"\n")


@pytest.mark.parametrize(("damage", "named"), [
    (Path.unlink, ""), (lambda path: path.write_bytes(b"hello"), ""),
    (lambda path: os.truncate(path, path.stat().st_size // 2), ""), (alter, "{} has changed since the run ended"),
], ids=["missing", "text", "cut", "altered"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused_in_one_line(folder, name, damage, named):
    damage(folder / name)
    with pytest.raises(FmucError, match=f"{RUN.name}.*{named.format(name)}.*train") as caught:
        load_record(folder)
    assert "\n" not in str(caught.value)


class Trap:
    """Raises when unpickled."""

    def __reduce__(self) -> tuple:
        return exec, ("raise SystemExit('code from a record was run')",)


@pytest.mark.parametrize("name", ["counts.npz", "files.npz"])
def test_a_record_cannot_run_code(folder, name):
    np.savez(folder / name, kept=np.array([Trap()], dtype=object), seen=np.array([Trap()], dtype=object))
    reseal(folder)
    with pytest.raises(FmucError, match="not a valid run record .Object arrays"):
        load_record(folder)
    (folder / name).write_bytes(pickle.dumps(Trap()))
    reseal(folder)
    with pytest.raises(FmucError, match="not a valid run record"):
        load_record(folder)


def test_a_record_is_named_by_all_its_files(folder):
    before = load_record(folder).digest
    assert load_record(folder).digest == before and len(before) == 12
    (folder / "split.json").write_text('{"seed": 1}')
    reseal(folder)
    assert load_record(folder).digest != before


def test_provenance_names_versions_and_no_person_or_host():
    found = records.provenance("cpu", 2, 12.345)
    assert {"fmuc", "commit", "python", "torch", "torchaudio", "librosa", "numpy", "platform"} < found.keys()
    assert (found["device"], found["threads"], found["wall_seconds"]) == ("cpu", 2, 12.3)
    text = json.dumps(found)
    assert platform.node() not in text and str(paths.ROOT) not in text
    assert getpass.getuser() not in {str(value) for value in found.values()}


def test_comments_and_docstrings_do_not_count_in_the_digest_of_code():
    code = b"def f(x):\n    return x + 1\n"
    same = b'"""Text."""\n# comment\n\ndef f( x ):\n    """More text."""\n    return (x + 1)  # why\n'
    digest = records.source_digest({"model.py": code})
    assert digest == records.source_digest({"model.py": same}) and len(digest) == 12
    assert digest != records.source_digest({"model.py": code.replace(b"1", b"2")})
    assert digest != records.source_digest({"train.py": code})
    assert records.source_digest({"a.py": b'class E(Exception):\n    """Text."""\n'}) == records.source_digest(
        {"a.py": b"class E(Exception):\n    pass\n"})


def test_a_record_belongs_to_its_run_and_to_its_data(folder):
    digests = {"dataset_digest": "d", "features_digest": "f", "split_digest": "s"}
    assert belongs(folder, RUN, {}) and not belongs(folder, RUN, digests)  # an older record names no digest
    save_record(replace(record(RUN), provenance=records.provenance("cpu", 1, 1.0, **digests)), folder)
    assert belongs(folder, RUN, digests) and not belongs(folder, RUN, digests | {"features_digest": "other"})
    assert not belongs(folder, make_run("smoke", "nsynth-gm-smoke", "FM"), digests)
    (folder / "run.json").write_text("[" * 10**5)
    assert not belongs(folder, RUN, digests) and not belongs(folder / "missing", RUN, {})


def test_provenance_does_without_git(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))  # a run that took days must not fail for this in the end
    assert records.provenance("cpu", 1, 1.0)["commit"] == "unknown"


# Many records


def test_own_runs_of_other_variants_come_after_those_of_the_plan(data_root, monkeypatch):
    finished, folder = plan("smoke")[:3], paths.runs_dir("smoke")
    own = replace(finished[0], variant="FMUC, selection.passes=20")
    elsewhere = replace(own, dataset="my-sounds")
    other = replace(finished[0], labelled_share=0.5)  # called as a row of the plan
    for run in (*finished, own, elsewhere, other):
        saved(run, folder)
    (folder / plan("smoke")[5].name).mkdir()  # begun, not finished
    (folder / "damaged").mkdir()
    (folder / "damaged" / "run.json").write_text("{")
    assert [r.run for r in load_all("smoke")] == [*finished, own]
    assert [r.run for r in load_all("smoke", dataset=own.dataset)] == [*finished, own]
    monkeypatch.setattr(paths, "SHIPPED_RECORDS", folder.parent)
    assert [r.run for r in load_all("smoke", "shipped")] == finished


def test_no_records_are_an_error_that_names_the_remedy(data_root):
    with pytest.raises(FmucError, match="^no run records.*reproduce --profile smoke"):
        load_all("smoke")
    with pytest.raises(FmucError, match="none are shipped") as caught:
        load_all("smoke", "shipped")
    assert "reproduce" not in str(caught.value)
    with pytest.raises(FmucError, match="maxi"):
        load_all("maxi")
