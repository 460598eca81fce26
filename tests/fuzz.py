"""Fuzzing of every reader: damaged files in; either a clear error or a right result out.

``python tests/fuzz.py --minutes 3 --write`` reads with every reader in turn for so long and writes the table into
``figures/fuzz.md``. Time and memory are limited and unpickling is forbidden. Inputs follow from the seed. The last line
names a reader that kills the process.
"""

from __future__ import annotations

import argparse
import faulthandler
import pickle
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mutations import damaged

from fmuc.errors import FmucError

SECONDS = 10  # of computing that one file may take
MEMORY = 2**30  # bytes beyond what the worker needs before its first file
LONGEST = 1000  # characters of a clear line
REFUSED, RIGHT, FAULT = "clear error", "right result", "fault"


@dataclass
class Target:
    """A reader of ``files`` in ``place``: ``read`` returns what ``right`` must accept or raises ``FmucError``.

    ``mutate`` damages one file; ``after`` runs once a damaged file was written; ``names_file``: the error must name the
    file, its folder or the data set.
    """

    name: str
    place: Path
    files: tuple[str, ...]
    read: Callable[[], object]
    right: Callable[[object], bool]
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
            return (RIGHT, "") if self.right(result) else (FAULT, f"{name}: wrong result {result!r}"[:300])
        except FmucError as error:
            line = str(error)
            return (REFUSED, "") if self._clear(line, name) else (FAULT, f"{name}: unclear error {line[:300]!r}")
        except Exception:
            return FAULT, f"{name}: {traceback.format_exc()}"

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


def _forbid_pickle() -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("something is unpickled")

    pickle.load = pickle.loads = pickle.Unpickler = refuse


def _limit(what: int, soft: int) -> None:
    resource.setrlimit(what, (soft, resource.getrlimit(what)[1]))


def run(targets: list[Target], inputs: int, seed: int, minutes: float) -> tuple[dict[str, Counter], list[str]]:
    """Read damaged files, the targets in turn: outcomes of each reader, and what happened at each fault."""
    outcomes, faults = defaultdict(Counter), []
    for target in targets:  # libraries are loaded and kernels compiled before the memory is limited
        assert target.right(target.read()), f"{target.name} does not read its own valid files"
    _forbid_pickle()
    statm = Path("/proc/self/statm")
    if statm.exists():
        _limit(resource.RLIMIT_AS, int(statm.read_text().split()[0]) * resource.getpagesize() + MEMORY)
    end = time.monotonic() + 60 * minutes
    for number in range(inputs):
        if time.monotonic() > end:
            break
        target = targets[number % len(targets)]
        print(f"{target.name}, number {number}", file=sys.stderr)
        outcome, what = attempt(target, number, seed)
        outcomes[target.name][outcome] += 1
        if outcome == FAULT:
            faults.append(f"{target.name}, number {number}: {what}")
    return outcomes, faults


def table(outcomes: dict[str, Counter]) -> str:
    """Outcomes of each reader and of all, in Markdown."""
    columns = (REFUSED, RIGHT, FAULT)
    lines = [f"| reader | {' | '.join(columns)} |", "| --- | ---: | ---: | ---: |"]
    for reader, found in [*outcomes.items(), ("all", sum(outcomes.values(), Counter()))]:
        lines.append(f"| {reader} | {' | '.join(f'{found[column]:,}' for column in columns)} |")
    return "\n".join(lines)


def main() -> int:
    import fuzz_targets

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=10**9, help="for all readers together")
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="the table into figures/fuzz.md")
    options = parser.parse_args()
    faulthandler.enable()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        targets = fuzz_targets.build(Path(folder))
        outcomes, faults = run(targets, options.inputs, options.seed, options.minutes)
    print(table(outcomes), *faults, sep="\n")
    if options.write:
        path = Path(__file__).resolve().parent.parent / "figures" / "fuzz.md"
        path.write_text(f"{table(outcomes)}\n", encoding="utf-8")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
