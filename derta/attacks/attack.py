"""What an attack is: one object that says what is asked, how the answer is decoded and what of it is judged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from derta import judge, requests
from derta.generate import Backend, Case, Prompt
from derta.requests import Request


@dataclass(frozen=True)
class Attack:
    """An attack, and with it its form-matched benign control: the same prompts for the benign twins.

    Attributes:
        name: in files and tables.
        label: in figures, where it may be broken into lines.
        prompt: a request → its prompt. An attack with `depths` gets the depth and the target as well, one with a
            `search` gets the target and a path for its log.
        requests: all the held-out requests that it takes: the harmful ones, or (True) their benign twins.
        limit: how many of them it takes at most; None for as many as any other attack.
        forbidden: the words that the decoding may not produce.
        read: a completion → the parts that are judged, each on its own (see `derta.judge`).
        depths: how many tokens of a response stand before the model's own words, one case for each.
        search: what the prompts of an attack that searches against the target depend on (its settings, as JSON-able
            values); None for an attack that does not search.
        innocent: nothing is attacked: the requests are harmless, and have no control.
    """

    name: str
    label: str
    prompt: Callable[..., Prompt]
    requests: Callable[[bool], Sequence[Request]] = requests.held_out
    limit: int | None = None
    forbidden: Callable[[], Sequence[str]] = field(default=tuple)
    read: Callable[[str], judge.Parts] = judge.whole
    depths: tuple[int, ...] = ()
    search: dict[str, Any] | None = None
    innocent: bool = False

    @property
    def needs_model(self) -> bool:
        """Whether the prompts depend on the model that is attacked (its tokenizer, for depths)."""
        return bool(self.depths) or self.search is not None

    def cases(
        self,
        asked: Sequence[Request],
        *,
        control: bool = False,
        target: Backend | None = None,
        logs: Path | None = None,
    ) -> list[Case]:
        """A case for each request, and for each depth where the attack has several.

        Args:
            asked: the requests; of the benign twins where `control`.
            target: the model that is attacked, for an attack that needs it.
            logs: the folder in which a search keeps a file per request, from which it goes on if it was killed.

        Raises:
            ValueError: the attack needs a target, or a folder for its logs.
        """
        if self.needs_model and target is None:
            raise ValueError(f"{self.name} depends on the model that is attacked: give it as target")
        if self.depths:
            return [self._case(r, control, self.prompt(r, d, target), d) for d in self.depths for r in asked]
        if self.search is not None:
            if logs is None:
                raise ValueError(f"{self.name} searches: give it a folder for its logs")
            bar = tqdm(asked, desc=file_name(self.name, control), mininterval=5)
            return [self._case(r, control, self.prompt(r, target, logs / f"{r.id}.jsonl")) for r in bar]
        return [self._case(r, control, self.prompt(r)) for r in asked]

    def _case(self, request: Request, control: bool, prompt: Prompt, depth: int = 0) -> Case:
        id = f"{request.id}/{file_name(self.name, control)}" + (f"/{depth}" if self.depths else "")
        return Case(id, request.id, self.name, control, depth, prompt)


def file_name(attack: str, control: bool) -> str:
    """The name of an attack, or of its control, in file names and in ``asr.csv``."""
    return f"{attack}_benign" if control else attack
