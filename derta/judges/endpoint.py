"""Completions from any server that speaks OpenAI's protocol: vLLM, ``transformers serve``, GPT-4 and others.

Conversations go to ``/chat/completions``, plain texts (CompletingAttack) to ``/completions``. What the protocol lacks
goes as the extra parameters of vLLM: a started reply as an assistant's turn with `continue_final_message`, forbidden
words as `bad_words`, a least length as `min_tokens`. A server that refuses them is an error, and so is one that lets a
forbidden word through; whether a server went on with a started reply cannot be seen from outside.
"""

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import httpx2
import openai

from derta.generate import Completion, Prompt
from derta.runs import digest

# Requests of one call that are under way at a time.
WORKERS = 8


@dataclass
class Endpoint:
    """A model behind a server: a `derta.generate.Backend`.

    The key is taken from ``OPENAI_API_KEY``; servers of one's own need none.

    Attributes:
        name: of the model, as the server knows it.
        base_url: such as ``http://localhost:8000/v1``.
        timeout: seconds to wait for an answer.
        tries: in all, with exponential back-off (the client's own), where the server is busy, fails, does not answer
            in time, breaks off, or answers what is no answer.
    """

    name: str
    base_url: str
    timeout: float = 300.0
    tries: int = 8
    batched: ClassVar[bool] = False

    def __post_init__(self):
        http = openai.DefaultHttpxClient(timeout=self.timeout, event_hooks={"response": [_usable]})
        key = os.environ.get("OPENAI_API_KEY", "none")
        self.client = openai.OpenAI(
            base_url=self.base_url, api_key=key, timeout=self.timeout, max_retries=self.tries - 1, http_client=http
        )

    def fingerprint(self) -> str:
        """A hash of the server's address and the model's name."""
        return digest(self.base_url.rstrip("/"), self.name)

    def render(self, prompt: Prompt) -> str:
        """The messages as JSON, for their format is the server's; plain text as it is."""
        return json.dumps(prompt.messages, ensure_ascii=False) if prompt.messages else prompt.start

    def complete(self, prompts: Sequence[Prompt], **decoding: Any) -> list[Completion]:
        """Answer `prompts`, a request for each; see `derta.generate.Backend` for the arguments.

        Raises:
            ConnectionError: no usable answer after all tries, or an error that trying again will not mend.
            ValueError: the server cannot do what the prompt or the decoding asks.
        """
        with ThreadPoolExecutor(WORKERS) as pool:
            return list(pool.map(lambda prompt: self._ask(prompt, **decoding), prompts))

    def _ask(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int,
        min_new_tokens: int = 0,
        temperature: float = 0.0,
        seed: int = 0,
        forbidden: Sequence[str] = (),
    ) -> Completion:
        drawn = {"temperature": temperature} | ({"seed": seed} if temperature > 0 else {})
        extra: dict[str, Any] = {"bad_words": list(forbidden)} if forbidden else {}
        if min_new_tokens:
            extra["min_tokens"] = min_new_tokens
        messages: list[Any] = list(prompt.messages)
        if prompt.reply:
            messages.append({"role": "assistant", "content": prompt.reply})
            extra |= {"continue_final_message": True, "add_generation_prompt": False}
        try:
            if messages:
                answer = self.client.chat.completions.create(
                    model=self.name, messages=messages, max_completion_tokens=max_new_tokens, extra_body=extra, **drawn
                )
                text = answer.choices[0].message.content or ""
            else:
                answer = self.client.completions.create(
                    model=self.name, prompt=prompt.start, max_tokens=max_new_tokens, extra_body=extra, **drawn
                )
                text = answer.choices[0].text
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if not extra:
                raise ConnectionError(f"{self.base_url}: {error}") from error
            raise ValueError(
                f"{self.base_url} does not take {', '.join(extra)} ({error}); put this attack to a server that does, "
                "such as vLLM, or to a model in process"
            ) from error
        except openai.APIError as error:
            cause = f"{error} {error.__cause__ or ''}".strip()
            raise ConnectionError(
                f"{self.base_url}: no usable answer in up to {self.tries} tries ({cause}); what was answered is kept: "
                "start again to go on"
            ) from error
        if slipped := [word for word in forbidden if word in text]:
            raise ValueError(f"{self.base_url} ignores bad_words: a completion holds the forbidden {slipped[0]!r}")
        usage = answer.usage
        return Completion(
            text,
            answer.choices[0].finish_reason,
            usage.completion_tokens if usage else None,
            usage.prompt_tokens if usage else None,
        )


def _usable(response: httpx2.Response) -> None:
    """Read the whole answer, and make one that is none an error of the transport, which the client tries again."""
    if response.is_success:
        try:
            choice = json.loads(response.read())["choices"][0]
            usable = isinstance(choice["message"]["content"] or "" if "message" in choice else choice["text"], str)
        except (ValueError, LookupError, TypeError):
            usable = False
        if not usable:
            raise httpx2.DecodingError("the body is no completion", request=response.request)
