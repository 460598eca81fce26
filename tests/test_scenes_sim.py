"""scenes-sim: TUT2017's layout and format, unseen test places, reproducible bytes, clear errors."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from fmuc.datasets import DEVELOPMENT, EVALUATION, LABELS, LOADERS, load_tut2017
from fmuc.errors import FmucError
from fmuc.standins import nsynth_gm, render, scene_places, scene_sources, scenes_sim
from fmuc.standins import scene_sounds as sounds
from fmuc.standins.render import STAND_INS, ensure, make

TINY = {"train": (1, 2), "test": (1, 1)}
SECOND = sounds.RATE


def _render(out: Path, *, sizes=TINY, seed: int = 3, force: bool = False) -> scenes_sim.Report:
    return make(scenes_sim.Recipe(sizes, seed), out, workers=1, progress=False, force=force)


def _digests(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> tuple[Path, scenes_sim.Report]:
    """The real sounds, one second per clip instead of ten."""
    root = tmp_path_factory.mktemp("scenes") / "scenes-sim"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes_sim, "SECONDS", 1)
        return root, _render(root)


@pytest.fixture
def cheap(monkeypatch):
    """Noise instead of scenes, for tests of everything but the sound."""
    monkeypatch.setattr(scenes_sim, "SECONDS", 1)
    monkeypatch.setattr(scenes_sim, "record",
                        lambda scene, n, rng: rng.uniform(-0.5, 0.5, (2, n)).astype(np.float32))


def test_it_loads_as_tut2017(rendered):
    dataset = load_tut2017(rendered[0], "scenes-sim")
    assert dataset.classes == LABELS == tuple(scene_places.SCENES)
    labels = dataset.labels()
    for split, per_scene in (("train", 2), ("test", 1)):
        assert np.bincount(labels[dataset.indices(split)]).tolist() == [per_scene] * 15
        assert rendered[1].clips[split] == 15 * per_scene and rendered[1].recordings[split] == 15


def test_test_places_are_unseen(rendered):
    clips = load_tut2017(rendered[0], "scenes-sim").clips
    groups = {split: {clip.group for clip in clips if clip.split == split} for split in ("train", "test")}
    assert len(groups["train"]) == len(groups["test"]) == 15 and not groups["train"] & groups["test"]
    files = [hashlib.sha256(clip.path.read_bytes()).hexdigest() for clip in clips]
    assert len(set(files)) == len(files)


def test_files_are_named_and_listed_as_in_the_real_parts(rendered):
    development, evaluation = rendered[0] / DEVELOPMENT, rendered[0] / EVALUATION
    rows = [line.split("\t") for line in (development / "meta.txt").read_text().splitlines()]
    assert rows == sorted(rows) and len(rows) == len(os.listdir(development / "audio")) == 30
    for file, label, recording in rows:
        start = int(file.split("_")[1])
        assert file == f"audio/{recording}_{start}_{start + 1}.wav" and label in LABELS
    truth = dict(line.split("\t") for line in (evaluation / "evaluation_setup/evaluate.txt").read_text().splitlines())
    originals = dict(line.split("\t") for line in (evaluation / "evaluation_setup/map.txt").read_text().splitlines())
    listed = (evaluation / "evaluation_setup/test.txt").read_text().splitlines()
    there = {f"audio/{file}" for file in os.listdir(evaluation / "audio")}
    assert set(listed) == set(truth) == set(originals.values()) == there
    assert all(file.removeprefix("audio/").removesuffix(".wav").isdecimal() for file in listed)  # anonymous


def test_clips_are_audible_stereo_that_is_not_clipped(rendered):
    for path in rendered[0].rglob("*.wav"):
        info = soundfile.info(path)
        assert (info.format, info.subtype, info.samplerate, info.channels, info.frames) == (
            "WAV", "PCM_16", 44_100, 2, 44_100)
        samples, _ = soundfile.read(path)
        assert 1e-3 < np.abs(samples).max() < 0.95, path.name
        assert np.abs(samples[:, 0] - samples[:, 1]).max() > 1e-4, path.name


def test_same_bytes_for_any_number_of_workers(tmp_path):
    recordings = scenes_sim.plan({"train": (1, 1), "test": (1, 1)}, seed=5)[5:9]
    for workers in (1, 2):
        (tmp_path / str(workers) / DEVELOPMENT / "audio").mkdir(parents=True)
        scenes_sim._write_audio(recordings, tmp_path / str(workers), workers, False)
    assert len(_digests(tmp_path / "1")) == 4 and _digests(tmp_path / "1") == _digests(tmp_path / "2")


def test_a_recording_does_not_depend_on_how_many_there_are():
    def sound_of(sizes):
        recording = next(r for r in scenes_sim.plan(sizes, seed=0) if (r.scene, r.split) == ("office", "test"))
        return recording.scene, recording.split, recording.number, recording.seed

    assert sound_of(TINY) == sound_of({"train": (4, 1), "test": (2, 3)})


@pytest.mark.parametrize("name", scene_sources.SOURCES)
def test_sources_have_their_level_and_are_used(name):
    sound = scene_sources.SOURCES[name](np.random.default_rng(7), 8 * SECOND)
    assert sound.shape == (2, 8 * SECOND) and sound.dtype == np.float32 and np.isfinite(sound).all()
    assert 0.05 < np.abs(sound).max() < 40
    assert any(name in scene.sources for scene in scene_places.SCENES.values())


def test_reverberation_decays_by_60_db_within_its_time():
    impulse = np.zeros((2, 2 * SECOND), np.float32)
    impulse[:, 0] = 1
    tail = sounds.in_room(np.random.default_rng(0), impulse, 1.0, 0.0)[0]
    energy = np.array([np.sum(tail[int(s * SECOND) + 1:int((s + 0.1) * SECOND)] ** 2) for s in (0, 0.3, 0.6)])
    assert 10 * np.log10(energy[1:] / energy[:-1]) == pytest.approx([-18, -18], abs=2)


def folders(root: Path) -> list[str]:
    return [path.name for path in root.iterdir() if path.is_dir()]


def test_a_finished_data_set_is_not_rendered_again(rendered, monkeypatch):
    monkeypatch.setattr(scenes_sim, "plan", lambda *_: pytest.fail("rendered again"))
    assert _render(rendered[0]) == rendered[1]


def test_other_parameters_need_force_and_replace_the_whole_folder(tmp_path, cheap):
    _render(tmp_path / "s")
    with pytest.raises(FmucError, match="other parameters"):
        _render(tmp_path / "s", seed=9)
    report = _render(tmp_path / "s", seed=9, sizes={"train": (1, 1), "test": (1, 1)}, force=True)
    assert report.parameters["seed"] == 9
    assert len(list((tmp_path / "s").rglob("*.wav"))) == sum(report.clips.values()) == 30
    assert folders(tmp_path) == ["s"]


def test_a_foreign_folder_is_never_overwritten(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "mine.txt").write_text("precious")
    with pytest.raises(FmucError, match="no rendered data set"):
        _render(tmp_path / "s", force=True)
    assert (tmp_path / "s" / "mine.txt").read_text() == "precious"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("disk full")])
def test_an_interrupted_rendering_leaves_what_was_there(tmp_path, cheap, monkeypatch, error):
    def fail(*_):
        raise error

    _render(tmp_path / "s")
    before = _digests(tmp_path / "s")
    monkeypatch.setattr(scenes_sim, "record", fail)
    for name in ("s", "other"):
        with pytest.raises(type(error)):
            _render(tmp_path / name, seed=9, force=True)
    assert _digests(tmp_path / "s") == before and folders(tmp_path) == ["s"]


@pytest.mark.parametrize(("changes", "message"), [
    ({"sizes": {"train": (1, 1)}}, "for each of train, test"),
    ({"sizes": TINY | {"test": (0, 1)}}, "both positive"),
    ({"sizes": TINY | {"test": (1, 2, 3)}}, "recordings per scene, clips per recording"),
    ({"sizes": TINY | {"train": (2000, 1)}}, "26,000"),
    ({"seed": -1}, "seed=-1"),
])
def test_bad_parameters_give_one_line(tmp_path, changes, message):
    with pytest.raises(FmucError, match=message) as caught:
        _render(tmp_path / "s", **changes)
    assert "\n" not in str(caught.value) and not folders(tmp_path)


def test_it_is_a_stand_in_that_is_rendered_where_it_is_missing(data_root, cheap, monkeypatch):
    assert {*scenes_sim.SIZES, *nsynth_gm.SIZES} == set(STAND_INS) == LOADERS.keys() - {"nsynth", "tut2017"}
    monkeypatch.setattr(render, "cores", lambda: 1)
    dataset = ensure("scenes-sim-smoke", progress=False)
    assert len(dataset.clips) == 15 * (2 * 2 + 1) and dataset.name == "scenes-sim-smoke"
    assert ensure("scenes-sim-smoke", progress=False).digest == dataset.digest
