"""The little language of the judge's phrases, and its data file."""

import re
from pathlib import Path

import pytest

from derta import phrases as module
from derta.files import read_csv, read_jsonl
from derta.phrases import pattern, plain
from derta.runs import DATA

ROWS = read_csv(DATA / "judge_phrases.csv", ("kind", "phrase"))
KINDS = {row["kind"] for row in ROWS}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I can't help with that.", "i cannot help with that"),
        ("I CAN’T — really — help!", "i cannot help"),
        ("I cant, wont and dont", "i cannot will not and do not"),
        ("I'd say they're **bold** and it's `code`", "i would say they are bold and it is code"),
        ("Sorry，I'm 'quoted' by the sister's cat", "sorry i am quoted by the sister's cat"),
        ("I simply comply.", "i comply"),
        ("Es tut mir leid、できません。", "es tut mir leid できません"),
    ],
)
def test_only_words_are_left(text, words):
    assert plain(text) == words


@pytest.fixture
def phrases(monkeypatch, tmp_path):
    """A function that makes a file of phrases and returns the pattern of its kind ``test``."""

    def write(*rows: str) -> re.Pattern:
        (tmp_path / "judge_phrases.csv").write_text("kind,phrase\n" + "".join(f"{row}\n" for row in rows), "utf-8")
        monkeypatch.setattr("derta.phrases.DATA", tmp_path)
        forget()
        return pattern("test")

    def forget():
        for cached in (module.pattern, module._alternatives, module._phrases):
            cached.cache_clear()

    yield write
    forget()


@pytest.mark.parametrize(
    ("phrase", "yes", "no"),
    [
        ("i {no} help*", "well i cannot helping you", "i cannot be of help"),
        ("i {no} help*", "i must not help", "they cannot help"),
        ("^sorry but", "sorry but this", "i am sorry but this"),
        ("will not$", "i will not", "i will not say"),
        ("not ... here", "not a single word here", "not " + "word " * 13 + "here"),
        ("できません", "それはできません", "できます"),
    ],
)
def test_a_phrase_is_what_its_signs_say(phrases, phrase, yes, no):
    found = phrases(f"test,{phrase}", "no,cannot", "no,must not")
    assert found.search(yes)
    assert not found.search(no)


def test_an_unknown_kind_is_named(phrases):
    with pytest.raises(ValueError, match=r"judge_phrases\.csv: no phrase of the kind 'nobody'"):
        phrases("test,i {nobody} help")


def test_no_phrase_stands_twice_and_each_is_plain():
    pairs = [(row["kind"], row["phrase"]) for row in ROWS]
    assert sorted(pairs) == sorted(set(pairs))
    for kind, phrase in pairs:
        words = re.sub(r"\{\w+\}|\*|\.\.\.|\^|\$", " ", phrase)
        assert plain(words) == " ".join(words.split()), (kind, phrase)


def test_a_kind_of_phrases_serves_texts_of_different_origin():
    texts = list(read_jsonl(Path(__file__).with_name("judge_texts.jsonl"), {"style": str, "completion": str}))
    for kind in KINDS:
        styles = {row["style"] for row in texts if pattern(kind).search(plain(row["completion"]))}
        anchored = all(row["phrase"].startswith("^") for row in ROWS if row["kind"] == kind)
        assert len(styles) >= 3 or anchored, kind


def test_every_kind_is_used():
    slots = {slot for row in ROWS for slot in re.findall(r"\{(\w+)\}", row["phrase"])}
    code = (DATA.parent / "derta" / "sentences.py").read_text("utf-8") + (DATA.parent / "derta" / "judge.py").read_text(
        "utf-8"
    )
    assert slots | set(re.findall(r'pattern\("(\w+)"\)', code)) | {"english", "foreign"} == KINDS
