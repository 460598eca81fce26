"""The readers of the package, each with valid files below a folder, and what may come of them once one is damaged."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import soundfile
import test_tut2017
import torch
from conftest import TINY, note_names, write_nsynth_split
from fuzz import Target
from mutations import damaged

from fmuc import datasets, experiments, features, paths, records
from fmuc.config import Run, run_from_dict
from fmuc.errors import FmucError
from fmuc.own import importing


def build(root: Path) -> list[Target]:
    """Every target, with its files below ``root``, to which ``FMUC_DATA`` points from now on."""
    os.environ["FMUC_DATA"] = str(root / "data")
    torch.set_num_threads(1)
    makers = (_records, _features, _nsynth, _tut2017, _own_audio, _sound_list, _config, _sounds)
    return [target for make in makers for target in make(root)]


# --- what training writes ---


def _records(root: Path) -> Iterator[Target]:
    """Records whose checksums are right, as somebody makes them who wants to be believed."""
    shipped = next((paths.SHIPPED_RECORDS / "mini").glob("nsynth-gm_fmuc_s0_*"))
    folder = shutil.copytree(shipped, root / shipped.name)

    def reseal() -> None:
        try:
            content = json.loads((folder / "run.json").read_text())
            (folder / "run.json").write_text(json.dumps(records.sealed(content, folder)))
        except (ValueError, AttributeError, RecursionError):
            pass  # nothing that could be sealed

    def fits(record: records.Record) -> bool:
        epochs, classes = len(record.history), len(record.classes)
        return record.kept.shape == (epochs, classes + 1, classes) and record.seen.shape == record.kept.shape[:2]

    yield Target("run record", folder, records.FILES, lambda: records.load_record(folder), fits, after=reseal)


# --- data ---


def _features(root: Path) -> Iterator[Target]:
    for split, per_family in (("train", 4), ("test", 2)):
        write_nsynth_split(root / "data" / "nsynth-gm", split, note_names(split, per_family), length=400)
    dataset = datasets.load("nsynth-gm")
    original = features.extract(dataset, TINY, workers=1, progress=False)

    def same(cache: features.FeatureCache) -> bool:
        cache.normalised(cache.patches_of(np.arange(len(dataset.clips))))
        return cache.patches.shape == original.patches.shape and all(
            np.array_equal(getattr(cache, name), getattr(original, name)) for name in ("clip_of_patch", "mean", "std"))

    def headers_only(content: bytes, rng: np.random.Generator, name: str) -> bytes:
        """The patches' values carry no checksum that is computed whenever a run begins."""
        if name != "patches.npy":
            return damaged(content, rng, name)
        return damaged(content[:128], rng, name) + content[128:] if rng.random() < 0.7 else content[: rng.integers(128)]

    files = ("features.json", "index.npz", "patches.npy")
    yield Target("feature cache", paths.features_dir("nsynth-gm", TINY.id), files,
                 lambda: features.open_cache(dataset, TINY), same, mutate=headers_only)


def _well_formed(dataset: datasets.Dataset) -> bool:
    ids = [clip.id for clip in dataset.clips]
    return len(set(ids)) == len(ids) > 0 and all(
        clip.path.is_file() and clip.split in datasets.SPLITS and clip.group
        and (clip.label in dataset.classes or clip.label is None) for clip in dataset.clips)


def _nsynth(root: Path) -> Iterator[Target]:
    folder = write_nsynth_split(root / "data" / "nsynth", "train", note_names("train", 3), length=80)

    def as_listed(dataset: datasets.Dataset) -> bool:
        index = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
        return _well_formed(dataset) and {clip.id: (clip.group, clip.label) for clip in dataset.clips} == {
            note: (row["instrument_str"], row["instrument_family_str"]) for note, row in index.items()}

    yield Target("NSynth's index", folder, ("examples.json",), lambda: datasets.load("nsynth"), as_listed)


def _tut2017(root: Path) -> Iterator[Target]:
    top = root / "data" / "tut2017"
    development = test_tut2017.write_development(top)
    test_tut2017.write_evaluation(top)
    evaluation = f"../{datasets.EVALUATION}/evaluation_setup"
    lists = ("meta.txt", f"{evaluation}/evaluate.txt", f"{evaluation}/map.txt")

    def as_listed(dataset: datasets.Dataset) -> bool:
        lines = [line for name in lists[:2] for line in (development / name).read_text(errors="replace").split("\n")]
        return (_well_formed(dataset) and len(dataset.clips) <= sum(bool(line.strip()) for line in lines)
                and all(clip.path.parent.name == "audio" for clip in dataset.clips))

    yield Target("TUT2017's lists", development, lists, lambda: datasets.load("tut2017"), as_listed)


def _own_audio(root: Path) -> Iterator[Target]:
    source = root / "sounds"
    for number, label in enumerate(("dog", "dog", "dog", "cat", "cat", "cat", "unlabelled")):
        (source / label).mkdir(parents=True, exist_ok=True)
        soundfile.write(source / label / f"{number}.wav", np.sin(np.arange(80) * (number + 1)), 16_000)
    importing.import_audio(source, "birds", progress=False, test_share=0.3, valid_share=0.0)

    def read() -> tuple:
        return datasets.load("birds"), datasets.own_settings("birds")

    yield Target("own audio", paths.dataset_dir("birds"), ("clips.csv", "own.json"), read,
                 lambda found: _well_formed(found[0]) and 0 < found[1].labelled_share <= 1)


def _sound_list(root: Path) -> Iterator[Target]:
    source = root / "sounds" / "list.csv"
    source.write_text("path,label,group,split\ndog/0.wav,dog,a,train\ndog/1.wav,dog,b,test\n\"cat/3.wav\",cat,c,train\n"
                      "cat/4.wav,cat,,test\nunlabelled/6.wav,,,train\n")

    def right(files: list) -> bool:
        return all(file.split in ("", *datasets.SPLITS) and file.label == file.label.strip() and file.group
                   for file in files)

    def read() -> list[importing.SoundFile]:
        files = importing.from_csv(source)
        importing.check_names(source.parent, files)  # as an import does
        return files

    yield Target("list of own sounds", source.parent, ("list.csv",), read, right)


def _sounds(root: Path) -> Iterator[Target]:
    folder, tone = root / "formats", np.sin(np.arange(600) / 9)
    folder.mkdir()
    stereo = np.stack([tone, 0.5 * tone], axis=1)
    for name, samples, subtype in (
            ("a16.wav", tone, "PCM_16"), ("a24.wav", stereo, "PCM_24"), ("af.wav", stereo, "FLOAT"),
            ("a.flac", stereo, "PCM_16"), ("a.ogg", tone, "VORBIS"), ("a.mp3", tone, None),
            ("a.aiff", tone, "PCM_16"), ("a.au", tone, "ULAW")):
        soundfile.write(folder / name, samples, 22_050, subtype=subtype)

        def read(path: Path = folder / name) -> np.ndarray:
            return features.read_audio(path, 22_050)

        yield Target(f"sound: {name}", folder, (name,), read, _is_sound)


def _is_sound(samples: np.ndarray) -> bool:
    return samples.dtype == np.float32 and samples.ndim == 1 and 0 < samples.size < 10**7 and bool(
        np.isfinite(samples).all())


# --- configurations ---


def _config(root: Path) -> Iterator[Target]:
    path, own = root / "config.json", root / "own.toml"
    path.write_text(json.dumps(asdict(experiments.make_run("mini", "nsynth-gm", "FMUC two thresh.", 0))))
    own.write_text('profile = "mini"\ndataset = "nsynth-gm"\nrow = "FMUC"\nname = "more passes"\nseed = 1\n\n'
                   "[selection]\npasses = 20\ntemperature = 3.0\n\n[training]\nepochs = 5\n")

    def right(run: Run) -> bool:
        again = run_from_dict(json.loads(json.dumps(asdict(run))))
        return again == run and again.id == run.id and "/" not in run.name and len(run.name) < 255

    def read() -> Run:
        try:
            content = json.loads(path.read_text())
        except (ValueError, RecursionError):  # the parser of JSON is no part of what is read here
            raise FmucError("no JSON") from None
        return run_from_dict(content)

    yield Target("configuration", root, (path.name,), read, right, names_file=False)
    yield Target("settings of one's own", root, (own.name,), lambda: experiments.choose_runs({}, own)[1],
                 lambda runs: all(map(right, runs)), names_file=False)
