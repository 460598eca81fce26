"""``python -m fmuc verify``: records, splits, tables, figures, notebooks and README against each other.

Nothing is trained or drawn. Records are checked on their own and against the data where these are on the disk, tables
and the data of figures are computed anew and compared byte for byte, and every figure and notebook must have been made
from the records that are there now. Executing the notebooks is left to their own test.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path

from fmuc import datasets, figure_data, figure_files, notebook_files, paths, readme, record_checks, runs
from fmuc.config import Run
from fmuc.errors import FmucError
from fmuc.experiments import plan
from fmuc.runs import Record, code_digest, is_finished, load_record

COMMITTED = ("mini", "shipped")  # profile and source of the committed notebooks and of the README
_AGAIN = "execute the notebooks again (python -m fmuc notebooks --in-place)"


@dataclass
class Group:
    """What was checked of one kind: how many things, those that are wrong (a line each), what else there is to say."""

    name: str
    checked: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wrong: int = 0  # of the checked things

    def check(self, problems: Iterable[str]) -> None:
        """One more thing was checked; ``problems`` are empty if it is right."""
        found = [" ".join(problem.split()) for problem in problems]
        self.checked, self.wrong = self.checked + 1, self.wrong + bool(found)
        self.problems += found

    def __str__(self) -> str:
        said = [f"{self.checked - self.wrong} of {self.checked} right"] if self.checked else []
        first, *lines = [*said, *self.notes, *self.problems] or ["nothing to check"]
        return "\n".join([f"{self.name:<10} {first}", *(f"  {line}" for line in lines)])


@dataclass(frozen=True)
class Report:
    """The groups in the order of the checks; ``str()`` is what to print, :meth:`asdict` the JSON."""

    profile: str
    source: str
    groups: tuple[Group, ...]

    @property
    def problems(self) -> list[str]:
        return [problem for group in self.groups for problem in group.problems]

    def asdict(self) -> dict:
        return {"ok": not self.problems, **asdict(self)}

    def __str__(self) -> str:
        return "\n".join(map(str, self.groups))


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
        groups += [_tables(complete, profile, figures, must), _figures(records, figures)]
    else:
        groups.append(Group("figures", notes=[f"not checked: no {paths.relative(figures)}"]))
    if (profile, source) == COMMITTED and not dataset:
        groups += [_notebooks(folder), _readme(profile, complete=len(records) == len(planned))]
    if source == "runs":
        groups.append(_beside_shipped(records, profile))
    return Report(profile, source, tuple(groups))


# --- records ---


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
        group.problems += [f"{paths.relative(path)}: belongs to no run of the plan: remove it"
                           for path in sorted(folder.iterdir()) if path.name not in names]
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


# --- what was made of them ---


def _tables(records: Sequence[Record], profile: str, folder: Path, must: bool) -> Group:
    """Tables and data of figures computed anew; ``must``: every one of them has to be there."""
    group = Group("tables")
    if not records:
        group.notes.append("not computed anew: not every record is there")
        return group
    for name, frame in figure_data.frames(records, profile).items():
        contents = (figure_files.table_files(frame, name) if name in figure_data.TABLES else
                    {f"{name}.csv": figure_files.csv_bytes(frame)})
        for file, content in contents.items():
            if (folder / file).is_file():
                group.check(_first_difference(folder / file, content))
            elif must:
                group.check([f"{paths.relative(folder / file)}: is missing: {_AGAIN}"])
    return group


def _first_difference(path: Path, content: bytes) -> list[str]:
    there = path.read_bytes()
    if there == content:
        return []
    lines, wanted = (text.decode("utf-8", "replace").splitlines() for text in (there, content))
    for number, (line, right) in enumerate(zip(lines, wanted, strict=False), 1):
        if line != right:
            return [f"{paths.relative(path)}, line {number}: has {line[:200]!r}, the records give {right[:200]!r}"]
    return [f"{paths.relative(path)}: has {len(lines)} lines, the records give {len(wanted)}"]


def _figures(records: Sequence[Record], folder: Path) -> Group:
    """Every row of the manifest, and that nothing else is in the folder."""
    group, digests = Group("figures"), {record.run.name: record.digest for record in records}
    listed: set[str] = set()
    for path in sorted((folder / "manifest").glob("*")):
        try:
            row = _row(path)
        except (OSError, ValueError, RecursionError) as error:
            group.check([f"{paths.relative(path)}: is no row of the manifest ({error}): {_AGAIN}"])
            continue
        listed |= row["files"].keys()
        group.check([*_files_of(row, folder), *(f"{paths.relative(path)}: {problem}: {_AGAIN}"
                                                for problem in _runs_of(row, digests))])
    there = {path.name for path in folder.glob("[!.]*") if path.name not in ("manifest", "notebooks")}
    group.problems += [f"{paths.relative(folder / name)}: is in no row of the manifest: remove it, or {_AGAIN}"
                       for name in sorted(there - listed)]
    return group


def _row(path: Path) -> dict:
    row = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(row, dict) or {*row} != {*figure_files.ROW}:
        raise ValueError(f"it must be an object of {', '.join(figure_files.ROW)}")
    for name in ("files", "runs"):
        if not isinstance(row[name], dict) or not all(isinstance(value, str) for value in row[name].values()):
            raise ValueError(f"{name} must map names to digests")
    if row["name"] != path.stem or path.suffix != ".json" or not (isinstance(row["alt"], str) and row["alt"].strip()):
        raise ValueError("its name or its alt text is wrong")
    told = sorted({name.partition("_")[0] for name in row["runs"]})
    if (row["kind"] not in ("figure", "table") or row["datasets"] != told or not isinstance(row["profile"], str)
            or not f"{path.parents[1].name}-".startswith(f"{row['profile']}-")):
        raise ValueError("its kind, profile or datasets are wrong")
    if not row["files"] or any(not name.startswith(f"{path.stem}.") for name in row["files"]):
        raise ValueError("its files are not its own")
    return row


def _files_of(row: dict, folder: Path) -> list[str]:
    found = []
    for name, digest in row["files"].items():
        path = folder / name
        if not path.is_file():
            found.append(f"{paths.relative(path)}: is missing: {_AGAIN}")
        elif sha256(path.read_bytes()).hexdigest() != digest:
            found.append(f"{paths.relative(path)}: is not the file that was saved (SHA-256): {_AGAIN}")
    return found


def _runs_of(row: dict, digests: dict[str, str]) -> list[str]:
    unknown = [name for name in row["runs"] if name not in digests]
    other = [name for name, digest in row["runs"].items() if digests.get(name, digest) != digest]
    return ([f"was made from {unknown[0]}, whose record is not there ({len(unknown)} such)"] if unknown else []) + (
        [f"was made from another record of {other[0]} than the one there ({len(other)} such)"] if other else [])


def _notebooks(records: Path) -> Group:
    """The committed notebooks show what they showed when they were executed, and from these records."""
    group, now = Group("notebooks"), notebook_files.records_digest(records)
    for path in notebook_files.find(folder=paths.NOTEBOOKS):
        where = paths.relative(path)
        try:
            notebook = notebook_files.read(path)
        except FmucError as error:
            group.check([str(error)])
            continue
        sealed = notebook.metadata.get("fmuc", {})
        problems = []
        if sealed.get("records") != now:
            problems.append(f"{where}: was executed with other records: {_AGAIN}")
        if sealed.get("outputs") != notebook_files.outputs_digest(notebook):
            problems.append(f"{where}: its code or outputs are not as they were when it was executed: {_AGAIN}")
        group.check(problems)
    return group


def _readme(profile: str, complete: bool) -> Group:
    group = Group("README")
    if not complete:
        group.notes.append("not computed anew: not every record is there")
        return group
    text = readme.README.read_text(encoding="utf-8")
    for name, block in readme.blocks(profile).items():
        try:
            right = readme.filled(text, {name: block}) == text
            group.check([] if right else [f"{readme.README.name}: its block {name} is not what the records give: "
                                          "write it again ('python -m fmuc ship')"])
        except ValueError as error:
            group.check([str(error)])
    return group


def _beside_shipped(records: Sequence[Record], profile: str) -> Group:
    """How many runs trained here equal the shipped ones; another machine may well give others."""
    group, folder, equal, both = Group("shipped"), paths.records_dir(profile, "shipped"), 0, 0
    for record in records:
        if is_finished(folder / record.run.name):
            both += 1
            try:
                apart = record_checks.difference(record, load_record(folder / record.run.name))
            except FmucError as error:
                group.problems.append(str(error))
                continue
            equal += not apart
            group.notes += [f"{record.run.name}: differs in {apart}"] if apart else []
    group.notes.insert(0, f"{equal} of {both} runs bit-equal to the shipped ones (pseudo-label counts and file-wise "
                       "predictions)")
    return group
