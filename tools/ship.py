"""Replace the shipped records of a profile by the runs trained here: ``python tools/ship.py [PROFILE]``."""

from __future__ import annotations

import os
import shutil
import sys
import uuid
from pathlib import Path

from fmuc import paths
from fmuc.experiments import plan
from fmuc.records import FILES, load_record


def ship(profile: str) -> list[Path]:
    """Copy the records of a profile's plan, whole or not at all; returns their new folders."""
    target = paths.SHIPPED_RECORDS / profile
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        for run in plan(profile):
            source = paths.runs_dir(profile) / run.name
            load_record(source)  # raises for a missing or a damaged one
            (partial / run.name).mkdir(parents=True)
            for name in FILES:
                if (source / name).exists():
                    shutil.copyfile(source / name, partial / run.name / name)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return sorted(target.iterdir())


if __name__ == "__main__":
    for folder in ship(*sys.argv[1:] or ["mini"]):
        print(paths.relative(folder))
