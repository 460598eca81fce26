"""Train a plan's missing runs: a worker process per core or GPU of this machine, or the workers of a Dask cluster."""

from __future__ import annotations

import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from fmuc import paths, train
from fmuc.config import Run, run_from_dict
from fmuc.devices import pick_device
from fmuc.errors import FmucError
from fmuc.experiments import run_units
from fmuc.machinery import checkpoints
from fmuc.machinery.workers import cores, start_workers
from fmuc.records import code_digest, is_finished

LOSSES = 5  # times that a run may lose its worker
REPLY = 10  # seconds for a Dask scheduler to reply
PATIENCE = 30  # seconds that a cluster may be without a usable worker


@dataclass(frozen=True)
class Failure:
    """A run that ended with an error."""

    run: str
    message: str


@dataclass(frozen=True)
class _Job:
    run: Run
    folder: Path
    force: bool

    def payload(self, device: str) -> dict:
        """What a worker needs; its data folder may have another path."""
        folder = self.folder.relative_to(paths.data_root()).as_posix()
        return {"run": asdict(self.run), "folder": folder, "device": device, "force": self.force}

    def epochs(self) -> int:
        """Number of finished epochs."""
        names = [path.stem for path in self.folder.glob("checkpoint-*.safetensors")]
        return max((int(name.rpartition("-")[2]) for name in names), default=0)

    def is_free(self) -> bool:
        """Whether no process trains the run."""
        return not self.folder.is_dir() or not _is_locked(self.folder / ".lock")


def missing(runs: Sequence[Run], profile: str) -> list[Run]:
    """Return the runs without a record of the present data, longest first, so that the workers end together."""
    todo = [run for run in runs if not train.is_current(run, paths.runs_dir(profile) / run.name)]
    return sorted(todo, key=run_units, reverse=True)


def train_plan(runs: Sequence[Run], profile: str, *, device: str = "auto", workers: int | None = None,
               progress: bool = True, scheduler: str | None = None, force: bool = False) -> list[Failure]:
    """Train the missing runs of a plan, each in a worker process, on the CPU with one thread; return those that failed.

    ``workers``: runs at a time (default: one per core, one per GPU, or all workers of the cluster). ``scheduler``:
    address or file of a Dask scheduler. A run whose worker is killed continues in another one from its last epoch;
    runs that another command trains come last. ``force``: train finished runs again. ``KeyboardInterrupt`` ends all
    workers; finished epochs are kept.
    """
    if workers is not None and workers < 1:
        raise FmucError(f"--workers must be at least 1, not {workers}")
    todo = sorted(runs, key=run_units, reverse=True) if force else missing(runs, profile)
    jobs = [_Job(run, paths.runs_dir(profile) / run.name, force) for run in todo]
    if not jobs:
        return []
    with (closing(_Cluster(scheduler, device, workers) if scheduler else _Machine(device, workers)) as pool,
          tqdm(total=sum(job.run.training.epochs for job in jobs), unit="epoch", disable=not progress) as bar):
        return _train_all(jobs, pool, bar)


def _train_all(jobs: list[_Job], pool: _Machine | _Cluster, bar: tqdm) -> list[Failure]:
    waiting, running = list(jobs), {}
    failures, losses = [], Counter()
    while waiting or running:
        workers = pool.workers()
        while len(running) < workers and (job := next(filter(_Job.is_free, waiting), None)):
            waiting.remove(job)
            running[pool.submit(job)] = job
        bar.set_description_str(f"{len(jobs)} runs, {len(running)} at a time", refresh=False)
        bar.update(sum(map(_Job.epochs, jobs)) - bar.n)
        time.sleep(pool.tick)
        for future in [future for future in running if future.done()]:
            job = running.pop(future)
            try:
                bar.set_postfix_str(future.result(), refresh=False)
            except pool.lost:
                losses[job.run.name] += 1
                if losses[job.run.name] < LOSSES:
                    waiting.insert(0, replace(job, force=job.force and is_finished(job.folder)))
                else:
                    failures.append(Failure(job.run.name, "its worker was killed again and again (out of memory?)"))
            except Exception as error:  # whatever ended this run: the others go on
                failures.append(Failure(job.run.name, str(error).partition("\n")[0] or type(error).__name__))
    return failures


def _train(payload: dict, on_epoch: Callable[[dict], None] | None = None) -> str:
    """In a worker: train a run; return a line about it."""
    run = run_from_dict(payload["run"])
    if pick_device(payload["device"]).type == "cpu":
        torch.set_num_threads(1)
    record = train.train(run, device=payload["device"], folder=paths.data_root() / payload["folder"], progress=False,
                         force=payload["force"], on_epoch=on_epoch)
    return f"{run.variant}, seed {run.seed}: {train.describe(record.history.reset_index().iloc[-1].to_dict())}"


def _is_locked(path: Path) -> bool:
    try:
        with FileLock(path, blocking=False):
            return False
    except Timeout:
        return True


# This machine


def worker_variables(device: str, workers: int | None = None) -> list[dict[str, str]]:
    """Environment variables of each worker of this machine: one of the visible GPUs, in turn, or none."""
    count = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if not count:
        return [{}] * (workers or (1 if device.startswith("cuda") else cores()))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",")[:count] if visible else [str(index) for index in range(count)]
    return [{"CUDA_VISIBLE_DEVICES": gpus[index % count]} for index in range(workers or count)]


class _Machine:
    """Worker processes of this machine; each has an executor of its own, so that a killed one ends only its run."""

    tick, lost = 0.1, BrokenProcessPool

    def __init__(self, device: str, workers: int | None) -> None:
        self.device, self.variables = device, worker_variables(device, workers)
        self.executors = [None] * len(self.variables)
        self.futures: list[Future | None] = [None] * len(self.variables)

    def workers(self) -> int:
        return len(self.variables)

    def submit(self, job: _Job) -> Future:
        index = next(i for i, future in enumerate(self.futures) if future is None or future.done())
        last = self.futures[index]
        if last is None or isinstance(last.exception(), self.lost):
            self.executors[index] = start_workers(1, self.variables[index])
        self.futures[index] = self.executors[index].submit(_train, job.payload(self.device))
        return self.futures[index]

    def close(self) -> None:
        for executor in filter(None, self.executors):
            executor.shutdown(kill_workers=True)


# A Dask cluster

_interrupted: set[str] = set()  # in a worker: tokens of plans


class _Cluster:
    """The workers of a Dask cluster that may train: those that declare a GPU if there are any, else all."""

    tick = 0.5

    def __init__(self, address: str, device: str, most: int | None) -> None:
        from distributed import KilledWorker

        logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)  # FmucError and Failure say what matters
        self.lost = KilledWorker, CancelledError
        self.device, self.most, self.gpu = device, most, False
        self.checked, self.seen = set(), time.monotonic()
        self.client = _connect(address)
        self.token = FileLock(paths.data_root() / f".plan-{uuid4().hex}")
        with checkpoints.explained(paths.data_root()):
            self.token.acquire()

    def workers(self) -> int:
        """Number of runs at a time. Checks workers that have joined."""
        try:
            known = self.client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, KeyError):
            raise FmucError("the Dask scheduler is gone: start it and its workers again; the same command continues "
                            "from the last finished epochs") from None
        gpus = {address: worker for address, worker in known.items() if worker["resources"].get("GPU")}
        self.gpu = self.device.startswith("cuda") or (self.device == "auto" and bool(gpus))
        usable = {address: worker["nthreads"] for address, worker in (gpus if self.gpu else known).items()
                  if worker["status"] == "running"}
        self._check({address: usable[address] for address in usable.keys() - self.checked})
        if usable:
            self.seen = time.monotonic()
        elif time.monotonic() - self.seen > PATIENCE:
            raise FmucError(f"no worker of the cluster could train for {PATIENCE} s ({len(known)} known, none of them "
                            f"ready): start 'dask worker --nthreads 1{' --resources GPU=1' * self.gpu}', or see why "
                            "they are paused")
        return min(len(usable), self.most or len(usable))

    def _check(self, workers: dict[str, int]) -> None:
        """:class:`FmucError` for a worker, given with its threads, that would train otherwise than this process."""
        name, mine = Path(self.token.lock_file).name, None
        answers = self.client.run(_facts, name, workers=list(workers), on_error="return") if workers else {}
        for address, facts in answers.items():
            mine = mine or _facts(name)
            if workers[address] > 1:
                raise FmucError(f"the worker at {address} would train {workers[address]} runs in one process: start it "
                                "with 'dask worker --nthreads 1 --nworkers N'")
            if isinstance(facts, ImportError):
                raise FmucError(f"the worker at {address} cannot import fmuc ({facts}): start it with the Python of "
                                "this project, in its folder")
            if isinstance(facts, dict) and facts != mine:  # any other error: it is gone again
                wrong = [f"{name} {facts[name]} instead of {mine[name]}" for name in mine if facts[name] != mine[name]]
                raise FmucError(f"the worker at {address} has {', '.join(wrong)}: let FMUC_DATA name one shared folder "
                                "for all, install the same code and requirements.lock there, and start it again")
        self.checked |= workers.keys()

    def submit(self, job: _Job) -> Future:
        device = ("cuda" if self.gpu else "cpu") if self.device == "auto" else self.device
        return self.client.submit(_train_for, self.token.lock_file, job.payload(device), pure=False,
                                  key=f"{job.run.name}-{uuid4().hex}", resources={"GPU": 1} if self.gpu else None)

    def close(self) -> None:
        """Stop the runs that still train, at their next epoch."""
        with suppress(Exception):  # the scheduler or a worker is gone
            self.client.run(_interrupt, self.token.lock_file, on_error="ignore")
        self.client.close()
        self.token.release()
        Path(self.token.lock_file).unlink(missing_ok=True)


def _connect(place: str):  # -> distributed.Client
    """Connect to the scheduler with this address or scheduler file."""
    from distributed import Client

    try:
        address = json.loads(Path(place).read_text())["address"] if place.endswith(".json") else place
    except (OSError, ValueError, KeyError, TypeError):
        raise FmucError(f"{place} is no scheduler file: start 'dask scheduler --scheduler-file {place}'") from None
    try:
        return Client(address, timeout=REPLY, set_as_default=False)
    except Exception as error:  # of the network, the certificates, the address
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise FmucError(f"no Dask scheduler answers at {address} ({reason}): start one, see to its certificates if it "
                        "has any (docs/cluster.md), or leave out --scheduler") from None


def _facts(token: str) -> dict[str, str]:
    """What all machines of a plan must have in common; ``token``: a file that the command holds locked."""
    path = paths.data_root() / token
    shared = path.exists() and _is_locked(path)
    versions = {name: version(name).partition("+")[0] for name in ("torch", "torchaudio", "numpy")}
    return {"data": "shared with its locks" if shared else str(path.parent), "code": code_digest(), **versions}


def _interrupt(plan: str) -> None:
    _interrupted.add(plan)


def _train_for(plan: str, payload: dict) -> str:
    """In a Dask worker: :func:`_train` until the plan is interrupted or the worker closes."""
    from distributed import Reschedule, Status, get_worker

    worker = get_worker()

    def stop_if_asked(_: dict) -> None:
        if plan in _interrupted:
            raise FmucError("interrupted")
        if worker.status not in (Status.running, Status.paused):
            raise Reschedule

    return _train(payload, stop_if_asked)
