"""Every folder of the project. ``FMUC_DATA`` moves the data and runs, ``FMUC_FIGURES`` what notebooks write."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_data_path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
FIGURES = ROOT / "figures"  # committed, like the next two
PUBLISHED = ROOT / "data" / "published"  # the paper's numbers
SHIPPED_RECORDS = ROOT / "data" / "records"

# A package that is installed without its checkout does not write into site-packages.
HOME = ROOT if (ROOT / "pyproject.toml").is_file() else user_data_path("fmuc")


def _folder(variable: str, default: str) -> Path:
    """The folder that an environment variable names; relative ones start at ``HOME`` in every process alike."""
    return (HOME / os.path.expanduser(os.environ.get(variable, "").strip() or default)).resolve()


def data_root() -> Path:
    """Folder of data sets, feature caches and runs: ``$FMUC_DATA``, else ``data/``."""
    return _folder("FMUC_DATA", "data")


def dataset_dir(name: str) -> Path:
    """Folder of a data set's sound files and lists; ``fsdd-smoke`` is a few files of ``fsdd``."""
    return data_root() / {"fsdd-smoke": "fsdd"}.get(name, name)


def features_dir(name: str, features_id: str) -> Path:
    """Folder of a data set's feature cache."""
    return data_root() / "features" / f"{name}-{features_id}"


def runs_dir(profile: str) -> Path:
    """Folder of the runs trained here: checkpoints and records."""
    return data_root() / "runs" / profile


def records_dir(profile: str, source: str = "runs") -> Path:
    """Records to read: ``"runs"`` (trained here) or ``"shipped"`` (committed with the repository)."""
    if source not in ("runs", "shipped"):
        raise ValueError(f"source must be 'runs' or 'shipped', not {source!r}")
    return runs_dir(profile) if source == "runs" else SHIPPED_RECORDS / profile


def figures_dir(profile: str, source: str = "runs", dataset: str = "") -> Path:
    """Folder that notebooks write figures and tables to, below ``$FMUC_FIGURES`` or ``figures/``; git ignores it."""
    kind = {"runs": "own", "shipped": "shipped"}[source]
    return _folder("FMUC_FIGURES", "figures") / "-".join(filter(None, (profile, dataset, kind)))


def relative(path: Path) -> str:
    """``path`` as text, relative to the repository where it lies inside: outputs name no machine's folders."""
    path = Path(path)
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.as_posix()
