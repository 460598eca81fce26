"""The paper's experiments as data: data-set presets, the eight rows of Table I, the plan of Table II, profiles.

A profile fixes the scale: ``paper`` the paper's own (real data, GPU), ``mini`` the stand-ins on a laptop (default),
``smoke`` seconds for tests. In what mini and smoke differ from the paper: docs/deviations.md (D12).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from fmuc.config import Augmentation, Features, Network, Run, Selection, Training, View, config, from_dict, override
from fmuc.datasets import own_settings
from fmuc.errors import FmucError

FM = Selection(rule="confidence", threshold=0.95)
FMUC = Selection(rule="mean_minus_std", threshold=0.9, temperature=2.0, passes=5)

TABLE_1: dict[str, Selection] = {  # in the order of the paper's rows
    "FM": FM,
    "FM thresh. 0.99": replace(FM, threshold=0.99),
    "FMUC": FMUC,
    "FMUC thresh. 0.95": replace(FMUC, threshold=0.95),
    "FMUC two thresh.": replace(FMUC, rule="two_thresholds", threshold=0.7, std_threshold=0.05),
    "FMUC w/o temp.": replace(FMUC, temperature=1.0),
    "FMUC w. temp. 4": replace(FMUC, temperature=4.0),
    "FMUC w/o MC-Dr.": replace(FMUC, passes=0),
}
FULLY_SUPERVISED, LABELLED_ONLY = "Fully supervised", "Labelled part only"
TABLE_2 = ("FMUC", "FM", LABELLED_ONLY, FULLY_SUPERVISED)
VARIANTS = (*TABLE_1, LABELLED_ONLY, FULLY_SUPERVISED)

# Not in the paper: is FMUC's rule a better filter, or a stricter threshold?
EQUAL_QUANTITY: dict[str, Selection] = {
    "FM thresh. 0.999": replace(FM, threshold=0.999),
    "FM thresh. 0.9999": replace(FM, threshold=0.9999),
    "FM thinned": replace(FMUC, rule="thinned", threshold=0.95),
    "FMUC thresh. 0.6": replace(FMUC, threshold=0.6),
    "FMUC thresh. 0.75": replace(FMUC, threshold=0.75),
}

# Beyond the paper: FixMatch variants and sounds of other classes (its outlook, §VII), deep ensembles, shares of labels
ENSEMBLE, NETS = "FM (net of an ensemble)", 5  # of one split
OUTSIDE_SHARES, LABEL_SHARES = (0.0, 0.27, 0.5), (0.02, 0.05, 0.1, 0.2, 0.4)
BEYOND: dict[str, dict] = {
    **{name + suffix: {"selection": replace(base, rule=name.lower())}
       for name in ("FlexMatch", "FreeMatch", "SoftMatch") for suffix, base in (("", FM), (" + FMUC", FMUC))},
    ENSEMBLE: {"selection": FM},
    **{f"{row}, {share:.0%} outside": {"selection": TABLE_1[row], "outside": share}
       for share in OUTSIDE_SHARES for row in ("FM", "FMUC")},
    **{f"{row}, {share:.0%} labels": {"selection": TABLE_1.get(row), "labelled_share": share}
       for share in LABEL_SHARES for row in ("FM", "FMUC", LABELLED_ONLY)},
}
STUDIES = {"long": ("FM", "FMUC", "FM thresh. 0.999"), "beyond": tuple(BEYOND)}  # rows of profiles beside the tables
ALL_ROWS: dict[str, dict] = {  # the fields of a run that make it one of a row
    **{name: {"selection": selection} for name, selection in (TABLE_1 | EQUAL_QUANTITY).items()},
    LABELLED_ONLY: {}, FULLY_SUPERVISED: {"labels": "all"}, **BEYOND,
}


@dataclass(frozen=True)
class Preset:
    """What a profile does with one data set.

    ``training.epochs`` are those of Table I; Table II trains ``table_2_factor`` times as long (§VI). ``seeds`` are
    those of Table II, the first ``table_1_seeds`` of them those of all other rows. ``reproduced_seeds``: how many of
    Table II's seeds ``reproduce`` trains, with one for the other rows of Table I; None for the whole plan.
    ``scored_passes`` as in :class:`fmuc.config.Training`, for the rows FM and FMUC.
    ``figure_3_epoch`` is the epoch of the confusion matrix.
    """

    dataset: str
    features: Features
    labelled_share: float
    training: Training
    network: Network = Network()
    augmentation: Augmentation = field(default_factory=Augmentation)
    table_2_factor: int = 2
    seeds: tuple[int, ...] = (0, 1, 2)
    table_1_seeds: int = 1
    reproduced_seeds: int | None = None
    scored_passes: int = 10
    figure_3_epoch: int = 20

    @property
    def table_2_epochs(self) -> int:
        return self.training.epochs * self.table_2_factor


NSYNTH = Features(sample_rate=16_000, window=1024, hop=512, mel_bands=128, patch_frames=126)
TUT = Features(sample_rate=22_050, window=1024, hop=342, mel_bands=80, patch_frames=140)  # 4 patches of a 10 s clip
NSYNTH_SMALL = Features(sample_rate=16_000, window=2048, hop=2048, mel_bands=32, patch_frames=32)
SCENES_SMALL = Features(sample_rate=22_050, window=2048, hop=1710, mel_bands=32, patch_frames=32)  # 4 patches, too
DIGITS = Features(sample_rate=8_000, window=256, hop=128, mel_bands=32, patch_frames=32)  # half a second

# D12: what mini changes so that a laptop sees the paper's regime within minutes. The same for every row.
_MINI_NETWORK = Network(widths=(32, 64, 128), blocks=(1, 1, 1), stem=(7, 4))
_MINI_VIEWS = Augmentation(View(shift_time=0.05), View(shift_time=0.1, shift_mel=0.03, noise=0.2, sharpen=0.5))
_MINI_TRAINING = Training(labelled_batch=8, unlabelled_batch=56, iterations_per_epoch=48, epochs=20,
                          supervised_batch=32, warm_start=4000, evaluate_every=2)
_SMOKE_NETWORK = replace(_MINI_NETWORK, widths=(8, 16, 32))
_SMOKE_TRAINING = Training(labelled_batch=4, unlabelled_batch=28, iterations_per_epoch=3, epochs=4,
                           supervised_batch=16, warm_start=100, evaluate_every=2)

_SMALL = {"fsdd": DIGITS, "nsynth-gm": NSYNTH_SMALL, "scenes-sim": SCENES_SMALL}  # the first is real


def _small(base: Preset, suffix: str = "") -> dict[str, Preset]:
    """``base`` for each of a laptop's data sets."""
    return {name + suffix: replace(base, dataset=name + suffix, features=features)
            for name, features in _SMALL.items()}


_SMOKE = Preset("", NSYNTH_SMALL, labelled_share=0.25, training=_SMOKE_TRAINING, network=_SMOKE_NETWORK,
                augmentation=_MINI_VIEWS, table_2_factor=1, seeds=(0, 1), figure_3_epoch=1)
_MINI = Preset("", NSYNTH_SMALL, labelled_share=0.1, training=_MINI_TRAINING, network=_MINI_NETWORK,
               augmentation=_MINI_VIEWS, seeds=(0, 1, 2, 3, 4), table_1_seeds=5, reproduced_seeds=2, scored_passes=50,
               figure_3_epoch=4)
STUDIED = ("fsdd", "nsynth-gm")  # at equal quantity, and for ten times as long
_DATASETS = _small(_MINI)
_DATASETS["fsdd"] = replace(_DATASETS["fsdd"], labelled_share=0.05)


def _derived(datasets: Sequence[str], **changes: object) -> dict[str, Preset]:
    """The presets of mini with ``changes``."""
    return {name: replace(_DATASETS[name], reproduced_seeds=None, table_2_factor=1, **changes) for name in datasets}


PROFILES: dict[str, dict[str, Preset]] = {
    "smoke": _small(_SMOKE, "-smoke"),
    "mini": _DATASETS,
    "long": _derived(STUDIED, training=replace(_MINI_TRAINING, epochs=200, evaluate_every=5)),
    "beyond": _derived(["fsdd"], seeds=(0, 1, 2), table_1_seeds=3),
    "paper": {
        "nsynth": Preset("nsynth", NSYNTH, labelled_share=0.01, training=Training(epochs=200), figure_3_epoch=40),
        "tut2017": Preset("tut2017", TUT, labelled_share=0.05, training=Training(epochs=100), figure_3_epoch=20),
    },
}
_SCENES = {"smoke": "scenes-sim-smoke", "mini": "scenes-sim", "paper": "tut2017"}


def presets(profile: str) -> dict[str, Preset]:
    """Data sets of a profile with their presets; :class:`FmucError` for an unknown profile."""
    if profile not in PROFILES:
        raise FmucError(f"unknown profile {profile!r}: choose one of {', '.join(PROFILES)}")
    return PROFILES[profile]


def preset(profile: str, dataset: str) -> Preset:
    """One data set's preset; your own audio takes that of the profile's scenes with its own features and labelled
    share (D18).

    Raises :class:`FmucError` for an unknown profile and for a data set that is neither.
    """
    known = presets(profile)
    if dataset in known:
        return known[dataset]
    own, scenes = own_settings(dataset), known.get(_SCENES.get(profile, ""))
    if own is not None and scenes is not None:
        return replace(scenes, dataset=dataset, labelled_share=own.labelled_share, seeds=scenes.seeds[:3],
                       table_1_seeds=1, reproduced_seeds=None, features=_own_features(own.features, scenes.features))
    raise FmucError(f"profile {profile!r} has no data set {dataset!r}: it has {', '.join(known)}; your own comes with "
                    "'python -m fmuc data folder PATH --name NAME'")


def _own_features(own: Features | None, scenes: Features) -> Features:
    """Sample rate, window and patch length of ``own``, with the bands and frames of the profile's ``scenes``."""
    if own is None:
        return scenes
    hop = max(1, own.hop * own.patch_frames // scenes.patch_frames)
    return replace(own, hop=hop, mel_bands=scenes.mel_bands, patch_frames=scenes.patch_frames)


def chosen(profile: str, dataset: str | None = None) -> dict[str, Preset]:
    """The preset of one data set by its name, or, without a name, all of the profile."""
    return {dataset: preset(profile, dataset)} if dataset else presets(profile)


def make_run(profile: str, dataset: str, variant: str, seed: int = 0) -> Run:
    """The run of one row. Rows of Table II train ``table_2_factor`` times as long as the others: with a constant
    learning rate their first epochs *are* the shorter run, so Table I reads them there."""
    p = preset(profile, dataset)
    if variant not in ALL_ROWS:
        raise FmucError(f"unknown variant {variant!r}: choose one of {', '.join(ALL_ROWS)}")
    scored = p.scored_passes if variant in ("FM", "FMUC", ENSEMBLE) else 0
    training = replace(p.training, epochs=p.table_2_epochs if variant in TABLE_2 else p.training.epochs,
                       scored_passes=scored)
    run = Run(dataset=dataset, variant=variant, seed=seed, features=p.features, labelled_share=p.labelled_share,
              augmentation=p.augmentation, network=p.network, training=training,
              split_seed=seed // NETS if variant == ENSEMBLE else None)
    return replace(run, **ALL_ROWS[variant])


def rows(profile: str, dataset: str) -> list[str]:
    """The rows of a profile's plan: the tables' (in mini also :data:`EQUAL_QUANTITY`, on two data sets), or a study's.

    Where every label of the training split is used anyway, full supervision is the labelled part and left out.
    """
    if profile in STUDIES:
        return list(STUDIES[profile])
    tables = [row for row in (*TABLE_2, *(row for row in TABLE_1 if row not in TABLE_2))
              if row != FULLY_SUPERVISED or preset(profile, dataset).labelled_share < 1]
    return [*tables, *(EQUAL_QUANTITY if profile == "mini" and dataset in STUDIED else ())]


def plan(profile: str, dataset: str | None = None) -> list[Run]:
    """Every run of a profile."""
    runs = []
    for name, p in chosen(profile, dataset).items():
        for variant in rows(profile, name):
            seeds = p.seeds if variant in TABLE_2 else p.seeds[: p.table_1_seeds]
            if variant == ENSEMBLE:
                seeds = range(NETS * len(seeds))
            runs += [make_run(profile, name, variant, seed) for seed in seeds]
    return runs


def reproduced(profile: str, dataset: str | None = None) -> list[Run]:
    """The runs that ``reproduce`` trains: of a profile that would take hours, both tables with fewer seeds."""
    def wanted(run: Run) -> bool:
        p = preset(profile, run.dataset)
        seeds = p.seeds[: p.reproduced_seeds if run.variant in TABLE_2 else 1]
        return p.reproduced_seeds is None or (run.variant in VARIANTS and run.seed in seeds)

    return [run for run in plan(profile, dataset) if wanted(run)]


@config
class Choice:
    """What ``train`` is asked for: the plan of a profile, or one row of it, which may be changed under a new name."""

    profile: str = "mini"
    dataset: str | None = None
    row: str | None = None
    name: str | None = None
    seed: int = 0


def choose_runs(options: Mapping[str, object], file: Path | None = None,
                settings: Sequence[str] = ()) -> tuple[str, list[Run]]:
    """The profile and its plan or, if a row or any setting is named, that one run.

    A TOML ``file`` may have the fields of :class:`Choice` and any tables of a :class:`Run`. ``options``, where not
    None, win over its fields, and ``settings`` ("selection.passes=20") over its tables.
    """
    content = _read_toml(file) if file else {}
    chosen = {part.name: content.pop(part.name) for part in fields(Choice) if part.name in content}
    choice = from_dict(Choice, chosen | {key: value for key, value in options.items() if value is not None})
    changes = dict(_flat(content)) | dict(map(_parse, settings))
    if not (choice.row or choice.name or changes):
        return choice.profile, plan(choice.profile, choice.dataset)
    if not choice.row:
        raise FmucError("say which row to change: --variant FMUC, or row = \"FMUC\" in the TOML file")
    if choice.name in ALL_ROWS:
        raise FmucError(f"name {choice.name!r} is a row of the tables: choose another one for your own")
    dataset = choice.dataset or next(iter(presets(choice.profile)))
    run = override(make_run(choice.profile, dataset, choice.row), {"seed": choice.seed})  # which names a wrong value
    if choice.name or changes:
        name = choice.name or ", ".join([choice.row, *(f"{key}={value}" for key, value in changes.items())])
        run = override(run, changes | {"variant": name})
    return choice.profile, [run]


def _read_toml(file: Path) -> dict:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FmucError(f"{file}: cannot be read as TOML ({error})") from None


def _flat(content: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested tables as dotted keys."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _parse(setting: str) -> tuple[str, object]:
    """KEY=VALUE; the value is TOML or else a bare word."""
    key, sign, value = (part.strip() for part in setting.partition("="))
    if not (key and sign):
        raise FmucError(f"--set {setting}: write KEY=VALUE, as in --set selection.passes=20")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value


_TRAINED = 3  # a backward pass costs about twice the forward pass


def step_units(run: Run) -> int:
    """Units of work of one step: N µB for the pseudo-labels, 3 (B + µB) for the training pass (Fig. 1 and 4)."""
    training = run.training
    if run.selection is None:
        return _TRAINED * training.supervised_batch
    weak = max(run.selection.passes, 1) * training.unlabelled_batch
    return weak + _TRAINED * (training.labelled_batch + training.unlabelled_batch)


def run_units(run: Run) -> int:
    """Units of work of a whole run, warm start (D12) included, evaluations left out."""
    training = run.training
    steps = training.epochs * training.iterations_per_epoch
    return steps * step_units(run) + training.warm_start * _TRAINED * training.supervised_batch
