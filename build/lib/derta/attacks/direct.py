"""The plain question: no attack."""

from derta.corpus import Request
from derta.generate import Prompt
from derta.models import LM


def prompt(lm: LM, request: Request) -> Prompt:
    """The question in the model's chat format."""
    return Prompt(lm.chat(request.question))
