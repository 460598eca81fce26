"""Stand-ins on disk: data sets that are rendered on demand, in a folder that appears whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

from fmuc import paths
from fmuc.datasets import Dataset, load
from fmuc.errors import FmucError
from fmuc.machinery.atomic import folder_lock, whole_folder, write_json
from fmuc.machinery.workers import cores
from fmuc.standins import nsynth_gm, scenes_sim

STAND_INS = (*nsynth_gm.SIZES, *scenes_sim.SIZES)
RECORD = "render.json"
STATEMENT = "a stand-in that fmuc made to try the pipeline: it is NOT NSynth or TUT2017 and holds none of their audio"


def ensure(name: str, *, progress: bool = True) -> Dataset:
    """Data set ``name``; a stand-in that is not there yet is rendered first (seconds to minutes)."""
    if name in STAND_INS and not paths.dataset_dir(name).exists():
        return render(name, progress=progress)
    return load(name)


def render(name: str, *, seed: int = 0, workers: int | None = None, progress: bool = True,
           force: bool = False) -> Dataset:
    """Render a stand-in into its folder with ``workers`` processes (default: one per core), and load it.

    If it is already there with the same parameters nothing is done; with others ``force`` replaces it. Of two
    processes that render the same one, the second waits and finds it there.
    """
    kind = nsynth_gm if name in nsynth_gm.SIZES else scenes_sim
    sizes, out = kind.SIZES[name], paths.dataset_dir(name)
    parameters = kind.parameters(sizes, seed)
    with folder_lock(out):
        if not _is_rendered(out, parameters, force):
            with whole_folder(out) as folder:
                kind.render(folder, sizes, seed, workers or cores(), progress)
                write_json(folder / RECORD, {"statement": STATEMENT, "report": {"parameters": parameters}})
    return load(name)


def _is_rendered(out: Path, parameters: dict, force: bool) -> bool:
    """Whether ``out`` was rendered with these ``parameters``; others are refused without ``force``."""
    if not out.exists():
        return False
    try:
        same = json.loads((out / RECORD).read_text(encoding="utf-8"))["report"]["parameters"] == parameters
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        raise FmucError(f"{paths.relative(out)} is no rendered data set: move it away") from None
    if not (same or force):
        raise FmucError(f"{paths.relative(out)} was rendered with other parameters (see its {RECORD}): use --force")
    return same
