"""A change of a stage's code is looked at: does the same input still give the same result?

The version of a stage decides whether a result that lies there is kept. So the code of each stage, without comments and
docstrings, is recorded in ``stages.json`` with its version. Where a test below fails, raise the ``VERSION`` if results
may differ; then, in either case, record the code anew: ``python tests/test_versions.py``.
"""

import json
from pathlib import Path

import pytest

from derta import decode, depth, probe, training
from derta.commands.notebooks import bare
from derta.runs import PACKAGE, digest
from derta.searches import autodan, pair

STAGES = {
    "training": (training.VERSION, ["training.py", "trainers.py", "settings.py", "tuned.py"]),
    "decode": (decode.VERSION, ["decode.py", "generate.py", "models.py", "chat.py", "adapters.py"]),
    "depth": (depth.VERSION, ["depth.py"]),
    "probe": (probe.VERSION, ["probe.py"]),
    "pair": (pair.VERSION, ["searches/pair.py", "judge.py", "sentences.py", "parts.py", "phrases.py"]),
    "autodan": (autodan.VERSION, ["searches/autodan.py", "depth.py"]),
}
RECORD = Path(__file__).with_name("stages.json")


def now(stage: str) -> dict:
    version, files = STAGES[stage]
    return {"version": version, "code": digest(*[bare((PACKAGE / file).read_text("utf-8")) for file in files])}


@pytest.mark.parametrize("stage", STAGES)
def test_the_code_of_a_stage_is_the_recorded_one(stage):
    assert json.loads(RECORD.read_text("utf-8"))[stage] == now(stage), __doc__


if __name__ == "__main__":
    RECORD.write_text(json.dumps({stage: now(stage) for stage in STAGES}, indent=1) + "\n", encoding="utf-8")
