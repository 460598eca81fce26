"""Hostile and broken archives: one clear line each, and nothing outside of the folder they are unpacked to."""

from __future__ import annotations

import errno
import gzip
import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fmuc import fetch as archives
from fmuc.errors import FmucError
from fmuc.fetch import unpack

FILES = {"set/index.txt": b"one\ttwo\n", "set/audio/1.wav": bytes(range(256)) * 300, "set/audio/2.wav": b"",
         "set/audio/é.wav": b"not ASCII"}


def zipped(files: dict[str, bytes], change: Callable[[zipfile.ZipInfo], None] = lambda info: None,
           method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A zip of these members; ``change`` is applied to what is known of each before it is written."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type, info.external_attr = name, method, (stat.S_IFREG | 0o666) << 16
            change(info)
            archive.writestr(info, content)
    return out.getvalue()


def tarred(files: dict[str, bytes], change: Callable[[tarfile.TarInfo], None] = lambda info: None, *,
           packed: bool = True, format: int = tarfile.GNU_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o644
            change(info)
            archive.addfile(info, io.BytesIO(content))
    return gzip.compress(out.getvalue()) if packed else out.getvalue()


def of_type(kind: bytes, **values: object) -> bytes:
    """A tar with one good file and one member of another type."""
    def change(info: tarfile.TarInfo) -> None:
        if info.name == "set/other":
            info.type, info.size = kind, 0
            for name, value in values.items():
                setattr(info, name, value)

    return tarred({**FILES, "set/other": b""}, change)


def with_mode(kind: int) -> bytes:
    """A zip with one member that the Unix mode calls something else than a file."""
    def change(info: zipfile.ZipInfo) -> None:
        if info.filename == "set/other":
            info.external_attr = (kind | 0o777) << 16

    return zipped({**FILES, "set/other": b"/etc/passwd"}, change)


def encrypted() -> bytes:
    content = bytearray(zipped({"set/index.txt": b"secret"}))
    for header, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # the flags in both headers
        content[content.index(header) + offset] |= 1
    return bytes(content)


def lying_zip(claimed: int) -> bytes:
    """A zip whose headers claim another unpacked size than the 5 MB that its file has."""
    content = bytearray(zipped({"set/a": bytes(5_000_000)}))
    for header, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = content.index(header) + offset
        content[at:at + 4] = claimed.to_bytes(4, "little")
    return bytes(content)


def emptied_in_the_directory() -> bytes:
    """A zip whose directory says of its first file that it is empty: CRC, packed and unpacked size are zeros."""
    content = bytearray(zipped(FILES))
    at = content.index(b"PK\x01\x02") + 16
    content[at:at + 12] = bytes(12)
    return bytes(content)


def changed(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1:]


def damaged_header() -> bytes:
    plain = tarred(FILES, packed=False)
    return gzip.compress(changed(plain, plain.index(b"set/audio/1.wav") + 150))  # in that header's checksum


def cut_between_members() -> bytes:
    plain = tarred(FILES, packed=False)
    return gzip.compress(plain[:plain.index(b"set/audio/1.wav")])


def huge_header() -> bytes:
    return tarred({"set/a": b""}, lambda info: info.pax_headers.update(comment="x" * 40_000_000),
                  format=tarfile.PAX_FORMAT)


def sparse() -> bytes:
    headers = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.name": "set/sparse",
               "GNU.sparse.size": "100000000000", "GNU.sparse.map": "0,0"}
    return tarred({"set/a": b""}, lambda info: info.pax_headers.update(headers), format=tarfile.PAX_FORMAT)


def names(*more: str) -> dict[str, bytes]:
    return {**FILES, **dict.fromkeys(more, b"more")}


HOSTILE_NAMES = {
    "absolute": "/tmp/fmuc-hostile", "parent": "../hostile", "parent inside": "set/../../hostile",
    "backslash": "set\\..\\..\\hostile", "drive": "C:hostile", "drive path": "c:/hostile", "NUL": "set/host\0ile",
    "line end": "set/a\nb", "case": "set/INDEX.txt", "case of a folder": "SET/audio/1.wav",
    "dots in a name": "set/./index.txt", "double slash": "set//audio/1.wav", "file as folder": "set/index.txt/a",
    "folder as file": "set/audio", "too long": "set/" + "a" * 300, "other form of é": "set/audio/e\u0301.wav",
}
BROKEN: dict[str, tuple[str, bytes, str]] = {  # file name, content, what the message must say
    **{f"zip: {case}": ("a.zip", zipped(names(name)), "") for case, name in HOSTILE_NAMES.items()},
    **{f"tar: {case}": ("a.tar.gz", tarred(names(name), format=tarfile.PAX_FORMAT), "")
       for case, name in HOSTILE_NAMES.items() if case != "NUL"},  # which ends a name in a plain header
    "tar: NUL": ("a.tgz", tarred({"x": b""}, lambda info: info.pax_headers.update(path="set/host\0ile"),
                                 format=tarfile.PAX_FORMAT), "unsafe name"),
    "zip: the same file twice": ("a.zip", zipped({**FILES, "set/./index.txt": FILES["set/index.txt"]}), "already"),
    "tar: the same file twice": ("a.tgz", tarred({**FILES, "set//index.txt": FILES["set/index.txt"]}), "already"),
    "zip: control sign": ("a.zip", zipped(names("set/\x7f")), "unsafe name"),
    "tar: not UTF-8": ("a.tar.gz", tarred(names("set/\udcff")), "unsafe name"),
    "zip: symbolic link": ("a.zip", with_mode(stat.S_IFLNK), "'set/other', which is a link"),
    "zip: device": ("a.zip", with_mode(stat.S_IFBLK), "'set/other', which is a link or another special"),
    "zip: fifo": ("a.zip", with_mode(stat.S_IFIFO), "special file"),
    "zip: encrypted": ("a.zip", encrypted(), "encrypted"),
    "zip: other compression": ("a.zip", zipped(FILES, method=zipfile.ZIP_LZMA), "not supported"),
    "zip: bomb": ("a.zip", zipped({"set/a": bytes(5_000_000)}), "more than the 1,000,000 bytes"),
    "zip: bomb of many": ("a.zip", zipped({f"set/{i}": bytes(300_000) for i in range(4)}), "1,000,000 bytes"),
    "zip: bomb that claims less": ("a.zip", lying_zip(1000), "damaged"),
    "zip: bomb that claims more": ("a.zip", lying_zip(2**32 - 2), "1,000,000 bytes"),
    "zip: many members": ("a.zip", zipped({f"set/{i}": b"" for i in range(60)}), "than the 50 that"),
    "zip: cut": ("a.zip", zipped(FILES)[:-40], "damaged or cut short"),
    "zip: cut in half": ("a.zip", zipped(FILES)[:300], "damaged or cut short"),
    "zip: emptied in the directory": ("a.zip", emptied_in_the_directory(), "not as long as its directory says"),
    "zip: changed bytes": ("a.zip", changed(zipped(FILES, method=zipfile.ZIP_STORED), 5000), "damaged or cut short"),
    "zip: empty file": ("a.zip", b"", "damaged or cut short"),
    "zip: a web page": ("a.zip", b"<html>Sign in</html>" * 99, "damaged or cut short"),
    "tar: symbolic link": ("a.tgz", of_type(tarfile.SYMTYPE, linkname="index.txt"), "'set/other', which is a link"),
    "tar: link to elsewhere": ("a.tgz", of_type(tarfile.SYMTYPE, linkname="/etc"), "'set/other', which is a link"),
    "tar: hard link": ("a.tgz", of_type(tarfile.LNKTYPE, linkname="set/index.txt"), "'set/other', which is a link"),
    "tar: device": ("a.tgz", of_type(tarfile.CHRTYPE, devmajor=1, devminor=3), "special file"),
    "tar: block device": ("a.tgz", of_type(tarfile.BLKTYPE, devmajor=8), "special file"),
    "tar: fifo": ("a.tgz", of_type(tarfile.FIFOTYPE), "special file"),
    "tar: contiguous file": ("a.tgz", of_type(tarfile.CONTTYPE), "special file"),
    "tar: unknown type": ("a.tgz", of_type(b"Z"), "special file"),
    "tar: sparse file": ("a.tgz", sparse(), "special file"),
    "tar: bomb": ("a.tgz", tarred({"set/a": bytes(5_000_000)}), "more than the 1,000,000 bytes"),
    "tar: bomb in the headers": ("a.tgz", huge_header(), "enormous"),
    "tar: many members": ("a.tgz", tarred({f"set/{i}": b"" for i in range(60)}), "than the 50 that"),
    "tar: cut": ("a.tar.gz", tarred(FILES)[:-1], "damaged or cut short"),
    "tar: cut in half": ("a.tar.gz", tarred(FILES)[:400], "damaged or cut short"),
    "tar: cut between members": ("a.tar.gz", cut_between_members(), "damaged or cut short (the end mark"),
    "tar: damaged header": ("a.tar.gz", damaged_header(), "damaged header"),
    "tar: wrong checksum": ("a.tar.gz", changed(tarred(FILES), len(tarred(FILES)) - 6), "CRC"),
    "tar: more behind": ("a.tar.gz", tarred(FILES) + b"more", "damaged or cut short"),
    "tar: empty file": ("a.tar.gz", b"", "damaged or cut short"),
    "tar: not packed": ("a.tar.gz", tarred(FILES, packed=False), "damaged or cut short (Not a gzipped file"),
    "tar: a web page, packed": ("a.tar.gz", gzip.compress(b"<html>Sign in</html>" * 99), "damaged or cut short"),
    "of another kind": ("a.rar", b"Rar!", "is no .zip, .tar.gz or .tgz"),
    "only packed": ("a.gz", gzip.compress(b"one file"), "is no .zip, .tar.gz or .tgz"),
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a file beside the folder ``out`` that archives are unpacked to."""
    place = tmp_path / "place"
    (place / "out").mkdir(parents=True)
    (place / "hostile").write_bytes(b"mine")
    return place


def put(place: Path, name: str, content: bytes) -> Path:
    (place / name).write_bytes(content)
    return place / name


def take(place: Path, *packed: Path, max_bytes: int = 1_000_000, max_members: int = 50) -> int:
    return unpack(packed, place / "out", max_bytes=max_bytes, max_members=max_members, progress=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- good archives ---


@pytest.mark.parametrize(("name", "content"), [
    ("a.zip", zipped(FILES)), ("a.zip", zipped(FILES, method=zipfile.ZIP_STORED)), ("A.ZIP", zipped(FILES)),
    ("a.zip", zipped(FILES, lambda info: setattr(info, "external_attr", 0))),  # made on Windows
    ("a.tar.gz", tarred(FILES)), ("a.tgz", tarred(FILES, format=tarfile.PAX_FORMAT)),
    ("a.tar.gz", tarred({f"./{name}": content for name, content in FILES.items()})),
])
def test_a_good_archive_is_unpacked_byte_by_byte(place, name, content):
    assert take(place, put(place, name, content)) == sum(map(len, FILES.values()))
    assert contents(place / "out") == FILES


class OneWay(io.BytesIO):
    """A file that cannot be sought in, such as a pipe."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_) -> int:
        raise io.UnsupportedOperation


def test_a_zip_written_to_a_pipe_states_its_sizes_behind_each_file(place):
    out = OneWay()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            archive.writestr(name, content)
    take(place, put(place, "a.zip", out.getvalue()))
    assert contents(place / "out") == FILES


def test_a_zip64_states_its_sizes_elsewhere(place):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in FILES.items():
            with archive.open(name, "w", force_zip64=True) as file:
                file.write(content)
    take(place, put(place, "a.zip", out.getvalue()))
    assert contents(place / "out") == FILES


def folder_members(info: tarfile.TarInfo | zipfile.ZipInfo) -> None:
    if isinstance(info, tarfile.TarInfo) and not info.size:
        info.type, info.mode = tarfile.DIRTYPE, 0o000


@pytest.mark.parametrize(("name", "content"), [
    ("a.zip", zipped({"./": b"", "set/": b"", "set/empty/": b"", **FILES})),
    ("a.tgz", tarred({"./": b"", "set/": b"", "set/empty": b"", "set/a": b"a"}, folder_members)),
])
def test_folders_are_made_also_empty_ones(place, name, content):
    take(place, put(place, name, content))
    assert (place / "out" / "set" / "empty").is_dir()
    assert os.access(place / "out" / "set", os.W_OK)


@pytest.mark.parametrize("kind", ["zip", "tgz"])
def test_unpacked_files_get_plain_permissions(place, kind):
    if kind == "zip":
        content = zipped({"set/a": b"a"}, lambda info: setattr(info, "external_attr", (stat.S_IFREG | 0o6777) << 16))
    else:
        content = tarred({"set/a": b"a"}, lambda info: setattr(info, "mode", 0o6777))
    take(place, put(place, f"a.{kind}", content))
    (place / "plain").touch()
    assert (place / "out" / "set" / "a").stat().st_mode == (place / "plain").stat().st_mode


@pytest.mark.parametrize("pack", [zipped, tarred])
def test_what_macos_adds_is_skipped(place, pack):
    extra = {"__MACOSX/set/._index.txt": b"x" * 2_000_000, "__MACOSX/set.plist": b"x", "set/.DS_Store": b"x",
             "set/audio/._1.wav": b"x"}
    take(place, put(place, "a.zip" if pack is zipped else "a.tgz", pack({**extra, **FILES})))
    assert contents(place / "out") == FILES
    assert not (place / "out" / "__MACOSX").exists()


def test_several_archives_fill_one_folder_and_share_its_bounds(place):
    first = put(place, "1.zip", zipped({"set/README.md": b"text", "set/audio/1.wav": bytes(600_000)}))
    second = put(place, "2.tgz", tarred({"set/README.md": b"text", "set/audio/2.wav": bytes(300_000)}))
    assert take(place, first, second) == 900_004
    assert sorted(contents(place / "out")) == ["set/README.md", "set/audio/1.wav", "set/audio/2.wav"]


@pytest.mark.parametrize(("files", "message"), [
    ({"set/audio/2.wav": bytes(500_000)}, "2.zip.*more than the 1,000,000 bytes"),
    ({f"set/{i}": b"" for i in range(50)}, "2.zip.*than the 50 that"),
    ({"set/README.md": b"other text"}, r"2\.zip.*'set/README\.md', which is there already"),
    ({"set/README.md": b"tex"}, "which is there already"), ({"set/README.md": b"textt"}, "which is there already"),
])
def test_bounds_and_names_hold_over_all_archives(place, files, message):
    first = put(place, "1.zip", zipped({"set/README.md": b"text", "set/audio/1.wav": bytes(600_000)}))
    with pytest.raises(FmucError, match=message):
        take(place, first, put(place, "2.zip", zipped(files)))
    assert (place / "out" / "set" / "README.md").read_bytes() == b"text"


def test_the_bounds_may_just_be_reached(place):
    archive = put(place, "a.zip", zipped({"set/a": bytes(70), "set/b": bytes(30)}))
    assert take(place, archive, max_bytes=100, max_members=2) == 100


# --- hostile and broken ones ---


@pytest.mark.parametrize("case", BROKEN)
def test_a_hostile_or_broken_archive_is_one_clear_line_and_touches_nothing_else(place, case):
    name, content, expected = BROKEN[case]
    archive = put(place, name, content)
    with pytest.raises(FmucError) as caught:
        take(place, archive)
    message = str(caught.value)
    assert expected in message and f"/{name}: " in message and "\n" not in message
    assert "download it again" in message or "give an archive" in message or "check the archive" in message
    assert {path.name for path in place.iterdir()} == {"out", "hostile", name}
    assert (place / "hostile").read_bytes() == b"mine" and archive.read_bytes() == content
    assert not Path("/tmp/fmuc-hostile").exists() and not Path("hostile").exists()
    assert not any(path.is_symlink() or path.stat().st_size > 1_000_000 for path in (place / "out").rglob("*"))


def test_a_file_in_the_folder_is_never_overwritten_nor_a_link_followed(place):
    (place / "out" / "set").mkdir()
    (place / "out" / "set" / "index.txt").symlink_to(place / "hostile")
    with pytest.raises(FmucError, match="there already"):
        take(place, put(place, "a.zip", zipped(FILES)))
    assert (place / "hostile").read_bytes() == b"mine"


@pytest.mark.parametrize(("name", "content"), [("a.zip", zipped(FILES)), ("a.tgz", tarred(FILES))])
def test_any_changed_or_missing_byte_is_noticed_or_harmless(place, name, content):
    messages = []
    rng = np.random.default_rng(0)
    for number in range(150):
        at = int(rng.integers(len(content)))
        broken = content[:at] if number % 5 == 0 else changed(content, at)
        (place / "out").rename(place / f"old{number}")
        (place / "out").mkdir()
        try:
            take(place, put(place, name, broken))
            assert contents(place / "out") == FILES  # a time stamp
        except FmucError as error:
            messages.append(str(error))
    assert 75 < len(messages) < 150 and not any("\n" in message or len(message) > 500 for message in messages)


@pytest.mark.parametrize(("number", "expected"), [(errno.ENOSPC, "disk is full"), (errno.EIO, "cannot be unpacked")])
def test_a_disk_that_takes_no_more_is_one_clear_line(place, monkeypatch, number, expected):
    def fail(*_):
        raise OSError(number, "no")

    monkeypatch.setattr(archives._Sink, "_copy", fail)
    with pytest.raises(FmucError, match=rf"a\.zip: .*{expected}"):
        take(place, put(place, "a.zip", zipped(FILES)))


def test_an_archive_that_is_not_there_is_one_clear_line(place):
    with pytest.raises(FmucError, match=r"a\.zip: cannot be unpacked \(No such file"):
        take(place, place / "a.zip")


@pytest.mark.parametrize(("name", "content"), [("a.zip", zipped(FILES)), ("a.tgz", tarred(FILES))])
def test_progress_ends_with_the_size_of_the_archive(place, monkeypatch, name, content):
    bars = []

    class Recorded(archives.tqdm):
        def __init__(self, **options):
            super().__init__(**options, file=io.StringIO())
            bars.append(self)

    monkeypatch.setattr(archives, "tqdm", Recorded)
    unpack([put(place, name, content)], place / "out", max_bytes=10**6, max_members=50)
    assert bars[0].total == len(content)
    assert 0 < bars[0].n <= len(content)
