"""The position at which a completion first refuses, in words or tokens: the measure of Table 1 and Figure 4."""

from collections.abc import Callable, Sequence

from derta.audit.generations import Generation
from derta.audit.verdicts import evidence


def words(text: str) -> int:
    """Return the number of words in `text`."""
    return len(text.split())


def refusal_position(generation: Generation, length: Callable[[str], int] = words) -> int | None:
    """Return the position, from 1, at which the first refusal begins; None for a completion without one.

    Args:
        length: the length of a text, in words or in a tokenizer's tokens.
    """
    starts = [part.refusal.start for part in evidence(generation) if part.refusal]
    return length(generation.completion[: min(starts)].strip()) + 1 if starts else None


def cumulative(positions: Sequence[int], until: int) -> list[float]:
    """Return the fraction of refusals that begin at or before each position 1 … `until`; shape [until]."""
    return [sum(position <= t for position in positions) / len(positions) for t in range(1, until + 1)]
