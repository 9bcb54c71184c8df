"""How the embedded responses were made: the base model's own answers, with many of its replies started for it.

``python -m tools.responses`` completes ``data/responses/*.jsonl``, seeded. Existing rows that still fit are kept, so
that a growing corpus needs draws only for its new part; a killed run resumes where it stopped. Except for the openers,
no text of these files was written by hand: a harmful response is the text that a 135M model writes when its reply is
opened, compliant in form and useless in content. A behaviour and its benign twin get the same phrasings and the same
openers, and ordinary instructions get openers too, so that no form gives harm away.
"""

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from derta import generate, models
from derta.corpus import FREE, RESPONSES, behaviours, instructions, openers, phrasings, plain_prompts
from derta.files import read_jsonl, to_jsonl, write_atomically
from derta.generate import Case, Prompt, user
from derta.judge import judge, refusal
from derta.models import LM
from derta.requests import EVALUATION
from derta.runs import run_dir

DRAWS = 8
# Limits of new tokens: for the three responses to a training behaviour in turn, and for the other files.
TRAIN_TOKENS = (64, 96, 192)
TOKENS = {"evaluation": 288, "plain-train": 80, "helpful-train": 128, "helpful-choice": 128, "weak-train": 64}
TOKENS |= {"plain-validation": 80, "helpful-validation": 128}
# Minimum numbers of tokens, openings included: for the refusal-depth axis, and so that a training row has a middle.
MIN_TOKENS = {f"{kind}-{split}": 256 for kind in ("harmful", "benign") for split in EVALUATION}
MIN_TOKENS |= {"harmful-train": 40, "benign-train": 40}
# Kinds of instructions whose answer may begin like the answer to a harmful question.
OPENED_KINDS = ("how_to", "plan", "list", "explain", "compare", "write", "everyday", "role_play")


@dataclass(frozen=True)
class Draft:
    """A request to the base model, for `file`: the question `prompt`, and the opening `start` of its reply."""

    file: str
    tokens: int
    id: str
    behaviour_id: str
    form: str
    prompt: str
    start: str
    about: str = ""


def drafts(seed: int) -> Iterator[Draft]:
    """Yield every request to the base model."""
    ordinary = random.Random(seed)
    later = random.Random(f"{seed} test")  # so that the draws of the others stay as they were before it
    for number, behaviour in enumerate(behaviours()):
        rng = later if behaviour.split == "test" else ordinary
        train = behaviour.split not in EVALUATION
        limits = TRAIN_TOKENS if train else (TOKENS["evaluation"],)
        forms = [FREE if rng.random() < 0.25 else opener for opener in rng.sample(openers(), len(limits))]
        asked = rng.sample(phrasings("train" if train else behaviour.split), len(limits))
        plain = rng.choice(plain_prompts()) if train and number % 2 == 0 else ""
        if behaviour.split == "choice":
            continue  # after its draws, so that those of the others stay as they were
        for kind, do in (("harmful", behaviour.harmful), ("benign", behaviour.benign)):
            for i, (tokens, opener, phrasing) in enumerate(zip(limits, forms, asked, strict=True)):
                id, prompt = f"{behaviour.id}-{kind[0]}{i}", phrasing.replace("{do}", do)
                start = opener.template.replace("{do}", do)
                yield Draft(f"{kind}-{behaviour.split}", tokens, id, behaviour.id, opener.form, prompt, start, do)
                if train and kind == "benign":
                    yield Draft("weak-train", TOKENS["weak-train"], id, behaviour.id, FREE.form, prompt, "")
        if plain:
            prompt = plain.replace("{do}", behaviour.benign)
            yield Draft("plain-train", TOKENS["plain-train"], f"{behaviour.id}-p", behaviour.id, "plain", prompt, "")
    for behaviour in behaviours("validation"):
        prompt = later.choice(plain_prompts()).replace("{do}", behaviour.benign)
        file = "plain-validation"
        yield Draft(file, TOKENS[file], f"{behaviour.id}-p", behaviour.id, "plain", prompt, "")
    general = [opener for opener in openers() if "{do}" not in opener.template]
    for instruction in (*instructions("train"), *instructions("choice"), *instructions("validation")):
        rng = later if instruction.split == "validation" else ordinary
        opened = instruction.kind in OPENED_KINDS and rng.random() < 0.75
        start = rng.choice(general).template if opened else ""
        helpful = (f"helpful-{instruction.split}", start)
        for file, opening in (helpful, ("weak-train", "")) if instruction.split == "train" else (helpful,):
            yield Draft(file, TOKENS[file], instruction.id, "", instruction.kind, instruction.text, opening)


def fits(lm: LM, draft: Draft, response: str) -> bool:
    """Whether a response is kept: it must not refuse or loop, must be as long as its file asks and, for a behaviour or
    its twin, must comply in form. A weak response must only be non-empty and not refuse."""
    words = response.lower().split()
    if draft.file == "weak-train":
        return bool(words) and not refusal(response)
    runs = list(zip(words, words[1:], words[2:], strict=False))
    if len(words) < 8 or len(set(runs)) < 0.5 * len(runs) or refusal(response):
        return False
    if len(lm.ids(response)) < MIN_TOKENS.get(draft.file, 0):
        return False
    return not draft.about or judge(draft.about, response).verdict == "unsafe"


def draw(lm: LM, waiting: Sequence[Draft], folder: Path, *, attempt: int, seed: int, batch_size: int) -> dict:
    """Draw one answer to each draft, by file and id: (response, whether it ended with an end of sequence)."""
    answers = {}
    # A batch holds drafts with the same file and limit.
    groups: dict[tuple[str, int], list[Draft]] = defaultdict(list)
    for draft in waiting:
        groups[draft.file, draft.tokens].append(draft)
    for (file, tokens), group in groups.items():
        asked = [Prompt((), d.prompt) if d.form == "plain" else user(d.prompt, d.start) for d in group]
        cases = [Case(d.id, d.behaviour_id, file, False, 0, prompt) for d, prompt in zip(group, asked, strict=True)]
        plain = {d.id for d in group if d.form == "plain"}
        path = folder / f"{file}-{tokens}-{attempt}.jsonl"
        generate.run(
            lm,
            cases,
            path,
            batch_size=batch_size,
            seed=seed + 100_000 * attempt,
            max_new_tokens=tokens,
            min_new_tokens=MIN_TOKENS.get(file, 0) if tokens == TOKENS["evaluation"] else 0,
            temperature=1.5 if file == "weak-train" else 0.7,
        )
        for row in read_jsonl(path):
            # The continuation of a plain text keeps the space before it.
            response = (row["start"] + row["completion"]).rstrip()
            response = response if row["case_id"] in plain else response.lstrip()
            answers[file, row["case_id"]] = (response, row["finish_reason"] == "stop")
    return answers


def write(lm: LM, folder: Path, scratch: Path, *, seed: int, batch_size: int) -> None:
    """Answer every draft into ``folder/<file>.jsonl``, and keep all draws in `scratch`.

    An existing row of these files is kept if it answers the same prompt in the same form, and fits. A response that
    does not fit is drawn again with other seeds, up to `DRAWS` times in all, and then left out. A response whose twin
    is missing is left out too. Both are counted.
    """
    everything = list(drafts(seed))
    there = {(path.stem, row["id"]): row for path in sorted(folder.glob("*.jsonl")) for row in read_jsonl(path)}
    kept: dict[tuple[str, str], dict] = {}
    for draft in everything:
        row = there.get((draft.file, draft.id))
        asked = (draft.prompt, draft.form)
        if row and (row["prompt"], row["form"]) == asked and fits(lm, draft, row["response"]):
            kept[draft.file, draft.id] = row
    waiting = [draft for draft in everything if (draft.file, draft.id) not in kept]
    print(f"{len(kept)} of {len(everything)} responses are there")
    for attempt in range(DRAWS):
        answers = draw(lm, waiting, scratch, attempt=attempt, seed=seed, batch_size=batch_size)
        for draft in waiting:
            response, finished = answers[draft.file, draft.id]
            if fits(lm, draft, response):
                row = {key: getattr(draft, key) for key in ("id", "behaviour_id", "form", "prompt")}
                kept[draft.file, draft.id] = row | {"response": response, "finished": finished}
        waiting = [draft for draft in waiting if (draft.file, draft.id) not in kept]
        print(f"after draw {attempt + 1}: {len(waiting)} of {len(everything)} responses do not fit yet")
    lone = [(file, id) for file, id in kept if (twin := _twin(file, id)) and twin not in kept]
    for key in lone:
        del kept[key]
    for file in dict.fromkeys(draft.file for draft in everything):
        rows = [kept[d.file, d.id] for d in everything if d.file == file and (file, d.id) in kept]
        write_atomically(folder / f"{file}.jsonl", to_jsonl(rows))
        print(f"{file}: {len(rows)} rows")
    print(f"left out: {len(waiting)} after {DRAWS} draws, {len(lone)} without their twin")


def _twin(file: str, id: str) -> tuple[str, str] | None:
    """Return file and id of the matching response to a behaviour's twin, or to a twin's behaviour."""
    for one, other in (("harmful", "benign"), ("benign", "harmful")):
        if file.startswith(one):
            return file.replace(one, other), id.replace(f"-{one[0]}", f"-{other[0]}")
    return None


if __name__ == "__main__":
    write(models.load("smollm2-135m"), RESPONSES, run_dir("responses"), seed=0, batch_size=64)
