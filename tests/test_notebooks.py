"""The committed notebooks: their form, and that the outputs they show are still what their code gives."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import papermill
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

from fmuc.paths import NOTEBOOKS, ROOT
from tools import outputs

FILES = sorted(NOTEBOOKS.glob("*.ipynb"))
CHECKED = "nbval-check-output"  # tags of cells
FOLDED = "hide-input"
LONGEST = 15  # lines of a code cell
PLACE = re.compile(r"(?<![\w.:/~])/(?:home|Users|root|tmp|private|var|work|opt|usr|mnt)/|\b[A-Z]:\\")
TIME = re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d|\b\d\d:\d\d:\d\d\b")

each_notebook = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def shown(cell: NotebookNode) -> Iterator[str]:
    """Every text that a cell's outputs show, without embedded sounds and pictures."""
    for output in cell.outputs:
        texts = [output.get("text", ""), *output.get("traceback", ()), *output.get("data", {}).values()]
        yield from (re.sub(r"base64,[\w+/=\s]+", "", text) for text in texts if isinstance(text, str))


def is_text(output: NotebookNode) -> bool:
    return any(mime.startswith("text/") for mime in output.get("data", ())) or "text" in output


@each_notebook
def test_form(path):
    """A card first, one parameters cell of literals, short cells without a class, folded alike in book and Jupyter."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    parameters = papermill.inspect_notebook(path)
    assert {"profile", "source", "dataset"} <= parameters.keys()
    assert parameters["source"]["default"] == '"shipped"'  # so that it can be read and executed in a fresh clone
    for cell in code_cells(path):
        tree = ast.parse(TransformerManager().transform_cell(cell.source))
        assert len(cell.source.strip().splitlines()) <= LONGEST, cell.source
        assert not any(isinstance(node, ast.ClassDef) for node in ast.walk(tree)), cell.source
        assert (FOLDED in tags(cell)) == cell.metadata.get("jupyter", {}).get("source_hidden", False), cell.source


@each_notebook
def test_is_executed_in_order_without_error(path):
    written = [cell for cell in code_cells(path) if cell.source.strip()]
    assert [cell.execution_count for cell in written] == list(range(1, len(written) + 1))
    assert not [output for cell in written for output in cell.outputs if output.output_type == "error"]


@each_notebook
def test_is_small_and_tells_nothing_of_the_machine(path):
    assert path.stat().st_size <= outputs.LARGEST
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata.keys() == {"fmuc", "kernelspec", "language_info"}
    assert notebook.metadata.fmuc.keys() == {"outputs", "records"}
    assert notebook.metadata.kernelspec == outputs.KERNELSPEC
    assert notebook.metadata.language_info == {"name": "python"}
    for cell in notebook.cells:
        assert cell.metadata.keys() <= set(outputs.KEPT_CELL_METADATA)
        assert not PLACE.search(cell.source), cell.source
    for text in (text for cell in code_cells(path) for text in shown(cell)):
        for pattern in (PLACE, TIME):
            match = pattern.search(text)
            assert not match, text[max(0, match.start() - 40) : match.end() + 40]


@each_notebook
def test_has_checked_outputs(path):
    marked = [cell for cell in code_cells(path) if CHECKED in tags(cell)]
    assert marked, f"no cell has the tag {CHECKED}"
    for cell in marked:
        assert any(is_text(output) for output in cell.outputs), f"nothing to compare: {cell.source}"


def test_outputs_are_still_true(tmp_path):
    """nbval executes every notebook and compares the marked cells; two kernels at a time."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 2)),
                   "PYTHONPATH": str(ROOT), "FMUC_FIGURES": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=300",
               "-p", "no:cacheprovider", "-q", "--no-header"]
    halves = [FILES[i::2] for i in range(2) if FILES[i::2]]
    running = [subprocess.Popen([*command, *map(str, half)], cwd=ROOT, env=environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for half in halves]
    try:
        reports = [process.communicate()[0] for process in running]
    finally:
        for process in running:
            process.terminate()
    failed = [report for process, report in zip(running, reports, strict=True) if process.returncode]
    if failed:
        pytest.fail("\n".join(failed), pytrace=False)
