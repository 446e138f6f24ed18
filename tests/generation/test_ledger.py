from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lmlangevin.core import LMLError
from lmlangevin.generation.batches import deal
from lmlangevin.generation.images import png_bytes, to_pictures
from lmlangevin.generation.ledger import COMPACTED, Ledger, Record, Totals
from lmlangevin.generation.store import Store, open_store

COUNT = 12


def _record(ids: list[int], run: str = "images", **changes: Any) -> Record:
    first = ids[0] + 1
    record = Record(
        run=run,
        ids=tuple(ids),
        mode="RGB",
        size=(8, 8),
        noise_sha256=tuple(f"{k + 1:064x}" for k in ids),
        seconds=0.5 * first,
        nfe=3,
        guidance_evaluations=0,
        non_finite=(ids[0],),
        timesteps=(7.0, 3.0, 1.0),
        corrections=((0.1 * first, 2.0, 0.3), (0.7, 0.0, 1.5 * first)),
    )
    return dataclasses.replace(record, **changes)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A place with all images of a job, of random pixels."""
    store = open_store(tmp_path)
    store.make_folders(["images", "records"])
    pixels = torch.randint(0, 256, (COUNT, 3, 8, 8), generator=torch.Generator().manual_seed(5)).to(torch.uint8)
    for index, picture in enumerate(to_pictures(pixels)):
        store.write(f"images/{index:06d}.png", png_bytes(picture))
    return store


def _ledger(store: Store, job: str = "j", count: int = COUNT) -> Ledger:
    return Ledger(store, job, ["images"], count)


def test_what_has_a_record_and_a_whole_file_is_finished(store: Store) -> None:
    ledger = _ledger(store)
    assert ledger.check() == {"images": list(range(COUNT))}
    ledger.add(_record([4, 5, 6]))
    ledger.add(_record([0, 1]))
    looks: list[tuple[int, int]] = []
    assert _ledger(store).check(lambda *look: looks.append(look)) == {"images": [2, 3, 7, 8, 9, 10, 11]}
    assert looks == [(5, 5)]
    with pytest.raises(LMLError, match="lacks 7 images"):
        ledger.collect()


@pytest.mark.parametrize("harm", ["deleted", "empty", "truncated", "wrong byte", "other mode", "other size"])
@pytest.mark.parametrize("compacted", [False, True])
def test_one_bad_image_drops_its_record_and_no_other(harm: str, compacted: bool, store: Store) -> None:
    ledger = _ledger(store)
    for start in range(0, COUNT, 3):
        ledger.add(_record([start, start + 1, start + 2]))
    if compacted:
        ledger.compact(ledger.collect())
    name = "images/000004.png"
    data = store.read(name)
    grey, large = torch.full((1, 1, 8, 8), 9).to(torch.uint8), torch.full((1, 3, 9, 8), 9).to(torch.uint8)
    if harm == "deleted":
        store.remove([name])
    else:
        store.write(
            name,
            {
                "empty": b"",
                "truncated": data[:-20],
                "wrong byte": data[:60] + bytes([data[60] ^ 1]) + data[61:],
                "other mode": png_bytes(to_pictures(grey)[0]),
                "other size": png_bytes(to_pictures(large)[0]),
            }[harm],
        )
    assert ledger.check() == {"images": [3, 4, 5]}
    store.write(name, data)
    assert ledger.check() == {"images": [3, 4, 5]}, "the record is gone from disk"
    ledger.add(_record([3, 4, 5]))
    assert [r.ids[0] for r in ledger.collect()["images"]] == [0, 3, 6, 9]


@pytest.mark.parametrize("stop", ["before", "after"])
def test_a_crash_while_records_are_put_together_counts_nothing_twice(
    stop: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = _ledger(store)
    for start in range(0, COUNT, 4):
        ledger.add(_record(list(range(start, start + 4))))
    records = ledger.collect()
    totals = Totals.of(records["images"])
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

        def crash(*args: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(store, "write" if stop == "before" else "remove", crash)
        ledger.compact(records)
    assert len(store.names("records")) == (3 if stop == "before" else 4)
    assert Totals.of(_ledger(store).collect()["images"]) == totals
    assert _ledger(store).check() == {"images": []}
    ledger.compact(ledger.collect())
    assert store.names("records") == ["all.json"]
    assert Totals.of(_ledger(store).collect()["images"]) == totals


def test_totals_are_those_of_all_images(store: Store) -> None:
    ledger = _ledger(store)
    ledger.add(_record([3, 4, 5, 6, 7, 8, 9, 10, 11], non_finite=(5, 7)))
    ledger.add(_record([0, 1, 2], non_finite=()))
    found = ledger.collect()
    totals = Totals.of(found["images"])
    assert (totals.nfe, totals.non_finite, totals.timesteps) == (3, 2, [7.0, 3.0, 1.0])
    assert totals.seconds == 0.5 + 2.0
    first, second = totals.corrections
    assert (first["step"], first["identity"]) == (0, 4 / 12)
    assert first["angle"] == pytest.approx(0.5 / 12)
    assert first["gain"] == pytest.approx([0.6 / 12])
    assert second["gain"] == pytest.approx([7.5 / 12])
    hashes = ledger.hashes(found)
    assert [hashes.get(k) for k in range(COUNT)] == [f"{k + 1:064x}" for k in range(COUNT)]
    drawn_elsewhere = {"images": [_record([0, 1], noise_sha256=None)]}
    assert ledger.hashes(drawn_elsewhere).get(0) is None
    assert Totals.of([_record([0, 1], corrections=())]).corrections == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"format": "lmlangevin-records-1", "job": "j"}',
        b'{"format": "lmlangevin-records-1", "job": "j", "records": [3]}',
        b'{"format": "other", "job": "j", "records": []}',
    ],
)
def test_a_file_that_is_no_record_is_passed_over_and_deleted(data: bytes, store: Store) -> None:
    ledger = _ledger(store)
    ledger.add(_record([0, 1]))
    store.write("records/images-000002-00000000.json", data)
    assert ledger.check()["images"] == list(range(2, COUNT))
    assert len(store.names("records")) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"ids": []},
        {"ids": [0, 0]},
        {"ids": [COUNT]},
        {"ids": [-1]},
        {"ids": "ab"},
        {"run": "lml"},
        {"size": [8]},
        {"noise_sha256": ["00"]},
        {"noise_sha256": ["zz"] * 2},
        {"seconds": None},
        {"corrections": [3]},
    ],
    ids=str,
)
def test_a_record_that_makes_no_sense_is_passed_over(change: dict[str, Any], store: Store) -> None:
    record = json.loads(json.dumps(dataclasses.asdict(_record([0, 1]))))
    assert Record.parse(record) == _record([0, 1])
    content = {"format": "lmlangevin-records-1", "job": "j", "records": [record | change]}
    store.write("records/images-000000-00000000.json", json.dumps(content).encode())
    assert _ledger(store).check()["images"] == list(range(COUNT))


def test_another_jobs_records_count_for_nothing(store: Store) -> None:
    _ledger(store, "other").add(_record([0, 1]))
    (ledger := _ledger(store)).add(_record([2, 3]))
    assert ledger.check()["images"] == [0, 1, *range(4, COUNT)]
    ledger.add(_record(list(range(4, COUNT))))
    store.write("records/notes.json", b"mine")
    ledger.clear()
    assert store.names("records") == ["notes.json"]


def test_a_shared_folder_that_shows_files_late_is_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = _ledger(store)
    ledger.add(_record(list(range(8))))
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            ledger.add(_record(list(range(8, COUNT))))

    monkeypatch.setattr("lmlangevin.generation.ledger.time.sleep", sleep)
    assert len(ledger.collect((1.0, 5.0, 30.0))["images"]) == 2
    assert slept == [1.0, 5.0]


def test_the_compacted_file_is_one_line_a_record(store: Store) -> None:
    ledger = _ledger(store)
    for start in range(0, COUNT, 2):
        ledger.add(_record([start, start + 1]))
    ledger.compact(ledger.collect())
    assert store.read(COMPACTED).count(b"\n") == COUNT // 2 + 2


@given(
    pending=st.lists(st.integers(0, 60), unique=True).map(sorted),
    batch_size=st.integers(1, 9),
    processes=st.integers(1, 6),
)
def test_images_are_dealt_each_once_in_contiguous_shares(pending: list[int], batch_size: int, processes: int) -> None:
    shares = deal(pending, batch_size, processes)
    assert len(shares) == processes
    assert [k for share in shares for batch in share for k in batch] == pending
    batches = [batch for share in shares for batch in share]
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    if len({k // batch_size for k in pending}) >= processes:
        # The same images meet in a batch whatever the number of processes.
        assert batches == deal(pending, batch_size, 1)[0]
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    else:
        assert max(len(sum(s, [])) for s in shares) - min(len(sum(s, [])) for s in shares) <= 1
