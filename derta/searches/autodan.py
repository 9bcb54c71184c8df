"""AutoDAN-HGA (arXiv 2310.04451): a hierarchical genetic search over role-play prompts, on sentences and on words.

The fitness of a prompt is the likelihood of a reply that begins to comply. In each generation the best prompts stay
(elitism). The others are drawn by their fitness, exchange sentences in pairs (crossover), and have words replaced by
synonyms, either at random (mutation) or by those that occurred in fitter prompts so far (momentum word scores).

Unlike in the paper, the search starts from the template file instead of variants of one prompt, synonyms come from a
small table of our own (``data/synonyms.csv``) instead of a language model and WordNet, both levels act in every
generation, and the number of generations is fixed.
"""

import math
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from derta.attacks import completing, role_play
from derta.attacks.attack import Attack
from derta.depth import forced
from derta.files import append_jsonl, read_csv, read_jsonl
from derta.generate import Backend, Prompt, user
from derta.models import LM
from derta.requests import Request
from derta.runs import DATA, digest
from derta.searches.log import read_log

# Increase it with any change after which the same search may find another prompt.
VERSION = 1

_SENTENCE_END = re.compile(r"(?<=[.!?}])\s+")
_WORD = re.compile(r"(?<![\w{])[A-Za-z]+(?![\w}])")


@dataclass(frozen=True)
class AutoDANSettings:
    """Settings of AutoDAN; the paper has a population of 64, 100 generations, and the fractions below.

    Attributes:
        behaviours: number of requests attacked.
        population: prompts per generation.
        generations: number of generations after the starting one.
        batch_size: prompts scored at a time.
        elites: fraction of the population that stays unchanged.
        crossover: probability that a pair exchanges sentences.
        mutation: probability that a word with synonyms is replaced by one of them.
    """

    behaviours: int
    population: int
    generations: int
    batch_size: int
    seed: int
    elites: float = 0.05
    crossover: float = 0.5
    mutation: float = 0.01


@cache
def synonyms() -> dict[str, tuple[str, ...]]:
    """Return the synonyms of each word; every word of a row can replace every other."""
    rows = [row["words"].split() for row in read_csv(DATA / "synonyms.csv", ("words",))]
    return {word: tuple(other for other in row if other != word) for row in rows for word in row}


def fitness(lm: LM, prompts: Sequence[Prompt], reply: str, batch_size: int) -> list[float]:
    """Return the mean log-likelihood (nats per token) of `reply` after each prompt."""
    answer, rows = lm.ids(reply), [lm.encode(prompt) for prompt in prompts]
    if lm.engine:
        tokens, begun = sorted(set(answer)), [row + answer[:k] for row in rows for k in range(len(answer))]
        chances = lm.engine.chances(begun, tokens).reshape(len(rows), len(answer), len(tokens))
        own = chances[:, range(len(answer)), [tokens.index(token) for token in answer]]
        return np.log(own).mean(1).tolist()
    scored = forced(lm, rows, [answer] * len(rows), batch_size)
    found = {i: log_probs[range(len(answer)), answer].mean().item() for i, log_probs in scored}
    return [found[i] for i in range(len(rows))]


def attack(settings: AutoDANSettings) -> Attack:
    """Return AutoDAN with these settings as an attack."""
    facts = {"version": VERSION, "words": digest(role_play.templates(), synonyms())} | vars(settings)
    return replace(ATTACK, prompt=partial(search, settings=settings), limit=settings.behaviours, search=facts)


def search(request: Request, target: Backend, log: Path, settings: AutoDANSettings) -> Prompt:
    """Return the question in the fittest template.

    Every generation is a line of `log`, with the templates, their fitness and the number of queries (prompts scored). A
    killed search resumes after the last complete line, with the same result.

    Raises:
        TypeError: the target is not a model in process; a server gives no likelihoods.
    """
    if not isinstance(target, LM):
        raise TypeError("autodan needs the likelihood of a reply: its target has to be a model in process")
    statement = completing.statement(request)
    reply = f"Sure, {statement[0].lower()}{statement[1:]}"
    rows = read_log(log, request, ("population", "fitness", "words"))
    for number in range(len(rows), settings.generations + 1):
        rng = random.Random(f"autodan {settings.seed} {request.id} {number}")
        last = rows[-1] if rows else None
        population = evolve(last, settings, rng) if last else start(settings.population, rng)
        known = dict(zip(last["population"], last["fitness"], strict=True)) if last else {}
        new = [text for text in dict.fromkeys(population) if text not in known]
        known |= zip(new, fitness(target, [_fill(t, request) for t in new], reply, settings.batch_size), strict=True)
        scores = [known[text] for text in population]
        rows.append(
            {
                "question": request.question,
                "generation": number,
                "best": max(scores),
                "mean": sum(scores) / len(scores),
                "queries": {"target": len(new)},
                "population": population,
                "fitness": scores,
                "words": word_scores(population, scores, last["words"] if last else {}),
            }
        )
        append_jsonl(log, rows[-1:])
    # Elites stay, so the last generation holds the best of all.
    return _fill(max(zip(rows[-1]["fitness"], rows[-1]["population"], strict=True))[1], request)


def gains(logs: Path) -> list[tuple[float, float]]:
    """Return, for each request searched, the mean fitness of the starting population and the best fitness found."""
    found = []
    for log in sorted(logs.glob("*.jsonl")):
        rows = list(read_jsonl(log, ("mean", "best")))
        found.append((rows[0]["mean"], rows[-1]["best"]))
    return found


def start(size: int, rng: random.Random) -> list[str]:
    """Return the templates of the file, and as many more as needed with a fifth of their replaceable words replaced."""
    templates = list(role_play.templates())
    return [t if i < len(templates) else mutate(t, 0.2, rng) for i, t in enumerate((templates * size)[:size])]


def evolve(last: dict[str, Any], settings: AutoDANSettings, rng: random.Random) -> list[str]:
    """Return the templates of the next generation."""
    ranked = sorted(zip(last["fitness"], last["population"], strict=True), reverse=True)
    elites = [text for _, text in ranked[: max(1, round(settings.elites * settings.population))]]
    weights = [math.exp(score - ranked[0][0]) for score, _ in ranked]
    number = settings.population - len(elites)
    parents = rng.choices([text for _, text in ranked], weights, k=number + number % 2)
    children: list[str] = []
    for one, other in zip(parents[::2], parents[1::2], strict=True):
        children += cross(one, other, rng) if rng.random() < settings.crossover else (one, other)
    return elites + [mutate(improve(child, last["words"], rng), settings.mutation, rng) for child in children[:number]]


def cross(one: str, other: str, rng: random.Random) -> tuple[str, str]:
    """Exchange sentences between two templates, at each position with probability one half.

    The sentence with the question is only exchanged for the other template's.
    """
    a, b = (_SENTENCE_END.split(text) for text in (one, other))
    for i in range(min(len(a), len(b))):
        if ("{question}" in a[i]) == ("{question}" in b[i]) and rng.random() < 0.5:
            a[i], b[i] = b[i], a[i]
    return " ".join(a), " ".join(b)


def mutate(text: str, rate: float, rng: random.Random) -> str:
    """Replace words of `text` by random synonyms, each with probability `rate`."""
    return _replaced(text, lambda word: rng.choice(synonyms()[word]) if rng.random() < rate else word)


def improve(text: str, words: dict[str, float], rng: random.Random) -> str:
    """Replace words of `text` by a synonym that has scored better so far (the best one), with probability one half."""

    def better(word: str) -> str:
        best = max((word, *synonyms()[word]), key=lambda other: words.get(other, -math.inf))
        return best if best in words and rng.random() < 0.5 else word

    return _replaced(text, better)


def word_scores(population: Sequence[str], scores: Sequence[float], before: dict[str, float]) -> dict[str, float]:
    """Return, for each replaceable word, the mean fitness of the templates that contain it, averaged with its old
    score."""
    found = defaultdict(list)
    for text, score in zip(population, scores, strict=True):
        for word in {w.lower() for w in _WORD.findall(text)} & synonyms().keys():
            found[word].append(score)
    now = {word: sum(values) / len(values) for word, values in sorted(found.items())}
    return before | {word: (before[word] + score) / 2 if word in before else score for word, score in now.items()}


def _replaced(text: str, choose: Any) -> str:
    """Replace each word of `text` that has synonyms by the result of `choose`, keeping its capital."""

    def put(match: re.Match) -> str:
        word = match[0]
        if word.lower() not in synonyms():
            return word
        chosen = choose(word.lower())
        return chosen.capitalize() if word[0].isupper() else chosen

    return _WORD.sub(put, text)


def _fill(template: str, request: Request) -> Prompt:
    return user(template.replace("{question}", request.question))


ATTACK = Attack("autodan", "AutoDAN", search)
