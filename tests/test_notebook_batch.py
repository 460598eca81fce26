"""The papermill batch, on tiny notebooks that need nothing of fmuc, and what is stored of executed ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import psutil
import pytest
from dask_farm import variables, wait_for
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from fmuc import paths
from fmuc.errors import FmucError
from fmuc.machinery import notebooks
from tools import outputs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty notebooks folder; data and figures lie in the same temporary folder."""
    monkeypatch.setenv("FMUC_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FMUC_FIGURES", str(tmp_path / "figures"))
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


def write(folder: Path, name: str, *sources: str) -> Path:
    parameters = 'profile = "mini"\nsource = "shipped"\ndataset = ""'
    cells = [new_markdown_cell("# A card"), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(source) for source in sources]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    path = folder / f"{name}.ipynb"
    metadata = {"kernelspec": outputs.KERNELSPEC, "language_info": {"name": "python"}}
    nbformat.write(new_notebook(cells=cells, metadata=metadata), path)
    return path


def run(folder: Path, profile: str = "smoke", **options) -> list[notebooks.Outcome]:
    return notebooks.execute(profile, folder=folder, workers=1, progress=False, **options)


def statuses(outcomes: list[notebooks.Outcome]) -> list[str]:
    return [outcome.status for outcome in outcomes]


def failure(outcomes: list[notebooks.Outcome]) -> str:
    with pytest.raises(FmucError) as caught:
        notebooks.check(outcomes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def copy_of(folder: Path, name: str) -> Path:
    return folder.parent / "figures" / "smoke-own" / "notebooks" / f"{name}.ipynb"


# --- which notebooks ---


def test_only_numbered_notebooks_in_order(folder):
    with pytest.raises(FmucError, match="no notebooks NN_"):
        run(folder)
    for name in ("10_last", "02_second", "00_first", "draft"):
        write(folder, name)
    assert [path.stem for path in notebooks.find(None, folder)] == ["00_first", "02_second", "10_last"]
    assert [path.stem for path in notebooks.find(["10", "00_first.ipynb"], folder)] == ["00_first", "10_last"]
    with pytest.raises(FmucError, match="unknown notebook '07': known are 00_first"):
        run(folder, only=["07"])


@pytest.mark.parametrize("text", ["no JSON", '{"cells": 1, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}'])
def test_broken_file_is_named(folder, text):
    (folder / "00_first.ipynb").write_text(text, encoding="utf-8")
    with pytest.raises(FmucError, match="00_first.ipynb: not a readable notebook") as caught:
        run(folder)
    assert "\n" not in str(caught.value)


# --- what is executed ---


def test_executes_with_parameters_and_skips_what_is_up_to_date(folder, monkeypatch):
    foreign = folder.parent / "kernels" / "python3"  # a kernelspec of another program, with a better place in the path
    foreign.mkdir(parents=True)
    (foreign / "kernel.json").write_text(json.dumps({"argv": ["false"], "display_name": "foreign", "language": "r"}))
    monkeypatch.setenv("JUPYTER_PATH", str(folder.parent))
    path = write(folder, "00_first", "import os, sys, fmuc\nprint(profile, source, os.path.basename(os.getcwd()))",
                 "print(sys.executable, fmuc.__file__)")
    before = path.read_bytes()
    assert statuses(run(folder)) == ["ran"]
    executed = copy_of(folder, "00_first").read_text(encoding="utf-8")
    assert "smoke runs notebooks" in executed
    assert f"{sys.executable} {paths.ROOT / 'fmuc' / '__init__.py'}" in executed
    assert path.read_bytes() == before
    again = run(folder)
    assert statuses(again) == ["up to date"] and notebooks.check(again) is None


def test_up_to_date_until_something_changes(folder, monkeypatch):
    monkeypatch.setattr(paths, "SHIPPED_RECORDS", folder / "shipped")
    path = write(folder, "00_first", "print(1)")
    assert statuses(run(folder)) == ["ran"]
    monkeypatch.setattr(notebooks, "run_parallel", lambda *arguments, **options: iter(()))

    def would_run(*profile: str, **options) -> bool:  # without the seconds that it takes
        return statuses(run(folder, *profile, **options)) == ["not run"]

    assert not would_run()
    assert would_run(force=True)
    assert would_run("other")
    assert would_run(source="shipped")
    assert would_run(dataset="birds")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2].outputs = [new_output("stream", name="stdout", text="outputs do not count")]
    nbformat.write(notebook, path)
    assert not would_run()
    write(folder, "00_first", "print(2)")
    assert would_run()
    write(folder, "00_first", "print(1)")
    assert not would_run()
    for records in (paths.runs_dir("smoke"), paths.records_dir("long", "shipped")):  # notebook 11 shows the studies
        record = records / "a_run" / "history.csv"
        record.parent.mkdir(parents=True)
        record.write_text("epoch,quality\n", encoding="utf-8")
        assert would_run()
        record.unlink()
        assert not would_run()


def test_failing_notebook_stops_the_batch_is_kept_and_is_where_it_continues(folder):
    write(folder, "00_first", "print(1)")
    write(folder, "01_fails", "y = [\n 1]\nraise KeyError('no such band')", "print('never reached')")
    write(folder, "02_third", "print(3)")
    outcomes = run(folder)
    assert statuses(outcomes) == ["ran", "failed", "not run"]
    assert failure(outcomes).startswith("01_fails.ipynb: in 'y = [': KeyError: 'no such band' (see ")
    kept = copy_of(folder, "01_fails").read_text(encoding="utf-8")
    assert "no such band" in kept and "never reached\\n" not in kept
    assert failure(run(folder)) == failure(outcomes)  # a notebook that failed is never up to date
    write(folder, "01_fails", "y = [1]")
    assert statuses(run(folder)) == ["up to date", "ran", "ran"]


def test_a_kernel_that_dies_and_outputs_that_cannot_be_written_are_one_clear_line(folder):
    write(folder, "00_dies", "import os\nos._exit(3)")
    assert failure(run(folder)).startswith("00_dies.ipynb: its kernel died (out of memory?): free memory or use fewer")
    (folder.parent / "figures").rename(folder.parent / "away")
    (folder.parent / "figures").write_text("a file in the way")
    assert "00_dies.ipynb: NotADirectoryError" in failure(run(folder))


BATCH = """
import pathlib, sys
from fmuc.machinery import notebooks
notebooks.execute("smoke", folder=pathlib.Path(sys.argv[1]), progress=False)
"""


def test_a_killed_batch_leaves_no_process(folder):
    """Two notebooks wait for each other, so both run at once, and report their kernels."""
    report = ("import os, pathlib, time\npathlib.Path('{}').write_text(str(os.getpid()))\n"
              "while not pathlib.Path('{}').exists():\n    time.sleep(0.05)\ntime.sleep(120)")
    write(folder, "00_first", report.format("a", "b"))
    write(folder, "01_second", report.format("b", "a"))
    process = subprocess.Popen([sys.executable, "-c", BATCH, str(folder)], env=variables())
    wait_for(lambda: all((folder / name).exists() and (folder / name).read_text() for name in "ab"))
    started = psutil.Process(process.pid).children(recursive=True)
    assert {child.pid for child in started} >= {int((folder / name).read_text()) for name in "ab"}
    process.kill()
    process.wait(60)
    assert not psutil.wait_procs(started, timeout=60)[1]


# --- what maintainers store ---


def stored(folder: Path, shown: list, source: str = "show()") -> nbformat.NotebookNode:
    """Store an executed copy with these outputs, without executing anything."""
    path = write(folder, "00_first", "show()", "")
    copy = nbformat.read(path, as_version=4)
    copy.metadata = {"kernelspec": {"name": "mine", "display_name": "Mine"}, "papermill": {"duration": 3}}
    copy.cells.insert(2, new_code_cell("epochs = 3", metadata={"tags": ["injected-parameters"]}))
    copy.cells[3].source, copy.cells[3].outputs = source, shown
    copy.cells[3].metadata = {"execution": {"iopub.status.busy": "2024-01-01T00:00:00"}, "tags": ["loud"]}
    nbformat.write(copy, folder / "copy.ipynb")
    outputs.store(path, folder / "copy.ipynb", "abc")
    return nbformat.read(path, as_version=4)


def test_stored_outputs_tell_nothing_of_the_machine(folder, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", folder.parent)
    noise = f"{folder}/x\n{Path.home() / 'music'}\n/tmp/ipykernel_77/1234.py:4: UserWarning: mind the gap\n"
    shown = [new_output("stream", name="stderr", text=noise), new_output("execute_result", {"text/plain": "4"},
                                                                          execution_count=17)]
    result = stored(folder, shown)
    nbformat.validate(result)
    assert [cell.id for cell in result.cells] == [f"cell-{i}" for i in range(4)]
    assert [cell.get("execution_count") for cell in result.cells] == [None, 1, 2, None]
    text = result.cells[2].outputs[0].text
    assert "notebooks/x" in text and "~/music" in text and "<cell>:4: UserWarning: mind the gap" in text
    written = (folder / "00_first.ipynb").read_text(encoding="utf-8")
    for trace in (str(folder.parent), str(Path.home() / "music"), "papermill", "ipykernel_", "2024", "Mine"):
        assert trace not in written
    assert result.metadata.fmuc == {"outputs": outputs.outputs_digest(result), "records": "abc"}
    before = (folder / "00_first.ipynb").read_bytes()
    outputs.store(folder / "00_first.ipynb", folder / "copy.ipynb", "abc")
    assert (folder / "00_first.ipynb").read_bytes() == before


def test_saved_figures_keep_their_size_and_words(folder):
    shown = {"image/png": {"alt": "Quality rises.", "width": 859}}
    saved, other = (new_output("display_data", {"image/png": "aGVsbG8="}, metadata=metadata)
                    for metadata in ({**shown, "needs_background": "light"}, {"image/png": {"width": 859}}))
    result = stored(folder, [saved, other])
    assert [output.metadata for output in result.cells[2].outputs] == [shown, {}]
    assert outputs.saved_pictures(result) == [("Quality rises.", b"hello")]


def test_what_cannot_be_stored_leaves_the_notebook_alone(folder):
    with pytest.raises(FmucError, match=r"00_first.ipynb: 1.10 MB with its outputs, 1 MB are allowed"):
        stored(folder, [new_output("stream", name="stdout", text="x" * 1_100_000)])
    with pytest.raises(FmucError, match="was edited while it was executed"):
        stored(folder, [], source="show(2)")
    assert nbformat.read(folder / "00_first.ipynb", as_version=4).cells[2].outputs == []
