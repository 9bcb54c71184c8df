"""Rows in and out: what is written comes back, and a bad row is named."""

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.files import append_jsonl, drop_torn_tail, read_csv, read_jsonl, write_csv

CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(str.strip)


@given(CELLS, CELLS)
def test_csv_cells_come_back_as_they_were(tmp_path_factory, first, second):
    path = tmp_path_factory.mktemp("csv") / "x.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("a", "b"), (first, second)])
    assert read_csv(path, ("a", "b")) == [{"a": first, "b": second}]


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.booleans()))
def test_jsonl_rows_come_back_as_they_were(tmp_path_factory, row):
    path = tmp_path_factory.mktemp("jsonl") / "x.jsonl"
    append_jsonl(path, [row, row])
    assert list(read_jsonl(path)) == [row, row]


def test_bad_files_name_file_row_and_remedy(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("id,text\n1,fine\n2,\n")
    with pytest.raises(ValueError, match=r"x\.csv, row 3: text is empty; fill it in or delete the row"):
        read_csv(path, ("id", "text"))
    with pytest.raises(ValueError, match=r"x\.csv: the header lacks category"):
        read_csv(path, ("category",))
    rows = tmp_path / "x.jsonl"
    rows.write_text('{"id": 1}\n[]\n')
    with pytest.raises(ValueError, match=r"x\.jsonl, row 2: expected an object"):
        list(read_jsonl(rows))


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfid,text\r\n1,ride the tram\r\n",
        b"id,text\n1,ride the tram\n\n",
        b"id,text\n\n1,ride the tram\n,\n  \n",
        b"id,text\r1,ride the tram\r",
        b'\xef\xbb\xbf"id","text"\n"1","ride the tram"',
    ],
)
def test_a_csv_file_is_read_as_other_tools_leave_it(tmp_path, content):
    (tmp_path / "x.csv").write_bytes(content)
    assert read_csv(tmp_path / "x.csv", ("id", "text")) == [{"id": "1", "text": "ride the tram"}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"id,text\n1,a,b\n", "row 2: 3 cells under a header of 2; quote the cell that holds a comma"),
        (b"id,text\n1,a\n\n2,so, so\n", "row 4: 3 cells under"),
        (b'id,text\n1,"a\n2,b\n', r"row 2: not CSV \(unexpected end of data\); close the quotation mark"),
        (b'id,text\n1,a\n2,"b\n3,"c"\n', "row 3: not CSV .*; close the quotation mark"),
        (b'"id,text\n1,a\n', "row 1: not CSV"),
        (b'id,text\n1,"say "no" twice"\n', "row 2: not CSV .* double those within"),
        (b"id,text\n1,a\n2," + b"x" * 140_000, "row 3: not CSV .* shorten the cell"),
        (b"id,text\n1,a\0b\n", "row 2: holds a NUL character; save the file as UTF-8"),
        ("id,text\n1,a\n".encode("utf-16-le"), "row 1: holds a NUL character"),
        ("id,text\n1,a\n".encode("utf-16"), "not UTF-8 .*; save it as UTF-8"),
        (b"id;text\n1;a\n", r"the header lacks id, text; rename or add columns, parted by commas: \['id;text'\]"),
        (b"id,text,text\n1,a,b\n", "the header has text twice"),
        (b"id,text\n1\n", "row 2: text is empty"),
        (b"", "the header lacks id, text"),
    ],
)
def test_a_csv_file_that_would_be_misread_is_an_error(tmp_path, content, said):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.csv(, |: ){said}"):
        read_csv(tmp_path / "x.csv", ("id", "text"))


@pytest.mark.parametrize(
    "content",
    [b'\xef\xbb\xbf{"a": 1}\n{"a": 2}\n', b'{"a": 1}\r\n{"a": 2}\r\n\r\n', b'\n{"a": 1}\n \t\n{"a": 2}\n\n'],
)
def test_json_lines_are_read_as_other_tools_leave_them(tmp_path, content):
    (tmp_path / "x.jsonl").write_bytes(content)
    assert list(read_jsonl(tmp_path / "x.jsonl", ("a",))) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"a": 1}\n\n{"a":\n', "row 3: not JSON .*; repair or delete the row"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "row 1: not JSON .*; repair or delete the row"),
        (b'{"a": "\0"}', "row 1: not JSON"),
        ('{"a": 1}\n'.encode("utf-16"), "row 1: not UTF-8 .*; save the file as UTF-8"),
        (b'{"a": 1}\n\n{"b": 1}\n', "row 3: missing a"),
    ],
)
def test_a_line_that_is_no_row_is_named(tmp_path, content, said):
    (tmp_path / "x.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.jsonl, {said}"):
        list(read_jsonl(tmp_path / "x.jsonl", ("a",)))


@pytest.mark.parametrize(
    ("text", "kept"),
    [("hi \ud83d there", "hi \ufffd there"), ("\ude00", "\ufffd"), ("\ud83d\ude00 \ufeff é", "\U0001f600 \ufeff é")],
)
def test_half_an_emoji_does_not_stop_the_writing(tmp_path, text, kept):
    append_jsonl(tmp_path / "x.jsonl", [{"text": text}])
    assert list(read_jsonl(tmp_path / "x.jsonl")) == [{"text": kept}]


def test_types_and_ids_are_checked(tmp_path):
    path = tmp_path / "x.jsonl"
    append_jsonl(path, [{"id": "a", "text": "x"}, {"id": "b", "text": None}, {"id": "a", "text": "y"}])
    with pytest.raises(ValueError, match=r"x\.jsonl, row 2: text is of type NoneType, expected str"):
        list(read_jsonl(path, {"id": str, "text": str}))
    with pytest.raises(ValueError, match=r"x\.jsonl, row 3: the id 'a' is that of row 1"):
        list(read_jsonl(path, {"id": str}))
    (tmp_path / "x.csv").write_text("id,text\n1,x\n1,y\n")
    with pytest.raises(ValueError, match=r"x\.csv, row 3: the id '1' is that of row 2"):
        read_csv(tmp_path / "x.csv", ("id", "text"))
    (tmp_path / "x.csv").write_bytes(b"id,text\n1,\xff\n")
    with pytest.raises(ValueError, match=r"x\.csv: not UTF-8"):
        read_csv(tmp_path / "x.csv", ("id", "text"))


def test_written_tables_quote_what_needs_it(tmp_path):
    write_csv(tmp_path / "x.csv", [{"category": "a,b", "quote": 'say "no"', "rate": 1 / 3}])
    assert read_csv(tmp_path / "x.csv", ("rate",)) == [{"category": "a,b", "quote": 'say "no"', "rate": "0.333333"}]


def test_a_torn_last_line_is_cut_and_whole_lines_stay(tmp_path):
    path = tmp_path / "x.jsonl"
    drop_torn_tail(path)
    assert not path.exists()
    for content, kept in (
        (b'{"a": 1}\n{"a": ', b'{"a": 1}\n'),
        (b'{"a": 1}\n', b'{"a": 1}\n'),
        (b'{"a', b""),
        (b"", b""),
    ):
        path.write_bytes(content)
        drop_torn_tail(path)
        assert path.read_bytes() == kept
