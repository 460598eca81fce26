"""Where the real data sets come from: archives with their sizes, sums and licences, as data."""

from __future__ import annotations

import gzip
import errno
import hashlib
import os
import re
import shutil
import stat
import struct
import tarfile
import time
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import requests
from filelock import FileLock
from tqdm import tqdm
from urllib3.exceptions import HTTPError

from fmuc import paths
from fmuc.datasets import DEVELOPMENT, EVALUATION
from fmuc.errors import FmucError


@dataclass(frozen=True)
class Archive:
    """One published file: its ``size`` in bytes and the MD5 sums that are accepted."""

    name: str
    urls: tuple[str, ...]
    size: int
    md5: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """Archives that together unpack into ``folder``, which holds ``index`` when it is whole.

    ``sound_files`` is the published count; ``unpacked_bytes`` an upper bound, for the disk and against zip bombs.
    """

    name: str
    folder: str
    index: str
    archives: tuple[Archive, ...]
    sound_files: int
    unpacked_bytes: int

    @property
    def archive_bytes(self) -> int:
        return sum(archive.size for archive in self.archives)

    @property
    def max_members(self) -> int:
        return 2 * self.sound_files + 1000  # macOS adds an entry to each file


@dataclass(frozen=True)
class Source:
    """A data set that can be fetched. If ``confirm``, its licence must be agreed to before it is."""

    name: str
    title: str
    licence: str
    licence_url: str
    terms: str
    confirm: bool
    citation: str
    parts: tuple[Part, ...]


def _bound(files: int, file_bytes: int) -> int:
    return int(files * file_bytes * 1.02) + 64_000_000  # index (600 bytes a note), lists, documentation


def _nsynth(split: str, notes: int, size: int, md5: str) -> Part:
    name = f"nsynth-{split}.jsonwav.tar.gz"
    host = "download.magenta.tensorflow.org/datasets/nsynth"
    urls = (f"https://storage.googleapis.com/{host}/{name}", f"http://{host}/{name}")
    return Part(split, f"nsynth-{split}", "examples.json", (Archive(name, urls, size, (md5,)),), notes,
                _bound(notes, 128_044))


def _tut(name: str, folder: str, index: str, record: int, clips: int, files: dict[str, tuple]) -> Part:
    def archive(suffix: str, size: int, *md5: str) -> Archive:
        file = f"{folder}.{suffix}.zip"
        return Archive(file, (f"https://zenodo.org/records/{record}/files/{file}",), size, md5)

    return Part(name, folder, index, tuple(archive(suffix, *row) for suffix, row in files.items()), clips,
                _bound(clips, 2_646_044))


NSYNTH = Source(
    name="nsynth",
    title="NSynth",
    licence="Creative Commons Attribution 4.0 International (CC BY 4.0)",
    licence_url="https://creativecommons.org/licenses/by/4.0/",
    terms="You may use, change and pass on the sounds, also commercially, if you name the authors and the licence.",
    confirm=False,
    citation="J. Engel, C. Resnick, A. Roberts, S. Dieleman, M. Norouzi, D. Eck, K. Simonyan: Neural Audio Synthesis "
             "of Musical Notes with WaveNet Autoencoders. ICML 2017.",
    parts=(
        _nsynth("train", 289_205, 23_815_298_079, "fde6665a93865503ba598b9fac388660"),
        _nsynth("valid", 12_678, 1_068_767_009, "87e94a00a19b6dbc99cf6d4c0c0cae87"),
        _nsynth("test", 4_096, 349_501_546, "5e6f8719bf7e16ad0a00d518b78af77d"),
    ),
)
TUT2017 = Source(
    name="tut2017",
    title="TUT Acoustic Scenes 2017",
    licence="end-user licence agreement (EULA) of Tampere University of Technology",
    licence_url="https://zenodo.org/records/400515",
    terms="Only non-commercial use is allowed; whatever you publish with it must cite the data set; the recordings "
          "must not be passed on to others, in whole or in part.",
    confirm=True,
    citation="A. Mesaros, T. Heittola, T. Virtanen: TUT Database for Acoustic Scene Classification and Sound Event "
             "Detection. EUSIPCO 2016.",
    parts=(
        _tut("development", DEVELOPMENT, "meta.txt", 400515, 4_680, {
            "doc": (54_796, "2065495aaf3f1103e795c9899e2af1df"),
            "meta": (104_321, "9007fd4772d816590c5db5f5e9568f5d"),
            "error": (1_432, "802c700b021769e52a2c1e3b9c117a1b"),
            "audio.1": (1_071_445_248, "251325a9afaaad0326ad1c57f57d514a"),
            "audio.2": (1_073_453_613, "c26861e05147dc319b4250eb103d9d99"),
            "audio.3": (1_073_077_819, "a4815775f8a5e629179726ee4cd4f55a"),
            "audio.4": (1_072_822_038, "1732b03afe8c53ef8bba80ba14766e57"),
            "audio.5": (1_072_644_652, "611be754a0c951185c6ae4b7643c19a0"),
            "audio.6": (1_072_667_888, "165a201db800d3ea76fce5a9c2bd97d7"),
            "audio.7": (1_073_417_661, "c7d79db84264401c0f8680dcc36013ad"),
            "audio.8": (1_072_381_222, "35043f25123439392338c790494c7a19"),
            "audio.9": (1_072_087_738, "0805dcf5d8e6871dc9610182b2efb93a"),
            "audio.10": (1_046_262_120, "5df83a191295a04e290b125c634e13e7"),
        }),
        # Two sums: public libraries list another one for three of these files, with the same number of bytes.
        _tut("evaluation", EVALUATION, "evaluation_setup/evaluate.txt", 1040168, 1_620, {
            "doc": (53_687, "53709a07416ea3b617c02fcf67dbeb9c", "47bbdc0614b468d2bfadbc49e561a320"),
            "meta": (4_473, "200eee9493e8044403e1326e3d05cfde", "e006cfec14a49dd79a6ab8f8d5b1c5e6"),
            "audio.1": (1_071_856_687, "3d6dda4445871e9544e0fefe7d14c7d9", "5d97dea8461baec8027ae4a0c2b18d4b"),
            "audio.2": (1_073_362_972, "4085ef5fa286f2169074993a4e405953"),
            "audio.3": (1_071_521_152, "cac432579e7cf2dff0aec7aaed248956"),
            "audio.4": (382_756_463, "664bf09c3d24bd26c6b587f1d709de36"),
        }),
    ),
)
SOURCES: dict[str, Source] = {source.name: source for source in (NSYNTH, TUT2017)}


def licence_notice(source: Source) -> str:
    """What to show before a data set is fetched: licence, terms in short, what to cite (a few lines)."""
    binding = "\nThis is a summary; the agreement itself is binding. Read it first." if source.confirm else ""
    return (f"{source.title}: {source.licence}\n{source.licence_url}\n{source.terms}{binding}\n"
            f"Please cite: {source.citation}")


DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
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


_ARCHIVE_CHUNK = 1 << 20  # bytes
_BLOCK = 1 << 16  # bytes that a tar stream is read by
_HEADER = 16 << 20  # bytes that the headers of one tar member may take, and the padding at the end
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError,
            struct.error, ValueError, OverflowError)  # what the readers raise for broken bytes


class _ArchiveRefused(Exception):
    """The archive holds what no published archive holds."""


def unpack(archives: Iterable[Path], folder: Path, *, max_bytes: int, max_members: int, progress: bool = True) -> int:
    """Unpack archives, one after the other, into one existing folder; the bytes written.

    Members may only be folders and plain files with relative names; they get the permissions of new files. Refused are
    names that lead outside of ``folder`` or are none on another system, links, devices and other special files,
    encrypted members, a name that occurs twice (also if only case differs), and more than ``max_bytes`` written bytes
    or ``max_members`` members in all archives together. A file that an earlier archive has brought may come again with
    the same content. Entries that only macOS uses are skipped. Memory does not grow with the archive but for the names
    (some 70 MB for NSynth's 289,205).

    Raises :class:`FmucError` for an archive that is refused, damaged or cut short and if the disk is full; ``folder``
    then holds what was unpacked before, and the caller removes it.
    """
    sink = _Sink(folder, max_bytes, max_members)
    for archive in archives:
        _unpack(archive, sink, progress)
    return sink.written


def _unpack(archive: Path, sink: _Sink, progress: bool) -> None:
    where = paths.relative(archive)
    reader = {".zip": _unzip, ".tgz": _untar, ".gz": _untar}.get(archive.suffix.lower())
    if reader is None or (archive.suffix.lower() == ".gz" and not archive.stem.lower().endswith(".tar")):
        raise FmucError(f"{where}: is no .zip, .tar.gz or .tgz: give an archive of these kinds")
    sink.archive = archive.name
    try:
        with (open(archive, "rb") as file, tqdm(total=archive.stat().st_size, desc=f"unpack {archive.name}", unit="B",
                                                unit_scale=True, disable=not progress) as bar):
            reader(file, sink, bar)
    except _ArchiveRefused as refused:
        raise FmucError(f"{where}: {refused}; this is not the published archive: delete it and download it again "
                        "from the publisher") from None
    except _DAMAGED as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise FmucError(f"{where}: is damaged or cut short ({reason}): delete it and download it again") from None
    except OSError as error:
        if error.errno in DISK_FULL:
            raise FmucError(f"{where}: the disk is full while it is unpacked: make room or move the data with "
                            "FMUC_DATA, then run the command again") from None
        raise FmucError(f"{where}: cannot be unpacked ({error.strerror or error}): check the archive and the folder "
                        "it is unpacked to") from None


def _unzip(file: BinaryIO, sink: _Sink, bar: tqdm) -> None:
    with zipfile.ZipFile(file) as zipped:
        _require_count(file, zipped)
        sink.announce(len(zipped.infolist()))
        for info in zipped.infolist():
            name = info.orig_filename  # as stored: ``filename`` ends at a NUL and is changed on some systems
            parts = sink.admit(name)
            _require_plain(info)
            if parts and name.endswith("/"):
                sink.make_folder(parts)
            elif parts:
                _require_header(file, info)
                with zipped.open(info) as source:
                    sink.write(parts, source)
            bar.update(info.compress_size)


def _require_count(file: BinaryIO, zipped: zipfile.ZipFile) -> None:
    """zipfile does not compare the number of entries, so that a damaged length in the directory could hide some."""
    file.seek(-22 - len(zipped.comment), 2)
    signature, *counts = struct.unpack("<4s4xHH10x", file.read(22))  # the record at the end
    if signature != b"PK\5\6" or not {0xFFFF, len(zipped.infolist())}.issuperset(counts):  # 0xFFFF: stated elsewhere
        raise zipfile.BadZipFile("some entries of its directory cannot be found")


def _require_header(file: BinaryIO, info: zipfile.ZipInfo) -> None:
    """zipfile reads as much as the directory says and compares it with that sum: zeros there would pass for a file."""
    file.seek(info.header_offset)
    flags, *stated = struct.unpack("<6xH6x3I", file.read(26))  # CRC, packed and unpacked size
    known = (info.CRC, info.compress_size, info.file_size)
    if not flags & 0x8 and any(here not in (there, 0xFFFFFFFF) for here, there in zip(stated, known, strict=True)):
        raise zipfile.BadZipFile(f"{info.orig_filename!r} is not as long as its directory says")


def _require_plain(info: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)  # the mode, where the archive was made on Unix
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _ArchiveRefused(f"holds {info.orig_filename!r}, which is a link or another special file")
    if info.flag_bits & 0x1:
        raise _ArchiveRefused(f"holds {info.orig_filename!r} encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _ArchiveRefused(f"holds {info.orig_filename!r} in compression {info.compress_type}, which is not supported")


def _untar(file: BinaryIO, sink: _Sink, bar: tqdm) -> None:
    with gzip.GzipFile(fileobj=file) as unpacked:  # unlike tarfile's own stream "r|gz", it checks CRC and length
        stream = _Rationed(unpacked, file, bar)
        stream.allow(_HEADER)
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK) as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # tarfile keeps every member, for random access
                parts = sink.admit(member.name)
                plain_file = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
                if not (plain_file or member.isdir()):
                    raise _ArchiveRefused(f"holds {member.name!r}, which is a link or another special file")
                stream.allow(_HEADER + (min(member.size, sink.max_bytes) if plain_file else 0))
                if parts and plain_file:
                    sink.write(parts, tar.extractfile(member))
                    stream.allow(_HEADER)
                elif parts:
                    sink.make_folder(parts)
            _require_end(tar)


def _require_end(tar: tarfile.TarFile) -> None:
    """tarfile takes a damaged header, and the end of a file that was cut between two members, for the end mark."""
    length = 0
    while block := tar.fileobj.read(_BLOCK):  # to the very end: only there gzip compares its checksum
        length += len(block)
        if block.strip(b"\0"):
            raise _ArchiveRefused("goes on after its end mark or has a damaged header")
    if length < tarfile.BLOCKSIZE:  # the mark is two empty blocks, of which tarfile has read one
        raise EOFError("the end mark is missing")


class _Rationed:
    """A stream that gives no more than what was allowed: tarfile holds a member's headers in memory, of any size."""

    def __init__(self, unpacked: gzip.GzipFile, packed: BinaryIO, bar: tqdm) -> None:
        self._unpacked, self._packed, self._bar, self._left = unpacked, packed, bar, 0

    def allow(self, size: int) -> None:
        self._left = size

    def read(self, size: int) -> bytes:
        data = self._unpacked.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise _ArchiveRefused("has a header or an end of enormous size")
        self._bar.update(self._packed.tell() - self._bar.n)
        return data


class _Sink:
    """The folder that is filled, the names in it and what may still be written."""

    def __init__(self, folder: Path, max_bytes: int, max_members: int) -> None:
        self.folder, self.max_bytes, self.max_members = folder, max_bytes, max_members
        self.written = self.members = 0
        self.archive = ""  # that is being unpacked
        self._origin: dict[str, str] = {}  # file, in a form in which names that some file system mixes up are equal

    def announce(self, members: int) -> None:
        if self.members + members > self.max_members:
            raise _ArchiveRefused(f"holds more members than the {self.max_members:,} that are possible")

    def admit(self, name: str) -> tuple[str, ...]:
        """The parts of a member's path; none for a member to skip."""
        self.announce(1)
        self.members += 1
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if not name.isprintable() or "\\" in name:  # also NUL, line ends and bytes that are not UTF-8
            raise _ArchiveRefused(f"holds the unsafe name {name!r}")
        if name.startswith("/") or ".." in parts or re.match("[A-Za-z]:", name):
            raise _ArchiveRefused(f"holds {name!r}, which leads outside of its folder")
        if parts and (parts[0] == "__MACOSX" or parts[-1] == ".DS_Store" or parts[-1].startswith("._")):
            return ()
        return parts

    def make_folder(self, parts: tuple[str, ...]) -> None:
        try:
            self.folder.joinpath(*parts).mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise _ArchiveRefused(f"holds {'/'.join(parts)!r} both as a file and as a folder") from None

    def write(self, parts: tuple[str, ...], source: BinaryIO) -> None:
        name, target = "/".join(parts), self.folder.joinpath(*parts)
        key = unicodedata.normalize("NFC", name).casefold()
        origin = self._origin.get(key)
        if origin is not None:
            if origin == self.archive or not target.is_file() or not _same(target, source):
                raise _ArchiveRefused(f"holds {name!r}, which is there already")
            return
        self._origin[key] = self.archive
        self.make_folder(parts[:-1])
        try:
            with open(target, "xb") as file:  # never over what is there, whatever it is
                self._copy(source, file)
        except FileExistsError:
            raise _ArchiveRefused(f"holds {name!r}, which is there already") from None

    def _copy(self, source: BinaryIO, file: BinaryIO) -> None:
        while chunk := source.read(_ARCHIVE_CHUNK):
            self.written += len(chunk)  # what is really there, not what a header claims
            if self.written > self.max_bytes:
                raise _ArchiveRefused(f"unpacks to more than the {self.max_bytes:,} bytes that are possible")
            file.write(chunk)


def _same(path: Path, source: BinaryIO) -> bool:
    with open(path, "rb") as file:
        while chunk := source.read(_ARCHIVE_CHUNK):
            if file.read(len(chunk)) != chunk:
                return False
        return not file.read(1)


ARCHIVES = ".archives"  # folder of the downloads in a data set's folder


@dataclass(frozen=True)
class Report:
    """What :func:`obtain` did: parts ``obtained`` now and ``present`` before, bytes received over the network."""

    source: str
    obtained: tuple[str, ...]
    present: tuple[str, ...]
    downloaded: int


def obtain(source: Source | str, root: Path, *, parts: Sequence[str] | None = None, archives_from: Path | None = None,
           keep_archives: bool = False, progress: bool = True, patience: Patience = PATIENCE) -> Report:
    """Get a data set's ``parts`` (default: all) into ``root``; those that are there already cost nothing.

    Archives are downloaded into ``root/.archives`` (see :func:`fmuc.fetch.fetch`: an interrupted call is gone on
    with) and removed when their part is in place unless ``keep_archives``; or they are read from the folder
    ``archives_from``, which is left as it is. All archives of a part are verified before one is unpacked; a part's
    folder appears whole or not at all. Of two calls at once the second waits. To have the licence confirmed is the
    caller's task.
    Raises :class:`FmucError` for an unknown name or part, too little free disk (checked before anything is done) and
    archives that cannot be had, have a wrong sum, or do not hold what they should.
    """
    source, root = _known(source), Path(root).absolute()
    wanted = _wanted(source, parts)
    try:
        if _missing(root, wanted):  # else no lock: a second call also works where nothing may be written
            root.mkdir(parents=True, exist_ok=True)
            with FileLock(root.with_name(f".{root.name}.lock")):
                missing = _missing(root, wanted)
                job = _Job(root, archives_from, keep_archives, progress, patience)
                downloaded = job.run(missing)
                return Report(source.name, _names(missing), _names(p for p in wanted if p not in missing), downloaded)
    except OSError as error:
        raise disk_error(root, error) from None
    return Report(source.name, (), _names(wanted), 0)


def _known(source: Source | str) -> Source:
    if isinstance(source, str):
        if source not in SOURCES:
            raise FmucError(f"no download is known for {source!r}: known are {', '.join(SOURCES)}")
        return SOURCES[source]
    return source


def _wanted(source: Source, names: Sequence[str] | None) -> list[Part]:
    known = _names(source.parts)
    for name in names or ():
        if name not in known:
            raise FmucError(f"{source.name}: unknown part {name!r}: known are {', '.join(known)}")
    return [part for part in source.parts if names is None or part.name in names]


def _names(parts: Iterable[Part]) -> tuple[str, ...]:
    return tuple(part.name for part in parts)


def _missing(root: Path, parts: Sequence[Part]) -> list[Part]:
    missing = []
    for part in parts:
        folder = root / part.folder
        if not (folder.exists() or folder.is_symlink()):
            missing.append(part)
        elif not (folder / part.index).is_file():
            raise FmucError(f"{paths.relative(folder)}: is there but has no {part.index}: remove it or move it away, "
                            "then run the command again")
    return missing


@dataclass(frozen=True)
class _Job:
    """The options of one call of :func:`obtain`; its caller holds the lock."""

    root: Path
    archives_from: Path | None
    keep_archives: bool
    progress: bool
    patience: Patience

    def run(self, parts: Sequence[Part]) -> int:
        """Get the parts, which are missing; bytes downloaded."""
        for part in parts:  # left by a call that was killed
            if self._staging(part).exists():
                shutil.rmtree(self._staging(part))
        if self.archives_from is not None:
            self._require_archives(parts)
        self._require_space(parts)
        downloaded = 0
        for part in parts:
            downloaded += sum(self._verified(archive) for archive in part.archives)
            self._unpack(part)
            self._tidy(part)
        return downloaded

    def _file(self, archive: Archive) -> Path:
        return (self.archives_from or self.root / ARCHIVES) / archive.name

    def _staging(self, part: Part) -> Path:
        return self.root / f".{part.folder}.unpacking"

    def _require_archives(self, parts: Sequence[Part]) -> None:
        names = [archive.name for part in parts for archive in part.archives if not self._file(archive).is_file()]
        if names:
            raise FmucError(f"{paths.relative(self.archives_from)}: has no {', '.join(names)}: put what is missing "
                            "there, take fewer --parts, or leave out --from to download")

    def _require_space(self, parts: Sequence[Part]) -> None:
        needed = sum(part.unpacked_bytes for part in parts)
        if self.archives_from is None:
            needed += sum(archive.size - arrived(self._file(archive), archive.size)
                          for part in parts for archive in part.archives)
        free = shutil.disk_usage(self.root).free
        if free < needed:
            raise FmucError(f"{paths.relative(self.root)}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB "
                            "are free: free some, move the data with FMUC_DATA, or take fewer --parts")

    def _verified(self, archive: Archive) -> int:
        """Make sure that the archive is there and right; bytes downloaded for it."""
        file = self._file(archive)
        if self.archives_from is None:
            return fetch(archive.urls, file, size=archive.size, md5=archive.md5, progress=self.progress,
                         patience=self.patience)
        problem = mismatch(file, size=archive.size, md5=archive.md5, progress=self.progress)
        if problem is not None:
            raise FmucError(f"{paths.relative(file)}: {problem}: download it again from {archive.urls[0]}, or leave "
                            "out --from")
        return 0

    def _unpack(self, part: Part) -> None:
        staging = self._staging(part)
        try:
            staging.mkdir()
            unpack([self._file(archive) for archive in part.archives], staging, progress=self.progress,
                            max_bytes=part.unpacked_bytes, max_members=part.max_members)
            if not (staging / part.folder / part.index).is_file():
                names = ", ".join(archive.name for archive in part.archives)
                raise FmucError(f"{names}: no {part.folder}/{part.index} in what was unpacked: these are not the "
                                "published archives; delete and download them again")
            os.replace(staging / part.folder, self.root / part.folder)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _tidy(self, part: Part) -> None:
        """Remove what was downloaded for a part that is in place."""
        folder = self.root / ARCHIVES
        for archive in part.archives:
            part_of(folder / archive.name).unlink(missing_ok=True)
            if self.archives_from is None and not self.keep_archives:
                (folder / archive.name).unlink(missing_ok=True)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
