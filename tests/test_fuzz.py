"""Nothing that is read is trusted: damaged files, values of every kind, and no pickle anywhere."""

from __future__ import annotations

import ast
import json
import struct
from collections import Counter
from dataclasses import asdict

import fuzz
import nbformat
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from IPython.core.inputtransformer2 import TransformerManager

from fmuc.config import Augmentation, ConfigError, Features, Network, Run, Selection, Training, View, run_from_dict
from fmuc.errors import LONGEST, FmucError
from fmuc.features import read_audio
from fmuc.own import listing
from fmuc.paths import NOTEBOOKS, ROOT

quick = settings(max_examples=100, deadline=None,
                 suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


# --- damaged files ---


def test_every_reader_refuses_clearly_or_reads_right():
    report = fuzz.run(inputs=4400)
    print(report)
    assert not report.faults, report
    assert report.inputs == 4400 and len(report.outcomes) >= 20
    total = sum(report.outcomes.values(), Counter())
    assert total[fuzz.REFUSED] > 1000 and total[fuzz.RIGHT] > 300  # neither judge says always the same


def fail(error: BaseException) -> None:
    raise error


def spin() -> None:
    while True:
        pass


@pytest.mark.parametrize(("read", "outcome"), [
    (lambda: "right", fuzz.RIGHT), (lambda: fail(FmucError("a.json: is damaged: restore it")), fuzz.REFUSED),
    (lambda: "wrong", "wrong result"), (lambda: fail(FmucError("something is wrong")), "unclear error"),
    (lambda: fail(FmucError("a.json: Unable to allocate 8 TiB")), "unclear error"),
    (lambda: fail(ValueError("a.json: is damaged")), "ValueError"), (lambda: fail(MemoryError()), "MemoryError"),
    (spin, "more than 0.3 seconds"),
])
def test_the_fuzzer_sees_what_it_looks_for(tmp_path, monkeypatch, read, outcome):
    monkeypatch.setattr(fuzz, "SECONDS", 0.3)
    monkeypatch.setattr(fuzz, "_limit", lambda *_: None)  # of this process, which is no worker
    (tmp_path / "a.json").write_bytes(b"whole")
    target = fuzz.Target("reader", tmp_path, ("a.json",), read, lambda result: result == "right", (FmucError,),
                         mutate=lambda *_: b"damaged")
    found, what = fuzz.attempt(target, 0, 0)
    assert outcome == found or (found == fuzz.FAULT and outcome in what)
    assert (tmp_path / "a.json").read_bytes() == b"whole"


CRASHING = """
import json, os, sys
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    print(json.dumps([["one", "other"][number % 2], number]), flush=True)
    if number == 3:
        os.abort()
    print(json.dumps(["clear error", ""]), flush=True)
"""


def test_a_crash_is_a_fault_and_the_rest_goes_on(tmp_path, monkeypatch):
    (tmp_path / "worker.py").write_text(CRASHING)
    monkeypatch.setattr(fuzz, "__file__", str(tmp_path / "worker.py"))
    report = fuzz.run(inputs=8)
    assert report.outcomes == {"one": {fuzz.REFUSED: 4}, "other": {fuzz.REFUSED: 3, fuzz.FAULT: 1}}
    assert report.faults == ["other, number 3: the worker died: "]


# --- values of every kind ---

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner,
                                                                                       max_size=4), max_leaves=12)
SHARE = st.floats(1e-3, 0.5)
VIEWS = st.builds(View, SHARE, SHARE, st.floats(0, 5), st.floats(0, 5))
SELECTIONS = st.builds(Selection, st.sampled_from(["confidence", "mean_minus_std"]), st.floats(0.01, 0.99),
                       temperature=st.floats(0.1, 10), passes=st.integers(0, 9))
STAGES = st.lists(st.tuples(st.integers(1, 512), st.integers(1, 5)), min_size=1, max_size=5)
NETWORKS = st.builds(lambda stages, *others: Network(*zip(*stages, strict=True), *others), STAGES,
                     st.tuples(st.integers(1, 9), st.integers(1, 4)), st.booleans(), st.floats(0, 0.99))
RUNS = st.builds(
    Run, st.sampled_from(["nsynth", "my-birds", "tut2017"]), st.sampled_from(["FM", "FMUC w. temp. 4", ""]),
    st.integers(0, 2**32 - 1), st.builds(Features, st.integers(1, 2**15), st.integers(1, 2**14).map(lambda n: 2 * n),
                                         st.integers(1, 4), *(st.integers(1, 200) for _ in range(2))),
    st.floats(0.001, 1), SELECTIONS | st.none(), st.just("part"), st.builds(Augmentation, VIEWS, VIEWS), NETWORKS,
    st.builds(Training, *(st.integers(1, 500) for _ in range(2)), st.floats(1e-6, 1.0),
              *(st.integers(1, 500) for _ in range(3)), st.integers(0, 500), st.integers(1, 50)))


@quick
@given(RUNS)
def test_any_run_survives_its_file(run):
    again = run_from_dict(json.loads(json.dumps(asdict(run))))
    assert again == run and again.id == run.id and again.name == run.name
    assert "/" not in run.name and run.name.isprintable()


def places(content: object, path: tuple = ()) -> list[tuple]:
    """The keys that lead to every value within ``content``."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path, *(found for key, value in inner for found in places(value, (*path, key)))]


@quick
@given(RUNS, st.data(), JSON)
def test_any_value_in_the_place_of_another_is_named_or_makes_a_run(run, data, value):
    content = {"run": json.loads(json.dumps(asdict(run)))}
    *parents, last = data.draw(st.sampled_from(places(content)[1:]))
    part = content
    for key in parents:
        part = part[key]
    part[last] = value
    try:
        changed = run_from_dict(content["run"])
    except ConfigError as error:
        line = str(error)
        assert line.isprintable() and len(line) < 400
        named = [key for key in (*parents, last) if isinstance(key, str)]
        assert any(key in line for key in named[-2:]) or "selection" in line or "unlabelled_batch" in line
    else:
        assert run_from_dict(json.loads(json.dumps(asdict(changed)))).id == changed.id


@quick
@given(st.text(max_size=300) | st.text('a",\n\r\t\0;\ufeff', max_size=60))
def test_any_text_as_a_list_of_sounds(tmp_path, text):
    path = tmp_path / "list.csv"
    for header in ("", "path,label\n"):
        path.write_bytes(header.encode() + text.encode("utf-8", "surrogatepass"))
        try:
            files = listing.from_csv(path)
        except FmucError as error:
            line = str(error)
            assert "list.csv" in line and line.isprintable()
        else:
            assert files


@quick
@given(st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1),
       st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=64))
def test_any_wav_header(tmp_path, tag, channels, rate, byte_rate, align, bits, size, samples):
    form = struct.pack("<HHIIHH", tag, channels, rate, byte_rate, align, bits)
    content = b"WAVEfmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", size) + samples
    (tmp_path / "a.wav").write_bytes(b"RIFF" + struct.pack("<I", len(content)) + content)
    try:
        sound = read_audio(tmp_path / "a.wav", 16_000)
    except FmucError as error:
        line = str(error)
        assert "a.wav" in line and line.isprintable() and "llocate" not in line
    else:
        assert sound.ndim == 1 and 0 < sound.size < 10_000


@quick
@given(st.text(max_size=2000))
def test_an_error_is_one_readable_line(text):
    line = str(FmucError(text))
    assert line.isprintable() and len(line) <= 10 * LONGEST + 10
    assert line == text or not text.isprintable() or len(text) > LONGEST


# --- no pickle ---

FORBIDDEN = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "shelve", "marshal", "jsonpickle"}
CALLS = {"eval", "exec", "read_pickle", "to_pickle", "unsafe_load", "full_load", "joblib.load"}


def sources() -> dict[str, str]:
    """Code of the package and of the notebooks by file."""
    found = {str(path): path.read_text(encoding="utf-8") for path in sorted((ROOT / "fmuc").rglob("*.py"))}
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        found[path.name] = "\n".join(TransformerManager().transform_cell(cell) for cell in cells)
    return found


def unsafe(tree: ast.AST) -> list[str]:
    """What could run code from a file."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in FORBIDDEN]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in FORBIDDEN:
            found.append(node.module)
        elif isinstance(node, ast.ImportFrom) and node.module == "joblib":
            found += [alias.name for alias in node.names if alias.name == "load"]
        elif isinstance(node, ast.Call):
            function = ast.unparse(node.func)
            name = function.rpartition(".")[2]
            given = {keyword.arg: getattr(keyword.value, "value", None) for keyword in node.keywords}
            method = name in ("eval", "exec") and "." in function  # net.eval()
            if ({name, function} & CALLS and not method) or given.get("allow_pickle") not in (None, False) or (
                    function == "torch.load" and given.get("weights_only") is not True):
                found.append(function)
    return found


def test_the_package_and_the_notebooks_unpickle_nothing():
    found = {name: unsafe(ast.parse(source)) for name, source in sources().items()}
    assert not {name: calls for name, calls in found.items() if calls}


@pytest.mark.parametrize("code", [
    "import pickle", "from joblib import load", "import numpy as np\nnp.load(p, allow_pickle=True)", "torch.load(p)",
    "torch.load(p, weights_only=False)", "pd.read_pickle(p)", "eval(text)", "joblib.load(p)",
])
def test_the_search_for_pickle_finds_it(code):
    assert unsafe(ast.parse(code))
    assert not unsafe(ast.parse("np.load(p)\ntorch.load(p, weights_only=True)\nnet.eval()\nast.literal_eval(text)"))
