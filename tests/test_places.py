"""Images are read from lists, tars, Parquet files and URLs as they are from a folder."""

import io
import os
import shutil
import tarfile

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from twostage.backbones.spec import BackboneSettings
from twostage.cli.fit import listed_images
from twostage.cli.main import main
from twostage.errors import DataError, ImagesError, PlaceError, UsageError
from twostage.extraction import ExtractionOptions, extract
from twostage.images.loading import ImageLoader, read
from twostage.images.patterns import expand_braces
from twostage.images.places import open_place
from twostage.joins import image_names
from twostage.sources import blocks_from_files
from twostage.store.store import EmbeddingStore
from twostage.table.files import table_from_folders
from twostage.throughput import StageClock

OLD = 1_600_000_000
COLOURS = {f"cats/{i}.png": [10 * i, 0, 100] for i in range(3)} | {
    f"dogs/{i}.png": [10 * i, 200, 0] for i in range(3)
}
NAMES = list(COLOURS)


@pytest.fixture
def photos(photos):
    for path in photos.rglob("*.png"):
        os.utime(path, (OLD, OLD))
    return photos


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr("twostage.remote._WAITS_S", (0.0, 0.0, 0.0))


def settle(path):
    os.utime(path, (OLD, OLD))
    return path


def make_tar(path, photos, names=NAMES, mode="w"):
    with tarfile.open(path, mode) as tar:
        for name in names:
            tar.add(photos / name, f"./{name}")
    return settle(path)


def make_parquet(path, columns, **options):
    pq.write_table(pa.table(columns), path, **options)
    return settle(path)


def bytes_of(photos, names=NAMES):
    return [(photos / name).read_bytes() for name in names]


def make_hugging_face(path, photos, names=NAMES, **options):
    rows = [
        {"bytes": data, "path": name}
        for data, name in zip(bytes_of(photos, names), names, strict=True)
    ]
    return make_parquet(path, {"image": rows, "label": [0] * len(rows)}, **options)


def in_memory(root, photos):
    import fsspec

    system = fsspec.filesystem("memory")
    system.rm(root, recursive=True) if system.exists(root) else None
    for path in photos.rglob("*.*"):
        system.pipe_file(f"{root}/{path.relative_to(photos)}", path.read_bytes())
    return f"memory:/{root}"


def a_folder(photos, tmp_path):
    return photos


def a_list(photos, tmp_path):
    lines = ["./cats/0.png", "", str(photos / "cats/1.png"), *NAMES[2:], "cats/0.png\r"]
    (photos / "list.txt").write_text("\n".join(lines))
    return photos / "list.txt"


def a_tar(photos, tmp_path):
    return make_tar(tmp_path / "photos.tar", photos)


def a_compressed_tar(photos, tmp_path):
    return make_tar(tmp_path / "photos.tar.gz", photos, mode="w:gz")


def a_parquet(photos, tmp_path):
    return make_hugging_face(tmp_path / "photos.parquet", photos, row_group_size=4)


def a_url(photos, tmp_path):
    return in_memory("/bucket/photos", photos)


def a_tar_at_a_url(photos, tmp_path):
    make_tar(tmp_path / "photos.tar", photos)
    return in_memory("/tars", tmp_path) + "/photos.tar"


def a_parquet_at_a_url(photos, tmp_path):
    a_parquet(photos, tmp_path)
    return in_memory("/parquets", tmp_path) + "/photos.parquet"


def a_list_at_a_url(photos, tmp_path):
    a_list(photos, tmp_path)
    (photos / "list.txt").write_text("\n".join(["memory://listed/cats/0.png", *NAMES[1:]]))
    return in_memory("/listed", photos) + "/list.txt"


PLACES = [
    a_folder,
    a_list,
    a_tar,
    a_compressed_tar,
    a_parquet,
    a_url,
    a_tar_at_a_url,
    a_parquet_at_a_url,
    a_list_at_a_url,
]


@pytest.fixture(params=PLACES, ids=lambda make: make.__name__)
def place(request, photos, tmp_path):
    """Return the same photos, wherever they may live."""
    return request.param(photos, tmp_path)


def run(place, tmp_path, **options):
    return extract(place, tmp_path / "store", **options)


def contents(tmp_path):
    frame = EmbeddingStore(tmp_path / "store").to_pandas()
    vectors = [None if vector is None else vector.tolist() for vector in frame["embedding"]]
    return dict(zip(frame["image"], vectors, strict=True))


def errors(tmp_path):
    index = EmbeddingStore(tmp_path / "store").index().to_pydict()
    return dict(zip(index["image"], index["error"], strict=True))


def counts(summary):
    return summary.n_computed, summary.n_reused, summary.n_unchanged, summary.n_errors


def test_a_place_gives_what_the_folder_gives(place, tmp_path, fake_backbone, monkeypatch):
    monkeypatch.setattr("twostage.images.loading.UNSETTLED_NS", -(10**12))  # trust what is new
    summary = run(place, tmp_path, names=["dogs/1.png", "./cats/2.png", "cats/none.png"])
    assert counts(summary) == (2, 0, 0, 1)
    expected = {"cats/2.png": None, "cats/none.png": "read: no such file", "dogs/1.png": None}
    assert errors(tmp_path) == expected
    run(place, tmp_path)
    assert {name: contents(tmp_path)[name] for name in NAMES} == COLOURS
    assert counts(run(place, tmp_path)) == (0, 0, 6, 0)


def test_names_of_a_table_are_matched_after_one_change(place):
    found, note = open_place(place).find_images(["/old/home/cats/1.png", "/old/home/dogs/0.png"])
    assert {reference.image for reference in found.values()} == {"cats/1.png", "dogs/0.png"}
    assert note == "Image names matched without '/old/home/'."


@pytest.mark.parametrize("make", [a_list, a_tar, a_parquet, a_url])
def test_the_cache_knows_images_by_where_they_are(make, photos, tmp_path, fake_backbone):
    place = make(photos, tmp_path)
    frame = pd.DataFrame({"photo": ["dogs/2.png", "cats/1.png", "cats/none.png"]})
    for _ in range(2):
        blocks, store = blocks_from_files(
            frame, ["photo"], place, BackboneSettings(), ExtractionOptions(), tmp_path / "cache"
        )
        block = blocks["photo"]
        assert block.n_images.tolist() == [1, 1, 0]
        assert block.matrix[:2].tolist() == [[20, 200, 0], [10, 0, 100]]
        assert block.errors[2] == "'cats/none.png': read: no such file"
    assert fake_backbone.n_embedded == 2
    assert all(name.startswith(("/", "memory://")) for name in store.index()["image"].to_pylist())


def test_every_reference_reads_in_any_order_and_by_many_threads(place, photos):
    references = open_place(place).list_images()[::-1]
    with ImageLoader(32, "crop", 4, 8, StageClock(2, 2)) as loader:
        loaded = list(loader.load(references, ()))
    assert [image.error for image in loaded] == [None] * 6
    for reference in references:
        assert read(reference)[0] == (photos / reference.image).read_bytes()


def test_a_url_in_a_list_or_a_table_names_itself(photos, tmp_path, fake_backbone):
    url = in_memory("/elsewhere", photos)
    (tmp_path / "list.txt").write_text(f"photos/cats/0.png\n{url}/dogs/0.png\n{url}/none.png\n")
    assert counts(run(tmp_path / "list.txt", tmp_path)) == (2, 0, 0, 1)
    expected = {
        "photos/cats/0.png": None,
        f"{url}/dogs/0.png": None,
        f"{url}/none.png": "read: no such file",
    }
    assert errors(tmp_path) == expected
    found, _ = open_place(photos).find_images(["cats/1.png", f"{url}/dogs/1.png"])
    assert [reference.size_bytes is None for reference in found.values()] == [False, False]


def test_a_list_may_name_what_is_missing(photos, tmp_path, fake_backbone):
    (photos / "list.txt").write_text("cats/0.png\ngone.png\n")
    assert counts(run(photos / "list.txt", tmp_path)) == (1, 0, 0, 1)
    assert errors(tmp_path) == {"cats/0.png": None, "gone.png": "read: no such file"}


def test_shards_name_what_they_hold_and_a_table_may_leave_them_out(photos, tmp_path, fake_backbone):
    shards = tmp_path / "shards"
    shards.mkdir()
    for number, names in enumerate((NAMES[:3], NAMES[3:], ["cats/0.png"])):
        make_tar(shards / f"s-{number:03d}.tar", photos, names)
    (shards / "s-000_stats.json").write_text("{}")
    expected = {
        *(f"s-000.tar/{name}" for name in NAMES[:3]),
        *(f"s-001.tar/{name}" for name in NAMES[3:]),
        "s-002.tar/cats/0.png",
    }
    for place in (shards, f"{shards}/s-*.tar", f"{shards}/s-{{000..002}}.tar"):
        assert {reference.image for reference in open_place(place).list_images()} == expected
    url = in_memory("/shards", shards)
    for place in (url, f"{url}/*.tar", f"{url}/s-{{000..002}}.tar"):
        assert {reference.image for reference in open_place(place).list_images()} == expected
    found, _ = open_place(shards).find_images(["dogs/1.png", "s-002.tar/cats/0.png", "cats/0.png"])
    assert {name: reference.image for name, reference in found.items()} == {
        "dogs/1.png": "s-001.tar/dogs/1.png",
        "s-002.tar/cats/0.png": "s-002.tar/cats/0.png",
        "cats/0.png": "cats/0.png",  # in two shards: neither is guessed
    }
    assert found["cats/0.png"].size_bytes is None
    (alone,) = open_place(f"{shards}/s-*2.tar").list_images()
    assert alone.image == "s-002.tar/cats/0.png"  # as it will be called when there are more
    with pytest.raises(UsageError, match=r"2 of the 3 files of .* do not exist: '.*s-003"):
        open_place(f"{shards}/s-{{002..004}}.tar")
    with pytest.raises(UsageError, match="No file matches"):
        open_place(f"{shards}/t-*.tar")
    with pytest.raises(UsageError, match="is no tar and no Parquet file"):
        open_place(f"{shards}/*.json")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a-{08..11}.tar", ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]),
        ("{a,b}/{0..1}", ["a/0", "a/1", "b/0", "b/1"]),
        ("plain.tar", ["plain.tar"]),
    ],
)
def test_braces_are_written_out(pattern, expected):
    assert expand_braces(pattern) == expected


def test_braces_that_stand_for_too_many_files_are_refused():
    with pytest.raises(UsageError, match="more than 1,000,000"):
        expand_braces("{0..9999}{0..9999}")


def test_a_tar_written_anew_is_looked_at_again(photos, tmp_path, fake_backbone):
    """Its members may bear the times and sizes that they had."""
    archive = make_tar(tmp_path / "a.tar", photos, ["cats/0.png", "cats/1.png"])
    run(archive, tmp_path)
    shutil.copy(photos / "dogs" / "0.png", photos / "cats" / "1.png")
    assert (photos / "cats/1.png").stat().st_size == (photos / "cats/0.png").stat().st_size
    os.utime(photos / "cats" / "1.png", (OLD, OLD))
    make_tar(archive, photos, ["cats/0.png", "cats/1.png"])
    os.utime(archive, (OLD + 5, OLD + 5))
    assert counts(run(archive, tmp_path)) == (1, 1, 0, 0)
    assert contents(tmp_path)["cats/1.png"] == [0, 200, 0]


def test_a_tar_that_changes_during_the_run_gives_no_wrong_image(photos, tmp_path):
    archive = make_tar(tmp_path / "a.tar", photos)
    references = open_place(archive).list_images()
    make_tar(archive, photos, NAMES[::-1])
    os.utime(archive, (OLD + 5, OLD + 5))
    with ImageLoader(32, "crop", 2, 8, StageClock(2, 2)) as loader:
        loaded = list(loader.load(references, ()))
    expected = "read: its file has changed since it was listed"
    assert {image.error for image in loaded} == {expected}


def test_a_tar_may_hold_anything(photos, tmp_path):
    archive = tmp_path / "a.tar"
    png = (photos / "cats" / "0.png").read_bytes()

    def add(tar, name, data=png, kind=tarfile.REGTYPE, to=""):
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, to
        info.size = len(data) if kind == tarfile.REGTYPE else 0
        tar.addfile(info, io.BytesIO(data) if info.size else None)

    with tarfile.open(archive, "w", errors="surrogateescape") as tar:
        add(tar, "again.png", b"old")
        add(tar, "again.png")
        add(tar, "/rooted.png")
        add(tar, "folder.png", kind=tarfile.DIRTYPE)
        add(tar, "folder.png/x.PNG")
        add(tar, "hard.png", kind=tarfile.LNKTYPE, to="again.png")
        add(tar, "sub/soft.png", kind=tarfile.SYMTYPE, to="../again.png")
        add(tar, "out.png", kind=tarfile.SYMTYPE, to="/etc/passwd")
        add(tar, "loop.png", kind=tarfile.SYMTYPE, to="loop.png")
        add(tar, "pipe.png", kind=tarfile.FIFOTYPE)
        add(tar, "._again.png")
        add(tar, "notes.txt")
        add(tar, "empty.png", b"")
        add(tar, "n" * 200 + ".png")
        add(tar, "\udce9.png")
    found = {reference.image: reference for reference in open_place(archive).list_images()}
    readable = {name for name, reference in found.items() if reference.size_bytes is not None}
    whole = {"again.png", "rooted.png", "folder.png/x.PNG", "hard.png", "sub/soft.png"}
    whole |= {"n" * 200 + ".png", "%E9.png"}
    assert readable == whole | {"empty.png"}
    assert set(found) - readable == {"out.png", "loop.png", "pipe.png"}
    assert all(read(found[name])[0] == png for name in whole)
    assert read(found["empty.png"])[0] == b""


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6, 0.9, -1])
def test_a_tar_cut_short_is_one_clear_error(photos, tmp_path, mode, kept):
    whole = make_tar(tmp_path / f"whole.tar{mode[1:].replace(':', '.')}", photos, mode=mode)
    data = whole.read_bytes()
    end = len(data) // 512 * 512 - tarfile.RECORDSIZE if mode == "w" else len(data) - 20
    cut = tmp_path / whole.name.replace("whole", "cut")
    cut.write_bytes(data[: int(kept * end) if kept >= 0 else end])
    with pytest.raises(ImagesError, match=r"The tar '.*cut\.tar.*' is damaged or cut short"):
        open_place(cut).list_images()


def test_a_tar_cut_short_at_any_byte_loses_nothing_silently(photos, tmp_path):
    data = make_tar(tmp_path / "whole.tar", photos, NAMES[:3]).read_bytes()
    n_images = []
    for end in range(0, len(data), 256):
        (tmp_path / "cut.tar").write_bytes(data[:end])
        try:
            n_images.append(len(open_place(tmp_path / "cut.tar").list_images()))
        except ImagesError:
            n_images.append(0)
    assert set(n_images) == {0, 3}


def test_no_room_to_unpack_is_one_clear_error(photos, tmp_path, monkeypatch):
    archive = a_compressed_tar(photos, tmp_path)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("twostage.images.tars.shutil.copyfileobj", full)
    with pytest.raises(ImagesError, match=r"can't be unpacked into '.*' .No space left on device"):
        open_place(archive).list_images()


def test_rows_without_names_are_named_by_their_number(photos, tmp_path):
    rows = [{"bytes": data, "path": None} for data in bytes_of(photos)]
    anonymous = make_parquet(tmp_path / "a.parquet", {"image": rows}, row_group_size=4)
    expected = [f"{i:08d}" for i in range(6)]
    assert [reference.image for reference in open_place(anonymous).list_images()] == expected
    twice = make_parquet(tmp_path / "b.parquet", {"x": bytes_of(photos), "path": ["a"] * 6})
    assert [reference.image for reference in open_place(twice).list_images()] == expected
    keyed = make_parquet(tmp_path / "c.parquet", {"jpg": bytes_of(photos), "key": list("abcdef")})
    assert [reference.image for reference in open_place(keyed).list_images()] == list("abcdef")


def test_a_column_of_bytes_is_chosen_and_named(photos, tmp_path, fake_backbone):
    columns = {"front": bytes_of(photos), "back": bytes_of(photos)[::-1], "id": list("abcdef")}
    path = make_parquet(tmp_path / "a.parquet", columns)
    with pytest.raises(UsageError, match=r"several columns of bytes: 'front', 'back'\. Choose one"):
        run(path, tmp_path)
    with pytest.raises(UsageError, match=r"Column 'id' .* holds no bytes.* front \(binary\), back"):
        run(path, tmp_path, bytes_column="id")
    with pytest.raises(UsageError, match=r"'fron' .* is not there\. Did you mean 'front'"):
        run(path, tmp_path, bytes_column="fron")
    with pytest.raises(UsageError, match="--bytes-col names a column of a Parquet file"):
        run(photos, tmp_path, bytes_column="front")
    run(path, tmp_path, bytes_column="front")
    run(path, tmp_path, bytes_column="back")
    found = contents(tmp_path)
    assert len(found) == 12
    assert found["front/a"] == found["back/f"] == [0, 0, 100]


def test_a_parquet_file_without_bytes_says_what_it_has(photos, tmp_path):
    path = make_parquet(tmp_path / "a.parquet", {"photo": NAMES, "age": [1] * 6})
    with pytest.raises(ImagesError, match=r"--bytes-col .*: photo \(string\), age \(int64\)\. If"):
        open_place(path).list_images()


def test_rows_without_bytes_are_errors(photos, tmp_path, fake_backbone):
    path = make_parquet(tmp_path / "a.parquet", {"x": [*bytes_of(photos)[:2], None, b""]})
    assert counts(run(path, tmp_path)) == (2, 0, 0, 2)
    assert errors(tmp_path)["00000002"] == "read: no bytes in the row"
    structs = [{"bytes": bytes_of(photos)[0], "path": "a"}, {"bytes": None, "path": "b"}, None]
    path = make_parquet(tmp_path / "b.parquet", {"x": structs})
    references = open_place(path).list_images()
    with ImageLoader(32, "crop", 2, 8, StageClock(2, 2)) as loader:
        loaded = [image.error for image in loader.load(references, ())]
    assert loaded == [None, "read: no bytes in the row", "read: no bytes in the row"]


def test_a_damaged_parquet_file_is_one_clear_error(photos, tmp_path):
    whole = a_parquet(photos, tmp_path)
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole.read_bytes()[:-10])
    with pytest.raises(ImagesError, match=r"The Parquet file '.*cut\.parquet' can't be read"):
        open_place(cut).list_images()


def test_rows_are_decoded_once_and_few_are_kept(tmp_path, monkeypatch):
    from twostage.images import parquet

    path = make_parquet(tmp_path / "a.parquet", {"x": [bytes([i % 256]) * 9 for i in range(2000)]})
    begun = []
    batches = parquet.RowGroup.batches
    monkeypatch.setattr(parquet.RowGroup, "batches", lambda self: begun.append(1) or batches(self))
    references = open_place(path).list_images()
    window = references[0].source.window
    with ImageLoader(32, "crop", 4, 128, StageClock(2, 2)) as loader:
        assert len(list(loader.load(references, ()))) == 2000
    assert len(begun) == 1
    assert len(window._kept) <= parquet._KEPT_BATCHES


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "nowhere.tar", "does not exist"),
        (lambda folder: folder / "photos" / "cats" / "0.png", "is one image"),
        (lambda folder: folder / "t.csv", "is a table. Give it with --table"),
        (lambda folder: folder / "blob", "is no text, and so no list of files"),
        (lambda folder: "s4://bucket/photos", "Unknown protocol 's4://' in .* such as s3://bucket"),
        (lambda folder: "memory://nothing/here", "There is nothing at 'memory://nothing/here'"),
        (lambda folder: "memory://nothing/here.tar", "There is nothing at"),
    ],
)
def test_what_is_no_place_is_refused_with_one_error(photos, tmp_path, make, message):
    (tmp_path / "t.csv").write_text("photo,age\n")
    (tmp_path / "blob").write_bytes(b"\x7fELF\0\0")
    with pytest.raises(UsageError, match=message):
        open_place(make(tmp_path))


def test_an_empty_list_or_tar_or_url_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("\n\n")
    with tarfile.open(tmp_path / "a.tar", "w"):
        pass
    for place in (tmp_path / "list.txt", tmp_path / "a.tar", in_memory("/empty", tmp_path)):
        with pytest.raises(ImagesError, match="No images in"):
            open_place(place).list_images()


def test_a_package_that_is_missing_is_named_with_its_install_line():
    with pytest.raises(PlaceError, match=r"'gs://b/x' needs .* pip install 'twostage\[gcs\]'"):
        open_place("gs://b/x")


class Flaky:
    """Stands before a file system, and fails the first times that each file is read."""

    def __init__(self, system, n_failures, error):
        self._system, self._n_failures, self._error = system, n_failures, error
        self.below = ""
        self.n_reads: dict[str, int] = {}

    def __getattr__(self, name):
        return getattr(self._system, name)

    def cat_file(self, path, **options):
        self.n_reads[path] = self.n_reads.get(path, 0) + 1
        if self.below in path and self.n_reads[path] <= self._n_failures:
            raise self._error
        return self._system.cat_file(path, **options)


class ServerError(Exception):
    status = 503


@pytest.fixture
def flaky(monkeypatch):
    """Return a function after which each file behind a URL fails to be read some times."""
    import fsspec

    def make(n_failures, error):
        system = Flaky(fsspec.filesystem("memory"), n_failures, error)
        monkeypatch.setattr(
            "twostage.remote._open_system", lambda url: (system, url.removeprefix("memory:/"))
        )
        return system

    return make


@pytest.mark.parametrize(
    "error", [TimeoutError(), ConnectionResetError(), OSError(16, "busy"), ServerError()]
)
def test_transient_errors_are_tried_again(photos, tmp_path, fake_backbone, flaky, error):
    url = in_memory("/flaky", photos)
    system = flaky(3, error)
    assert counts(run(url, tmp_path)) == (6, 0, 0, 0)
    assert set(system.n_reads.values()) == {4}


@pytest.mark.parametrize(
    ("error", "reason", "n_reads"),
    [
        (TimeoutError(), "timed out", 4),
        (ServerError(), "the server answered 503", 4),
        (PermissionError("no"), "permission denied", 1),
        (FileNotFoundError("gone"), "no such file", 1),
        (ConnectionResetError(), "connection lost", 4),
    ],
)
def test_errors_that_stay_are_rows_and_the_next_run_tries_again(
    photos, tmp_path, fake_backbone, flaky, error, reason, n_reads
):
    url = in_memory("/flaky", photos)
    system = flaky(99, error)
    system.below = "dogs"
    assert counts(run(url, tmp_path)) == (3, 0, 0, 3)
    assert sorted(system.n_reads.values()) == sorted([1, 1, 1, *[n_reads] * 3])
    assert errors(tmp_path)["dogs/0.png"] == f"read: {reason}"
    flaky(0, error)
    assert counts(run(url, tmp_path)) == (3, 3, 0, 0)


@pytest.mark.parametrize("make", [a_list, a_tar, a_url])
def test_the_command_line_takes_any_place(make, photos, tmp_path, fake_backbone):
    place = make(photos, tmp_path)
    result = CliRunner().invoke(main, ["extract", str(place), "-o", str(tmp_path / "s"), "--quiet"])
    assert result.exit_code == 0, result.output
    assert "6 images, 6 embedded now" in result.output


def test_a_tar_is_indexed_and_unpacked_once(photos, tmp_path, monkeypatch):
    from twostage.images import tars

    archive = a_compressed_tar(photos, tmp_path)
    first = open_place(archive).list_images()
    monkeypatch.setattr(tars, "_infos", None)
    assert open_place(archive).list_images() == first
    assert read(first[0])[0] == (photos / first[0].image).read_bytes()


def test_a_column_of_bytes_names_no_images():
    assert image_names(pd.Series([{"bytes": b"x", "path": "a.jpg"}])) == [["a.jpg"]]
    for value in (b"\x89PNG", {"bytes": b"x", "path": None}):
        with pytest.raises(DataError, match="holds the bytes of images, not their names"):
            image_names(pd.Series([value]))


def test_folders_name_classes_in_any_place_but_shards_do_not(photos, tmp_path):
    archive = make_tar(tmp_path / "a.tar", photos)
    frame = table_from_folders(listed_images(None, str(archive)))
    assert frame["folder"].tolist() == ["cats"] * 3 + ["dogs"] * 3
    with pytest.raises(DataError, match="2 of 2 images are in no folder"):
        table_from_folders(["s-000.tar/1.jpg", "s-001.tar/2.jpg"])
