"""``python -m fmuc torture``: runs that are killed again and again must end bit for bit as one that never was.

A run is trained once undisturbed. Then, as often as asked, the same run is begun anew and its process killed (SIGKILL)
at random moments, one to four times, before it may end. The phase to hit is drawn first and the moment within it
second: so writing, which takes milliseconds, is hit as often as training. Every process runs the same
``fmuc.train.train``; only a report of its phases through a pipe is wrapped around some of its functions. To save time
most are forked from a process that has done the imports; those killed within the imports, and the undisturbed one,
begin with a new interpreter.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from fmuc import checkpoints, datasets, experiments, features, paths, train
from fmuc.config import Run
from fmuc.errors import FmucError
from fmuc.records import is_finished, load_record

_WHOLE = "in between"  # all that follows the imports; where a kill is counted, what is in no other phase
_PHASES = ("imports", _WHOLE, "warm start", "epoch", "checkpoint", "record")
_ANNOUNCED = ((train.Trainer, "warm_up", "warm start"), (train.Trainer, "train_epoch", "epoch"),
              (train.Trainer, "save_checkpoint", "checkpoint"), (train.Trainer, "record", "record"),
              (train, "save_record", "record"), (checkpoints, "keep_last", "record"))
_MOST_KILLS = 4  # of one run
_PATIENCE = 600  # seconds without a word from a process
_OF_THE_MACHINE = ("wall_seconds", "commit", "code", "codes")  # what provenance says of it, not of the training


@dataclass
class Report:
    """How many of ``runs`` killed runs ended ``identical`` to the undisturbed one; ``kills`` by phase; ``problems``."""

    run: str
    runs: int = 0
    identical: int = 0
    kills: Counter = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        hit = ", ".join(f"{phase} {self.kills[phase]}" for phase in _PHASES if self.kills[phase])
        lines = [f"{self.identical} of {self.runs} ended identical ({self.kills.total()} kills: {hit}; "
                 f"{self.seconds:.0f} s)", *self.problems]
        return "\n".join(lines)

    def asdict(self) -> dict:
        """For JSON."""
        return {**vars(self), "kills": dict(self.kills)}


def torture(profile: str = "smoke", *, kills: int = 20, seed: int = 0, folder: Path | None = None,
            progress: bool = True) -> Report:
    """Kill FMUC's run of a profile's first data set in ``kills`` trainings; ``seed`` draws the moments.

    The data are rendered, where they can be, and their features extracted first. All happens in a new folder in
    ``folder`` (default: the data folder); it stays only if a training ended differently.
    """
    if kills < 1:
        raise FmucError(f"--kills must be at least 1, not {kills}")
    name = next(iter(experiments.presets(profile)))
    run = experiments.make_run(profile, name, "FMUC", seed)
    features.extract(datasets.ensure(name, progress=progress), run.features, progress=progress)
    place = folder or paths.data_root()
    with checkpoints.explained(place):
        place.mkdir(parents=True, exist_ok=True)
        root = Path(tempfile.mkdtemp(prefix="torture-", dir=place))
    try:
        report = _torture(run, root, kills, np.random.default_rng(seed), progress)
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    if report.problems:
        report.problems.append(f"what they left is in {paths.relative(root)}")
    else:
        shutil.rmtree(root)
    return report


def _torture(run: Run, root: Path, kills: int, rng: np.random.Generator, progress: bool) -> Report:
    started, report = time.monotonic(), Report(run.name, runs=kills)
    undisturbed = root / "undisturbed" / run.name
    life = _Life(run, undisturbed, fresh=True)
    problem = life.wait()
    if problem:
        raise FmucError(f"{run.name}: the undisturbed run failed: {problem}")
    expected = ending(undisturbed)
    for number in tqdm(range(1, kills + 1), desc=f"kills of {run.name}", unit="run", disable=not progress):
        folder = root / f"killed-{number}" / run.name
        problem = _kill_and_finish(run, folder, life.lengths, rng, report.kills) or different(folder, expected)
        if problem:
            report.problems.append(f"run {number}: {problem}")
        else:
            report.identical += 1
            shutil.rmtree(folder.parent)
    report.seconds = round(time.monotonic() - started, 1)
    return report


def _kill_and_finish(run: Run, folder: Path, lengths: dict[str, list[float]], rng: np.random.Generator,
                     kills: Counter) -> str | None:
    """Kill a run at random moments, once at least, and let it end; None, or what went wrong on the way."""
    planned, done = int(rng.integers(1, _MOST_KILLS + 1)), 0
    while done < planned and not is_finished(folder):
        ahead = _ahead(folder, lengths)
        phase = rng.choice([phase for phase in _PHASES if ahead[phase]])
        which = int(rng.integers(len(ahead[phase])))
        life = _Life(run, folder, fresh=phase == "imports")
        killed, problem = life.kill(phase, which, rng.random() * ahead[phase][which])
        if problem:
            return problem
        if killed:
            kills[killed] += 1
            done += 1
        elif not done:  # it was faster than the kill: once more
            shutil.rmtree(folder.parent)
    return _Life(run, folder, fresh=False).wait()


def _ahead(folder: Path, lengths: dict[str, list[float]]) -> dict[str, list[float]]:
    """Seconds of the phases that a run still has before it."""
    epochs = int(checkpoints.files(folder)[0].stem.rpartition("-")[2]) if checkpoints.files(folder) else 0
    over = {"warm start": 1 if epochs else 0, "epoch": epochs, "checkpoint": epochs}
    return {phase: seconds[over.get(phase, 0) :] for phase, seconds in lengths.items()}


class _Life:
    """One process that trains ``run`` in ``folder`` from where it is to its end, and what it says of its phases."""

    def __init__(self, run: Run, folder: Path, *, fresh: bool) -> None:
        forked = "forkserver" in multiprocessing.get_all_start_methods() and not fresh
        context = multiprocessing.get_context("forkserver" if forked else "spawn")
        if forked:
            context.set_forkserver_preload(["__main__", __name__, "torch._dynamo"])  # which Adam asks for
        folder.parent.mkdir(parents=True, exist_ok=True)
        self.log = folder.parent / "errors.txt"
        self.marks, theirs = context.Pipe(duplex=False)
        self.process = context.Process(target=_live, args=(run, folder, str(paths.data_root()), self.log, theirs),
                                       daemon=True)
        self.phase, self.lengths = "imports", {phase: [] for phase in _PHASES}
        self._entered = [("imports", time.monotonic())]
        self.process.start()
        theirs.close()

    def wait(self) -> str | None:
        """Let it end; None, or why it did not end well."""
        try:
            while self._listen(_PATIENCE):
                pass
        finally:
            if self._ended():
                self.process.join()
            else:
                self._end()
        if self.process.exitcode:
            said = self.log.read_text(encoding="utf-8").strip().splitlines()
            return said[-1] if said else f"exit status {self.process.exitcode}"
        return None

    def kill(self, phase: str, which: int, delay: float) -> tuple[str | None, str | None]:
        """Kill it ``delay`` seconds after it has entered ``phase`` for the ``which``-th time: the phase it was in.

        (None, None): it ended before; (None, problem): and not well.
        """
        try:
            while self._count(phase) <= which:
                if not self._listen(_PATIENCE):
                    return None, self.wait()
            time.sleep(delay)
        finally:
            self._end()
        while self._listen(0):  # what it said before
            pass
        return (self.phase, None) if self.process.exitcode == -signal.SIGKILL else (None, self.wait())

    def _count(self, phase: str) -> int:
        return len(self.lengths[phase]) + sum(name == phase for name, _ in self._entered)

    def _listen(self, patience: float) -> bool:
        """Take one more of its reports; False: there is none."""
        try:
            if not self.marks.poll(patience):
                return False
            phase, entered = self.marks.recv()
        except EOFError:
            return False
        now = time.monotonic()
        if not entered or phase == _WHOLE:  # which follows the imports
            name, since = self._entered.pop()
            self.lengths[name].append(now - since)
        if entered:
            self._entered.append((phase, now))
        self.phase = self._entered[-1][0] if self._entered else phase
        return True

    def _ended(self) -> bool:
        self.process.join(timeout=5)
        return self.process.exitcode is not None

    def _end(self) -> None:
        self.process.kill()
        self.process.join()


def _live(run: Run, folder: Path, data: str, log: Path, marks: Connection) -> None:
    """What a process does: train, and say which phase begins and ends."""
    os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), sys.stderr.fileno())
    os.environ["FMUC_DATA"] = data
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # the default's semaphores outlive a killed process
    marks.send((_WHOLE, True))
    for owner, name, phase in _ANNOUNCED:
        setattr(owner, name, _announced(getattr(owner, name), phase, marks))
    try:
        train.train(run, device="cpu", folder=folder, progress=False)
    except FmucError as error:
        print(f"fmuc: {error}", file=sys.stderr)
        sys.exit(1)
    marks.send((_WHOLE, False))


def _announced(function: Callable, phase: str, marks: Connection) -> Callable:
    @wraps(function)
    def announced(*arguments, **options):
        marks.send((phase, True))
        result = function(*arguments, **options)
        marks.send((phase, False))
        return result

    return announced


def ending(folder: Path) -> dict[str, object]:
    """All that a finished run leaves, by name, without wall times: files, state, history, counts, predictions."""
    (last, *_), record = checkpoints.files(folder), load_record(folder)
    tensors, content = checkpoints.read(last)
    parts: dict[str, object] = {"files": sorted(path.name for path in folder.iterdir())}
    parts |= {f"checkpoint's {name}": value.numpy() for name, value in tensors.items()}
    parts["checkpoint's history"] = repr([{**row, "seconds": 0} for row in content["rows"]])
    for path in sorted((folder.parent / "warm-starts").glob("[!.]*")):
        parts |= {f"warm start's {name}": value.numpy() for name, value in checkpoints.read(path)[0].items()}
    parts |= {f"record's {name}": value for name, value in record.files.items()}
    parts |= {"record's kept": record.kept, "record's seen": record.seen}
    parts["record's history"] = record.history.drop(columns="seconds").to_csv()
    parts["record's results"] = repr((record.run, record.classes, record.results))
    parts["record's provenance"] = repr({name: value for name, value in record.provenance.items()
                                         if name not in _OF_THE_MACHINE})
    parts["split"] = (folder / "split.json").read_bytes()
    return parts


def different(folder: Path, expected: dict[str, object]) -> str | None:
    """What differs between a run's ending and the ``expected`` one, bit for bit; None: nothing."""
    try:
        parts = ending(folder)
    except (FmucError, checkpoints.Unusable, ValueError, OSError) as error:
        return f"its end cannot be read: {error}"
    names = [name for name in {**expected, **parts} if not _same(parts.get(name), expected.get(name))]
    return f"differs in {', '.join(names[:5])}{f' and {len(names) - 5} more' * (len(names) > 5)}" if names else None


def _same(first: object, second: object) -> bool:
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return (first.dtype, first.shape, first.tobytes()) == (second.dtype, second.shape, second.tobytes())
    return type(first) is type(second) and first == second
