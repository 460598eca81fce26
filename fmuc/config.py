"""Frozen, validated configurations; a run's identity is the hash of its content.

Axis letters used throughout the package: B batch, N dropout passes, C classes, F Mel bands, T frames, P patches.
"D<k>" in a comment refers to docs/deviations.md.

The classes are pydantic dataclasses: a wrong value raises ``pydantic.ValidationError``, a ``ValueError`` that names the
key. :func:`run_from_dict` and :func:`override`, which read what users write, raise :class:`ConfigError` instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, field, fields, is_dataclass
from functools import cache
from reprlib import repr as abridged
from typing import Annotated, Literal, dataclass_transform

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass as pydantic_dataclass

from fmuc.errors import ConfigError

# A field that came after the first records: at its default it is not part of a configuration's id.
ADDED = {"added": True}

Positive = Annotated[int, Field(gt=0, lt=2**31)]
Count = Annotated[int, Field(ge=0, lt=2**31)]
Channels = Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(strict=False, min_length=1, max_length=64)]
Name = Annotated[str, Field(max_length=80)]
Option = Annotated[tuple[str, float], Field(strict=False)]  # not strict: lists stand for tuples in JSON


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def config(cls: type) -> type:
    """Make ``cls`` a frozen dataclass that checks the type and range of each value."""
    strict = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    return pydantic_dataclass(frozen=True, config=strict)(cls)


def content_id(config: object) -> str:
    """First 8 hex digits of the SHA-256 of a configuration; equal content has an equal id on any machine."""
    text = json.dumps(_content(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _content(config: object) -> dict:
    """``asdict`` without the added fields that have their default."""
    content = {}
    for part in fields(config):
        value = getattr(config, part.name)
        if not (part.metadata.get("added") and value == part.default):
            content[part.name] = _content(value) if is_dataclass(value) else value
    return content


@config
class Features:
    """Log-Mel patches (paper §III; the values of reference [5] are assumed, D2).

    ``sample_rate`` in Hz, ``window`` (= FFT size) and ``hop`` in samples, ``mel_bands`` = F, ``patch_frames`` = T.
    """

    sample_rate: Positive
    window: Annotated[Positive, Field(multiple_of=2)]
    hop: Positive
    mel_bands: Positive
    patch_frames: Positive

    @model_validator(mode="after")
    def _check(self) -> Features:
        if self.hop > 4 * self.window:
            raise ValueError("hop must not exceed four windows")
        return self

    @property
    def id(self) -> str:
        return content_id(self)


@config
class View:
    """Magnitudes of one augmentation of a normalised patch (unit variance per band); zero switches a part off.

    ``shift_time``, ``shift_mel``: largest translation as a fraction of T and F (uniform, both directions);
    ``noise``: largest standard deviation of additive Gaussian noise (uniform per example);
    ``sharpen``: largest unsharp-mask amount (uniform per example). All assumed, D5.
    """

    shift_time: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    shift_mel: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    noise: Annotated[float, Field(ge=0)] = 0.0
    sharpen: Annotated[float, Field(ge=0)] = 0.0


@config
class Augmentation:
    """Weak and strong view (paper §I, Fig. 1)."""

    weak: View = View(shift_time=0.05)
    strong: View = View(shift_time=0.2, shift_mel=0.05, noise=0.5, sharpen=1.0)


@config
class Network:
    """A network of :data:`fmuc.model.NETWORKS`, by default CNN420 (paper §V-A).

    ``widths`` channels and ``blocks`` number of residual blocks of each stage; ``stem`` (kernel, stride) of the first
    convolution; ``final_norm`` BatchNorm before pooling; ``dropout`` probability; ``kind`` name in the table. The layer
    table is assumed, D3.
    """

    widths: Channels = (16, 32, 64, 128)
    blocks: Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(strict=False)] = (1, 3, 2, 1)
    stem: Annotated[tuple[Annotated[int, Field(ge=1, le=63)], Annotated[int, Field(ge=1, le=63)]],
                    Field(strict=False)] = (7, 2)
    final_norm: bool = False
    dropout: Annotated[float, Field(ge=0, le=0.99)] = 0.1
    kind: Name = field(default="cnn420", metadata=ADDED)

    @model_validator(mode="after")
    def _check(self) -> Network:
        if len(self.widths) != len(self.blocks):
            raise ValueError("widths and blocks must be of one length")
        return self


def _pairs(value: object) -> object:
    """A mapping as sorted pairs, which can be hashed."""
    return tuple(sorted(value.items())) if isinstance(value, Mapping) else value


@config
class Selection:
    """Which pseudo-labels are kept (paper §V-A).

    ``rule``: a name of :data:`fmuc.selection.RULES`, which checks what follows. ``threshold`` and ``std_threshold`` (of
    the rule two_thresholds) are in the rule's own units. ``temperature`` T of Eq. (1). ``passes`` = N dropout passes;
    0: one pass with dropout off. ``batch_norm`` of the weak passes: "running" statistics or those of the "batch" (D8).
    ``score`` of the rule mean_minus_std: "argmax_of_mean" (of the class with the highest mean) or "max_of_difference"
    (D7). ``options``: further numbers of a rule, such as ``{"momentum": 0.9}``.
    """

    rule: Name = "confidence"
    threshold: float = 0.95
    std_threshold: float | None = None
    temperature: Annotated[float, Field(gt=0)] = 1.0
    passes: Annotated[int, Field(ge=0, le=10_000)] = 0
    batch_norm: Literal["running", "batch"] = "running"
    score: Literal["argmax_of_mean", "max_of_difference"] = "argmax_of_mean"
    options: Annotated[tuple[Option, ...], BeforeValidator(_pairs), Field(strict=False)] = field(
        default=(), metadata=ADDED)

    def option(self, name: str, default: float) -> float:
        """Value of ``options[name]``, ``default`` where it is not set."""
        return dict(self.options).get(name, default)


@config
class Training:
    """Optimisation (paper §III). Adam; ``learning_rate`` constant; losses summed without weights.

    ``supervised_batch``: labelled examples a step where there are no unlabelled ones: the supervised baselines (D11)
    and the warm start. ``warm_start``: steps of supervised training before the first epoch, in every row (0 in the
    paper; D12 for mini). ``evaluate_every``: epochs between accuracies on test and unlabelled files.
    ``precision``: "auto" (bfloat16 autocast where the hardware is made for it), "float32" or "bfloat16".
    ``scored_passes``: dropout passes whose scores of the whole unlabelled pool are kept (0: none; see
    :mod:`fmuc.pool`).
    """

    labelled_batch: Positive = 32
    unlabelled_batch: Count = 224
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    iterations_per_epoch: Positive = 500
    epochs: Positive = 200
    supervised_batch: Positive = 256
    warm_start: Count = 0
    evaluate_every: Positive = 10
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    scored_passes: Annotated[Count, Field(le=1000)] = field(default=0, metadata=ADDED)


@config
class Run:
    """Everything that defines one training run.

    ``variant``: a row's name (see ``experiments``); ``selection`` is None for supervised runs; ``labels``: "part" (the
    labelled subset, ``labelled_share`` of the training files) or "all"; ``seed``: initialisation, labelled subset and
    every draw; ``split_seed``: another seed of the labelled subset alone; ``outside``: share of sounds of other classes
    among the unlabelled ones (see :func:`fmuc.splits.open_set`), None for the paper's setting.
    """

    dataset: Annotated[str, Field(pattern=r"^[\w.-]{1,80}$")]  # a part of the names of folders
    variant: Name
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    features: Features
    labelled_share: Annotated[float, Field(gt=0, le=1)]
    selection: Selection | None = None
    labels: Literal["part", "all"] = "part"
    augmentation: Augmentation = Augmentation()
    network: Network = Network()
    training: Training = Training()
    split_seed: Annotated[int, Field(ge=0, lt=2**32)] | None = field(default=None, metadata=ADDED)
    outside: Annotated[float, Field(ge=0, le=0.9)] | None = field(default=None, metadata=ADDED)

    @model_validator(mode="after")
    def _check(self) -> Run:
        if not self.variant.isprintable():
            raise ValueError("variant must be printable text")
        if self.labels == "all" and self.selection is not None:
            raise ValueError("selection must be None where labels is 'all': there is nothing to pseudo-label")
        if self.selection is not None and self.training.unlabelled_batch == 0:
            raise ValueError("training.unlabelled_batch must be positive where there is a selection, not 0")
        return self

    @property
    def id(self) -> str:
        return content_id(self)

    @property
    def name(self) -> str:
        """Folder name: data set, variant, seed and id."""
        variant = "".join(c if c.isalnum() else "-" for c in self.variant.lower().replace(".", "")).strip("-")
        return f"{self.dataset}_{variant}_s{self.seed}_{self.id}"


@cache
def _adapter(kind: type) -> TypeAdapter:
    return TypeAdapter(kind)


def from_dict(kind: type, data: object) -> object:
    """Inverse of ``dataclasses.asdict`` for a configuration class; :class:`ConfigError` for wrong keys or values."""
    try:
        return _adapter(kind).validate_json(json.dumps(data))  # JSON has no tuples: lists may stand for them
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join([kind.__name__.lower(), *(str(part) for part in first["loc"])])
        given = "" if isinstance(first["input"], dict) else f", not {abridged(first['input'])}"
        raise ConfigError(f"{where}: {first['msg'].removeprefix('Value error, ')}{given}") from None
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{kind.__name__.lower()}: not a configuration ({error})") from None


def run_from_dict(data: dict) -> Run:
    """A :class:`Run` from the dictionary that ``asdict`` made of it; :class:`ConfigError` if it is none."""
    return from_dict(Run, data)


def override(run: Run, settings: Mapping[str, object]) -> Run:
    """``run`` with other values: ``{"selection.passes": 20, "augmentation.strong.noise": 0.1}``.

    Raises :class:`ConfigError` with the known keys for an unknown one, and for a value out of range.
    """
    data = asdict(run)
    if run.selection is not None:
        data["selection"]["options"] = dict(run.selection.options)
    for key, value in settings.items():
        *parents, last = key.split(".")
        section = data
        for parent in parents:
            section = section.get(parent) if isinstance(section, dict) else None
        if not isinstance(section, dict):
            raise ConfigError(f"unknown setting {key!r}: {run.variant} has {', '.join(_sections(data))}")
        if last not in section and parents != ["selection", "options"]:
            raise ConfigError(f"unknown setting {key!r}: known are {', '.join(section)}")
        section[last] = value
    return run_from_dict(data)


def _sections(data: Mapping) -> list[str]:
    return [name for name, value in data.items() if isinstance(value, dict)]
