"""Helpers of the teaching notebooks against what a reader would check by hand."""

from __future__ import annotations

import ast
import base64
import io
import re
from pathlib import Path

import librosa
import matplotlib.pyplot as plt
import numpy as np
import pictures
import pytest
import soundfile
import torch

from fmuc import experiments, paths
from fmuc.datasets import Clip, Dataset
from fmuc.errors import FmucError
from fmuc.selection import select
from fmuc.splits import draw_split
from fmuc.teaching import helpers
from fmuc.uncertainty import pass_statistics, temperature_softmax, weak_logits


@pytest.mark.parametrize("item", [draw_split, weak_logits], ids=["plain", "decorated"])
def test_source_is_shown_under_a_link_to_its_file(item):
    text = helpers.show_source(item).data
    (link,) = re.findall(r"\]\(\.\./([\w./]+)\)", text)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    source = ast.parse((paths.ROOT / link).read_text(encoding="utf-8"))
    (function,) = [node for node in source.body if getattr(node, "name", "") == item.__name__]
    assert ast.dump(ast.parse(code).body[0]) == ast.dump(function)  # the whole of it, decorator included


def test_players_hold_the_whole_sound():
    time = np.arange(16_000) / 16_000
    sound = (0.8 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    shown = helpers.players({"b <i>": sound}, 16_000).data
    assert "<i>" not in shown and "b &lt;i&gt;" in shown
    (embedded,) = re.findall(r"data:audio/mpeg;base64,([\w+/=]+)", shown)
    heard, rate = soundfile.read(io.BytesIO(base64.b64decode(embedded)), dtype="float32")
    assert rate == 16_000 and abs(len(heard) - len(sound)) < 0.1 * 16_000  # MP3 comes in frames
    assert np.abs(heard[:8000] - sound[:8000]).max() < 0.1


def test_patch_is_drawn_over_seconds_and_hertz():
    features, patch = experiments.NSYNTH, np.random.default_rng(0).random((128, 126))
    axes = plt.figure().add_subplot()
    image = pictures.draw_patch(axes, torch.from_numpy(patch), features)
    assert image.get_extent() == [0, 126 * 512 / 16_000, -0.5, 127.5]  # band 40 is drawn around the height 40
    np.testing.assert_array_equal(image.get_array(), patch)
    ticks = dict(zip([label.get_text() for label in axes.get_yticklabels()], axes.get_yticks(), strict=True))
    centres = librosa.mel_frequencies(130, fmin=0, fmax=8000)[1:-1]
    assert set(ticks) == {"250", "500", "1,000", "2,000", "4,000"}  # 8000 Hz lies above the last centre
    assert abs(centres[round(ticks["1,000"])] - 1000) < 15
    plt.close("all")


def test_toy_net_is_sure_far_away_and_its_passes_differ():
    toy = helpers.train_toy(*helpers.toy_points(40, torch.Generator().manual_seed(1)))
    far = helpers.as_input(torch.tensor([[0.0, 100.0], [100.0, -50.0], [-100.0, -50.0]]))
    assert temperature_softmax(weak_logits(toy, far, passes=0), 1)[0].max(dim=1).values.min() > 0.999
    border = helpers.as_input(torch.tensor([[0.0, 0.0]]))
    assert pass_statistics(weak_logits(toy, border, passes=50), 1).std.max() > 0.05


@pytest.mark.parametrize(("threshold", "temperature", "rivals"), [(0.7, 0.5, 3), (0.9, 2.0, 10), (0.95, 4.0, 1)])
def test_required_confidence_reaches_the_threshold_exactly(threshold, temperature, rivals):
    confidence = helpers.required_confidence(threshold, temperature, rivals)
    probabilities = torch.zeros(1 + rivals, dtype=torch.float64)
    probabilities[0], probabilities[1:] = confidence, (1 - confidence) / rivals
    tempered = torch.softmax(probabilities.log() / temperature, dim=0)  # logs of probabilities are logits
    assert tempered[0] == pytest.approx(threshold, abs=1e-6)


NOTES, SCENES = "nsynth-gm-smoke", "scenes-sim-smoke"


def test_fsdd_is_looked_at_where_it_is_there_unless_another_one_is_named(trainable):
    assert helpers.sound_set("mini")[0].name == NOTES
    (trainable / "fsdd" / "recordings").mkdir(parents=True)
    (trainable / "fsdd" / "recordings" / "0_george_0.wav").touch()
    data, preset, words = helpers.sound_set("mini")
    assert (data.name, preset.dataset, words.group) == ("fsdd", "fsdd", "speaker")
    data, preset, words = helpers.sound_set("mini", "nsynth")
    assert (data.name, preset.dataset, words.group) == ("nsynth", "nsynth-gm", "instrument")
    with pytest.raises(FmucError, match="unknown data set 'nobody'"):
        helpers.sound_set("mini", "nobody")


@pytest.mark.parametrize(("profile", "name", "expected"), [
    ("mini", NOTES, "nsynth-gm"), ("mini", "tut2017", "scenes-sim"), ("smoke", SCENES, SCENES),
    ("paper", NOTES, "nsynth"), ("mini", "fsdd-smoke", "fsdd"), ("smoke", "fsdd", "fsdd-smoke"),
])
def test_preset_is_that_of_the_data_set_in_the_same_place(profile, name, expected):
    assert helpers.preset_for(profile, name) == experiments.preset(profile, expected)


def data_of(*clips: tuple[str, str | None, str]) -> Dataset:
    return Dataset("some", ("dog", "cat"), tuple(Clip(id, Path("x.wav"), label, id, split)
                                                 for id, label, split in clips))


def test_examples_are_training_files_of_the_class_notes_nearest_to_middle_c_first():
    data = data_of(("a-040-100", "dog", "train"), ("a-061-025", "dog", "train"), ("a-060-100", "dog", "test"),
                   ("a-061-100", "dog", "train"), ("a-060-101", "cat", "train"), ("a-060-102", None, "train"))
    assert helpers.examples_of(data, "dog") == [3, 1, 0]
    data = data_of(("b_20_30", "dog", "train"), ("a", "dog", "train"), ("b", "cat", "test"), ("c", None, "train"))
    assert helpers.examples_of(data, "dog") == [0, 1]
    with pytest.raises(FmucError, match=r"no training clip of the class 'cat': choose one of dog$"):
        helpers.examples_of(data, "cat")


# --- sliders ---


def bar(height: float = 1.0, colour: str = "black"):
    fig, ax = plt.subplots(figsize=(1, 1), dpi=40)
    ax.bar([0], [height], color=colour)
    if height > 1.9:
        plt.close(fig)
        raise FmucError("too high: choose less")
    return fig


def test_sliders_start_at_the_defaults_and_redraw(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(helpers, "_attended", lambda: True)
    monkeypatch.setattr(helpers, "display", shown.append)
    helpers.explore(bar, colour=["white", "black"], height=(0.0, 2.0, 0.5))
    first, panel = shown
    colour, height = panel.kwargs_widgets
    assert (height.value, colour.value, height.continuous_update) == (1.0, "black", False)
    height.value = 1.5
    assert len(shown) == 3 and first.data != shown[2].data and not plt.get_fignums()
    height.value = 2.0
    assert len(shown) == 3 and "too high: choose less" in capsys.readouterr().out


def test_without_a_front_end_one_line_of_text_and_no_figure(capsys):
    helpers.explore(lambda std_threshold, epoch=None: bar(std_threshold), std_threshold=(0.0, 1.0), epoch=[7, 3])
    assert capsys.readouterr().out == "Run this cell in JupyterLab to move std threshold, epoch.\n"
    assert not plt.get_fignums()
    with pytest.raises(FmucError, match="too high"):  # a broken picture is an error all the same
        helpers.explore(lambda height=2.0: bar(height), height=(0.0, 2.0))


# --- pictures of the primer ---


def test_the_plane_counts_what_the_rules_keep():
    rng = torch.Generator().manual_seed(3)
    logits = 8 * torch.randn(60, 4, generator=rng) + torch.randn(5, 60, 4, generator=rng)  # (N, B, C)
    truth = torch.cat([torch.tensor([-1]), logits.mean(dim=0)[1:].argmax(dim=1) * (torch.arange(59) % 4 > 0)])
    two = experiments.TABLE_1["FMUC two thresh."]
    line, box = (select(logits, rule) for rule in (experiments.FMUC, two))
    rows = pictures.winners(logits, truth, 2.0)
    assert (rows["pseudo-label"] == "not known").sum() == 1
    fig, ax = plt.subplots()
    pictures.mean_std_plane(ax, rows, experiments.FMUC.threshold, two.threshold, two.std_threshold)
    shares = []
    for kept in (line, box):
        known = kept.mask & (truth >= 0)
        shares.append(f"{int(kept.mask.sum())}, {float((kept.labels == truth)[known].float().mean()):.0%} right")
    assert ax.get_title() == f"line: {shares[0]}; box: {shares[1]}"
    assert 0 < line.mask.sum() < box.mask.sum() < 60
    plt.close(fig)
