"""Frozen, validated configurations; a run's identity is the hash of its content.

Axis letters used throughout the package: B batch, N dropout passes, C classes, F Mel bands, T frames, P patches.
"D<k>" in a comment refers to the README's numbered list *Deviations and assumptions*.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from reprlib import repr as abridged

from fmuc.errors import FmucError


class ConfigError(FmucError, ValueError):
    """A value that no configuration may have; the message names the key."""


def shortened(value: object) -> str:
    """``repr`` for a message: what a file holds may be of any length."""
    text = abridged(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def require(ok: bool, message: str) -> None:
    """:class:`ConfigError` with ``message`` unless ``ok``."""
    if not ok:
        raise ConfigError(message)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300  # not NaN


def _is_whole_numbers(value: object) -> bool:
    return isinstance(value, tuple) and all(map(_is_whole, value))


_KINDS: dict[str, tuple[Callable[[object], bool], str]] = {  # by annotation
    "int": (_is_whole, "a whole number"),
    "float": (_is_number, "a finite number"),
    "float | None": (lambda value: value is None or _is_number(value), "a finite number or None"),
    "str": (lambda value: isinstance(value, str), "a text"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "tuple[int, ...]": (_is_whole_numbers, "whole numbers"),
    "tuple[int, int]": (lambda value: _is_whole_numbers(value) and len(value) == 2, "two whole numbers"),
}


def require_types(config: object, name: str) -> None:
    """Every value has the type of its annotation: files may hold anything."""
    for part in fields(config):
        value = getattr(config, part.name)
        if part.type in _KINDS:
            fits, wanted = _KINDS[part.type]
            ok = fits(value)
        else:
            wanted = part.type  # another configuration, or None
            ok = type(value).__name__.removesuffix("Type") in wanted.split(" | ")
        if not ok:  # the message takes longer than the check
            raise ConfigError(f"{name}.{part.name} must be {wanted}, not {shortened(value)}")


RULES = ("confidence", "mean_minus_std", "two_thresholds")
MOST_CHANNELS, MOST_BLOCKS, LARGEST_STEM = 4096, 64, 63  # a net that a record asks for must fit into memory
MOST_DROPOUT = 0.99  # 16 bits decide, so that much more could not be told from dropping everything


def _content(config: object) -> dict:
    """``asdict`` with the whole numbers of float fields as floats: 2 and 2.0 are equal content."""
    content = {}
    for part in fields(config):
        value = getattr(config, part.name)
        if is_dataclass(value):
            value = _content(value)
        elif part.type.startswith("float") and value is not None:
            value = float(value)
        content[part.name] = value
    return content


def content_id(config: object) -> str:
    """First 8 hex digits of the SHA-256 of a config's content; equal content, equal id, on any machine."""
    text = json.dumps(_content(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Features:
    """Log-Mel patches (paper §III, values of reference [5] assumed, D2).

    ``sample_rate`` in Hz, ``window`` (= FFT size) and ``hop`` in samples, ``mel_bands`` = F, ``patch_frames`` = T.
    """

    sample_rate: int
    window: int
    hop: int
    mel_bands: int
    patch_frames: int

    def __post_init__(self) -> None:
        require_types(self, "features")
        for name, value in asdict(self).items():
            require(value > 0, f"features.{name} must be a positive integer, not {value}")
        require(self.window % 2 == 0, f"features.window must be even, not {self.window}")
        require(self.hop <= 4 * self.window, "features.hop must not exceed four windows")

    @property
    def id(self) -> str:
        return content_id(self)


@dataclass(frozen=True)
class View:
    """Magnitudes of one augmentation of a normalised patch (unit variance per band); zero switches a part off.

    ``shift_time``, ``shift_mel``: largest translation as a fraction of T and F (uniform, both directions);
    ``noise``: largest standard deviation of additive Gaussian noise (uniform per example);
    ``sharpen``: largest unsharp-mask amount (uniform per example). All assumed, D5.
    """

    shift_time: float = 0.0
    shift_mel: float = 0.0
    noise: float = 0.0
    sharpen: float = 0.0

    def __post_init__(self) -> None:
        require_types(self, "view")
        for name in ("shift_time", "shift_mel"):
            require(0 <= getattr(self, name) <= 0.5, f"view.{name} must lie in [0, 0.5], not {getattr(self, name)}")
        for name in ("noise", "sharpen"):
            require(getattr(self, name) >= 0, f"view.{name} must not be negative, not {getattr(self, name)}")


@dataclass(frozen=True)
class Augmentation:
    """Weak and strong view (paper §I, Fig. 1)."""

    weak: View = View(shift_time=0.05, shift_mel=0.0, noise=0.0, sharpen=0.0)
    strong: View = View(shift_time=0.2, shift_mel=0.05, noise=0.5, sharpen=1.0)

    def __post_init__(self) -> None:
        require_types(self, "augmentation")


@dataclass(frozen=True)
class Network:
    """CNN420 (paper §V-A): a pre-activation ResNet with dropout before every convolution of a block.

    ``widths`` channels and ``blocks`` number of residual blocks of each stage; ``stem`` (kernel, stride) of the first
    convolution; ``final_norm`` BatchNorm before pooling; ``dropout`` probability. The layer table is assumed, D3.
    """

    widths: tuple[int, ...] = (16, 32, 64, 128)
    blocks: tuple[int, ...] = (1, 3, 2, 1)
    stem: tuple[int, int] = (7, 2)
    final_norm: bool = False
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("widths", "blocks", "stem"):
            if isinstance(getattr(self, name), list):  # JSON has no tuples
                object.__setattr__(self, name, tuple(getattr(self, name)))
        require_types(self, "network")
        require(len(self.widths) == len(self.blocks) > 0, "network.widths and network.blocks must be of one length")
        for name, most in (("widths", MOST_CHANNELS), ("blocks", MOST_BLOCKS), ("stem", LARGEST_STEM)):
            value = getattr(self, name)
            require(all(1 <= number <= most for number in value) and len(value) <= MOST_BLOCKS,
                     f"network.{name} must lie between 1 and {most}, not {shortened(value)}")
        require(0 <= self.dropout <= MOST_DROPOUT,
                 f"network.dropout must lie in [0, {MOST_DROPOUT}], not {self.dropout}")


@dataclass(frozen=True)
class Selection:
    """Which pseudo-labels are kept (paper §V-A).

    ``rule``: "confidence" (FixMatch: max softmax >= threshold), "mean_minus_std" (FMUC: mean - std > threshold) or
    "two_thresholds" (UPS: mean > threshold and std < std_threshold). ``passes`` = N dropout passes; 0: one pass with
    dropout off. ``batch_norm`` of the weak passes: "running" statistics or those of the "batch" (D8).
    ``score``: "argmax_of_mean" (mean - std of the class with the highest mean) or "max_of_difference" (D7).
    """

    rule: str = "confidence"
    threshold: float = 0.95
    std_threshold: float | None = None
    temperature: float = 1.0
    passes: int = 0
    batch_norm: str = "running"
    score: str = "argmax_of_mean"

    def __post_init__(self) -> None:
        require_types(self, "selection")
        require(self.rule in RULES, f"selection.rule must be one of {', '.join(RULES)}, not {shortened(self.rule)}")
        require(0 < self.threshold < 1, f"selection.threshold must lie in (0, 1), not {self.threshold}")
        require(self.temperature > 0, f"selection.temperature must be positive, not {self.temperature}")
        require(self.passes >= 0, f"selection.passes must be a whole number >= 0, not {self.passes}")
        require((self.std_threshold is not None) == (self.rule == "two_thresholds"),
                 "selection.std_threshold goes with the rule two_thresholds, and only with it")
        require(self.batch_norm in ("running", "batch"), "selection.batch_norm must be 'running' or 'batch'")
        require(self.score in ("argmax_of_mean", "max_of_difference"),
                 "selection.score must be 'argmax_of_mean' or 'max_of_difference'")


@dataclass(frozen=True)
class Training:
    """Optimisation (paper §III). Adam; ``learning_rate`` constant; losses summed without weights.

    ``supervised_batch``: labelled examples a step where there are no unlabelled ones: the supervised baselines (D11)
    and the warm start. ``warm_start``: steps of supervised training on the labelled part before the first pseudo-label
    (0 in the paper; D12 for mini). ``evaluate_every``: epochs between accuracies on test and unlabelled files.
    ``precision``: "auto" (bfloat16 autocast where the hardware is made for it), "float32" or "bfloat16".
    """

    labelled_batch: int = 32
    unlabelled_batch: int = 224
    learning_rate: float = 1e-3
    iterations_per_epoch: int = 500
    epochs: int = 200
    supervised_batch: int = 256
    warm_start: int = 0
    evaluate_every: int = 10
    precision: str = "auto"

    def __post_init__(self) -> None:
        require_types(self, "training")
        for name in ("labelled_batch", "iterations_per_epoch", "epochs", "supervised_batch", "evaluate_every"):
            require(getattr(self, name) > 0, f"training.{name} must be positive, not {getattr(self, name)}")
        for name in ("unlabelled_batch", "warm_start"):
            require(getattr(self, name) >= 0, f"training.{name} must not be negative, not {getattr(self, name)}")
        require(self.learning_rate > 0, f"training.learning_rate must be positive, not {self.learning_rate}")
        require(self.precision in ("auto", "float32", "bfloat16"),
                 f"training.precision must be auto, float32 or bfloat16, not {shortened(self.precision)}")


@dataclass(frozen=True)
class Run:
    """Everything that defines one training run.

    ``variant``: a row's name (see ``experiments``); ``selection`` is None for supervised runs; ``labels``: "part" (the
    labelled subset, ``labelled_share`` of the training files) or "all"; ``seed``: initialisation, labelled subset and
    every draw.
    """

    dataset: str
    variant: str
    seed: int
    features: Features
    labelled_share: float
    selection: Selection | None = None
    labels: str = "part"
    augmentation: Augmentation = field(default_factory=Augmentation)
    network: Network = field(default_factory=Network)
    training: Training = field(default_factory=Training)

    def __post_init__(self) -> None:
        require_types(self, "run")
        require(re.fullmatch(r"[\w.-]{1,80}", self.dataset) is not None,  # a part of the names of folders
                 f"run.dataset must be a name of letters, digits, hyphens and dots, not {shortened(self.dataset)}")
        require(len(self.variant) <= 80 and self.variant.isprintable(),
                 f"run.variant must be a name of at most 80 characters, not {shortened(self.variant)}")
        require(self.labels in ("part", "all"), f"run.labels must be 'part' or 'all', not {shortened(self.labels)}")
        require(0 <= self.seed < 2**32, f"run.seed must be a whole number from 0 to {2**32 - 1}, not {self.seed}")
        require(0 < self.labelled_share <= 1, f"run.labelled_share must lie in (0, 1], not {self.labelled_share}")
        require(self.labels == "part" or self.selection is None,
                 "run.selection must be None where run.labels is 'all': there is nothing to pseudo-label")
        require(self.selection is None or self.training.unlabelled_batch > 0,
                 "training.unlabelled_batch must be positive where there is a run.selection, not 0")

    @property
    def id(self) -> str:
        return content_id(self)

    @property
    def name(self) -> str:
        """Folder name: data set, variant, seed and id."""
        variant = "".join(c if c.isalnum() else "-" for c in self.variant.lower().replace(".", "")).strip("-")
        return f"{self.dataset}_{variant}_s{self.seed}_{self.id}"


def run_from_dict(data: dict) -> Run:
    """Inverse of ``dataclasses.asdict`` for a :class:`Run`; unknown or wrong keys raise :class:`ConfigError`."""
    nested = dict(_object(data, "run"))
    for name, kind in (("features", Features), ("augmentation", Augmentation), ("network", Network),
                       ("training", Training), ("selection", Selection)):
        require(name in nested, f"not a run configuration of this version: run.{name} is missing")
        if not (name == "selection" and nested[name] is None):
            nested[name] = _part(kind, _object(nested[name], f"run.{name}"), f"run.{name}")
    return _part(Run, nested, "run")


def _object(value: object, name: str) -> dict:
    if not isinstance(value, dict):
        raise ConfigError(f"{name} must be an object with keys, not {shortened(value)}")
    return value


def _part(kind: type, content: dict, name: str) -> object:
    """A configuration from the content that JSON gave for it."""
    if kind is Augmentation:
        content = {key: _part(View, _object(value, f"{name}.{key}"), f"{name}.{key}")
                   for key, value in content.items()}
    known = {part.name for part in fields(kind)}
    for key in content:
        if key not in known:
            raise ConfigError(f"not a run configuration of this version: {name} has no {shortened(key)}")
    try:
        return kind(**content)
    except TypeError as error:  # a key is missing
        raise ConfigError(f"not a run configuration of this version: {name}: {error}") from None
