"""A small project in a folder: data, the records of every run of a plan, and all that is made of them. No run was
trained: the records' numbers are drawn, but agree with each other as those of a real run do."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TINY, note_names, write_nsynth_split
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from fmuc import analysis as figure_data
from fmuc import datasets, experiments, paths
from fmuc import figures as figure_files
from fmuc import notebooks as notebook_files
from fmuc import records as snapshots
from fmuc.config import Network, Run, Training
from fmuc.metrics import accuracy, quality, quantity
from fmuc.records import Record, load_all, provenance, save_record
from fmuc.splits import draw_split, save_split
from tools import readme

NAME = "nsynth-gm"
PRESET = experiments.Preset(
    NAME, TINY, labelled_share=0.25, network=Network(widths=(4, 8), blocks=(1, 1), stem=(3, 2)), table_2_factor=1,
    training=Training(labelled_batch=4, unlabelled_batch=10, iterations_per_epoch=3, epochs=4, supervised_batch=6,
                      evaluate_every=2), seeds=(0, 1), figure_3_epoch=1)


def use(root: Path, patch: pytest.MonkeyPatch) -> None:
    """The project in ``root`` becomes the one that the package works on."""
    patch.setenv("FMUC_DATA", str(root / "data"))
    patch.setitem(experiments.PROFILES, "mini", {NAME: PRESET})
    for name in ("records", "figures", "notebooks"):
        patch.setattr(paths, {"records": "SHIPPED_RECORDS"}.get(name, name.upper()), root / name)
    patch.setattr(readme, "README", root / "README.md")


@contextmanager
def used(root: Path) -> Iterator[None]:
    """The project in ``root`` is the one that the package works on."""
    with pytest.MonkeyPatch.context() as patch:
        use(root, patch)
        yield


def build(root: Path) -> None:
    """Write the whole project into ``root``."""
    with used(root):
        for split, per_family in (("train", 8), ("valid", 1), ("test", 3)):
            write_nsynth_split(root / "data" / NAME, split, note_names(split, per_family), length=400)
        for run in experiments.plan("mini"):
            write_record(root / "records" / "mini" / run.name, run)
        write_figures()
        write_notebooks()
        markers = "".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in ("table1", "table2", "claims"))
        (root / "README.md").write_text(readme.filled(f"# A project\n\n{markers}", readme.blocks("mini")))


def write_record(folder: Path, run: Run, draw: int = 0) -> Record:
    """A record of ``run`` in ``folder``; another ``draw`` has other numbers."""
    dataset = datasets.load(run.dataset)
    split = draw_split(dataset, run.labelled_share, run.seed, run.labels)
    rng, classes, training = np.random.default_rng([run.seed, draw]), len(dataset.classes), run.training
    seen = np.zeros((training.epochs, classes + 1), np.int64)
    kept = np.zeros((training.epochs, classes + 1, classes), np.int64)
    if run.selection:
        truth = dataset.labels()[split.unlabelled]
        for epoch in range(training.epochs):
            offered = rng.choice(truth, training.iterations_per_epoch * training.unlabelled_batch)
            seen[epoch] = np.bincount(offered, minlength=classes + 1)
            for label in offered[rng.random(len(offered)) < run.selection.threshold]:
                kept[epoch, label, label if rng.random() < 0.8 else rng.integers(classes)] += 1
    parts = {part: _predictions(dataset, clips, rng) for part, clips in
             (("test", split.test), ("unlabelled", split.unlabelled))}
    files = {f"{part}_{name}": values for part, found in parts.items() for name, values in found.items()}
    results = {f"{part}_accuracy": accuracy(found["probabilities"], found["labels"])
               for part, found in parts.items() if len(found["labels"])}
    results |= {f"{part}_files": len(found["labels"]) for part, found in parts.items()}
    results["labelled_files"] = len(split.labelled)
    origin = provenance("cpu", 1, 1.0) | {"dataset_digest": dataset.digest, "split_digest": split.digest}
    scores = _scores(run, dataset, split.unlabelled) if run.selection and run.seed == snapshots.SEED else {}
    record = Record(run, dataset.classes, results, origin, _history(kept, seen, results, rng), kept, seen, files,
                    scores)
    folder.mkdir(parents=True)
    save_split(split, dataset, folder / "split.json")
    save_record(record, folder)
    return record


def _predictions(dataset: datasets.Dataset, clips: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    labels = dataset.labels()[clips]
    probabilities = rng.dirichlet(np.full(len(dataset.classes), 0.2), len(clips))
    right = rng.random(len(clips)) < 0.7
    probabilities[right] = 0.3 * probabilities[right] + 0.7 * np.eye(len(dataset.classes))[labels[right]]
    return {"labels": labels, "probabilities": probabilities.astype(np.float16),
            "ids": np.array([dataset.clips[i].id.encode() for i in clips], dtype="S")}


def _scores(run: Run, dataset: datasets.Dataset, clips: np.ndarray) -> dict[str, np.ndarray]:
    """One patch of each of a few files."""
    clips, rng, epochs = clips[:5], np.random.default_rng(run.seed), snapshots.epochs(run.training.epochs)
    shape = len(clips), len(dataset.classes)
    taken = []
    for _ in epochs:
        plain, passes = (torch.from_numpy(6 * rng.standard_normal(size)).half() for size in (shape, (10, *shape)))
        chosen = snapshots.choice(plain, passes, run.selection)
        taken.append(snapshots.Snapshot(plain, passes, chosen.labels, chosen.mask))
    return {"epochs": np.array(epochs), "patches": clips, "offset": np.zeros_like(clips),
            "ids": np.array([dataset.clips[i].id.encode() for i in clips], dtype="S"),
            "truth": dataset.labels()[clips], **{k: v.numpy() for k, v in snapshots.stacked(taken).items()}}


def _history(kept: np.ndarray, seen: np.ndarray, results: dict, rng: np.random.Generator) -> pd.DataFrame:
    rows = [{"epoch": epoch + 1, "loss_labelled": rng.random(), "loss_unlabelled": rng.random(),
             "quality": quality(kept[epoch]), "quantity": quantity(kept[epoch], seen[epoch]), "seconds": epoch + 1.0}
            for epoch in range(len(kept))]
    for row, part in ((row, part) for row in rows[1::2] for part in ("test", "unlabelled")):
        if f"{part}_accuracy" in results:
            row[f"{part}_accuracy"] = results[f"{part}_accuracy"] if row is rows[-1] else rng.random()
    return pd.DataFrame(rows).set_index("epoch")


def write_figures() -> None:
    """Tables and figures of the records; a few bytes stand for each picture."""
    records = load_all("mini", "shipped")
    for name, frame in figure_data.frames(records, "mini").items():
        if name in figure_data.TABLES:
            figure_files.save_table(frame, name, "mini", records=records, alt=name)
        else:
            contents = {f"{name}.png": b"picture of " + name.encode(), f"{name}.csv": figure_files.csv_bytes(frame)}
            figure_files._save(name, "mini", "", "figure", contents, records, name)
    figure_files._save("fig1", "mini", "", "figure", {"fig1.svg": b"<svg/>"}, [], "a diagram")


def write_notebooks() -> None:
    """Two notebooks as papermill would leave them, without a kernel."""
    paths.NOTEBOOKS.mkdir(exist_ok=True)
    for name in ("00_first", "01_second"):
        cells = [new_markdown_cell("# A card"), new_code_cell('profile = "mini"', metadata={"tags": ["parameters"]}),
                 new_code_cell("show()", execution_count=2)]
        path, executed = paths.NOTEBOOKS / f"{name}.ipynb", paths.NOTEBOOKS / "executed"
        nbformat.write(new_notebook(cells=cells), path)
        picture = base64.b64encode((paths.figures_dir("mini") / "fig2a_quality.png").read_bytes()).decode()
        words = {"image/png": {"alt": "Curves"}}
        cells[2].outputs = [new_output("stream", name="stdout", text="FMUC keeps 74.3 %\n"),
                            new_output("display_data", {"image/png": picture}, metadata=words)]
        nbformat.write(new_notebook(cells=cells), executed)
        notebook_files.store(path, executed, notebook_files.records_digest(paths.SHIPPED_RECORDS / "mini"))
        executed.unlink()
