"""Ways to damage a file: blindly, byte by byte, or knowing its format. Every mutation is drawn from a generator."""

from __future__ import annotations

import json

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
NESTED = (b"[" * 100_000, b'{"a":' * 50_000, b": " + b"9" * 5000)


def damaged(content: bytes, rng: np.random.Generator, name: str) -> bytes:
    """``content`` changed once, or a few times; ``name`` tells the format."""
    ways = [edit_bytes]
    if name.endswith((".json", ".ipynb")):
        ways.append(edit_json)
    if name.endswith((".csv", ".txt", ".toml")):
        ways.append(edit_lines)
    for _ in range(1 if rng.random() < 0.8 else int(rng.integers(2, 5))):
        content = ways[rng.integers(len(ways))](content, rng)
    return content


def edit_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """Bytes flipped, lost, added, repeated or replaced, often near the beginning, where headers are."""
    largest = len(content) if rng.random() < 0.5 else min(len(content), 128)
    at, length = int(rng.integers(1 + largest)), 1 + int(rng.integers(64))
    before, part, after = content[:at], content[at : at + length], content[at + length :]
    match int(rng.integers(8)):
        case 0 if part:
            return before + bytes([part[0] ^ 1 << int(rng.integers(8))]) + content[at + 1 :]
        case 1:
            return before
        case 2:
            return before + after
        case 3:
            return before + rng.bytes(length) + after
        case 4:
            return before + rng.bytes(length) + part + after
        case 5:
            return before + part * int(rng.integers(2, 9)) + after
        case 6:
            return before + TOKENS[rng.integers(len(TOKENS))] + part + after
        case _:
            number, even = NUMBERS[rng.integers(len(NUMBERS))], at // 2 * 2
            return content[:even] + number + content[even + len(number) :]


def edit_json(content: bytes, rng: np.random.Generator) -> bytes:
    """Another value, a missing, renamed or repeated key, or a nesting that no parser likes."""
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return edit_bytes(content, rng)
    if rng.random() < 0.05:
        at = int(rng.integers(len(content) + 1))
        return content[:at] + NESTED[rng.integers(len(NESTED))] + content[at:]
    return json.dumps(edited(value, rng)).encode()


def edited(value: object, rng: np.random.Generator) -> object:
    """A JSON value with something in it changed."""
    new, way = VALUES[rng.integers(len(VALUES))], int(rng.integers(8))
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.02:
        return new
    if isinstance(value, list):
        at = int(rng.integers(len(value)))
        middle = {0: [], 1: [value[at], value[int(rng.integers(len(value)))]]}.get(way, [edited(value[at], rng)])
        return [*value[:at], *middle, *value[at + 1 :]]
    key = [*value][rng.integers(len(value))]
    if way < 2:  # a key is lost or renamed
        rest = {name: part for name, part in value.items() if name != key}
        return rest | ({str(new)[:100]: value[key]} if way else {})
    return value | {key: new if way == 2 else edited(value[key], rng)}


def edit_lines(content: bytes, rng: np.random.Generator) -> bytes:
    """Lines and fields of a comma- or tab-separated list: changed, lost, repeated."""
    lines, separator = content.split(b"\n"), b"\t" if b"\t" in content else b","
    at, other = (int(rng.integers(len(lines))) for _ in range(2))
    fields = lines[at].split(separator)
    field, value = int(rng.integers(len(fields))), FIELDS[rng.integers(len(FIELDS))].encode()
    match int(rng.integers(6)):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[other])
        case 2:
            lines = [line + b"\r" for line in lines]
        case 3:
            lines[at] = separator.join(fields[:field] + fields[field + 1 :])
        case _:
            lines[at] = separator.join([*fields[:field], value, *fields[field + 1 :]])
    return b"\n".join(lines)
