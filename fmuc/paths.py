"""Every location of the project, from the repository root; the variable ``FMUC_DATA`` moves the data folder."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
FIGURES = ROOT / "figures"
PUBLISHED = ROOT / "data" / "published"  # the paper's numbers
SHIPPED_RECORDS = ROOT / "data" / "records"  # run records that come with the repository


def data_root() -> Path:
    """Folder of data sets, feature caches and runs: ``$FMUC_DATA``, else ``data/`` of the repository."""
    return Path(os.environ.get("FMUC_DATA", ROOT / "data")).expanduser().resolve()


def dataset_dir(name: str) -> Path:
    """Folder that holds the sound files of data set ``name``."""
    return data_root() / name


def features_dir(name: str, features_id: str) -> Path:
    """Folder of one feature cache."""
    return data_root() / "features" / f"{name}-{features_id}"


def runs_dir(profile: str) -> Path:
    """Folder of the runs trained here (checkpoints and records)."""
    return data_root() / "runs" / profile


def records_dir(profile: str, source: str = "runs") -> Path:
    """Records to read: ``"runs"`` (trained here) or ``"shipped"`` (committed with the repository)."""
    if source not in ("runs", "shipped"):
        raise ValueError(f"source must be 'runs' or 'shipped', not {source!r}")
    return runs_dir(profile) if source == "runs" else SHIPPED_RECORDS / profile


def figures_dir(profile: str, dataset: str = "") -> Path:
    """Folder of one profile's figures and tables; those of one ``dataset`` alone have a folder of their own."""
    return FIGURES / (f"{profile}-{dataset}" if dataset else profile)


def relative(path: Path) -> str:
    """``path`` as text, relative to the repository root where it lies inside (no machine's paths in outputs)."""
    path = Path(path)
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()
