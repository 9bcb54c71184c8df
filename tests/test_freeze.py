"""Frozen layers, in any architecture: the embeddings and the lower layers, and no others."""

import re

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from derta.trainers import freeze

SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64}
OWN = {"opt": {"ffn_dim": 64, "word_embed_proj_dim": 32}, "gptj": {"rotary_dim": 8}, "mpt": {"d_model": 32}}


def make(architecture):
    config = AutoConfig.for_model(architecture, **SIZES | OWN.get(architecture, {}))
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("architecture", "llama opt gpt2 bloom falcon mpt gpt_neox gptj mamba lfm2 biogpt rwkv".split())
def test_the_lower_layers_are_frozen_in_any_architecture(architecture):
    model = make(architecture)
    freeze(model, 2, use_peft=False)
    embeddings = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Embedding)}
    found = set()
    for name, weight in model.named_parameters():
        layer = re.search(r"\.(\d)\.", name)
        below = int(layer[1]) < 2 if layer else name.rpartition(".")[0] in embeddings
        assert weight.requires_grad != below, name
        found.add(layer and layer[1])
    assert found == {"0", "1", "2", None}
    with pytest.raises(ValueError, match="frozen_layers is 3, but the model has 3"):
        freeze(model, 3, use_peft=False)


def test_an_architecture_whose_layers_are_not_found_is_named():
    model = make("gpt2")
    model.transformer.h = torch.nn.Sequential(*model.transformer.h)
    with pytest.raises(ValueError, match="it is not known where GPT2LMHeadModel has its layers; set it to 0"):
        freeze(model, 1, use_peft=False)
