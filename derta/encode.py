"""Texts → token ids of one model: rendered queries, responses, and the room left for a response in a row."""

from collections.abc import Sequence
from dataclasses import dataclass

from derta import chat
from derta.models import LM


@dataclass(frozen=True)
class DatasetSettings:
    """Settings of an arm's dataset; the defaults are those of the paper's full fine-tuning.

    Attributes:
        epochs: number of relabelled copies, written one after the other.
        rto_dropout: fraction of RTO labels to drop, drawn anew per epoch (the paper: 0.95 with full fine-tuning).
        max_length: maximum tokens per row. A response that does not fit is cut and the row is counted as cut; in a row
            with a harmful prefix the prefix is cut first, so that the safe response stays whole.
        prefix_unit: ``tokens`` draws k uniformly from 0 … |r̂| as in Eq. 2, as far as the row has room; ``words`` cuts
            between words and gives a third of the triples no prefix, as the released code does.
        batch_size: rows per optimiser step; rows are sorted by length within a step to save padding.
    """

    epochs: int = 2
    rto_dropout: float = 0.95
    max_length: int = 1024
    prefix_unit: str = "tokens"
    batch_size: int = 128
    seed: int = 0

    def __post_init__(self):
        if self.prefix_unit not in ("tokens", "words"):
            raise ValueError(f"prefix_unit is {self.prefix_unit!r}; expected 'tokens' or 'words'")
        if not 0 <= self.rto_dropout <= 1:
            raise ValueError(f"rto_dropout is {self.rto_dropout}; expected a share from 0 to 1")
        for name in ("epochs", "max_length", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 1 or more")


class LeftOut(Exception):
    """Raised if an instance cannot have a row; the message gives the reason."""


class Encoder:
    """Encodes texts as token ids of one model, each text only once."""

    def __init__(self, lm: LM, settings: DatasetSettings):
        self.lm, self.settings = lm, settings
        self.refusal_id, self.refusal_ids = lm.refusal_id(), lm.refusal_ids()
        self._turn_end = chat.turn_end(lm.tokenizer)
        self._known: dict[tuple[str, bool, bool], list[int]] = {}

    def prompt(self, query: str, plain: bool = False) -> list[int]:
        """Return the token ids of the rendered query; `plain` texts get no chat format."""
        return self._ids(query, True, plain)

    def response(self, text: str, *, finished: bool, plain: bool = False) -> list[int]:
        """Return the token ids of a response, with its end (see `end`) if it is `finished`."""
        return self._ids(text, False, plain) + [self.end(plain)] * finished

    def end(self, plain: bool = False) -> int:
        """Return the token that ends a response: what ends a turn, and for plain texts the end of sequence."""
        return self.lm.tokenizer.eos_token_id if plain else self._turn_end

    def _ids(self, text: str, prompt: bool, plain: bool) -> list[int]:
        key = (text, prompt, plain)
        if key not in self._known:
            if prompt:
                ids = self.lm.ids(self.lm.plain(text) if plain else self.lm.chat(text)) if text.strip() else []
            else:
                # The continuation of a plain text keeps the space before it.
                ids = self.lm.ids(text.rstrip() if plain else text.strip())
            if not ids:
                raise LeftOut("the prompt is empty" if prompt else "the response is empty")
            self._known[key] = ids
        return self._known[key]

    def room(self, prompt: Sequence[int]) -> int:
        """Return how many tokens a response to `prompt` may have.

        Raises:
            LeftOut: none.
        """
        length = self.settings.max_length
        if len(prompt) >= length:
            raise LeftOut(f"the prompt fills the maximum length of {length} tokens")
        return length - len(prompt)
