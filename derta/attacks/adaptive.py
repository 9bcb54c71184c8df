"""An attacker who knows the defence and controls the decoding: refusal words are forbidden.

DeRTa trains one token, the refusal token, at every position of a harmful response (arXiv 2407.09121, Eq. 2), so an
attacker who controls the decoding may try to forbid only that token. The reply is also started
(`derta.attacks.prefill`), which is where DeRTa differs from vanilla. In the spirit of adaptive attacks (arXiv
2002.08347).
"""

import re
from functools import cache

from derta.attacks import prefill
from derta.attacks.attack import Attack
from derta.corpus import behaviours, refusals, responses

REFUSAL_WORD = "Sorry"


@cache
def synonyms() -> tuple[str, ...]:
    """Return the openings of refusals, each as short as possible without being the opening of a harmless sentence.

    For every refusal in ``data/refusals.csv`` this is the shortest run of first words (without the punctuation after
    them) with which no sentence of the benign training responses begins. "I" begins many, "I won't" none.
    """
    harmless = [row.response for file in ("benign-train", "helpful-train") for row in responses(file)]
    sentences = {sentence for text in harmless for sentence in re.split(r"(?<=[.!?:])\s+|\n+", text)}
    ordinary = {run for sentence in sentences for run in _runs(sentence)}
    texts = dict.fromkeys(text for b in behaviours() for text in refusals(b.category))
    return tuple(dict.fromkeys(next(run for run in _runs(text) if run not in ordinary) for text in texts))


def _runs(text: str) -> list[str]:
    """Return the first word of `text`, its first two words, and so on."""
    words = text.split()
    return [" ".join(words[:n]).rstrip(",.;:!?") for n in range(1, len(words) + 1)]


ATTACKS = (
    Attack("forbid_refusal", "Refusal\nforbidden", prefill.prompt, forbidden=lambda: (REFUSAL_WORD,)),
    Attack("forbid_synonyms", "Synonyms\nforbidden", prefill.prompt, forbidden=synonyms),
)
