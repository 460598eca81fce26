"""Where the jobs of a plan are carried out: threads of this process that start processes, or any Dask cluster.

Either is a Dask cluster, so that one way of scheduling serves both. The threads here open no port; a worker elsewhere
declares what it has as Dask resources: ``core`` or ``GPU`` (docs/cluster.md).
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from fmuc import launch
from fmuc.errors import FmucError

if TYPE_CHECKING:
    from distributed import Client

_TIMEOUT = 10  # seconds for a scheduler to answer in
# Dask's own watching: samples of its threads' stacks, ticks of its loops, every 10 and 20 ms, on the cores that train
_SELDOM = {"distributed.worker.profile.enabled": False, "distributed.admin.tick.interval": "1s"}


@dataclass(frozen=True)
class Pool:
    """A connected cluster. ``resources`` that a job asks of its worker; ``device`` that it trains on; ``threads`` of
    its process (None: as many as there are); ``gpus`` of this machine by worker, empty elsewhere; ``most`` jobs at a
    time."""

    client: Client
    resources: dict[str, float]
    device: str
    threads: int | None = 1
    gpus: tuple[str, ...] = ()
    most: int | None = None

    def slots(self) -> int:
        """Jobs that the workers which are there now can carry out at a time."""
        workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        total = sum(_slots(worker, self.resources) for worker in workers if worker["status"] == "running")
        return total if self.most is None else min(total, self.most)


def _slots(worker: dict, resources: dict[str, float]) -> int:
    fitting = [int(worker["resources"].get(name, 0) / part + 1e-9) for name, part in resources.items()]
    return min([worker["nthreads"], *fitting])


def share(jobs: int) -> float:
    """The part of a resource that each of ``jobs`` users asks for; in binary digits, which add up without rounding."""
    return 2**20 // jobs / 2**20


@contextmanager
def local(workers: int, device: str, gpus: Sequence[str] = ()) -> Iterator[Pool]:
    """``workers`` jobs at a time on this machine, spread over its ``gpus`` if these are given."""
    import dask
    from distributed import Client, LocalCluster

    per_gpu = math.ceil(workers / max(len(gpus), 1))
    resources, threads = ({"GPU": share(per_gpu)}, per_gpu) if gpus else ({"core": 1}, workers)
    with (_quiet(), dask.config.set(_SELDOM),
          LocalCluster(n_workers=len(gpus) or 1, threads_per_worker=threads, processes=False, memory_limit=0,
                       resources={"GPU": 1} if gpus else {"core": workers},
                       dashboard_address="127.0.0.1:0" if find_spec("bokeh") else None) as cluster,
          Client(cluster) as client):
        yield Pool(client, resources, device, 1 if workers > 1 else None, tuple(gpus), workers)


@contextmanager
def remote(address: str, device: str = "auto", *, most: int | None = None, per_gpu: int = 1) -> Iterator[Pool]:
    """The cluster whose scheduler is at ``address`` (as ``tcp://host:8786``) or in that scheduler file.

    Raises :class:`FmucError` for a scheduler that does not answer and a ``device`` that no worker declares.
    """
    from distributed import Client

    where = {"scheduler_file": address} if Path(address).suffix == ".json" else {"address": address}
    if "scheduler_file" in where and not Path(address).is_file():
        raise FmucError(f"no scheduler file {address}: start one with 'dask scheduler --scheduler-file {address}'")
    with _quiet():
        try:
            client = Client(**where, timeout=_TIMEOUT)
        except (OSError, ValueError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise FmucError(f"no Dask scheduler answers at {address} ({reason}): start one with 'dask scheduler', or "
                            "leave out --scheduler") from None
        with client:
            if not client.scheduler_info(n_workers=0)["n_workers"]:
                print(f"fmuc: no worker has joined {address} yet: waiting for one", file=sys.stderr)
            client.wait_for_workers(1)
            yield _pool(client, device, most, per_gpu)


def _pool(client: Client, device: str, most: int | None, per_gpu: int) -> Pool:
    declared = {name for worker in client.scheduler_info(n_workers=-1)["workers"].values()
                for name in worker["resources"]}
    if device != "cpu" and "GPU" in declared:
        return Pool(client, {"GPU": share(per_gpu)}, "cuda" if device == "auto" else device, most=most)
    if device not in ("auto", "cpu"):
        raise FmucError(f"no worker of the cluster declares a GPU for --device {device}: start it with "
                        "'dask worker --resources GPU=1', or use --device cpu")
    return Pool(client, {"core": 1} if "core" in declared else {}, "cpu", most=most)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Dask logs of workers that come and go off the terminal: the plan reports what matters."""
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def check(pool: Pool, required: dict) -> None:
    """:class:`FmucError` for the first worker that must not train for this plan, and for one without this package."""
    answers = pool.client.run(launch.misfit, required, on_error="return")
    for worker, answer in answers.items():
        if isinstance(answer, ImportError | AttributeError):
            raise FmucError(f"the worker at {worker} cannot import fmuc ({answer}): start it with the Python that this "
                            "project is installed for, in its folder")
        if isinstance(answer, str) and answer:  # other errors: a worker that has just gone
            raise FmucError(answer)
