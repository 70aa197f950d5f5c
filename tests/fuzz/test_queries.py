"""Damaged query files give the queries that Python's csv and json read, or are refused."""

import csv
import io
import json

import pytest
from fuzz.fuzzing import damaged, outcome, tries
from hypothesis import given
from hypothesis import strategies as st

from ms_unireid.apps.search.queries import FIELDS, read_queries

_TEXTS = ["a man in a red coat", "woman, with a bag", 'said "hello"', "two\nlines", "sep\u2028arated\x0b", "红色外套"]


def _csv(rows, **options):
    file = io.StringIO()
    csv.writer(file, **options).writerows(rows)
    return file.getvalue().encode()


_CSV = {
    "plain": _csv([["text"], *([text] for text in _TEXTS)]),
    "quoted": _csv([["name", "text"], *([f"n{i}", text] for i, text in enumerate(_TEXTS))], quoting=csv.QUOTE_ALL),
    "unix": _csv([["text", "weight"], *([text, ""] for text in _TEXTS)], lineterminator="\n"),
    "marked": b"\xef\xbb\xbf" + _csv([["text", "name"], ["a man", "x"]]),
}
_JSON = {
    "lines": "\n".join(json.dumps({"text": text, "name": "n"}, ensure_ascii=False) for text in _TEXTS).encode(),
    "lists": b"\r\n".join(json.dumps({"text": _TEXTS[:i], "weight": 0.5}).encode() for i in range(1, 4)),
}


def _queries(tmp_path_factory, suffix, data):
    path = tmp_path_factory.getbasetemp() / f"queries{suffix}"
    path.write_bytes(data)
    return outcome(read_queries, path)


def _read_csv(tmp_path_factory, data):
    queries = _queries(tmp_path_factory, ".csv", data)
    if queries is not None:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        reader.fieldnames = [name.strip().lower() for name in reader.fieldnames]
        rows = list(reader)
        assert [row["text"] for row in rows if row.get("text")] == [text for query in queries for text in query.texts]
    return queries


def _read_json(tmp_path_factory, data):
    queries = _queries(tmp_path_factory, ".jsonl", data)
    if queries is not None:
        rows = [json.loads(line) for line in data.decode("utf-8-sig").split("\n") if line.strip()]
        texts = [[row["text"]] if isinstance(row["text"], str) else row["text"] for row in rows]
        assert [list(map(_plain, one)) for one in texts] == [list(query.texts) for query in queries]
    return queries


def _plain(text):
    return "".join("\N{REPLACEMENT CHARACTER}" if 0xD800 <= ord(one) < 0xE000 else one for one in text)


@pytest.mark.parametrize("name", [*_CSV, *_JSON])
def test_a_whole_file(tmp_path_factory, name):
    queries = _read_csv(tmp_path_factory, _CSV[name]) if name in _CSV else _read_json(tmp_path_factory, _JSON[name])
    assert queries is not None


@tries(250)
@given(damaged(_CSV))
def test_a_damaged_csv_file(tmp_path_factory, found):
    _read_csv(tmp_path_factory, found[1])


@tries(250)
@given(damaged(_JSON))
def test_a_damaged_json_lines_file(tmp_path_factory, found):
    _read_json(tmp_path_factory, found[1])


@tries(100)
@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), st.text(max_size=20)), max_size=4), st.booleans())
def test_any_table(tmp_path_factory, rows, quoted):
    cells = [[row.get(key, "") for key in FIELDS] for row in rows]
    try:
        data = _csv([FIELDS, *cells], quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL)
    except UnicodeEncodeError:
        return
    queries = _queries(tmp_path_factory, ".csv", data)
    if queries is not None:
        assert [query.texts for query in queries] == [
            (row["text"],) if row.get("text") else () for row in rows if any(row.values())
        ]
