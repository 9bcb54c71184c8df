"""The structure of the code: which room may know which, and how large one may be."""

import ast
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from derta.runs import PACKAGE

FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(("derta", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in FILES
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
# Rooms beside the story, and the door to all of them.
ROOMS = ("derta.published", "derta.searches", "derta.judges", "derta.audit", "derta.tasks")
DOOR = "derta.commands"
STORY = [name for name, path in MODULES.items() if path.parent in (PACKAGE, PACKAGE / "attacks")]
STORY.remove("derta.__main__")

each = pytest.mark.parametrize("name", MODULES)


def imported(name: str) -> set[str]:
    """The modules of this package that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}: an import relative to the module"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
    return {module for module in found if module in MODULES}


def test_the_walk_sees_imports_of_every_form():
    assert "derta.attacks.prefill" in imported("derta.attacks.adaptive")
    assert "derta.attacks.attack" in imported("derta.attacks")
    assert {"derta.evaluate", "derta.judges.endpoint"} <= imported("derta.commands.asking"), "within functions too"
    assert len(MODULES) > 40


@pytest.mark.parametrize("name", STORY)
def test_the_story_needs_no_other_room(name):
    known = {module for module in imported(name) if module.startswith((*ROOMS, DOOR))}
    assert not known


def test_no_room_knows_the_door():
    assert not [name for name in MODULES if name.startswith(ROOMS) and any(DOOR in other for other in imported(name))]


def test_no_module_imports_itself_by_way_of_others():
    TopologicalSorter({name: imported(name) for name in MODULES}).prepare()


@each
def test_no_file_is_longer_than_260_lines(name):
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 260


@each
def test_every_module_says_what_it_is_for(name):
    assert (ast.get_docstring(TREES[name]) or "").strip()


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_names(tree: ast.Module) -> tuple[set[str], set[str]]:
    """The names in a module that stand for modules or objects of this package; and the private names it defines."""
    own, defined = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "derta":
            own |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            own |= {alias.asname or "derta" for alias in node.names if alias.name.split(".")[0] == "derta"}
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            defined.add(node.attr)
    return own, defined


def private_uses(tree: ast.Module) -> list[str]:
    """Where a module uses a private name of a library, or replaces something of one."""
    own, defined = own_names(tree)
    found = []
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] != "derta"]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] != "derta":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute) and private(node.attr):
            base = node.value.id if isinstance(node.value, ast.Name) else ""
            if base not in own and not (base in ("self", "cls") and node.attr in defined):
                names = [f"{ast.unparse(node.value)}.{node.attr}"]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "mock" in node.value.split("."):
            names = [node.value]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            said = node.args[1] if len(node.args) > 1 else None
            names = [said.value] if isinstance(said, ast.Constant) and isinstance(said.value, str) else []
        for name in names:
            parts = name.split(".")
            if any(map(private, parts)) or name.startswith("unittest.mock") or parts[0] == "mock":
                found.append(f"line {node.lineno}: {name}")
    return found


@pytest.mark.parametrize(
    "code",
    [
        "from torch._dynamo import config",
        "from torch import _C",
        "import torch._C",
        "import trl\ntrl.trainer._utils",
        "class T(Trainer):\n    def f(self):\n        return super()._save()",
        "class T(Trainer):\n    def f(self):\n        return self._signature",
        "model._modules",
        'getattr(model, "_modules")',
        "from unittest import mock",
        "import unittest.mock",
    ],
)
def test_a_private_name_is_found(code):
    assert private_uses(ast.parse(code))


@pytest.mark.parametrize(
    "code",
    [
        "from derta.audit import generations\ngenerations._known",
        "class A:\n    def __init__(self):\n        self._x = 1\n    def f(self):\n        return self._x",
        "from __future__ import annotations\nprint(x.__name__)",
        "_X = 1\nprint(_X)",
    ],
)
def test_a_name_of_our_own_is_no_private_name_of_a_library(code):
    assert not private_uses(ast.parse(code))


@each
def test_no_private_name_of_a_library_is_used(name):
    assert not private_uses(TREES[name])


def test_every_package_is_installed():
    project = tomllib.loads(Path(PACKAGE.parent, "pyproject.toml").read_text(encoding="utf-8"))
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert set(project["tool"]["setuptools"]["packages"]) == packages | {"derta.data"}
