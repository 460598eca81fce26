"""Jobs in processes that share their imports: each is alone all the same, whatever became of the one before."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from threading import Thread

import psutil
import pytest
from dask_farm import wait_for
from test_cluster import same

from fmuc import launch, paths, process_pool, train
from fmuc.config import Run
from fmuc.experiments import make_run
from fmuc.parallel import run_job
from fmuc.process_pool import UNFIT, follow
from fmuc.records import load_record

forks = pytest.mark.skipif(sys.platform != "linux", reason="processes share imports on Linux only")


@pytest.fixture(autouse=True)
def no_other_process() -> Iterator[None]:
    end_spare()  # of other tests
    yield
    end_spare()


def end_spare() -> None:
    while process_pool._spare:
        process_pool._spare.pop().end()
    assert not processes()


def processes() -> list[psutil.Process]:
    """Those of the pool, each followed by what it has started."""
    mine = [child for child in psutil.Process().children() if "fmuc.run_process" in child.cmdline()]
    return [each for process in mine for each in (process, *process.children(recursive=True))]


def a_run(seed: int = 0, epochs: int = 2) -> Run:
    run = make_run("smoke", "nsynth-gm-smoke", "FMUC", seed)
    return replace(run, training=replace(run.training, epochs=epochs))


def carried_out(run: Run, unwanted: Callable[[], str] = str, tell: Callable[[dict], None] = str, *, threads: int = 1,
                **changes: object) -> tuple[int, str, str]:
    content = run_job(run, "smoke", "cpu").content | {"code": launch.sources()} | changes
    return follow(content, launch.environment(threads), unwanted, tell)


def folder(run: Run) -> Path:
    return paths.runs_dir("smoke") / run.name


def test_a_process_ends_when_it_is_no_longer_wanted_and_reports_until_then(trainable):
    said: list[dict] = []
    status, _, why = carried_out(a_run(epochs=3_000), lambda: "stopped" if len(said) > 2 else "", said.append)
    assert (status, why) == (-signal.SIGTERM, "stopped")
    assert [row["step"] for row in said[:3]] == [1, 2, 3] and said[0]["text"].startswith("loss ")
    assert not processes()


def test_a_process_with_other_code_does_not_begin_and_gets_no_other_job(data_root):
    status, last, _ = carried_out(a_run(), code="0" * 12)
    assert status == UNFIT and "other code" in last
    assert not any(data_root.iterdir()) and not processes()


@forks
def test_jobs_share_a_process_and_each_trains_as_one_that_is_alone(trainable, one_thread, tmp_path):
    """Bit for bit, also where another has trained before; what one said is not said again."""
    told, records, kept = [], [], set()
    for run in (a_run(0), a_run(1), a_run(0)):
        said: list[dict] = []
        shutil.rmtree(folder(run), ignore_errors=True)
        assert carried_out(run, tell=said.append) == (0, "", "")
        (process,) = processes()
        told.append(said)
        records.append(load_record(folder(run)))
        kept.add(process.pid)
    assert len(kept) == 1
    assert [row["step"] for row in told[0]] == [1, 2] and told[0] == told[2] != told[1]
    for i, record in enumerate(records):
        assert same(record, train.train(record.run, device="cpu", folder=tmp_path / f"{i}", progress=False))


@forks
def test_the_error_of_a_job_is_its_own(trainable):
    broken = replace(a_run(), features=replace(a_run().features, mel_bands=16))
    status, last, _ = carried_out(broken)
    assert status == 1 and "python -m fmuc features" in last
    assert carried_out(a_run()) == (0, "", "")
    assert len(processes()) == 1


@forks
def test_other_variables_are_another_process(trainable):
    carried_out(a_run(0), threads=1)
    carried_out(a_run(1), threads=2)
    assert len(processes()) == 2
    assert [load_record(folder(a_run(seed))).provenance["threads"] for seed in (0, 1)] == [1, 2]


def after_kill(which: str, job: Callable[[], tuple], begun: Callable[[], object]) -> list[psutil.Process]:
    """The processes that a job had, the one it was forked from, its own and its pool's, after one of them was killed
    once it had ``begun``: the job is lost."""
    results: list[tuple] = []
    thread = Thread(target=lambda: results.append(job()))
    thread.start()
    wait_for(begun)
    had = processes()
    had[("server", "job").index(which)].kill()
    thread.join()
    assert results == [(-signal.SIGKILL, "", "")]
    return had


def long_run() -> tuple[Callable[[], tuple], Callable[[], object]]:
    """A run that must be ended, and what tells that it has begun."""
    run = a_run(epochs=3_000)
    return lambda: carried_out(run), lambda: list(folder(run).glob("checkpoint*.safetensors"))


@forks
def test_a_killed_job_ends_alone(trainable):
    server, _ = after_kill("job", *long_run())
    assert processes() == [server] and carried_out(a_run(1)) == (0, "", "") and processes() == [server]


@forks
def test_a_job_does_not_outlive_the_process_that_it_was_forked_from(trainable):
    _, job = after_kill("server", *long_run())
    wait_for(lambda: not job.is_running())
    with launch.claim(folder(a_run(epochs=3_000)) / ".lock") as free:
        assert free


@forks
def test_nor_does_its_pool(trainable):
    (trainable / "features").unlink()  # the link to those of all tests
    content = {"dataset": "nsynth-gm-smoke", "features": asdict(a_run().features), "workers": 2,
               "code": launch.sources()}
    _, *others = after_kill("server", lambda: follow(content, launch.environment(1), str, str),
                            lambda: len(processes()) > 3)  # the pool is starting
    wait_for(lambda: not any(process.is_running() for process in others))


@forks
def test_a_process_that_died_waiting_costs_one_attempt(trainable):
    carried_out(a_run(0))
    (server,) = processes()
    server.kill()
    wait_for(lambda: server.status() == psutil.STATUS_ZOMBIE)
    assert carried_out(a_run(1))[0] == -signal.SIGKILL  # lost: the plan goes on with it at once
    assert carried_out(a_run(1)) == (0, "", "")


@forks
def test_a_process_without_a_job_is_ended(trainable, monkeypatch):
    monkeypatch.setattr(process_pool, "_IDLE", 0.3)
    carried_out(a_run(0))
    assert carried_out(a_run(1, epochs=20)) == (0, "", "")  # it takes longer than that
    assert len(processes()) == 1
    wait_for(lambda: not processes())
