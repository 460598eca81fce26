"""The published archives as data, and how a data set comes from archives like them to where its loader reads it."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import sys
import tarfile
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from conftest import note_names, write_nsynth_split
from local_server import LocalServer, Served
from test_archives import BROKEN
from test_download import QUICK
from test_tut2017 import TEST, TRAIN, write_development, write_evaluation

from fmuc import fetch as archives
from fmuc import fetch as download
from fmuc.__main__ import main
from fmuc.datasets import DEVELOPMENT, EVALUATION, load_nsynth, load_tut2017
from fmuc.errors import FmucError
from fmuc.fetch import SOURCES, Archive, Part, Report, Source, licence_notice, obtain, part_of

pytestmark = pytest.mark.usefixtures("direct")
ALL = [archive for source in SOURCES.values() for part in source.parts for archive in part.archives]


# --- the published table ---


def test_sources_go_by_their_names_and_parts_are_unique():
    assert list(SOURCES) == ["nsynth", "tut2017"] == [source.name for source in SOURCES.values()]
    for source in SOURCES.values():
        for values in ([part.name for part in source.parts], [part.folder for part in source.parts]):
            assert len(set(values)) == len(values) >= 2
    assert len({archive.name for archive in ALL}) == len(ALL) == 3 + 13 + 6
    assert len({sum for archive in ALL for sum in archive.md5}) == len(ALL) + 3  # no row copied twice


@pytest.mark.parametrize("archive", ALL, ids=lambda archive: archive.name)
def test_an_archive_has_addresses_that_end_in_its_name_and_whole_sums(archive):
    assert re.fullmatch(r"[\w.-]+\.(zip|tar\.gz)", archive.name) and archive.size > 1000
    assert archive.md5 and all(re.fullmatch("[0-9a-f]{32}", sum) for sum in archive.md5)
    assert len(set(archive.md5)) == len(archive.md5)
    assert urlsplit(archive.urls[0]).scheme == "https" and len(set(archive.urls)) == len(archive.urls)
    assert all(urlsplit(url).path.endswith(f"/{archive.name}") for url in archive.urls)


@pytest.mark.parametrize("part", [part for source in SOURCES.values() for part in source.parts],
                         ids=lambda part: part.folder)
def test_a_part_unpacks_to_more_than_its_sound_and_not_much_more(part):
    file_bytes = 2 * 64_000 + 44 if part.folder.startswith("nsynth") else 6 * 441_000 + 44  # 16 bit mono, 24 bit stereo
    assert part.sound_files * file_bytes < part.unpacked_bytes < part.sound_files * file_bytes * 1.15 + 10**8
    assert part.archive_bytes == sum(archive.size for archive in part.archives) < part.unpacked_bytes
    assert part.max_members > part.sound_files
    assert all(archive.name.startswith(part.folder) for archive in part.archives)


def test_parts_are_the_folders_that_the_loaders_read():
    nsynth, tut2017 = SOURCES.values()
    assert [part.folder for part in nsynth.parts] == [f"nsynth-{name}" for name in ("train", "valid", "test")]
    assert [part.name for part in nsynth.parts] == ["train", "valid", "test"]
    assert {part.name: part.folder for part in tut2017.parts} == {"development": DEVELOPMENT, "evaluation": EVALUATION}
    for part in tut2017.parts:
        kinds = Counter(archive.name.removeprefix(f"{part.folder}.").split(".")[0] for archive in part.archives)
        assert kinds["doc"] == kinds["meta"] == 1 and kinds["audio"] >= 4
        assert len({urlsplit(archive.urls[0]).path.rpartition("/")[0] for archive in part.archives}) == 1


def test_the_licence_notice_names_licence_terms_and_citation():
    for source in SOURCES.values():
        notice = licence_notice(source)
        for text in (source.title, source.licence, source.licence_url, source.terms, source.citation):
            assert text in notice
    nsynth, tut2017 = SOURCES.values()
    assert not nsynth.confirm and "CC BY 4.0" in licence_notice(nsynth)
    assert tut2017.confirm and all(word in licence_notice(tut2017) for word in ("EULA", "non-commercial", "cite"))


# --- small sets in the real layouts ---


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data" / "set"


def published(server: LocalServer, name: str, content: bytes) -> Archive:
    return Archive(name, (server.add(name, content),), len(content), (hashlib.md5(content).hexdigest(),))


def tar_of(folder: Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as packed:
        packed.add(folder, folder.name)
    return out.getvalue()


def zip_of(root: Path, files: Iterable[Path], **more: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(files):
            packed.write(file, file.relative_to(root).as_posix())
        for name, content in more.items():
            packed.writestr(name, content)
    return out.getvalue()


@pytest.fixture
def nsynth(server, tmp_path) -> Source:
    """NSynth in small: a .tar.gz for each of its three parts."""
    parts = []
    for split, per_family in (("train", 4), ("valid", 1), ("test", 2)):
        folder = write_nsynth_split(tmp_path / "made", split, note_names(split, per_family), length=800)
        archive = published(server, f"nsynth-{split}.jsonwav.tar.gz", tar_of(folder))
        parts.append(Part(split, folder.name, "examples.json", (archive,), 3 * per_family, 200_000))
    return replace(SOURCES["nsynth"], parts=tuple(parts))


@pytest.fixture
def tut2017(server, tmp_path) -> Source:
    """TUT2017 in small: several zips for each part, which all unpack into its folder."""
    made, parts = tmp_path / "made", []
    development, evaluation = write_development(made), write_evaluation(made)
    (development / "evaluation_setup").mkdir()
    (development / "evaluation_setup" / "fold1_train.txt").write_text("audio/b020_90_100.wav\tbeach\n")
    (development / "error.txt").write_text("audio/b020_90_100.wav\t0.5\t1.5\tmicrophone failure\n")
    for name, folder, index in (("development", development, "meta.txt"),
                                ("evaluation", evaluation, "evaluation_setup/evaluate.txt")):
        (folder / "README.md").write_text("how it was recorded\n")
        sounds = sorted((folder / "audio").iterdir())
        contents = {
            "doc": zip_of(made, [folder / "README.md"], **{f"__MACOSX/{folder.name}/._README.md": b"\0"}),
            "meta": zip_of(made, [*folder.glob("meta.txt"), *(folder / "evaluation_setup").iterdir()]),
            "error": zip_of(made, folder.glob("error.txt")),
            "audio.1": zip_of(made, sounds[::2]), "audio.2": zip_of(made, sounds[1::2]),
        }
        files = tuple(published(server, f"{folder.name}.{suffix}.zip", content) for suffix, content in contents.items())
        parts.append(Part(name, folder.name, index, files, len(sounds), 200_000))
    return replace(SOURCES["tut2017"], parts=tuple(parts))


def get(source: Source, root: Path, **options) -> Report:
    return obtain(source, root, **{"progress": False, "patience": QUICK, **options})


def refused(source: Source, root: Path, **options) -> str:
    """The one clear line of a call that fails; no part's folder and no staging folder is left."""
    with pytest.raises(FmucError) as caught:
        get(source, root, **options)
    assert "\n" not in str(caught.value)
    assert not root.exists() or {path.name for path in root.iterdir()} <= {".archives"}
    return str(caught.value)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def swap(server: LocalServer, source: Source, content: bytes, *, name: str | None = None) -> Source:
    """``source`` with another first archive in its first part, published with its true size and sum."""
    part = source.parts[0]
    archive = published(server, name or part.archives[0].name, content)
    return replace(source, parts=(replace(part, archives=(archive, *part.archives[1:])), *source.parts[1:]))


def size_of(source: Source) -> int:
    return sum(part.archive_bytes for part in source.parts)


# --- obtain ---


def test_nsynth_arrives_where_its_loader_reads_it(nsynth, root, tmp_path):
    assert get(nsynth, root) == Report("nsynth", ("train", "valid", "test"), (), size_of(nsynth))
    dataset = load_nsynth(root, "nsynth")
    assert [len(dataset.indices(split)) for split in ("train", "valid", "test")] == [12, 3, 6]
    assert tree(root) == tree(tmp_path / "made")
    assert sorted(path.name for path in root.iterdir()) == ["nsynth-test", "nsynth-train", "nsynth-valid"]


def test_tut2017_arrives_where_its_loader_reads_it(tut2017, root, tmp_path):
    assert get(tut2017, root) == Report("tut2017", ("development", "evaluation"), (), size_of(tut2017))
    dataset = load_tut2017(root, "tut2017")
    assert len(dataset.indices("train")) == len(TRAIN) and len(dataset.indices("test")) == len(TEST)
    assert tree(root) == tree(tmp_path / "made")


@pytest.mark.parametrize("kept", [False, True])
def test_a_second_call_does_nothing(nsynth, root, server, kept):
    get(nsynth, root, keep_archives=kept)
    assert (root / ".archives").exists() == kept
    before, requests = tree(root), len(server.seen)
    assert get(nsynth, root) == Report("nsynth", (), ("train", "valid", "test"), 0)
    assert tree(root) == before and len(server.seen) == requests


def test_a_second_call_does_not_even_need_to_write(nsynth, root, monkeypatch):
    get(nsynth, root)
    monkeypatch.setattr("fmuc.fetch.FileLock", None)
    assert get(nsynth, root).obtained == ()


def test_single_parts_come_in_any_order(tut2017, root, server):
    assert get(tut2017, root, parts=["evaluation"]).obtained == ("evaluation",)
    assert len(server.seen) == 5 and not (root / DEVELOPMENT).exists()
    report = get(tut2017, root, parts=["evaluation", "development"])
    assert (report.obtained, report.present) == (("development",), ("evaluation",))
    assert report.downloaded == tut2017.parts[0].archive_bytes


def test_unknown_names_list_the_known_ones(nsynth, root):
    assert "'dev': known are train, valid, test" in refused(nsynth, root, parts=["train", "dev"])
    with pytest.raises(FmucError, match="'nsnyth': known are nsynth, tut2017"):
        obtain("nsnyth", root)
    assert not root.parent.exists()


def test_a_published_set_is_known_by_its_name(root, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    with pytest.raises(FmucError, match=r"65\.\d GB are needed and 1\.0 GB are free: free some"):
        obtain("nsynth", root)


def test_a_folder_without_its_index_is_not_taken_for_a_part(nsynth, root, server):
    (root / "nsynth-valid" / "audio").mkdir(parents=True)
    with pytest.raises(FmucError, match=r"nsynth-valid: is there but has no examples\.json: remove it"):
        get(nsynth, root)
    assert not server.seen and [path.name for path in root.iterdir()] == ["nsynth-valid"]
    assert get(nsynth, root, parts=["test"]).obtained == ("test",)


def test_archives_are_kept_on_demand_and_used_again(nsynth, root, server):
    get(nsynth, root, keep_archives=True)
    assert sorted(tree(root / ".archives")) == sorted(p.archives[0].name for p in nsynth.parts)
    (root / "nsynth-test" / "examples.json").unlink()
    (root / "nsynth-test").rename(root / "old")
    requests = len(server.seen)
    assert get(nsynth, root) == Report("nsynth", ("test",), ("train", "valid"), 0)
    assert len(server.seen) == requests and load_nsynth(root, "nsynth")
    assert len(tree(root / ".archives")) == 2  # that of the part obtained without the option is gone


# --- the disk ---


def test_free_disk_is_checked_before_anything(tut2017, root, server, monkeypatch):
    needed = size_of(tut2017) + sum(part.unpacked_bytes for part in tut2017.parts)
    free = SimpleNamespace(free=needed - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    assert "GB are needed" in refused(tut2017, root)
    assert not server.seen and not list(root.iterdir())
    free.free = needed
    assert len(get(tut2017, root).obtained) == 2


def test_what_is_there_need_not_be_free(nsynth, root, server, monkeypatch):
    first, second = (part.archives[0] for part in nsynth.parts[:2])
    (root / ".archives").mkdir(parents=True)
    (root / ".archives" / first.name).write_bytes(server.files[f"/{first.name}"].content)
    part_of(root / ".archives" / second.name).write_bytes(server.files[f"/{second.name}"].content[:777])
    needed = size_of(nsynth) - first.size - 777 + sum(part.unpacked_bytes for part in nsynth.parts)
    free = SimpleNamespace(free=needed - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    assert "GB are needed" in refused(nsynth, root)
    free.free = needed
    assert get(nsynth, root).downloaded == size_of(nsynth) - first.size - 777
    assert (f"/{second.name}", "bytes=777-") in server.seen


def test_a_full_disk_while_unpacking_leaves_no_part(nsynth, root, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(archives._Sink, "_copy", full)
        assert "disk is full" in refused(nsynth, root)
    assert len(get(nsynth, root).obtained) == 3


def test_a_place_that_cannot_be_written_is_one_clear_line(nsynth, root):
    root.parent.mkdir()
    root.write_bytes(b"a file")
    with pytest.raises(FmucError, match=r"set: cannot be read or written \(File exists\)"):
        get(nsynth, root)


# --- archives from a folder ---


@pytest.fixture
def own(tut2017, server, tmp_path) -> Path:
    """A folder with all archives of ``tut2017``."""
    own = tmp_path / "own"
    own.mkdir()
    for part in tut2017.parts:
        for archive in part.archives:
            (own / archive.name).write_bytes(server.files[f"/{archive.name}"].content)
    (own / "notes.txt").write_text("another file")
    return own


def test_archives_of_a_folder_are_used_and_left_as_they_are(tut2017, root, server, own):
    before = tree(own)
    for file in own.iterdir():
        file.chmod(0o444)
    assert get(tut2017, root, archives_from=own) == Report("tut2017", ("development", "evaluation"), (), 0)
    assert len(load_tut2017(root, "tut2017").clips) == len(TRAIN) + len(TEST)
    assert tree(own) == before and not server.seen and not (root / ".archives").exists()


def test_kept_downloads_may_be_the_folder(tut2017, root):
    get(tut2017, root, parts=["development"], keep_archives=True)
    before = tree(root / ".archives")
    (root / DEVELOPMENT).rename(root / "old")
    get(tut2017, root, parts=["development"], archives_from=root / ".archives")
    assert tree(root / ".archives") == before and len(before) == 5


def test_begun_downloads_are_removed_when_a_folder_had_the_archives(tut2017, root, own):
    (root / ".archives").mkdir(parents=True)
    part_of(root / ".archives" / tut2017.parts[0].archives[3].name).write_bytes(b"PK")
    get(tut2017, root, archives_from=own)
    assert sorted(path.name for path in root.iterdir()) == [DEVELOPMENT, EVALUATION]


def test_all_that_a_folder_lacks_is_named_at_once(tut2017, root, server, own):
    lacking = [tut2017.parts[0].archives[4].name, tut2017.parts[1].archives[0].name]
    for name in lacking:
        (own / name).unlink()
    message = refused(tut2017, root, archives_from=own)
    assert f"own: has no {', '.join(lacking)}: put" in message and "--from" in message and "--parts" in message
    assert "has no" in refused(tut2017, root, archives_from=own / "nowhere")
    assert not server.seen


@pytest.mark.parametrize(("wrong", "expected"), [(b"short", "has 5 bytes where"), (None, "md5")])
def test_a_wrong_archive_of_a_folder_is_named(tut2017, root, own, wrong, expected):
    file = own / tut2017.parts[0].archives[4].name
    content = file.read_bytes()
    file.write_bytes(wrong or content[:-1] + b"?")
    message = refused(tut2017, root, archives_from=own)
    assert file.name in message and expected in message and tut2017.parts[0].archives[4].urls[0] in message
    assert file.exists()


# --- whole or not at all ---


def test_no_archive_is_unpacked_before_all_of_its_part_are_verified(tut2017, root, server, monkeypatch):
    last = tut2017.parts[0].archives[-1]
    server.add(last.name, Served(server.files[f"/{last.name}"].content[:-1] + b"?"))
    monkeypatch.setattr(archives, "unpack", None)
    assert last.name in refused(tut2017, root, parts=["development"])


@pytest.mark.parametrize("case", [case for case, (name, content, _) in BROKEN.items() if content])
def test_a_hostile_or_broken_archive_leaves_no_part(nsynth, root, server, tmp_path, case):
    name, content, _ = BROKEN[case]
    before = {path.name for path in tmp_path.iterdir()}
    message = refused(swap(server, nsynth, content, name=name), root, parts=["train"])
    assert f"{name}: " in message
    assert {path.name for path in tmp_path.iterdir()} == before | {"data"}
    assert {path.name for path in root.parent.iterdir()} <= {root.name, f".{root.name}.lock"}


@pytest.mark.parametrize("folder", ["another", "nsynth-train/nsynth-train"])
def test_archives_without_the_part_are_refused(nsynth, root, server, folder):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr(f"{folder}/examples.json", "{}")
    message = refused(swap(server, nsynth, out.getvalue(), name="a.zip"), root)
    assert "a.zip: no nsynth-train/examples.json in what was unpacked" in message and "download" in message


def test_an_error_of_a_later_part_keeps_the_earlier_ones(nsynth, root, server):
    name = nsynth.parts[1].archives[0].name
    good = server.files[f"/{name}"]
    server.add(name, Served(b"", codes=[404] * 9))
    with pytest.raises(FmucError, match=rf"{name}.*404"):
        get(nsynth, root)
    assert [path.name for path in root.iterdir() if not path.name.startswith(".")] == ["nsynth-train"]
    server.files[f"/{name}"] = good
    assert get(nsynth, root).obtained == ("valid", "test")


def test_an_interrupted_download_is_gone_on_with(nsynth, root, server, monkeypatch):
    archive = nsynth.parts[0].archives[0]
    server.files[f"/{archive.name}"].breaks.append(archive.size // 2)

    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "time", SimpleNamespace(sleep=interrupt))
        with pytest.raises(KeyboardInterrupt):
            get(nsynth, root)
    assert [path.name for path in root.rglob("*")] == [".archives", f".{archive.name}.part"]
    assert get(nsynth, root).downloaded == size_of(nsynth) - archive.size // 2
    assert server.seen[:2] == [(f"/{archive.name}", None), (f"/{archive.name}", f"bytes={archive.size // 2}-")]
    assert len(load_nsynth(root, "nsynth").clips) == 21


def test_an_interrupted_unpacking_keeps_the_archives(tut2017, root, server, monkeypatch):
    copy, calls = archives._Sink._copy, []

    def interrupt(*arguments):
        calls.append(arguments)
        if len(calls) == 6:
            raise KeyboardInterrupt
        copy(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(archives._Sink, "_copy", interrupt)
        with pytest.raises(KeyboardInterrupt):
            get(tut2017, root, parts=["development"])
    assert [path.name for path in root.iterdir()] == [".archives"]
    requests = len(server.seen)
    assert get(tut2017, root, parts=["development"]).downloaded == 0
    assert len(server.seen) == requests and len(load_tut2017(root, "tut2017").clips) == len(TRAIN)


def test_what_a_killed_call_left_is_cleared(nsynth, root, tmp_path):
    stale = root / ".nsynth-train.unpacking" / "nsynth-train"
    stale.mkdir(parents=True)
    (stale / "examples.json").write_text("half")
    get(nsynth, root)
    assert tree(root) == tree(tmp_path / "made")


def test_two_calls_at_once_fetch_once(nsynth, root, server):
    reports = []
    threads = [threading.Thread(target=lambda: reports.append(get(nsynth, root))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(report.obtained) for report in reports) == [0, 0, 3]
    assert sum(report.downloaded for report in reports) == size_of(nsynth) and len(server.seen) == 3


# --- the command ---


@pytest.fixture
def command(tut2017, own, root, monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Run ``data tut2017 --from FOLDER`` with an answer on the terminal, or none: status, output, errors."""
    monkeypatch.setitem(SOURCES, "tut2017", tut2017)
    monkeypatch.setenv("FMUC_DATA", str(root.parent))

    def run(answer: str | None, *options: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: answer is not None, readline=lambda: answer))
        status = main(["data", "tut2017", "--from", str(own), *options])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.mark.parametrize(("answer", "expected"), [
    (None, "the licence must be accepted: read it .*zenodo.* and add --accept-licence"),
    ("no\n", "the licence was not accepted: nothing was downloaded"), ("", "the licence was not accepted"),
])
def test_the_licence_is_shown_and_must_be_accepted(command, root, answer, expected):
    status, out, err = command(answer)
    assert (status, out) == (1, "") and licence_notice(SOURCES["tut2017"]) in err
    assert re.search(f"fmuc: {expected}", err)
    assert not (root.parent / "tut2017").exists()


@pytest.mark.parametrize(("answer", "options"), [("yes\n", ()), (None, ("--accept-licence",))])
def test_an_accepted_licence_lets_the_data_come(command, root, answer, options):
    status, out, _ = command(answer, *options, "--json", "--parts", "evaluation")
    assert status == 0
    assert json.loads(out)["obtained"] == "evaluation"
    assert len(load_tut2017(root.parent / "tut2017", "tut2017").clips) == len(TEST)
    status, out, _ = command(answer, *options)
    assert status == 0 and "obtained: development" in out and "there before: evaluation" in out
