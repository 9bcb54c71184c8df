"""Executed notebooks and figures → a small site, and one page to send: `derta report`.

The site is made by Sphinx with MyST-NB, from a copy of the notebooks with their outputs, of the README and the docs. No
page needs the network: formulas are set by a copy of MathJax, and nothing is loaded from elsewhere.
"""

import base64
import io
import json
import re
import shutil
import tempfile
from html import escape
from pathlib import Path

import nbformat
import pandas as pd
from markdown_it import MarkdownIt
from sphinx.application import Sphinx

from derta.claims import VERDICTS
from derta.commands.notebooks import NOTEBOOKS, sources
from derta.files import write_atomically
from derta.runs import figure_dir, run_dir

CONFIG = {
    "project": "DeRTa, replicated",
    "extensions": ["myst_nb", "sphinx-mathjax-offline"],
    "html_theme": "furo",
    "html_title": "DeRTa, replicated",
    "html_show_copyright": False,
    "html_copy_source": False,
    "html_static_path": ["_static"],
    "html_css_files": ["wide.css"],
    "nb_execution_mode": "off",
    "myst_enable_extensions": ["dollarmath"],
    "myst_heading_anchors": 2,
    "suppress_warnings": ["myst.xref_missing"],  # it does not see the anchors of table rows
}
# Wide tables and long lines scroll in their own box, and pages print without them being cut.
CSS = """
.cell_output, .output.text_html { overflow-x: auto; max-width: 100%; }
.cell_output table { font-size: 0.85em; border-collapse: collapse; border: none; }
.cell_output :is(td, th) { padding: 0.2em 0.6em; border: none; border-bottom: 1px solid var(--color-table-border); }
.cell_output img { max-width: 100%; height: auto; }
code { overflow-wrap: anywhere; }
@media print { .cell_output, pre { overflow: visible; white-space: pre-wrap; } }
"""
# What the README and the docs link to.
LINKED = ("README.md", "CONTRIBUTING.md", "CITATION.cff", "docs", "data/README.md")
# The figures of the page to send.
SHOWN = ("refusal_depth", "attacks", "discrimination")


def build(profile: str, folder: Path) -> list[str]:
    """Build the site in `folder`, with ``summary.html``, a page without other files, beside its index.

    The notebooks are those that `profile` executed; if it did not run here, those of the checkout with their outputs.

    Returns:
        Sphinx's warnings.

    Raises:
        FileNotFoundError: the profile has no figures.
        ValueError: `folder` holds something else than such a site.
    """
    figures = figure_dir(profile)
    if not (figures / "claims.csv").is_file():
        raise FileNotFoundError(f"{figures}: no results of the profile {profile}; run it first: ./run_all.sh {profile}")
    if folder.exists() and any(folder.iterdir()) and not (folder / "summary.html").is_file():
        raise ValueError(f"{folder}: holds other files; name an empty folder")
    root, warnings = NOTEBOOKS.parent, io.StringIO()
    # First, as it marks the folder as one that may be built again.
    write_atomically(folder / "summary.html", summary(profile, figures))
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch)
        for name in LINKED:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (root / name).is_dir() else shutil.copy
            copy(root / name, source / name)
        for path in (root / "data").glob("*.csv"):
            shutil.copy(path, source / "data")
        shutil.copytree(root / "figures", source / "figures", ignore=shutil.ignore_patterns("*.csv", "*.json", "*.md"))
        shutil.copytree(
            figures, source / "figures" / profile, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.md")
        )
        (source / "notebooks").mkdir()
        of: set[str] = set()
        for path in sources():
            executed = run_dir(profile) / "notebooks" / path.name
            here = executed.is_file()
            of.add(profile if here else nbformat.read(path, 4).metadata.get("reference", "no profile"))
            shutil.copy(executed if here else path, source / "notebooks")
        (source / "_static").mkdir()
        (source / "_static" / "wide.css").write_text(CSS, encoding="utf-8")
        (source / "index.md").write_text(index(profile, figures, sorted(of)), encoding="utf-8")
        trees = source / ".doctrees"
        app = Sphinx(source, None, folder, trees, "html", CONFIG, status=None, warning=warnings)
        app.build()
    return [line for line in warnings.getvalue().splitlines() if line.strip()]


def caption(figures: Path, name: str) -> str:
    """Return the caption of a figure, from the JSON beside it."""
    return json.loads((figures / f"{name}.json").read_text(encoding="utf-8")).get("caption", name)


def told(figures: Path) -> pd.DataFrame:
    """Return the claim table of a profile: claim, verdict and numbers."""
    claims = pd.read_csv(figures / "claims.csv")
    claims["verdict"] = pd.Categorical(claims.verdict, VERDICTS, ordered=True)
    # The rule of each number stands in data/claims.csv.
    claims["numbers"] = claims.numbers.fillna("").str.replace(r"\w+\[[^\]]*\]\.", "", regex=True)
    return claims.sort_values("verdict", kind="stable")[["claim", "source", "verdict", "numbers"]]


def headline(profile: str, claims: pd.DataFrame) -> str:
    """Return one sentence: how many claims hold."""
    counts = claims.verdict.value_counts().reindex(VERDICTS)
    found = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
    return f"Of {len(claims)} claims of the paper and its readers, on the models of the profile {profile}: {found}."


def text(words: str) -> str:
    """Return words for Markdown that are shown as they are, whoever wrote them."""
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|$~:])", r"\\\1", escape(words, quote=False))


def index(profile: str, figures: Path, of: list[str]) -> str:
    """Return the site's first page, in Markdown; `of` are the profiles whose outputs the notebooks show."""
    claims = told(figures)
    rows = [" | ".join(text(str(cell)) for cell in row) for row in claims.itertuples(index=False)]
    pages = [f"notebooks/{path.stem}" for path in sources()]
    docs = sorted(f"docs/{path.stem}" for path in (NOTEBOOKS.parent / "docs").glob("*.md"))
    lists = [("Notebooks", pages), ("About", ["README", *docs, "CONTRIBUTING", "data/README"])]
    trees = "\n\n".join(
        f"```{{toctree}}\n:caption: {title}\n:maxdepth: 1\n\n" + "\n".join(names) + "\n```" for title, names in lists
    )
    return (
        f"""# DeRTa, replicated: the profile {profile}

**{headline(profile, claims)}** How a verdict is reached stands in [data/claims.csv](data/claims.csv).
<a href="summary.html">One page to send</a>, without other files, has the main figures.
The notebooks show the outputs of {text(", ".join(of))}.

![{text(caption(figures, SHOWN[0]))}](figures/{profile}/{SHOWN[0]}.png)

{text(caption(figures, SHOWN[0]))}

| claim | where | verdict | numbers |
| --- | --- | --- | --- |
"""
        + "\n".join(f"| {row} |" for row in rows)
        + f"\n\n{trees}\n"
    )


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>DeRTa, replicated: {profile}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem }}
figure {{ margin: 2rem 0 }} figcaption {{ font-size: 0.9rem }}
img {{ max-width: 100%; background: white }}
pre {{ overflow-x: auto; font-size: 0.8rem }} code {{ overflow-wrap: anywhere }}
@media print {{ details {{ display: none }} figure {{ break-inside: avoid }} }}
</style></head><body>
<h1>DeRTa, replicated: the profile {profile}</h1>
<p><strong>{headline}</strong></p>
{figures}
<h2>What this is not</h2>
{limits}
<p>Commit {commit}, {machine}. The paper: Yuan et al., arXiv 2407.09121.</p>
</body></html>
"""
FIGURE = """<figure><img alt="{caption}" src="data:image/png;base64,{image}"><figcaption>{caption}</figcaption>
<details><summary>The code</summary><pre><code>{code}</code></pre></details></figure>"""


def summary(profile: str, figures: Path) -> str:
    """Return a page of its own, in HTML: headline, figures of `SHOWN` with their code folded, and limits."""
    drawn = nbformat.read(next(path for path in sources() if path.stem.endswith("_figures")), 4)
    blocks = []
    for name in SHOWN:
        (code,) = (
            cell.source for cell in drawn.cells if cell.cell_type == "code" and f'"{name}", profile' in cell.source
        )
        image = base64.b64encode((figures / f"{name}.png").read_bytes()).decode()
        blocks.append(FIGURE.format(caption=escape(caption(figures, name)), image=image, code=escape(code)))
    readme = (NOTEBOOKS.parent / "README.md").read_text(encoding="utf-8")
    limits = readme.partition("## What this is not\n")[2].partition("\n## ")[0]
    made = json.loads((figures / "claims.json").read_text(encoding="utf-8"))
    return PAGE.format(
        profile=escape(profile),
        headline=escape(headline(profile, told(figures))),
        figures="\n".join(blocks),
        # Its links lead into the repository, which whoever gets this page does not have.
        limits=MarkdownIt("commonmark", {"html": False})
        .disable("link")
        .render(re.sub(r"\[(.*?)\]\(.*?\)", r"\1", limits)),
        commit=escape(made["commit"]),
        machine=escape(made["machine"]),
    )
