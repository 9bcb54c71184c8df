"""The class `Attack`: how an attack asks, how the answer is decoded and which parts of it are judged."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from derta import requests
from derta.generate import Backend, Case, Prompt
from derta.parts import Parts, whole
from derta.requests import Request


@dataclass(frozen=True)
class Attack:
    """An attack together with its form-matched benign control: the same prompts for the benign twins.

    Attributes:
        name: its name in files and tables.
        label: its name in tables and figures.
        prompt: a request → its prompt. An attack with `depths` also gets the depth and the target, one with a `search`
            gets the target and a path for its log.
        requests: all held-out requests that the attack takes: the harmful ones, or their benign twins (True).
        limit: at most this many of them; None for as many as the other attacks.
        fits: whether a request can take the attack's form; the others are asked in a makeshift form, and counted.
        forbidden: the words that the decoding may not produce.
        decoding: how the decoding differs from that of the other attacks, as arguments of `Backend.complete`.
        spans: a completion and the rendered prompt → the parts of the completion that are judged (see `derta.parts`).
        depths: how many tokens of a response come before the model's own words, one case for each; where no tokens
            do, the numbers of several tries.
        search: the settings (as JSON-able values) that determine the prompts of an attack that searches against the
            target; None for an attack that does not search.
        scored: whether P(refusal) of the next token is measured too, for a model in process (`derta.depth`).
        innocent: nothing is attacked: the requests are harmless and have no control.
    """

    name: str
    label: str
    prompt: Callable[..., Prompt]
    requests: Callable[[bool], Sequence[Request]] = requests.held_out
    limit: int | None = None
    fits: Callable[[Request], bool] = lambda request: True
    forbidden: Callable[[], Sequence[str]] = field(default=tuple)
    decoding: dict[str, Any] = field(default_factory=dict)
    spans: Callable[[str, str], Parts] = whole
    depths: tuple[int, ...] = ()
    search: dict[str, Any] | None = None
    scored: bool = False
    innocent: bool = False

    @property
    def needs_model(self) -> bool:
        """Whether the prompts depend on the model that is attacked (on its tokenizer, for depths)."""
        return bool(self.depths) or self.search is not None

    def cases(
        self,
        asked: Sequence[Request],
        *,
        control: bool = False,
        target: Backend | None = None,
        logs: Path | None = None,
    ) -> list[Case]:
        """Make a case for each request, and for each depth if the attack has several.

        Args:
            asked: the requests; the benign twins if `control`.
            target: the model that is attacked, for an attack that needs it.
            logs: the folder in which a search keeps one file per request, from which it resumes after being killed.

        Raises:
            ValueError: the attack needs a target, or a folder for its logs.
        """
        if self.needs_model and target is None:
            raise ValueError(f"{self.name} depends on the model that is attacked: give it as target")
        if makeshift := sum(self.name not in request.prompts and not self.fits(request) for request in asked):
            name = file_name(self.name, control)
            tqdm.write(f"{name}: {makeshift} of {len(asked)} requests are put in a makeshift form", file=sys.stderr)
        if self.depths:
            return [self._case(r, control, self.prompt(r, d, target), d) for d in self.depths for r in asked]
        if self.search is not None:
            if logs is None:
                raise ValueError(f"{self.name} searches: give it a folder for its logs")
            bar = tqdm(asked, desc=file_name(self.name, control), mininterval=5)
            return [self._case(r, control, self.prompt(r, target, logs / f"{r.id}.jsonl")) for r in bar]
        return [self._case(r, control, r.prompts.get(self.name) or self.prompt(r)) for r in asked]

    def _case(self, request: Request, control: bool, prompt: Prompt, depth: int = 0) -> Case:
        id = f"{request.id}/{file_name(self.name, control)}" + (f"/{depth}" if self.depths else "")
        return Case(id, request.id, self.name, control, depth, prompt)


def file_name(attack: str, control: bool) -> str:
    """Return the name of an attack, or of its control, in file names and in ``asr.csv``."""
    return f"{attack}_benign" if control else attack
