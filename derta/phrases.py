"""The phrases by which the judge knows a refusal, moralising and the like: ``data/judge_phrases.csv``.

A row holds a kind and a phrase, in lower case and without punctuation or contractions ("i cannot", "do not"):

- ``{cannot}``: any phrase of the kind ``cannot``.
- ``help*``: any word that begins so.
- ``...``: up to twelve words.
- ``^`` before the first word: at the start of a sentence only; ``$`` after the last: at its end only.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import cache, lru_cache

from derta.files import read_csv
from derta.runs import DATA

# Contractions, also with the apostrophe forgotten, as Python's regular expressions and what they stand for.
_CONTRACTIONS = (
    (r"\b(?:can'?t|can not)\b", "cannot"),
    (r"\bwon'?t\b", "will not"),
    (r"\b(do|did|does|is|are|was|could|would|should|have|has)n'?t\b", r"\1 not"),
    (r"\bi'?m\b", "i am"),
    (r"\b(\w+)'re\b", r"\1 are"),
    (r"\b(\w+)'ll\b", r"\1 will"),
    (r"\b(\w+)'d\b", r"\1 would"),
    (r"\b(\w+)'ve\b", r"\1 have"),
    (r"\b(it|that|there|here|what)'s\b", r"\1 is"),
    (r"\blet's\b", "let us"),
    (r"\bgonna\b", "going to"),
)
_APOSTROPHES = str.maketrans(dict.fromkeys("’‘ʼ´`′＇", "'"))
# Between words. Letters of every script stay, and so do their marks, which regular expressions do not count as letters.
_BETWEEN = re.compile(r"(?:[\s!-&(-/:-@\[-`{-~–—…。、，！？；：「」『』（）“”„«»¿¡؟،।·•‹›*]|(?<!\w)'|'(?!\w))+")
# Words that change nothing about what is said.
_ADVERBS = re.compile(
    r"\b(?:(?!(?:only|comply|reply|apply|rely|supply|family|early|daily|weekly|friendly|likely|certainly|finally|legally"
    r"|illegally|alternatively|hypothetically|theoretically)\b)[a-z]{2,}ly"
    r"|just|also|very|so|still|ever|therefore|thus|again|even|either|quite) "
)


@lru_cache(maxsize=1024)
def plain(text: str) -> str:
    """Return the words of `text` in lower case and single spaces, contractions written out, a few adverbs left out."""
    text = unicodedata.normalize("NFC", text).translate(_APOSTROPHES).lower()
    for contraction, words in _CONTRACTIONS:
        text = re.sub(contraction, words, text)
    return _ADVERBS.sub("", _BETWEEN.sub(" ", text).strip() + " ").strip()


@cache
def pattern(kind: str) -> re.Pattern:
    """Compile all phrases of a kind into a pattern for texts made by `plain`.

    Raises:
        ValueError: there is no phrase of this kind.
    """
    return re.compile(_alternatives(kind))


@cache
def _phrases() -> dict[str, list[str]]:
    """Return the phrases by kind."""
    phrases: dict[str, list[str]] = {}
    for row in read_csv(DATA / "judge_phrases.csv", ("kind", "phrase")):
        phrases.setdefault(row["kind"], []).append(row["phrase"])
    return phrases


@cache
def _alternatives(kind: str) -> str:
    if kind not in _phrases():
        raise ValueError(f"{DATA / 'judge_phrases.csv'}: no phrase of the kind {kind!r}")
    # Phrases that begin alike share that beginning, which makes the search several times as fast.
    groups: dict[str, dict[str, list[str]]] = {}
    for phrase in _phrases()[kind]:
        start, first, rest = _compile(phrase)
        groups.setdefault(start, {}).setdefault(first, []).append(rest)
    return _either(
        start + _either(first + _either(rests) for first, rests in group.items()) for start, group in groups.items()
    )


def _either(alternatives: Iterable[str]) -> str:
    return "(?:" + "|".join(alternatives) + ")"


def _compile(phrase: str) -> tuple[str, str, str]:
    """Turn a phrase into regular expressions for its start, its first word and the rest.

    Words of scripts without spaces have no boundaries.
    """
    words = phrase.removeprefix("^").removesuffix("$").split()
    start = "^" if phrase.startswith("^") else r"\b" if words[0][0].isascii() else ""
    end = "$" if phrase.endswith("$") else r"\b" if words[-1][-1].isascii() and words[-1][-1] not in "*}" else ""
    first, *rest = map(_word, words)
    return start, first, ("".join(" " + word for word in rest) + end).replace(" ... ", r"(?: \S+){0,12}? ")


def _word(word: str) -> str:
    if word == "...":
        return word
    if word.startswith("{"):
        return _alternatives(word[1:-1])
    return re.escape(word).replace(r"\*", r"\S*")
