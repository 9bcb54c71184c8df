"""Training: both terms in the log, every architecture, the same result after a kill, clear errors."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from unittest import mock

import pandas as pd
import pytest
import torch
import yaml
from conftest import make_model
from datasets import Dataset
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from derta import models, train
from derta.runs import ROOT

SETTINGS = train.Settings(
    learning_rate=1e-3,
    batch_size=4,
    micro_batch_size=2,
    warmup=0.1,
    weight_decay=0.0,
    checkpoints=2,
    seed=0,
    report_to="none",
)
LORA = replace(SETTINGS, lora_rank=4, lora_dropout=0.1)


def ids(n, length):
    return torch.randint(4, 300, (n, length), generator=torch.Generator().manual_seed(n)).tolist()


@pytest.fixture
def dataset(tmp_path):
    rows = [{"input_ids": row, "labels": [-100] * 6 + row[6:], "kind": "helpful"} for row in ids(24, 12)]
    Dataset.from_list(rows).save_to_disk(tmp_path / "data" / "vanilla")
    return tmp_path / "data" / "vanilla"


@pytest.fixture
def pairs(tmp_path):
    rows = [{"prompt_ids": row[:5], "chosen_ids": row[5:8], "rejected_ids": row[8:]} for row in ids(24, 12)]
    Dataset.from_list(rows).save_to_disk(tmp_path / "data" / "dpo")
    return tmp_path / "data" / "dpo"


def log(folder):
    return pd.read_csv(folder / "log.csv")


def weights(folder):
    (file,) = folder.glob("*model.safetensors")
    return load_file(file)


def killed_at(step: int, command: list[str], checkpoints: Path) -> None:
    """Run `command` and kill it, without any chance to clean up, once it has a checkpoint."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(checkpoints.parent.glob(f"{checkpoints.name}.*.checkpoints/checkpoint-{step}/trainer_state.json")):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("kind", ["sft", "sft-lora", "dpo", "dpo-lora"])
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(kind, tiny_folder, dataset, pairs, tmp_path):
    # Long enough to be killed in the middle: the checkpoint is of the first third.
    settings = replace(LORA if "lora" in kind else SETTINGS, batch_size=2, micro_batch_size=1)
    rows = pairs if "dpo" in kind else dataset
    base = str(tiny_folder)
    if kind == "dpo-lora":
        base = str(train.train(base, dataset, tmp_path / "vanilla", LORA))
    run = {"base": base, "dataset": str(rows), "folder": str(tmp_path / "killed")} | asdict(settings)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    killed_at(4, [sys.executable, "-m", "derta.train", "--config", tmp_path / "run.yaml"], tmp_path / "killed")
    assert not (tmp_path / "killed").exists()
    (checkpoints,) = tmp_path.glob("killed.*checkpoints")
    (checkpoints / "checkpoint-99").mkdir()  # what a kill in the middle of saving leaves

    killed = train.train(base, rows, tmp_path / "killed", settings)
    whole = train.train(base, rows, tmp_path / "whole", settings)
    a, b = weights(whole), weights(killed)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (whole / "log.csv").read_bytes() == (killed / "log.csv").read_bytes()
    assert json.loads((killed / "provenance.json").read_text())["steps"] != "0 to 12"
    assert not checkpoints.exists()


def test_the_log_carries_both_terms_of_equation_2(tiny_folder, tmp_path):
    """Against the logits of the untrained model, at the first step."""
    lm = models.load(str(tiny_folder), dtype=torch.float32, attention="eager")
    sorry = lm.refusal_id()
    harmful, safe = ids(2, 8)
    rows = [
        {"input_ids": harmful, "labels": [-100] * 4 + [sorry, -100, sorry, sorry]},
        {"input_ids": [*safe[:4], sorry, *safe[5:]], "labels": [-100] * 4 + [sorry, *safe[5:]]},
    ]
    Dataset.from_list(rows).save_to_disk(tmp_path / "rows")
    settings = replace(SETTINGS, batch_size=2, learning_rate=0.0)
    row = log(train.train(str(tiny_folder), tmp_path / "rows", tmp_path / "model", settings)).iloc[0]

    with torch.no_grad():
        p = lm.model(torch.tensor([r["input_ids"] for r in rows])).logits.log_softmax(-1)
    rto = [p[0, t - 1, sorry].item() for t in (4, 6, 7)]
    mle = [p[1, t - 1, rows[1]["labels"][t]].item() for t in range(4, 8)]
    assert (row.rto_tokens, row.mle_tokens) == (3, 4)
    assert row.rto_loss == pytest.approx(-sum(rto) / 3, rel=1e-2)
    assert row.mle_loss == pytest.approx(-sum(mle) / 4, rel=1e-2)
    assert row.refusal_probability == pytest.approx(sum(map(math.exp, rto)) / 3, rel=5e-2)
    assert row.loss == pytest.approx(-(sum(rto) + sum(mle)) / 7, rel=1e-2)


def test_the_loss_on_labelled_positions_alone_is_the_trainers_own(tiny_folder, dataset, tmp_path, monkeypatch):
    ours = train.train(str(tiny_folder), dataset, tmp_path / "ours", SETTINGS)
    monkeypatch.setattr(train, "labelled_positions_alone", nullcontext)
    plain = train.train(str(tiny_folder), dataset, tmp_path / "plain", SETTINGS)
    assert log(ours).loss.tolist() == pytest.approx(log(plain).loss.tolist(), rel=1e-2)
    assert log(ours).loss.iloc[-1] < log(ours).loss.iloc[0]


def test_dpo_learns_to_prefer_the_chosen_response(tiny_folder, tmp_path):
    prompt, chosen, rejected = ids(3, 5)
    rows = [{"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}] * 24
    Dataset.from_list(rows).save_to_disk(tmp_path / "dpo")
    settings = replace(SETTINGS, learning_rate=1e-2)
    folder = train.train(str(tiny_folder), tmp_path / "dpo", tmp_path / "dpo-s0", settings)
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
    Dataset.from_list([{"input_ids": row, "labels": [-100] * 6 + row[6:]}] * 24).save_to_disk(tmp_path / "rows")
    base = str(make_model(tmp_path / architecture, architecture, **config))
    before = models.load(base, dtype=torch.float32)
    folder = train.train(base, tmp_path / "rows", tmp_path / "adapter", replace(LORA, learning_rate=1e-2))
    names = set(weights(folder))
    assert all(any(part in name for name in names) for part in adapted), names
    assert not any("lm_head" in name or "norm" in name for name in names)

    after = models.load(str(folder), dtype=torch.float32)
    tokens = torch.tensor(ids(2, 12))
    with torch.no_grad():
        shift = (after.model(tokens).logits - before.model(tokens).logits).abs().max()
    assert shift > 1e-3, "the adapter changes nothing"
    assert log(folder).loss.iloc[-1] < log(folder).loss.iloc[0]


@pytest.mark.parametrize(
    "settings", [replace(SETTINGS, steps=6), replace(LORA, lora_dropout=0.0)], ids=["full", "lora"]
)
def test_two_processes_have_the_loss_of_one_with_twice_the_accumulation(settings, tiny_folder, dataset, tmp_path):
    one = train.train(str(tiny_folder), dataset, tmp_path / "one", settings)
    launch("ddp.yaml", ["-m", "derta.train"], str(tiny_folder), dataset, tmp_path / "two", settings)
    assert json.loads((tmp_path / "two" / "provenance.json").read_text())["processes"] == 2
    assert log(tmp_path / "two").loss.tolist() == pytest.approx(log(one).loss.tolist(), rel=1e-3)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "mixtral"])
def test_fsdp2_on_two_processes_trains_and_saves_a_model_that_loads(architecture, dataset, tmp_path):
    base = make_model(tmp_path / architecture, architecture, **(EXPERTS if architecture == "mixtral" else {}))
    one = train.train(str(base), dataset, tmp_path / "one", SETTINGS)
    launch("fsdp2.yaml", [ROOT / "tests" / "fsdp_on_cpu.py"], str(base), dataset, tmp_path / "two", SETTINGS)
    assert log(tmp_path / "two").loss.tolist() == pytest.approx(log(one).loss.tolist(), rel=1e-2)
    loaded, untrained = (AutoModelForCausalLM.from_pretrained(folder) for folder in (tmp_path / "two", base))
    assert not torch.equal(loaded.get_input_embeddings().weight, untrained.get_input_embeddings().weight)
    assert models.load(str(tmp_path / "two")).refusal_id()


def launch(config: str, program: list, base: str, dataset: Path, folder: Path, settings: train.Settings) -> None:
    """Train with ``accelerate launch`` on two processes of the CPU, by one of the configurations that users get."""
    run = {"base": base, "dataset": str(dataset), "folder": str(folder)} | asdict(settings)
    (folder.parent / "run.yaml").write_text(yaml.safe_dump(run))
    config = ROOT / "notebooks" / "params" / "accelerate" / config
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, "--num_processes", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, *program, "--config", folder.parent / "run.yaml"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_run_killed_at_its_very_end_is_finished(tiny_folder, dataset, tmp_path):
    with mock.patch.object(train, "finish", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        train.train(str(tiny_folder), dataset, tmp_path / "model", SETTINGS)
    assert len(log(train.train(str(tiny_folder), dataset, tmp_path / "model", SETTINGS))) == 6


def test_a_finished_model_of_pairs_is_kept_and_new_pairs_have_their_own_reference(tiny_folder, pairs, tmp_path):
    folder = train.train(str(tiny_folder), pairs, tmp_path / "dpo", SETTINGS)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    train.train(str(tiny_folder), pairs, folder, SETTINGS)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    rows = [{"prompt_ids": row[:5], "chosen_ids": row[8:], "rejected_ids": row[5:8]} for row in ids(24, 12)]
    Dataset.from_list(rows).save_to_disk(pairs)
    # Against its own reference a model begins at log 2; against the old one it would not.
    assert log(train.train(str(tiny_folder), pairs, folder, SETTINGS)).loss.iloc[0] == pytest.approx(math.log(2), 1e-2)


def test_a_finished_model_is_kept_and_one_of_other_settings_is_not(tiny_folder, dataset, tmp_path):
    folder = train.train(str(tiny_folder), dataset, tmp_path / "model", SETTINGS)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    train.train(str(tiny_folder), dataset, folder, SETTINGS)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    train.train(str(tiny_folder), dataset, folder, replace(SETTINGS, learning_rate=5e-4))
    assert json.loads((folder / "provenance.json").read_text())["inputs"]["settings"]["learning_rate"] == 5e-4


def test_a_model_folder_says_what_it_is_and_holds_no_pickle(tiny_folder, dataset, tmp_path):
    folder = train.train(str(tiny_folder), dataset, tmp_path / "m", replace(SETTINGS, report_to="tensorboard", steps=2))
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
    on_log = train.Progress.on_log

    def broken_at_step_3(self, args, state, control, logs=None, **kwargs):
        on_log(self, args, state, control, logs={bad: math.nan} if state.global_step == 3 else logs)

    monkeypatch.setattr(train.Progress, "on_log", broken_at_step_3)
    with pytest.raises(FloatingPointError, match=f"the {bad} is nan at step 3; lower the learning rate"):
        train.train(str(tiny_folder), dataset, tmp_path / "model", SETTINGS)
    (checkpoints,) = tmp_path.glob("model.*checkpoints")
    assert train.last_checkpoint(checkpoints).endswith("checkpoint-2")


def test_an_infinite_learning_rate_leaves_no_model(tiny_folder, dataset, tmp_path):
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        train.train(str(tiny_folder), dataset, tmp_path / "model", replace(SETTINGS, learning_rate=math.inf))
    assert not (tmp_path / "model").exists()


def test_a_full_disk_is_named_and_the_last_checkpoint_stays(tiny_folder, dataset, tmp_path, monkeypatch):
    save = train.Terms._save_checkpoint

    def full(self, model, trial):
        if self.state.global_step == 4:
            (Path(self.args.output_dir) / "checkpoint-4").mkdir()  # half a checkpoint
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        save(self, model, trial)

    monkeypatch.setattr(train.Terms, "_save_checkpoint", full)
    with pytest.raises(OSError, match=r"disk is full: free some space .* goes on from checkpoint-2"):
        train.train(str(tiny_folder), dataset, tmp_path / "model", SETTINGS)
    monkeypatch.setattr(train.Terms, "_save_checkpoint", save)
    assert log(train.train(str(tiny_folder), dataset, tmp_path / "model", SETTINGS)).step.tolist() == [1, 2, 3, 4, 5, 6]


def test_frozen_layers_keep_their_weights_and_the_others_learn(tiny_folder, dataset, tmp_path):
    folder = train.train(str(tiny_folder), dataset, tmp_path / "model", replace(SETTINGS, frozen_layers=1))
    before, after = weights(tiny_folder), weights(folder)
    changed = {name for name in after if not torch.equal(after[name], before[name].to(torch.bfloat16))}
    assert {name for name in after if "layers.1." in name and "proj" in name} <= changed
    assert not {name for name in changed if "layers.0." in name or "embed" in name}


def test_bad_settings_and_datasets_are_named(tiny_folder, dataset, tmp_path):
    with pytest.raises(ValueError, match=r"batch_size 4 is no multiple of micro_batch_size 3 × 1 process"):
        train.train(str(tiny_folder), dataset, tmp_path / "model", replace(SETTINGS, micro_batch_size=3))
    with pytest.raises(
        ValueError, match=r"target attention matches no linear module of LlamaForCausalLM; it has down_"
    ):
        train.train(str(tiny_folder), dataset, tmp_path / "model", replace(LORA, lora_targets="q_proj attention"))
    with pytest.raises(ValueError, match="frozen_layers is 2, but the model has 2"):
        train.train(str(tiny_folder), dataset, tmp_path / "model", replace(SETTINGS, frozen_layers=2))
    with pytest.raises(ValueError, match="LoRA freezes all layers: set one of the two to 0"):
        train.train(str(tiny_folder), dataset, tmp_path / "model", replace(LORA, frozen_layers=1))
    Dataset.from_list([{"input_ids": [1]}]).save_to_disk(tmp_path / "bare")
    with pytest.raises(ValueError, match="lacks the column labels"):
        train.train(str(tiny_folder), tmp_path / "bare", tmp_path / "model", SETTINGS)
    rows = [{"input_ids": [5, 6], "labels": [-100, 6]}, {"input_ids": [5, 6], "labels": [-100, -100]}]
    Dataset.from_list(rows).save_to_disk(tmp_path / "unlabelled")
    with pytest.raises(ValueError, match=r"unlabelled, row 1: no position has a label"):
        train.train(str(tiny_folder), tmp_path / "unlabelled", tmp_path / "model", SETTINGS)


def test_a_refusal_word_of_two_tokens_stops_before_training(dataset, tmp_path):
    base = make_model(tmp_path / "model")
    tokenizer = models.load_tokenizer(str(base)).tokenizer
    vocabulary = json.loads(tokenizer.backend_tokenizer.to_str())
    merges = vocabulary["model"]["merges"]
    vocabulary["model"]["merges"] = [pair for pair in merges if "".join(pair) != "Sorry"]
    tokenizer.backend_tokenizer.from_str(json.dumps(vocabulary)).save(str(base / "tokenizer.json"))
    with pytest.raises(ValueError, match="refusal word 'Sorry' is not one token"):
        train.train(str(base), dataset, tmp_path / "tuned", SETTINGS)
