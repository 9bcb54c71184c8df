"""Attacks that search against the model that is attacked."""

from derta.attacks import Attack
from derta.searches import autodan, pair

# Without the settings of a search, which `pair.attack` and `autodan.attack` add.
SEARCHES: dict[str, Attack] = {attack.name: attack for attack in (pair.ATTACK, autodan.ATTACK)}
