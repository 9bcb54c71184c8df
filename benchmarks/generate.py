"""Measure how fast real attack cases are answered: ``python benchmarks/generate.py``.

The cases of four attacks of the profile ``small`` and of their controls are answered in three ways by its tuned model
(``models/derta-s0`` of its run, if there is one; otherwise the base model, which seldom ends a reply):

- *this project*: `derta.generate.run`: batches of similar length in the profile's size, shared beginnings read once,
  rows that end leave the batch;
- *its batches*: the same batches with transformers' `generate`, to separate the effect of the batches from that of the
  decoding;
- *the plain way*: transformers' `generate` in batches of 25 in the given order.

All decode greedily up to the profile's limit, in bfloat16 if the machine multiplies it natively. The ways take turns,
attack by attack, because the speed of a shared machine changes within minutes. With 100 cases per attack and control,
the plain way has four full batches and no small remainder.

Read the last lines: new tokens per second and seconds per case over all, and the ratios of seconds per case. Texts that
differ come from rounding: in bfloat16, the shape of a batch decides between two tokens of nearly the same likelihood.
The operations per second, together with the matrix product of `benchmarks/train.py`, show how much faster any way could
be: every token of a prompt and every new one costs 2 × weights.
"""

import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import yaml

from derta import attacks, generate, models
from derta.files import read_jsonl
from derta.generate import Case, Completion
from derta.models import LM
from derta.requests import spread
from derta.runs import CHECKOUT, run_dir

NAMES = ("direct", "prefill", "completing", "role_play")
CASES = 100
PLAIN_BATCH = 25


def stock(lm: LM, cases: Sequence[Case], batches: Iterable[Sequence[int]], max_new_tokens: int) -> list[Completion]:
    """Answer `cases` with transformers' `generate`, in batches given as indices."""
    answers: dict[int, Completion] = {}
    end = lm.tokenizer.eos_token_id
    for batch in batches:
        prompts = [lm.encode(cases[i].prompt) for i in batch]
        inputs = lm.tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
        with torch.inference_mode():
            output = lm.model.generate(
                **inputs.to(lm.model.device),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                pad_token_id=lm.tokenizer.pad_token_id,
            )
        for i, prompt, ids in zip(batch, prompts, output[:, inputs.input_ids.shape[1] :].tolist(), strict=True):
            kept = ids[: ids.index(end)] if end in ids else ids
            text = lm.tokenizer.decode(kept, skip_special_tokens=True)
            answers[i] = Completion(text, "", len(kept) + (end in ids), len(prompt))
    return [answers[i] for i in range(len(cases))]


def plain(lm: LM, cases: Sequence[Case], batch_size: int, max_new_tokens: int) -> list[Completion]:
    """Batches of 25 in the given order."""
    indices = range(len(cases))
    order = (indices[start : start + PLAIN_BATCH] for start in indices[::PLAIN_BATCH])
    return stock(lm, cases, order, max_new_tokens)


def batched(lm: LM, cases: Sequence[Case], batch_size: int, max_new_tokens: int) -> list[Completion]:
    """This project's batches, without its decoding."""
    texts = [lm.render(case.prompt) + case.prompt.reply for case in cases]
    return stock(lm, cases, generate.batches(texts, batch_size), max_new_tokens)


def ours(lm: LM, cases: Sequence[Case], batch_size: int, max_new_tokens: int) -> list[Completion]:
    """Everything that a run does, files included."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "completions.jsonl"
        generate.run(lm, cases, path, batch_size=batch_size, max_new_tokens=max_new_tokens)
        return [
            Completion(row["completion"], row["finish_reason"], row["new_tokens"], row["prompt_tokens"])
            for row in read_jsonl(path)
        ]


WAYS = {"this project": ours, "its batches": batched, "the plain way": plain}


def main(model: str, names: Sequence[str], limit: int, batch_size: int, max_new_tokens: int) -> None:
    """Print a line for each attack of `names` and for its control, and the totals."""
    lm = models.load(model)
    weights = sum(weight.numel() for weight in lm.model.parameters())
    print(f"{lm.name}, {lm.model.dtype}, {torch.get_num_threads()} threads, batches of {batch_size}, seconds per case:")
    seconds: Counter[str] = Counter()
    new: Counter[str] = Counter()
    tokens = same = total = 0
    for attack, control in ((attacks.find(name), control) for name in names for control in (False, True)):
        name = attacks.file_name(attack.name, control)
        cases = attack.cases(spread(attack.requests(control), limit), control=control)
        if not total:
            for way in WAYS.values():
                way(lm, cases[:2], batch_size, 2)  # to warm up
        total += len(cases)
        answers, took = {}, {}
        for way, answer in WAYS.items():
            start = time.perf_counter()
            answers[way] = answer(lm, cases, batch_size, max_new_tokens)
            took[way] = time.perf_counter() - start
            new[way] += sum(a.new_tokens for a in answers[way])
        seconds.update(took)
        mine, theirs = answers["this project"], answers["the plain way"]
        tokens += sum(a.new_tokens + a.prompt_tokens for a in mine)
        same += sum(a.text == b.text for a, b in zip(mine, theirs, strict=True))
        line = ", ".join(f"{way} {took[way] / len(cases):.3f}" for way in WAYS)
        mean = sum(a.new_tokens for a in mine) / len(cases)
        print(f"{name:>17}: {line} ({len(cases)} cases, {mean:.0f} new tokens on average)", flush=True)
    for way in WAYS:
        print(f"{way:>17}: {new[way] / seconds[way]:.0f} new tokens/s, {seconds[way] / total:.3f} s/case")
    for way in ("its batches", "the plain way"):
        print(f"{way} / this project: {seconds[way] / seconds['this project']:.2f} times the seconds")
    print(f"{same} of {total} texts are those of the plain way")
    print(f"this project: {2 * weights * tokens / seconds['this project'] / 1e9:.0f} GFLOP/s without padding")


if __name__ == "__main__":
    small = yaml.safe_load((CHECKOUT / "notebooks" / "params" / "small.yaml").read_text())
    tuned = run_dir("small") / "models" / "derta-s0"
    used = str(tuned) if tuned.is_dir() else small["model"]
    main(used, NAMES, CASES, small["generation_batch_size"], small["max_new_tokens"])
