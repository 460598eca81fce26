"""The paper's numbers, from ``data/published/*.csv``: checked line by line, since every comparison rests on them."""

from __future__ import annotations

import pandas as pd

from fmuc import paths
from fmuc.errors import FmucError
from fmuc.sound_lists import read_csv

NUMBERS = {"table1": ("quality", "quantity"), "table2": ("mean", "std"), "fig2": ("value",), "fig3": ("epoch", "share")}
TEXTS = {"table1": ("dataset", "variant"), "table2": ("dataset", "split", "variant"),
         "fig2": ("dataset", "variant", "metric", "at"), "fig3": ("dataset", "variant", "true", "pseudo_label")}
_REMEDY = "restore it from git"


def read(name: str) -> pd.DataFrame:
    """One table, tidy; its numbers are in % (but for an epoch), NaN where the paper has none.

    Raises :class:`FmucError` with the line for what cannot be one of the paper's numbers, and for a row that is there
    twice.
    """
    path, seen = paths.PUBLISHED / f"{name}.csv", {}
    rows = read_csv(path, (*TEXTS[name], *NUMBERS[name]), (), _REMEDY)
    for where, row in rows:
        for column in TEXTS[name]:
            if not (row[column].isprintable() and row[column].strip()):
                raise FmucError(f"{where}: {column} must be a name, not {row[column][:80]!r}; {_REMEDY}")
        for column in NUMBERS[name]:
            if row[column] and not _is_share(row[column]):
                raise FmucError(f"{where}: {column} must be a number from 0 to 100, not {row[column][:80]!r}; "
                                f"{_REMEDY}")
        key = tuple(row[column] for column in TEXTS[name])
        if key in seen:
            raise FmucError(f"{where}: {', '.join(key)} is there twice, first in {seen[key]}; {_REMEDY}")
        seen[key] = where
    frame = pd.DataFrame([row for _, row in rows])[list(rows[0][1])]
    return frame.assign(**{column: pd.to_numeric(frame[column]) for column in NUMBERS[name]})


def _is_share(text: str) -> bool:
    try:
        return text.isascii() and 0 <= float(text) <= 100
    except ValueError:
        return False
