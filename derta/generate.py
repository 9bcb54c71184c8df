"""Cases → completions: what a model is asked, what answers it, and JSON Lines that survive being killed."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tqdm import tqdm

from derta.files import append_jsonl, drop_torn_tail, read_jsonl, to_jsonl, write_atomically
from derta.runs import digest, set_aside


class Prompt(NamedTuple):
    """What a model is asked, whichever model it is.

    Attributes:
        messages: of a conversation, each with `role` and `content`; none for plain text without any formatting token.
        start: the first words of the model's own reply; without messages, the text to be completed.
    """

    messages: tuple[dict[str, str], ...]
    start: str = ""

    @property
    def reply(self) -> str:
        """The start of the model's own reply; plain text has none."""
        return self.start if self.messages else ""


def user(text: str, start: str = "") -> Prompt:
    """A prompt of one user turn."""
    return Prompt(({"role": "user", "content": text},), start)


@dataclass(frozen=True)
class Case:
    """One prompt put to a model.

    Attributes:
        control: the request is the behaviour's benign twin.
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
    """What a model answered.

    Attributes:
        finish_reason: ``stop`` (end of sequence), ``length``, or what else a server says.
        new_tokens: those of the completion, its end included; None where a server does not count.
        prompt_tokens: those of the prompt, the start of the reply included; None likewise.
    """

    text: str
    finish_reason: str
    new_tokens: int | None
    prompt_tokens: int | None


class Backend(Protocol):
    """Something that completes prompts: a model in process (`derta.models.LM`) or a server (`derta.judges.endpoint`).

    Attributes:
        name: for the rows and for messages.
        batched: whether the prompts of one call are computed together; if not, each goes alone, several at a time.
    """

    @property
    def name(self) -> str: ...

    @property
    def batched(self) -> bool: ...

    def fingerprint(self) -> str:
        """A hash of what answers: two backends of one fingerprint give the same completions."""

    def render(self, prompt: Prompt) -> str:
        """The prompt as the model sees it, but for the start of its reply."""

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
        """Answer `prompts`: greedily at temperature 0, as in the paper, else drawn with `seed`.

        Args:
            min_new_tokens: no answer ends by itself before.
            forbidden: words that no answer may hold.
        """


def batches(prompts: Sequence[Sequence], size: int) -> Iterator[list[int]]:
    """Indices of `prompts` (texts or ids) in batches of like length; longest first, so that too little memory shows at
    once."""
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    for start in range(0, len(order), size):
        yield order[start : start + size]


# What a row of completions says of its case.
ABOUT = ("case_id", "behaviour_id", "attack", "control", "depth")
# Of a row of completions, the columns that a judge needs, with their types.
ROW = {"case_id": str, "behaviour_id": str, "attack": str, "control": bool, "depth": int, "completion": str}


def run(backend: Backend, cases: Sequence[Case], path: Path, *, batch_size: int, seed: int = 0, **decoding: Any) -> int:
    """Answer `cases` into the JSON Lines file `path`, and return how many were asked.

    Rows are written as they are answered, and put in the order of the cases at the end. What the file already holds is
    not asked again; a file with rows of other cases, of another model or of other parameters is set aside, and of a
    server's answers those that still fit are taken over. The batches and their seeds depend on the arguments alone, so
    a run that was killed and started again ends with the bytes of an undisturbed one; rows of a half-written batch are
    asked anew.

    Args:
        batch_size: cases answered at a time: in one batch by a model in process, by as many requests to a server.
        seed: of the first batch; each further batch has the next.
        decoding: of `Backend.complete`.

    Raises:
        ValueError: two cases have the same id.
    """
    if len({case.case_id for case in cases}) < len(cases):
        raise ValueError(f"{path}: two cases have the same case_id")
    together = batch_size if backend.batched else 1
    asked = [{"prompt": backend.render(case.prompt), "start": case.prompt.reply} for case in cases]
    model = Path(backend.name).name if Path(backend.name).is_dir() else backend.name
    # An answer depends, by rounding, on the others of its batch; a server's on its own question only.
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

    def answer(number: int, batch: list[int]) -> list[dict[str, Any]]:
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
        for rows in _answered(answer, todo, 1 if backend.batched else batch_size):
            append_jsonl(path, rows)
            done |= {row["case_id"]: row for row in rows}
            bar.update(len(rows))
    if list(done) != [case.case_id for case in cases]:
        write_atomically(path, to_jsonl(done[case.case_id] for case in cases))
    return len(again)


def _answered_before(path: Path, expected: dict[str, dict], keep: bool) -> dict[str, dict[str, Any]]:
    """The rows of `path` by case; where any is not as `expected`, the file is set aside, and those that are as expected
    are taken over only if `keep`."""
    if not path.exists():
        return {}
    drop_torn_tail(path)
    rows = list(read_jsonl(path, ("case_id", "prompt", "start", "completion", "model", "parameters")))
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


def _answered(answer: Callable, todo: Sequence[tuple[int, list[int]]], workers: int) -> Iterator[list[dict[str, Any]]]:
    """The rows of each batch as they are answered, `workers` batches at a time.

    Where one fails, no further one is begun; the rows of those that are under way come before its error.
    """
    if workers == 1:
        yield from (answer(*item) for item in todo)
        return
    failures = []
    pool = ThreadPoolExecutor(workers)
    try:
        running = [pool.submit(answer, *item) for item in todo]
        for future in as_completed(running):
            if future.cancelled():
                continue
            if failure := future.exception():
                failures.append(failure)
                for other in running:
                    other.cancel()
            else:
                yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)
    if failures:
        raise failures[0]
