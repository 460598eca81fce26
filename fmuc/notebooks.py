"""The papermill batch: executes the notebooks of a profile, each in its own kernel, and skips what is up to date.

Executed copies go to ``figures/<profile>/notebooks/``, beside the figures and tables that the notebooks write.
A manifest there holds a fingerprint of everything that a notebook's outputs depend on.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from tqdm import tqdm

from fmuc import notebook_files, paths
from fmuc.errors import FmucError

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
    code = notebook_files.digest([*sorted(package), *sorted(paths.PUBLISHED.glob("*.csv"))])
    data = cache(notebook_files.records_digest)  # most notebooks read the same records
    jobs = [_job(path, {**given, **(parameters or {})}, code, in_place, data)
            for path in notebook_files.find(only, folder)]
    outcomes = _batch(jobs, force, max(1, workers), progress)
    if in_place:
        for job in jobs:
            if outcomes[job.name].status in ("ran", "up to date"):
                notebook_files.store(job.notebook, job.output, job.records)
    results = sorted({paths.relative(job.output.parent.parent) for job in jobs})
    return Summary(tuple(outcomes[job.name] for job in jobs), time.perf_counter() - start, tuple(results))


def _job(path: Path, given: Mapping[str, object], code: str, in_place: bool, digest: Callable[[Path], str]) -> Job:
    notebook = notebook_files.read(path)
    known = notebook_files.defaults(notebook, path.name)
    for name in COMMON:
        if not isinstance(known.get(name), str):
            raise FmucError(f"{path.name}: its parameters cell must set {name} to a text")
    values = notebook_files.bind(known, given, path.name)
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
    output = paths.figures_dir(values["profile"], values["dataset"]) / "notebooks" / path.name
    return Job(path, output, values, fingerprint, data, notebook_files.parameters_cell(notebook, path.name),
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
