"""Runs on a real Dask scheduler with worker processes, some of which are killed.

``FMUC_CLUSTER_TEST=full`` kills workers at random during a plan of 12 runs instead of 3.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import distributed
import numpy as np
import pandas as pd
import pytest
from dask_farm import Farm, start_batch, wait_for
from distributed import Status

from fmuc import cluster, launch, paths, scaling, train
from fmuc import parallel as schedule
from fmuc.config import Run
from fmuc.errors import FmucError
from fmuc.experiments import make_run, preset
from fmuc.records import Record, load_record

FULL = os.environ.get("FMUC_CLUSTER_TEST") == "full"
VARIANTS = ("Labelled part only", "FM", "FMUC")


@pytest.fixture
def farm(trainable: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """A scheduler without workers; the data folder is that of ``trainable``."""
    with Farm(tmp_path_factory.mktemp("farm")) as farm:
        yield farm


def small_runs(count: int, epochs: int) -> list[Run]:
    runs = [make_run("smoke", "nsynth-gm-smoke", variant, seed) for seed in range(4) for variant in VARIANTS]
    return [replace(run, training=replace(run.training, epochs=epochs)) for run in runs[:count]]


def same(one: Record, two: Record) -> bool:
    """Bit for bit, the clock apart."""
    histories = [record.history.drop(columns="seconds") for record in (one, two)]
    pd.testing.assert_frame_equal(*histories, check_exact=True)
    arrays = [{"kept": record.kept, "seen": record.seen, **record.files} for record in (one, two)]
    return (one.run == two.run and one.results == two.results and arrays[0].keys() == arrays[1].keys()
            and all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[0]))


def stamps(runs: list[Run]) -> set[tuple[str, int]]:
    """What the unfinished runs have saved so far."""
    found = set()
    for run in runs:
        folder = paths.runs_dir("smoke") / run.name
        for path in [] if (folder / "run.json").exists() else folder.glob("checkpoint*.safetensors"):
            with contextlib.suppress(FileNotFoundError):
                found.add((path.as_posix(), path.stat().st_mtime_ns))
    return found


class Disturber(threading.Thread):
    """Kills workers at random, some run being between two epochs, and lets another join each time."""

    def __init__(self, farm: Farm, runs: list[Run], kills: int) -> None:
        super().__init__()
        self.farm, self.runs, self.kills, self.killed = farm, runs, kills, 0
        self.finished, self.rng = threading.Event(), np.random.default_rng(0)

    def run(self) -> None:
        before: set = set()
        while self.killed < self.kills and not self.finished.wait(0.02):
            now = stamps(self.runs)
            if now - before and not self.finished.wait(self.rng.uniform(0, 0.2)):
                worker = self.farm.workers[self.rng.integers(len(self.farm.workers))]
                self.farm.kill(worker, signal.SIGKILL if self.killed % 2 == 0 else signal.SIGTERM)
                self.farm.add()
                self.killed, before = self.killed + 1, stamps(self.runs)


def test_workers_are_killed_and_every_run_ends_as_in_a_single_process(farm, one_thread, tmp_path):
    runs, kills = (small_runs(12, 40), 12) if FULL else (small_runs(3, 40), 2)
    for _ in range(2):
        farm.add()
    disturber = Disturber(farm, runs, kills)
    disturber.start()
    try:
        failures = schedule.train_plan(runs, "smoke", device="cpu", scheduler=str(farm.file), progress=FULL)
    finally:
        disturber.finished.set()
        disturber.join()
    identical = 0
    for run in runs:
        alone = train.train(run, device="cpu", folder=tmp_path / "alone" / run.name, progress=False)
        identical += same(load_record(paths.runs_dir("smoke") / run.name), alone)
    print(f"{disturber.killed} workers killed, {identical} of {len(runs)} runs identical")
    assert failures == [] and identical == len(runs)
    assert disturber.killed > 0


def free(lock: Path) -> bool:
    with launch.claim(lock) as mine:
        return mine


def test_ctrl_c_ends_the_processes_of_the_workers_and_leaves_the_workers(farm):
    (run,) = small_runs(1, 3_000)
    worker, folder = farm.add(), paths.runs_dir("smoke") / run.name
    command = start_batch([run], "--scheduler", farm.address)
    wait_for(lambda: stamps([run]))
    command.send_signal(signal.SIGINT)
    errors = command.communicate()[1]
    assert command.returncode == 130
    assert [line for line in errors.splitlines() if "fmuc" in line] == [
        "fmuc: interrupted; the same command goes on from here"]
    wait_for(lambda: free(folder / ".lock"), 10)
    assert worker.poll() is None


def test_a_scheduler_that_dies_ends_the_plan_with_one_line_and_leaves_no_process(farm):
    (run,) = small_runs(1, 3_000)
    farm.add()
    command = start_batch([run], "--scheduler", farm.address)
    wait_for(lambda: stamps([run]))
    farm.scheduler.kill()
    errors = command.communicate()[1]
    assert command.returncode == 1
    (line,) = [line for line in errors.splitlines() if "fmuc:" in line]
    assert "scheduler has gone" in line and "goes on from" in line
    wait_for(lambda: free(paths.runs_dir("smoke") / run.name / ".lock"), 30)


def test_features_are_extracted_by_a_worker(farm):
    """What fails is named; then the same bytes as here; nothing is sent where they are there."""
    name, content = "nsynth-gm-smoke", preset("smoke", "nsynth-gm-smoke").features
    place, root = paths.features_dir(name, content.id), paths.data_root() / "features"
    before = {path.name: path.read_bytes() for path in place.iterdir()}
    assert schedule.extract_features("smoke", [name], "no cluster is needed") == []
    root.unlink()  # the link to those of all tests
    root.write_text("in the way")
    farm.add()
    (failure,) = schedule.extract_features("smoke", [name], farm.address, workers=1, progress=False)
    assert failure.run == f"features of {name}" and "features" in failure.message
    root.unlink()
    assert schedule.extract_features("smoke", [name], farm.address, workers=1, progress=False) == []
    assert {path.name: path.read_bytes() for path in place.iterdir()} == before


def test_workers_get_as_much_as_they_declare_and_work_it_off(farm):
    """Workers of four threads that join one after the other: declaring nothing, cores, GPUs."""
    def slots(device: str, per_gpu: int = 1, most: int | None = None) -> tuple[int, list[str], str]:
        with cluster.remote(farm.address, device, per_gpu=per_gpu, most=most) as pool:
            assert scaling.seconds_of_waiting(pool, 6, 0.01) > 0
            return pool.slots(), list(pool.resources), pool.device

    def join(resources: str, count: int) -> None:
        farm.add(resources, threads=4)
        with distributed.Client(farm.address) as client:
            client.wait_for_workers(count)

    join("", 1)
    assert slots("auto") == (4, [], "cpu") and slots("cpu", most=1) == (1, [], "cpu")
    with pytest.raises(FmucError, match="no worker.*declares a GPU.*--resources GPU=1"):
        slots("cuda")
    join("core=3", 2)
    assert slots("auto") == (3, ["core"], "cpu")
    join("core=9", 3)
    assert slots("auto") == (3 + 4, ["core"], "cpu")
    join("GPU=1", 4)
    assert slots("auto") == (1, ["GPU"], "cuda") and slots("cuda:1", 3) == (3, ["GPU"], "cuda:1")
    assert slots("auto", 9) == (4, ["GPU"], "cuda") and slots("cpu") == (7, ["core"], "cpu")
    join("GPU=2", 5)
    assert slots("cuda", 2) == (2 + 4, ["GPU"], "cuda")


# Without a cluster


@pytest.mark.parametrize("jobs", range(1, 65))
def test_as_many_shares_as_jobs_fit(jobs):
    left, fitted = 1.0, 0
    while left >= cluster.share(jobs):  # as Dask counts
        left, fitted = left - cluster.share(jobs), fitted + 1
    assert fitted == jobs
    assert cluster._slots({"nthreads": 99, "resources": {"GPU": 1}}, {"GPU": cluster.share(jobs)}) == jobs


@pytest.mark.parametrize(("address", "named"), [
    ("nowhere.json", "no scheduler file nowhere.json: start one with 'dask scheduler"),
    ("tcp://127.0.0.1:1", "no Dask scheduler answers at tcp://127.0.0.1:1"),
    ("carrier-pigeon://x", "no Dask scheduler answers at carrier-pigeon://x"),
])
def test_no_scheduler_is_one_clear_error(data_root, monkeypatch, address, named):
    monkeypatch.setattr(cluster, "_TIMEOUT", 1)
    with pytest.raises(FmucError, match=named):
        schedule.train_plan(small_runs(1, 1), "smoke", scheduler=address, progress=False)


@pytest.fixture
def required(data_root: Path) -> Iterator[dict]:
    lock = launch.token()
    yield launch.requirements(Path(lock.lock_file)) | {"code": launch.sources()}
    lock.release()


def test_this_process_fits_its_own_plan(required):
    assert launch.misfit(required) == ""


def test_a_worker_with_another_data_folder_does_not_fit(required, tmp_path_factory, monkeypatch):
    monkeypatch.setattr(launch, "_VISIBLE", 0.1)
    monkeypatch.setenv("FMUC_DATA", str(tmp_path_factory.mktemp("another")))
    assert re.search(r"does not share the data folder: it has .*another0, the plan .*set FMUC_DATA",
                     launch.misfit(required))


def test_a_worker_that_does_not_see_our_locks_does_not_fit(required, data_root):
    (data_root / "a copy").write_text("")
    assert "file locks" in launch.misfit(required | {"token": "a copy"})


def test_a_worker_with_other_code_or_versions_does_not_fit(required):
    assert "other code of fmuc" in launch.misfit(required | {"code": "0" * 12})
    other = required | {"versions": required["versions"] | {"torch": "0.4", "numpy": "1"}}
    assert re.search(r"torch [\d.]+, not 0\.4; numpy [\d.]+, not 1: install", launch.misfit(other))


def test_the_suffix_of_a_build_is_no_other_version(monkeypatch):
    monkeypatch.setattr(launch, "version", lambda name: f"{name}-1.2+cu126")
    assert launch.versions()["torch"] == "torch-1.2"


def test_what_killed_plans_have_left_is_removed_and_what_lives_is_not(data_root):
    (data_root / ".plan-old").write_text("")
    first, second = launch.token(), launch.token()
    assert sorted(data_root.glob(".plan-*")) == sorted(Path(lock.lock_file) for lock in (first, second))
    first.release()
    second.release()


@pytest.mark.parametrize(("answer", "named"), [
    ("the worker on x has other code", "the worker on x has other code"),
    (ModuleNotFoundError("No module named 'fmuc'"), "worker at tcp://x cannot import fmuc"),
])
def test_the_workers_are_checked_before_anything_begins(answer, named):
    class Client:
        def run(self, *_: object, **__: object) -> dict:
            return {"tcp://good": "", "tcp://gone": OSError("gone"), "tcp://x": answer}

    with pytest.raises(FmucError, match=named):
        cluster.check(cluster.Pool(Client(), {}, "cpu"), {})


class Worker:
    """A Dask worker as its task sees it."""

    name, status = 1, Status.running

    def __init__(self) -> None:
        self.said: list[tuple[str, dict]] = []

    def log_event(self, topic: str, said: dict) -> None:
        self.said.append((topic, said))


@pytest.fixture
def worker(monkeypatch) -> Worker:
    worker = Worker()
    monkeypatch.setattr(distributed, "get_worker", lambda: worker)
    return worker


def job(required: dict, **changes: object) -> dict:
    return {"plan": "p", "name": "a", "claim": "runs/a/.claim", "content": {}, "code": "c", "required": required,
            "threads": 1, "gpus": ()} | changes


@pytest.mark.parametrize(("status", "last", "why", "expected"), [
    (0, "a warning", "", "done"), (1, "no room", "", "failed"), (launch.UNFIT, "other code", "", "unfit"),
    (-9, "", "", "lost"), (-15, "", "stopped", "stopped"), (-15, "", "lost", "lost"),
])
def test_how_a_job_ended(required, worker, monkeypatch, status, last, why, expected):
    monkeypatch.setattr(launch, "follow", lambda *_: (status, last, why))
    outcome = launch.carry_out(job(required))
    assert outcome.end == expected and (not last or outcome.message == last)
    if status == -9:
        assert "SIGKILL" in outcome.message and "memory" in outcome.message


def test_a_job_without_a_word_of_error_is_reported_with_its_status(required, worker, monkeypatch):
    monkeypatch.setattr(launch, "follow", lambda *_: (7, "", ""))
    assert launch.carry_out(job(required)) == ("failed", "exit status 7")


def followed(monkeypatch: pytest.MonkeyPatch, job: dict) -> list[tuple]:
    """What the processes of a job would have been started with."""
    calls: list[tuple] = []
    monkeypatch.setattr(launch, "follow", lambda *arguments: calls.append(arguments) or (0, "", ""))
    launch.carry_out(job)
    return calls


def test_a_process_has_its_gpu_and_our_allocator_whatever_a_nanny_has_set(required, worker, monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")  # Dask's
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    ((content, variables, *_),) = followed(monkeypatch, job(required, gpus=("7", "8"), content={"run": 1}))
    assert content == {"run": 1, "code": "c"} and variables["CUDA_VISIBLE_DEVICES"] == "8"
    assert variables["MALLOC_TRIM_THRESHOLD_"] == "99999999999" and variables["OMP_NUM_THREADS"] == "1"


def test_a_process_is_unwanted_once_its_plan_is_stopped_or_its_worker_closes(required, worker, monkeypatch):
    monkeypatch.setattr(launch, "_stopped", set())
    ((_, _, unwanted, _),) = followed(monkeypatch, job(required))
    assert unwanted() == ""
    worker.status = Status.closing
    assert unwanted() == "lost"
    launch.stop("another")
    assert unwanted() == "lost"
    launch.stop("p")
    assert unwanted() == "stopped"


def test_a_job_that_is_claimed_or_does_not_fit_is_not_begun(required, worker, data_root, monkeypatch):
    monkeypatch.setattr(launch, "follow", lambda *_: pytest.fail("begun"))
    (data_root / "runs" / "a").mkdir(parents=True)
    with launch.claim(data_root / "runs" / "a" / ".claim"):
        assert launch.carry_out(job(required)).end == "busy"
    assert launch.carry_out(job(required | {"code": "0" * 12})).end == "unfit"
    (data_root / "runs" / "a" / "run.json").write_text("{}")
    assert launch.carry_out(job(required, content={"folder": "runs/a"})).end == "done"
    (data_root / "runs" / "b").write_text("in the way")
    outcome = launch.carry_out(job(required, claim="runs/b/.claim"))
    assert outcome.end == "failed" and outcome.message.startswith("File exists: ")
