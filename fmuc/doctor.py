"""The command ``doctor``: what of this machine works for a profile, and the command that mends the rest.

It has to run where nothing else does: every library is imported by the check that needs it, and a check that fails in a
way nobody thought of is a line of the report, too.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path

from fmuc import experiments, paths
from fmuc.errors import FmucError

OK, TODO, NOTE, BROKEN = "ok", "to do", "note", "broken"
PYTHON = (3, 11)
GIGA = 1e9
_LIBRARIES = ("numpy", "scipy", "numba", "torch", "torchaudio", "librosa", "soundfile", "matplotlib", "tinysoundfont")
_INSTALL = "python -m pip install -r requirements.lock && python -m pip install --no-deps -r requirements-synth.txt"


@dataclass(frozen=True)
class Finding:
    """One line: what was looked at, how it is and what to do about it.

    ``state``: "ok"; "to do", which ``python -m fmuc reproduce`` does by itself; "note", without which everything works;
    "broken", without which something that the profile needs does not work. ``remedy``: a command, or empty.
    """

    item: str
    state: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.state:<6}  {self.item}: {self.text}{f'  ->  {self.remedy}' if self.remedy else ''}"


def examine(profile: str = "mini") -> list[Finding]:
    """Look at everything that a profile needs; :class:`FmucError` for an unknown profile and for nothing else."""
    experiments.presets(profile)
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("Python", python), ("packages", packages), ("libraries", libraries), ("Jupyter kernel", kernel),
        ("GPU", lambda: gpu(profile)), ("memory", lambda: memory(profile)), ("disk", lambda: disk(profile)),
    ]
    for name in experiments.presets(profile):
        checks.append((f"data {name}", lambda name=name: data(profile, name)))
    for source in ("shipped", "runs"):
        checks.append((f"records ({source})", lambda source=source: records(profile, source)))
    return [finding for item, check in checks for finding in _findings(item, check)]


def _findings(item: str, check: Callable[[], Iterator[Finding]]) -> list[Finding]:
    """The findings of a check, whatever happens in it."""
    found: list[Finding] = []
    try:
        found.extend(check())
    except ImportError as error:
        found.append(Finding(item, BROKEN, f"cannot be looked at ({_line(error)})", _INSTALL))
    except FmucError as error:
        found.append(Finding(item, BROKEN, _line(error)))
    except Exception as error:  # a report with a hole is better than none
        found.append(Finding(item, BROKEN, f"cannot be looked at ({type(error).__name__}: {_line(error)})"))
    return found


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def readable(findings: list[Finding]) -> str:
    """One line per finding."""
    return "\n".join(map(str, findings))


def plain(findings: list[Finding]) -> list[dict]:
    """Ready for JSON."""
    return [asdict(finding) for finding in findings]


# Machine and packages


def python() -> Iterator[Finding]:
    """The version of Python."""
    found, wanted = (".".join(map(str, version)) for version in (sys.version_info[:3], PYTHON))
    if sys.version_info[:2] >= PYTHON:
        yield Finding("Python", OK, f"{found} in {'a virtual' if sys.prefix != sys.base_prefix else 'no virtual'} "
                      "environment")
    else:
        yield Finding("Python", BROKEN, f"{found} is older than {wanted}", f"make setup PYTHON=python{wanted}")


def packages() -> Iterator[Finding]:
    """Installed packages beside the ranges of pyproject.toml and the versions of requirements.lock."""
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((paths.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [Requirement(line) for line in project["dependencies"]]
    needed += [Requirement(line) for line in _lines("requirements-synth.txt")]
    wrong = [problem for requirement in needed if (problem := _problem(requirement))]
    if wrong:
        yield Finding("packages", BROKEN, "; ".join(wrong), _INSTALL)
    else:
        yield Finding("packages", OK, f"all {len(needed)} that are needed, in the ranges of pyproject.toml")
    tests = [problem for line in project["optional-dependencies"]["test"] if (problem := _problem(Requirement(line)))]
    if tests:
        yield Finding("packages for tests", NOTE, "; ".join(tests), "python -m pip install -e '.[test]'")
    locked = [Requirement(line) for line in _lines("requirements.lock")]
    other = [problem for requirement in locked if (problem := _problem(requirement))]
    if other:
        text = f"{len(other)} of {len(locked)} differ from requirements.lock ({', '.join(other[:3])}, ...)"
        yield Finding("lock", NOTE, f"{text}: results may differ in the last digits", _INSTALL)
    else:
        yield Finding("lock", OK, "every package has the version of requirements.lock")


def _lines(name: str) -> list[str]:
    lines = (paths.ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _problem(requirement) -> str:
    """What is wrong with a required package here; empty if nothing."""
    if requirement.marker is not None and not requirement.marker.evaluate():
        return ""
    try:
        found = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(found.partition("+")[0], prereleases=True):
        return ""
    return f"{requirement.name} {found} is not {requirement.specifier}"


def libraries() -> Iterator[Finding]:
    """Whether the packages with compiled parts load, system libraries included."""
    broken, missing = [], []
    for name in _LIBRARIES:
        try:
            import_module(name)
        except ModuleNotFoundError as error:
            missing.append(name if error.name == name else f"{name} (needs {error.name})")
        except Exception as error:  # of the dynamic linker: OSError; of a half-installed package: anything
            broken.append(f"{name} does not load ({type(error).__name__}: {_line(error)})")
    if missing:
        yield Finding("libraries", BROKEN, f"missing: {', '.join(missing)}", _INSTALL)
    if broken:
        yield Finding("libraries", BROKEN, "; ".join(broken),
                      "python -m pip install --force-reinstall -r requirements.lock")
    if missing or broken:
        return
    yield Finding("libraries", OK, f"{', '.join(_LIBRARIES)} load; no system library beside them is needed")


def kernel() -> Iterator[Finding]:
    """The kernel that the notebooks name."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        spec = KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        spec = None
    if spec is None or not shutil.which(spec.argv[0]):
        problem = "there is none called python3" if spec is None else f"python3 starts {spec.argv[0]}, which is missing"
        yield Finding("Jupyter kernel", BROKEN, problem, "python -m ipykernel install --sys-prefix --name python3")
    else:
        yield Finding("Jupyter kernel", OK, "python3")


def gpu(profile: str) -> Iterator[Finding]:
    """What PyTorch finds to compute on."""
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            props = torch.cuda.get_device_properties(index)
            bf16 = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no bfloat16"
            yield Finding("GPU", OK, f"{props.name}, compute capability {props.major}.{props.minor}, "
                          f"{props.total_memory / GIGA:.1f} GB, {bf16}")
    elif shutil.which("nvidia-smi"):
        yield Finding("GPU", NOTE, f"this PyTorch ({torch.__version__}) cannot use the NVIDIA driver that is here",
                      "python -m pip install --force-reinstall -r requirements.lock")
    elif profile == "paper":
        yield Finding("GPU", NOTE, "none: the paper's scale takes very long without",
                      "python -m fmuc plan --profile paper")
    else:
        yield Finding("GPU", OK, f"none, and profile {profile} needs none")


def memory(profile: str) -> Iterator[Finding]:
    """Memory that is free beside what the profile's runs need at a time."""
    from fmuc import footprint
    from fmuc import parallel as schedule

    runs = experiments.plan(profile)
    largest = max(footprint.memory(next(run for run in runs if run.dataset == name), footprint.extent(name)).total
                  for name in experiments.presets(profile))
    workers, free, plan = schedule.default_workers(), free_memory(), f"python -m fmuc plan --profile {profile}"
    text = f"a run needs {largest / GIGA:.1f} GB, {workers} at a time"
    if free is None:
        yield Finding("memory", NOTE, f"{text}; how much is free is not known on this system", plan)
    elif free < largest:
        yield Finding("memory", BROKEN, f"{text}; {free / GIGA:.1f} GB are free: end other programs", plan)
    elif free < workers * largest:
        yield Finding("memory", NOTE, f"{text}; {free / GIGA:.1f} GB are free",
                      f"python -m fmuc train --profile {profile} --workers {int(free // largest)}")
    else:
        yield Finding("memory", OK, f"{text}; {free / GIGA:.1f} GB are free")


def free_memory() -> int | None:
    """Bytes that programs may still take; None where the system does not say."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        return int(re.search(r"^MemAvailable:\s+(\d+) kB", text, re.M)[1]) * 1024
    except (OSError, TypeError):
        return None


def disk(profile: str) -> Iterator[Finding]:
    """Room in the data folder beside what the profile still has to write there."""
    root = paths.data_root()
    place = next(folder for folder in (root, *root.parents) if folder.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        yield Finding("disk", BROKEN, f"{root} cannot be written", "export FMUC_DATA=FOLDER")
        return
    needed, free = still_to_write(profile), shutil.disk_usage(place).free
    text = f"{needed / GIGA:.1f} GB are still needed, {free / GIGA:.1f} GB are free in {paths.relative(root)}"
    if needed <= free:
        yield Finding("disk", OK, text)
    else:
        yield Finding("disk", BROKEN, f"{text}: make room or use another disk", "export FMUC_DATA=FOLDER")


def still_to_write(profile: str) -> int:
    """Bytes of sound, features and runs that are not there yet; archives of downloads not counted."""
    from fmuc import footprint
    from fmuc.records import is_finished

    total, folder = 0, paths.runs_dir(profile)
    for name, preset in experiments.presets(profile).items():
        runs = [run for run in experiments.plan(profile) if run.dataset == name]
        parts = footprint.disk(runs, footprint.extent(name))
        left = sum(not is_finished(folder / run.name) for run in runs) / len(runs)
        total += 0 if paths.dataset_dir(name).exists() else parts.sound
        total += 0 if paths.features_dir(name, preset.features.id).exists() else parts.features
        total += round(left * (parts.checkpoints + parts.records))
    return total


# Data and records


def data(profile: str, name: str) -> Iterator[Finding]:
    """Sound files and features of a data set."""
    from fmuc import datasets, footprint
    from fmuc.features import open_cache

    item, make = f"data {name}", f"python -m fmuc data {name}"
    stand_in = name in datasets.STAND_INS
    if not paths.dataset_dir(name).exists():
        yield Finding(item, TODO if stand_in else BROKEN, "not there", make)
        return
    force = f"{make} --force" if stand_in else make
    try:
        dataset = datasets.load(name)
    except FmucError as error:
        yield Finding(item, BROKEN, _line(error), force)
        return
    wanted = sum(footprint.extent(name).clips.values())
    if len(dataset.clips) != wanted:
        yield Finding(item, BROKEN, f"{len(dataset.clips):,} clips, not {wanted:,}", force)
    else:
        yield Finding(item, OK, f"{wanted:,} clips, every file there")
    extract = f"python -m fmuc features --profile {profile} --dataset {name}"
    features = experiments.preset(profile, name).features
    if not paths.features_dir(name, features.id).exists():
        yield Finding(f"features {name}", TODO, "not there", extract)
        return
    try:
        cache = open_cache(dataset, features)
    except FmucError as error:
        yield Finding(f"features {name}", BROKEN, _line(error).partition(": run 'python")[0], extract)
    else:
        yield Finding(f"features {name}", OK, f"{len(cache.patches):,} patches")


def records(profile: str, source: str) -> Iterator[Finding]:
    """How many of the profile's runs have a record, and whether each can be read."""
    from fmuc.records import is_finished, load_record

    folder, runs, damaged = paths.records_dir(profile, source), experiments.plan(profile), []
    if source == "shipped" and not folder.exists():
        yield Finding("records (shipped)", OK, f"none comes with the repository for profile {profile}")
        return
    present = [run for run in runs if is_finished(folder / run.name)]
    for run in present:
        try:
            load_record(folder / run.name)
        except FmucError as error:
            damaged.append(_line(error).partition(": delete")[0])
    item, text = f"records ({source})", f"{len(present) - len(damaged)} of {len(runs)} runs can be read"
    if damaged:
        remedy = (f"git checkout -- {paths.relative(folder)}" if source == "shipped" else
                  f"delete these folders, then: python -m fmuc train --profile {profile}")
        yield Finding(item, BROKEN, f"{text}; damaged: {'; '.join(damaged[:3])}", remedy)
    elif len(present) < len(runs):
        missing_shipped = source == "shipped"
        yield Finding(item, BROKEN if missing_shipped else TODO, text, f"git checkout -- {paths.relative(folder)}"
                      if missing_shipped else f"python -m fmuc train --profile {profile}")
    else:
        yield Finding(item, OK, text)
