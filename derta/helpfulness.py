"""What a defence costs: right answers to questions, and the likelihood of innocent texts.

============ =====================================================================================================
``accuracy`` 1 if a question is answered rightly (by lm-evaluation-harness, tasks in ``derta/tasks/``)
``nll``      negative log-likelihood of a text that the base model wrote, in nats per token
``kl``       Kullback-Leibler divergence of the tuned model from the base model along it, in nats per token
============ =====================================================================================================
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from derta import depth, stats
from derta.corpus import Response
from derta.files import read_csv, write_csv
from derta.models import LM
from derta.runs import DATA, PACKAGE, claim, digest

TASKS = PACKAGE / "tasks"


def accuracy(lm: LM, questions: Mapping[str, int], batch_size: int) -> list[dict[str, Any]]:
    """Answer the first questions of each task.

    Args:
        questions: a task of ``derta/tasks/`` without its ``derta_``, such as ``exact_match``, and how many.

    Returns:
        One row per question: `measure` (``accuracy``), `of` (the task), `item` (its id), and `value`, 0 or 1.

    Raises:
        ImportError: lm-evaluation-harness is not installed.
        OSError: the questions are neither in a local copy of the authors' files nor can they be downloaded.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ImportError(f"lm-evaluation-harness is not installed: pip install 'derta[notebooks]' ({error})") from None
    # The harness keeps the logits of every position: 32 rows of 300 tokens and 50,000 words are 2 GB in float32.
    rows_at_once = min(batch_size, 32)
    harness = HFLM(pretrained=lm.model, tokenizer=lm.tokenizer, batch_size=rows_at_once, softmax_dtype="float32")
    tasks, rows = TaskManager(include_path=str(TASKS), include_defaults=False), []
    for name, limit in questions.items():
        task = f"derta_{name}"
        options = {"apply_chat_template": True, "bootstrap_iters": 0, "limit": limit}
        found = simple_evaluate(harness, tasks=[task], task_manager=tasks, **options)
        for sample in found["samples"][task]:
            (metric,) = sample["metrics"]
            rows.append(
                {"measure": "accuracy", "of": name, "item": sample["doc"]["id"], "value": float(sample[metric])}
            )
    return rows


def likelihood(
    lm: LM, base: LM, texts: Mapping[str, Sequence[Response]], tokens: int, batch_size: int
) -> list[dict[str, Any]]:
    """Read innocent texts with a model and with the base model that it was tuned from.

    Args:
        texts: rows of the corpus by kind; those of the form ``plain`` are read without the chat format.
        tokens: read at most so many of each response.

    Returns:
        Two rows per text, `measure` ``nll`` and ``kl``: `of` (the kind), `item` (the id) and `value`.
    """
    rows = []
    for kind, of_kind in texts.items():
        prompts = [lm.ids(lm.plain(r.prompt) if r.form == "plain" else lm.chat(r.prompt)) for r in of_kind]
        replies = [lm.ids(r.response)[:tokens] for r in of_kind]
        both = zip(*(depth.forced(one, prompts, replies, batch_size) for one in (lm, base)), strict=True)
        for (i, own), (_, before) in tqdm(both, f"likelihood of {kind}", len(of_kind), mininterval=5):
            nll = -own.gather(1, own.new_tensor(replies[i], dtype=int)[:, None]).mean()
            kl = (before.exp() * (before - own)).sum(-1).mean()
            about = {"of": kind, "item": of_kind[i].id}
            rows += [{"measure": name} | about | {"value": value.item()} for name, value in (("nll", nll), ("kl", kl))]
    return rows


def measure(
    lm: LM,
    base: LM,
    folder: Path,
    *,
    questions: Mapping[str, int],
    texts: Mapping[str, Sequence[Response]],
    tokens: int,
    batch_size: int,
) -> pd.DataFrame:
    """Return the rows of `accuracy` and of `likelihood`, kept in ``folder/helpfulness.csv``."""
    read = digest([[kind, row.prompt, row.response] for kind, rows in texts.items() for row in rows])
    asked = digest(dict(questions), *sorted(TASKS.glob("*.*")), DATA / "exact_match.csv")
    inputs = {"model": lm.fingerprint(), "base": base.fingerprint(), "texts": read, "questions": asked}
    claim(folder, inputs | {"tokens": tokens, "batch_size": batch_size})
    path = folder / "helpfulness.csv"
    if not path.exists():
        answered = accuracy(lm, questions, batch_size)
        write_csv(path, answered + likelihood(lm, base, texts, tokens, min(batch_size, 16)))
    rows = read_csv(path, ("measure", "of", "item", "value"))
    return pd.DataFrame(rows).astype({"value": float})


def means(rows: pd.DataFrame, keys: Sequence[str] = ("arm",)) -> pd.DataFrame:
    """Average over questions or texts, and over seeds, by `keys`, `measure` and `of`, each with its 95 % interval.

    Args:
        rows: those of `measure`, with columns `arm` and `seed`, and with `keys`.
    """
    found = []
    for key, group in rows.groupby([*keys, "measure", "of"], sort=False):
        values = group.pivot(index="seed", columns="item", values="value").to_numpy()
        mean, low, high, _ = stats.crossed(values, (0, 1) if "accuracy" in key else ())
        about = dict(zip([*keys, "measure", "of"], key, strict=True)) | {"seeds": len(values), "n": values.shape[1]}
        found.append(about | {"mean": mean, "low": low, "high": high})
    return pd.DataFrame(found)


def differences(rows: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Compare arms, paired by seed and by question or text; the base model has one seed, which stands for each.

    Args:
        rows: those of `measure`, with columns `arm` and `seed`.
        pairs: the difference is the second arm less the first.

    Returns:
        Per pair, `measure` and `of`: `seeds`, `n`, the `difference` with `low` and `high`, and `p`.
    """
    found = []
    for (name, of), group in rows.groupby(["measure", "of"], sort=False):
        wide = {arm: part.pivot(index="seed", columns="item", values="value") for arm, part in group.groupby("arm")}
        for first, second in pairs:
            if first in wide and second in wide:
                values = wide[second].to_numpy() - wide[first][wide[second].columns].to_numpy()
                mean, low, high, p = stats.crossed(values, (-1, 1) if name == "accuracy" else ())
                about = {"first": first, "second": second, "measure": name, "of": of}
                about |= {"seeds": len(values), "n": values.shape[1]}
                found.append(about | {"difference": mean, "low": low, "high": high, "p": p})
    return pd.DataFrame(found)
