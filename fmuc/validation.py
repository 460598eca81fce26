"""Types of the values of a configuration, checked by their annotations: a file may hold anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
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
