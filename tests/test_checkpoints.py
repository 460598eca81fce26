"""Checkpoints prove their content, and a run goes on from them whatever happened: damage, kills, full disks."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from test_kills import ending
from test_train import LOW_FMUC, RUN, train_until, trainer

from fmuc.errors import FmucError
from fmuc.machinery import checkpoints
from fmuc.machinery.checkpoints import Foreign, Unusable, files, read, write
from fmuc.records import code_digest, is_finished, load_record
from fmuc.train import train

FMUC = replace(RUN, variant="FMUC", selection=LOW_FMUC)
TENSORS = {"net.a": torch.arange(6.0).reshape(2, 3), "net.n": torch.tensor(7), "adam.0.step": torch.tensor(3.0),
           "kept": torch.arange(4, dtype=torch.int64), "half": torch.tensor([1.5, -2], dtype=torch.bfloat16),
           "empty": torch.zeros(0, 3)}
CONTENT = {"run": "12345678", "data": "ab-cd", "rows": [{"epoch": 1, "quality": float("nan"), "loss": 0.1 + 0.2}]}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(trainable: Path) -> Path:
    """Where a run may go; alone with its warm start."""
    place = trainable / "test" / RUN.name
    place.mkdir(parents=True)
    return place


@pytest.fixture(scope="module")
def expected(_trainable_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the uninterrupted run leaves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FMUC_DATA", str(_trainable_root))
        place = tmp_path_factory.mktemp("uninterrupted") / RUN.name
        go_on(place)
    torch.set_num_threads(threads)
    return ending(place)


def go_on(folder: Path, **options) -> None:
    train(FMUC, device="cpu", folder=folder, progress=False, **options)


def stop_after(epoch: int, folder: Path) -> None:
    train_until(epoch, FMUC, folder)


def failing(folder: Path, **options) -> str:
    """The one line that ends the run."""
    with pytest.raises(FmucError) as caught:
        go_on(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(folder: Path) -> list[str]:
    return [path.name for path in files(folder)]


def flip(path: Path, position: int = -30) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


# The file


def test_what_is_written_is_read_back(tmp_path):
    write(tmp_path / "a", TENSORS, CONTENT)
    tensors, content = read(tmp_path / "a", run="12345678", data="ab-cd")
    assert tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert (tensors[name].dtype, tensors[name].shape) == (value.dtype, value.shape)
        assert torch.equal(tensors[name], value)
    assert json.dumps(content) == json.dumps(CONTENT)  # as text: NaN equals NaN
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_goes_unnoticed(tmp_path, data):
    """Any flipped bits, any cut, any inserted or repeated piece: refused, or (in padding, say) the same content."""
    path = tmp_path / "a"
    write(path, TENSORS, CONTENT)
    whole = path.read_bytes()
    start = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.integers(start, min(start + 40, len(whole))))
    piece = data.draw(st.sampled_from(["cut", "drop", "double", "bytes", "bits"]))
    mask = data.draw(st.integers(1, 255))
    path.write_bytes({
        "cut": whole[:start], "drop": whole[:start] + whole[end:], "double": whole[:end] + whole[start:],
        "bytes": whole[:start] + data.draw(st.binary(max_size=40)) + whole[end:],
        "bits": whole[:start] + bytes([whole[start] ^ mask]) + whole[start + 1 :],
    }[piece])
    if path.read_bytes() == whole:
        return
    with pytest.raises(Unusable):
        read(path)


def test_a_checkpoint_without_checksum_and_a_pickle_are_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    path = tmp_path / "a"
    for metadata in ({"run": "12345678"}, {"fmuc": "[1]"}, None):
        if metadata:
            save_file(TENSORS, path, metadata)
        else:
            torch.save({"net": Trap()}, path)
        with pytest.raises(Unusable, match="it is damaged"):
            read(path)
    assert not (tmp_path / "executed").exists()


def test_what_a_file_belongs_to_is_checked(tmp_path):
    write(tmp_path / "a", TENSORS, CONTENT)
    for expected, said in (({"run": "other"}, "belongs to run 12345678"), ({"data": "other"}, "data set"),
                           ({"code": "other"}, "another version of the code")):
        with pytest.raises(Foreign, match=said):
            read(tmp_path / "a", **expected)


# Two of them, and what happens if one is damaged


def test_the_last_two_are_kept_and_of_a_finished_run_the_last(folder):
    seen = []
    go_on(folder, on_epoch=lambda row: seen.append(names(folder)))
    numbered = [f"checkpoint-{epoch:04d}.safetensors" for epoch in range(1, 5)]
    assert seen == [numbered[:1], numbered[1::-1], numbered[2:0:-1], numbered[3:1:-1]]
    assert names(folder) == numbered[3:]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [".lock", numbered[3], "counts.npz", "files.npz", "history.csv", "run.json", "scores.npz", "split.json"])


def test_a_damaged_checkpoint_falls_back_to_the_one_before(folder, expected, capsys):
    stop_after(3, folder)
    newest, before = files(folder)
    flip(newest)
    capsys.readouterr()
    epochs = []
    go_on(folder, on_epoch=lambda row: epochs.append(row["epoch"]))
    assert epochs == [3, 4]
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and newest.name in message and f"goes on from {before.name}" in message
    assert ending(folder) == expected


def test_a_damaged_one_of_a_later_epoch_does_not_push_out_the_good_one_before(tmp_path):
    for epoch in (3, 4, 9):
        (tmp_path / f"checkpoint-{epoch:04d}.safetensors").write_bytes(b"")
    checkpoints.add(tmp_path, 4, TENSORS, CONTENT)
    assert names(tmp_path) == ["checkpoint-0004.safetensors", "checkpoint-0003.safetensors"]


def test_where_both_are_damaged_nothing_is_deleted_and_the_remedy_is_named(folder, expected):
    stop_after(3, folder)
    for path in files(folder):
        flip(path)
    left = {path.name: path.read_bytes() for path in files(folder)}
    assert re.search(r"0003\.safetensors.*0002\.safetensors.*: delete them to start again", failing(folder))
    assert {path.name: path.read_bytes() for path in files(folder)} == left and not is_finished(folder)
    for path in files(folder):
        path.unlink()
    go_on(folder)
    assert ending(folder) == expected


def test_a_checkpoint_of_another_run_is_kept_aside_even_if_the_one_before_would_fit(folder, expected, capsys):
    stop_after(3, folder)
    other = folder.parent / "other"
    other.mkdir()
    first = trainer(other)
    first.train_epoch()
    first.save_checkpoint()
    shutil.copy(files(other)[0], files(folder)[0])
    capsys.readouterr()
    go_on(folder)
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and re.search(rf"0003\.safetensors.*belongs to run {RUN.id}.*kept in", message)
    assert ending(folder) == expected
    assert len(files(folder.parent / "replaced" / f"{folder.name}.1")) == 2


def test_versions_of_the_code_that_trained_a_run_are_all_named(folder, monkeypatch, capsys):
    with monkeypatch.context() as before:
        before.setattr("fmuc.records.code_digest", lambda: "older")
        stop_after(2, folder)
    go_on(folder)
    assert capsys.readouterr().err.count("another version of the code") == 1
    assert load_record(folder).provenance["codes"] == ["older", code_digest()]


# Left behind by killed processes


def test_what_killed_processes_left_is_removed_at_the_next_start(folder, expected):
    stop_after(2, folder)
    strays = [folder / ".checkpoint-0003.safetensors.1a2b.tmp", folder / ".run.json.4711-1.tmp", folder / "history.csv",
              folder / "split.json", folder / "files.npz"]
    warm = next((folder.parent / "warm-starts").glob("[!.]*"))
    warm.with_name(f".{warm.name}.1a2b.tmp").write_bytes(b"half")
    for path in strays:
        path.write_bytes(b"half")
    go_on(folder)
    assert ending(folder) == expected
    other = trainer(folder, FMUC)
    other.warm_up()
    assert not [*warm.parent.glob(".*.tmp")]


def test_a_second_process_says_that_it_waits_and_finds_the_run_finished(folder, capsys):
    stop_after(3, folder)
    capsys.readouterr()
    lock, waiting = FileLock(folder / ".lock", thread_local=False), threading.Event()
    lock.acquire()
    thread = threading.Thread(target=lambda: (go_on(folder), waiting.set()))
    thread.start()
    assert not waiting.wait(0.5)
    lock.release()
    thread.join(60)
    assert is_finished(folder)
    assert "another process trains this run: waiting" in capsys.readouterr().err


# Disks


def test_a_limit_on_the_size_of_files_cuts_a_checkpoint_half_way(folder, expected):
    """What a quota does: the kernel writes a part and refuses the rest."""
    stop_after(2, folder)
    size, limits = files(folder)[0].stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
    try:
        assert f"cannot be written ({os.strerror(errno.EFBIG)})" in failing(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(files(folder)) == 2 and not [*folder.glob(".*.tmp")]
    go_on(folder)
    assert ending(folder) == expected


def test_a_folder_that_vanishes_and_a_file_in_its_place_are_named(folder):
    assert f"{folder.name}: cannot be written" in failing(folder, on_epoch=lambda row: shutil.rmtree(folder))
    folder.write_text("a file")
    assert f"{folder.name}: cannot be written" in failing(folder)
