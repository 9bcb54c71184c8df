"""Attacks that search against the model that is attacked."""

from derta.attacks import Attack
from derta.searches import autodan, pair

# These have no settings yet; `pair.attack` and `autodan.attack` add them.
SEARCHES: dict[str, Attack] = {attack.name: attack for attack in (pair.ATTACK, autodan.ATTACK)}
