"""Where files lie, what a result was made from, and what becomes of one that was made from something else."""

import hashlib
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from derta import __version__
from derta.files import write_atomically

PACKAGE = Path(__file__).resolve().parent
# The checkout that this package lies in; an installed package writes into the current folder.
CHECKOUT = PACKAGE.parent if (PACKAGE.parent / "pyproject.toml").is_file() else None
# In a checkout the corpus lies beside the package, in an installed one within it.
DATA = CHECKOUT / "data" if CHECKOUT else PACKAGE / "data"


def cache_dir() -> Path:
    """The cache of models and downloads: ``DERTA_CACHE``, or ``~/.cache/derta``."""
    return Path(os.environ.get("DERTA_CACHE", "~/.cache/derta")).expanduser().absolute()


def run_dir(profile: str) -> Path:
    """The folder of one profile's files: ``DERTA_RUNS/<profile>``, or ``runs/<profile>`` of the checkout (of the
    current folder, where derta is installed)."""
    return Path(os.environ.get("DERTA_RUNS") or (CHECKOUT or Path.cwd()) / "runs").expanduser().absolute() / profile


def figure_dir(profile: str) -> Path:
    """The folder of one profile's figures: ``figures/<profile>`` of the checkout, or ``figures`` in its run's folder
    where that lies elsewhere."""
    if CHECKOUT is None or os.environ.get("DERTA_RUNS"):
        return run_dir(profile) / "figures"
    return CHECKOUT / "figures" / profile


def digest(*parts: Any) -> str:
    """A short hash of JSON-able values and of the contents of files."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part.read_bytes() if isinstance(part, Path) else json.dumps(part, sort_keys=True).encode())
    return sha.hexdigest()[:16]


def set_aside(path: Path, made: Any, why: str) -> Path:
    """Move a file or folder to a name of its own that tells the digest of what it was made from, and say so.

    Args:
        made: what it was made from.
        why: the end of the sentence that is printed (on stderr).

    Returns:
        Where it is now.
    """
    name, number = f"{path.name}.{digest(made)[:8]}", 1
    while (target := path.with_name(f"{name}.aside" if number == 1 else f"{name}-{number}.aside")).exists():
        number += 1
    path.rename(target)
    tqdm.write(f"set aside: {path} is now {target.name}; {why}", file=sys.stderr)
    return target


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """The names of what differs between two records, such as ``settings.learning_rate``."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{name}.")
        elif a != b:
            found.append(prefix + name)
    return found


def claim(folder: Path, inputs: dict[str, Any]) -> None:
    """Make `folder` the place of what is made from `inputs`; what lies there and was made from others is set aside.

    Raises:
        ValueError: the folder holds files of another origin.
    """
    path = folder / "inputs.json"
    if path.exists():
        if (old := json.loads(path.read_text(encoding="utf-8"))) == inputs:
            return
        set_aside(folder, old, f"what is asked for now differs in {', '.join(differences(old, inputs))}")
    elif folder.exists() and any(not file.match(".*") and file.suffix != ".part" for file in folder.iterdir()):
        raise ValueError(f"{folder}: holds files, but no inputs.json that tells their origin; choose another folder")
    write_atomically(path, json.dumps(inputs, indent=1))


def made_of(model: str) -> dict[str, Any] | None:
    """What the model in the folder `model` was made from by `derta.training`; None for any other model."""
    path = Path(model) / "provenance.json"
    return json.loads(path.read_text(encoding="utf-8"))["inputs"] if path.exists() else None


def provenance(**facts: Any) -> dict[str, Any]:
    """Where a result comes from: the commit, the versions and the machine, and `facts` of the caller's."""
    packages = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
    return facts | {
        "commit": commit(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def commit() -> str:
    """The commit of the checkout, with ``-dirty`` where files differ from it; for an installed package its version.

    ``unknown`` without git, and where another repository is what surrounds the code.
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
