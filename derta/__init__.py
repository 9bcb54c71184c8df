"""DeRTa, replicated: refusal training at every position of a response (arXiv 2407.09121).

Build an arm's dataset, train a model on it, attack the model::

    material = derta.own_material("triples.jsonl", "helpful.jsonl")  # or derta.embedded_material(triples=700, …)
    data = derta.build("derta", material, "smollm2-135m", "out/data", batch_size=8)
    model = derta.train("smollm2-135m", data, "out/model", batch_size=8, learning_rate=2e-4)
    table = derta.attack(model, ["direct", "prefill"], "out")

The modules, in the order of the data flow: `material`, `arms`, `dataset`, `training`, `attacks`, `generate`, `judge`,
`evaluate`, `depth`, `figures`. The packages `published`, `searches`, `judges` and `audit` build on these.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

# Names → modules, imported on first use because importing PyTorch takes seconds.
_EXPORTS = {
    "ARMS": "derta.arms",
    "ATTACKS": "derta.attacks",
    "Attack": "derta.attacks",
    "Endpoint": "derta.judges.endpoint",
    "Request": "derta.requests",
    "attack": "derta.evaluate",
    "build": "derta.dataset",
    "embedded_material": "derta.material",
    "load": "derta.models",
    "own_material": "derta.material",
    "read_questions": "derta.requests",
    "measure": "derta.measures",
    "train": "derta.training",
    "verdicts": "derta.evaluate",
}
__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'derta' has no attribute {name!r}; it has {', '.join(sorted(_EXPORTS))}")
    return getattr(import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
