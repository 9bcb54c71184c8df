"""Adapters: their base model, wherever it is, and embeddings that are longer than the base's."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from derta import models
from derta.generate import user


@pytest.fixture
def make(tiny_folder, tmp_path):
    """Make an adapter of the tiny model, or of another base."""

    def make(name, *, base=tiny_folder, named=None, tokens=0, tokenizer=True, **saving):
        model, words = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
        if tokens:
            words.add_tokens(["[PAD]", *(f"[{i}]" for i in range(tokens - 1))])
            model.resize_token_embeddings(len(words))
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
        for part, weight in adapted.named_parameters():
            if "lora_B" in part:
                torch.nn.init.normal_(weight)
        adapted.save_pretrained(tmp_path / name, **saving)
        if tokenizer:
            words.save_pretrained(tmp_path / name)
        if named is not None:
            config = tmp_path / name / "adapter_config.json"
            config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": named}))
        return str(tmp_path / name), adapted.eval()

    return make


def load(name, **options):
    return models.load(name, dtype=torch.float32, device="cpu", **options)


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("tokens", [0, 1, 3])
def test_an_adapter_brings_the_embeddings_that_it_was_trained_with(make, tokens, trainable):
    folder, trained = make("authors", tokens=tokens)
    lm = load(folder, trainable=trainable)
    ids = torch.tensor([lm.ids("How can I paint a fence?")])
    with torch.no_grad():
        torch.testing.assert_close(lm.model(ids).logits, trained(ids).logits)
    assert lm.model.get_input_embeddings().num_embeddings == len(lm.tokenizer) == 1200 + tokens


def test_an_adapter_of_a_base_with_more_rows_than_tokens_makes_it_smaller(make, tiny_folder, tmp_path):
    padded = AutoModelForCausalLM.from_pretrained(tiny_folder)
    padded.resize_token_embeddings(1280)
    padded.save_pretrained(tmp_path / "padded")
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path / "padded")
    assert load(make("small", base=tmp_path / "padded", tokens=1)[0]).model.config.vocab_size == 1201
    assert load(make("plain", base=tmp_path / "padded")[0]).model.config.vocab_size == 1280


def test_new_tokens_without_their_embeddings_have_room(make):
    lm = load(make("bare", tokens=2, save_embedding_layers=False)[0])
    assert lm.model.get_input_embeddings().num_embeddings == 1202


@pytest.mark.parametrize(
    "named", ["/somewhere/else/Meta-Llama-3-8B-Instruct", "out/models/base", "no-one/no-model", ""]
)
def test_a_base_that_is_elsewhere_can_be_named(make, tiny_folder, named, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder, _ = make("moved", named=named)
    with pytest.raises((FileNotFoundError, ValueError), match=r"moved: an adapter.* name it: load\(.*base=…\)"):
        load(folder)
    lm = load(folder, base=str(tiny_folder))
    assert lm.name == folder
    assert len(lm.complete([user("Hi")], max_new_tokens=2)) == 1


@pytest.mark.parametrize("named", ["base", "models/base"])
def test_a_relative_base_is_found_beside_the_adapter(make, tiny_folder, tmp_path, monkeypatch, named):
    (tmp_path / "models").mkdir()
    (tmp_path / named).symlink_to(tiny_folder)
    folder, _ = make("models/relative", named=named)
    monkeypatch.chdir("/")
    assert load(folder).model.config.model_type == "llama"


def test_an_adapter_without_a_tokenizer_has_its_bases(make, tiny_folder):
    folder, _ = make("bare", tokenizer=False)
    lm = models.load_tokenizer(folder)
    assert (lm.name, lm.chat("Hi")) == (folder, models.load_tokenizer(str(tiny_folder)).chat("Hi"))


def test_another_base_is_another_model(make, tiny_folder, tmp_path):
    folder, _ = make("one")
    (tmp_path / "same").symlink_to(tiny_folder)
    plain, named, again = (
        models.load_tokenizer(folder, base=b) for b in ("", str(tiny_folder), str(tmp_path / "same"))
    )
    assert plain.fingerprint() != named.fingerprint() == again.fingerprint()
    with pytest.raises(ValueError, match="no adapter, so it has no base; leave base out"):
        load(str(tiny_folder), base=folder)
