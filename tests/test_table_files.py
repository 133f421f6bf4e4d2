"""Tables read from and written to files."""

import errno
import os

import pandas as pd
import pytest

from twostage.errors import DataError, UsageError
from twostage.table.files import (
    check_parent,
    read_table,
    require_column,
    table_from_folders,
    write_table,
)

FRAME = pd.DataFrame(
    {"image": ["ä b.jpg", "c;d.jpg", None], "age": [1.5, None, 3.0], "n": [1, 2, 3]}
)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.pq", "t.PARQUET", "t.txt", "t"])
def test_a_table_reads_back_as_it_was_written(tmp_path, name):
    write_table(FRAME, tmp_path / name)
    pd.testing.assert_frame_equal(read_table(tmp_path / name), FRAME)


def test_paths_may_be_text(tmp_path):
    write_table(FRAME, f"{tmp_path}/t.csv")
    assert len(read_table(f"{tmp_path}/t.csv")) == 3


@pytest.mark.parametrize(
    ("name", "is_parquet"),
    [("t.parquet", True), ("t.pq", True), ("t.Parquet", True), ("t.csv", False), ("t", False)],
)
def test_the_ending_decides_the_format(tmp_path, name, is_parquet):
    write_table(FRAME, tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(b"PAR1") == is_parquet


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_the_index_is_not_written(tmp_path, name):
    write_table(FRAME.set_index(pd.Index(["i7", "i8", "i9"], name="row")), tmp_path / name)
    assert b"i8" not in (tmp_path / name).read_bytes()
    pd.testing.assert_frame_equal(read_table(tmp_path / name), FRAME)


def test_a_byte_order_mark_is_no_part_of_a_column_name(tmp_path):
    (tmp_path / "t.csv").write_bytes("\ufeffage,site\n1,arm\n".encode())
    assert list(read_table(tmp_path / "t.csv").columns) == ["age", "site"]


@pytest.mark.parametrize("name", ["absent.csv", "absent.parquet"])
def test_a_path_without_a_file_is_a_wrong_call(tmp_path, name):
    with pytest.raises(UsageError, match=f"There is no table '{tmp_path / name}'"):
        read_table(tmp_path / name)


def test_a_folder_without_a_table_is_told(tmp_path):
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=f"'{tmp_path}' has no Parquet files"):
        read_table(tmp_path)


def test_a_folder_of_parquet_files_is_one_table_in_the_order_of_their_names(tmp_path):
    frame = pd.DataFrame({"a": range(6), "b": list("uvwxyz")})
    for name, rows in (("2", slice(4, 6)), ("1", slice(0, 4)), ("_left", slice(0, 1))):
        frame[rows].to_parquet(tmp_path / f"{name}.parquet")
    pd.testing.assert_frame_equal(read_table(tmp_path), frame)
    pd.testing.assert_frame_equal(read_table(tmp_path, ["b"]), frame[["b"]])


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("ragged.csv", b"a,b\n1,2\n1,2,3,4\n"),
        ("open quote.csv", b'a\n"x\n'),
        ("empty.parquet", b""),
        ("text.parquet", b"a,b\n1,2\n"),
        ("cut.parquet", b"PAR1" + bytes(100)),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=f"{name}' can't be read as a table: [^\\[]+$") as caught:
        read_table(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        ("city\nMünchen\n".encode("latin1"), "is no UTF-8 text .* Save it as UTF-8"),
    ],
)
def test_an_empty_file_and_one_in_another_encoding_are_told_apart(tmp_path, data, message):
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "t.csv")


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_the_separator_is_read_off_the_head(tmp_path, mark):
    (tmp_path / "t.csv").write_text(f"a{mark}b\n1{mark}x\n", encoding="utf-8-sig")
    assert read_table(tmp_path / "t.csv").to_dict("list") == {"a": [1], "b": ["x"]}


def test_an_output_that_can_not_be_written_is_refused_beforehand(tmp_path):
    for name, message in (("no/p.csv", "no folder"), ("p.xlsx", "must end in"), ("", "a folder")):
        with pytest.raises(UsageError, match=message):
            check_parent(tmp_path / name)
    check_parent(tmp_path / "p.parquet")


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_table_without_rows_is_refused(tmp_path, name):
    write_table(FRAME.iloc[:0], tmp_path / name)
    with pytest.raises(DataError, match=f"{name}' has no rows"):
        read_table(tmp_path / name)


@pytest.mark.parametrize(("name", "method"), [("t.csv", "to_csv"), ("t.parquet", "to_parquet")])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, name, method):
    write_table(FRAME, tmp_path / name)

    def fill_the_disk(frame, path, **options):
        path.write_bytes(b"half a ta")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pd.DataFrame, method, fill_the_disk)
    with pytest.raises(DataError, match=f"Can't write '.*{name}': No space left on device"):
        write_table(FRAME.head(1), tmp_path / name)
    assert os.listdir(tmp_path) == [name]
    pd.testing.assert_frame_equal(read_table(tmp_path / name), FRAME)


@pytest.mark.parametrize("name", ["absent/t.csv", "absent/t.parquet"])
def test_a_table_in_a_folder_that_does_not_exist_is_refused(tmp_path, name):
    with pytest.raises(DataError, match=f"Can't write '.*{name}': .*non-existent"):
        write_table(FRAME, tmp_path / name)


def test_a_folder_is_not_replaced_by_a_table(tmp_path):
    folder = tmp_path / "t.csv"
    folder.mkdir()
    with pytest.raises(DataError, match=r"Can't write '.*t.csv': Is a directory"):
        write_table(FRAME, folder)
    assert os.listdir(tmp_path) == ["t.csv"]


def test_a_table_can_be_made_of_a_folder_per_class():
    names = ["train/dogs/1.jpg", "cats/1.jpg", "train/dogs/2.jpg"]
    frame = table_from_folders(names)
    assert frame.to_dict("list") == {"image": names, "folder": ["dogs", "cats", "dogs"]}


def test_images_outside_a_folder_are_refused_with_count_and_first():
    with pytest.raises(DataError, match=r"2 of 3 images are in no folder .* first: '1.jpg'"):
        table_from_folders(["1.jpg", "cats/1.jpg", "2.jpg"])


def test_require_column_returns_the_column():
    pd.testing.assert_series_equal(require_column(FRAME, "age", "target"), FRAME["age"])


def test_a_missing_column_is_refused_with_its_purpose_a_suggestion_and_all_columns():
    message = "no target column 'aeg'. Did you mean 'age'.* Its columns are: image, age, n.$"
    with pytest.raises(DataError, match=message):
        require_column(FRAME, "aeg", "target")


def test_of_many_columns_the_first_20_are_listed():
    wide = pd.DataFrame({f"c{i}": [0] for i in range(21)})
    with pytest.raises(DataError, match=r"are: c0, .*, c19, \.\.\.\.$"):
        require_column(wide, "zzz", "group")
