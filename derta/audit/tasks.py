"""Accuracy on GSM8K and MMLU from the released responses.

The first extractor of each task in `EXTRACTORS` is the one that counts. It was fixed before any comparison with the
paper. It was written by a large language model that saw 600 responses with their questions and, for 200 of them
(``data/answer_labels.csv``: 15 GSM8K and 10 MMLU responses of each file, drawn at random), the answers that another
reader found in them, but neither model, gold answer nor accuracy. Its first version was written on half of these and
agreed with the reader on 58 of 60 and 40 of 40 of the other half; the two misses led to two further rules. The other
extractors are simple ones, and notebook 07 shows how much the accuracy depends on the choice.
"""

import re
from collections.abc import Callable

from derta.audit.generations import Generation

_FIGURES = r"(?:(?<![\w)])-?)?[$£€]?(?<![\w.])(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+|/[1-9]\d*)?|\.\d+)"
_NUMBER = re.compile(_FIGURES)
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
# "One" is usually not a number; "no" is one after "are".
_WORD = re.compile(rf"\b(?:(?<=are )no|{'|'.join(_WORDS[2:])})\b", re.IGNORECASE)
_ASIDE = re.compile(r"(?<!\\)\([^()]*\)")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")
_RESULT = re.compile(rf"[=≈][^\w\n]{{0,4}}?({_FIGURES})")
_MARK = re.compile(rf"(?:####|\\boxed\{{|\banswer(?: is|:))[^\w\n]{{0,6}}?(?={_FIGURES})", re.IGNORECASE)
_UNANSWERED = re.compile(
    r"\b(?:no solution|error in the (?:problem|question)|(?:cannot|can't|unable to) (?:be )?(?:determine|solve))"
    r"|\A(?:Now|Next|Finally),? we (?:can|need)\b\D*\Z"
)
_STATED = re.compile(
    r"(?i:\b(?:answer|option|choice)(?: [\w']+){0,8}? (?:is|be)| is option|\banswer:|\\boxed)"
    r"(?: option)?\W{1,8}([A-D])\b|\(([A-D])\),? (?:is correct|(?:is )?the (?:correct|right|best) )"
)
_OPENING = re.compile(r"\W*(?:Option )?(?:\(([A-D])\)|([A-D])(?:[.):*]|\s*\Z))")
_NAMED = re.compile(r"\(([A-D])\)|[Oo]ption ([A-D])\b")
_OPTION = re.compile(r"^[- ]{0,4}\(([A-D])\)[ \t]*(.*\w)", re.MULTILINE)


def number(text: str) -> float | None:
    """Return the value of the last number in a text, keeping sign and decimals (``a/b`` is a fraction), or None."""
    values = _values(text)
    return values[-1] if values else None


def _values(text: str) -> list[float]:
    ratios = (re.sub("[$£€,]", "", found).partition("/") for found in _NUMBER.findall(text))
    return [float(numerator) / float(denominator or 1) for numerator, _, denominator in ratios]


def concluding_number(generation: Generation) -> float | None:
    """Return the number with which a response concludes.

    This is the last number marked as the answer ("answer is", "####", a box). Otherwise the last sentence decides that
    has a number and asks nothing, with number words read as digits and brackets skipped: the number after its last
    equals sign, or else the latest result of the working that it repeats, or else its last number. A response whose
    last line gives up the problem, or only announces a next step, has no answer.
    """
    completion = generation.completion
    if _UNANSWERED.search(completion.rstrip().rpartition("\n")[2]):
        return None
    text = _ASIDE.sub("", _WORD.sub(lambda word: str(_WORDS.index(word[0].lower())), completion))
    marks = [mark.end() for mark in _MARK.finditer(text)]
    sentences = _SENTENCE_END.split(text[marks[-1] :])[:1] if marks else _SENTENCE_END.split(text)
    told = [sentence for sentence in sentences if _NUMBER.search(sentence) and not sentence.rstrip().endswith("?")]
    if not told:
        return None
    *working, last = re.split("[=≈]", told[-1])
    if (marks or working) and _NUMBER.search(last):
        return _values(last)[0]
    stated = _values(told[-1])
    results = [result for result in _values(" ".join(_RESULT.findall(text))) if result in stated]
    return (results or stated)[-1]


def last_number(generation: Generation) -> float | None:
    """Return the last number of a response."""
    return number(generation.completion)


def equation_number(generation: Generation) -> float | None:
    """Return the number after the last equals sign, or else the last one."""
    results = _RESULT.findall(generation.completion)
    return number(results[-1]) if results else last_number(generation)


def stated_letter(generation: Generation) -> str | None:
    """Return the letter that a response gives.

    This is the last one stated to be the answer ("the correct option is (C)", "(D) is correct"), or else the one that
    opens the response, or else the last one that it names. A response that names none gives the option whose text it
    repeats, if there is exactly one.
    """
    completion = generation.completion
    opening = _OPENING.match(completion)
    named = _STATED.findall(completion) or ([opening.groups("")] if opening else _NAMED.findall(completion))
    if named:
        return "".join(named[-1])
    repeated = [
        letter
        for letter, text in _OPTION.findall(generation.prompt)
        if re.search(rf"(?<!\w){re.escape(text)}(?!\w)", completion, re.IGNORECASE)
    ]
    return repeated[0] if len(repeated) == 1 else None


def first_letter(generation: Generation) -> str | None:
    """Return the letter that opens a response, or else the first one that it names."""
    found = _OPENING.match(generation.completion) or _NAMED.search(generation.completion)
    return found[1] or found[2] if found else None


def last_letter(generation: Generation) -> str | None:
    """Return the last letter that a response names, or else the one that opens it."""
    named = _NAMED.findall(generation.completion)
    return "".join(named[-1]) if named else first_letter(generation)


EXTRACTORS: dict[str, dict[str, Callable[[Generation], float | str | None]]] = {
    "GSM8K": {"concluding": concluding_number, "last": last_number, "after the last =": equation_number},
    "MMLU": {"stated": stated_letter, "first named": first_letter, "last named": last_letter},
}


def gold(generation: Generation) -> float | str | None:
    """Return the gold answer: the number after ``####`` for GSM8K, the letter for MMLU."""
    if generation.source.task == "GSM8K":
        return number(generation.answer.rpartition("####")[2])
    return generation.answer.strip(" -()")


def answer(generation: Generation) -> float | str | None:
    """Return a response's answer by the first extractor of its task; None if nothing is found."""
    return next(iter(EXTRACTORS[generation.source.task].values()))(generation)
