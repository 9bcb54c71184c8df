"""A server whose answers cost money: the price is shown before anything is asked, and a budget stops in time."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from derta.generate import Completion, Prompt
from derta.judges.endpoint import Endpoint

# What an unknown tokenizer makes of a message at most, beside a token for each of its bytes.
PER_MESSAGE = 8


@dataclass
class Priced:
    """An `Endpoint` with prices: a `derta.generate.Backend` that asks nothing more once its budget could be exceeded.

    What has been answered is kept by whoever asks, so that the same command goes on with another budget. Tries that
    the server charges although they gave no usable answer are not seen.

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
    _pending: dict[int, float] = field(default_factory=dict, init=False, repr=False)
    _changed: threading.Condition = field(default_factory=threading.Condition, init=False, repr=False)

    @property
    def name(self) -> str:
        return self.endpoint.name

    def fingerprint(self) -> str:
        """Return the endpoint's: a budget changes no answer."""
        return self.endpoint.fingerprint()

    def render(self, prompt: Prompt) -> str:
        """Return the prompt as the endpoint renders it."""
        return self.endpoint.render(prompt)

    def at_most(self, prompt: Prompt, max_new_tokens: int) -> float:
        """Return what an answer to `prompt` costs at most, in US dollars."""
        texts = [*(turn["content"] for turn in prompt.messages), prompt.start]
        read = sum(len(text.encode()) + PER_MESSAGE for text in texts)
        return (read * self.prices[0] + max_new_tokens * self.prices[1]) / 1e6

    def announce(self, asked: Sequence[tuple[Prompt, int]]) -> str:
        """Return one line with the number of requests and their price.

        Args:
            asked: the prompts, each with its `max_new_tokens`.
        """
        cost = sum(self.at_most(*pair) for pair in asked)
        return f"{len(asked)} requests to {self.name}, at most ${cost:.2f}; the budget is ${self.budget:.2f}"

    def complete(self, prompts: Sequence[Prompt], *, max_new_tokens: int, **decoding: Any) -> list[Completion]:
        """Answer `prompts`; see `derta.judges.endpoint.Endpoint.complete`.

        Raises:
            RuntimeError: their price could exceed what is left of the budget.
        """
        dearest = sum(self.at_most(prompt, max_new_tokens) for prompt in prompts)
        with self._changed:
            # Answers that are still to come mostly cost less than what is set aside for them.
            self._changed.wait_for(lambda: not self._pending or self._reaches(dearest))
            if not self._reaches(dearest):
                raise RuntimeError(
                    f"the budget of ${self.budget:.2f} does not reach for the next request (spent: ${self.spent:.2f}); "
                    "what was answered is kept: start again with another budget to go on"
                )
            self._pending[threading.get_ident()] = dearest
        cost = dearest  # of a request that fails, as far as is known
        try:
            answers = self.endpoint.complete(prompts, max_new_tokens=max_new_tokens, **decoding)
            cost = sum(self._cost(*pair, max_new_tokens) for pair in zip(prompts, answers, strict=True))
        finally:
            with self._changed:
                del self._pending[threading.get_ident()]
                self.spent += cost
                self._changed.notify_all()
        return answers

    def _reaches(self, price: float) -> bool:
        return self.spent + sum(self._pending.values()) + price <= self.budget

    def _cost(self, prompt: Prompt, answer: Completion, max_new_tokens: int) -> float:
        if answer.prompt_tokens is None or answer.new_tokens is None:
            return self.at_most(prompt, max_new_tokens)
        return (answer.prompt_tokens * self.prices[0] + answer.new_tokens * self.prices[1]) / 1e6
