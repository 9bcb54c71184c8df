"""The three descriptions of the environment agree, and the scripts say in one line what is missing."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from derta.runs import CHECKOUT

BIN = Path(sys.executable).parent


def test_pyproject_lock_and_conda_file_hold_together():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    lock = [Requirement(line) for line in (CHECKOUT / "requirements.lock").read_text().splitlines() if line[:1] != "#"]
    pins = {canonicalize_name(r.name): str(r.specifier) for r in lock}
    assert all(pin.startswith("==") for pin in pins.values())
    wanted = project["dependencies"] + [r for extra in project["optional-dependencies"].values() for r in extra]
    for requirement in map(Requirement, wanted):
        version = pins[canonicalize_name(requirement.name)].removeprefix("==")
        assert requirement.specifier.contains(version), requirement
    conda = yaml.safe_load((CHECKOUT / "environment.yml").read_text())
    python, _, packages = conda["dependencies"]
    assert Requirement(f"python{project['requires-python']}").specifier.contains(python.removeprefix("python=") + ".0")
    assert packages["pip"] == ["-r requirements.lock", "-e ."]


@pytest.fixture
def checkout(tmp_path):
    """What the scripts need, without an environment."""
    for name in ("run_all.sh", "environment.sh", "requirements.lock", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in ("bash", "cat", "cksum", "dirname", "grep", "tail", "rm", "mkdir", "readlink"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    return tmp_path


def run_all(checkout: Path, python: str, script: str = "run_all.sh") -> subprocess.CompletedProcess:
    """Run `run_all.sh` where `python3` is the given shell script and nothing else is installed."""
    if python:
        (checkout / "bin" / "python3").write_text(f"#!/bin/bash\n{python}\n")
        (checkout / "bin" / "python3").chmod(0o755)
    environment = {"PATH": str(checkout / "bin"), "HOME": os.environ["HOME"], "CDPATH": "/"}
    # In a folder of the test's own: a script that loses its way must not end up in this checkout.
    return subprocess.run([checkout / script], cwd=checkout, env=environment, capture_output=True, text=True)


# A python3 whose `-m venv` makes an environment in which pip fails with the message of $1.
FAILING_PIP = """
case "$1" in
-c) exit 0 ;;
--version) echo "Python 3.11.0" ;;
-m) mkdir -p .venv/bin && printf '#!/bin/bash\\necho "%s" >&2; exit 1\\n' "{message}" >.venv/bin/python
    chmod +x .venv/bin/python 2>/dev/null || /bin/chmod +x .venv/bin/python ;;
esac
"""


@pytest.mark.parametrize(
    ("python", "line"),
    [
        ("", "Python 3.11 or newer is needed and was not found"),
        ("exit 1", "Python 3.11 or newer is needed and was not found"),  # too old: the version check fails
        (FAILING_PIP.format(message="NewConnectionError: failed"), "The packages cannot be reached: check the network"),
        (FAILING_PIP.format(message="OSError: No space left on device"), "The disk is full: free about 8 GB"),
    ],
)
def test_a_missing_requirement_is_said_in_one_line(checkout, python, line):
    done = run_all(checkout, python)
    assert done.returncode == 1
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


def test_a_link_to_the_script_finds_its_checkout(checkout):
    (checkout / "elsewhere").mkdir()
    (checkout / "elsewhere" / "reproduce").symlink_to(checkout / "run_all.sh")
    done = run_all(checkout, "exit 1", "elsewhere/reproduce")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("Python 3.11 or newer is needed")


@pytest.mark.parametrize("name", ["run_all.sh", "run_tests.sh", "environment.sh", ".ci/run", "docs/scale/train.sbatch"])
def test_shell_scripts_pass_their_linter(name):
    done = subprocess.run([BIN / "shellcheck", "-x", name], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_container_file_passes_its_linter():
    done = subprocess.run([BIN / "hadolint", CHECKOUT / "docs/scale/Containerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_checkout_in_an_odd_place_needs_neither_home_nor_a_locale(tmp_path):
    folder = tmp_path / "a [b] (c) d"
    ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "responses")
    for name in ("derta", "notebooks", "data"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=ignored)
    shutil.copy(CHECKOUT / "pyproject.toml", folder)
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "derta", "run", "llama3-8b", "--dry-run"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith(b"llama3-8b: valid; ")
    assert b"a [b] (c) d" in done.stdout
