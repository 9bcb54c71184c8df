"""The authors' training format, in and out."""

import json
from pathlib import Path

import pytest
from datasets import load_from_disk

from derta import arms, models
from derta.dataset import write
from derta.encode import DatasetSettings, Encoder
from derta.material import embedded_material
from derta.published import exchange, released
from derta.published.exchange import Sample

SETTINGS = DatasetSettings(epochs=1, rto_dropout=0.5, max_length=96, prefix_unit="tokens", batch_size=8, seed=0)
SAMPLE = "data/train/example_data_to_read.json"


@pytest.fixture(scope="module")
def encode():
    return Encoder(models.load_tokenizer("smollm2-135m"), SETTINGS)


def test_the_authors_sample_file_comes_back_byte_for_byte(tmp_path, released_files):
    path = released.fetch(SAMPLE)
    samples = list(exchange.read(path))
    assert [sample.rto for sample in samples] == [False, False, False, True]
    exchange.write(tmp_path / "back.json", samples)
    assert (tmp_path / "back.json").read_bytes() == path.read_bytes()


def test_an_arm_goes_out_and_comes_back(encode, tmp_path):
    material = embedded_material(triples=12, twins=12, plain=2, instructions=4, seed=0)
    made = arms.instances("derta", material, encode)
    samples, left_out = exchange.samples(made, encode)
    assert len(samples) == len(made) == 12 * 3 + 2 + 4
    assert not left_out
    exchange.write(tmp_path / "derta.json", samples)
    back = exchange.instances(exchange.read(tmp_path / "derta.json"), encode)
    summary = write(back, encode, tmp_path / "derta")
    rows = load_from_disk(tmp_path / "derta")
    assert len(rows) == 12 * 3 + 2 + 4
    assert summary.kinds["rto"]["rows"] == 12
    sorry = encode.refusal_id
    assert all(set(row["labels"]) == {-100, sorry} for row in rows if row["kind"] == "rto")
    write(made, encode, tmp_path / "direct")

    def texts(folder):
        # A text that was cut between two tokens may be cut into others when it comes back.
        dataset = load_from_disk(tmp_path / folder)
        return sorted((encode.lm.tokenizer.decode(row["input_ids"]).rstrip(), row["kind"] == "rto") for row in dataset)

    assert texts("derta") == texts("direct")


def test_a_harmful_prefix_stands_in_the_prefix(encode):
    material = embedded_material(triples=12, twins=12, plain=0, instructions=0, seed=0)
    samples, _ = exchange.samples(arms.instances("harmful_prefix", material, encode), encode)
    safe = samples[-12:]
    for sample, triple in zip(safe, material.triples, strict=True):
        assert sample.text == f" {triple.safe}<|end_of_text|>"
        query, _, prefix = sample.prefix.partition(" [\\INST]")
        assert query == f"[INST] {triple.query}"
        assert triple.harmful.startswith(prefix.strip())
    assert any(not sample.prefix.endswith("[\\INST]") for sample in safe)


def test_a_refusal_begins_with_the_refusal_token_as_in_arms(encode, tmp_path):
    sample = Sample("[INST] Why? [\\INST] First, take", " Sorry, no.<|end_of_text|>", False)
    ((_, make),) = exchange.instances([sample], encode)
    instance = make(None)
    assert instance.kind == "prefix"
    assert instance.prompt == encode.prompt("Why?")
    assert instance.target[0] == encode.refusal_id
    assert instance.target[-1] == encode.lm.tokenizer.eos_token_id


def test_pairs_have_no_place_in_the_format_and_are_counted(encode):
    material = embedded_material(triples=3, twins=3, plain=0, instructions=0, seed=0)
    samples, left_out = exchange.samples(arms.instances("dpo", material, encode), encode)
    assert not samples
    assert {reason: len(names) for reason, names in left_out.items()} == {"the format holds no pairs of responses": 6}


ROW = b'{"prefix": "[INST] Why? [\\\\INST]", "text": " Because.<|end_of_text|>", "safe": "false"}\n'


@pytest.mark.parametrize("content", [b"\xef\xbb\xbf" + ROW, ROW + b"\n", b"\r\n" + ROW + b"\n\n"])
def test_a_file_is_read_as_editors_leave_it(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    assert list(exchange.read(tmp_path / "x.json")) == [
        Sample("[INST] Why? [\\INST]", " Because.<|end_of_text|>", False)
    ]


def test_blank_lines_count_when_a_row_is_named(tmp_path):
    (tmp_path / "x.json").write_bytes(ROW + b"\n" + ROW.replace(b"false", b"no"))
    with pytest.raises(ValueError, match=r"x\.json, row 3: safe is 'no'"):
        list(exchange.read(tmp_path / "x.json"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prefix": "a", "text": "b"}, "row 2: missing safe"),
        ({"prefix": "a", "text": 3, "safe": "true"}, "row 2: text is of type int, expected str"),
        ({"prefix": "a", "text": "b", "safe": "yes"}, "row 2: safe is 'yes', expected 'true' or 'false'"),
    ],
)
def test_bad_rows_are_named(tmp_path, row, message):
    path: Path = tmp_path / "x.json"
    exchange.write(path, [Sample("a", "b", True)])
    path.write_text(path.read_text() + json.dumps(row) + "\n")
    with pytest.raises(ValueError, match=message):
        list(exchange.read(path))
