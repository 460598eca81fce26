"""Sizes against what lies on the disk, memory against a process that trains."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fmuc import datasets, experiments, features, footprint, paths, train
from fmuc import parallel as schedule
from fmuc.errors import FmucError
from fmuc.experiments import make_run
from fmuc.footprint import Extent
from fmuc.standins import nsynth_gm, scenes_sim


@pytest.mark.parametrize(("name", "preset", "clips", "patches"), [
    ("nsynth", experiments.NSYNTH, 305_979, 305_979), ("tut2017", experiments.TUT, 6_300, 25_200),
])
def test_published_data_sets(name, preset, clips, patches):
    size = footprint.extent(name)
    assert sum(size.clips.values()) == clips and size.patches(preset) == patches
    assert size.patches(preset, "test") * clips == size.clips["test"] * patches


def test_a_stand_in_is_as_large_as_what_is_rendered(data_root):
    out = data_root / "scenes-sim-smoke"
    scenes_sim.render(out, sizes=scenes_sim.SIZES["scenes-sim-smoke"], seed=0, workers=1, progress=False)
    files = list(out.rglob("*.wav"))
    size = footprint.extent("scenes-sim-smoke")
    assert size.clips == {"train": 60, "test": 15} and size.sound_bytes == sum(file.stat().st_size for file in files)


def test_notes_of_the_stand_in_have_no_synth_lead_outside_training():
    sizes = nsynth_gm.SIZES["nsynth-gm"]
    assert footprint.extent("nsynth-gm").clips == {
        "train": 11 * sizes["train"], "valid": 10 * sizes["valid"], "test": 10 * sizes["test"]}


def test_a_damaged_import_is_named(data_root):
    (data_root / "birds").mkdir()
    (data_root / "birds" / "own.json").write_text('{"report": {}}')
    with pytest.raises(FmucError, match=r"birds.own.json is damaged.*import the audio again"):
        footprint.extent("birds")


@pytest.fixture
def trained(trainable):
    """A finished run of the profile smoke and the extent of its small data set."""
    run = make_run("smoke", "nsynth-gm-smoke", "FMUC")
    train.train(run, device="cpu", folder=paths.runs_dir("smoke") / run.name, progress=False)
    dataset = datasets.load(run.dataset)
    clips = {split: len(dataset.indices(split)) for split in datasets.SPLITS}
    return run, Extent(len(dataset.classes), clips, 0.5, 0)


def test_the_disk_is_what_a_run_leaves(trained):
    run, size = trained
    needed, folder = footprint.disk([run], size), paths.runs_dir("smoke")
    cache = paths.features_dir(run.dataset, run.features.id)
    assert needed.features == sum((cache / name).stat().st_size for name in ("patches.npy", "index.npy"))
    checkpoints = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    assert needed.checkpoints == pytest.approx(checkpoints, rel=0.4)  # names of the tensors: much beside so small a net
    assert (folder / run.name / "files.npz").stat().st_size < needed.records + 4096


@pytest.mark.parametrize(("profile", "dataset"), [("mini", "nsynth-gm"), ("paper", "nsynth")])
def test_checkpoints_of_whole_nets(profile, dataset, tmp_path):
    run = make_run(profile, dataset, "Fully supervised")
    net, optimiser = train.build(run, 11, train.pick_device("cpu"))
    tensors = [*net.state_dict().values(), *(p for p in net.parameters() for _ in range(2))]
    assert footprint.state_bytes(run, 11) == sum(t.nbytes for t in tensors)
    assert footprint.checkpoint_bytes(run, 11) - footprint.state_bytes(run, 11) == run.training.epochs * 144 * 8


def test_patches_that_do_not_fit_stay_on_the_disk(monkeypatch):
    run = make_run("mini", "nsynth-gm", "FM")
    size = Extent(11, {"train": 1000, "test": 24}, 4.0, 0)
    assert footprint.memory(run, size).patches == 1024 * 32 * 32 * 4
    monkeypatch.setattr(train, "RESIDENT_BYTES", 1024 * 32 * 32 * 4 - 1)
    assert footprint.memory(run, size).patches == 0


_MEASURE = """
import torch
from fmuc import calibration, experiments, footprint, growth
run = experiments.make_run("paper", "nsynth", "FMUC")
calibration.DryRun(run, 11, torch.device("cpu"), shrink=128).step()
before = growth.anonymous_bytes()
for _ in range(2):
    calibration.DryRun(run, 11, torch.device("cpu"), shrink=4).step()
print(growth.anonymous_bytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_step_by_formula_is_what_a_process_takes():
    done = subprocess.run([sys.executable, "-c", _MEASURE], env=schedule.environment(1), cwd=paths.ROOT, text=True,
                          capture_output=True, check=True)
    needed = footprint.memory(make_run("paper", "nsynth", "FMUC"), footprint.extent("nsynth"))
    formula = needed.weights + needed.activations / 4
    assert 0.6 < int(done.stdout) / formula < 1.7


def test_memory_does_not_depend_on_n():
    size = footprint.extent("nsynth-gm")
    few, many = (footprint.memory(make_run("mini", "nsynth-gm", name), size) for name in ("FM", "FMUC"))
    assert few.activations == many.activations and few.total >= few.activations + few.patches


def test_features_are_counted_by_the_rule_that_cuts_them():
    preset, size = experiments.SCENES_SMALL, footprint.extent("scenes-sim")
    spectrogram = features.log_mel(train.np.zeros(10 * preset.sample_rate, "f4"), preset)
    assert size.patches(preset) == sum(size.clips.values()) * len(
        features.cut_patches(spectrogram, preset.patch_frames))
