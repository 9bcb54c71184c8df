"""Training: the same result after a kill, no model lost, every architecture, several processes, clear errors."""

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
import torch
from conftest import make_model
from datasets import Dataset, DatasetDict
from safetensors import SafetensorError
from tuning import LORA, SETTINGS, ids, launch, log, weights, write_config, write_pairs, write_rows

from derta import models, training, tuned
from derta.runs import CHECKOUT, alone


@pytest.fixture
def dataset(tmp_path):
    return write_rows(tmp_path / "data")


@pytest.fixture
def pairs(tmp_path):
    return write_pairs(tmp_path / "data")


def killed_at(step: int, command: list[str], checkpoints: Path) -> None:
    """Run `command` and kill it, without any chance to clean up, once it has a checkpoint."""
    process = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(checkpoints.parent.glob(f"{checkpoints.name}.*.checkpoints/checkpoint-{step}/trainer_state.json")):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "sft-lora", "dpo", "dpo-lora"])
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(kind, tiny_folder, dataset, pairs, tmp_path):
    # Long enough to be killed in the middle: the checkpoint is of the first third.
    settings = (LORA if "lora" in kind else SETTINGS) | {"batch_size": 2, "per_device_train_batch_size": 1}
    settings |= {"save_steps": 4}
    rows = pairs if "dpo" in kind else dataset
    base = str(tiny_folder)
    if kind == "dpo-lora":
        base = str(training.train(base, dataset, tmp_path / "vanilla", **LORA))
    config = write_config(base, rows, tmp_path / "killed", settings)
    killed_at(4, [sys.executable, "-m", "derta", "train", "--config", config], tmp_path / "killed")
    assert not (tmp_path / "killed").exists()
    (checkpoints,) = tmp_path.glob("killed.*checkpoints")
    (checkpoints / "checkpoint-99").mkdir()  # what a kill in the middle of saving leaves

    killed = training.train(base, rows, tmp_path / "killed", **settings)
    whole = training.train(base, rows, tmp_path / "whole", **settings)
    a, b = weights(whole), weights(killed)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (whole / "log.csv").read_bytes() == (killed / "log.csv").read_bytes()
    assert json.loads((killed / "provenance.json").read_text())["steps"] != "0 to 12"
    assert not checkpoints.exists()


def test_dpo_learns_to_prefer_the_chosen_response(tiny_folder, tmp_path):
    prompt, chosen, rejected = ids(3, 5)
    rows = [{"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}] * 24
    Dataset.from_list(rows).save_to_disk(tmp_path / "dpo")
    settings = SETTINGS | {"learning_rate": 1e-2}
    folder = training.train(str(tiny_folder), tmp_path / "dpo", tmp_path / "dpo-s0", **settings)
    curve = log(folder)
    # A model is its own reference at first.
    assert curve.loss.iloc[0] == pytest.approx(math.log(2), rel=1e-2)
    assert curve["rewards/chosen"].iloc[-1] > curve["rewards/rejected"].iloc[-1]
    assert curve.loss.iloc[-1] < curve.loss.iloc[0]
    assert models.load(str(folder)).refusal_id()


EXPERTS = {"num_local_experts": 4}
HEADS = {"head_dim": 8}


@pytest.mark.parametrize(
    ("architecture", "config", "adapted"),
    [
        ("llama", {}, {"self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"}),
        ("mistral", {}, {"self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"}),
        ("mixtral", EXPERTS, {"self_attn.q_proj", "self_attn.o_proj", "mlp.experts"}),
        ("gemma2", HEADS, {"self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"}),
        ("qwen3", HEADS, {"self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"}),
    ],
)
def test_lora_adapts_attention_and_mlp_of_every_architecture(architecture, config, adapted, tmp_path):
    (row,) = ids(1, 12)
    rows = [{"input_ids": row, "labels": [-100] * 6 + row[6:], "kind": "helpful"}] * 24
    Dataset.from_list(rows).save_to_disk(tmp_path / "rows")
    base = str(make_model(tmp_path / architecture, architecture, **config))
    before = models.load(base, dtype=torch.float32)
    settings = LORA | {"learning_rate": 1e-2, "lora_alpha": 16}
    folder = training.train(base, tmp_path / "rows", tmp_path / "adapter", **settings)
    names = set(weights(folder))
    assert all(any(part in name for name in names) for part in adapted), names
    assert not any("lm_head" in name or "norm" in name for name in names)
    dropout = json.loads((folder / "provenance.json").read_text())["lora_dropout"]
    assert dropout == (0.0 if architecture == "mixtral" else 0.1)

    after = models.load(str(folder), dtype=torch.float32)
    tokens = torch.tensor(ids(2, 12))
    with torch.no_grad():
        shift = (after.model(tokens).logits - before.model(tokens).logits).abs().max()
    assert shift > 1e-3, "the adapter changes nothing"
    assert log(folder).loss.iloc[-1] < log(folder).loss.iloc[0]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [SETTINGS | {"max_steps": 6}, LORA | {"lora_dropout": 0.0}], ids=["full", "lora"])
def test_two_processes_have_the_loss_of_one_with_twice_the_accumulation(settings, tiny_folder, dataset, tmp_path):
    one = training.train(str(tiny_folder), dataset, tmp_path / "one", **settings)
    launch("ddp.yaml", ["-m", "derta", "train"], str(tiny_folder), dataset, tmp_path / "two", settings)
    assert json.loads((tmp_path / "two" / "provenance.json").read_text())["processes"] == 2
    for column in ("loss", "mle_loss", "mle_tokens"):
        assert log(tmp_path / "two")[column].tolist() == pytest.approx(log(one)[column].tolist(), rel=1e-3)


SHARDED = ("fsdp2.yaml", [CHECKOUT / "tests" / "fsdp_on_cpu.py", "train"])
UNDROPPED = LORA | {"lora_dropout": 0.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "settings"),
    [("llama", SETTINGS), ("mistral", SETTINGS), ("llama", UNDROPPED), ("mixtral", UNDROPPED)],
    ids=["llama", "mistral", "llama-lora", "mixtral-lora"],
)
def test_fsdp2_on_two_processes_trains_and_saves_a_model_that_loads(architecture, settings, dataset, tmp_path):
    base = str(make_model(tmp_path / architecture, architecture, **(EXPERTS if architecture == "mixtral" else {})))
    one = training.train(base, dataset, tmp_path / "one", **settings)
    launch(*SHARDED, base, dataset, tmp_path / "two", settings)
    for column in ("loss", "mle_loss", "mle_tokens"):
        assert log(tmp_path / "two")[column].tolist() == pytest.approx(log(one)[column].tolist(), rel=1e-3)
    assert weights(tmp_path / "two").keys() == weights(one).keys()
    untrained, loaded = (models.load(folder, dtype=torch.float32) for folder in (base, str(tmp_path / "two")))
    weight, before = (lm.model.get_decoder().layers[0].self_attn.q_proj.weight for lm in (loaded, untrained))
    assert not torch.equal(weight, before)
    assert loaded.refusal_id()


@pytest.mark.slow
@pytest.mark.parametrize("settings", [SETTINGS, UNDROPPED], ids=["full", "lora"])
def test_dpo_under_fsdp2_killed_on_its_way_has_the_rewards_of_one_process(settings, dataset, pairs, tmp_path):
    base, settings = str(make_model(tmp_path / "tiny")), settings | {"learning_rate": 1e-2}
    if "use_peft" in settings:
        base = str(training.train(base, dataset, tmp_path / "vanilla", **settings))
    one = training.train(base, pairs, tmp_path / "one", **settings)
    launch(*SHARDED, base, pairs, tmp_path / "two", settings, dies_at=5)
    assert not (tmp_path / "two").exists()
    launch(*SHARDED, base, pairs, tmp_path / "two", settings)
    assert json.loads((tmp_path / "two" / "provenance.json").read_text())["steps"] == "4 to 6"
    for column in ("loss", "rewards/chosen", "rewards/rejected"):
        # Log-probabilities that are rounded to bfloat16 are off by 0.003 or more.
        assert log(tmp_path / "two")[column].tolist() == pytest.approx(log(one)[column].tolist(), abs=1e-3)


@pytest.mark.slow
def test_dpo_on_two_processes_has_the_loss_of_one(tiny_folder, pairs, tmp_path):
    one = training.train(str(tiny_folder), pairs, tmp_path / "one", **SETTINGS)
    launch("ddp.yaml", ["-m", "derta", "train"], str(tiny_folder), pairs, tmp_path / "two", SETTINGS)
    assert log(tmp_path / "two").loss.tolist() == pytest.approx(log(one).loss.tolist(), rel=1e-3)


def test_a_run_killed_at_its_very_end_is_finished(tiny_folder, dataset, tmp_path):
    with mock.patch.object(tuned, "finish", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        training.train(str(tiny_folder), dataset, tmp_path / "model", **SETTINGS)
    assert len(log(training.train(str(tiny_folder), dataset, tmp_path / "model", **SETTINGS))) == 6


def test_a_model_folder_says_what_it_is_and_holds_no_pickle(tiny_folder, dataset, tmp_path):
    settings = SETTINGS | {"report_to": "tensorboard", "max_steps": 2}
    folder = training.train(str(tiny_folder), dataset, tmp_path / "m", **settings)
    facts = json.loads((folder / "provenance.json").read_text())
    assert facts["steps"] == "0 to 2"
    assert facts["tokens_per_second"] > 0
    assert facts["peak_memory_mib"] > 0
    assert "vanilla" in (folder / "README.md").read_text()
    assert list((folder / "tensorboard").rglob("events.*"))
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    assert models.load(str(folder)).refusal_id() == models.load_tokenizer(str(tiny_folder)).refusal_id()


@pytest.mark.parametrize("bad", ["loss", "grad_norm"])
def test_a_loss_or_gradient_that_is_no_number_stops_the_run_and_keeps_the_checkpoint(
    bad, tiny_folder, dataset, tmp_path, monkeypatch
):
    on_log = training.Progress.on_log

    def broken_at_step_3(self, args, state, control, logs=None, **kwargs):
        on_log(self, args, state, control, logs={bad: math.nan} if state.global_step == 3 else logs)

    monkeypatch.setattr(training.Progress, "on_log", broken_at_step_3)
    with pytest.raises(FloatingPointError, match=f"the {bad} is nan at step 3; lower the learning rate"):
        training.train(str(tiny_folder), dataset, tmp_path / "model", **SETTINGS)
    (checkpoints,) = tmp_path.glob("model.*checkpoints")
    assert tuned.last_checkpoint(checkpoints).endswith("checkpoint-2")


def test_a_learning_rate_without_bounds_leaves_no_model(tiny_folder, dataset, tmp_path):
    with pytest.raises(ValueError, match=r"learning_rate is inf; expected a finite number"):
        training.train(str(tiny_folder), dataset, tmp_path / "model", **SETTINGS | {"learning_rate": math.inf})
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        training.train(str(tiny_folder), dataset, tmp_path / "model", **SETTINGS | {"learning_rate": 1e38})
    assert not (tmp_path / "model").exists()


def test_a_full_disk_is_named_and_the_last_checkpoint_stays(tiny_folder, dataset, tmp_path, monkeypatch):
    save = training.trainers.Terms.save_model

    def full(self, output_dir=None, **options):
        if self.state.global_step == 4:
            Path(output_dir).mkdir()  # half a checkpoint
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        save(self, output_dir, **options)

    monkeypatch.setattr(training.trainers.Terms, "save_model", full)
    with pytest.raises(OSError, match=r"disk is full: free some space .* goes on from checkpoint-2"):
        training.train(str(tiny_folder), dataset, tmp_path / "model", **SETTINGS)
    monkeypatch.setattr(training.trainers.Terms, "save_model", save)
    folder = training.train(str(tiny_folder), dataset, tmp_path / "model", **SETTINGS)
    assert log(folder).step.tolist() == [1, 2, 3, 4, 5, 6]


def test_frozen_layers_keep_their_weights_and_the_others_learn(tiny_folder, dataset, tmp_path):
    folder = training.train(str(tiny_folder), dataset, tmp_path / "model", frozen_layers=1, **SETTINGS)
    before, after = weights(tiny_folder), weights(folder)
    changed = {name for name in after if not torch.equal(after[name], before[name].to(torch.bfloat16))}
    assert {name for name in after if "layers.1." in name and "proj" in name} <= changed
    assert not {name for name in changed if "layers.0." in name or "embed" in name}


def test_bad_datasets_are_named(tiny_folder, tmp_path):
    def attempt(name, rows):
        Dataset.from_list(rows).save_to_disk(tmp_path / name)
        training.train(str(tiny_folder), tmp_path / name, tmp_path / "model", **SETTINGS)

    with pytest.raises(ValueError, match=r"bare: lacks the column labels, kind; build it with derta.build"):
        attempt("bare", [{"input_ids": [1]}])
    with pytest.raises(ValueError, match=r"kindless: lacks the column kind; build it with derta.build"):
        attempt("kindless", [{"input_ids": [5, 6], "labels": [-100, 6]}])
    labelled = {"input_ids": [5, 6], "labels": [-100, 6], "kind": "safety"}
    with pytest.raises(ValueError, match=r"unlabelled, row 1: no position has a label"):
        attempt("unlabelled", [labelled, labelled | {"labels": [5, -100]}])
    with pytest.raises(ValueError, match=r"odd, row 1: kind is 'RTO'; expected one of helpful, safety"):
        attempt("odd", [labelled, labelled | {"kind": "RTO"}])
    with pytest.raises(FileNotFoundError, match="nowhere: no such dataset folder"):
        training.train(str(tiny_folder), tmp_path / "nowhere", tmp_path / "model", **SETTINGS)
    DatasetDict({"train": Dataset.from_list([labelled])}).save_to_disk(tmp_path / "several")
    with pytest.raises(ValueError, match="several: holds the datasets train; name the folder of one"):
        training.train(str(tiny_folder), tmp_path / "several", tmp_path / "model", **SETTINGS)
    assert not list(tmp_path.glob("model*"))


def test_a_refusal_word_of_two_tokens_stops_before_training(dataset, tmp_path):
    base = make_model(tmp_path / "model")
    tokenizer = models.load_tokenizer(str(base)).tokenizer
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())
    merges = vocabulary["model"]["merges"]
    vocabulary["model"]["merges"] = [pair for pair in merges if "".join(pair) != "Sorry"]
    tokenizer.backend_tokenizer.from_str(json.dumps(vocabulary)).save(str(base / "tokenizer.json"))
    with pytest.raises(ValueError, match="refusal word 'Sorry' is not one token"):
        training.train(str(base), dataset, tmp_path / "tuned", **SETTINGS)


def test_two_trainings_of_one_model_at_once_say_so(tiny_folder, dataset, tmp_path):
    folder = tmp_path / "model"
    with (
        alone(tmp_path / ".model.lock", "the first"),
        pytest.raises(RuntimeError, match=r"training model: is being done already"),
    ):
        training.train(str(tiny_folder), dataset, folder, **SETTINGS)
    assert not folder.exists()
