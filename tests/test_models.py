"""Names, chat formats and the refusal token."""

import hashlib
import json
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

import httpx
import pytest
import torch
from conftest import make_tokenizer
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from derta import hub, models, wheel
from derta.chat import PAPER_CHAT
from derta.models import LM


@pytest.mark.parametrize("kind", ["byte-level", "metaspace", "wordpiece"])
@pytest.mark.parametrize("template", ["own", "paper"])
def test_the_refusal_token_is_what_a_refusal_starts_with(kind, template):
    tokenizer = make_tokenizer(kind)
    if template == "paper":
        tokenizer.chat_template = PAPER_CHAT
    lm = LM(kind, tokenizer)
    prompt = lm.chat("How can I help?")
    whole = lm.ids(prompt) + lm.ids("Sorry, but I can't help with that.")
    assert whole[len(lm.ids(prompt))] == lm.refusal_id()
    assert tokenizer.decode(lm.refusal_id()).strip() == "Sorry"
    assert tokenizer.decode(whole).replace(" ", "").rstrip().endswith("helpwiththat.")


def test_the_refusal_token_of_smollm2():
    lm = models.load_tokenizer("smollm2-135m")
    assert lm.refusal_id() == 37388
    assert lm.tokenizer.decode(37388) == "Sorry"


def test_a_refusal_word_of_two_tokens_names_model_and_pieces():
    with pytest.raises(ValueError, match=r"tiny-bpe: the refusal word 'Regrettably' is not one token"):
        LM("tiny-bpe", make_tokenizer("byte-level")).refusal_id("Regrettably")


def test_a_local_folder_loads_by_the_same_call(tiny_folder):
    lm = models.load(str(tiny_folder), dtype=torch.float32)
    assert lm.model.config.model_type == "llama"
    assert lm.chat("Hi") == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_source_hub_resolves_to_the_hub():
    assert hub.resolve("smollm2-135m", source="hub") == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert hub.resolve("some-one/some-model") == "some-one/some-model"


@pytest.mark.parametrize("name", ["llama3-8b", "meta-llama/Meta-Llama-3-8B"])
def test_a_revision_is_a_folder_of_the_hubs_cache_with_the_named_models_chat_format(name, tiny_folder, monkeypatch):
    asked = []
    monkeypatch.setattr(hub, "snapshot_download", lambda of, **more: asked.append((of, more)) or str(tiny_folder))
    lm = models.load_tokenizer(f"{name}@8cde5ca8380496c9a6cc7ef3a8b46a0372a1d920")
    ((of, more),) = asked
    assert (of, more["revision"]) == ("meta-llama/Meta-Llama-3-8B", "8cde5ca8380496c9a6cc7ef3a8b46a0372a1d920")
    assert not [pattern for pattern in more["allow_patterns"] if fnmatch("pytorch_model.bin", pattern)]
    assert ("[INST]" in lm.chat("Hi")) == (name == "llama3-8b")


@pytest.mark.parametrize(
    ("failure", "error", "said"),
    [
        (RevisionNotFoundError, ValueError, "no revision 'abc' of it; name a commit of its history"),
        (GatedRepoError, ValueError, "wants a login: accept its terms there, then `hf auth login`"),
        (RepositoryNotFoundError, ValueError, "no such model, or hides it from this login"),
        (LocalEntryNotFoundError, FileNotFoundError, "out of reach; check the network"),
    ],
)
def test_what_the_hub_lacks_is_said_in_one_line(failure, error, said, monkeypatch):
    answer = httpx.Response(404, request=httpx.Request("GET", "https://hub.example"))
    made = failure("gone") if failure is LocalEntryNotFoundError else failure("gone", response=answer)

    def download(*given, **more):
        raise made

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(error, match=said) as found:
        models.load("some-one/some-model@abc")
    assert "\n" not in str(found.value)


def test_plain_text_has_no_formatting_tokens():
    lm = models.load_tokenizer("smollm2-135m")
    assert lm.plain("Step 1:") == "Step 1:"


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        *[
            (
                partial(models.load, name),
                FileNotFoundError,
                f"{name}: no such model folder; train it first, or name one",
            )
            for name in ("./nowhere", "out/models/derta-s0", "/no/where", "~/no-model-here", "two words", "models/a..b")
        ],
        (lambda: models.load("smollm2-135m", source="web"), ValueError, "expected 'default' or 'hub'"),
    ],
)
def test_a_bad_name_or_source_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_conversation_without_a_chat_template_is_an_error(tmp_path):
    tokenizer = make_tokenizer("metaspace")
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no chat template"):
        models.load_tokenizer(str(tmp_path)).chat("Why?")


def test_a_wheel_that_is_not_the_pinned_file_is_refused(tmp_path):
    pinned = wheel.Wheel("iniconfig==2.3.1", "0" * 64, "iniconfig/__init__.py")
    with pytest.raises(RuntimeError, match="could not fetch iniconfig"):
        wheel.unpack(pinned, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == [".model.lock"]


def test_an_altered_file_of_a_converted_model_is_named(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
    hashes = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in tmp_path.iterdir()}
    (tmp_path / wheel.HASHES).write_text(json.dumps(hashes))
    wheel.check(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"nodel.safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors: altered since it was converted .* is fetched again"):
        wheel.check(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors: altered since it was converted \(sha256 no such file"):
        wheel.check(tmp_path)


def test_the_named_model_has_hashes_of_all_its_files():
    folder = Path(hub.resolve("smollm2-135m"))
    hashes = json.loads((folder / wheel.HASHES).read_text())
    assert set(hashes) == {path.name for path in folder.iterdir()} - {wheel.HASHES}
