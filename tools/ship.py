"""For maintainers: what is committed, made from the runs trained here: ``python -m tools.ship`` (``make ship``).

Copies the run records to ``data/records``, executes the notebooks from them, and puts figures, outputs of notebooks and
the tables of README and docs in their places.
"""

from __future__ import annotations

import argparse
import shutil
import sys

from fmuc import paths
from fmuc.errors import FmucError
from fmuc.experiments import STUDIES, plan
from fmuc.machinery import notebooks
from fmuc.machinery.atomic import whole_folder
from fmuc.records import FILES, is_finished, load_record
from tools import outputs, readme


def ship_records(profile: str) -> None:
    """Copy the records of a profile's plan from the runs trained here; of a study, as many as are finished."""
    with whole_folder(paths.SHIPPED_RECORDS / profile) as target:
        for run in plan(profile):
            source = paths.runs_dir(profile) / run.name
            if profile in STUDIES and not is_finished(source):
                continue
            load_record(source)  # raises for a missing or a damaged one
            (target / run.name).mkdir()
            for name in FILES:
                if (source / name).exists():
                    shutil.copyfile(source / name, target / run.name / name)


def ship_notebooks(profile: str) -> None:
    """Execute the notebooks from the shipped records; store their outputs, figures and tables."""
    notebooks.check(notebooks.execute(profile, "shipped"))
    made, records = paths.figures_dir(profile, "shipped"), notebooks.records_digest(profile, "shipped")
    for notebook in notebooks.find():
        outputs.store(notebook, made / "notebooks" / notebook.name, records)
    with whole_folder(paths.FIGURES / profile) as target:
        shutil.copytree(made, target, ignore=shutil.ignore_patterns("notebooks", ".*"), dirs_exist_ok=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.ship", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--keep-records", action="store_true", help="only execute the notebooks from the shipped ones")
    args = parser.parse_args(arguments)
    try:
        if not args.keep_records:
            ship_records(args.profile)
        if args.profile not in STUDIES:  # a notebook of mini shows their records
            ship_notebooks(args.profile)
            readme.update(args.profile)
    except FmucError as error:
        print(f"ship: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
