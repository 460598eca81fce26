"""Safe unpacking of .zip, .tar.gz and .tgz: an archive can only make plain files inside one folder.

Members are read as streams and written here, by one function for both formats. Nothing is left to ``extract``: the
extraction filters of ``tarfile`` are missing before Python 3.11.4, allow links, and count no bytes; ``zipfile`` would
rename what it should refuse.
"""

from __future__ import annotations

import gzip
import re
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from fmuc import paths
from fmuc.errors import DISK_FULL, FmucError

_CHUNK = 1 << 20  # bytes
_BLOCK = 1 << 16  # bytes that a tar stream is read by
_HEADER = 16 << 20  # bytes that the headers of one tar member may take, and the padding at the end
_DAMAGED = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError,
            struct.error, ValueError, OverflowError)  # what the readers raise for broken bytes


class _Refused(Exception):
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
    except _Refused as refused:
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
        raise _Refused(f"holds {info.orig_filename!r}, which is a link or another special file")
    if info.flag_bits & 0x1:
        raise _Refused(f"holds {info.orig_filename!r} encrypted")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _Refused(f"holds {info.orig_filename!r} in compression {info.compress_type}, which is not supported")


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
                    raise _Refused(f"holds {member.name!r}, which is a link or another special file")
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
            raise _Refused("goes on after its end mark or has a damaged header")
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
            raise _Refused("has a header or an end of enormous size")
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
            raise _Refused(f"holds more members than the {self.max_members:,} that are possible")

    def admit(self, name: str) -> tuple[str, ...]:
        """The parts of a member's path; none for a member to skip."""
        self.announce(1)
        self.members += 1
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if not name.isprintable() or "\\" in name:  # also NUL, line ends and bytes that are not UTF-8
            raise _Refused(f"holds the unsafe name {name!r}")
        if name.startswith("/") or ".." in parts or re.match("[A-Za-z]:", name):
            raise _Refused(f"holds {name!r}, which leads outside of its folder")
        if parts and (parts[0] == "__MACOSX" or parts[-1] == ".DS_Store" or parts[-1].startswith("._")):
            return ()
        return parts

    def make_folder(self, parts: tuple[str, ...]) -> None:
        try:
            self.folder.joinpath(*parts).mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise _Refused(f"holds {'/'.join(parts)!r} both as a file and as a folder") from None

    def write(self, parts: tuple[str, ...], source: BinaryIO) -> None:
        name, target = "/".join(parts), self.folder.joinpath(*parts)
        key = unicodedata.normalize("NFC", name).casefold()
        origin = self._origin.get(key)
        if origin is not None:
            if origin == self.archive or not target.is_file() or not _same(target, source):
                raise _Refused(f"holds {name!r}, which is there already")
            return
        self._origin[key] = self.archive
        self.make_folder(parts[:-1])
        try:
            with open(target, "xb") as file:  # never over what is there, whatever it is
                self._copy(source, file)
        except FileExistsError:
            raise _Refused(f"holds {name!r}, which is there already") from None

    def _copy(self, source: BinaryIO, file: BinaryIO) -> None:
        while chunk := source.read(_CHUNK):
            self.written += len(chunk)  # what is really there, not what a header claims
            if self.written > self.max_bytes:
                raise _Refused(f"unpacks to more than the {self.max_bytes:,} bytes that are possible")
            file.write(chunk)


def _same(path: Path, source: BinaryIO) -> bool:
    with open(path, "rb") as file:
        while chunk := source.read(_CHUNK):
            if file.read(len(chunk)) != chunk:
                return False
        return not file.read(1)
