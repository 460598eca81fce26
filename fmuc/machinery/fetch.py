"""The published data sets: their archives, a download that resumes, and unpacking that is whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import requests
from pydantic import TypeAdapter
from tqdm import tqdm
from urllib3.exceptions import HTTPError

from fmuc import paths
from fmuc.errors import FmucError
from fmuc.machinery.atomic import folder_lock


@dataclass(frozen=True)
class Archive:
    """One published file: its ``size`` in bytes and the MD5 sums that are accepted."""

    name: str
    urls: tuple[str, ...]
    size: int
    md5: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """Archives that unpack into ``folder``, which then holds ``index``, and at most ``unpacked_bytes``."""

    name: str
    folder: str
    index: str
    archives: tuple[Archive, ...]
    unpacked_bytes: int


@dataclass(frozen=True)
class Source:
    """A data set to download. If ``confirm``, its licence must be agreed to first."""

    name: str
    title: str
    licence: str
    licence_url: str
    terms: str
    confirm: bool
    citation: str
    parts: tuple[Part, ...]


SOURCES: dict[str, Source] = TypeAdapter(dict[str, Source]).validate_python(
    tomllib.loads(Path(__file__).with_name("archives.toml").read_text(encoding="utf-8")))


def licence_notice(source: Source) -> str:
    """What to show before a data set is downloaded: licence, terms in short, what to cite."""
    binding = "\nThis is a summary; the agreement itself is binding. Read it first." if source.confirm else ""
    return (f"{source.title}: {source.licence}\n{source.licence_url}\n{source.terms}{binding}\n"
            f"Please cite: {source.citation}")


# Download

TIMEOUT = 30  # seconds that a silent server is waited for
ATTEMPTS = 7  # in a row that bring nothing new
PAUSE = 1.0  # seconds before the second attempt; it doubles
_CHUNK = 1 << 20  # bytes
_BUSY = (408, 425, 429, 500, 502, 503, 504)  # answers of a server that may be asked again


class _Refused(Exception):
    """This address will not give the file."""


def download(archive: Archive, path: Path, *, progress: bool = True) -> None:
    """Download ``archive`` to ``path``, unless it is there.

    What arrives is collected in ``part_of(path)``; an interrupted download resumes there, from whichever address, in
    the same or a later call. Only a file of the right size and MD5 gets the name ``path``.
    """
    if path.is_file() and mismatch(path, archive) is None:
        return
    part, reasons = part_of(path), []
    remedy = f"run the same command again, or download {archive.urls[0]} yourself and add --from FOLDER"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(total=archive.size, desc=path.name, unit="B", unit_scale=True, disable=not progress) as bar:
        for url in archive.urls:
            try:
                _transfer(url, part, archive.size, bar)
                break
            except _Refused as refused:
                reasons.append(f"{url}: {refused}")
        else:
            raise FmucError(f"{paths.relative(path)}: cannot be downloaded ({'; '.join(reasons)}), "
                            f"{_size(part):,} of {archive.size:,} bytes are here: {remedy}")
    if problem := mismatch(part, archive):
        part.unlink()
        raise FmucError(f"{paths.relative(path)}: {problem}; it is removed: {remedy}")
    os.replace(part, path)


def part_of(path: Path) -> Path:
    """Where a download to ``path`` is collected."""
    return path.with_name(f".{path.name}.part")


def mismatch(path: Path, archive: Archive) -> str | None:
    """How a file differs from the published archive; None if it does not."""
    if _size(path) != archive.size:
        return f"has {_size(path):,} bytes instead of {archive.size:,}"
    with open(path, "rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    return None if md5 in archive.md5 else f"has the MD5 {md5} instead of {' or '.join(archive.md5)}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _transfer(url: str, part: Path, size: int, bar: tqdm) -> None:
    """Let ``part`` grow to ``size`` bytes. Raise :class:`_Refused` when it grows no more."""
    failures, longest = 0, _size(part)
    while _size(part) != size:
        reason = "the connection broke off"
        try:
            _receive(url, part, size, bar)
        except (requests.RequestException, HTTPError) as error:
            reason = str(error) if isinstance(error, requests.HTTPError) else type(error).__name__
        failures, longest = (0, _size(part)) if _size(part) > longest else (failures + 1, longest)
        if failures == ATTEMPTS:
            raise _Refused(f"{reason}, {ATTEMPTS} times")
        if failures:
            time.sleep(PAUSE * 2 ** (failures - 1))


def _receive(url: str, part: Path, size: int, bar: tqdm) -> None:
    """Make one request for what is missing, and write what arrives."""
    offset = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        status, place = response.status_code, response.headers.get("Content-Range", "")
        if status in _BUSY:
            raise requests.HTTPError(f"HTTP {status}")
        if status == 416 or offset > size or (status == 206 and not place.startswith(f"bytes {offset}-")):
            return part.unlink()  # start again
        if status not in (200, 206):
            raise _Refused(f"HTTP {status}")
        if status == 200:
            offset = 0  # the server starts again
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and offset + int(length) != size:
            raise _Refused(f"announces {offset + int(length):,} bytes instead of {size:,}")
        bar.update(offset - bar.n)
        with open(part, "ab" if offset else "wb") as file:
            # read1: what arrived before a break is kept, and nothing is decompressed
            while chunk := response.raw.read1(_CHUNK, decode_content=False):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > size:
                    raise _Refused(f"sends more than {size:,} bytes")


# Unpacking


def obtain(source: Source, root: Path, *, parts: Sequence[str] | None = None, archives_from: Path | None = None,
           progress: bool = True) -> tuple[str, ...]:
    """Get the ``parts`` (default: all) of a data set into ``root``; return those that were not there yet.

    Archives are downloaded into ``root/.archives`` and removed once all parts are in place; or they are read from the
    folder ``archives_from`` and left there. A part's folder appears whole or not at all, once all its archives had the
    right MD5. The caller asks for consent to the licence. Raises :class:`FmucError` for an unknown part, too little
    free disk, and archives that cannot be had or are not the published ones.
    """
    names = [part.name for part in source.parts]
    if unknown := set(parts or ()) - set(names):
        raise FmucError(f"{source.name}: unknown part {', '.join(sorted(unknown))}: known are {', '.join(names)}")
    wanted = [part for part in source.parts if not parts or part.name in parts]
    folder = root / ".archives" if archives_from is None else archives_from.expanduser()
    try:
        with folder_lock(root):
            absent = [part for part in wanted if not _is_present(root, part)]
            if archives_from is None:
                _require_space(root, folder, absent)
            else:
                _require_archives(folder, absent)
            for part in absent:
                for archive in part.archives:
                    if archives_from is None:
                        download(archive, folder / archive.name, progress=progress)
                    elif problem := mismatch(folder / archive.name, archive):
                        raise FmucError(f"{folder / archive.name}: {problem}: download it again from "
                                        f"{archive.urls[0]}, or leave out --from")
                _unpack(part, folder, root, progress)
            shutil.rmtree(root / ".archives", ignore_errors=True)
    except OSError as error:
        raise FmucError(f"{paths.relative(Path(error.filename or root))}: cannot be read or written "
                        f"({error.strerror or error}): make room, see to its access rights, or let FMUC_DATA name "
                        "another folder; then run the same command again") from None
    return tuple(part.name for part in absent)


def _is_present(root: Path, part: Part) -> bool:
    folder = root / part.folder
    if folder.exists() and not (folder / part.index).is_file():
        raise FmucError(f"{paths.relative(folder)}: has no {part.index}: move it away, then run the command again")
    return folder.exists()


def _require_archives(folder: Path, parts: Sequence[Part]) -> None:
    if not folder.is_dir():
        raise FmucError(f"{folder}: there is no such folder: name another one, or leave out --from to download")
    names = [archive.name for part in parts for archive in part.archives]
    if lacking := [name for name in names if not (folder / name).is_file()]:
        raise FmucError(f"{folder}: has no {', '.join(lacking)}: put them there, or leave out --from to download")


def _require_space(root: Path, folder: Path, parts: Sequence[Part]) -> None:
    needed = sum(part.unpacked_bytes for part in parts)
    for archive in (archive for part in parts for archive in part.archives):
        path = folder / archive.name
        needed += archive.size - max(_size(path), _size(part_of(path)))
    root.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(root).free) < needed:
        raise FmucError(f"{paths.relative(root)}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free: "
                        "free some, let FMUC_DATA name another folder, or take fewer parts")


def _unpack(part: Part, folder: Path, root: Path, progress: bool) -> None:
    """Unpack all archives of a part beside its place, then move it there; nothing is written elsewhere."""
    staging = root / ".unpacking"
    shutil.rmtree(staging, ignore_errors=True)  # of a killed process
    try:
        for archive in part.archives:
            if progress:
                print(f"unpacking {archive.name}", file=sys.stderr)
            _unpack_archive(folder / archive.name, staging)
        if not (staging / part.folder / part.index).is_file():
            raise FmucError(f"{archive.name}: brought no {part.folder}/{part.index}: it is not the published archive")
        os.replace(staging / part.folder, root / part.folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _unpack_archive(archive: Path, folder: Path) -> None:
    safely = {} if archive.suffix == ".zip" else {"filter": "data"}  # zips are always unpacked so
    try:
        shutil.unpack_archive(archive, folder, **safely)
    except Exception as error:  # damaged archives raise errors of many kinds
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # of the disk
        raise FmucError(f"{paths.relative(archive)}: cannot be unpacked ({error}): it is not the published archive; "
                        "delete it and download it again") from None
