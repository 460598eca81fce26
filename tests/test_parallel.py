"""Worker processes of this machine, and plans of runs on them and on a real Dask cluster."""

from __future__ import annotations

import itertools
import operator
import os
import re
import signal
import threading
from dataclasses import replace
from pathlib import Path

import dask
import distributed  # noqa: F401 (its defaults must be there before a test changes one)
import psutil
import pytest
import torch
from dask_farm import wait_for
from filelock import FileLock
from test_kills import ending

from fmuc import paths, train
from fmuc.config import Run
from fmuc.errors import FmucError
from fmuc.experiments import make_run
from fmuc.machinery import parallel
from fmuc.machinery.parallel import missing, train_plan, worker_variables
from fmuc.machinery.workers import run_parallel, start_workers


def small_run(variant: str = "Labelled part only", seed: int = 0, epochs: int = 2) -> Run:
    run = make_run("smoke", "nsynth-gm-smoke", variant, seed)
    return replace(run, training=replace(run.training, epochs=epochs))


def folder_of(run: Run) -> Path:
    return paths.runs_dir("smoke") / run.name


def has_begun(run: Run) -> bool:
    return any(folder_of(run).glob("checkpoint-*.safetensors"))


# Worker processes


def test_results_come_in_order_few_tasks_are_in_flight_and_no_worker_is_left():
    taken = []
    results = run_parallel(operator.neg, ((taken.append(number) or number,) for number in range(50)), 2)
    assert [next(results) for _ in range(9)] == [-number for number in range(9)]
    assert len(taken) <= 13
    results.close()
    assert not [child for child in psutil.Process().children() if "popen_loky" in " ".join(child.cmdline())]


def test_a_killed_worker_is_one_clear_error():
    with pytest.raises(FmucError, match="worker process was killed"):
        list(run_parallel(signal.raise_signal, [(signal.SIGCHLD,), (signal.SIGKILL,), (signal.SIGCHLD,)], 2))


def test_workers_compute_in_one_thread_with_the_allocator_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    names = ("OMP_NUM_THREADS", "MALLOC_TOP_PAD_", "CUDA_VISIBLE_DEVICES")
    executor = start_workers(1, {"CUDA_VISIBLE_DEVICES": "5"})
    try:
        assert [executor.submit(os.getenv, name).result() for name in names] == ["1", "1", "5"]
    finally:
        executor.shutdown(kill_workers=True)


@pytest.mark.parametrize(("device", "workers", "visible", "expected"), [
    ("cuda", 3, None, ["0", "1", "0"]), ("auto", None, "3,GPU-7a", ["3", "GPU-7a"]), ("cuda:1", None, None, [None]),
    ("cpu", 3, None, [None] * 3)])
def test_every_gpu_gets_runs_and_those_that_are_hidden_none(monkeypatch, device, workers, visible, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [each.get("CUDA_VISIBLE_DEVICES") for each in worker_variables(device, workers)] == expected


# Plans on this machine


def test_a_run_whose_worker_is_killed_goes_on_in_another(trainable, one_thread, tmp_path):
    """One that fails stops no other: it asks for features that nobody extracted."""
    run = small_run("FM", epochs=6)
    broken = replace(small_run(), features=replace(small_run().features, mel_bands=16))

    def kill() -> None:
        wait_for(lambda: has_begun(run))
        lock = str(folder_of(run) / ".lock")
        for child in psutil.Process().children():
            if lock in [file.path for file in child.open_files()]:
                child.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(FmucError, match=rf"^{re.escape(broken.name)} failed: .*python -m fmuc features"):
        train_plan([run, broken], "smoke", device="cpu", workers=1, progress=False)
    killer.join()
    assert missing([run, broken], "smoke") == [broken]
    alone = tmp_path / "alone" / run.name
    train.train(run, device="cpu", folder=alone, progress=False)
    assert ending(folder_of(run)) == ending(alone)


def test_a_run_that_always_loses_its_worker_is_reported_in_the_end(data_root, monkeypatch):
    monkeypatch.setattr(parallel, "_train", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    monkeypatch.setattr(parallel, "LOSSES", 2)
    with pytest.raises(FmucError, match="killed again and again"):
        train_plan([small_run()], "smoke", device="cpu", workers=1, progress=False)


def test_long_runs_come_first_and_those_that_another_command_trains_last(data_root, monkeypatch, capsys):
    runs = [small_run(), small_run("FM"), small_run("FMUC")]

    def instead_of_training(payload: dict) -> str:
        (paths.data_root() / payload["folder"]).mkdir(parents=True, exist_ok=True)
        return payload["folder"]

    monkeypatch.setattr(parallel, "_train", instead_of_training)
    folder_of(runs[2]).mkdir(parents=True)
    lock = FileLock(folder_of(runs[2]) / ".lock", thread_local=False)
    lock.acquire()
    threading.Thread(target=lambda: (wait_for(folder_of(runs[0]).is_dir), lock.release())).start()
    train_plan(runs, "smoke", device="cpu", workers=1, progress=False)
    said = capsys.readouterr().err.splitlines()  # what workers say is passed on
    assert [Path(folder).name for folder in said] == [run.name for run in (runs[1], runs[0], runs[2])]


# Plans on a Dask cluster; that of test_lost_workers is a real one


@pytest.mark.parametrize(("address", "named"), [
    ("nowhere.json", "nowhere.json is no scheduler file: start 'dask scheduler"),
    ("carrier-pigeon://x", "no Dask scheduler answers at carrier-pigeon://x"),
    ("{empty}/scheduler.json", "scheduler.json is no scheduler file"),
    ("encrypted", "no Dask scheduler answers at tcp://127.0.0.1:1 .*certificates")])
def test_no_scheduler_is_one_clear_error(data_root, monkeypatch, address, named):
    monkeypatch.setattr(parallel, "REPLY", 1)
    (data_root / "scheduler.json").write_text("{}")
    encrypted = address == "encrypted"
    address = "tcp://127.0.0.1:1" if encrypted else address.format(empty=data_root)
    with dask.config.set({"distributed.comm.require-encryption": encrypted}), pytest.raises(FmucError, match=named):
        train_plan([small_run()], "smoke", scheduler=address, progress=False)


class Client:
    """A cluster with these workers, each a dict; every reply tells of a heartbeat later than the last one."""

    def __init__(self, *workers: dict) -> None:
        self.heartbeats = itertools.count()
        self.known = {str(number): {"status": "running", "nthreads": 1, "resources": {}, **worker}
                      for number, worker in enumerate(workers)}

    def scheduler_info(self, n_workers: int) -> dict:
        heartbeat = {"last_seen": next(self.heartbeats)}
        return {"workers": {address: heartbeat | worker for address, worker in self.known.items()}}

    def run(self, function, token: str, *, workers: list[str], on_error: str) -> dict:
        given = {worker: self.known[worker].get("facts", {}) for worker in workers}
        return {worker: facts if isinstance(facts, Exception) else {**function(token), **facts}
                for worker, facts in given.items()}

    def submit(self, call, function, payload: dict, token: str, *, resources, **_) -> tuple:
        return payload["device"], resources


@pytest.fixture
def cluster_of(data_root, monkeypatch):
    def cluster_of(*workers: dict, device: str = "auto", most: int | None = None) -> parallel._Cluster:
        monkeypatch.setattr(parallel, "_connect", lambda _: Client(*workers))
        pool = parallel._Cluster("address", device, most)
        assert pool.workers() == 0  # until the second heartbeat
        return pool
    return cluster_of


GPU, PAUSED, STOPPED = {"resources": {"GPU": 1}}, {"status": "paused"}, {"last_seen": 0}


@pytest.mark.parametrize(("workers", "device", "most", "count", "submitted"), [
    ([{}, {}, PAUSED, STOPPED], "auto", None, 2, ("cpu", None)), ([{}, {}], "auto", 1, 1, ("cpu", None)),
    ([{}, GPU], "auto", None, 1, ("cuda", {"GPU": 1})), ([{}, GPU], "cpu", None, 2, ("cpu", None)),
    ([{}, GPU, GPU], "cuda:0", None, 2, ("cuda:0", {"GPU": 1}))])
def test_workers_with_a_gpu_are_preferred(cluster_of, workers, device, most, count, submitted):
    pool = cluster_of(*workers, device=device, most=most)
    assert pool.workers() == pool.workers() == count
    assert pool.submit(print, {"folder": "run"}) == submitted


@pytest.mark.parametrize(("worker", "remedy"), [
    (PAUSED, "no worker .* could train for 0 s .1 known.*dask worker --nthreads 1"),
    (STOPPED, "no worker .* could train for 0 s .1 known.*why they are paused or stopped"),
    ({"nthreads": 2}, "worker at 0 would train 2 runs in one process: .*--nthreads 1 --nworkers N"),
    ({"facts": ImportError("no module named fmuc")}, "worker at 0 cannot import fmuc"),
    ({"facts": {"torch": "1.0"}}, r"worker at 0 has torch 1\.0 instead of .*requirements\.lock"),
    ({"facts": {"data": "/elsewhere"}}, "worker at 0 has data /elsewhere instead of shared.*FMUC_DATA")])
def test_a_worker_that_could_not_train_or_would_train_otherwise_is_refused(cluster_of, monkeypatch, worker, remedy):
    pool = cluster_of(worker)
    monkeypatch.setattr(parallel, "PATIENCE", 0)
    with pytest.raises(FmucError, match=remedy):
        pool.workers()


def test_a_data_folder_whose_locks_are_not_seen_is_not_shared(data_root):
    (data_root / "token").touch()
    assert parallel._facts("token")["data"] == str(data_root)
    with FileLock(data_root / "token"):
        assert parallel._facts("token")["data"] == "shared with its locks"


def test_lock_files_of_killed_commands_are_removed(cluster_of, data_root):
    (data_root / ".plan-killed").touch()
    with FileLock(data_root / ".plan-held"):
        pool = cluster_of()
        assert {path.name for path in data_root.glob(".plan-*")} == {".plan-held", pool.token}
