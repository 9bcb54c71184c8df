"""A server whose answers cost money: the price is shown before anything is asked, and a budget stops in time."""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from derta.generate import Case, Completion, Prompt
from derta.judges.endpoint import Endpoint

# What an unknown tokenizer makes of a text at most: a token for every two bytes, and a few for each message.
BYTES_PER_TOKEN, PER_MESSAGE = 2, 8


@dataclass
class Priced:
    """An `Endpoint` with prices: a `derta.generate.Backend` that asks nothing more once its budget could be exceeded.

    What has been answered is kept by whoever asks; with a larger budget, or a new one, the same command goes on.

    Attributes:
        prices: US dollars for a million tokens of prompts, and of answers.
        budget: US dollars for this start.
        spent: what the answers so far have cost, by the server's counts of tokens; where it gives none, at most.
    """

    endpoint: Endpoint
    prices: tuple[float, float]
    budget: float
    spent: float = 0.0
    batched: ClassVar[bool] = False
    _pending: float = field(default=0.0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def name(self) -> str:
        return self.endpoint.name

    def fingerprint(self) -> str:
        """Return the endpoint's: a budget changes no answer."""
        return self.endpoint.fingerprint()

    def render(self, prompt: Prompt) -> str:
        """Return the prompt as the endpoint renders it."""
        return self.endpoint.render(prompt)

    def at_most(self, prompts: Iterable[Prompt], max_new_tokens: int) -> float:
        """Return what the answers to `prompts` cost at most, in US dollars."""
        total = 0.0
        for prompt in prompts:
            texts = [*(turn["content"] for turn in prompt.messages), prompt.start]
            read = sum(len(text.encode()) // BYTES_PER_TOKEN + PER_MESSAGE for text in texts)
            total += (read * self.prices[0] + max_new_tokens * self.prices[1]) / 1e6
        return total

    def announce(self, cases: Sequence[Case], max_new_tokens: int) -> str:
        """Return one line with the number of requests and their price."""
        cost = self.at_most((case.prompt for case in cases), max_new_tokens)
        return f"{len(cases)} requests to {self.name}, at most ${cost:.2f}; the budget is ${self.budget:.2f}"

    def complete(self, prompts: Sequence[Prompt], *, max_new_tokens: int, **decoding: Any) -> list[Completion]:
        """Answer `prompts`; see `derta.judges.endpoint.Endpoint.complete`.

        Raises:
            RuntimeError: their price could exceed what is left of the budget.
        """
        dearest = self.at_most(prompts, max_new_tokens)
        with self._lock:
            if self.spent + self._pending + dearest > self.budget:
                raise RuntimeError(
                    f"the budget of ${self.budget:.2f} is used up (spent: ${self.spent:.2f}); what was answered is "
                    "kept: start again with another budget to go on"
                )
            self._pending += dearest
        cost = 0.0
        try:
            answers = self.endpoint.complete(prompts, max_new_tokens=max_new_tokens, **decoding)
            cost = sum(self._cost(*pair, max_new_tokens) for pair in zip(prompts, answers, strict=True))
        finally:
            with self._lock:
                self._pending -= dearest
                self.spent += cost
        return answers

    def _cost(self, prompt: Prompt, answer: Completion, max_new_tokens: int) -> float:
        if answer.prompt_tokens is None or answer.new_tokens is None:
            return self.at_most([prompt], max_new_tokens)
        return (answer.prompt_tokens * self.prices[0] + answer.new_tokens * self.prices[1]) / 1e6
