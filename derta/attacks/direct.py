"""The plain question, which is no attack, and innocent questions that are asked in the same way."""

from derta import requests
from derta.attacks.attack import Attack
from derta.generate import Prompt, user
from derta.requests import Request


def prompt(request: Request) -> Prompt:
    """Return the question as a user's turn."""
    return user(request.question)


ATTACK = Attack("direct", "Direct question", prompt, scored=True)
# Its control are questions that sound bad, in other words than the bad ones on the same topics.
BORDERLINE = Attack("borderline", "Borderline questions", prompt, requests=requests.borderline, scored=True)
HELPFUL = Attack("helpful", "Ordinary instructions", prompt, requests=requests.instructions, innocent=True)


def long_answer(temperature: float) -> Attack:
    """Ask the benign twins for long answers: does a model that may refuse at any position still refuse in the end?"""
    return Attack(
        f"long_t{10 * temperature:.0f}",
        f"Long answer, temperature {temperature:g}",
        prompt,
        requests=lambda control: requests.held_out(True),
        innocent=True,
        decoding={"max_new_tokens": 256, "temperature": temperature},
    )


LONG = tuple(map(long_answer, (0.0, 0.7, 1.0)))
