"""A tiny Llama with a real tokenizer, in a folder of the hub's form: what the tests train and attack."""

import json
import os
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast, set_seed

from derta import corpus
from derta.commands import cli
from derta.generate import Completion
from derta.models import LM, load

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}{% if add_generation_prompt %} {% endif %}"
)


def make_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Train a small tokenizer of a family: byte-level BPE (Llama 3), metaspace BPE (Mistral) or WordPiece (BERT)."""
    # A fixed part of the corpus: what is appended later changes no test's model.
    texts = [text for b in corpus.behaviours()[:756] for text in (b.harmful, b.benign)]
    texts += [i.text for i in corpus.instructions("train")[:779]] + list(corpus.refusals("animal_abuse")) * 100
    specials = ["<pad>", "<|im_start|>", "<|im_end|>", "<unk>"]
    if kind == "byte-level":
        tokenizer, trainer = Tokenizer(models.BPE()), trainers.BpeTrainer
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        options = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    elif kind == "metaspace":
        tokenizer, trainer, options = Tokenizer(models.BPE(unk_token="<unk>")), trainers.BpeTrainer, {}
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
        tokenizer.decoder = decoders.Metaspace()
    else:
        tokenizer, trainer, options = Tokenizer(models.WordPiece(unk_token="<unk>")), trainers.WordPieceTrainer, {}
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(texts, trainer(vocab_size=1200, special_tokens=specials, **options))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<pad>",
        unk_token="<unk>",
    )
    fast.chat_template = CHATML if kind == "byte-level" else MISTRAL
    return fast


def make_model(folder: Path, architecture: str = "llama", kind: str = "byte-level", **config) -> Path:
    """A model folder: two layers of an architecture with random weights, and a tokenizer of a family."""
    tokenizer = make_tokenizer(kind)
    set_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(
            architecture,
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **config,
        )
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the file that takes longest, so that no worker waits for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_notebooks.py")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    """The folder of a tiny Llama."""
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def derta(tmp_path, monkeypatch, capsys):
    """Run ``derta`` in an empty folder: its status, and what it printed to stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DERTA_RUNS", str(tmp_path / "runs"))

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        return ended.value.code or 0, *capsys.readouterr()

    return run


@pytest.fixture
def killed_at_batch():
    """A context in which generation is killed when it comes to its n-th batch, which it must."""

    @contextmanager
    def killed(n: int):
        complete, calls = LM.complete, []

        def dies(*args, **options):
            calls.append(args)
            if len(calls) == n:
                raise KeyboardInterrupt
            return complete(*args, **options)

        with mock.patch.object(LM, "complete", dies), pytest.raises(KeyboardInterrupt):
            yield

    return killed


@pytest.fixture
def released_files() -> Path:
    """The local copy of the authors' released files that ``DERTA_RELEASED`` names."""
    if not os.environ.get("DERTA_RELEASED"):
        pytest.skip("DERTA_RELEASED is not set: the authors' released files are absent")
    return Path(os.environ["DERTA_RELEASED"]).expanduser()


@pytest.fixture
def tiny(tiny_folder):
    return load(str(tiny_folder), dtype=torch.float32)


class Scripted:
    """A backend whose answers a function of the prompt's text and the seed gives."""

    name, batched = "scripted", True

    def __init__(self, say):
        self.say, self.asked = say, []

    def fingerprint(self):
        return "scripted"

    def render(self, prompt):
        return json.dumps(prompt.messages) if prompt.messages else prompt.start

    def complete(self, prompts, *, seed=0, **decoding):
        self.asked += prompts
        texts = [self.say(prompt.messages, prompt.start, seed, i) for i, prompt in enumerate(prompts)]
        return [Completion(text, "stop", 9, 9) for text in texts]
