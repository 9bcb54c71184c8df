"""Kill a run again and again, and compare what it ends with: ``python -m tools.kills [--kills 25] [--seed 0]``.

The profile `smoke` is run once undisturbed, and once with kills at random moments, spread over the whole run: of
everything (as when a machine stops), of the main process alone (what it started must end by itself), or of the kernel
that executes a notebook (the run must say so and fail). After each the run is started again. At the end, every file of
the contract (datasets, models, completions, searches, verdicts, scores, results) must have the bytes of the undisturbed
run. Files that only the killed run has are counted.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from derta.runs import CHECKOUT, digest

KINDS = ("everything", "main", "kernel")
# Seconds that a started run needs until it is where the last one was killed.
STARTING = 10
# What holds times, paths or machines, and so differs from run to run.
VARIES = ("logs", "notebooks", "figures", "provenance.json", "tensorboard", "inputs.json", "log.csv", ".lock")


def start(runs: Path) -> subprocess.Popen:
    """Start the profile `smoke` with its files in `runs`, in a process group of its own."""
    command = [sys.executable, "-m", "derta", "run", "smoke"]
    environment = os.environ | {"DERTA_RUNS": str(runs)}
    with (runs / "output.txt").open("ab") as output:
        return subprocess.Popen(
            command, cwd=CHECKOUT, env=environment, stdout=output, stderr=output, start_new_session=True
        )


def children(pid: int) -> list[int]:
    """Return the processes that `pid` has started, directly or not."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout.split()
    own = [int(child) for child in listed]
    return own + [grandchild for child in own for grandchild in children(child)]


def ended(pids: list[int], within: float) -> bool:
    """Wait until none of these processes is left; False if one is after `within` seconds."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        if not any(Path(f"/proc/{pid}/stat").exists() for pid in pids):
            return True
        time.sleep(0.2)
    return False


def kill(process: subprocess.Popen, kind: str) -> str:
    """Kill a run in the way of `kind`; return what went wrong, or nothing."""
    started = children(process.pid)
    if kind == "kernel" and started:
        os.kill(started[0], signal.SIGKILL)
        try:
            return "" if process.wait(120) else "the run took a dead kernel for success"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return "the run did not see that its kernel had died"
    if kind == "main":
        process.kill()
        process.wait()
        if ended(started, 60):
            return ""
        for pid in started:
            os.kill(pid, signal.SIGKILL)
        return "what the main process had started went on without it"
    os.killpg(process.pid, signal.SIGKILL)
    for pid in filter(lambda pid: Path(f"/proc/{pid}").exists(), started):
        os.kill(pid, signal.SIGKILL)  # a kernel is in a session of its own
    process.wait()
    return "" if ended(started, 60) else "a process was left"


def contents(runs: Path) -> dict[str, str]:
    """Return the hash of every file of the contract, by its path."""
    files = [path for path in (runs / "smoke").rglob("*") if path.is_file()]
    kept = [path for path in files if not any(part in VARIES for part in path.relative_to(runs).parts)]
    return {str(path.relative_to(runs)): digest(path) for path in kept}


def disturbed(runs: Path, kills: int, seed: int, longest: float) -> list[str]:
    """Run `smoke` to its end, with `kills` kills on the way; return what went wrong."""
    rng, faults = random.Random(seed), []
    done = 0
    while done < kills:
        kind, seconds = KINDS[done % len(KINDS)], rng.uniform(2, longest)
        process = start(runs)
        try:
            status = process.wait(seconds)
            print(f"at its end after {done} kills, with status {status}", flush=True)
            faults += [f"ended with status {status}"] if status else []
            break
        except subprocess.TimeoutExpired:
            done, fault = done + 1, kill(process, kind)
        begun = re.findall(r"^\[\S+ (\w+)", (runs / "output.txt").read_text(encoding="utf-8"), re.MULTILINE)
        at = begun[-1] if begun else "at the start"
        print(f"{done:3} {kind:10} after {seconds:5.1f} s, {at}: {fault or 'as it should'}", flush=True)
        faults += [fault] if fault else []
    if status := start(runs).wait():
        faults.append(f"the last start ended with status {status}")
    return faults


def main() -> int:
    """Compare, print what was found, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="kills-"))
    undisturbed, killed = scratch / "undisturbed", scratch / "killed"
    for folder in (undisturbed, killed):
        folder.mkdir()
    began = time.monotonic()
    if status := start(undisturbed).wait():
        print(f"the undisturbed run ended with status {status}: {undisturbed / 'output.txt'}")
        return 1
    longest = 2 * (STARTING + (time.monotonic() - began) / given.kills)
    faults = disturbed(killed, given.kills, given.seed, longest)
    expected, found = contents(undisturbed), contents(killed)
    differing = sorted(path for path in expected if expected[path] != found.get(path))
    left = len(found.keys() - expected.keys())
    print(f"{len(expected)} files, {len(differing)} differ {differing[:10]}; {left} more in the killed run")
    if faults or differing:
        print(f"{len(faults)} faults; what was left is in {scratch}")
        return 1
    shutil.rmtree(scratch)
    return 0


if __name__ == "__main__":
    sys.exit(main())
