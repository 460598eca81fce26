"""Worker processes of this machine, and plans of runs on them and on a real Dask cluster."""

from __future__ import annotations

import operator
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from dask_farm import Farm, start_training, wait_for
from filelock import FileLock, Timeout

from fmuc import paths, train
from fmuc.config import Run
from fmuc.errors import FmucError
from fmuc.experiments import TABLE_1, make_run, plan
from fmuc.machinery import parallel
from fmuc.machinery.parallel import missing, train_plan, worker_variables
from fmuc.machinery.workers import run_parallel, start_workers
from fmuc.records import Record, is_finished, load_record


def small_run(variant: str = "Labelled part only", seed: int = 0, epochs: int = 2) -> Run:
    run = make_run("smoke", "nsynth-gm-smoke", variant, seed)
    return replace(run, training=replace(run.training, epochs=epochs))


def folder_of(run: Run) -> Path:
    return paths.runs_dir("smoke") / run.name


def has_begun(run: Run) -> bool:
    return any(folder_of(run).glob("checkpoint-*.safetensors"))


def is_free(run: Run) -> bool:
    try:
        with FileLock(folder_of(run) / ".lock", blocking=False):
            return True
    except Timeout:
        return False


def same(one: Record, two: Record) -> bool:
    """Bit for bit, the clock apart."""
    histories = [record.history.drop(columns="seconds") for record in (one, two)]
    pd.testing.assert_frame_equal(*histories, check_exact=True)
    arrays = [{"kept": record.kept, "seen": record.seen, **record.files} for record in (one, two)]
    return (one.run == two.run and one.results == two.results and arrays[0].keys() == arrays[1].keys()
            and all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[0]))


# Worker processes


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_or_as_they_finish(workers):
    tasks = [(number,) for number in range(9)]
    assert list(run_parallel(operator.neg, tasks, workers)) == [-number for number in range(9)]
    assert sorted(run_parallel(operator.neg, tasks, workers, ordered=False)) == sorted(-number for number in range(9))


def test_few_tasks_are_in_flight_and_no_worker_is_left():
    taken = []
    results = run_parallel(operator.neg, ((taken.append(number) or number,) for number in range(50)), 2)
    next(results)
    assert len(taken) <= 5
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
    ("auto", None, None, ["0", "1"]), ("cuda", 3, None, ["0", "1", "0"]), ("auto", 1, "3,GPU-7a", ["3"]),
    ("auto", None, "3,GPU-7a", ["3", "GPU-7a"]), ("cuda:1", None, None, [None]), ("cpu", 3, None, [None] * 3)])
def test_every_gpu_gets_runs_and_those_that_are_hidden_none(monkeypatch, device, workers, visible, expected):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [each.get("CUDA_VISIBLE_DEVICES") for each in worker_variables(device, workers)] == expected


# Plans on this machine


def test_the_longest_runs_come_first(data_root):
    """By forward passes: five dropout passes before one, both before none."""
    order = [run.variant for run in missing(plan("smoke", "nsynth-gm-smoke"), "smoke")]
    passes = [TABLE_1[variant].passes if variant in TABLE_1 else -1 for variant in order]
    assert passes == sorted(passes, reverse=True) and len(set(passes)) == 3


def test_no_workers_are_refused(data_root):
    with pytest.raises(FmucError, match="--workers must be at least 1, not 0"):
        train_plan([], "smoke", workers=0)


def test_runs_train_as_in_one_process_and_a_failing_one_does_not_stop_the_others(trainable, one_thread, tmp_path):
    """The failing one asks for features that nobody extracted; its configuration is no profile's."""
    runs = [small_run("FM"), small_run("FMUC")]
    broken = replace(small_run(), features=replace(small_run().features, mel_bands=16))
    (failure,) = train_plan([broken, *runs], "smoke", device="cpu", workers=2, progress=False)
    assert failure.run == broken.name and "python -m fmuc features" in failure.message
    assert not is_finished(folder_of(broken)) and missing([broken, *runs], "smoke") == [broken]
    for run in runs:
        record = load_record(folder_of(run))
        assert record.provenance["threads"] == 1
        assert same(record, train.train(run, device="cpu", folder=tmp_path / "alone" / run.name, progress=False))


def test_force_trains_a_finished_run_again(trainable):
    run = small_run()
    for force, count in ((False, 0), (False, 0), (True, 1)):
        assert train_plan([run], "smoke", device="cpu", workers=1, progress=False, force=force) == []
        assert len([*paths.runs_dir("smoke").glob("replaced/*")]) == count
    assert is_finished(folder_of(run))


def test_a_run_whose_worker_is_killed_goes_on_in_another(trainable, one_thread, tmp_path):
    run, other = small_run("FM", epochs=12), small_run("FM", seed=1)

    def kill() -> None:
        wait_for(lambda: has_begun(run))
        lock = str(folder_of(run) / ".lock")
        for child in psutil.Process().children():
            if lock in [file.path for file in child.open_files()]:
                child.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    assert train_plan([run, other], "smoke", device="cpu", workers=2, progress=False) == []
    killer.join()
    alone = train.train(run, device="cpu", folder=tmp_path / "alone" / run.name, progress=False)
    assert same(load_record(folder_of(run)), alone) and is_finished(folder_of(other))


def test_a_run_that_always_loses_its_worker_is_reported_in_the_end(trainable, monkeypatch):
    monkeypatch.setattr(parallel, "_train", die)
    monkeypatch.setattr(parallel, "LOSSES", 2)
    (failure,) = train_plan([small_run()], "smoke", device="cpu", workers=1, progress=False)
    assert "killed again and again" in failure.message


def die(payload: dict) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_runs_that_another_command_trains_come_last(trainable):
    first, second = small_run("FM"), small_run()
    folder_of(first).mkdir(parents=True)
    with FileLock(folder_of(first) / ".lock", thread_local=False):
        waiting = threading.Thread(target=train_plan, args=([first, second], "smoke"),
                                   kwargs={"device": "cpu", "workers": 1, "progress": False})
        waiting.start()
        wait_for(lambda: is_finished(folder_of(second)))
        assert not is_finished(folder_of(first)) and waiting.is_alive()
    waiting.join(180)
    assert is_finished(folder_of(first))


def test_ctrl_c_ends_with_130_and_one_line_and_the_next_call_goes_on(trainable):
    run, other = small_run(epochs=20), small_run("FM", epochs=20)
    command = start_training([run, other], "--workers", "2")
    wait_for(lambda: has_begun(run))
    processes = psutil.Process(command.pid).children(recursive=True)
    command.send_signal(signal.SIGINT)
    errors = command.communicate()[1]
    lines = [line for line in errors.splitlines() if "fmuc" in line]
    assert command.returncode == 130 and len(lines) == 1 and "interrupted" in lines[0], errors
    assert not is_finished(folder_of(run)) and is_free(run) and is_free(other)
    assert not psutil.wait_procs(processes, timeout=60)[1]
    assert train_plan([run], "smoke", device="cpu", workers=1, progress=False) == []
    assert list(load_record(folder_of(run)).history.index) == list(range(1, 21))


# Plans on a Dask cluster


@pytest.fixture
def farm(trainable: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """A scheduler without workers; the data folder is that of ``trainable``."""
    with Farm(tmp_path_factory.mktemp("farm")) as farm:
        yield farm


def test_a_worker_that_would_train_otherwise_is_refused_with_the_remedy(farm, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(parallel, "PATIENCE", 1)

    def refused(remedy: str) -> None:
        with pytest.raises(FmucError, match=remedy):
            train_plan([small_run()], "smoke", scheduler=farm.address, progress=False)

    refused("no worker of the cluster could train for 1 s.*dask worker --nthreads 1")
    monkeypatch.setattr(parallel, "PATIENCE", 30)
    wrong = farm.add(threads=2)
    refused("2 runs in one process.*--nthreads 1 --nworkers N")
    farm.kill(wrong)
    farm.add(data=tmp_path_factory.mktemp("another"))
    refused("has data .*another0 instead of shared.*FMUC_DATA")
    assert not [*paths.data_root().glob(".plan-*")]


def test_ctrl_c_stops_the_runs_of_the_cluster_and_a_dead_scheduler_is_one_clear_error(farm):
    run = small_run(epochs=3_000)
    worker = farm.add()

    def stopped(stop: Callable[[subprocess.Popen], None]) -> tuple[int, str]:
        """Exit status and message of a command that was stopped while its run trained."""
        command = start_training([run], "--scheduler", str(farm.file))
        wait_for(lambda: has_begun(run) and not is_free(run))
        stop(command)
        errors = command.communicate()[1]
        (line,) = [line for line in errors.splitlines() if "fmuc: " in line]
        assert "Traceback" not in errors
        wait_for(lambda: is_free(run))
        return command.returncode, line

    status, line = stopped(lambda command: command.send_signal(signal.SIGINT))
    assert status == 130 and "interrupted" in line and worker.poll() is None
    status, line = stopped(lambda _: farm.scheduler.kill())
    assert status == 1 and "Dask scheduler is gone" in line and "continues from the last" in line


@pytest.mark.parametrize(("address", "named"), [
    ("nowhere.json", "nowhere.json is no scheduler file: start 'dask scheduler"),
    ("tcp://127.0.0.1:1", "no Dask scheduler answers at tcp://127.0.0.1:1"),
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
    """A cluster with these workers, each a dict; what was submitted."""

    def __init__(self, *workers: dict) -> None:
        self.known = {str(number): {"status": "running", "nthreads": 1, "resources": {}, **worker}
                      for number, worker in enumerate(workers)}
        self.asked: list[list[str]] = []

    def scheduler_info(self, n_workers: int) -> dict:
        return {"workers": self.known}

    def run(self, function, *arguments, workers: list[str], on_error: str) -> dict:
        self.asked.append(sorted(workers))
        return {worker: self.known[worker].get("facts") or parallel._facts(*arguments) for worker in workers}

    def submit(self, function, plan, payload, *, resources, **_) -> tuple:
        return payload["device"], resources

    def close(self) -> None:
        pass


@pytest.fixture
def cluster_of(data_root, monkeypatch):
    def cluster_of(*workers: dict, device: str = "auto", most: int | None = None) -> parallel._Cluster:
        client = Client(*workers)
        monkeypatch.setattr(parallel, "_connect", lambda _: client)
        return parallel._Cluster("address", device, most)
    return cluster_of


GPU, PAUSED = {"resources": {"GPU": 1}}, {"status": "paused"}


@pytest.mark.parametrize(("workers", "device", "most", "count", "submitted"), [
    ([{}, {}, PAUSED], "auto", None, 2, ("cpu", None)), ([{}, {}], "auto", 1, 1, ("cpu", None)),
    ([{}, GPU], "auto", None, 1, ("cuda", {"GPU": 1})), ([{}, GPU], "cpu", None, 2, ("cpu", None)),
    ([{}, GPU, GPU], "cuda:0", None, 2, ("cuda:0", {"GPU": 1})), ([{}], "cuda", None, 0, ("cuda", {"GPU": 1}))])
def test_workers_with_a_gpu_are_preferred(cluster_of, workers, device, most, count, submitted):
    cluster = cluster_of(*workers, device=device, most=most)
    run = small_run()
    assert cluster.workers() == count
    assert cluster.submit(parallel._Job(run, folder_of(run), False)) == submitted


def test_workers_that_join_are_checked_once(cluster_of):
    cluster = cluster_of({}, {})
    assert cluster.workers() == cluster.workers() == 2
    cluster.client.known["2"] = {**cluster.client.known["0"], "facts": ImportError("no module named fmuc")}
    with pytest.raises(FmucError, match="worker at 2 cannot import fmuc"):
        cluster.workers()
    cluster.client.known["2"]["facts"] = {**parallel._facts(Path(cluster.token.lock_file).name), "torch": "1.0"}
    with pytest.raises(FmucError, match=r"worker at 2 has torch 1\.0 instead of .*requirements\.lock"):
        cluster.workers()
    assert cluster.client.asked == [["0", "1"], ["2"], ["2"]]


def test_a_data_folder_whose_locks_are_not_seen_is_not_shared(data_root):
    (data_root / "token").touch()
    assert parallel._facts("token")["data"] == str(data_root)
    with FileLock(data_root / "token"):
        assert parallel._facts("token")["data"] == "shared with its locks"


def test_cancelled_futures_are_lost_and_not_failed(cluster_of):
    assert issubclass(CancelledError, cluster_of({}).lost)
