"""Run records: what a finished run leaves on disk, small enough to commit and enough for every figure and table.

A record is a folder: ``run.json`` (config, results, provenance), ``history.csv`` (one row per epoch), ``counts.npz``
(pseudo-label counts per epoch), ``files.npz`` (file-wise predictions), ``split.json`` (the labelled files) and, for
some rows, ``scores.npz`` (snapshots of a few patches) and ``pool.npz`` (scores of all unlabelled ones). ``run.json`` is
written last and holds the SHA-256 of the other files: a run that has it is finished, and later changes to any file are
detected.
"""

from __future__ import annotations

import ast
import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fmuc import __version__, paths
from fmuc.config import Run, Selection, run_from_dict
from fmuc.errors import FmucError
from fmuc.experiments import chosen, plan
from fmuc.machinery.atomic import write_json
from fmuc.selection import PseudoLabels, select
from fmuc.uncertainty import weak_logits

FORMAT = 2
FILES = ("run.json", "history.csv", "counts.npz", "files.npz", "scores.npz", "pool.npz", "split.json")
# The code that determines a run's result; that of its data, features and split shows in their digests
RESULT_SOURCES = ("config.py", "augment.py", "model.py", "uncertainty.py", "selection.py", "fixmatch.py", "pool.py",
                  "batches.py", "train.py", "fast/*.py")

_PACKAGE = Path(__file__).parent
_SOURCES = {path.relative_to(_PACKAGE).as_posix(): path.read_bytes()  # as imported, whatever is edited later
            for pattern in RESULT_SOURCES for path in sorted(_PACKAGE.glob(pattern))}


@dataclass(frozen=True, eq=False)
class Record:
    """A finished run.

    ``results``: accuracies on the parts "test" and "unlabelled", means of the last ten evaluations
    (``<part>_accuracy``) and the last one (``<part>_accuracy_last``), and numbers of files. ``history``: one row per
    epoch (index "epoch"); ``kept`` (epochs, C + 1, C) and ``seen`` (epochs, C + 1): pseudo-label counts, the last row
    for unknown true classes; ``files``, of each part: ``<part>_labels`` (n,), ``<part>_probabilities`` (n, C) of the
    last evaluation, ``<part>_correct`` (n,), the share of the last ten in which the file was right, ``<part>_ids`` and
    ``<part>_groups``.

    ``scores``, possibly empty, of P unlabelled patches after E epochs: ``epochs`` (E,), ``patches`` (P,) in the feature
    cache, ``ids`` (P,) of their clips, ``offset`` (P,) within the clip, ``truth`` (P,), -1 for unknown, and the parts
    of :class:`Snapshot`, (E, ...) each. ``pool``, possibly empty, of all P unlabelled patches after E epochs:
    ``epochs`` (E,), ``truth`` (P,), ``groups`` (P,), ``names`` (S,) of the scores of :mod:`fmuc.pool`, their
    ``certainty`` and ``labels`` (E, S, P), and the ``probabilities`` (E, P, C) with dropout off. ``digest`` identifies
    the files that a record was read from.
    """

    run: Run
    classes: tuple[str, ...]
    results: dict
    provenance: dict
    history: pd.DataFrame
    kept: np.ndarray
    seen: np.ndarray
    files: dict[str, np.ndarray]
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    pool: dict[str, np.ndarray] = field(default_factory=dict)
    digest: str = ""

    def counts(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Pseudo-label counts of the epochs ``first`` ... ``last`` (from 1, both included): (C + 1, C) and (C + 1,)."""
        return self.kept[first - 1 : last].sum(axis=0), self.seen[first - 1 : last].sum(axis=0)


def provenance(device: str, threads: int, wall_seconds: float, **digests: str) -> dict:
    """Versions, commit, machine and wall time of a run, without host or user name; ``digests`` of its data."""
    versions = {name: version(name) for name in ("torch", "torchaudio", "librosa", "numpy", "numba")}
    return {"fmuc": __version__, "commit": _commit(), "code": code_digest(), "python": platform.python_version(),
            **versions, "platform": f"{platform.system()} {platform.machine()}", "device": device, "threads": threads,
            "wall_seconds": round(wall_seconds, 1), **digests}


@cache
def code_digest() -> str:
    """The digest of the code that determines a result, as this process has imported it."""
    return source_digest(_SOURCES)


def source_digest(sources: Mapping[str, bytes]) -> str:
    """12 hex digits of the SHA-256 of Python sources by name, without comments, docstrings and layout."""
    digest = hashlib.sha256()
    for name, source in sources.items():
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        digest.update(f"{name}\0{ast.unparse(tree)}\0".encode())
    return digest.hexdigest()[:12]


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git on this machine, or no repository
        return "unknown"
    return done.stdout.strip()


def save_record(record: Record, folder: Path) -> None:
    """Write all files of a record into the existing ``folder``; ``run.json`` comes last and makes it a record."""
    record.history.to_csv(folder / "history.csv", float_format="%.6g")
    np.savez_compressed(folder / "counts.npz", kept=record.kept.astype(np.float32), seen=record.seen.astype(np.int32))
    np.savez_compressed(folder / "files.npz", **record.files)
    for name in ("scores", "pool"):
        if arrays := getattr(record, name):
            np.savez_compressed(folder / f"{name}.npz", **arrays)
    content = {"format": FORMAT, "id": record.run.id, "config": asdict(record.run), "classes": record.classes,
               "results": record.results, "provenance": record.provenance}
    write_json(folder / "run.json", sealed(content, folder))


def sealed(content: Mapping, folder: Path) -> dict:
    """The content of a ``run.json`` with the SHA-256 of itself and of the record's other files."""
    content = {name: value for name, value in content.items() if name != "sha256"}
    sums = {"run.json": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}
    for name in FILES[1:]:
        if (folder / name).exists():
            sums[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    return content | {"sha256": sums}


def load_record(folder: Path) -> Record:
    """Inverse of :func:`save_record`; :class:`FmucError` names a record that is damaged or has another format."""
    try:
        return _read(folder)
    except Exception as error:  # a damaged file may raise anything
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise FmucError(f"{paths.relative(folder)}: not a valid run record ({' '.join(reason.split())[:300]}): delete "
                        "the folder and train the run again ('python -m fmuc train')") from None


def _read(folder: Path) -> Record:
    content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    if content["format"] != FORMAT:
        raise ValueError(f"format {content['format']!r:.20}, this version reads {FORMAT}")
    sums, found = content["sha256"], sealed(content, folder)["sha256"]
    for name in FILES:
        if sums.get(name) != found.get(name):
            raise ValueError(f"{name} has changed since the run ended")
    run = run_from_dict(content["config"])
    if run.id != content["id"]:
        raise ValueError(f"its config has the id {run.id}, recorded is {content['id']!r:.20}")
    history = pd.read_csv(folder / "history.csv", index_col="epoch")
    counts, files = _arrays(folder / "counts.npz"), _arrays(folder / "files.npz")
    scores, pool = (_arrays(folder / name) if name in sums else {} for name in ("scores.npz", "pool.npz"))
    kept, seen, classes = counts["kept"].astype(np.float64), counts["seen"].astype(np.int64), tuple(content["classes"])
    if seen.shape != (len(history), len(classes) + 1) or kept.shape != (*seen.shape, len(classes)):
        raise ValueError("classes, history.csv and counts.npz do not fit together")
    digest = hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()[:12]
    return Record(run, classes, content["results"], content["provenance"], history, kept, seen, files, scores, pool,
                  digest)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def is_finished(folder: Path) -> bool:
    """Whether ``folder`` holds a record of a finished run."""
    return (folder / "run.json").is_file()


def belongs(folder: Path, run: Run, digests: Mapping[str, str]) -> bool:
    """Whether the record in ``folder`` is one of ``run`` on data with these ``digests``; reads ``run.json`` only."""
    content = _peek(folder)
    recorded = content.get("provenance", {})
    return content.get("id") == run.id and all(recorded.get(name) == value for name, value in digests.items())


def _peek(folder: Path) -> dict:
    """Content of a ``run.json``; empty where there is none, or one that is damaged or has another format."""
    try:
        content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return content if content["format"] == FORMAT else {}
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}


def available(profile: str, source: str = "runs", dataset: str | None = None) -> list[Record]:
    """The finished runs of a profile's plan, in its order, then your own runs of other variants; possibly none.

    ``source`` as in :func:`fmuc.paths.records_dir`; ``dataset``: only its runs, it may be your own audio.
    """
    folder, planned = paths.records_dir(profile, source), plan(profile, dataset)
    found = [load_record(folder / run.name) for run in planned if is_finished(folder / run.name)]
    if source == "runs":
        datasets, variants = chosen(profile, dataset), {run.variant for run in planned}
        for path in sorted(folder.glob("*/run.json")):
            config = _peek(path.parent).get("config", {})
            if config.get("dataset") in datasets and config.get("variant") not in variants:
                found.append(load_record(path.parent))
    return found


def load_all(profile: str, source: str = "runs", dataset: str | None = None) -> list[Record]:
    """As :func:`available`; raises :class:`FmucError` if there is no record."""
    found = available(profile, source, dataset)
    if not found:
        remedy = (f"run 'python -m fmuc reproduce --profile {profile}'" if source == "runs" else
                  "none are shipped, read your own runs with '--source runs'")
        where = paths.relative(paths.records_dir(profile, source))
        raise FmucError(f"no run records of the plan of {dataset or profile} under {where}: {remedy}")
    return found


def find(records: Sequence[Record], dataset: str, variant: str, seed: int | None = None) -> list[Record]:
    """The records of one data set and variant (and seed), in the order of their seeds; possibly none."""
    hits = [r for r in records if r.run.dataset == dataset and r.run.variant == variant and seed in (None, r.run.seed)]
    return sorted(hits, key=lambda r: r.run.seed)


# Snapshots: logits of a few unlabelled patches during the training

SEED = 0  # the seed that every row of Table I is trained with
PATCHES, PASSES = 320, 10


class Snapshot(NamedTuple):
    """Logits (P, C) without and (N, P, C) with dropout in half precision, and the run's own ``labels`` and ``kept``."""

    plain: Tensor
    passes: Tensor
    labels: Tensor
    kept: Tensor


def epochs(last: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... below ``last``, and ``last``."""
    series = [step * 10**power for power in range(9) for step in (1, 2, 5)]
    return [*(epoch for epoch in series if epoch < last), last]


def choice(plain: Tensor, passes: Tensor, selection: Selection) -> PseudoLabels:
    """Apply a rule to stored logits (P, C) and (N, P, C) with the functions of the training, in float32.

    Raises :class:`FmucError` where the rule needs more passes than are stored.
    """
    if selection.passes > len(passes):
        raise FmucError(f"selection.passes is {selection.passes}, but {len(passes)} passes were stored: ask for fewer")
    logits = passes[: selection.passes] if selection.passes else plain[None]
    return select(logits.float(), selection)


def take(net: nn.Module, weak: Tensor, run: Run, seed: int) -> Snapshot:
    """The snapshot of weak views (P, 1, F, T); ``seed`` is that of the dropout masks."""
    number = max(PASSES, run.selection.passes) if run.network.dropout else 0
    with torch.random.fork_rng(devices=[weak.device] if weak.device.type == "cuda" else []):
        torch.manual_seed(seed)
        plain, passes = (weak_logits(net, weak, count, run.selection.batch_norm).half().cpu() for count in (0, number))
    plain, passes = plain[0], passes[:number]
    chosen = choice(plain, passes, run.selection)
    return Snapshot(plain, passes, chosen.labels, chosen.mask)


def draw_patches(unlabelled: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
    """Draw ``PATCHES`` of the patches ``unlabelled`` (n,), or all if there are fewer, the same for every row."""
    drawn = np.random.default_rng(seed).permutation(len(unlabelled))[:PATCHES]
    return np.sort(unlabelled[drawn])


def stacked(taken: Sequence[Snapshot]) -> dict[str, Tensor]:
    """The parts of E snapshots, one or more, by name: (E, ...) each."""
    return {name: torch.stack(parts) for name, parts in zip(Snapshot._fields, zip(*taken, strict=True), strict=True)}
