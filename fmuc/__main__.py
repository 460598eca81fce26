"""The command line: ``python -m fmuc COMMAND``. Heavy modules are imported in the commands, so that help is quick."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Literal

import typer
from typer.core import TyperGroup

from fmuc import experiments, paths
from fmuc.config import Run
from fmuc.errors import FmucError

STAND_INS = {  # names without the modules that know them
    "nsynth-gm": "notes from General-MIDI SoundFonts, in NSynth's layout: 0.8 GB, 2 minutes",
    "nsynth-gm-smoke": "a few notes, for tests",
    "scenes-sim": "simulated acoustic scenes, in TUT2017's layout: 1.6 GB, 2 minutes",
    "scenes-sim-smoke": "a few scenes, for tests",
}
PUBLISHED = {
    "fsdd": "Free Spoken Digit Dataset (recordings), real speech: 16 MB to download, 21 MB unpacked",
    "nsynth": "NSynth (train, valid, test): 25 GB to download, 40 GB unpacked",
    "tut2017": "TUT Acoustic Scenes 2017 (development, evaluation): 14 GB to download, 17 GB unpacked",
}
FREE = ("fsdd", "fsdd-smoke")  # fetched by `reproduce`, which goes on without them where they cannot be had
LARGEST_SEED = 2**32 - 1

Option = typer.Option
Profile = Annotated[str, Option(metavar="NAME", help="smoke, mini, long, beyond or paper")]
Dataset = Annotated[str | None, Option(metavar="NAME", help="one of the profile (default: all), or your own")]
Source = Annotated[Literal["runs", "shipped"], Option(help="trained here, or records of the repository")]
Workers = Annotated[int | None, Option(min=1, help="processes at a time (default: one per core)")]
Seed = Annotated[int, Option(min=0, max=LARGEST_SEED)]
Device = Annotated[str, Option(help="auto, cpu, cuda, cuda:1, ...")]
Scheduler = Annotated[str | None, Option(metavar="ADDRESS", help="train on a Dask cluster: its address or file")]
Force = Annotated[bool, Option("--force", help="make it again although it is there")]
Json = Annotated[bool, Option("--json", help="print the result as JSON")]


class Commands(TyperGroup):
    """Turns what a user can mend into one line on stderr and an exit status."""

    def invoke(self, ctx: typer.Context) -> object:
        try:
            return super().invoke(ctx)
        except FmucError as error:
            problem, status = str(error), 1
        except KeyboardInterrupt:
            problem, status = "interrupted; the same command goes on from here", 130
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            problem, status = f"{error.filename or 'output'}: {error.strerror}: make room or change its access", 1
        print(f"fmuc: {problem}", file=sys.stderr)
        raise typer.Exit(status)


def examples(*commands: str) -> str:
    """The lines of a help text that show commands."""
    return "\n".join(["\b", "Examples:", *(f"  python -m fmuc {command}" for command in commands)])


EXIT_STATUS = """\b
Exit status:
  0    done
  1    bad input or a failed run; one line on stderr says which
  2    wrong usage: no such command or option
  130  interrupted by Ctrl-C; the same command goes on from there"""
PLAIN = {"rich_markup_mode": None, "pretty_exceptions_enable": False, "add_completion": False}
app = typer.Typer(**PLAIN, cls=Commands, help="FixMatch with uncertainty for audio: data, training, results.",
                  epilog=f"{examples('reproduce', 'compare')}\n\n{EXIT_STATUS}")
data = typer.Typer(**PLAIN, help="Make, fetch, import or check a data set.",
                   epilog=examples("data nsynth-gm", "data folder ~/birds --name birds"))
app.add_typer(data, name="data")


def _show(result: dict, as_json: bool) -> None:
    def text(value: object) -> str:
        return " ".join(f"{part} {n}" for part, n in value.items()) if isinstance(value, dict) else str(value)

    lines = [f"{key.replace('_', ' ')}: {text(value) or 'none'}" for key, value in result.items()]
    print(json.dumps(result) if as_json else ", ".join(lines))


def _require_writable(*folders: Path) -> None:
    """Make the folders; refuse one that cannot be written before hours of work."""
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=folder).close()
        except OSError:
            raise FmucError(f"{folder}: cannot be written: move data with FMUC_DATA, figures with FMUC_FIGURES"
                            ) from None


def stand_in(
    command: typer.Context, seed: Seed = 0, workers: Workers = None, force: Force = False, as_json: Json = False,
) -> None:
    """Render the stand-in whose name the command has."""
    from fmuc.datasets import SPLITS
    from fmuc.standins.render import render

    _require_writable(paths.data_root())
    name = command.info_name
    dataset = render(name, seed=seed, workers=workers, force=force)
    _show({"dataset": f"{name} (stand-in)", "folder": paths.relative(paths.dataset_dir(name)),
           "clips": {split: len(dataset.indices(split)) for split in SPLITS}}, as_json)


def published(
    command: typer.Context,
    part: Annotated[list[str] | None, Option(help="only this part (repeatable)")] = None,
    archives_from: Annotated[Path | None, Option("--from", help="take the archives from this folder")] = None,
    accept_licence: Annotated[bool, Option("--accept-licence", help="you have read it and agree")] = False,
    as_json: Json = False,
) -> None:
    """Fetch the published data set whose name the command has."""
    from fmuc.machinery import fetch

    _require_writable(paths.data_root())
    source, out = fetch.SOURCES[command.info_name], paths.dataset_dir(command.info_name)
    print(source.notice, file=sys.stderr)
    if source.confirm and not accept_licence and not (
            sys.stdin.isatty() and typer.confirm("Do you accept the licence?", err=True)):
        raise FmucError("the licence must be accepted: read it and add --accept-licence")
    obtained = fetch.obtain(source, out, parts=part, archives_from=archives_from)
    _show({"dataset": source.name, "folder": paths.relative(out), "obtained": ", ".join(obtained) or "nothing new"},
          as_json)


for _name, _text in STAND_INS.items():
    _help = {"help": f"Render {_text}.", "epilog": examples(f"data {_name}", f"data {_name} --workers 2")}
    data.command(_name, **_help)(stand_in)
for _name, _text in PUBLISHED.items():
    _help = {"help": _text, "epilog": examples(f"data {_name} --accept-licence", f"data {_name} --from ~/dl")}
    data.command(_name, **_help)(published)


@data.command("folder", epilog=examples("data folder ~/birds --name birds",
                                        "data folder clips.csv --name bats --labelled-share 0.1 --sample-rate 96000"))
def import_folder(
    path: Annotated[Path, typer.Argument(help="a folder with a folder per class, one called 'unlabelled' for files of "
                                         "unknown class; or a CSV file with path and maybe label, group, split")],
    name: Annotated[str, Option(help="what to call it: lower-case letters, digits, hyphens")],
    seed: Seed = 0,
    test_share: Annotated[float, Option(min=0, max=0.5, help="share of the files held out for the test")] = 0.2,
    valid_share: Annotated[float, Option(min=0, max=0.4, help="share of the files held out for validation")] = 0.1,
    labelled_share: Annotated[float | None, Option(min=0.001, max=1, help="part of the training labels to use "
                                                   "(default: all if there are unlabelled files, else 0.2)")] = None,
    group_pattern: Annotated[str | None, Option(metavar="REGEX", help="its one capture group names what a path belongs "
                                                "to; groups stay together (default: sub-folders)")] = None,
    sample_rate: Annotated[int | None, Option(min=1000, max=400_000, help="in Hz (default: from the files)")] = None,
    patch_seconds: Annotated[float | None, Option(min=0.05, max=60,
                                                  help="length of a patch (default: from the files)")] = None,
    skip_unreadable: Annotated[bool, Option("--skip-unreadable", help="list bad files and leave them out")] = False,
    force: Force = False, as_json: Json = False,
) -> None:
    """Import your own audio; the files stay where they are."""
    from fmuc.own.importing import import_audio

    _require_writable(paths.data_root())
    report = import_audio(
        path, name, seed=seed, test_share=test_share, valid_share=valid_share, labelled_share=labelled_share,
        group_pattern=group_pattern, sample_rate=sample_rate, patch_seconds=patch_seconds,
        skip_unreadable=skip_unreadable, force=force)
    _show(asdict(report), as_json)


@data.command("check", epilog=examples("data check scenes-sim", "data check birds --json"))
def check_dataset(name: Annotated[str, typer.Argument(help="any data set that is there, your own too")],
                  workers: Workers = None, as_json: Json = False) -> None:
    """Report duplicates, damaged files and leaks; exit status 1 for errors."""
    from fmuc import datasets
    from fmuc.own.check import check, format_report

    report = check(datasets.load(name), workers=workers)
    print(json.dumps(asdict(report) | {"failed": report.failed}, indent=1) if as_json else format_report(report))
    if report.failed:
        raise FmucError(f"{name}: the report names errors that make results wrong")


@app.command(epilog=examples("features", "features --dataset birds --workers 2"))
def features(profile: Profile = "mini", dataset: Dataset = None, workers: Workers = None,
             as_json: Json = False) -> None:
    """Extract log-Mel patches."""
    from fmuc import datasets
    from fmuc.features import extract

    _require_writable(paths.data_root())
    for name, preset in experiments.chosen(profile, dataset).items():
        cache = extract(datasets.load(name), preset.features, workers=workers)
        _show({"dataset": name, "patches": len(cache.patches), "shape": list(cache.patches.shape[1:]),
               "megabytes": round(cache.patches.nbytes / 1e6, 1)}, as_json)


@app.command(epilog=examples("plan", "plan --profile paper --json"))
def plan(profile: Profile = "mini", dataset: Dataset = None, device: Device = "auto", workers: Workers = None,
         timing: Annotated[bool, Option("--timing/--no-timing", help="time a few steps for the cost")] = True,
         as_json: Json = False) -> None:
    """List the plan's runs and what the missing ones cost here.

    A run is missing, done, stale (the data changed) or unchecked (done, but the data are gone).
    """
    from fmuc.machinery.costs import estimate
    from fmuc.machinery.parallel import states

    runs = experiments.plan(profile, dataset)
    found = states(runs, profile)
    rows = [{"run": run.name, "variant": run.variant, "seed": run.seed, "epochs": run.training.epochs, "state": state}
            for run, state in zip(runs, found, strict=True)]
    if not as_json:
        print("\n".join("{state:<9} {epochs:>4} epochs  {run}".format(**row) for row in rows), flush=True)
    todo = [run for run, state in zip(runs, found, strict=True) if state in ("missing", "stale")]
    cost = estimate(todo, device, workers) if todo and timing else None
    if as_json:
        print(json.dumps({"runs": rows, "cost": cost}, indent=1))
    elif cost:
        print(_forecast(todo, cost))


def _forecast(todo: list[Run], cost: dict[str, float]) -> str:
    duration = f"{60 * cost['hours']:.0f} minutes" if cost["hours"] < 2 else f"{cost['hours']:.2g} hours"
    return (f"{len(todo)} runs to train: {cost['steps']:,} steps, about {duration} with {cost['workers']} at a time, "
            f"{cost['memory_gb']:.1f} GB of memory, {cost['disk_gb']:.1f} GB of disk for features and runs")


@app.command(epilog=examples("train", "train --variant FMUC --seed 1",
                             "train --variant FMUC --set selection.passes=20 --set training.epochs=5",
                             "train --config my.toml", "train --profile paper --scheduler tcp://10.0.0.1:8786"))
def train(
    profile: Annotated[str | None, Option(metavar="NAME", help="smoke, mini (default), long, beyond or paper")] = None,
    dataset: Dataset = None,
    variant: Annotated[str | None, Option(metavar="ROW", help="a row of the tables (default: the whole plan)")] = None,
    seed: Annotated[int | None, Option(min=0, max=LARGEST_SEED, help="of one run (default: 0)")] = None,
    config: Annotated[Path | None, Option(help="TOML with profile, dataset, row, name, seed and tables such as "
                                          "[selection] and [training]; options win")] = None,
    settings: Annotated[list[str] | None, Option("--set", metavar="KEY=VALUE", help="change it (repeatable)")] = None,
    name: Annotated[str | None, Option(help="the changed row's name in tables (default: the changes)")] = None,
    device: Device = "auto", workers: Workers = None, scheduler: Scheduler = None, force: Force = False,
    as_json: Json = False,
) -> None:
    """Train the plan, one row, or a row with settings of your own."""
    from fmuc.records import load_record

    options = {"profile": profile, "dataset": dataset, "row": variant, "name": name, "seed": seed}
    profile, runs = experiments.choose_runs(options, config, settings or ())
    _require_writable(paths.data_root())
    trained, folder = _train_all(runs, profile, device, workers, scheduler, force), paths.runs_dir(profile)
    if len(runs) > 1:
        return _show({"runs": len(runs), "trained": trained, "folder": paths.relative(folder)}, as_json)
    record = load_record(folder / runs[0].name)
    _show({"run": runs[0].name, **record.results, "wall_seconds": record.provenance["wall_seconds"]}, as_json)


def _train_all(runs: list[Run], profile: str, device: str = "auto", workers: int | None = None,
               scheduler: str | None = None, force: bool = False, forecast: bool = False) -> int:
    """Train what is missing, with ``forecast`` saying first what it costs; return the number of runs trained."""
    from fmuc.machinery import parallel
    from fmuc.machinery.costs import estimate
    from fmuc.records import code_digest, load_record

    todo = runs if force else parallel.missing(runs, profile)
    if todo and forecast:
        print(_forecast(todo, estimate(todo, device, workers)), file=sys.stderr)
    parallel.train_plan(todo, profile, device=device, workers=workers, scheduler=scheduler, force=force)
    records = [load_record(paths.runs_dir(profile) / run.name) for run in runs]
    if old := sum(record.provenance["code"] != code_digest() for record in records):
        print(f"fmuc: {old} runs were trained by another version of the code and are used as they are; --force trains "
              "them again", file=sys.stderr)
    return len(todo)


@app.command(epilog=examples("predict birds_fmuc_s0 new/a.wav new/b.wav", "predict birds_fmuc_s0 new/a.wav --json"))
def predict(run: Annotated[str, typer.Argument(help="a run's folder, name, or the beginning or the id of its name")],
            files: Annotated[list[Path], typer.Argument(help="sound files")],
            seed: Seed = 0, as_json: Json = False) -> None:
    """Predict sound files: class, mean, standard deviation, and what the run's rule says."""
    import pandas as pd

    from fmuc.own.predict import predict_files

    predictions, errors = predict_files(run, files, seed)
    if as_json:
        print(json.dumps([prediction._asdict() for prediction in predictions], indent=1))
    elif predictions:
        print(pd.DataFrame(predictions).round(3).to_string(index=False, na_rep="–"))
    if errors:
        raise FmucError("; ".join(errors))


@app.command(epilog=examples("compare", "compare --dataset birds --json"))
def compare(profile: Profile = "mini", dataset: Dataset = None, as_json: Json = False) -> None:
    """Show the paper's tables and claims beside the shipped runs and yours."""
    from fmuc.compare import as_text
    from fmuc.compare import compare as compared

    result = compared(profile, dataset)
    print(json.dumps(result, indent=1) if as_json else as_text(result))


@app.command(epilog=examples("notebooks --source shipped", "notebooks --only 06 --only 07 --dataset birds"))
def notebooks(
    profile: Profile = "mini", source: Source = "runs", dataset: Dataset = None,
    only: Annotated[list[str] | None, Option(metavar="NN", help="those whose names start so (repeatable)")] = None,
    workers: Workers = None, force: Force = False, as_json: Json = False,
) -> None:
    """Execute copies of those notebooks that are not up to date."""
    import pandas as pd

    from fmuc.machinery.notebooks import check, execute

    experiments.chosen(profile, dataset)  # refuse an unknown one before anything runs
    _require_writable(paths.figures_dir(profile, source, dataset or ""))
    outcomes = execute(profile, source, dataset or "", only=only, force=force, workers=workers or 2)
    print(json.dumps([outcome._asdict() for outcome in outcomes], indent=1) if as_json else
          pd.DataFrame(outcomes).drop(columns="error").round(1).to_string(index=False))
    check(outcomes)


@app.command(epilog=examples("figures", "figures --dataset nsynth-gm --force"))
def figures(profile: Profile = "mini", dataset: Dataset = None, workers: Workers = None, force: Force = False,
            as_json: Json = False) -> None:
    """Make every figure and table from the shipped records."""
    notebooks(profile, "shipped", dataset, workers=workers, force=force, as_json=as_json)


@app.command(epilog=examples("reproduce", "reproduce --profile smoke", "reproduce --dataset birds"))
def reproduce(profile: Profile = "mini", dataset: Dataset = None, device: Device = "auto", workers: Workers = None,
              scheduler: Scheduler = None, as_json: Json = False) -> None:
    """Do whatever is missing: data, features, runs, figures and tables.

    In mini, both tables with fewer seeds than the shipped ones; 'train' trains every row with every seed.
    """
    from fmuc.machinery.notebooks import find

    find()  # a package installed without its checkout has none: refused before hours of work
    chosen = experiments.chosen(profile, dataset)
    _require_writable(paths.data_root(), paths.figures_dir(profile, dataset=dataset or ""))
    with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):  # one JSON document: the comparison
        names = [name for name in chosen if _obtain(name, needed=dataset is not None)]
        for name in names:
            features(profile, name, workers)
        runs = [run for name in names for run in experiments.reproduced(profile, name)]
        _train_all(runs, profile, device, workers, scheduler, forecast=True)
        notebooks(profile, "runs", dataset, workers=workers)
    compare(profile, dataset, as_json)
    print(f"figures and tables: {paths.relative(paths.figures_dir(profile, dataset=dataset or ''))}", file=sys.stderr)


def _obtain(name: str, needed: bool) -> bool:
    """Render or fetch what can be had without a question; False for a data set to go on without, unless ``needed``."""
    from fmuc.machinery import fetch
    from fmuc.standins.render import ensure

    if name in STAND_INS:
        ensure(name)
    if name not in FREE or fetch.is_there(name):
        return True
    folder = paths.dataset_dir(name)
    try:
        fetch.obtain(fetch.SOURCES[folder.name], folder, attempts=1)
    except FmucError as error:
        if needed:
            raise
        print(f"fmuc: going on without {name}: {error}", file=sys.stderr)
        return False
    print(fetch.SOURCES[folder.name].notice, file=sys.stderr)
    return True


def _place_numba_cache() -> None:
    """Numba compiles nothing if it cannot write."""
    if not os.access(paths.ROOT / "fmuc" / "fast", os.W_OK):
        os.environ.setdefault("NUMBA_CACHE_DIR", str(paths.data_root() / ".numba"))


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit with its status."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # question marks where the terminal has no such sign
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: ends workers, removes half-filled folders
    _place_numba_cache()
    app(arguments, prog_name="python -m fmuc")


if __name__ == "__main__":
    main()
