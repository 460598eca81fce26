"""The command ``plan``: runs of Tables I and II, their work, memory, disk and time, here and on a GPU."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType

import pandas as pd
from tabulate import tabulate

from fmuc import calibration, experiments, footprint, forecast, gpu_arithmetic
from fmuc import parallel as schedule
from fmuc.calibration import Speed
from fmuc.config import Run
from fmuc.footprint import Extent
from fmuc.gpu_arithmetic import GPU, GPUS

GIGA, HOUR, WIDTH = 1e9, 3600, 100


@dataclass(frozen=True, eq=False)
class Plan:
    """What a profile's runs are and cost. ``variants``, ``memory``, ``disk``, ``steps`` (on GPUs) and ``hours`` (on
    GPUs) are tables; ``speed`` what was measured, None without a forecast; ``left`` seconds of each run to train."""

    profile: str
    runs: list[dict]
    variants: pd.DataFrame
    memory: pd.DataFrame
    disk: pd.DataFrame
    steps: pd.DataFrame
    hours: pd.DataFrame
    speed: Speed | None
    workers: int
    seconds: list[float]
    left: list[float]

    def asdict(self) -> dict:
        """Everything, ready for JSON."""
        tables = {name: getattr(self, name).to_dict("records")
                  for name in ("variants", "memory", "disk", "steps", "hours")}
        tables["gpu_steps"], tables["gpu_hours"] = tables.pop("steps"), tables.pop("hours")
        measured = None
        if self.speed is not None:
            steps = [{"data set": name, "passes": passes, "seconds": seconds}
                     for (name, passes), seconds in self.speed.steps.items()]
            measured = {**asdict(self.speed), "steps": steps,
                        "hours": forecast.until_the_end(self.seconds, self.workers, self.speed) / HOUR,
                        "hours_left": forecast.until_the_end(self.left, self.workers, self.speed) / HOUR}
        return {"profile": self.profile, "workers": self.workers, "runs": self.runs, **tables, "measured": measured,
                "gpu_assumptions": gpu_arithmetic.assumptions()}


def make(profile: str, dataset: str | None = None, *, device: str = "auto", workers: int | None = None,
         measured: bool = True, progress: bool = True) -> Plan:
    """The plan of a profile, or of one data set of it; ``measured``: with a forecast from steps timed here."""
    runs = experiments.plan(profile, dataset)
    sizes = {name: footprint.extent(name) for name in dict.fromkeys(run.dataset for run in runs)}
    classes = {name: size.classes for name, size in sizes.items()}
    workers = schedule.default_workers(device) if workers is None else workers
    speed = calibration.measure(runs, classes, device=device, workers=workers, progress=progress) if measured else None
    seconds = forecast.run_seconds(runs, sizes, speed) if speed else []
    missing = {run.id for run in schedule.missing(runs, profile)}
    left = [duration for run, duration in zip(runs, seconds, strict=False) if run.id in missing]
    listed = [{"run": run.name, "dataset": run.dataset, "variant": run.variant, "seed": run.seed,
               "epochs": run.training.epochs, "steps": run.training.epochs * run.training.iterations_per_epoch,
               "finished": run.id not in missing} for run in runs]
    return Plan(profile, listed, variants(runs, classes, missing, speed, seconds), memory_table(runs, sizes),
                disk_table(runs, sizes), gpu_steps(runs, classes), gpu_hours(profile, dataset, runs, sizes),
                speed, workers, seconds, left)


def variants(runs: Sequence[Run], classes: Mapping[str, int], missing: set[str], speed: Speed | None = None,
             seconds: Sequence[float] = ()) -> pd.DataFrame:
    """A row for each data set and variant, in the order of the plan; ``speed`` and ``seconds`` of each run add time."""
    rows = []
    for i, run in enumerate(runs):
        row = {"data set": run.dataset, "variant": run.variant, "epochs": run.training.epochs, "runs": 1,
               "done": int(run.id not in missing), "steps": run.training.epochs * run.training.iterations_per_epoch,
               "GFLOP a step": gpu_arithmetic.step_work(plain(run), classes[run.dataset]).flop / GIGA}
        if speed is not None:
            row |= {"ms a step": 1000 * speed.steps[calibration.kind(run)], "hours": seconds[i] / HOUR}
        rows.append(row)
    sums = dict.fromkeys(("runs", "done", "steps", "hours"), "sum")
    how = {name: sums.get(name, "first") for name in rows[0] if name not in ("data set", "variant", "epochs")}
    return pd.DataFrame(rows).groupby(["data set", "variant", "epochs"], sort=False).agg(how).reset_index()


def plain(run: Run) -> Run:
    """The run with what its arithmetic depends on, so that equal work is counted once."""
    selection = run.selection and replace(experiments.FM, passes=run.selection.passes)
    return replace(run, variant="", seed=0, labels="part", selection=selection,
                   training=replace(run.training, epochs=1))


def memory_table(runs: Sequence[Run], sizes: Mapping[str, Extent]) -> pd.DataFrame:
    """Gigabytes of a semi-supervised run on the CPU, by data set."""
    rows = []
    for name, size in sizes.items():
        needed = footprint.memory(next(run for run in runs if run.dataset == name), size)
        parts = {part: value / GIGA for part, value in needed._asdict().items()}
        rows.append({"data set": name, **parts, "a run": needed.total / GIGA})
    return pd.DataFrame(rows)


def disk_table(runs: Sequence[Run], sizes: Mapping[str, Extent]) -> pd.DataFrame:
    """Gigabytes on the disk, by data set."""
    rows = []
    for name, size in sizes.items():
        needed = footprint.disk([run for run in runs if run.dataset == name], size)
        parts = {part: value / GIGA for part, value in needed._asdict().items()}
        rows.append({"data set": name, "clips": sum(size.clips.values()), **parts, "together": sum(needed) / GIGA})
    return pd.DataFrame(rows)


def gpu_steps(runs: Sequence[Run], classes: Mapping[str, int], gpus: Sequence[GPU] = GPUS) -> pd.DataFrame:
    """Arithmetic and traffic of a step of each kind, and the milliseconds expected of it on each GPU."""
    rows = []
    for (name, passes), run in calibration.kinds(runs).items():
        work = gpu_arithmetic.step_work(plain(run), classes[name])
        label = "supervised" if passes is None else f"FMUC, N = {passes}" if passes else "FM"
        row = {"data set": name, "step": label, "GFLOP": work.flop / GIGA, "GB moved": work.traffic / GIGA,
               "FLOP/byte": work.intensity, "activations (GB)": footprint.WORKING * work.saved / GIGA}
        for gpu in gpus:
            seconds, limit = gpu_arithmetic.seconds(work, gpu)
            row |= {f"{gpu.name} (ms)": 1000 * seconds, f"{gpu.name} limit": limit}
        rows.append(row)
    return pd.DataFrame(rows)


def gpu_hours(profile: str, dataset: str | None, runs: Sequence[Run], sizes: Mapping[str, Extent],
              gpus: Sequence[GPU] = GPUS) -> pd.DataFrame:
    """Hours expected of Table I, of Table II and of the plan, in which they share runs, one run after another."""
    classes, rows = {name: size.classes for name, size in sizes.items()}, []
    speeds = {gpu.name: gpu_arithmetic.expected_speed([plain(run) for run in runs], classes, gpu) for gpu in gpus}
    for name, preset in experiments.chosen(profile, dataset).items():
        mine = [run for run in runs if run.dataset == name]
        short = [replace(run, training=replace(run.training, epochs=preset.training.epochs)) for run in mine
                 if run.variant in experiments.TABLE_1 and run.seed == preset.seeds[0]]
        long = [run for run in mine if run.variant in experiments.TABLE_2]
        parts = {"Table I": short, "Table II": long, "both": mine}
        for gpu, speed in speeds.items():
            rows.append({"data set": name, "GPU": gpu, **{
                part: sum(forecast.run_seconds(chosen, sizes, speed)) / HOUR for part, chosen in parts.items()}})
    return pd.DataFrame(rows)


def readable(plan: Plan) -> str:
    """The plan as text of at most 100 columns."""
    finished = sum(run["finished"] for run in plan.runs)
    parts = [f"Profile {plan.profile}: {len(plan.runs)} runs, {finished} finished; GFLOP and ms are those of a step",
             _table(_with_sum(plan.variants), names={"GFLOP a step": "GFLOP", "ms a step": "ms"}),
             _forecast_text(plan),
             f"Memory of a run on the CPU in GB, by formula (patches 0: read from the disk); {plan.workers} at a time",
             _table(plan.memory), "Disk in GB (records: at most)", _table(plan.disk),
             "Expected on a GPU, not measured:", _assumed(), _table(plan.steps.iloc[:, :6], "pipe"),
             _table(plan.steps.drop(columns=plan.steps.columns[2:6]), "pipe", {f"{gpu.name} limit": "limit"
                                                                               for gpu in GPUS}),
             "Hours, one run after another (both: the tables share runs):", _table(_hours_with_sum(plan.hours), "pipe")]
    return "\n\n".join(parts)


def _forecast_text(plan: Plan) -> str:
    if plan.speed is None:
        return "No forecast: nothing was measured."
    one, all_runs, rest = (duration(seconds) for seconds in (
        sum(plan.seconds), *(forecast.until_the_end(part, plan.workers, plan.speed)
                             for part in (plan.seconds, plan.left))))
    return textwrap.fill(f"Forecast from steps timed here ({plan.speed.device}, {plan.workers} at a time): {all_runs} "
                         f"for all runs ({one} of computing), {rest} for the {len(plan.left)} that are left. Warm "
                         "starts, evaluations and start-up are in the hours.", WIDTH)


def duration(seconds: float) -> str:
    """Seconds in the largest unit of which there are two."""
    for unit, size in (("days", 86400), ("h", HOUR), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _assumed() -> str:
    given = gpu_arithmetic.assumptions()
    peaks = "; ".join(f"{gpu.name} {gpu.flops / 1e12:.0f} TFLOP/s dense bfloat16, {gpu.bandwidth / GIGA:,.0f} GB/s"
                      for gpu in GPUS)
    return textwrap.fill(f"Published peaks: {peaks}. Assumed of them: {given['arithmetic_share']:.0%} of the "
                         f"arithmetic, {given['bandwidth_share']:.0%} of the bandwidth; "
                         f"{1e6 * given['launch_seconds']:.0f} µs to launch an operator.", WIDTH)


def _with_sum(frame: pd.DataFrame) -> pd.DataFrame:
    together = {"data set": "together"} | {name: frame[name].sum() for name in ("runs", "done", "steps", "hours")
                                           if name in frame}
    frame = pd.concat([frame, pd.DataFrame([together])], ignore_index=True)
    if "hours" in frame and together["hours"] < 10:
        frame = frame.assign(hours=60 * frame["hours"]).rename(columns={"hours": "minutes"})
    return frame


def _hours_with_sum(frame: pd.DataFrame) -> pd.DataFrame:
    sums = frame.groupby("GPU", sort=False)[["Table I", "Table II", "both"]].sum().reset_index()
    return pd.concat([frame, sums.assign(**{"data set": "together"})], ignore_index=True)


def _table(frame: pd.DataFrame, style: str = "simple", names: Mapping[str, str] = MappingProxyType({})) -> str:
    """Whole numbers with commas, others with three digits, nothing for what does not exist; ``names`` of columns."""
    def cell(value: object) -> str:
        if isinstance(value, str):
            return value
        if pd.isna(value):
            return ""
        whole = float(value).is_integer() or abs(value) >= 100
        return f"{value:,.0f}" if whole else f"{value:.3g}"

    numeric = [pd.api.types.is_numeric_dtype(frame[column]) for column in frame]
    header = [names.get(column, column) for column in frame]
    return tabulate([[cell(value) for value in row] for row in frame.to_numpy(dtype=object)], header, style,
                    disable_numparse=True, colalign=["right" if number else "left" for number in numeric])
