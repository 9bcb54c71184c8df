"""What words alone tell: little in the close pairs, more in the loose ones."""

from derta import corpus, probe, stats


def test_words_hardly_tell_close_pairs_apart_and_loose_ones_well():
    found = {}
    for twin in ("close", "loose"):
        pairs = [b for b in corpus.behaviours() if b.twin == twin and b.split != "validation"]
        found[twin] = float(stats.auroc(*probe.words_cross_validated(pairs)).mean())
    assert found["close"] <= 0.70 < 0.78 < found["loose"], found


def test_words_are_fitted_on_the_training_pairs():
    pairs = corpus.behaviours("train")[:200]
    seen = stats.auroc(*probe.words(pairs, pairs)).mean()
    assert seen > 0.95
    unseen = stats.auroc(*probe.words(pairs, corpus.behaviours("choice"))).mean()
    assert 0.45 < unseen < 0.75
