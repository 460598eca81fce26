"""Whether tables, figures, notebooks and README are those of the records that are there now."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from fmuc import analysis as figure_data
from fmuc import figures as figure_files
from fmuc import notebooks as notebook_files
from fmuc import paths
from fmuc.checks import Group
from fmuc.errors import FmucError
from fmuc.records import Record
from tools import readme as project_readme

_AGAIN = "execute the notebooks again (python -m fmuc notebooks --in-place)"


def tables(records: Sequence[Record], profile: str, folder: Path, must: bool) -> Group:
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


def figures(records: Sequence[Record], folder: Path) -> Group:
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
    group.tell(f"{paths.relative(folder / name)}: is in no row of the manifest: remove it, or {_AGAIN}"
               for name in sorted(there - listed))
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
    if not row["files"] or any(not name.startswith(f"{path.stem}.") or "/" in name for name in row["files"]):
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


def notebooks(records: Path, figures: Path) -> Group:
    """The committed notebooks show what they showed when they were executed, from these records, and these figures."""
    group, now = Group("notebooks"), notebook_files.records_digest(records)
    pictures = {path.read_bytes() for path in figures.glob("*.png")}
    for path in notebook_files.find(folder=paths.NOTEBOOKS):
        where = paths.relative(path)
        try:
            notebook = notebook_files.read(path)
        except FmucError as error:
            group.check([str(error)])
            continue
        sealed, problems = notebook.metadata.get("fmuc"), []
        sealed = sealed if isinstance(sealed, dict) else {}
        if sealed.get("records") != now:
            problems.append(f"{where}: was executed with other records: {_AGAIN}")
        if sealed.get("outputs") != notebook_files.outputs_digest(notebook):
            problems.append(f"{where}: its code or outputs are not as they were when it was executed: {_AGAIN}")
        try:
            problems += [f"{where}: its picture {alt[:60]!r} is no file in {paths.relative(figures)}: {_AGAIN}"
                         for alt, picture in notebook_files.saved_pictures(notebook) if picture not in pictures]
        except (AttributeError, TypeError, ValueError) as error:
            problems.append(f"{where}: a picture in it cannot be read ({error}): {_AGAIN}")
        group.check(problems)
    return group


def readme(profile: str, complete: bool) -> Group:
    """The README's blocks against those that the shipped records give, if every record is there (``complete``)."""
    group = Group("README")
    if not complete:
        group.notes.append("not computed anew: not every record is there")
        return group
    try:
        text = project_readme.README.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        group.check([f"{project_readme.README.name}: cannot be read ({error})"])
        return group
    for name, block in project_readme.blocks(profile).items():
        try:
            right = project_readme.filled(text, {name: block}) == text
        except ValueError as error:
            group.check([str(error)])
            continue
        group.check([] if right else [f"{project_readme.README.name}: its block {name} is not what the records give: "
                                      "write it again ('python -m fmuc ship')"])
    return group
