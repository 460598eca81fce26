"""Train runs side by side: by a worker per core or GPU of this machine, or by those of a Dask cluster."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, redirect_stderr, suppress
from dataclasses import asdict
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pandas as pd
import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from fmuc import paths, train
from fmuc.config import Run, run_from_dict
from fmuc.devices import pick_device
from fmuc.errors import FmucError
from fmuc.experiments import run_units
from fmuc.machinery import checkpoints
from fmuc.machinery.atomic import explained, is_locked
from fmuc.machinery.workers import cores, start_workers
from fmuc.records import code_digest, is_finished

LOSSES = 5  # times that a run may lose its worker
REPLY = 10  # seconds for a Dask scheduler to reply
PATIENCE = 30  # seconds that a cluster may be without a usable worker


class _Job(NamedTuple):
    run: Run
    folder: Path
    force: bool

    def payload(self) -> dict:
        """What a worker needs; its data folder may have another path."""
        folder = self.folder.relative_to(paths.data_root()).as_posix()
        return {"run": asdict(self.run), "folder": folder, "force": self.force}

    def epochs(self) -> int:
        """Number of finished epochs."""
        newest = next(iter(checkpoints.files(self.folder)), None)
        return int(newest.stem.rpartition("-")[2]) if newest else 0

    def is_free(self) -> bool:
        """Whether no process trains the run."""
        return not self.folder.is_dir() or not is_locked(self.folder / ".lock")


def states(runs: Sequence[Run], profile: str) -> list[str]:
    """Of each run: "missing", "done", "stale" (of other data than now) or "unchecked" (finished, but its data are
    gone). Each data set is read once."""
    data = {}

    def state(run: Run) -> str:
        folder, key = paths.runs_dir(profile) / run.name, (run.dataset, run.features)
        if not is_finished(folder):
            return "missing"
        if key not in data:
            data[key] = None
            with suppress(FmucError):
                data[key] = train.load_data(run)
        if data[key] is None:
            return "unchecked"
        return "done" if train.is_current(run, folder, data[key]) else "stale"

    return [state(run) for run in runs]


def missing(runs: Sequence[Run], profile: str) -> list[Run]:
    """The runs to train. Those that cannot be checked count as done; one line on stderr says so."""
    found = states(runs, profile)
    if count := found.count("unchecked"):
        print(f"fmuc: {count} finished runs are used as they are: the sound or the features that they belong to are "
              "gone or have changed; 'python -m fmuc features' makes them again", file=sys.stderr)
    return [run for run, state in zip(runs, found, strict=True) if state in ("missing", "stale")]


def train_plan(runs: Sequence[Run], profile: str, *, device: str = "auto", workers: int | None = None,
               progress: bool = True, scheduler: str | None = None, force: bool = False) -> None:
    """Train runs, the longest first, each in a worker process, on the CPU with one thread.

    ``workers``: runs at a time (default: one per core, one per GPU, or all workers of the cluster). ``scheduler``:
    address or file of a Dask scheduler. A run whose worker is killed continues in another one from its last epoch;
    runs that another command trains come last. ``force``: train finished runs again. ``KeyboardInterrupt`` ends all
    workers; finished epochs are kept. Raises :class:`FmucError` at the end if a run has failed.
    """
    longest_first = sorted(runs, key=run_units, reverse=True)  # so that the workers end together
    jobs = [_Job(run, paths.runs_dir(profile) / run.name, force) for run in longest_first]
    if not jobs:
        return
    with (closing(_Cluster(scheduler, device, workers) if scheduler else _Machine(device, workers)) as pool,
          tqdm(total=sum(job.run.training.epochs for job in jobs), unit="epoch", miniters=1,
               disable=not progress) as bar):
        failures = _train_all(jobs, pool, bar)
    if failures:
        raise FmucError("; ".join(f"{run} failed: {message}" for run, message in failures.items()))


def _train_all(jobs: list[_Job], pool: _Machine | _Cluster, bar: tqdm) -> dict[str, str]:
    """Names of the runs that failed, and why."""
    waiting, running = list(jobs), {}
    failures, losses = {}, Counter()
    while waiting or running:
        workers = pool.workers()
        while len(running) < workers and (job := next(filter(_Job.is_free, waiting), None)):
            waiting.remove(job)
            running[pool.submit(_train, job.payload())] = job
        what = f"{len(running)} of {len(jobs)} runs" if running else "waiting for a worker or another command"
        bar.set_description_str(what, refresh=False)
        time.sleep(pool.tick)
        for future in [future for future in running if future.done()]:
            job = running.pop(future)
            try:
                if said := future.result():
                    bar.write(said.rstrip(), file=sys.stderr)
            except pool.lost:
                losses[job.run] += 1
                if losses[job.run] < LOSSES:
                    waiting.insert(0, job._replace(force=job.force and is_finished(job.folder)))
                else:
                    failures[job.run.name] = "its worker was killed again and again (out of memory?)"
            except Exception as error:  # whatever ended this run: the others go on
                failures[job.run.name] = str(error).partition("\n")[0] or type(error).__name__
        _follow(jobs, bar)
    return failures


def _follow(jobs: list[_Job], bar: tqdm) -> None:
    """Bring the bar to the finished epochs, and let it say how the last one went."""
    epochs = sum(map(_Job.epochs, jobs))
    if epochs == bar.n:
        return
    with suppress(Exception):  # a file is just being written
        histories = {path: job.run for job in jobs if (path := job.folder / "history.csv").exists()}
        newest = max(histories, key=lambda path: path.stat().st_mtime)
        row, run = pd.read_csv(newest).ffill().iloc[-1].to_dict(), histories[newest]
        bar.set_postfix_str(f"{run.variant}, seed {run.seed}: {train.describe(row)}", refresh=False)
    bar.update(epochs - bar.n)


def _train(payload: dict, on_epoch: Callable[[dict], None] | None = None) -> str:
    """In a worker: train a run; return what was said on stderr, which may be that of another machine."""
    if pick_device(payload["device"]).type == "cpu":
        torch.set_num_threads(1)
    with redirect_stderr(StringIO()) as said:
        train.train(run_from_dict(payload["run"]), device=payload["device"], progress=False, on_epoch=on_epoch,
                    folder=paths.data_root() / payload["folder"], force=payload["force"])
    return said.getvalue()


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
        pick_device(device)  # refuses one that is not there
        self.device, self.variables = device, worker_variables(device, workers)
        self.executors = [start_workers(1, variables) for variables in self.variables]
        self.futures: list[Future | None] = [None] * len(self.variables)

    def workers(self) -> int:
        return len(self.variables)

    def submit(self, function: Callable, payload: dict) -> Future:
        index = next(i for i, future in enumerate(self.futures) if future is None or future.done())
        if self.futures[index] and isinstance(self.futures[index].exception(), self.lost):
            self.executors[index] = start_workers(1, self.variables[index])
        self.futures[index] = self.executors[index].submit(function, payload | {"device": self.device})
        return self.futures[index]

    def close(self) -> None:
        for executor in self.executors:
            executor.shutdown(kill_workers=True)


class _Cluster:
    """The workers of a Dask cluster: those that declare a GPU if there are any, else all, but at most ``most``.

    Holds a lock file in the shared data folder: once it is gone, runs stop at their next epoch.
    """

    tick = 0.5

    def __init__(self, address: str, device: str, most: int | None) -> None:
        from distributed import KilledWorker

        logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)  # our errors say what matters
        self.lost = KilledWorker, CancelledError
        self.device, self.most, self.gpu = device, most, False
        self.checked, self.heartbeats, self.seen = set(), {}, time.monotonic()
        self.client = _connect(address)
        self.token = f".plan-{uuid4().hex}"
        self.lock = FileLock(paths.data_root() / self.token)
        with explained(paths.data_root()):
            for left in paths.data_root().glob(".plan-*"):  # by commands that were killed
                with suppress(Timeout), FileLock(left, blocking=False):
                    left.unlink(missing_ok=True)
            self.lock.acquire()

    def workers(self) -> int:
        """Number of calls at a time. Checks workers that have joined."""
        try:
            known = self.client.scheduler_info(n_workers=-1)["workers"]
        except (OSError, KeyError):
            raise FmucError("the Dask scheduler is gone: start it and its workers again; the same command continues "
                            "from the last finished epochs") from None
        gpus = {address: worker for address, worker in known.items() if worker["resources"].get("GPU")}
        self.gpu = self.device.startswith("cuda") or (self.device == "auto" and bool(gpus))
        usable = {address: worker["nthreads"] for address, worker in (gpus if self.gpu else known).items()
                  if worker["status"] == "running" and self._is_alive(address, worker["last_seen"])}
        if new := usable.keys() - self.checked:
            self._check({address: usable[address] for address in new})
        ready = len(usable.keys() & self.checked)
        if ready:
            self.seen = time.monotonic()
        elif time.monotonic() - self.seen > PATIENCE:
            raise FmucError(f"no worker of the cluster could train for {PATIENCE} s ({len(known)} known, none of them "
                            f"ready): start 'dask worker --nthreads 1{' --resources GPU=1' * self.gpu}', or see why "
                            "they are paused or stopped")
        return min(ready, self.most or ready)

    def _is_alive(self, address: str, heartbeat: float) -> bool:
        """Whether a heartbeat has come since the worker was listed: a stopped one would never reply to a check."""
        return heartbeat > self.heartbeats.setdefault(address, heartbeat)

    def _check(self, workers: dict[str, int]) -> None:
        """:class:`FmucError` for a worker, given with its threads, that would train otherwise than this process."""
        mine = _facts(self.token)
        answers = self.client.run(_facts, self.token, workers=[*workers], on_error="return")
        for address, facts in answers.items():
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
        self.checked |= {address for address, facts in answers.items() if facts == mine}

    def submit(self, function: Callable, payload: dict) -> Future:
        """Call ``function(payload, on_epoch)`` in a worker; the payload gets the device."""
        device = ("cuda" if self.gpu else "cpu") if self.device == "auto" else self.device
        return self.client.submit(_call, function, payload | {"device": device}, self.token, pure=False,
                                  resources={"GPU": 1} if self.gpu else None)

    def close(self) -> None:
        """Let the calls that still run stop at their next epoch."""
        self.lock.release()
        Path(self.lock.lock_file).unlink(missing_ok=True)
        self.client.close()


def _connect(place: str):  # -> distributed.Client
    """Connect to the scheduler with this address or scheduler file."""
    from distributed import Client

    try:
        address = json.loads(Path(place).read_text())["address"] if place.endswith(".json") else place
    except (OSError, ValueError, KeyError, TypeError):
        raise FmucError(f"{place} is no scheduler file: start 'dask scheduler --scheduler-file {place}'") from None
    try:
        asyncio.run(_shake_hands(address))
        return Client(address, timeout=REPLY, set_as_default=False)
    except Exception as error:  # of the network, the certificates, the address
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise FmucError(f"no Dask scheduler answers at {address} ({reason}): start one, see to its certificates if it "
                        "has any (docs/cluster.md), or leave out --scheduler") from None


async def _shake_hands(address: str) -> None:
    """Connect once without a client, which would take 20 s to close if the connection were refused."""
    from distributed.comm import connect
    from distributed.security import Security

    comm = await connect(address, timeout=REPLY, **Security().get_connection_args("client"))
    await comm.close()


def _facts(token: str) -> dict[str, str]:
    """What all machines must have in common; ``token``: a lock file that the command holds."""
    versions = {name: version(name).partition("+")[0] for name in ("torch", "torchaudio", "numpy")}
    return {"data": "shared with its locks" if _is_held(token) else str(paths.data_root()), "code": code_digest(),
            **versions}


def _is_held(token: str) -> bool:
    path = paths.data_root() / token
    return path.exists() and is_locked(path)


def _call(function: Callable, payload: dict, token: str) -> object:
    """In a worker: call the function until the command is gone or the worker closes."""
    from distributed import Reschedule, Status, get_worker

    worker = get_worker()

    def stop_if_asked(_: dict) -> None:
        if not _is_held(token):
            raise FmucError("the command has ended")
        if worker.status not in (Status.running, Status.paused):
            raise Reschedule

    return function(payload, stop_if_asked)
