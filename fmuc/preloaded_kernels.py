"""Kernels that are forked from a process which has done the imports, for a batch of many notebooks on Linux.

Starting a kernel and importing Matplotlib, pandas and PyTorch takes seconds of computing in each notebook. Here
multiprocessing's fork server does it once for each worker of the batch. A kernel is a process of its own all the same,
with its own directory, environment and namespace. Nothing that is imported beforehand starts threads or touches a GPU,
which a fork would not survive; on macOS the system's own libraries do, so there Jupyter's usual kernels are used.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from importlib.metadata import entry_points
from pathlib import Path

from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.provisioning import KernelProvisionerFactory, LocalProvisioner

from fmuc.process_pool import IMPORTS

NAME = "fmuc-preloaded"  # of the entry point in pyproject.toml
MODULES = ("ipykernel.kernelapp", "matplotlib.pyplot", "fmuc.figures", "fmuc.tables", "fmuc.teaching.helpers", *IMPORTS,
           "scipy.stats")  # which seaborn, scikit-learn and librosa ask for
_LAUNCHER = "ipykernel_launcher"


def prefer() -> bool:
    """Let this process start its kernels so from now on; False, and nothing changed, where that is not possible."""
    known = entry_points(group=KernelProvisionerFactory.GROUP_NAME, name=NAME)
    if not sys.platform.startswith("linux") or not known:
        return False
    os.environ[KernelProvisionerFactory.default_provisioner_name_env] = NAME
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # as a kernel does before it imports pyplot
    multiprocessing.set_forkserver_preload(list(MODULES))
    return True


class PreloadedProvisioner(LocalProvisioner):
    """Starts Python kernels as forks of a process with the imports done, all others as usual."""

    async def launch_kernel(self, cmd: list[str], **kwargs: object) -> KernelConnectionInfo:
        """Start the kernel that ``cmd`` names (see ``LocalProvisioner``)."""
        if _LAUNCHER not in cmd:
            return await super().launch_kernel(cmd, **kwargs)
        self.cwd = kwargs.get("cwd") or Path.cwd()
        options = cmd[cmd.index(_LAUNCHER) + 1 :]
        self.process = _Forked(options, str(self.cwd), dict(kwargs.get("env") or os.environ))
        self.pid = self.pgid = self.process.pid  # it leads a group of its own
        return self.connection_info


class _Forked:
    """What a ``LocalProvisioner`` asks of a ``subprocess.Popen``."""

    stdin = stdout = stderr = None

    def __init__(self, options: list[str], folder: str, environment: dict[str, str]) -> None:
        context = multiprocessing.get_context("forkserver")
        self._process = context.Process(target=_serve, args=(options, folder, environment))
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int | None:
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def _serve(options: list[str], folder: str, environment: dict[str, str]) -> None:
    """Be a kernel, until told to end or the process that asked for it is gone."""
    import pandas
    from ipykernel.kernelapp import launch_new_instance

    pandas.set_option("display.max_columns", 20)  # its default in a kernel; it took the fork server for a terminal
    os.setsid()
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # workers of the batch ignore it
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [_LAUNCHER, *options]
    launch_new_instance(argv=[*options, f"--IPKernelApp.parent_handle={os.getppid()}"])


def _end_with(process: multiprocessing.process.BaseProcess) -> None:
    process.join()
    os.killpg(0, signal.SIGKILL)
