"""Choose the settings of the profiles ``small`` and ``study``: ``python -m tools.choose`` (about an hour on two cores).

The arm ``derta`` is trained with each value of one setting after the other, and measured on behaviours, instructions
and phrasings that are held out for this alone (the split ``choice``). Nothing of the validation or test split is read.

Measured are the AUROC of P(refusal) for harmful requests against their benign twins, asked directly and after a
prefilled start, and the negative log-likelihood of the untuned model's answers to ordinary instructions, in nats per
token: what is gained, and what it costs, since a model that refuses along innocent answers makes them unlikely. Neither
has a threshold.

The rule, stated before its runs: of the values of a setting, those stay whose mean AUROC does not differ from the
best one's (the 95 % interval of the difference, paired by behaviour, holds 0). Of these, the one with the lowest
negative log-likelihood is taken or, for the settings that decide how long a step takes (`CHEAPER`), the cheapest; it is
kept while the next setting is varied. The learning rate comes first, then the length of the rows, frozen layers,
dropout and the share of close pairs.

An earlier try, on an H200, had helpful rows of 64 tokens beside triples of 96 to 160, and took what was within one
standard error of the best AUROC. Past its 64th token no row was helpful, so that the position alone said "refuse": the
negative log-likelihood rose from 2.3 to 3.9 nats with the length of the triples. Since then all rows have one length,
and the rule gives more weight to that cost. Neither validation nor test had been looked at.

Results are in ``tools/choose.csv``, and training resumes from ``choose/`` among the runs.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from derta import corpus, dataset, depth, models, requests, stats, training
from derta.attacks import ATTACKS
from derta.files import write_atomically, write_csv
from derta.material import embedded_material
from derta.runs import digest, provenance, run_dir

RESULTS = Path(__file__).with_name("choose.csv")
MODEL = "smollm2-135m"
SEED = 0
# The values that are tried, in the order of choosing; the first of each is the one that the runs begin with.
VALUES = {
    "learning_rate": (5e-4, 2.5e-4, 1e-3, 2e-3),
    "max_length": (96, 128),
    "frozen_layers": (15, 0),
    "rto_dropout": (0.5, 0.0, 0.8),
    "close": (450, 0),
}
# Settings whose values are in the order of their cost.
CHEAPER = ("max_length", "frozen_layers")
MATERIAL = {"triples": 600, "twins": 600, "plain": 40, "instructions": 600}
ROWS = {"epochs": 1, "batch_size": 16}
TRAINING: dict[str, Any] = {
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "per_device_train_batch_size": 8,
    "save_steps": 0.5,
    "activation_checkpointing": False,  # which saves memory that no machine lacks here
}


def train(setting: dict[str, Any], folder: Path) -> Path:
    """Train the arm ``derta`` with a setting, which may hold other numbers of `MATERIAL`; return the model's folder."""
    name = digest(setting)
    numbers = MATERIAL | {name: setting[name] for name in MATERIAL.keys() & setting.keys()}
    material = embedded_material(**numbers, seed=SEED, close=setting["close"])
    rows = ROWS | {name: setting[name] for name in ("max_length", "rto_dropout")}
    data = dataset.build("derta", material, MODEL, folder / f"{name}-data", seed=SEED, **rows)
    options = TRAINING | {name: setting[name] for name in ("learning_rate", "frozen_layers")}
    return training.train(MODEL, data, folder / name, batch_size=ROWS["batch_size"], seed=SEED, **options)


def measure(model: Path) -> dict[str, np.ndarray]:
    """Return, per behaviour of the split ``choice``, the placements of both AUROCs (`derta.stats.auroc`; for the close
    pairs alone too) and P(refusal) on both sides, and per answer its negative log-likelihood in nats per token."""
    lm = models.load(str(model))
    close = np.array([b.twin == "close" for b in corpus.behaviours("choice")])
    found: dict[str, np.ndarray] = {}
    for name in ("direct", "prefill"):
        asked = [[ATTACKS[name].prompt(r) for r in requests.of_split("choice", benign)] for benign in (False, True)]
        scores = [depth.next_refusals(lm, prompts, batch_size=64) for prompts in asked]
        found[name] = stats.auroc(*scores)
        found[f"{name}_close"] = stats.auroc(*(side[close] for side in scores))
        found |= {f"{name}_{side}": score for side, score in zip(("harmful", "benign"), scores, strict=True)}
    answers = corpus.responses("helpful-choice")
    prompts, replies = [lm.ids(lm.chat(row.prompt)) for row in answers], [lm.ids(row.response) for row in answers]
    nll = np.empty(len(answers))
    for i, log_probs in depth.forced(lm, prompts, replies, 16):
        nll[i] = -log_probs.gather(1, log_probs.new_tensor(replies[i], dtype=int)[:, None]).mean().item()
    return found | {"nll": nll}


def stay(values: list[dict[str, np.ndarray]]) -> list[bool]:
    """Say which settings have a mean AUROC that does not differ from the best one's."""
    means = [(found["direct"] + found["prefill"]) / 2 for found in values]
    best = max(means, key=np.mean)
    return [stats.crossed(best - mean).low <= 0 for mean in means]


def main() -> None:
    """Choose, print and write what was found."""
    folder, rows, known = run_dir("choose"), [], {}
    setting: dict[str, Any] = {name: values[0] for name, values in VALUES.items()}

    def found(tried: dict[str, Any]) -> dict[str, np.ndarray]:
        if digest(tried) not in known:
            known[digest(tried)] = measure(train(tried, folder))
        return known[digest(tried)]

    for name, values in VALUES.items():
        tried = [setting | {name: value} for value in values]
        measured = [found(one) for one in tried]
        staying = stay(measured)
        costs = [i if name in CHEAPER else one["nll"].mean() for i, one in enumerate(measured)]
        chosen = min((i for i, stays in enumerate(staying) if stays), key=costs.__getitem__)
        for i, (one, result) in enumerate(zip(tried, measured, strict=True)):
            row = {"varied": name, **one}
            for asked in ("direct", "prefill"):
                mean, low, high, _ = stats.crossed(result[asked], (0, 1))
                row |= {f"auroc_{asked}": mean, f"auroc_{asked}_low": low, f"auroc_{asked}_high": high}
                row[f"auroc_{asked}_close"] = float(result[f"{asked}_close"].mean())
            row |= {"nll": float(result["nll"].mean()), "stays": staying[i], "chosen": i == chosen}
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
        setting = tried[chosen]
    write_csv(RESULTS, rows)
    write_atomically(RESULTS.with_suffix(".json"), json.dumps(provenance(setting=setting), indent=1) + "\n")
    print(json.dumps(setting))


if __name__ == "__main__":
    main()
