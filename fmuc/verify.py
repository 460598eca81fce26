"""``python -m fmuc verify``: records, splits, tables, figures, notebooks and README against each other.

Nothing is trained or drawn. Records are checked on their own and against the data where these are on the disk, tables
and the data of figures are computed anew and compared byte for byte, and every figure and notebook must have been made
from the records that are there now. Executing the notebooks is left to their own test.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fmuc import datasets, output_checks, paths, record_checks
from fmuc import records as runs
from fmuc.checks import Group, Report
from fmuc.config import Run
from fmuc.errors import FmucError
from fmuc.experiments import plan
from fmuc.records import Record, code_digest, is_finished, load_record

COMMITTED = ("mini", "shipped")  # profile and source of the committed notebooks and of the README


def verify(profile: str, source: str = "shipped", dataset: str | None = None) -> Report:
    """Check everything that rests on the records of a profile; ``source`` and ``dataset`` as in ``runs.load_all``.

    Raises :class:`FmucError` only where there are no records at all.
    """
    planned, folder = plan(profile, dataset), paths.records_dir(profile, source)
    if not any(is_finished(folder / run.name) for run in planned):
        runs.load_all(profile, source, dataset)  # which says so
    group, records = _records(planned, folder, whole=source == "shipped" and not dataset)
    groups = [group, _splits(records, folder), _agreement(records), _code(records)]
    figures, must = paths.figures_dir(profile, dataset or ""), (source == "shipped" and not dataset)
    if figures.is_dir() or must:
        complete = records if len(records) == len(planned) else []
        groups += [output_checks.tables(complete, profile, figures, must), output_checks.figures(records, figures)]
    else:
        groups.append(Group("figures", notes=[f"not checked: no {paths.relative(figures)}"]))
    if (profile, source) == COMMITTED and not dataset:
        groups += [output_checks.notebooks(folder, figures),
                   output_checks.readme(profile, len(records) == len(planned))]
    if source == "runs":
        groups.append(_beside_shipped(records, profile))
    return Report(profile, source, tuple(groups))


def _records(planned: Sequence[Run], folder: Path, whole: bool) -> tuple[Group, list[Record]]:
    """``whole``: the folder must hold nothing but the plan's runs."""
    group, records = Group("records"), []
    for run in planned:
        place = folder / run.name
        if not is_finished(place):
            group.check([f"{paths.relative(place)}: is missing: train it ('python -m fmuc train')"])
            continue
        try:
            record = load_record(place)
        except FmucError as error:
            group.check([str(error)])
            continue
        records.append(record)
        group.check(f"{paths.relative(place)}/{problem}" for problem in _of_record(record, run, place))
    names = {run.name for run in planned}
    if whole:
        group.tell(f"{paths.relative(path)}: belongs to no run of the plan: remove it"
                   for path in sorted(folder.glob("[!.]*")) if path.name not in names)
    return group, records


def _of_record(record: Record, run: Run, folder: Path) -> list[str]:
    if record.run != run:
        return [f"run.json: is the record of {record.run.name}"]
    return record_checks.mismatches(record, folder)


def _splits(records: Sequence[Record], folder: Path) -> Group:
    """Splits drawn again from the index of each data set that is on the disk."""
    group = Group("splits")
    for name in dict.fromkeys(record.run.dataset for record in records):
        place = paths.dataset_dir(name)
        if not place.is_dir():
            group.notes.append(f"not checked: no data under {paths.relative(place)}")
            continue
        try:
            dataset = datasets.load(name)
        except FmucError as error:
            group.check([str(error)])
            continue
        for record in (record for record in records if record.run.dataset == name):
            of = record.provenance.get("dataset_digest")
            found = ([f"run.json: was made from data with the digest {of}, {paths.relative(place)} has "
                      f"{dataset.digest}"] if of != dataset.digest else _drawn_again(record, folder, dataset))
            group.check(f"{paths.relative(folder / record.run.name)}/{problem}" for problem in found)
    return group


def _drawn_again(record: Record, folder: Path, dataset: datasets.Dataset) -> list[str]:
    try:
        return record_checks.against_data(record, folder / record.run.name, dataset)
    except FmucError as error:
        return [f"split.json: {error}"]


def _agreement(records: Sequence[Record]) -> Group:
    """Runs of one data set have seen the same data, those of one seed the same labelled files."""
    group, told = Group("agreement"), ("data", "classes", "labelled files")
    seen: dict[tuple, dict[object, list[str]]] = {}
    for record in records:
        run, origin = record.run, record.provenance
        values = (origin.get("dataset_digest"), record.classes, origin.get("split_digest"))
        keys = ((run.dataset,), (run.dataset,), (run.dataset, run.seed, run.labels, run.labelled_share))
        for what, key, value in zip(told, keys, values, strict=True):
            seen.setdefault((what, *key), {}).setdefault(value, []).append(run.name)
    for (what, name, *_), found in seen.items():
        ordered = sorted(found.values(), key=len)
        group.check(f"{other}: has other {what} than {ordered[-1][0]} ({name})" for part in ordered[:-1]
                    for other in part)
    return group


def _code(records: Sequence[Record]) -> Group:
    """Which versions of the code made the records: worth knowing, and no mistake."""
    made = Counter(str(record.provenance.get("code", "unknown")) for record in records)
    text = ", ".join(f"{digest} ({count} records)" for digest, count in made.most_common())
    return Group("code", notes=[f"made by {text or 'nobody'}; this is {code_digest()}"])


def _beside_shipped(records: Sequence[Record], profile: str) -> Group:
    """How many runs trained here equal the shipped ones; another machine may well give others."""
    group, folder, equal, both = Group("shipped"), paths.records_dir(profile, "shipped"), 0, 0
    for record in records:
        if is_finished(folder / record.run.name):
            both += 1
            try:
                apart = record_checks.difference(record, load_record(folder / record.run.name))
            except FmucError as error:
                group.tell([str(error)])
                continue
            equal += not apart
            group.notes += [f"{record.run.name}: differs in {apart}"] if apart else []
    group.notes.insert(0, f"{equal} of {both} runs bit-equal to the shipped ones (pseudo-label counts and file-wise "
                       "predictions)")
    return group
