"""Completions from any server that speaks OpenAI's protocol: vLLM, ``transformers serve``, GPT-4 and others.

Conversations go to ``/chat/completions``, plain texts (CompletingAttack) to ``/completions``. Features that the
protocol lacks are sent as the extra parameters of vLLM: a started reply as an assistant's turn with
`continue_final_message`, forbidden words as `bad_words`, and a minimum length as `min_tokens`. A server that rejects
them causes an error, and so does one that lets a forbidden word through; whether a server really continued a started
reply cannot be seen from outside.
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

# How many requests of one call are sent at a time.
WORKERS = 8


@dataclass
class Endpoint:
    """A model on a server: a `derta.generate.Backend`.

    The key is read from ``OPENAI_API_KEY``; your own servers need none.

    Attributes:
        name: name of the model on the server.
        base_url: address, for instance ``http://localhost:8000/v1``.
        timeout: seconds to wait for an answer.
        tries: tries in all, with the client's exponential back-off, if the server is busy, fails, does not answer in
            time, breaks off, or sends an unusable answer.
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
        """Return a hash of the server's address and the model's name."""
        return digest(self.base_url.rstrip("/"), self.name)

    def render(self, prompt: Prompt) -> str:
        """Return the messages as JSON, because their format is up to the server; plain text is returned unchanged."""
        return json.dumps(prompt.messages, ensure_ascii=False) if prompt.messages else prompt.start

    def complete(self, prompts: Sequence[Prompt], **decoding: Any) -> list[Completion]:
        """Answer `prompts`, one request for each; see `derta.generate.Backend` for the arguments.

        Raises:
            ConnectionError: no usable answer after all tries, or an error that another try cannot fix.
            ValueError: the server does not support the prompt or the decoding.
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
    """Read the whole answer, and turn an unusable one into a transport error, which the client tries again."""
    if response.is_success:
        try:
            choice = json.loads(response.read())["choices"][0]
            usable = isinstance(choice["message"]["content"] or "" if "message" in choice else choice["text"], str)
        except (ValueError, LookupError, TypeError):
            usable = False
        if not usable:
            raise httpx2.DecodingError("the body is no completion", request=response.request)
