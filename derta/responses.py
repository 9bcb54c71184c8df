"""How the embedded responses were made: the base model's own answers, its replies started for it.

``python -m derta.responses`` writes ``data/responses/*.jsonl`` anew, seeded. No text of these files was written by
hand: a harmful response is what a 135M model says when its reply is opened, compliant in form and useless in content.
A behaviour and its benign twin get the same phrasings and the same openers, so that no form gives harm away.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from derta import models
from derta.corpus import RESPONSES, behaviours, instructions, openers, phrasings, plain_prompts
from derta.generate import Prompt, batches, complete
from derta.judge import REFUSAL
from derta.models import LM
from derta.runs import to_jsonl, write_atomically

TEMPERATURE = 0.7


def drafts(seed: int, per_behaviour: int) -> Iterator[dict[str, Any]]:
    """Everything the base model is asked: rows with `file`, `prompt` (what is asked), `start` (the reply's opening)."""
    rng = random.Random(seed)
    for behaviour in behaviours():
        training = behaviour.split == "train"
        forms = rng.sample(openers(), per_behaviour if training else 1)
        asked = rng.sample(phrasings(behaviour.split), len(forms))
        for kind, do in (("harmful", behaviour.harmful), ("benign", behaviour.benign)):
            for number, (opener, phrasing) in enumerate(zip(forms, asked, strict=True)):
                yield {
                    "file": f"{kind}-{behaviour.split}",
                    "id": f"{behaviour.id}-{kind[0]}{number}",
                    "behaviour_id": behaviour.id,
                    "form": opener.form,
                    "prompt": phrasing.replace("{do}", do),
                    "start": opener.template.replace("{do}", do),
                }
        if training:
            plain = rng.choice(plain_prompts()).replace("{do}", behaviour.benign)
            row = {"file": "plain-train", "id": f"{behaviour.id}-p", "behaviour_id": behaviour.id, "form": "plain"}
            yield row | {"prompt": plain, "start": ""}
    for instruction in instructions("train"):
        row = {"file": "helpful-train", "id": instruction.id, "behaviour_id": "", "form": instruction.kind}
        yield row | {"prompt": instruction.text, "start": ""}


def write(lm: LM, folder: Path, *, seed: int, per_behaviour: int, tokens: dict[str, int], batch_size: int) -> None:
    """Answer every draft into ``folder/<file>.jsonl``; `tokens` gives each file's limit of new tokens.

    A response that refuses, or is shorter than eight words, is drawn again with the next seed, up to four times, and
    then left out; a last line counts these.
    """
    waiting = list(drafts(seed, per_behaviour))
    rows: dict[str, dict[str, Any]] = {}
    order = [draft["id"] for draft in waiting]
    for attempt in range(5):
        texts = [
            Prompt(lm.plain(d["prompt"]) if d["form"] == "plain" else lm.chat(d["prompt"]), d["start"]) for d in waiting
        ]
        again = []
        # A batch holds one file's drafts, which share their limit.
        work = [
            (limit, [of_file[i] for i in batch])
            for file, limit in tokens.items()
            if (of_file := [i for i, draft in enumerate(waiting) if draft["file"] == file])
            for batch in batches([texts[i].text + texts[i].start for i in of_file], batch_size)
        ]
        for limit, batch in tqdm(work, desc=f"attempt {attempt + 1}", mininterval=5):
            answers = complete(
                lm,
                [texts[i] for i in batch],
                max_new_tokens=limit,
                temperature=TEMPERATURE,
                seed=seed + 1000 * attempt + batch[0],
            )
            for i, answer in zip(batch, answers, strict=True):
                draft = dict(waiting[i])
                response = (draft.pop("start") + answer.text).strip()
                if REFUSAL.search(response) or len(response.split()) < 8:
                    again.append(waiting[i])
                else:
                    rows[draft["id"]] = draft | {"response": response, "finished": answer.finish_reason == "stop"}
        waiting = again
        if not waiting:
            break
    for file in tokens:
        chosen = [rows[id] for id in order if id in rows and rows[id]["file"] == file]
        text = to_jsonl({k: v for k, v in row.items() if k != "file"} for row in chosen)
        write_atomically(folder / f"{file}.jsonl", text)
        print(f"{file}: {len(chosen)} rows")
    print(f"left out after five draws: {len(waiting)}", *(draft["id"] for draft in waiting))


if __name__ == "__main__":
    limits = {"harmful-train": 128, "benign-train": 128, "plain-train": 96, "helpful-train": 160}
    limits |= {"harmful-test": 288, "benign-test": 288}
    write(models.load("smollm2-135m"), RESPONSES, seed=0, per_behaviour=2, tokens=limits, batch_size=64)
