"""The whole companion at the smallest scale: sound files -> features -> runs -> notebooks -> figures and tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from fmuc import experiments, paths


def fmuc(*arguments: str, data) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "fmuc", *arguments], cwd=data, capture_output=True, text=True,
                          check=False, env={**os.environ, "FMUC_DATA": str(data)})


def test_reproduce_makes_every_run_notebook_figure_and_table(tmp_path):
    first = fmuc("reproduce", "--profile", "smoke", data=tmp_path)
    assert first.returncode == 0, first.stderr[-2000:]
    for run in experiments.plan("smoke"):
        assert (paths_of(tmp_path) / run.name / "run.json").is_file(), run.name
    made = {path.name for path in paths.figures_dir("smoke").iterdir()}
    for stem in ("fig1", "fig2a_quality", "fig2b_quantity", "fig3_confusion", "fig4"):
        assert {f"{stem}.png", f"{stem}.svg"} <= made, stem
    assert {"table1.md", "table1.csv", "table2.md", "table2.csv"} <= made
    executed = {path.stem for path in (paths.figures_dir("smoke") / "notebooks").glob("*.ipynb")}
    assert executed == {path.stem for path in paths.NOTEBOOKS.glob("*.ipynb")}

    compared = fmuc("compare", "--profile", "smoke", "--json", data=tmp_path)
    assert compared.returncode == 0, compared.stderr
    ours = json.loads(compared.stdout)["nsynth-gm-smoke"]
    assert set(ours["table1"]["rows"]) == set(experiments.TABLE_1)

    again = fmuc("notebooks", "--profile", "smoke", "--source", "runs", "--json", data=tmp_path)
    assert again.returncode == 0, again.stderr
    assert {outcome["status"] for outcome in json.loads(again.stdout)["outcomes"]} == {"up to date"}


def paths_of(data):
    return data / "runs" / "smoke"
