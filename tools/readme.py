"""The README's tables, written from the shipped records so that nobody types a number."""

from __future__ import annotations

import re

import pandas as pd

from fmuc import paths, tables
from fmuc.experiments import presets
from fmuc.figures import markdown
from fmuc.machinery.atomic import write_bytes
from fmuc.records import load_all

README = paths.ROOT / "README.md"


def blocks(profile: str = "mini") -> dict[str, str]:
    """Markdown of each block, by the name of its markers in the README."""
    records, parts = load_all(profile, "shipped"), {"table1": [], "table2": [], "claims": []}
    for name, preset in presets(profile).items():
        epochs = preset.training.epochs
        one, two = tables.table1(records, name, epochs), tables.table2(records, name)
        parts["table1"].append(markdown(tables.format_table1(one, name)))
        parts["table2"].append(markdown(tables.format_table2(two, name).T.rename_axis("method")))
        rows = [{"§": c.section, "claim": c.text, "in our runs": c.verdict, "ours": c.ours}
                for c in tables.claims(records, name, epochs)]
        verdicts = markdown(pd.DataFrame(rows).set_index("§"))
        parts["claims"].append(f"{tables.title(name)}:\n\n{verdicts}")
    return {key: "\n\n".join(texts) for key, texts in parts.items()}


def filled(text: str, content: dict[str, str]) -> str:
    """``text`` with what stands between the markers of each block replaced; ``ValueError`` where they are missing."""
    for name, block in content.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"the text has no markers for {name!r}")
        text = pattern.sub(lambda match, block=block: f"{match[1]}{block}\n{match[2]}", text)
    return text


def update(profile: str = "mini") -> None:
    """Rewrite the README's blocks from the shipped records, whole or not at all."""
    write_bytes(README, filled(README.read_text(encoding="utf-8"), blocks(profile)).encode())
