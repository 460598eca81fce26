"""Runs killed (SIGKILL) at random moments and started again end bit for bit as one that never was.

``python tests/test_kills.py 20`` kills 20 trainings.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from conftest import note_names, write_nsynth_split

from fmuc import datasets, features, train
from fmuc.experiments import make_run
from fmuc.machinery import checkpoints
from fmuc.records import is_finished, load_record

RUN = make_run("smoke", "nsynth-gm-smoke", "FMUC")
MACHINE = ("wall_seconds", "commit")  # parts of the provenance that do not come from the training
PATIENCE = 300  # seconds that a training may take on a busy machine
contexts = multiprocessing.get_context("forkserver")  # the imports are done once
contexts.set_forkserver_preload(["fmuc.train", "torch._dynamo"])


def train_quietly(folder: Path) -> None:
    torch.set_num_threads(1)
    train.train(RUN, device="cpu", folder=folder, progress=False)


def start(folder: Path) -> multiprocessing.Process:
    process = contexts.Process(target=train_quietly, args=(folder,))
    process.start()
    return process


def finish(folder: Path) -> float:
    """Train to the end; return the seconds that it took."""
    started, process = time.monotonic(), start(folder)
    process.join(PATIENCE)
    assert process.exitcode == 0
    return time.monotonic() - started


def kill(folder: Path, seconds: float, rng: np.random.Generator) -> None:
    """Train and kill at a random moment; every other time just as files change, which takes milliseconds only."""
    process, changes, before = start(folder), int(rng.integers(1, 20)), []
    if rng.random() < 0.5:
        process.join(seconds * rng.random())
        changes = 0
    while changes and process.is_alive():
        names = os.listdir(folder) if folder.exists() else []
        changes, before = changes - (names != before), names
    process.kill()
    process.join()


def ending(folder: Path) -> dict[str, object]:
    """All that a finished run leaves, by name, without wall times."""
    (last, *_), record = checkpoints.files(folder), load_record(folder)
    tensors, content = checkpoints.read(last)
    parts: dict[str, object] = {"files": sorted(path.name for path in folder.iterdir())}
    parts |= {name: value.numpy().tobytes() for name, value in tensors.items()}
    parts |= {name: value.tobytes() for name, value in (record.files | record.scores).items()}
    parts |= {"kept": record.kept.tobytes(), "seen": record.seen.tobytes()}
    parts["rows"] = [{**row, "seconds": 0} for row in content["rows"]]
    parts["history"] = record.history.drop(columns="seconds").to_csv()
    parts["results"] = record.results
    parts["provenance"] = {name: value for name, value in record.provenance.items() if name not in MACHINE}
    return parts


def killed_runs(root: Path, count: int, seed: int) -> Iterator[tuple[int, list[str]]]:
    """For each of ``count`` killed trainings: how often it was killed, and what differs from an undisturbed one."""
    rng = np.random.default_rng(seed)
    seconds = finish(root / "undisturbed" / RUN.name)
    expected = ending(root / "undisturbed" / RUN.name)
    for number in range(count):
        folder, kills = root / str(number) / RUN.name, 0
        while kills < rng.integers(1, 5) and not is_finished(folder):
            kill(folder, seconds, rng)
            kills += 1
        finish(folder)
        found = ending(folder)
        yield kills, [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]


def test_killed_runs_end_as_the_undisturbed_one(trainable, tmp_path):
    results = list(killed_runs(tmp_path / "runs", 2, seed=1))
    assert sum(kills for kills, _ in results) >= 2
    assert [different for _, different in results] == [[], []]


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        os.environ["FMUC_DATA"] = root
        for split, per_family in (("train", 8), ("valid", 1), ("test", 3)):
            write_nsynth_split(Path(root, RUN.dataset), split, note_names(split, per_family))
        features.extract(datasets.load(RUN.dataset), RUN.features, workers=1, progress=False)
        results = list(killed_runs(Path(root, "runs"), count, seed=0))
    equal = sum(not different for _, different in results)
    print(f"{equal} of {count} trainings ended identical after {sum(kills for kills, _ in results)} kills")
    sys.exit(equal < count)


if __name__ == "__main__":
    main(int(sys.argv[1]))
