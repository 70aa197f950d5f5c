"""Valid and invalid queries, and files of queries."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ms_unireid.apps.search.queries import Hit, Query, make_query, read_queries, read_query_picture, to_table
from ms_unireid.errors import QueryError, UserError


def test_one_or_many():
    assert make_query("a man") == Query(("a man",))
    assert make_query(["a", "b"], "s.png").texts == ("a", "b")
    assert make_query(sketch="s.png").sketches == (Path("s.png"),)
    assert make_query(sketch=["s.png", Path("t.png")]).sketches == (Path("s.png"), Path("t.png"))
    assert make_query(photo=3).photos == (3,) and make_query(photo=0).photos == (0,)
    assert type(make_query(photo=np.int64(3)).photos[0]) is int
    assert make_query(photo="p.png").photos == (Path("p.png"),)
    mixed = make_query("a man", photo=["p.png", 3], more=7, less=(np.int64(1), "q.png"))
    assert (mixed.photos, mixed.more, mixed.less) == ((Path("p.png"), 3), (7,), (1, Path("q.png")))
    assert (
        str(mixed) == '"a man" + photo p.png + photo 3 (picture weight 0.5), more like 7, less like 1, less like q.png'
    )
    assert str(make_query(more=[4])) == "more like 4"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing to search for"),
        ({"text": ""}, "nothing to search for|is empty"),
        ({"text": " \n"}, "is empty"),
        ({"text": ["a man", ""]}, "is empty"),
        ({"text": "x" * 100_001}, "longer than"),
        ({"less": 3}, "nothing to search for"),
        ({"text": "a man", "weight": 1.01}, "weight"),
        ({"text": "a man", "weight": -0.1}, "weight"),
        ({"text": "a man", "weight": float("nan")}, "weight"),
        ({"text": "a man", "weight": 0.4}, "give both"),
        ({"sketch": "s.png", "weight": 1}, "give both"),
        ({"photo": 3, "weight": 0.7}, "give both"),
        ({"text": "\u200b\x00"}, "is empty"),
    ],
)
def test_invalid_queries_are_refused(given, message):
    with pytest.raises(QueryError, match=message):
        make_query(**given)


def test_emoji_and_ten_thousand_characters_are_text():
    assert make_query("🧍‍♂️ in 🟥").texts and make_query("word " * 2000).texts


def test_transparent_sketches_get_a_white_background(tmp_path):
    drawn = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    drawn.putpixel((1, 1), (0, 0, 0, 255))
    for name in ("a.png", "b.webp"):
        drawn.save(tmp_path / name, lossless=True)
        pixels = np.asarray(read_query_picture(tmp_path / name))
        assert pixels[0, 0].tolist() == [255, 255, 255] and pixels[1, 1].tolist() == [0, 0, 0]
    drawn.convert("RGB").quantize(2).save(tmp_path / "palette.png", transparency=0)
    assert np.asarray(read_query_picture(tmp_path / "palette.png"))[0, 0].tolist() == [255, 255, 255]


def test_pictures_are_rotated_by_their_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_query_picture(tmp_path / "turned.jpg").size == (20, 40)


def test_animated_and_damaged_pictures(tmp_path):
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moves.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(QueryError, match=r"is animated"):
        read_query_picture(tmp_path / "moves.gif")
    frames[0].save(tmp_path / "still.gif")
    assert read_query_picture(tmp_path / "still.gif").mode == "RGB"
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for name in ("cut.png", "absent.png"):
        with pytest.raises(QueryError, match=name):
            read_query_picture(tmp_path / name)


def test_csv(tmp_path):
    file = tmp_path / "q.csv"
    file.write_text("\ufeffname,text,sketch,weight\nfirst,a man in red,,\n,,s.png,\nboth,a,s.png,0.7\n", "utf-8")
    first, second, both = read_queries(file)
    assert (first.name, first.texts, first.weight) == ("first", ("a man in red",), 0.5)
    assert (second.name, second.sketches) == ("line 3", (tmp_path / "s.png",))
    assert both.weight == 0.7


def test_json_lines(tmp_path):
    file = tmp_path / "q.jsonl"
    file.write_text(
        '{"text": ["a", "b"], "sketch": ["s.png", "t.png"], "photo": ["p.png", "q.png"]}\n'
        '\n{"photo": "p.png", "name": "x"}\n'
    )
    first, second = read_queries(file)
    assert first.texts == ("a", "b") and first.sketches == (tmp_path / "s.png", tmp_path / "t.png")
    assert first.photos == (tmp_path / "p.png", tmp_path / "q.png")
    assert (second.name, second.photos) == ("x", (tmp_path / "p.png",))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.csv", b"text\n", "has no queries"),
        ("q.csv", b"", "has no queries"),
        ("q.csv", b"text, Text\na,b\n", "line 1: repeated field 'text'"),
        ("q.csv", b"txt\na man\n", "line 1: unknown field 'txt' in the header"),
        ("q.csv", b"text;weight\na man;\n", "line 1: unknown field 'text;weight'.*commas"),
        ("q.csv", b"text,name,text\na,b,c\n", "line 1: repeated field 'text'"),
        ("q.csv", b"\ntext\na\n", "line 2: 'text' is under no header"),
        ("q.csv", b"text,weight\na man,heavy\n", "line 2: weight 'heavy': expected a number"),
        ("q.csv", b"text,weight\na man,0_1\n", "line 2: weight '0_1': expected a number"),
        ("q.csv", b"text,weight\na man,3\n", "line 2: weight"),
        ("q.csv", b"text,weight\na man,0.7\n", "line 2: weight 0.7: .*give both"),
        ("q.csv", b"text,weight\na man, in red,\n", "line 2: weight ' in red'"),
        ("q.csv", b"text\na man, in red\n", "line 2: ' in red' is under no header; put a text"),
        ("q.csv", b'text\n\n"a\nb"\n"a"b\n', "line 5: is not valid CSV"),
        ("q.csv", b'text\na\n"b\nc\n', "line 3: is not valid CSV .unexpected end"),
        ("q.csv", b"text\n" + b"x" * 140_000, "line 2: .*(larger|longer)"),
        ("q.csv", b"text\na\x00b\n", "not UTF-8"),
        ("q.csv", "text\na".encode("utf-16-le"), "not UTF-8"),
        ("q.csv", b"text\n" + b"a\n" * 100_001, "more than 100,000 queries"),
        ("q.jsonl", b"x" * (16 << 20) + b"x", "larger than 16 MiB"),
        ("q.jsonl", b'{"text": "a", "text": "b"}', "line 1: is not valid JSON .the key .text. appears twice"),
        ("q.jsonl", b'{"text": "a", "sketch": "s", "weight": NaN}', "NaN is not a number"),
        ("q.jsonl", b'{"text": "a", "sketch": "s", "weight": 1e999}', "weight inf"),
        ("q.jsonl", b'{"text": "a", "sketch": "s", "weight": true}', "weight True: expected a number"),
        ("q.jsonl", b'{"text": "a", "sketch": "s", "weight": "0.5"}', "weight '0.5': expected a number"),
        ("q.jsonl", b'{"text": "a", "sketch": "s", "weight": %s}' % (b"9" * 5000), "not valid JSON .Exceeds the limit"),
        ("q.jsonl", b'{"text": [["a"]]}', "text .*expected text, or a list of texts"),
        ("q.jsonl", b'{"text": ["a", null]}', "text .*expected text, or a list of texts"),
        ("q.jsonl", b'{"sketch": {"a": 1}}', "sketch .*expected a path, or a list"),
        ("q.jsonl", b'{"photo": [3]}', "photo .*expected a path, or a list"),
        ("q.jsonl", b'{"text": "a", "name": ["x"]}', "name .*expected text"),
        ("q.jsonl", b'{"text": null}', "nothing to search for"),
        ("q.jsonl", b"[" * 100_000, "line 1: is not valid JSON .it is nested too deeply"),
        ("q.jsonl", b'{"\\u001b[2J": 1}', r"unknown field '\\x1b\[2J'"),
        ("q.jsonl", b'{"text": "a"}\n{"text"\n', "line 2: is not valid JSON"),
        ("q.jsonl", b'["a"]\n', "expected a JSON object"),
        ("q.jsonl", b'{"text": 3}\n', "line 1"),
        ("q.jsonl", b'{"weight": 0.5}\n', "nothing to search for"),
        ("q.jsonl", b"\xff\xfe", "not UTF-8"),
    ],
)
def test_errors_in_a_file_name_the_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(QueryError, match=message) as caught:
        read_queries(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_csv_is_read_as_csv_reads_it(tmp_path, end):
    texts = ["red\ncoat", "a\u2028b", "x\x0by\x85z", 'said "no", left', "a\r\nb", "last"]
    with (tmp_path / "q.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerows([["text", ""], *([text, ""] for text in texts), ["", ""]])
    found = read_queries(tmp_path / "q.csv")
    assert [query.texts for query in found] == [(text,) for text in texts]
    assert [query.name for query in found] == ["line 2", "line 4", "line 5", "line 6", "line 7", "line 9"]


def test_json_lines_are_cut_at_line_breaks_alone(tmp_path):
    objects = [{"text": "a\u2028b\x85", "weight": None}, {"text": "lone \ud83d"}, {"text": "e", "name": "\udcff"}]
    texts = [json.dumps(one, ensure_ascii=one["text"][0] != "a") for one in objects]
    (tmp_path / "q.jsonl").write_text("\r\n".join(texts), encoding="utf-8", newline="")
    found = read_queries(tmp_path / "q.jsonl")
    assert [query.texts[0] for query in found] == ["a\u2028b\x85", "lone \ufffd", "e"]
    assert [query.name for query in found] == ["line 1", "line 2", "\ufffd"]


def test_a_table_shows_no_control_characters():
    table = to_table([make_query("a\x1b[2Jb", name="x\ny")], [[Hit(1, 1.0, 0, Path("/p/\x1b.png"))]])
    assert len(table.splitlines()) == 2 and table.replace("\n", "").isprintable()


def test_a_table_says_what_is_known_of_a_photo():
    hit = Hit(1, 0.5, 0, Path("/p.png"), "7", "2024-05-01T12:30:15", "c\n2", (4, 5))
    assert to_table([make_query("a")], [[hit, Hit(2, 0.4, 1, Path("/q.png"))]]).splitlines() == [
        '"a"',
        "1  0.5000  /p.png  person 7, 2024-05-01T12:30:15, camera c\\n2, and 2 nearly the same",
        "2  0.4000  /q.png",
    ]


def test_a_file_that_cannot_be_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    for path in (tmp_path / "absent.csv", tmp_path / "pipe.csv", tmp_path, Path("/dev/zero")):
        with pytest.raises(UserError, match="cannot be read"):
            read_queries(path)


def test_pictures_of_other_modalities(tmp_path):
    query = make_query("a man", "s.png", pictures={"pencil": "p.png", "sketch": ["t.png"], "infrared": []})
    assert query.sketches == (Path("s.png"), Path("t.png")) and query.others == {"pencil": (Path("p.png"),)}
    assert query.modalities == ("text", "sketch", "pencil") and len(query.pictures) == 3
    assert str(query) == '"a man" + sketch s.png + sketch t.png + pencil p.png (picture weight 0.5)'
    assert make_query(pictures={"pencil": "p.png"}).modalities == ("pencil",)
    (tmp_path / "q.csv").write_text("text,picture\na man,infrared=i=1.png\n,pencil=p.png\n")
    (tmp_path / "q.jsonl").write_text(
        '{"picture": ["pencil=p.png", "pencil=q.png", "infrared=i.png", "sketch=s.png"]}\n'
    )
    (first, second), (third,) = read_queries(tmp_path / "q.csv"), read_queries(tmp_path / "q.jsonl")
    assert (first.texts, first.others) == (("a man",), {"infrared": (tmp_path / "i=1.png",)})
    assert second.others == {"pencil": (tmp_path / "p.png",)} and third.sketches == (tmp_path / "s.png",)
    assert {name: len(given) for name, given in third.others.items()} == {"pencil": 2, "infrared": 1}
    for wrong in (
        '"p.png"',
        '"=p.png"',
        '"pencil="',
        '["pencil=p.png", "text=p.png"]',
        '"Pencil=p.png"',
        '"photo=p.png"',
    ):
        (tmp_path / "q.jsonl").write_text(f'{{"picture": {wrong}}}\n')
        with pytest.raises(QueryError, match=r"q\.jsonl: line 1: picture .*: expected MODALITY=PATH, as pencil=drawn"):
            read_queries(tmp_path / "q.jsonl")
    for wrong in ("3", '{"pencil": "p.png"}', "[null]"):
        (tmp_path / "q.jsonl").write_text(f'{{"picture": {wrong}}}\n')
        with pytest.raises(QueryError, match=r"picture .*: expected MODALITY=PATH, or a list of them"):
            read_queries(tmp_path / "q.jsonl")
