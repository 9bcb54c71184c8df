"""Classifiers beside the models: what tells harmful requests from their benign twins without any refusal?

A bag of words says how far words alone give harm away, a linear probe on hidden states how much a model knows, whether
it refuses or not. `derta.stats.auroc` and `derta.stats.ordered` measure their scores as they do the model's.
"""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from derta import corpus, decode
from derta.corpus import Behaviour
from derta.files import write_atomically
from derta.generate import Case, Prompt, batches, user
from derta.material import Material
from derta.models import LM
from derta.runs import digest

# Raised if the same prompts may get other scores.
VERSION = 1
Scores = tuple[np.ndarray, np.ndarray]


def _words() -> Pipeline:
    return make_pipeline(CountVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=2000))


def _texts(behaviours: Sequence[Behaviour]) -> tuple[list[str], np.ndarray]:
    texts = [b.harmful for b in behaviours] + [b.benign for b in behaviours]
    return texts, np.repeat([1, 0], len(behaviours))


def words_cross_validated(behaviours: Sequence[Behaviour], folds: int = 10) -> Scores:
    """Score verb phrases by a logistic regression on their words and pairs of words, fitted on the other folds.

    A behaviour and its twin are in the same fold.

    Returns:
        P(harmful) of the harmful phrases and of their twins, each of shape [behaviours].
    """
    texts, labels = _texts(behaviours)
    pairs = np.tile(np.arange(len(behaviours)), 2)
    chances = cross_val_predict(_words(), texts, labels, groups=pairs, cv=GroupKFold(folds), method="predict_proba")
    harmful, benign = np.split(chances[:, 1], 2)
    return harmful, benign


def words(training: Sequence[Behaviour], behaviours: Sequence[Behaviour]) -> Scores:
    """Score the verb phrases of `behaviours` like `words_cross_validated`, fitted on those of `training`."""
    harmful, benign = np.split(_words().fit(*_texts(training)).predict_proba(_texts(behaviours)[0])[:, 1], 2)
    return harmful, benign


def words_of(ids: Sequence[Sequence[str]]) -> Scores:
    """Score the behaviours of the first ids and the twins of the second ones by their words, fitted on all training
    behaviours."""
    known = corpus.behaviours()
    by_id = [dict(zip([b.id for b in known], side, strict=True)) for side in words(corpus.behaviours("train"), known)]
    harmful, benign = (np.array([of[id] for id in side]) for of, side in zip(by_id, ids, strict=True))
    return harmful, benign


def training_prompts(material: Material, seed: int) -> tuple[list[Prompt], list[Prompt]]:
    """Return the triples of embedded material, and their twins, as prompts: the question alone, and with the first
    words of its response as the start of the reply; how many is drawn uniformly, and is the same on both sides.

    Raises:
        ValueError: a triple has no twin in the material.
    """
    rng, twin_of = random.Random(f"probe {seed}"), {example.id: example for example in material.helpful}
    harmful: list[Prompt] = []
    benign: list[Prompt] = []
    for triple in material.triples:
        twin = twin_of.get(triple.id.replace("-h", "-b"))
        if twin is None:
            raise ValueError(f"{triple.id} has no twin in the material: draw at least as many twins as triples")
        answers = triple.harmful.split(" "), twin.response.split(" ")
        number = rng.randint(1, min(map(len, answers)))
        for side, question, words in zip((harmful, benign), (triple.query, twin.prompt), answers, strict=True):
            side += [user(question), user(question, " ".join(words[:number]))]
    return harmful, benign


def states(lm: LM, prompts: Sequence[Prompt], *, batch_size: int) -> np.ndarray:
    """Compute the hidden states at the last token of each prompt, including the start of its reply.

    Returns:
        Shape [layers + 1, prompts, width]; the first is the embedding. float32.

    Raises:
        ValueError: see `derta.decode.check_room`.
    """
    ids = [lm.encode(prompt) for prompt in prompts]
    decode.check_room(lm.model, lm.tokenizer, ids)
    found: list[np.ndarray] = [np.empty(0)] * len(ids)
    for batch in tqdm(list(batches(ids, batch_size)), "hidden states", mininterval=5):
        inputs = decode.pad(lm.tokenizer, [ids[i] for i in batch]).to(lm.model.device)
        with torch.inference_mode():
            output = lm.model(
                **inputs,
                position_ids=(inputs.attention_mask.cumsum(1) - 1).clamp(min=0),
                output_hidden_states=True,
                use_cache=False,
                logits_to_keep=1,
            )
        last = torch.stack([layer[:, -1] for layer in output.hidden_states], dim=1).float().cpu().numpy()
        for row, i in enumerate(batch):
            found[i] = last[row]
    return np.stack(found, axis=1)


def linear(training: Scores, held_out: Scores) -> Scores:
    """Score states like `words`, by a logistic regression per layer on standardised states.

    Args:
        training, held_out: `states` of harmful prompts and of those of their twins.

    Returns:
        P(harmful) by layer, of the harmful prompts and of their twins, each of shape [layers + 1, prompts].
    """
    scores = []
    for harmful, benign, *asked in zip(*training, *held_out, strict=True):
        labels = np.repeat([1, 0], [len(harmful), len(benign)])
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        model.fit(np.concatenate([harmful, benign]), labels)
        scores.append([model.predict_proba(side)[:, 1] for side in asked])
    harmful_scores, benign_scores = (np.stack(side) for side in zip(*scores, strict=True))
    return harmful_scores, benign_scores


def by_layer(
    lm: LM,
    cases: Sequence[Sequence[Case]],
    training: Mapping[int, tuple[list[Prompt], list[Prompt]]],
    path: Path,
    *,
    batch_size: int,
) -> pd.DataFrame:
    """Score cases by `linear` on the hidden states of `lm`, fitted anew for each seed.

    Args:
        cases: of the corpus' behaviours, and of their twins.
        training: by seed, see `training_prompts`.
        path: a JSON file that keeps the scores; if it is of the same model, prompts and batch size, it is read instead.

    Returns:
        The rows of `verdicts` with `layer`, 0 for the embedding.
    """
    asked = [[case.prompt for case in side] for side in cases]
    made = digest(VERSION, lm.fingerprint(), asked, [*training.items()], batch_size)
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if kept.get("parameters") != made:

        def read(sides: Sequence[Sequence[Prompt]]) -> Scores:
            harmful, benign = (states(lm, side, batch_size=batch_size) for side in sides)
            return harmful, benign

        held_out = read(asked)
        found = [linear(read(sides), held_out) for sides in training.values()]
        kept = {"parameters": made, "scores": [[side.tolist() for side in sides] for sides in found]}
        write_atomically(path, json.dumps(kept))
    rows = [
        verdicts("probe", seed, cases, scores).assign(layer=layer)
        for seed, sides in zip(training, kept["scores"], strict=True)
        for layer, scores in enumerate(zip(*sides, strict=True))
    ]
    return pd.concat(rows)


def verdicts(arm: str, seed: int, cases: Sequence[Sequence[Case]], scores: Scores) -> pd.DataFrame:
    """Give a classifier's scores the form of `derta.evaluate.verdicts`, so that it is measured as the models are.

    It refuses where P(harmful) is above one half; there is no answer, and so no verdict on one.

    Args:
        cases: of the corpus' behaviours, and of their twins.
        scores: P(harmful) of both.
    """
    split = {behaviour.id: behaviour.split for behaviour in corpus.behaviours()}
    rows = []
    for side, found in zip(cases, scores, strict=True):
        for case, score in zip(side, found, strict=True):
            row = {"arm": arm, "seed": seed, "split": split[case.behaviour_id], "attack": case.attack}
            row |= {"depth": case.depth, "behaviour_id": case.behaviour_id, "control": case.control}
            rows.append(row | {"refused": bool(score > 0.5), "verdict": None, "score": float(score)})
    return pd.DataFrame(rows)
