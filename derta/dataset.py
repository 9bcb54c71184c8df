"""The dataset of one arm: its rows in training order.

For each epoch, one relabelled copy of the data is written, with its own prefix lengths and label dropout, so that a
trainer reads all epochs in a single pass.
"""

import json
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, List, Value
from tqdm import tqdm

from derta import models
from derta.arms import Make, generator, instances, label
from derta.encode import DatasetSettings, Encoder, LeftOut
from derta.files import write_atomically
from derta.material import Material
from derta.objective import IGNORE
from derta.runs import digest, set_aside

IDS = List(Value("int32"))
ABOUT = {"kind": Value("string"), "behaviour_id": Value("string"), "epoch": Value("int32")}
ROW = Features({"input_ids": IDS, "labels": IDS} | ABOUT)
PAIR = Features({"prompt_ids": IDS, "chosen_ids": IDS, "rejected_ids": IDS} | ABOUT)


@dataclass
class Summary:
    """Statistics of a dataset over all epochs.

    `kinds` has the numbers of rows, tokens, labels and cut rows per kind; `left_out` has the instances without a row,
    by reason.
    """

    kinds: dict[str, dict[str, int]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def count(self, kind: str, tokens: int, labels: int, cut: bool) -> None:
        counts = self.kinds.setdefault(kind, {"rows": 0, "tokens": 0, "labels": 0, "cut": 0})
        for name, number in (("rows", 1), ("tokens", tokens), ("labels", labels), ("cut", cut)):
            counts[name] += number


def build(arm: str, material: Material, model: str, folder: Path | str, **settings: Any) -> Path:
    """Build the dataset of an arm in `folder` and return the folder.

    Args:
        arm: one of `derta.arms.ARMS`.
        material: see `derta.material.embedded_material` and `derta.material.own_material`.
        model: the name or folder of the model to be tuned, for its tokenizer and chat format.
        settings: see `derta.encode.DatasetSettings`.

    Raises:
        ValueError: see `derta.encode.DatasetSettings`, `derta.arms.instances` and `write`.
    """
    encode = Encoder(models.load_tokenizer(model), DatasetSettings(**settings))
    summary = write(instances(arm, material, encode), encode, Path(folder))
    for reason, names in summary.left_out.items():
        tqdm.write(f"left out of {arm}: {len(names)} rows, {reason}; the first is {names[0]}", file=sys.stderr)
    return Path(folder)


def write(planned: Sequence[tuple[str, Make]], encode: Encoder, folder: Path) -> Summary:
    """Write the rows of `derta.arms.instances` to `folder` in training order, with a ``summary.json``.

    Each row has `kind`, `behaviour_id` and `epoch`. Rows are made one optimiser step at a time, so that only the texts
    and their tokens are held in memory.

    Raises:
        ValueError: no instance has a row, or the folder holds files other than a dataset.
    """
    summary, settings = Summary(), encode.settings

    def rows() -> Iterator[dict[str, Any]]:
        order = (
            (epoch, *item)
            for epoch in range(settings.epochs)
            for item in random.Random(f"order {settings.seed} {epoch}").sample(planned, len(planned))
        )
        in_order = (row for epoch, name, make in order if (row := _row(name, make, epoch, encode, summary)))
        while step := list(islice(in_order, settings.batch_size)):
            yield from sorted(step, key=tokens, reverse=True)

    made_rows = rows()
    first = next(made_rows, None)
    if first is None:
        raise ValueError(f"{folder}: no row is left ({', '.join(summary.left_out)}); look at the data")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as cache:
        dataset = Dataset.from_generator(
            lambda: chain([first], made_rows),
            features=PAIR if "prompt_ids" in first else ROW,
            cache_dir=cache,
            fingerprint="derta",
        )
        made = Path(cache) / "made"
        dataset.save_to_disk(made)
        write_atomically(made / "summary.json", json.dumps(vars(summary), indent=1))
        _put(made, folder)
    return summary


def _put(made: Path, folder: Path) -> None:
    """Move a dataset into place; an existing one with the same rows is kept, one with other rows is set aside."""
    if folder.exists() and any(not path.match(".*") for path in folder.iterdir()):
        if not (folder / "summary.json").exists():
            raise ValueError(f"{folder}: holds files that are not a dataset of derta; choose another folder")
        new, old = (digest(*sorted(path.glob("data-*.arrow"))) for path in (made, folder))
        if new == old:
            return
        set_aside(folder, old, "its rows have changed")
    elif folder.exists():
        shutil.rmtree(folder)  # it holds only hidden files of the operating system
    made.rename(folder)


def tokens(row: dict[str, Any]) -> int:
    """Count the tokens of a row; in a pair, the prompt counts once."""
    return sum(len(ids) for column, ids in row.items() if column.endswith("_ids"))


def _row(name: str, make: Make, epoch: int, encode: Encoder, summary: Summary) -> dict | None:
    """Make one row and count it; if it is left out, note the reason and return None."""
    rng = generator(encode.settings, epoch, name)
    try:
        instance = make(rng)
    except LeftOut as reason:
        summary.left_out.setdefault(str(reason), []).append(f"{name} in epoch {epoch + 1}")
        return None
    row = label(instance, encode, rng)
    labels = sum(label != IGNORE for label in row.get("labels", [*instance.target, *(instance.rejected or ())]))
    summary.count(instance.kind, tokens(row), labels, instance.cut)
    return row | {"kind": instance.kind, "behaviour_id": instance.behaviour_id, "epoch": epoch}
