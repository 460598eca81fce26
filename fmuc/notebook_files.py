"""Notebooks as files: which there are, their parameters, and the form in which they are committed with outputs."""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

# jsonschema, which validates notebooks, would import this to check IRIs, and no notebook has one: building its grammars
# takes two seconds of every process (python-jsonschema/jsonschema#1428). It does without what is not there.
sys.modules.setdefault("rfc3987_syntax", None)

import nbformat  # noqa: E402
from nbformat import NotebookNode  # noqa: E402

from fmuc import paths  # noqa: E402
from fmuc.errors import FmucError  # noqa: E402

LARGEST = 1_000_000  # bytes of a committed notebook
SMALL = 1_000_000  # bytes; larger files beside a record (checkpoints) count by name and size only
KERNELSPEC = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
KEPT_CELL_METADATA = ("tags", "jupyter", "slideshow", "editable", "deletable")
WIDGET = "application/vnd.jupyter.widget-view+json"
_PROGRESS_BAR = re.compile(r"\d+%\|.*\||\d+\s*(it|ex|[kM]?B)?\s*\[\d\d:\d\d")  # tqdm's, full or without a total
# The "file" of a cell in a warning holds a process id. The bounds keep long base64 texts linear.
_KERNEL_FILE = re.compile(r"(?:/[\w.+-]{1,64}){0,12}?/ipykernel_\d+/\d+\.py")


def find(only: Sequence[str] | None = None, folder: Path = paths.NOTEBOOKS) -> list[Path]:
    """The numbered notebooks of ``folder`` in order; ``only`` names some by number ("06") or how their names start.

    Raises :class:`FmucError` if there are none or a name is unknown.
    """
    known = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not known:
        raise FmucError(f"no notebooks NN_*.ipynb under {paths.relative(folder)}: run this from a whole checkout")
    if only is None:
        return known
    wanted = tuple(name.removesuffix(".ipynb") for name in only)
    for name in wanted:
        if not any(path.stem.startswith(name) for path in known):
            raise FmucError(f"unknown notebook {name!r}: known are {', '.join(path.stem for path in known)}")
    return [path for path in known if path.stem.startswith(wanted)]


def read(path: Path) -> NotebookNode:
    """A notebook in the current format; :class:`FmucError` if the file is none."""
    try:
        notebook = nbformat.v4.upgrade(nbformat.read(path, as_version=4))
        for cell in notebook.cells:
            fits = isinstance(cell.source, str) and isinstance(cell.metadata.get("tags", []), list)
            if not fits or (cell.cell_type == "code" and not isinstance(cell.outputs, list)):
                raise ValueError("a cell holds other things than a source, tags and outputs")
        return notebook
    except Exception as error:  # nbformat lets errors of many kinds through
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FmucError(f"{paths.relative(path)}: not a readable notebook ({reason}): restore it from git") from None


def parameters_cell(notebook: NotebookNode, name: str) -> int:
    """Position of the one code cell tagged ``parameters``, from 0; :class:`FmucError` unless there is exactly one."""
    found = [i for i, cell in enumerate(notebook.cells)
             if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", ())]
    if len(found) != 1:
        raise FmucError(f"{name}: {len(found)} cells are tagged 'parameters': tag exactly one")
    return found[0]


def defaults(notebook: NotebookNode, name: str) -> dict[str, object]:
    """Names and default values of a notebook's parameters, which must be plain literals, else :class:`FmucError`."""
    values: dict[str, object] = {}
    try:
        for node in ast.parse(notebook.cells[parameters_cell(notebook, name)].source).body:
            target = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else None
            target = node.target if isinstance(node, ast.AnnAssign) and node.value else target
            if not isinstance(target, ast.Name):
                raise ValueError(f"line {node.lineno} is no assignment to a name")
            values[target.id] = ast.literal_eval(node.value)
    except (ValueError, SyntaxError) as error:
        raise FmucError(f"{name}: the parameters cell must hold only 'name = literal' lines ({error})") from None
    return values


def bind(known: Mapping[str, object], given: Mapping[str, object], name: str) -> dict[str, object]:
    """Defaults ``known`` updated with ``given``; :class:`FmucError` for an unknown name or a value of another type."""
    for parameter in given:
        if parameter not in known:
            raise FmucError(f"{name} has no parameter {parameter!r}: it knows {', '.join(known)} "
                            "(choose the notebooks that have it with --only)")
    return {**known, **{key: _typed(name, key, value, known[key]) for key, value in given.items()}}


def _typed(name: str, parameter: str, value: object, default: object) -> object:
    """``value`` in the default's type; text stands for a literal unless the default is text. None takes any value."""
    wanted, given = type(default), value
    if isinstance(value, str) and wanted is not str:
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):  # else it stays text
            value = ast.literal_eval({"true": "True", "false": "False"}.get(value, value))
    if {wanted, type(value)} in ({float, int}, {list, tuple}) and wanted is not int:
        with suppress(OverflowError):  # a whole number that no float can hold
            value = wanted(value)
    fits = type(value) is wanted
    if fits and wanted in (list, tuple) and default:  # of such values as the default has, not lists of lists
        fits = {*map(type, value)} <= {*map(type, default)}
    if default is not None and not fits:
        raise FmucError(f"{name}: parameter {parameter} must be of type {wanted.__name__}, "
                        f"as its default {default!r}, not {given!r}")
    return value


def digest(files: Iterable[Path], root: Path | None = None) -> str:
    """SHA-256 of the files' names (below ``root``), sizes and, up to :data:`SMALL`, contents."""
    state = sha256()
    for file in files:
        size = file.stat().st_size
        state.update(f"{file.relative_to(root) if root else file.name}\0{size}\0".encode())
        if size <= SMALL:
            state.update(file.read_bytes())
    return state.hexdigest()


def records_digest(folder: Path) -> str:
    """:func:`digest` of a folder of run records, hidden files left out."""
    files = (file for file in folder.rglob("*") if file.is_file() and not file.name.startswith("."))
    return digest(sorted(files), folder)


def saved_pictures(notebook: NotebookNode) -> list[tuple[str, bytes]]:
    """Words and PNG of each picture that the notebook shows as ``figure_files.save_figure`` has written it."""
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    pictures = [(_words(output), output.get("data", {}).get("image/png")) for output in outputs]
    return [(alt, base64.b64decode(png)) for alt, png in pictures if alt and png]


def _words(output: NotebookNode) -> str:
    """What a picture is to those who cannot see it; "" if it was not saved as a file."""
    return output.get("metadata", {}).get("image/png", {}).get("alt", "")


def outputs_digest(notebook: NotebookNode) -> str:
    """First 12 hex digits of the SHA-256 of the code cells and what they show."""
    cells = [(cell.source, cell.outputs) for cell in notebook.cells if cell.cell_type == "code"]
    return sha256(json.dumps(cells, sort_keys=True).encode()).hexdigest()[:12]


def store(notebook: Path, executed: Path, records: str = "") -> None:
    """Put the outputs of ``executed`` (papermill's copy) into ``notebook``, whose cells, ids and parameters stay.

    Its metadata tell what they rest on: the digest of the ``records`` that were read, and that of code and outputs.

    Left out is what differs between machines and times: papermill's and the kernel's metadata (size and words of saved
    figures stay), progress bars, widgets, absolute paths. Raises :class:`FmucError` if the cells differ or the file
    would be larger than :data:`LARGEST`.
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
    _write(notebook, nbformat.writes(result) + "\n")


def _clean(outputs: list[NotebookNode], count: int | None) -> list[NotebookNode]:
    kept = []
    for output in outputs:
        if WIDGET in output.get("data", {}):
            continue  # its state is not stored, so nothing would show
        if output.output_type == "stream":
            output.text = _without_paths(_without_bars(output.text) if output.name == "stderr" else output.text)
            if not output.text.strip():
                continue
        if "execution_count" in output:
            output.execution_count = count
        for mime, value in output.get("data", {}).items():
            if isinstance(value, str) and (mime.startswith("text/") or mime == "image/svg+xml"):
                output.data[mime] = _without_paths(value)
        if "metadata" in output:
            shown = {"image/png": output.metadata["image/png"]} if _words(output) else {}
            output.metadata = nbformat.from_dict(shown)
        kept.append(output)
    return kept


def _without_bars(text: str) -> str:
    return "\n".join(line for line in re.split(r"\r\n|[\r\n]", text) if not _PROGRESS_BAR.search(line))


def _without_paths(text: str) -> str:
    """``text`` with this machine's folders named by what they are for."""
    text = _KERNEL_FILE.sub("<cell>", text).replace(f"{paths.ROOT}/", "").replace(str(paths.ROOT), ".")
    folders = {"$FMUC_DATA": paths.data_root(), "~": Path.home(), "$TMPDIR": Path(tempfile.gettempdir())}
    for sign, folder in folders.items():
        if folder == Path(folder.anchor):
            continue  # a home of "/" would match every slash
        text = re.sub(rf"(?<![\w.]){re.escape(str(folder))}(?=/|\b)", sign, text)
    return text


def _write(path: Path, text: str) -> None:
    size = len(text.encode())
    if size > LARGEST:
        raise FmucError(f"{paths.relative(path)}: {size / 1e6:.2f} MB with its outputs, {LARGEST / 1e6:g} MB are "
                        "allowed: show smaller pictures or fewer sounds")
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)
