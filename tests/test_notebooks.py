"""All notebooks on the profile smoke, executed as `run_all.sh` does; and the runner's own promises."""

import ast
import csv
import json

import nbformat
import papermill
import pytest
import yaml

from derta import notebooks
from derta.runs import ROOT


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A whole run of the profile smoke, in a folder of its own."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DERTA_RUNS", str(folder))
        assert notebooks.run("smoke") == 0
        yield folder / "smoke"


def test_every_notebook_ran_and_left_what_the_contract_names(smoke):
    executed = [nbformat.read(path, 4) for path in sorted((smoke / "notebooks").glob("*.ipynb"))]
    assert len(executed) == len(notebooks.sources()) >= 5
    for notebook in executed:
        code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
        assert all(cell.execution_count for cell in code)
        assert not [o for cell in code for o in cell.outputs if o.output_type == "error" or o.get("name") == "stderr"]
    with (smoke / "results" / "asr.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == "model arm seed attack depth category n refused unsafe unscored".split()
    attacks = "direct prefill completing role_play prefill_depth pair autodan".split()
    names = {name + control for name in attacks for control in ("", "_benign")}
    assert {row["attack"] for row in rows} == names | {"helpful", "borderline"}
    assert {row["arm"] for row in rows} == {"base", "vanilla", "derta"}
    with (smoke / "results" / "depth.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == "model arm seed kind position n mean low high".split()
    for name in ("refusal_depth", "attacks", "prefill_depth"):
        for kind in ("pdf", "png", "csv"):
            assert (ROOT / "figures" / "smoke" / f"{name}.{kind}").stat().st_size > 0
    assert json.loads((ROOT / "figures" / "smoke" / "provenance.json").read_text())["commit"]


def test_a_second_run_executes_nothing(smoke, monkeypatch, capsys):
    monkeypatch.setattr(papermill, "execute_notebook", lambda *args, **kwargs: pytest.fail("executed again"))
    assert notebooks.run("smoke") == 0
    assert capsys.readouterr().out.count("unchanged") == len(notebooks.sources())


def test_the_sources_follow_the_conventions():
    for path in notebooks.sources():
        notebook = nbformat.read(path, 4)
        assert "**Reproduces**" in notebook.cells[0].source
        assert notebook.cells[1].metadata.get("tags") == ["parameters"]
        if "reference" not in notebook.metadata:
            assert not [cell for cell in notebook.cells if cell.get("outputs")]


def test_the_parameters_that_a_reader_sees_are_those_of_the_default_profile():
    small = notebooks.read_profile("small")
    for path in notebooks.sources():
        for name, parameter in papermill.inspect_notebook(path).items():
            value = ast.literal_eval(parameter["default"])
            assert value == small.get(name, value), f"{path.name}: {name}"
    shown = {name for path in notebooks.sources() for name in papermill.inspect_notebook(path)}
    assert shown - small.keys() == {"show_unsafe"}


def test_publishing_puts_outputs_into_the_sources_and_leaves_their_cells(smoke, tmp_path, monkeypatch):
    before = {path.name: nbformat.read(path, 4) for path in notebooks.sources()}
    for path in notebooks.sources():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    notebooks.publish("smoke")
    for path in notebooks.sources():
        after = nbformat.read(path, 4)
        assert [cell.source for cell in after.cells] == [cell.source for cell in before[path.name].cells]
        assert any(cell.get("outputs") for cell in after.cells)


def test_every_profile_gives_only_known_parameters():
    for path in (ROOT / "notebooks" / "params").glob("*.yaml"):
        assert notebooks.read_profile(path.stem)["profile"] == path.stem


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of notebooks of its own, with one that fails."""
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    monkeypatch.setenv("DERTA_RUNS", str(tmp_path / "runs"))
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "tiny.yaml").write_text(yaml.safe_dump({"profile": "tiny", "divisor": 0}))
    for number, source in (("01_fine", "print(1)"), ("02_fails", "1 / divisor"), ("03_never", "print(3)")):
        parameters = nbformat.v4.new_code_cell('profile = "x"\ndivisor = 1', metadata={"tags": ["parameters"]})
        notebook = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(source)])
        notebook.metadata["kernelspec"] = {"name": "python3", "language": "python", "display_name": "Python 3"}
        nbformat.write(notebook, tmp_path / f"{number}.ipynb")
    return tmp_path


def test_the_first_failure_stops_the_run_with_the_cells_error_and_the_next_run_goes_on_from_there(folder, capsys):
    assert notebooks.run("tiny") == 1
    out, err = capsys.readouterr()
    assert "[1/3] 01_fine" in out
    assert "03_never" not in out
    assert "02_fails: failed in cell" in err
    assert "1 / divisor" in err
    assert "ZeroDivisionError" in err
    (folder / "params" / "tiny.yaml").write_text(yaml.safe_dump({"profile": "tiny"}))
    source = nbformat.read(folder / "02_fails.ipynb", 4)
    source.cells[1].source = "1 / 1"
    nbformat.write(source, folder / "02_fails.ipynb")
    assert notebooks.run("tiny") == 0


def test_a_parameter_that_no_notebook_knows_is_an_error(folder):
    (folder / "params" / "typo.yaml").write_text("profile: typo\ndivisr: 1\n")
    with pytest.raises(ValueError, match=r"typo\.yaml: no notebook has the parameter divisr; known: divisor, profile"):
        notebooks.run("typo")
    with pytest.raises(FileNotFoundError, match="there is no profile 'none'; choose one of: tiny, typo"):
        notebooks.run("none")
