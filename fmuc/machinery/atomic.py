"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from fmuc.errors import FmucError
from fmuc.paths import relative


def folder_lock(out: Path) -> FileLock:
    """The lock of whoever makes the folder ``out``, a hidden file beside it: one process at a time."""
    out.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(out.with_name(f".{out.name}.lock"))


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside ``out`` to fill; it takes the place of ``out`` at the end, or is removed on any error.

    Hold :func:`folder_lock` meanwhile: what a killed process left behind is cleared away by the next one.
    """
    partial, replaced = (out.with_name(f".{out.name}.{kind}") for kind in ("partial", "replaced"))
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        if out.exists():
            os.replace(out, replaced)
        os.replace(partial, out)
        shutil.rmtree(replaced, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock file ``path``."""
    try:
        with FileLock(path, blocking=False):
            return False
    except Timeout:
        return True


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(OSError):  # the error that led here says more
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: object) -> None:
    """Write ``content`` as indented JSON, with the same bytes on every system."""
    write_bytes(path, f"{json.dumps(content, indent=1)}\n".encode())


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Errors of the system while ``folder`` is written (full, read-only, gone, ...) as :class:`FmucError`."""
    try:
        yield
    except OSError as error:
        raise FmucError(f"{relative(folder)}: cannot be written ({error.strerror or error}): make room, make it "
                        "writable or let FMUC_DATA name another folder; the same command then goes on from there"
                        ) from None
