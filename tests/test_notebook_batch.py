"""The papermill batch, on tiny notebooks that need nothing of fmuc."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from fmuc import notebooks, paths
from fmuc import notebooks as notebook_files
from fmuc.errors import FmucError

PARAMETERS = """profile = "smoke"
source = "runs"
dataset = ""
epochs = 3  # a comment is fine
rate = 0.5
seeds = [0, 1]
fast = True"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty notebooks folder; data and figures lie in the same temporary folder."""
    monkeypatch.setenv("FMUC_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("FMUC_FIGURES", str(tmp_path / "figures"))
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


def write(folder: Path, name: str, *sources: str, parameters: str = PARAMETERS) -> Path:
    cells = [new_markdown_cell("# A card"), new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(source) for source in sources]
    for number, cell in enumerate(cells):
        cell.id = f"cell-{number}"
    path = folder / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    return path


def run(folder: Path, **options) -> notebooks.Summary:
    return notebooks.execute(folder=folder, progress=False, **{"workers": 1, **options})


def statuses(summary: notebooks.Summary) -> list[str]:
    return [outcome.status for outcome in summary.outcomes]


def executed(folder: Path, name: str) -> str:
    return (folder.parent / "figures" / "smoke-own" / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")


# --- which notebooks, which parameters ---


def test_only_numbered_notebooks_in_order(folder):
    for name in ("10_last", "02_second", "00_first", "draft"):
        write(folder, name)
    assert [path.stem for path in notebook_files.find(None, folder)] == ["00_first", "02_second", "10_last"]
    assert [path.stem for path in notebook_files.find(["10", "00_first.ipynb"], folder)] == ["00_first", "10_last"]


def test_unknown_notebook_and_empty_folder_are_refused(folder):
    with pytest.raises(FmucError, match="no notebooks NN_"):
        run(folder)
    write(folder, "00_first")
    with pytest.raises(FmucError, match="unknown notebook '07': known are 00_first"):
        run(folder, only=["07"])


@pytest.mark.parametrize("text", ["{}", "no JSON", '{"cells": 1, "nbformat": 4, "nbformat_minor": 5, "metadata": {}}'])
def test_broken_file_is_named(folder, text):
    (folder / "00_first.ipynb").write_text(text, encoding="utf-8")
    with pytest.raises(FmucError, match="00_first.ipynb: not a readable notebook") as caught:
        run(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["profile = make()", "profile, source = 'a', 'b'", "import os", "profile ="])
def test_parameters_must_be_literals(folder, source):
    write(folder, "00_first", parameters=source)
    with pytest.raises(FmucError, match="00_first.ipynb: the parameters cell must hold only"):
        run(folder)


def test_parameters_cell_must_exist_once_and_hold_the_common_ones(folder):
    path = write(folder, "00_first", parameters='profile = "mini"')
    with pytest.raises(FmucError, match="must set source"):
        run(folder)
    nbformat.write(new_notebook(cells=[new_code_cell("1")]), path)
    with pytest.raises(FmucError, match="0 cells are tagged 'parameters'"):
        run(folder)


def test_one_data_set_alone_has_a_folder_of_its_own(folder):
    write(folder, "00_first", "print(dataset)")
    summary = run(folder, dataset="birds")
    assert statuses(summary) == ["ran"] and summary.results[0].endswith("figures/smoke-birds-own")
    assert (folder.parent / "figures" / "smoke-birds-own" / "notebooks" / "00_first.ipynb").is_file()
    assert statuses(run(folder)) == ["ran"]  # both data sets: another folder, and nothing of it is up to date


def test_unknown_parameter_is_refused_before_anything_runs(folder):
    write(folder, "00_first")
    write(folder, "01_second", parameters='profile = "smoke"\nsource = "runs"\ndataset = ""')
    with pytest.raises(FmucError, match="01_second.ipynb has no parameter 'epochs': it knows profile, source"):
        run(folder, parameters={"epochs": "4"})
    with pytest.raises(FmucError, match="00_first.ipynb has no parameter 'epoch'"):
        run(folder, parameters={"epoch": "4"})
    assert not (folder.parent / "figures").exists()


KNOWN = {"profile": "mini", "epochs": 3, "rate": 0.5, "seeds": [0, 1], "fast": True, "limit": None}


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("profile", "paper", "paper"), ("profile", "12", "12"), ("epochs", "4", 4), ("epochs", 4, 4),
        ("rate", "1e-3", 1e-3), ("rate", "2", 2.0), ("rate", 2, 2.0), ("seeds", "[5]", [5]), ("seeds", "5, 6", [5, 6]),
        ("fast", "false", False), ("fast", "True", True), ("limit", "7", 7), ("limit", "all", "all"),
    ],
)
def test_values_take_the_type_of_the_default(name, given, value):
    bound = notebook_files.bind(KNOWN, {name: given}, "nb")
    assert bound == {**KNOWN, name: value}
    assert type(bound[name]) is type(value)


@pytest.mark.parametrize(("name", "given"), [("epochs", "many"), ("epochs", "2.5"), ("epochs", True), ("fast", "1"),
                                             ("seeds", "3"), ("rate", "fast"), ("profile", 3), ("epochs", "(" * 5000),
                                             ("rate", "9" * 400), ("seeds", "[" * 200 + "]" * 200), ("fast", "")])
def test_wrong_type_is_refused(name, given):
    with pytest.raises(FmucError, match=f"nb: parameter {name} must be of type"):
        notebook_files.bind(KNOWN, {name: given}, "nb")


@pytest.mark.parametrize(("name", "value"), [("profile", "../smoke"), ("profile", ""), ("dataset", "../../elsewhere"),
                                             ("dataset", "/tmp/elsewhere"), ("dataset", "a b")])
def test_a_parameter_that_names_a_folder_cannot_lead_elsewhere(folder, name, value):
    write(folder, "00_first", "print(1)")
    with pytest.raises(FmucError, match=f"00_first.ipynb: {name} must be small letters"):
        run(folder, parameters={name: value})
    assert not (folder.parent / "figures").exists()


def test_unknown_source_of_records_is_refused(folder):
    write(folder, "00_first")
    with pytest.raises(FmucError, match=r"00_first.ipynb: source must be 'runs' or 'shipped', not 'elsewhere'"):
        run(folder, source="elsewhere")


# --- what is executed ---


def test_executes_with_parameters_and_skips_what_is_up_to_date(folder):
    source = "import os\nprint(epochs * 7, seeds, os.path.basename(os.getcwd()))"
    path = write(folder, "00_first", source)
    before = path.read_bytes()
    first = run(folder, parameters={"epochs": "6", "seeds": "4,"})
    assert statuses(first) == ["ran"]
    assert first.status == 0
    assert "42 [4] notebooks" in executed(folder, "00_first")
    assert path.read_bytes() == before
    again = run(folder, parameters={"seeds": [4], "epochs": 6})
    assert statuses(again) == ["up to date"]
    assert "00_first  up to date" in str(again)
    assert json.dumps(again.asdict())


def test_up_to_date_until_something_changes(folder, monkeypatch):
    path = write(folder, "00_first", "print(1)")
    assert statuses(run(folder)) == ["ran"]
    started = []
    monkeypatch.setattr(notebooks, "_run_all", lambda queue, workers: started.extend(queue) or (job for job in ()))

    def would_run(**options) -> bool:  # whether it would be executed, without the seconds that it takes
        started.clear()
        run(folder, **options)
        return bool(started)

    assert not would_run()
    assert would_run(force=True)
    assert would_run(parameters={"epochs": 4})
    assert would_run(source="shipped", profile="other")
    assert not would_run()

    notebook = nbformat.read(path, as_version=4)
    notebook.cells[2].outputs = [new_output("stream", name="stdout", text="outputs do not count")]
    nbformat.write(notebook, path)
    assert not would_run()
    notebook.cells[2].source = "print(2)"
    nbformat.write(notebook, path)
    assert would_run()
    notebook.cells[2].source = "print(1)"
    nbformat.write(notebook, path)

    copy = folder.parent / "figures" / "smoke-own" / "notebooks" / "00_first.ipynb"
    copy.rename(copy.with_suffix(".away"))
    assert would_run()
    copy.with_suffix(".away").rename(copy)
    assert not would_run()
    record = paths.runs_dir("smoke") / "a_run" / "history.csv"
    record.parent.mkdir(parents=True)
    record.write_text("epoch,quality\n", encoding="utf-8")
    assert would_run()


def test_digest_sees_names_contents_and_the_size_of_large_files(tmp_path, monkeypatch):
    monkeypatch.setattr(notebook_files, "SMALL", 10)
    small, large = tmp_path / "a", tmp_path / "b"
    seen = set()
    for texts in (("1", "x" * 20), ("2", "x" * 20), ("2", "x" * 21)):
        for file, text in zip((small, large), texts, strict=True):
            file.write_text(text, encoding="utf-8")
        seen.add(notebook_files.digest([small, large], tmp_path))
    assert len(seen) == 3
    before = notebook_files.digest([small, large], tmp_path)
    large.write_text("y" * 21, encoding="utf-8")  # too large to be read
    assert notebook_files.digest([small, large], tmp_path) == before
    assert notebook_files.digest([large.rename(tmp_path / "c"), small], tmp_path) != before


def test_failing_notebook_stops_the_batch_is_kept_and_is_where_it_continues(folder):
    write(folder, "00_first", "print(1)", "", "", "")
    write(folder, "01_fails", "x = 2", "y = [\n 1]\nraise KeyError('no such band')", "print('never reached')")
    write(folder, "02_third", "print(3)")
    summary = run(folder)
    assert statuses(summary) == ["ran", "failed", "not run"]
    assert summary.status == 1
    assert summary.error.startswith("01_fails.ipynb, cell 4 (y = [): KeyError: 'no such band' (kept in ")
    kept = executed(folder, "01_fails")
    assert "no such band" in kept
    assert "never reached\\n" not in kept
    write(folder, "01_fails", "x = 2", "y = [1]")
    summary = run(folder)
    assert statuses(summary) == ["up to date", "ran", "ran"]
    assert summary.status == 0


def test_the_longest_begins_first_and_the_summary_keeps_the_order(folder):
    note = "with open('order', 'a') as file:\n    file.write('{} ')"
    for number, cells in enumerate((1, 3, 2)):
        write(folder, f"0{number}_notebook", note.format(number), *["pass"] * cells)
    summary = run(folder)
    assert [outcome.name[:2] for outcome in summary.outcomes] == ["00", "01", "02"]
    assert (folder / "order").read_text() == "1 2 0 "
    (folder / "order").unlink()
    copy = folder.parent / "figures" / "smoke-own" / "notebooks" / "02_notebook.ipynb"
    content = json.loads(copy.read_text(encoding="utf-8"))
    content["metadata"]["papermill"]["duration"] = 100.0  # what it took counts for more than its cells
    copy.write_text(json.dumps(content), encoding="utf-8")
    (folder.parent / "figures" / "smoke-own" / "notebooks" / "01_notebook.ipynb").write_text("no notebook")
    run(folder, force=True)
    assert (folder / "order").read_text() == "2 1 0 "


def test_imports_that_take_seconds_are_left_to_those_who_need_them():
    asked = "fmuc.notebooks, papermill, matplotlib.pyplot, fmuc.figures, fmuc.tables, fmuc.train, fmuc.teaching.exercises"
    code = f"import sys, {asked}\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"lark", "seaborn", "scipy.signal", "scipy.stats", "sklearn", "librosa.core"} & {*loaded}


def test_a_notebook_that_failed_is_never_up_to_date(folder):
    write(folder, "00_fails", "raise ValueError('still')")
    first, second = run(folder), run(folder)
    assert "ValueError: still" in first.error
    assert second.error == first.error


def test_notebooks_run_side_by_side(folder):
    wait_for_other = ("import pathlib, time\npathlib.Path('{}').touch()\nend = time.time() + 60\n"
                      "while not pathlib.Path('{}').exists():\n    assert time.time() < end\n    time.sleep(.05)")
    write(folder, "00_first", wait_for_other.format("a", "b"))
    write(folder, "01_second", wait_for_other.format("b", "a"))
    assert statuses(run(folder, workers=2)) == ["ran", "ran"]


BATCH = """
import os
import signal
import sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background inherits "ignore"
from fmuc import notebooks
if __name__ == "__main__":
    os.environ["FMUC_FIGURES"] = str(Path(sys.argv[1]) / "figures")
    notebooks.MANY = int(sys.argv[2])
    notebooks.execute(folder=Path(sys.argv[1]) / "notebooks", workers=2, progress=False)
"""


PRELOADED, USUAL = 0, 99  # values of ``MANY``
each_kind = pytest.mark.parametrize("many", [PRELOADED, USUAL], ids=["preloaded kernels", "usual kernels"])


@each_kind
def test_interrupt_ends_the_batch_and_its_kernel(folder, many):
    report_and_wait = "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(120)"
    write(folder, "00_first", report_and_wait)
    script = folder.parent / "batch.py"
    script.write_text(BATCH, encoding="utf-8")
    process = subprocess.Popen([sys.executable, str(script), str(folder.parent), str(many)], stderr=subprocess.PIPE,
                               text=True, env={**os.environ, "PYTHONPATH": str(paths.ROOT)})
    wait_until(lambda: (folder / "pid").exists() and (folder / "pid").read_text())
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert errors.count("Traceback") <= 1  # the caller's own
    wait_until(lambda: not alive(int((folder / "pid").read_text())))
    assert json.loads((folder.parent / "figures/smoke-own/notebooks/manifest.json").read_text(encoding="utf-8")) == {}


KERNEL = ["import os, sys\nprint(os.getcwd(), os.getsid(0) == os.getpid(), __name__, 'torch' in sys.modules)",
          "print(sorted(name for name in dir() if not name.startswith('_') and name not in ('In', 'Out')))",
          "import matplotlib.pyplot as plt\nprint(plt.get_backend())\nplt.plot([1, 2]);", "%whos",
          "import pandas as pd\npd.DataFrame([range(18)] * 70, columns=[f'a long name {i}' for i in range(18)])",
          "1 / 3"]


def in_whole(outputs: list[dict]) -> list[dict]:
    """Outputs with what a cell prints in one piece: where a busy kernel breaks it is a matter of time."""
    whole = []
    for output in outputs:
        if whole and output.output_type == "stream" and whole[-1].get("name") == output.name:
            whole[-1]["text"] += output.text
        else:
            whole.append(dict(output))
    return whole


def test_preloaded_kernels_show_what_usual_ones_do(folder, monkeypatch):
    for number in range(2):
        write(folder, f"0{number}_kernel", *KERNEL)
    shown = []
    for many in (USUAL, PRELOADED):
        monkeypatch.setattr(notebooks, "MANY", many)
        assert statuses(run(folder, force=True)) == ["ran", "ran"]
        for name in ("00_kernel", "01_kernel"):
            cells = nbformat.reads(executed(folder, name), as_version=4).cells
            shown.append([{**output, "metadata": None} for cell in cells if cell.cell_type == "code"
                          for output in in_whole(cell.outputs)])
    usual, preloaded = shown[0], shown[2]
    assert shown == [usual, usual, preloaded, preloaded]
    assert "__main__ False" in usual[0].pop("text") and "__main__ True" in preloaded[0].pop("text")
    assert usual == preloaded


def test_a_preloaded_kernel_that_dies_is_one_clear_line(folder, monkeypatch):
    monkeypatch.setattr(notebooks, "MANY", PRELOADED)
    write(folder, "00_dies", "import os\nos._exit(3)")
    assert "DeadKernelError" in run(folder).error


def wait_until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# --- in place ---


def test_in_place_keeps_the_outputs_and_nothing_of_the_machine(folder, monkeypatch):
    noisy = ("import pathlib, sys, warnings\nprint(pathlib.Path.cwd())\nprint(pathlib.Path.home() / 'music')\n"
             "warnings.warn('mind the gap')\nprint(f'\\r {10}%|#   | 1/10 [00:01<00:09]', file=sys.stderr)")
    monkeypatch.setattr(paths, "ROOT", folder.parent)
    path = write(folder, "00_first", noisy, "", "epochs + 1")
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = {"kernelspec": {"name": "mine", "display_name": "Mine"}, "widgets": {"state": {"a": 1}}}
    notebook.cells[2].metadata = {"execution": {"iopub.status.busy": "2024-01-01T00:00:00"}, "tags": ["loud"]}
    nbformat.write(notebook, path)
    assert statuses(run(folder, in_place=True)) == ["ran"]
    stored = nbformat.read(path, as_version=4)
    nbformat.validate(stored)
    assert [cell.id for cell in stored.cells] == [f"cell-{i}" for i in range(5)]
    assert stored.cells[1].source == PARAMETERS
    assert [cell.get("execution_count") for cell in stored.cells] == [None, 1, 2, None, 3]
    assert stored.cells[4].outputs[0].execution_count == 3
    assert stored.cells[4].outputs[0].data == {"text/plain": "4"}
    text = path.read_text(encoding="utf-8")
    assert "mind the gap" in text
    assert "~/music" in text
    for trace in (str(folder.parent), str(Path.home() / "music"), "papermill", "ipykernel_", "10%", "2024", "Mine"):
        assert trace not in text
    assert sorted(stored.metadata) == ["fmuc", "kernelspec", "language_info"]
    assert stored.metadata.fmuc == {"outputs": notebook_files.outputs_digest(stored),
                                    "records": notebook_files.records_digest(paths.runs_dir("smoke"))}
    assert stored.cells[2].metadata == {"tags": ["loud"]}


def test_in_place_is_stable(folder):
    path = write(folder, "00_first", "print(epochs)")
    run(folder, in_place=True)
    once = path.read_bytes()
    assert statuses(run(folder, in_place=True)) == ["up to date"]
    assert path.read_bytes() == once
    run(folder, in_place=True, force=True)
    assert path.read_bytes() == once


def test_in_place_refuses_other_parameters(folder):
    write(folder, "00_first", "print(epochs)")
    with pytest.raises(FmucError, match="stored with their default parameters: leave out profile='paper'"):
        run(folder, profile="paper", in_place=True)


def store(folder: Path, outputs: list, source: str = "show()") -> nbformat.NotebookNode:
    """Store an executed copy with these outputs, without executing anything."""
    path = write(folder, "00_first", "show()")
    copy = nbformat.read(path, as_version=4)
    copy.cells.insert(2, new_code_cell("epochs = 3", metadata={"tags": ["injected-parameters"]}))
    copy.cells[3].source, copy.cells[3].outputs = source, outputs
    nbformat.write(copy, folder / "copy.ipynb")
    notebook_files.store(path, folder / "copy.ipynb")
    return nbformat.read(path, as_version=4)


def test_widgets_are_left_out(folder):
    widget = new_output("display_data", {notebook_files.WIDGET: {"model_id": "1"}, "text/plain": "HBox()"})
    picture = new_output("display_data", {"image/png": "aGVsbG8=", "text/plain": "<Figure>"})
    stored = store(folder, [widget, picture])
    assert [list(output.data) for output in stored.cells[2].outputs] == [["image/png", "text/plain"]]


def test_a_saved_figure_keeps_its_size_and_its_words(folder):
    shown = {"image/png": {"alt": "Quality rises.", "width": 859}}
    saved, other = (new_output("display_data", {"image/png": "aGVsbG8="}, metadata=metadata)
                    for metadata in ({**shown, "needs_background": "light"}, {"image/png": {"width": 859}}))
    stored = store(folder, [saved, other])
    assert [output.metadata for output in stored.cells[2].outputs] == [shown, {}]
    assert notebook_files.saved_pictures(stored) == [("Quality rises.", b"hello")]


def test_too_large_notebook_is_refused_and_left_alone(folder):
    with pytest.raises(FmucError, match=r"00_first.ipynb: 1.10 MB with its outputs, 1 MB are allowed"):
        store(folder, [new_output("stream", name="stdout", text="x" * 1_100_000)])
    assert nbformat.read(folder / "00_first.ipynb", as_version=4).cells[2].outputs == []


def test_notebook_edited_meanwhile_is_left_alone(folder):
    with pytest.raises(FmucError, match="was edited while it was executed"):
        store(folder, [], source="show(2)")
