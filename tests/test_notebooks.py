"""All notebooks on the profile smoke, executed as `run_all.sh` does; and the runner's own promises."""

import ast
import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from datasets import load_from_disk

import derta
from derta.commands import notebooks, profiles
from derta.runs import CHECKOUT, alone


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A second checkout, of another version than the one that the environment has installed."""
    folder = tmp_path_factory.mktemp("second checkout")
    (folder / "tests").mkdir()
    (folder / "tools").mkdir()
    # Notebook 07 judges the labelled texts of the tests, notebook 06 shows how the settings were chosen.
    single = (
        "tests/judge_labels.jsonl",
        "tests/judge_texts.jsonl",
        "tools/choose.csv",
        "tools/vary.csv",
        "pyproject.toml",
    )
    for name in ("derta", "notebooks", "data", *single):
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
        else:
            shutil.copy(source, folder / name)
    edit(folder / "derta" / "__init__.py", f'"{derta.__version__}"', '"0.0.second"')
    return folder


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def run_smoke(checkout: Path) -> list[str]:
    """Run the profile smoke in a checkout, and give the lines that were printed."""
    environment = {name: value for name, value in os.environ.items() if name != "DERTA_RUNS"}
    command = [sys.executable, "-m", "derta", "run", "smoke"]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def smoke(checkout) -> Path:
    """A whole run of the profile smoke in the second checkout."""
    run_smoke(checkout)
    return checkout / "runs" / "smoke"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_notebook_ran_and_left_the_files_of_the_contract(smoke, checkout):
    executed = [nbformat.read(path, 4) for path in sorted((smoke / "notebooks").glob("*.ipynb"))]
    assert len(executed) == len(notebooks.sources()) >= 5
    for notebook in executed:
        code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
        assert all(cell.execution_count for cell in code)
        assert not [o for cell in code for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"]
    rows = rows_of(smoke / "results" / "asr.csv")
    assert list(rows[0]) == "model arm seed split attack depth category n refused unsafe unscored".split()
    attacks = """direct prefill completing role_play multi_turn_earlier prefill_depth best_of_n base_favourite
        borderline pair autodan""".split()
    names = {name + control for name in attacks for control in ("", "_benign")}
    assert {row["attack"] for row in rows} == names | {"helpful", "long_t7"}
    asked = {(row["arm"], row["seed"]) for row in rows}
    assert asked == {("base", "0"), *((arm, seed) for arm in ("vanilla", "derta") for seed in "01")}
    measured = rows_of(smoke / "results" / "measures.csv")
    assert {row["seeds"] for row in measured if row["arm"] == "derta"} == {"2"}
    assert {row["attack"] for row in measured if row["auroc"] != "nan"} == {
        "direct",
        "prefill",
        "completing",
        "prefill_depth",
        "borderline",
    }
    assert {row["arm"] for row in rows} == {"base", "vanilla", "derta"}
    assert {row["arm"] for row in measured} == {"base", "vanilla", "derta", "words", "probe"}
    rows = rows_of(smoke / "results" / "depth.csv")
    assert list(rows[0]) == "model arm split kind seeds position n mean low high".split()
    figures = checkout / "figures" / "smoke"
    drawn = ["refusal_depth", "attacks", "prefill_depth", "refusals_begin", "discrimination"]
    tables = ["measures", "differences", "positions", "begun", "cases", "probe", "depth", "asr"]
    for name in (*drawn, *tables):
        for kind in ("pdf", "png", "csv") if name in drawn else ("csv",):
            assert (figures / f"{name}.{kind}").stat().st_size > 0
        facts = json.loads((figures / f"{name}.json").read_text())
        assert facts["commit"]
        assert set(facts["models"]) == {f"{arm}-s{seed}" for arm in ("vanilla", "derta") for seed in (0, 1)}


@pytest.mark.slow
def test_a_seed_decides_rows_and_weights_and_gives_the_same_bytes_again(smoke, checkout):
    def made(seed: int) -> list[bytes]:
        label = f"derta-s{seed}"
        rows = sorted((smoke / "data" / label).glob("data-*.arrow"))
        return [path.read_bytes() for path in (*rows, smoke / "models" / label / "model.safetensors")]

    first, second = made(0), made(1)
    assert all(a != b for a, b in zip(first, second, strict=True))
    behaviours = [set(load_from_disk(str(smoke / "data" / f"derta-s{seed}"))["behaviour_id"]) for seed in (0, 1)]
    assert behaviours[0] != behaviours[1]
    for path in (smoke / "data" / "derta-s1", smoke / "models" / "derta-s1"):
        shutil.rmtree(path)
    for stem in ("02_dataset", "03_training"):
        (smoke / "notebooks" / f"{stem}.ipynb").unlink()
    lines = run_smoke(checkout)
    assert sum(line.endswith(": unchanged") for line in lines) == len(notebooks.sources()) - 2
    assert made(1) == second


@pytest.mark.slow
def test_notebooks_run_the_code_of_the_checkout_they_stand_in(smoke):
    for path in (smoke / "notebooks").glob("*.ipynb"):
        assert "derta 0.0.second, " in path.read_text(encoding="utf-8"), path.name


@pytest.mark.slow
def test_a_docstring_a_data_card_and_an_unrelated_module_change_nothing(smoke, checkout):
    edit(checkout / "derta" / "training.py", '"""Datasets', '"""In other words: datasets')
    edit(checkout / "data" / "README.md", "# Data card", "# The data card")
    edit(checkout / "derta" / "judges" / "budget.py", "PER_MESSAGE = 8", "PER_MESSAGE = 7")
    (checkout / "data" / "notes.txt").write_text("a stray file")
    before = {path: path.stat().st_mtime_ns for path in smoke.rglob("*") if path.is_file()}
    lines = run_smoke(checkout)
    assert [line.endswith(": unchanged") for line in lines] == [True] * len(notebooks.sources()) + [False]
    assert {path: path.stat().st_mtime_ns for path in smoke.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_results_of_another_setting_stand_aside_and_are_named_in_one_line(smoke, checkout):
    searches, answers = smoke / "searches" / "derta-s0", smoke / "completions" / "derta-s0" / "direct.jsonl"
    old = {path.name: path.read_bytes() for path in (searches / "autodan").iterdir()}
    kept = {path: path.stat().st_mtime_ns for path in (smoke / "models" / "derta-s0" / "model.safetensors", answers)}
    edit(checkout / "notebooks" / "params" / "smoke.yaml", "population: 4", "population: 3")
    lines = run_smoke(checkout)
    unchanged = {line.rpartition("] ")[2] for line in lines if line.endswith(": unchanged")}
    assert {"02_dataset: unchanged", "03_training: unchanged", "07_released_audit: unchanged"} <= unchanged
    assert "04_attacks: unchanged" not in unchanged
    (aside,) = searches.glob("autodan.*.aside")
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == old
    named = f"set aside: {searches / 'autodan'} is now {aside.name}; "
    assert len([line for line in lines if line.startswith(named)]) == 1
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


@pytest.mark.parametrize("kept", [0, 20, 150, 230])
def test_a_torn_executed_copy_counts_as_not_executed(tmp_path, kept):
    path = tmp_path / "01_x.ipynb"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print(1)")], metadata={"derta_key": "key"})
    nbformat.write(notebook, path)
    assert notebooks.executed_from(path) == "key"
    whole = path.read_bytes()
    for torn in (whole[:kept], b"[]", b"{}", b"\xff", b'{"nbformat": 4, "nbformat_minor": 5, "cells": []}'):
        path.write_bytes(torn)
        assert notebooks.executed_from(path) is None


def test_code_without_its_comments_and_docstrings_is_what_counts():
    code = 'def f():\n    """Say."""\n    return {}  # why\n'
    assert notebooks.bare(code.format(1)) == notebooks.bare('def f():\n\n    """Other."""\n    return (1)\n')
    assert notebooks.bare(code.format(1)) != notebooks.bare(code.format(2))


def test_a_notebook_depends_on_its_imports_and_on_the_files_that_it_or_they_name():
    found = notebooks.depends_on("from derta import corpus")
    of_data = {"data/behaviours.csv", "data/responses/harmful-train.jsonl"}
    assert {"corpus.py", "files.py", "runs.py"} | of_data <= found.keys()
    assert not {"audit/score.py", "data/README.md", "data/audit.csv", "tools/choose.csv"} & found.keys()
    named = notebooks.depends_on("read('audit.csv', \"choose.csv\", 'judge_labels.jsonl')")
    assert named.keys() == {"data/audit.csv", "tools/choose.csv", "tests/judge_labels.jsonl"}


def test_the_sources_follow_the_conventions_and_their_outputs_are_of_one_run():
    for path in notebooks.sources():
        notebook = nbformat.read(path, 4)
        assert "**Reproduces**" in notebook.cells[0].source
        assert notebook.cells[1].metadata.get("tags") == ["parameters"]
        counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
        if "reference" in notebook.metadata:
            assert counts == sorted(counts), f"{path.name}: executed out of order"
        else:
            assert not [cell for cell in notebook.cells if cell.get("outputs")]
            assert not any(counts)


def test_each_notebook_leads_to_the_previous_and_the_next_one():
    paths = notebooks.sources()
    for before, path, after in zip([None, *paths], paths, [*paths[1:], None], strict=False):
        links = nbformat.read(path, 4).cells[0].source.split("\n\n")[1]
        for other in (before, after):
            assert other is None or f"]({other.name})" in links


def test_the_parameters_that_a_reader_sees_are_those_of_the_default_profile():
    small = profiles.read_profile("small")
    for path in notebooks.sources():
        for name, parameter in papermill.inspect_notebook(path).items():
            value = ast.literal_eval(parameter["default"])
            assert value == small.get(name, value), f"{path.name}: {name}"
    shown = {name for path in notebooks.sources() for name in papermill.inspect_notebook(path)}
    assert shown - small.keys() == {"profile", "show_unsafe"}
    assert small.keys() <= shown, "a value of the profile that no notebook takes"


@pytest.mark.slow
def test_publishing_puts_outputs_into_the_sources_and_leaves_their_cells(smoke, tmp_path, monkeypatch):
    before = {path.name: nbformat.read(path, 4) for path in notebooks.sources()}
    copy = tmp_path / "notebooks"
    copy.mkdir()
    for path in notebooks.sources():
        (copy / path.name).write_bytes(path.read_bytes())
    # The fixture's figures lie in its checkout; a run elsewhere has them in its own folder.
    shutil.copytree(smoke.parent.parent / "figures" / "smoke", smoke / "figures", dirs_exist_ok=True)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", copy)
    monkeypatch.setenv("DERTA_RUNS", str(smoke.parent))
    notebooks.publish("smoke")
    for path in notebooks.sources():
        after = nbformat.read(path, 4)
        assert [cell.source for cell in after.cells] == [cell.source for cell in before[path.name].cells]
        assert any(cell.get("outputs") for cell in after.cells)
    assert (tmp_path / "figures" / "smoke" / "attacks.json").is_file()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of notebooks of its own, with one that fails; none names its kernel."""
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(notebooks, "read_profile", lambda profile: {"divisor": 0, "server": ""})
    monkeypatch.setenv("DERTA_RUNS", str(tmp_path / "runs"))
    for number, source in (("01_fine", "print(1)"), ("02_fails", "1 / divisor"), ("03_never", "print(3)")):
        parameters = nbformat.v4.new_code_cell('profile = "x"\ndivisor = 1', metadata={"tags": ["parameters"]})
        notebook = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(source)])
        nbformat.write(notebook, tmp_path / f"{number}.ipynb")
    return tmp_path


@pytest.mark.slow
def test_the_first_failure_stops_the_run_with_the_cells_error_and_the_next_run_goes_on_from_there(
    folder, capsys, monkeypatch
):
    assert notebooks.run("tiny") == 1
    out, err = capsys.readouterr()
    assert "[1/3] 01_fine" in out
    assert "03_never" not in out
    assert "02_fails: failed in cell" in err
    assert "1 / divisor" in err
    assert "ZeroDivisionError" in err
    source = nbformat.read(folder / "02_fails.ipynb", 4)
    source.cells[1].source = "1 / 1"
    nbformat.write(source, folder / "02_fails.ipynb")
    assert notebooks.run("tiny") == 0
    assert capsys.readouterr().out.count("unchanged") == 1
    # What was whole once needs no server to be seen again.
    monkeypatch.setattr(notebooks, "read_profile", lambda profile: {"divisor": 0, "server": "no-such-program serve"})
    assert notebooks.run("tiny") == 0
    assert capsys.readouterr().out.count("unchanged") == 3


def test_two_runs_of_one_profile_at_once_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("DERTA_RUNS", str(tmp_path))
    with (
        alone(tmp_path / "smoke" / ".lock", "the first"),
        pytest.raises(RuntimeError, match=r"the profile smoke: is being done already; wait until that has ended"),
    ):
        notebooks.run("smoke")


def test_a_lock_ends_with_its_owner(tmp_path):
    holds = "import sys, time; from pathlib import Path; from derta.runs import alone\n"
    holds += "with alone(Path(sys.argv[1]), 'the first'): print('held', flush=True); time.sleep(60)"
    owner = subprocess.Popen(
        [sys.executable, "-c", holds, tmp_path / ".lock"], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout.readline() == "held\n"
    with pytest.raises(RuntimeError, match="is being done already"), alone(tmp_path / ".lock", "the second"):
        pass
    owner.kill()
    owner.wait()
    with alone(tmp_path / ".lock", "the second"):
        pass
