from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fmuc import paths, schedule
from fmuc.config import Run
from fmuc.errors import FmucError
from fmuc.experiments import TABLE_1, make_run, plan
from fmuc.runs import is_finished, load_record
from fmuc.schedule import default_workers, missing, train_plan


def runs_of(*variants: str) -> list[Run]:
    return [make_run("smoke", "nsynth-gm-smoke", variant) for variant in variants]


def finish(run: Run) -> None:
    folder = paths.runs_dir("smoke") / run.name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")


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


def test_no_plan_is_no_work(data_root):
    run = runs_of("FM")[0]
    finish(run)
    assert train_plan([], "smoke", progress=False) == train_plan([run], "smoke", progress=False) == []


def test_one_run_at_a_time_on_a_gpu():
    assert default_workers("cuda:1") == 1 <= default_workers("cpu")


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers_are_refused(data_root, workers):
    with pytest.raises(FmucError, match=f"--workers.*{workers}"):
        train_plan([], "smoke", workers=workers, progress=False)


def test_a_failing_run_is_reported_and_does_not_stop_the_others(trainable):
    labelled, full = runs_of("Labelled part only", "Fully supervised")
    broken = paths.runs_dir("smoke") / labelled.name
    broken.mkdir(parents=True)
    (broken / "checkpoint.safetensors").write_bytes(b"damaged")
    failures = train_plan([labelled, full], "smoke", device="cpu", workers=2, progress=False)
    assert [failure.run for failure in failures] == [labelled.name]
    assert failures[0].message.startswith("fmuc: ") and "delete it to start again" in failures[0].message
    assert not is_finished(broken)
    record = load_record(paths.runs_dir("smoke") / full.name)
    assert record.run == full and len(record.history) == full.training.epochs
    assert record.provenance["threads"] == 1


class FakeProcess:
    """A worker that prints ``out`` and ``errors`` and ends with ``status``."""

    def __init__(self, out: str = "", errors: str = "", status: int = 0) -> None:
        self.stdout, self.stderr, self.status = io.StringIO(out), io.StringIO(errors), status
        self.terminated = False

    def wait(self) -> int:
        return self.status

    def terminate(self) -> None:
        self.terminated = True


def test_every_run_gets_a_process_of_its_own_with_one_thread(data_root, monkeypatch):
    started = []
    monkeypatch.setattr(schedule.subprocess, "Popen",
                        lambda command, **options: started.append((command, options["env"])) or FakeProcess())
    runs = plan("smoke")
    assert train_plan(runs, "smoke", device="cpu", workers=3, progress=False) == []
    named = [(c[c.index("--variant") + 1], int(c[c.index("--seed") + 1])) for c, _ in started]
    assert sorted(named) == sorted((run.variant, run.seed) for run in runs)
    assert all(env["OMP_NUM_THREADS"] == "1" for _, env in started)


def test_workers_find_the_data_of_this_process_wherever_it_was_started(tmp_path, monkeypatch):
    """They run from the repository root, so a relative FMUC_DATA would mean another folder there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FMUC_DATA", "my data")
    started = []
    monkeypatch.setattr(schedule.subprocess, "Popen",
                        lambda command, **options: started.append(options) or FakeProcess())
    train_plan(runs_of("FM"), "smoke", device="cpu", workers=1, progress=False)
    folder = Path(started[0].get("cwd", "."), started[0]["env"]["FMUC_DATA"]).resolve()
    assert folder == (tmp_path / "my data").resolve()


def test_a_run_without_a_word_of_error_is_reported_with_its_status(data_root, monkeypatch):
    monkeypatch.setattr(schedule.subprocess, "Popen", lambda *_, **__: FakeProcess(status=-9))
    failures = train_plan(runs_of("FM"), "smoke", device="cpu", workers=1, progress=False)
    assert [(f.run, f.message) for f in failures] == [(runs_of("FM")[0].name, "exit status -9")]


class EndlessProcess(FakeProcess):
    """A worker that prints nothing and ends when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.told = threading.Event()
        self.stdout = self.silence()

    def silence(self) -> Iterator[str]:
        self.told.wait(5)
        yield from ()

    def terminate(self) -> None:
        super().terminate()
        self.told.set()


def test_when_the_scheduler_ends_every_worker_is_told_to_and_none_is_started(data_root, monkeypatch):
    workers = []

    def start(*_, **__) -> FakeProcess:
        workers.append(EndlessProcess() if workers else FakeProcess(out="no JSON: this ends the scheduler\n"))
        return workers[-1]

    monkeypatch.setattr(schedule.subprocess, "Popen", start)
    with pytest.raises(ValueError, match="Expecting value"):
        train_plan(runs_of("FM", "FMUC", "Fully supervised"), "smoke", device="cpu", workers=1, progress=False)
    assert all(worker.terminated for worker in workers) and len(workers) < 3
