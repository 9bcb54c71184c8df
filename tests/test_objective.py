"""The labels on disk are Eq. 1 and Eq. 2."""

import math

import pytest
import torch
from datasets import Dataset, load_from_disk
from trl import SFTConfig, SFTTrainer

from derta import objective

PROMPT, HARMFUL, SAFE, SORRY = [5, 6, 7], [11, 12, 13, 14, 15], [40, 41, 42], 40


def naive_log_probability(model, context: list[int], token: int) -> float:
    """log P(token | context) by a forward pass of its own."""
    with torch.no_grad():
        return model(torch.tensor([context])).logits[0, -1].log_softmax(-1)[token].item()


def test_the_dataset_on_disk_gives_exactly_the_loss_of_equation_2(tiny, tmp_path):
    k = 2
    naive = [naive_log_probability(tiny.model, PROMPT + HARMFUL[:k] + SAFE[:t], SAFE[t]) for t in range(len(SAFE))]
    naive += [naive_log_probability(tiny.model, PROMPT + HARMFUL[:t], SORRY) for t in range(len(HARMFUL))]

    rows = [objective.harmful_prefix(PROMPT, HARMFUL, SAFE, k), objective.rto(PROMPT, HARMFUL, [SORRY] * 5, [True] * 5)]
    Dataset.from_list(rows).save_to_disk(tmp_path / "data")
    trainer = SFTTrainer(
        model=tiny.model,
        processing_class=tiny.tokenizer,
        train_dataset=load_from_disk(tmp_path / "data"),
        args=SFTConfig(
            output_dir=str(tmp_path), per_device_train_batch_size=2, use_cpu=True, bf16=False, report_to="none"
        ),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model.eval(), batch, num_items_in_batch=torch.tensor(1)).item()
    assert loss == pytest.approx(-math.fsum(naive), rel=1e-5)


def test_equation_1_scores_the_response_alone():
    assert objective.supervised([1, 2], [3, 4]) == {"input_ids": [1, 2, 3, 4], "labels": [-100, -100, 3, 4]}


@pytest.mark.parametrize("k", [0, 3, 5])
def test_the_prefix_is_never_a_label(k):
    row = objective.harmful_prefix(PROMPT, HARMFUL, SAFE, k)
    assert row["input_ids"] == PROMPT + HARMFUL[:k] + SAFE
    assert row["labels"] == [-100] * (3 + k) + SAFE


def test_rto_starts_at_the_first_response_position_and_honours_dropped_labels():
    row = objective.rto(PROMPT, HARMFUL, [SORRY] * 5, [True, False, False, True, False])
    assert row["labels"] == [-100, -100, -100, SORRY, -100, -100, SORRY, -100]


def test_rto_may_ask_for_another_refusal_word_at_each_position():
    row = objective.rto(PROMPT, HARMFUL, [SORRY, 41, SORRY, 42, 41], [True, True, False, True, True])
    assert row["labels"] == [-100, -100, -100, SORRY, 41, -100, 42, 41]
    with pytest.raises(ValueError, match="5 harmful tokens"):
        objective.rto(PROMPT, HARMFUL, [SORRY] * 4, [True] * 5)


@pytest.mark.parametrize("k", [-1, 6])
def test_a_prefix_longer_than_the_response_is_an_error(k):
    with pytest.raises(ValueError, match=f"k is {k}"):
        objective.harmful_prefix(PROMPT, HARMFUL, SAFE, k)


@pytest.mark.parametrize("keep", [[False] * 5, [True] * 4])
def test_rto_needs_a_flag_per_token_and_one_label(keep):
    with pytest.raises(ValueError, match="5 harmful tokens"):
        objective.rto(PROMPT, HARMFUL, [SORRY] * 5, keep)
