"""The published data sets: their archives, a download that resumes, and unpacking that is whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
import tarfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import requests
import soundfile
from pydantic import TypeAdapter
from tqdm import tqdm
from urllib3.exceptions import HTTPError

from fmuc import paths
from fmuc.errors import FmucError
from fmuc.machinery.atomic import explained, folder_lock
from fmuc.machinery.sound import wav


@dataclass(frozen=True)
class Archive:
    """One published file: its ``size`` in bytes, the MD5 sums that are accepted, and other names that it may have.

    Without MD5 sums its bytes are not known beforehand, and ``size`` is an upper bound.
    """

    name: str
    url: str
    size: int
    md5: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """Archives that unpack into ``folder``, which then holds ``index``, and at most ``unpacked_bytes``.

    ``sha256`` names a list beside this module of the files to take and their sums: where the archive has none.
    """

    name: str
    folder: str
    index: str
    archives: tuple[Archive, ...]
    unpacked_bytes: int
    sha256: str = ""


@dataclass(frozen=True)
class Source:
    """A data set to download. ``notice``: its licence, terms in short, and what to cite. If ``confirm``, the licence
    must be agreed to first."""

    name: str
    confirm: bool
    notice: str
    parts: tuple[Part, ...]


SOURCES: dict[str, Source] = TypeAdapter(dict[str, Source]).validate_python(
    tomllib.loads(Path(__file__).with_name("archives.toml").read_text(encoding="utf-8")))

# Download

TIMEOUT = (10, 30)  # seconds to connect, and seconds that a silent server is waited for
ATTEMPTS = 7  # in a row that bring nothing new
PAUSE = 1.0  # seconds before the second attempt; it doubles
_CHUNK = 1 << 20  # bytes
_BUSY = (408, 425, 429)  # answers of a server that may be asked again, like all from 500 on


def download(archive: Archive, path: Path, *, command: str = "the same command", attempts: int = ATTEMPTS,
             progress: bool = True) -> Path:
    """Download ``archive`` to ``path``, unless it is there; return ``path``.

    What arrives is collected in ``part_of(path)``; an interrupted download resumes there, in the same or a later call.
    Only a file of the right size and MD5 gets the name ``path``.
    """
    if archive.md5 and path.is_file() and mismatch(path, archive) is None:
        return path
    part, remedy = part_of(path), f"run {command} again, or with --from FOLDER for a file that you downloaded yourself"
    total = archive.size if archive.md5 else None
    with tqdm(total=total, desc=path.name, unit="B", unit_scale=True, delay=1, disable=not progress) as bar:
        if refusal := _transfer(archive, part, attempts, bar):
            raise FmucError(f"{paths.relative(path)}: cannot be downloaded from {archive.url} ({refusal}), "
                            f"{_size(part):,} bytes are here: {remedy}")
    if problem := mismatch(part, archive):
        part.unlink()
        raise FmucError(f"{paths.relative(path)}: {problem}; it is removed: {remedy}")
    return part.replace(path)


def part_of(path: Path) -> Path:
    """Where a download to ``path`` is collected."""
    return path.with_name(f".{path.name}.part")


def mismatch(path: Path, archive: Archive) -> str | None:
    """How a file differs from the published archive; None if it does not, or if nobody knows."""
    if not archive.md5:
        return None
    if _size(path) != archive.size:
        return f"has {_size(path):,} bytes instead of {archive.size:,}"
    with open(path, "rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    return None if md5 in archive.md5 else f"has the MD5 {md5} instead of {' or '.join(archive.md5)}"


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _transfer(archive: Archive, part: Path, attempts: int, bar: tqdm) -> str | None:
    """Let ``part`` grow until it is whole; return why it grows no more if it is not."""
    failures, longest = 0, _size(part)
    while not archive.md5 or _size(part) != archive.size:
        reason = "the connection broke off"
        try:
            refusal = _receive(archive, part, bar)
            if refusal or not archive.md5:  # without a size, the server says where the end is
                return refusal
        except (requests.RequestException, HTTPError) as error:
            reason = str(error) if isinstance(error, requests.HTTPError) else type(error).__name__
        failures, longest = (0, _size(part)) if _size(part) > longest else (failures + 1, longest)
        if failures == attempts:
            return f"{reason}, {attempts} times"
        if failures:
            time.sleep(PAUSE * 2 ** (failures - 1))
    return None


def _receive(archive: Archive, part: Path, bar: tqdm) -> str | None:
    """Make one request for what is missing, and write what arrives; return why the server refuses, if it does."""
    offset, size = _size(part), archive.size
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={offset}-"} if offset else {})
    with requests.get(archive.url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        status, place = response.status_code, response.headers.get("Content-Range", "")
        if status >= 500 or status in _BUSY:
            raise requests.HTTPError(f"HTTP {status}")
        if status == 416 or offset > size or (status == 206 and not place.startswith(f"bytes {offset}-")):
            part.unlink()
            raise requests.HTTPError("it does not resume there")
        if status not in (200, 206):
            return f"HTTP {status}"
        offset = offset if status == 206 else 0  # else the server starts again
        length = response.headers.get("Content-Length", "")
        if archive.md5 and length.isdecimal() and offset + int(length) != size:
            return f"announces {offset + int(length):,} bytes instead of {size:,}"
        bar.update(offset - bar.n)
        part.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "ab" if offset else "wb") as file:
            # read1: what arrived before a break is kept, and nothing is decompressed
            while chunk := response.raw.read1(_CHUNK, decode_content=False):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > size:
                    return f"sends more than {size:,} bytes"
    return None


# Unpacking


def obtain(source: Source, root: Path, *, parts: Sequence[str] | None = None, archives_from: Path | None = None,
           attempts: int = ATTEMPTS, progress: bool = True) -> tuple[str, ...]:
    """Get the ``parts`` (default: all) of a data set into ``root``; return those that were not there yet.

    Archives are downloaded into ``root/.archives`` and removed once all parts are in place; or they are read from the
    folder ``archives_from`` and left there. A part's folder appears whole or not at all, once all its archives had the
    right MD5 or all its files the right SHA-256. The caller asks for consent to the licence. Raises
    :class:`FmucError` for an unknown part, too little free disk, and archives that cannot be had or are not the
    published ones.
    """
    names = [part.name for part in source.parts]
    if unknown := set(parts or ()) - set(names):
        raise FmucError(f"{source.name}: unknown part {', '.join(sorted(unknown))}: known are {', '.join(names)}")
    folder, command = root / ".archives", f"'python -m fmuc data {source.name}'"
    with explained(root), folder_lock(root):
        absent = [part for part in source.parts if part.name in (parts or names) and not _is_present(root, part)]
        given = {part: _given(archives_from.expanduser(), part) for part in absent if archives_from}
        if not archives_from:
            _require_space(root, folder, absent)
        for part in absent:
            archives = given.get(part) or [
                download(archive, folder / archive.name, command=command, attempts=attempts, progress=progress)
                for archive in part.archives]
            _unpack(part, archives, root, progress)
        shutil.rmtree(folder, ignore_errors=True)
    return tuple(part.name for part in absent)


def is_there(name: str) -> bool:
    """Whether all parts of a published data set are in its folder."""
    root = paths.dataset_dir(name)
    return all(_is_present(root, part) for part in SOURCES[root.name].parts)


def _is_present(root: Path, part: Part) -> bool:
    folder = root / part.folder
    if folder.exists() and not (folder / part.index).is_file():
        raise FmucError(f"{paths.relative(folder)}: has no {part.index}: move it away, then run the command again")
    return folder.exists()


def _given(folder: Path, part: Part) -> list[Path]:
    """A part's archives in a folder of the user's; or its unpacked folder, where its files have sums."""
    if not folder.is_dir():
        raise FmucError(f"{folder}: there is no such folder: name another one, or leave out --from to download")
    if part.sha256 and (folder / part.folder).is_dir():
        return [folder / part.folder]
    found = []
    for archive in part.archives:
        path = next((folder / name for name in (archive.name, *archive.also) if (folder / name).is_file()), None)
        if path is None:
            raise FmucError(f"{folder}: has no {archive.name}: put it there, or leave out --from to download")
        if problem := mismatch(path, archive):
            raise FmucError(f"{path}: {problem}: download it again from {archive.url}, or leave out --from")
        found.append(path)
    return found


def _require_space(root: Path, folder: Path, parts: Sequence[Part]) -> None:
    needed = sum(part.unpacked_bytes for part in parts)
    for archive in (archive for part in parts for archive in part.archives):
        path = folder / archive.name
        needed += archive.size - max(_size(path), _size(part_of(path)))
    if (free := shutil.disk_usage(root if root.exists() else root.parent).free) < needed:
        raise FmucError(f"{paths.relative(root)}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free: "
                        "free some, let FMUC_DATA name another folder, or take fewer parts")


def _unpack(part: Part, archives: Sequence[Path], root: Path, progress: bool) -> None:
    """Unpack all archives of a part beside its place, then move it there; nothing is written elsewhere."""
    staging = root / ".unpacking"
    shutil.rmtree(staging, ignore_errors=True)  # of a killed process
    try:
        for archive in archives:
            if progress:
                print(f"unpacking {archive.name}", file=sys.stderr)
            _unpack_archive(archive, staging)
        places = [place / part.folder for place in (staging, *staging.glob("*"))]  # GitHub packs a folder around all
        found = next((place for place in places if (place / part.index).is_file()), None)
        if found is None:
            raise FmucError(f"{archive.name}: brought no {part.folder}/{part.index}: it is not the published archive")
        os.replace(_verified(found, part) if part.sha256 else found, root / part.folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _unpack_archive(archive: Path, folder: Path) -> None:
    if archive.is_dir():
        shutil.copytree(archive, folder / archive.name)
        return
    try:
        if archive.suffix == ".zip":
            shutil.unpack_archive(archive, folder)  # leaves out what would lie elsewhere
            return
        with tarfile.open(archive) as tar:
            tar.extraction_filter = lambda member, _: member  # the rule below holds before Python 3.11.4, too
            for member in tar:
                name = Path(member.name)
                if not (member.isreg() or member.isdir()) or name.is_absolute() or ".." in name.parts:
                    raise ValueError(f"{member.name!r} is no file or folder in it")
                tar.extract(member, folder, set_attrs=False)
    except Exception as error:  # damaged archives raise errors of many kinds
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # of the disk
        raise FmucError(f"{paths.relative(archive)}: cannot be unpacked ({error}): it is not the published archive; "
                        "delete it and download it again") from None


def _verified(folder: Path, part: Part) -> Path:
    """A copy of an unpacked ``folder`` that holds the sounds of its list of sums, and nothing else."""
    copy, wrong = folder.with_name("verified"), []
    copy.mkdir()
    lines = (Path(__file__).parent / part.sha256).read_text(encoding="utf-8").splitlines()
    for expected, name in map(str.split, lines):
        content = _plain_wav(folder.parent / name)
        if hashlib.sha256(content).hexdigest() != expected:
            wrong.append(name)
        (copy / Path(name).name).write_bytes(content)
    if wrong:
        raise FmucError(f"{len(wrong):,} of {len(lines):,} files are missing or not the published ones, the first is "
                        f"{wrong[0]}: download {part.archives[0].url} again")
    return copy


def _plain_wav(path: Path) -> bytes:
    """The 16-bit samples of a file behind the shortest header, in which copies may differ; b"" if it is no sound."""
    try:
        return wav(*soundfile.read(path, dtype="int16"))
    except soundfile.LibsndfileError:
        return b""
