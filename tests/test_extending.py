"""The examples of docs/extending.md are executed as they stand, in the modules that they extend."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch

from fmuc import datasets, experiments, model, selection, uncertainty
from fmuc.config import Network
from fmuc.paths import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
RULE, ROW, NETWORK, LOADER, PRESET = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture(autouse=True)
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the package's tables as they were."""
    for module, name in ((selection, "RULES"), (model, "NETWORKS"), (datasets, "LOADERS"), (experiments, "TABLE_1"),
                         (experiments, "PROFILES")):
        monkeypatch.setattr(module, name, copy.deepcopy(getattr(module, name)))


def extend(module: object, code: str) -> dict:
    names = dict(vars(module))
    exec(f"import pandas as pd\nfrom torch import nn\n{code}", names)
    return names


def test_examples_are_short():
    assert all(len(code.strip().splitlines()) <= 15 for code in (RULE, ROW, NETWORK, LOADER, PRESET))


def test_the_rule_keeps_the_contract_and_what_it_should():
    extend(selection, RULE)
    extend(experiments, ROW)
    row = experiments.TABLE_1["Low entropy"]
    selection.check_rule(row, 11)
    rng = torch.Generator().manual_seed(0)
    logits = 8 * torch.randn(40, 3, generator=rng) + torch.randn(5, 40, 3, generator=rng)
    chosen = selection.select(logits, row)
    mean = uncertainty.temperature_softmax(logits, row.temperature).mean(dim=0)
    assert torch.equal(chosen.mask, -(mean * mean.log()).sum(dim=1) < row.threshold)
    assert 0 < chosen.mask.sum() < 40


def test_the_network_takes_dropout_passes():
    extend(model, NETWORK)
    net = model.make_network(11, Network(kind="small"))
    logits = uncertainty.weak_logits(net, torch.randn(4, 1, 32, 32), passes=3)
    assert logits.shape == (3, 4, 11) and not torch.equal(logits[0], logits[1])


def test_the_data_set_is_loaded_and_has_its_preset(data_root: Path):
    extend(datasets, LOADER)
    extend(experiments, PRESET)
    folder = data_root / "speech"
    folder.mkdir()
    (folder / "list.csv").write_text("file,word,speaker,split\na.wav,yes,ann,train\nb.wav,no,bob,test\n")
    data = datasets.load("speech")
    assert data.classes == ("no", "yes") and [clip.group for clip in data.clips] == ["ann", "bob"]
    assert experiments.make_run("mini", "speech", "FMUC").labelled_share == 0.05
