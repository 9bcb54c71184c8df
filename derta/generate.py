"""Cases → completions: prompts, the models that answer them, and JSON Lines files that survive a killed run."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from derta.files import append_jsonl, drop_torn_tail, read_jsonl, to_jsonl, write_atomically
from derta.runs import digest, set_aside
from derta.threads import in_threads

# How the `finish_reason` of a case begins that a server did not take.
NOT_TAKEN = ("error: ", "content_filter")


class Prompt(NamedTuple):
    """A prompt in a form that does not depend on the model.

    Attributes:
        messages: the messages of a conversation, each with `role` and `content`; none for plain text without formatting
            tokens.
        start: the first words of the model's own reply; without messages, the text to be completed.
    """

    messages: tuple[dict[str, str], ...]
    start: str = ""

    @property
    def reply(self) -> str:
        """The start of the model's own reply; empty for plain text."""
        return self.start if self.messages else ""


def user(text: str, start: str = "") -> Prompt:
    """Make a prompt of one user turn."""
    return Prompt(({"role": "user", "content": text},), start)


@dataclass(frozen=True)
class Case:
    """One prompt for a model.

    Attributes:
        control: whether the request is the behaviour's benign twin.
        depth: how many tokens of a response the prompt's `start` holds.
    """

    case_id: str
    behaviour_id: str
    attack: str
    control: bool
    depth: int
    prompt: Prompt


@dataclass(frozen=True)
class Completion:
    """The answer of a model.

    Attributes:
        finish_reason: ``stop`` (end of sequence), ``length``, or another reason that a server gives; if it did not
            take the prompt, ``content_filter``, or ``error:`` and its words.
        new_tokens: tokens of the completion, including its end; None if a server does not count them.
        prompt_tokens: tokens of the prompt, including the start of the reply; None if a server does not count them.
    """

    text: str
    finish_reason: str
    new_tokens: int | None
    prompt_tokens: int | None


class Backend(Protocol):
    """A source of completions: a model in process (`derta.models.LM`) or a server (`derta.judges.endpoint`).

    Attributes:
        name: its name in rows and messages.
        batched: whether the prompts of one call are computed together; if not, each is sent separately, several at a
            time.
    """

    @property
    def name(self) -> str: ...

    @property
    def batched(self) -> bool: ...

    def fingerprint(self) -> str:
        """Return a hash of the model: two backends with the same fingerprint give the same completions."""

    def render(self, prompt: Prompt) -> str:
        """Return the prompt as the model sees it, without the start of its reply."""

    def complete(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int,
        min_new_tokens: int = 0,
        temperature: float = 0.0,
        seed: int = 0,
        forbidden: Sequence[str] = (),
    ) -> list[Completion]:
        """Answer `prompts`: greedily at temperature 0, as in the paper, otherwise sampled with `seed`.

        Args:
            min_new_tokens: no answer ends before this many tokens.
            forbidden: words that no answer may contain.
        """


class Engine(Protocol):
    """What computes in the place of a model's weights in process (`derta.judges.served`): token ids in, answers out."""

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
        """Continue prompts like `Backend.complete`, to the first of the tokens `ends`, without those of `banned`."""

    def chances(self, prompts: Sequence[list[int]], tokens: Sequence[int]) -> np.ndarray:
        """Return the probability that a token comes next after a prompt, shape [prompts, tokens]."""


def batches(prompts: Sequence[Sequence], size: int) -> Iterator[list[int]]:
    """Yield indices of `prompts` (texts or ids) in batches of similar length.

    The longest come first, so that a lack of memory shows at once.
    """
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    for start in range(0, len(order), size):
        yield order[start : start + size]


# The columns of a row of completions that describe its case.
ABOUT = ("case_id", "behaviour_id", "attack", "control", "depth")
# The columns of a row of completions that a judge needs, with their types.
ROW = {"case_id": str, "behaviour_id": str, "attack": str, "control": bool, "depth": int}
ROW |= {"prompt": str, "completion": str, "finish_reason": str}


def run(backend: Backend, cases: Sequence[Case], path: Path, *, batch_size: int, seed: int = 0, **decoding: Any) -> int:
    """Answer `cases` into the JSON Lines file `path`, and return how many were asked.

    Rows are written as they are answered, and sorted into the order of the cases at the end. Cases that the file
    already answers are not asked again. A case that a server does not take has an empty completion, and the cause as
    its `finish_reason`; to ask it again, delete its row. A file with rows of other cases, of another model or of other
    parameters is set aside; a server's answers that still fit are carried over. The batches and their seeds depend only
    on the arguments, so a run that was killed and started again ends with the same bytes as an undisturbed one; rows of
    a half-written batch are asked again.

    Args:
        batch_size: cases answered at a time: in one batch by a model in process, by as many requests to a server.
        seed: the seed of the first batch; each further batch has the next one.
        decoding: the other arguments of `Backend.complete`.

    Raises:
        ValueError: two cases have the same id, or a prompt is empty.
    """
    if len({case.case_id for case in cases}) < len(cases):
        raise ValueError(f"{path}: two cases have the same case_id")
    together = batch_size if backend.batched else 1
    asked = [{"prompt": backend.render(case.prompt), "start": case.prompt.reply} for case in cases]
    if empty := [c.case_id for c, text in zip(cases, asked, strict=True) if not text["prompt"] + text["start"]]:
        raise ValueError(f"{path}: the prompt of case {empty[0]!r} is empty; give it a text")
    model = Path(backend.name).name if Path(backend.name).is_dir() else backend.name
    # By rounding, an answer depends on the others in its batch; an answer of a server depends on its own question only.
    batch = [together, asked] if backend.batched else []
    made = {"model": model, "parameters": digest(backend.fingerprint(), decoding, seed, batch)}
    expected = {case.case_id: text | made for case, text in zip(cases, asked, strict=True)}
    planned = enumerate(batches([text["prompt"] + text["start"] for text in asked], together))
    done = _answered_before(path, expected, keep=not backend.batched)
    todo = [(number, batch) for number, batch in planned if not all(cases[i].case_id in done for i in batch)]
    again = {cases[i].case_id for _, batch in todo for i in batch}
    if again & done.keys():
        done = {case_id: row for case_id, row in done.items() if case_id not in again}
        write_atomically(path, to_jsonl(done.values()))

    def answer(planned: tuple[int, list[int]]) -> list[dict[str, Any]]:
        number, batch = planned
        answers = backend.complete([cases[i].prompt for i in batch], seed=seed + number, **decoding)
        return [
            {name: getattr(cases[i], name) for name in ABOUT}
            | asked[i]
            | {"completion": a.text, "finish_reason": a.finish_reason}
            | {"new_tokens": a.new_tokens, "prompt_tokens": a.prompt_tokens, "seed": seed + number}
            | made
            for i, a in zip(batch, answers, strict=True)
        ]

    with tqdm(total=len(again), desc=path.stem, mininterval=5) as bar:
        answers = map(answer, todo) if backend.batched else in_threads(answer, todo, batch_size)
        for rows in answers:
            append_jsonl(path, rows)
            done |= {row["case_id"]: row for row in rows}
            bar.update(len(rows))
    causes = [row["finish_reason"] for row in done.values() if not row["completion"]]
    if causes := [cause for cause in causes if str(cause).startswith(NOT_TAKEN)]:
        said = f"{len(causes)} of {len(cases)} cases have no answer: {causes[0]}; to ask again, delete their rows"
        tqdm.write(f"{path}: {said}", file=sys.stderr)
    if list(done) != [case.case_id for case in cases]:
        write_atomically(path, to_jsonl(done[case.case_id] for case in cases))
    return len(again)


def _answered_before(path: Path, expected: dict[str, dict], keep: bool) -> dict[str, dict[str, Any]]:
    """Return the rows of `path` by case.

    If a row is not as `expected`, the file is set aside; the rows that are as expected are then carried over only if
    `keep`.
    """
    if not path.exists():
        return {}
    drop_torn_tail(path)
    rows = list(read_jsonl(path, ("case_id", "prompt", "start", "completion", "finish_reason", "model", "parameters")))
    fitting = {
        row["case_id"]: row for row in rows if row["case_id"] in expected and row | expected[row["case_id"]] == row
    }
    if len(fitting) == len(rows):
        return fitting
    set_aside(path, [rows[0]["parameters"], len(rows)], "it holds answers to other cases, of another model or decoding")
    if not keep:
        return {}
    write_atomically(path, to_jsonl(fitting.values()))
    return fitting
