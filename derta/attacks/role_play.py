"""JailbreakChat: a role-play template, one drawn per question (arXiv 2407.09121, Section 4.2; arXiv 2308.03825 collects
such prompts).

The templates of ``data/jailbreak_templates.csv`` are our own and plainly worded. The paper's 50, the most voted of a
site, are in the authors' released prompts (`derta.published.prompts`).
"""

import random
from functools import cache

from derta import judge
from derta.attacks.attack import Attack
from derta.files import read_csv
from derta.generate import Prompt, user
from derta.requests import Request
from derta.runs import DATA


@cache
def templates() -> tuple[str, ...]:
    """The templates, each with ``{question}``."""
    return tuple(row["template"] for row in read_csv(DATA / "jailbreak_templates.csv", ("id", "template")))


def prompt(request: Request) -> Prompt:
    """The question in a template, the same one for a behaviour and its benign twin."""
    template = random.Random(f"role play {request.id}").choice(templates())
    return user(template.replace("{question}", request.question))


ATTACK = Attack("role_play", "Role play", prompt, read=judge.turns)
