"""Results of the page: names that tell photos apart."""

from pathlib import Path

import pytest

from ms_unireid.apps.web.page_query import path_mark
from ms_unireid.apps.web.results import short_names


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["/a/1.png", "/a/2.png"], ["1.png", "2.png"]),
        (["/a/c1/7.png", "/a/c2/7.png", "/a/c2/8.png"], ["c1/7.png", "c2/7.png", "8.png"]),
        (["/a/c1/x/7.png", "/a/c2/x/7.png"], ["c1/x/7.png", "c2/x/7.png"]),
        (["/7.png", "/a/7.png"], ["/7.png", "a/7.png"]),
        (["/a/7.png", "/a/7.png"], ["7.png", "7.png"]),
        (["/a/\x1b[31m\n.png", "/a/\udcff.png"], ["\\x1b[31m\\n.png", "\\udcff.png"]),
        ([], []),
    ],
)
def test_a_name_is_the_shortest_end_of_the_path_that_no_other_has(paths, names):
    assert short_names([Path(path) for path in paths]) == names


def test_marks_tell_paths_apart():
    marks = {path_mark(Path(f"/a/{number}.png")) for number in range(1000)} | {path_mark(Path("/a/\udcff.png"))}
    assert len(marks) == 1001 and all(len(mark) == 8 for mark in marks)
