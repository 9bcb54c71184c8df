"""The authors' training format: reading and writing it.

Their trainer reads JSON Lines of ``{"prefix", "text", "safe"}``: `prefix` has no labels, `text` is learned, and
``"safe": "true"`` asks for the refusal token at every position of `text` (RTO). The chat format and the end of sequence
are part of the texts. Datasets made here can thus be trained on with their code, and theirs with ours.
"""

import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from derta.arms import Instance, Make, generator
from derta.encode import Encoder, LeftOut
from derta.files import placed_jsonl, write_atomically

END = "<|end_of_text|>"
TURN = re.compile(r"\[INST\] (.*) \[\\INST\](.*)", re.DOTALL)


class Sample(NamedTuple):
    """A row of the authors' format; `rto` is their ``"safe"``."""

    prefix: str
    text: str
    rto: bool


def read(path: Path | str) -> Iterator[Sample]:
    """Yield the samples of a file.

    Raises:
        ValueError: a row lacks a field, or a field has another type or value; the message names file and row.
    """
    for where, row in placed_jsonl(Path(path), {"prefix": str, "text": str, "safe": str}):
        if row["safe"] not in ("true", "false"):
            raise ValueError(f"{where}: safe is {row['safe']!r}, expected 'true' or 'false'")
        yield Sample(row["prefix"], row["text"], row["safe"] == "true")


def write(path: Path | str, samples: Iterable[Sample]) -> None:
    """Write `samples` in the format of the authors' generator."""
    rows = ({"prefix": s.prefix, "text": s.text, "safe": "true" if s.rto else "false"} for s in samples)
    write_atomically(Path(path), "".join(json.dumps(row) + "\n" for row in rows))


def samples(made: Sequence[tuple[str, Make]], encode: Encoder) -> tuple[list[Sample], dict[str, list[str]]]:
    """Convert an arm's instances (`derta.arms.instances`) of the first epoch to samples in the paper's chat format.

    Label dropout is left to the authors' trainer.

    Returns:
        The samples, and the names of the instances without a sample, by reason.
    """
    tokenizer = encode.lm.tokenizer
    written: list[Sample] = []
    left_out: dict[str, list[str]] = {}
    for name, make in made:
        try:
            instance = make(generator(encode.settings, 0, name))
            if instance.rejected is not None:
                raise LeftOut("the format holds no pairs of responses")
        except LeftOut as reason:
            left_out.setdefault(str(reason), []).append(name)
            continue
        ids, given = list(instance.target), list(instance.given)
        ended = ids[-1] == encode.end(instance.plain)
        text = tokenizer.decode(ids[:-1] if ended else ids)
        # A token may hold only part of a character; the prefix then ends before it.
        while given and tokenizer.decode(given).endswith("\ufffd"):
            given.pop()
        if instance.plain:
            written.append(Sample(instance.query, text + END * ended, False))
            continue
        prefix = f"[INST] {instance.query} [\\INST]" + (" " + tokenizer.decode(given) if given else "")
        written.append(Sample(prefix, f" {text}" + END * ended, instance.kind == "rto"))
    return written, left_out


def instances(read: Iterable[Sample], encode: Encoder) -> list[tuple[str, Make]]:
    """Convert samples to an arm's instances, for `derta.dataset.write`.

    The kind is ``rto``, ``prefix`` or, otherwise, ``mle``. A prefix in the paper's chat format is taken apart and
    rendered in that of the given model, whose end of sequence replaces LLaMA3's; any other prefix is a plain text.
    """
    return [(f"sample/{number}", partial(_instance, sample, encode)) for number, sample in enumerate(read)]


def _instance(sample: Sample, encode: Encoder, rng: random.Random) -> Instance:
    turn = TURN.fullmatch(sample.prefix)
    plain = turn is None
    query, begun = turn.groups() if turn else (sample.prefix, "")
    prompt = encode.prompt(query, plain)
    room = encode.room(prompt)
    target = encode.response(sample.text.removesuffix(END), finished=sample.text.endswith(END), plain=plain)
    given = encode.lm.ids(begun.removeprefix(" "))
    before = max(room - len(target), 0)
    cut = len(given) > before or len(target) > room
    kind = "rto" if sample.rto else "prefix" if given else "mle"
    return Instance(kind, "", query, prompt, target[:room], given=given[:before], cut=cut, plain=plain)
