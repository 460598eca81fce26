"""Checkpoints: the state of a run after an epoch, in files that are there whole or not at all and prove their content.

``checkpoint-<epoch>.safetensors`` holds tensors and, as its one metadata entry ``fmuc``, JSON: whose they are, the
history, and a SHA-256 over all of it. The last two are kept: where the newest cannot be used, training goes on from the
one before and says so; where none can, it stops and says so, and nothing is deleted. Nothing here unpickles.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from fmuc.errors import FmucError
from fmuc.machinery.atomic import explained as explained
from fmuc.machinery.atomic import write_bytes
from fmuc.paths import relative

KEPT = 2  # checkpoints of an unfinished run
_ENTRY = "fmuc"
_FOREIGN = {"run": "it belongs to run {}", "data": "the data set or its labelled part has changed since",
            "code": "another version of the code made it"}


class Unusable(Exception):
    """A checkpoint that is damaged; the message says how."""


class Foreign(Unusable):
    """A whole checkpoint, but of something else."""


def files(folder: Path) -> list[Path]:
    """The checkpoints of a run, newest first: by the epoch in their names, whatever the clock said."""
    found = folder.glob("checkpoint-[0-9]*.safetensors")
    return sorted(found, key=lambda path: (len(path.name), path.name), reverse=True)


def read(path: Path, **expected: str) -> tuple[dict[str, Tensor], dict]:
    """Tensors and content of a file of :func:`write`, its SHA-256 checked; :class:`Unusable` says what is wrong.

    ``expected`` (``run``, ``data``, ``code``): what the content must say; else it is :class:`Foreign`.
    """
    try:
        data = path.read_bytes()  # not mapped: what was checked stays as it is, whatever becomes of the file
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        content = json.loads(header["__metadata__"][_ENTRY])
        checksum = content.pop("sha256")
    except Exception as error:  # whatever a damaged file leads to
        raise Unusable(f"it is damaged: {_reason(error)}") from None
    if checksum != _digest(tensors, content):
        raise Unusable("it does not hold what was written: its SHA-256 differs")
    for name, value in expected.items():
        if content.get(name) != value:
            raise Foreign(_FOREIGN[name].format(content.get(name)))
    return tensors, content


def write(path: Path, tensors: dict[str, Tensor], content: dict) -> None:
    """Write tensors (contiguous, on the CPU) and JSON content, whole or not at all."""
    sealed = content | {"sha256": _digest(tensors, content)}
    write_bytes(path, save(tensors, {_ENTRY: json.dumps(sealed)}))


def add(folder: Path, epoch: int, tensors: dict[str, Tensor], content: dict) -> None:
    """Write the checkpoint of an epoch; then all but this one and the one before are removed."""
    path = folder / f"checkpoint-{epoch:04d}.safetensors"
    write(path, tensors, content)
    listed = files(folder)
    first = listed.index(path)  # what seems newer could not be read: training went on from an older one
    for other in {*listed} - {*listed[first : first + KEPT]}:
        other.unlink(missing_ok=True)


def resume(folder: Path, restore: Callable[[dict[str, Tensor], dict], None], **expected: str) -> Path | None:
    """Give ``restore`` the newest checkpoint that can be used; returns its path, or None where there is none.

    A damaged one, or one that ``restore`` raises an error for, is passed over with one line on stderr. Raises
    :class:`FmucError` where none is left, and :class:`Foreign` where the newest is of another run or of other data.
    """
    problems = []
    for path in files(folder):
        try:
            restore(*read(path, **expected))
        except Foreign as error:
            raise Foreign(_problem(path, error)) from None
        except Exception as error:
            problems.append(_problem(path, error))
            continue
        if problems:
            print(f"fmuc: {'; '.join(problems)}: training goes on from {path.name}, the one before", file=sys.stderr)
        return path
    if problems:
        raise FmucError(f"{'; '.join(problems)}: delete {'it' if len(problems) == 1 else 'them'} to start again")
    return None


def keep_last(folder: Path) -> None:
    """Of a finished run: remove all checkpoints but the last, if that one can be read."""
    listed = files(folder)
    with suppress(Unusable):
        if len(listed) > 1:
            read(listed[0])
            for path in listed[1:]:
                path.unlink(missing_ok=True)


def state(net: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights, running statistics ("net. ...") and moments ("adam.<parameter>. ..."), on the CPU."""
    tensors = {f"net.{name}": value for name, value in net.state_dict().items()}
    for index, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{name}": value for name, value in moments.items()}
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def net_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The ``state_dict`` of the net among the tensors of a checkpoint."""
    return {name.removeprefix("net."): value for name, value in tensors.items() if name.startswith("net.")}


def restore(net: nn.Module, optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Inverse of :func:`state`; an error where the weights do not fit the net."""
    net.load_state_dict(net_state(tensors))
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("adam."):
            _, index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    for weights, part in optimiser.state.items():  # fused Adam walks through memory: one layout
        same = {name: value for name, value in part.items() if value.shape == weights.shape}
        part |= {name: torch.empty_like(weights).copy_(value) for name, value in same.items()}


def _digest(tensors: dict[str, Tensor], content: dict) -> str:
    digest = hashlib.sha256(json.dumps(content).encode())
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"\n{name} {value.dtype} {list(value.shape)} ".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _problem(path: Path, error: Exception) -> str:
    return f"{relative(path)}: cannot go on from it ({_reason(error)})"


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
