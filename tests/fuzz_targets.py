"""The readers of the package, each with a valid state on the disk, the files to damage, and what may come of it."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import nbformat
import numpy as np
import project_state
import pytest
import soundfile
import test_tut2017
import torch
from conftest import TINY, note_names, write_nsynth_split
from mutations import damaged, edit_json
from nbformat.v4 import new_code_cell, new_notebook, new_output

from fmuc import checkpoints, checks, datasets, experiments, features, notebooks, output_checks, paths, record_checks
from fmuc import datasets as tut2017
from fmuc import fetch as archives
from fmuc import figures as figure_files
from fmuc import notebooks as notebook_files
from fmuc import tables as published
from fmuc.config import run_from_dict
from fmuc.errors import FmucError
from fmuc.features import open_cache
from fmuc.own import check as sound_scan
from fmuc.own import importing as own_audio
from fmuc.own import importing as sound_lists
from fmuc.records import FILES, Record, load_record, sealed
from fmuc.splits import load_split
from fmuc.standins import render as rendering

Mutate = Callable[[bytes, np.random.Generator, str], bytes]


@dataclass
class Target:
    """A reader. ``read`` gives what the ``files`` of ``place`` hold, which ``right`` must believe, or it raises one of
    ``refusals`` with a clear line; ``after`` runs once a file was damaged."""

    name: str
    place: Path
    files: tuple[str, ...]
    read: Callable[[], object]
    right: Callable[[object], bool]
    refusals: tuple[type[Exception], ...] = (FmucError,)
    mutate: Mutate = damaged
    after: Callable[[], None] = lambda: None
    names_file: bool = True  # whether the line must name a file or its folder
    contents: dict[str, bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.contents = {name: (self.place / name).read_bytes() for name in self.files}

    def restore(self) -> None:
        for name, content in self.contents.items():
            (self.place / name).write_bytes(content)


def build(root: Path) -> list[Target]:
    """Every target, with its files below ``root``, to which ``FMUC_DATA`` points from now on."""
    project_state.use(root, pytest.MonkeyPatch())  # for as long as this process lives
    torch.set_num_threads(1)
    targets: list[Target] = []
    for make in (_records, _checkpoint, _caches, _nsynth, _tut, _own, _sound_list, _config, _published, _archives,
                 _sounds, _notebooks, _figures, _rendered):
        targets += make(root)
    return targets


# --- runs ---


def _records(root: Path) -> list[Target]:
    for split, per_family in (("train", 4), ("valid", 1), ("test", 2)):
        write_nsynth_split(root / "data" / "nsynth-gm", split, note_names(split, per_family), length=400)
    run = experiments.make_run("mini", "nsynth-gm", "FMUC", 0)
    folder, dataset = root / run.name, datasets.load("nsynth-gm")
    project_state.write_record(folder, run)
    original, drawn = load_record(folder), load_split(folder / "split.json", dataset)
    resealed = root / f"resealed-{run.name}"
    shutil.copytree(folder, resealed)

    def same(record: Record) -> bool:
        return (record.run, record.classes, record.results, record.provenance) == (
            original.run, original.classes, original.results, original.provenance) and record.history.equals(
            original.history) and not record_checks.difference(record, original)

    def reseal() -> None:
        try:
            content = json.loads((resealed / "run.json").read_text())
            (resealed / "run.json").write_text(json.dumps(sealed(content, resealed)))
        except (ValueError, AttributeError, RecursionError):
            pass  # nothing that could be sealed

    def read_sealed() -> Record:
        record = load_record(resealed)
        problems = record_checks.mismatches(record, resealed)
        assert all(isinstance(problem, str) for problem in problems)
        return record

    return [
        Target("run record", folder, FILES, lambda: load_record(folder), same),
        Target("run record, sums made right", resealed, FILES, read_sealed, after=reseal,
               right=lambda record: record.kept.shape[1:] == (len(record.classes) + 1, len(record.classes))
               and record.seen.shape == record.kept.shape[:2] and len(record.history) == len(record.kept)),
        Target("split.json", folder, ("split.json",), lambda: load_split(folder / "split.json", dataset),
               lambda split: split.digest == drawn.digest),
    ]


def _checkpoint(root: Path) -> list[Target]:
    path = root / "run" / "checkpoint-0001.safetensors"
    path.parent.mkdir()
    tensors = {"net.weight": torch.arange(12.0).reshape(3, 4), "adam.0.step": torch.tensor(3.0)}
    content = {"run": "0a1b2c3d", "data": "x-y", "rows": [{"epoch": 1, "quality": 0.5}], "seconds": 1.0}
    checkpoints.write(path, tensors, content)

    def same(read: tuple[dict, dict]) -> bool:
        return read[1] == content and read[0].keys() == tensors.keys() and all(
            torch.equal(read[0][name], value) and read[0][name].dtype == value.dtype for name, value in tensors.items())

    return [Target("checkpoint", path.parent, (path.name,), lambda: checkpoints.read(path), same,
                   refusals=(checkpoints.Unusable,), names_file=False)]


# --- data ---


def _caches(root: Path) -> list[Target]:
    dataset = datasets.load("nsynth-gm")
    original = features.extract(dataset, TINY, workers=1, progress=False)
    folder = paths.features_dir("nsynth-gm", TINY.id)

    def same(cache: object) -> bool:
        cache.normalised(cache.patches_of(np.arange(len(dataset.clips))))
        return cache.patches.shape == original.patches.shape and all(
            np.array_equal(getattr(cache, name), getattr(original, name)) for name in ("clip_of_patch", "mean", "std"))

    def headers_only(content: bytes, rng: np.random.Generator, name: str) -> bytes:
        """The patches themselves carry no checksum: it would have to be computed whenever a run begins."""
        if name != "patches.npy":
            return damaged(content, rng, name)
        return damaged(content[:128], rng, name) + content[128:] if rng.random() < 0.7 else content[: rng.integers(128)]

    return [Target("feature cache", folder, ("features.json", "index.npy", "bands.npz", "patches.npy"),
                   lambda: open_cache(dataset, TINY), same, mutate=headers_only)]


def _well_formed(dataset: datasets.Dataset) -> bool:
    ids = [clip.id for clip in dataset.clips]
    return len(set(ids)) == len(ids) > 0 and all(
        clip.path.is_file() and clip.split in datasets.SPLITS and clip.group
        and (clip.label in dataset.classes or clip.label is None) for clip in dataset.clips)


def _nsynth(root: Path) -> list[Target]:
    folder = write_nsynth_split(root / "data" / "nsynth", "train", note_names("train", 3), length=80)

    def as_listed(dataset: datasets.Dataset) -> bool:
        index = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
        return _well_formed(dataset) and {clip.id: (clip.group, clip.label) for clip in dataset.clips} == {
            note: (row["instrument_str"], row["instrument_family_str"]) for note, row in index.items()}

    return [Target("NSynth's index", folder, ("examples.json",), lambda: datasets.load("nsynth"), as_listed)]


def _tut(root: Path) -> list[Target]:
    top = root / "data" / "tut2017"
    development = test_tut2017.write_development(top)
    test_tut2017.write_evaluation(top)
    (development / "error.txt").write_text("audio/b020_90_100.wav\t1.5\t2.25\tmicrophone failure\n")
    lists = ("meta.txt", f"../{tut2017.EVALUATION}/evaluation_setup/evaluate.txt",
             f"../{tut2017.EVALUATION}/evaluation_setup/map.txt", "error.txt")

    def read() -> tuple:
        return datasets.load("tut2017"), tut2017.read_error_list(top)

    def as_listed(found: tuple) -> bool:
        dataset, errors = found
        lines = [line for name in lists[:2] for line in (development / name).read_bytes().split(b"\n")]
        listed = len([line for line in lines if line.strip()])
        inside = all(clip.path.parent.name == "audio" for clip in dataset.clips)
        return _well_formed(dataset) and inside and len(dataset.clips) <= listed and all(
            0 <= error.onset <= error.offset < float("inf") for error in errors)

    return [Target("TUT2017's lists", development, lists, read, as_listed)]


def _own(root: Path) -> list[Target]:
    source = root / "sounds"
    for number, label in enumerate(("dog", "dog", "dog", "cat", "cat", "cat", "unlabelled")):
        (source / label).mkdir(parents=True, exist_ok=True)
        soundfile.write(source / label / f"{number}.wav", np.sin(np.arange(80) * (number + 1)), 16_000)
    own_audio.import_audio(source, "birds", progress=False, test_share=0.3, valid_share=0.0)
    folder = paths.dataset_dir("birds")

    def read() -> tuple:
        return datasets.load("birds"), experiments.preset("smoke", "birds").labelled_share

    def right(found: tuple) -> bool:
        return _well_formed(found[0]) and 0 < found[1] <= 1

    return [Target("own audio", folder, (own_audio.CLIPS, own_audio.RECORD), read, right)]


def _sound_list(root: Path) -> list[Target]:
    source = root / "sounds" / "list.csv"
    source.write_text("path,label,group,split\ndog/0.wav,dog,a,train\ndog/1.wav,dog,b,test\n\"cat/3.wav\",cat,c,train\n"
                      "cat/4.wav,cat,,test\nunlabelled/6.wav,,,train\n")

    def read() -> list:
        files, _ = sound_lists.from_csv(source)
        sound_lists.require_distinct(source.parent, files)
        sound_lists.require_two_classes(source.name, files)
        sound_lists.probe(source.parent, files, progress=False)
        return files

    def right(files: list) -> bool:
        return all(file.split in ("", *datasets.SPLITS) and file.label == file.label.strip() and file.group
                   and (source.parent / file.path).is_file() for file in files)

    return [Target("list of own sounds", source.parent, ("list.csv",), read, right)]


def _sounds(root: Path) -> list[Target]:
    folder, tone = root / "formats", np.sin(np.arange(600) / 9)
    folder.mkdir()
    stereo, targets = np.stack([tone, 0.5 * tone], axis=1), []
    for name, samples, subtype in (
            ("a16.wav", tone, "PCM_16"), ("a24.wav", stereo, "PCM_24"), ("af.wav", stereo, "FLOAT"),
            ("a.flac", stereo, "PCM_16"), ("a.ogg", tone, "VORBIS"), ("a.mp3", tone, None),
            ("a.aiff", tone, "PCM_16"), ("a.au", tone, "ULAW")):
        soundfile.write(folder / name, samples, 22_050, subtype=subtype)

        def read(path: Path = folder / name) -> np.ndarray:
            assert isinstance(sound_scan.decode(str(path)), sound_scan.Sound)
            with suppress(FmucError):  # a header that can be read, perhaps
                sound_lists.probe(folder, [sound_lists.SoundFile("list", path.name, "a", "g")], progress=False)
            return features.read_audio(path, 22_050)

        targets.append(Target(f"sound: {name}", folder, (name,), read, _is_sound))
    return targets


def _is_sound(samples: np.ndarray) -> bool:
    return samples.dtype == np.float32 and samples.ndim == 1 and 0 < samples.size < 10**7 and bool(
        np.isfinite(samples).all())


# --- what is given, published, packed ---


def _config(root: Path) -> list[Target]:
    path = root / "config.json"
    path.write_text(json.dumps(asdict(experiments.make_run("mini", "nsynth-gm", "FMUC two thresh.", 0))))

    def mutate(content: bytes, rng: np.random.Generator, name: str) -> bytes:
        changed = edit_json(content, rng)
        try:
            json.loads(changed)
        except (ValueError, RecursionError):
            return content  # drawn again: the text is not what is read here
        return changed

    def read() -> tuple:
        return run_from_dict(json.loads(path.read_text()))

    def right(run: object) -> bool:
        again = run_from_dict(json.loads(json.dumps(asdict(run))))
        return again == run and again.id == run.id and "/" not in run.name and len(run.name) < 255

    return [Target("configuration", root, ("config.json",), read, right, mutate=mutate, names_file=False)]


def _published(root: Path) -> list[Target]:
    folder = root / "published"
    shutil.copytree(paths.PUBLISHED, folder)
    paths.PUBLISHED = folder
    names = tuple(published.TEXTS)

    def right(frames: dict) -> bool:
        return all(frame[column].dropna().between(0, 100).all() and frame[column].dtype.kind in "if"
                   for name, frame in frames.items() for column in published.NUMBERS[name])

    return [Target("published numbers", folder, tuple(f"{name}.csv" for name in names),
                   lambda: {name: published.read(name) for name in names}, right)]


def _archives(root: Path) -> list[Target]:
    members = {"set/index.txt": b"one\ttwo\n", "set/audio/1.wav": bytes(range(256)) * 4, "set/audio/2.wav": b""}
    folder, out, targets = root / "archives", root / "unpacked", []
    folder.mkdir()
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    (folder / "a.tar.gz").write_bytes(gzip.compress(packed.getvalue(), mtime=0))
    for name in ("a.zip", "a.tar.gz"):

        def read(path: Path = folder / name) -> dict[str, bytes]:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            archives.unpack([path], out, max_bytes=100_000, max_members=20, progress=False)
            return {file.relative_to(out).as_posix(): file.read_bytes() for file in out.rglob("*") if file.is_file()}

        def right(found: dict[str, bytes]) -> bool:
            """No byte of a file is wrong; the names of a zip carry no checksum."""
            return sorted(found.values()) == sorted(members.values())

        targets.append(Target(f"archive: {name}", folder, (name,), read, right))
    return targets


def _notebooks(root: Path) -> list[Target]:
    folder = root / "notebooks"
    folder.mkdir()
    parameters = 'profile = "mini"\nsource = "shipped"\ndataset = ""\nepochs = 3\nseeds = [0, 1]\nfast = True'
    cells = [new_code_cell(parameters, metadata={"tags": ["parameters"]}), new_code_cell("1 + 1", outputs=[
        new_output("execute_result", {"text/plain": "2"}, execution_count=1)])]
    nbformat.write(new_notebook(cells=cells), folder / "00_first.ipynb")
    (folder / "manifest.json").write_text('{"00_first": "0123"}')
    (folder / "given.json").write_text(json.dumps({"epochs": "4", "rate": "2", "seeds": "5, 6", "fast": "false"}))

    def read() -> dict:
        return notebook_files.defaults(notebook_files.read(folder / "00_first.ipynb"), "00_first.ipynb")

    def bound() -> dict:
        known = {"profile": "mini", "epochs": 3, "rate": 0.5, "seeds": [0, 1], "fast": True}
        given = json.loads((folder / "given.json").read_text())
        if not isinstance(given, dict):
            raise FmucError("nothing is given")
        return notebook_files.bind(known, given, "given.json")

    def typed(values: dict) -> bool:
        kinds = {"profile": str, "epochs": int, "rate": float, "seeds": list, "fast": bool}
        return all(type(values[name]) is kind for name, kind in kinds.items())

    def parsable(content: bytes, rng: np.random.Generator, name: str) -> bytes:
        changed = edit_json(content, rng)
        try:
            json.loads(changed)
        except (ValueError, RecursionError):
            return content
        return changed

    job = notebooks.Job(folder / "00_first.ipynb", folder / "00_first.ipynb", {}, "", "", 0, 1)
    return [
        Target("notebook", folder, ("00_first.ipynb",), read, lambda found: all(name.isidentifier() for name in found)),
        Target("notebook parameters", folder, ("given.json",), bound, typed, mutate=parsable, names_file=False),
        Target("notebooks' manifest", folder, ("manifest.json",), lambda: notebooks._manifest(job),
               lambda found: isinstance(found, dict)),
    ]


def _figures(root: Path) -> list[Target]:
    folder = paths.FIGURES / "mini"
    row = figure_files._save("fig1", "mini", "", "figure", {"fig1.svg": b"<svg/>", "fig1.csv": b"a\n1\n"}, [], "text")

    def right(group: checks.Group) -> bool:
        """What is wrong is told, in clear lines; only the words of the alt text may be others."""
        if group.problems:
            return all(problem.isprintable() for problem in group.problems)
        there = json.loads((folder / "manifest/fig1.json").read_text()) | {"alt": row["alt"]}
        pictures = (folder / "fig1.svg").read_bytes(), (folder / "fig1.csv").read_bytes()
        return there == row and pictures == (b"<svg/>", b"a\n1\n")

    return [Target("manifest of figures", folder, ("manifest/fig1.json", "fig1.svg", "fig1.csv"),
                   lambda: output_checks.figures([], folder), right)]


def _rendered(root: Path) -> list[Target]:
    folder, parameters = root / "rendered", {"seed": 0, "sizes": [1, 2]}
    folder.mkdir()
    rendering.write_record(folder, "a stand-in", {"parameters": parameters, "clips": 3})
    return [Target("record of a stand-in", folder, (rendering.RECORD,),
                   lambda: rendering.stored_report(folder, parameters, force=False),
                   lambda report: report["parameters"] == parameters)]
