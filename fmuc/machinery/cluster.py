"""The workers of a Dask cluster, as a pool that calls functions (see docs/cluster.md)."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

from filelock import FileLock

from fmuc import paths
from fmuc.errors import FmucError
from fmuc.machinery import checkpoints
from fmuc.machinery.atomic import is_locked
from fmuc.records import code_digest

REPLY = 10  # seconds for a scheduler to reply
PATIENCE = 30  # seconds that a cluster may be without a usable worker

_interrupted: set[str] = set()  # in a worker: tokens of commands


class Cluster:
    """The workers that may train: those that declare a GPU if there are any, else all, but at most ``most``."""

    tick = 0.5

    def __init__(self, address: str, device: str, most: int | None) -> None:
        from distributed import KilledWorker

        logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)  # our errors say what matters
        self.lost = KilledWorker, CancelledError
        self.device, self.most, self.gpu = device, most, False
        self.checked, self.seen = set(), time.monotonic()
        self.client = _connect(address)
        self.token = FileLock(paths.data_root() / f".plan-{uuid4().hex}")
        with checkpoints.explained(paths.data_root()):
            self.token.acquire()

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
        if not workers:
            return
        token = Path(self.token.lock_file).name
        mine, answers = _facts(token), self.client.run(_facts, token, workers=list(workers), on_error="return")
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
        self.checked |= workers.keys()

    def submit(self, function: Callable, payload: dict) -> Future:
        """Call ``function(payload, on_epoch)`` in a worker; the payload gets the device."""
        device = ("cuda" if self.gpu else "cpu") if self.device == "auto" else self.device
        return self.client.submit(_call, function, payload | {"device": device}, self.token.lock_file, pure=False,
                                  key=f"{payload['folder']}-{uuid4().hex}", resources={"GPU": 1} if self.gpu else None)

    def close(self) -> None:
        """Stop the calls that still run, at their next epoch."""
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
    """What all machines must have in common; ``token``: a file that the command holds locked."""
    path = paths.data_root() / token
    shared = path.exists() and is_locked(path)
    versions = {name: version(name).partition("+")[0] for name in ("torch", "torchaudio", "numpy")}
    return {"data": "shared with its locks" if shared else str(path.parent), "code": code_digest(), **versions}


def _interrupt(token: str) -> None:
    _interrupted.add(token)


def _call(function: Callable, payload: dict, token: str) -> object:
    """In a worker: call the function until its command is interrupted or the worker closes."""
    from distributed import Reschedule, Status, get_worker

    worker = get_worker()

    def stop_if_asked(_: dict) -> None:
        if token in _interrupted:
            raise FmucError("interrupted")
        if worker.status not in (Status.running, Status.paused):
            raise Reschedule

    return function(payload, stop_if_asked)
