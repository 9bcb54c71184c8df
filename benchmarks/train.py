"""How fast a training step is, and in how much memory: ``python benchmarks/train.py``.

Three ways to tune SmolLM2-135M on rows of the arm ``derta`` as the profile ``small`` builds it, full fine-tuning with
float32 weights, AdamW, and bfloat16 products where the CPU has them:

- *this project*: the trainer of `derta.training`: only labelled positions go through the head, rows in the arm's order
  (sorted by length within a step), eager attention;
- *plain TRL SFT*: `SFTTrainer` on the same rows, with its own attention (SDPA) and random order. Its gradient
  checkpointing, which pays less memory with more time, is off, as in the others;
- *as published*: the objective of Eq. 2 (arXiv 2407.09121) as one would write it down: every row relabelled in Python
  when it comes up, padded batches in random order, and the logits of all positions in float32.

All have the same batch and micro-batch. They take turns, step by step (one of each to warm up, then a round after the
other), because a shared machine slows and quickens within minutes; a step holds forward and backward passes, collation,
clipping and the optimiser. Read the ratios first: of the medians, and of each variant's best step, which other load on
the machine disturbs least. Tokens are those of the rows, without padding.

Extra memory is what a process of its own held at its peak over two steps, beyond what it held before it loaded the
model, the weights and AdamW's two moments: gradients, activations, logits, and the code that libraries load late.

Two matrix products take turns with the steps as well: one of the size of a micro-batch's MLP, and a large square. A
step counts as 6 × weights outside the embedding × tokens + 6 × vocabulary × width × labelled positions operations; the
share is what they reach of the products' speed. For CPUs.

What was tried on two noisy cores: a hook before the head that lets only labelled positions through takes as long as the
same arithmetic in the place of TRL's head (1.86 against 1.89 s a step of 8 rows with 15 frozen layers), and the model's
`logits_to_keep` with every column that has a label 2.07 s; memory that stays with the process (`environment.sh`) gains
about 8 %, micro-batches of 16 instead of 8 about 5 %. bfloat16 weights with float32 master copies gained nothing, SDPA
was slower than eager attention, and `torch.compile` had not finished its warm-up after nine minutes.
"""

import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import psutil
import torch
from datasets import Dataset, load_from_disk
from torch.nn import functional
from transformers import PreTrainedModel
from trl import SFTConfig, SFTTrainer

from derta import arms, dataset, models, trainers
from derta.arms import Instance
from derta.commands.profiles import read_profile
from derta.encode import DatasetSettings, Encoder
from derta.material import embedded_material
from derta.objective import IGNORE
from derta.settings import configure

ROUNDS = 8
OURS, MLP, SQUARE = "this project's step", "a product of an MLP's size", "a square product of 2048"


@dataclass
class Material:
    """The same rows in the two forms that the variants take, and where a trainer may write."""

    rows: Dataset
    instances: list[Instance]
    refusal_id: int
    folder: Path


class Count(NamedTuple):
    """What a step trained on: tokens without padding, and labelled positions."""

    tokens: int
    labels: int


Step = Callable[[], Count]


def material(base: str, profile: dict[str, Any], steps: int, folder: Path) -> Material:
    """Rows for so many steps, drawn from the arm ``derta``."""
    names, seed = ("epochs", "rto_dropout", "max_length", "prefix_unit", "batch_size"), profile["seeds"][0]
    settings = DatasetSettings(**{name: profile[name] for name in names}, seed=seed)
    encode = Encoder(models.load_tokenizer(base), settings)
    numbers = {name: profile[name] for name in ("triples", "twins", "plain", "instructions", "close")}
    drawn = embedded_material(**numbers, seed=seed)
    made = random.Random(0).sample(arms.instances("derta", drawn, encode), steps * settings.batch_size)
    dataset.write(made, encode, folder / "derta")
    rows = load_from_disk(folder / "derta").with_format(None).select_columns(["input_ids", "labels", "kind"])
    instances = [make(arms.generator(settings, 0, name)) for name, make in made]
    return Material(rows, instances, encode.refusal_id, folder)


def accumulation(profile: dict[str, Any]) -> dict[str, int]:
    """The fields of a trainer that make a step of the profile's batch."""
    size = profile["sft"]["per_device_train_batch_size"]
    return {"per_device_train_batch_size": size, "gradient_accumulation_steps": profile["batch_size"] // size}


def ours(base: str, given: Material, profile: dict[str, Any]) -> tuple[PreTrainedModel, Step]:
    """This project's trainer."""
    settings = profile["sft"] | accumulation(profile)
    trainer = trainers.make(base, given.rows, *configure(False, settings, output_dir=str(given.folder / "ours")))
    return trainer.model, steps(trainer)


def plain(base: str, given: Material, profile: dict[str, Any]) -> tuple[PreTrainedModel, Step]:
    """Stock TRL."""
    args = SFTConfig(
        output_dir=str(given.folder / "plain"),
        **accumulation(profile),
        learning_rate=profile["sft"]["learning_rate"],
        bf16=bfloat16(),
        use_cpu=True,
        activation_checkpointing=False,
        max_length=None,
        report_to="none",
    )
    lm = models.load(base, dtype=torch.float32, device="cpu")
    trainer = SFTTrainer(model=lm.model, processing_class=lm.tokenizer, train_dataset=given.rows, args=args)
    return trainer.model, steps(trainer)


def steps(trainer: SFTTrainer) -> Step:
    """The trainer's own parts, in the order of its loop, one step at a time."""
    trainer.create_optimizer()
    model, optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    batches = iter(trainer.get_train_dataloader())

    def step() -> Count:
        micro_batches, labels = trainer.get_batch_samples(
            batches, trainer.args.gradient_accumulation_steps, trainer.args.device
        )
        trainer.current_gradient_accumulation_steps = len(micro_batches)
        tokens = sum(int(inputs["attention_mask"].sum()) for inputs in micro_batches)
        for inputs in micro_batches:
            trainer.training_step(model, inputs, labels)
        trainer.accelerator.clip_grad_norm_(model.parameters(), trainer.args.max_grad_norm)
        optimizer.step()
        model.zero_grad()
        return Count(tokens, int(labels))

    return step


def published(base: str, given: Material, profile: dict[str, Any]) -> tuple[PreTrainedModel, Step]:
    """The objective as one would write it down."""
    lm = models.load(base, dtype=torch.float32, device="cpu")
    model, rng = lm.model.train(), random.Random(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=profile["sft"]["learning_rate"], weight_decay=0.0, fused=True)
    queue = iter(rng.sample(given.instances, len(given.instances)))
    size, times = accumulation(profile).values()

    def step() -> Count:
        tokens = labels = 0
        for _ in range(times):
            rows = [relabel(next(queue), given.refusal_id, profile["rto_dropout"], rng) for _ in range(size)]
            width = max(len(ids) for ids, _ in rows)
            ids = torch.tensor([ids + [lm.tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in rows])
            mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in rows])
            asked = torch.tensor([asked + [IGNORE] * (width - len(asked)) for _, asked in rows])
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16()):
                logits = model(input_ids=ids, attention_mask=mask).logits.float()
            loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), asked[:, 1:].flatten(), ignore_index=IGNORE)
            (loss / times).backward()
            tokens, labels = tokens + int(mask.sum()), labels + int((asked[:, 1:] != IGNORE).sum())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return Count(tokens, labels)

    return model, step


def relabel(instance: Instance, refusal_id: int, dropout: float, rng: random.Random) -> tuple[list[int], list[int]]:
    """Token ids and labels of an instance, its refusal labels dropped anew."""
    ids = [*instance.prompt, *instance.given, *instance.target]
    labels = []
    for place, token in enumerate(ids):
        if place < len(ids) - len(instance.target):
            labels.append(IGNORE)
        elif instance.kind == "rto":
            labels.append(refusal_id if rng.random() >= dropout else IGNORE)
        else:
            labels.append(token)
    return ids, labels


VARIANTS = {"this project": ours, "plain TRL SFT": plain, "as published": published}


def bfloat16() -> bool:
    """Whether products are in bfloat16."""
    return models.inference_dtype() == torch.bfloat16


def build(variant: str, base: str, given: Material, profile: dict[str, Any]) -> tuple[PreTrainedModel, Step]:
    """A model and its step. What is left of float32 products is rounded as the variant sets it, only for itself."""
    torch.set_float32_matmul_precision("highest")
    model, step = VARIANTS[variant](base, given, profile)
    precision = torch.get_float32_matmul_precision()

    def rounded() -> Count:
        torch.set_float32_matmul_precision(precision)
        return step()

    return model, rounded


def extra_memory(variant: str, base: str, profile: dict[str, Any]) -> float:
    """MiB over the loaded model and its optimiser; to be run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        given = material(base, profile, 2, Path(folder))
        before = psutil.Process().memory_info().rss
        model, step = build(variant, base, given, profile)
        step()
        step()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        # Weights and the two moments.
        return (peak - before - 3 * sum(weight.nbytes for weight in model.parameters())) / 2**20


def operations(model: PreTrainedModel, count: Count) -> int:
    """Floating-point operations of a training step's matrix products, attention's own left out."""
    vocabulary, width = model.get_output_embeddings().weight.shape
    body = sum(weight.numel() for weight in model.base_model.parameters()) - vocabulary * width
    return 6 * body * count.tokens + 6 * vocabulary * width * count.labels


def product(rows: int, inner: int, columns: int, seconds: float = 0.2) -> float:
    """Operations per second of the matrix product [rows, inner] × [inner, columns]."""
    dtype = models.inference_dtype()
    a, b = torch.randn(rows, inner, dtype=dtype), torch.randn(inner, columns, dtype=dtype)
    a @ b
    start, times = time.perf_counter(), 0
    while not times or (passed := time.perf_counter() - start) < seconds:
        a @ b
        times += 1
    return 2 * rows * inner * columns * times / passed


def interleaved(base: str, profile: dict[str, Any], rounds: int, folder: Path) -> dict[str, list[float]]:
    """Each variant's tokens per second, round by round; and operations per second of this project's step (`OURS`) and
    of the matrix products."""
    given = material(base, profile, rounds + 1, folder)
    built = {variant: build(variant, base, given, profile) for variant in VARIANTS}
    model, _ = built["this project"]
    width, inner = model.config.hidden_size, model.config.intermediate_size
    products = {
        MLP: (profile["sft"]["per_device_train_batch_size"] * profile["max_length"], width, inner),
        SQUARE: (2048, 2048, 2048),
    }
    series: dict[str, list[float]] = {name: [] for name in (*VARIANTS, OURS, *products)}
    for turn in range(rounds + 1):
        for variant, (_, step) in built.items():
            start = time.perf_counter()
            count = step()
            seconds = time.perf_counter() - start
            if turn:
                series[variant].append(count.tokens / seconds)
            if turn and variant == "this project":
                series[OURS].append(operations(model, count) / seconds)
        for name, shape in products.items():
            series[name].append(product(*shape))
    return series


def main(base: str, profile: dict[str, Any], rounds: int) -> None:
    """Print the memory of each variant, speeds, ratios, and the share of the matrix products' speed."""
    # First, while this process is small: a child's peak begins with what its parent holds when it starts it.
    memory = {}
    for name in VARIANTS:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            memory[name] = process.submit(extra_memory, name, base, profile).result()
        share = memory["this project"] / memory[name]
        print(f"{name:>14}: {memory[name]:.0f} MiB over model and optimiser; this project takes {share:.0%} of it")
    with tempfile.TemporaryDirectory() as folder:
        series = interleaved(base, profile, rounds, Path(folder))
    middle = {name: statistics.median(values) for name, values in series.items()}
    best = {name: max(values) for name, values in series.items()}

    def ratio(one: str, other: str) -> str:
        return f"{middle[one] / middle[other]:.2f} by the medians, {best[one] / best[other]:.2f} by the best"

    precision = str(models.inference_dtype()).removeprefix("torch.")
    size, times = accumulation(profile).values()
    print(f"{base}, batch {size * times} in micro-batches of {size}, {precision}")
    print(f"{rounds} rounds, {torch.get_num_threads()} threads")
    for name in VARIANTS:
        print(f"{name:>14}: median {middle[name]:.0f}, best {best[name]:.0f} tokens/s")
    for name in (OURS, MLP, SQUARE):
        print(f"{name}: median {middle[name] / 1e9:.0f}, best {best[name] / 1e9:.0f} GFLOP/s")
    for name in list(VARIANTS)[1:]:
        print(f"this project / {name}: {ratio('this project', name)}")
    for name in (MLP, SQUARE):
        print(f"{OURS} / {name}: {ratio(OURS, name)}")


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    datasets.disable_progress_bars()
    small = read_profile("small")
    main(small["model"], small, ROUNDS)
