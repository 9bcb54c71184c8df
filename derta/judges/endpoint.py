"""Completions from any server that speaks OpenAI's protocol: vLLM, ``transformers serve``, GPT-4 and others.

Conversations go to ``/chat/completions``, plain texts (CompletingAttack) to ``/completions``. Features that the
protocol lacks are sent as the extra parameters of vLLM: a started reply as an assistant's turn with
`continue_final_message`, forbidden words as `bad_words`, and a minimum length as `min_tokens`. A server that rejects
them causes an error, and so does one that lets a forbidden word through; whether a server really continued a started
reply cannot be seen from outside.

A prompt that a server does not take (a content filter, too many tokens) becomes an empty completion with the server's
words as its cause. Whether it is this prompt that is not taken, or every prompt of its form, a harmless one tells.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import httpx2
import openai

from derta.generate import Completion, Prompt, in_threads, user
from derta.runs import digest

# How many requests of one call are sent at a time.
WORKERS = 8


class NotTaken(Exception):
    """The server refuses a request, and another try would not mend it."""


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
        temperature: whether a temperature is sent; False for models that take only their default.
    """

    name: str
    base_url: str
    timeout: float = 300.0
    tries: int = 8
    temperature: bool = True
    batched: ClassVar[bool] = False

    def __post_init__(self):
        key = os.environ.get("OPENAI_API_KEY", "").strip() or "none"
        http = openai.DefaultHttpxClient(timeout=self.timeout, event_hooks={"response": [_usable]})
        self.client = openai.OpenAI(
            base_url=self.base_url, api_key=key, timeout=self.timeout, max_retries=self.tries - 1, http_client=http
        )

    def fingerprint(self) -> str:
        """Return a hash of the server's address, however it is spelt, and of the model's name."""
        scheme, _, rest = self.base_url.partition("://")
        address = str(httpx2.URL(f"{scheme.lower()}://{rest}")).rstrip("/")
        return digest(address, self.name, *([] if self.temperature else ["its own temperature"]))

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
        try:
            return self._send(prompt, **decoding)
        except NotTaken as cause:
            self._check_form(prompt, **decoding)
            filtered = "content_filter" in str(getattr(cause.__cause__, "body", ""))
            return Completion("", "content_filter" if filtered else f"error: {cause}", None, None)

    def _check_form(self, prompt: Prompt, **decoding: Any) -> None:
        """Raise an error if a harmless prompt of the same form is not taken either."""
        harmless = user("Say hello.", "Hello" if prompt.reply else "") if prompt.messages else Prompt((), "Hello")
        try:
            self._send(harmless, **decoding)
        except NotTaken as cause:
            if extra := _extra(harmless, **decoding):
                raise ValueError(
                    f"{self.base_url} does not take {', '.join(extra)} ({cause}); put this attack to a server that "
                    "does, such as vLLM, or to a model in process"
                ) from cause
            hint = "; leave it out with temperature=False" if "temperature" in str(cause) else ""
            raise ConnectionError(f"{self.base_url}: {cause}{hint}") from cause.__cause__

    def _send(
        self, prompt: Prompt, *, max_new_tokens: int, temperature: float = 0.0, seed: int = 0, **decoding: Any
    ) -> Completion:
        options: dict[str, Any] = {"model": self.name, "extra_body": _extra(prompt, **decoding)}
        options |= {"temperature": temperature} if self.temperature else {}
        options |= {"seed": seed} if temperature > 0 else {}
        messages: list[Any] = list(prompt.messages)
        if prompt.reply:
            messages.append({"role": "assistant", "content": prompt.reply})
        try:
            if messages:
                options["max_completion_tokens"] = max_new_tokens
                answer: Any = self.client.chat.completions.create(messages=messages, **options)
            else:
                answer = self.client.completions.create(prompt=prompt.start, max_tokens=max_new_tokens, **options)
        except openai.APIStatusError as error:
            cause = self._redacted(_words(error.body) or str(error))
            if error.status_code in (400, 413, 422):
                raise NotTaken(cause) from error
            again = error.status_code in (408, 409, 429) or error.status_code >= 500
            raise ConnectionError(self._unanswered(cause) if again else f"{self.base_url}: {cause}") from error
        except openai.APIError as error:
            raise ConnectionError(self._unanswered(f"{error} {error.__cause__ or ''}".strip())) from error
        if not answer.choices:
            raise NotTaken(self._redacted(_words(answer.model_extra)))
        choice = answer.choices[0]
        text = _whole(_text(choice.message) if messages else choice.text)
        # Some servers repeat the start that they were to continue.
        text = text.removeprefix(prompt.reply)
        if slipped := [word for word in decoding.get("forbidden", ()) if word in text]:
            raise ValueError(f"{self.base_url} ignores bad_words: a completion holds the forbidden {slipped[0]!r}")
        spent = answer.usage
        counts = (spent.completion_tokens, spent.prompt_tokens) if spent else (None, None)
        return Completion(text, choice.finish_reason or "stop", *counts)

    def _unanswered(self, cause: str) -> str:
        return (
            f"{self.base_url}: no usable answer in up to {self.tries} tries ({self._redacted(cause)}); what was "
            "answered is kept: start again to go on"
        )

    def _redacted(self, text: str) -> str:
        key = self.client.api_key
        return text if key == "none" else text.replace(key, "[key]")


def _extra(prompt: Prompt, *, min_new_tokens: int = 0, forbidden: Sequence[str] = (), **_: Any) -> dict[str, Any]:
    """Return the parameters beyond the protocol that a prompt and its decoding need."""
    extra: dict[str, Any] = {"bad_words": list(forbidden)} if forbidden else {}
    if min_new_tokens:
        extra["min_tokens"] = min_new_tokens
    if prompt.reply:
        extra |= {"continue_final_message": True, "add_generation_prompt": False}
    return extra


def _text(message: Any) -> str:
    """Return the text of a reply; of a list of parts, those that are text. A refusal field is a refusal."""
    content = message.content
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type") in ("text", "output_text"))
    return "\n".join(filter(None, (content, message.refusal)))


def _whole(text: str) -> str:
    """Replace half a character, as a reply that was cut may hold, by a replacement character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _words(body: Any) -> str:
    """Return a server's own words in the body of an error."""
    while isinstance(body, dict):
        body = next((body[name] for name in ("error", "message", "detail") if body.get(name)), json.dumps(body))
    return body if isinstance(body, str) else json.dumps(body)


def _usable(response: httpx2.Response) -> None:
    """Read the whole answer, and turn an unusable one into a transport error, which the client tries again."""
    if not response.is_success:
        return
    try:
        body = json.loads(response.read())
        if body.get("error") and not body.get("choices"):
            code = body["error"].get("code") if isinstance(body["error"], dict) else None
            cause = _words(body) if code in (408, 409, 429) or (isinstance(code, int) and code >= 500) else ""
        else:
            choice = body["choices"][0]
            text = choice["message"].get("content") or "" if "message" in choice else choice["text"]
            cause = "" if isinstance(text, str | list) else "the body is no completion"
    except (ValueError, LookupError, TypeError, AttributeError):
        cause = "the body is no completion"
    if cause:
        raise httpx2.DecodingError(cause, request=response.request)
