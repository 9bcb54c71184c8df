"""Accuracy on GSM8K and MMLU from the released responses.

Of three extractors per task, `EXTRACTORS` lists first the one that agrees most with a reader of 200 responses
(``data/answer_labels.csv``: 15 GSM8K and 10 MMLU responses of each file, drawn at random and read by a large language
model that saw neither model nor gold answer nor accuracy): 92.5 % on GSM8K (the others 90.0 and 85.8), 100 % on MMLU
(100 and 97.5). That choice, not the paper's accuracies, decides. The rules themselves were written with these
accuracies in view, and not changed since the reading:

- GSM8K: the number that is said to be the answer ("answer is", "####", a box). Otherwise the concluding sentence
  decides, the last with a number: the number after its last equals sign, linking verb or "total of", for what follows
  an answer often qualifies it ("… is 100 after 2 weeks"); without any of these its first number.
- MMLU: the letter that is said to be the answer ("the answer is", "the correct option is"). Otherwise the first letter
  in brackets, "(B)", or a bare one at the start; otherwise the one option whose text the response repeats.

Notebook 07 shows how much the accuracy depends on the extractor.
"""

import re
from collections.abc import Callable

from derta.released.generations import Generation, normalise

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")
_STATED = re.compile(r"(?:answer is|answer:|####|\\boxed\{)[^\d\n-]{0,20}(-?\d[\d,]*(?:\.\d+)?)", re.IGNORECASE)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])|\n")
_CONCLUDES = re.compile(r"=|\b(?:is|are|was|were|be|has|have|had|total of)\b")
_LETTER = re.compile(
    r"(?:answer|option|choice)(?: is|:|[^.\n]{0,80}? is):?[\s\"'*-]*(?:option )?\(?([A-D])(?=\)|[.:,*]|\s*(?:\n|$))"
)
_BRACKETED = re.compile(r"\(([A-D])\)")
_BARE = re.compile(r"\W*(?:Option )?([A-D])(?:[).:,]|\s*$|\s+(?:-|is\b|seems\b))")
_OPTION = re.compile(r"\(([A-D])\) *(.*?)(?=\s*-? *\([A-D]\)|$)", re.DOTALL)


def number(text: str) -> float | None:
    """The value of a number as it is written, None for no number."""
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def last_number(generation: Generation) -> float | None:
    """The last number of a response."""
    numbers = _NUMBER.findall(generation.completion)
    return number(numbers[-1]) if numbers else None


def concluding_number(generation: Generation) -> float | None:
    """The number that is said to be the answer, or else what the last sentence with a number concludes."""
    stated = _STATED.findall(generation.completion)
    sentences = [s for s in _SENTENCE.split(generation.completion) if _NUMBER.search(s)]
    if stated or not sentences:
        return number(stated[-1]) if stated else None
    said = re.sub(r"\([^)]*\)", "", sentences[-1])
    said = said if _NUMBER.search(said) else sentences[-1]
    after = [said[match.end() :] for match in _CONCLUDES.finditer(said) if _NUMBER.search(said, match.end())]
    return number(_NUMBER.search(after[-1] if after else said)[0])


def equation_number(generation: Generation) -> float | None:
    """The number after the last equals sign, or else the last one."""
    equations = re.findall(r"= *[^\d\n-]{0,3}(-?\d[\d,]*(?:\.\d+)?)", generation.completion)
    return number(equations[-1]) if equations else last_number(generation)


def stated_letter(generation: Generation) -> str | None:
    """The letter that is said to be the answer; or else the first in brackets, a bare one, the option repeated."""
    stated = _LETTER.findall(generation.completion)
    if stated:
        return stated[0]
    return first_letter(generation) or repeated_option(generation)


def first_letter(generation: Generation) -> str | None:
    """The first letter in brackets, or a bare one at the start."""
    found = _BRACKETED.search(generation.completion) or _BARE.match(generation.completion)
    return found[1] if found else None


def last_letter(generation: Generation) -> str | None:
    """The last letter in brackets, or a bare one at the start."""
    found = _BRACKETED.findall(generation.completion)
    return found[-1] if found else first_letter(generation)


def repeated_option(generation: Generation) -> str | None:
    """The one option whose text stands in the response, the longest where one holds another."""
    said = normalise(generation.completion).lower()
    options = {letter: normalise(text).lower().strip(" .-") for letter, text in _OPTION.findall(generation.prompt)}
    found = [letter for letter, text in options.items() if text and text in said]
    longest = max(found, key=lambda letter: len(options[letter]), default=None)
    return longest if longest and all(options[letter] in options[longest] for letter in found) else None


EXTRACTORS: dict[str, dict[str, Callable[[Generation], float | str | None]]] = {
    "GSM8K": {"concluding": concluding_number, "last": last_number, "after the last =": equation_number},
    "MMLU": {"stated": stated_letter, "first in brackets": first_letter, "last in brackets": last_letter},
}


def gold(generation: Generation) -> float | str | None:
    """The gold answer: the number behind ``####`` of GSM8K, the letter of MMLU."""
    if generation.source.task == "GSM8K":
        return number(generation.answer.rpartition("####")[2].strip())
    return generation.answer.strip(" -()")


def answer(generation: Generation) -> float | str | None:
    """What a response answers, by the first extractor of its task; None where nothing is found."""
    return next(iter(EXTRACTORS[generation.source.task].values()))(generation)
