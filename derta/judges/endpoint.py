"""Completions from any server that speaks OpenAI's protocol: vLLM, ``transformers serve``, GPT-4 and others.

Conversations go to ``/chat/completions``, plain texts (CompletingAttack) to ``/completions``. Features that the
protocol lacks are sent as the extra parameters of vLLM: a started reply as an assistant's turn with
`continue_final_message`, forbidden words as `bad_words`, and a minimum length as `min_tokens`. A server that rejects
them causes an error, and so does one that lets a forbidden word through; whether a server really continued a started
reply cannot be seen from outside, but a start that it repeats is removed.

A prompt that a server does not take becomes an empty completion, with ``content_filter`` or ``error:`` and the server's
words as its `finish_reason`. If the same server does not take a harmless prompt of the same form either, the fault is
not the prompt's, and it is an error.
"""

import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import httpx2
import openai

from derta.generate import Completion, Prompt
from derta.judges import answers
from derta.judges.answers import Failure
from derta.runs import digest
from derta.threads import in_threads

# How many requests of one call are sent at a time.
WORKERS = 8
# The answers to a request that is itself at fault.
FAULTY = (400, 413, 422)


class Refused(ConnectionError):
    """A server's refusal of a request, which another try would not change."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


@dataclass
class Endpoint:
    """A model on a server: a `derta.generate.Backend`.

    The key is read from ``OPENAI_API_KEY``; your own servers need none. It stands in no message.

    Attributes:
        name: name of the model on the server.
        base_url: address, for instance ``http://localhost:8000/v1``.
        timeout: seconds to wait for an answer.
        tries: tries in all, with the client's exponential back-off, if the server is busy, fails, does not answer in
            time, breaks off, or sends an unusable answer.
        temperature: whether a temperature is sent; False for models that take only their default.
    """

    name: str
    base_url: str
    timeout: float = 300.0
    tries: int = 8
    temperature: bool = True
    batched: ClassVar[bool] = False
    keyed: ClassVar[bool] = True

    def __post_init__(self) -> None:
        key = (os.environ.get("OPENAI_API_KEY", "").strip() if self.keyed else "") or "none"
        if not re.fullmatch("[!-~]+", key):
            raise ValueError("OPENAI_API_KEY holds a space, a line break or more than ASCII; set it to the key alone")
        http = openai.DefaultHttpxClient(timeout=self.timeout, event_hooks={"response": [_usable]})
        self.client = openai.OpenAI(
            base_url=self.base_url, api_key=key, timeout=self.timeout, max_retries=self.tries - 1, http_client=http
        )
        # The forms of prompts, with their decoding, that the server is known to take.
        self.taken: set[str] = set()

    def fingerprint(self) -> str:
        """Return a hash of the server's address, however it is spelt, and of the model's name."""
        own = [] if self.temperature else ["its own temperature"]
        scheme, _, rest = self.base_url.partition("://")
        address = str(httpx2.URL(f"{scheme.lower()}://{rest}")).rstrip("/")
        return digest(address, self.name, *own)

    def render(self, prompt: Prompt) -> str:
        """Return the messages as JSON, because their format is up to the server; plain text is returned unchanged."""
        return json.dumps(prompt.messages, ensure_ascii=False) if prompt.messages else prompt.start

    def complete(self, prompts: Sequence[Prompt], **decoding: Any) -> list[Completion]:
        """Answer `prompts`, one request for each; see `derta.generate.Backend` for the arguments.

        Raises:
            ConnectionError: no usable answer after all tries, or an error that another try cannot fix.
            ValueError: the server does not support the prompt's form or the decoding.
        """
        answers = dict(in_threads(lambda n: (n, self._ask(prompts[n], **decoding)), range(len(prompts)), WORKERS))
        return [answers[n] for n in range(len(prompts))]

    def _ask(self, prompt: Prompt, **decoding: Any) -> Completion:
        harmless = Prompt(tuple(turn | {"content": "Hello"} for turn in prompt.messages), prompt.start and "Hello")
        form = repr((harmless, decoding | {"seed": 0}))
        found = self._send(prompt, **decoding)
        if isinstance(found, Completion):
            self.taken.add(form)
            return found
        faulty = found.status in FAULTY
        if not faulty and not found.filtered:
            raise self.refused(found)
        # A filter means this prompt; but 403 may also bar whoever asks.
        if form not in self.taken and not (faulty and found.filtered):
            self._check(harmless, **decoding)
            self.taken.add(form)
        return Completion("", "content_filter" if found.filtered else f"error: {found.words}", None, None)

    def _check(
        self, harmless: Prompt, *, min_new_tokens: int = 0, forbidden: Sequence[str] = (), **decoding: Any
    ) -> None:
        """Raise an error if the server does not take a harmless prompt: for the extra parameters, if they are why."""
        found = self._send(harmless, min_new_tokens=min_new_tokens, forbidden=forbidden, **decoding)
        if isinstance(found, Completion):
            return
        extra = _extra(harmless, min_new_tokens, forbidden)
        named = [name for name in extra if name in found.words]
        plain = Prompt(harmless.messages) if harmless.messages else harmless
        if named or (extra and isinstance(self._send(plain, **decoding), Completion)):
            raise ValueError(
                f"{self.base_url} does not take {', '.join(named or extra)} ({found.words}); put this attack to a "
                "server that does, such as vLLM, or to a model in process"
            )
        raise self.refused(found)

    def refused(self, failure: Failure) -> Refused:
        """Return the error that says why the server refused a request."""
        hint = "; leave it out with temperature=False, or --no-temperature" if "temperature" in failure.words else ""
        return Refused(f"{self.base_url}: {failure.words}{hint}", failure.status)

    def _send(
        self,
        prompt: Prompt,
        *,
        max_new_tokens: int,
        min_new_tokens: int = 0,
        temperature: float = 0.0,
        seed: int = 0,
        forbidden: Sequence[str] = (),
    ) -> Completion | Failure:
        options: dict[str, Any] = {"extra_body": _extra(prompt, min_new_tokens, forbidden)}
        options |= {"temperature": temperature} if self.temperature else {}
        options |= {"seed": seed} if temperature > 0 else {}
        messages: list[Any] = list(prompt.messages)
        if prompt.reply:
            messages.append({"role": "assistant", "content": prompt.reply})
        chat, plain = self.client.chat.completions.with_raw_response, self.client.completions.with_raw_response
        if messages:
            content = self.post(chat.create, messages=messages, max_completion_tokens=max_new_tokens, **options)
        else:
            content = self.post(plain.create, prompt=prompt.start, max_tokens=max_new_tokens, **options)
        found = content if isinstance(content, Failure) else answers.read(content)
        if isinstance(found, Failure):
            return self._failed(found)
        text = found.text.removeprefix(prompt.reply)
        if slipped := [word for word in forbidden if word in text]:
            raise ValueError(f"{self.base_url} ignores bad_words: a completion holds the forbidden {slipped[0]!r}")
        return replace(found, text=text)

    def post(self, create: Callable[..., Any], **options: Any) -> bytes | Failure:
        """Send a request by a method of the client, and return the body of the answer, or why there is none."""
        try:
            return create(model=self.name, **options).content
        # Not chained: the client's errors may hold the key.
        except openai.APIStatusError as error:
            return self._failed(answers.failure(error.body or str(error), error.status_code))
        except openai.APIError as error:
            return self._failed(Failure(f"{error} {error.__cause__ or ''}".strip(), 503))

    def _failed(self, failure: Failure) -> Failure:
        """Keep the key out of the server's words; raise an error if another try may mend it."""
        key = self.client.api_key
        words = failure.words if key == "none" else failure.words.replace(key, "[key]")
        words = words if len(words) <= 500 else words[:500] + "…"
        if failure.passing:
            raise ConnectionError(
                f"{self.base_url}: no usable answer in up to {self.tries} tries ({words}); what was answered is kept: "
                "start again to go on"
            ) from None
        return replace(failure, words=words)


def _extra(prompt: Prompt, min_new_tokens: int, forbidden: Sequence[str]) -> dict[str, Any]:
    """Return the parameters beyond the protocol that a prompt and its decoding need."""
    extra: dict[str, Any] = {"bad_words": list(forbidden)} if forbidden else {}
    if min_new_tokens:
        extra["min_tokens"] = min_new_tokens
    if prompt.reply:
        extra |= {"continue_final_message": True, "add_generation_prompt": False}
    return extra


def _usable(response: httpx2.Response) -> None:
    """Read the whole answer, and turn an unusable one into a transport error, which the client tries again."""
    if not response.is_success:
        return
    try:
        found = answers.read(response.read())
        cause = found.words if isinstance(found, Failure) and found.passing else ""
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        cause = "the body is no completion"
    if cause:
        raise httpx2.DecodingError(cause, request=response.request)
