"""Record what `derta plan` predicts: ``python benchmarks/plan.py`` writes ``benchmarks/plan.csv``.

Small models are trained for a few steps, each in a process of its own, on random rows of one length, on a CPU with
eager attention. Memory is the most that the process held beyond what it held before it loaded the model; time is the
median step's. `tests/test_plan.py` compares the plan with the recorded runs. Five minutes on two cores, of which
nothing else should take any.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

STEPS = 6
LLAMA = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12, "num_attention_heads": 16}
LLAMA |= {"num_key_value_heads": 4, "vocab_size": 32_000, "model_type": "llama"}
LORA = {"use_peft": True, "lora_r": 16, "lora_target_modules": "all-linear"}
# Name → model (empty: SmolLM2-135M), rows of a step, tokens of a row, frozen layers, and settings.
SETTINGS: dict[str, tuple[dict[str, Any], int, int, int, dict[str, Any]]] = {
    "135M, full": ({}, 8, 96, 0, {}),
    "135M, full, long rows": ({}, 4, 384, 0, {}),
    "135M, full, recomputed": ({}, 8, 256, 0, {"activation_checkpointing": True}),
    "135M, upper half": ({}, 8, 96, 15, {}),
    "135M, LoRA": ({}, 8, 96, 0, LORA),
    "200M, full": (LLAMA, 4, 128, 0, {}),
    "200M, full, long rows": (LLAMA, 4, 384, 0, {}),
}


def measure(name: str) -> dict[str, Any]:
    """Train one of `SETTINGS` in this process, and return its memory in MiB and its seconds a step."""
    import psutil
    import torch
    from datasets import Dataset
    from transformers import AutoConfig, AutoModelForCausalLM, TrainerCallback

    from derta import models, settings, trainers

    torch.manual_seed(0)
    shape, rows, length, frozen, changes = SETTINGS[name]
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as scratch:
        base = models.resolve("smollm2-135m")
        if shape:
            made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape), dtype=torch.bfloat16)
            made.save_pretrained(scratch + "/base")
            models.load_tokenizer("smollm2-135m").tokenizer.save_pretrained(scratch + "/base")
            base = scratch + "/base"
            del made
        ids = [[rng.randrange(1000, 30_000) for _ in range(length)] for _ in range(rows * STEPS)]
        data = Dataset.from_dict({"input_ids": ids, "labels": ids, "kind": ["helpful"] * len(ids)})
        given = {
            "per_device_train_batch_size": rows,
            "activation_checkpointing": False,
            "save_strategy": "no",
        } | changes
        args, config = settings.configure(False, given, output_dir=scratch + "/out", gradient_accumulation_steps=1)
        before = psutil.Process().memory_info().rss
        trainer, times = trainers.make(base, data, args, config, frozen), [time.perf_counter()]

        class Clock(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                times.append(time.perf_counter())

        trainer.add_callback(Clock())
        trainer.train()
        with open("/proc/self/status", encoding="ascii") as file:
            peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) << 10
    steps = [later - earlier for earlier, later in pairwise(times[1:])]
    return {"memory_mib": round((peak - before) / 2**20), "seconds": round(statistics.median(steps), 3)}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        sys.exit()
    from derta.files import write_csv
    from derta.runs import provenance

    found = []
    for name, (shape, rows, length, frozen, changes) in SETTINGS.items():
        # Freed memory goes back to the system, so that the most that was held is what was needed.
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "THP_"))}
        environment |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        command = [sys.executable, __file__, name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        about = {"name": name, "model": json.dumps(shape) if shape else "", "rows": rows, "length": length}
        about |= {"frozen_layers": frozen, "settings": json.dumps(changes)}
        found.append(about | json.loads(done.stdout.splitlines()[-1]))
        print(found[-1], flush=True)
    path = Path(__file__).with_suffix(".csv")
    write_csv(path, found)
    path.with_suffix(".json").write_text(json.dumps(provenance(), indent=1) + "\n", encoding="utf-8")
