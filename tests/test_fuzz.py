"""Nothing that is read is trusted: damaged files give a clear error or a right result, and nothing is unpickled."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import fuzz
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fmuc.errors import LONGEST, FmucError
from fmuc.paths import NOTEBOOKS, ROOT


def test_every_reader_refuses_clearly_or_reads_right():
    command = [sys.executable, fuzz.__file__, "--inputs", "1600"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                          text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    *readers, last = done.stdout.splitlines()[2:]
    refused, right, faults = (int(number.replace(",", "")) for number in re.findall("[0-9,]+", last))
    assert refused + right == 1600 and faults == 0 and len(readers) == 16
    assert refused > 500 and right > 150  # neither judge says always the same


def fail(error: BaseException) -> None:
    raise error


def spin() -> None:
    while True:
        pass


@pytest.mark.parametrize(("read", "outcome"), [
    (lambda: "wrong", "wrong result"), (lambda: fail(FmucError("something is wrong")), "unclear error"),
    (lambda: fail(FmucError("a.json: Unable to allocate 8 TiB")), "unclear error"),
    (lambda: fail(ValueError("a.json: is damaged")), "ValueError"), (spin, "more than 0.3 seconds")])
def test_the_fuzzer_sees_what_it_looks_for(tmp_path, monkeypatch, read, outcome):
    monkeypatch.setattr(fuzz, "SECONDS", 0.3)
    monkeypatch.setattr(fuzz, "_limit", lambda *_: None)  # of this process, which is no worker
    (tmp_path / "a.json").write_bytes(b"whole")
    target = fuzz.Target("reader", tmp_path, ("a.json",), read, lambda result: result == "right",
                         mutate=lambda *_: b"damaged")
    found, what = fuzz.attempt(target, 0, 0)
    assert found == fuzz.FAULT and outcome in what
    assert (tmp_path / "a.json").read_bytes() == b"whole"


@given(st.text(max_size=2000))
def test_an_error_is_one_readable_line(text):
    line = str(FmucError(text))
    assert line.isprintable() and len(line) <= 10 * LONGEST + 10
    assert line == text or not text.isprintable() or len(text) > LONGEST


UNPICKLING = re.compile(r"(import|from) (_pickle|pickle|cloudpickle|dill|shelve|marshal|jsonpickle)\b|read_pickle"
                        r"|allow_pickle=True|(torch|joblib)\.load\b|from (torch|joblib) import load\b")


def test_the_package_and_the_notebooks_unpickle_nothing():
    files = [*(ROOT / "fmuc").rglob("*.py"), *NOTEBOOKS.glob("*.ipynb"), *NOTEBOOKS.glob("*.py")]
    assert not [path for path in files if UNPICKLING.search(path.read_text(encoding="utf-8"))]
