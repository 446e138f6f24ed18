from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmlangevin.core import LMLError
from lmlangevin.generation.prompts import read_prompts


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_plain_lines_in_their_order(tmp_path: Path) -> None:
    path = _write(tmp_path, "prompts.txt", "\ufeffa red fox\n\n  a blue   bird \r\nhalf man, half horse\n")
    found = read_prompts(path)
    assert found.texts == ("a red fox", "a blue bird", "half man, half horse")
    assert found.ids is None
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.csv", 'image_id,text\n42,"a fox, red"\n7,a bird\n'),
        ("c.tsv", "caption\tid\na fox, red\t42\na bird\t7\n"),
        ("c.json", json.dumps([{"image_id": 42, "text": "a fox, red"}, {"image_id": "7", "prompt": "a bird"}])),
        (
            "captions_val2014.json",
            json.dumps(
                {
                    "annotations": [
                        {"image_id": 42, "id": 1, "caption": "a fox, red"},
                        {"image_id": 7, "id": 3, "caption": "a bird\n"},
                        {"image_id": 42, "id": 2, "caption": "another caption of the fox"},
                    ]
                }
            ),
        ),
    ],
)
def test_captions_keep_the_ids_of_their_images(tmp_path: Path, name: str, text: str) -> None:
    found = read_prompts(_write(tmp_path, name, text))
    assert (found.texts, found.ids) == (("a fox, red", "a bird"), (42, 7))


def test_a_list_of_texts_has_no_ids(tmp_path: Path) -> None:
    found = read_prompts(_write(tmp_path, "p.json", '["one", "two"]'))
    assert (found.texts, found.ids) == (("one", "two"), None)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.txt", "\n \n", "holds no prompt"),
        ("p.txt", "fine\na \x07 bell\n", "prompt 2 holds the character '\\x07'"),
        ("p.txt", "x" * 5000, "has 5000 characters"),
        ("p.csv", "image_id,words\n1,fox\n", "entry 1 has no text or caption or prompt"),
        ("p.csv", "image_id,text\none,fox\n", "image_id 'one'; give a whole number"),
        ("p.csv", "image_id,text\n3,fox\n3,bird\n", "has image_id 3 twice"),
        ("p.json", "{", "is no JSON"),
        ("p.json", '{"captions": []}', "holds no list"),
        ("p.json", "[1]", "entry 1 has no text"),
    ],
)
def test_what_is_no_list_of_prompts_is_one_line(tmp_path: Path, name: str, text: str, words: str) -> None:
    with pytest.raises(LMLError) as caught:
        read_prompts(_write(tmp_path, name, text))
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert "prompt_file=" in str(caught.value) and "give " in str(caught.value)


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    for path in (tmp_path / "missing.txt", tmp_path, tmp_path / "latin.txt"):
        with pytest.raises(LMLError, match="cannot be read .*give a UTF-8 text file"):
            read_prompts(path)


_TEXT = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=30)


@given(rows=st.dictionaries(st.integers(0, 10**9), _TEXT, min_size=1, max_size=8))
def test_the_table_and_the_list_say_the_same(tmp_path_factory: pytest.TempPathFactory, rows: dict[int, str]) -> None:
    import csv

    folder = tmp_path_factory.mktemp("rows")
    with open(folder / "p.csv", "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("image_id", "text"), *rows.items()])
    listed = [{"image_id": identity, "text": text} for identity, text in rows.items()]
    table = read_prompts(folder / "p.csv")
    other = read_prompts(_write(folder, "p.json", json.dumps(listed)))
    assert (table.texts, table.ids) == (other.texts, other.ids) == (tuple(rows.values()), tuple(rows))
