"""Run records: what a finished run leaves on disk, small enough to be committed and enough for every figure and table.

A record is a folder: ``run.json`` (config, results, provenance), ``history.csv`` (one row per epoch), ``counts.npz``
(``kept`` (epochs, C + 1, C) and ``seen`` (epochs, C + 1), see ``PseudoLabelCounts``), ``files.npz`` (file-wise
probabilities of test and unlabelled files), ``split.json`` (the labelled files) and, for Table I's rows of the first
seed, ``scores.npz`` (scores of single unlabelled patches, see :mod:`fmuc.records`). ``run.json`` is written last and
holds the SHA-256 of the others: a run that has it is finished, and a file that was changed since is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fmuc import __version__, paths
from fmuc.config import ConfigError, Run, Selection, run_from_dict, shortened
from fmuc.errors import FmucError
from fmuc.experiments import plan
from fmuc.features import read_npz
from fmuc.selection import PseudoLabels, select
from fmuc.uncertainty import pass_statistics, weak_logits

FORMAT = 2
FILES = ("run.json", "history.csv", "counts.npz", "files.npz", "scores.npz", "split.json")


@dataclass(frozen=True, eq=False)
class Record:
    """A finished run. ``classes`` (C,) names; ``results`` final numbers; ``history`` one row per epoch (index "epoch");
    ``kept`` (epochs, C + 1, C) and ``seen`` (epochs, C + 1) pseudo-label counts; ``files`` arrays of the final
    file-wise predictions: ``<part>_labels`` (n,), ``<part>_probabilities`` (n, C), ``<part>_ids`` for the parts
    "test" and "unlabelled"; ``scores``, possibly empty, of P unlabelled patches after E epochs: ``epochs`` (E,),
    ``patches`` (P,) of the feature cache, ``ids`` (P,) of their clips, ``offset`` (P,) within the clip, ``truth`` (P,),
    -1 where unknown, logits ``plain`` (E, P, C) and ``passes`` (E, N, P, C), and what the run's own rule made of them,
    ``labels`` and ``kept`` (E, P); ``digest`` of all files of a record that was read, which names it in what is made of
    it."""

    run: Run
    classes: tuple[str, ...]
    results: dict
    provenance: dict
    history: pd.DataFrame
    kept: np.ndarray
    seen: np.ndarray
    files: dict[str, np.ndarray]
    scores: dict[str, np.ndarray] = field(default_factory=dict)
    digest: str = ""

    def counts(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Pseudo-label counts of the epochs ``first`` ... ``last`` (from 1, both included): (C + 1, C) and (C + 1,)."""
        return self.kept[first - 1 : last].sum(axis=0), self.seen[first - 1 : last].sum(axis=0)


def provenance(device: str, threads: int, wall_seconds: float) -> dict:
    """Versions, commit, machine and wall time of a run; no host or user name. ``code``: see :func:`code_digest`."""
    packages = ("torch", "torchaudio", "librosa", "numpy", "numba")
    return {
        "fmuc": __version__,
        "commit": _commit(),
        "code": code_digest(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device,
        "threads": threads,
        "wall_seconds": round(wall_seconds, 1),
    }


@cache  # as it is when the process begins: that is the code which runs
def code_digest() -> str:
    """First 12 hex digits of the SHA-256 of the package's sources, names included."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, cwd=paths.ROOT, capture_output=True, text=True, check=False)
    except OSError:  # no git on this machine
        return "unknown"
    return done.stdout.strip() or "unknown"


def save_record(record: Record, folder: Path) -> None:
    """Write all files of a record into the existing ``folder``; ``run.json`` comes last and makes it a record."""
    record.history.to_csv(folder / "history.csv", float_format="%.6g")
    np.savez_compressed(folder / "counts.npz", kept=record.kept.astype(np.int32), seen=record.seen.astype(np.int32))
    np.savez_compressed(folder / "files.npz", **record.files)
    if record.scores:
        np.savez_compressed(folder / "scores.npz", **record.scores)
    content = {
        "format": FORMAT,
        "id": record.run.id,
        "config": asdict(record.run),
        "classes": record.classes,
        "results": record.results,
        "provenance": record.provenance,
    }
    temporary = folder / ".run.json"
    temporary.write_text(json.dumps(sealed(content, folder), indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, folder / "run.json")


def sealed(content: dict, folder: Path) -> dict:
    """The content of a ``run.json`` with the SHA-256 of the record's other files, and of itself without them."""
    content = {name: value for name, value in content.items() if name != "sha256"}
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in FILES if name != "run.json" and (folder / name).exists()}
    own = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return content | {"sha256": {"run.json": own} | sums}


def load_record(folder: Path) -> Record:
    """Inverse of :func:`save_record`; :class:`FmucError` names the record that is damaged or of another version."""
    where = paths.relative(folder)
    remedy = "delete the folder and train the run again ('python -m fmuc train')"
    reading = "run.json"
    try:
        content = _read_content(folder)
        if content["format"] != FORMAT:
            raise _Refused(f"record of format {shortened(content['format'])}, this version reads {FORMAT}")
        run = run_from_dict(content["config"])
        classes, results, origin = _classes(content["classes"]), dict(content["results"]), dict(content["provenance"])
        if run.id != content["id"]:
            raise _Refused(f"its config has the id {run.id}, recorded is {shortened(content['id'])}")
        sums = dict(content["sha256"])
        now = sealed(content, folder)["sha256"]
        for name in (name for name in {**sums, **now} if sums.get(name) != now.get(name)):
            raise _Refused(f"{shortened(name)[1:-1]} is not as it was when the run ended")
        reading = "history.csv"
        history = _numbers(pd.read_csv(folder / reading, index_col="epoch"))
        reading = "counts.npz"
        kept, seen = _counts(read_npz(folder / reading), history, classes)
        reading = "files.npz"
        files = read_npz(folder / reading)
        reading = "scores.npz"
        scores = _scores(read_npz(folder / reading), len(classes)) if (folder / reading).is_file() else {}
    except _Refused as refused:
        raise FmucError(f"{where}: {refused}: {remedy}") from None
    except ConfigError as error:
        raise FmucError(f"{where}: run.json: {error}: {remedy}") from None
    except Exception as error:  # any damage of any file gets the same clear line
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise FmucError(f"{where}: not a readable run record ({reading}: {reason}): {remedy}") from None
    digest = hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()[:12]
    return Record(run, classes, results, origin, history, kept, seen, files, scores, digest)


class _Refused(Exception):
    """A record that can be read and must not be used."""


def _read_content(folder: Path) -> dict:
    content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise TypeError("is no JSON object")
    return content


def _classes(names: object) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        raise TypeError("classes must be a list of different names")
    return tuple(names)


def _numbers(history: pd.DataFrame) -> pd.DataFrame:
    if history.index.tolist() != list(range(1, len(history) + 1)):
        raise ValueError("the epochs are not 1, 2, 3, ...")
    for column in history:
        if not pd.api.types.is_numeric_dtype(history[column]):
            raise ValueError(f"column {column} holds other things than numbers")
    return history


def _counts(arrays: dict[str, np.ndarray], history: pd.DataFrame, classes: tuple[str, ...]) -> list[np.ndarray]:
    """``kept`` (epochs, C + 1, C) and ``seen`` (epochs, C + 1)."""
    epochs, size = len(history), len(classes)
    for name, shape in (("kept", (epochs, size + 1, size)), ("seen", (epochs, size + 1))):
        if arrays[name].shape != shape or arrays[name].dtype.kind not in "iu":
            raise _Refused(f"history.csv and counts.npz do not fit together ({name} is {arrays[name].dtype} "
                           f"{arrays[name].shape}, not {shape})")
    return [arrays[name].astype(np.int64) for name in ("kept", "seen")]


def _scores(arrays: dict[str, np.ndarray], classes: int) -> dict[str, np.ndarray]:
    """See ``Record.scores``."""
    taken, passes, patches = arrays["passes"].shape[:3]
    shapes = {"epochs": (taken,), "plain": (taken, patches, classes), "passes": (taken, passes, patches, classes),
              "labels": (taken, patches), "kept": (taken, patches),
              **dict.fromkeys(("patches", "ids", "offset", "truth"), (patches,))}
    for name, shape in shapes.items():
        kinds = {"ids": "S", "plain": "f", "passes": "f", "kept": "b"}.get(name, "iu")
        if arrays[name].shape != shape or arrays[name].dtype.kind not in kinds:
            raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape}, not {shape}")
    return {name: arrays[name] for name in shapes}


def is_finished(folder: Path) -> bool:
    """Whether ``folder`` holds a record of a finished run."""
    return (folder / "run.json").is_file()


def load_all(profile: str, source: str = "runs", dataset: str | None = None) -> list[Record]:
    """The finished runs of a profile's plan, in its order; ``source`` as in :func:`fmuc.paths.records_dir`.

    ``dataset``: only the runs of this one, which may be your own audio.

    Records of other configurations in the same folder are left alone. Raises :class:`FmucError` if there is none.
    """
    folder = paths.records_dir(profile, source)
    found = [load_record(folder / run.name) for run in plan(profile, dataset) if is_finished(folder / run.name)]
    if not found:
        stale = any(folder.glob("*/run.json"))
        problem = "only run records of other configurations" if stale else "no run records"
        option = f" --dataset {dataset}" if dataset else ""
        raise FmucError(f"{problem}{f' of {dataset}' if dataset else ''} under {paths.relative(folder)}: "
                        f"run 'python -m fmuc reproduce --profile {profile}{option}'")
    return found


def find(records: list[Record], dataset: str, variant: str, seed: int | None = None) -> list[Record]:
    """Records of one data set and variant (and seed), in the order of their seeds; possibly none."""
    hits = [r for r in records if r.run.dataset == dataset and r.run.variant == variant and seed in (None, r.run.seed)]
    return sorted(hits, key=lambda r: r.run.seed)


def ship(profile: str, wanted: list[Run]) -> list[Path]:
    """Copy the records of ``wanted`` from the runs trained here to those that come with the repository."""
    target = paths.records_dir(profile, "shipped")
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        for run in wanted:
            source = paths.runs_dir(profile) / run.name
            load_record(source)  # refuse a damaged one
            (partial / run.name).mkdir(parents=True)
            for name in FILES:
                if (source / name).exists():
                    shutil.copyfile(source / name, partial / run.name / name)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return sorted(target.iterdir())


SEED = 0  # the one seed that every row of Table I is trained with
PATCHES, PASSES = 320, 10


class Snapshot(NamedTuple):
    """Logits (P, C) without and (N, P, C) with dropout, in half precision, and the run's own choice from them: class
    and whether it is kept, each (P,)."""

    plain: Tensor
    passes: Tensor
    labels: Tensor
    kept: Tensor


def epochs(last: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, ... below ``last``, and ``last``."""
    series = (step * 10**power for power in range(9) for step in (1, 2, 5))
    return [*takewhile(lambda epoch: epoch < last, series), last]


def choice(plain: Tensor, passes: Tensor, selection: Selection) -> PseudoLabels:
    """What a rule makes of stored logits (P, C) and (N, P, C), by the very functions of the training, in float32.

    Raises :class:`FmucError` where the rule needs more passes than are stored.
    """
    if selection.passes > len(passes):
        raise FmucError(f"selection.passes is {selection.passes}, but {len(passes)} passes were stored: ask for fewer")
    logits = passes[: selection.passes] if selection.passes else plain[None]
    return select(pass_statistics(logits.float(), selection.temperature), selection)


def take(net: nn.Module, weak: Tensor, run: Run, seed: int) -> Snapshot:
    """Snapshot of weak views (P, 1, F, T); ``seed``: that of the dropout masks, whatever was drawn before."""
    number = max(PASSES, run.selection.passes) if run.network.dropout else 0
    with torch.random.fork_rng(devices=[weak.device] if weak.device.type == "cuda" else []):
        torch.manual_seed(seed)
        plain, passes = (weak_logits(net, weak, count, run.selection.batch_norm).half().cpu() for count in (0, number))
    plain, passes = plain[0], passes[:number]
    chosen = choice(plain, passes, run.selection)
    return Snapshot(plain, passes, chosen.labels, chosen.mask)


def draw_patches(unlabelled: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
    """``PATCHES`` of the patches ``unlabelled`` (n,), all where there are fewer, ascending: the same for every row."""
    chosen = np.random.default_rng(seed).permutation(len(unlabelled))[:PATCHES]
    return np.sort(unlabelled[chosen])


def stacked(taken: Sequence[Snapshot]) -> dict[str, Tensor]:
    """The parts of E snapshots, one or more, by name: (E, ...) each."""
    return {name: torch.stack(parts) for name, parts in zip(Snapshot._fields, zip(*taken, strict=True), strict=True)}
