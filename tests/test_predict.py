from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from fmuc import experiments, paths, train
from fmuc.__main__ import main
from fmuc.datasets import load
from fmuc.errors import FmucError
from fmuc.experiments import make_run
from fmuc.machinery import checkpoints
from fmuc.own import predict
from fmuc.records import load_record

RUN = make_run("smoke", "nsynth-gm-smoke", "FMUC")
RUN = replace(RUN, training=replace(RUN.training, epochs=1, warm_start=20, precision="float32"))


@pytest.fixture
def folder(trainable: Path) -> Path:
    """A run of a few steps in its place."""
    place = paths.runs_dir("smoke") / RUN.name
    train.train(RUN, device="cpu", folder=place, progress=False)
    return place


def test_the_files_of_the_data_set_are_predicted_as_in_training(folder):
    """Patches made from the sound file are those of the cache, so the net's file-wise output is the record's."""
    predictor, dataset = predict.load_predictor(folder), load("nsynth-gm-smoke")
    record = load_record(folder)
    net_alone = replace(experiments.FM, threshold=0.5)  # one pass without dropout or temperature
    alone = replace(predictor, run=replace(RUN, selection=net_alone))
    place = {clip.id: clip.path for clip in dataset.clips}
    for clip, probabilities in zip(record.files["test_ids"], record.files["test_probabilities"], strict=True):
        result = alone.predict(place[clip.decode()])
        assert result.label == record.classes[probabilities.argmax()]
        assert result.mean == pytest.approx(float(probabilities.max()), abs=1e-3)
        assert result.std is None and result.accepted == (result.mean >= 0.5)


def test_mean_and_std_are_those_of_the_passes_averaged_over_patches(folder, tmp_path, monkeypatch):
    predictor = predict.load_predictor(folder)
    sound = np.random.default_rng(0).normal(0, 0.1, (16_000 * 12, 2))  # stereo, three patches
    soundfile.write(tmp_path / "long.flac", sound, 16_000)
    assert predictor.patches(tmp_path / "long.flac").shape == (2, 1, 32, 32)  # the tail is dropped
    logits = torch.randn(5, 2, 11, generator=torch.Generator().manual_seed(1)) * 6
    monkeypatch.setattr(predict, "weak_logits", lambda net, x, passes, batch_norm: logits)
    result = predictor.predict(tmp_path / "long.flac")
    soft = np.exp(logits.double().numpy() / 2)
    soft /= soft.sum(axis=2, keepdims=True)  # T = 2, (N, P, C)
    passes = [sum(patch) / 2 for patch in soft]
    mean, std = np.mean(passes, axis=0), np.std(passes, axis=0)
    assert result.label == predictor.classes[mean.argmax()]
    assert (result.mean, result.std) == pytest.approx((mean.max(), std[mean.argmax()]), abs=1e-6)
    assert result.accepted == (result.mean - result.std > 0.9)
    lower = [m.max() - s[m.argmax()] for m, s in zip(soft.mean(axis=0), soft.std(axis=0), strict=True)]
    assert (result.accepted_patches, result.patches) == (sum(value > 0.9 for value in lower), 2)


def test_dropout_is_on_in_the_passes_drawn_by_the_seed_and_off_afterwards(folder):
    predictor, path = predict.load_predictor(folder), load("nsynth-gm-smoke").clips[0].path
    assert predictor.predict(path).std > 0
    assert not any(module.training for module in predictor.net.modules())
    state = torch.random.get_rng_state()
    assert predictor.predict(path, seed=1) == predictor.predict(path, seed=1)
    assert predictor.predict(path, seed=1).mean != predictor.predict(path, seed=2).mean
    assert torch.equal(state, torch.random.get_rng_state())


def test_files_of_any_rate_and_length_are_predicted_beside_those_that_cannot(folder, tmp_path, capsys):
    for name, rate in (("short.wav", 44_100), ("tone.ogg", 8_000)):
        soundfile.write(tmp_path / name, np.sin(np.arange(400) / 5), rate)
    (tmp_path / "noise.wav").write_text("no sound")
    files = [str(tmp_path / name) for name in ("short.wav", "noise.wav", "absent.wav", "tone.ogg")]
    with pytest.raises(SystemExit, match="1"):
        main(["predict", RUN.name, *files, "--json"])
    printed = capsys.readouterr()
    results = json.loads(printed.out)
    assert [(result["file"], result["patches"]) for result in results] == [(files[0], 1), (files[3], 1)]
    assert "noise.wav: is not sound" in printed.err and "absent.wav: does not exist" in printed.err


def test_a_run_is_found_by_its_name_its_beginning_or_its_id(folder):
    assert {predict.find_run(text) for text in (RUN.name, RUN.name[:-3], RUN.id)} == {folder}


def test_what_cannot_be_predicted_with_says_why(folder, tmp_path):
    with pytest.raises(FmucError, match="'nsynth_fm' must fit one finished run .* fits none: 'python -m fmuc plan'"):
        predict.find_run("nsynth_fm")
    shutil.copytree(folder, folder.with_name(folder.name + "0"))
    with pytest.raises(FmucError, match=f"fits {RUN.name}, {RUN.name}0"):
        predict.find_run(RUN.name)
    with pytest.raises(FmucError, match="holds no finished run"):
        predict.load_predictor(tmp_path)
    (last,) = checkpoints.files(folder)
    tensors, content = checkpoints.read(last)
    checkpoints.write(last, tensors, content | {"run": "another"})
    with pytest.raises(FmucError, match=r"checkpoint-0001\.safetensors: cannot be used .*belongs to run another"):
        predict.load_predictor(folder)
    last.unlink()
    with pytest.raises(FmucError, match="holds no checkpoint: records that come with the repository have no weights"):
        predict.load_predictor(folder)
