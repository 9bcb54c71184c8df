"""Where files are kept, the inputs that a result was made from, and setting results of other inputs aside."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from derta import __version__
from derta.files import write_atomically

PACKAGE = Path(__file__).resolve().parent
# The checkout that contains this package; an installed package writes into the current folder.
CHECKOUT = PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").is_file() else None
# In a checkout the corpus is next to the package; in an installed package it is inside.
DATA = CHECKOUT / "data" if CHECKOUT else PACKAGE / "data"
# What results depend on.
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")


def cache_dir() -> Path:
    """Return the cache of models and downloads: ``DERTA_CACHE``, or ``~/.cache/derta``."""
    return Path(os.environ.get("DERTA_CACHE", "~/.cache/derta")).expanduser().absolute()


def run_dir(profile: str) -> Path:
    """Return the folder of one profile's files.

    It is ``DERTA_RUNS/<profile>``, or ``runs/<profile>`` in the checkout (in the current folder if derta is installed).
    """
    return Path(os.environ.get("DERTA_RUNS") or (CHECKOUT or Path.cwd()) / "runs").expanduser().absolute() / profile


def figure_dir(profile: str) -> Path:
    """Return the folder of one profile's figures.

    It is ``figures/<profile>`` in the checkout, or ``figures`` in the run's folder if `DERTA_RUNS` is set or derta is
    installed.
    """
    if CHECKOUT is None or os.environ.get("DERTA_RUNS"):
        return run_dir(profile) / "figures"
    return CHECKOUT / "figures" / profile


def digest(*parts: Any) -> str:
    """Return a short hash of JSON-able values and of the contents of files."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part.read_bytes() if isinstance(part, Path) else json.dumps(part, sort_keys=True).encode())
    return sha.hexdigest()[:16]


def set_aside(path: Path, made: Any, why: str) -> Path:
    """Rename a file or folder to an unused name that contains a digest of its inputs, and say so on stderr.

    Args:
        made: the inputs that it was made from.
        why: the end of the sentence that is printed.

    Returns:
        Its new path.
    """
    name, number = f"{path.name}.{digest(made)[:8]}", 1
    while (target := path.with_name(f"{name}.aside" if number == 1 else f"{name}-{number}.aside")).exists():
        number += 1
    path.rename(target)
    tqdm.write(f"set aside: {path} is now {target.name}; {why}", file=sys.stderr)
    return target


@contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Hold the lock `path`, which the system releases when its owner dies.

    Args:
        what: what is done meanwhile, for the message.

    Raises:
        RuntimeError: somebody else holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise RuntimeError(f"{what}: is being done already; wait until that has ended, or stop it ({path})") from None
    try:
        yield
    finally:
        lock.release()


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """List the names of the values that differ between two records, such as ``settings.learning_rate``."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(prefix + name)
    return found


def claim(folder: Path, inputs: dict[str, Any]) -> None:
    """Reserve `folder` for results of `inputs`; a folder with results of other inputs is set aside.

    Raises:
        ValueError: the folder holds files of unknown origin.
    """
    path = folder / "inputs.json"
    if path.exists():
        if (old := json.loads(path.read_text(encoding="utf-8"))) == inputs:
            return
        set_aside(folder, old, f"the inputs now differ in {', '.join(differences(old, inputs))}")
    elif folder.exists() and any(not file.match(".*") and file.suffix != ".part" for file in folder.iterdir()):
        raise ValueError(f"{folder}: holds files, but no inputs.json that tells their origin; choose another folder")
    write_atomically(path, json.dumps(inputs, indent=1))


def made_of(model: str) -> dict[str, Any] | None:
    """Return the inputs from which `derta.training` made the model in the folder `model`; None for any other model."""
    path = Path(model) / "provenance.json"
    return json.loads(path.read_text(encoding="utf-8")).get("inputs") if path.exists() else None


def provenance(**facts: Any) -> dict[str, Any]:
    """Return the origin of a result: the commit, the versions, the machine, the day and `facts`."""
    import torch  # here, since all else in this module starts in no time

    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return facts | {
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "machine": ", ".join([f"{platform.system()} {platform.machine()}", f"{os.cpu_count()} cores", *gpus]),
        "date": date.today().isoformat(),
    }


def versions() -> str:
    """Return the versions of this package and of those that results depend on, for a reader."""
    return ", ".join([f"derta {__version__}", *(f"{name} {version(name)}" for name in PACKAGES)])


def commit() -> str:
    """Return the commit of the checkout, with ``-dirty`` if files differ from it; for an installed package its version.

    It is ``unknown`` without git, or if the code lies inside another repository.
    """
    if not CHECKOUT:
        return f"derta {__version__}"
    try:
        git = ["git", "-C", str(CHECKOUT)]
        top = subprocess.run([*git, "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=True)
        if Path(top.stdout.strip()).resolve() != CHECKOUT:
            return "unknown"
        describe = [*git, "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(describe, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
