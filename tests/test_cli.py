from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import note_names, write_nsynth_split

from fmuc import __main__ as cli
from fmuc import data_commands, datasets, experiments, paths, train
from fmuc import fetch as sources
from fmuc import parallel as schedule
from fmuc.__main__ import main
from fmuc.experiments import make_run

SMOKE = ("--profile", "smoke")


def failing(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The one line that a command with bad input prints before it ends with status 1."""
    assert main(list(arguments)) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if line and not re.search(r"\d+%|it/s", line)]  # not the bars
    assert len(lines) == 1 and lines[0].startswith("fmuc: "), printed.err
    return lines[0]


# Wrong usage


@pytest.mark.parametrize("arguments", [
    (), ("dance",), ("train", "--sead", "1"), ("train", "--seed", "one"), ("compare", "--source", "memory"),
    ("data", "nsynth-piano"), ("data", "folder", "here"), ("data", "nsynth", "--parts", "some"),
    ("features", "--workers", "many"), ("notebooks", "-p", "seed"), ("notebooks", "-p", "=3"),
])
def test_wrong_usage_ends_with_2(capsys, arguments):
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert caught.value.code == 2
    assert "usage: python -m fmuc" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["features", "train", "plan", "compare", "notebooks", "reproduce", "figures",
                                     "predict", "bench", "verify", "doctor", "watch"])
def test_every_command_has_help_and_json(capsys, command):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "--json " in printed and ("--profile" in printed) == (command not in ("predict", "bench"))


@pytest.mark.parametrize("name", [*datasets.STAND_INS, *sources.SOURCES, "folder", "check"])
def test_every_kind_of_data_has_help_and_json(capsys, name):
    with pytest.raises(SystemExit) as caught:
        main(["data", name, "--help"])
    assert caught.value.code == 0
    assert "--json " in capsys.readouterr().out


def parsers(parser: argparse.ArgumentParser, *names: str) -> dict[tuple[str, ...], argparse.ArgumentParser]:
    """A parser and all below it, by the words that lead there."""
    found = {names: parser}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                found |= parsers(child, *names, name)
    return found


ALL = parsers(cli._parser())


@pytest.mark.parametrize("names", ALL, ids=" ".join)
def test_every_help_has_examples_that_can_be_given(names):
    text = ALL[names].format_help()
    head, _, end = text.partition("examples:\n")
    examples = re.findall(r"^  python -m fmuc (.+)$", end, re.M)
    assert examples and any(example.split()[: len(names)] == list(names) for example in examples)
    for example in examples:
        args = cli._parser().parse_args(shlex.split(example, comments=True))
        cli._require_sense(args)
        assert callable(args.function)
        if getattr(args, "variant", None):
            assert make_run(args.profile, next(iter(experiments.presets(args.profile))), args.variant).variant


def test_all_commands_are_there():
    names = {names[0] for names in ALL if len(names) == 1}
    assert names == {"data", *cli.EXAMPLES} and {names[1] for names in ALL if len(names) == 2} == {
        *data_commands.EXAMPLES}


def test_the_main_help_says_what_the_exit_status_means():
    text = ALL[()].format_help()
    assert re.findall(r"^  (\d+) +\S", text.partition("exit status:\n")[2], re.M) == ["0", "1", "2", "130"]


def test_the_names_of_the_command_line_are_those_of_the_modules():
    assert tuple(data_commands.STAND_INS) == datasets.STAND_INS
    assert {name: parts for name, (_, parts) in data_commands.PUBLISHED.items()} == {
        name: tuple(part.name for part in source.parts) for name, source in sources.SOURCES.items()}


# Bad input


@pytest.mark.parametrize("command", ["features", "train", "plan", "compare", "notebooks", "figures", "reproduce"])
def test_unknown_profile(capsys, data_root, monkeypatch, command):
    monkeypatch.setattr(paths, "FIGURES", data_root / "figures")
    assert re.search("unknown profile 'maxi'.*smoke, mini, paper", failing(capsys, command, "--profile", "maxi"))


@pytest.mark.parametrize("arguments", [
    ("features", "--workers", "0"), ("data", "check", "nsynth", "--workers", "-1"), ("notebooks", "--workers", "0"),
    ("train", "--seed", "-1"), ("data", "nsynth-gm", "--seed", "4294967296"),
])
def test_numbers_without_a_meaning(capsys, data_root, arguments):
    assert re.search("--workers must be at least 1|--seed must be a whole number", failing(capsys, *arguments))


def test_a_mistake_of_the_program_is_not_blamed_on_the_input(monkeypatch):
    monkeypatch.setattr(cli, "_compare", lambda args: int("x"))
    with pytest.raises(ValueError, match="invalid literal"):
        main(["compare"])


def test_unknown_variant(capsys, data_root):
    line = failing(capsys, "train", *SMOKE, "--variant", "FlexMatch")
    assert "unknown variant 'FlexMatch'" in line and "FMUC two thresh." in line


@pytest.mark.parametrize("command", ["features", "train", "plan"])
def test_unknown_data_set(capsys, data_root, command):
    assert re.search("no data set 'esc50'.*nsynth-gm-smoke", failing(capsys, command, *SMOKE, "--dataset", "esc50"))


@pytest.mark.parametrize("arguments", [("features",), ("train", "--variant", "FM")])
def test_no_data(capsys, data_root, arguments):
    line = failing(capsys, *arguments, *SMOKE)
    assert "nsynth-gm-smoke" in line and "python -m fmuc data" in line


def test_no_features(capsys, trainable):
    (trainable / "features").unlink()
    assert "python -m fmuc features" in failing(capsys, "train", *SMOKE, "--variant", "FM", "--device", "cpu")


def test_no_records(capsys, data_root):
    assert "no run records" in failing(capsys, "compare", *SMOKE)


@pytest.fixture
def fresh(data_root: Path) -> Path:
    """Sound of the data set of the profile smoke without features."""
    for split in ("train", "test"):
        write_nsynth_split(data_root / "nsynth-gm-smoke", split, note_names(split, 2))
    return data_root / "nsynth-gm-smoke"


def test_missing_sound_file(capsys, fresh):
    path = min((fresh / "nsynth-train" / "audio").iterdir())
    path.unlink()
    assert path.name in failing(capsys, "features", *SMOKE, "--workers", "1")


@pytest.mark.parametrize("content", [b"", b"RIFF....WAVE", b"<html>not found</html>"])
def test_unreadable_sound_file(capsys, fresh, content):
    path = min((fresh / "nsynth-test" / "audio").iterdir())
    path.write_bytes(content)
    line = failing(capsys, "features", *SMOKE, "--workers", "1")
    assert path.name in line and "cannot be read as sound" in line
    assert not any((fresh.parent / "features").glob("*"))


@pytest.mark.parametrize(("arguments", "named"), [
    (("train", "--variant", "FM", "--device", "gpu"), "gpu"),
    (("train", "--variant", "FM", "--device", "cuda:99"), "cuda:99"),
    (("train", "--variant", "FM", "--seed", "-1"), "seed"),
])
def test_impossible_options_are_named(capsys, trainable, arguments, named):
    assert named in failing(capsys, *arguments, *SMOKE)


def test_unknown_parameter_of_a_notebook(capsys, data_root):
    line = failing(capsys, "notebooks", *SMOKE, "-p", "epocs=3")
    assert "epocs" in line


def test_a_damaged_checkpoint(capsys, trainable):
    folder = paths.runs_dir("smoke") / make_run("smoke", "nsynth-gm-smoke", "FM").name
    folder.mkdir(parents=True)
    (folder / "checkpoint.safetensors").write_bytes(b"damaged")
    assert "checkpoint.safetensors" in failing(capsys, "train", *SMOKE, "--variant", "FM", "--device", "cpu")


def test_a_failed_run_of_a_plan(capsys, trainable, monkeypatch):
    monkeypatch.setattr(schedule, "train_plan", lambda *_, **__: [schedule.Failure("run-a", "no space left")])
    line = failing(capsys, "train", *SMOKE)
    assert "run-a" in line and "no space left" in line


def test_interrupt(capsys, monkeypatch):
    monkeypatch.setattr(cli.experiments, "plan", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["plan"]) == 130
    assert "goes on from here" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_in_the_shell_ends_with_130(tmp_path):
    """The whole way, by the command that waits longest: nobody trains, so that it would watch for ever."""
    environment = {**os.environ, "FMUC_DATA": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-m", "fmuc", "watch", *SMOKE, "--every", "0.1"], cwd=paths.ROOT,
                               env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout.readline().startswith("0 of 28 runs finished, 0 begun")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "fmuc: interrupted; the same command goes on from here" and "Trace" not in errors
    assert [path.name for path in (tmp_path / "runs" / "smoke").iterdir()] == ["progress.png"]


def test_no_traceback_in_a_process_of_its_own(tmp_path):
    """The whole way: from the shell to the exit status."""
    environment = {**os.environ, "FMUC_DATA": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "fmuc", "features", *SMOKE], cwd=paths.ROOT, env=environment,
                          text=True, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("fmuc: ") and done.stderr.count("\n") == 1


# Output


def test_plan_as_json_and_as_a_table(capsys, data_root):
    assert main(["plan", *SMOKE, "--no-forecast", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    rows = plan["runs"]
    assert len(rows) == 28 and {row["dataset"] for row in rows} == {"nsynth-gm-smoke", "scenes-sim-smoke"}
    assert {row["finished"] for row in rows} == {False} and plan["measured"] is None
    assert {row["steps"] for row in rows} == {12} and {row["variant"] for row in rows} >= {"FM", "FMUC w. temp. 4"}
    assert main(["plan", *SMOKE, "--no-forecast"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Profile smoke: 28 runs, 0 finished;") and "No forecast" in text


def test_a_plan_with_a_forecast(capsys, data_root):
    """From the command to the measuring process and back; the seconds themselves are anybody's."""
    assert main(["plan", *SMOKE, "--dataset", "nsynth-gm-smoke", "--workers", "1", "--device", "cpu", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["measured"]
    assert {step["passes"] for step in measured["steps"]} == {None, 0, 5}
    assert measured["workers"] == 1 and 0 < measured["hours"] == measured["hours_left"]


def test_watch_once(capsys, data_root, tmp_path):
    picture = tmp_path / "now.png"
    assert main(["watch", *SMOKE, "--dataset", "nsynth-gm-smoke", "--once", "--json", "--output", str(picture)]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert result["file"] == str(picture) and picture.read_bytes().startswith(b"\x89PNG")
    assert len(result["progress"]) == 14 and {row["epoch"] for row in result["progress"]} == {0}
    assert printed.err.startswith("0 of 14 runs finished, 0 begun, 0% of the epochs")


def test_features_as_json(capsys, trainable):
    assert main(["features", *SMOKE, "--dataset", "nsynth-gm-smoke", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["dataset"], result["patches"], result["shape"]) == ("nsynth-gm-smoke", 36, [32, 32])


def test_train_one_run_then_find_it_finished(capsys, trainable):
    command = ["train", *SMOKE, "--variant", "Labelled part only", "--device", "cpu"]
    assert main([*command, "--json-lines"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4] and "loss" in lines[0]["text"]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert 0 <= result["test_accuracy"] <= 1 and result["test_files"] == 9
    assert main(["plan", *SMOKE, "--no-forecast", "--json"]) == 0
    finished = [row["run"] for row in json.loads(capsys.readouterr().out)["runs"] if row["finished"]]
    assert finished == [result["run"]]


def test_a_row_in_words():
    row = {"loss_labelled": 0.5, "loss_unlabelled": 0.25, "quality": 0.8, "quantity": 0.5, "test_accuracy": 0.7}
    assert train.describe(row) == "loss 0.750, quality 80.0%, quantity 50.0%, test 70.0%"
    nothing = {"loss_labelled": 0.5, "loss_unlabelled": 0.0, "quality": float("nan"), "quantity": 0.0}
    assert train.describe(nothing) == "loss 0.500, quality –, quantity 0.0%"
    assert train.describe(nothing | {"quantity": float("nan")}) == "loss 0.500"
