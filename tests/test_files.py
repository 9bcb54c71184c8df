"""Rows in and out: what is written comes back, and a bad row is named."""

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from derta.files import append_jsonl, drop_torn_tail, read_csv, read_jsonl, write_csv

CELLS = st.text(min_size=1).filter(str.strip)


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
