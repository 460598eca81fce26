"""Processes of :mod:`fmuc.run_process` on this machine: each carries out one job at a time, and is kept for the next.

A worker's next job with the same code and variables finds the imports done, which take longer than some runs of mini.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock, Thread, Timer

from fmuc import paths

IMPORTS = ("fmuc.train", "torch._dynamo")  # for training; the last one is what Adam asks for
END = "\x04"  # the line that ends the errors of a job whose process takes further ones
UNFIT = 3  # exit status of a process whose code is not that of whoever sent the job
_POLL = 0.2  # seconds between two looks at whether a process is still wanted
_GRACE = 10.0  # seconds to end in, once it is not
_IDLE = 60.0  # seconds without a job after which it is ended

_spare: list[_Process] = []
_lock = Lock()


def forks(device: str) -> bool:
    """Whether the jobs of a worker that compute on ``device`` share their imports."""
    return sys.platform == "linux" and device == "cpu"


def follow(content: dict, variables: dict[str, str], unwanted: Callable[[], str],
           tell: Callable[[dict], None]) -> tuple[int, str, str]:
    """Have the job ``content`` carried out in a process with these ``variables`` until it ends or is ``unwanted``;
    ``tell`` gets what it reports (``step`` and ``text``) and its warnings (``warning``).

    Returns its exit status, the last line of its errors and why it was unwanted, if it was.
    """
    process = _take(content["code"], variables)
    try:
        return process.carry_out(content, unwanted, tell)
    finally:
        if process.reusable:
            _keep(process)
        else:
            process.end()


def _take(code: str, variables: dict[str, str]) -> _Process:
    with _lock:
        for process in _spare:
            if (process.code, process.variables) == (code, variables):
                _spare.remove(process)
                process.idle.cancel()
                return process
    return _Process(code, variables)


def _keep(process: _Process) -> None:
    process.idle = Timer(_IDLE, _retire, [process])
    process.idle.daemon = True  # at the end of this process all others end, too
    with _lock:
        _spare.append(process)
        process.idle.start()


def _retire(process: _Process) -> None:
    """End a process that has had no further job."""
    with _lock:
        if process not in _spare:  # it has just got one
            return
        _spare.remove(process)
    process.end()


class _Process:
    """A process for jobs of one ``code``; ``reusable`` unless its last job has left that in doubt."""

    idle: Timer  # that ends it while it is spare

    def __init__(self, code: str, variables: dict[str, str]) -> None:
        self.code, self.variables, self.reusable = code, variables, False
        self._process = subprocess.Popen([sys.executable, "-m", "fmuc.run_process"], cwd=paths.ROOT, env=variables,
                                         text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=subprocess.PIPE,
                                         start_new_session=True)  # Ctrl-C is for us, and we end its children with it

    def carry_out(self, content: dict, unwanted: Callable[[], str],
                  tell: Callable[[dict], None]) -> tuple[int, str, str]:
        """See :func:`follow`."""
        self.reusable = False
        ended, statuses, errors, why = Event(), [], deque(maxlen=1), ""
        readers = [Thread(target=self._reports, args=(tell, statuses, ended), daemon=True),
                   Thread(target=self._errors, args=(tell, errors), daemon=True)]
        for reader in readers:
            reader.start()
        try:
            with suppress(BrokenPipeError):  # it has ended: its status tells more
                self._process.stdin.write(json.dumps(content) + "\n")
                self._process.stdin.flush()  # and stays open: at its end the process ends, too
            while not ended.wait(_POLL) and self._process.poll() is None and not (why := unwanted()):
                pass
        finally:
            if not ended.is_set():
                self.end()
        for reader in readers:
            reader.join(_GRACE)
        if not statuses:
            return self._process.returncode, "".join(errors), why
        self.reusable = statuses != [UNFIT] and not any(reader.is_alive() for reader in readers)
        return statuses[0], "".join(errors), ""

    def _reports(self, tell: Callable[[dict], None], statuses: list[int], ended: Event) -> None:
        for line in self._process.stdout:
            with suppress(ValueError):  # the half line of a process that was killed
                said = json.loads(line)
                if "status" in said:
                    statuses.append(said["status"])
                    ended.set()
                    return
                tell(said)

    def _errors(self, tell: Callable[[dict], None], last: deque) -> None:
        for line in filter(None, map(str.strip, self._process.stderr)):
            if line == END:
                return
            last.append(line)
            if line.startswith("fmuc: "):  # a warning of ours
                tell({"warning": line.removeprefix("fmuc: ")})

    def end(self) -> None:
        """End the process with its children, if it is still there."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, PermissionError):  # the group of an ended process is gone
                if self._process.poll() is None:
                    os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE)
                break
        with suppress(BrokenPipeError):
            self._process.stdin.close()
