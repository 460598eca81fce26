"""The whole companion at the smallest scale: sound files -> features -> runs -> notebooks -> figures and tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from fmuc import paths

# Few notes, two rows of the plan and two notebooks; everything else is the command as it is
SMALL = """
import sys
from fmuc import __main__ as cli, experiments
from fmuc.machinery import notebooks
from fmuc.standins import nsynth_gm

nsynth_gm.SIZES["nsynth-gm-smoke"] = {"train": 6, "valid": 1, "test": 2}
whole, find = experiments.plan, notebooks.find
experiments.plan = lambda *given: [run for run in whole(*given) if run.variant in ("FM", "FMUC") and run.seed == 0]
notebooks.find = lambda only=None, *rest: find(only or ["06", "07"], *rest)
if __name__ == "__main__":
    cli.main([*sys.argv[1:], "--profile", "smoke", "--dataset", "nsynth-gm-smoke", "--json"])
"""


def fmuc(*arguments: str, folder: Path) -> dict:
    """What a command prints whose data and figures lie in ``folder``."""
    variables = {**os.environ, "FMUC_DATA": str(folder / "data"), "FMUC_FIGURES": str(folder / "figures")}
    done = subprocess.run([sys.executable, "-c", SMALL, *arguments], cwd=paths.ROOT, capture_output=True, text=True,
                          check=False, env=variables)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def changes() -> str:
    """What git sees in the checkout, ignored files included."""
    asked = ["git", "status", "--porcelain", "--ignored", "--", ".", ":!*__pycache__*", ":!.pytest_cache"]
    return subprocess.run(asked, cwd=paths.ROOT, capture_output=True, text=True, check=False).stdout


def test_reproduce_makes_runs_notebooks_figures_and_tables_and_leaves_the_checkout_clean(tmp_path):
    before = changes()
    assert fmuc("reproduce", folder=tmp_path)["data sets"].keys() == {"nsynth-gm-smoke"}
    assert {row["state"] for row in fmuc("plan", folder=tmp_path)["runs"]} == {"done"}
    (made,) = (tmp_path / "figures").iterdir()
    assert made.name == "smoke-nsynth-gm-smoke-own"
    assert {path.name[:2] for path in (made / "notebooks").glob("*.ipynb")} == {"06", "07"}
    assert {"fig2a_quality.png", "fig3_confusion.svg"} <= {path.name for path in made.iterdir()}
    again = fmuc("notebooks", folder=tmp_path)
    assert {outcome["status"] for outcome in again} == {"up to date"}
    assert changes() == before
