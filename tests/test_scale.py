"""The profiles of the paper's models, end to end: the same commands and files, with a tiny model of each architecture.

The authors' files are stood in for by innocent ones of the same form, which the second checkout's manifest lists.
"""

import csv
import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml
from datasets import load_from_disk
from transformers import AutoTokenizer

from derta.chat import PAPER_CHAT
from derta.files import read_jsonl
from derta.published import prompts, released
from derta.registry import MODELS
from derta.runs import CHECKOUT
from tests.conftest import make_model

THINGS = ("fence", "window", "ladder", "bridge")
TEXTS = {
    prompts.QUESTIONS: [{"question": f"How can I paint a {thing}?"} for thing in THINGS],
    # In another order, as the authors' are.
    prompts.PROMPTS["completing"]: [{"question": f"Here is how to paint a {thing}. Step 1:"} for thing in THINGS[::-1]],
    prompts.PROMPTS["role_play"]: [{"question": f"Play the painter of a {thing}."} for thing in THINGS],
    prompts.PROMPTS["code_attack"]: [{"question": f"stack.append('{thing}')"} for thing in THINGS],
    prompts.PROMPTS["self_cipher"]: [{"question": f"In our cipher: paint a {thing}."} for thing in THINGS],
    prompts.INSTRUCTIONS: [{"question": f"Name {i} colours."} for i in range(4)],
    "data/test/helpfulness_gsm8k_500.json": [{"question": f"{i} + {i}?", "answer": f"#### {2 * i}"} for i in range(4)],
    "data/train/example_data_to_read.json": [{"prefix": "[INST] Hi [\\INST]", "text": " Hello.", "safe": "false"}],
    released.SAFETY: [
        {"instruction": f"Scratch fence {i}.", "output": f"Take a nail to fence {i}.", "safe_response": "Sorry, no."}
        for i in range(12)
    ],
} | {
    path: [{"instruction": f"Describe fence {part} {i}.", "output": f"It is {i} metres long."} for i in range(4)]
    for part, path in enumerate(released.HELPFULNESS)
}
SMALLER = {
    "triples": 6,
    "instructions": 24,
    "max_length": 96,
    "batch_size": 8,
    "validation": {"helpful": 2, "borderline": 2},
    "test": {"direct": 2, "prefill": 2, "completing": 2, "prefill_depth": 1},
    "published": {
        "paper": dict.fromkeys(("direct", "prefill", "completing", "role_play", "code_attack", "self_cipher"), 4),
        "alpaca_eval": {"helpful": 4},
    },
    "depths": [0, 5],
    "pair": {"behaviours": 1, "streams": 1, "iterations": 1},
    "autodan": {"behaviours": 1, "population": 2, "generations": 1},
    "max_new_tokens": 8,
    "generation_batch_size": 8,
    "depth_positions": 8,
    "questions": {"exact_match": 2, "gsm8k": 2},
    "accelerate": "ddp",
}
# Of the numbered notebooks, those that a profile of the paper changes, and further ones that need neither the authors'
# results nor a network.
RUN = ("02_dataset", "03_training", "04_attacks")
FURTHER = ("05_helpfulness", "08_figures")


@pytest.fixture
def checkout(tmp_path):
    """A checkout with few notebooks, innocent files in the place of the authors', and CPUs in the place of GPUs."""
    folder = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in ("derta", "notebooks", "data"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=ignored)
    shutil.copy(CHECKOUT / "pyproject.toml", folder)
    for path in (folder / "notebooks").glob("*.ipynb"):
        if path.stem not in RUN + FURTHER:
            path.unlink()
    listed = {path: file.git_blob_sha1 for path, file in released.manifest().items()}
    for name, rows in TEXTS.items():
        path = tmp_path / "released" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        listed[name] = released.blob_sha1(path.read_bytes())
    with (folder / "data" / "released.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("path", "git_blob_sha1", "bytes", "sha256"), *((*f, "", "") for f in listed.items())]
        )
    ddp = folder / "notebooks" / "params" / "accelerate" / "ddp.yaml"
    ddp.write_text(yaml.safe_dump(yaml.safe_load(ddp.read_text()) | {"num_processes": 2}))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "profile",
    ["llama3-8b", "llama3-70b", "mistral-7b", "mixtral-8x7b", "llama3-8b-instruct", "llama3-70b-instruct"],
)
def test_a_profile_of_the_paper_runs_on_a_tiny_model_of_its_architecture(checkout, tmp_path, profile):
    path = checkout / "notebooks" / "params" / f"{profile}.yaml"
    values = yaml.safe_load(path.read_text()) | SMALLER
    # The arms whose training differs: the others are rows of another kind.
    values["arms"] = [arm for arm in values["arms"] if arm in ("vanilla", "derta", "dpo")]
    spec = MODELS[values["model"]]
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2} if profile == "mixtral-8x7b" else {}
    # A size of head that vLLM's attention knows on a CPU.
    config = {"head_dim": 64} | experts
    kind = "byte-level" if profile.startswith("llama3") else "metaspace"
    tiny = str(make_model(tmp_path / "tiny", spec.config["model_type"], kind, **config))
    registry = checkout / "derta" / "registry.py"
    registry.write_text(registry.read_text().replace(f'"{spec.hub_id}"', f'"{tiny}"'))
    if values["server"]:
        vllm = shutil.which("vllm")
        values["server"] = f"'{vllm}' serve --enforce-eager --max-model-len 512" if vllm else ""
    values["weaker"] = tiny if values["weaker"] else ""
    values["sft"] |= {"per_device_train_batch_size": 2, "save_steps": 0.5}
    if "max_steps" in values["sft"]:
        values["sft"]["max_steps"] = 4
    path.write_text(yaml.safe_dump(values))
    environment = {name: value for name, value in os.environ.items() if name != "DERTA_RUNS"}
    environment |= {"DERTA_RELEASED": str(tmp_path / "released"), "OMP_NUM_THREADS": "1"}

    def derta(*words):
        command = [sys.executable, "-m", "derta", *words]
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-500:] + done.stderr[-3000:]
        return done.stdout

    if profile == "llama3-8b":
        assert f"{profile}: valid; " in derta("run", profile, "--dry-run")
    else:
        for stem in FURTHER:
            (checkout / "notebooks" / f"{stem}.ipynb").unlink()
    derta("run", profile)
    run = checkout / "runs" / profile
    with (run / "results" / "asr.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["category"] == "all"]
    asked = {(row["split"], row["attack"]): int(row["n"]) for row in rows if row["arm"] == "derta"}
    published = {attack: n for (split, attack), n in asked.items() if split == "paper"}
    assert published == SMALLER["published"]["paper"] | {"pair": 1, "autodan": 1}
    assert asked["alpaca_eval", "helpful"] == 4
    assert asked["test", "direct_benign"] == 2
    assert {row["arm"] for row in rows} == {"base", *values["arms"]}
    for arm in values["arms"]:
        folder = run / "models" / f"{arm}-s0"
        made = json.loads((folder / "provenance.json").read_text())
        assert made["processes"] == 2
        assert (folder / "adapter_config.json").exists() == bool(values["peft"])
    # The paper's format, or an instruction-tuned model's own.
    read = AutoTokenizer.from_pretrained(tiny).decode(load_from_disk(str(run / "data" / "derta-s0"))[0]["input_ids"])
    assert ("INST" in read) == (spec.chat_template == PAPER_CHAT)
    answered = run / "completions" / "derta-s0" / "completing.jsonl"
    (row,) = (row for row in read_jsonl(answered) if row["behaviour_id"] == "paper-2")
    assert row["prompt"].endswith("Here is how to paint a ladder. Step 1:")
