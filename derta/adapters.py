"""LoRA adapters: their base model, and the size of the embeddings that they were trained with."""

from pathlib import Path
from typing import Any

from peft import PeftConfig, load_peft_weights
from transformers.utils import find_adapter_config_file


def base_of(model: str, given: str = "") -> str:
    """Return the base model of an adapter (a folder or hub id): `given`, or the one that it names.

    A relative path counts from the current folder, or from one of those that the adapter lies in.

    Returns:
        A name, hub id or folder; empty for a model that is no adapter.

    Raises:
        ValueError: `given` for a model that is no adapter, or an adapter that names none.
    """
    if not find_adapter_config_file(model):
        if given:
            raise ValueError(f"{model}: no adapter, so it has no base; leave base out")
        return ""
    base = given or PeftConfig.from_pretrained(model).base_model_name_or_path
    if not base:
        raise ValueError(f"{model}: an adapter that names no base model; name it: load(…, base=…)")
    places = [Path(), *Path(model).resolve().parents]
    return next((str(place / base) for place in places if (place / base / "config.json").is_file()), base)


def resize(model: Any, adapter: str, tokens: int) -> None:
    """Resize the embeddings of a base model to those that its adapter was trained with.

    The authors' trainer adds a padding token, so that their adapters hold longer embeddings than their base.

    Args:
        tokens: the size of the adapter's vocabulary, for an adapter that does not hold the embeddings.
    """
    embeddings = model.get_input_embeddings()
    (name,) = [name for name, module in model.named_modules() if module is embeddings]
    weights = load_peft_weights(adapter, device="cpu")
    names = (f"base_model.model.{name}.weight", f"base_model.model.{name}.base_layer.weight")
    size = next((len(weights[n]) for n in names if n in weights), max(tokens, embeddings.num_embeddings))
    if size != embeddings.num_embeddings:
        model.resize_token_embeddings(size)
