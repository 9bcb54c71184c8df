"""Classifiers that see less than the model: how far do words alone tell harmful requests from their benign twins?

What a model adds shows only beside them. `derta.stats.auroc` and `derta.stats.ordered` measure their scores as they do
the model's.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline

from derta.corpus import Behaviour

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
