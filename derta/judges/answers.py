"""What servers of OpenAI's type send back: a completion, or why there is none."""

import json
import re
from dataclasses import dataclass
from typing import Any

from derta.files import mended
from derta.generate import Completion

# What OpenAI, Azure, Google, OpenRouter and Alibaba call a filter of contents, in a `finish_reason` or an error.
_FILTER = re.compile(
    r"content[ _-]?(?:filter|policy|management|safety)|responsible_?ai|moderation|inspection_?failed|invalid_prompt"
    r"|flagged|usage polic|\bsafety\b|prohibited_content",
    re.IGNORECASE,
)
_PASSING = re.compile(r"rate_?limit|overload|server_?error|timeout|unavailable", re.IGNORECASE)
# The parts of a content that are text, and the field that holds it; thinking is none.
_PARTS = {"text": "text", "output_text": "text", "refusal": "refusal"}


@dataclass(frozen=True)
class Failure:
    """An answer without completion.

    Attributes:
        words: the server's own.
        status: the HTTP status, or the one that the body names.
        filtered: whether a filter of contents is the cause.
    """

    words: str
    status: int
    filtered: bool = False

    @property
    def passing(self) -> bool:
        """Whether another try may mend it: the rule of OpenAI's client."""
        return self.status in (408, 409, 429) or self.status >= 500


def read(content: bytes) -> Completion | Failure:
    """Read the body of an answer with status 200.

    A reply is its content, without thinking, and its refusal; a content that a filter cut is left out.

    Raises:
        ValueError, LookupError, TypeError, AttributeError, RecursionError: it is no completion.
    """
    body = json.loads(content)
    choice, spent = (body.get("choices") or [{}])[0], body.get("usage") or {}
    if error := body.get("error") or choice.get("error"):
        return failure(error)
    reason = mended(choice.get("finish_reason") or "stop")
    message = choice["message"] if "message" in choice else {"content": choice["text"]}
    if _FILTER.search(reason):
        reason, message = "content_filter", message | {"content": None}
    texts = filter(None, (_text(message.get("content")), _text(message.get("refusal"))))
    return Completion("\n".join(texts), reason, spent.get("completion_tokens"), spent.get("prompt_tokens"))


def _text(content: str | list[str | dict[str, Any]] | None) -> str:
    if isinstance(content, list):
        parts = [{"text": part} if isinstance(part, str) else part for part in content]
        content = "".join(part.get(_PARTS.get(part.get("type", "text"), "")) or "" for part in parts)
    return "" if content is None else mended(content)


def failure(error: Any, status: int = 0) -> Failure:
    """Read an error that a server sent; without `status`, its code or its type says what it stands for."""
    about = error if isinstance(error, dict) else {"message": error}
    code, kind = str(about.get("code")), str(about.get("type"))
    if not status:
        status = int(code) if re.fullmatch(r"[45]\d\d", code) else 503 if _PASSING.search(f"{code} {kind}") else 400
    # Other fields may repeat the request.
    said = json.dumps([code, kind, about.get("innererror"), about.get("message")])
    return Failure(words(error), status, bool(_FILTER.search(said)))


def words(error: Any) -> str:
    """Return the server's own words in an error, on one line."""
    while isinstance(error, dict):
        error = next((error[name] for name in ("error", "message", "detail") if error.get(name)), json.dumps(error))
    return mended(" ".join((error if isinstance(error, str) else json.dumps(error)).split()))
