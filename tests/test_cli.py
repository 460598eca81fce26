"""The command line: exit statuses, one line for what a user can mend, JSON where a program reads it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer

from fmuc import __main__ as cli
from fmuc import paths
from fmuc.experiments import VARIANTS, choose_runs, make_run, plan
from fmuc.machinery import fetch
from fmuc.machinery.atomic import write_json
from fmuc.records import sealed
from fmuc.standins.render import STAND_INS

SMOKE = ("--profile", "smoke")
NOTES = ("--dataset", "nsynth-gm-smoke")
ROOT = typer.main.get_command(cli.app)
COMMANDS = [(name,) for name in ROOT.commands if name != "data"] + [
    ("data", name) for name in ROOT.commands["data"].commands]


def run(*arguments: str) -> int:
    """Exit status of a command in this process."""
    with pytest.raises(SystemExit) as caught:
        cli.main(list(arguments))
    return caught.value.code or 0


def failing(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The one line that a command with bad input prints before it ends with status 1."""
    assert run(*arguments) == 1
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line and not re.search(r"\d+%\||it/s", line)]  # not the bars
    assert printed.out == "" and len(lines) == 1 and lines[0].startswith("fmuc: "), printed
    return lines[0]


# Usage


@pytest.mark.parametrize("arguments", [
    (), ("dance",), ("train", "--sead", "1"), ("train", "--seed", "-1"), ("notebooks", "--source", "memory"),
    ("data", "folder", "here"), ("data", "nsynth-gm", "--seed", "4294967296")])
def test_wrong_usage_ends_with_2(capsys, arguments):
    assert run(*arguments) == 2
    assert "Usage: python -m fmuc" in capsys.readouterr().err


def parsed(example: str) -> dict:
    """The parameters of a command, which is not run."""
    command, words = ROOT, shlex.split(example)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    return command.make_context(command.name, words).params


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_every_command_has_json_and_examples_that_can_be_given(capsys, names):
    assert run(*names, "--help") == 0
    text = capsys.readouterr().out
    assert "--json " in text
    examples = re.findall(r"^ +python -m fmuc (.+)$", text, re.M)
    assert examples and all(example.split()[: len(names)] == list(names) for example in examples)
    for example in examples:
        assert parsed(example).get("variant") in (None, *VARIANTS)


def test_help_imports_nothing_heavy():
    code = ("import sys\nfrom fmuc.__main__ import main\ntry:\n    main(['train', '--help'])\nfinally:\n"
            "    print(sorted({'torch', 'numba', 'pandas', 'matplotlib', 'rich'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], cwd=paths.ROOT, text=True, capture_output=True, check=False)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_names_of_the_command_line_are_those_of_the_modules():
    assert tuple(cli.STAND_INS) == STAND_INS
    assert cli.PUBLISHED.keys() == fetch.SOURCES.keys()
    for name, source in fetch.SOURCES.items():
        assert f"({', '.join(part.name for part in source.parts)})" in cli.PUBLISHED[name]


# Bad input


@pytest.mark.parametrize("command", ["features", "train", "plan", "compare", "notebooks", "reproduce"])
def test_unknown_profile_and_data_set(capsys, data_root, command):
    assert re.search("unknown profile 'maxi'.*smoke, mini, .*paper", failing(capsys, command, "--profile", "maxi"))
    assert re.search("no data set 'esc50'.*nsynth-gm-smoke", failing(capsys, command, *SMOKE, "--dataset", "esc50"))


@pytest.mark.parametrize(("arguments", "named"), [
    (("train", "--variant", "Mix\0Match"), "unknown variant .Mix"),
    (("train", "--variant", "MixMatch"), "unknown variant 'MixMatch'.*FMUC two thresh."),
    (("train", "--variant", "FM", "--device", "cuda:99"), "cuda:99"),
    (("train", "--set", "selection.passes=9"), "which row.*--variant"),
    (("train", "--variant", "FM", "--set", "selection"), "KEY=VALUE"),
    (("train", "--variant", "FM", "--set", "selection.pases=9"), "selection.pases.*known are.*passes"),
    (("train", "--variant", "FM", "--set", "training.epochs=1", "--name", "FMUC"), "'FMUC' is a row of the tables"),
])
def test_impossible_options_are_named(capsys, trainable, arguments, named):
    assert re.search(named, failing(capsys, *arguments, *SMOKE))


@pytest.mark.parametrize(("content", "named"), [
    ('rwo = "FM"', 'row = "FMUC" in the TOML file'), ("row = ", "Invalid value"),
    ('row = "FM"\nsed = 1', "unknown setting 'sed': known are .*seed"), ("profile = ['smoke']", "profile: .*string"),
    ('row = "FM"\n[training]\nepoch = 3', "training.epoch'.*known are.*epochs"), ("\xff", "codec"),
    (None, "No such file"),
])
def test_what_is_wrong_in_a_file_of_settings(capsys, trainable, content, named):
    file = trainable / "my.toml"
    if content is not None:
        file.write_text(content, encoding="latin-1")
    assert re.search(named, failing(capsys, "train", "--config", str(file)))


def test_no_data_is_one_line(capsys, data_root):
    assert re.search("'python -m fmuc data fsdd'", failing(capsys, "features", *SMOKE))


# Folders and environments


@pytest.mark.parametrize(("arguments", "variable", "place"), [
    (("features",), "FMUC_DATA", "file/folder"), (("train",), "FMUC_DATA", "file/folder"),
    (("data", "nsynth-gm-smoke"), "FMUC_DATA", "/proc/folder"), (("figures",), "FMUC_FIGURES", "file/folder"),
    (("reproduce",), "FMUC_FIGURES", "file/folder")])
def test_a_folder_that_cannot_be_written_is_refused_first(capsys, data_root, monkeypatch, arguments, variable, place):
    (data_root / "file").touch()
    monkeypatch.setenv(variable, str(data_root / place))
    assert re.search(f"{place}.*: cannot be written.*{variable}", failing(capsys, *arguments))


@pytest.mark.parametrize(("value", "expected"), [
    (" ", paths.ROOT / "data"), ("my data", paths.ROOT / "my data"), ("/elsewhere", Path("/elsewhere")),
    ("~/data", Path("~/data").expanduser()), ("~nobody-at-all/data", paths.ROOT / "~nobody-at-all/data")])
def test_the_data_folder_does_not_depend_on_where_a_process_is_started(monkeypatch, tmp_path, value, expected):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FMUC_DATA", value)
    assert paths.data_root() == expected


def test_an_installed_package_writes_nothing_beside_itself_and_reproduces_nothing(tmp_path):
    shutil.copytree(paths.ROOT / "fmuc", tmp_path / "site" / "fmuc", ignore=shutil.ignore_patterns("__pycache__"))
    variables = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "HOME": str(tmp_path), "XDG_DATA_HOME": ""}
    variables = {name: value for name, value in variables.items() if not name.startswith("FMUC_")}
    code = "from fmuc import paths; print(paths.data_root(), paths.figures_dir('mini'), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, text=True, capture_output=True, check=True,
                          env=variables)
    folders = done.stdout.splitlines()
    assert len(folders) == 2 and str(tmp_path / "site") not in done.stdout
    done = subprocess.run([sys.executable, "-m", "fmuc", "reproduce", "--profile", "smoke"], cwd=tmp_path, text=True,
                          capture_output=True, check=False, env=variables)
    assert done.returncode == 1 and "run this from a whole checkout" in done.stderr
    assert not any(os.path.exists(folder) for folder in folders)


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="root may write everywhere; setpriv takes that from it")
def test_numba_finds_a_cache_below_the_data_where_checkout_and_home_are_read_only(tmp_path):
    shutil.copytree(paths.ROOT / "fmuc", tmp_path / "checkout" / "fmuc", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "home").mkdir()
    for folder in (tmp_path / "home", tmp_path / "checkout" / "fmuc" / "fast"):
        folder.chmod(0o555)
    rights = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search"]
    code = "from fmuc import __main__ as cli; cli._place_numba_cache(); import fmuc.fast.kernels"
    variables = {**os.environ, "HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path / "checkout"),
                 "XDG_CACHE_HOME": "", "FMUC_DATA": str(tmp_path / "data")}
    done = subprocess.run([*(rights if os.geteuid() == 0 else ()), sys.executable, "-c", code],
                          cwd=tmp_path, env=variables, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data" / ".numba").is_dir()


def test_a_terminal_without_our_signs(tmp_path):
    variables = {**os.environ, "FMUC_DATA": str(tmp_path), "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run([sys.executable, "-m", "fmuc", "compare"], cwd=paths.ROOT, env=variables, capture_output=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    assert b"FMUC" in done.stdout


# Output


def test_features_as_json(capsys, trainable):
    assert run("features", *SMOKE, *NOTES, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["dataset"], result["patches"], result["shape"]) == ("nsynth-gm-smoke", 36, [32, 32])


def test_the_check_of_a_data_set_as_json_says_whether_it_failed(capsys, trainable):
    assert run("data", "check", "nsynth-gm-smoke", "--json") == 1  # its splits share sounds
    assert json.loads(capsys.readouterr().out)["failed"] is True


def test_plan_train_plan(capsys, trainable):
    command = ["train", *SMOKE, *NOTES, "--variant", "Labelled part only", "--device", "cpu", "--json"]
    assert run(*command) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert 0 <= result["test_accuracy"] <= 1 and result["test_files"] == 9
    assert "Labelled part only, seed 0: loss" in printed.err and "test " in printed.err  # the bar
    assert run("plan", *SMOKE, *NOTES, "--json", "--no-timing") == 0
    rows = json.loads(capsys.readouterr().out)["runs"]
    assert len(rows) == 14 and [row["run"] for row in rows if row["state"] == "done"] == [result["run"]]
    change_code(paths.runs_dir("smoke") / result["run"])
    assert run(*command) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == result and "1 runs were trained by another version of the code" in printed.err
    assert run(*command, "--force") == 0
    assert re.search("asked to train it again; the old files are kept in .*replaced", capsys.readouterr().err)
    (trainable / "features").unlink()
    assert run("plan", *SMOKE, *NOTES, "--workers", "1") == 0
    text = capsys.readouterr().out
    cost = re.search(r"13 runs to train: ([\d,]+) steps, about (\S+) minutes with 1 at a time, (\S+) GB", text)
    # 13 runs of 12 steps; warm starts of 100 with part of the labels and with all of them, for both seeds
    assert cost[1] == "556" and 0 <= float(cost[2]) < 60 and float(cost[3]) > 0.1
    assert text.count("missing") == 13 and len(re.findall(r"^unchecked .* 4 epochs ", text, re.M)) == 1
    assert run(*command) == 0
    assert "used as they are" in capsys.readouterr().err


def change_code(folder: Path) -> None:
    """Let a record name another version of the code."""
    content = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    content["provenance"]["code"] = "older"
    write_json(folder / "run.json", sealed(content, folder))


def test_a_row_with_settings_of_ones_own(trainable):
    """The options win over the file."""
    file = trainable / "my.toml"
    file.write_text('profile = "smoke"\nrow = "FM"\nname = "mine"\nseed = 3\n[selection]\nthreshold = 0.8\n'
                    "[training]\nepochs = 2\n[augmentation.strong]\nnoise = 0.1\n", encoding="utf-8")
    _, (changed,) = choose_runs({"seed": 4}, file, ["training.epochs=1"])
    assert (changed.variant, changed.seed, changed.selection.threshold) == ("mine", 4, 0.8)
    assert (changed.training.epochs, changed.augmentation.strong.noise) == (1, 0.1)


def test_the_name_of_a_changed_row_says_what_changed_and_nothing_else_does():
    options = {"profile": "smoke", "row": "FMUC"}
    _, (changed,) = choose_runs(options, settings=["selection.passes=20", "training.precision=float32"])
    plain = make_run("smoke", "fsdd-smoke", "FMUC")
    assert changed == replace(
        plain, variant="FMUC, selection.passes=20, training.precision=float32",
        selection=replace(plain.selection, passes=20), training=replace(plain.training, precision="float32"))
    assert choose_runs(options) == ("smoke", [plain])
    assert choose_runs({}) == ("mini", plan("mini"))
