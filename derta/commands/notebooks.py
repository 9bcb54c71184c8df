"""Run the notebooks in order with papermill, and publish their outputs.

Each is executed with the profile's values into ``runs/<profile>/notebooks/``. It is executed again only if its own
code, its values, the code that it imports, the data files that this code reads, or a notebook that it builds on has
changed; comments, docstrings and prose do not count. A stopped run therefore resumes where it stopped. A notebook's
stderr (progress, warnings) goes to ``runs/<profile>/logs/`` and, in a terminal, to the screen too.
"""

import ast
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any, TextIO

import nbformat
import papermill

from derta.commands import serving
from derta.commands.profiles import read_profile
from derta.files import write_atomically
from derta.runs import CHECKOUT, DATA, PACKAGE, alone, digest, figure_dir, run_dir

NOTEBOOKS = (CHECKOUT or Path.cwd()) / "notebooks"


class Tee:
    """A text stream that writes to several others."""

    def __init__(self, *streams: TextIO):
        self.streams = streams

    def write(self, text: str) -> int:
        for stream in self.streams:
            stream.write(text)
        self.flush()
        return len(text)

    def flush(self) -> None:
        for stream in self.streams:
            stream.flush()


def sources() -> list[Path]:
    """Return the numbered notebooks in reading order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def bare(code: str) -> str:
    """Return Python code without comments, docstrings and layout."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node) is not None
        ):
            node.body[0] = ast.Pass()
    return ast.unparse(tree)


def imported(code: str) -> set[Path]:
    """Return the files of this package that `code` imports directly."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    own = [PACKAGE.joinpath(*name.split(".")[1:]) for name in names if name.split(".")[0] == "derta"]
    return {file for path in own for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()}


def depends_on(code: str) -> dict[str, str]:
    """Hash everything that `code` depends on.

    That is each module of this package that it imports, directly or not, the YAML files beside these, and each file of
    ``data/``, ``tools/`` and ``tests/`` that it or one of them names.
    """
    modules: dict[Path, str] = {}
    waiting = imported(code)
    while waiting:
        path = waiting.pop()
        modules[path] = bare(path.read_text(encoding="utf-8"))
        waiting |= imported(modules[path]) - modules.keys()
    named = set(re.findall(r"'([\w-]+(?:\.csv|\.jsonl)?)'", " ".join([bare(code), *modules.values()])))
    places = (DATA, DATA.parent / "tools", DATA.parent / "tests")
    found = [path for name in sorted(named) for place in places if (path := place / name).exists()]
    files = [file for path in found for file in (sorted(path.glob("*.jsonl")) if path.is_dir() else [path])]
    beside = {file for path in modules for file in path.parent.glob("*.yaml")}
    hashes = {path.relative_to(PACKAGE).as_posix(): digest(text) for path, text in sorted(modules.items())}
    hashes |= {file.relative_to(PACKAGE).as_posix(): digest(file) for file in sorted(beside)}
    return hashes | {file.relative_to(DATA.parent).as_posix(): digest(file) for file in files}


def executed_from(target: Path) -> str | None:
    """Return the key of an executed copy; None if there is no readable copy."""
    try:
        return json.loads(target.read_text(encoding="utf-8"))["metadata"].get("derta_key")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def run(profile: str) -> int:
    """Execute the notebooks that need it; return the exit status for the shell.

    Raises:
        FileNotFoundError, ValueError: see `derta.commands.profiles.read_profile` and `derta.commands.serving.check`.
        RuntimeError: another process runs this profile now.
    """
    values = read_profile(profile) | {"profile": profile}
    folder = run_dir(profile)
    # The server's notebook comes after hours of training; a run that was whole once can be taken up without a server.
    if values["server"] and not all((folder / "notebooks" / source.name).exists() for source in sources()):
        serving.check(values["server"])
    for name in ("logs", "notebooks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with alone(folder / ".lock", f"the profile {profile}"):
        return _run(values, folder)


def _run(values: dict[str, Any], folder: Path) -> int:
    begin, profile = time.monotonic(), values["profile"]
    keys: dict[str, str] = {}
    todo = sources()
    for number, source in enumerate(todo, start=1):
        notebook = nbformat.read(source, 4)
        # What cleans notebooks before a commit removes it; papermill needs it.
        notebook.metadata.setdefault(
            "kernelspec", {"name": "python3", "display_name": "Python 3", "language": "python"}
        )
        wanted = {name: values[name] for name in papermill.inspect_notebook(notebook) if name in values}
        code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
        # A notebook builds on all earlier ones, unless its metadata names the ones that it takes something from.
        built_on = [keys[stem] for stem in notebook.metadata.get("takes", keys) if stem in keys]
        released = os.environ.get("DERTA_RELEASED") if "DERTA_RELEASED" in code else None
        key = keys[source.stem] = digest(bare(code), wanted, depends_on(code), built_on, released)
        target = folder / "notebooks" / source.name
        title = f"[{number}/{len(todo)}] {source.stem}"
        if executed_from(target) == key:
            print(f"{title}: unchanged", flush=True)
            continue
        print(f"{title} ...", flush=True)
        start = time.monotonic()
        if not execute(notebook, target, wanted, folder / "logs" / f"{source.stem}.log", key):
            return 1
        print(f"{title}: {time.monotonic() - start:.0f} s", flush=True)
    print(f"{profile}: done in {time.monotonic() - begin:.0f} s; figures in {figure_dir(profile)}", flush=True)
    return 0


def execute(source: nbformat.NotebookNode, target: Path, values: dict[str, Any], log: Path, key: str) -> bool:
    """Execute a notebook into `target`, completely or not at all; return whether it ran to its end."""
    running = target.with_name(f"running-{target.name}")
    with log.open("w", encoding="utf-8") as file:
        try:
            notebook = papermill.execute_notebook(
                source,
                running,
                values,
                cwd=NOTEBOOKS,
                kernel_name="python3",
                progress_bar=False,
                extra_arguments=["--log-level=ERROR"],
                stderr_file=Tee(file, sys.stderr) if sys.stderr.isatty() else file,
            )
        except papermill.PapermillExecutionError as error:
            print(f"{target.stem}: failed in cell {error.cell_index + 1} of {running}", file=sys.stderr)
            print(f"{error.source.strip()}\n\n{error.ename}: {error.evalue}", file=sys.stderr)
            return False
    for line in log.read_text(encoding="utf-8").splitlines():
        if "set aside: " in line:
            print(line[line.index("set aside: ") :], flush=True)
    finish(notebook, target, key)
    running.unlink()
    return True


def finish(notebook: nbformat.NotebookNode, target: Path, key: str) -> None:
    """Write the executed copy without progress output: no stderr text, which the log holds, and no widgets."""
    widget = "application/vnd.jupyter.widget-view+json"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            shown = [output for output in cell.outputs if output.get("name") != "stderr"]
            cell.outputs = [output for output in shown if widget not in output.get("data", {})]
    notebook.metadata.pop("widgets", None)
    notebook.metadata["derta_key"] = key
    write_atomically(target, nbformat.writes(notebook))


def publish(profile: str) -> None:
    """Copy the outputs of a profile's executed notebooks into the sources, whose cells stay unchanged, and its figures
    into ``figures/``.

    Raises:
        FileNotFoundError: a notebook has not been executed.
    """
    for path in sources():
        source = nbformat.read(path, 4)
        executed = {cell.id: cell for cell in nbformat.read(run_dir(profile) / "notebooks" / path.name, 4).cells}
        for cell in source.cells:
            if cell.cell_type == "code":
                cell.outputs = executed[cell.id].outputs
                cell.execution_count = executed[cell.id].execution_count
        source.metadata["reference"] = profile
        nbformat.write(source, path)
    target = NOTEBOOKS.parent / "figures" / profile
    if figure_dir(profile) != target:
        shutil.copytree(figure_dir(profile), target, dirs_exist_ok=True)
