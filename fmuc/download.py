"""Downloads of big files: a broken transfer goes on where it stopped, and nothing counts before its checksum agrees.

The transfer is done here, with ``requests``, because pooch (which librosa brings along) cannot resume: it starts a
transfer that broke again at the first byte, and the largest archive has 24 GB. No ``If-Range`` is sent: the published
size and checksum already tell whether the pieces belong together, while an entity tag that differs between two
machines of one service would throw away all that has arrived.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import requests
from tqdm import tqdm
from urllib3.exceptions import HTTPError

from fmuc import paths
from fmuc.errors import DISK_FULL, FmucError

_CHUNK = 1 << 20  # bytes
_BIG = 100_000_000  # bytes from which the check of a sum shows its progress
_HTTP_AGAIN = (408, 425, 429)  # as every 5xx: the same request may succeed later


@dataclass(frozen=True)
class Patience:
    """How often one address is asked again (``attempts`` in a row that bring nothing new), the first pause between two
    attempts, the longest (pauses double), and how long a silent server is waited for; all in seconds."""

    attempts: int = 6
    pause: float = 1.0
    longest_pause: float = 60.0
    timeout: float = 30.0


PATIENCE = Patience()


class _Refused(Exception):
    """This address will not give the file."""


class _Broken(Exception):
    """The attempt failed, another may succeed, not before ``pause`` seconds if the server has said so."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


def fetch(urls: Sequence[str], path: Path, *, size: int, md5: str | Sequence[str], progress: bool = True,
          patience: Patience = PATIENCE) -> int:
    """Download a file of ``size`` bytes, with ``md5`` or one of several accepted sums, to ``path``.

    Returns the number of bytes received: 0 if ``path`` is that file already. The addresses are tried in order; what
    arrives is collected in ``.<name>.part`` beside ``path`` (see :func:`part_of`), which survives an interrupt and
    is gone on with, from whichever address, now or by the next call. Only a file whose size and sum are right gets
    the name ``path``. Two calls for the same ``path`` at once are the caller's to prevent.
    Raises :class:`FmucError` if no address gives the file, the sum is wrong or the disk is full.
    """
    part = part_of(path)
    try:
        if path.is_file() and mismatch(path, size=size, md5=md5, progress=progress) is None:
            return 0
        path.parent.mkdir(parents=True, exist_ok=True)
        with (tqdm(total=size, initial=arrived(path, size), desc=path.name, unit="B", unit_scale=True,
                   disable=not progress) as bar, requests.Session() as session):
            transfer = _Transfer(path, size, session, bar, patience)
            transfer.run(urls)
        problem = mismatch(part, size=size, md5=md5, progress=progress)
        if problem is not None:
            part.unlink()
            raise FmucError(f"{paths.relative(path)}: {problem}; what arrived is removed: {_remedy(urls)}")
        os.replace(part, path)
    except OSError as error:
        raise disk_error(part, error) from None
    return transfer.received


def part_of(path: Path) -> Path:
    """Where a download to ``path`` is collected."""
    return path.with_name(f".{path.name}.part")


def arrived(path: Path, size: int) -> int:
    """Bytes of a file of ``size`` bytes that need no transfer any more, as far as sizes tell."""
    if path.is_file() and path.stat().st_size == size:
        return size
    part = part_of(path)
    return found if part.is_file() and (found := part.stat().st_size) <= size else 0


def mismatch(path: Path, *, size: int, md5: str | Sequence[str], progress: bool = True) -> str | None:
    """What is wrong with a file of which ``size`` bytes and (one of) ``md5`` are expected; None if nothing is."""
    found, sums = path.stat().st_size, (md5,) if isinstance(md5, str) else tuple(md5)
    if found != size:
        return f"has {found:,} bytes where {size:,} are expected"
    digest = hashlib.md5(usedforsecurity=False)
    with (open(path, "rb") as file, tqdm(total=size, desc=f"check {path.name.strip('.')}", unit="B", unit_scale=True,
                                         disable=not progress or size < _BIG, leave=False) as bar):
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            bar.update(len(chunk))
    return None if digest.hexdigest() in sums else f"has the md5 {digest.hexdigest()} instead of {' or '.join(sums)}"


class _Transfer:
    """The part of a file on disk and the requests that let it grow to ``size`` bytes."""

    def __init__(self, path: Path, size: int, session: requests.Session, bar: tqdm, patience: Patience) -> None:
        self.path, self.part, self.size = path, part_of(path), size
        self.session, self.bar, self.patience = session, bar, patience
        self.received = 0
        if self.offset > size:
            self._drop()

    @property
    def offset(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def run(self, urls: Sequence[str]) -> None:
        reasons = []
        for url in urls:
            try:
                return self._from(url)
            except _Refused as refused:
                reasons.append(f"{url}: {refused}")
        kept = f"; {self.offset:,} of {self.size:,} bytes have arrived and are kept" if self.offset else ""
        raise FmucError(f"{paths.relative(self.path)}: could not be downloaded ({'; '.join(reasons)}){kept}: "
                        f"{_remedy(urls)}")

    def _from(self, url: str) -> None:
        """Ask one address until the part is complete; attempts are counted anew whenever it grows beyond its longest
        (not whenever bytes arrive: a server that always starts anew and always breaks off would be asked for ever)."""
        failures, longest = 0, self.offset
        while self.offset != self.size:
            pause, reason = 0.0, "the connection broke off"
            try:
                self._attempt(url)
            except _Broken as broken:
                pause, reason = broken.pause, str(broken)
            if self.offset == self.size:
                return
            if self.offset > longest:
                failures, longest = 0, self.offset
            failures += 1
            if failures >= self.patience.attempts:
                raise _Refused(f"{reason} (attempt {failures} of {self.patience.attempts})")
            self.bar.set_postfix_str(f"{reason}; attempt {failures + 1}")
            time.sleep(min(max(pause, self.patience.pause * 2 ** (failures - 1)), self.patience.longest_pause))

    def _attempt(self, url: str) -> None:
        # identity: a transfer that compresses on the way would not count the bytes of the file
        headers, offset = {"Accept-Encoding": "identity"}, self.offset
        if offset:
            headers["Range"] = f"bytes={offset}-"
        try:
            with self.session.get(url, headers=headers, stream=True, timeout=self.patience.timeout) as response:
                self._receive(response, self._start(response, offset))
        except (requests.ConnectionError, requests.Timeout, HTTPError) as error:
            raise _Broken(f"the connection failed ({_cause(error)})") from None
        except requests.RequestException as error:  # no valid address, or redirections without end
            raise _Refused(type(error).__name__) from None

    def _start(self, response: requests.Response, offset: int) -> int:
        """The position in the file of the answer's first byte, 0 or ``offset``."""
        code = response.status_code
        first, total = _content_range(response)
        if code in _HTTP_AGAIN or code >= 500:
            raise _Broken(f"HTTP {code}", _seconds(response.headers.get("Retry-After", "")))
        if code not in (200, 206, 416) or (code != 200 and not offset):
            raise _Refused(f"HTTP {code}")
        if code == 200:
            first = 0  # the server does not know ranges and starts anew
        elif total is not None and total != self.size:
            raise _Refused(f"holds {total:,} bytes where {self.size:,} are expected")
        elif first != offset:  # also 416
            self._drop()
            raise _Broken(f"cannot go on from byte {offset:,}")
        length = response.headers.get("Content-Length", "")
        if total is None and length.isdecimal() and first + int(length) != self.size:
            raise _Refused(f"announces {int(length):,} bytes where {self.size - first:,} are expected")
        return first

    def _receive(self, response: requests.Response, position: int) -> None:
        self.bar.update(position - self.bar.n)
        with open(self.part, "ab" if position else "wb") as file:
            # read1, not iter_content: what has arrived before a break is not lost, and nothing is decoded
            while chunk := response.raw.read1(_CHUNK, decode_content=False):
                position += len(chunk)
                if position > self.size:
                    self._drop()
                    raise _Refused(f"sends more than the expected {self.size:,} bytes")
                file.write(chunk)
                self.received += len(chunk)
                self.bar.update(len(chunk))

    def _drop(self) -> None:
        self.part.unlink(missing_ok=True)


def _content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """First position and total size in bytes that an answer states, each None if it does not."""
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(?:(\d+)|\*)", response.headers.get("Content-Range", "").strip())
    return tuple(None if text is None else int(text) for text in match.groups()) if match else (None, None)


def _seconds(retry_after: str) -> float:
    """``Retry-After`` in seconds; its other form, a date, is left to our own pauses."""
    return float(retry_after) if retry_after.strip().isdecimal() else 0.0


def _cause(error: Exception) -> str:
    """The innermost error's name: the texts of HTTP libraries repeat the address and several layers."""
    while (inner := getattr(error, "reason", None) or next(iter(error.args), None)) and isinstance(inner, Exception):
        error = inner
    return type(error).__name__


def _remedy(urls: Sequence[str]) -> str:
    return (f"run the same command again; or download {urls[0]} in another way and pass the folder it lies in with "
            "--from FOLDER")


def disk_error(place: Path, error: OSError) -> FmucError:
    """An error of the operating system at ``place`` (or at the file that it names), as one line with the remedy."""
    if error.errno in DISK_FULL:
        return FmucError(f"{paths.relative(place)}: the disk is full: make room or move the data with FMUC_DATA, then "
                         "run the same command again; what has arrived is kept")
    return FmucError(f"{paths.relative(Path(str(error.filename or place)))}: cannot be read or written "
                     f"({error.strerror or error}): check the folder's permissions and the disk")
