"""Ways to damage a file: blindly, byte by byte, or knowing its format. Every mutation is drawn from a generator."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np

NUMBERS = (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\x00\x00\x00\x00", b"\x01\x00\x00\x00",
           b"\x00\x00\x00\x10", b"\xff" * 8, b"\xff" * 7 + b"\x7f")  # lengths and counts, little-endian
TOKENS = (b'"', b",", b"\n", b"\r\n", b"\t", b"\0", b"{", b"[", b"]", b"}", b":", b"NaN", b"-1", b"1e999", b"null",
          b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"../", b"/", b"\\", b"<script>", b"9" * 30, b"\x93NUMPY",
          b"PK\x05\x06", b"data", b"fmt ", "é".encode(), "\u2028".encode())
VALUES = (None, True, False, 0, 1, -1, 2**31, 2**63, 10**30, 0.5, -0.5, 1e308, float("nan"), float("inf"), "", " ", "a",
          "x" * 10_000, "two\nlines", "nul\0", "\ud800", "\u202e", "../../x", "/etc/passwd", "<script>", "|", "$", "1",
          [], [1], [[]], {}, {"a": 1})
FIELDS = ("", " ", "a", "-1", "1e999", "nan", "9" * 400, "x" * 200_000, '"', '""', '"a', "../x", "/etc/passwd", "..",
          "\0", "<b>", "é", "\u2028", "\ufeff", "audio/", "train", "tset")


def damaged(content: bytes, rng: np.random.Generator, name: str = "") -> bytes:
    """``content`` changed in one way, or in a few; ``name`` tells the format."""
    ways: list[Callable[[bytes, np.random.Generator], bytes]] = [
        flip, flip, overwrite, truncate, drop, insert, repeat, splice, zeros, token, number, number]
    if name.endswith((".json", ".ipynb")):
        ways += [edit_json] * 10
    if name.endswith((".csv", ".txt")):
        ways += [edit_lines] * 10
    for _ in range(1 if rng.random() < 0.8 else int(rng.integers(2, 5))):
        content = ways[rng.integers(len(ways))](content, rng)
    return content


def _place(content: bytes, rng: np.random.Generator) -> int:
    """A position, every other time near the beginning, where headers are."""
    most = len(content) if rng.random() < 0.5 else min(len(content), 128)
    return int(rng.integers(most + 1))


def _length(content: bytes, rng: np.random.Generator) -> int:
    return 1 + int(rng.integers(min(64, len(content) + 1)))


def flip(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 5)) if changed else 0):
        changed[min(_place(content, rng), len(changed) - 1)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def overwrite(content: bytes, rng: np.random.Generator) -> bytes:
    at, length = _place(content, rng), _length(content, rng)
    return content[:at] + rng.bytes(length) + content[at + length :]


def truncate(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: _place(content, rng)]


def drop(content: bytes, rng: np.random.Generator) -> bytes:
    at = _place(content, rng)
    return content[:at] + content[at + _length(content, rng) :]


def insert(content: bytes, rng: np.random.Generator) -> bytes:
    at = _place(content, rng)
    return content[:at] + rng.bytes(_length(content, rng)) + content[at:]


def repeat(content: bytes, rng: np.random.Generator) -> bytes:
    at = _place(content, rng)
    part = content[at : at + _length(content, rng)]
    return content[:at] + part * int(rng.integers(2, 9)) + content[at:]


def splice(content: bytes, rng: np.random.Generator) -> bytes:
    """A piece from elsewhere in the file."""
    at, start = _place(content, rng), _place(content, rng)
    length = _length(content, rng)
    return content[:at] + content[start : start + length] + content[at + length :]


def zeros(content: bytes, rng: np.random.Generator) -> bytes:
    at, length = _place(content, rng), _length(content, rng)
    return content[:at] + bytes(length) + content[at + length :]


def token(content: bytes, rng: np.random.Generator) -> bytes:
    at = _place(content, rng)
    return content[:at] + TOKENS[rng.integers(len(TOKENS))] + content[at:]


def number(content: bytes, rng: np.random.Generator) -> bytes:
    """A huge or strange number over what may be a length in a header."""
    at, value = _place(content, rng) // 2 * 2, NUMBERS[rng.integers(len(NUMBERS))]
    return content[:at] + value + content[at + len(value) :]


# --- JSON ---


def edit_json(content: bytes, rng: np.random.Generator) -> bytes:
    """Another value, a missing, renamed or repeated key, or a nesting that no parser likes."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return token(content, rng)
    if rng.random() < 0.05:
        deep = b"[" * 100_000 if rng.random() < 0.5 else b'{"a":' * 50_000
        at = _place(content, rng)
        return content[:at] + deep + content[at:]
    if rng.random() < 0.05:
        return content.replace(b": ", b": " + b"9" * 5000, 1)
    return json.dumps(edited(value, rng)).encode()


def edited(value: object, rng: np.random.Generator) -> object:
    """A JSON value with something in it changed."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.02:
        return VALUES[rng.integers(len(VALUES))]
    if isinstance(value, list):
        at = int(rng.integers(len(value)))
        kept = [*value]
        match int(rng.integers(5)):
            case 0:
                del kept[at]
            case 1:
                kept.insert(at, kept[int(rng.integers(len(kept)))])
            case _:
                kept[at] = edited(kept[at], rng)
        return kept
    key = [*value][rng.integers(len(value))]
    match int(rng.integers(8)):
        case 0:
            return {name: part for name, part in value.items() if name != key}
        case 1:
            new = VALUES[rng.integers(len(VALUES))]
            return {(str(new)[:100] if name == key else name): part for name, part in value.items()}
        case 2:
            return {**value, key: VALUES[rng.integers(len(VALUES))]}
        case _:
            return {**value, key: edited(value[key], rng)}


# --- lists of fields ---


def edit_lines(content: bytes, rng: np.random.Generator) -> bytes:
    """Lines and fields of a CSV or tab-separated list: changed, lost, repeated, moved."""
    lines = content.split(b"\n")
    at, separator = int(rng.integers(len(lines))), b"\t" if b"\t" in content else b","
    fields = lines[at].split(separator)
    field = int(rng.integers(len(fields)))
    value = FIELDS[rng.integers(len(FIELDS))].encode()
    match int(rng.integers(9)):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[int(rng.integers(len(lines)))])
        case 2:
            other = int(rng.integers(len(lines)))
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            del fields[field]
            lines[at] = separator.join(fields)
        case 4:
            fields.insert(field, value)
            lines[at] = separator.join(fields)
        case 5:
            lines = [line + b"\r" for line in lines]
        case _:
            fields[field] = value
            lines[at] = separator.join(fields)
    return b"\n".join(lines)
