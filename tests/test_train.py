"""Training: the same result after a kill, clear errors, and no work done twice."""

import json
import math

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from trl import SFTTrainer

from derta import models, train

SETTINGS = train.Settings(
    learning_rate=1e-3, batch_size=4, micro_batch_size=2, warmup=0.1, weight_decay=0.0, checkpoints=2, seed=0
)


@pytest.fixture
def dataset(tmp_path):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 300, (24, 12), generator=generator).tolist()
    rows = [{"input_ids": row, "labels": [-100] * 6 + row[6:], "kind": "helpful"} for row in ids]
    Dataset.from_list(rows).save_to_disk(tmp_path / "data" / "vanilla")
    return tmp_path / "data" / "vanilla"


def test_a_killed_training_run_ends_with_the_weights_of_an_undisturbed_one(tiny_folder, dataset, tmp_path, monkeypatch):
    whole = train.train(str(tiny_folder), dataset, tmp_path / "whole", SETTINGS)

    step = SFTTrainer.training_step
    steps = iter(range(9))

    def dies_at_the_tenth_micro_step(self, *args, **kwargs):
        next(steps)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(SFTTrainer, "training_step", dies_at_the_tenth_micro_step)
    with pytest.raises(StopIteration):
        train.train(str(tiny_folder), dataset, tmp_path / "killed", SETTINGS)
    assert not (tmp_path / "killed").exists()
    (checkpoints,) = tmp_path.glob("killed.*checkpoints")
    assert train.last_checkpoint(checkpoints)
    (checkpoints / "checkpoint-99").mkdir()  # what a kill in the middle of saving leaves

    monkeypatch.setattr(SFTTrainer, "training_step", step)
    killed = train.train(str(tiny_folder), dataset, tmp_path / "killed", SETTINGS)
    a, b = load_file(whole / "model.safetensors"), load_file(killed / "model.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (whole / "log.csv").read_bytes() == (killed / "log.csv").read_bytes()
    assert not checkpoints.exists()


def test_the_loss_on_labelled_positions_alone_is_the_trainers_own(tiny_folder, dataset, tmp_path, monkeypatch):
    ours = train.train(str(tiny_folder), dataset, tmp_path / "ours", SETTINGS)
    monkeypatch.setattr(train.mock, "patch", lambda *args, **kwargs: train.mock.MagicMock())
    plain = train.train(str(tiny_folder), dataset, tmp_path / "plain", SETTINGS)
    losses = [
        [float(line.split(",")[1]) for line in (f / "log.csv").read_text().splitlines()[1:]] for f in (ours, plain)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)
    assert losses[0][-1] < losses[0][0]


def test_a_finished_model_is_kept_and_one_of_other_settings_is_not(tiny_folder, dataset, tmp_path):
    folder = train.train(str(tiny_folder), dataset, tmp_path / "model", SETTINGS)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    train.train(str(tiny_folder), dataset, folder, SETTINGS)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    other = train.Settings(**(SETTINGS.__dict__ | {"learning_rate": 5e-4}))
    train.train(str(tiny_folder), dataset, folder, other)
    assert json.loads((folder / "provenance.json").read_text())["inputs"]["settings"]["learning_rate"] == 5e-4


def test_the_model_folder_loads_by_its_path(tiny_folder, dataset, tmp_path):
    lm = models.load(str(train.train(str(tiny_folder), dataset, tmp_path / "model", SETTINGS)))
    assert lm.refusal_id() == models.load_tokenizer(str(tiny_folder)).refusal_id()


def test_a_loss_that_is_not_a_number_stops_the_run(tiny_folder, dataset, tmp_path):
    wild = train.Settings(**(SETTINGS.__dict__ | {"learning_rate": math.inf}))
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        train.train(str(tiny_folder), dataset, tmp_path / "model", wild)
    assert not (tmp_path / "model").exists()


def test_bad_settings_and_datasets_are_named(tiny_folder, dataset, tmp_path):
    odd = train.Settings(**(SETTINGS.__dict__ | {"micro_batch_size": 3}))
    with pytest.raises(ValueError, match="batch_size 4 is no multiple of micro_batch_size 3"):
        train.train(str(tiny_folder), dataset, tmp_path / "model", odd)
    Dataset.from_list([{"input_ids": [1]}]).save_to_disk(tmp_path / "bare")
    with pytest.raises(ValueError, match="lacks the column labels"):
        train.train(str(tiny_folder), tmp_path / "bare", tmp_path / "model", SETTINGS)
