"""Stores the outputs of executed notebooks in ``notebooks/``, without what differs between machines and times."""

from __future__ import annotations

import base64
import json
import re
import tempfile
from hashlib import sha256
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from fmuc import paths
from fmuc.errors import FmucError
from fmuc.machinery.atomic import write_bytes
from fmuc.machinery.notebooks import read

LARGEST = 1_000_000  # bytes of a committed notebook
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
KEPT_CELL_METADATA = ("tags", "jupyter", "slideshow", "editable", "deletable")
# The "file" of a cell in a warning holds a process id. The bounds keep long base64 texts linear.
_KERNEL_FILE = re.compile(r"(?:/[\w.+-]{1,64}){0,12}?/ipykernel_\d+/\d+\.py")


def store(notebook: Path, executed: Path, records: str = "") -> None:
    """Put the outputs of ``executed`` (papermill's copy) into ``notebook``, whose cells, ids and parameters stay.

    Its metadata hold the digest of the ``records`` that were read and that of code and outputs. Left out are
    papermill's and the kernel's metadata (size and words of saved figures stay) and absolute paths. Raises
    :class:`FmucError` if the cells differ or the file would be larger than :data:`LARGEST`.
    """
    result = read(notebook)
    ran = [cell for cell in read(executed).cells if "injected-parameters" not in cell.metadata.get("tags", ())]
    if [cell.source for cell in ran] != [cell.source for cell in result.cells]:
        raise FmucError(f"{paths.relative(notebook)}: was edited while it was executed: execute it again")
    count = 0
    for cell, source in zip(result.cells, ran, strict=True):
        cell.metadata = NotebookNode({k: v for k, v in cell.metadata.items() if k in KEPT_CELL_METADATA})
        if cell.cell_type == "code":
            count += bool(cell.source.strip())
            cell.execution_count = count if cell.source.strip() else None
            cell.outputs = _clean(source.outputs, cell.execution_count)
    result.metadata = nbformat.from_dict({
        "fmuc": {"outputs": outputs_digest(result), "records": records},
        "kernelspec": KERNELSPEC, "language_info": {"name": "python"},
    })
    write_file(notebook, nbformat.writes(result) + "\n")


def outputs_digest(notebook: NotebookNode) -> str:
    """First 12 hex digits of the SHA-256 of the code cells and what they show."""
    cells = [(cell.source, cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
    return sha256(json.dumps(cells, sort_keys=True).encode()).hexdigest()[:12]


def saved_pictures(notebook: NotebookNode) -> list[tuple[str, bytes]]:
    """Words and PNG of each picture that the notebook shows as :func:`fmuc.figures.save_figure` has written it."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [(_words(output), output.get("data", {}).get("image/png")) for output in outputs]
    return [(alt, base64.b64decode(png)) for alt, png in pictures if alt and png]


def write_file(path: Path, text: str) -> None:
    """Replace a file by ``text`` in one step; :class:`FmucError` if it is larger than :data:`LARGEST`."""
    size = len(text.encode())
    if size > LARGEST:
        raise FmucError(f"{paths.relative(path)}: {size / 1e6:.2f} MB with its outputs, {LARGEST / 1e6:g} MB are "
                        "allowed: show smaller pictures or fewer sounds")
    write_bytes(path, text.encode())


def _words(output: NotebookNode) -> str:
    """What a picture is to those who cannot see it; "" if it was not saved as a file."""
    return output.get("metadata", {}).get("image/png", {}).get("alt", "")


def _clean(outputs: list[NotebookNode], count: int | None) -> list[NotebookNode]:
    for output in outputs:
        if output.output_type == "stream":
            output.text = _without_paths(output.text)
        if "execution_count" in output:
            output.execution_count = count
        for mime, value in output.get("data", {}).items():
            if isinstance(value, str) and (mime.startswith("text/") or mime == "image/svg+xml"):
                output.data[mime] = _without_paths(value)
        if "metadata" in output:
            shown = {"image/png": output.metadata["image/png"]} if _words(output) else {}
            output.metadata = nbformat.from_dict(shown)
    return outputs


def _without_paths(text: str) -> str:
    """``text`` with this machine's folders named by what they are for."""
    text = _KERNEL_FILE.sub("<cell>", text).replace(f"{paths.ROOT}/", "").replace(str(paths.ROOT), ".")
    folders = {"$FMUC_DATA": paths.data_root(), "~": Path.home(), "$TMPDIR": Path(tempfile.gettempdir())}
    for sign, folder in folders.items():
        if folder == Path(folder.anchor):
            continue  # a home of "/" would match every slash
        text = re.sub(rf"(?<![\w.]){re.escape(str(folder))}(?=/|\b)", sign, text)
    return text
