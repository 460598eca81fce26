from __future__ import annotations

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


def test_dropout_is_on_in_the_passes_and_off_afterwards(folder):
    predictor, path = predict.load_predictor(folder), load("nsynth-gm-smoke").clips[0].path
    assert predictor.predict(path).std > 0
    assert not any(module.training for module in predictor.net.modules())


def test_the_same_seed_gives_the_same_prediction_and_leaves_the_generator_alone(folder):
    predictor, path = predict.load_predictor(folder), load("nsynth-gm-smoke").clips[0].path
    state = torch.random.get_rng_state()
    assert predictor.predict(path, seed=1) == predictor.predict(path, seed=1)
    assert predictor.predict(path, seed=1).mean != predictor.predict(path, seed=2).mean
    assert torch.equal(state, torch.random.get_rng_state())


def test_files_of_any_rate_and_length_are_predicted_beside_those_that_cannot(folder, tmp_path):
    tone = np.sin(np.arange(400) / 5)
    for name, rate in (("short.wav", 44_100), ("tone.ogg", 8_000)):
        soundfile.write(tmp_path / name, tone, rate)
    (tmp_path / "noise.wav").write_text("no sound")
    files = [tmp_path / name for name in ("short.wav", "noise.wav", "absent.wav", "tone.ogg")]
    results, errors = predict.predict_files(RUN.name, files)
    assert [(result.file, result.patches) for result in results] == [(str(files[0]), 1), (str(files[3]), 1)]
    assert len(errors) == 2 and "noise.wav: is not sound" in errors[0] and "absent.wav: does not exist" in errors[1]


def test_the_command_answers_for_the_good_files_and_ends_with_status_1(folder, tmp_path, capsys):
    soundfile.write(tmp_path / "good.wav", np.sin(np.arange(8000) / 5), 16_000)
    with pytest.raises(SystemExit, match="1"):
        main(["predict", RUN.name, str(tmp_path / "absent.wav"), str(tmp_path / "good.wav")])
    printed = capsys.readouterr()
    assert "good.wav" in printed.out and "absent.wav: does not exist" in printed.err


def test_a_supervised_run_takes_the_rule_of_fmuc(trainable, tmp_path):
    run = replace(RUN, selection=None, variant="Labelled part only")
    train.train(run, device="cpu", folder=tmp_path / "run", progress=False)
    assert predict.load_predictor(tmp_path / "run").selection == experiments.FMUC


@pytest.mark.parametrize("text", [RUN.name, RUN.id, RUN.name[:-3]])
def test_a_run_is_found_by_its_name_its_beginning_or_its_id(folder, text):
    assert predict.find_run(text) == folder
    assert predict.find_run(str(folder)) == folder


def test_what_cannot_be_predicted_with_says_why(folder, tmp_path):
    with pytest.raises(FmucError, match="no finished run 'nsynth_fm'.*'python -m fmuc plan'"):
        predict.find_run("nsynth_fm")
    twin = folder.with_name(folder.name + "0")
    shutil.copytree(folder, twin)
    with pytest.raises(FmucError, match="fits 2 runs"):
        predict.find_run(RUN.name[:-1])
    assert predict.find_run(RUN.name) == folder  # the whole name decides
    with pytest.raises(FmucError, match="holds no finished run"):
        predict.load_predictor(tmp_path)
    (last,) = checkpoints.files(folder)
    whole = bytearray(last.read_bytes())
    whole[-9] ^= 1
    for damaged in (b"not weights", bytes(whole)):
        last.write_bytes(damaged)
        with pytest.raises(FmucError, match=r"checkpoint-0001\.safetensors: cannot be used"):
            predict.load_predictor(folder)
    last.unlink()
    with pytest.raises(FmucError, match="holds no checkpoint: records that come with the repository have no weights"):
        predict.load_predictor(folder)


def test_a_checkpoint_of_another_run_is_refused(folder, tmp_path):
    other = replace(RUN, seed=1)
    train.train(other, device="cpu", folder=tmp_path / "other", progress=False)
    shutil.copy(checkpoints.files(tmp_path / "other")[0], checkpoints.files(folder)[0])
    with pytest.raises(FmucError, match=f"belongs to run {other.id}"):
        predict.load_predictor(folder)


def test_a_checkpoint_of_an_earlier_epoch_is_refused(folder):
    """Its predictions would not be those of the record."""
    (last,) = checkpoints.files(folder)
    tensors, content = checkpoints.read(last)
    checkpoints.write(last, tensors, content | {"rows": []})
    with pytest.raises(FmucError, match="it is of epoch 0, not of the last one"):
        predict.load_predictor(folder)
