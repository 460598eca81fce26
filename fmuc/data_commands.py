"""``python -m fmuc data ...``: render a stand-in, fetch a real data set, import your own audio, check any of them."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from fmuc import paths
from fmuc.errors import FmucError

# Names without the modules that know them: --help must be quick.
STAND_INS = {
    "nsynth-gm": "notes rendered from General-MIDI SoundFonts, in NSynth's layout (0.8 GB, 2 minutes)",
    "nsynth-gm-smoke": "the same, few of them, for tests and to look at",
    "scenes-sim": "simulated acoustic scenes in TUT2017's layout (1.6 GB, 2 minutes)",
    "scenes-sim-smoke": "the same, few of them, for tests and to look at",
}
PUBLISHED = {
    "nsynth": ("NSynth: 25 GB to download, 40 GB unpacked; CC BY 4.0", ("train", "valid", "test")),
    "tut2017": ("TUT Acoustic Scenes 2017: 14 GB to download, 17 GB unpacked; its licence must be accepted",
                ("development", "evaluation")),
}
EXAMPLES = {
    "nsynth-gm": ("data nsynth-gm", "data nsynth-gm --soundfont ~/sounds/GeneralUser.sf2 --force"),
    "nsynth-gm-smoke": ("data nsynth-gm-smoke",),
    "scenes-sim": ("data scenes-sim", "data scenes-sim --workers 4"),
    "scenes-sim-smoke": ("data scenes-sim-smoke --json",),
    "nsynth": ("data nsynth", "data nsynth --parts test --from ~/Downloads"),
    "tut2017": ("data tut2017 --accept-licence", "data tut2017 --from ~/Downloads --accept-licence"),
    "folder": ("data folder ~/birds --name birds", "data folder clips.csv --name bats --labelled-share 0.1",
               "reproduce --dataset birds  # then"),
    "check": ("data check scenes-sim", "data check birds --json"),
}


def epilog(examples: Iterable[str]) -> str:
    """The end of a command's help: the commands that ``python -m fmuc`` may be followed by."""
    return "examples:\n" + "".join(f"  python -m fmuc {example}\n" for example in examples)


def add_parser(commands: argparse._SubParsersAction) -> None:
    """The command ``data`` with one sub-command for each kind of data."""
    data = commands.add_parser("data", help="make, fetch, import or check a data set",
                               epilog=epilog(EXAMPLES[name][0] for name in EXAMPLES),
                               description="make, fetch, import or check a data set",
                               formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = data.add_subparsers(dest="name", required=True, metavar="NAME")

    def add(name: str, function: Callable, text: str) -> argparse.ArgumentParser:
        kind = kinds.add_parser(name, help=text, description=text, epilog=epilog(EXAMPLES[name]),
                                formatter_class=argparse.RawDescriptionHelpFormatter)
        kind.set_defaults(function=function)
        kind.add_argument("--json", action="store_true", help="print the result as JSON")
        return kind

    for name, text in STAND_INS.items():
        _add_rendering_options(add(name, render, f"stand-in: {text}"))
    for name, (text, parts) in PUBLISHED.items():
        _add_published_options(add(name, fetch, text), parts)
    _add_folder_options(add("folder", import_folder, "your own audio: a folder per class, or a CSV file"))
    check = add("check", check_data_set, "counts, durations, duplicates, damaged files and leaks of a data set")
    check.add_argument("dataset", metavar="NAME", help="any data set that is there, your own too")
    check.add_argument("--workers", type=int, help="processes (default: one per core)")


def _add_rendering_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default: 0)")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--force", action="store_true", help="make it again although it is there")
    add_soundfont_option(parser)


def add_soundfont_option(parser: argparse.ArgumentParser) -> None:
    """Further SoundFonts, for every command that may render notes."""
    parser.add_argument("--soundfont", action="append", default=[], metavar="PATH",
                        help="a further SoundFont for nsynth-gm (repeatable)")


def _add_published_options(parser: argparse.ArgumentParser, parts: tuple[str, ...]) -> None:
    parser.add_argument("--parts", nargs="+", choices=parts, metavar="PART",
                        help=f"of: {', '.join(parts)} (default: all)")
    parser.add_argument("--from", dest="archives_from", type=Path, metavar="FOLDER",
                        help="take the archives from here instead of downloading them; they stay as they are")
    parser.add_argument("--keep-archives", action="store_true", help="keep what was downloaded after unpacking it")
    parser.add_argument("--accept-licence", action="store_true", help="you have read the licence and agree to it")


def _add_folder_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="PATH",
                        help="a folder with a folder per class (one called 'unlabelled' for files of unknown class), "
                        "or a CSV file with the columns path and, if you like, label, group, split")
    parser.add_argument("--name", required=True, help="what to call it: lower-case letters, digits, hyphens")
    parser.add_argument("--seed", type=int, default=0, help="of the splits that are drawn (default: 0)")
    parser.add_argument("--test-share", type=float, default=0.2, help="labelled files held out for the test (0.2)")
    parser.add_argument("--valid-share", type=float, default=0.1, help="and for validation (0.1)")
    parser.add_argument("--labelled-share", type=float,
                        help="part of the training labels to use (default: all where there are unlabelled files, "
                        "else 0.2)")
    parser.add_argument("--group-pattern", metavar="REGEX",
                        help="one capture group that names what a file belongs to, searched in its path; files of one "
                        "group are never on both sides of a split (default: the sub-folder in its class)")
    parser.add_argument("--force", action="store_true", help="replace an import of this name")


def render(args: argparse.Namespace) -> None:
    """Render the stand-in ``args.name``."""
    from fmuc import datasets

    started = time.monotonic()
    report = datasets.render(args.name, seed=args.seed, soundfonts=args.soundfont, workers=args.workers,
                             force=args.force)
    if args.force:  # the same names may now have another sound
        _forget_features(args.name)
    counted = ("notes", "instruments", "silent_dropped", "recordings", "clips")
    show(args, {"dataset": f"{args.name} (stand-in)", "folder": paths.relative(paths.dataset_dir(args.name)),
                **{name: value for name, value in asdict(report).items() if name in counted},
                "seconds": round(time.monotonic() - started, 1)})


def _forget_features(name: str) -> None:
    """Remove the features that were made from another sound of the same name."""
    for stale in (paths.data_root() / "features").glob(f"{name}-????????"):
        shutil.rmtree(stale)


def fetch(args: argparse.Namespace) -> None:
    """Fetch the published data set ``args.name``, its licence accepted where that is asked."""
    from fmuc import fetch as sources
    from fmuc.fetch import obtain

    source = sources.SOURCES[args.name]
    print(sources.licence_notice(source), file=sys.stderr)
    if source.confirm and not args.accept_licence:
        _confirm(source.licence_url)
    report = obtain(source, paths.dataset_dir(args.name), parts=args.parts, archives_from=args.archives_from,
                    keep_archives=args.keep_archives)
    show(args, {"dataset": args.name, "folder": paths.relative(paths.dataset_dir(args.name)),
                "obtained": ", ".join(report.obtained) or "nothing new",
                "there before": ", ".join(report.present) or "nothing", "downloaded": f"{report.downloaded:,} bytes"})


def _confirm(url: str) -> None:
    if not sys.stdin.isatty():
        raise FmucError(f"the licence must be accepted: read it ({url}) and add --accept-licence")
    print("Do you accept the licence? [yes/no] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("yes", "y"):
        raise FmucError("the licence was not accepted: nothing was downloaded")


def import_folder(args: argparse.Namespace) -> None:
    """Import your own audio as data set ``args.name``."""
    from fmuc.own import importing as own_audio

    report = own_audio.import_audio(args.path, args.name, seed=args.seed, test_share=args.test_share,
                                    valid_share=args.valid_share, labelled_share=args.labelled_share,
                                    group_pattern=args.group_pattern, force=args.force)
    if args.force:
        _forget_features(args.name)
    result = asdict(report)
    result["splits"] = ", ".join(f"{split} {count:,}" for split, count in report.splits.items())
    result["skipped"] = ", ".join(f"{count} {kind}" for kind, count in report.skipped.items()) or "nothing"
    result["hours"] = round(result.pop("seconds") / 3600, 2)
    show(args, result)


def check_data_set(args: argparse.Namespace) -> None:
    """Print the validation report of a data set; :class:`FmucError` after it if something makes results wrong."""
    from fmuc import datasets
    from fmuc.own import check as data_check

    report = data_check.check(datasets.load(args.dataset), workers=args.workers)
    print(json.dumps(report.asdict(), indent=1) if args.json else data_check.format_report(report))
    if report.failed:
        raise FmucError(f"{args.dataset}: the report names errors that make results wrong")


def show(args: argparse.Namespace, result: dict) -> None:
    """Print a command's result: one line, or JSON."""
    if args.json:
        print(json.dumps(result))
    else:
        print(", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in result.items()))
