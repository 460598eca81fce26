"""The command line: ``python -m fmuc COMMAND``. Exit status: see ``EXIT_STATUS``."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from fmuc import data_commands, experiments, paths
from fmuc.config import Run
from fmuc.data_commands import epilog, show
from fmuc.errors import FmucError

DESCRIPTION = "FixMatch with uncertainty for audio: data, features, training, notebooks, tables and what checks them."
EXIT_STATUS = """exit status:
  0    done
  1    bad input, a failed run or check, output that nobody reads any more; one line on stderr says which
  2    wrong usage: no such command or option
  130  interrupted by Ctrl-C; the same command goes on from there
"""
EXAMPLES = {
    "features": ("features", "features --dataset scenes-sim --workers 2"),
    "train": ("train", "train --variant FMUC --seed 1", "train --profile paper --device cuda --compile",
              "train --scheduler tcp://10.0.0.1:8786  # docs/cluster.md"),
    "compare": ("compare --source shipped", "compare --dataset birds --json"),
    "notebooks": ("notebooks --source shipped", "notebooks --only 06 07 -p source=shipped"),
    "reproduce": ("reproduce", "reproduce --profile smoke", "reproduce --dataset birds"),
    "figures": ("figures", "figures --dataset nsynth-gm --force"),
    "predict": ("predict birds_fmuc_s0 new/a.wav new/b.wav", "predict birds_fmuc_s0 new/a.wav --json"),
}


def _features(args: argparse.Namespace) -> None:
    from fmuc import datasets, features

    if args.scheduler:
        _features_elsewhere(args)
    for name in _names(args):
        started, preset = time.monotonic(), experiments.preset(args.profile, name)
        cache = features.extract(datasets.load(name), preset.features, workers=args.workers)
        show(args, {"dataset": name, "patches": len(cache.patches), "shape": list(cache.patches.shape[1:]),
                    "megabytes": round(cache.patches.nbytes / 1e6, 1),
                    "seconds": round(time.monotonic() - started, 1)})


def _features_elsewhere(args: argparse.Namespace) -> None:
    from fmuc import parallel as schedule

    _refuse(schedule.extract_features(args.profile, _names(args), args.scheduler, workers=args.workers,
                                      progress=not args.json))


def _refuse(failures: Sequence) -> None:
    """One error for what failed."""
    if failures:
        raise FmucError("; ".join(f"{f.run} failed: {f.message}" for f in failures))


def _train(args: argparse.Namespace) -> None:
    from fmuc import train

    if args.variant is None:
        return _train_runs(args, experiments.plan(args.profile, args.dataset))
    name = args.dataset or next(iter(experiments.presets(args.profile)))
    run = experiments.make_run(args.profile, name, args.variant, args.seed)
    if args.scheduler:
        return _train_runs(args, [run])

    def report(row: dict) -> None:
        print(json.dumps({"epoch": row["epoch"], "text": train.describe(row)}), flush=True)

    record = train.train(run, device=args.device, folder=paths.runs_dir(args.profile) / run.name,
                         progress=not args.json_lines, on_epoch=report if args.json_lines else None)
    if not args.json_lines:
        show(args, {"run": run.name, **record.results, "wall_seconds": record.provenance["wall_seconds"]})


def _train_runs(args: argparse.Namespace, runs: Sequence[Run]) -> None:
    from fmuc import parallel as schedule

    started = time.monotonic()
    todo = len(schedule.missing(runs, args.profile))
    _refuse(schedule.train_plan(runs, args.profile, device=args.device, workers=args.workers, compiled=args.compile,
                                scheduler=args.scheduler, runs_per_gpu=args.runs_per_gpu))
    show(args, {"runs": len(runs), "trained": todo, "seconds": round(time.monotonic() - started, 1),
                "folder": paths.relative(paths.runs_dir(args.profile))})


def _compare(args: argparse.Namespace) -> None:
    from fmuc import tables

    result = tables.compare(args.profile, args.dataset)
    print(json.dumps(result, indent=1) if args.json else tables.format_compare(result))


def _predict(args: argparse.Namespace) -> None:
    from fmuc.own import predict

    predictions = predict.predict_files(args.run, args.files, args.seed)
    if args.json:
        return print(json.dumps([predict.plain(p) for p in predictions], indent=1))
    import pandas as pd

    print(pd.DataFrame(predict.table(predictions)).to_string(index=False))


def _notebooks(args: argparse.Namespace) -> None:
    from fmuc import notebooks

    experiments.presets(args.profile)  # refuse an unknown profile before anything runs
    summary = notebooks.execute(
        args.profile, source=args.source, dataset=args.dataset, only=args.only, force=args.force,
        workers=args.workers or 2, in_place=args.in_place,
        parameters=dict(args.parameter),
    )
    print(json.dumps(summary.asdict(), indent=1) if args.json else summary)
    if summary.error:
        raise FmucError(summary.error)


def _reproduce(args: argparse.Namespace) -> None:
    """Sound files -> features -> runs -> notebooks, figures and tables."""
    from fmuc import datasets

    started = time.monotonic()
    with contextlib.redirect_stdout(sys.stderr if args.json else sys.stdout):  # one JSON document: the comparison
        for name in _names(args):
            if name in datasets.STAND_INS:
                data_commands.render(argparse.Namespace(**{**vars(args), "name": name}))
        _features(args)
        _train_runs(args, experiments.plan(args.profile, args.dataset))
        args.source, args.only, args.in_place, args.parameter = "runs", None, False, []
        _notebooks(args)
    _compare(args)
    print(f"reproduced profile {args.profile} in {(time.monotonic() - started) / 60:.1f} minutes; figures and tables: "
          f"{paths.relative(paths.figures_dir(args.profile, dataset=args.dataset or ''))}", file=sys.stderr)


def _figures(args: argparse.Namespace) -> None:
    args.source, args.only, args.in_place, args.parameter = "shipped", None, False, []
    _notebooks(args)


def _names(args: argparse.Namespace) -> list[str]:
    return [args.dataset] if args.dataset else list(experiments.presets(args.profile))


def _assignment(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (sign and name.isidentifier()):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _require_sense(args: argparse.Namespace) -> None:
    """Refuse numbers that no command can use."""
    workers, seed = getattr(args, "workers", None), getattr(args, "seed", 0)
    if workers is not None and workers < 1:
        raise FmucError(f"--workers must be at least 1, not {workers}")
    if not 0 <= seed < 2**32:
        raise FmucError(f"--seed must be a whole number from 0 to {2**32 - 1}, not {seed}")


def _parser() -> argparse.ArgumentParser:
    examples = [EXAMPLES[name][0] for name in ("reproduce", "compare")]
    parser = argparse.ArgumentParser(prog="python -m fmuc", description=DESCRIPTION,
                                     epilog=f"{epilog(examples)}\n{EXIT_STATUS}",
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, function: Callable, text: str, *options: str, profile: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text, epilog=epilog(EXAMPLES[name]),
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
        command.set_defaults(function=function)
        if profile:
            command.add_argument("--profile", default="mini", help="smoke, mini (default) or paper")
        command.add_argument("--json", action="store_true", help="print the result as JSON")
        known = {
            "dataset": {"help": "one data set: of the profile (default: all), or your own audio by its name"},
            "device": {"default": "auto", "help": "auto (default), cpu, cuda, cuda:1, ..."},
            "workers": {"type": int, "help": "processes at a time (default: one per core; one run per GPU)"},
            "seed": {"type": int, "default": 0},
            "source": {"default": "runs", "choices": ("runs", "shipped"),
                       "help": "records trained here (runs) or those of the repository (shipped)"},
            "compile": {"action": "store_true", "help": "train with CUDA graphs (torch.compile) where they work"},
            "force": {"action": "store_true", "help": "make it again although it is there"},
            "scheduler": {"metavar": "ADDRESS", "help": "send the work to a Dask cluster: its scheduler's address or "
                          "file (docs/cluster.md)"},
            "runs-per-gpu": {"type": int, "default": 1, "metavar": "N", "help": "runs that share a GPU (default: 1)"},
        }
        for option in options:
            command.add_argument(f"--{option}", **known[option])
        return command

    data_commands.add_parser(commands)
    add("features", _features, "extract log-Mel patches", "dataset", "workers", "scheduler")
    train = add("train", _train, "train one run, or every missing run of the plan",
                "dataset", "device", "workers", "seed", "compile", "scheduler", "runs-per-gpu")
    train.add_argument("--variant", help=f"one of: {', '.join(experiments.VARIANTS)} (default: the whole plan)")
    train.add_argument("--json-lines", action="store_true", help="one JSON line per epoch instead of a progress bar")
    add("compare", _compare, "Tables I and II beside the paper's, rank correlations and claims", "source", "dataset")
    notebooks = add("notebooks", _notebooks, "execute the notebooks with papermill", "source", "dataset", "force",
                    "workers")
    notebooks.add_argument("--only", nargs="+", metavar="NN", help="only notebooks whose names start so")
    notebooks.add_argument("--in-place", action="store_true", help="store the outputs in notebooks/")
    notebooks.add_argument("-p", "--parameter", action="append", default=[], type=_assignment, metavar="NAME=VALUE")
    reproduce = add("reproduce", _reproduce, "everything: sound files, features, runs, notebooks, figures, tables",
                    "dataset", "device", "workers", "seed", "compile", "force", "scheduler", "runs-per-gpu")
    data_commands.add_soundfont_option(reproduce)
    add("figures", _figures, "figures and tables from the shipped records", "dataset", "force", "workers")
    predict = add("predict", _predict, "class, mean and std of a trained run on sound files, and what its rule says",
                  "seed", profile=False)
    predict.add_argument("run", metavar="RUN", help="a run's folder, name, or the beginning or the id of its name")
    predict.add_argument("files", metavar="FILE", nargs="+", type=Path, help="sound files")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = _parser().parse_args(arguments)
    try:
        _require_sense(args)
        args.function(args)
    except FmucError as error:
        print(f"fmuc: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fmuc: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
