"""TRL's trainers with what this project adds: the terms of Eq. 2 apart in the log, pairs that come as token ids, and a
loss that is quick on a CPU. The objective itself is in the labels."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch.nn import functional
from trl import DPOTrainer, SFTTrainer

from derta.objective import IGNORE

# What `Terms` sums over labelled positions.
SUMS = ("mle_loss", "mle_tokens", "rto_loss", "rto_tokens", "refusal_probability")


class Terms(SFTTrainer):
    """`SFTTrainer` whose log carries the two terms of Eq. 2 (arXiv 2407.09121, Section 3) apart.

    Per logging step, over all processes: `mle_loss` and `rto_loss`, means in nats per label; `mle_tokens` and
    `rto_tokens`, how many labels; `refusal_probability`, the mean P(refusal token) where RTO asks for it. A term
    without labels in a step has no mean there. Rows that ask for the refusal token alone are RTO's.

    Args:
        refusal_id: id of the refusal token.
    """

    def __init__(self, *args, refusal_id: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.refusal_id = refusal_id
        self._sums = torch.zeros(len(SUMS), dtype=torch.float64, device=self.args.device)
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        base.register_forward_hook(self._add, with_kwargs=True)

    @torch.no_grad()
    def _add(self, model, args, inputs, outputs) -> None:
        """Add one forward pass, of which TRL's fused head gives the log-probability of each label."""
        labels, log_probs = inputs["labels"][:, 1:], outputs.log_probs.double()
        asked = labels != IGNORE
        rto = asked & (~asked | (labels == self.refusal_id)).all(1, keepdim=True)
        mle = asked & ~rto
        sums = (-log_probs[mle].sum(), mle.sum(), -log_probs[rto].sum(), rto.sum(), log_probs[rto].exp().sum())
        self._sums += torch.stack([x.double() for x in sums])

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        sums = dict(zip(SUMS, self.accelerator.reduce(self._sums, "sum").tolist(), strict=True))
        self._sums.zero_()
        for term, of in (("mle_loss", "mle_tokens"), ("rto_loss", "rto_tokens"), ("refusal_probability", "rto_tokens")):
            if sums[of]:
                logs[term], logs[of] = sums[term] / sums[of], int(sums[of])
        if self.args.use_cpu:
            self._metrics["train"].pop("entropy", None)  # `WholeTile` leaves it out
        super().log(logs, start_time)


class Pairs(DPOTrainer):
    """`DPOTrainer` on rows that are token ids already: `prompt_ids`, `chosen_ids`, `rejected_ids`."""

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset


class WholeTile:
    """Log-probabilities of labels from one matrix product and its automatic gradient.

    In the place of the head that TRL fuses for GPUs: without Triton, TRL projects every position, folds the vocabulary
    in tiles by a dozen passes each and multiplies their gradients in float32. Where the labelled positions of a
    micro-batch fit into memory as one tile, this is the same loss in about three quarters of a training step's time
    (`benchmarks/train.py`). The entropy, which TRL only logs, is left out.
    """

    @staticmethod
    def apply(hidden, weight, bias, targets, temperature, chunk_size, softcap, logit_scale, outputs):
        """As `trl.kernels.ChunkedLogProbFunction.apply`: [N, H] hidden states and [N] targets give five [N] tensors."""
        logits = functional.linear(hidden, weight, bias).float()
        if logit_scale != 1.0:
            logits = logits * logit_scale
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        if temperature != 1.0:
            logits = logits / temperature
        log_probs = -functional.cross_entropy(logits, targets, reduction="none")
        with torch.no_grad():
            unknown = torch.full_like(log_probs, torch.nan)
            mean = logits.mean(-1) if "mean_logits" in outputs else None
            return log_probs, unknown, None, mean, logits.argmax(-1) == targets


@contextmanager
def labelled_positions_alone() -> Iterator[None]:
    """Within it, TRL's fused head projects the labelled positions alone, by `WholeTile`: for devices without Triton."""
    with (
        mock.patch("trl.trainer.utils._use_triton", return_value=True),
        mock.patch("trl.trainer.utils._ChunkedLogProbFunction", WholeTile),
    ):
        yield
