"""Multi-turn: innocent turns first, the question last (in the manner of arXiv 2404.01833, without its escalation).

A model tuned on single turns alone may not look for harm behind a friendly talk. The conversations are the embedded
corpus's (`derta.corpus.conversations`).
"""

from derta.corpus import Request
from derta.generate import Prompt


def prompt(request: Request) -> Prompt:
    """The conversation so far and the question as its last turn."""
    return Prompt((*request.turns, {"role": "user", "content": request.question}))
