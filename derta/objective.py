"""The labels of Eq. 1 and Eq. 2 (arXiv 2407.09121, Section 3).

A row has `input_ids` and `labels`, two lists of length [positions], with the label -100 at positions without a loss.
Any trainer with a cross-entropy over labels therefore optimises the paper's objective. As usual in transformers, the
label at index i is the token that the model should predict from the tokens before i.
"""

from collections.abc import Sequence

IGNORE = -100

Row = dict[str, list[int]]


def supervised(prompt: Sequence[int], response: Sequence[int]) -> Row:
    """Label every token of the response: Eq. 1, −log P(r | q), for helpful data and ordinary safety data."""
    return {"input_ids": [*prompt, *response], "labels": [IGNORE] * len(prompt) + [*response]}


def harmful_prefix(prompt: Sequence[int], harmful: Sequence[int], safe: Sequence[int], k: int) -> Row:
    """Label the safe response after the first `k` tokens of the harmful one: −log P(r | q, r̂_<k), the first term of
    Eq. 2.

    Raises:
        ValueError: `k` is not within 0 … |r̂|.
    """
    if not 0 <= k <= len(harmful):
        raise ValueError(f"k is {k}; a harmful response of {len(harmful)} tokens allows 0 to {len(harmful)}")
    return supervised([*prompt, *harmful[:k]], safe)


def rto(prompt: Sequence[int], harmful: Sequence[int], refusals: Sequence[int], keep: Sequence[bool]) -> Row:
    """Label every kept position t = 1 … |r̂| with a refusal token: −Σ_t log P(sorry | q, r̂_<t), the second term of
    Eq. 2.

    Args:
        refusals: the refusal token of each position of `harmful`; in Eq. 2 the same one everywhere.
        keep: one flag per token of `harmful`; False drops the label (the paper's "Sorry" dropout).

    Raises:
        ValueError: `refusals`, `keep` and `harmful` differ in length, or nothing is kept (a trainer would drop such a
            row).
    """
    if not len(refusals) == len(keep) == len(harmful) or not any(keep):
        raise ValueError(f"{len(harmful)} harmful tokens need as many flags, one of them true; found {sum(keep)} true")
    return {
        "input_ids": [*prompt, *harmful],
        "labels": [IGNORE] * len(prompt) + [id if kept else IGNORE for id, kept in zip(refusals, keep, strict=True)],
    }
