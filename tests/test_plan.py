"""What a profile costs, from its configuration alone, and its dry run."""

import json
from dataclasses import replace

import pytest
from transformers import AutoModelForCausalLM, GPT2Config

from derta import trainers
from derta.commands import launch, notebooks, plan, profiles, rehearsal
from derta.files import read_csv
from derta.registry import MODELS, Spec
from derta.runs import CHECKOUT

PARAMS = CHECKOUT / "notebooks" / "params"
OURS = {"small", "smoke", "study", "further"}
OF_THE_PAPER = sorted({path.stem for path in PARAMS.glob("*.yaml")} - OURS)


@pytest.fixture(autouse=True)
def no_local_files(monkeypatch):
    monkeypatch.delenv("DERTA_RELEASED", raising=False)


@pytest.mark.parametrize(
    ("profile", "billions", "trained", "active"),
    [
        # The sizes that their makers give; LoRA of rank 96 on seven projections of (in, out) has 96 · (in + out) each.
        ("llama3-8b", 8.03, 8.03, 7.50),
        ("mistral-7b", 7.24, 7.24, 7.11),
        ("llama3-70b", 70.55, 80 * 96 * (2 * 16_384 + 2 * 9_216 + 3 * 36_864) / 1e9, 69.50),
        ("mixtral-8x7b", 46.70, None, 12.75),
    ],
)
def test_the_papers_models_have_their_sizes_without_a_network(profile, billions, trained, active):
    found = plan.size(profiles.read_profile(profile))
    assert found.parameters / 1e9 == pytest.approx(billions, abs=0.01)
    assert found.active / 1e9 == pytest.approx(active, abs=0.01)
    if trained:
        assert found.trainable / 1e9 == pytest.approx(trained, abs=0.01)


def test_a_models_own_configuration_says_what_it_trains(tiny_folder, tmp_path):
    values = profiles.read_profile("smoke") | {"model": str(tiny_folder), "frozen_layers": 1}
    found, model = plan.size(values), AutoModelForCausalLM.from_pretrained(tiny_folder)
    assert found.parameters == sum(weight.numel() for weight in model.parameters())
    trainers.freeze(model, 1, False)
    assert found.trainable == sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert found.frozen == 0.5
    lora = values | {"frozen_layers": 0, "peft": {"use_peft": True, "lora_r": 4, "lora_target_modules": "all-linear"}}
    assert 0 < plan.size(lora).trainable < found.trainable


def test_full_fine_tuning_takes_sixteen_bytes_a_parameter_and_shards_share_them():
    values = profiles.read_profile("llama3-8b")
    of = plan.size(values)
    one, eight = (plan.training_memory(values, of, gpus, 4, 1024) for gpus in (1, 8))
    states = of.parameters * (4 + 4 + 8)

    def kept(parts):
        return sum(parts.values()) - parts["activations"] - parts["logits"]

    assert kept(one) == pytest.approx(states + 2 * of.gathered)
    # FSDP2 keeps the gradients whole, in bfloat16, until the last pass of a step.
    assert kept(eight) == pytest.approx(states / 8 + 2 * of.gathered + 2 * of.trainable)
    layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14_336 + 2 * 4096
    assert of.gathered == 128_256 * 4096 + 2 * layer
    assert one["activations"] == eight["activations"]
    assert one["logits"] == 4 * 1024 * 128_256 * 2
    # Without accumulation a step's gradients come as its activations go.
    alone = plan.training_memory(values | {"batch_size": 4}, of, 1, 4, 1024)
    assert alone["gradients"] == one["gradients"] - one["activations"] - one["logits"]
    # Without recomputation each weight's copy waits for its backward pass.
    waiting = values | {"sft": values["sft"] | {"activation_checkpointing": False}}
    assert kept(plan.training_memory(waiting, of, 1, 4, 1024)) == pytest.approx(states + 2 * of.active)


def test_a_plan_says_what_fits():
    said, table = plan.plan("llama3-70b")
    assert said.startswith(
        "llama3-70b: 70.55 billion parameters, 1.24 trained (LoRA); 132,000 rows of at most 512 tokens"
    )
    assert len(table) == len(plan.CARDS) * len(plan.GPUS)
    rows = {(row["card"], row["gpus"]): row for row in table}
    assert rows["H100", 1]["training"] == "too large"
    assert rows["H100", 8]["training"] == rows["H100", 8]["answering"] == "yes"
    assert min(gpus for (card, gpus), row in rows.items() if card == "H100" and row["answering"] == "yes") == 8
    eight = {row["gpus"]: row["training"] for row in plan.plan("llama3-8b")[1] if row["card"] == "H100"}
    assert (eight[2], eight[4]) == ("too large", "yes")
    assert rows["H100", 8]["training_hours"] == pytest.approx(rows["H100", 4]["training_hours"] / 2, rel=0.01)
    batch = profiles.read_profile("llama3-8b")
    assert batch["batch_size"] % (4 * 64), "64 GPUs of 4 rows are more than a batch"
    assert {row["training"] for row in plan.plan("llama3-8b")[1] if row["gpus"] == 64} == {"batch"}


def recorded(name, monkeypatch):
    """The rows of a recording, each with the memory (MiB) and the operations that are planned for it."""
    found = []
    for row in read_csv(CHECKOUT / "benchmarks" / name, ("name", "memory_mib")):
        changes = json.loads(row["settings"])
        peft = {name: value for name, value in changes.items() if name.startswith(("lora_", "use_peft"))}
        sft = {"per_device_train_batch_size": int(row["rows"])}
        sft |= {key: value for key, value in changes.items() if key not in peft}
        values = profiles.read_profile("smoke") | {"sft": sft, "peft": peft, "batch_size": int(row["rows"])}
        values |= {"frozen_layers": int(row["frozen_layers"]), "accelerate": row["accelerate"]}
        if row["model"]:
            monkeypatch.setitem(MODELS, "recorded", Spec("recorded", config=json.loads(row["model"])))
            values["model"] = "recorded"
        of, rows, length = plan.size(values), int(row["rows"]), int(row["length"])
        parts = plan.training_memory(values, of, 1, rows, length, cpu="gpu" not in name)
        operations = plan.training_operations(values, of, rows, length)
        found.append((row, of, sum(parts.values()) / 2**20, operations))
    return found


@pytest.mark.parametrize(("name", "number"), [("plan.csv", 7), ("plan_gpu.csv", 6)])
def test_the_memory_of_recorded_runs_is_what_was_planned(name, number, monkeypatch):
    ratios = {row["name"]: memory / int(row["memory_mib"]) for row, _, memory, _ in recorded(name, monkeypatch)}
    assert len(ratios) == number
    assert all(0.9 < ratio < 1.1 for ratio in ratios.values()), ratios


def test_the_time_of_recorded_runs_is_what_was_planned(monkeypatch):
    # A small model's time is that of starting its kernels.
    large = [run for run in recorded("plan_gpu.csv", monkeypatch) if run[1].parameters > 1e9]
    _, speed, _ = plan.CARDS["H100"]
    ratios = {
        row["name"]: operations / (speed * plan.EFFICIENCY) / float(row["seconds"]) for row, _, _, operations in large
    }
    assert len(ratios) == 5
    assert all(0.8 < ratio < 1.2 for ratio in ratios.values()), ratios


def test_experts_with_adapters_are_folded_at_every_pass():
    values = profiles.read_profile("mixtral-8x7b")
    of = plan.size(values)
    experts = 32 * 8 * 3 * 4096 * 14_336
    assert of.folded == experts
    apart = plan.training_operations(values, replace(of, folded=0), 1, 512)
    # Of rank 96, in four passes that two rows share; and the gradient of the weights that a token goes through.
    more = 2 * 96 * experts * 4 / 2 + 512 * 2 * of.active
    assert plan.training_operations(values, of, 1, 512) - apart == pytest.approx(more)


def test_what_is_asked_is_counted_by_its_sides():
    values = profiles.read_profile("smoke") | {"validation": {}, "test": {}, "generation_batch_size": 4}
    asked = {"paper": {"direct": 6}, "jailbreakbench": {"direct": 6}, "alpaca_eval": {"helpful": 5}}
    assert plan.answers(values | {"published": asked}) == (6 + 12 + 5, 2 + 4 + 2)
    assert plan.answers(values | {"validation": {"direct": 6, "helpful": 6}}) == (12 + 6, 4 + 2)


def test_another_architecture_is_named(tmp_path):
    GPT2Config(n_layer=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="GPT2LMHeadModel has no num_key_value_heads; plans are for models like Llama"):
        plan.size(profiles.read_profile("smoke") | {"model": str(tmp_path)})


def test_steps_that_stop_earlier_cost_less():
    assert "12,800 rows" in plan.plan("llama3-8b-instruct")[0]


@pytest.mark.parametrize("profile", OF_THE_PAPER)
def test_each_profile_of_the_paper_passes_its_dry_run_offline(profile, monkeypatch, tmp_path):
    monkeypatch.setattr("socket.socket.connect", None)
    monkeypatch.setenv("DERTA_RUNS", str(tmp_path / "runs"))
    said = rehearsal.rehearse(profile)
    assert said.startswith(f"{profile}: valid; ")
    arms = profiles.read_profile(profile)["arms"]
    assert [line for line in said.splitlines() if "accelerate.commands.launch" in line and "fsdp2.yaml" in line]
    assert all(f"/{profile}/training/{arm}-s0.yaml" in said for arm in arms)
    assert f"  ./run_all.sh {profile}\n" in said
    assert not list(tmp_path.iterdir()), "it wrote something"


def test_a_dry_run_names_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("DERTA_RELEASED", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="DERTA_RELEASED lacks this file; add it, or unset DERTA_RELEASED"):
        rehearsal.rehearse("llama3-8b")
    monkeypatch.delenv("DERTA_RELEASED")
    values = profiles.read_profile("llama3-8b")
    monkeypatch.setattr(rehearsal, "read_profile", lambda _: values | {"batch_size": 4})
    with pytest.raises(ValueError, match=r"batch_size 4 is no multiple of per_device_train_batch_size 4 × 8 processes"):
        rehearsal.rehearse("llama3-8b")
    monkeypatch.setattr(rehearsal, "read_profile", lambda _: values | {"accelerate": "deepspeed_zero3"})
    with pytest.raises(ValueError, match="DeepSpeed is missing: pip install deepspeed"):
        rehearsal.rehearse("llama3-8b")
    monkeypatch.setattr(rehearsal, "read_profile", lambda _: values)
    monkeypatch.setattr(rehearsal, "get_token", lambda: None)
    assert "asks for one, and there is none here: accept its terms, then `hf auth login`" in rehearsal.rehearse(
        "mistral-7b"
    )
    monkeypatch.setattr(rehearsal, "get_token", lambda: "a token")
    assert "login" not in rehearsal.rehearse("mistral-7b")
    monkeypatch.setattr(rehearsal.os, "sysconf", lambda name: 2**12 if name == "SC_PAGE_SIZE" else 2**24)
    monkeypatch.setattr(rehearsal, "free", lambda _: 2**38)
    monkeypatch.setenv("PATH", str(tmp_path))
    said = rehearsal.rehearse("llama3-8b")
    assert "host memory: about 257 GB to load and save the model; this machine has 69 GB" in said
    assert "96.4 GB for the models, 257.0 GB for the checkpoints of one in training, 16.1 GB for the base; 275" in said
    assert "missing here: disk, host memory, server, GPUs\n" in said
    monkeypatch.setattr(rehearsal, "free", lambda _: 2**40)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    monkeypatch.setattr(rehearsal.shutil, "which", lambda program: f"/bin/{program}")
    assert "missing here: host memory\n" in rehearsal.rehearse("llama3-8b")


def test_a_run_whose_server_is_missing_does_not_begin(monkeypatch, tmp_path):
    monkeypatch.setenv("DERTA_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="vllm was not found: vLLM needs an environment of its own"):
        notebooks.run("llama3-8b")
    assert not list(tmp_path.iterdir())


def test_too_few_gpus_are_named_before_anything_is_started(monkeypatch):
    started = []
    monkeypatch.setattr(launch.subprocess, "run", lambda command, **options: started.append((command, options)))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"fsdp2\.yaml starts 8 processes, one a GPU, and this machine has 2: set"):
        launch.run("fsdp2", "model.yaml")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(ValueError, match=r"one a GPU, and PyTorch sees none: its driver is missing, or older than"):
        launch.run("fsdp2", "model.yaml")
    assert not started
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    launch.run("fsdp2", "model.yaml")
    assert started == [(launch.command("fsdp2", "model.yaml"), {"cwd": CHECKOUT, "check": True})]
