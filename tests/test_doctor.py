"""The doctor: right about what is there, about what is missing, and there when nothing else is."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata

import pytest

from fmuc import doctor, experiments, paths
from fmuc import parallel as schedule
from fmuc.__main__ import main
from fmuc.doctor import BROKEN, NOTE, OK, TODO, Finding
from fmuc.errors import FmucError

SMOKE, NAME = "smoke", "nsynth-gm-smoke"


def only(findings) -> Finding:
    (finding,) = findings
    return finding


def broken(*_) -> None:
    raise OSError("libgone.so.1: cannot open shared object file")


def test_an_empty_folder_is_no_obstacle(data_root, capsys):
    """Sound, features and runs of stand-ins are things that ``reproduce`` makes."""
    assert main(["doctor", "--profile", SMOKE, "--json"]) == 0
    findings = {row["item"]: row for row in json.loads(capsys.readouterr().out)}
    for name in experiments.presets(SMOKE):
        assert (findings[f"data {name}"]["state"], findings[f"data {name}"]["remedy"]) == (
            TODO, f"python -m fmuc data {name}")
    assert findings["records (runs)"]["state"] == TODO and "0 of 28" in findings["records (runs)"]["text"]
    for item in ("Python", "packages", "libraries", "Jupyter kernel", "disk"):
        assert findings[item]["state"] == OK


def test_every_line_that_is_not_ok_says_what_to_do(data_root):
    for finding in doctor.examine("paper"):
        assert "\n" not in str(finding) and (finding.state == OK or finding.remedy)


def test_published_data_must_be_fetched_by_hand(data_root, capsys):
    assert main(["doctor", "--profile", "paper"]) == 1
    printed = capsys.readouterr()
    assert "broken  data nsynth: not there  ->  python -m fmuc data nsynth\n" in printed.out
    assert printed.err.startswith("fmuc: profile paper does not work here yet: ") and "data tut2017" in printed.err


def test_unknown_profile(capsys):
    assert main(["doctor", "--profile", "maxi"]) == 1
    assert "unknown profile 'maxi'" in capsys.readouterr().err


def test_without_any_package():
    """In a process that finds no installed package at all: still a report, and no traceback."""
    done = subprocess.run([sys.executable, "-S", "-m", "fmuc", "doctor"], cwd=paths.ROOT, text=True,
                          capture_output=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("fmuc: profile mini does not work here yet: ") and done.stderr.count("\n") == 1
    lines = done.stdout.splitlines()
    assert all(line.startswith(("ok ", "to do ", "note ", "broken ")) for line in lines)
    assert any("libraries: missing: numpy, " in line and "pip install -r requirements.lock" in line for line in lines)


def test_a_check_that_fails_is_a_line_of_the_report(data_root, monkeypatch):
    monkeypatch.setattr(doctor, "disk", lambda profile: broken())
    (finding,) = [finding for finding in doctor.examine(SMOKE) if finding.item == "disk"]
    assert finding.state == BROKEN and "OSError: libgone.so.1" in finding.text


# Packages


def test_packages_missing_and_out_of_range(monkeypatch):
    true = metadata.version

    def version(name: str) -> str:
        if name == "librosa":
            raise metadata.PackageNotFoundError(name)
        return {"numpy": "1.26.4", "tqdm": "4.67.0"}.get(name) or true(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    findings = {finding.item: finding for finding in doctor.packages()}
    assert findings["packages"].state == BROKEN
    assert findings["packages"].text == "librosa is missing; numpy 1.26.4 is not <3,>=2.1"
    assert findings["lock"].state == NOTE and "differ from requirements.lock" in findings["lock"].text


def test_a_build_suffix_is_not_another_version(monkeypatch):
    from packaging.requirements import Requirement

    monkeypatch.setattr(doctor.metadata, "version", lambda name: "2.14.1+cu130")
    assert doctor._problem(Requirement("torch==2.14.1")) == ""
    assert doctor._problem(Requirement("torch==2.14.0")) == "torch 2.14.1+cu130 is not ==2.14.0"
    assert doctor._problem(Requirement("torch==1; sys_platform == 'none'")) == ""


def test_a_library_that_does_not_load(monkeypatch):
    monkeypatch.setattr(doctor, "import_module", lambda name: broken() if name == "soundfile" else None)
    finding = only(doctor.libraries())
    assert finding.state == BROKEN and "soundfile does not load (OSError: libgone.so.1" in finding.text
    assert "--force-reinstall" in finding.remedy


def test_an_old_python(monkeypatch):
    monkeypatch.setattr(doctor.sys, "version_info", (3, 10, 2, "final", 0))
    finding = only(doctor.python())
    assert (finding.state, finding.remedy) == (BROKEN, "make setup PYTHON=python3.11")


def test_no_kernel(monkeypatch):
    from jupyter_client import kernelspec

    def none(self, name: str) -> None:
        raise kernelspec.NoSuchKernel(name)

    monkeypatch.setattr(kernelspec.KernelSpecManager, "get_kernel_spec", none)
    finding = only(doctor.kernel())
    assert finding.state == BROKEN and finding.remedy.startswith("python -m ipykernel install")


# Machine


@pytest.mark.parametrize(("share", "state"), [(0.5, BROKEN), (1.5, NOTE), (100, OK), (None, NOTE)])
def test_memory(data_root, monkeypatch, share, state):
    from fmuc import footprint

    monkeypatch.setattr(footprint, "memory", lambda run, size: footprint.Memory(10**9, 0, 0, 0))
    monkeypatch.setattr(schedule, "default_workers", lambda: 4)
    monkeypatch.setattr(doctor, "free_memory", lambda: share and int(share * 10**9))
    finding = only(doctor.memory(SMOKE))
    assert finding.state == state and "a run needs 1.0 GB, 4 at a time" in finding.text
    assert finding.remedy.endswith("--workers 1") == (share == 1.5)


def test_disk(data_root, monkeypatch):
    needed = doctor.still_to_write(SMOKE)
    assert needed > 10**7
    (data_root / NAME).mkdir()
    assert doctor.still_to_write(SMOKE) < needed  # its sound is there
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 10**6}))
    finding = only(doctor.disk(SMOKE))
    assert finding.state == BROKEN and "FMUC_DATA" in finding.remedy


def test_a_data_folder_that_cannot_be_written(data_root, monkeypatch):
    (data_root / "file").write_text("")
    monkeypatch.setenv("FMUC_DATA", str(data_root / "file" / "data"))
    assert only(doctor.disk(SMOKE)).state == BROKEN


def test_gpu(monkeypatch):
    import torch

    props = type("Properties", (), {"name": "Card", "major": 9, "minor": 0, "total_memory": 80 * 10**9})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: props)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert only(doctor.gpu(SMOKE)).text == "Card, compute capability 9.0, 80.0 GB, bfloat16"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert only(doctor.gpu(SMOKE)).state == NOTE
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert only(doctor.gpu(SMOKE)).state == OK
    assert only(doctor.gpu("paper")).state == NOTE


# Data and records


def findings_of_data() -> dict[str, Finding]:
    return {finding.item.partition(" ")[0]: finding
            for finding in doctor._findings(f"data {NAME}", lambda: doctor.data(SMOKE, NAME))}


def test_data_that_is_not_whole(trainable):
    found = findings_of_data()  # a few notes in place of the hundreds of the stand-in; their features are whole
    assert found["data"].state == BROKEN and found["data"].text.startswith("36 clips, not ")
    assert found["data"].remedy == f"python -m fmuc data {NAME} --force"
    assert (found["features"].state, found["features"].text) == (OK, "36 patches")


def test_whole_data_without_features(trainable, monkeypatch):
    from fmuc import footprint

    extent = footprint.Extent(3, {"train": 24, "valid": 3, "test": 9}, 0.5, 0)
    monkeypatch.setattr(footprint, "extent", lambda name: extent)
    assert findings_of_data()["data"].state == OK
    (trainable / "features").unlink()
    found = findings_of_data()
    assert (found["features"].state, found["features"].remedy) == (
        TODO, f"python -m fmuc features --profile {SMOKE} --dataset {NAME}")


def test_damaged_features(trainable):
    source = (trainable / "features").resolve()
    (trainable / "features").unlink()
    (trainable / "features").mkdir()
    folder = paths.features_dir(NAME, experiments.preset(SMOKE, NAME).features.id)
    folder.mkdir()
    for file in (source / folder.name).iterdir():
        (folder / file.name).write_bytes(b"damaged" if file.name == "index.npy" else file.read_bytes())
    found = findings_of_data()["features"]
    assert found.state == BROKEN and "is damaged" in found.text and found.remedy.startswith("python -m fmuc features")


def test_records(data_root):
    def state() -> Finding:
        return only(doctor.records(SMOKE, "runs"))

    run = experiments.plan(SMOKE)[0]
    place = paths.runs_dir(SMOKE) / run.name
    assert state().state == TODO
    place.mkdir(parents=True)
    (place / "run.json").write_text("{}")
    damaged = state()
    assert damaged.state == BROKEN and "0 of 28" in damaged.text and run.name in damaged.text


def test_the_shipped_records_are_whole():
    finding = only(doctor.records("mini", "shipped"))
    assert (finding.state, finding.text) == (OK, "36 of 36 runs can be read")


def test_a_missing_shipped_record(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "SHIPPED_RECORDS", tmp_path)
    (tmp_path / "mini").mkdir()
    finding = only(doctor.records("mini", "shipped"))
    assert finding.state == BROKEN and finding.remedy.startswith("git checkout -- ")


def test_an_error_of_ours_is_a_line_too():
    def check():
        raise FmucError("the file is damaged")
        yield

    assert doctor._findings("data x", check) == [Finding("data x", BROKEN, "the file is damaged")]
