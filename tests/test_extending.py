"""The examples of docs/extending.md are executed as they stand: each is a few lines in the module that it extends."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from fmuc import datasets, experiments
from fmuc.paths import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
RULE, ROW, NETWORK, LOADER, PRESET = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
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
    "curves": len(axes[0].lines), "network": type(fixmatch.build(other, 3, torch.device("cpu"))[0]).__name__,
    "ids": {{name: experiments.make_run("smoke", "{DATASET}", name).id for name in experiments.TABLE_1}},
}}))
"""


def edited_copy(root: Path) -> Path:
    """The package with the rule, the row and the network of the page."""
    package = root / "fmuc"
    shutil.copytree(ROOT / "fmuc", package, ignore=shutil.ignore_patterns("__pycache__", "fast"))
    shutil.copytree(ROOT / "data" / "published", root / "data" / "published")
    for name, code in (("selection", RULE), ("model", NETWORK)):
        with (package / f"{name}.py").open("a", encoding="utf-8") as file:
            file.write(f"\n\n{code}")
    path = package / "experiments.py"
    before, start, after = path.read_text(encoding="utf-8").partition("TABLE_1")
    path.write_text(before + start + after.replace("\n}\n", f"\n}}\n{ROW}", 1), encoding="utf-8")
    return root


def test_a_rule_a_row_and_a_network_are_trained_and_stand_in_the_tables(trainable, tmp_path):
    root = edited_copy(tmp_path / "copy")
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=root, text=True, capture_output=True, check=False,
                          env={**os.environ, "PYTHONPATH": str(root), "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rows = experiments.TABLE_1
    assert Path(found["package"]).is_relative_to(root) and found["network"] == "SmallNet"
    assert found["rows"] == [*rows, "Low entropy", "Small net"] and found["n"] == [0] * len(rows) + [1, 1]
    assert found["curves"] >= 2
    old = {name: experiments.make_run("smoke", DATASET, name).id for name in rows}
    assert found["ids"] == old | {"Low entropy": found["ids"]["Low entropy"]}


def test_the_data_set_is_loaded_and_has_its_preset(monkeypatch, data_root):
    for module, name, code in ((datasets, "LOADERS", LOADER), (experiments, "PROFILES", PRESET)):
        monkeypatch.setattr(module, name, copy.deepcopy(getattr(module, name)))  # leave the package as it was
        exec(f"import pandas as pd\n{code}", dict(vars(module)))
    folder = data_root / "speech"
    folder.mkdir()
    (folder / "list.csv").write_text("file,word,speaker,split\na.wav,yes,ann,train\nb.wav,no,bob,test\n")
    for name in ("a.wav", "b.wav"):
        (folder / name).touch()
    data = datasets.load("speech")
    assert data.classes == ("no", "yes") and [clip.group for clip in data.clips] == ["ann", "bob"]
    assert experiments.make_run("mini", "speech", "FMUC").labelled_share == 0.05
