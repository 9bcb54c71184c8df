"""A server of vLLM in the place of a model's weights, asked with the token ids that the model in process would read.

Prompts are rendered and encoded here, so that a started reply, a depth in tokens and a plain text are the same on both
sides. P(refusal) and AutoDAN's fitness come from the log-probabilities of tokens that are named in a request
(`logprob_token_ids`, which vLLM 0.32 has). Answers differ from those in process as those of another batch do, by
rounding.
"""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np

from derta.generate import Completion
from derta.judges import answers
from derta.judges.answers import Failure
from derta.judges.endpoint import WORKERS, Endpoint
from derta.threads import in_threads

T = TypeVar("T")
# How the model in process samples; nothing of the server's own defaults.
SAMPLING = {"top_k": 50, "top_p": 1.0, "repetition_penalty": 1.0}


class Served(Endpoint):
    """A `derta.generate.Engine`: the model `name` on a server of vLLM at `base_url`, of our own: it is sent no key."""

    keyed: ClassVar[bool] = False

    def proceed(
        self,
        prompts: Sequence[list[int]],
        *,
        ends: Sequence[int],
        max_new_tokens: int,
        min_new_tokens: int = 0,
        temperature: float = 0.0,
        seed: int = 0,
        forbidden: Sequence[str] = (),
        banned: Sequence[int] = (),
    ) -> list[Completion]:
        """Continue prompts; see `derta.generate.Engine`.

        Raises:
            ConnectionError: the server gave no usable answer, or refused a prompt.
        """
        extra: dict[str, Any] = SAMPLING | {"stop_token_ids": list(ends), "min_tokens": min_new_tokens}
        extra |= {"bad_words": list(forbidden)} if forbidden else {}
        options: dict[str, Any] = {"max_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
        # vLLM bans a word after a space only if both forms have as many tokens.
        options |= {"logit_bias": {str(token): -100 for token in banned}, "extra_body": extra}
        return self._each(prompts, lambda ids: self._read(answers.read(self._asked(prompt=ids, **options))))

    def chances(self, prompts: Sequence[list[int]], tokens: Sequence[int]) -> np.ndarray:
        """Compute the probabilities of tokens after prompts; see `derta.generate.Engine`.

        Raises:
            ConnectionError: the server gave no usable answer, or does not report the probabilities of named tokens.
        """
        extra = {"logprob_token_ids": list(tokens), "return_tokens_as_token_ids": True}
        options = {"max_tokens": 1, "temperature": 0.0, "logprobs": len(tokens), "extra_body": extra}

        def read(ids: list[int]) -> list[float]:
            top = json.loads(self._asked(prompt=ids, **options))["choices"][0]["logprobs"]["top_logprobs"][0]
            return [math.exp(top[f"token_id:{token}"]) for token in tokens]

        return np.array(self._each(prompts, read)).reshape(len(prompts), len(tokens))

    def _each(self, prompts: Sequence[list[int]], ask: Callable[[list[int]], T]) -> list[T]:
        found = dict(in_threads(lambda n: (n, ask(prompts[n])), range(len(prompts)), WORKERS))
        return [found[n] for n in range(len(prompts))]

    def _asked(self, **options: Any) -> bytes:
        """Return the body of the answer to one request."""
        content = self.post(self.client.completions.with_raw_response.create, **options)
        if isinstance(content, Failure):
            raise self.refused(content)
        return content

    def _read(self, found: Completion | Failure) -> Completion:
        if isinstance(found, Failure):
            raise self.refused(found)
        return found
