"""The loss of training: both terms of Eq. 2, by the rows' kinds, equal to TRL's own."""

import math

import pytest
import torch
from conftest import make_model
from datasets import Dataset
from trl import SFTTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from tuning import LORA, SETTINGS, ids, log, write_pairs

from derta import models, trainers, training
from derta.settings import configure


def mixed(sorry: int) -> list[dict]:
    """Rows of both terms, of several lengths and with several numbers of labels."""
    rows = []
    for i, row in enumerate(ids(8, 14)):
        row = row[: 8 + i % 5]
        labels = [-100] * 4 + [sorry, -100, *[sorry] * (len(row) - 6)] if i % 2 else [-100] * 5 + row[5:]
        rows.append({"input_ids": row, "labels": labels, "kind": "rto" if i % 2 else "prefix"})
    return rows


def test_the_log_carries_both_terms_of_equation_2(tiny_folder, tmp_path):
    """Against the logits of the untrained model, at the first step."""
    lm = models.load(str(tiny_folder), dtype=torch.float32, attention="eager")
    sorry = lm.refusal_id()
    harmful, safe = ids(2, 8)
    rows = [
        {"input_ids": harmful, "labels": [-100] * 4 + [sorry, -100, sorry, sorry], "kind": "rto"},
        {"input_ids": [*safe[:4], sorry, *safe[5:]], "labels": [-100] * 4 + [sorry, *safe[5:]], "kind": "safety"},
    ]
    Dataset.from_list(rows).save_to_disk(tmp_path / "rows")
    settings = SETTINGS | {"batch_size": 2}
    row = log(training.train(str(tiny_folder), tmp_path / "rows", tmp_path / "model", **settings)).iloc[0]

    with torch.no_grad():
        p = lm.model(torch.tensor([r["input_ids"] for r in rows])).logits.log_softmax(-1)
    rto = [p[0, t - 1, sorry].item() for t in (4, 6, 7)]
    mle = [p[1, t - 1, rows[1]["labels"][t]].item() for t in range(4, 8)]
    assert (row.rto_tokens, row.mle_tokens) == (3, 4)
    assert row.rto_loss == pytest.approx(-sum(rto) / 3, rel=1e-2)
    assert row.mle_loss == pytest.approx(-sum(mle) / 4, rel=1e-2)
    assert row.refusal_probability == pytest.approx(sum(map(math.exp, rto)) / 3, rel=5e-2)
    assert row.loss == pytest.approx(-(sum(rto) + sum(mle)) / 7, rel=1e-2)


def test_the_kind_of_a_row_decides_its_term_whatever_its_labels_are(tiny_folder, tmp_path):
    sorry = models.load_tokenizer(str(tiny_folder)).refusal_id()
    refusals = [{"input_ids": row, "labels": [-100] * 6 + [sorry] * 2, "kind": "mle"} for row in ids(4, 8)]
    others = [{"input_ids": row, "labels": [-100] * 5 + row[5:], "kind": "rto"} for row in ids(4, 8)]
    Dataset.from_list(refusals).save_to_disk(tmp_path / "mle")
    Dataset.from_list(others).save_to_disk(tmp_path / "rto")
    mle = log(training.train(str(tiny_folder), tmp_path / "mle", tmp_path / "a", **SETTINGS))
    rto = log(training.train(str(tiny_folder), tmp_path / "rto", tmp_path / "b", **SETTINGS))
    assert mle.mle_tokens.tolist() == [8]
    assert rto.rto_tokens.tolist() == [12]
    assert "rto_tokens" not in mle
    assert "mle_tokens" not in rto


@pytest.mark.parametrize("settings", [SETTINGS, LORA], ids=["full", "lora"])
@pytest.mark.parametrize(
    ("architecture", "config"),
    [("llama", {}), ("gemma2", {"head_dim": 8, "final_logit_softcapping": 2.0}), ("mixtral", {"num_local_experts": 4})],
)
def test_the_loss_on_a_cpu_is_that_of_trl_and_so_are_its_gradients(architecture, config, settings, tmp_path):
    torch.set_float32_matmul_precision("highest")
    base = make_model(tmp_path / architecture, architecture, **config)
    rows = Dataset.from_list(mixed(models.load_tokenizer(str(base)).refusal_id()))
    given = {name: value for name, value in settings.items() if name != "batch_size"}
    given |= {"bf16": False, "dtype": "float32"} | ({"lora_dropout": 0.0} if settings is LORA else {})
    args, model = configure(False, given, output_dir=str(tmp_path / "out"))
    trainer = trainers.make(str(base), rows, args, model)
    assert trainer.quick
    batch = trainer.data_collator([rows[i] for i in range(8)])
    labels = int((batch["labels"][:, 1:] != -100).sum())

    def loss_and_gradients(compute_loss, inputs, number):
        trainer.model.zero_grad()
        loss = compute_loss(trainer, trainer.model, inputs, num_items_in_batch=number)
        loss.backward()
        return [loss.detach(), *[w.grad.clone() for w in trainer.model.parameters() if w.grad is not None]]

    for number in (None, torch.tensor(labels), torch.tensor(2 * labels), torch.tensor(0)):
        ours = loss_and_gradients(trainers.Terms.compute_loss, batch, number)
        theirs = loss_and_gradients(SFTTrainer.compute_loss, {k: v for k, v in batch.items() if k != "rto"}, number)
        assert len(ours) == len(theirs) > 2
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * b.abs().max().item())


def test_training_by_trls_own_loss_has_the_same_log(tiny_folder, tmp_path):
    rows = mixed(models.load_tokenizer(str(tiny_folder)).refusal_id()) * 3
    Dataset.from_list(rows).save_to_disk(tmp_path / "rows")
    settings = SETTINGS | {"bf16": False}
    ours = log(training.train(str(tiny_folder), tmp_path / "rows", tmp_path / "ours", **settings))
    # Where no GPU is, this leaves the model on the CPU and takes the way of GPUs.
    plain = log(training.train(str(tiny_folder), tmp_path / "rows", tmp_path / "plain", use_cpu=False, **settings))
    assert list(ours.columns) == list(plain.columns)
    for column in ours.columns:
        assert ours[column].tolist() == pytest.approx(plain[column].tolist(), rel=1e-3), column
    assert ours.loss.iloc[-1] < ours.loss.iloc[0]


def test_an_option_that_needs_more_than_labels_is_trls(tiny_folder, tmp_path):
    rows = Dataset.from_list(mixed(models.load_tokenizer(str(tiny_folder)).refusal_id()))
    args, model = configure(False, {"loss_type": "dft", "learning_rate": 1e-3}, output_dir=str(tmp_path / "out"))
    trainer = trainers.make(str(tiny_folder), rows, args, model)
    batch = trainer.data_collator([rows[0], rows[1]])
    ours = trainer.compute_loss(trainer.model, dict(batch))
    plain = SFTTrainer.compute_loss(trainer, trainer.model, {k: v for k, v in batch.items() if k != "rto"})
    assert ours.item() == pytest.approx(plain.item())


def test_pairs_reach_the_model_as_they_are(tiny_folder, tmp_path):
    pairs = Dataset.load_from_disk(str(write_pairs(tmp_path)))
    args, model = configure(True, {"learning_rate": 1e-3, "beta": 0.2}, output_dir=str(tmp_path / "out"))
    trainer = trainers.make(str(tiny_folder), pairs, args, model)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    plain = DataCollatorForPreference(trainer.processing_class.pad_token_id)([pairs[i] for i in range(4)])
    assert all(torch.equal(batch[name], plain[name]) for name in plain)
    assert "ref_chosen_logps" in batch
    assert trainer.beta == 0.2
