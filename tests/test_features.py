from __future__ import annotations

import json
import mmap
import pickle
import warnings
from dataclasses import replace

import librosa
import numpy as np
import pytest
import soundfile
import torch
from conftest import note_names, write_nsynth_split

from fmuc import datasets, features, paths
from fmuc.config import Features
from fmuc.errors import FmucError
from fmuc.features import cut_patches, extract, log_mel, open_cache
from fmuc.splits import draw_split

NSYNTH = Features(16000, 1024, 512, 128, 126)
TUT2017 = Features(22050, 1024, 342, 80, 140)
MINI = Features(16000, 1024, 2048, 32, 32)
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


@pytest.mark.parametrize("preset", [NSYNTH, TUT2017, MINI], ids=["nsynth", "tut2017", "mini"])
def test_log_mel_equals_librosa(preset):
    waveform = sound(4, preset.sample_rate)
    result = log_mel(waveform, preset)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), librosa_log_mel(waveform, preset), atol=1e-4)
    torch.testing.assert_close(log_mel(torch.from_numpy(waveform), preset), result)


@pytest.mark.parametrize("length", [1, 511, 512, 128 * 512 - 1, 128 * 512, 3 * 128 * 512 + 5])
@pytest.mark.parametrize("level", [1e-30, 1.0, 3e4])
def test_log_mel_of_any_length_and_level(length, level):
    """Shorter than a window, as long as the blocks that the frames are transformed in, and longer."""
    waveform = (level * np.random.default_rng(0).standard_normal(length)).astype("f4")
    with warnings.catch_warnings(action="ignore"):  # librosa's: a window longer than the sound
        expected = librosa_log_mel(waveform, NSYNTH)
    assert expected.shape == (128, 1 + length // 512)
    np.testing.assert_allclose(log_mel(waveform, NSYNTH).numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("preset", [
    Features(16000, 1000, 250, 40, 8), Features(44100, 2048, 4096, 64, 8), Features(8000, 302, 101, 20, 8),
    Features(22050, 64, 7, 9, 8), Features(16000, 256, 128, 100, 8),
], ids=["not a power of two", "hop beyond the window", "hop odd", "small", "bands without a bin"])
def test_log_mel_with_other_settings(preset):
    waveform = sound(0.5, preset.sample_rate)
    with warnings.catch_warnings(action="ignore"):  # of the last: some of its bands are too narrow
        expected, result = librosa_log_mel(waveform, preset), log_mel(waveform, preset)
    np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["float64", "every other sample", "read-only"])
def test_log_mel_of_any_array(kind):
    waveform = sound(1, 16000)
    given = {"float64": waveform.astype(np.float64), "every other sample": np.repeat(waveform, 2)[::2],
             "read-only": waveform.copy()}[kind]
    given.flags.writeable = kind != "read-only"
    assert torch.equal(log_mel(given, NSYNTH), log_mel(waveform, NSYNTH))


def test_log_mel_does_not_hide_what_is_not_a_number():
    waveform = sound(1, 16000)
    waveform[8000] = np.nan
    assert torch.isnan(log_mel(waveform, NSYNTH)).any(dim=0).nonzero().flatten().tolist() == [15, 16]


def test_log_mel_does_not_depend_on_level_nor_change_its_input():
    waveform = sound(1, 16000)
    before = waveform.copy()
    torch.testing.assert_close(log_mel(waveform, NSYNTH), log_mel(waveform * 0.25, NSYNTH))
    assert np.array_equal(waveform, before)


def test_silence_is_zero():
    assert torch.equal(log_mel(np.zeros(64000, "f4"), NSYNTH), torch.zeros(128, 126))


@pytest.mark.parametrize(("preset", "seconds", "frames", "patches"), [
    (NSYNTH, 4, 126, 1), (MINI, 4, 32, 1), (TUT2017, 10, 645, 4),
])
def test_patch_counts_of_the_data_sets(preset, seconds, frames, patches):
    spectrogram = log_mel(sound(seconds, preset.sample_rate), preset)
    assert spectrogram.shape == (preset.mel_bands, frames)
    assert cut_patches(spectrogram, preset.patch_frames).shape == (patches, preset.mel_bands, preset.patch_frames)


@pytest.mark.parametrize("length", [1, 4, 5, 6, 14, 15])
def test_patches_are_consecutive_the_tail_is_dropped_and_short_clips_are_filled(length):
    spectrogram = torch.rand(3, length)
    patches = cut_patches(spectrogram, 5)
    assert len(patches) == max(1, length // 5)
    for p, patch in enumerate(patches):
        for t in range(5):
            expected = spectrogram[:, 5 * p + t] if 5 * p + t < length else torch.zeros(3)
            assert torch.equal(patch[:, t], expected)


def direct_patches(dataset, preset) -> list[np.ndarray]:
    sounds = (features.read_audio(clip.path, preset.sample_rate) for clip in dataset.clips)
    return [cut_patches(log_mel(waveform, preset), preset.patch_frames).numpy() for waveform in sounds]


def add_longer_clips(root):
    """A second train instrument whose notes give 1 (short), 3 and 5 patches, one of them at another rate."""
    folder = root / "nsynth-train"
    index = json.loads((folder / "examples.json").read_text())
    for number, (length, rate) in enumerate(((900, 16000), (12000, 16000), (10000, 8000))):
        note = f"organ_acoustic_x-{number:03d}-100"
        index[note] = {"instrument_str": "organ_acoustic_x", "instrument_family_str": "organ"}
        soundfile.write(folder / "audio" / f"{note}.wav", sound(length / rate, rate), rate)
    (folder / "examples.json").write_text(json.dumps(index))


def test_cache_equals_direct_computation(nsynth_root, monkeypatch):
    add_longer_clips(nsynth_root)
    monkeypatch.setattr(features, "_CHUNK", 4)  # several chunks, among them one without a train clip
    dataset = datasets.load("nsynth")
    cache = extract(dataset, SMALL, workers=1, progress=False)
    expected = direct_patches(dataset, SMALL)
    assert {len(part) for part in expected} == {1, 2, 3, 5}
    assert cache.patches.dtype == np.float16 and isinstance(cache.patches, np.memmap)
    assert np.array_equal(cache.patches, np.concatenate(expected).astype(np.float16))
    assert cache.clip_of_patch.tolist() == [i for i, part in enumerate(expected) for _ in part]
    assert (cache.features, cache.digest) == (SMALL, dataset.digest)


def test_band_statistics_are_those_of_the_stored_train_patches(nsynth_root, monkeypatch):
    monkeypatch.setattr(features, "_CHUNK", 4)
    dataset = datasets.load("nsynth")
    cache = extract(dataset, SMALL, workers=1, progress=False)
    stored = cache.patches[cache.patches_of(dataset.indices("train"))].astype(np.float64)
    np.testing.assert_allclose(cache.mean, stored.mean(axis=(0, 2)), rtol=1e-5)
    np.testing.assert_allclose(cache.std, stored.std(axis=(0, 2)), rtol=1e-5)
    normalised = cache.normalised(cache.patches_of(dataset.indices("train")))
    assert normalised.dtype == np.float32
    np.testing.assert_allclose(normalised.mean(axis=(0, 2)), 0, atol=1e-4)
    np.testing.assert_allclose(normalised.std(axis=(0, 2)), 1, atol=1e-4)


def test_normalised_is_by_band_and_leaves_the_cache_alone(nsynth_root):
    cache = extract(datasets.load("nsynth"), SMALL, workers=1, progress=False)
    before = np.array(cache.patches)
    rows = np.array([5, 0, 5])
    for patch, row in zip(cache.normalised(rows), rows, strict=True):
        for band in range(SMALL.mel_bands):
            expected = (before[row, band].astype(np.float64) - cache.mean[band]) / cache.std[band]
            np.testing.assert_allclose(patch[band], expected, rtol=1e-4, atol=1e-5)
    assert np.array_equal(cache.patches, before)


@pytest.mark.parametrize("length", [1, 8, 126, 1024])
def test_normalised_is_numpys_formula_bit_for_bit(length):
    """For every float16 there is, infinite ones, those below the normal numbers and those that are none included."""
    values = np.resize(np.arange(2**16, dtype=np.uint16), -(-(2**16) // (3 * length)) * 3 * length)
    rng = np.random.default_rng(length)
    mean, std = rng.standard_normal(3).astype("f4"), rng.uniform(1e-5, 3, 3).astype("f4")
    patches = values.view(np.float16).reshape(-1, 3, length)
    shape = Features(16000, 512, 512, 3, length)
    rows = rng.permutation(len(patches))
    found = features.FeatureCache(patches, np.arange(len(patches)), mean, std, shape, "").normalised(rows)
    with np.errstate(all="ignore"):
        expected = (patches[rows].astype(np.float32) - mean[:, None]) / std[:, None]
    assert found.dtype == np.float32 and np.array_equal(found.view(np.int32), expected.view(np.int32))


@pytest.mark.parametrize("row", [-1, 42])
def test_a_patch_that_does_not_exist_is_refused(nsynth_root, row):
    cache = extract(datasets.load("nsynth"), SMALL, workers=1, progress=False)
    assert len(cache.patches) == 42
    with pytest.raises(IndexError, match="there are 42 patches"):
        cache.normalised(np.array([0, row]))


def test_prefetch_asks_for_the_pages_of_each_run_of_patches_once(nsynth_root, monkeypatch):
    cache, asked = extract(datasets.load("nsynth"), SMALL, workers=1, progress=False), []

    class Pages(mmap.mmap):
        def madvise(self, *advice):
            asked.append(advice)
            super().madvise(*advice)

    row, header = 12 * 7 * 2, cache.patches.offset
    with open(paths.features_dir("nsynth", SMALL.id) / "patches.npy", "rb") as file:
        pages = Pages(file.fileno(), 0, prot=mmap.PROT_READ)
    patches = np.ndarray.__new__(np.memmap, cache.patches.shape, np.float16, pages, header)
    patches.offset = header
    mapped = replace(cache, patches=patches)
    mapped.prefetch(np.array([9, 2, 40, 3, 9, 41, 4]))
    starts = [header + first * row for first in (2, 9, 40)]
    ends = [header + (last + 1) * row for last in (4, 9, 41)]
    assert [start % mmap.PAGESIZE for _, start, _ in asked] == [0] * 3
    assert all(0 <= begin - start < mmap.PAGESIZE for begin, (_, start, _) in zip(starts, asked, strict=True))
    assert [start + length for _, start, length in asked] == ends
    asked.clear()
    mapped.prefetch(np.empty(0, dtype=np.int64))
    replace(cache, patches=np.array(patches)).prefetch(np.arange(3))  # in memory: nothing to ask for
    assert asked == []
    assert np.array_equal(mapped.normalised(np.arange(42)), cache.normalised(np.arange(42))) and len(asked) == 1


def test_test_clips_do_not_enter_the_statistics(nsynth_root):
    first = extract(datasets.load("nsynth"), SMALL, workers=1, progress=False)
    mean, std = first.mean.copy(), first.std.copy()
    for path in (nsynth_root / "nsynth-test" / "audio").iterdir():
        soundfile.write(path, np.random.default_rng(1).uniform(-1, 1, 8000), 16000)
    (paths.features_dir("nsynth", SMALL.id) / "features.json").unlink()
    second = extract(datasets.load("nsynth"), SMALL, workers=1, progress=False)
    assert not np.array_equal(second.patches, first.patches)
    assert np.array_equal(second.mean, mean) and np.array_equal(second.std, std)


def test_silent_data_normalise_to_finite_values(data_root):
    folder = write_nsynth_split(data_root / "nsynth", "train", note_names("train", 1))
    for path in (folder / "audio").iterdir():
        soundfile.write(path, np.zeros(8000), 16000)
    cache = extract(datasets.load("nsynth"), SMALL, workers=1, progress=False)
    assert np.array_equal(cache.normalised(np.arange(len(cache.patches))), np.zeros(cache.patches.shape))


def test_every_patch_belongs_to_exactly_one_part_of_a_split(nsynth_root):
    add_longer_clips(nsynth_root)
    dataset = datasets.load("nsynth")
    cache = extract(dataset, SMALL, workers=1, progress=False)
    split = draw_split(dataset, 0.3, 0)
    parts = [split.labelled, split.unlabelled, split.test, dataset.indices("valid")]
    patches = [cache.patches_of(part) for part in parts]
    assert sorted(np.concatenate(patches)) == list(range(len(cache.patches)))
    for part, rows in zip(parts, patches, strict=True):
        assert set(cache.clip_of_patch[rows]) == set(part)


def test_patches_of_keeps_the_given_order(nsynth_root):
    add_longer_clips(nsynth_root)
    cache = extract(datasets.load("nsynth"), SMALL, workers=1, progress=False)
    clips = np.array([14, 2, 13, 0])
    expected = [row for clip in clips for row in np.flatnonzero(cache.clip_of_patch == clip)]
    assert cache.patches_of(clips).tolist() == expected
    assert cache.patches_of(np.empty(0, dtype=np.int64)).tolist() == []


def test_workers_do_not_change_the_result(nsynth_root, monkeypatch):
    monkeypatch.setattr(features, "_CHUNK", 8)
    dataset, folder = datasets.load("nsynth"), paths.features_dir("nsynth", SMALL.id)
    contents = []
    for workers in (1, 2):
        extract(dataset, SMALL, workers=workers, progress=False)
        contents.append([(folder / name).read_bytes() for name in ("patches.npy", "index.npy", "features.json")]
                        + [np.load(folder / "bands.npz")[key].tolist() for key in ("mean", "std")])
        folder.rename(folder.with_name(f"by-{workers}"))
    assert contents[0] == contents[1]


def test_error_names_the_file_and_survives_the_way_back_from_a_worker(nsynth_root):
    (nsynth_root / "nsynth-test" / "audio" / "vocal_acoustic_test-061-100.wav").write_text("no sound")
    with pytest.raises(FmucError, match=r"vocal_acoustic_test-061-100\.wav: is not sound") as caught:
        extract(datasets.load("nsynth"), SMALL, workers=1, progress=False)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert list((nsynth_root.parent / "features").iterdir()) == []


@pytest.mark.parametrize("error", [FmucError("bad"), KeyboardInterrupt()])
def test_exception_in_the_middle_leaves_no_folder(nsynth_root, monkeypatch, error):
    monkeypatch.setattr(features, "_CHUNK", 4)
    calls, read = [], features.read_audio

    def fails_at_last(path, rate):
        calls.append(path)
        if len(calls) == 15:
            raise error
        return read(path, rate)

    monkeypatch.setattr(features, "read_audio", fails_at_last)
    with pytest.raises(type(error)):
        extract(datasets.load("nsynth"), SMALL, workers=1, progress=False)
    assert list((nsynth_root.parent / "features").iterdir()) == []
    with pytest.raises(FmucError, match="no features under"):
        open_cache(datasets.load("nsynth"), SMALL)


def test_second_extraction_only_opens(nsynth_root, monkeypatch):
    dataset = datasets.load("nsynth")
    first = extract(dataset, SMALL, workers=1, progress=False)

    def fail(*_):
        raise AssertionError("computed again")

    monkeypatch.setattr(features, "read_audio", fail)
    second = extract(dataset, SMALL, workers=1, progress=False)
    assert np.array_equal(first.patches, second.patches)
    with pytest.raises(AssertionError, match="computed again"):
        extract(dataset, NSYNTH, workers=1, progress=False)


def test_missing_cache_names_the_command(nsynth_root):
    remedy = r"features/nsynth-\w{8}: run 'python -m fmuc features --dataset nsynth --profile"
    with pytest.raises(FmucError, match=remedy):
        open_cache(datasets.load("nsynth"), SMALL)


def damage_patches(folder):
    path = folder / "patches.npy"
    path.write_bytes(path.read_bytes()[:-2])


def damage_shape(folder):
    np.save(folder / "patches.npy", np.zeros((3, 2, 1), np.float16))


def damage_bands(folder):
    (folder / "bands.npz").write_bytes(b"PK")


def damage_index(folder):
    (folder / "index.npy").write_bytes(b"")


def damage_entry(folder):
    index = np.load(folder / "index.npy")
    index[len(index) // 2] += 1  # a patch of the next clip, perhaps: nothing but the checksum can tell
    np.save(folder / "index.npy", index)


def damage_order(folder):
    (folder / "features.json").write_text(json.dumps({key: value for key, value in json.loads(
        (folder / "features.json").read_text()).items() if key != "sha256"}))  # as older caches are
    np.save(folder / "index.npy", np.load(folder / "index.npy")[::-1])


def damage_band(folder):
    damage_order(folder)
    np.save(folder / "index.npy", np.load(folder / "index.npy")[::-1])
    with np.load(folder / "bands.npz") as bands:
        np.savez(folder / "bands.npz", mean=bands["mean"], std=np.zeros_like(bands["std"]))


def damage_json(folder):
    (folder / "features.json").write_text("{")


@pytest.mark.parametrize("damage", [damage_patches, damage_shape, damage_bands, damage_index, damage_entry,
                                    damage_order, damage_band, damage_json])
def test_damaged_cache_is_refused_and_built_again(nsynth_root, damage):
    dataset, folder = datasets.load("nsynth"), paths.features_dir("nsynth", SMALL.id)
    before = np.array(extract(dataset, SMALL, workers=1, progress=False).patches)
    damage(folder)
    with pytest.raises(FmucError, match=rf"{folder.name} is damaged .*python -m fmuc features --dataset nsynth"):
        open_cache(dataset, SMALL)
    assert np.array_equal(extract(dataset, SMALL, workers=1, progress=False).patches, before)


def test_cache_of_other_data_is_refused_and_built_again(nsynth_root):
    extract(datasets.load("nsynth"), SMALL, workers=1, progress=False)
    add_longer_clips(nsynth_root)
    dataset = datasets.load("nsynth")
    with pytest.raises(FmucError, match=r"was made from other data.*python -m fmuc features --dataset nsynth"):
        open_cache(dataset, SMALL)
    cache = extract(dataset, SMALL, workers=1, progress=False)
    assert cache.clip_of_patch[-1] == len(dataset.clips) - 1


def test_data_without_train_split_is_refused(data_root):
    write_nsynth_split(data_root / "nsynth", "test", note_names("test", 1))
    with pytest.raises(FmucError, match="nsynth has no train split"):
        extract(datasets.load("nsynth"), SMALL, workers=1, progress=False)
