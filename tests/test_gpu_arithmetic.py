"""Work and traffic of a step against hand formulas, and the roofline against its definition."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fmuc import experiments, gpu_arithmetic
from fmuc.config import Run
from fmuc.gpu_arithmetic import GPU, GPUS, Operator, Work, seconds
from fmuc.model import CNN420, parameter_count


def forward_flop(run: Run, classes: int) -> tuple[int, int]:
    """Of the stem and of the rest, per patch: two operations for each weight at each output position."""
    network, sides = run.network, (run.features.mel_bands, run.features.patch_frames)

    def conv(kernel: int, stride: int, padding: int, inputs: int, outputs: int) -> int:
        nonlocal sides
        sides = tuple((side + 2 * padding - kernel) // stride + 1 for side in sides)
        return 2 * kernel**2 * inputs * outputs * sides[0] * sides[1]

    kernel, stride = network.stem
    stem, rest, channels = conv(kernel, stride, kernel // 2, 1, network.widths[0]), 0, network.widths[0]
    for stage, (width, blocks) in enumerate(zip(network.widths, network.blocks, strict=True)):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            rest += conv(3, stride, 1, channels, width) + conv(3, 1, 1, width, width)
            rest += 2 * channels * width * sides[0] * sides[1] if stride > 1 or channels != width else 0
            channels = width
    return stem, rest + 2 * channels * classes


@pytest.mark.parametrize(("profile", "dataset"), [("paper", "nsynth"), ("paper", "tut2017"), ("mini", "nsynth-gm")])
def test_work_of_a_step_is_the_hand_formula(profile, dataset):
    for variant in ("FM", "FMUC", "Fully supervised"):
        run = experiments.make_run(profile, dataset, variant)
        stem, rest = forward_flop(run, 11)
        training = run.training
        trained = training.labelled_batch + training.unlabelled_batch if run.selection else training.supervised_batch
        flop = trained * (3 * (stem + rest) - stem)  # nobody asks for the gradient of the patches
        if run.selection:
            stems, passes = {1, max(run.selection.passes, 1)}, max(run.selection.passes, 1)
            known = {flop + training.unlabelled_batch * (first * stem + passes * rest) for first in stems}
            assert gpu_arithmetic.step_work(run, 11).flop in known  # the passes may share one stem
        else:
            assert gpu_arithmetic.step_work(run, 11).flop == flop


def test_work_and_traffic_grow_with_the_batch():
    run = experiments.make_run("paper", "nsynth", "FM")
    few, many = (gpu_arithmetic.training_work(run, 11, patches) for patches in (8, 16))
    assert many.flop == 2 * few.flop and many.saved / few.saved == pytest.approx(2, rel=0.1)
    assert len(many.operators) == len(few.operators)
    assert many.traffic - few.traffic == pytest.approx(few.traffic, rel=0.3)  # the weights' share is the same


def test_traffic_is_what_an_operator_reads_and_writes():
    run = experiments.make_run("paper", "nsynth", "FM")
    patch, stem, weights = 64 * 128 * 126 * 2, 64 * 16 * 64 * 63 * 2, 7 * 7 * 16 * 2  # bytes
    operators = gpu_arithmetic.prediction_work(run, 11, 64).operators
    assert operators[0] == (2 * 64 * 49 * 16 * 64 * 63, patch + weights + stem)
    assert operators[1] == (0, 2 * stem)  # ReLU
    learned = gpu_arithmetic.training_work(run, 11, 64).operators
    assert any(3 * stem < o.traffic < 3.01 * stem for o in learned)  # BatchNorm reads twice where it learns
    assert not any(3 * stem < o.traffic < 3.01 * stem for o in operators[:4])


def test_adam_moves_every_parameter_seven_times():
    run = experiments.make_run("mini", "nsynth-gm", "FM")
    last = gpu_arithmetic.training_work(run, 11, 4).operators[-1]
    assert last == (0, 7 * 4 * parameter_count(CNN420(11, run.network)))


def test_the_roofline_takes_the_longer_of_work_and_traffic(monkeypatch):
    for name, value in (("ARITHMETIC_SHARE", 0.5), ("BANDWIDTH_SHARE", 0.25), ("LAUNCH_SECONDS", 0.1)):
        monkeypatch.setattr(gpu_arithmetic, name, value)
    gpu = GPU("slow", flops=100, bandwidth=40)  # 50 and 10 a second
    assert seconds(Work((Operator(100, 5), Operator(0, 10))), gpu) == (3.0, "arithmetic")
    assert seconds(Work((Operator(50, 5), Operator(0, 20))), gpu) == (3.0, "memory")
    assert seconds(Work((Operator(1, 0.1),) * 10), gpu) == (1.0, "launches")


def test_expected_speed_has_every_kind_and_a_slower_gpu_is_slower():
    runs = experiments.plan("mini", "nsynth-gm")
    fast, slow = (gpu_arithmetic.expected_speed(runs, {"nsynth-gm": 11}, gpu) for gpu in GPUS)
    assert set(fast.steps) == {("nsynth-gm", 5), ("nsynth-gm", 0), ("nsynth-gm", None)}
    assert all(fast.steps[kind] <= slow.steps[kind] for kind in fast.steps)
    crawl = replace(GPUS[1], flops=1e9, bandwidth=1e9)
    assert gpu_arithmetic.expected_speed(runs, {"nsynth-gm": 11}, crawl).steps["nsynth-gm", 0] > 1
