"""scenes-sim: TUT2017's layout and format, unseen test places, reproducible bytes, clear errors."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import soundfile

from fmuc.datasets import DEVELOPMENT, EVALUATION, LABELS, Dataset
from fmuc.errors import FmucError
from fmuc.standins import scenes, scenes_sim
from fmuc.standins.render import ensure, render

NAME, TINY = "scenes-sim-smoke", {"train": (1, 2), "test": (1, 1)}
SECOND = scenes.RATE


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Dataset:
    """The real sounds, one second per clip instead of ten."""
    root = tmp_path_factory.mktemp("scenes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FMUC_DATA", str(root))
        patch.setitem(scenes_sim.SIZES, NAME, TINY)
        patch.setattr(scenes_sim, "SECONDS", 1)
        return render(NAME, workers=1, progress=False)


@pytest.fixture
def cheap(monkeypatch, data_root) -> Path:
    """An empty data folder, and noise instead of scenes, for tests of everything but the sound."""
    monkeypatch.setitem(scenes_sim.SIZES, NAME, TINY)
    monkeypatch.setattr(scenes_sim, "SECONDS", 1)
    monkeypatch.setattr(scenes_sim, "record",
                        lambda scene, n, rng: rng.uniform(-0.5, 0.5, (2, n)).astype(np.float32))
    return data_root


def test_it_loads_as_tut2017_with_unseen_test_places(rendered):
    assert rendered.classes == LABELS == tuple(scenes.SCENES)
    labels, groups = rendered.labels(), {}
    for split, per_scene in (("train", 2), ("test", 1)):
        files = rendered.indices(split)
        assert np.bincount(labels[files]).tolist() == [per_scene] * 15
        groups[split] = {rendered.clips[i].group for i in files}
        assert len(groups[split]) == 15
    assert not groups["train"] & groups["test"]
    assert len({clip.path.read_bytes() for clip in rendered.clips}) == len(rendered.clips)


def test_files_are_named_and_listed_as_in_the_real_parts(rendered):
    root = rendered.clips[0].path.parents[2]
    development, evaluation = root / DEVELOPMENT, root / EVALUATION
    rows = [line.split("\t") for line in (development / "meta.txt").read_text().splitlines()]
    assert rows == sorted(rows) and len(rows) == len(os.listdir(development / "audio")) == 30
    for file, label, recording in rows:
        start = int(file.split("_")[1])
        assert file == f"audio/{recording}_{start}_{start + 1}.wav" and label in LABELS
    truth = dict(line.split("\t") for line in (evaluation / "evaluation_setup/evaluate.txt").read_text().splitlines())
    originals = dict(line.split("\t") for line in (evaluation / "evaluation_setup/map.txt").read_text().splitlines())
    there = {f"audio/{file}" for file in os.listdir(evaluation / "audio")}
    assert set(truth) == set(originals.values()) == there
    assert all(file.removeprefix("audio/").removesuffix(".wav").isdecimal() for file in there)  # anonymous


def test_clips_are_audible_stereo_that_is_not_clipped(rendered):
    for path in (clip.path for clip in rendered.clips):
        info = soundfile.info(path)
        assert (info.format, info.subtype, info.samplerate, info.channels, info.frames) == (
            "WAV", "PCM_16", 44_100, 2, 44_100)
        samples, _ = soundfile.read(path)
        assert 1e-3 < np.abs(samples).max() < 0.95, path.name
        assert np.abs(samples[:, 0] - samples[:, 1]).max() > 1e-4, path.name


def test_reverberation_decays_by_60_db_within_its_time():
    impulse = np.zeros((2, 2 * SECOND), np.float32)
    impulse[:, 0] = 1
    tail = scenes.in_room(np.random.default_rng(0), impulse, 1.0, 0.0)[0]
    energy = np.array([np.sum(tail[int(s * SECOND) + 1:int((s + 0.1) * SECOND)] ** 2) for s in (0, 0.3, 0.6)])
    assert 10 * np.log10(energy[1:] / energy[:-1]) == pytest.approx([-18, -18], abs=2)


def test_a_finished_data_set_is_loaded_and_not_rendered_again(cheap, monkeypatch):
    monkeypatch.setattr("fmuc.standins.render.cores", lambda: 1)
    dataset = ensure(NAME, progress=False)
    monkeypatch.setattr(scenes_sim, "render", lambda *_: pytest.fail("rendered again"))
    assert render(NAME).clips == ensure(NAME).clips == dataset.clips and len(dataset.clips) == 45


def test_other_parameters_need_force_and_replace_the_whole_folder(cheap, monkeypatch):
    render(NAME, workers=1, progress=False)
    (cheap / NAME / "old.txt").touch()
    with pytest.raises(FmucError, match="other parameters .*--force"):
        render(NAME, seed=9, workers=1, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(scenes_sim, "record", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            render(NAME, seed=9, workers=1, progress=False, force=True)
    assert (cheap / NAME / "old.txt").exists() and [path for path in cheap.iterdir() if path.is_dir()] == [cheap / NAME]
    assert len(render(NAME, seed=9, workers=1, progress=False, force=True).clips) == 45
    assert not (cheap / NAME / "old.txt").exists()


def test_a_foreign_folder_is_never_overwritten(cheap):
    (cheap / NAME).mkdir()
    (cheap / NAME / "mine.txt").write_text("precious")
    with pytest.raises(FmucError, match="no rendered data set"):
        render(NAME, workers=1, progress=False, force=True)
    assert (cheap / NAME / "mine.txt").read_text() == "precious"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has this file that takes no byte")
def test_a_full_disk_is_called_so(cheap):
    recording = scenes_sim.plan(TINY, seed=0)[0]
    audio = cheap / DEVELOPMENT / "audio"
    audio.mkdir(parents=True)
    (audio / recording.files[0]).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        scenes_sim.write_recording(recording, cheap)
