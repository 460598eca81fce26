"""The device that a run computes on, and how precisely (paper §III names neither)."""

from __future__ import annotations

import torch

from fmuc.config import Run
from fmuc.errors import FmucError


def pick_device(device: str = "auto") -> torch.device:
    """``"auto"``: CUDA if there is one, else the CPU; :class:`FmucError` for a device that cannot be used."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise FmucError(f"the device {device!r} cannot be used ({reason}): choose auto, cpu or cuda") from None


def precision(run: Run, device: torch.device) -> str:
    """"float32" or "bfloat16"; "auto" is bfloat16 on CUDA and on CPUs that multiply it natively."""
    if run.training.precision != "auto":
        return run.training.precision
    native = torch.cpu.get_capabilities()
    fast = device.type == "cuda" or native.get("avx512_bf16", False) or native.get("amx_bf16", False)
    return "bfloat16" if fast else "float32"


def autocast(run: Run, device: torch.device) -> torch.autocast:
    """Autocast of the forward passes; weights, losses and the optimiser stay in float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision(run, device) == "bfloat16")
