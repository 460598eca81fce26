"""The project's frame: files that must agree with each other."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from functools import cache

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fmuc
from fmuc.experiments import PROFILES
from fmuc.machinery import notebooks
from fmuc.paths import ROOT, figures_dir

SYSTEMS = ({"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
           {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64"},
           {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"})
DOCS = sorted((ROOT / "docs").glob("*.md"))
PYTHONS = ("3.11.0", "3.11.9", "3.12.4", "3.13.1")


# --- dependencies ---


@cache
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def declared(*, test: bool = True) -> list[Requirement]:
    extras = project()["optional-dependencies"]
    added = [*extras["test"], *extras["book"]] if test else []
    return [Requirement(line) for line in (*project()["dependencies"], *added)]


def requirements(name: str) -> list[Requirement]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def ranges(listed: list[Requirement]) -> dict[str, str]:
    found = {canonicalize_name(r.name): str(r.specifier) for r in listed}
    assert len(found) == len(listed), "a name occurs twice"
    return found


def test_conda_environment_equals_the_project():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert conda["name"] == "fmuc"
    plain = [entry for entry in conda["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict)]
    assert "python=" + project()["requires-python"].removeprefix(">=") in plain
    assert "--editable ." in pip
    listed = ranges([Requirement(entry) for entry in pip if not entry.startswith("-")])
    assert listed == ranges([*declared(), *requirements("requirements-synth.txt")])


def test_lock_is_exact_and_free_of_places():
    for locked in requirements("requirements.lock"):
        assert [s.operator for s in locked.specifier] == ["=="]
        assert locked.url is None
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"^#|--|://|@|\.\./", text, re.M)


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: "-".join(system.values()))
def test_lock_satisfies_the_project(system, python):
    environment = {**default_environment(), **system, "python_full_version": python,
                   "python_version": python.rpartition(".")[0]}
    valid = [r for r in requirements("requirements.lock") if r.marker is None or r.marker.evaluate(environment)]
    locked = {name: specifier.removeprefix("==") for name, specifier in ranges(valid).items()}
    for wanted in declared():
        assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)]), wanted


def imported(folder: str) -> set[str]:
    """Top-level names of the third-party modules that the files below ``folder`` import."""
    names = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module)
    folders = {"benchmarks", "docs", "fmuc", "tests", "tools"}
    own = {path.stem for place in ("tests", "notebooks") for path in (ROOT / place).glob("*.py")} | folders
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - own


DISTRIBUTIONS = {"IPython": "ipython", "PIL": "pillow", "bs4": "beautifulsoup4", "sklearn": "scikit-learn",
                 "yaml": "pyyaml"}  # other names


@pytest.mark.parametrize("folder", ["fmuc", "benchmarks", "tools", "tests"])
def test_what_is_imported_is_declared(folder):
    listed = ranges([*declared(test=folder == "tests"), *requirements("requirements-synth.txt")])
    needed = {canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in imported(folder)}
    assert needed <= listed.keys()


# --- texts ---


def test_citation_and_changelog_name_this_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= cited.keys() and cited["version"] == fmuc.__version__
    assert f"## [{fmuc.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["README.md", "data/README.md", *(f"docs/{file.name}" for file in DOCS)])
def test_links_to_files_resolve(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    inline, html, reference = r"\]\(<?([^)\s>]+)", r"(?:src|href)=\"([^\"]+)\"", r"^\[[^\]]+\]:\s+(\S+)"
    for match in re.findall(f"{inline}|{html}|{reference}", text, re.M):
        target = next(filter(None, match))
        if not re.match(r"[a-z]+:|#", target):
            assert (ROOT / name).parent.joinpath(target.partition("#")[0]).exists(), f"{name}: {target}"


def test_the_guide_to_reliability_names_tests_that_exist():
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    missing = [name for name in re.findall(r"`(test_\w+)`", text) if f"def {name}(" not in tests]
    assert not missing + [name for name in re.findall(r"`(tests/\w+\.py)", text) if not (ROOT / name).is_file()]


def test_cited_deviations_are_listed():
    listed = re.findall(r"^- \*\*(D\d+),", (ROOT / "docs" / "deviations.md").read_text(encoding="utf-8"), re.M)
    assert listed == [f"D{number}" for number in range(1, len(listed) + 1)]
    files = (*DOCS, ROOT / "README.md", *(ROOT / "fmuc").rglob("*.py"))
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    texts |= {path: "\n".join(cell.source for cell in notebooks.read(path).cells) for path in notebooks.find()}
    for path, text in texts.items():
        assert set(re.findall(r"\bD\d+\b", text)) <= set(listed), path.name


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only in a checkout")
def test_git_ignores_what_a_user_makes():
    made = [ROOT / "build" / "book", ROOT / "data" / "runs" / "mini", ROOT / "data" / "birds", ROOT / "data" / ".numba",
            *(ROOT / "figures" / figures_dir(profile, source, name).name
              for profile in PROFILES for source in ("runs", "shipped") for name in ("", "birds"))]
    committed = [ROOT / "figures" / "mini" / "fig1.png", ROOT / "data" / "records" / "mini" / "a" / "run.json"]
    asked = [str(path / "file" if path in made else path) for path in (*made, *committed)]
    ignored = subprocess.run(["git", "check-ignore", *asked], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ignored.stdout.splitlines() == asked[: len(made)]


# --- make ---


def make(*arguments: str) -> subprocess.CompletedProcess:
    outer = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PROFILE", "PYTHON", "VENV")  # those of a `make test` around it
    environment = {name: value for name, value in os.environ.items() if name not in outer}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_make_passes_the_profile_on():
    assert "-m fmuc reproduce --profile smoke" in make("--dry-run", "reproduce", "PROFILE=smoke").stdout
    assert "-m fmuc figures --profile mini" in make("--dry-run", "figures").stdout


def test_set_up_refuses_an_old_python(tmp_path):
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    old.chmod(0o755)
    done = make("setup", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}")
    assert done.returncode == 2
    assert "older than Python 3.11" in done.stderr
    assert "PYTHON=python3.11" in done.stderr
