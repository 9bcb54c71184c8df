"""Choose the settings of the profiles ``small`` and ``study``: ``python -m tools.choose`` (about an hour, two cores).

The arm ``derta`` is trained with each value of one setting after the other, and measured on behaviours, instructions
and phrasings that are held out for this alone (the split ``choice``). Nothing of the validation or test split is read.

Measured are the AUROC of P(refusal) for harmful requests against their benign twins, asked directly and after a
prefilled start, and the negative log-likelihood of the untuned model's answers to ordinary instructions, in nats per
token: what is gained, and what it costs. Neither has a threshold.

The rule, stated before any run: of the values of a setting, those stay whose mean AUROC is within one standard error of
the best one's (the standard error of the difference, paired by behaviour; after Breiman et al. 1984). Of these, the one
with the lowest negative log-likelihood is taken or, for the settings that decide how long a step takes (`CHEAPER`), the
cheapest; it is kept while the next setting is varied. The learning rate comes first, then the room for triples, frozen
layers and dropout. Last, the chosen setting is trained without close pairs, which is a comparison and no choice.

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
    "safety_max_length": (96, 128, 160),
    "frozen_layers": (15, 0),
    "rto_dropout": (0.5, 0.0, 0.8),
}
# Settings whose values are in the order of their cost.
CHEAPER = ("safety_max_length", "frozen_layers")
COMPARED = {"close": (450, 0)}
MATERIAL = {"triples": 600, "twins": 600, "plain": 40, "instructions": 600}
ROWS = {"epochs": 1, "max_length": 64, "batch_size": 16}
TRAINING: dict[str, Any] = {
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "per_device_train_batch_size": 8,
    "save_steps": 0.5,
}
TRAINING |= {"activation_checkpointing": False}  # which saves memory that no machine lacks here


def train(setting: dict[str, Any], folder: Path) -> Path:
    """Train the arm ``derta`` with a setting, and return the model's folder."""
    name = digest(setting)
    material = embedded_material(**MATERIAL, seed=SEED, close=setting["close"])
    rows = ROWS | {name: setting[name] for name in ("safety_max_length", "rto_dropout")}
    data = dataset.build("derta", material, MODEL, folder / f"{name}-data", seed=SEED, **rows)
    options = TRAINING | {name: setting[name] for name in ("learning_rate", "frozen_layers")}
    return training.train(MODEL, data, folder / name, batch_size=ROWS["batch_size"], seed=SEED, **options)


def measure(model: Path) -> dict[str, np.ndarray]:
    """Return, per behaviour of the split ``choice``, the placements of both AUROCs (`derta.stats.auroc`), and per
    answer its negative log-likelihood in nats per token."""
    lm = models.load(str(model))
    found: dict[str, np.ndarray] = {}
    for name in ("direct", "prefill"):
        asked = [[ATTACKS[name].prompt(r) for r in requests.of_split("choice", benign)] for benign in (False, True)]
        found[name] = stats.auroc(*(depth.next_refusals(lm, prompts, batch_size=64) for prompts in asked))
    answers = corpus.responses("helpful-choice")
    prompts, replies = [lm.ids(lm.chat(row.prompt)) for row in answers], [lm.ids(row.response) for row in answers]
    nll = np.empty(len(answers))
    for i, log_probs in depth.forced(lm, prompts, replies, 16):
        nll[i] = -log_probs.gather(1, log_probs.new_tensor(replies[i], dtype=int)[:, None]).mean().item()
    return found | {"nll": nll}


def within(values: list[dict[str, np.ndarray]]) -> list[bool]:
    """Say which settings have a mean AUROC within one standard error of the best one's."""
    means = [(found["direct"] + found["prefill"]) / 2 for found in values]
    best = max(means, key=np.mean)
    apart = [best - mean for mean in means]
    return [bool(d.mean() <= d.std(ddof=1) / len(d) ** 0.5) for d in apart]


def main() -> None:
    """Choose, print and write what was found."""
    folder, rows, known = run_dir("choose"), [], {}
    setting = {name: values[0] for name, values in (VALUES | COMPARED).items()}

    def found(tried: dict[str, Any]) -> dict[str, np.ndarray]:
        if digest(tried) not in known:
            known[digest(tried)] = measure(train(tried, folder))
        return known[digest(tried)]

    for name, values in (VALUES | COMPARED).items():
        tried = [setting | {name: value} for value in values]
        measured = [found(one) for one in tried]
        stay = within(measured)
        costs = [i if name in CHEAPER else one["nll"].mean() for i, one in enumerate(measured)]
        chosen = min((i for i, kept in enumerate(stay) if kept), key=costs.__getitem__) if name in VALUES else 0
        for number, (one, result) in enumerate(zip(tried, measured, strict=True)):
            row = {"varied": name, **one}
            for measure_name in ("direct", "prefill"):
                mean, low, high, _ = stats.crossed(result[measure_name], (0, 1))
                row |= {f"auroc_{measure_name}": mean, f"{measure_name}_low": low, f"{measure_name}_high": high}
            row |= {"nll": float(result["nll"].mean()), "within_one_se": stay[number], "chosen": number == chosen}
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
        setting = tried[chosen]
    write_csv(RESULTS, rows)
    write_atomically(RESULTS.with_suffix(".json"), json.dumps(provenance(setting=setting), indent=1) + "\n")
    print(json.dumps(setting))


if __name__ == "__main__":
    main()
