"""What training is asked for: one-line errors before anything is touched, and nothing that is ever lost."""

import json
import math

import pytest
from datasets import Dataset
from tuning import LORA, SETTINGS, ids, log, write_config, write_pairs, write_rows

from derta import training
from derta.commands import cli
from derta.settings import configure

RATE = {"learning_rate": 1e-3}


@pytest.fixture
def dataset(tmp_path):
    return write_rows(tmp_path / "data")


@pytest.mark.parametrize(
    ("pairs", "settings", "message"),
    [
        (
            False,
            {"learning_rat": 1e-3},
            "learning_rat is no field of SFTConfig or ModelConfig; did you mean learning_rate?",
        ),
        (False, {"beta": 0.1}, "beta is no field of SFTConfig or ModelConfig; see the fields of SFTConfig"),
        (True, {"beta": 0}, "beta is 0; it must be above 0"),
        (False, {"learning_rate": "fast"}, "learning_rate: invalid float value: 'fast'"),
        (False, {"learning_rate": 0}, "learning_rate is 0; it must be above 0"),
        (False, {"learning_rate": math.inf}, "learning_rate is inf; expected a finite number"),
        (False, {"learning_rate": "nan"}, "learning_rate is nan; expected a finite number"),
        (False, {"learning_rate": None}, "learning_rate is empty; give a value or leave it out"),
        (False, {"learning_rate": True}, "learning_rate is True; it is no switch"),
        (False, {"learning_rate": [1e-3, 1e-4]}, "learning_rate is [0.001, 0.0001]: unrecognized arguments: 0.0001"),
        (False, {"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0; it must be 1 or more"),
        (False, {"per_device_train_batch_size": 1.5}, "per_device_train_batch_size: invalid int value: '1.5'"),
        (False, {"warmup_steps": 1.5}, "warmup_steps is 1.5; it must be a share below 1 or a whole number"),
        (False, {"warmup_steps": -0.1}, "warmup_steps is -0.1; it must be 0 or more"),
        (False, {"save_steps": 0}, "save_steps is 0; it must be above 0"),
        (False, {"max_steps": 0}, "max_steps is 0; it must be -1 (every row once) or 1 or more"),
        (False, {"lr_scheduler_type": "cosinus"}, "lr_scheduler_type: invalid choice: 'cosinus' (choose from"),
        (False, {"bf16": "perhaps"}, "bf16: Truthy value expected: got perhaps"),
        (False, {"use_peft": True, "lora_dropout": 1}, "lora_dropout is 1; it must be at least 0 and below 1"),
        (False, {"lora_r": 4}, "lora_r is given, but use_peft is not; set use_peft to true or leave lora_r out"),
        (False, {"fp16": True, "bf16": True}, "the settings do not go together: At most one of fp16 and bf16"),
        (False, {"output_dir": "x"}, "output_dir cannot be set: `folder` is the model's folder"),
        (False, {"num_train_epochs": 3}, "num_train_epochs cannot be set: epochs are copies in the dataset"),
        (False, {"max_length": 512}, "max_length cannot be set: the dataset decides it"),
        (True, {"remove_unused_columns": True}, "remove_unused_columns cannot be set: the dataset decides it"),
        (False, {"model_name_or_path": "x"}, "model_name_or_path cannot be set: `base` is the model"),
    ],
)
def test_wrong_settings_are_named_in_one_line(pairs, settings, message, capfd):
    with pytest.raises(ValueError, match=r"\w") as error:
        configure(pairs, settings)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_settings_are_the_fields_of_the_library(capfd):
    settings = {"learning_rate": "2e-5", "use_peft": "true", "lora_target_modules": ["q_proj", "v_proj"]}
    settings |= {"lr_scheduler_kwargs": {"num_cycles": 2}, "warmup_steps": 0.03, "save_steps": 0.25, "dtype": "float32"}
    args, model = configure(False, settings)
    assert (args.learning_rate, args.warmup_steps, args.save_steps) == (2e-5, 0.03, 0.25)
    assert args.lr_scheduler_kwargs == {"num_cycles": 2}
    assert (model.use_peft, model.lora_target_modules, model.dtype) == (True, ["q_proj", "v_proj"], "float32")
    args, _ = configure(True, {"beta": 0.3, "optim": "sgd", "logging_steps": 5, "save_strategy": "no"})
    assert (args.beta, args.optim, args.logging_steps, args.save_strategy) == (0.3, "sgd", 5, "no")
    assert capfd.readouterr() == ("", "")


def test_settings_that_do_not_fit_the_run_are_named(tiny_folder, dataset, tmp_path, monkeypatch):
    def attempt(**settings):
        training.train(str(tiny_folder), dataset, tmp_path / "model", **settings)

    with pytest.raises(ValueError, match=r"batch_size 4 is no multiple of per_device_train_batch_size 3 × 1 process"):
        attempt(**SETTINGS | {"per_device_train_batch_size": 3})
    with pytest.raises(ValueError, match="gradient_accumulation_steps follows from batch_size"):
        attempt(**SETTINGS, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="batch_size is '4'; expected a whole number"):
        attempt(**SETTINGS | {"batch_size": "4"})
    with pytest.raises(
        ValueError, match=r"target attention matches no linear module of LlamaForCausalLM; it has down_"
    ):
        attempt(**LORA | {"lora_target_modules": ["q_proj", "attention"]})
    with pytest.raises(ValueError, match="frozen_layers is 2, but the model has 2"):
        attempt(**SETTINGS, frozen_layers=2)
    with pytest.raises(ValueError, match="LoRA freezes all layers: leave one of the two out"):
        attempt(**LORA, frozen_layers=1)
    adapter = training.train(str(tiny_folder), dataset, tmp_path / "adapter", **LORA)
    with pytest.raises(
        ValueError, match="adapter of rank 4 is trained further as such; set use_peft to true and lora_r"
    ):
        training.train(str(adapter), dataset, tmp_path / "model", **LORA | {"lora_r": 8})
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"2 GPUs are visible to one process; start with `accelerate launch"):
        attempt(**SETTINGS, use_cpu=False, bf16=False)
    assert not (tmp_path / "model").exists()


def test_a_finished_model_is_kept_and_one_of_other_settings_is_set_aside(tiny_folder, dataset, tmp_path, capfd):
    folder = training.train(str(tiny_folder), dataset, tmp_path / "model", **SETTINGS)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    training.train(str(tiny_folder), dataset, folder, **SETTINGS | {"learning_rate": "1e-3"})
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    capfd.readouterr()
    training.train(str(tiny_folder), dataset, folder, **SETTINGS | {"learning_rate": 5e-4})
    assert json.loads((folder / "provenance.json").read_text())["inputs"]["settings"]["learning_rate"] == 5e-4
    (aside,) = tmp_path.glob("model.*.aside")
    assert (aside / "model.safetensors").stat().st_mtime_ns == written
    (said,) = [line for line in capfd.readouterr().err.splitlines() if "set aside" in line]
    assert said.endswith(f"{aside.name}; the new one differs in settings.learning_rate")


def test_a_model_stays_in_its_place_until_the_new_one_is_whole(tiny_folder, dataset, tmp_path, monkeypatch):
    folder = training.train(str(tiny_folder), dataset, tmp_path / "model", **SETTINGS)
    before = (folder / "model.safetensors").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(training.Progress, "on_step_end", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            training.train(str(tiny_folder), dataset, folder, frozen_layers=1, **SETTINGS)
    assert (folder / "model.safetensors").read_bytes() == before
    # Other inputs have checkpoints of their own: the first step is this run's.
    log_again = log(training.train(str(tiny_folder), dataset, folder, **SETTINGS | {"learning_rate": 5e-4}))
    assert log_again.learning_rate.max() == pytest.approx(5e-4)
    assert [path.name for path in tmp_path.glob("model.*.checkpoints")], "a stranger's checkpoints are left"


def test_a_finished_model_of_pairs_is_kept_and_new_pairs_have_their_own_reference(tiny_folder, tmp_path):
    pairs = write_pairs(tmp_path / "data")
    folder = training.train(str(tiny_folder), pairs, tmp_path / "dpo", **SETTINGS)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    training.train(str(tiny_folder), pairs, folder, **SETTINGS)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    rows = [{"prompt_ids": row[:5], "chosen_ids": row[8:], "rejected_ids": row[5:8]} for row in ids(24, 12)]
    Dataset.from_list(rows).save_to_disk(pairs)
    # Against its own reference a model begins at log 2; against the old one it would not.
    curve = log(training.train(str(tiny_folder), pairs, folder, **SETTINGS))
    assert curve.loss.iloc[0] == pytest.approx(math.log(2), 1e-2)
    assert {path.name for path in pairs.iterdir() if "cache" in path.name} == set(), (
        "nothing is written beside the pairs"
    )


def test_a_folder_of_another_origin_is_refused_and_untouched(tiny_folder, dataset, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("mine")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "provenance.json").write_text('{"inputs": {"authors": 3}}')
    for name in ("thesis", "foreign"):
        with pytest.raises(ValueError, match=f"{name}: exists, and derta.training did not make it; choose another"):
            training.train(str(tiny_folder), dataset, tmp_path / name, **SETTINGS)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "mine"
    model = training.train(str(tiny_folder), dataset, tmp_path / "model", **SETTINGS)
    for base, folder in ((tiny_folder, dataset), (tiny_folder, dataset.parent), (model, model), (model, tmp_path)):
        with pytest.raises(ValueError, match=r"is or holds .*, from which the model is made; choose another folder"):
            training.train(str(base), dataset, folder, **SETTINGS)
    # Settings are checked first.
    with pytest.raises(ValueError, match=r"learning_rate is -1"):
        training.train(str(tiny_folder), dataset, dataset, learning_rate=-1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config", "nowhere.yaml"], "nowhere.yaml: no such file"),
        ([], "Missing option '--config'."),
        (["--config", "EMPTY"], "base, dataset, folder is missing: give it in "),
        (["--config", "CONFIG", "--learning-rat", "1"], "learning_rat is no field of SFTConfig"),
        (["--config", "CONFIG", "--learning_rate"], "learning_rate is True; it is no switch"),
        (["--config", "CONFIG", "--batch_size", "many"], "batch_size is 'many'; expected a whole number, 0 or more"),
        (["--config", "CONFIG", "--frozen_layers", "-1"], "frozen_layers is '-1'; expected a whole number, 0 or more"),
        (["--config", "CONFIG", "stray"], "stray belongs to no option"),
        (["--config", "CONFIG", "--dataset", "nowhere"], "nowhere: no such dataset folder; build it with derta.build"),
        (["--config", "LIST"], "holds no names with values"),
        (["--config", "TABS"], "not YAML in UTF-8"),
    ],
)
def test_a_wrong_command_line_ends_in_one_line(words, message, tiny_folder, dataset, tmp_path, capfd):
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "tabs.yaml").write_text("a:\tb: c\n\t- d")
    (tmp_path / "empty.yaml").write_text("learning_rate: 1e-3\n")
    places = {"CONFIG": str(write_config(str(tiny_folder), dataset, tmp_path / "model", SETTINGS))}
    places |= {name.upper(): str(tmp_path / f"{name}.yaml") for name in ("list", "tabs", "empty")}
    with pytest.raises(SystemExit) as exit:
        cli.main(["train", *[places.get(word, word) for word in words]])
    out, err = capfd.readouterr()
    assert exit.value.code in (1, 2)
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("derta: ")
    assert message in err
    assert not (tmp_path / "model").exists()


def test_options_come_before_the_file_and_help_names_them(tiny_folder, dataset, tmp_path, capsys):
    config = write_config(str(tiny_folder), dataset, tmp_path / "model", SETTINGS)
    words = ["--learning_rate", "5e-4", "--max-steps=2", "--use_peft", "--lora_target_modules", "q_proj", "v_proj"]
    with pytest.raises(SystemExit) as exit:
        cli.main(["train", "--config", str(config), "--batch_size", "2", *words])
    assert exit.value.code == 0
    inputs = json.loads((tmp_path / "model" / "provenance.json").read_text())["inputs"]
    assert inputs["batch_size"] == 2
    given = {"learning_rate": 5e-4, "max_steps": 2, "use_peft": True, "lora_target_modules": ["q_proj", "v_proj"]}
    assert inputs["settings"] == {k: v for k, v in SETTINGS.items() if k != "batch_size"} | given
    with pytest.raises(SystemExit) as exit:
        cli.main(["train", "--help"])
    assert exit.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Any field of TRL's SFTConfig (DPOConfig for pairs) and ModelConfig, and any argument" in said
