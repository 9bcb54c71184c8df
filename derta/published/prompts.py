"""The authors' released prompts: the paper's own templates, demonstrations and programs, with its questions in them.

The questions are real and harmful: none of them is kept here, and none belongs in a printed cell.
"""

from scipy.optimize import linear_sum_assignment

from derta.attacks.attack import file_name
from derta.files import read_jsonl
from derta.generate import Case, Prompt, user
from derta.published.released import fetch
from derta.requests import Request
from derta.sentences import stems

PUBLISHED = {
    "direct": "data/test/safety_illegal_instructions_200.json",
    "completing": "data/test/safety_completionattack.json",
    "role_play": "data/test/safety_jailbreakchat.json",
    "code_attack": "data/test/safety_codeattack.json",
    "self_cipher": "data/test/safety_selfcipher.json",
}


def published(attack: str) -> tuple[list[Request], list[Case]]:
    """Return the authors' 200 questions, and their released prompts of an attack of `PUBLISHED` as cases.

    The prompts are in the order of the questions, except for ``completing``, whose sentences have a different order.
    They are matched to the questions so that all pairs together share the most content words; in 189 of the 200 pairs
    the next best question is clearly worse, in 11 it is not.

    Raises:
        ValueError: no prompts were released for `attack`, or the file is not the listed one.
        FileNotFoundError: ``DERTA_RELEASED`` is set, but lacks the file.
    """
    if attack not in PUBLISHED:
        raise ValueError(f"no prompts were released for {attack!r}; expected one of {', '.join(PUBLISHED)}")
    questions = [row["question"] for row in read_jsonl(fetch(PUBLISHED["direct"]), {"question": str})]
    texts = [row["question"] for row in read_jsonl(fetch(PUBLISHED[attack]), {"question": str})]
    if len(texts) != len(questions):
        raise ValueError(f"{PUBLISHED[attack]}: {len(texts)} rows for {len(questions)} questions")
    if attack == "completing":
        asked, told = [stems(text) for text in questions], [stems(text) for text in texts]
        shared = [[len(q & t) / max(len(q | t), 1) for t in told] for q in asked]
        texts = [texts[i] for i in linear_sum_assignment(shared, maximize=True)[1]]
    requests = [Request(f"released-{i}", "released", question, question) for i, question in enumerate(questions)]
    prompts = [Prompt((), text) if attack == "completing" else user(text) for text in texts]
    name = file_name(attack, control=False)
    return requests, [Case(f"{r.id}/{name}", r.id, attack, False, 0, p) for r, p in zip(requests, prompts, strict=True)]
