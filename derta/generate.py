"""Cases → completions: batched decoding, and JSON Lines that survive being killed."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm
from transformers import set_seed

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


def complete(
    lm: LM, prompts: Sequence[Prompt], *, max_new_tokens: int, temperature: float = 0.0, seed: int = 0
) -> list[Completion]:
    """Continue `prompts` in one left-padded batch: greedily at temperature 0, as in the paper, else from the top 50."""
    tokenizer, device = lm.tokenizer, lm.model.device
    ids = [lm.ids(text) + (lm.ids(start) if start else []) for text, start in prompts]
    batch = tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt")
    decoding = {"do_sample": False}
    if temperature > 0:
        set_seed(seed)
        decoding = {"do_sample": True, "temperature": temperature, "top_k": 50}
    with torch.inference_mode():
        output = lm.model.generate(
            **batch.to(device), max_new_tokens=max_new_tokens, pad_token_id=tokenizer.pad_token_id, **decoding
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


def run(lm: LM, cases: Sequence[Case], path: Path, *, max_new_tokens: int, batch_size: int) -> int:
    """Answer `cases` greedily into the JSON Lines file `path`, a batch at a time, and return how many were run.

    What the file already holds is not run again. The batches depend on the cases alone, so a run that was killed and
    started again writes the same bytes as an undisturbed one; rows of a half-written batch are run anew.

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
    todo = [batch for batch in planned if not all(cases[i].case_id in finished for i in batch)]
    again = {cases[i].case_id for batch in todo for i in batch}
    if again & finished:
        write_atomically(path, to_jsonl(row for row in done if row["case_id"] not in again))
    ran = 0
    for batch in tqdm(todo, desc=path.stem, mininterval=5):
        answers = complete(lm, [Prompt(cases[i].prompt, cases[i].start) for i in batch], max_new_tokens=max_new_tokens)
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
