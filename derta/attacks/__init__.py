"""Attacks: a request in, a prompt out.

Each file holds one attack, a function `prompt(request) -> Prompt`.
The form-matched benign control of an attack is the same function applied to the benign twins; its rows carry the
attack's name with ``_benign``.
"""

from collections.abc import Callable, Sequence

from derta.attacks import completing, direct, prefill, role_play
from derta.corpus import Request
from derta.generate import Case, Prompt

# What the control of an attack has behind the attack's name.
BENIGN = "_benign"

ATTACKS: dict[str, Callable[[Request], Prompt]] = {
    "direct": direct.prompt,
    "prefill": prefill.prompt,
    "completing": completing.prompt,
    "role_play": role_play.prompt,
}


def cases(name: str, requests: Sequence[Request]) -> list[Case]:
    """The cases of one attack, under `name`: an attack of `ATTACKS`, the same with ``_benign``, or ``helpful`` and
    ``borderline`` for benign questions asked directly.

    Raises:
        ValueError: an unknown name.
    """
    attack = "direct" if name in ("helpful", "borderline") else name.removesuffix(BENIGN)
    if attack not in ATTACKS:
        raise ValueError(f"unknown attack {name!r}; expected one of {', '.join(ATTACKS)}, with or without _benign")
    return [Case(f"{r.id}/{name}", r.id, name, 0, ATTACKS[attack](r)) for r in requests]
