"""``fmuc verify``: green on a project whose parts belong together, and every corruption is found and named."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import project_state
import pytest

from fmuc import experiments, paths, record_checks
from fmuc.__main__ import main
from fmuc.errors import FmucError
from fmuc.records import load_record, sealed
from fmuc.verify import verify


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("original")
    project_state.build(root)
    return root


@pytest.fixture
def project(original: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of a whole project that may be broken."""
    shutil.copytree(original, tmp_path / "project")
    with project_state.used(tmp_path / "project"):
        yield tmp_path / "project"


def record_of(project: Path, variant: str = "fmuc", seed: int = 1) -> Path:
    (folder,) = project.glob(f"records/mini/nsynth-gm_{variant}_s{seed}_*")
    return folder


def reseal(folder: Path, edit: Callable[[dict], object] = lambda content: None) -> None:
    """Edit ``run.json`` and make all its checksums right, as somebody would who wants the record to be believed."""
    content = json.loads((folder / "run.json").read_text())
    edit(content)
    (folder / "run.json").write_text(json.dumps(sealed(content, folder), indent=1) + "\n")


def edit_text(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def edit_arrays(path: Path, edit: Callable[[dict[str, np.ndarray]], object]) -> None:
    with np.load(path) as arrays:
        content = {name: arrays[name] for name in arrays.files}
    edit(content)
    np.savez_compressed(path, **content)


# --- the corruptions: what is done to the project, and the line that must name it ---


def flipped_byte(project: Path) -> None:
    path = record_of(project) / "counts.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def missing_record(project: Path) -> None:
    shutil.rmtree(record_of(project))


def older_format(project: Path) -> None:
    reseal(record_of(project), lambda content: content.update(format=1))


def edited_config(project: Path) -> None:
    reseal(record_of(project), lambda content: content["config"]["training"].update(learning_rate=0.01))


def edited_history(project: Path) -> None:
    folder = record_of(project)
    frame = pd.read_csv(folder / "history.csv", index_col="epoch")
    frame.loc[3, "quality"] += 0.01
    frame.to_csv(folder / "history.csv", float_format="%.6g")
    reseal(folder)


def edited_accuracy(project: Path) -> None:
    reseal(record_of(project), lambda content: content["results"].update(test_accuracy=0.987))


def swapped_predictions(project: Path) -> None:
    folder = record_of(project)
    edit_arrays(folder / "files.npz", lambda arrays: arrays.update(
        unlabelled_probabilities=np.roll(arrays["unlabelled_probabilities"], 1, axis=1)))
    reseal(folder)


def more_kept_than_seen(project: Path) -> None:
    folder = record_of(project)
    edit_arrays(folder / "counts.npz", lambda arrays: arrays["kept"].__setitem__((1, 0, 0), 29))
    reseal(folder)


def fewer_seen(project: Path) -> None:
    folder = record_of(project)
    edit_arrays(folder / "counts.npz", lambda arrays: arrays["seen"].__setitem__((2, -1), 5))
    reseal(folder)


def another_choice(project: Path) -> None:
    folder = record_of(project, seed=0)
    edit_arrays(folder / "scores.npz", lambda arrays: arrays["kept"].__setitem__((0, 2), ~arrays["kept"][0, 2]))
    reseal(folder)


def another_draw(project: Path) -> None:
    """A labelled file and an unlabelled one change places, in every file of the record."""
    folder = record_of(project)
    with np.load(folder / "files.npz") as arrays:
        other = arrays["unlabelled_ids"][0]
    content = json.loads((folder / "split.json").read_text())
    mine = content["labelled"][0]
    content["labelled"][0] = other.decode()
    (folder / "split.json").write_text(json.dumps(content))
    edit_arrays(folder / "files.npz", lambda arrays: arrays["unlabelled_ids"].__setitem__(0, mine.encode()))
    reseal(folder)


def other_data(project: Path) -> None:
    folder = record_of(project)
    edit_text(folder / "split.json", '"dataset_digest": "', '"dataset_digest": "0')
    digest = json.loads((folder / "split.json").read_text())["dataset_digest"]
    reseal(folder, lambda content: content["provenance"].update(dataset_digest=digest))


def trained_again(project: Path) -> None:
    """A sound record with other numbers in the place of the one that everything was made from."""
    folder = record_of(project)
    run = load_record(folder).run
    shutil.rmtree(folder)
    project_state.write_record(folder, run, draw=1)


def stray_record(project: Path) -> None:
    shutil.copytree(record_of(project), project / "records" / "mini" / "nsynth-gm_fmuc_s9_01234567")


def edited_table(project: Path) -> None:
    """Also the checksum of the manifest is made right."""
    path, row = project / "figures/mini/table1.md", project / "figures/mini/manifest/table1.json"
    before = sha256(path.read_bytes()).hexdigest()
    edit_text(path, "(n=2)", "(n=3)")
    edit_text(row, before, sha256(path.read_bytes()).hexdigest())


def other_picture(project: Path) -> None:
    (project / "figures/mini/fig3_confusion.png").write_bytes(b"another picture")


def drawn_again(project: Path) -> None:
    """Also the checksum of the manifest is that of the new file."""
    path, row = (project / f"figures/mini/{name}" for name in ("fig2a_quality.png", "manifest/fig2a_quality.json"))
    before = sha256(path.read_bytes()).hexdigest()
    path.write_bytes(b"other curves")
    edit_text(row, before, sha256(path.read_bytes()).hexdigest())


def picture_that_is_none(project: Path) -> None:
    edit_text(project / "notebooks/01_second.ipynb", '"image/png": {', '"image/png": 7, "other": {')


def missing_picture(project: Path) -> None:
    (project / "figures/mini/fig1.svg").unlink()


def missing_row(project: Path) -> None:
    (project / "figures/mini/manifest/table2.json").unlink()


def broken_row(project: Path) -> None:
    (project / "figures/mini/manifest/fig1.json").write_text('{"name": "fig1", "files": ["fig1.svg"]}')


def missing_table(project: Path) -> None:
    for name in ("table2.md", "table2.csv", "manifest/table2.json"):
        (project / "figures/mini" / name).unlink()


def edited_output(project: Path) -> None:
    edit_text(project / "notebooks/01_second.ipynb", "FMUC keeps 74.3 %", "FMUC keeps 94.3 %")


def edited_cell(project: Path) -> None:
    edit_text(project / "notebooks/01_second.ipynb", '"show()"', '"show(1)"')


def broken_notebook(project: Path) -> None:
    (project / "notebooks/01_second.ipynb").write_text("{")


def edited_readme(project: Path) -> None:
    text = (project / "README.md").read_text(encoding="utf-8")
    (project / "README.md").write_text(re.sub(r"(\d)\.(\d) ± ", r"\1.9 ± ", text.replace(".9 ± ", ".8 ± ")))


def readme_without_markers(project: Path) -> None:
    edit_text(project / "README.md", "<!-- claims -->", "")


CORRUPTIONS: dict[Callable[[Path], None], str] = {
    flipped_byte: r"nsynth-gm_fmuc_s1_\w+: counts\.npz is not as it was when the run ended",
    missing_record: r"nsynth-gm_fmuc_s1_\w+: is missing",
    older_format: r"nsynth-gm_fmuc_s1_\w+: record of format 1, this version reads \d: delete .* train",
    edited_config: r"nsynth-gm_fmuc_s1_\w+: its config has the id",
    edited_history: r"nsynth-gm_fmuc_s1_\w+/history\.csv: epoch 3: quality is [\d.]+, the counts give",
    edited_accuracy: r"nsynth-gm_fmuc_s1_\w+/run\.json: results: test_accuracy is 0\.987, files\.npz gives",
    swapped_predictions: r"nsynth-gm_fmuc_s1_\w+/run\.json: results: unlabelled_accuracy is .*, files\.npz gives",
    more_kept_than_seen: r"nsynth-gm_fmuc_s1_\w+/counts\.npz: epoch 2: more examples of a class are kept than were",
    fewer_seen: r"nsynth-gm_fmuc_s1_\w+/counts\.npz: epoch 3: 35 examples were seen, 3 steps of 10 make 30",
    another_choice: r"nsynth-gm_fmuc_s0_\w+/scores\.npz: epoch 1: kept are not what the run's rule makes of the",
    another_draw: r"nsynth-gm_fmuc_s1_\w+/split\.json: another draw than that of seed 1 from nsynth-gm",
    other_data: r"nsynth-gm_fmuc_s1_\w+: has other data than nsynth-gm_",
    trained_again: r"manifest/table1\.json: was made from another record of nsynth-gm_fmuc_s1_\w+ than the one there",
    stray_record: r"nsynth-gm_fmuc_s9_01234567: belongs to no run of the plan",
    edited_table: r"figures/mini/table1\.md, line \d+: has '.*\(n=3\).*', the records give '.*\(n=2\)",
    other_picture: r"figures/mini/fig3_confusion\.png: is not the file that was saved",
    drawn_again: r"01_second\.ipynb: its picture 'Curves' is no file in .*figures/mini",
    picture_that_is_none: r"01_second\.ipynb: a picture in it cannot be read",
    missing_picture: r"figures/mini/fig1\.svg: is missing",
    missing_row: r"figures/mini/table2\.csv: is in no row of the manifest",
    broken_row: r"manifest/fig1\.json: is no row of the manifest \(",
    missing_table: r"figures/mini/table2\.csv: is missing",
    edited_output: r"01_second\.ipynb: its code or outputs are not as they were",
    edited_cell: r"01_second\.ipynb: its code or outputs are not as they were",
    broken_notebook: r"01_second\.ipynb: not a readable notebook",
    edited_readme: r"README\.md: its block table1 is not what the records give",
    readme_without_markers: r"no markers for 'claims'",
}


@pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=lambda corrupt: corrupt.__name__.replace("_", " "))
def test_every_corruption_is_found_and_named(project, capsys, corrupt):
    corrupt(project)
    assert main(["verify"]) == 1
    printed = capsys.readouterr()
    problems = [line for line in printed.out.splitlines() if line.startswith("  ")]
    assert any(re.search(CORRUPTIONS[corrupt], line) for line in problems), printed.out
    assert all(len(line) < 1000 for line in problems)
    assert re.fullmatch(r"fmuc: \d+ things are not as they should be\n", printed.err)


def test_the_committed_state_is_green(tmp_path, monkeypatch, capsys):
    """Without data on the disk, as in a fresh clone."""
    monkeypatch.setenv("FMUC_DATA", str(tmp_path))
    assert main(["verify"]) == 0, capsys.readouterr().out


def test_a_whole_project_is_green(project, capsys):
    assert main(["verify"]) == 0
    printed = capsys.readouterr()
    found = dict(line.split(maxsplit=1) for line in printed.out.splitlines())
    count = len(experiments.plan("mini"))
    assert found["records"] == found["splits"] == f"{count} of {count} right"
    assert found["notebooks"] == "2 of 2 right" and found["README"] == "3 of 3 right"
    assert found["tables"] == "13 of 13 right"  # two of them in two files
    assert found["figures"] == "12 of 12 right"
    assert re.fullmatch(rf"made by \w{{12}} \({count} records\); this is \w{{12}}", found["code"])
    assert printed.err == ""
    assert main(["verify", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] and [group["name"] for group in report["groups"]] == list(found)


def test_without_the_data_splits_are_not_drawn_again(project):
    shutil.rmtree(project / "data")
    (splits,) = [group for group in verify("mini").groups if group.name == "splits"]
    assert not splits.checked and not splits.problems and "not checked: no data under" in splits.notes[0]
    another_draw(project)
    assert not [line for line in verify("mini").problems if "another draw" in line]  # what cannot be known without


def test_other_data_on_the_disk_are_told(project):
    index = project / "data" / "nsynth-gm" / "nsynth-test" / "examples.json"
    edit_text(index, '"instrument_family_str": "bass"', '"instrument_family_str": "vocal"')
    count, lines = len(experiments.plan("mini")), verify("mini").problems
    assert len([line for line in lines if "was made from data with the digest" in line]) == count
    index.write_text("{")
    assert [line for line in verify("mini").problems if "examples.json, line 1: not valid JSON" in line]


def test_own_runs_are_compared_with_the_shipped_ones(project, capsys):
    shutil.copytree(project / "records" / "mini", paths.runs_dir("mini"))
    assert main(["verify", "--source", "runs"]) == 0
    count = len(experiments.plan("mini"))
    assert f"{count} of {count} runs bit-equal to the shipped ones" in capsys.readouterr().out
    folder = next(paths.runs_dir("mini").glob("nsynth-gm_fmuc_s1_*"))
    run = load_record(folder).run
    shutil.rmtree(folder)
    project_state.write_record(folder, run, draw=1)
    assert main(["verify", "--source", "runs"]) == 1  # the figures are those of the shipped records
    printed = capsys.readouterr().out
    assert f"{count - 1} of {count} runs bit-equal to the shipped ones" in printed
    assert re.search(r"nsynth-gm_fmuc_s1_\w+: differs in kept counts from epoch 1 on, seen counts from", printed)
    shutil.rmtree(project / "figures")
    assert main(["verify", "--source", "runs"]) == 0  # no figures have been made of them yet, and the runs are sound


def test_no_records_at_all_is_one_line(project, capsys):
    assert main(["verify", "--source", "runs"]) == 1
    assert "no run records" in capsys.readouterr().err
    with pytest.raises(FmucError, match="maxi"):
        verify("maxi")


def test_the_accuracy_that_rounded_probabilities_allow():
    rng = np.random.default_rng(0)
    exact = rng.dirichlet(np.ones(4), 500)
    exact[:50, 1] = exact[:50, 0] * (1 + 1e-6)  # equal once rounded
    labels = rng.integers(0, 2, 500)
    low, high = record_checks.accuracy_bounds(exact.astype(np.float16), labels)
    assert low <= (exact.argmax(axis=1) == labels).mean() <= high < low + 0.2
    assert record_checks.accuracy_bounds(np.eye(3)[[0, 1, 2]], np.array([0, 1, 1])) == (2 / 3, 2 / 3)
