"""A row of the tables with settings of your own, from a TOML file (``train --config``) or KEY=VALUE (``--set``)."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from fmuc.config import Run, override
from fmuc.errors import FmucError
from fmuc.experiments import VARIANTS, make_run, plan, presets

DEFAULTS = {"profile": "mini", "dataset": None, "row": None, "name": None, "seed": 0}  # which run; all else changes it


def choose_runs(options: Mapping[str, object], file: Path | None = None,
                settings: Sequence[str] = ()) -> tuple[str, list[Run]]:
    """Return the profile and its plan or, if a row or any setting is named, that one run.

    ``options`` override the keys of ``file``, and ``settings`` its tables. Raises :class:`FmucError` for whatever is
    unknown or wrong, with the known keys.
    """
    content = _read(file) if file else {}
    given = DEFAULTS | content | {key: value for key, value in options.items() if value is not None}
    changes = dict(_flat({key: value for key, value in content.items() if key not in DEFAULTS}))
    changes |= dict(map(_parse, settings))
    profile, row, name = given["profile"], given["row"], given["name"]
    if not (row or name or changes):
        return profile, plan(profile, given["dataset"])
    if not row:
        raise FmucError("say which row to change: --variant FMUC, or row = \"FMUC\" in the TOML file")
    run = make_run(profile, given["dataset"] or next(iter(presets(profile))), row)
    run = override(run, {"seed": given["seed"]})  # which names what is wrong with it
    if not (name or changes):
        return profile, [run]
    name = name or ", ".join([row, *(f"{key}={value}" for key, value in changes.items())])
    if name in VARIANTS:
        raise FmucError(f"name {name!r} is a row of the tables: choose another one for your own")
    return profile, [override(run, changes | {"variant": name})]


def _read(file: Path) -> dict:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FmucError(f"{file}: {getattr(error, 'strerror', None) or error}: give a file in TOML") from None
    known = dict.fromkeys([*DEFAULTS, *(part.name for part in fields(Run) if part.name != "variant")])
    for key, value in content.items():
        if key not in known:
            raise FmucError(f"{file}: unknown key {key!r}: known are {', '.join(known)}")
        if key in DEFAULTS and not isinstance(value, int if key == "seed" else str):
            raise FmucError(f"{file}: {key} must be a {'number' if key == 'seed' else 'text'}, not {value!r}")
    return content


def _flat(content: Mapping, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested tables as dotted keys."""
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _parse(text: str) -> tuple[str, object]:
    """Split KEY=VALUE; the value is TOML or else a bare word."""
    key, sign, value = (part.strip() for part in text.partition("="))
    if not (key and sign):
        raise FmucError(f"--set {text}: write KEY=VALUE, as in --set selection.passes=20")
    try:
        return key, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value
