"""A model for a notebook: its weights in process, or a server of vLLM that is started for it and stopped after it."""

import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
from peft import PeftConfig

from derta import adapters, hub, models
from derta.judges.served import Served
from derta.models import LM

# The ranks that vLLM can be told to make room for.
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
# Runs a command, and ends its process group with it, or when whoever started it closes the pipe to it or is killed.
WATCHED = 'exec 3<&0; (read -r line <&3; kill 0) & "$@"; kill 0'
MISSING = (
    "{program} was not found: vLLM needs an environment of its own (python -m venv ~/vllm && ~/vllm/bin/pip install "
    "vllm); put its bin on the PATH, or name its program in server, as /path/to/vllm/bin/vllm serve"
)


def check(server: str) -> None:
    """Look for the program of `server`.

    Raises:
        FileNotFoundError: there is no such program.
    """
    program = shlex.split(server)[0]
    if not shutil.which(program):
        raise FileNotFoundError(MISSING.format(program=program))


def command(server: str, model: str, port: int) -> list[str]:
    """Return the command that serves a model, or an adapter with its base.

    Args:
        server: the program and its command, with your options, as ``vllm serve --tensor-parallel-size 8``.
        model: a name of `derta.registry.MODELS`, a hub id or a folder.
    """
    folder = hub.resolve(model)
    base = adapters.base_of(folder)
    program, serve, *own = shlex.split(server)  # the model comes before all options
    options = [*own, "--host", "127.0.0.1", "--port", str(port)]
    if not base:
        return [program, serve, folder, *options, "--served-model-name", model]
    rank = next(rank for rank in RANKS if rank >= PeftConfig.from_pretrained(folder).r)
    lora = ["--enable-lora", "--max-lora-rank", str(rank), "--lora-modules", f"{model}={folder}"]
    return [program, serve, hub.resolve(base), *options, *lora]


@contextmanager
def loaded(model: str, server: str, log: Path) -> Iterator[LM]:
    """Load a model; with `server`, only its tokenizer, and let that server answer until the end of the block.

    Args:
        model, server: see `command`; an empty `server` stands for weights in process.
        log: the file that what the server says is added to.

    Raises:
        FileNotFoundError: see `check`.
        RuntimeError: the server ended before it was ready.
    """
    if not server:
        yield models.load(model)
        return
    check(server)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log.parent.mkdir(parents=True, exist_ok=True)
    asked = command(server, model, port)
    with log.open("ab") as output:
        watched = ["sh", "-c", WATCHED, "sh", *asked]
        started = subprocess.Popen(watched, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True)
    try:
        while not _ready(port):
            if started.poll() is not None:
                said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                raise RuntimeError(
                    f"the server of {model} ended before it was ready ({log}): {said[-1] if said else ''}"
                )
            time.sleep(1)
        lm = models.load_tokenizer(model)
        lm.engine = Served(model, f"http://127.0.0.1:{port}/v1")
        yield lm
    finally:
        with suppress(subprocess.TimeoutExpired):
            started.communicate(timeout=60)  # closes the pipe
        with suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)  # workers that have not ended with their server
        started.wait()


def _ready(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/health", timeout=5).is_success
    except httpx2.HTTPError:
        return False
