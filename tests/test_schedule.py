from __future__ import annotations

import json
import os
import signal
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from dask_farm import start_batch, wait_for

from fmuc import batch, cluster, launch, paths
from fmuc import parallel as schedule
from fmuc.batch import Batch, Job
from fmuc.cluster import Pool
from fmuc.config import Run
from fmuc.errors import FmucError
from fmuc.experiments import TABLE_1, make_run, plan
from fmuc.launch import Outcome, environment
from fmuc.parallel import default_workers, missing, run_job, train_plan, visible_gpus
from fmuc.records import is_finished, load_record


def runs_of(*variants: str) -> list[Run]:
    return [make_run("smoke", "nsynth-gm-smoke", variant) for variant in variants]


def finish(run: Run) -> None:
    folder = paths.runs_dir("smoke") / run.name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")


# What is missing, and where


def test_finished_runs_are_not_missing_and_begun_ones_are(data_root):
    runs = plan("smoke")
    finish(runs[2])
    (paths.runs_dir("smoke") / runs[3].name).mkdir()
    assert {run.id for run in missing(runs, "smoke")} == {run.id for run in runs} - {runs[2].id}
    assert len(missing(runs, "mini")) == len(runs)


def test_the_longest_come_first(data_root):
    """By forward passes: five dropout passes before one, both before none."""
    order = [run.variant for run in missing(plan("smoke", "nsynth-gm-smoke"), "smoke")]
    passes = [TABLE_1[variant].passes if variant in TABLE_1 else -1 for variant in order]
    assert passes == sorted(passes, reverse=True) and len(set(passes)) == 3


def test_no_plan_is_no_work(data_root, monkeypatch):
    monkeypatch.setattr(cluster, "local", lambda *_: pytest.fail("no cluster is needed"))
    run = runs_of("FM")[0]
    finish(run)
    assert train_plan([], "smoke", progress=False) == train_plan([run], "smoke", progress=False) == []


def test_one_run_at_a_time_on_a_gpu():
    assert default_workers("cuda:1") == 1 <= default_workers("cpu")


@pytest.mark.parametrize("option", ["workers", "runs_per_gpu"])
@pytest.mark.parametrize("value", [0, -1])
def test_no_workers_are_refused(data_root, option, value):
    with pytest.raises(FmucError, match=f"--{option.replace('_', '-')} must.*{value}"):
        train_plan([], "smoke", progress=False, **{option: value})


def test_every_gpu_gets_runs_and_those_that_were_hidden_none(monkeypatch):
    monkeypatch.setattr(schedule.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(schedule.torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    asked = []
    monkeypatch.setattr(cluster, "local", lambda *arguments: asked.append(arguments))
    for device, workers, per_gpu in (("auto", None, 1), ("cuda", None, 3), ("cuda:1", None, 1), ("cuda", 5, 1)):
        schedule._pool(36, device, workers, None, per_gpu)
    assert asked == [(2, "auto", ("0", "1")), (6, "cuda", ("0", "1")), (1, "cuda:1", ()), (5, "cuda", ("0", "1"))]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-7a")
    assert visible_gpus("auto") == ("3", "GPU-7a") and visible_gpus("cpu") == ()


def test_workers_find_the_data_of_this_process_wherever_it_was_started(tmp_path, monkeypatch):
    """Processes run from the repository root, so a relative FMUC_DATA would mean another folder there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FMUC_DATA", "my data")
    assert Path(environment(1)["FMUC_DATA"]) == (tmp_path / "my data").resolve()


def test_a_process_has_its_threads_and_the_allocator_unless_told_otherwise(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    assert environment(3)["OMP_NUM_THREADS"] == environment(3)["MKL_NUM_THREADS"] == "3"
    assert "OMP_NUM_THREADS" not in environment(None)
    if sys.platform == "linux":
        assert environment(1)["MALLOC_MMAP_MAX_"] == "0" and environment(1)["MALLOC_TOP_PAD_"] == "1"


def test_a_job_is_the_configuration_and_places_below_the_data_folder(data_root):
    run = runs_of("FMUC")[0]
    job = run_job(run, "smoke", "cpu")
    assert job.content["run"] == asdict(run) and json.loads(json.dumps(job.content))["folder"] == job.content["folder"]
    assert (paths.data_root() / job.content["folder"]) == paths.runs_dir("smoke") / run.name
    assert not job.finished()
    finish(run)
    assert job.finished()


# The order of jobs, without workers


class FakeFuture:
    status = "finished"

    def __init__(self, key: str, outcome: Outcome) -> None:
        self.key, self.outcome = key, outcome

    def result(self) -> Outcome:
        return self.outcome

    def add_done_callback(self, function) -> None:
        function(self)


class FakeClient:
    """A cluster on which every job ends at once as ``script`` says, in the order of its tries; then with "done"."""

    def __init__(self, **script: list[Outcome]) -> None:
        self.script, self.sent, self.stopped, self.said = script, [], [], []

    def submit(self, task, job, *, key, **options) -> FakeFuture:
        self.sent.append(job["name"])
        outcomes = self.script.get(job["name"], [])
        outcome = outcomes.pop(0) if outcomes else Outcome("done")
        if isinstance(outcome, BaseException):
            raise outcome
        for said in self.said:
            self.handler((0.0, {"name": job["name"], **said}))
        return FakeFuture(key, outcome)

    def subscribe_topic(self, topic, handler) -> None:
        self.handler = handler

    def unsubscribe_topic(self, topic) -> None:
        pass

    def run(self, function, *arguments, **options) -> None:
        self.stopped.append((function, *arguments))

    def cancel(self, futures) -> None:
        pass

    def scheduler_info(self, n_workers: int) -> dict:
        return {"workers": {"a": {"nthreads": 1, "resources": {"core": 1}, "status": "running"}}}


def job(name: str, steps: int = 4, finished=lambda: False) -> Job:
    return Job(name, name, steps, f"{name}/.claim", f"{name}/.lock", {}, finished)


def batch_of(client: FakeClient, *jobs: Job) -> Batch:
    return Batch(Pool(client, {"core": 1}, "cpu"), jobs, {}, progress=False)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """No test waits for a second that a batch would."""
    monkeypatch.setattr(batch, "_TICK", 0.02)
    monkeypatch.setattr(batch, "_STOP", 0.1)


def test_jobs_are_sent_in_their_order_and_finished_ones_are_not(data_root):
    client = FakeClient()
    assert batch_of(client, job("a"), job("b", finished=lambda: True), job("c")).run() == []
    assert client.sent == ["a", "c"]


def test_an_error_of_its_own_is_tried_once_more_after_the_others_and_then_reported(data_root):
    client = FakeClient(a=[Outcome("failed", "no space left")] * 2, c=[Outcome("failed", "a hiccup")])
    failures = batch_of(client, job("a"), job("b"), job("c")).run()
    assert client.sent == ["a", "b", "c", "a", "c"]
    assert [(failure.run, failure.message) for failure in failures] == [("a", "no space left")]


def test_a_lost_job_goes_on_at_once_and_not_for_ever(data_root):
    client = FakeClient(a=[Outcome("lost", "ended by SIGKILL")] * 99)
    failures = batch_of(client, job("a"), job("b")).run()
    assert client.sent == ["a"] * batch.LOSSES + ["b"]
    assert [(failure.run, failure.message) for failure in failures] == [("a", "ended by SIGKILL")]


def test_a_job_that_gets_on_may_be_lost_many_times(data_root):
    client = FakeClient(a=[Outcome("lost")] * 3 * batch.LOSSES)
    steps = iter(range(1, 99))
    client.said = [{"step": 0, "text": ""}]
    submit = client.submit

    def progress(*arguments, **options) -> FakeFuture:
        client.said = [{"step": next(steps), "text": ""}]
        return submit(*arguments, **options)

    client.submit = progress
    assert batch_of(client, job("a", steps=99)).run() == []
    assert len(client.sent) == 3 * batch.LOSSES + 1


def test_workers_that_do_not_fit_end_the_plan_with_their_line(data_root):
    client = FakeClient(a=[Outcome("unfit", "other code")] * 2)
    with pytest.raises(FmucError, match="other code"):
        batch_of(client, job("a"), job("b")).run()
    assert [function for function, *_ in client.stopped] == [launch.stop]
    once = FakeClient(a=[Outcome("unfit", "the code was just being edited")])
    assert batch_of(once, job("a")).run() == []


def test_a_job_that_another_batch_is_at_comes_later(data_root):
    (data_root / "a").mkdir()
    client, results = FakeClient(), []
    with launch.claim(data_root / "a" / ".claim") as mine:
        assert mine
        waiting = threading.Thread(target=lambda: results.append(batch_of(client, job("a"), job("b")).run()))
        waiting.start()
        wait_for(lambda: "b" in client.sent)
        waiting.join(10 * batch._TICK)
        assert client.sent == ["b"] and waiting.is_alive()
    waiting.join(10)
    assert client.sent == ["b", "a"] and results == [[]]


def test_a_job_that_a_single_process_trains_comes_later_and_need_not_be_sent(data_root):
    (data_root / "a").mkdir()
    client, done = FakeClient(), threading.Event()
    with launch.claim(data_root / "a" / ".lock"):
        waiting = threading.Thread(target=batch_of(client, job("a", finished=done.is_set), job("b")).run)
        waiting.start()
        wait_for(lambda: "b" in client.sent)
        done.set()
        waiting.join(10)
    assert client.sent == ["b"] and not waiting.is_alive()


def test_a_job_found_busy_by_its_worker_is_sent_again(data_root):
    client = FakeClient(a=[Outcome("busy")] * 3)
    assert batch_of(client, job("a")).run() == [] and client.sent == ["a"] * 4


def test_an_interrupt_stops_the_processes_everywhere(data_root):
    client = FakeClient(b=[KeyboardInterrupt()])
    plan = batch_of(client, job("a"), job("b"))
    with pytest.raises(KeyboardInterrupt):
        plan.run()
    assert client.stopped == [(launch.stop, plan.plan)]


def test_a_scheduler_that_goes_away_is_one_clear_error(data_root, monkeypatch):
    monkeypatch.setattr(FakeFuture, "status", "cancelled")
    with pytest.raises(FmucError, match="scheduler has gone.*goes on from"):
        batch_of(FakeClient(), job("a")).run()


def test_warnings_of_processes_are_passed_on(data_root, capsys):
    client = FakeClient()
    client.said = [{"warning": "the newest checkpoint is damaged"}]
    batch_of(client, job("a")).run()
    assert capsys.readouterr().err == "fmuc: the newest checkpoint is damaged\n"


def test_the_bar_covers_the_whole_plan(data_root):
    client = FakeClient(a=[Outcome("lost")])
    client.said = [{"step": 2, "text": "loss 1"}, {"step": 1, "text": "begun again"}]
    plan = batch_of(client, job("a"), job("b", steps=8, finished=lambda: True), job("c", steps=2))
    plan.run()
    assert plan.bar.total == 14 and plan.steps == {"a": 4, "b": 8, "c": 2}


# Real processes


def test_runs_train_here_each_with_one_thread_and_a_failing_one_does_not_stop_the_others(trainable, monkeypatch):
    """The failing one asks for features that nobody extracted; its configuration is no profile's."""
    monkeypatch.setattr(batch, "FAILURES", 0)
    full, fm = runs_of("Fully supervised", "Labelled part only")
    full = replace(full, training=replace(full.training, epochs=2))
    broken = replace(fm, features=replace(fm.features, mel_bands=16))
    failures = train_plan([broken, full], "smoke", device="cpu", workers=2, progress=False)
    assert [failure.run for failure in failures] == [broken.name]
    assert "python -m fmuc features" in failures[0].message
    assert not is_finished(paths.runs_dir("smoke") / broken.name)
    record = load_record(paths.runs_dir("smoke") / full.name)
    assert record.run == full and len(record.history) == 2
    assert record.provenance["threads"] == 1
    assert not list(paths.data_root().glob(".plan-*"))


def test_a_data_folder_that_cannot_be_written_is_one_clear_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FMUC_DATA", str(tmp_path / "file" / "data"))
    with pytest.raises(FmucError, match=r"file/data: cannot be written \(Not a directory\).*FMUC_DATA"):
        train_plan(runs_of("FM"), "smoke", device="cpu", workers=1, progress=False)


def long_run() -> Run:
    run = runs_of("Labelled part only")[0]
    return replace(run, training=replace(run.training, epochs=3_000))


def test_two_batches_at_once_share_the_runs(trainable, monkeypatch):
    """Another process and this one: each run is trained by one of them, both end well, every record is whole."""
    (run,) = runs_of("Labelled part only")
    runs = [replace(run, seed=seed, training=replace(run.training, epochs=2)) for seed in range(3)]
    mine, follow = [], launch.follow
    monkeypatch.setattr(launch, "follow", lambda content, *rest: mine.append(content["run"]["seed"]) or follow(
        content, *rest))
    other = start_batch(runs)
    assert other.stdout.readline() == "ready\n"
    begun = other.stdout.readline().strip()  # else this one might be done before the other begins
    assert train_plan(runs, "smoke", device="cpu", workers=1, progress=False) == []
    theirs = [run.seed for line in (begun, *other.communicate()[0].splitlines()) for run in runs if line == run.name]
    assert other.returncode == 0
    assert sorted(mine + theirs) == [0, 1, 2] and mine and theirs
    for run in runs:
        assert load_record(paths.runs_dir("smoke") / run.name).run == run


def test_ctrl_c_ends_with_130_and_one_line_and_the_next_call_goes_on(trainable):
    (run,) = runs_of("Labelled part only")
    run = replace(run, training=replace(run.training, epochs=100))
    folder = paths.runs_dir("smoke") / run.name
    first = start_batch([run])
    wait_for(lambda: list(folder.glob("checkpoint*.safetensors")))
    first.send_signal(signal.SIGINT)
    errors = first.communicate()[1]
    lines = [line for line in errors.splitlines() if "fmuc" in line]
    assert first.returncode == 130 and lines == ["fmuc: interrupted; the same command goes on from here"], errors
    assert "Traceback" not in errors and not is_finished(folder)
    with launch.claim(folder / ".lock") as free:
        assert free  # nobody trains on
    assert train_plan([run], "smoke", device="cpu", workers=1, progress=False) == []
    assert list(load_record(folder).history.index) == list(range(1, 101))


def test_no_process_of_a_plan_is_left(trainable):
    """A plan that was killed outright (SIGKILL, no clean-up) leaves no process that trains on."""
    run = long_run()
    folder = paths.runs_dir("smoke") / run.name
    killed = start_batch([run])
    wait_for(lambda: list(folder.glob("checkpoint*.safetensors")))
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()

    def free() -> bool:
        with launch.claim(folder / ".lock") as mine:
            return mine

    wait_for(free, 20)
