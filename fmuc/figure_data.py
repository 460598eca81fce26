"""Run records -> the data behind every figure and table that is made of records alone, as the notebooks save them.

``fmuc verify`` computes them anew and compares them with the files byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from fmuc import analysis, tables
from fmuc.analysis import data_sets
from fmuc.experiments import TABLE_1, TABLE_2, preset
from fmuc.runs import Record, find

PAIR = ("FM", "FMUC")
TABLES = ("table1", "table2")  # also in Markdown


def frames(records: Sequence[Record], profile: str) -> dict[str, pd.DataFrame]:
    """Every figure's or table's data by its name; none for what would show nothing (true classes nobody knows)."""
    computed = {name: make(list(records), profile) for name, make in FRAMES.items()}
    return {name: frame for name, frame in computed.items() if frame is not None}


def _of(records: Sequence[Record], variants: Sequence[str]) -> list[Record]:
    return [record for record in records if record.run.variant in variants]


def _table1(records: list[Record], profile: str) -> pd.DataFrame:
    rows = _of(records, tuple(TABLE_1))
    return pd.concat([tables.format_table1(tables.table1(rows, name, preset(profile, name).training.epochs), name)
                      for name in data_sets(rows)], axis=1)


def _table1_plane(records: list[Record], profile: str) -> pd.DataFrame:
    rows = _of(records, tuple(TABLE_1))
    data = {name: tables.table1(rows, name, preset(profile, name).training.epochs).drop(columns="seeds", level=1)
            for name in data_sets(rows)}
    tidy = pd.concat(data, names=["dataset"])
    tidy.columns = [" ".join(column) for column in tidy.columns]
    return tidy.reset_index()


def _table2(records: list[Record], profile: str) -> pd.DataFrame:
    rows = _of(records, TABLE_2)
    return pd.concat([tables.format_table2(tables.table2(rows, name), name) for name in data_sets(rows)])


def _table2_points(records: list[Record], profile: str) -> pd.DataFrame:
    rows = _of(records, TABLE_2)
    tidy = pd.concat({name: tables.table2(rows, name) for name in data_sets(rows)}, names=["dataset"])
    return tidy.explode("seeds").rename(columns={"seeds": "one seed"}).reset_index()


def _quality(records: list[Record], profile: str) -> pd.DataFrame:
    rows = _of(records, PAIR)
    return pd.concat([analysis.shown_history(rows, name, PAIR)[0].assign(dataset=name) for name in data_sets(records)])


def _quantity(records: list[Record], profile: str) -> pd.DataFrame:
    rows = _of(records, PAIR)
    return pd.concat([tables.history_table(rows, name, PAIR).assign(dataset=name) for name in data_sets(records)])


def _confusion(records: list[Record], profile: str) -> pd.DataFrame | None:
    rows, cells = _of(records, PAIR), {}
    for name in (name for name in data_sets(rows) if tables.truth_known(rows, name)):
        for variant in PAIR:
            for record in find(rows, name, variant, 0):
                cells[name, variant] = analysis.confusion(record, preset(profile, name).figure_3_epoch).stack()
    names = ["dataset", "variant", "true", "pseudo-label"]
    return pd.concat(cells, names=names).rename("share").reset_index() if cells else None


def _class_rates(records: list[Record], profile: str) -> pd.DataFrame | None:
    rows, rates = _of(records, PAIR), {}
    for name in (name for name in data_sets(rows) if tables.truth_known(rows, name)):
        epoch = preset(profile, name).figure_3_epoch
        for variant in PAIR:
            found = find(rows, name, variant)
            counts = [sum(part) for part in zip(*(record.counts(epoch, epoch) for record in found), strict=True)]
            rates[name, variant] = analysis.class_rates(*counts, found[0].classes)
    return pd.concat(rates, names=["dataset", "variant"]).reset_index() if rates else None


def _training_curves(records: list[Record], profile: str) -> pd.DataFrame | None:
    whole = [record for record in records if (record.run.variant, record.run.seed) == ("FMUC", 0)]
    parts = [record.history.drop(columns="seconds").assign(dataset=record.run.dataset) for record in whole]
    return pd.concat(parts).reset_index() if parts else None


def _gap(records: list[Record], profile: str) -> pd.DataFrame:
    rows = _of(records, TABLE_2)
    gaps = {(name, part): analysis.accuracy_gap(rows, name, part).stack().rename("points")
            for name in data_sets(rows) for part in tables.PARTS}
    return pd.concat(gaps, names=["dataset", "part"]).reset_index()


FRAMES: dict[str, Callable[[list[Record], str], pd.DataFrame | None]] = {
    "fig2a_quality": _quality, "fig2b_quantity": _quantity, "fig3_confusion": _confusion,
    "nb05_training_curves": _training_curves, "nb06_tradeoff": _quality, "nb07_classes": _class_rates,
    "nb09_gap": _gap, "table1": _table1, "table1_plane": _table1_plane, "table2": _table2,
    "table2_points": _table2_points,
}
