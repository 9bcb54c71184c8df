"""The commands that ask models, or read their answers: attack, judge and audit."""

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from derta.judges.endpoint import Endpoint
    from derta.requests import Request

Model = Annotated[str, typer.Option(help="A name of derta.registry.MODELS, a hub id or a folder; a server's own name.")]
BaseUrl = Annotated[
    str, typer.Option(help="Address of a server that speaks OpenAI's protocol, as http://HOST:8000/v1.")
]
Temperature = Annotated[bool, typer.Option(help="Send a temperature; a server's model may take only its default.")]
Questions = Annotated[
    Path | None, typer.Option(help="A CSV file of your own questions (column question) instead of the corpus's.")
]
Controls = Annotated[
    Path | None, typer.Option(help="A CSV file of the benign twins of these questions, with the same ids.")
]
Sources = Annotated[
    str, typer.Option(help="Published questions instead, with commas: derta.published.prompts.SOURCES lists them.")
]


def server(model: str, base_url: str, temperature: bool) -> "Endpoint | None":
    """Return the model on the server, if an address is given."""
    from derta.judges.endpoint import Endpoint

    if not temperature and not base_url:
        raise ValueError("--no-temperature belongs to --base-url")
    return Endpoint(model, base_url, temperature=temperature) if base_url else None


def read(questions: Path | None, controls: Path | None, sources: str) -> "list[list[Request] | None]":
    """Return your own questions and their twins, if there are any."""
    from derta.requests import read_questions

    if questions and sources:
        raise ValueError("--sources and --questions both say what is asked; give one of them")
    if controls and not questions:
        raise ValueError("--controls are the twins of --questions; give these too")
    return [read_questions(path) if path else None for path in (questions, controls)]


def attack(
    model: Annotated[str, typer.Argument(help="A name, hub id or folder; with --base-url, the server's own name.")],
    folder: Annotated[Path, typer.Argument(help="Where completions and verdicts go.")],
    attacks: Annotated[
        str, typer.Option(help="Names with commas between them; derta.ATTACKS lists them.")
    ] = "direct,prefill,completing,role_play,code_attack,self_cipher",
    questions: Questions = None,
    controls: Controls = None,
    sources: Sources = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Requests per attack, and source, at most.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer at most.")] = 256,
    batch_size: Annotated[int, typer.Option(min=1, help="Answers at a time.")] = 32,
    label: Annotated[str, typer.Option(help="The model's name in the folder; derta.verdicts reads ARM-sSEED.")] = "",
    base_url: BaseUrl = "",
    vllm: Annotated[
        str,
        typer.Option("--server", help="A command of vLLM to start for the model, as: vllm serve (see docs/scale.md)."),
    ] = "",
    temperature: Temperature = True,
    prices: Annotated[
        tuple[float, float] | None,
        typer.Option(help="US dollars for a million tokens of prompts, and of answers, on the server."),
    ] = None,
    budget: Annotated[float, typer.Option(min=0, help="US dollars at which to stop; needs --prices.")] = 0,
) -> None:
    """Attack a model, judge its answers, and print refusals and ASR as CSV.

    On a server with --prices, the number of requests and their highest price are shown before, and --budget stops the
    run before it is exceeded. Every answer is kept, and the same command goes on from there.
    """
    from derta import evaluate
    from derta.attacks import find
    from derta.commands import serving

    own, twins = read(questions, controls, sources)
    chosen = [find(name) for name in attacks.split(",")]
    most: Any = limit
    if sources:
        from derta.published.prompts import with_sources

        names = sources.split(",")
        chosen, most = [with_sources(one, names) for one in chosen], dict.fromkeys(names, limit)
    if vllm and base_url:
        raise ValueError("--server starts a server, and --base-url asks one that runs; give one of them")
    target: Any = server(model, base_url, temperature) or model
    if prices is not None:
        if not base_url:
            raise ValueError("--prices belongs to --base-url")
        from derta.judges.budget import Priced

        target = Priced(target, prices, budget)
        asked = [
            (case.prompt, one.decoding.get("max_new_tokens", max_new_tokens))
            for one in chosen
            for control in ((False,) if one.innocent else (False, True))
            for case in one.cases(
                evaluate.chosen_requests(one, control, own, twins, most) or (), control=control, target=target
            )
        ]
        print(target.announce(asked), file=sys.stderr)
    elif budget:
        raise ValueError("--budget needs --prices")
    with serving.loaded(model, vllm, folder / "logs" / "server.txt") if vllm else nullcontext(target) as asked_of:
        table = evaluate.attack(
            asked_of,
            chosen,
            folder,
            label,
            requests=own,
            controls=twins,
            limit=most,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
        )
    table.to_csv(sys.stdout, index=False, float_format="%.1f")


def judge(
    folder: Annotated[Path, typer.Argument(help="The folder of a run, with completions/<model>/.")],
    kind: Annotated[str, typer.Option(help="rubric, llama_guard or harmbench.")],
    model: Model,
    base_url: BaseUrl = "",
    temperature: Temperature = True,
    questions: Questions = None,
    controls: Controls = None,
    sources: Sources = "",
    harmbench: Annotated[
        Path | None, typer.Option(help="A clone of HarmBench's repository, for its prompt, instead of the network.")
    ] = None,
) -> None:
    """Let a model judge the completions of a run, and print how often the rule judge agrees, as CSV."""
    from derta import models
    from derta.judges import frames, graders

    frames.check_kind(kind)
    if harmbench and kind != "harmbench":
        raise ValueError("--harmbench belongs to --kind harmbench")
    classifier = frames.classifier_prompt(harmbench) if kind == "harmbench" else ""
    backend = server(model, base_url, temperature) or models.load(model)
    own, twins = read(questions, controls, sources)
    names = sources.split(",") if sources else []
    options: dict[str, Any] = {"requests": own, "controls": twins, "sources": names, "classifier": classifier}
    table = graders.judge_run(backend, kind, folder, **options)
    table.to_csv(sys.stdout, index=False)


def audit(
    root: Annotated[Path, typer.Option(help="The folder that holds the authors' released files.")],
    table: Annotated[
        str,
        typer.Argument(
            help="audit (ASR, accuracy and over-refusal), score (ASR), helpfulness, positions (of refusals), late "
            "(what stands before late ones), categories (of harm), or gpt4 (DeRTa against GPT-4)."
        ),
    ] = "audit",
) -> None:
    """Score the authors' released outputs again, and print a table as CSV.

    Files left out, with the reason, and an error for every file that does not match its name go to stderr; after an
    error the exit status is 1.
    """
    from derta.audit import score

    if not score.report(table, root):
        raise typer.Exit(1)
