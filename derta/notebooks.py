"""Run the notebooks in order: ``python -m derta.notebooks PROFILE``. With ``--publish``, put the outputs of the last
run into ``notebooks/``, to be read on the web.

Each is executed by papermill with the profile's parameters into ``runs/<profile>/notebooks/``. One whose source,
parameters, code, data and predecessors have not changed is not executed again, so a run that was stopped goes on where
it stopped. Text on a notebook's stderr (progress, warnings) goes to ``runs/<profile>/logs/`` and, at a terminal, there.
"""

import sys
import time
from pathlib import Path
from typing import Any, TextIO

import nbformat
import papermill
import yaml

from derta.runs import DATA, ROOT, digest, run_dir

NOTEBOOKS = ROOT / "notebooks"


class Tee:
    """A text stream that writes to several."""

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


def read_profile(profile: str) -> dict[str, Any]:
    """The parameters of ``notebooks/params/<profile>.yaml``.

    Raises:
        FileNotFoundError: there is no such profile.
        ValueError: a parameter that no notebook knows (papermill alone would only warn).
    """
    path = NOTEBOOKS / "params" / f"{profile}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise FileNotFoundError(f"there is no profile {profile!r}; choose one of: {known}")
    parameters = yaml.safe_load(path.read_text())
    known = {name for source in sources() for name in papermill.inspect_notebook(source)}
    if unknown := sorted(parameters.keys() - known):
        raise ValueError(
            f"{path}: no notebook has the parameter {', '.join(unknown)}; known: {', '.join(sorted(known))}"
        )
    return parameters


def sources() -> list[Path]:
    """The numbered notebooks in reading order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def run(profile: str) -> int:
    """Execute what has to be executed; returns the exit status for the shell."""
    parameters = read_profile(profile)
    folder = run_dir(profile)
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    (folder / "notebooks").mkdir(exist_ok=True)
    key = digest(DATA, ROOT / "derta")
    begin = time.monotonic()
    todo = sources()
    for number, source in enumerate(todo, start=1):
        wanted = {k: v for k, v in parameters.items() if k in papermill.inspect_notebook(source)}
        key = digest(key, [cell.source for cell in nbformat.read(source, 4).cells], wanted)
        target = folder / "notebooks" / source.name
        title = f"[{number}/{len(todo)}] {source.stem}"
        if target.exists() and nbformat.read(target, 4).metadata.get("derta_key") == key:
            print(f"{title}: unchanged", flush=True)
            continue
        print(f"{title} ...", flush=True)
        start = time.monotonic()
        with (folder / "logs" / f"{source.stem}.log").open("w") as log:
            try:
                notebook = papermill.execute_notebook(
                    source,
                    target,
                    wanted,
                    cwd=NOTEBOOKS,
                    kernel_name="python3",
                    progress_bar=False,
                    extra_arguments=["--log-level=ERROR"],
                    stderr_file=Tee(log, sys.stderr) if sys.stderr.isatty() else log,
                )
            except papermill.PapermillExecutionError as error:
                print(f"{title}: failed in cell {error.cell_index + 1} of {target}", file=sys.stderr)
                print(f"{error.source.strip()}\n\n{error.ename}: {error.evalue}", file=sys.stderr)
                return 1
        finish(notebook, target, key)
        print(f"{title}: {time.monotonic() - start:.0f} s", flush=True)
    print(f"{profile}: done in {time.monotonic() - begin:.0f} s; figures in figures/{profile}/", flush=True)
    return 0


def finish(notebook: nbformat.NotebookNode, target: Path, key: str) -> None:
    """Mark the executed copy as finished, without progress: the stderr text that the log holds, and widgets."""
    widget = "application/vnd.jupyter.widget-view+json"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            shown = [output for output in cell.outputs if output.get("name") != "stderr"]
            cell.outputs = [output for output in shown if widget not in output.get("data", {})]
    notebook.metadata.pop("widgets", None)
    notebook.metadata["derta_key"] = key
    nbformat.write(notebook, target)


def publish(profile: str) -> None:
    """Put the outputs of a profile's executed copies into the sources, whose cells stay as they are.

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


if __name__ == "__main__":
    try:
        if sys.argv[2:] == ["--publish"]:
            sys.exit(publish(sys.argv[1]))
        sys.exit(run(sys.argv[1]))
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"{error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from here")
