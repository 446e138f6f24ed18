"""T2I-CompBench's layout: names of files, prompts, the reader, and the export of a job."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmlangevin.core.errors import LMLError
from lmlangevin.evaluation.compbench.export import RECORD, export_job, read_record
from lmlangevin.evaluation.compbench.layout import images_each, read_samples, sampler_folder
from lmlangevin.evaluation.compbench.names import LONGEST, file_name, parse_name
from lmlangevin.evaluation.compbench.prompts import complex_key, count_note, read_complex_kinds, read_prompts

# Names ---------------------------------------------------------------------------------------------------------------

# Prompts of the validation files that hold the rarest characters in them.
ORDINARY = [
    "a green bench and a blue bowl",
    "The white and yellow clock with a red roof reads 11:44.",
    "a cubic Rubik's cube and a pentagonal game box",
    "Kitchen scene, grey counter top on one side, whitish on the other and black sink with long neck faucet.",
    "The teardrop pendant and the diamond-studded bracelet were her favorite pieces of jewelry.",
]


@pytest.mark.parametrize("prompt", ORDINARY)
def test_an_ordinary_prompt_is_written_as_it_is(prompt: str) -> None:
    name = file_name(prompt, 2999, windows=False)
    assert name == f"{prompt}_002999.png"
    # As the official scripts read it.
    assert name.split("_")[0] == prompt
    assert int(name.split("_")[-1].split(".")[0]) == 2999


@given(prompt=st.text(max_size=20), index=st.integers(0, 10**9), windows=st.booleans())
def test_every_text_comes_back_from_a_safe_name(prompt: str, index: int, windows: bool) -> None:
    name = file_name(prompt, index, windows=windows)
    assert parse_name(name) == (prompt, index)
    assert not set(name) & set('/\\<>"|?*\0' + (":" if windows else ""))
    assert name not in (".", "..") and not name.startswith(".")
    assert Path(name).name == name and len(name.encode()) <= LONGEST
    assert all(unicodedata.category(c)[0] != "C" for c in name)
    assert name.count("_") == 1 and name.split("_")[0] == name[: name.index("_")]


@given(first=st.text(max_size=12), second=st.text(max_size=12))
def test_two_prompts_never_share_a_name(first: str, second: str) -> None:
    assert (file_name(first, 3) == file_name(second, 3)) == (first == second)


@pytest.mark.parametrize(
    ("prompt", "encoded"),
    [
        ("a/b", "a%2Fb"),
        ("..", "%2E."),
        ("snake_case", "snake%5Fcase"),
        ("100%", "100%25"),
        ("a\nb", "a%0Ab"),
        ("\u202ereversed", "%E2%80%AEreversed"),
        ("é", "é"),
    ],
)
def test_what_a_name_cannot_hold_is_encoded(prompt: str, encoded: str) -> None:
    assert file_name(prompt, 1) == f"{encoded}_000001.png"


def test_a_name_that_is_too_long_or_no_text_is_refused() -> None:
    fits = "x" * (LONGEST - len("_000000.png"))
    assert parse_name(file_name(fits, 0)) == (fits, 0)
    for prompt in (fits + "x", "é" * 123, "/" * 82):
        with pytest.raises(LMLError, match="would have 2[0-9]+ bytes and a name can have 255; give a shorter"):
            file_name(prompt, 0)
    with pytest.raises(LMLError, match="is no Unicode text"):
        file_name("half a \ud83d pair", 0)
    with pytest.raises(LMLError, match="index -1"):
        file_name("a", -1)


@pytest.mark.parametrize(
    "name", ["a red cube.png", "a_b_000001.png", "a_000001.txt", "a_.png", "a_٣.png", "a_1.png.part", "%FF_000001.png"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(LMLError, match="rename it or take it away"):
        parse_name(name)


def test_names_of_the_official_scripts_are_read_as_they_read_them() -> None:
    assert parse_name("half 50% off_000012.png") == ("half 50% off", 12)
    assert parse_name("a cat_7.JPG") == ("a cat", 7)


# Prompts -------------------------------------------------------------------------------------------------------------


def make_clone(folder: Path) -> Path:
    files = {
        "color_val.txt": "a red cube\tremark\n\na  blue bowl \na red cube\n",
        "complex_val.txt": "The red hat was on top of the rack.\nThe dog was lying. Twice.\nThe cat SAT near a vase",
        "complex_val_spatial.txt": "The red hat was on top of the rack.\n",
        "complex_val_action.txt": "The dog was lying.\n",
    }
    (folder / "examples" / "dataset").mkdir(parents=True)
    for name, text in files.items():
        (folder / "examples" / "dataset" / name).write_text(text, encoding="utf-8")
    return folder


def test_prompts_are_read_from_a_clone_its_dataset_or_a_file(tmp_path: Path) -> None:
    clone = make_clone(tmp_path / "clone")
    dataset = clone / "examples" / "dataset"
    expected = ("a red cube", "a blue bowl", "a red cube")
    assert read_prompts(clone, "color") == read_prompts(dataset, "color") == expected
    assert read_prompts(dataset / "color_val.txt") == expected
    for source, category, message in [
        (clone, "colour", "category 'colour': unknown; give one of color, shape"),
        (clone, None, "category None: unknown"),
        (clone, "shape", "shape_val.txt': cannot be read"),
        (tmp_path / "no.txt", "color", "no.txt': cannot be read .*; give a clone of T2I-CompBench, or a UTF-8"),
    ]:
        with pytest.raises(LMLError, match=message):
            read_prompts(source, category)
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(LMLError, match="holds no prompt"):
        read_prompts(tmp_path / "empty.txt")


def test_the_kinds_of_complex_prompts_are_looked_up_up_to_the_first_stop(tmp_path: Path) -> None:
    kinds = read_complex_kinds(make_clone(tmp_path))
    assert complex_key("The dog was lying. Twice.") == "the dog was lying"
    assert complex_key("The dog was lying. Twice.") in kinds.action
    assert kinds.spatial == {"the red hat was on top of the rack"}
    assert len(kinds.all) == 3 and complex_key("the cat sat near a vase.") in kinds.all - kinds.spatial - kinds.action
    with pytest.raises(LMLError, match="needs three files of the clone; give the clone's folder"):
        read_complex_kinds(tmp_path / "examples" / "dataset" / "complex_val.txt")


def test_another_number_of_prompts_is_a_note() -> None:
    assert count_note(300) is None
    assert count_note(12) == ("12 prompts where the validation set of a category has 300: no published score compares.")


# The reader ----------------------------------------------------------------------------------------------------------


def lay(folder: Path, names: list[str]) -> Path:
    (folder / "samples").mkdir(parents=True)
    for name in names:
        (folder / "samples" / name).write_bytes(name.encode())
    return folder


def test_samples_are_read_by_their_numbers(tmp_path: Path) -> None:
    names = ["b_000002.png", "a_000000.png", "a_000001.png", "c%5Fd_000010.png", "b_000003.png", "c%5Fd_000011.jpg"]
    folder = lay(tmp_path / "lml", names)
    (folder / "samples" / ".hidden").write_text("left out")
    samples = read_samples(folder)
    assert [(s.prompt, s.index) for s in samples] == [
        ("a", 0), ("a", 1), ("b", 2), ("b", 3), ("c_d", 10), ("c_d", 11)
    ]  # fmt: skip
    assert samples[4].path.read_bytes() == b"c%5Fd_000010.png"
    assert images_each(samples) == 2
    assert sampler_folder(folder / "samples") == folder and read_samples(folder / "samples") == samples
    assert read_samples(folder, prompts=["c_d", " a", "b"]) == samples


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ([], {}, "no images in its samples"),
        (["a_000000.png", "readme.txt"], {}, "file 'readme.txt': is not named prompt_000000.png"),
        (["a_000000.png", "b_0.png"], {}, "have one number, which the official scripts count twice"),
        (["a_000000.png", "a_000001.png", "b_000002.png"], {}, "'b' has 1 images and 'a' has 2; .* give --unequal"),
        (["a_000000.png"], {"prompts": ["a", "b"]}, "lacks 1 prompts, such as 'b', against the 2"),
        (["a_000000.png", "b_000001.png"], {"prompts": ["a"]}, "has 1 prompts, such as 'b', against the 1"),
        (["a_000000.png", "b_000001.png"], {"prompts": ["a", "a", "b"]}, "'a' has 0.5 images and 'b' has 1"),
    ],
)
def test_samples_that_do_not_fit_are_refused(
    tmp_path: Path, names: list[str], options: dict[str, Any], message: str
) -> None:
    folder = lay(tmp_path / "lml", names)
    with pytest.raises(LMLError, match=message):
        read_samples(folder, **options)


def test_unequal_numbers_can_be_asked_for_and_a_prompt_may_stand_twice_in_its_file(tmp_path: Path) -> None:
    folder = lay(tmp_path / "lml", ["a_000000.png", "b_000001.png", "a_000002.png"])
    assert [s.prompt for s in read_samples(folder, unequal=True)] == ["a", "b", "a"]
    assert len(read_samples(folder, prompts=["a", "b", "a"])) == 3
    assert images_each(read_samples(folder, unequal=True)) is None
    with pytest.raises(LMLError, match="has no samples/ in it"):
        sampler_folder(tmp_path)


# The export ----------------------------------------------------------------------------------------------------------

PROMPTS = ["a red cube", "a/b: 50% off?", "The bowl."]
NAMES = [file_name(PROMPTS[k // 2], k) for k in range(6)]


@pytest.fixture
def job(make_job: Callable[..., Path], tmp_path: Path) -> Path:
    """A job of two images for each of three prompts, with two runs; its manifest lists them in reverse."""
    folder = make_job(tmp_path / "job", 900, 6, job="0123456789abcdef", config={"seed": 900}, versions={"torch": "2"})
    edit(folder, lambda row: row.update(prompt=PROMPTS[row["id"] // 2]))
    return folder


def edit(job: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((job / "manifest.json").read_text())
    for row in content["images"]:
        change(row)
    (job / "manifest.json").write_text(json.dumps(content))


def export(job: Path, tmp_path: Path, **changes: Any) -> Any:
    options = {"model": "tiny", "category": "color", "sampler": "lml 8", "run": "lml"} | changes
    return export_job(job, tmp_path / "save", **options)


def listing(folder: Path) -> list[str]:
    return sorted(entry.name for entry in (folder / "samples").iterdir())


def test_a_run_is_laid_out_where_the_official_scripts_look(job: Path, tmp_path: Path) -> None:
    done = export(job, tmp_path, prompts=PROMPTS)
    assert done.folder == tmp_path / "save" / "tiny" / "color" / "lml 8"
    assert (done.added, done.there, done.missing) == (6, 0, 0)
    assert listing(done.folder) == sorted(NAMES)
    for k, name in enumerate(NAMES):
        assert os.path.samefile(done.folder / "samples" / name, job / "lml" / f"{k:06d}.png")
    assert [(s.prompt, s.index) for s in read_samples(done.folder)] == [(PROMPTS[k // 2], k) for k in range(6)]
    record = read_record(done.folder)
    assert record is not None and record["seeds"] == {"first": 900, "count": 6}
    assert (record["job"], record["run"], record["model"]) == ("0123456789abcdef", "lml", "tiny")
    assert "3 prompts where the validation set" in done.notes[0]
    assert "Blocks of 2 images of one prompt where the official scripts have 10" in done.notes[1]


def test_an_export_is_repeated_without_harm_and_goes_on_when_the_job_does(job: Path, tmp_path: Path) -> None:
    late = [job / "lml" / "000003.png", job / "lml" / "000005.png"]
    kept = [path.read_bytes() for path in late]
    for path in late:
        path.unlink()
    first = export(job, tmp_path)
    assert (first.added, first.there, first.missing) == (4, 0, 2)
    assert "2 images are not made yet (the job's status is 'complete')" in first.notes[0]
    for path, data in zip(late, kept, strict=True):
        path.write_bytes(data)
    # Images that are gone from the job, or are written anew, stay what they were when they were exported.
    (job / "lml" / "000000.png").unlink()
    second = export(job, tmp_path)
    assert (second.added, second.there, second.missing) == (2, 4, 0)
    assert listing(second.folder) == sorted(NAMES)
    before = {name: (second.folder / "samples" / name).stat().st_mtime_ns for name in NAMES}
    assert export(job, tmp_path).there == 6
    assert before == {name: (second.folder / "samples" / name).stat().st_mtime_ns for name in NAMES}


def test_images_are_copied_where_no_links_are(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refused)
    done = export(job, tmp_path)
    assert listing(done.folder) == sorted(NAMES)
    copy = done.folder / "samples" / NAMES[4]
    assert copy.read_bytes() == (job / "lml" / "000004.png").read_bytes()
    assert not os.path.samefile(copy, job / "lml" / "000004.png")
    assert export(job, tmp_path).there == 6


def test_other_pictures_are_never_written_over(job: Path, tmp_path: Path) -> None:
    done = export(job, tmp_path)
    name = NAMES[2]
    other = (job / "plain" / "000002.png").read_bytes()
    (done.folder / "samples" / name).unlink()
    (done.folder / "samples" / name).write_bytes(other)
    with pytest.raises(LMLError, match=r"has another picture as .*; give another --sampler"):
        export(job, tmp_path)
    assert (done.folder / "samples" / name).read_bytes() == other
    with pytest.raises(LMLError, match="holds images of another job or run"):
        export(job, tmp_path, run="plain")
    (done.folder / RECORD).unlink()
    with pytest.raises(LMLError, match="has another picture as"):
        export(job, tmp_path, run="plain")
    (done.folder / "samples" / name).unlink()
    (done.folder / "samples" / "a stray_000099.png").write_bytes(other)
    with pytest.raises(LMLError, match="holds 'a stray_000099.png', which is not of this job"):
        export(job, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"category": "colour"}, "category 'colour': unknown"),
        ({"model": "../up"}, "model '../up': is to be a folder's name"),
        ({"model": "sd/v1"}, "model 'sd/v1': is to be a folder's name"),
        ({"sampler": ".."}, "sampler '..': is to be a folder's name"),
        ({"sampler": "lml."}, "sampler 'lml.': is to be a folder's name"),
        ({"sampler": ""}, "sampler '': is to be a folder's name"),
        ({"run": None}, "run None: job .* has the runs plain, lml; give one of them"),
        ({"run": "images"}, "run 'images': job .* has the runs plain, lml"),
        ({"prompts": PROMPTS[::-1]}, "image 0 is of 'a red cube' and not of 'The bowl.'"),
        ({"prompts": PROMPTS + ["one more"]}, "has 6 images, no multiple of the 4 prompts"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(
    job: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(LMLError, match=message):
        export(job, tmp_path, **changes)
    assert not (tmp_path / "save").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.update(prompt=None), "image 0 has no prompt"),
        (lambda row: row.update(prompt="x" * 300), "would have 311 bytes"),
        (lambda row: row.update(files={"lml": "../../etc/passwd"}), "image 0 of its manifest is not in its folder"),
        (lambda row: row.update(files={"lml": ""}), "image 0 of its manifest is not in its folder"),
        (lambda row: row.update(id=row["id"] + 1), "does not number its images 0, 1, 2"),
        (lambda row: row.pop("seed"), "its manifest is damaged"),
    ],
)
def test_manifests_that_cannot_be_trusted_are_refused(job: Path, tmp_path: Path, change: Any, message: str) -> None:
    edit(job, change)
    with pytest.raises(LMLError, match=message):
        export(job, tmp_path)
    assert not (tmp_path / "save").exists()


def test_what_is_no_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LMLError, match="has no manifest.json"):
        export(tmp_path, tmp_path)
    for text, message in (("[]", "is none of lml generate"), ("{", "manifest .* cannot be read")):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(LMLError, match=message):
            export(tmp_path, tmp_path)
