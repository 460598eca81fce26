"""The glossary: what it names exists, what it links to is there, and no setting or rule is missing."""

from __future__ import annotations

import importlib
import re
from dataclasses import fields

import pytest

from fmuc import config, selection
from fmuc.paths import ROOT

GLOSSARY = ROOT / "docs" / "glossary.md"
TEXT = GLOSSARY.read_text(encoding="utf-8")
HEADER = ["paper", "FixMatch", "USB, TorchSSL", "symbol", "unit or range", "here"]
FILES = {file.stem: file.relative_to(ROOT) for file in (ROOT / "fmuc").rglob("[a-z]*.py")}  # by the module's last name


def rows() -> list[list[str]]:
    """Cells of every row of every table, headers included."""
    lines = [line for line in TEXT.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


TERMS = [row for row in rows() if row != HEADER]
NAMES = sorted({name for *_, here in TERMS for name in re.findall(r"`([\w.]+)`", here)})


def test_every_row_has_all_cells():
    assert rows().count(HEADER) == TEXT.count("\n## ") > 1  # one table a section
    assert len(TERMS) >= 60
    assert [row for row in TERMS if len(row) != len(HEADER) or not all(row)] == []
    terms = [row[0] for row in TERMS if not row[0].startswith("–")]
    assert len(terms) == len(set(terms))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_named_exists(name):
    module, *rest = name.split(".")
    assert rest
    found = importlib.import_module(".".join(FILES[module].with_suffix("").parts))
    for part in rest:
        known = getattr(found, "__dataclass_fields__", {})  # those without a default are no attributes
        found = known[part] if part in known else getattr(found, part)


def test_every_setting_and_every_rule_is_there():
    for part in (config.Selection, config.Training, config.Features, config.View, config.Augmentation, config.Network,
                 config.Run):
        assert {f"config.{part.__name__}.{field.name}" for field in fields(part)} <= set(NAMES)
    assert {*selection.RULES, *selection.ADAPTIVE} == set(re.findall(r'`config\.Selection\.rule` = "(\w+)"', TEXT))
