"""Fuzzing of every reader: damaged files in; either a clear error or a right result out.

::

    python tests/fuzz.py --minutes 3 --write        # every reader in turn for so long; the table into figures/fuzz.md
    python tests/fuzz.py --replay checkpoint 17        # one input again, with its traceback

A worker process reads under limits of time and memory and with unpickling forbidden. An input that kills it is a fault,
and ends the run. Inputs follow from the seed.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mutations import damaged

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 10  # of computing that one file may take
MEMORY = 2**30  # bytes beyond what the worker needs before its first file
LONGEST = 1000  # characters of a clear line
REFUSED, RIGHT, FAULT = "clear error", "right result", "fault"


@dataclass
class Target:
    """A reader of ``files`` in ``place``: ``read`` returns what ``right`` must accept or raises one of ``refusals``.

    ``mutate`` damages one file; ``after`` runs once a damaged file was written; ``names_file``: the error must name the
    file, its folder or the data set.
    """

    name: str
    place: Path
    files: tuple[str, ...]
    read: Callable[[], object]
    right: Callable[[object], bool]
    refusals: tuple[type[Exception], ...]
    mutate: Callable[[bytes, np.random.Generator, str], bytes] = damaged
    after: Callable[[], None] = lambda: None
    names_file: bool = True
    contents: dict[str, bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.contents = {name: (self.place / name).read_bytes() for name in self.files}

    def damage(self, number: int, seed: int) -> str:
        """Write one damaged file in the place of a valid one; return its name."""
        rng = np.random.default_rng([seed, number])
        while True:
            name = self.files[rng.integers(len(self.files))]
            content = self.mutate(self.contents[name], rng, name)
            if content != self.contents[name]:
                (self.place / name).write_bytes(content)
                self.after()
                return name

    def restore(self) -> None:
        for name, content in self.contents.items():
            (self.place / name).write_bytes(content)

    def judge(self, name: str) -> tuple[str, str]:
        """Read, ``name`` being damaged: the outcome and, of a fault, what happened."""
        try:
            result = self.read()
        except self.refusals as error:
            line = str(error)
            return (REFUSED, "") if self._clear(line, name) else (FAULT, f"{name}: unclear error {line[:300]!r}")
        except Exception as error:
            return FAULT, f"{name}: {type(error).__name__}: {error}"[:300]
        try:
            return (RIGHT, "") if self.right(result) else (FAULT, f"{name}: wrong result {result!r}"[:300])
        except Exception as error:
            return FAULT, f"{name}: unusable result, {type(error).__name__}: {error}"[:300]

    def _clear(self, line: str, name: str) -> bool:
        """Whether an error is one line that names what is damaged, and is not about memory."""
        names = Path(name).name, self.place.name, self.place.parent.name
        named = not self.names_file or any(part in line for part in names)
        no_memory = "MemoryError" in line or "llocate" in line
        return line.isprintable() and 0 < len(line) < LONGEST and named and not no_memory


class Hang(BaseException):
    """The time is over; no ``except Exception`` of a reader can hide it."""


def attempt(target: Target, number: int, seed: int) -> tuple[str, str]:
    """Damage one file, read, judge, restore."""
    def ring(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGPROF, ring)
    try:
        name = target.damage(number, seed)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of computing: a busy machine is no hang
        _limit(resource.RLIMIT_CPU, int(time.process_time()) + 3 * SECONDS)  # kills what does not return to Python
        return target.judge(name)
    except Hang:
        return FAULT, f"{name}: more than {SECONDS} seconds"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        target.restore()


def _limit(what: int, soft: int) -> None:
    resource.setrlimit(what, (soft, resource.getrlimit(what)[1]))


# --- the worker ---


def work(inputs: int, seed: int, minutes: float) -> None:
    """Read damaged files, the targets in turn; print one JSON line before and after each."""
    import fuzz_targets

    end = time.monotonic() + 60 * minutes
    print_to, sys.stdout = sys.stdout, sys.stderr
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        targets = fuzz_targets.build(Path(folder))
        for target in targets:  # libraries are loaded and kernels compiled before the memory is limited
            assert target.right(target.read()), f"{target.name} does not read its own valid files"
        _forbid_pickle()
        if Path("/proc/self/statm").exists():
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            _limit(resource.RLIMIT_AS, used + MEMORY)
        for number in range(inputs):
            if time.monotonic() > end:
                break
            target = targets[number % len(targets)]
            print(json.dumps([target.name, number]), file=print_to, flush=True)
            print(json.dumps(attempt(target, number, seed)), file=print_to, flush=True)


def _forbid_pickle() -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("something is unpickled")

    pickle.load = pickle.loads = pickle.Unpickler = refuse


# --- who watches it ---


@dataclass
class Report:
    """Outcomes of each reader, and one line for each fault."""

    outcomes: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    faults: list[str] = field(default_factory=list)

    @property
    def inputs(self) -> int:
        return sum(found.total() for found in self.outcomes.values())

    def add(self, reader: str, number: int, outcome: str, what: str) -> None:
        self.outcomes[reader][outcome] += 1
        if outcome == FAULT:
            self.faults.append(f"{reader}, number {number}: {what}")

    def __str__(self) -> str:
        columns = (REFUSED, RIGHT, FAULT)
        rows = [*self.outcomes.items(), ("all", sum(self.outcomes.values(), Counter()))]
        table = [("reader", "inputs", *columns), ("---", *["---:"] * 4)]
        table += [(name, f"{found.total():,}", *(f"{found[column]:,}" for column in columns)) for name, found in rows]
        lines = [f"| {' | '.join(row)} |" for row in table]
        return "\n".join([*lines, "", f"{self.inputs:,} damaged files read, {len(self.faults):,} faults.",
                          *(f"- {fault}" for fault in self.faults)])


def run(inputs: int, seed: int = 0, minutes: float = float("inf")) -> Report:
    """Read up to ``inputs`` damaged files in a worker, for at most so many minutes."""
    return watch([sys.executable, __file__, "--worker", str(inputs), str(seed), str(minutes)])


def watch(command: list[str]) -> Report:
    """Outcomes that a worker prints; if it dies over a file, that is a fault of the reader."""
    report, reader, answer = Report(), None, ""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with (tempfile.TemporaryFile("w+") as errors,
          subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=variables) as worker):
        for line in worker.stdout:
            reader, number = json.loads(line)
            answer = worker.stdout.readline()
            if answer:
                report.add(reader, number, *json.loads(answer))
        errors.seek(0)
        last = " ".join(errors.read().split())[-300:]
    if reader is None:
        raise RuntimeError(f"the worker did not begin: {last}")
    if not answer:
        report.add(reader, number, FAULT, f"the worker died: {last}")
    return report


def replay(reader: str, number: int, seed: int) -> None:
    """Read one damaged file again and let its traceback be seen."""
    import fuzz_targets

    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        target = next(target for target in fuzz_targets.build(Path(folder)) if target.name == reader)
        path = target.place / target.damage(number, seed)
        print(f"{path}: {path.read_bytes()[:2000]!r}")
        result = target.read()
        print("read:", result, "right:", target.right(result))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replay", nargs=2, metavar=("READER", "NUMBER"))
    parser.add_argument("--write", action="store_true", help="the table into figures/fuzz.md")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        inputs, seed, minutes = options.worker
        work(int(inputs), int(seed), float(minutes))
        return 0
    if options.replay:
        replay(options.replay[0], int(options.replay[1]), options.seed)
        return 0
    report = run(10**9, options.seed, options.minutes)
    print(report)
    if options.write:
        (ROOT / "figures" / "fuzz.md").write_text(f"{report}\n", encoding="utf-8")
    return int(bool(report.faults))


if __name__ == "__main__":
    sys.exit(main())
