"""Valid and invalid queries, and files of queries."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ms_unireid.apps.search.queries import Query, make_query, read_queries, read_query_picture
from ms_unireid.errors import QueryError, UserError


def test_one_or_many():
    assert make_query("a man") == Query(("a man",))
    assert make_query(["a", "b"], "s.png").texts == ("a", "b")
    assert make_query(sketch="s.png").sketches == (Path("s.png"),)
    assert make_query(sketch=["s.png", Path("t.png")]).sketches == (Path("s.png"), Path("t.png"))
    assert make_query(photo=3).photo == 3 and make_query(photo=0).photo == 0
    assert make_query(photo="p.png").photo == Path("p.png")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "nothing to search for"),
        ({"text": ""}, "nothing to search for|is empty"),
        ({"text": " \n"}, "is empty"),
        ({"text": ["a man", ""]}, "is empty"),
        ({"text": "x" * 100_001}, "longer than"),
        ({"text": "a man", "photo": 1}, "cannot be combined"),
        ({"sketch": "s.png", "photo": "p.png"}, "cannot be combined"),
        ({"text": "a man", "weight": 1.01}, "weight"),
        ({"text": "a man", "weight": -0.1}, "weight"),
        ({"text": "a man", "weight": float("nan")}, "weight"),
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
    file.write_text('{"text": ["a", "b"], "sketch": ["s.png", "t.png"]}\n\n{"photo": "p.png", "name": "x"}\n')
    first, second = read_queries(file)
    assert first.texts == ("a", "b") and first.sketches == (tmp_path / "s.png", tmp_path / "t.png")
    assert (second.name, second.photo) == ("x", tmp_path / "p.png")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.csv", b"text\n", "has no queries"),
        ("q.csv", b"txt\na man\n", "line 2: unknown field 'txt'"),
        ("q.csv", b"text,weight\na man,heavy\n", "line 2"),
        ("q.csv", b"text,weight\na man,3\n", "line 2: weight"),
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


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_queries(tmp_path / "absent.csv")
