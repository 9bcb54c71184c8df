"""JailbreakChat: a role-play template, drawn per question (arXiv 2407.09121, Section 4.2; arXiv 2308.03825 collects
such prompts).

The templates in ``data/jailbreak_templates.csv`` are our own and plainly worded. The paper's 50, the ones with the most
votes on a website, are in the authors' released prompts (`derta.published.prompts`).
"""

import random
from functools import cache

from derta.attacks.attack import Attack
from derta.files import read_csv
from derta.generate import Prompt, user
from derta.parts import turns
from derta.requests import Request
from derta.runs import DATA


@cache
def templates() -> tuple[str, ...]:
    """Return the templates, each with ``{question}``."""
    return tuple(row["template"] for row in read_csv(DATA / "jailbreak_templates.csv", ("id", "template")))


def prompt(request: Request) -> Prompt:
    """Put the question into a template; a behaviour and its benign twin get the same one."""
    template = random.Random(f"role play {request.id}").choice(templates())
    return user(template.replace("{question}", request.question))


ATTACK = Attack("role_play", "Role play", prompt, spans=turns)
