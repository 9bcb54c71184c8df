"""What a result was made from, and what becomes of one that was made from something else."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from derta import runs
from derta.runs import claim, differences, digest, figure_dir, provenance, run_dir, set_aside


def test_a_digest_follows_values_and_the_contents_of_files(tmp_path):
    (tmp_path / "x").write_text("1")
    first = digest(tmp_path / "x", {"seed": 0})
    assert first == digest(tmp_path / "x", {"seed": 0})
    (tmp_path / "y").write_text("1")
    assert first == digest(tmp_path / "y", {"seed": 0}), "the name of a file does not count"
    (tmp_path / "x").write_text("2")
    assert len({first, digest(tmp_path / "x", {"seed": 0}), digest(tmp_path / "x", {"seed": 1})}) == 3
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


def test_files_of_another_origin_are_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds files, but no inputs\.json"):
        claim(tmp_path, {"seed": 0})
    assert (tmp_path / "thesis.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", [".DS_Store", "inputs.json.part"])
def test_hidden_files_and_half_written_ones_do_not_disturb_a_claim(tmp_path, name):
    (tmp_path / name).write_text("x")
    claim(tmp_path, {"seed": 0})
    assert json.loads((tmp_path / "inputs.json").read_text()) == {"seed": 0}


def test_results_of_other_inputs_are_set_aside_and_named_in_one_line(tmp_path, capsys):
    folder = tmp_path / "out"
    claim(folder, {"seed": 0, "settings": {"lr": 1, "steps": 2}})
    (folder / "rows.jsonl").write_text("{}\n")
    claim(folder, {"settings": {"steps": 2, "lr": 1}, "seed": 0})
    assert (folder / "rows.jsonl").exists()
    assert capsys.readouterr().err == ""
    claim(folder, {"seed": 0, "settings": {"lr": 3, "steps": 2}})
    assert [path.name for path in folder.iterdir()] == ["inputs.json"]
    old = digest({"seed": 0, "settings": {"lr": 1, "steps": 2}})
    aside = tmp_path / f"out.{old[:8]}.aside"
    assert (aside / "rows.jsonl").read_text() == "{}\n"
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"set aside: {folder} is now {aside.name}; the inputs now differ in settings.lr\n"


def test_nothing_that_was_set_aside_is_ever_overwritten(tmp_path):
    for content in "abc":
        (tmp_path / "x.csv").write_text(content)
        set_aside(tmp_path / "x.csv", "the same", "why")
    assert sorted(path.read_text() for path in tmp_path.glob("x.csv.*.aside")) == ["a", "b", "c"]


def test_differences_are_named_by_their_path():
    old, new = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 1, "c": 4}, "e": 5}
    assert differences(old, new) == ["a.c", "d", "e"]
    assert differences(old, old) == []


@pytest.mark.parametrize("killed_at", ["os.rename", "os.mkdir", "open"])
def test_a_claim_that_was_killed_lets_the_next_start_go_on(tmp_path, killed_at, capfd):
    """Right before the folder is renamed, and at both steps between that and the new record's last byte."""
    folder = tmp_path / "m-s0"
    claim(folder, {"limit": 4})
    for i in range(4):
        (folder / f"{i}.jsonl").write_text("{}\n")
    child = os.fork()
    if child == 0:
        kill_at(killed_at, folder)
        claim(folder, {"limit": 3})
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    claim(folder, {"limit": 3})
    assert [path.name for path in folder.iterdir()] == ["inputs.json"]
    assert json.loads((folder / "inputs.json").read_text()) == {"limit": 3}
    (aside,) = tmp_path.glob("*.aside")
    assert len(list(aside.glob("*.jsonl"))) == 4


def kill_at(event: str, folder: Path) -> None:
    """Kill this process, for good, when it comes to `event` with a path in `folder` (of a file, to write it)."""

    def hook(name, arguments):
        writes = name != "open" or arguments[1] == "w"
        if name == event and writes and str(arguments[0]).startswith(str(folder)):
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def test_folders_follow_the_environment_and_are_absolute(tmp_path, monkeypatch):
    monkeypatch.delenv("DERTA_RUNS", raising=False)
    assert run_dir("small") == runs.CHECKOUT / "runs" / "small"
    assert figure_dir("small") == runs.CHECKOUT / "figures" / "small"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DERTA_RUNS", "here")
    assert run_dir("small") == tmp_path / "here" / "small"
    assert figure_dir("small") == tmp_path / "here" / "small" / "figures"


def test_provenance_names_commit_versions_and_machine():
    facts = provenance(profile="test")
    assert facts["profile"] == "test"
    assert facts["commit"]
    assert set(facts["packages"]) == {"torch", "transformers", "trl", "peft", "accelerate", "datasets"}
    json.dumps(facts)


def test_without_git_or_within_another_repository_the_commit_is_unknown(tmp_path, monkeypatch):
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    (tmp_path / "tarball").mkdir()
    monkeypatch.setattr(runs, "CHECKOUT", tmp_path / "tarball")
    assert provenance()["commit"] == "unknown"
    monkeypatch.setattr(runs, "CHECKOUT", tmp_path.resolve())
    assert len(provenance()["commit"]) == 12
    monkeypatch.setenv("PATH", "/nowhere")
    assert provenance()["commit"] == "unknown"
