"""Rendered data sets on disk: a folder that appears whole or not at all, with a record of what it was made from."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from fmuc.errors import FmucError

RECORD = "render.json"


def stored_report(out: Path, parameters: dict, force: bool) -> dict | None:
    """The report in ``out`` if it was rendered with these ``parameters``; None if it is to be rendered.

    Raises :class:`FmucError` for a folder that is no rendered data set, and, without ``force``, for one that was
    rendered with other parameters.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        stored = json.loads((out / RECORD).read_text(encoding="utf-8"))["report"]
        same = stored["parameters"] == parameters
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FmucError(f"{out}: exists and is no rendered data set: choose another folder or remove it") from error
    if same:
        return stored
    if not force:
        raise FmucError(f"{out}: was rendered with other parameters (see its {RECORD}): use --force or remove it")
    return None


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside ``out`` to fill; it takes the place of ``out`` at the end, or is removed on any error."""
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        replaced = partial.with_name(f"{partial.name}.replaced")
        if out.exists():
            os.replace(out, replaced)
        os.replace(partial, out)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_record(folder: Path, statement: str, report: dict) -> None:
    """What the data set is and what it was made from, beside its parts."""
    write_json(folder / RECORD, {"statement": statement, "report": report})


def write_json(path: Path, content: dict) -> None:
    """``content`` as indented JSON, with the same bytes on every system."""
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8", newline="\n")


def in_order(function: Callable[..., Any], items: Sequence, constant: object, workers: int | None) -> Iterator:
    """``function(item, constant)`` of each item, in order, from this process (``workers=1``) or from a pool."""
    workers = workers or os.cpu_count() or 1
    if workers == 1:
        yield from (function(item, constant) for item in items)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _ignore_interrupt) as pool:
        try:
            yield from pool.map(function, items, [constant] * len(items), chunksize=4)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _ignore_interrupt() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops the pool: no traceback from every worker
