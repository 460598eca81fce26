from __future__ import annotations

import getpass
import json
import pickle
import platform
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fmuc import paths
from fmuc.config import Run
from fmuc.errors import FmucError
from fmuc.experiments import make_run, plan
from fmuc.records import FILES, Record, find, is_finished, load_all, load_record, provenance, save_record, sealed, ship

CLASSES = ("bass", "flute", "vocal")


def record(run: Run, epochs: int = 4) -> Record:
    rng = np.random.default_rng(run.seed)
    seen = rng.integers(5, 9, (epochs, 4))
    history = pd.DataFrame({"epoch": range(1, epochs + 1), "loss_labelled": rng.random(epochs).round(4),
                            "quality": [np.nan, *rng.random(epochs - 1).round(4)]}).set_index("epoch")
    files = {"test_labels": np.array([0, 2]), "test_probabilities": rng.random((2, 3)).astype(np.float16),
             "test_ids": np.array(["a", "b-é".encode()], dtype="S")}
    results, origin = {"test_accuracy": 0.5, "test_files": 2}, {"device": "cpu", "wall_seconds": 1.5}
    scores = {"epochs": np.array([1, epochs]), "patches": np.array([3, 8]), "ids": files["test_ids"],
              "offset": np.array([0, 1]), "truth": np.array([-1, 2]),
              "plain": rng.standard_normal((2, 2, 3)).astype(np.float16),
              "passes": rng.standard_normal((2, 5, 2, 3)).astype(np.float16),
              "labels": rng.integers(0, 3, (2, 2)), "kept": rng.random((2, 2)) > 0.5}
    return Record(run, CLASSES, results, origin, history, rng.integers(0, 5, (epochs, 4, 3)), seen, files, scores)


RUN = make_run("smoke", "nsynth-gm-smoke", "FMUC")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a record of ``RUN``."""
    folder = tmp_path / RUN.name
    folder.mkdir()
    (folder / "split.json").write_text("{}")
    save_record(record(RUN), folder)
    return folder


def test_a_record_read_back_is_the_same(folder):
    before, after = record(RUN), load_record(folder)
    assert (after.run, after.classes, after.results, after.provenance) == (
        before.run, before.classes, before.results, before.provenance)
    pd.testing.assert_frame_equal(after.history, before.history)
    for first, second in ((before.kept, after.kept), (before.seen, after.seen)):
        np.testing.assert_array_equal(first, second)
    assert before.files.keys() == after.files.keys()
    assert all(np.array_equal(before.files[name], values) for name, values in after.files.items())
    assert before.scores.keys() == after.scores.keys()
    assert all(np.array_equal(before.scores[name], values) for name, values in after.scores.items())
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)


def test_counts_of_some_epochs(folder):
    r = load_record(folder)
    kept, seen = r.counts(2, 3)
    np.testing.assert_array_equal(kept, r.kept[1] + r.kept[2])
    np.testing.assert_array_equal(seen, r.seen[1] + r.seen[2])
    np.testing.assert_array_equal(r.counts(4, 4)[0], r.kept[3])


def test_run_json_is_the_last_file_and_is_what_makes_a_run_finished(tmp_path, monkeypatch):
    monkeypatch.setattr(np, "savez_compressed", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_record(record(RUN), tmp_path)
    assert not is_finished(tmp_path) and not is_finished(tmp_path / "nothing here")


def reseal(folder: Path, edit: Callable[[dict], object] = lambda content: None) -> None:
    """Edit ``run.json`` and make all checksums right, as somebody would who wants it to be believed."""
    content = json.loads((folder / "run.json").read_text())
    edit(content)
    (folder / "run.json").write_text(json.dumps(sealed(content, folder)))


def edit_config(content: dict) -> None:
    content["config"]["selection"]["threshold"] = 0.5


@pytest.mark.parametrize(("edit", "named"), [
    (edit_config, RUN.id),
    (lambda content: content.update(format=99), "format 99"),
    (lambda content: content["config"].update(colour="red"), "colour"),
    (lambda content: content["config"]["training"].update(epochs=-1), "training.epochs"),
    (lambda content: content["config"]["network"].update(widths=[8, 10**12, 32]), "network.widths"),
    (lambda content: content["config"].update(features=[1]), "run.features"),
    (lambda content: content.update(classes=["bass"]), "do not fit"),
    (lambda content: content.update(classes=["bass", 1, "vocal"]), "classes"),
    (lambda content: content.update(format="9" * 5000), "format '999"),
    (lambda content: content.pop("config"), "config"),
    (lambda content: content.pop("id"), "id"),
    (lambda content: content.pop("classes"), "classes"),
    (lambda content: content.pop("results"), "results"),
    (lambda content: content.pop("provenance"), "provenance"),
], ids=["edited config", "format", "unknown key", "wrong value", "huge net", "list", "classes", "no name", "long",
        "no config", "no id", "no classes", "no results", "no provenance"])
def test_an_edited_run_json_is_refused_in_one_line(folder, edit: Callable[[dict], object], named):
    reseal(folder, edit)
    with pytest.raises(FmucError, match=f"{RUN.name}.*{named}.*train") as caught:
        load_record(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut"])
@pytest.mark.parametrize("name", ["run.json", "history.csv", "counts.npz", "files.npz", "scores.npz"])
def test_a_damaged_file_is_refused_in_one_line(folder, name, damage):
    path = folder / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "text": b"hello", "cut": content[: len(content) // 2]}[damage])
    with pytest.raises(FmucError, match=f"{RUN.name}.*train") as caught:
        load_record(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_file_is_noticed_although_it_can_be_read(folder, name):
    path = folder / name
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            np.savez_compressed(path, **{key: arrays[key] + (key in ("seen", "test_labels", "truth"))
                                         for key in arrays.files if key not in ("kept", "test_ids", "ids")},
                                **{key: arrays[key] for key in ("kept", "test_ids", "ids") if key in arrays.files})
    else:
        text = path.read_text()
        path.write_text(text.replace('"test_accuracy": 0.5', '"test_accuracy": 0.6') if name == "run.json" else
                        text.replace("0.", "0.1", 1) if name == "history.csv" else '{"seed": 1}')
    with pytest.raises(FmucError, match=f"{RUN.name}: {name} is not as it was when the run ended"):
        load_record(folder)


def test_a_file_that_was_added_or_taken_away_is_noticed(folder):
    (folder / "split.json").unlink()
    with pytest.raises(FmucError, match="split.json is not as it was"):
        load_record(folder)


def test_an_epoch_that_is_missing_in_one_file_is_noticed(folder):
    lines = (folder / "history.csv").read_text().splitlines()
    (folder / "history.csv").write_text("\n".join(lines[:-1]) + "\n")
    reseal(folder)
    with pytest.raises(FmucError, match="do not fit together"):
        load_record(folder)


class Trap:
    """Raises when unpickled."""

    def __reduce__(self) -> tuple:
        return exec, ("raise SystemExit('code from a record was run')",)


def test_a_record_cannot_run_code(folder):
    for name in ("counts.npz", "files.npz"):
        original = (folder / name).read_bytes()
        np.savez(folder / name, kept=np.array([Trap()], dtype=object), seen=np.array([Trap()], dtype=object))
        reseal(folder)
        with pytest.raises(FmucError, match=f"not a readable run record .{name}: ValueError: holds object"):
            load_record(folder)
        (folder / name).write_bytes(pickle.dumps(Trap()))
        reseal(folder)
        with pytest.raises(FmucError, match="not a readable run record"):
            load_record(folder)
        (folder / name).write_bytes(original)
    reseal(folder)
    assert load_record(folder).run == RUN


@pytest.mark.parametrize(("lines", "named"), [
    (["epoch,quality", "1,0.5", "3,0.5"], "epochs are not 1, 2, 3"),
    (["epoch,quality", "1,0.5", "2,<b>half</b>"], "column quality holds other things than numbers"),
    (["quality", "0.5", "0.5"], "history.csv.*epoch"),
])
def test_a_history_of_other_things_is_named(folder, lines, named):
    (folder / "history.csv").write_text("\n".join(lines) + "\n")
    reseal(folder)
    with pytest.raises(FmucError, match=f"{RUN.name}.*{named}") as caught:
        load_record(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "change"), [("plain", lambda a: a[..., 1:]), ("labels", lambda a: a[:1]),
                                              ("truth", lambda a: a.astype(float)), ("kept", lambda a: a.astype(int))])
def test_scores_that_do_not_fit_together_are_refused(folder, name, change):
    scores = record(RUN).scores
    save_record(replace(record(RUN), scores=scores | {name: change(scores[name])}), folder)
    with pytest.raises(FmucError, match=rf"scores.npz: .*{name} is"):
        load_record(folder)


def test_a_record_without_scores_is_one(folder):
    (folder / "scores.npz").unlink()
    save_record(replace(record(RUN), scores={}), folder)
    assert load_record(folder).scores == {}


def test_a_record_is_named_by_all_its_files(folder):
    before = load_record(folder).digest
    assert load_record(folder).digest == before and len(before) == 12
    (folder / "split.json").write_text('{"seed": 1}')
    reseal(folder)
    assert load_record(folder).digest != before


def test_provenance_names_versions_and_no_person_or_host():
    found = provenance("cpu", 2, 12.345)
    assert {"fmuc", "commit", "python", "torch", "torchaudio", "librosa", "numpy", "platform"} < found.keys()
    assert (found["device"], found["threads"], found["wall_seconds"]) == ("cpu", 2, 12.3)
    text = json.dumps(found)
    assert platform.node() not in text and str(paths.ROOT) not in text
    assert getpass.getuser() not in {str(value) for value in found.values()}


def test_provenance_does_without_git(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))  # a run that took days must not fail for this in the end
    assert provenance("cpu", 1, 1.0)["commit"] == "unknown"


# Many records


@pytest.fixture
def smoke_runs(data_root: Path) -> Path:
    """The runs folder of the profile smoke with records of its first three runs."""
    for run in plan("smoke")[:3]:
        folder = paths.runs_dir("smoke") / run.name
        folder.mkdir(parents=True)
        (folder / "split.json").write_text("{}")
        save_record(record(run), folder)
    return paths.runs_dir("smoke")


def test_all_records_come_in_the_order_of_the_plan(smoke_runs):
    (smoke_runs / plan("smoke")[5].name).mkdir()  # begun, not finished
    other = replace(plan("smoke")[0], labelled_share=0.5)
    (smoke_runs / other.name).mkdir()
    save_record(record(other), smoke_runs / other.name)
    assert [r.run for r in load_all("smoke")] == plan("smoke")[:3]


def test_no_records_are_told_from_records_of_other_configurations(smoke_runs, data_root):
    for folder in smoke_runs.iterdir():
        folder.rename(folder.with_name(folder.name[:-1] + "x"))
    with pytest.raises(FmucError, match="only run records of other configurations.*reproduce --profile smoke"):
        load_all("smoke")
    smoke_runs.rename(data_root / "elsewhere")
    with pytest.raises(FmucError, match="^no run records.*reproduce --profile smoke"):
        load_all("smoke")
    with pytest.raises(FmucError, match="maxi"):
        load_all("maxi")


def test_find_selects_and_sorts_by_seed():
    runs = plan("smoke")
    records = [record(run) for run in reversed(runs)]
    assert [r.run.seed for r in find(records, "nsynth-gm-smoke", "FM")] == [0, 1]
    assert [r.run.seed for r in find(records, "nsynth-gm-smoke", "FM", 1)] == [1]
    assert find(records, "nsynth-gm-smoke", "FM", 7) == find(records, "nsynth", "FM") == []


def test_ship_copies_records_and_nothing_else(smoke_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "SHIPPED_RECORDS", tmp_path / "records")
    first, second, third, fourth = plan("smoke")[:4]
    (smoke_runs / first.name / "checkpoint.safetensors").write_bytes(b"large")
    (tmp_path / "records" / "smoke" / "stale").mkdir(parents=True)
    copied = ship("smoke", [first, second])
    assert {path.name for path in copied} == {first.name, second.name}
    assert {path.name for path in (copied[0]).iterdir()} == set(FILES)
    assert [r.run for r in load_all("smoke", "shipped")] == [first, second]
    with pytest.raises(FmucError, match=fourth.name):
        ship("smoke", [third, fourth])
    assert [r.run for r in load_all("smoke", "shipped")] == [first, second]  # untouched
    assert [path.name for path in (tmp_path / "records").iterdir()] == ["smoke"]
