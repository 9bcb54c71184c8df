"""Score released files: ``python -m derta.released score --root DIR``, ``helpfulness`` or, all in one table, ``audit``.

CSV on stdout, one row per model, arm and attack (or task), for whatever released files lie under DIR, at any depth. On
stderr: what was left out and why, and an error for every file that is not what its name says; then the status is 1.
"""

import argparse
import csv
import sys
from pathlib import Path

from derta.released.generations import load
from derta.released.score import accuracy, asr, audit

TABLES = {
    "score": (asr, "model,arm,attack,n,unsafe,unscored,asr_percent,low,high"),
    "helpfulness": (accuracy, "model,arm,task,n,correct,unparsed,accuracy_percent,low,high"),
    "audit": (audit, "metric,model,arm,task,n,count,undecided,percent,low,high,paper_percent"),
}


def main() -> int:
    """Read the arguments, print the table; returns the exit status for the shell."""
    parser = argparse.ArgumentParser(prog="python -m derta.released", description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=tuple(TABLES))
    parser.add_argument("--root", type=Path, required=True, help="the folder that holds the released files")
    arguments = parser.parse_args()
    try:
        folder = load(arguments.root)
    except NotADirectoryError as error:
        sys.exit(str(error))
    table, columns = TABLES[arguments.table]
    rows = table(folder)
    for path, reason in folder.left_out.items():
        print(f"left out: {path}: {reason}", file=sys.stderr)
    for note in folder.notes:
        print(f"note: {note}", file=sys.stderr)
    for error in folder.errors:
        print(f"error: {error}", file=sys.stderr)
    if not rows:
        print(f"error: {arguments.root}: holds no generations for this table", file=sys.stderr)
    writer = csv.DictWriter(sys.stdout, columns.split(","), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.1f}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    return 1 if folder.errors or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
