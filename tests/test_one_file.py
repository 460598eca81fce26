"""A rule, a row and a network of your own are a few lines, one file each; they are trained and stand in the tables."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from test_extending import NETWORK, ROW, RULE

from fmuc.experiments import TABLE_1, make_run
from fmuc.paths import ROOT

DATASET = "nsynth-gm-smoke"
PROGRAM = f"""
import json, sys, torch
sys.modules["fmuc.fast"] = None  # the copy's kernels would have to be compiled
from dataclasses import replace
from matplotlib import pyplot
from fmuc import experiments, figures, fixmatch, paths, tables
from fmuc.records import load_all
from fmuc.train import train

torch.set_num_threads(1)
row = experiments.make_run("smoke", "{DATASET}", "Low entropy")
other = replace(row, variant="Small net", network=replace(row.network, kind="small"))
for run in (row, other):
    train(run, device="cpu", folder=paths.runs_dir("smoke") / run.name, progress=False)
records = load_all("smoke", dataset="{DATASET}")
table = tables.table1(records, "{DATASET}", row.training.epochs)
_, axes = pyplot.subplots(2)
figures.quality_curves(axes[0], records, "{DATASET}")
figures.table1_plane(axes[1], table, "{DATASET}")
print(json.dumps({{
    "package": figures.__file__, "rows": list(table.index), "n": list(table["quantity", "n"]),
    "text": tables.format_table1(table, "{DATASET}").iloc[:, 1].tolist(),
    "curves": len(axes[0].lines), "network": type(fixmatch.build(other, 3, torch.device("cpu"))[0]).__name__,
    "ids": {{name: experiments.make_run("smoke", "{DATASET}", name).id for name in experiments.TABLE_1}},
}}))
"""


def edited_copy(root: Path) -> Path:
    """The package with the rule, the row and the network of ``docs/extending.md``."""
    package = root / "fmuc"
    shutil.copytree(ROOT / "fmuc", package, ignore=shutil.ignore_patterns("__pycache__", "fast"))
    shutil.copytree(ROOT / "data" / "published", root / "data" / "published")
    for name, code, below in (("selection", RULE, ""), ("experiments", ROW, "\n}\n"), ("model", NETWORK, "")):
        text = (package / f"{name}.py").read_text(encoding="utf-8")
        place = text.index(below, text.index("TABLE_1")) + len(below) if below else len(text)
        (package / f"{name}.py").write_text(f"{text[:place]}\n\n{code}{text[place:]}", encoding="utf-8")
    return root


def test_a_rule_a_row_and_a_network_are_trained_and_stand_in_the_tables(trainable, tmp_path):
    copy = edited_copy(tmp_path / "copy")
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=copy, text=True, capture_output=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(copy), "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert Path(found["package"]).is_relative_to(copy)
    assert found["network"] == "SmallNet"
    assert found["rows"] == [*TABLE_1, "Low entropy", "Small net"] and found["n"] == [0] * len(TABLE_1) + [1, 1]
    assert all("n=1" in text for text in found["text"][-2:])
    assert found["curves"] >= 2
    old = {name: make_run("smoke", DATASET, name).id for name in TABLE_1}
    assert found["ids"] == old | {"Low entropy": found["ids"]["Low entropy"]}
