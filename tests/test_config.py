"""Wrong configurations are refused by name; the id of a configuration is its content."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
from pydantic import ValidationError

from fmuc import paths
from fmuc.config import (
    Augmentation,
    ConfigError,
    Features,
    Network,
    Run,
    Selection,
    Training,
    View,
    from_dict,
    override,
    run_from_dict,
)
from fmuc.experiments import make_run, plan

FEATURES = Features(sample_rate=16_000, window=512, hop=256, mel_bands=12, patch_frames=8)
RUN = Run("nsynth", "FMUC", 0, FEATURES, 0.1,
          Selection(rule="two_thresholds", threshold=0.7, std_threshold=0.05, temperature=2.0, passes=5))
SUPERVISED = replace(RUN, variant="Labelled part only", selection=None)
VALID = {kind: kind() for kind in (View, Augmentation, Network, Selection, Training)} | {Features: FEATURES, Run: RUN}

WRONG = [
    (Features, "sample_rate", [0, 2**31]), (Features, "window", [-1, 301, True]), (Features, "hop", [2.5, 3000]),
    (Features, "patch_frames", ["8"]), (View, "shift_time", [0.6, "0.1"]), (View, "noise", [-1.0, float("inf")]),
    (Network, "dropout", [-0.1, 1.0, None]), (Network, "final_norm", ["no"]), (Network, "blocks", [(1, 2)]),
    (Network, "widths", [(8.0, 16, 32, 64), "8642", (), 8, (8, 16, 32, 10**12)]), (Network, "stem", [(7,), (7, 0)]),
    (Selection, "rule", ["x" * 10_000]), (Selection, "threshold", [float("nan"), "0.9"]),
    (Selection, "temperature", [0.0, float("inf")]), (Selection, "passes", [-1, 2.5]),
    (Selection, "score", ["mean"]), (Selection, "options", [{"momentum": "high"}, {3: {}}, 7]),
    (Training, "labelled_batch", [0]), (Training, "epochs", [2.5, True]), (Training, "learning_rate", [0.0, "0.1"]),
    (Run, "seed", [2**64, -1]), (Run, "dataset", ["../elsewhere", ""]), (Run, "variant", ["two\nlines", 7]),
    (Run, "labelled_share", [0.0, 1.5]), (Run, "network", [None]), (Run, "selection", ["FMUC"]),
]


@pytest.mark.parametrize(("kind", "key", "value"), [(kind, key, value) for kind, key, values in WRONG
                                                    for value in values])
def test_a_wrong_value_is_refused_by_name(kind, key, value):
    with pytest.raises(ValidationError, match=key):
        replace(VALID[kind], **{key: value})
    with pytest.raises(ConfigError, match=f"{kind.__name__.lower()}.*{key}") as caught:
        from_dict(kind, asdict(VALID[kind]) | {key: value})
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


@pytest.mark.parametrize(("change", "named"), [
    ({"labels": "all"}, "selection must be None"),
    ({"training": Training(unlabelled_batch=0)}, "unlabelled_batch"),
])
def test_values_that_contradict_each_other_are_refused(change, named):
    with pytest.raises(ValidationError, match=named):
        replace(RUN, **change)
    assert replace(SUPERVISED, **change).selection is None


# Ids


@pytest.mark.parametrize(("key", "value"), [
    ("dataset", "tut2017"), ("variant", "FM"), ("seed", 1), ("labelled_share", 0.2), ("features.hop", 128),
    ("selection.rule", "confidence"), ("selection.passes", 6), ("selection.options.momentum", 0.9),
    ("augmentation.weak.noise", 0.1), ("augmentation.strong.sharpen", 0.5), ("network.widths", [16, 32, 64, 96]),
    ("network.kind", "other"), ("training.epochs", 7), ("training.precision", "float32"),
])
def test_another_value_gives_another_id(key, value):
    assert override(RUN, {key: value}).id != RUN.id


@pytest.mark.parametrize(("one", "other"), [
    ({"temperature": 2}, {"temperature": 2.0}), ({"options": {"a": 1, "b": 2.0}}, {"options": {"b": 2, "a": 1.0}}),
])
def test_equal_configurations_have_equal_ids(one, other):
    assert replace(RUN, selection=Selection(**one)).id == replace(RUN, selection=Selection(**other)).id


def test_the_ids_of_all_shipped_records_are_reproduced():
    """Fields that were added since count only where they are set."""
    shipped = [*paths.SHIPPED_RECORDS.glob("*/*/run.json")]
    assert len(shipped) >= len(plan("mini"))
    for path in shipped:
        record = json.loads(path.read_text())
        run = run_from_dict(record["config"])
        assert run.id == record["id"]
        assert make_run(path.parts[-3], run.dataset, run.variant, run.seed) == run
        assert replace(run, network=replace(run.network, kind="other")).id != run.id


# Reading and overriding


@pytest.mark.parametrize(("data", "named"), [
    (None, "^run"), ([], "^run"), ({"seed": {1, 2}}, "^run"),
    ({name: value for name, value in asdict(RUN).items() if name != "seed"}, "run.seed"),
    (asdict(RUN) | {"epochs": 3}, "run.epochs"), (asdict(RUN) | {"features": None}, "run.features"),
    (asdict(RUN) | {"training": {"momentum": 0.9}}, "run.training.momentum"),
    (asdict(RUN) | {"augmentation": {"weak": {"rotate": 1.0}}}, "run.augmentation.weak.rotate"),
    (asdict(RUN) | {"augmentation": {"weak": None}}, "run.augmentation.weak"),
])
def test_what_is_no_configuration_is_refused_by_name(data, named):
    with pytest.raises(ConfigError, match=named):
        run_from_dict(data)


@pytest.mark.parametrize(("run", "key", "value", "named"), [
    (RUN, "selection.pases", 20, "'selection.pases'.*known.*passes"),
    (RUN, "selektion.passes", 20, "'selektion.passes'.*features.*selection.*training"),
    (RUN, "epochs", 5, "'epochs'.*known.*training"),
    (RUN, "", 5, "unknown setting ''"),
    (RUN, "selection.passes", "many", "run.selection.passes"),
    (RUN, "selection.options.momentum", "high", "run.selection.options"),
    (SUPERVISED, "selection.passes", 20, "Labelled part only has.*training"),
])
def test_override_refuses_typos_and_wrong_values_in_one_line(run, key, value, named):
    with pytest.raises(ConfigError, match=named) as caught:
        override(run, {key: value})
    assert "\n" not in str(caught.value)
