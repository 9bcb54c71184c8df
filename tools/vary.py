"""Vary what the choice of settings did not: ``python -m tools.vary`` (three quarters of an hour on two cores).

The arm ``derta`` is trained with the settings that `tools.choose` chose and one of them changed, on the seed of the
choice, and measured on its split in the same way: the AUROC of P(refusal) for harmful requests against their twins,
asked directly and after a prefilled start, the mean P(refusal) of both sides, and the negative log-likelihood of
answers to ordinary instructions, each with its 95 % interval. Nothing is chosen by it.

Results are in ``tools/vary.csv``, and training resumes from ``choose/`` among the runs, where the chosen model is found
too.
"""

import json
import sys

from derta import stats
from derta.files import write_atomically, write_csv
from derta.runs import provenance, run_dir
from tools import choose

RESULTS = choose.RESULTS.with_name("vary.csv")
# The chosen value of each comes last. The paper drops 95 % of the refusal labels.
VALUES = {"triples": (75, 150, 300, 600), "twins": (0, 600), "rto_dropout": (0.95, 0.0)}
PLACES = ("direct", "prefill")


def main() -> None:
    """Print and write what was found."""
    chosen = json.loads(choose.RESULTS.with_suffix(".json").read_text(encoding="utf-8"))["setting"]
    rows, folder = [], run_dir("choose")
    found_of_chosen = choose.measure(choose.train(chosen, folder))
    for name, values in VALUES.items():
        for value in values:
            usual = value == values[-1]
            found = found_of_chosen if usual else choose.measure(choose.train(chosen | {name: value}, folder))
            row = {"varied": name, "value": value}
            measured = {f"auroc_{place}": found[place] for place in PLACES}
            measured |= {
                f"{place}_{side}": found[f"{place}_{side}"] for place in PLACES for side in ("harmful", "benign")
            }
            for measure, per_case in (measured | {"nll": found["nll"]}).items():
                mean, low, high, _ = stats.crossed(per_case, (0, 1) if measure != "nll" else ())
                row |= {measure: mean, f"{measure}_low": low, f"{measure}_high": high}
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    write_csv(RESULTS, rows)
    write_atomically(RESULTS.with_suffix(".json"), json.dumps(provenance(setting=chosen), indent=1) + "\n")


if __name__ == "__main__":
    main()
