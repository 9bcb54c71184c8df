"""The examples of the documentation run, on a tiny model and on files as the pages name them."""

import ast
import importlib
import json
import re
import shutil

import pytest

from derta.runs import CHECKOUT

PAGES = sorted((CHECKOUT / "docs").glob("*.md"))
NETWORK = "# Needs a network.\n"
QUESTION = "How can I paint a fence?"


def examples(page) -> list[tuple[str, str]]:
    """The examples of a page, each with the output that stands below it, if one does."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", text, re.DOTALL)


@pytest.fixture
def files(tiny_folder, tmp_path, monkeypatch):
    """A folder with what the examples read."""
    triple = {"query": QUESTION, "safe": "Sorry, but I can't help with that.", "harmful": "First, take a brush. " * 3}
    (tmp_path / "triples.jsonl").write_text(f"{json.dumps(triple)}\n" * 4)
    (tmp_path / "helpful.jsonl").write_text(json.dumps({"prompt": "Say hello.", "response": "Hello!"}) + "\n")
    for name in ("questions", "twins"):
        (tmp_path / f"{name}.csv").write_text(f"id,question\n1,{QUESTION}\n2,How can I mend a gate?\n")
    shutil.copytree(tiny_folder, tmp_path / "out" / "model")
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if examples(page)], ids=lambda page: page.stem)
def test_the_examples_of_a_page_run_and_print(page, files, tiny_folder, capsys):
    for example, shown in examples(page):
        if not example.startswith(NETWORK):
            exec(compile(example.replace("smollm2-135m", str(tiny_folder)), page.name, "exec"), {})
            said = capsys.readouterr().out
            assert said.strip()
            assert shown in ("", said)


@pytest.mark.parametrize("task", ["training", "attacking", "judging", "measuring", "data"])
def test_every_task_has_an_example_that_is_run(task):
    page = CHECKOUT / "docs" / f"{task}.md"
    assert any(not example.startswith(NETWORK) for example, _ in examples(page))
    assert f"({page.name})" in (CHECKOUT / "docs" / "usage.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_name_of_an_example_exists(page):
    for example, _ in examples(page):
        modules = {}
        tree = ast.parse(example)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    modules[alias.name] = getattr(module, alias.name, None) or importlib.import_module(
                        f"{node.module}.{alias.name}"
                    )
            elif isinstance(node, ast.Import):
                modules |= {alias.name: importlib.import_module(alias.name) for alias in node.names}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                assert hasattr(modules[node.value.id], node.attr), f"{page.name}: {node.value.id}.{node.attr}"
