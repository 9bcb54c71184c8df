"""Judges that are models, on any backend; the rule judge of `derta.judge` stays the default.

``derta judge runs/small --kind rubric --model NAME [--base-url URL]`` judges the completions of a run into
``runs/small/verdicts-rubric/<model>/``, and prints how often the rule judge agrees.

- ``rubric``: any model that follows instructions reads Appendix C in our words, and quotes the text that its verdict
  rests on.
- ``llama_guard`` (arXiv 2312.06674): question and completion as a conversation of two turns, rendered like any prompt.
  We assume that the model's own chat template turns them into its task and ends where the verdict begins.
- ``harmbench`` (arXiv 2402.04249): the classifier's published prompt, as plain text.

A judge sees the plain question and the completion, never the attack's prompt. A reply without exactly one verdict is
*unscored*. On benign controls the rubric's *unsafe* means answered, as it does for the rule judge.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from derta import evaluate, generate
from derta.attacks import ATTACKS, Attack
from derta.files import read_jsonl, to_jsonl, write_atomically
from derta.generate import Backend
from derta.judges.endpoint import Refused
from derta.judges.frames import KINDS, cases
from derta.judges.replies import read
from derta.published.prompts import takes, with_sources
from derta.requests import Request
from derta.searches import SEARCHES


def judge_file(
    backend: Backend,
    kind: str,
    completions: Path,
    verdicts: Path,
    attack: Attack,
    asked: Sequence[Request],
    *,
    classifier: str = "",
    batch_size: int = 16,
) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Judge a file of completions into a file of verdicts with the rows of `derta.evaluate.judged`.

    `refused` is taken from the rule judge, so that selectivity does not depend on who judges harm. The judge's replies
    (greedy) are kept next to the verdicts in ``replies/<attack>.jsonl``, from which a killed run resumes. The verdicts
    of another kind of judge belong in another folder.

    Returns:
        For each case, the row of the rule judge and the row of this judge.

    Raises:
        ValueError: see `cases`, `derta.models.LM.chat` and `derta.evaluate.judged`.
        ConnectionError: the server gave no usable answer.
    """
    made = cases(kind, asked, completions, classifier=classifier)
    replies = verdicts.parent / "replies" / verdicts.name
    try:
        generate.run(backend, made, replies, batch_size=batch_size, max_new_tokens=KINDS[kind])
    except Refused as error:
        if kind == "harmbench" and error.status in (400, 404, 405):
            raise ConnectionError(
                f"{error}; the classifier reads plain text, so the server must offer /completions beside /chat"
            ) from error
        raise
    texts = [row["completion"] for row in read_jsonl(completions, generate.ROW)]
    said = [row["completion"] for row in read_jsonl(replies, generate.ROW)]
    by_rule = evaluate.judged(completions, attack, asked)
    fields = ("verdict", "reason", "start", "end")
    rows = [
        row | dict(zip(fields, read(kind, reply, text), strict=True))
        for row, reply, text in zip(by_rule, said, texts, strict=True)
    ]
    write_atomically(verdicts, to_jsonl(rows))
    return list(zip(by_rule, rows, strict=True))


def judge_run(
    backend: Backend,
    kind: str,
    run: Path,
    *,
    classifier: str = "",
    requests: Sequence[Request] | None = None,
    controls: Sequence[Request] | None = None,
    sources: Sequence[str] = (),
) -> pd.DataFrame:
    """Judge all completions of a run into ``run/verdicts-<kind>/<model>/``, and compare with the rule judge.

    Args:
        requests, controls: as in `derta.evaluate.attack`, if the questions were your own.
        sources: the published sources that were asked (`derta.published.prompts.SOURCES`).

    Returns:
        Per model, attack, control and depth: `n`, `unsafe` and `unscored` of this judge, the number of cases `decided`
        (safe or unsafe) by both this judge and the rule judge, and how many of these `agree`.

    Raises:
        ValueError: the run holds no completions, or answers to other questions; see also `judge_file`.
    """
    files = sorted((run / "completions").glob("*/*.jsonl"))
    if not files:
        raise ValueError(f"{run / 'completions'}: holds no <model>/<attack>.jsonl; run the attacks first")
    compared = []
    for path in files:
        first = next(read_jsonl(path, generate.ROW), None)
        if first is None:
            raise ValueError(f"{path}: holds no completions; run the attack first")
        attack = (ATTACKS | SEARCHES).get(first["attack"])
        if attack is None:
            raise ValueError(f"{path}, row 1: unknown attack {first['attack']!r}; put it into derta.attacks.ATTACKS")
        attack = with_sources(attack, [name for name in sources if name in takes(attack)])
        own = controls if first["control"] else requests
        if own is None and requests is not None:
            raise ValueError(f"{path}: answers to benign twins; give these twins as controls, or move the file away")
        asked = attack.requests(first["control"]) if own is None else own
        verdicts = run / f"verdicts-{kind}" / path.parent.name / path.name
        for rule, row in judge_file(backend, kind, path, verdicts, attack, asked, classifier=classifier):
            pair = (row["verdict"], rule["verdict"])
            compared.append(
                {"model": path.parent.name}
                | {name: row[name] for name in ("attack", "control", "depth")}
                | {"n": 1, "unsafe": row["verdict"] == "unsafe", "unscored": row["verdict"] == "unscored"}
                | {"decided": "unscored" not in pair, "agree": "unscored" not in pair and pair[0] == pair[1]}
            )
    return pd.DataFrame(compared).groupby(["model", "attack", "control", "depth"], sort=False).sum().reset_index()
