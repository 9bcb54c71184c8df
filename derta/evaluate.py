"""Attacks → completions → verdicts → tables, on behaviours and phrasings never trained on."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from derta import attacks, decode, generate, stats
from derta.attacks import prefill
from derta.corpus import Request, behaviours, borderline, conversations, instructions, phrasings, responses
from derta.generate import Backend
from derta.judge import judge
from derta.runs import DATA, digest, made_from, read_jsonl, to_jsonl, write_atomically, write_csv


def requests(name: str, limit: int) -> list[Request]:
    """At most `limit` held-out requests of an attack name, spread evenly over the file and so over the categories.

    A behaviour and its benign twin share position and phrasing, so that an attack and its control are paired.
    """
    if name == "borderline":
        chosen = list(borderline())
    elif name == "helpful":
        chosen = [Request(i.id, i.kind, i.text, i.text) for i in instructions("test")]
    else:
        forms, benign = phrasings("test"), name.endswith(attacks.BENIGN)
        asked = {b.id: (b, b.benign if benign else b.harmful) for b in behaviours("test")}
        chosen = [
            Request(b.id, b.category, do, forms[i % len(forms)].replace("{do}", do))
            for i, (b, do) in enumerate(asked.values())
        ]
        if attacks.base(name) == "multi_turn":
            chosen = [
                Request(b.id, b.category, do, c.benign if benign else c.harmful, turns=c.turns)
                for c in conversations()
                for b, do in [asked[c.behaviour_id]]
            ]
        elif attacks.base(name) == attacks.DEPTH:
            chosen = [
                Request(b.id, b.category, do, row.prompt, response=row.response)
                for row in responses("benign-test" if benign else "harmful-test")
                for b, do in [asked[row.behaviour_id]]
            ]
    n = min(limit, len(chosen))
    return [chosen[i * len(chosen) // n] for i in range(n)]


def attack(
    backend: Backend,
    names: Sequence[str],
    folder: Path,
    *,
    limit: int,
    max_new_tokens: int,
    batch_size: int,
    depths: Sequence[int] = prefill.DEPTHS,
    depth_limit: int | None = None,
    searches: Mapping[str, Any] | None = None,
) -> None:
    """Run attacks (and controls) against a model into ``folder/<name>.jsonl``, and judge each into the folder's twin
    under ``verdicts/``. Completions of another model, or made in another way, are removed first.

    Args:
        limit: requests per attack.
        depths: of ``prefill_depth``, which asks `depth_limit` requests at each (by default `limit`).
        searches: the settings of ``pair`` and ``autodan``, by these names; the searches are logged into the folder's
            twin under ``searches/``, and have a limit of their own.
    """
    inputs = {"model": backend.fingerprint(), "limit": limit, "max_new_tokens": max_new_tokens, "batch": batch_size}
    if any(attacks.base(name) == attacks.DEPTH for name in names):
        inputs |= {"depths": list(depths), "depth_limit": depth_limit}
    code = [Path(module.__file__) for module in (generate, decode)]
    inputs["code"] = digest(*code, Path(attacks.__file__).parent, DATA)
    made_from(folder, inputs)
    for name in names:
        path = folder / f"{name}.jsonl"
        settings = (searches or {}).get(attacks.base(name))
        own = depth_limit if attacks.base(name) == attacks.DEPTH else settings and settings.behaviours
        asked = requests(name, min(limit, own or limit))
        logs = folder.parent.parent / "searches" / folder.name / name
        if settings:
            made_from(logs, inputs | {"search": digest(_facts(settings))})
            if not any(logs.glob("*.jsonl")):
                path.unlink(missing_ok=True)
        cases = attacks.cases(name, asked, backend, depths=depths, settings=settings, logs=logs)
        options = {"max_new_tokens": max_new_tokens, "batch_size": batch_size} | attacks.decoding(name)
        generate.run(backend, cases, path, **options)
        write_verdicts(path, folder.parent.parent / "verdicts" / folder.name / path.name, asked)


def _facts(settings: Any) -> dict[str, Any]:
    """The settings of a search, the models among them by their fingerprints."""
    return {k: v.fingerprint() if hasattr(v, "fingerprint") else v for k, v in vars(settings).items()}


def write_verdicts(completions: Path, verdicts: Path, asked: Sequence[Request]) -> None:
    """Judge a file of completions; a row per case with `case_id` and the fields of `derta.judge.Verdict`."""
    do = {request.id: request.do for request in asked}
    rows = read_jsonl(completions, ("case_id", "behaviour_id", "attack", "completion"))
    judged = [
        {"case_id": r["case_id"]} | asdict(judge(do[r["behaviour_id"]], r["completion"], r["attack"])) for r in rows
    ]
    write_atomically(verdicts, to_jsonl(judged))


def verdicts(folder: Path) -> dict[str, dict[str, dict]]:
    """The verdicts of one model: attack name → behaviour id → verdict row.

    An attack at several depths has a name for each, such as ``prefill_depth/25``.
    """
    judged: dict[str, dict[str, dict]] = defaultdict(dict)
    for path in sorted(folder.glob("*.jsonl")):
        for row in read_jsonl(path, ("case_id", "verdict")):
            behaviour_id, _, name = row["case_id"].partition("/")
            judged[name][behaviour_id] = row
    return dict(judged)


def asr_table(run: Path, model: str) -> list[dict]:
    """Counts per arm, seed, attack and category from all verdicts of a run, written to ``results/asr.csv``."""
    rows = []
    for folder in sorted((run / "verdicts").iterdir()):
        arm, _, seed = folder.name.rpartition("-s")
        for name, judged in verdicts(folder).items():
            attack, _, depth = name.partition("/")
            category = {request.id: request.category for request in requests(attack, 10**9)}
            counts: dict[str, Counter] = defaultdict(Counter)
            for behaviour_id, row in judged.items():
                for group in ("all", category[behaviour_id]):
                    counts[group].update(["n", row["verdict"]] + ["refused"] * row["refused"])
            for group in ["all", *sorted(counts.keys() - {"all"})]:
                key = {"model": model, "arm": arm, "seed": int(seed), "attack": attack, "depth": int(depth or 0)}
                numbers = {field: counts[group][field] for field in ("n", "refused", "unsafe", "unscored")}
                rows.append(key | {"category": group} | numbers)
    write_csv(run / "results" / "asr.csv", rows)
    return rows


def paired_rates(harmful: dict[str, dict], benign: dict[str, dict]) -> dict:
    """Refusals of an attack and of its form-matched control, paired by behaviour.

    Returns:
        `n` pairs and, as fractions each with `_low` and `_high` of its 95 % interval: `harmful` and `benign`, the rates
        refused (Wilson), and `selectivity`, their difference (bootstrap over behaviours).
    """
    pairs = [(row["refused"], benign[id]["refused"]) for id, row in harmful.items() if id in benign]
    rates: dict = {"n": len(pairs)}
    for name, refused in (("harmful", [h for h, _ in pairs]), ("benign", [b for _, b in pairs])):
        rates[name] = sum(refused) / len(pairs)
        rates[f"{name}_low"], rates[f"{name}_high"] = stats.wilson(sum(refused), len(pairs))
    differences = [h - b for h, b in pairs]
    rates["selectivity"] = sum(differences) / len(pairs)
    rates["selectivity_low"], rates["selectivity_high"] = stats.bootstrap(differences, seed=0)
    return rates
