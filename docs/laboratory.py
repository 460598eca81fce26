"""The threshold laboratory: the logits that records keep, as JSON in a page that replays any rule in the browser.

Nothing is computed for it in advance: ``_static/laboratory.js`` does what :func:`fmuc.records.choice` does.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from fmuc import experiments, paths
from fmuc.errors import FmucError
from fmuc.records import SEED, Record, load_record
from fmuc.tables import title
from fmuc.teaching import replay
from fmuc.teaching.helpers import mp3

PROFILE = "mini"
RULES = {name: experiments.TABLE_1[row] for name, row in (
    ("FM", "FM"), ("temperature alone", "FMUC w/o MC-Dr."), ("FMUC", "FMUC"))}


class Laboratory(SphinxDirective):
    """``laboratory``: the controls, and the stored logits of every data set of the shipped records."""

    def run(self) -> list[nodes.Node]:
        folder = Path(self.env.app.outdir) / "sounds"
        rules = {name: {"threshold": rule.threshold, "temperature": rule.temperature, "passes": rule.passes,
                        "spread": rule.rule == "mean_minus_std"} for name, rule in RULES.items()}
        sets = {name: data_set(name, nets, folder) for name, nets in shipped().items()}
        state = json.dumps({"rules": rules, "sets": sets}).replace("<", "\\u003c")
        html = f'<script type="application/json">{state}</script>\n<script src="../_static/laboratory.js"></script>'
        return [nodes.raw("", html, format="html")]


def shipped() -> dict[str, dict[str, Record]]:
    """The nets of FM and FMUC with stored logits, by data set."""
    folder = paths.records_dir(PROFILE, "shipped")
    return {name: {variant: load_record(folder / experiments.make_run(PROFILE, name, variant, SEED).name)
                   for variant in ("FM", "FMUC")} for name in experiments.presets(PROFILE)}


def data_set(name: str, nets: dict[str, Record], folder: Path) -> dict:
    """All that the page has to know of one data set; its sounds go into ``folder``."""
    scores = {variant: replay.at_epoch(record) for variant, record in nets.items()}
    record, first = next(iter(nets.values())), next(iter(scores.values()))
    return {"title": title(name), "classes": record.classes, "truth": first.truth.tolist(),
            "passes": len(first.passes),
            "sounds": sounds(record, list(scores.values()), folder / name),
            "nets": {variant: {"epoch": taken.epoch, "logits": packed(taken)} for variant, taken in scores.items()}}


def packed(scores: replay.Scores) -> str:
    """The plain pass and the N dropout passes, (1 + N, P, C) of float16 in base64."""
    logits = np.concatenate([scores.plain[None].numpy(), scores.passes.numpy()])
    return base64.b64encode(logits.astype("<f2").tobytes()).decode()


def sounds(record: Record, scores: Sequence[replay.Scores], folder: Path) -> dict[int, str]:
    """Write the sound of each patch that some pass mistakes, by its place among the scores; none without the data."""
    try:
        data = replay.data_of(record)
    except FmucError:
        return {}
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for at in np.flatnonzero(np.logical_or.reduce([mistaken(taken) for taken in scores])).tolist():
        file = folder / f"{at}.mp3"
        file.write_bytes(mp3(replay.excerpt(data, record, scores[0], at), record.run.features.sample_rate))
        found[at] = f"../sounds/{folder.name}/{file.name}"
    return found


def mistaken(scores: replay.Scores) -> np.ndarray:
    """Whether any pass gives a patch of known class another one: (P,)."""
    labels = np.concatenate([scores.plain[None].numpy(), scores.passes.numpy()]).argmax(axis=2)
    return (labels != scores.truth).any(axis=0) & (scores.truth >= 0)


def setup(app: Sphinx) -> dict:
    """Sphinx's entry point."""
    app.add_directive("laboratory", Laboratory)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
