from __future__ import annotations

import errno
import itertools
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from test_train import LOW_FMUC, RUN, trainer, weights

from fmuc import checkpoints, paths
from fmuc import train as training
from fmuc.__main__ import main
from fmuc.checkpoints import Foreign, Unusable, files, read, write
from fmuc.errors import FmucError
from fmuc.records import code_digest, is_finished, load_record
from fmuc.splits import draw_split
from fmuc.torture import different, ending
from fmuc.train import Trainer, train

FMUC = replace(RUN, variant="FMUC", selection=LOW_FMUC)
TENSORS = {"net.a": torch.arange(6.0).reshape(2, 3), "net.n": torch.tensor(7), "adam.0.step": torch.tensor(3.0),
           "kept": torch.arange(4, dtype=torch.int64), "half": torch.tensor([1.5, -2], dtype=torch.bfloat16),
           "empty": torch.zeros(0, 3)}
CONTENT = {"run": "12345678", "data": "ab-cd", "rows": [{"epoch": 1, "quality": float("nan"), "loss": 0.1 + 0.2}]}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
        train(FMUC, device="cpu", folder=place, progress=False)
    torch.set_num_threads(threads)
    return ending(place)


def go_on(folder: Path, **options) -> None:
    train(FMUC, device="cpu", folder=folder, progress=False, **options)


def stop_after(epoch: int, folder: Path) -> None:
    """Train the run and interrupt it after an epoch."""
    def interrupt(row: dict) -> None:
        if row["epoch"] == epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go_on(folder, on_epoch=interrupt)


def failing(folder: Path, **options) -> str:
    """The one line that ends the run."""
    with pytest.raises(FmucError) as caught:
        go_on(folder, **options)
    return one_line(str(caught.value))


def names(folder: Path) -> list[str]:
    return [path.name for path in files(folder)]


def flip(path: Path, position: int = -30) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def one_line(text: str) -> str:
    assert text.count("\n") <= 1 and "Traceback" not in text
    return text


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
    first = (tmp_path / "a").read_bytes()
    write(tmp_path / "a", dict(reversed(TENSORS.items())), CONTENT)
    assert (tmp_path / "a").read_bytes() == first


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    with pytest.raises(Unusable) as caught:
        read(path)
    one_line(str(caught.value))


def test_bytes_of_a_tensor_a_number_of_the_history_and_a_swap_of_tensors_are_covered(tmp_path):
    path = tmp_path / "a"
    write(path, TENSORS, CONTENT)
    whole = path.read_bytes()
    for position in (-1, whole.index(b"12345678"), whole.index(b'\\"loss\\"') + 12):
        path.write_bytes(whole)
        flip(path, position)
        with pytest.raises(Unusable, match="SHA-256 differs"):
            read(path)
    with_other_names = TENSORS | {"net.a": TENSORS["net.a"].reshape(3, 2)}
    digest = checkpoints._digest(TENSORS, CONTENT)
    save_file(with_other_names, path, {"fmuc": json.dumps(CONTENT | {"sha256": digest})})
    with pytest.raises(Unusable, match="SHA-256 differs"):
        read(path)


def test_a_checkpoint_without_checksum_and_a_pickle_are_refused(tmp_path):
    path = tmp_path / "a"
    save_file(TENSORS, path, {"run": "12345678"})
    with pytest.raises(Unusable, match="no checksum"):
        read(path)
    save_file(TENSORS, path, {"fmuc": "[1]"})
    with pytest.raises(Unusable, match="no checksum"):
        read(path)

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"net": Trap()}, path)
    with pytest.raises(Unusable):
        read(path)
    assert not (tmp_path / "executed").exists()


def test_what_a_file_belongs_to_is_checked(tmp_path):
    write(tmp_path / "a", TENSORS, CONTENT)
    with pytest.raises(Foreign, match="belongs to run 12345678"):
        read(tmp_path / "a", run="other")
    with pytest.raises(Foreign, match="data set"):
        read(tmp_path / "a", run="12345678", data="other")
    with pytest.raises(Foreign, match="another version of the code"):
        read(tmp_path / "a", code="other")


_KILLED_AT_EVERY_LINE = """
import os, signal, sys
from pathlib import Path
import torch
from fmuc import checkpoints

folder, old, new = Path(sys.argv[1]), {"a": torch.zeros(999)}, {"a": torch.ones(999)}
checkpoints.add(folder, 1, old, {"epoch": 1})
checkpoints.add(folder, 2, old, {"epoch": 2})

def tracer(last):
    lines = iter(range(last))
    def trace(frame, event, argument):
        if frame.f_code.co_filename != checkpoints.__file__:
            return None
        if event == "line" and next(lines, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
    return trace

for last in range(1000):
    child = os.fork()
    if not child:
        sys.settrace(tracer(last))
        checkpoints.add(folder, 3, new, {"epoch": 3})
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    taken = []
    checkpoints.resume(folder, lambda tensors, content: taken.append((content["epoch"], tensors["a"].sum().item())))
    whole = [checkpoints.read(path)[1]["epoch"] for path in checkpoints.files(folder)]
    print(status, taken[0][0], int(taken[0][1]), *whole)
    if not status:
        break
    (folder / "checkpoint-0003.safetensors").unlink(missing_ok=True)
    checkpoints.add(folder, 1, old, {"epoch": 1})
    checkpoints.add(folder, 2, old, {"epoch": 2})
checkpoints.clean(folder)
print(*sorted(path.name for path in folder.iterdir()))
"""


def test_killed_at_any_line_the_checkpoint_is_there_whole_or_not_at_all(tmp_path):
    done = subprocess.run([sys.executable, "-c", _KILLED_AT_EVERY_LINE, str(tmp_path)], capture_output=True, text=True,
                          check=True, cwd=paths.ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.stderr == ""
    *outcomes, left = done.stdout.splitlines()
    before, after, ended = "-9 2 0 2 1", {"-9 3 999 3 2 1", "-9 3 999 3 2"}, "0 3 999 3 2"
    assert outcomes[-1] == ended and len(outcomes) > 35
    renamed = next(index for index, outcome in enumerate(outcomes) if outcome != before)
    assert renamed > 15 and len(outcomes) - renamed > 15
    assert {*outcomes[renamed:-1]} == after
    assert left == "checkpoint-0002.safetensors checkpoint-0003.safetensors"  # nothing half written


# Two of them, and what happens if one is damaged


def test_the_last_two_are_kept_and_of_a_finished_run_the_last(folder):
    seen = []
    go_on(folder, on_epoch=lambda row: seen.append(names(folder)))
    numbered = [f"checkpoint-{epoch:04d}.safetensors" for epoch in range(1, 5)]
    assert seen == [numbered[:1], numbered[1::-1], numbered[2:0:-1], numbered[3:1:-1]]
    assert names(folder) == numbered[3:]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [".lock", numbered[3], "counts.npz", "files.npz", "history.csv", "run.json", "scores.npz", "split.json"])


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "text", "moments", "epochs"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(folder, expected, capsys, damage):
    stop_after(3, folder)
    newest, before = files(folder)
    whole, (tensors, content) = newest.read_bytes(), read(newest)
    if damage == "flipped":
        flip(newest)
    elif damage == "moments":
        write(newest, {name: value for name, value in tensors.items() if name != "adam.2.exp_avg"}, content)
    elif damage == "epochs":
        write(newest, tensors, content | {"rows": content["rows"][:-1]})
    else:
        newest.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"not a checkpoint"}[damage])
    capsys.readouterr()
    epochs = []
    go_on(folder, on_epoch=lambda row: epochs.append(row["epoch"]))
    assert epochs == [3, 4]
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and newest.name in message and f"goes on from {before.name}" in message
    assert different(folder, expected) is None


def test_the_newest_is_that_of_the_last_epoch_whatever_the_clock_says(folder, expected, monkeypatch):
    jumps = itertools.cycle([0.0, 4e9, -5e8, 1e9])
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    stop_after(3, folder)
    newest, before = files(folder)
    os.utime(newest, (0, 0))
    os.utime(before, (4e9, 4e9))
    epochs = []
    go_on(folder, on_epoch=lambda row: epochs.append(row["epoch"]))
    assert epochs == [4] and different(folder, expected) is None
    seconds = load_record(folder).history.seconds
    assert seconds.is_monotonic_increasing and seconds.between(0, 600, inclusive="neither").all()


def test_the_tenth_thousandth_epoch_comes_after_the_one_before(tmp_path):
    for epoch in (9_998, 9_999, 10_000):
        checkpoints.add(tmp_path, epoch, TENSORS, CONTENT)
    assert names(tmp_path) == ["checkpoint-10000.safetensors", "checkpoint-9999.safetensors"]


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
    for _ in range(2):
        line = failing(folder)
        assert re.search(r"0003\.safetensors.*0002\.safetensors.*: delete them to start again", line)
    assert {path.name: path.read_bytes() for path in files(folder)} == left and not is_finished(folder)
    for path in files(folder):
        path.unlink()
    go_on(folder)
    assert different(folder, expected) is None


def test_a_checkpoint_of_another_run_is_refused_even_if_the_one_before_would_fit(folder):
    stop_after(3, folder)
    other = folder.parent / "other"
    other.mkdir()
    first = trainer(other)
    first.train_epoch()
    first.save_checkpoint()
    shutil.copy(files(other)[0], files(folder)[0])
    assert re.search(rf"0003\.safetensors.*belongs to run {RUN.id}.*delete it", failing(folder))


def test_a_checkpoint_of_other_data_is_refused(folder):
    """The same run over changed data would go on with other labelled files."""
    first = trainer(folder, FMUC)
    first.train_epoch()
    first.save_checkpoint()
    clips = tuple(replace(clip, id=f"new-{clip.id}") for clip in first.dataset.clips)
    first.dataset = replace(first.dataset, clips=clips)
    first.split = draw_split(first.dataset, 0.25, 0)
    with pytest.raises(FmucError, match=r"0001\.safetensors.*the data set or its labelled part has changed") as caught:
        first.load_checkpoint()
    one_line(str(caught.value))


def test_an_older_versions_checkpoint_is_not_lost_silently(folder):
    save_file(TENSORS, folder / "checkpoint.safetensors", {"run": FMUC.id})
    assert re.search(r"checkpoint\.safetensors.*no checksum.*delete it to start again", failing(folder))


def test_versions_of_the_code_that_trained_a_run_are_all_named(folder, monkeypatch, capsys):
    with monkeypatch.context() as before:
        before.setattr(training, "code_digest", lambda: "older")
        stop_after(2, folder)
    go_on(folder)
    assert capsys.readouterr().err.count("another version of the code") == 1
    assert load_record(folder).provenance["codes"] == ["older", code_digest()]


def test_the_state_is_whole(folder):
    """Weights, running statistics, moments, counts, history, seconds: nothing else decides what comes next."""
    before = trainer(folder, FMUC)
    before.train_epoch()
    before.save_checkpoint()
    after = trainer(folder, replace(FMUC))
    assert after.load_checkpoint()
    old, new = weights(before.net), weights(after.net)
    assert old.keys() == new.keys() and all(torch.equal(old[name], new[name]) for name in old)
    assert any("running_var" in name for name in old) and any("num_batches" in name for name in old)
    assert repr(after.rows) == repr(before.rows) and after.seconds == before.seconds
    np.testing.assert_array_equal(after.kept, before.kept)
    np.testing.assert_array_equal(after.seen, before.seen)


# Left behind by killed processes


def test_what_killed_processes_left_is_removed_at_the_next_start(folder, expected):
    stop_after(2, folder)
    warm = next((folder.parent / "warm-starts").glob("[!.]*"))
    warm.unlink()
    strays = [folder / ".checkpoint-0003.safetensors.1a2b3c4d.tmp", folder / ".run.json", folder / ".split.json.4711",
              folder / ".history.csv.0a1b2c3d.tmp"]
    mine, others = (warm.with_name(f".{name}.1a2b3c4d.tmp") for name in (warm.name, "other.safetensors"))
    for path in (*strays, mine, others, folder / "history.csv", folder / "split.json", folder / "files.npz"):
        path.write_bytes(b"half")
    Trainer(FMUC, trainer(folder, FMUC).dataset, folder, "cpu").warm_up()
    assert not mine.exists() and others.exists()  # another process may be writing that one
    others.unlink()
    go_on(folder)
    assert different(folder, expected) is None


def test_killed_between_the_record_and_the_end_the_next_call_tidies_up(folder, expected, monkeypatch):
    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as before:
        before.setattr(checkpoints, "keep_last", killed)
        with pytest.raises(KeyboardInterrupt):
            go_on(folder)
    assert is_finished(folder) and len(files(folder)) == 2
    go_on(folder)
    assert different(folder, expected) is None


def test_the_one_before_stays_if_the_last_of_a_finished_run_is_damaged(tmp_path):
    for epoch in (1, 2):
        checkpoints.add(tmp_path, epoch, TENSORS, CONTENT)
    flip(files(tmp_path)[0])
    checkpoints.keep_last(tmp_path)
    assert len(files(tmp_path)) == 2


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


@pytest.mark.parametrize(("number", "remedy"), [(errno.ENOSPC, "make room"), (errno.EDQUOT, "make room"),
                                                (errno.EROFS, "make it writable"), (errno.EIO, "see whether its disk")])
@pytest.mark.parametrize("place", ["fsync", "replace", "savez_compressed", "to_csv"])
def test_an_error_of_the_disk_is_one_line_and_the_next_call_goes_on(
        folder, expected, monkeypatch, number, remedy, place):
    stop_after(2, folder)
    owner = {"fsync": os, "replace": os, "savez_compressed": np, "to_csv": training.pd.DataFrame}[place]

    def fail(*arguments, **options):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr(owner, place, fail)
        assert f"{folder.name}: cannot be written ({os.strerror(number)}): {remedy}" in failing(folder)
    assert not is_finished(folder) and all(read(path) for path in files(folder))
    assert not [*folder.glob(".*.tmp")]
    go_on(folder)
    assert different(folder, expected) is None


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
    assert different(folder, expected) is None


def test_a_folder_that_vanishes(folder):
    line = failing(folder, on_epoch=lambda row: shutil.rmtree(folder))
    assert re.search(f"{folder.name}: cannot be written .*: the folder is gone", line)


def test_a_file_in_the_way(folder):
    folder.rmdir()
    folder.write_text("a file")
    assert f"{folder.name}: cannot be written" in failing(folder)


def test_a_file_system_on_which_nothing_can_be_locked(folder, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(FileLock, "acquire", refuse)
    assert f"{folder.name}: cannot be written" in failing(folder)


def test_a_closed_pipe_of_the_caller_is_not_an_error_of_the_folder(folder):
    def closed(row: dict) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with pytest.raises(BrokenPipeError):
        go_on(folder, on_epoch=closed)


class Mounted:
    """A small file system in memory; skips the test where that is not allowed."""

    def __init__(self, place: Path) -> None:
        self.place = place
        place.mkdir(parents=True, exist_ok=True)
        if shutil.which("mount") is None or self._mount("-t", "tmpfs", "-o", "size=1m", "tmpfs"):
            pytest.skip("no file system may be mounted here")

    def _mount(self, *options: str) -> int:
        return subprocess.run(["mount", *options, self.place], capture_output=True, check=False).returncode

    def remount(self, options: str) -> None:
        assert not self._mount("-o", f"remount,{options}")

    def unmount(self) -> None:
        subprocess.run(["umount", self.place], check=True)


@pytest.fixture
def small_disk(trainable: Path) -> Iterator[Mounted]:
    disk = Mounted(trainable / "disk")
    yield disk
    disk.unmount()


@pytest.mark.parametrize(("epoch", "room"), [*((3, room) for room in (0, 4, 12, 20)),
                                             *((4, room) for room in range(0, 17, 4))])
def test_a_full_disk(small_disk, expected, epoch, room):
    """Only ``room`` KiB are left for the checkpoint of epoch 3, or for the record after epoch 4."""
    folder, ballast = small_disk.place / RUN.name, small_disk.place / "ballast"

    def fill(row: dict | None = None) -> None:
        if row is None or row["epoch"] == epoch:
            ballast.write_bytes(bytes(max(0, shutil.disk_usage(small_disk.place).free - room * 1024)))

    stop_after(2, folder)
    if epoch == 3:
        fill()
    assert re.search(rf"{folder.name}: cannot be written \(No space left.*\): make room.*goes on",
                     failing(folder, on_epoch=fill))
    assert not is_finished(folder) and not [*folder.glob(".*.tmp")]
    assert [read(path)[1]["rows"][-1]["epoch"] for path in files(folder)] == ([2, 1] if epoch == 3 else [4, 3])
    ballast.unlink()
    go_on(folder)
    assert different(folder, expected) is None


def test_a_disk_that_becomes_read_only(small_disk, expected):
    folder = small_disk.place / RUN.name
    stop_after(2, folder)
    small_disk.remount("ro")
    assert re.search(rf"{folder.name}: cannot be written \(Read-only.*\): make it writable", failing(folder))
    small_disk.remount("rw")
    go_on(folder)
    assert different(folder, expected) is None
    small_disk.remount("ro")
    go_on(folder)  # a finished run is read


def test_the_command_ends_with_one_line_and_status_1(small_disk, monkeypatch, capsys):
    (small_disk.place / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk.place).free))
    for part in ("nsynth-gm-smoke", "features"):
        (small_disk.place / part).symlink_to(small_disk.place.parent / part)
    monkeypatch.setenv("FMUC_DATA", str(small_disk.place))
    assert main(["train", "--profile", "smoke", "--variant", "FM", "--device", "cpu"]) == 1
    line = one_line(capsys.readouterr().err.strip().splitlines()[-1])  # before it: the progress bar
    assert line.startswith("fmuc: ") and "No space left" in line and "make room" in line
