"""Where a completion first refuses: the measure behind Table 1 and Figure 4, in words and in tokens."""

import re
from collections.abc import Callable, Sequence

from derta.audit.generations import Generation
from derta.audit.verdicts import REFUSAL


def words(text: str) -> int:
    """How many words `text` holds."""
    return len(text.split())


def refusal_position(generation: Generation, length: Callable[[str], int] = words) -> int | None:
    """The position, from 1, at which the first refusal begins; None for a completion without one.

    Args:
        length: how long a text is, in words or in a tokenizer's tokens.
    """
    # The patterns know one kind of space; one character for another keeps the positions.
    found = REFUSAL.search(re.sub(r"\s", " ", generation.completion))
    return length(generation.completion[: found.start()].strip()) + 1 if found else None


def cumulative(positions: Sequence[int], until: int) -> list[float]:
    """The fraction of refusals that begin at or before each position 1 … `until`; shape (until,)."""
    return [sum(position <= t for position in positions) / len(positions) for t in range(1, until + 1)]
