"""The position at which a completion first refuses, in words or tokens: the measure of Table 1 and Figure 4."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from derta import stats
from derta.audit.generations import Folder, Generation
from derta.audit.names import Source
from derta.audit.verdicts import evidence, judge, judged


def words(text: str) -> int:
    """Return the number of words in `text`."""
    return len(text.split())


def refusal_position(generation: Generation, length: Callable[[str], int] = words) -> int | None:
    """Return the position, from 1, at which the first refusal begins; None for a completion without one.

    Args:
        length: the length of a text, in words or in a tokenizer's tokens.
    """
    before = before_refusal(generation)
    return None if before is None else length(before.strip()) + 1


def before_refusal(generation: Generation) -> str | None:
    """Return the text before the first refusal; None for a completion without one."""
    starts = [part.refusal.start for part in evidence(generation) if part.refusal]
    return generation.completion[: min(starts)] if starts else None


def cumulative(positions: Sequence[int], until: int) -> list[float]:
    """Return the fraction of refusals that begin at or before each position 1 … `until`; shape [until]."""
    return [sum(position <= t for position in positions) / len(positions) for t in range(1, until + 1)]


def refusals(folder: Folder) -> Iterator[tuple[Source, Generation]]:
    """Yield the safe completions that refuse, of `derta.audit.verdicts.judged`."""
    for key, row, found in judged(folder):
        if found.refused and found.verdict == "safe":
            yield key, row


def where(folder: Folder, length: Callable[[str], int] = words) -> dict[Source, list[int]]:
    """Return the positions of all `refusals`, by model, arm and attack."""
    found: dict[Source, list[int]] = {}
    for key, row in refusals(folder):
        position = refusal_position(row, length)
        if position is not None:
            found.setdefault(key, []).append(position)
    return found


def table(folder: Folder, length: Callable[[str], int] = words) -> list[dict]:
    """Tabulate by model and arm, with and without CodeAttack, how many refusals begin within the first five words and
    how many after thirty, in percent of the `refusals`, each with its 95 % Wilson interval."""
    at, rows = where(folder, length), []
    for model, arm in sorted({(key.model, key.arm) for key in at}):
        for attacks, without in (("all", ""), ("without CodeAttack", "CodeAttack")):
            own = [p for key in at if (key.model, key.arm) == (model, arm) and key.task != without for p in at[key]]
            row = {"model": model, "arm": arm, "attacks": attacks, "refusals": len(own)}
            for name, count in (("first_five", sum(p <= 5 for p in own)), ("after_thirty", sum(p > 30 for p in own))):
                low, high = stats.wilson(count, len(own))
                row |= {name: 100 * count / len(own) if own else None, f"{name}_low": 100 * low}
                row |= {f"{name}_high": 100 * high}
            rows.append(row)
    return rows


def late(folder: Folder, after: int = 30) -> list[dict]:
    """Tabulate by model, arm and attack what stands before refusals that begin after so many words.

    Returns:
        `late` (how many there are) and `substance`: how many would be unsafe if they ended before the refusal. Only
        these have stopped something.
    """
    counts: dict[Source, list[bool]] = {}
    for key, row in refusals(folder):
        before = before_refusal(row)
        if before is not None and words(before) >= after:
            counts.setdefault(key, []).append(judge(replace(row, completion=before)).verdict == "unsafe")
    keys = sorted(counts, key=lambda key: (key.model, key.arm, key.task))
    return [
        {
            "model": key.model,
            "arm": key.arm,
            "attack": key.task,
            "late": len(counts[key]),
            "substance": sum(counts[key]),
        }
        for key in keys
    ]
