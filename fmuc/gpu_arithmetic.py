"""What a step should take on a GPU that is not here: every operator's arithmetic and traffic against published peaks.

The network runs on the meta device, which knows shapes but holds no values, and every operator that it calls is noted
with its floating-point work and the bytes that it reads and writes. An operator takes at least the longer of
work / peak and bytes / bandwidth (the roofline, Williams et al. 2009). Reading patches, the two views and the losses
are left out: a few per cent of the traffic. Nothing here is measured; the assumptions are the constants below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from fmuc.calibration import Kind, Speed, kinds
from fmuc.config import Run
from fmuc.model import CNN420, parameter_count
from fmuc.train import as_images
from fmuc.uncertainty import weak_logits

# Assumed, not measured. Convolutions of 16 to 128 channels fill a tensor core badly, and an operator of a few
# megabytes does not reach the bandwidth of a long copy. Launches are issued by Python, one after the other.
ARITHMETIC_SHARE = 0.4  # of the peak, where arithmetic is the limit
BANDWIDTH_SHARE = 0.6  # of the published bandwidth, where memory is the limit
LAUNCH_SECONDS = 10e-6  # of the host for each operator; runs beside the GPU's work
START_SECONDS = 20.0  # of a run: start of Python and CUDA, patches to the GPU
ADAM_TRAFFIC = 7 * 4  # bytes per parameter of a fused step: read weight, gradient, two moments; write the last three
EVALUATION_BATCH = 512


@dataclass(frozen=True)
class GPU:
    """Published peaks: ``flops`` bfloat16 with float32 sums, dense, per s; ``bandwidth`` bytes per s."""

    name: str
    flops: float
    bandwidth: float


GPUS = (
    # NVIDIA H100 Tensor Core GPU data sheet, SXM5: 1,979 TFLOP/s with sparsity, half of it dense; 3.35 TB/s.
    GPU("H100 SXM", 989e12, 3.35e12),
    # NVIDIA's table of GeForce laptop GPUs: 3,072 CUDA cores (24 multiprocessors), boost clock 1,470 MHz at 35 W (2,370
    # at 115 W), 128 bit at 16 Gbit/s. NVIDIA Ada white paper: a multiprocessor of a GeForce does 512 FLOP a clock in
    # dense bfloat16 with float32 sums (RTX 4090: 165 TFLOP/s from 128 of them at 2,520 MHz). The lowest clock is taken.
    GPU("RTX 4060 Laptop", 24 * 512 * 1470e6, 128 / 8 * 16e9),
)


class Operator(NamedTuple):
    """One call: floating-point operations and bytes read and written."""

    flop: float
    traffic: float


class Work(NamedTuple):
    """Operators of a step in order; ``saved`` bytes that its training pass keeps for the backward pass."""

    operators: tuple[Operator, ...]
    saved: float = 0

    @property
    def flop(self) -> float:
        return sum(operator.flop for operator in self.operators)

    @property
    def traffic(self) -> float:
        return sum(operator.traffic for operator in self.operators)

    @property
    def intensity(self) -> float:
        """Floating-point operations per byte."""
        return self.flop / self.traffic


class _Tally(TorchDispatchMode):
    """Notes every operator that computes; views and allocations are free."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[Operator] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        aliases = [result.alias_info for result in func._schema.returns]
        if any(a is not None and not a.is_write for a in aliases) or "empty" in func.name():
            return out
        formula = flop_registry.get(func.overloadpacket)
        flop = formula(*args, **(kwargs or {}), out_val=out) if formula else 0
        read, written = (sum(t.nbytes for t in tree_leaves(part) if isinstance(t, Tensor)) for part in (args, out))
        # statistics of a batch, and their gradient, are complete before the first value can be changed by them
        twice = func.overloadpacket in (torch.ops.aten.native_batch_norm, torch.ops.aten.native_batch_norm_backward)
        training = next((a for a in args if isinstance(a, bool)), False)
        self.operators.append(Operator(flop, (2 if twice and training else 1) * read + written))
        return out


class _FusedDropout(nn.Dropout):
    """Dropout as the one kernel that it is on a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.native_dropout(x, self.p, self.training)[0] if self.training else x


def _network(run: Run, classes: int) -> CNN420:
    """The run's network in bfloat16 on the meta device, as autocast computes on a GPU."""
    with torch.device("meta"):
        net = CNN420(classes, run.network)
    for module in list(net.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                setattr(module, name, _FusedDropout(child.p))
    return net.to(torch.bfloat16).to(memory_format=torch.channels_last)


def _patches(run: Run, count: int) -> Tensor:
    shape = (count, run.features.mel_bands, run.features.patch_frames)
    return as_images(torch.empty(shape, dtype=torch.bfloat16, device="meta"))


def prediction_work(run: Run, classes: int, patches: int) -> Work:
    """A forward pass of ``patches`` without gradient or dropout."""
    return _weak_work(run, classes, patches, 0)


def _weak_work(run: Run, classes: int, patches: int, passes: int) -> Work:
    net, batch_norm = _network(run, classes), run.selection.batch_norm if run.selection else "running"
    with _Tally() as tally:
        weak_logits(net, _patches(run, patches), passes, batch_norm)
    return Work(tuple(tally.operators))


def training_work(run: Run, classes: int, patches: int) -> Work:
    """A forward pass of ``patches``, its backward pass and the step of Adam."""
    net, kept = _network(run, classes).train(), {}
    weights = {p.untyped_storage()._cdata for p in net.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # itself, so that no other storage gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), _Tally() as tally:
        net(_patches(run, patches)).sum().backward()
    adam = Operator(0, ADAM_TRAFFIC * parameter_count(net))
    return Work((*tally.operators, adam), sum(storage.nbytes() for storage in kept.values()))


@lru_cache(maxsize=64)
def step_work(run: Run, classes: int) -> Work:
    """One step: the passes of the weak view as our code makes them, the training pass and Adam."""
    training, selection = run.training, run.selection
    if selection is None:
        return training_work(run, classes, training.supervised_batch)
    weak = _weak_work(run, classes, training.unlabelled_batch, selection.passes)
    learn = training_work(run, classes, training.labelled_batch + training.unlabelled_batch)
    return Work(weak.operators + learn.operators, learn.saved)


def seconds(work: Work, gpu: GPU) -> tuple[float, str]:
    """Expected seconds on ``gpu`` and what limits them: "arithmetic", "memory" or "launches"."""
    limits = {"arithmetic": 0.0, "memory": 0.0}
    for operator in work.operators:
        arithmetic = operator.flop / (ARITHMETIC_SHARE * gpu.flops)
        memory = operator.traffic / (BANDWIDTH_SHARE * gpu.bandwidth)
        limits["arithmetic" if arithmetic > memory else "memory"] += max(arithmetic, memory)
    computing, launching = sum(limits.values()), len(work.operators) * LAUNCH_SECONDS
    return (launching, "launches") if launching > computing else (computing, max(limits, key=limits.get))


def assumptions() -> dict[str, object]:
    """The constants that are assumed, and the published ones of each GPU."""
    return {"arithmetic_share": ARITHMETIC_SHARE, "bandwidth_share": BANDWIDTH_SHARE, "launch_seconds": LAUNCH_SECONDS,
            "start_seconds": START_SECONDS, "gpus": [asdict(gpu) for gpu in GPUS]}


def expected_speed(runs: Sequence[Run], classes: Mapping[str, int], gpu: GPU) -> Speed:
    """What :func:`fmuc.calibration.measure` would measure on ``gpu``, expected."""
    steps: dict[Kind, float] = {}
    patches: dict[str, float] = {}
    for kind, run in kinds(runs).items():
        steps[kind] = seconds(step_work(run, classes[run.dataset]), gpu)[0]
        if run.dataset not in patches:
            work = prediction_work(run, classes[run.dataset], EVALUATION_BATCH)
            patches[run.dataset] = seconds(work, gpu)[0] / EVALUATION_BATCH
    return Speed(steps, patches, START_SECONDS, 1, gpu.name)
