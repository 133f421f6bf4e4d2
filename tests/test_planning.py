"""What an extraction has to do follows from the manifest and the store's index alone."""

from typing import NamedTuple

import pyarrow as pa
import pytest

from twostage.images.manifest import Manifest
from twostage.images.references import Reference
from twostage.store.planning import Plan, part_name
from twostage.store.planning import make_plan as plan_of_columns

OLD = 1_600_000_000_000_000_000


class Row(NamedTuple):
    image: str
    size_bytes: int | None = 10
    mtime_ns: int | None = OLD
    error: str | None = None
    part: str = "part-000000.parquet"


def wanted(image: str, size_bytes: int | None = 10, mtime_ns: int | None = OLD) -> Reference:
    return Reference(image, image, size_bytes, mtime_ns)


def make_plan(manifest: list[Reference], index: pa.Table, **options) -> Plan:
    return plan_of_columns(Manifest.of(manifest), index, **options)


def index_of(*rows):
    kinds = (pa.string(), pa.int64(), pa.int64(), pa.string(), pa.string())
    columns = [[row[i] for row in rows] for i in range(len(kinds))]
    return pa.table([pa.array(c, k) for c, k in zip(columns, kinds, strict=True)], Row._fields)


def shards_of(plan):
    return [(shard.part, [listed.image for listed in shard.images]) for shard in plan.shards]


def is_looked_at(listed, row, **options):
    plan = make_plan([listed], index_of(row), n_parts=1, **options)
    assert plan.n_unchanged == (0 if plan.shards else 1)
    return bool(plan.shards)


def test_an_empty_manifest_plans_nothing():
    plan = make_plan([], index_of(Row("a")), n_parts=1)
    assert (plan.shards, plan.n_unchanged) == ([], 0)


def test_new_images_go_into_new_parts_in_their_order():
    plan = make_plan([wanted("b"), wanted("a")], index_of(), n_parts=0)
    assert shards_of(plan) == [("part-000000.parquet", ["b", "a"])]
    assert plan.n_unchanged == 0


@pytest.mark.parametrize(("n_images", "sizes"), [(1, [1]), (3, [3]), (4, [3, 1]), (9, [3, 3, 3])])
def test_new_parts_are_of_shard_size_and_numbered_on(monkeypatch, n_images, sizes):
    monkeypatch.setattr("twostage.store.planning.SHARD_SIZE", 3)
    manifest = [wanted(str(i)) for i in range(n_images)]
    plan = make_plan(manifest, index_of(), n_parts=7)
    assert [shard.part for shard in plan.shards] == [part_name(7 + i) for i in range(len(sizes))]
    assert [len(shard.images) for shard in plan.shards] == sizes
    assert [listed for shard in plan.shards for listed in shard.images] == manifest


def test_a_changed_image_goes_back_into_the_part_that_holds_it():
    rows = [
        Row(image, part=part_name(number))
        for image, number in zip("abcd", (3, 1, 1, 2), strict=True)
    ]
    manifest = [wanted(image, size_bytes=11) for image in "abce"] + [wanted("d")]
    plan = make_plan(manifest, index_of(*rows), n_parts=4)
    assert shards_of(plan) == [
        (part_name(4), ["e"]),
        (part_name(1), ["b", "c"]),
        (part_name(3), ["a"]),
    ]
    assert plan.n_unchanged == 1


def test_images_that_are_not_asked_for_stay_out():
    plan = make_plan([wanted("a")], index_of(Row("a"), Row("b", mtime_ns=None)), n_parts=1)
    assert (plan.shards, plan.n_unchanged) == ([], 1)


@pytest.mark.parametrize(
    ("listed", "row", "expected"),
    [
        (wanted("a"), Row("a"), False),
        (wanted("a", size_bytes=11), Row("a"), True),
        (wanted("a", mtime_ns=OLD + 1), Row("a"), True),
        (wanted("a", mtime_ns=OLD - 1), Row("a"), True),
        (wanted("a"), Row("a", mtime_ns=None), True),
        (wanted("a", mtime_ns=0), Row("a", mtime_ns=0), True),
        (wanted("a", mtime_ns=None), Row("a", mtime_ns=None), True),
        (wanted("a", size_bytes=0), Row("a", size_bytes=0), False),
    ],
)
def test_only_equal_size_and_a_trusted_equal_time_save_a_look(listed, row, expected):
    assert is_looked_at(listed, row) is expected


def test_a_file_that_is_gone_leaves_its_row_as_it_is():
    gone = wanted("a", None, None)
    assert not is_looked_at(gone, Row("a"))
    assert not is_looked_at(gone, Row("a"), verify=True)


@pytest.mark.parametrize("retry_errors", [False, True])
def test_a_read_error_is_tried_again_once_there_is_a_file(retry_errors):
    row = Row("a", error="read: no such file")
    assert is_looked_at(wanted("a"), row, retry_errors=retry_errors)
    assert not is_looked_at(wanted("a", None, None), row, retry_errors=retry_errors)


def test_a_decode_error_is_tried_again_only_when_asked_or_changed():
    row = Row("a", error="decode: truncated")
    assert not is_looked_at(wanted("a"), row)
    assert is_looked_at(wanted("a"), row, retry_errors=True)
    assert is_looked_at(wanted("a", size_bytes=11), row)


def test_retrying_errors_leaves_fine_rows_alone():
    assert not is_looked_at(wanted("a"), Row("a"), retry_errors=True)


def test_verify_trusts_no_size_and_time():
    assert is_looked_at(wanted("a"), Row("a"), verify=True)


def test_part_names_sort_as_their_numbers():
    names = [part_name(number) for number in (0, 9, 10, 99_999, 100_000)]
    assert names == sorted(names)
    assert names[2] == "part-000010.parquet"
