"""Attacks: a request in, a prompt out.

Each file holds one attack: a function `prompt(request) -> Prompt` or, where the attack works against the target itself,
`search(request, target, settings, log) -> Prompt`.
The form-matched benign control of an attack is the same function applied to the benign twins; its rows carry the
attack's name with ``_benign``.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from scipy.optimize import linear_sum_assignment
from tqdm import tqdm

from derta.attacks import (
    adaptive,
    autodan,
    code_attack,
    completing,
    direct,
    multi_turn,
    pair,
    prefill,
    role_play,
    self_cipher,
)
from derta.corpus import Request
from derta.generate import Backend, Case, Prompt, user
from derta.judge import stems
from derta.models import LM
from derta.released import fetch
from derta.runs import read_jsonl

# What the control of an attack has behind the attack's name.
BENIGN = "_benign"

ATTACKS: dict[str, Callable[[Request], Prompt]] = {
    "direct": direct.prompt,
    "prefill": prefill.prompt,
    "completing": completing.prompt,
    "role_play": role_play.prompt,
    "code_attack": code_attack.stack,
    "code_attack_list": code_attack.list_,
    "code_attack_string": code_attack.string,
    "self_cipher": self_cipher.prompt,
    "multi_turn": multi_turn.prompt,
    "forbid_refusal": adaptive.prompt,
    "forbid_synonyms": adaptive.prompt,
}
DEPTH = "prefill_depth"
# These search, with settings of their own.
SEARCHES: dict[str, ModuleType] = {"pair": pair, "autodan": autodan}

# The authors' released prompts: the paper's own templates, demonstrations and programs, with the questions in them.
PUBLISHED = {
    "direct": "data/test/safety_illegal_instructions_200.json",
    "completing": "data/test/safety_completionattack.json",
    "role_play": "data/test/safety_jailbreakchat.json",
    "code_attack": "data/test/safety_codeattack.json",
    "self_cipher": "data/test/safety_selfcipher.json",
}


def base(name: str) -> str:
    """The attack behind a name: without ``_benign``; ``helpful`` and ``borderline`` questions are asked directly.

    Raises:
        ValueError: an unknown name.
    """
    attack = "direct" if name in ("helpful", "borderline") else name.removesuffix(BENIGN)
    known = [*ATTACKS, DEPTH, *SEARCHES]
    if attack not in known:
        raise ValueError(f"unknown attack {name!r}; expected one of {', '.join(known)}, with or without _benign")
    return attack


def cases(
    name: str,
    requests: Sequence[Request],
    target: Backend | None = None,
    *,
    depths: Sequence[int] = prefill.DEPTHS,
    settings: pair.Settings | autodan.Settings | None = None,
    logs: Path | None = None,
) -> list[Case]:
    """The cases of one attack, under `name`: an attack, the same with ``_benign``, or ``helpful`` and ``borderline``.

    Args:
        target: the model that ``pair`` and ``autodan`` search against, and whose tokens ``prefill_depth`` counts (its
            tokenizer suffices).
        depths: of ``prefill_depth``, which has a case for each.
        settings: of the search.
        logs: the folder in which a search keeps a file per request, from which it goes on if it was killed.

    Raises:
        ValueError: an unknown name, or a search without its settings and logs.
        TypeError: a `target` that cannot do what the attack needs.
    """
    attack = base(name)
    if attack in SEARCHES:
        module = SEARCHES[attack]
        if target is None or logs is None or not isinstance(settings, module.Settings):
            raise ValueError(f"{name} searches: it needs a target, logs and its settings, {attack}.Settings(…)")
        found = [
            module.search(r, target, settings, logs / f"{r.id}.jsonl") for r in tqdm(requests, desc=name, mininterval=5)
        ]
        return [Case(f"{r.id}/{name}", r.id, name, 0, prompt) for r, prompt in zip(requests, found, strict=True)]
    if attack == DEPTH:
        if not isinstance(target, LM):
            raise TypeError(f"{name} counts tokens: give it a model in process, or its tokenizer alone, as target")
        return [
            Case(f"{r.id}/{name}/{depth}", r.id, name, depth, prefill.at_depth(r, depth, target))
            for depth in depths
            for r in requests
        ]
    return [Case(f"{r.id}/{name}", r.id, name, 0, ATTACKS[attack](r)) for r in requests]


def queries(logs: Path) -> Counter[str]:
    """How often a search asked each model (attacker, target, judge), over all requests of its `logs`."""
    counts: Counter[str] = Counter()
    for log in sorted(logs.glob("*.jsonl")):
        for row in read_jsonl(log, ("queries",)):
            counts.update(row["queries"])
    return counts


def decoding(name: str) -> dict[str, Any]:
    """What an attack asks of the decoding: the words that `Backend.complete` may not produce."""
    if base(name) == "forbid_refusal":
        return {"forbidden": (adaptive.REFUSAL_WORD,)}
    return {"forbidden": adaptive.synonyms()} if base(name) == "forbid_synonyms" else {}


def published(name: str) -> tuple[list[Request], list[Case]]:
    """The authors' 200 questions, and their released prompts of an attack of `PUBLISHED` as cases.

    The questions are real and harmful: nothing of them is kept here, and none belongs into a printed cell.
    The prompts stand in the order of the questions, but for ``completing``, whose sentences are in an order of their
    own. They are given to the questions so that all pairs together share the most content words; in 189 of the 200
    pairs the next best question is clearly behind, in 11 it is not.

    Raises:
        ValueError: no prompts were released for `name`, or the file is not the listed one.
        FileNotFoundError: ``DERTA_RELEASED`` is set, but lacks the file.
    """
    if name not in PUBLISHED:
        raise ValueError(f"no prompts were released for {name!r}; expected one of {', '.join(PUBLISHED)}")
    questions = [row["question"] for row in read_jsonl(fetch(PUBLISHED["direct"]), {"question": str})]
    texts = [row["question"] for row in read_jsonl(fetch(PUBLISHED[name]), {"question": str})]
    if len(texts) != len(questions):
        raise ValueError(f"{PUBLISHED[name]}: {len(texts)} rows for {len(questions)} questions")
    if name == "completing":
        asked, told = [stems(text) for text in questions], [stems(text) for text in texts]
        shared = [[len(q & t) / max(len(q | t), 1) for t in told] for q in asked]
        texts = [texts[i] for i in linear_sum_assignment(shared, maximize=True)[1]]
    requests = [Request(f"released-{i}", "released", question, question) for i, question in enumerate(questions)]
    prompts = [Prompt((), text) if name == "completing" else user(text) for text in texts]
    return requests, [Case(f"{r.id}/{name}", r.id, name, 0, p) for r, p in zip(requests, prompts, strict=True)]
