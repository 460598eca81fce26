"""The papermill batch: executes the notebooks of a profile, each in its own kernel, and skips what is up to date.

Executed copies go to ``figures/<profile>/notebooks/``, beside the figures and tables that the notebooks write.
A manifest there holds a fingerprint of everything that a notebook's outputs depend on.
"""

from __future__ import annotations

import ast
import base64
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from tqdm import tqdm

from fmuc import paths
from fmuc.errors import FmucError

# jsonschema, which validates notebooks, would import this to check IRIs, and no notebook has one: building its grammars
# takes two seconds of every process (python-jsonschema/jsonschema#1428). It does without what is not there.
sys.modules.setdefault("rfc3987_syntax", None)



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


COMMON = ("profile", "source", "dataset")  # parameters of every notebook
MANY = 2  # notebooks for each worker; for more, imports are done once for all (fmuc.preloaded_kernels)


@dataclass(frozen=True)
class Job:
    """One notebook, where its executed copy goes, and the values of all its parameters.

    ``fingerprint`` changes whenever the outputs may, ``records`` with the run records that they are made from;
    ``parameters_cell`` is a position in the notebook, from 0; ``cells`` is the number of those with code.
    """

    notebook: Path
    output: Path
    parameters: dict[str, object]
    fingerprint: str
    records: str
    parameters_cell: int
    cells: int

    @property
    def name(self) -> str:
        return self.notebook.stem


@dataclass(frozen=True)
class Outcome:
    """What became of one notebook: ``status`` is "ran", "up to date", "failed" or "not run"."""

    name: str
    status: str
    seconds: float
    output: str  # the executed copy
    error: str | None = None  # one line that names notebook, cell and error


@dataclass(frozen=True)
class Summary:
    """The outcomes in the notebooks' order; ``str()`` is the table to print, :meth:`asdict` the JSON."""

    outcomes: tuple[Outcome, ...]
    seconds: float
    results: tuple[str, ...]  # folders of the figures and tables

    @property
    def error(self) -> str | None:
        """One line about the first failure, None if there is none."""
        return next((outcome.error for outcome in self.outcomes if outcome.error), None)

    @property
    def status(self) -> int:
        """Exit status: 1 if a notebook failed, else 0."""
        return int(self.error is not None)

    def asdict(self) -> dict:
        return {**asdict(self), "error": self.error, "status": self.status}

    def __str__(self) -> str:
        width = max(len(outcome.name) for outcome in self.outcomes)
        rows = [f"{outcome.name:<{width}}  {outcome.status:<10}  {outcome.seconds:6.1f} s" for outcome in self.outcomes]
        return "\n".join([*rows, f"{len(rows)} notebooks, {self.seconds:.1f} s; results in {', '.join(self.results)}"])


def execute(
    profile: str | None = None,
    *,
    source: str | None = None,
    dataset: str | None = None,
    only: Sequence[str] | None = None,
    parameters: Mapping[str, object] | None = None,
    force: bool = False,
    workers: int = 2,
    in_place: bool = False,
    folder: Path = paths.NOTEBOOKS,
    progress: bool = True,
) -> Summary:
    """Execute the notebooks that are not up to date (all of them with ``force``), ``workers`` at a time.

    ``profile``, ``source`` ("runs" or "shipped"), ``dataset`` (that one alone) and further ``parameters`` override the
    notebooks' defaults; text stands for a literal of the default's type. ``in_place`` also stores the outputs in the
    notebooks themselves, which keep their default parameters. After a failing notebook no other is started; its copy is
    kept with the error, and the next call continues there: see :attr:`Summary.status` and :attr:`Summary.error`.

    Raises :class:`FmucError`, before anything is executed, for an unknown notebook or parameter or a wrong type.
    """
    start = time.perf_counter()
    given = {name: value for name, value in zip(COMMON, (profile, source, dataset), strict=True) if value is not None}
    package = (file for file in Path(__file__).parent.iterdir() if file.is_file())
    code = digest([*sorted(package), *sorted(paths.PUBLISHED.glob("*.csv"))])
    data = cache(records_digest)  # most notebooks read the same records
    jobs = [_job(path, {**given, **(parameters or {})}, code, in_place, data)
            for path in find(only, folder)]
    outcomes = _batch(jobs, force, max(1, workers), progress)
    if in_place:
        for job in jobs:
            if outcomes[job.name].status in ("ran", "up to date"):
                store(job.notebook, job.output, job.records)
    results = sorted({paths.relative(job.output.parent.parent) for job in jobs})
    return Summary(tuple(outcomes[job.name] for job in jobs), time.perf_counter() - start, tuple(results))


def _job(path: Path, given: Mapping[str, object], code: str, in_place: bool, digest: Callable[[Path], str]) -> Job:
    notebook = read(path)
    known = defaults(notebook, path.name)
    for name in COMMON:
        if not isinstance(known.get(name), str):
            raise FmucError(f"{path.name}: its parameters cell must set {name} to a text")
    values = bind(known, given, path.name)
    for name, pattern in (("profile", "[a-z0-9-]{1,40}"), ("dataset", "[a-z0-9-]{0,40}")):  # they name folders
        if not re.fullmatch(pattern, values[name]):
            raise FmucError(f"{path.name}: {name} must be small letters, digits and hyphens, not {values[name]!r}")
    if in_place and values != known:
        changed = next(name for name in known if values[name] != known[name])
        raise FmucError(f"{path.name}: notebooks are stored with their default parameters: "
                        f"leave out {changed}={values[changed]!r} or do not execute in place")
    try:
        records = paths.records_dir(values["profile"], values["source"])
    except ValueError as error:
        raise FmucError(f"{path.name}: {error}") from None
    cells = [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells]
    data = digest(records)
    fingerprint = sha256(json.dumps([cells, values, code, data], sort_keys=True, default=repr).encode()).hexdigest()
    output = paths.figures_dir(values["profile"], values["source"], values["dataset"]) / "notebooks" / path.name
    return Job(path, output, values, fingerprint, data, parameters_cell(notebook, path.name),
               sum(cell.cell_type == "code" for cell in notebook.cells))


def _expected_seconds(job: Job) -> float:
    """What the executed copy of a notebook says that it took, else a third of a second for each cell of code."""
    with suppress(OSError, LookupError, TypeError, ValueError):
        return float(json.loads(job.output.read_text(encoding="utf-8"))["metadata"]["papermill"]["duration"])
    return job.cells / 3


def _batch(jobs: list[Job], force: bool, workers: int, progress: bool) -> dict[str, Outcome]:
    """Outcome of every job by name."""
    fresh = {job.name for job in jobs if not force and job.output.is_file()
             and _manifest(job).get(job.name) == job.fingerprint}
    outcomes = {job.name: Outcome(job.name, "up to date" if job.name in fresh else "not run", 0.0,
                                  paths.relative(job.output)) for job in jobs}
    stale = [job for job in jobs if job.name not in fresh]
    queue = deque(sorted(stale, key=_expected_seconds, reverse=True))  # no long one is left alone at the end
    with (tqdm(total=len(jobs), initial=len(fresh), desc="notebooks", disable=not progress) as bar,
          closing(_run_all(queue, workers)) as finished):
        for outcome in finished:
            outcomes[outcome.name] = outcome
            bar.set_postfix_str(outcome.name)
            bar.update()
    return outcomes


def _run_all(queue: deque[Job], workers: int) -> Iterator[Outcome]:
    """Outcomes as they come in; none is started after a failure.

    The manifest forgets a job before it starts and learns it when it has run, so that a crash leaves nothing wrong.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)  # kernels that compete for cores are many times slower
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_limit,
                               initargs=(threads, len(queue) > MANY * workers))
    running: dict[Future, Job] = {}
    try:
        while queue or running:
            while queue and len(running) < workers:
                job = queue.popleft()
                _remember(job, None)
                running[pool.submit(_run, job)] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                outcome = _outcome(future, job)
                if outcome.error:
                    queue.clear()
                else:
                    _remember(job, job.fingerprint)
                yield outcome
    except BaseException:  # Ctrl-C above all: papermill stops its kernel when it is terminated
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _outcome(future: Future, job: Job) -> Outcome:
    try:
        return future.result()
    except BrokenExecutor:
        error = f"{job.notebook.name}: its process was killed (out of memory?): free memory or use fewer workers"
        return Outcome(job.name, "failed", 0.0, paths.relative(job.output), error)


def _limit(threads: int, preload: bool) -> None:
    """Set up a worker process; Ctrl-C reaches it through the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # else every kernel prints a warning about debugging
    if preload:
        from fmuc import preloaded_kernels

        preloaded_kernels.prefer()


def _run(job: Job) -> Outcome:
    """Execute one notebook in this process's kernel, working directory its own folder, as in Jupyter."""
    import papermill  # here, since a batch that is up to date does without its second of import

    start, error = time.perf_counter(), None
    job.output.parent.mkdir(parents=True, exist_ok=True)
    partial = job.output.with_name(f".partial_{job.output.name}")
    try:
        papermill.execute_notebook(job.notebook, partial, job.parameters, kernel_name="python3",
                                   language="python", cwd=job.notebook.parent, progress_bar=False,
                                   request_save_on_cell_execute=False,  # else twice a cell, while the kernel waits
                                   extra_arguments=["--log-level=ERROR"])  # no notice per kernel about its sockets
    except papermill.PapermillExecutionError as failure:
        injected = failure.cell_index > job.parameters_cell  # papermill's own cell follows the parameters
        line = failure.source.strip().splitlines()[0]
        error = f"cell {failure.cell_index + 1 - injected} ({line}): {_first_line(failure.ename, failure.evalue)}"
    except Exception as failure:
        error = _first_line(type(failure).__name__, failure)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    copy, kept = paths.relative(job.output), partial.exists()
    if kept:
        os.replace(partial, job.output)
    if error:
        error = f"{job.notebook.name}, {error}" + (f" (kept in {copy})" if kept else "")
    return Outcome(job.name, "failed" if error else "ran", time.perf_counter() - start, copy, error)


def _first_line(kind: str, message: object) -> str:
    return f"{kind}: {next(iter(str(message).strip().splitlines()), '')}".removesuffix(": ")


def _manifest(job: Job) -> dict[str, str]:
    try:
        known = json.loads((job.output.parent / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        known = None
    return known if isinstance(known, dict) else {}  # nothing is known to be up to date


def _remember(job: Job, fingerprint: str | None) -> None:
    known = {**_manifest(job), job.name: fingerprint}
    path = job.output.parent / "manifest.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps({k: v for k, v in known.items() if v}, indent=1, sort_keys=True), encoding="utf-8")
    os.replace(partial, path)
