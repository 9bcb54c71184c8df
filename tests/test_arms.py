"""From triples and helpful data to an arm's dataset."""

import json
import random
from collections import Counter

import pytest
from datasets import load_from_disk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import derta
from derta import arms, corpus, models
from derta.dataset import write
from derta.encode import DatasetSettings, Encoder, LeftOut
from derta.material import Example, Material, Triple, embedded_material

SETTINGS = DatasetSettings(epochs=2, rto_dropout=0.9, max_length=96, prefix_unit="tokens", batch_size=8, seed=0)


def change(**changes):
    return DatasetSettings(**vars(SETTINGS) | changes)


@pytest.fixture(scope="module")
def lm():
    return models.load_tokenizer("smollm2-135m")


@pytest.fixture(scope="module")
def material():
    return embedded_material(triples=20, twins=20, plain=5, instructions=6, seed=0)


@pytest.fixture(scope="module")
def build(lm, material, tmp_path_factory):
    """Write an arm, and read it back with its summary."""

    def build(arm, options=SETTINGS, material=material):
        encode = Encoder(lm, options)
        folder = tmp_path_factory.mktemp("data") / arm
        summary = write(arms.instances(arm, material, encode), encode, folder)
        assert json.loads((folder / "summary.json").read_text()) == vars(summary)
        return load_from_disk(folder), summary

    return build


@pytest.mark.parametrize(
    ("arm", "kinds"),
    [
        ("vanilla", {"safety": 40}),
        ("vanilla_half", {"safety": 20}),
        ("harmful_prefix", {"prefix": 20}),
        ("rto", {"safety": 20, "rto": 20}),
        ("derta", {"prefix": 20, "rto": 20}),
        ("recaug", {"prefix": 40}),
        ("dpo", {"safety": 20}),
    ],
)
def test_an_arm_makes_of_a_triple_what_its_name_says(build, arm, kinds):
    dataset, summary = build(arm)
    helpful = 26 if arm == "dpo" else 20 + 5 + 6
    expected = {kind: 2 * n for kind, n in (kinds | {"helpful": helpful}).items()}
    assert Counter(dataset["kind"]) == expected
    assert {kind: counts["rows"] for kind, counts in summary.kinds.items()} == expected
    assert Counter(dataset["epoch"]) == {0: len(dataset) // 2, 1: len(dataset) // 2}
    # Plain texts have no weaker response, and so no pair.
    assert {reason: len(names) for reason, names in summary.left_out.items()} == (
        {"no weaker response to reject": 10} if arm == "dpo" else {}
    )


def test_labels_by_kind(lm, build):
    dataset, _ = build("derta")
    sorry = lm.refusal_id()
    for row in dataset:
        kept = [(token, label) for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
        assert kept
        assert len(row["input_ids"]) <= SETTINGS.max_length
        if row["kind"] == "rto":
            assert {label for _, label in kept} == {sorry}
        else:
            assert all(token == label for token, label in kept)
        if row["kind"] == "prefix":
            assert kept[-1][1] == lm.tokenizer.eos_token_id
            text = lm.tokenizer.decode([label for _, label in kept[:-1]])
            assert any(text == refusal for b in corpus.behaviours("train") for refusal in corpus.refusals(b.category))


def test_a_pair_chooses_the_refusal_and_rejects_the_harmful_response(lm, build, material):
    dataset, _ = build("dpo")
    refusals = {triple.behaviour_id: triple.safe for triple in material.triples}
    harmful = {triple.behaviour_id: triple.harmful for triple in material.triples}
    rows = [row for row in dataset if row["kind"] == "safety"]
    assert rows
    for row in rows:
        assert lm.tokenizer.decode(row["chosen_ids"][:-1]) == refusals[row["behaviour_id"]]
        assert harmful[row["behaviour_id"]].startswith(lm.tokenizer.decode(row["rejected_ids"]))


def test_arms_share_what_they_have_in_common(build):
    def rows(arm, kind):
        dataset, _ = build(arm)
        return sorted(tuple(row["input_ids"]) for row in dataset if row["kind"] == kind)

    assert rows("vanilla", "helpful") == rows("derta", "helpful") == rows("recaug", "helpful")
    assert rows("derta", "prefix") == rows("harmful_prefix", "prefix")
    assert rows("derta", "rto") == rows("rto", "rto")
    assert set(rows("vanilla_half", "safety")) < set(rows("vanilla", "safety"))
    assert set(rows("harmful_prefix", "prefix")) < set(rows("recaug", "prefix"))


def test_a_seed_draws_prefixes_and_dropout_of_the_same_material(build):
    def rows(seed, kind):
        dataset, _ = build("derta", change(seed=seed))
        return {json.dumps([row["input_ids"], row["labels"]]) for row in dataset if row["kind"] == kind}

    assert rows(0, "helpful") == rows(1, "helpful")
    for kind in ("prefix", "rto"):
        first, second = rows(0, kind), rows(1, kind)
        assert len(first & second) < len(first) / 2


def test_same_seed_same_bytes_and_epochs_differ(lm, material, tmp_path):
    encode = Encoder(lm, SETTINGS)
    for name in ("a", "b"):
        write(arms.instances("derta", material, encode), encode, tmp_path / name)
    a, b = (sorted((tmp_path / name).glob("*.arrow")) for name in ("a", "b"))
    assert a
    assert [p.read_bytes() for p in a] == [p.read_bytes() for p in b]
    dataset = load_from_disk(tmp_path / "a")
    for kind, column in (("rto", "labels"), ("prefix", "input_ids")):
        first, second = (
            {tuple(row[column]) for row in dataset if row["kind"] == kind and row["epoch"] == epoch} for epoch in (0, 1)
        )
        assert first != second


def test_rows_of_a_step_are_sorted_by_length(build):
    for arm in ("derta", "dpo"):
        dataset, _ = build(arm)
        ids = [[len(row[c]) for c in dataset.column_names if c.endswith("_ids")] for row in dataset]
        lengths = [sum(row) for row in ids][: len(dataset) // 2]
        for start in range(0, len(lengths), SETTINGS.batch_size):
            step = lengths[start : start + SETTINGS.batch_size]
            assert step == sorted(step, reverse=True)


def test_k_is_uniform_in_tokens_or_zero_in_a_third_of_the_words(lm):
    triple = Triple("t", "b", "Why?", "Sorry, no.", " ".join(["word"] * 20), ("Why?", "Sorry."))
    encoders = {unit: Encoder(lm, change(max_length=400, prefix_unit=unit)) for unit in ("tokens", "words")}
    tokens = len(encoders["tokens"].response(triple.harmful, finished=False))
    drawn = {
        unit: Counter(len(arms.safety("prefix", triple, encode, random.Random(i)).given) for i in range(4200))
        for unit, encode in encoders.items()
    }
    assert set(drawn["tokens"]) == set(range(tokens + 1))
    assert all(abs(n - 200) < 70 for n in drawn["tokens"].values())
    assert set(drawn["words"]) == set(range(19))
    assert abs(drawn["words"][0] - 1400) < 150
    with pytest.raises(ValueError, match="prefix_unit is 'lines'"):
        change(prefix_unit="lines")


def test_the_prefix_gives_way_to_the_safe_response(lm):
    encode = Encoder(lm, change(max_length=40))
    triple = Triple("t", "b", "Why?", "Sorry, I will not.", "word " * 100, ("Why?", "Sorry."))
    rows = [arms.safety("prefix", triple, encode, random.Random(i)) for i in range(50)]
    assert all(row.cut and row.target[-1] == lm.tokenizer.eos_token_id for row in rows)
    assert max(len(row.prompt) + len(row.given) + len(row.target) for row in rows) == 40


TEXTS = st.text(max_size=60) | st.sampled_from(["", " ", "\n", "Yes.", "one two three " * 30])


@given(
    st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=6),
    st.lists(st.tuples(TEXTS, TEXTS, st.booleans()), max_size=6),
    st.sampled_from(sorted(arms.ARMS)),
    st.integers(8, 60),
    st.sampled_from(["tokens", "words"]),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_row_disappears_without_a_line(lm, build, triples, examples, arm, length, unit):
    drawn = tuple(Triple(f"t{i}", f"b{i}", q, r, h, (q, r)) for i, (q, r, h) in enumerate(triples))
    helpful = tuple(Example(f"e{i}", "", p, r, plain=plain) for i, (p, r, plain) in enumerate(examples))
    material, options = Material(drawn, helpful), change(epochs=1, max_length=length, prefix_unit=unit)
    encode = Encoder(lm, options)
    planned = arms.instances(arm, material, encode)
    if not any(_can_make(make) for _, make in planned):
        with pytest.raises(ValueError, match="no row"):
            build(arm, options, material)
        return
    dataset, summary = build(arm, options, material)
    assert len(dataset) == sum(counts["rows"] for counts in summary.kinds.values())
    assert len(dataset) + sum(map(len, summary.left_out.values())) == len(planned)
    assert all(len(row.get("input_ids") or row["prompt_ids"] + row["chosen_ids"]) <= length for row in dataset)


def _can_make(make):
    try:
        make(random.Random(0))
    except LeftOut:
        return False
    return True


def test_bad_input_is_named(lm, build, material):
    with pytest.raises(ValueError, match="unknown arm 'magic'"):
        build("magic")
    twice = Material(material.triples + material.triples[:1], material.helpful)
    with pytest.raises(ValueError, match=r"the id of 'prefix/.*' is not unique"):
        build("derta", material=twice)
    empty = Material(
        (), (Example("e", "", "Hi", " "), Example("f", "", "Hi", "Yes."), Example("g", "", "x " * 99, "No."))
    )
    _, summary = build("derta", material=empty)
    assert summary.left_out == {
        "the response is empty": ["helpful/e in epoch 1", "helpful/e in epoch 2"],
        "the prompt fills the maximum length of 96 tokens": ["helpful/g in epoch 1", "helpful/g in epoch 2"],
    }


def test_every_arm_builds_with_the_papers_settings_where_none_are_given(lm, material, tmp_path):
    assert vars(DatasetSettings()) == {
        "epochs": 2,
        "rto_dropout": 0.95,
        "max_length": 1024,
        "prefix_unit": "tokens",
        "batch_size": 128,
        "seed": 0,
    }
    folder = derta.build("derta", material, "smollm2-135m", str(tmp_path / "a"))
    assert folder == tmp_path / "a"
    encode = Encoder(lm, DatasetSettings())
    write(arms.instances("derta", material, encode), encode, tmp_path / "b")
    a, b = (load_from_disk(path) for path in (folder, tmp_path / "b"))
    assert a["labels"][:] == b["labels"][:]
    again = derta.build("derta", material, "smollm2-135m", tmp_path / "c", seed=1)
    assert load_from_disk(again)["labels"][:] != a["labels"][:]


def test_an_equal_dataset_stays_and_a_changed_one_is_set_aside(lm, material, tmp_path, capsys):
    def make(seed):
        encode = Encoder(lm, change(seed=seed))
        write(arms.instances("vanilla", material, encode), encode, tmp_path / "data")

    def files(folder):
        return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir()}

    make(0)
    before = files(tmp_path / "data")
    make(0)
    assert files(tmp_path / "data") == before
    assert "set aside" not in capsys.readouterr().err
    make(1)
    (aside,) = tmp_path.glob("data.*.aside")
    assert files(aside) == before
    assert f"set aside: {tmp_path / 'data'} is now {aside.name}; its rows have changed" in capsys.readouterr().err
    assert load_from_disk(tmp_path / "data")["input_ids"][:] != load_from_disk(aside)["input_ids"][:]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", aside.name]


def test_a_folder_with_other_files_is_refused_and_left_as_it_is(lm, material, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("mine")
    encode = Encoder(lm, SETTINGS)
    with pytest.raises(ValueError, match=r"data: holds files that are not a dataset of derta; choose another folder"):
        write(arms.instances("vanilla", material, encode), encode, tmp_path / "data")
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "thesis.txt"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rto_dropout": 95}, "rto_dropout is 95; expected a share from 0 to 1"),
        ({"rto_dropout": -0.1}, "rto_dropout is -0.1"),
        ({"epochs": 0}, "epochs is 0; expected 1 or more"),
        ({"max_length": 0}, "max_length is 0"),
        ({"batch_size": -8}, "batch_size is -8"),
    ],
)
def test_a_setting_out_of_range_is_named(settings, said):
    with pytest.raises(ValueError, match=said):
        DatasetSettings(**settings)
