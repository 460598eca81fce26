"""Whether a run record agrees with itself, with its data set and with another of the same run: one line per mismatch.

``runs.load_record`` has already refused what cannot be read and what was changed since the run ended. Here everything
that follows from something else in the record is computed anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fmuc.datasets import Dataset
from fmuc.errors import FmucError
from fmuc.metrics import quality, quantity
from fmuc.records import Record
from fmuc.splits import draw_split, read_split

PARTS = ("test", "unlabelled")
_ROUNDING = 0.02  # that the float16 probabilities of a file may miss 1 by


def mismatches(record: Record, folder: Path) -> list[str]:
    """What does not follow from the rest of the record in ``folder``: "file: what", empty for a sound one."""
    found = [*_counts(record), *_history(record), *_scores(record)]
    for part in PARTS:
        found += _predictions(record, part)
    return found + list(_split(record, folder))


def _counts(record: Record) -> Iterator[str]:
    training = record.run.training
    if len(record.kept) != training.epochs:
        yield f"history.csv: has {len(record.kept)} epochs, the run {training.epochs}"
    negative = (record.kept < 0).any(axis=(1, 2)) | (record.seen < 0).any(axis=1)
    more = (record.kept.sum(axis=2) > record.seen).any(axis=1)
    steps = training.iterations_per_epoch if record.run.selection else 0  # supervised runs keep no pseudo-label
    offered = steps * training.unlabelled_batch
    seen = record.seen.sum(axis=1)
    for wrong, text in ((negative, "a count is negative"), (more, "more examples of a class are kept than were seen"),
                        (seen != offered, f"{{}} examples were seen, {steps} steps of {training.unlabelled_batch} "
                         f"make {offered}")):
        for index in np.flatnonzero(wrong)[:1]:
            yield f"counts.npz: epoch {index + 1}: {text.format(seen[index])}"


def _history(record: Record) -> Iterator[str]:
    computed = {"quality": [quality(kept) for kept in record.kept],
                "quantity": [quantity(kept, seen) for kept, seen in zip(record.kept, record.seen, strict=True)]}
    for column, values in computed.items():
        stored = record.history.get(column, [])
        if len(stored) != len(values):
            yield f"history.csv: has no column {column}"
            continue
        for epoch, (one, other) in enumerate(zip(stored, values, strict=True), 1):
            if _rounded(one) != _rounded(other):
                yield f"history.csv: epoch {epoch}: {column} is {_rounded(one)}, the counts give {_rounded(other)}"
                break
    for column in (column for column in record.history if column.startswith("loss_")):
        if not np.isfinite(record.history[column]).all():
            yield f"history.csv: {column} is not finite"


def _rounded(value: float) -> str:
    return f"{value:.6g}"  # as the history is written


def _scores(record: Record) -> Iterator[str]:
    """The recorded choice must be that of the run's rule on the recorded logits."""
    if not record.scores:
        return
    import torch  # only where there are scores

    from fmuc import records as snapshots

    if record.run.selection is None:
        yield "scores.npz: of a run that has no selection"
        return
    selection, scores = record.run.selection, record.scores
    if scores["epochs"].tolist() != snapshots.epochs(record.run.training.epochs):
        yield "scores.npz: its epochs are not those of the run"
    plain, passes = (torch.from_numpy(scores[name].astype(np.float32)) for name in ("plain", "passes"))
    for index, epoch in enumerate(scores["epochs"]):
        try:
            chosen = snapshots.choice(plain[index], passes[index], selection)
        except FmucError as error:
            yield f"scores.npz: {error}"
            return
        for name, values in (("labels", chosen.labels), ("kept", chosen.mask)):
            if not np.array_equal(values.numpy(), scores[name][index]):
                yield f"scores.npz: epoch {epoch}: {name} are not what the run's rule makes of the logits"


def _predictions(record: Record, part: str) -> Iterator[str]:
    try:
        labels, probabilities, ids = (record.files[f"{part}_{name}"] for name in ("labels", "probabilities", "ids"))
    except KeyError as error:
        yield f"files.npz: has no {error.args[0]}"
        return
    count, classes = labels.size, len(record.classes)
    if (labels.shape, probabilities.shape, ids.shape) != ((count,), (count, classes), (count,)) or (
            labels.dtype.kind not in "iu" or probabilities.dtype.kind != "f"):
        yield f"files.npz: labels, probabilities and ids of {part} files do not fit together"
    elif count != record.results.get(f"{part}_files"):
        yield f"run.json: results: {record.results.get(f'{part}_files')} {part}_files, files.npz has {count}"
    elif len(np.unique(ids)) < count:
        yield f"files.npz: an id of a {part} file occurs twice"
    elif count and not -1 <= labels.min() <= labels.max() < classes:
        yield f"files.npz: {part}_labels must lie between -1 and {classes - 1}"
    elif not _are_probabilities(probabilities):
        yield f"files.npz: {part}_probabilities do not add up to 1"
    else:
        yield from _accuracy(record, part, labels, probabilities)


def _are_probabilities(values: np.ndarray) -> bool:
    values = values.astype(float)
    return bool(np.isfinite(values).all() and (values >= 0).all() and (abs(values.sum(axis=1) - 1) < _ROUNDING).all())


def _accuracy(record: Record, part: str, labels: np.ndarray, probabilities: np.ndarray) -> Iterator[str]:
    """The recorded accuracies must be those of the probabilities; float16 leaves a few files undecided."""
    known = labels >= 0
    name, stored = f"{part}_accuracy", []
    if name in record.results:
        stored.append(("run.json: results", record.results[name]))
    if name in record.history:
        stored.append((f"history.csv: epoch {len(record.history)}", record.history[name].iloc[-1]))
    if bool(known.any()) != (name in record.results):
        yield f"run.json: results: {name} {'is missing' if known.any() else 'of files of unknown class'}"
    elif known.any():
        low, high = accuracy_bounds(probabilities[known], labels[known])
        for where, value in stored:
            if not (isinstance(value, (int, float)) and low - 1e-6 <= value <= high + 1e-6):
                yield f"{where}: {name} is {value}, files.npz gives {low:.6g}" + (f" to {high:.6g}" * (high > low))


def accuracy_bounds(probabilities: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Lowest and highest accuracy that probabilities (n, C) rounded to float16 allow: the largest two may be equal."""
    own = np.take_along_axis(probabilities, labels[:, None], axis=1)
    others = (probabilities >= own).sum(axis=1) - 1
    return float((others == 0).mean()), float((probabilities <= own).all(axis=1).mean())


def _split(record: Record, folder: Path) -> Iterator[str]:
    try:
        split = read_split(folder / "split.json")
    except FmucError as error:
        yield f"split.json: {error}"
        return
    run, origin = record.run, record.provenance
    wanted = {"dataset": run.dataset, "labelled_share": run.labelled_share, "seed": run.seed, "labels": run.labels,
              "dataset_digest": origin.get("dataset_digest"), "split_digest": origin.get("split_digest")}
    for name, value in wanted.items():
        if split[name] != value:
            yield f"split.json: {name} is {split[name]!r}, run.json has {value!r}"
    labelled = split["labelled"]
    if len(labelled) != record.results.get("labelled_files"):
        yield f"split.json: {len(labelled)} labelled files, run.json has {record.results.get('labelled_files')}"
    parts = {"labelled": labelled, **{part: _ids(record, part) for part in PARTS}}
    for one, other in (("labelled", "test"), ("labelled", "unlabelled"), ("test", "unlabelled")):
        if both := set(parts[one]) & set(parts[other]):
            yield f"split.json: {min(both)!r} is both a {one} and a {other} file"


def _ids(record: Record, part: str) -> list[str]:
    ids = record.files.get(f"{part}_ids", np.empty(0, "S1"))
    return [id.decode("utf-8", "replace") if isinstance(id, bytes) else str(id) for id in ids.ravel().tolist()]


def against_data(record: Record, folder: Path, dataset: Dataset) -> list[str]:
    """What differs when the split is drawn again from ``dataset``, which must have the digest of the record's."""
    run, found = record.run, []
    split = draw_split(dataset, run.labelled_share, run.seed, run.labels)
    if record.classes != dataset.classes:
        found.append(f"run.json: the classes are not those of {dataset.name}")
    names = [clip.id for clip in dataset.clips]
    if read_split(folder / "split.json")["labelled"] != [names[i] for i in split.labelled]:
        found.append(f"split.json: another draw than that of seed {run.seed} from {dataset.name}")
    if record.provenance.get("split_digest") != split.digest:
        found.append(f"run.json: split_digest is {record.provenance.get('split_digest')}, drawn again {split.digest}")
    truth = dataset.labels()
    for part, clips in zip(PARTS, (split.test, split.unlabelled), strict=True):
        if _ids(record, part) != [names[i] for i in clips]:
            found.append(f"files.npz: the {part} files are not those of {dataset.name}")
        elif not np.array_equal(record.files[f"{part}_labels"], truth[clips]):
            found.append(f"files.npz: {part}_labels are not those of {dataset.name}")
    return found


def difference(one: Record, other: Record) -> str:
    """In which way two records of a run differ in counts and predictions; empty if they are equal bit for bit."""
    found = []
    for name in ("kept", "seen"):
        first, second = getattr(one, name), getattr(other, name)
        if first.shape != second.shape:
            found.append(f"{name} counts of {len(first)} and {len(second)} epochs")
        elif (apart := (first != second).reshape(len(first), -1).any(axis=1)).any():
            found.append(f"{name} counts from epoch {int(apart.argmax()) + 1} on")
    arrays, others = {**one.files, **one.scores}, {**other.files, **other.scores}
    for name in sorted({*arrays, *others}):
        first, second = arrays.get(name), others.get(name)
        if first is None or second is None or first.shape != second.shape or first.tobytes() != second.tobytes():
            found.append(name)
    return ", ".join(found)
