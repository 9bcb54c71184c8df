"""The plain question, which is no attack, and innocent questions that are asked in the same way."""

from derta import requests
from derta.attacks.attack import Attack
from derta.generate import Prompt, user
from derta.requests import Request


def prompt(request: Request) -> Prompt:
    """Return the question as a user's turn."""
    return user(request.question)


ATTACK = Attack("direct", "Direct\nquestion", prompt)
INNOCENT = (
    Attack("helpful", "Ordinary\ninstructions", prompt, requests=requests.instructions, innocent=True),
    Attack("borderline", "Borderline\nquestions", prompt, requests=requests.borderline, innocent=True),
)
