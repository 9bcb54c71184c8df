"""Published questions to attack with, each source as a split of its own beside the splits of the corpus.

===================== ======================================================================================
``paper``             the paper's 200 questions, with the authors' own prompts of five attacks
``alpaca_eval``       the paper's 300 instructions of AlpacaEval, which are harmless
``harmbench``         HarmBench's 200 standard behaviours (arXiv 2402.04249)
``jailbreakbench``    JailbreakBench's 100 behaviours, each with a benign one on the same topic (arXiv 2404.01318)
``xstest``            XSTest's 250 questions that sound bad, and 200 unsafe contrasts (arXiv 2308.01263)
===================== ======================================================================================

The harmful questions are real: none of them is kept here, and none belongs in a printed cell.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

from scipy.optimize import linear_sum_assignment

from derta.attacks import Attack
from derta.files import read_jsonl
from derta.generate import Prompt, user
from derta.published import sources
from derta.published.released import fetch
from derta.requests import Request, held_out
from derta.sentences import stems

# The authors' files: the plain questions, the instructions, and the prompts of each attack.
QUESTIONS = "data/test/safety_illegal_instructions_200.json"
INSTRUCTIONS = "data/test/helpfulness_alpaca_eval_300.json"
PROMPTS = {
    "completing": "data/test/safety_completionattack.json",
    "role_play": "data/test/safety_jailbreakchat.json",
    "code_attack": "data/test/safety_codeattack.json",
    "self_cipher": "data/test/safety_selfcipher.json",
}
# Each source, with whether it has harmful and whether it has benign requests.
SOURCES = {
    "paper": (True, False),
    "alpaca_eval": (False, True),
    "harmbench": (True, False),
    "jailbreakbench": (True, True),
    "xstest": (True, True),
}


@cache
def paper() -> tuple[Request, ...]:
    """Return the paper's 200 questions with the authors' prompts of the attacks of `PROMPTS`.

    The prompts are in the order of the questions, except for ``completing``, whose sentences have a different order.
    They are matched to the questions so that all pairs together share the most content words.

    Raises:
        ValueError: a file is not the listed one, or lacks rows.
        FileNotFoundError: ``DERTA_RELEASED`` is set, but lacks a file.
    """
    questions = _texts(QUESTIONS)
    prompts: dict[str, list[Prompt]] = {}
    for attack, path in PROMPTS.items():
        texts = _texts(path)
        if len(texts) != len(questions):
            raise ValueError(f"{path}: {len(texts)} rows for {len(questions)} questions")
        if attack == "completing":
            asked, told = [stems(text) for text in questions], [stems(text) for text in texts]
            shared = [[len(q & t) / max(len(q | t), 1) for t in told] for q in asked]
            texts = [texts[i] for i in linear_sum_assignment(shared, maximize=True)[1]]
        prompts[attack] = [Prompt((), text) if attack == "completing" else user(text) for text in texts]
    return tuple(
        Request(f"paper-{i}", "paper", text, text, split="paper", prompts={name: prompts[name][i] for name in PROMPTS})
        for i, text in enumerate(questions)
    )


def _texts(path: str) -> list[str]:
    return [row["question"] for row in read_jsonl(fetch(path), {"question": str})]


def requests(source: str, benign: bool) -> list[Request]:
    """Return the requests of a source of `SOURCES`, or their benign counterparts; none if it has none of that side.

    Raises:
        ValueError: the source is unknown; see also `paper` and `derta.published.sources.load`.
    """
    if source not in SOURCES:
        raise ValueError(f"unknown source {source!r}; expected one of {', '.join(SOURCES)}")
    if not SOURCES[source][benign]:
        return []
    if source == "paper":
        return list(paper())
    if source == "alpaca_eval":
        return [
            Request(f"alpaca-eval-{i}", "instruction", text, text, split=source)
            for i, text in enumerate(_texts(INSTRUCTIONS))
        ]
    name = f"{source}-benign" if benign and source == "jailbreakbench" else source
    return [replace(request, split=source) for request in sources.questions(name, sources.load(name), benign)]


# What is asked of a source whose requests are of another kind than an attack's usual ones.
OF_THEIR_OWN = {"helpful": ("alpaca_eval",), "borderline": ("xstest",)}


def takes(attack: Attack) -> tuple[str, ...]:
    """Return the sources that an attack can ask: those with harmful questions, if it needs no more than these."""
    usual = tuple(name for name, (harmful, _) in SOURCES.items() if harmful)
    return OF_THEIR_OWN.get(attack.name, usual if attack.requests is held_out else ())


def with_sources(attack: Attack, names: Sequence[str]) -> Attack:
    """Return an attack that takes the requests of published sources after its own.

    Raises:
        ValueError: the attack cannot take them (`takes`).
    """
    for name in names:
        if name not in takes(attack):
            known = ", ".join(takes(attack)) or "no published source"
            raise ValueError(f"{attack.name} cannot ask {name}; it can ask {known}")

    def asked(control: bool) -> list[Request]:
        # What is innocent has no control: its requests are the benign ones.
        own = list(attack.requests(control))
        return own + [request for name in names for request in requests(name, control or attack.innocent)]

    return replace(attack, requests=asked) if names else attack
