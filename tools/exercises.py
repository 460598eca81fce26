"""Writes the exercises of ``docs/exercises`` (see :mod:`fmuc.teaching.exercises`) where they are read.

``--write`` puts the exercises, without their answers, at the end of each notebook, a notebook with the answers into
notebooks/solutions, what the checks explain into docs/mistakes.md, and the numbers of the cells that it names into
docs/teaching_guide.md; ``--check`` ends with exit status 1 if one of them says something else.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from fmuc import paths
from fmuc.errors import FmucError
from fmuc.machinery import notebooks
from fmuc.teaching.exercises import Exercise, sources
from tools.outputs import KERNELSPEC, write_file
from tools.readme import filled

SOLUTIONS = paths.NOTEBOOKS / "solutions"
GUIDE, MISTAKES = (paths.ROOT / "docs" / name for name in ("teaching_guide.md", "mistakes.md"))
CELL = re.compile(r"\[(\d\d)\[\d+\] ([^]]+)\](?=\(\.\./notebooks/\1_)")  # [01[6] Heading](../notebooks/01_...)
PREFIX = "exercise-"  # of the ids of cells made here

_UNSOLVED = """## Exercises

Write the functions in place of `raise NotImplementedError` and execute each with the cell below it, which says what is
wrong and, of typical mistakes, why. Solutions: [solutions/{stem}](solutions/{name})."""
_SOLVED = """# Solutions to the exercises of {stem}

The exercises with hints are at the end of [{stem}](../{name})."""


def cells(number: str, exercises: Sequence[Exercise], solved: bool) -> list[NotebookNode]:
    """The cells of a notebook's exercises, as stubs with hints or with their answers; ids are stable."""
    path, made = notebook(number), []
    for place, exercise in enumerate(exercises, 1):
        hints = [f"<details><summary>Hint {n}</summary>\n\n{hint}\n\n</details>"
                 for n, hint in enumerate(exercise.hints, 1)]
        parts = [f"{'##' if solved else '###'} {int(number)}.{place} {exercise.title}", exercise.text]
        made += [new_markdown_cell("\n\n".join(parts if solved else parts + hints)),
                 new_code_cell(exercise.solution if solved else exercise.stub),
                 new_code_cell(f"check({exercise.name})")]
    intro = (_SOLVED if solved else _UNSOLVED).format(stem=path.stem, name=path.name)
    made = [new_markdown_cell(intro), new_code_cell(exercises[0].setup), *made]
    for place, cell in enumerate(made):
        cell.id = f"{PREFIX}{number}-{place:02}"
    return made


def notebook(number: str) -> Path:
    """The notebook of a number."""
    return notebooks.find([f"{number}_"])[0]


def wanted() -> dict[Path, str]:
    """Each notebook with its exercises, each notebook of solutions and both pages as they should be.

    Outputs of cells that stay the same are kept.
    """
    found = {}
    for number, exercises in sources().items():
        path = notebook(number)
        whole, solutions = notebooks.read(path), SOLUTIONS / path.name
        stubs = _merged(cells(number, exercises, solved=False), whole)
        whole.cells = [cell for cell in whole.cells if not cell.get("id", "").startswith(PREFIX)] + stubs
        old = notebooks.read(solutions) if solutions.is_file() else new_notebook()
        metadata = {"kernelspec": KERNELSPEC, "language_info": {"name": "python"}}
        answers = new_notebook(cells=_merged(cells(number, exercises, solved=True), old),
                               metadata=nbformat.from_dict(metadata))
        found |= {path: nbformat.writes(whole) + "\n", solutions: nbformat.writes(answers) + "\n"}
    guide, mistakes = (page.read_text(encoding="utf-8") for page in (GUIDE, MISTAKES))
    return found | {GUIDE: numbered(guide), MISTAKES: filled(mistakes, {"mistakes": _explanations()})}


def _merged(new: list[NotebookNode], old: NotebookNode) -> list[NotebookNode]:
    known = {(cell.get("id"), cell.source): cell for cell in old.cells}
    return [known.get((cell.id, cell.source), cell) for cell in new]


def numbered(text: str) -> str:
    """References to cells, "[01[6] Heading]", with the number of the cell that has the heading; else FmucError."""
    def place(match: re.Match) -> str:
        path, heading = notebook(match[1]), re.escape(match[2])
        found = [n for n, cell in enumerate(notebooks.read(path).cells) if cell.cell_type == "markdown"
                 and re.search(rf"^#+ (\d+\. )?{heading}$", cell.source, re.M)]
        if len(found) != 1:
            raise FmucError(f"{paths.relative(path)} has {len(found) or 'no'} cells with the heading {match[2]!r}")
        return f"[{match[1]}[{found[0]}] {match[2]}]"

    return CELL.sub(place, text)


def _explanations() -> str:
    parts = []
    for number, exercises in sources().items():
        lines = [f"- **{int(number)}.{place} {exercise.title}** (`{exercise.name}`)\n"
                 + "\n".join(f"    - {explanation}" for *_, explanation in exercise.wrong if explanation)
                 for place, exercise in enumerate(exercises, 1)]
        parts.append(f"<details><summary>{notebook(number).stem}</summary>\n\n" + "\n".join(lines) + "\n\n</details>")
    return "\n\n".join(parts)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns its exit status, 1 where ``--check`` finds a notebook that differs."""
    parser = argparse.ArgumentParser(prog="python -m tools.exercises", description=__doc__.splitlines()[0])
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--check", action="store_true", help="refuse what differs from docs/exercises")
    mode.add_argument("--write", action="store_true", help="bring them up to date; other cells and outputs stay")
    args = parser.parse_args(arguments)
    changed = {path: text for path, text in wanted().items()
               if not path.is_file() or path.read_text(encoding="utf-8") != text}
    if args.write:
        SOLUTIONS.mkdir(exist_ok=True)
        for path, text in changed.items():
            write_file(path, text)
        print(f"{len(changed)} files written")
    elif changed:
        print(f"error: not as in docs/exercises: {', '.join(map(paths.relative, changed))}: run 'python -m "
              "tools.exercises --write'", file=sys.stderr)
    return int(args.check and bool(changed))


if __name__ == "__main__":
    raise SystemExit(main())
