from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError, asdict, replace
from typing import Any

import pytest

from fmuc import paths
from fmuc.config import Augmentation, ConfigError, Features, Network, Run, Selection, Training, View, run_from_dict

FEATURES = Features(sample_rate=16_000, window=512, hop=256, mel_bands=12, patch_frames=8)
RUN = Run("nsynth", "FMUC", 0, FEATURES, 0.1,
          Selection(rule="two_thresholds", threshold=0.7, std_threshold=0.05, temperature=2.0, passes=5))


def features(**change: Any) -> Features:
    return replace(FEATURES, **change)


def run(**change: Any) -> Run:
    return replace(RUN, **change)


@pytest.mark.parametrize(("make", "change", "named"), [
    (features, {"sample_rate": 0}, "features.sample_rate"),
    (features, {"window": -1}, "features.window"),
    (features, {"window": 301}, "features.window must be even, not 301"),
    (features, {"hop": 2.5}, "features.hop"),
    (features, {"hop": 3000}, "features.hop"),
    (features, {"mel_bands": 0}, "features.mel_bands"),
    (features, {"patch_frames": 0}, "features.patch_frames"),
    (View, {"shift_time": 0.6}, "view.shift_time"),
    (View, {"shift_mel": -0.1}, "view.shift_mel"),
    (View, {"noise": -1.0}, "view.noise"),
    (View, {"sharpen": -1.0}, "view.sharpen"),
    (Network, {"dropout": 1.0}, "network.dropout"),
    (Network, {"dropout": 0.999999}, "network.dropout"),
    (Network, {"dropout": None}, "network.dropout"),
    (Network, {"widths": (8.0, 16, 32, 64)}, "network.widths"),
    (Network, {"widths": ("8", "16", "32", "64")}, "network.widths"),
    (Network, {"widths": "8642"}, "network.widths"),
    (Network, {"widths": (8, 0, 32, 64)}, "network.widths"),
    (Network, {"widths": (8, 16, 32, 10**12)}, "network.widths"),
    (Network, {"widths": 8}, "network.widths"),
    (Network, {"blocks": (1, 3, 2, True)}, "network.blocks"),
    (Network, {"blocks": (1, 3, 2, 10**6)}, "network.blocks"),
    (Network, {"stem": (7,)}, "network.stem"),
    (Network, {"stem": (7, 0)}, "network.stem"),
    (Network, {"stem": (7.0, 2)}, "network.stem"),
    (Network, {"stem": (10**9, 2)}, "network.stem"),
    (Network, {"final_norm": "no"}, "network.final_norm"),
    (View, {"noise": float("inf")}, "view.noise"),
    (View, {"shift_time": "0.1"}, "view.shift_time"),
    (Augmentation, {"weak": {"noise": 0.1}}, "augmentation.weak"),
    (Training, {"epochs": 2.5}, "training.epochs"),
    (Training, {"epochs": True}, "training.epochs"),
    (Training, {"learning_rate": float("inf")}, "training.learning_rate"),
    (Training, {"learning_rate": "0.1"}, "training.learning_rate"),
    (Selection, {"temperature": float("inf")}, "selection.temperature"),
    (Selection, {"rule": "x" * 10_000}, "selection.rule"),
    (features, {"window": True}, "features.window"),
    (run, {"network": None}, "run.network"),
    (run, {"selection": Training()}, "run.selection"),
    (run, {"seed": 2**64}, "run.seed"),
    (run, {"seed": -1}, "run.seed"),
    (run, {"dataset": "../elsewhere"}, "run.dataset"),
    (run, {"dataset": ""}, "run.dataset"),
    (run, {"variant": "two\nlines"}, "run.variant"),
    (run, {"variant": 7}, "run.variant"),
    (Network, {"dropout": -0.1}, "network.dropout"),
    (Network, {"widths": (8, 16), "blocks": (1,)}, "network.widths and network.blocks"),
    (Network, {"widths": (), "blocks": ()}, "network.widths and network.blocks"),
    (Selection, {"rule": "flexmatch"}, "selection.rule"),
    (Selection, {"threshold": 0.0}, "selection.threshold"),
    (Selection, {"threshold": 1.0}, "selection.threshold"),
    (Selection, {"threshold": float("nan")}, "selection.threshold"),
    (Selection, {"temperature": 0.0}, "selection.temperature"),
    (Selection, {"passes": -1}, "selection.passes"),
    (Selection, {"passes": 2.5}, "selection.passes"),
    (Selection, {"std_threshold": 0.05}, "selection.std_threshold"),
    (Selection, {"rule": "two_thresholds"}, "selection.std_threshold"),
    (Selection, {"batch_norm": "both"}, "selection.batch_norm"),
    (Selection, {"score": "mean"}, "selection.score"),
    (Training, {"labelled_batch": 0}, "training.labelled_batch"),
    (Training, {"unlabelled_batch": -1}, "training.unlabelled_batch"),
    (Training, {"iterations_per_epoch": 0}, "training.iterations_per_epoch"),
    (Training, {"epochs": 0}, "training.epochs"),
    (Training, {"supervised_batch": 0}, "training.supervised_batch"),
    (Training, {"evaluate_every": 0}, "training.evaluate_every"),
    (Training, {"warm_start": -1}, "training.warm_start"),
    (Training, {"learning_rate": 0.0}, "training.learning_rate"),
    (Training, {"precision": "float16"}, "training.precision"),
    (run, {"labels": "some"}, "run.labels"),
    (run, {"labelled_share": 0.0}, "run.labelled_share"),
    (run, {"labelled_share": 1.5}, "run.labelled_share"),
    (run, {"labels": "all"}, "run.selection"),
])
def test_a_wrong_value_is_named_in_one_line(make, change, named):
    with pytest.raises(ValueError, match=named) as caught:
        make(**change)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 120


def test_configurations_are_frozen():
    with pytest.raises(FrozenInstanceError):
        RUN.seed = 1


def test_values_at_the_edges_are_accepted():
    assert View(shift_time=0.5, shift_mel=0.5).noise == 0
    assert Selection(threshold=0.999, passes=0).std_threshold is None
    assert run(labelled_share=1.0).labels == "part"
    assert run(labels="all", selection=None).selection is None


def leaves(content: dict, path: tuple = ()) -> list[tuple]:
    """Paths of all single values of a nested configuration."""
    found = []
    for key, value in content.items():
        found += leaves(value, (*path, key)) if isinstance(value, dict) else [(*path, key)]
    return found


def changed(content: dict, path: tuple) -> dict:
    """A copy of ``content`` with another, still valid value at ``path``."""
    content = json.loads(json.dumps(content))
    *parents, key = path
    part = content
    for parent in parents:
        part = part[parent]
    choices = {"rule": "confidence", "batch_norm": "batch", "score": "max_of_difference", "precision": "float32",
               "labels": "part", "blocks": [1, 3, 2, 2], "widths": [16, 32, 64, 96], "stem": [5, 2], "window": 514}
    value = part[key]
    if key in choices:
        part[key] = choices[key]
    elif isinstance(value, bool):
        part[key] = not value
    elif isinstance(value, str):
        part[key] = value + "2"
    else:
        part[key] = value + 1 if isinstance(value, int) else value * 0.5 + 0.01
    return content


def test_the_id_depends_on_every_value_and_on_nothing_else():
    assert run().id == RUN.id == run_from_dict(json.loads(json.dumps(asdict(RUN)))).id
    base = replace(RUN, selection=replace(RUN.selection, rule="mean_minus_std", std_threshold=None))
    content = asdict(base)
    paths_of_values = [p for p in leaves(content) if p not in {("labels",), ("selection", "std_threshold")}]
    ids = {run_from_dict(changed(content, path)).id for path in paths_of_values}
    assert len(ids | {base.id}) == len(paths_of_values) + 1 > 35
    assert len(base.id) == 8 and int(base.id, 16) >= 0


def test_equal_configurations_have_equal_ids():
    whole, real = Selection(temperature=2, passes=5), Selection(temperature=2.0, passes=5)
    assert whole == real
    assert run(selection=whole).id == run(selection=real).id


def test_the_id_is_the_same_in_another_process():
    code = "from test_config import RUN; print(RUN.id, RUN.name, RUN.features.id)"
    environment = {**os.environ, "PYTHONHASHSEED": "123", "PYTHONPATH": os.pathsep.join([str(paths.ROOT), "tests"])}
    printed = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, env=environment, text=True, check=True,
                             capture_output=True).stdout
    assert printed.split() == [RUN.id, RUN.name, RUN.features.id]


def test_names_tell_data_variant_seed_and_id_and_suit_a_folder():
    name = run(variant="FMUC w/o MC-Dr.", seed=2).name
    assert name == f"nsynth_fmuc-w-o-mc-dr_s2_{run(variant='FMUC w/o MC-Dr.', seed=2).id}"


@pytest.mark.parametrize("selection", [None, RUN.selection, Selection()])
def test_a_run_survives_json(selection):
    original = run(selection=selection, augmentation=Augmentation(strong=View(noise=0.25)),
                   network=Network(widths=(8, 16), blocks=(1, 2), stem=(3, 1)), training=Training(epochs=7))
    assert run_from_dict(json.loads(json.dumps(asdict(original)))) == original


@pytest.mark.parametrize(("path", "value", "named"), [
    (("epochs",), 3, "epochs"),
    (("training", "momentum"), 0.9, "momentum"),
    (("augmentation", "medium"), {}, "medium"),
    (("augmentation", "weak", "rotate"), 1.0, "rotate"),
    (("selection", "treshold"), 0.5, "treshold"),
    (("training", "epochs"), 0, "training.epochs"),
])
def test_unknown_keys_and_wrong_values_are_refused(path, value, named):
    content = json.loads(json.dumps(asdict(RUN)))
    part = content
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises(ValueError, match=named):
        run_from_dict(content)


@pytest.mark.parametrize(("path", "value"), [
    ((), []), (("features",), None), (("features",), "abc"), (("augmentation",), [1]), (("augmentation", "weak"), None),
    (("network",), 3), (("training",), []), (("selection",), "FMUC"),
])
def test_a_part_that_is_no_object_is_named(path, value):
    content = {"run": json.loads(json.dumps(asdict(RUN)))}
    part = content
    for key in ("run", *path)[:-1]:
        part = part[key]
    part[("run", *path)[-1]] = value
    with pytest.raises(ConfigError, match=f"{'.'.join(('run', *path))} must be an object with keys") as caught:
        run_from_dict(content["run"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["features", "selection", "training", "dataset"])
def test_missing_keys_are_refused_by_name(key):
    content = asdict(RUN)
    del content[key]
    with pytest.raises(ValueError, match=key):
        run_from_dict(content)
