"""An installed package works outside the clone: the README's example, to its table."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from derta.runs import CHECKOUT

QUESTION = "How can I paint a fence?"


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """A folder with the package as pip installs it from the checkout."""
    site = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, CHECKOUT]
    done = subprocess.run(pip, capture_output=True, text=True)
    if "No matching distribution" in done.stderr or "ConnectionError" in done.stderr:
        pytest.skip("pip cannot fetch setuptools without a network")
    assert done.returncode == 0, done.stderr
    return site


def python(installed: Path, folder: Path, *arguments) -> subprocess.CompletedProcess:
    """Run Python with the installed package, in a folder of its own."""
    environment = {k: v for k, v in os.environ.items() if k != "DERTA_RUNS"} | {"PYTHONPATH": str(installed)}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_readmes_example_runs_to_its_table(installed, tiny_folder, tmp_path):
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(import derta\n.*?)```", readme, re.DOTALL)
    assert example.count("\n") <= 12
    triple = {"query": QUESTION, "safe": "Sorry, but I can't help with that.", "harmful": "First, take a brush. " * 3}
    (tmp_path / "triples.jsonl").write_text(f"{json.dumps(triple)}\n" * 4)
    (tmp_path / "helpful.jsonl").write_text(json.dumps({"prompt": "Say hello.", "response": "Hello!"}) + "\n")
    (tmp_path / "example.py").write_text(example.replace("smollm2-135m", str(tiny_folder)))
    done = python(installed, tmp_path, "example.py")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "asr_percent" in done.stdout
    assert len(list((tmp_path / "out").rglob("*.jsonl"))) >= 4


@pytest.mark.slow
def test_the_corpus_and_the_command_come_along(installed, tmp_path):
    code = (
        "from derta import corpus, runs; assert runs.CHECKOUT is None; print(len(corpus.responses('harmful-train')), "
        "runs.run_dir('x'), runs.figure_dir('x'))"
    )
    done = python(installed, tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1:] == [f"{tmp_path}/runs/x", f"{tmp_path}/runs/x/figures"]
    assert (installed / "bin" / "derta").exists()
    done = python(installed, tmp_path, "-m", "derta", "run")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "run this in a clone of derta" in done.stderr
