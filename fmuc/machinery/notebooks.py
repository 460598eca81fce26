"""Executes the notebooks with papermill, several at a time, and leaves out those that are up to date.

The executed copies go to ``notebooks/`` in :func:`fmuc.paths.figures_dir`; the notebooks themselves are only read. A
copy holds a digest of all that its outputs depend on; one that ends in an error has none and runs again next time.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

from fmuc import paths
from fmuc.errors import FmucError
from fmuc.experiments import STUDIES
from fmuc.machinery.workers import run_parallel

SMALL = 1_000_000  # bytes; larger files beside a record (checkpoints) count by name and size only


class OwnKernel(AsyncKernelManager):
    """A kernel of this interpreter, whatever kernelspecs are installed, that imports the ``fmuc`` of this checkout."""

    @property
    def kernel_spec(self) -> KernelSpec:
        path = os.pathsep.join(filter(None, [str(paths.ROOT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=CRITICAL"]
        return KernelSpec(argv=command, env={"PYTHONPATH": path, "PYDEVD_DISABLE_FILE_VALIDATION": "1"})


class Outcome(NamedTuple):
    """What became of one notebook: ``status`` is "ran", "up to date", "failed" or "not run"."""

    name: str
    status: str
    seconds: float
    output: str  # the executed copy
    error: str | None = None  # one line that names notebook and error


def execute(profile: str, source: str = "runs", dataset: str = "", *, only: Sequence[str] | None = None,
            force: bool = False, workers: int = 2, progress: bool = True, folder: Path = paths.NOTEBOOKS
            ) -> list[Outcome]:
    """Execute the notebooks that are not up to date (all of them with ``force``), ``workers`` at a time.

    ``profile``, ``source`` and ``dataset`` are parameters of every notebook. After a failure no further notebook is
    started. Raises :class:`FmucError`, before anything is executed, for an unknown or broken notebook.
    """
    parameters = {"profile": profile, "source": source, "dataset": dataset}
    made = paths.figures_dir(profile, source, dataset) / "notebooks"
    read_by_all = [parameters, _code_digest(), records_digest(profile, source)]
    outcomes, stale, failed = {}, [], False
    for path in find(only, folder):
        digest, output = _digest(read(path), *read_by_all), made / path.name
        current = _digest_of(output) == digest and not force
        stale += [] if current else [(path, output, parameters, digest)]
        outcomes[path.stem] = Outcome(path.stem, "up to date" if current else "not run", 0.0, paths.relative(output))
    tasks = (task for task in stale if not failed)
    with tqdm(total=len(stale), desc="notebooks", disable=not progress) as bar:
        for outcome in run_parallel(_run, tasks, max(1, min(workers, len(stale)))):
            outcomes[outcome.name] = outcome
            failed = failed or outcome.error is not None
            bar.update()
    return list(outcomes.values())


def check(outcomes: Sequence[Outcome]) -> None:
    """Raise :class:`FmucError` about the first failure, if there is one."""
    for outcome in outcomes:
        if outcome.error:
            raise FmucError(outcome.error)


def find(only: Sequence[str] | None = None, folder: Path = paths.NOTEBOOKS) -> list[Path]:
    """The numbered notebooks of ``folder`` in order, then the story; ``only`` names some by number ("06") or how their
    names start.

    Raises :class:`FmucError` if there are none or a name is unknown.
    """
    known = [*sorted(folder.glob("[0-9][0-9]_*.ipynb")), *folder.glob("story.ipynb")]
    if not known:
        raise FmucError(f"no notebooks NN_*.ipynb under {paths.relative(folder)}: run this from a whole checkout")
    wanted = tuple(name.removesuffix(".ipynb") for name in only or [""])
    for name in wanted:
        if not any(path.stem.startswith(name) for path in known):
            raise FmucError(f"unknown notebook {name!r}: known are {', '.join(path.stem for path in known)}")
    return [path for path in known if path.stem.startswith(wanted)]


def read(path: Path) -> nbformat.NotebookNode:
    """Return a notebook in the current format; :class:`FmucError` if the file is none."""
    try:
        return nbformat.v4.upgrade(nbformat.read(path, as_version=4))
    except Exception as error:  # nbformat lets errors of many kinds through
        raise FmucError(f"{paths.relative(path)}: not a readable notebook ({_line(error)}): restore it from git"
                        ) from None


def records_digest(profile: str, source: str) -> str:
    """SHA-256 of all records that a notebook may show: of the profile, and the shipped ones of the studies.

    Of their files' names, sizes and, up to :data:`SMALL`, contents; hidden ones are left out.
    """
    state = sha256()
    for folder in (paths.records_dir(profile, source), *(paths.records_dir(study, "shipped") for study in STUDIES)):
        for file in sorted(file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(".")):
            size = file.stat().st_size
            state.update(f"{file.relative_to(folder).as_posix()}\0{size}\0".encode())
            if size <= SMALL:
                state.update(file.read_bytes())
    return state.hexdigest()


def _code_digest() -> str:
    package, state = paths.ROOT / "fmuc", sha256()
    for files in (package.rglob("*.py"), package.rglob("*.mplstyle"), paths.NOTEBOOKS.glob("*.py"),
                  paths.PUBLISHED.glob("*.csv")):
        state.update(b"".join(file.read_bytes() for file in sorted(files)))
    return state.hexdigest()


def _digest(notebook: nbformat.NotebookNode, *others: object) -> str:
    cells = [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells]
    return sha256(json.dumps([cells, *others], default=repr).encode()).hexdigest()


def _digest_of(output: Path) -> str | None:
    """The digest in an executed copy, if there is one."""
    try:
        return json.loads(output.read_text(encoding="utf-8"))["metadata"]["fmuc"]["digest"]
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _run(notebook: Path, output: Path, parameters: dict[str, str], digest: str) -> Outcome:
    """Execute one notebook in a kernel of its own, whose working directory is the notebook's, as in Jupyter."""
    start, error, partial = time.perf_counter(), None, output.with_name(f".partial_{output.name}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        executed = papermill.execute_notebook(
            notebook, partial, parameters, kernel_name="python3", language="python", cwd=notebook.parent,
            progress_bar=False, request_save_on_cell_execute=False, kernel_manager_class=OwnKernel)
        executed.metadata["fmuc"] = {"digest": digest}
        nbformat.write(executed, partial)
    except PapermillExecutionError as failure:
        error = f"in {_line(failure.source)!r}: {failure.ename}: {_line(failure.evalue)}"
    except DeadKernelError:
        error = "its kernel died (out of memory?): free memory or use fewer workers"
    except Exception as failure:
        error = f"{type(failure).__name__}: {_line(failure)}"
    if partial.exists():
        os.replace(partial, output)
    copy = paths.relative(output)
    message = f"{notebook.name}: {error} (see {copy})" if error else None
    return Outcome(notebook.stem, "failed" if error else "ran", time.perf_counter() - start, copy, message)


def _line(message: object) -> str:
    return next(iter(str(message).strip().splitlines()), "")
