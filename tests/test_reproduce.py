"""The whole companion at the smallest scale: sound files -> features -> runs -> notebooks -> figures and tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from fmuc import experiments, paths


def fmuc(*arguments: str, folder: Path) -> str:
    """Standard output of a command whose data and figures lie in ``folder``."""
    variables = {**os.environ, "FMUC_DATA": str(folder / "data"), "FMUC_FIGURES": str(folder / "figures")}
    done = subprocess.run([sys.executable, "-m", "fmuc", *arguments, "--profile", "smoke", "--json"], cwd=paths.ROOT,
                          capture_output=True, text=True, check=False, env=variables)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_reproduce_makes_every_run_notebook_figure_and_table(tmp_path):
    compared = json.loads(fmuc("reproduce", folder=tmp_path))
    assert compared.keys() == experiments.presets("smoke").keys()
    assert {row["state"] for row in json.loads(fmuc("plan", folder=tmp_path))} == {"done"}
    made = tmp_path / "figures" / "smoke-own"
    files = {path.name for path in made.iterdir()}
    for stem in ("fig1", "fig2a_quality", "fig2b_quantity", "fig3_confusion", "fig4"):
        assert {f"{stem}.png", f"{stem}.svg"} <= files, stem
    assert {"table1.md", "table1.csv", "table2.md", "table2.csv"} <= files
    executed = {path.stem for path in (made / "notebooks").glob("*.ipynb")}
    assert executed == {path.stem for path in paths.NOTEBOOKS.glob("*.ipynb")}
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["smoke-own"]

    again = json.loads(fmuc("notebooks", folder=tmp_path))
    assert {outcome["status"] for outcome in again["outcomes"]} == {"up to date"}
