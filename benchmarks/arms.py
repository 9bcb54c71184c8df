"""Measure the time and memory for building the seven arms: ``python benchmarks/arms.py``.

It first uses the embedded corpus, then 30,000 rows in the form of BeaverTails, half of them unsafe, which the script
writes to a scratch folder in the layout of the dataset's repository (with the embedded corpus's texts, numbered). Peak
memory is that of the whole process so far, libraries included.
"""

import json
import lzma
import random
import resource
import tempfile
import time
from pathlib import Path

import datasets

from derta import arms, corpus, dataset, models
from derta.encode import DatasetSettings, Encoder
from derta.material import Material, embedded_material
from derta.published import sources

ROWS = 30_000
CATEGORIES = ("animal_abuse", "privacy_violation", "drug_abuse,weapons,banned_substance")


def clone(folder: Path) -> None:
    """Write a folder in the form of BeaverTails' repository."""
    rng = random.Random(0)
    texts = corpus.responses("harmful-train")
    (folder / "round0" / "30k").mkdir(parents=True)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: 30k_train\n    path: round0/30k/train.jsonl.xz\n---\n"
    )
    with lzma.open(folder / "round0" / "30k" / "train.jsonl.xz", "wt", preset=1) as file:
        for number in range(ROWS):
            row = rng.choice(texts)
            file.write(
                json.dumps(
                    {
                        "prompt": f"{row.prompt} ({number})",
                        "response": f"{row.response} ({number})",
                        "category": {name: i == number % 3 for i, name in enumerate(CATEGORIES)},
                        "is_safe": number % 2 == 0,
                    }
                )
                + "\n"
            )


def build(what: str, material: Material, settings: DatasetSettings, scratch: Path) -> None:
    """Build the seven arms and print one line for all of them."""
    start, rows = time.perf_counter(), 0
    encode = Encoder(models.load_tokenizer("smollm2-135m"), settings)
    for arm in arms.ARMS:
        summary = dataset.write(arms.instances(arm, material, encode), encode, scratch / what / arm)
        rows += sum(counts["rows"] for counts in summary.kinds.values())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds = time.perf_counter() - start
    print(f"{what}: 7 arms, {rows:,} rows in {seconds:.0f} s, peak memory {peak:.2f} GiB", flush=True)


if __name__ == "__main__":
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        one = DatasetSettings(epochs=1, rto_dropout=0.7, max_length=96, prefix_unit="tokens", batch_size=16, seed=0)
        build("embedded", embedded_material(triples=700, twins=700, plain=100, instructions=700, seed=0), one, scratch)
        clone(scratch / "beavertails")
        start = time.perf_counter()
        rows = sources.load("beavertails", scratch / "beavertails")
        triples, fate = sources.beavertails_triples(rows)
        print(f"beavertails: {len(rows):,} rows read in {time.perf_counter() - start:.0f} s, {dict(fate)}", flush=True)
        two = DatasetSettings(epochs=2, rto_dropout=0.95, max_length=1024, prefix_unit="words", batch_size=128, seed=0)
        build("beavertails", Material(tuple(triples), ()), two, scratch)
