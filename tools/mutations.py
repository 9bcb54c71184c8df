"""Break the science on purpose, in one place after the other: does a test notice? ``python -m tools.mutations``.

In a copy of the checkout the tests that `MUTATIONS` names pass first; then each mutation is made alone, and those that
should notice it are run (some minutes in all). The table is printed in Markdown, with the first test that failed;
``docs/reliability.md`` shows it.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from derta.runs import DATA

COPIED = "derta data notebooks docs figures tests tools README.md CONTRIBUTING.md CITATION.cff pyproject.toml".split()


class Mutation(NamedTuple):
    """What goes wrong, where, the text that is replaced by another, and the tests that should notice."""

    wrong: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = [
    Mutation(
        "behaviours of all splits are in each",
        "derta/corpus.py",
        'for row in rows if split in ("", row["split"]))',
        "for row in rows)",
        "test_corpus test_requests test_material",
    ),
    Mutation(
        "the phrasings of the training are asked in the test too",
        "derta/corpus.py",
        'row["template"] for row in read_csv(DATA / "phrasings.csv", ("split", "template")) if row["split"] == split',
        'row["template"] for row in read_csv(DATA / "phrasings.csv", ("split", "template"))',
        "test_corpus test_requests",
    ),
    Mutation(
        "the judge of harm sees the attack's prompt",
        "derta/judges/frames.py",
        'question, completion = questions[id], defuse(row["completion"])',
        'question, completion = row["prompt"], defuse(row["completion"])',
        "test_graders",
    ),
    Mutation(
        "the rules read the start that the attacker wrote as the model's own",
        "derta/evaluate.py",
        'verdict = judge(request.do, row["completion"], attack',
        'verdict = judge(request.do, row.get("start", "") + row["completion"], attack',
        "test_evaluate test_judge",
    ),
    Mutation(
        "DeRTa is given RecAug's data",
        "derta/arms.py",
        '"derta": ("prefix", "rto"),',
        '"derta": ("prefix", "prefix"),',
        "test_arms",
    ),
    Mutation(
        "vanilla has half as many safety rows as DeRTa",
        "derta/arms.py",
        '"vanilla": ("safety", "again"),',
        '"vanilla": ("safety",),',
        "test_arms",
    ),
    Mutation(
        "RTO's labels are one position late",
        "derta/objective.py",
        '"labels": [IGNORE] * len(prompt) + [id if',
        '"labels": [IGNORE] * (len(prompt) + 1) + [id if',
        "test_objective test_arms test_train_terms",
    ),
    Mutation(
        "the harmful prefix has a loss",
        "derta/objective.py",
        "return supervised([*prompt, *harmful[:k]], safe)",
        "return supervised(prompt, [*harmful[:k], *safe])",
        "test_objective test_arms test_train_terms",
    ),
    Mutation(
        "the refusal token is that of the word after a space",
        "derta/models.py",
        'ids = self.ids(f"{word},")',
        'ids = self.ids(f" {word},")',
        "test_models test_arms test_decode",
    ),
    Mutation(
        "the seed does not reach which triples are drawn",
        "derta/material.py",
        'rng = random.Random(f"material {seed}")',
        'rng = random.Random("material")',
        "test_material",
    ),
    Mutation(
        "the seed does not reach the prefixes and the dropout",
        "derta/arms.py",
        'return random.Random(f"{settings.seed} {epoch} {name}")',
        'return random.Random(f"{epoch} {name}")',
        "test_arms",
    ),
    Mutation(
        "the seed does not reach the order of the rows",
        "derta/dataset.py",
        'random.Random(f"order {settings.seed} {epoch}")',
        'random.Random(f"order {epoch}")',
        "test_arms",
    ),
    Mutation(
        "ASR leaves out what is unscored",
        "derta/evaluate.py",
        'table[f"{name}_percent"] = 100 * count / table.n',
        'table[f"{name}_percent"] = 100 * count / (table.n - table.unscored)',
        "test_evaluate",
    ),
    Mutation(
        "the ASR of the figures counts unscored answers as unsafe",
        "derta/measures.py",
        '"asr": (lambda a: a["unsafe"], (0, 1)),',
        '"asr": (lambda a: a["unsafe"] + a["unscored"], (0, 1)),',
        "test_measures",
    ),
    Mutation(
        "AUROC takes the twins for the harmful side",
        "derta/stats.py",
        "harmful[..., :, None] - benign[..., None, :]",
        "benign[..., None, :] - harmful[..., :, None]",
        "test_stats test_measures",
    ),
    Mutation(
        "the threshold is chosen on the test",
        "derta/measures.py",
        'choosing = own[own.split == "validation"]',
        "choosing = own[own.split == held_out]",
        "test_measures",
    ),
    Mutation(
        "intervals leave out that seeds differ",
        "derta/stats.py",
        "if of_seeds > residual:",
        "if False:",
        "test_stats",
    ),
    Mutation(
        "answers of other decoding parameters are taken over",
        "derta/generate.py",
        "digest(backend.fingerprint(), decoding, seed, batch)",
        "digest(backend.fingerprint(), seed, batch)",
        "test_generate",
    ),
    Mutation(
        "answers of another model are taken over",
        "derta/generate.py",
        "digest(backend.fingerprint(), decoding, seed, batch)",
        "digest(decoding, seed, batch)",
        "test_generate",
    ),
    Mutation(
        "a model trained with other settings is taken over",
        "derta/runs.py",
        'if (old := json.loads(path.read_text(encoding="utf-8"))) == inputs:',
        'if old := json.loads(path.read_text(encoding="utf-8")):',
        "test_runs",
    ),
    Mutation("a number of the README is stale", "README.md", "and **DeRTa 9", "and **DeRTa 8", "test_readme"),
    Mutation(
        "a verdict does not follow from the tables",
        "figures/study/claims.csv",
        ",reproduced,",
        ",contradicted,",
        "test_claims test_readme",
    ),
    Mutation(
        "a setting was changed after the test was let in",
        "notebooks/params/study.yaml",
        "learning_rate: 2.0e-3",
        "learning_rate: 1.0e-3",
        "test_profiles",
    ),
]


def mutate(checkout: Path, mutation: Mutation) -> str:
    """Make a mutation, the first occurrence of its text, and return the file's own text.

    Raises:
        ValueError: the file does not hold the text.
    """
    path = checkout / mutation.file
    text = path.read_text(encoding="utf-8")
    if mutation.old not in text:
        raise ValueError(f"{mutation.file}: does not hold {mutation.old!r}; adapt the mutation {mutation.wrong!r}")
    path.write_text(text.replace(mutation.old, mutation.new, 1), encoding="utf-8")
    return text


def first_failure(checkout: Path, names: set[str]) -> tuple[str, str] | None:
    """Run the fast tests of some files; return the file and the name of the first that failed, None if none did."""
    tests = [f"tests/{name}.py" for name in sorted(names)]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    found = re.search(r"^(?:FAILED|ERROR) tests/(\w+)\.py(?:::(\w+))?", done.stdout, re.MULTILINE)
    if done.returncode and not found:
        raise RuntimeError(done.stdout + done.stderr)
    return (found[1], found[2] or "cannot be imported") if found else None


def main() -> int:
    """Print the table, and return 1 if a mutation was not noticed.

    Raises:
        RuntimeError: the tests fail without any mutation, or cannot be run.
    """
    unnoticed = 0
    print("| what is wrong | in | noticed by |\n| --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory(prefix="mutations-") as scratch:
        checkout = Path(scratch) / "derta"
        checkout.mkdir()
        for name in COPIED:
            source = DATA.parent / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, checkout / name)
        if failed := first_failure(checkout, {name for mutation in MUTATIONS for name in mutation.tests.split()}):
            raise RuntimeError(f"{failed[0]}, {failed[1]}: fails without any mutation")
        for mutation in MUTATIONS:
            text = mutate(checkout, mutation)
            failed = first_failure(checkout, set(mutation.tests.split()))
            (checkout / mutation.file).write_text(text, encoding="utf-8")
            unnoticed += not failed
            noticed = f"`{failed[0]}`: {failed[1].removeprefix('test_').replace('_', ' ')}" if failed else "**nobody**"
            print(f"| {mutation.wrong} | `{mutation.file}` | {noticed} |", flush=True)
    return int(unnoticed > 0)


if __name__ == "__main__":
    sys.exit(main())
