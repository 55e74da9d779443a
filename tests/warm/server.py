"""Imports the libraries once, and forks a process for each that asks.

python server.py SOCKET
"""

import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
from importlib import import_module
from typing import Any

# Ours are imported by each process for itself, so that each proves that it imports what it uses.
LIBRARIES = (
    "lightning.pytorch.cli",
    "lightning.pytorch.loggers.wandb",
    "pydantic",  # much of wandb, which itself makes a folder that the first process to end removes
    "requests",
    "rich.progress",
    "jinja2.sandbox",
    "tokenizers",
    "safetensors.torch",
    "torch.distributed.tensor.parallel",
    "torch.distributed.checkpoint",
)


def serve(address: str) -> dict[str, Any]:
    """Fork for each that asks, until the input ends; returns in each new process, with its task."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    print("ready", flush=True)
    while True:
        readable, _, _ = select.select([listener, sys.stdin], [], [], 1.0)
        while _reap():
            pass
        if sys.stdin in readable:
            os._exit(0)
        if listener not in readable:
            continue
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            request = _attend(connection)
            connection.close()
            return request
        connection.close()


def _reap() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def _attend(connection: socket.socket) -> dict[str, Any]:
    """Fork the process that was asked for; pass signals to it and its status back."""
    header, streams, _, _ = socket.recv_fds(connection, 8, 3)
    message = b""
    while len(message) < int.from_bytes(header, "big"):
        message += connection.recv(1 << 20)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        request: dict[str, Any] = json.loads(message)
        return request
    for stream in streams:
        os.close(stream)
    process = os.pidfd_open(pid)
    while True:
        readable, _, _ = select.select([connection, process], [], [])
        if process in readable:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            connection.sendall(status.to_bytes(8, "big", signed=True))
            os._exit(0)
        signals = connection.recv(64)
        for number in signals:
            os.kill(pid, number)
        if not signals:  # whoever asked was killed
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os._exit(0)


def become(request: dict[str, Any]) -> None:
    """Set what Python and the libraries set from the environment when they start."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    encoding = os.environ.get("PYTHONIOENCODING", "utf-8")
    sys.stdin = sys.__stdin__ = open(0, encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", encoding=encoding, closefd=False)  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(  # noqa: SIM115
        2, "w", 1, encoding=encoding, errors="backslashreplace", closefd=False
    )
    import numpy
    from lightning.fabric.utilities.rank_zero import _get_rank, rank_zero_only

    numpy.random.seed()
    rank_zero_only.rank = _get_rank() or 0


def run(arguments: list[str]) -> None:
    """Run a script, or after -m a module, as the program of this process."""
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path[:0] = [os.getcwd(), *paths]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path[:0] = [os.path.dirname(os.path.abspath(arguments[0])), *paths]
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    own_folder = sys.path.pop(0)
    for name in LIBRARIES:
        import_module(name)
    gc.freeze()  # a collection would copy every page that the processes share
    task = serve(sys.argv[1])
    sys.executable = os.path.join(os.path.dirname(sys.argv[1]), "python")
    become(task)
    run(task["arguments"])
