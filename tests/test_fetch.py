"""Downloads from a local server that breaks off, stalls, redirects and lies; data sets whole or not at all."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import soundfile
from conftest import note_names, write_nsynth_split
from local_server import LocalServer, Served

from fmuc.__main__ import _obtain, main
from fmuc.datasets import SPEAKERS, load, load_fsdd, load_nsynth
from fmuc.errors import FmucError
from fmuc.machinery import fetch
from fmuc.machinery.fetch import SOURCES, Archive, Part, Source, obtain, part_of

pytestmark = pytest.mark.usefixtures("direct")
CONTENT = np.random.default_rng(0).bytes(300_000)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """No long pauses; :func:`get` and :func:`take` ask three times."""
    monkeypatch.setattr(fetch, "PAUSE", 0.001)
    monkeypatch.setattr(fetch, "TIMEOUT", 0.3)


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


# The published table


def test_every_recording_of_fsdd_has_a_sum():
    lines = Path(fetch.__file__).with_name("fsdd.sha256").read_text().splitlines()
    sums = {name: sum for sum, name in map(str.split, lines)}
    assert sums.keys() == {f"recordings/{digit}_{speaker}_{number}.wav" for digit in range(10)
                           for speaker in SPEAKERS for number in range(50)}
    assert len(set(sums.values())) == 3000


# Downloads


@pytest.fixture
def path(tmp_path):
    return tmp_path / "downloads" / "sounds.tar.gz"


@pytest.fixture
def begun(path):
    """A download of which 1,000 bytes have arrived."""
    path.parent.mkdir()
    part_of(path).write_bytes(CONTENT[:1000])
    return path


def get(path: Path, url: str, *, content: bytes = CONTENT, size: int | None = None) -> None:
    """Download to ``path`` what should be ``content``."""
    fetch.download(Archive(path.name, url, size or len(content), (md5(content),)), path, attempts=3, progress=False)


def refused(path: Path, url: str, *, size: int | None = None) -> str:
    """The one clear line of a download that fails; nothing gets the name ``path``."""
    with pytest.raises(FmucError) as caught:
        get(path, url, size=size)
    message = str(caught.value)
    assert not path.exists() and path.name in message and "\n" not in message and "--from FOLDER" in message
    return message


def test_a_file_is_downloaded_once(server, path):
    url = server.add("a", CONTENT)
    get(path, url)
    get(path, url)
    assert path.read_bytes() == CONTENT and [file.name for file in path.parent.iterdir()] == [path.name]
    assert server.ranges() == [None]
    path.write_bytes(CONTENT[:-1] + b"?")  # another file under this name
    get(path, url)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(("served", "ranges"), [
    (Served(CONTENT, breaks=[1, 99_999, 199_999]), [None, "bytes=1-", "bytes=100000-", "bytes=299999-"]),
    (Served(CONTENT, breaks=[50_000], stalls=True), [None, "bytes=50000-"]),
    (Served(CONTENT, breaks=[len(CONTENT)], stalls=True, no_length=True), [None]),  # whole, but no end is sent
    (Served(CONTENT, no_length=True, breaks=[77]), [None, "bytes=77-"]),
    (Served(CONTENT, breaks=[10_000] * 25), [None, *(f"bytes={10_000 * count}-" for count in range(1, 26))]),
    (Served(CONTENT, codes=[503, 429], headers={"Retry-After": "0"}), [None] * 3)])
def test_an_interrupted_transfer_resumes_at_the_first_missing_byte(server, path, served, ranges):
    get(path, server.add("a", served))
    assert path.read_bytes() == CONTENT and server.ranges() == ranges


def test_a_later_call_resumes_too_and_redirections_are_followed_with_the_range(server, begun):
    target = server.add("target", CONTENT)
    get(begun, server.add("a", Served(b"", codes=[302], headers={"Location": target})))
    assert begun.read_bytes() == CONTENT and server.seen == [("/a", "bytes=1000-"), ("/target", "bytes=1000-")]


@pytest.mark.parametrize("served", [
    Served(CONTENT, ranges=False), Served(CONTENT, shift=1), Served(CONTENT, codes=[416])])
def test_a_server_that_cannot_resume_starts_again(server, begun, served):
    get(begun, server.add("a", served))
    assert begun.read_bytes() == CONTENT and server.ranges()[0] == "bytes=1000-"


def test_bytes_are_stored_as_they_are_though_called_compressed(server, path):
    packed = gzip.compress(CONTENT)
    get(path, server.add("a", Served(packed, headers={"Content-Encoding": "gzip"}, breaks=[1000])), content=packed)
    assert path.read_bytes() == packed


def test_wrong_bytes_are_removed_and_both_sums_named(server, begun):
    part_of(begun).write_bytes(b"?" + CONTENT[1:1000])
    message = refused(begun, server.add("a", CONTENT))
    assert md5(b"?" + CONTENT[1:]) in message and md5(CONTENT) in message
    assert not [*begun.parent.iterdir()]


def test_another_length_is_refused_before_a_byte_is_read(server, path):
    assert "announces 300,000 bytes instead of 299,999" in refused(path, server.add("a", CONTENT), size=299_999)
    assert len(server.seen) == 1 and not part_of(path).exists()


def test_a_server_that_sends_too_much_is_stopped(server, path):
    endless = Served(CONTENT + bytes(5_000_000), no_length=True)
    assert "sends more than 300,000 bytes" in refused(path, server.add("a", endless))
    get(path, server.add("a", CONTENT))
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(("served", "reason"), [
    (Served(b"", codes=[404]), "HTTP 404"), (Served(b"", codes=[503] * 9), "HTTP 503"),
    (Served(CONTENT, ranges=False, breaks=[100_000] * 9), "3 times"),  # always starts again, always breaks off
    (Served(b"", codes=[302] * 99), "TooManyRedirects"), (None, "ConnectionError")])
def test_a_file_that_cannot_be_had_names_address_and_reason(server, path, served, reason):
    url = server.add("a", served) if served else "http://127.0.0.1:1/a"
    if served:
        served.headers = {"Location": url}
    message = refused(path, url)
    assert url in message and reason in message and len(server.seen) < 120


# Data sets


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data" / "set"


def tar_of(*files: Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as packed:
        for file in files:
            packed.add(file, f"{file.parent.name}/{file.name}")
    return out.getvalue()


def zip_of(**contents: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in contents.items():
            packed.writestr(name, content)
    return out.getvalue()


def published(server: LocalServer, name: str, content: bytes) -> Archive:
    return Archive(name, server.add(name, content), len(content), (md5(content),))


@pytest.fixture
def nsynth(server, tmp_path) -> Source:
    """NSynth in small, with two archives for each of its three parts: the index and, as TUT2017 has them, a .zip."""
    parts = []
    for split, per_family in (("train", 4), ("valid", 1), ("test", 2)):
        folder = write_nsynth_split(tmp_path / "made", split, note_names(split, per_family), length=800)
        sounds = {f"{folder.name}/{name}": content for name, content in tree(folder).items() if name.endswith(".wav")}
        archives = (published(server, f"{split}.tar.gz", tar_of(folder / "examples.json")),
                    published(server, f"{split}.audio.zip", zip_of(**sounds, **{"__MACOSX/._README.md": b"\0"})))
        parts.append(Part(split, folder.name, "examples.json", archives, 200_000))
    return replace(SOURCES["nsynth"], parts=tuple(parts))


@pytest.fixture
def fsdd(server, tmp_path) -> Source:
    """FSDD in small, as GitHub serves it: no size, no ranges, a folder around all, and more than the recordings."""
    folder = tmp_path / "made" / "free-spoken-digit-dataset-1.0.10"
    (folder / "recordings").mkdir(parents=True)
    (folder / "metadata.py").write_text("metadata = {}\n")
    for seed, speaker in enumerate(SPEAKERS):
        for digit in range(2):
            samples = np.random.default_rng([seed, digit]).uniform(-0.5, 0.5, 800)
            soundfile.write(folder / "recordings" / f"{digit}_{speaker}_0.wav", samples, 8000, subtype="PCM_16")
    sums = tmp_path / "fsdd.sha256"
    sums.write_text("".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n"
                            for name, content in tree(folder).items() if name.endswith(".wav")))
    served = Served(tar_of(folder.joinpath("recordings"), folder.joinpath("metadata.py")), ranges=False)
    (part,) = SOURCES["fsdd"].parts
    archive = replace(part.archives[0], url=server.add("v1.0.10.tar.gz", served))
    return replace(SOURCES["fsdd"], parts=(replace(part, sha256=str(sums), archives=(archive,)),))


def take(source: Source, root: Path, **options) -> tuple[str, ...]:
    return obtain(source, root, attempts=3, progress=False, **options)


def fails(source: Source, root: Path, **options) -> str:
    """The one clear line of a call that fails; no part's folder is there, nor one that was being filled."""
    with pytest.raises(FmucError) as caught:
        take(source, root, **options)
    assert "\n" not in str(caught.value)
    assert not root.is_dir() or {path.name for path in root.iterdir()} <= {".archives"}
    return str(caught.value)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("origin", ["server", "broken", "free-spoken-digit-dataset.tar.gz", "v1.0.10.tar.gz", "folder"])
def test_fsdd_arrives_where_its_loader_reads_it(fsdd, root, tmp_path, server, origin):
    made, own, served = tmp_path / "made" / "free-spoken-digit-dataset-1.0.10", None, server.files["/v1.0.10.tar.gz"]
    if origin == "broken":
        served.breaks = [777, 1]
    if origin.endswith(".gz"):
        own = tmp_path
        (own / origin).write_bytes(served.content)
    if origin == "folder":  # with files of a newer release, of a file manager, and with another header
        own = made
        (own / "recordings" / "0_newcomer_0.wav").write_bytes(b"RIFF")
        (own / "recordings" / ".DS_Store").touch()
        file = own / "recordings" / "1_theo_0.wav"
        file.write_bytes(file.read_bytes() + b"LIST\x04\0\0\0INFO")
    assert take(fsdd, root, archives_from=own) == ("recordings",) and take(fsdd, root) == ()
    assert bool(server.seen) == (own is None)
    assert {len(load_fsdd(root, "fsdd").indices(split)) for split in ("train", "valid", "test")} == {6, 2, 4}
    assert {hashlib.sha256(content).hexdigest() for content in tree(root).values()} == {
        line.split()[0] for line in Path(fsdd.parts[0].sha256).read_text().splitlines()}


@pytest.mark.parametrize("damage", [
    lambda file: file.unlink(), lambda file: file.write_bytes(b"no sound"),
    lambda file: file.write_bytes(file.read_bytes()[:-1] + b"?")])
def test_a_recording_that_differs_is_named_and_nothing_is_taken(fsdd, root, tmp_path, damage):
    own = tmp_path / "made" / "free-spoken-digit-dataset-1.0.10"
    damage(own / "recordings" / "1_lucas_0.wav")
    message = fails(fsdd, root, archives_from=own)
    assert "1 of 12 files are missing or not the published ones, the first is recordings/1_lucas_0.wav" in message


def test_an_error_of_a_later_part_keeps_the_earlier_ones_and_the_next_call_fetches_the_rest(
        nsynth, root, server, tmp_path):
    name = nsynth.parts[1].archives[0].name
    server.files[f"/{name}"].codes = [404]
    with pytest.raises(FmucError, match=rf"{name}.*404"):
        take(nsynth, root)
    assert take(nsynth, root) == ("valid", "test") and len(server.seen) == 7
    assert [len(load_nsynth(root, "nsynth").indices(split)) for split in ("train", "valid", "test")] == [12, 3, 6]
    assert tree(root) == tree(tmp_path / "made") and take(nsynth, root) == () and len(server.seen) == 7
    assert "dev: known are train, valid, test" in fails(nsynth, root.with_name("other"), parts=["dev"])


def test_free_disk_is_checked_first_and_what_is_there_is_not_needed_again(nsynth, root, server, monkeypatch):
    (index, sounds), (other, _) = (part.archives for part in nsynth.parts[:2])
    (root / ".archives").mkdir(parents=True)
    (root / ".archives" / index.name).write_bytes(server.files[f"/{index.name}"].content)
    part_of(root / ".archives" / other.name).write_bytes(server.files[f"/{other.name}"].content[:77])
    size = sum(archive.size for part in nsynth.parts for archive in part.archives)
    free = SimpleNamespace(free=size - index.size - 77 + sum(part.unpacked_bytes for part in nsynth.parts) - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    assert "GB are needed" in fails(nsynth, root) and not server.seen
    free.free += 1
    take(nsynth, root)
    assert server.ranges()[:2] == [None, "bytes=77-"]


def test_a_folder_without_its_index_is_not_taken_for_a_part(nsynth, root, server):
    (root / "nsynth-valid" / "audio").mkdir(parents=True)
    with pytest.raises(FmucError, match=r"nsynth-valid: has no examples\.json: move it away"):
        take(nsynth, root)
    assert not server.seen


@pytest.fixture
def own(nsynth, server, tmp_path) -> Path:
    """A folder with all archives of ``nsynth``."""
    own = tmp_path / "own"
    own.mkdir()
    for name, served in server.files.items():
        (own / name.removeprefix("/")).write_bytes(served.content)
    return own


def test_archives_of_a_folder_are_used_and_left_there(nsynth, root, server, own, tmp_path):
    before = tree(own)
    assert take(nsynth, root, archives_from=own) == ("train", "valid", "test")
    assert tree(root) == tree(tmp_path / "made") and tree(own) == before and not server.seen


def test_what_a_folder_lacks_or_has_wrong_is_named(nsynth, root, server, own):
    archive = nsynth.parts[1].archives[0]
    file = own / archive.name
    content = file.read_bytes()
    for wrong, expected in ((b"short", "has 5 bytes instead of"), (content[:-1] + b"?", "has the MD5")):
        file.write_bytes(wrong)
        message = fails(nsynth, root, archives_from=own)
        assert file.name in message and expected in message and archive.url in message
    file.unlink()
    assert f"own: has no {file.name}: put" in fails(nsynth, root, archives_from=own)
    assert "own/nowhere: there is no such folder" in fails(nsynth, root, archives_from=own / "nowhere")
    assert not server.seen


# Whole or not at all


def hostile_tar(name: str, type: bytes = tarfile.REGTYPE) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as packed:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = type, "/etc"
        packed.addfile(info)
    return out.getvalue()


@pytest.mark.parametrize(("name", "make"), [
    ("a.tar.gz", lambda: hostile_tar("../../hostile")), ("a.tar.gz", lambda: hostile_tar("//hostile")),
    ("a.tar.gz", lambda: hostile_tar("link", tarfile.SYMTYPE)),
    ("a.tar.gz", lambda: hostile_tar("nsynth-train/device", tarfile.CHRTYPE)),
    ("a.zip", lambda: b"<html>Sign in</html>"), ("a.zip", lambda: zip_of(**{"another/examples.json": b"{}"}))])
def test_what_is_no_published_archive_leaves_nothing(nsynth, root, server, tmp_path, name, make):
    archive = published(server, name, make())
    source = replace(nsynth, parts=(replace(nsynth.parts[0], archives=(archive,)),))
    before = {path.name for path in tmp_path.iterdir()}
    assert f"{name}: " in fails(source, root)
    assert {path.name for path in tmp_path.iterdir()} == before | {"data"}


def test_what_a_zip_holds_for_other_folders_is_left_out(nsynth, root, server, tmp_path):
    files = {"nsynth-train/examples.json": b"{}", "../../hostile": b"", f"{tmp_path}/hostile": b""}
    archive = published(server, "a.zip", zip_of(**files))
    take(replace(nsynth, parts=(replace(nsynth.parts[0], archives=(archive,)),)), root)
    assert tree(root) == {"nsynth-train/examples.json": b"{}"} and not [*tmp_path.rglob("hostile")]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_unpacking_leaves_no_part_and_keeps_the_archives(nsynth, root, server, monkeypatch, error):
    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "makefile", Mock(side_effect=error))
        with pytest.raises((KeyboardInterrupt, FmucError)):
            take(nsynth, root)
    assert [path.name for path in root.iterdir()] == [".archives"]
    (root / ".unpacking" / "nsynth-train").mkdir(parents=True)  # of a process that was killed
    take(nsynth, root)
    assert len(server.seen) == 6 and len(load_nsynth(root, "nsynth").clips) == 21


def test_two_calls_at_once_fetch_once(nsynth, root, server):
    with ThreadPoolExecutor(3) as pool:
        obtained = [*pool.map(lambda _: take(nsynth, root), range(3))]
    assert sorted(map(len, obtained)) == [0, 0, 3] and len(server.seen) == 6


# The command


def test_the_licence_is_shown_and_must_be_accepted(nsynth, own, root, monkeypatch, capsys):
    asking = replace(nsynth, confirm=True)
    monkeypatch.setitem(SOURCES, "nsynth", asking)
    monkeypatch.setenv("FMUC_DATA", str(root.parent))
    for options, status in ((), 1), (("--accept-licence", "--part", "valid", "--json"), 0):
        with pytest.raises(SystemExit) as ended:
            main(["data", "nsynth", "--from", str(own), *options])
        out, err = capsys.readouterr()
        assert ended.value.code == status and asking.notice in err
        assert ("must be accepted: read it" in err) == bool(status) != (root.parent / "nsynth").exists()
    assert json.loads(out)["obtained"] == "valid"


def test_reproduce_fetches_fsdd_or_says_in_a_line_that_it_goes_on_without_it(fsdd, root, server, monkeypatch, capsys):
    monkeypatch.setitem(SOURCES, "fsdd", fsdd)
    monkeypatch.setenv("FMUC_DATA", str(root.parent))
    served = server.files["/v1.0.10.tar.gz"]
    served.codes = [503, 503]
    assert not _obtain("fsdd-smoke", needed=False)
    line = capsys.readouterr().err
    assert line.startswith("fmuc: going on without fsdd-smoke: ") and line.count("\n") == 1
    assert "run 'python -m fmuc data fsdd' again, or with --from FOLDER" in line and len(server.seen) == 1
    with pytest.raises(FmucError, match="503, 1 times"):
        _obtain("fsdd", needed=True)
    assert not (root.parent / "fsdd").exists()
    assert _obtain("fsdd-smoke", needed=False) and fsdd.notice in capsys.readouterr().err
    assert _obtain("fsdd", needed=True) and len(server.seen) == 3
    assert len(load("fsdd").clips) == 12
