from __future__ import annotations

import hashlib
import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmlangevin.core import LMLError
from lmlangevin.generation.prompts import check_prompt, read_prompts


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
        ("p.csv", "image_id,text\n1,fox\n2,a fox, in snow\n", "line 3 has more fields than the header has columns"),
        ("p.tsv", "text\na fox\tin snow\n", "line 2 has more fields than the header has columns"),
        ("p.csv", 'image_id,text\n1,"a fox\n2,a cat\n', "line 3 is no row of a table"),
        ("p.csv", 'image_id,text\n1,"a fox" in snow\n', "line 2 is no row of a table"),
        ("p.csv", "image_id,text\n1,fox\n,bird\n", "entry 2 has no image_id, and others have one"),
        ("p.json", '[{"image_id": 1.5, "text": "fox"}]', "image_id 1.5; give a whole number"),
        ("p.json", '[{"image_id": true, "text": "fox"}]', "image_id True; give a whole number"),
        ("p.json", '[{"image_id": NaN, "text": "fox"}]', "image_id nan; give a whole number"),
        ("p.json", '[{"image_id": [1], "text": "fox"}]', "image_id [1]; give a whole number"),
        ("p.csv", "id,text\n1_0,fox\n", "id '1_0'; give a whole number"),
        ("p.json", '[{"image_id": 5, "text": "fox"}, {"id": 5, "text": "cat"}]', "entry 2 has no image_id, and others"),
        (
            "p.json",
            '{"annotations": [{"image_id": 5, "caption": "fox"}, {"id": 5, "caption": "cat"}]}',
            "entry 2 has no image_id, and others have one",
        ),
        ("p.jsonl", '{"prompt": "fox"}\nfox\n', "line 2 is no JSON"),
        ("p.jsonl", '{"prompt": "fox"}\n\n{"words": "fox"}\n', "entry 2 has no text"),
        ("p.json", "[" * 100_000, "is no JSON"),
        ("p.json", '["\\ud83e"]', "prompt 1 holds the character '\\ud83e', half of a surrogate pair"),
        ("p.txt", "a fox\u2028in snow\n", "prompt 1 holds the character '\\u2028', a line break"),
        ("p.txt", "a fox\x85in snow\n", "prompt 1 holds the character '\\x85', a control character"),
        ("p.txt", "a fox\x0cin snow\n", "prompt 1 holds the character '\\x0c', a control character"),
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


def test_json_lines(tmp_path: Path) -> None:
    text = '\ufeff{"prompt": "a fox,in snow"}\n\r\n{"text": "a cat", "note": 1}\r"a bird"'
    found = read_prompts(_write(tmp_path, "p.jsonl", text))
    assert (found.texts, found.ids) == (("a fox,in snow", "a cat", "a bird"), None)
    found = read_prompts(
        _write(tmp_path, "q.JSONL", '{"id": 4.0, "prompt": "a fox"}\n{"id": "-7", "prompt": "a cat"}\n')
    )
    assert found.ids == (4, -7)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_three_line_ends_and_no_other(tmp_path: Path, end: str) -> None:
    (tmp_path / "p.txt").write_bytes(end.join(["one", "", "two\u3000three", "four\u00a0!"]).encode())
    (tmp_path / "p.csv").write_bytes(end.join(["id,text", "1,one", '2,"two, three"', ""]).encode())
    assert read_prompts(tmp_path / "p.txt").texts == ("one", "two\u3000three", "four\u00a0!")
    table = read_prompts(tmp_path / "p.csv")
    assert (table.texts, table.ids) == (("one", "two, three"), (1, 2))


def test_line_ends_inside_a_caption_become_spaces(tmp_path: Path) -> None:
    captions = [{"caption": "a fox\r\n in\tsnow \n"}, {"caption": "a fox"}, {"caption": "a fox"}]
    found = read_prompts(_write(tmp_path, "c.json", json.dumps({"annotations": captions})))
    # Without an image_id each caption is an image's own, and an annotation's id is none.
    assert (found.texts, found.ids) == (("a fox in snow", "a fox", "a fox"), None)
    numbered = [{"id": k, **caption} for k, caption in enumerate(captions)]
    found = read_prompts(_write(tmp_path, "d.json", json.dumps({"annotations": numbered})))
    assert (len(found.texts), found.ids) == (3, None)


TEXTS = {
    "joined emoji": "a family \U0001f469\u200d\U0001f469\u200d\U0001f467 on a beach",
    "emoji of a later Unicode": "a \U0001fae8 face and \U0001fadf",
    "flag of England": "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "Persian": "\u06af\u0631\u0628\u0647 \u0645\u06cc\u200c\u062f\u0648\u062f",
    "Hindi": "\u0915\u094d\u200d\u0937",
    "French": "un renard\u00a0! \u00ab\u202frouge\u202f\u00bb",
    "Japanese": "\u72d0\u3000\u68ee",
    "Hebrew with its direction": "\u200f\u05e9\u05d5\u05e2\u05dc\u200e fox",
    "soft hyphen": "beau\u00adtiful fox",
    "private use": "a \ue000 sign",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_every_text_is_a_prompt_as_it_stands(tmp_path: Path, text: str) -> None:
    check_prompt("prompt", text)
    listed = json.dumps([text])
    for name, content in (("p.txt", text), ("p.csv", f"text\n{text}"), ("p.json", listed), ("p.jsonl", listed[1:-1])):
        assert read_prompts(_write(tmp_path, name, content)).texts == (text,)


@given(text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20))
def test_only_control_characters_and_line_breaks_are_refused(text: str) -> None:
    refused = any(unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in text) or not text.strip()
    if refused:
        with pytest.raises(LMLError, match="give ") as caught:
            check_prompt("prompt", text)
        assert str(caught.value).isprintable()
    else:
        check_prompt("prompt", text)
