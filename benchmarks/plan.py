"""Record what `derta plan` predicts: ``python benchmarks/plan.py`` writes ``benchmarks/plan.csv``; on a machine with a
GPU, ``benchmarks/plan_gpu.csv``.

Models are trained for a few steps, each in a process of its own, on random rows of one length. Those of a shape of
their own have random weights. On a CPU, memory is the most that the process held beyond what it held before it loaded
the model; on a GPU, it is the most that its tensors took, and, beside it, what the allocator reserved for them. Time is
the median step's. `tests/test_plan.py` compares the plan with the recorded runs. Five minutes on two cores, or three on
a GPU of 80 GB, of which nothing else should take any.
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
from typing import Any, NamedTuple

STEPS = 6
# Shapes of Llama.
_200M = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 12, "num_attention_heads": 16}
_200M |= {"num_key_value_heads": 4, "vocab_size": 32_000, "model_type": "llama"}
_1B = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
_1B |= {"num_key_value_heads": 8, "vocab_size": 128_256, "tie_word_embeddings": True, "model_type": "llama"}
_3B = _1B | {"hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24}
_8B = _1B | {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "tie_word_embeddings": False}
LORA = {"use_peft": True, "lora_r": 16, "lora_target_modules": "all-linear"}
KEPT, RECOMPUTED = {"activation_checkpointing": False}, {"activation_checkpointing": True}


class Setting(NamedTuple):
    """What is measured.

    Attributes:
        model: a configuration; SmolLM2-135M if it is empty.
        rows, length: rows of a step, and tokens of each.
        settings: fields of TRL's configurations.
        accelerate: a file of ``notebooks/params/accelerate``, with which one process is launched.
    """

    model: dict[str, Any]
    rows: int
    length: int
    frozen_layers: int = 0
    settings: dict[str, Any] = KEPT
    accelerate: str = ""


CPU = {
    "135M, full": Setting({}, 8, 96),
    "135M, full, long rows": Setting({}, 4, 384),
    "135M, full, recomputed": Setting({}, 8, 256, settings=RECOMPUTED),
    "135M, upper half": Setting({}, 8, 96, 15),
    "135M, LoRA": Setting({}, 8, 96, settings=KEPT | LORA),
    "200M, full": Setting(_200M, 4, 128),
    "200M, full, long rows": Setting(_200M, 4, 384),
}
GPU = {
    "135M, full": Setting({}, 16, 512),
    "1B, full": Setting(_1B, 4, 1024),
    "1B, full, recomputed": Setting(_1B, 8, 1024, settings=RECOMPUTED),
    "1B, full, FSDP2": Setting(_1B, 8, 1024, settings=RECOMPUTED, accelerate="fsdp2"),
    "3B, full, recomputed": Setting(_3B, 4, 1024, settings=RECOMPUTED),
    "8B, LoRA, recomputed": Setting(_8B, 4, 1024, settings=RECOMPUTED | LORA | {"lora_r": 96}),
}


def measure(setting: Setting) -> dict[str, Any]:
    """Train a model in this process, and return its memory and, on a GPU, what was reserved, in MiB, and its seconds a
    step."""
    import psutil
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from derta import hub, models

    torch.manual_seed(0)
    gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as scratch:
        base = hub.resolve("smollm2-135m")
        if setting.model:
            with torch.device("cuda" if gpu else "cpu"):
                made = AutoModelForCausalLM.from_config(AutoConfig.for_model(**setting.model), dtype=torch.bfloat16)
            made.save_pretrained(scratch + "/base")
            models.load_tokenizer("smollm2-135m").tokenizer.save_pretrained(scratch + "/base")
            base = scratch + "/base"
            del made
        before = psutil.Process().memory_info().rss
        if gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        seconds = train(setting, base, scratch)
    if gpu:
        most = (torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())
        memory, reserved = (round(number / 2**20) for number in most)
        return {"memory_mib": memory, "reserved_mib": reserved, "seconds": seconds}
    with open("/proc/self/status", encoding="ascii") as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) << 10
    return {"memory_mib": round((peak - before) / 2**20), "seconds": seconds}


def train(setting: Setting, base: str, scratch: str) -> float:
    """Train for `STEPS` steps, and return the median step's seconds."""
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback

    from derta import settings, trainers

    rng = random.Random(0)
    ids = [[rng.randrange(1000, 30_000) for _ in range(setting.length)] for _ in range(setting.rows * STEPS)]
    data = Dataset.from_dict({"input_ids": ids, "labels": ids, "kind": ["helpful"] * len(ids)})
    given = {"per_device_train_batch_size": setting.rows, "save_strategy": "no"} | setting.settings
    args, config = settings.configure(False, given, output_dir=scratch + "/out", gradient_accumulation_steps=1)
    trainer, times = trainers.make(base, data, args, config, setting.frozen_layers), [time.perf_counter()]

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter())

    trainer.add_callback(Clock())
    trainer.train()
    steps = [later - earlier for earlier, later in pairwise(times[1:])]
    return round(statistics.median(steps), 3)


def run(name: str, setting: Setting) -> dict[str, Any]:
    """Measure a setting in a process of its own."""
    # Freed memory goes back to the system, so that the most that was held is what was needed.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "THP_"))}
    environment |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, name]
    if setting.accelerate:
        launcher = Path(__file__).parents[1] / "notebooks" / "params" / "accelerate" / f"{setting.accelerate}.yaml"
        launch = ["-m", "accelerate.commands.launch", "--config_file", str(launcher), "--num_processes", "1"]
        command[1:1] = launch
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    import torch

    chosen = GPU if torch.cuda.is_available() else CPU
    if len(sys.argv) > 1:
        print(json.dumps(measure(chosen[sys.argv[1]])))
        sys.exit()
    from derta.files import write_csv
    from derta.runs import provenance

    found = []
    for name, setting in chosen.items():
        about = {"name": name, **setting._asdict()}
        about |= {key: json.dumps(about[key]) if about[key] else "" for key in ("model", "settings")}
        found.append(about | run(name, setting))
        print(found[-1], flush=True)
    path = Path(__file__).with_name("plan_gpu.csv" if chosen is GPU else "plan.csv")
    write_csv(path, found)
    path.with_suffix(".json").write_text(json.dumps(provenance(), indent=1) + "\n", encoding="utf-8")
