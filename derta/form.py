"""Check whether the form of a response gives harm away.

If harmful responses began in ways that helpful ones do not, a model could learn to refuse the form, and would then
refuse every innocent request of that form too. The check is a classifier that sees only the form.
"""

import re
from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from derta.sentences import STOP_WORDS

_PIECE = re.compile(r"[A-Za-z][A-Za-z'’-]*|\d+|\n+|[^\w\s]+")


def form(text: str, words: int = 10) -> list[str]:
    """Return the first `words` words of `text` without their content.

    Function words and punctuation are kept, numbers and line breaks are replaced by their kind, and all other words are
    masked.
    """
    pieces = []
    for piece in _PIECE.findall(text):
        if words == 0:
            break
        if piece[0].isalpha():
            words -= 1
            pieces.append(piece.lower() if piece.lower() in STOP_WORDS else "<content>")
        else:
            pieces.append("<number>" if piece[0].isdigit() else "<break>" if piece[0] == "\n" else piece[:3])
    return pieces


def accuracy(harmful: Sequence[str], helpful: Sequence[str], folds: int = 5) -> np.ndarray:
    """Measure how well a logistic regression on the bag of `form` separates the two, cross-validated.

    Returns:
        Balanced accuracy per fold, as a fraction: 0.5 is chance, whatever the numbers of texts.
    """
    model = make_pipeline(
        CountVectorizer(analyzer=form, binary=True), LogisticRegression(max_iter=1000, class_weight="balanced")
    )
    labels = np.repeat([1, 0], [len(harmful), len(helpful)])
    split = StratifiedKFold(folds, shuffle=True, random_state=0)
    return cross_val_score(model, [*harmful, *helpful], labels, cv=split, scoring="balanced_accuracy")
