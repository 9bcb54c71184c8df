"""Cases → completions: batched decoding, and JSON Lines that survive being killed."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm
from transformers import LogitsProcessor, LogitsProcessorList

from derta.models import LM
from derta.runs import append_jsonl, read_jsonl, to_jsonl, write_atomically


class Prompt(NamedTuple):
    """What a model is given: the rendered text, special tokens included, and the start of its own reply."""

    text: str
    start: str = ""


@dataclass(frozen=True)
class Case:
    """One prompt put to a model; `depth` counts the harmful response tokens in `start` beyond its opening."""

    case_id: str
    behaviour_id: str
    attack: str
    depth: int
    prompt: str
    start: str


@dataclass(frozen=True)
class Completion:
    """What a model answered; `finish_reason` is ``stop`` (end of sequence) or ``length``."""

    text: str
    finish_reason: str
    new_tokens: int


class TopK(LogitsProcessor):
    """Draws each next token from the `k` likeliest, and leaves greedy decoding no other.

    On a CPU, drawing from a vocabulary of 49,152 for 64 rows takes longer than the model's own step.
    """

    def __init__(self, k: int, temperature: float, seed: int, device: torch.device):
        self.k, self.temperature = k, temperature
        self.generator = torch.Generator(device).manual_seed(seed)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        top = scores.topk(self.k)
        # The Gumbel-max trick: the largest of logits plus Gumbel noise is a draw from their softmax.
        gumbel = -torch.empty_like(top.values).exponential_(generator=self.generator).log()
        drawn = top.indices.gather(1, (top.values / self.temperature + gumbel).argmax(-1, keepdim=True))
        return torch.full_like(scores, -torch.inf).scatter(1, drawn, 0.0)


def complete(
    lm: LM,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    min_new_tokens: int = 0,
    temperature: float = 0.0,
    seed: int = 0,
) -> list[Completion]:
    """Continue `prompts` in one left-padded batch: greedily at temperature 0, as in the paper, else from the top 50.

    No row ends by itself before `min_new_tokens`.
    """
    tokenizer, device = lm.tokenizer, lm.model.device
    ids = [lm.ids(text) + (lm.ids(start) if start else []) for text, start in prompts]
    batch = tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt")
    sampler = LogitsProcessorList([TopK(50, temperature, seed, device)] if temperature > 0 else [])
    with torch.inference_mode():
        output = lm.model.generate(
            **batch.to(device),
            max_new_tokens=max_new_tokens,
            min_new_tokens=min_new_tokens or None,
            pad_token_id=tokenizer.pad_token_id,
            do_sample=False,
            logits_processor=sampler,
        )
    completions = []
    for ids in output[:, batch.input_ids.shape[1] :].tolist():
        stop = tokenizer.eos_token_id in ids
        ids = ids[: ids.index(tokenizer.eos_token_id)] if stop else ids
        text = tokenizer.decode(ids, skip_special_tokens=True)
        completions.append(Completion(text, "stop" if stop else "length", len(ids) + stop))
    return completions


def batches(prompts: Sequence[Sequence], size: int) -> Iterator[list[int]]:
    """Indices of `prompts` (texts or ids) in batches of like length; longest first, so that too little memory shows at
    once."""
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def run(lm: LM, cases: Sequence[Case], path: Path, *, batch_size: int, seed: int = 0, **decoding: float) -> int:
    """Answer `cases` into the JSON Lines file `path`, a batch at a time, and return how many were run.

    What the file already holds is not run again. The batches and their seeds depend on the arguments alone, so a run
    that was killed and started again writes the same bytes as an undisturbed one; rows of a half-written batch are run
    anew.

    Args:
        seed: of the first batch; each further batch has the next.
        decoding: of `complete`.

    Raises:
        ValueError: the file holds a row that belongs to other cases than these.
    """
    if len({case.case_id for case in cases}) < len(cases):
        raise ValueError(f"{path}: two cases have the same case_id")
    _drop_torn_tail(path)
    done = list(read_jsonl(path, ("case_id", "prompt", "start", "completion"))) if path.exists() else []
    expected = {case.case_id: [case.prompt, case.start] for case in cases}
    for number, row in enumerate(done, start=1):
        if expected.get(row["case_id"]) != [row["prompt"], row["start"]]:
            raise ValueError(f"{path}, row {number}: {row['case_id']!r} is not one of these cases; delete the file")
    finished = {row["case_id"] for row in done}
    planned = list(batches([case.prompt + case.start for case in cases], batch_size))
    todo = [item for item in enumerate(planned) if not all(cases[i].case_id in finished for i in item[1])]
    again = {cases[i].case_id for _, batch in todo for i in batch}
    if again & finished:
        write_atomically(path, to_jsonl(row for row in done if row["case_id"] not in again))
    ran = 0
    for number, batch in tqdm(todo, desc=path.stem, mininterval=5):
        prompts = [Prompt(cases[i].prompt, cases[i].start) for i in batch]
        answers = complete(lm, prompts, seed=seed + number, **decoding)
        rows = [
            asdict(cases[i]) | {"completion": a.text, "finish_reason": a.finish_reason, "new_tokens": a.new_tokens}
            for i, a in zip(batch, answers, strict=True)
        ]
        append_jsonl(path, rows)
        ran += len(rows)
    return ran


def _drop_torn_tail(path: Path) -> None:
    """Cut a last line without its end, which a killed writer leaves behind."""
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
