from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fmuc import checkpoints, paths, train
from fmuc.__main__ import main
from fmuc.errors import FmucError
from fmuc.experiments import make_run
from fmuc.torture import different, ending, torture


@pytest.fixture
def finished(trainable: Path) -> Path:
    run = make_run("smoke", "nsynth-gm-smoke", "FMUC")
    folder = paths.runs_dir("smoke") / run.name
    train.train(run, device="cpu", folder=folder, progress=False)
    return folder


def test_killed_runs_end_as_the_undisturbed_one(trainable, capsys):
    assert main(["torture", "--kills", "2", "--seed", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["identical"], report["runs"], report["problems"]) == (2, 2, [])
    assert sum(report["kills"].values()) >= 2
    assert not [*trainable.glob("torture-*")]


def test_no_kills_are_refused(data_root):
    with pytest.raises(FmucError, match="--kills must be at least 1"):
        torture(kills=0)


@pytest.mark.parametrize("part", ["net.head.bias", "adam.3.exp_avg_sq", "net.blocks.0.units.0.0.norm.running_var",
                                  "kept"])
def test_any_changed_bit_of_the_state_is_a_difference(finished, part):
    expected = ending(finished)
    assert different(finished, expected) is None
    (path,) = checkpoints.files(finished)
    tensors, content = checkpoints.read(path)
    tensors[part].view(-1).numpy().view(np.uint8)[0] ^= 1
    checkpoints.write(path, tensors, content)
    assert different(finished, expected) == f"differs in checkpoint's {part}"


def test_a_changed_history_a_left_file_and_a_missing_record_are_differences(finished):
    expected = ending(finished)
    (path,) = checkpoints.files(finished)
    tensors, content = checkpoints.read(path)
    content["rows"][1]["seconds"] += 1
    checkpoints.write(path, tensors, content)
    assert different(finished, expected) is None  # wall time may
    content["rows"][1]["loss_labelled"] += 1e-9
    checkpoints.write(path, tensors, content)
    (finished / ".stray.tmp").touch()
    assert different(finished, expected) == "differs in files, checkpoint's history"
    (finished / "run.json").unlink()
    assert "cannot be read" in different(finished, expected)
