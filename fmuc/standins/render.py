"""Stand-ins on disk: data sets that are rendered on demand, in a folder that appears whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from fmuc import paths
from fmuc.datasets import Dataset, load
from fmuc.errors import FmucError
from fmuc.machinery.atomic import folder_lock, whole_folder, write_json
from fmuc.machinery.workers import cores
from fmuc.standins import nsynth_gm, scenes_sim

STAND_INS = (*nsynth_gm.SIZES, *scenes_sim.SIZES)
RECORD = "render.json"
Recipe = nsynth_gm.Recipe | scenes_sim.Recipe
Report = nsynth_gm.Report | scenes_sim.Report


def ensure(name: str, *, progress: bool = True) -> Dataset:
    """Data set ``name``; a stand-in that is not there yet is rendered first (seconds to minutes)."""
    if name in STAND_INS and not paths.dataset_dir(name).exists():
        render(name, seed=0, progress=progress)
    return load(name)


def render(name: str, *, seed: int, soundfonts: Sequence[Path] = (), workers: int | None = None, progress: bool = True,
           force: bool = False) -> Report:
    """Render a stand-in into its folder; ``soundfonts`` are added to the bundled ones (for notes only)."""
    if name in nsynth_gm.SIZES:
        recipe = nsynth_gm.Recipe(nsynth_gm.SIZES[name], seed, tuple(soundfonts))
    else:
        recipe = scenes_sim.Recipe(scenes_sim.SIZES[name], seed)
    return make(recipe, paths.dataset_dir(name), workers=workers, progress=progress, force=force)


def make(recipe: Recipe, out: Path, *, workers: int | None = None, progress: bool = True,
         force: bool = False) -> Report:
    """Render ``recipe`` into ``out`` with ``workers`` processes (default: one per core).

    If it is already there with the same parameters nothing is done and the stored report comes back; with others
    ``force`` replaces it. Of two processes that ask for the same folder, the second waits and finds it there. Raises
    :class:`FmucError` for a bad parameter and for a folder that must not be overwritten.
    """
    parameters = recipe.parameters()
    with folder_lock(out):
        stored = _stored_report(out, parameters, force)
        if stored is not None:
            return recipe.report_type(**stored)
        with whole_folder(out) as folder:
            report = recipe.render(folder, workers or cores(), progress)
            write_json(folder / RECORD, {"statement": recipe.statement, "report": asdict(report)})
    return report


def _stored_report(out: Path, parameters: dict, force: bool) -> dict | None:
    """The report in ``out`` if it was rendered with these ``parameters``; None if it is to be rendered."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        stored = json.loads((out / RECORD).read_text(encoding="utf-8"))["report"]
        same = stored["parameters"] == parameters
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise FmucError(f"{out}: exists and is no rendered data set: choose another folder or remove it") from None
    if same:
        return stored
    if not force:
        raise FmucError(f"{out}: was rendered with other parameters (see its {RECORD}): use --force or remove it")
    return None
