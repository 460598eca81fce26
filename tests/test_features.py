from __future__ import annotations

import json
import os
import threading
import warnings

import librosa
import numpy as np
import pytest
import soundfile
import torch
from conftest import note_names, write_nsynth_split

from fmuc import datasets, features, paths
from fmuc.config import Features
from fmuc.errors import FmucError
from fmuc.experiments import NSYNTH, TUT
from fmuc.features import cut_patches, extract, log_mel, open_cache
from fmuc.machinery.atomic import folder_lock

SMALL = Features(16000, 512, 512, 12, 7)  # half a second: 16 frames, 2 patches and a tail


def librosa_log_mel(waveform: np.ndarray, preset: Features) -> np.ndarray:
    mel = librosa.feature.melspectrogram(
        y=waveform / np.abs(waveform).max(), sr=preset.sample_rate, n_fft=preset.window, hop_length=preset.hop,
        n_mels=preset.mel_bands, power=1.0)
    return np.log1p(mel)


def sound(seconds: float, rate: int) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    rng = np.random.default_rng(0)
    return (0.2 * np.sin(2 * np.pi * 220 * time) * np.exp(-time) + 0.05 * rng.standard_normal(len(time))).astype("f4")


@pytest.mark.parametrize(("preset", "length", "level"), [
    (NSYNTH, 64_000, 1), (NSYNTH, 1, 1), (NSYNTH, 511, 1), (NSYNTH, 512, 3e4), (NSYNTH, 196_613, 1e-30),
    (TUT, 88_200, 1), (Features(16000, 1024, 2048, 32, 32), 64_000, 1), (Features(8000, 302, 101, 20, 8), 8000, 1),
    (Features(16000, 256, 128, 100, 8), 8000, 1)])  # some of its bands are too narrow for a bin
def test_log_mel_equals_librosa_at_any_length_and_level(preset, length, level):
    waveform = (level * np.random.default_rng(0).standard_normal(length)).astype("f4")
    before = waveform.copy()
    with warnings.catch_warnings(action="ignore"):  # of narrow bands, and of a window longer than the sound
        expected, result = librosa_log_mel(waveform, preset), log_mel(waveform, preset)
    assert result.dtype == torch.float32 and result.shape == (preset.mel_bands, 1 + length // preset.hop)
    assert np.array_equal(waveform, before)
    np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [1, 4, 5, 6, 14, 15])
def test_patches_are_consecutive_the_tail_is_dropped_and_short_clips_are_filled(length):
    spectrogram = torch.rand(3, length)
    patches = cut_patches(spectrogram, 5)
    assert len(patches) == max(1, length // 5)
    for p, patch in enumerate(patches):
        for t in range(5):
            expected = spectrogram[:, 5 * p + t] if 5 * p + t < length else torch.zeros(3)
            assert torch.equal(patch[:, t], expected)


def add_longer_clips(root):
    """A second train instrument whose notes give 1 (short), 3 and 5 patches, one of them at another rate."""
    folder = root / "nsynth-train"
    index = json.loads((folder / "examples.json").read_text())
    for number, (length, rate) in enumerate(((900, 16000), (12000, 16000), (10000, 8000))):
        note = f"organ_acoustic_x-{number:03d}-100"
        index[note] = {"instrument_str": "organ_acoustic_x", "instrument_family_str": "organ"}
        soundfile.write(folder / "audio" / f"{note}.wav", sound(length / rate, rate), rate)
    (folder / "examples.json").write_text(json.dumps(index))


def test_cache_equals_direct_computation(nsynth_root):
    add_longer_clips(nsynth_root)
    dataset = datasets.load("nsynth")
    cache = extract(dataset, SMALL, workers=1, progress=False)
    sounds = (features.read_audio(clip.path, SMALL.sample_rate) for clip in dataset.clips)
    expected = [cut_patches(log_mel(waveform, SMALL), SMALL.patch_frames).numpy() for waveform in sounds]
    assert {len(part) for part in expected} == {1, 2, 3, 5}
    assert cache.patches.dtype == np.float16 and isinstance(cache.patches, np.memmap)
    assert np.array_equal(cache.patches, np.concatenate(expected).astype(np.float16))
    assert cache.clip_of_patch.tolist() == [i for i, part in enumerate(expected) for _ in part]
    clips = np.array([14, 2, 13, 0])
    rows = [row for clip in clips for row in np.flatnonzero(cache.clip_of_patch == clip)]
    assert cache.patches_of(clips).tolist() == rows
    assert cache.patches_of(np.empty(0, dtype=np.int64)).tolist() == []


def test_band_statistics_are_those_of_the_stored_train_patches(nsynth_root):
    dataset = datasets.load("nsynth")
    cache = extract(dataset, SMALL, workers=1, progress=False)
    train = cache.patches_of(dataset.indices("train"))
    stored = cache.patches[train].astype(np.float64)
    np.testing.assert_allclose(cache.mean, stored.mean(axis=(0, 2)), rtol=1e-5)
    np.testing.assert_allclose(cache.std, stored.std(axis=(0, 2)), rtol=1e-5)
    normalised = cache.normalised(train)
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised, (stored - cache.mean[:, None]) / cache.std[:, None], rtol=1e-4, atol=1e-5)


def test_other_sound_makes_a_cache_stale_and_leaves_the_statistics_to_the_train_split(nsynth_root):
    """The digest is of the content, not of when the files were written."""
    first = extract(datasets.load("nsynth"), SMALL, workers=1, progress=False)
    for path in nsynth_root.rglob("*.wav"):
        os.utime(path, (1, 1))
    again = extract(datasets.load("nsynth"), SMALL, workers=1, progress=False)
    assert again.digest == first.digest and len(first.digest) == 12
    for path in (nsynth_root / "nsynth-test" / "audio").iterdir():
        soundfile.write(path, np.random.default_rng(1).uniform(-1, 1, 8000), 16000)
    changed = datasets.load("nsynth")
    with pytest.raises(FmucError, match="was made from other sound.*python -m fmuc features --dataset nsynth"):
        open_cache(changed, SMALL)
    second = extract(changed, SMALL, workers=1, progress=False)
    assert second.digest != first.digest
    assert not np.array_equal(second.patches, first.patches)
    assert np.array_equal(second.mean, first.mean) and np.array_equal(second.std, first.std)


def test_silent_data_normalise_to_finite_values(data_root):
    folder = write_nsynth_split(data_root / "nsynth", "train", note_names("train", 1))
    for path in (folder / "audio").iterdir():
        soundfile.write(path, np.zeros(8000), 16000)
    cache = extract(datasets.load("nsynth"), SMALL, workers=1, progress=False)
    assert np.array_equal(cache.normalised(np.arange(len(cache.patches))), np.zeros(cache.patches.shape))


def test_workers_do_not_change_the_result(nsynth_root):
    dataset, folder = datasets.load("nsynth"), paths.features_dir("nsynth", SMALL.id)
    contents = []
    for workers in (1, 2):
        cache = extract(dataset, SMALL, workers=workers, progress=False)
        contents.append([(folder / name).read_bytes() for name in ("patches.npy", "features.json")]
                        + [cache.clip_of_patch.tolist(), cache.mean.tolist(), cache.std.tolist()])
        folder.rename(folder.with_name(f"by-{workers}"))
    assert contents[0] == contents[1]


@pytest.mark.parametrize("workers", [1, 2])
def test_error_names_the_file_and_leaves_no_folder(nsynth_root, workers):
    (nsynth_root / "nsynth-test" / "audio" / "vocal_acoustic_test-061-100.wav").write_text("no sound")
    with pytest.raises(FmucError, match=r"vocal_acoustic_test-061-100\.wav: is not sound"):
        extract(datasets.load("nsynth"), SMALL, workers=workers, progress=False)
    assert not any(path.is_dir() for path in paths.features_dir("nsynth", SMALL.id).parent.iterdir())
    with pytest.raises(FmucError, match="no features under .*: run 'python -m fmuc features --dataset nsynth"):
        open_cache(datasets.load("nsynth"), SMALL)


def test_what_a_killed_process_left_is_cleared_away(nsynth_root):
    folder = paths.features_dir("nsynth", SMALL.id)
    partial = folder.with_name(f".{folder.name}.partial")
    (partial / "patches.npy").mkdir(parents=True)
    extract(datasets.load("nsynth"), SMALL, workers=1, progress=False)
    assert [path for path in folder.parent.iterdir() if path.is_dir()] == [folder]


def test_the_second_of_two_that_want_the_same_cache_waits(nsynth_root):
    folder = paths.features_dir("nsynth", SMALL.id)
    second = threading.Thread(target=extract, args=(datasets.load("nsynth"), SMALL, 1, False))
    with folder_lock(folder):
        second.start()
        second.join(0.3)
        assert second.is_alive() and not folder.exists()
    second.join()
    assert folder.is_dir()


@pytest.mark.parametrize("damage", [
    lambda folder: os.truncate(folder / "patches.npy", 1000),
    lambda folder: np.save(folder / "patches.npy", np.array([{}]), allow_pickle=True),
    lambda folder: np.savez(folder / "index.npz", clip_of_patch=np.zeros(42, np.int64), mean=0, std=1),
    lambda folder: (folder / "patches.npy").unlink(),
], ids=["patches cut", "patches pickled", "another index", "file gone"])
def test_damaged_cache_is_refused_and_built_again(nsynth_root, damage):
    dataset, folder = datasets.load("nsynth"), paths.features_dir("nsynth", SMALL.id)
    before = np.array(extract(dataset, SMALL, workers=1, progress=False).patches)
    damage(folder)
    with pytest.raises(FmucError, match=rf"{folder.name} is damaged .*python -m fmuc features --dataset nsynth"):
        open_cache(dataset, SMALL)
    assert np.array_equal(extract(dataset, SMALL, workers=1, progress=False).patches, before)


def test_data_without_train_split_is_refused(data_root):
    write_nsynth_split(data_root / "nsynth", "test", note_names("test", 1))
    with pytest.raises(FmucError, match="nsynth has no train split"):
        extract(datasets.load("nsynth"), SMALL, workers=1, progress=False)
