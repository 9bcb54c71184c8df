"""Profiles: one YAML file defines a whole run, and every value is checked before anything runs.

The training part is TRL's: `sft` holds fields of its `SFTConfig`, `dpo` of its `DPOConfig` and `peft` of its
`ModelConfig`, under their own names, so that any of their features takes one line.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from derta import settings
from derta.arms import ARMS
from derta.attacks import ATTACKS
from derta.published.prompts import with_sources
from derta.runs import CHECKOUT, PACKAGE

Count = Annotated[int, Field(ge=0, strict=True)]
Positive = Annotated[int, Field(ge=1, strict=True)]
# What a variant may have other than the profile's (`derta.material.embedded_material`).
MATERIAL = ("triples", "close", "twins", "plain", "instructions")


class PairBudget(BaseModel):
    """Limits of a PAIR search (`derta.searches.pair`)."""

    model_config = ConfigDict(extra="forbid")

    behaviours: Positive
    streams: Positive
    iterations: Positive


class AutoDANBudget(BaseModel):
    """Limits of an AutoDAN search (`derta.searches.autodan`)."""

    model_config = ConfigDict(extra="forbid")

    behaviours: Positive
    population: Annotated[int, Field(ge=2, strict=True)]
    generations: Count


class LongTerm(BaseModel):
    """What notebook 5 trains: with how many checkpoints to tune once more, and how to tune further on innocent data."""

    model_config = ConfigDict(extra="forbid")

    checkpoints: Annotated[int, Field(ge=2, strict=True)]
    steps: Annotated[int, Field(ge=4, strict=True)]
    batch_size: Positive
    learning_rate: Annotated[float, Field(gt=0)]


class Profile(BaseModel):
    """The values of a profile; each notebook takes the ones that it has a parameter for.

    Attributes:
        model: a name of `derta.registry.MODELS`, a hub id or a folder.
        arms, seeds: one model is trained for each arm and seed. A seed draws the material, the prefix lengths, the
            label dropout and the order of the rows.
        data: ``embedded``, or ``released`` for the authors' own training files.
        triples, close, twins, plain, instructions: see `derta.material.embedded_material`.
        variants: further arms under names of their own, each with the `arm` that it is, and with what its material has
            other than the profile's: some of `MATERIAL`.
        weaker: the model whose answers to the helpful prompts `dpo` rejects, for released data, which have none.
        epochs, rto_dropout, max_length, prefix_unit, batch_size: see `derta.encode.DatasetSettings`.
        sft, dpo, peft, frozen_layers: see `derta.training.train`; `dpo` and `peft` add to `sft`.
        accelerate: a file in ``notebooks/params/accelerate``, or empty for one process.
        validation: the attacks on the validation split (names of `derta.attacks.ATTACKS`), each with its number of
            behaviours at most.
        test: the same for the test split.
        published: the same for published questions, by source (`derta.published.prompts.SOURCES`).
        depths: how many tokens are prefilled, in the attacks that prefill a response.
        pair, autodan: the budgets of the searches; null skips a search.
        attacker: the model that writes PAIR's messages; empty for the untuned model.
        server: a command of vLLM that answers the attacks instead of weights in process (`derta.commands.serving`).
        max_new_tokens, generation_batch_size: limits for the answers.
        depth_positions: number of response positions for the refusal depth.
        questions: how many questions of each task of ``derta/tasks`` (a name without its ``derta_``).
        long_term: what is trained to see helpfulness and safety come and go; null skips it.
    """

    model_config = ConfigDict(extra="forbid")

    model: Annotated[str, Field(min_length=1)]
    arms: Annotated[list[str], Field(min_length=1)]
    seeds: Annotated[list[Count], Field(min_length=1)]
    data: Literal["embedded", "released"]
    triples: Positive
    close: Count | None
    twins: Count
    plain: Count
    instructions: Count
    variants: dict[str, dict[str, Count | str | None]]
    weaker: str
    epochs: Positive
    rto_dropout: Annotated[float, Field(ge=0, lt=1)]
    max_length: Annotated[int, Field(ge=16, strict=True)]
    prefix_unit: Literal["tokens", "words"]
    batch_size: Positive
    sft: dict[str, Any]
    dpo: dict[str, Any]
    peft: dict[str, Any]
    frozen_layers: Count
    accelerate: Literal["", "ddp", "fsdp2", "deepspeed_zero3"]
    validation: Annotated[dict[str, Positive], Field(min_length=1)]
    test: dict[str, Positive]
    published: dict[str, dict[str, Positive]]
    depths: Annotated[list[Count], Field(min_length=1)]
    pair: PairBudget | None
    autodan: AutoDANBudget | None
    attacker: str
    server: str
    max_new_tokens: Positive
    generation_batch_size: Positive
    depth_positions: Positive
    questions: dict[str, Positive]
    long_term: LongTerm | None

    @field_validator("variants")
    @classmethod
    def _of_known_arms(cls, values: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, variant in values.items():
            if name in ARMS:
                raise ValueError(f"{name!r} is an arm; give the variant a name of its own")
            if variant.get("arm") not in ARMS:
                raise ValueError(f"{name}: its arm is {variant.get('arm')!r}; expected one of {', '.join(ARMS)}")
            for key, value in variant.items():
                if key != "arm" and (key not in MATERIAL or isinstance(value, str)):
                    raise ValueError(f"{name}: {key} is {value!r}; expected a number for some of {', '.join(MATERIAL)}")
        return values

    @field_validator("arms", "seeds", "depths")
    @classmethod
    def _once(cls, values: list) -> list:
        for value in values:
            if values.count(value) > 1:
                raise ValueError(f"{value!r} is listed twice")
        return values

    @field_validator("validation", "test")
    @classmethod
    def _attacks(cls, values: dict[str, int]) -> dict[str, int]:
        for name in values:
            if name not in ATTACKS:
                raise ValueError(f"{name!r} is unknown; expected some of {', '.join(ATTACKS)}")
        return values

    @field_validator("published")
    @classmethod
    def _published(cls, values: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
        for source, asked in values.items():
            for name in cls._attacks(asked):
                with_sources(ATTACKS[name], [source])
        return values

    @field_validator("questions")
    @classmethod
    def _tasks(cls, values: dict[str, int]) -> dict[str, int]:
        known = sorted(path.stem.removeprefix("derta_") for path in (PACKAGE / "tasks").glob("*.yaml"))
        for name in values:
            if name not in known:
                raise ValueError(f"{name!r} is unknown; expected some of {', '.join(known)}")
        return values

    @model_validator(mode="after")
    def _trainable(self) -> "Profile":
        if unknown := [arm for arm in self.arms if arm not in ARMS and arm not in self.variants]:
            raise ValueError(f"{unknown[0]!r} is unknown; expected some of {', '.join((*ARMS, *self.variants))}")
        if "dpo" in self.arms and "vanilla" not in self.arms[: self.arms.index("dpo")]:
            raise ValueError("dpo starts from vanilla: put vanilla before dpo in arms")
        if not {"vanilla", "derta"} <= set(self.arms):
            raise ValueError("arms needs vanilla and derta: the notebooks compare them")
        if self.data == "released" and "dpo" in self.arms and not self.weaker:
            raise ValueError("dpo rejects answers of a weaker model, which released data lack: name one in weaker")
        if self.data == "embedded" and self.weaker:
            raise ValueError("weaker is for released data; the embedded corpus has weaker answers of its own")
        if self.data == "released" and self.variants:
            raise ValueError("variants draw other material from the embedded corpus, and data is released")
        for name, changes in {"": {}, **self.variants}.items():
            close, triples = (changes.get(key, getattr(self, key)) for key in ("close", "triples"))
            if close is not None and close > triples:
                where = f"variants: {name}: " if name else ""
                raise ValueError(f"{where}close is {close}, but there are only {triples} triples")
        asked = {name for names in (self.validation, self.test, *self.published.values()) for name in names}
        if self.server and len(self.server.split()) < 2:
            raise ValueError(f"server is {self.server!r}; expected a program and its command, as: vllm serve")
        if self.server and (weights := [name for name in asked if "guide" in ATTACKS[name].decoding]):
            raise ValueError(f"{weights[0]} needs weights in process: leave it out, or server empty")
        if "seed" in self.sft | self.dpo:
            raise ValueError("a seed belongs into seeds, not into sft or dpo")
        for section, pairs, values in (("sft", False, self.sft), ("dpo", True, self.sft | self.dpo)):
            try:
                settings.configure(pairs, values | self.peft)
            except ValueError as error:
                raise ValueError(f"{section} (with peft): {error}") from None
        if self.frozen_layers and self.peft.get("use_peft"):
            raise ValueError("frozen_layers is for full fine-tuning, peft freezes all layers: leave one out")
        rows = self.sft.get("per_device_train_batch_size", 8)
        if isinstance(rows, int) and rows > 0 and self.batch_size % rows:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of per_device_train_batch_size {rows}")
        return self


def read_profile(profile: str) -> dict[str, Any]:
    """Read the values of ``notebooks/params/<profile>.yaml``.

    Raises:
        FileNotFoundError: there is no such profile, or no checkout.
        ValueError: a value is missing, unknown, of another type or out of range; one line that names the file.
    """
    if CHECKOUT is None:
        raise FileNotFoundError("the notebooks are not part of the installed package: run this in a clone of derta")
    path = CHECKOUT / "notebooks" / "params" / f"{profile}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise FileNotFoundError(f"there is no profile {profile!r}; choose one of: {known}")
    values = check(path)
    if (folder := Path(values["model"]).expanduser()).is_dir():
        values["model"] = str(folder.absolute())  # the notebooks run in another folder
    return values


def read_yaml(path: Path) -> dict[str, Any]:
    """Read the names and values of a YAML file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML in UTF-8 ({' '.join(str(error).split())})") from None
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise ValueError(f"{path}: holds no names with values; notebooks/params/small.yaml shows the form")
    return values


def check(path: Path) -> dict[str, Any]:
    """Check and return the values of a profile's file; see `read_profile`."""
    values = read_yaml(path)
    try:
        return Profile(**values).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"])) or "the profile"
        shown = "" if first["type"] in ("missing", "extra_forbidden") or not first["loc"] else f" is {first['input']!r}"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ValueError(f"{path}: {name}{shown}: {first['msg'].removeprefix('Value error, ')}{more}") from None
