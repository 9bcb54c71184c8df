"""Multi-turn: innocent turns first, the question last (in the manner of arXiv 2404.01833, without its escalation).

A model tuned only on single turns may not look for harm after a friendly conversation. The conversations are those of
the embedded corpus (`derta.corpus.conversations`).
"""

from derta import requests
from derta.attacks.attack import Attack
from derta.generate import Prompt
from derta.requests import Request


def prompt(request: Request) -> Prompt:
    """Return the conversation so far, with the question as its last turn.

    Raises:
        ValueError: the request has no turns before the question.
    """
    if not request.turns:
        raise ValueError(f"{request.id}: multi_turn needs a request with turns before its question")
    return Prompt((*request.turns, {"role": "user", "content": request.question}))


ATTACK = Attack("multi_turn", "Multi-turn", prompt, requests=requests.held_out_conversations)
