"""Attacks: a request in, a prompt out.

Each file defines an attack, or variants of one, as `Attack` objects; they are collected here. The attacks that search
against the target are in `derta.searches`.
"""

from derta.attacks import (
    adaptive,
    code_attack,
    completing,
    direct,
    multi_turn,
    prefill,
    role_play,
    self_cipher,
)
from derta.attacks.attack import Attack, file_name

__all__ = ["ATTACKS", "Attack", "file_name", "find"]

# In the order of tables and figures.
ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        direct.ATTACK,
        prefill.ATTACK,
        completing.ATTACK,
        role_play.ATTACK,
        *code_attack.ATTACKS,
        *self_cipher.ATTACKS,
        *multi_turn.ATTACKS,
        *adaptive.ATTACKS,
        prefill.BY_DEPTH,
        prefill.REOPENED,
        direct.BORDERLINE,
        direct.HELPFUL,
        *direct.LONG,
    )
}


def find(attack: str | Attack) -> Attack:
    """Return the attack of a name; an `Attack` is returned unchanged.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(attack, Attack):
        return attack
    if attack not in ATTACKS:
        raise ValueError(f"unknown attack {attack!r}; expected one of {', '.join(ATTACKS)}")
    return ATTACKS[attack]
