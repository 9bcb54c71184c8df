"""Profiles: a bad value is one line, before anything runs."""

import json

import pytest
import yaml

from derta.commands import profiles
from derta.runs import CHECKOUT

PARAMS = CHECKOUT / "notebooks" / "params"
SMALL = yaml.safe_load((PARAMS / "small.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", sorted(PARAMS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_profile_is_complete(path):
    assert profiles.read_profile(path.stem)["model"]


def check(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"mine\.yaml") as error:
        profiles.check(path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("rto_dropout", 95, "less than 1"),
        ("rto_dropout", "much", "valid number"),
        ("arms", ["vanila"], "'vanila' is unknown; expected some of vanilla, "),
        ("arms", ["dpo", "vanilla"], "put vanilla before dpo"),
        ("arms", [], "at least 1 item"),
        ("arms", ["derta", "derta"], "is listed twice"),
        ("arms", "vanilla", "valid list"),
        ("seeds", 0, "valid list"),
        ("seeds", [-1], "greater than or equal to 0"),
        ("validation", {"directt": 6, "prefill": 6}, "'directt' is unknown; expected some of direct, "),
        ("validation", {}, "at least 1 item"),
        ("validation", {"direct": 0}, "greater than or equal to 1"),
        ("test", {"magic": 6}, "'magic' is unknown"),
        ("test", ["direct"], "valid dictionary"),
        ("close", 10_000, "there are only"),
        ("arms", ["vanilla", "derta", "derta_paper"], "'derta_paper' is unknown"),
        ("variants", {"derta": {"arm": "derta"}}, "a name of its own"),
        ("variants", {"mine": {"close": 3}}, "mine: its arm is None"),
        ("variants", {"mine": {"arm": "derta", "depth": 3}}, "mine: depth is 3; expected a number for some of triples"),
        ("variants", {"mine": {"arm": "derta", "close": 601}}, "variants: mine: close is 601, but there are only 600"),
        ("triples", -1, "greater than or equal to 1"),
        ("triples", "many", "valid integer"),
        ("triples", True, "valid integer"),
        ("depths", [-1], "greater than or equal to 0"),
        ("prefix_unit", "letters", "'tokens' or 'words'"),
        ("pair", {"behaviours": 2}, "Field required"),
        ("server", "vllm", "expected a program and its command, as: vllm serve"),
        ("pair", {"behaviours": 2, "streams": 2, "iterations": 2, "depth": 1}, "not permitted"),
        ("accelerate", "fsdp", "'fsdp2'"),
        ("sft", {"learning_rate": "fast"}, "learning_rate"),
        ("sft", {"learning_rat": 1e-3}, "learning_rat"),
        ("sft", {"learning_rate": -1.0}, "learning_rate"),
        ("sft", {"num_train_epochs": 3}, "num_train_epochs"),
        ("dpo", {"betta": 0.1}, "betta"),
        ("peft", {"use_peft": True, "lora_r": 0}, "lora_r"),
        ("peft", {"use_peft": True}, "frozen_layers is for full fine-tuning"),
        ("arms", ["derta"], "needs vanilla and derta"),
        ("sft", {"seed": 3}, "a seed belongs into seeds"),
        ("batch_size", 10, "no multiple of per_device_train_batch_size 8"),
    ],
)
def test_a_bad_value_is_named_in_one_line(tmp_path, name, value, said):
    message = check(tmp_path, yaml.safe_dump(SMALL | {name: value}))
    assert said in message
    assert name in message or "sft (with peft)" in message or "vanilla" in message


@pytest.mark.parametrize("profile", ["small", "study", "further"])
def test_the_settings_are_the_chosen_ones(profile):
    chosen = json.loads((CHECKOUT / "tools" / "choose.json").read_text(encoding="utf-8"))["setting"]
    values = profiles.read_profile(profile)
    assert {name: (values["sft"] | values)[name] for name in chosen} == chosen


def test_a_number_may_be_written_as_one_writes_it(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(SMALL).replace("learning_rate: 0.002", "learning_rate: 2e-3"), encoding="utf-8")
    assert "2e-3" in path.read_text(encoding="utf-8")
    assert profiles.check(path)["sft"]["learning_rate"] in ("2e-3", 2e-3)


def test_no_profile_inherits_a_value(tmp_path):
    for name in SMALL:
        message = check(tmp_path, yaml.safe_dump({k: v for k, v in SMALL.items() if k != name}))
        assert f"{name}: Field required" in message


@pytest.mark.parametrize("text", ["", "[]", "a: [", "model: \x01", b"\xff\xfe", "just words", "seeds:\t[0]\n\tarms: 1"])
def test_a_file_that_is_no_profile_is_named(tmp_path, text):
    assert check(tmp_path, text)


def test_a_value_that_nobody_knows_or_a_name_in_the_file_is_an_error(tmp_path):
    assert "profile: Extra inputs are not permitted" in check(tmp_path, yaml.safe_dump(SMALL | {"profile": "small"}))


def test_a_profile_that_is_not_there_is_named():
    with pytest.raises(FileNotFoundError, match=r"there is no profile 'none'; choose one of: .*small, smoke, study"):
        profiles.read_profile("none")
