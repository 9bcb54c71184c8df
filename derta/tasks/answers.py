"""Questions of the tasks beside this file, and how their answers are graded.

lm-evaluation-harness calls these functions by the names that the YAML files give.
"""

import re
from typing import Any

from datasets import Dataset

from derta.corpus import exact_match
from derta.files import read_jsonl
from derta.published.released import fetch

# The authors' files of questions, by task.
RELEASED = {name: f"data/test/helpfulness_{name}_500.json" for name in ("gsm8k", "mmlu")}

# A letter of an option; not the article at the beginning of a sentence.
_LETTER = re.compile(r"(?<![A-Za-z'’])\(?([A-D])(?![A-Za-z'’])(?! [a-z])")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def at_hand(task: str) -> bool:
    """Whether a task's questions are embedded, in a local copy of the authors' files, or can be downloaded."""
    try:
        return task not in RELEASED or fetch(RELEASED[task]).is_file()
    except OSError:
        return False


def embedded(**_: Any) -> dict[str, Dataset]:
    """Return the questions of ``data/exact_match.csv``."""
    rows = [{"id": q.id, "kind": q.kind, "question": q.question, "answers": list(q.answers)} for q in exact_match()]
    return {"test": Dataset.from_list(rows)}


def gsm8k(**_: Any) -> dict[str, Dataset]:
    """Return the 500 questions of GSM8K that the authors asked, with the number after ``####`` as the answer."""
    rows = read_jsonl(fetch(RELEASED["gsm8k"]), ("question", "answer"))
    told = [
        {"id": f"gsm8k-{i}", "question": row["question"], "answer": row["answer"].rpartition("####")[2].strip()}
        for i, row in enumerate(rows)
    ]
    return {"test": Dataset.from_list(told)}


def mmlu(**_: Any) -> dict[str, Dataset]:
    """Return the 500 questions of MMLU that the authors asked, with the place of the right option as the answer."""
    rows = read_jsonl(fetch(RELEASED["mmlu"]), ("question", "answer"))
    told = [
        {"id": f"mmlu-{i}", "question": row["question"], "answer": "ABCD".index(row["answer"])}
        for i, row in enumerate(rows)
    ]
    return {"test": Dataset.from_list(told)}


def right(kind: str, answers: list[str], completion: str) -> bool:
    """Grade an answer to an embedded question.

    To a sum, its last number counts; to a question with options, the first letter that it names; to any other, whether
    one of the accepted answers stands in it as a word.
    """
    if kind == "arithmetic":
        numbers = _NUMBER.findall(completion)
        return bool(numbers) and numbers[-1].replace(",", "") in answers
    if kind == "multiple_choice":
        letters = _LETTER.search(completion)
        return letters is not None and letters[1] in answers
    return any(re.search(rf"(?i)(?<!\w){re.escape(answer)}(?!\w)", completion) for answer in answers)


def graded(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Grade the one answer to a question of `embedded`."""
    return {"exact_match": float(right(doc["kind"], doc["answers"], results[0]))}
