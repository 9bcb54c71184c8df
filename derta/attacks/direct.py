"""The plain question: no attack."""

from derta.corpus import Request
from derta.generate import Prompt, user


def prompt(request: Request) -> Prompt:
    """The question as a user's turn."""
    return user(request.question)
