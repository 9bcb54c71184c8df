"""TRL's trainers with this project's additions: the two terms of Eq. 2 in the log, a loss that is faster on a CPU,
pairs given as token ids, unrounded log-probabilities under FSDP2, frozen layers, and LoRA on experts. The objective is
in the labels."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_from_disk
from peft import LoraConfig, PeftModel
from torch import nn
from torch.nn import functional
from tqdm import tqdm
from transformers import PreTrainedModel, Trainer
from trl import DPOConfig, DPOTrainer, ModelConfig, SFTConfig, SFTTrainer, get_peft_config
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from derta import models
from derta.objective import IGNORE

# The sums that `Terms` keeps over labelled positions.
SUMS = ("mle_loss", "mle_tokens", "rto_loss", "rto_tokens", "refusal_probability")

# The values of the column `kind`, and whether such a row belongs to the second term of Eq. 2 (RTO).
KINDS = {"helpful": False, "safety": False, "prefix": False, "mle": False, "rto": True}

# The names under which `texts` keeps the columns that `DPOTrainer` would overwrite.
KEPT = {name: f"given_{name}" for name in ("prompt_ids", "chosen_ids", "rejected_ids")}


class Unrounded(Trainer):
    """What a trainer is mixed with so that its model returns log-probabilities and losses as they were computed.

    Accelerate has FSDP2 round all that a module returns to bfloat16. The log-probability of a response of hundreds of
    tokens then has steps of one or two nats, as much as the differences that DPO learns from.
    """

    def create_accelerator_and_postprocess(self) -> None:
        """Create the accelerator like `transformers.Trainer`; no model has been sharded yet."""
        super().create_accelerator_and_postprocess()
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin and plugin.fsdp_version == 2 and plugin.mixed_precision_policy:
            plugin.mixed_precision_policy = replace(plugin.mixed_precision_policy, output_dtype=None)


class Terms(Unrounded, SFTTrainer):
    """`SFTTrainer` that logs the two terms of Eq. 2 (arXiv 2407.09121, Section 3) separately.

    Per logging step, over all processes: `mle_loss` and `rto_loss`, means in nats per label; `mle_tokens` and
    `rto_tokens`, the numbers of labels; `refusal_probability`, the mean P(refusal token) at the positions with an RTO
    label. A term without labels in a step is not logged for it. The batches come from `RowCollator`.

    On a GPU the loss is TRL's. On a CPU, TRL's fused head projects every position and multiplies in float32; here only
    the hidden states of labelled positions go through the model's own head, which gives the same loss faster
    (`benchmarks/train.py`). TRL's loss is used if one of its options needs more than the log-probabilities at these
    positions.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.sums = torch.zeros(len(SUMS), dtype=torch.float64, device=self.args.device)
        more = self.args.loss_type != "nll" or self.args.label_smoothing_factor or self.aux_loss_enabled
        self.quick = self.args.use_cpu and not more
        if not self.quick:
            self.model.register_forward_hook(lambda model, args, outputs: self.read(outputs))

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Compute the loss like `SFTTrainer.compute_loss`, for a batch of `RowCollator`."""
        inputs = dict(inputs)
        self.rto = inputs.pop("rto")
        if not self.quick:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        # The hidden state at a position predicts the label of the next one.
        labels = functional.pad(inputs.pop("labels")[:, 1:], (0, 1), value=IGNORE)
        asked = labels != IGNORE
        head = self.model.get_output_embeddings()
        with head.register_forward_pre_hook(lambda head, hidden: hidden[0][asked]):
            outputs = model(**inputs, use_cache=False)
        log_probs = -functional.cross_entropy(outputs.logits.float(), labels[asked], reduction="none")
        mle, rto = self.add(log_probs, asked)
        count = len(log_probs) if num_items_in_batch is None else num_items_in_batch
        loss = (mle + rto) / torch.as_tensor(count).clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            # `num_items_in_batch` counts the labels of all processes, but the gradients are averaged over the
            # processes.
            loss = loss * (self.accelerator.num_processes // self.get_tp_size())
        return (loss, outputs) if return_outputs else loss

    def read(self, outputs: Any) -> None:
        """Add the terms of a forward pass through TRL's fused head to the sums of the log."""
        if getattr(outputs, "log_probs", None) is not None:
            self.add(outputs.log_probs.detach()[outputs.label_mask], outputs.label_mask)

    def add(self, log_probs: torch.Tensor, asked: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add the terms of one forward pass to the sums of the log.

        Args:
            log_probs: log-probabilities of the labels in nats, [N].
            asked: mask of the positions that have these labels, [rows, positions], N of them true.

        Returns:
            The MLE and the RTO term of Eq. 2, each summed over its labels, in nats.
        """
        of_rto = self.rto[:, None].expand_as(asked)[asked]
        with torch.no_grad():
            exact = log_probs.double()
            sums = (
                -exact[~of_rto].sum(),
                (~of_rto).sum(),
                -exact[of_rto].sum(),
                of_rto.sum(),
                exact[of_rto].exp().sum(),
            )
            self.sums += torch.stack([x.double() for x in sums])
        return -log_probs[~of_rto].sum(), -log_probs[of_rto].sum()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log like `SFTTrainer.log`, together with the terms since the last call."""
        sums = dict(zip(SUMS, self.accelerator.reduce(self.sums, "sum").tolist(), strict=True))
        self.sums.zero_()
        for term, of in (("mle_loss", "mle_tokens"), ("rto_loss", "rto_tokens"), ("refusal_probability", "rto_tokens")):
            if sums[of]:
                logs[term], logs[of] = sums[term] / sums[of], int(sums[of])
        super().log(logs, start_time)


class Pairs(Unrounded, DPOTrainer):
    """`DPOTrainer`, unrounded."""


class RowCollator(DataCollatorForLanguageModeling):
    """TRL's collator of `input_ids` and `labels`, with a tensor `rto` that marks the rows of the RTO term of Eq. 2."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad `examples` to a batch: `input_ids` and `labels` have the shape [rows, positions], `rto` has [rows]."""
        return super().torch_call(examples) | {"rto": torch.tensor([KINDS[row["kind"]] for row in examples])}


def texts(pairs: Dataset) -> Dataset:
    """Convert `pairs` to the form that `DPOTrainer` takes.

    The trainer always tokenizes texts, so it gets empty ones. `PairCollator` then gives the model the ids of `pairs`,
    which are kept under names that the trainer does not know.
    """
    rows = pairs.select_columns(list(KEPT)).rename_columns(KEPT)
    for name in ("prompt", "chosen", "rejected"):
        rows = rows.add_column(name, [""] * len(rows))
    return rows


class PairCollator(DataCollatorForPreference):
    """TRL's collator of pairs, for rows of `texts`."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad `examples` to a batch: first the chosen responses, then the rejected ones, [2 · rows, positions]."""
        return super().torch_call([row | {name: row[kept] for name, kept in KEPT.items()} for row in examples])


def make(
    base: str, rows: Dataset, args: SFTConfig | DPOConfig, model: ModelConfig, frozen_layers: int = 0
) -> Terms | Pairs:
    """Make a trainer of `base`, ready to start.

    Args:
        rows: `input_ids`, `labels` and `kind` or, with a `DPOConfig`, `prompt_ids`, `chosen_ids` and `rejected_ids`.
        args: the first part of `derta.settings.configure`; `model` is the second.
        frozen_layers: see `derta.training.train`.

    Raises:
        ValueError: the refusal word is not one token, frozen layers leave no layer to train or are combined with LoRA,
            LoRA's targets match nothing, or `base` is an adapter of another rank.
    """
    if args.bf16 and args.use_cpu:
        # The float32 products that remain on a CPU multiply values that were already rounded to bfloat16.
        torch.set_float32_matmul_precision("medium")
    lm = models.load(
        base,
        dtype=model.dtype if model.dtype == "auto" else getattr(torch, model.dtype),
        attention=model.attn_implementation,
        device="cpu",
        trainable=True,
    )
    if frozen_layers:
        freeze(lm.model, frozen_layers, model.use_peft)
    if isinstance(lm.model, PeftModel) and (rank := lm.model.peft_config["default"].r) != model.use_peft * model.lora_r:
        raise ValueError(
            f"{base}: an adapter of rank {rank} is trained further as such; set use_peft to true and lora_r to {rank}"
        )
    shared = {"model": lm.model, "processing_class": lm.tokenizer, "args": args}
    if model.use_peft and not isinstance(lm.model, PeftModel):
        shared["peft_config"] = lora(lm.model, model)
    padding = {"pad_token_id": lm.tokenizer.pad_token_id, "pad_to_multiple_of": args.pad_to_multiple_of}
    if not isinstance(args, DPOConfig):
        lm.refusal_id()
        return Terms(**shared, data_collator=RowCollator(**padding), train_dataset=rows)
    # TRL keeps a cache next to these rows. They are stored with the checkpoints, so that each run has its own.
    folder = Path(args.output_dir) / "pairs"
    with args.main_process_first(local=False):
        if not folder.is_dir():
            part = folder.with_name("pairs.part")
            shutil.rmtree(part, ignore_errors=True)
            texts(rows).save_to_disk(part)
            part.rename(folder)
    return Pairs(**shared, data_collator=PairCollator(**padding), train_dataset=load_from_disk(folder))


def freeze(model: PreTrainedModel, number: int, use_peft: bool) -> None:
    """Freeze the input embeddings (and an output layer that shares them) and the `number` decoder layers above them.

    Learned embeddings of positions (OPT, GPT-2) are input embeddings too.

    Raises:
        ValueError: no layer is left to train, LoRA is used too, or the architecture is not known.
    """
    if use_peft:
        raise ValueError("frozen_layers is for full fine-tuning; LoRA freezes all layers: leave one of the two out")
    decoder = model.get_decoder()
    parts, depth = list(decoder.children()), decoder.config.num_hidden_layers
    lists = [part for part in parts if isinstance(part, nn.ModuleList) and len(part) == depth]
    if len(lists) != 1:
        raise ValueError(f"frozen_layers: it is not known where {type(model).__name__} has its layers; set it to 0")
    (layers,) = lists
    if number >= len(layers):
        raise ValueError(f"frozen_layers is {number}, but the model has {len(layers)}")
    embeddings = [part for part in parts if isinstance(part, nn.Embedding)]
    for module in (model.get_input_embeddings(), *embeddings, *layers[:number]):
        module.requires_grad_(False)


def lora(model: PreTrainedModel, config: ModelConfig) -> LoraConfig:
    """Make TRL's LoRA configuration, check its targets and add the experts to ``all-linear``.

    Experts that transformers stores as one three-dimensional parameter per projection (Mixtral) are adapted as such.
    PEFT has no dropout for these, so a model with such experts is adapted without dropout.

    Raises:
        ValueError: a name in `config.lora_target_modules` matches no linear module.
    """
    made, targets = get_peft_config(config), config.lora_target_modules
    if targets == "all-linear" and not config.lora_target_parameters:
        parameters = model.named_parameters()
        made.target_parameters = sorted({n for n, weight in parameters if weight.dim() == 3 and "expert" in n}) or None
    elif targets:
        names = [targets] if isinstance(targets, str) else targets
        modules = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
        if missing := [name for name in names if not any(f".{m}".endswith(f".{name}") for m in modules)]:
            raise ValueError(
                f"LoRA's target {', '.join(missing)} matches no linear module of {type(model).__name__}; it has "
                f"{', '.join(sorted({name.rpartition('.')[2] for name in modules}))}"
            )
    if made.target_parameters and made.lora_dropout:
        tqdm.write("LoRA on experts that are one parameter: without dropout", file=sys.stderr)
        made.lora_dropout = 0.0
    return made
