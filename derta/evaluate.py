"""Attacks → completions → verdicts → tables."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from derta import attacks, depth, generate, models, stats
from derta.attacks import Attack, file_name
from derta.files import placed_jsonl, read_jsonl, to_jsonl, write_atomically, write_csv
from derta.generate import Backend, Case
from derta.judge import judge
from derta.models import LM
from derta.requests import Request, spread
from derta.runs import alone, claim, digest

# The columns by which verdicts are grouped into rates.
GROUP = ["arm", "seed", "split", "attack", "depth"]


def label(arm: str, seed: int) -> str:
    """Return the name of a tuned model in folder names."""
    return f"{arm}-s{seed}"


def attack(
    backend: Backend | str | Path,
    names: Iterable[str | Attack] | str | Attack,
    run: Path | str,
    label: str = "",
    *,
    requests: Sequence[Request] | None = None,
    controls: Sequence[Request] | None = None,
    limit: int | Mapping[str, int | None] | None = None,
    max_new_tokens: int = 256,
    batch_size: int = 32,
) -> pd.DataFrame:
    """Run attacks and their benign controls against a model, judge the answers, and return the table.

    Answers are written to ``run/completions/<label>/<attack>.jsonl``, verdicts to ``run/verdicts/<label>/``, scores
    (see `score`) to ``run/scores/<label>/`` and the rounds of a search to ``run/searches/<label>/<attack>/``. Existing
    answers that still fit are not asked again; answers of another model, to other prompts or with other decoding are
    set aside.

    Args:
        backend: a model in process, a server (`derta.judges.endpoint`), or the name or folder of a model.
        names: attacks, or names of `derta.attacks.ATTACKS`.
        label: the model's name in these paths; by default the last part of its name.
        requests: your own questions (`derta.requests.read_questions`) instead of the held-out ones of the corpus.
        controls: benign twins of `requests` with the same ids; without them, your own questions have no control.
        limit: at most this many requests per attack, or by split of the corpus.
        max_new_tokens, batch_size: see `derta.generate`.

    Returns:
        See `rates`.

    Raises:
        ValueError: an attack is unknown, none is named, or one has no requests; a control has the id of no request.
        RuntimeError: another process attacks a model of this label in this folder now.
    """
    # Before the model is loaded, so that an unknown name costs no time.
    chosen = [attacks.find(name) for name in ([names] if isinstance(names, str | Attack) else names)]
    if not chosen:
        raise ValueError(f"no attack is named; expected some of {', '.join(attacks.ATTACKS)}")
    known = {request.id for request in requests or ()}
    if strange := [twin.id for twin in controls or () if twin.id not in known]:
        raise ValueError(f"controls: {strange[0]!r} is the id of no question; give each twin the id of its question")
    target = models.load(str(backend)) if isinstance(backend, str | Path) else backend
    run, label = Path(run), label or Path(target.name).name
    found: list[dict[str, Any]] = []
    with alone(run / "completions" / label / ".lock", f"attacking {label}"):
        for one in chosen:
            for control in (False,) if one.innocent else (False, True):
                asked = chosen_requests(one, control, requests, controls, limit)
                if asked is None:
                    continue
                name = file_name(one.name, control)
                if not asked and control and controls is None:
                    continue  # what is asked has no benign side
                if not asked:
                    raise ValueError(f"{name}: no request is left; give more than 0, and such as the attack takes")
                logs = run / "searches" / label / name
                if one.search is not None:
                    claim(logs, {"model": target.fingerprint(), "settings": one.search})
                cases = one.cases(asked, control=control, target=target, logs=logs)
                completions = run / "completions" / label / f"{name}.jsonl"
                options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size} | one.decoding
                generate.run(target, cases, completions, forbidden=tuple(one.forbidden()), **options)
                if one.scored and isinstance(target, LM):
                    score(target, cases, run / "scores" / label / f"{name}.jsonl", batch_size)
                rows = judged(completions, one, asked)
                write_atomically(run / "verdicts" / label / f"{name}.jsonl", to_jsonl(rows))
                found += rows
    return rates(pd.DataFrame(found))


def chosen_requests(
    one: Attack,
    control: bool,
    requests: Sequence[Request] | None = None,
    controls: Sequence[Request] | None = None,
    limit: int | Mapping[str, int | None] | None = None,
) -> list[Request] | None:
    """Return what `attack` asks by an attack, or by its control; None if your own questions have no controls."""
    own = controls if control else requests
    if own is None and requests is not None:
        return None
    return spread(spread(one.requests(control) if own is None else own, limit), one.limit)


def score(lm: LM, cases: Sequence[Case], path: Path, batch_size: int) -> None:
    """Write the P(refusal) of the next token of each case, before any is generated, to `path`; see
    `derta.depth.next_refusals`. A file of the same model and prompts is kept."""
    made = digest(lm.fingerprint(), [[case.case_id, *case.prompt] for case in cases], batch_size)
    if path.exists() and next(read_jsonl(path), {}).get("parameters") == made:
        return
    scores = depth.next_refusals(lm, [case.prompt for case in cases], batch_size=batch_size)
    about = [{name: getattr(case, name) for name in generate.ABOUT} for case in cases]
    rows = [row | {"score": float(s), "parameters": made} for row, s in zip(about, scores, strict=True)]
    write_atomically(path, to_jsonl(rows))


def judged(completions: Path, attack: Attack, asked: Sequence[Request]) -> list[dict[str, Any]]:
    """Judge a file of completions by rule.

    Returns:
        One row per case: the columns that describe the case, `split` and `category` of its request, and the fields of
        `derta.judge.Verdict`.

    Raises:
        ValueError: a row answers none of the requests `asked`; the message names the file and the row.
    """
    of = {request.id: request for request in asked}
    rows = []
    for where, row in placed_jsonl(completions, generate.ROW):
        id = row["behaviour_id"]
        if id not in of:
            raise ValueError(f"{where}: {id!r} is not among the requests; give those of this attack")
        request = of[id]
        verdict = judge(request.do, row["completion"], attack.spans(row["completion"], row["prompt"]))
        if not row["completion"] and row["finish_reason"] not in ("stop", "length"):
            verdict = replace(verdict, reason=f"{verdict.reason} ({row['finish_reason']})")
        about = {name: row[name] for name in generate.ABOUT} | {"split": request.split, "category": request.category}
        rows.append(about | asdict(verdict))
    return rows


def verdicts(
    run: Path | str, tuned: Iterable[tuple[str, int]], names: Iterable[str | Attack], folder: str = "verdicts"
) -> pd.DataFrame:
    """Read the verdicts on a run's models: one row per case, with `arm` and `seed` before the columns of `judged`, and
    with the `score` of `score`, NaN where there is none.

    Args:
        tuned: arm and seed of each model.
        names: the attacks; those that were not run against a model are skipped. Verdicts of other attacks and models in
            the folder are not read.
        folder: ``verdicts``, or the folder of another judge.

    Raises:
        FileNotFoundError: there are no verdicts of these models and attacks.
    """
    rows = []
    chosen = [attacks.find(name) for name in names]
    for arm, seed in tuned:
        for one in chosen:
            for control in (False, True):
                path = Path(run) / folder / label(arm, seed) / f"{file_name(one.name, control)}.jsonl"
                if path.exists():
                    read = read_jsonl(path, ("case_id", "verdict", "attack", "control", "split"))
                    scored = Path(run) / "scores" / label(arm, seed) / path.name
                    of = {row["case_id"]: row["score"] for row in read_jsonl(scored)} if scored.exists() else {}
                    rows += [{"arm": arm, "seed": seed} | row | {"score": of.get(row["case_id"])} for row in read]
    if not rows:
        raise FileNotFoundError(
            f"{Path(run) / folder}: holds no verdicts of these models and attacks; run the attacks first"
        )
    return pd.DataFrame(rows)


def positions(
    run: Path | str, tuned: Iterable[tuple[str, int]], names: Iterable[str | Attack], length: Callable[[str], int]
) -> pd.DataFrame:
    """Find where the refusals of a run begin in the model's own words (arXiv 2407.09121, Table 1 and Figure 4).

    Args:
        tuned, names: see `verdicts`.
        length: the length of a text, in tokens.

    Returns:
        The rows of `verdicts` with `position`, the token (from 1) with which the refusal begins, NaN where there is
        none, and with `new_tokens` and `finish_reason` of the answer.
    """
    found = verdicts(run, tuned, names)
    answers: dict[tuple[str, int, str], dict[str, Any]] = {}
    for key, group in found.groupby(["arm", "seed", "attack", "control"]):
        arm, seed, attack, control = key
        path = Path(run) / "completions" / label(arm, seed) / f"{file_name(attack, control)}.jsonl"
        asked = set(group.case_id)
        answers |= {(arm, seed, row["case_id"]): row for row in read_jsonl(path) if row["case_id"] in asked}
    own = [answers[key] for key in zip(found.arm, found.seed, found.case_id, strict=True)]
    starts = zip(own, found.refused, found.start, strict=True)
    begun = [length(row["completion"][: int(start)]) + 1 if refused else None for row, refused, start in starts]
    ends = {name: [row[name] for row in own] for name in ("new_tokens", "finish_reason")}
    return found.assign(position=pd.Series(begun, found.index, float), **ends)


def rates(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Compute counts and rates by model (if there are several), split, attack, control and depth.

    Returns:
        `n`, and the counts `refused`, `unsafe` and `unscored`; in percent `refused_percent` and `asr_percent`, each
        with its 95 % Wilson interval (`_low`, `_high`). ASR is the paper's: unsafe of n. It has no meaning for a
        control. `unscored_percent` are the cases that the judge could not decide; if all of them were unsafe, the ASR
        would be `asr_at_most_percent`.
    """
    keys = [key for key in ("arm", "seed", "split", "attack", "control", "depth") if key in verdicts]
    table = _counts(verdicts, keys).reset_index()
    for name, count in (("refused", table.refused), ("asr", table.unsafe)):
        table[f"{name}_percent"] = 100 * count / table.n
        bounds = [stats.wilson(k, n) for k, n in zip(count, table.n, strict=True)]
        table[[f"{name}_low", f"{name}_high"]] = [(100 * low, 100 * high) for low, high in bounds]
    table["unscored_percent"] = 100 * table.unscored / table.n
    table["asr_at_most_percent"] = table.asr_percent + table.unscored_percent
    return table


def _counts(verdicts: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Count `n`, `refused`, `unsafe` and `unscored` by `keys`, in the order in which these first occur."""
    counted = verdicts.assign(n=1, unsafe=verdicts.verdict == "unsafe", unscored=verdicts.verdict == "unscored")
    return counted.groupby(keys, sort=False)[["n", "refused", "unsafe", "unscored"]].sum().astype(int)


def asr_table(verdicts: pd.DataFrame, model: str, path: Path) -> pd.DataFrame:
    """Count by model, split, attack, depth and category (``all`` for the total), and write the table to `path`."""
    named = verdicts.assign(
        model=model, attack=[file_name(*pair) for pair in zip(verdicts.attack, verdicts.control, strict=True)]
    )
    both = pd.concat([named.assign(category="all"), named.sort_values("category")])
    table = _counts(both, ["model", *GROUP, "category"]).reset_index().sort_values(GROUP, kind="stable")
    write_csv(path, table.to_dict("records"))
    return table
