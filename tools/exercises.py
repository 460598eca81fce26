"""Exercises of the teaching notebooks from one source each, docs/exercises/NN.py: ``python -m tools.exercises``.

A source is a Python file in the percent format of three kinds of parts:

* ``# %% setup``: imports of the exercises
* ``# %% exercise: TITLE``: the task as Markdown comments, ``# hint:`` lines, and a function whose answer stands between
  the lines ``### BEGIN SOLUTION`` and ``### END SOLUTION`` (as nbgrader marks it)
* ``# %% wrong``: typical mistakes in it, one a line: ``# part of the answer => what stands in its place``

``--write`` puts the exercises, without their answers, at the end of each notebook, a notebook with the answers into
notebooks/solutions, and what the checks explain into docs/teaching_guide.md; ``--check`` ends with exit status 1 if one
of them says something else.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from fmuc import notebooks as notebook_files
from fmuc import paths
from fmuc.errors import FmucError
from fmuc.teaching.exercises import EXERCISES
from tools.readme import filled

SOURCES = paths.ROOT / "docs" / "exercises"
SOLUTIONS = paths.NOTEBOOKS / "solutions"
GUIDE = paths.ROOT / "docs" / "teaching_guide.md"
PREFIX = "exercise-"  # of the ids of cells made here
_ANSWER = re.compile(r"^( *)### BEGIN SOLUTION\n(.*?)^ *### END SOLUTION\n?", re.M | re.S)

_UNSOLVED = """## Exercises

Write the functions in place of `raise NotImplementedError` and execute each with the cell below it, which says what is
wrong and, of typical mistakes, why. Solutions: [solutions/{stem}](solutions/{name})."""
_SOLVED = """# Solutions to the exercises of {stem}

The exercises with hints are at the end of [{stem}](../{name})."""


class Exercise(NamedTuple):
    """One exercise: Markdown, hints, code with the answer between its marks, typical mistakes as (part, instead)."""

    title: str
    text: str
    hints: list[str]
    code: str
    wrong: list[tuple[str, str]]

    @property
    def name(self) -> str:
        """The function that is asked for."""
        return re.search(r"^def (\w+)\(", self.code, re.M)[1]

    @property
    def stub(self) -> str:
        """The code that students get."""
        return _ANSWER.sub(r"\1raise NotImplementedError\n", self.code).strip()

    @property
    def solution(self) -> str:
        return _ANSWER.sub(r"\2", self.code).strip()

    def mutants(self) -> list[str]:
        """The answer with each of the typical mistakes in it."""
        return [self.solution.replace(part, instead) for part, instead in self.wrong]


class Source(NamedTuple):
    """What a file of docs/exercises holds; ``number`` of its notebook ("03")."""

    number: str
    setup: str
    exercises: list[Exercise]


def sources(only: Sequence[str] = ()) -> list[Source]:
    """All sources in order, or those of the numbers ``only``; :class:`FmucError` if there is none."""
    files = sorted(SOURCES.glob("[0-9][0-9].py"))
    files = [file for file in files if not only or file.stem in only]
    if not files:
        raise FmucError(f"no exercises NN.py under {paths.relative(SOURCES)}: run this from a whole checkout")
    return [read(file) for file in files]


def read(file: Path) -> Source:
    """The exercises of a source; :class:`FmucError` names the part that cannot be used."""
    setup, exercises = "", []
    parts = re.split(r"^# %% ", file.read_text(encoding="utf-8"), flags=re.M)
    if parts[0].strip():
        raise FmucError(f"{paths.relative(file)}: starts with text before its first '# %%' line: give it one")
    for part in parts[1:]:
        head, _, body = part.partition("\n")
        if head == "setup" and not setup:
            setup = body.strip()
        elif head.startswith("exercise: "):
            exercises.append(_exercise(file, head.removeprefix("exercise: "), body))
        elif head == "wrong" and exercises:
            exercises[-1].wrong.extend(_wrong(file, line, exercises[-1]) for line in body.splitlines() if line.strip())
        else:
            raise FmucError(f"{paths.relative(file)}: unknown part '# %% {head}': use setup, exercise: TITLE or wrong")
    return Source(file.stem, setup, exercises)


def _exercise(file: Path, title: str, body: str) -> Exercise:
    comments, code = re.fullmatch(r"((?:#[^\n]*\n)*)(.*)", body, re.S).groups()
    texts, hints = re.split(r"^# hint: ", comments, flags=re.M), []
    texts = [re.sub(r"^# ?", "", text, flags=re.M).strip() for text in texts]
    hints = [" ".join(text.split()) for text in texts[1:]]
    if not texts[0] or not hints or len(_ANSWER.findall(code)) != 1 or not re.search(r"^def \w+\(", code, re.M):
        raise FmucError(f"{paths.relative(file)}: {title!r} needs a text, a hint and one function with one answer "
                        "between '### BEGIN SOLUTION' and '### END SOLUTION'")
    return Exercise(title, texts[0], hints, code, [])


def _wrong(file: Path, line: str, exercise: Exercise) -> tuple[str, str]:
    part, arrow, instead = line.removeprefix("# ").partition(" => ")
    if not arrow or exercise.solution.count(part) != 1:
        raise FmucError(f"{paths.relative(file)}: {line!r} must be '# PART => INSTEAD' with a part that occurs once in "
                        f"the answer to {exercise.title!r}")
    return part, instead


def cells(source: Source, solved: bool) -> list[NotebookNode]:
    """The cells of all exercises, as stubs with hints or with their answers; ids are stable."""
    path, made = notebook(source), []
    for number, exercise in enumerate(source.exercises, 1):
        hints = [f"<details><summary>Hint {n}</summary>\n\n{hint}\n\n</details>"
                 for n, hint in enumerate(exercise.hints, 1)]
        parts = [f"{'##' if solved else '###'} {int(source.number)}.{number} {exercise.title}", exercise.text]
        made += [new_markdown_cell("\n\n".join(parts if solved else parts + hints)),
                 new_code_cell(exercise.solution if solved else exercise.stub),
                 new_code_cell(f"check({exercise.name})")]
    intro = _SOLVED if solved else _UNSOLVED
    made = [new_markdown_cell(intro.format(stem=path.stem, name=path.name)), new_code_cell(source.setup), *made]
    for place, cell in enumerate(made):
        cell.id = f"{PREFIX}{source.number}-{place:02}"
    return made


def notebook(source: Source) -> Path:
    """The notebook that the exercises belong to."""
    return notebook_files.find([f"{source.number}_"])[0]


def written(source: Source) -> dict[Path, NotebookNode]:
    """The notebook with its exercises and the notebook of solutions as they should be, by their paths.

    Outputs of cells that stay the same are kept.
    """
    path = notebook(source)
    whole, solutions = notebook_files.read(path), SOLUTIONS / path.name
    whole.cells = [c for c in whole.cells if not _is_ours(c)] + _merged(cells(source, solved=False), whole)
    old = notebook_files.read(solutions) if solutions.is_file() else new_notebook()
    metadata = {"kernelspec": notebook_files.KERNELSPEC, "language_info": {"name": "python"}}
    answers = new_notebook(cells=_merged(cells(source, solved=True), old), metadata=nbformat.from_dict(metadata))
    return {path: whole, solutions: answers}


def _is_ours(cell: NotebookNode) -> bool:
    return cell.get("id", "").startswith(PREFIX)


def _merged(new: list[NotebookNode], old: NotebookNode) -> list[NotebookNode]:
    known = {(cell.get("id"), cell.source): cell for cell in old.cells}
    return [known.get((cell.id, cell.source), cell) for cell in new]


def drifted(only: Sequence[str] = ()) -> list[str]:
    """Notebooks whose exercises differ from their source or lie elsewhere than at the end, and the guide if it does."""
    found = [paths.relative(path) for source in sources(only) for path, wanted in written(source).items()
             if not path.is_file() or notebook_files.read(path).cells != wanted.cells]
    return found if guide() == GUIDE.read_text(encoding="utf-8") else [*found, paths.relative(GUIDE)]


def write(only: Sequence[str] = ()) -> list[str]:
    """Bring all notebooks and the guide up to date; the paths of those that changed."""
    changed = drifted(only)
    SOLUTIONS.mkdir(exist_ok=True)
    for source in sources(only):
        for path, wanted in written(source).items():
            if paths.relative(path) in changed:
                _store(path, nbformat.writes(wanted) + "\n")
    if paths.relative(GUIDE) in changed:
        _store(GUIDE, guide())
    return changed


def guide() -> str:
    """The teaching guide with the list of what the checks explain."""
    parts = []
    for source in sources():
        lines = [f"- **{int(source.number)}.{number} {exercise.title}** (`{exercise.name}`)\n"
                 + "\n".join(f"    - {explanation}" for _, explanation in EXERCISES[exercise.name].mistakes)
                 for number, exercise in enumerate(source.exercises, 1)]
        parts.append(f"<details><summary>{notebook(source).stem}</summary>\n\n" + "\n".join(lines) + "\n\n</details>")
    return filled(GUIDE.read_text(encoding="utf-8"), {"mistakes": "\n\n".join(parts)})


def _store(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns its exit status, 1 where ``--check`` finds a notebook that differs."""
    parser = argparse.ArgumentParser(prog="python -m tools.exercises", description=__doc__.splitlines()[0])
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--check", action="store_true", help="refuse notebooks that differ from docs/exercises")
    mode.add_argument("--write", action="store_true", help="bring them up to date; other cells and outputs stay")
    parser.add_argument("--only", nargs="+", default=(), metavar="NN", help="numbers of notebooks (default: all)")
    args = parser.parse_args(arguments)
    try:
        changed = write(args.only) if args.write else drifted(args.only)
    except FmucError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.check and changed:
        print(f"error: not as in docs/exercises: {', '.join(changed)}: run 'python -m tools.exercises --write'",
              file=sys.stderr)
        return 1
    print(f"{len(changed)} files written" if args.write else "all exercises are as in docs/exercises")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
