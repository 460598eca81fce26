"""Fuzzing of every reader: damaged files in, and either a clear error or a right result out.

::

    python tests/fuzz.py --minutes 3 --write  # every reader in turn for so long; the table into figures/fuzz.md
    python tests/fuzz.py --inputs 200         # so many damaged files for each reader
    python tests/fuzz.py --replay "split.json" 17    # one of them again, with its traceback

A worker process reads; this one watches it. What kills the worker, or takes longer than it may, is found as well, and
a new worker goes on behind it. The inputs follow from the seed.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECONDS = 10  # of computing that one file may take
PATIENCE = 300  # seconds without a sign of life: the machine may be busy
MEMORY = 2**30  # bytes beyond what the worker needs before its first file
LONGEST = 1000  # characters of a clear line
REFUSED, RIGHT = "clear error", "right result"
FAILURES = ("wrong result", "unclear error", "other exception", "too much memory", "hang", "crash")


@dataclass
class Report:
    """Outcomes of each reader, and one line for each input that failed."""

    outcomes: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))
    failures: list[str] = field(default_factory=list)

    @property
    def inputs(self) -> int:
        return sum(sum(found.values()) for found in self.outcomes.values())

    def markdown(self) -> str:
        """The table and what it comes to, for docs/reliability.md."""
        columns = (REFUSED, RIGHT, *FAILURES)
        total = sum(self.outcomes.values(), Counter())
        rows = [("reader", "inputs", *columns), ("---", *["---:"] * (1 + len(columns)))]
        rows += [(name, f"{sum(found.values()):,}", *(f"{found[column]:,}" for column in columns))
                 for name, found in [*self.outcomes.items(), ("all", total)]]
        summary = f"{self.inputs:,} damaged files read: {len(self.failures):,} ended otherwise than they should."
        return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), "", summary, *(f"- {f}" for f in self.failures)])

    def __str__(self) -> str:
        columns = (REFUSED, RIGHT, *FAILURES)
        head = f"{'reader':<29}{'inputs':>8}" + "".join(f"{name:>17}" for name in columns)
        total = sum(self.outcomes.values(), Counter())
        rows = [f"{name:<29}{sum(found.values()):>8}" + "".join(f"{found[column]:>17}" for column in columns)
                for name, found in [*self.outcomes.items(), ("all", total)]]
        return "\n".join([head, *rows, *self.failures])


def run(inputs: int | None = None, minutes: float | None = None, seed: int = 0) -> Report:
    """Read damaged files until each reader had ``inputs`` of them, or the time is over."""
    end = time.monotonic() + 60 * minutes if minutes else float("inf")
    report, start = Report(), 0
    while inputs is None or start is not None:
        start = _watch(report, start, inputs, seed, end)
        if start is None or time.monotonic() > end:
            break
    return report


def _watch(report: Report, start: int, inputs: int | None, seed: int, end: float) -> int | None:
    """One worker from number ``start`` on; returns where the next has to go on, None if nothing is left."""
    command = [sys.executable, __file__, "--worker", str(start), str(-1 if inputs is None else inputs), str(seed)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    with (tempfile.TemporaryDirectory(prefix="fuzz-") as folder, open(Path(folder, "errors"), "w+") as errors,
          subprocess.Popen([*command, folder], stdout=subprocess.PIPE, stderr=errors, env=variables) as worker):
        done, state = start, "crash"
        try:
            for line in _lines(worker):
                if line is None:
                    state = "hang"
                    break
                told = json.loads(line)
                if "done" in told:
                    return None
                done = told["number"] + 1
                report.outcomes[told["reader"]][told["outcome"]] += 1
                if told["outcome"] in FAILURES:
                    report.failures.append(f"{told['reader']}, number {told['number']}: {told['outcome']}: "
                                           f"{told['what']}")
                if time.monotonic() > end:
                    return None
        finally:
            worker.kill()
        errors.seek(0)
        last = " ".join(errors.read().split())[-300:]
        if done == start == 0 and not report.inputs:
            raise RuntimeError(f"the worker did not begin: {last}")
        names = json.loads(Path(folder, "names").read_text())
        report.outcomes[names[done % len(names)]][state] += 1
        report.failures.append(f"{names[done % len(names)]}, number {done}: {state}: {last}")
        return done + 1


def _lines(worker: subprocess.Popen) -> Iterator[bytes | None]:
    """What the worker prints, None once it has been silent for too long."""
    while True:
        if not select.select([worker.stdout], [], [], PATIENCE)[0]:
            yield None
            return
        line = worker.stdout.readline()
        if not line:
            return
        yield line


# --- the worker ---


class Hang(BaseException):
    """The time is over; no ``except Exception`` of a reader can hide it."""


def _work(start: int, inputs: int, seed: int, folder: Path) -> None:
    import fuzz_targets

    print_to, sys.stdout = sys.stdout, sys.stderr
    targets = fuzz_targets.build(folder / "state")
    (folder / "names").write_text(json.dumps([target.name for target in targets]))
    for target in targets:  # libraries are loaded and kernels compiled before the memory is limited
        assert target.right(target.read()), f"{target.name} does not read its own valid files"
    _forbid_pickle()
    _limit_memory()
    number = start
    while inputs < 0 or number < inputs * len(targets):
        target = targets[number % len(targets)]
        outcome, what = _try(target, number, seed)
        print(json.dumps({"reader": target.name, "number": number, "outcome": outcome, "what": what}), file=print_to,
              flush=True)
        number += 1
    print('{"done": true}', file=print_to, flush=True)


def _forbid_pickle() -> None:
    """From here on unpickling anything is a failure."""
    import pickle

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("something is unpickled")

    pickle.load = pickle.loads = pickle.Unpickler = refuse


def _limit_memory() -> None:
    import resource

    statistics = Path("/proc/self/statm")
    if statistics.exists():  # elsewhere there is no telling how much is in use
        used = int(statistics.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))


def _damage(target: object, number: int, seed: int) -> str:
    """Write a damaged file in the place of a valid one; returns its name."""
    import numpy as np

    rng = np.random.default_rng([seed, number])
    while True:
        name = target.files[rng.integers(len(target.files))]
        content = target.mutate(target.contents[name], rng, name)
        if content != target.contents[name]:
            (target.place / name).write_bytes(content)
            target.after()
            return name


def _try(target: object, number: int, seed: int) -> tuple[str, str]:
    """Damage one file, read, and judge what came of it."""
    import signal

    def ring(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGPROF, ring)
    try:
        name = _damage(target, number, seed)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of computing: a busy machine is no hang
        return _judge(target, name)
    except Hang:
        return "hang", f"more than {SECONDS} seconds"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        target.restore()


def _judge(target: object, name: str) -> tuple[str, str]:
    try:
        result = target.read()
    except target.refusals as error:
        return _judge_line(target, name, str(error))
    except MemoryError as error:
        return "too much memory", f"{name}: {error}"
    except Exception as error:
        return "other exception", f"{name}: {type(error).__name__}: {error}"[:300]
    try:
        return (RIGHT, "") if target.right(result) else ("wrong result", f"{name}: {result!r}"[:300])
    except Exception as error:
        return "wrong result", f"{name}: it cannot be used: {type(error).__name__}: {error}"[:300]


def _judge_line(target: object, name: str, line: str) -> tuple[str, str]:
    if any(sign in line for sign in ("MemoryError", "llocate", "out of memory")):
        return "too much memory", line[:300]
    named = not target.names_file or any(part in line for part in (Path(name).name, target.place.name))
    if line.isprintable() and 0 < len(line) < LONGEST and named:
        return REFUSED, ""
    return "unclear error", f"{name}: {line[:300]!r}"


def _replay(reader: str, number: int, seed: int) -> None:
    """Read one damaged file again and let its traceback be seen."""
    import fuzz_targets

    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        targets = fuzz_targets.build(Path(folder, "state"))
        target = next(target for target in targets if target.name == reader)
        name = _damage(target, number, seed)
        print(f"{target.place / name}: {(target.place / name).read_bytes()[:2000]!r}")
        print("read:", target.read())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--inputs", type=int, help="for each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--replay", nargs=2, metavar=("READER", "NUMBER"))
    parser.add_argument("--write", action="store_true", help="the table into figures/fuzz.md and docs/reliability.md")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        start, inputs, seed, folder = args.worker
        _work(int(start), int(inputs), int(seed), Path(folder))
        return 0
    if args.replay:
        _replay(args.replay[0], int(args.replay[1]), args.seed)
        return 0
    report = run(args.inputs, args.minutes if args.inputs is None else None, args.seed)
    print(report)
    if args.write:
        sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
        from fmuc import figures as figure_files
        from fmuc import paths
        from tools import readme

        table, guide = report.markdown(), paths.ROOT / "docs" / "reliability.md"
        figure_files.write_file(paths.FIGURES / "fuzz.md", f"{table}\n".encode())
        filled = readme.filled(guide.read_text(encoding="utf-8"), {"fuzz": table})
        figure_files.write_file(guide, filled.encode())
    return int(bool(report.failures))


if __name__ == "__main__":
    sys.exit(main())
