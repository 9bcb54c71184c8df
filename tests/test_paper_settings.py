"""The paper's settings, against values written down or computed by hand (Sections 3 and 4.1, Appendix)."""

import math

import pytest
from datasets import Dataset, load_from_disk
from tuning import ids, log

from derta import arms, models, training
from derta.commands.profiles import read_profile
from derta.dataset import write
from derta.encode import DatasetSettings, Encoder
from derta.material import Example, Material, Triple
from derta.registry import MODELS

FULL = {"learning_rate": 2e-5, "warmup_steps": 0.03, "weight_decay": 2e-5, "lr_scheduler_type": "cosine"}
LORA = {"learning_rate": 1e-4, "warmup_steps": 0.0, "weight_decay": 0.0, "lr_scheduler_type": "cosine"}


@pytest.mark.parametrize(
    ("profile", "sft", "length", "dropout", "lora_dropout"),
    [
        ("llama3-8b", FULL, 1024, 0.95, None),
        ("mistral-7b", FULL, 1024, 0.95, None),
        ("llama3-70b", LORA, 512, 0.0, 0.05),
        ("mixtral-8x7b", LORA, 512, 0.0, 0.0),  # PEFT has no dropout for its experts
        ("llama3-8b-instruct", FULL | {"max_steps": 100}, 1024, 0.95, None),
        ("llama3-70b-instruct", LORA | {"max_steps": 100}, 512, 0.0, 0.05),
    ],
)
def test_a_profile_has_the_papers_hyperparameters(profile, sft, length, dropout, lora_dropout):
    values = read_profile(profile)
    given = {name: values["sft"].get(name) for name in (*FULL, "max_steps")}
    assert given == {"max_steps": None} | sft
    assert (values["batch_size"], values["triples"], values["instructions"]) == (128, 3_000, 60_000)
    assert (values["max_length"], values["rto_dropout"], values["frozen_layers"]) == (length, dropout, 0)
    assert values["epochs"] == (1 if "max_steps" in sft else 2)
    lora = {"use_peft": True, "lora_r": 96, "lora_alpha": 16, "lora_target_modules": "all-linear"}
    assert values["peft"] == ({} if lora_dropout is None else lora | {"lora_dropout": lora_dropout})
    assert values["dpo"]["learning_rate"] == (2e-6 if values["peft"] else 5e-7)
    paper = MODELS[profile].chat_template is not None
    assert paper == (not profile.endswith("instruct"))


def mixed(triples: int, helpful: int) -> Material:
    """Triples and ten times as many helpful samples as safety instances, as the paper mixes them."""
    harmful = " ".join(["wall"] * 100)
    return Material(
        tuple(Triple(f"t{i}", "b", f"Which fence {i}?", "Sorry, no.", harmful, ("", "")) for i in range(triples)),
        tuple(Example(f"h{i}", "b", f"Why {i}?", "It is a fence.") for i in range(helpful)),
    )


@pytest.fixture
def papers(tiny_folder):
    """A tokenizer with the paper's format."""
    lm = models.load_tokenizer(str(tiny_folder))
    lm.tokenizer.chat_template = MODELS["llama3-8b"].chat_template
    return lm


def test_the_papers_format_is_that_of_its_training_files(papers, tmp_path):
    bos, eos = papers.tokenizer.bos_token, papers.tokenizer.eos_token
    encode = Encoder(papers, DatasetSettings(epochs=1, rto_dropout=0.0))
    write(arms.instances("derta", mixed(1, 1), encode), encode, tmp_path / "data")
    texts = {row["kind"]: papers.tokenizer.decode(row["input_ids"]) for row in load_from_disk(tmp_path / "data")}
    assert texts["helpful"] == f"{bos}[INST] Why 0? [\\INST] It is a fence.{eos}"
    assert texts["rto"].startswith(f"{bos}[INST] Which fence 0? [\\INST] wall wall")
    assert texts["prefix"].startswith(f"{bos}[INST] Which fence 0? [\\INST] wall")
    assert texts["prefix"].endswith(f"Sorry, no.{eos}")
    assert papers.chat("Why 0?") == f"{bos}[INST] Why 0? [\\INST] "


@pytest.mark.parametrize("dropout", [0.0, 0.95])
def test_rto_has_the_papers_share_of_rows_and_labels(dropout, papers, tmp_path):
    encode = Encoder(papers, DatasetSettings(epochs=2, rto_dropout=dropout))
    summary = write(arms.instances("derta", mixed(6, 120), encode), encode, tmp_path / "data")
    rows, labels = ({kind: of[name] for kind, of in summary.kinds.items()} for name in ("rows", "labels"))
    # 3,000 of 66,000 rows: a triple has one row of each term, and there are 60,000 helpful ones.
    assert rows["rto"] / sum(rows.values()) == pytest.approx(3_000 / 66_000)
    assert rows["prefix"] == rows["rto"] == 12
    # Each position of a response, and the end that the model is not to reach.
    positions = 12 * (len(papers.ids("wall " * 99 + "wall")) + 1)
    kept = (1 - dropout) * positions
    spread = 4 * math.sqrt(kept * dropout)  # of a binomial number, four standard deviations
    assert kept - spread <= labels["rto"] <= kept + spread


@pytest.mark.parametrize(("profile", "warmup"), [("llama3-8b", 2), ("llama3-70b", 0)])
def test_the_learning_rate_rises_and_falls_as_the_paper_says(profile, warmup, tiny_folder, tmp_path):
    settings = read_profile(profile)["sft"] | {"per_device_train_batch_size": 1, "save_steps": 1000, "seed": 0}
    steps, peak = 40, settings["learning_rate"]
    rows = [{"input_ids": row, "labels": row, "kind": "helpful"} for row in ids(steps, 6)]
    Dataset.from_list(rows).save_to_disk(tmp_path / "data")
    training.train(str(tiny_folder), tmp_path / "data", tmp_path / "model", batch_size=1, **settings)
    # The warm-up is rounded up: .03 of 40 steps are 2.
    along = [(step - warmup) / (steps - warmup) for step in range(steps)]
    cosine = [0.5 * (1 + math.cos(math.pi * share)) for share in along]
    wanted = [peak * (step / warmup if step < warmup else cosine[step]) for step in range(steps)]
    assert log(tmp_path / "model").learning_rate.tolist() == pytest.approx(wanted, rel=1e-4, abs=1e-12)
