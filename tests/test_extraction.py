"""Stage one, from photos to a store: what is computed, what is not, and what each row says."""

import os
from contextlib import ExitStack

import numpy as np
import pytest
from PIL import Image

from twostage.backbones.lazy import LazyBackbone
from twostage.backbones.spec import BackboneSettings
from twostage.errors import ImagesError, StoreError, UsageError
from twostage.extraction import ExtractionOptions, embed_files, extract
from twostage.images.references import file_reference
from twostage.store.store import EmbeddingStore

OLD = 1_600_000_000
IN_THE_FUTURE = 4_000_000_000
COLOURS = {f"cats/{i}.png": [10 * i, 0, 100] for i in range(3)} | {
    f"dogs/{i}.png": [10 * i, 200, 0] for i in range(3)
}
NO_IMAGE = "decode: not an image, or of an unknown format"
NO_FILE = "read: no such file"


def settle(path, seconds=OLD):
    """Give a file, or all below a folder, a modification time that can be trusted."""
    for file in (path, *path.rglob("*")) if path.is_dir() else (path,):
        os.utime(file, (seconds, seconds))
    return path


@pytest.fixture
def photos(photos):
    return settle(photos)


@pytest.fixture
def run(photos, tmp_path, fake_backbone):
    """Return a function that extracts the photos into one store."""
    return lambda **options: extract(photos, tmp_path / "store", **options)


@pytest.fixture
def opened(tmp_path):
    """Return a function that opens the store that `run` made."""
    return lambda: EmbeddingStore(tmp_path / "store")


@pytest.fixture
def shards_of_2(monkeypatch):
    monkeypatch.setattr("twostage.store.planning.SHARD_SIZE", 2)


def contents(store):
    frame = store.to_pandas()
    vectors = [None if vector is None else vector.tolist() for vector in frame["embedding"]]
    return dict(zip(frame["image"], vectors, strict=True))


def column(store, name):
    index = store.index().to_pydict()
    return dict(zip(index["image"], index[name], strict=True))


def counts(summary):
    return summary.n_computed, summary.n_reused, summary.n_unchanged, summary.n_errors


@pytest.mark.parametrize("batch_size", [1, 4, 6, 32])
@pytest.mark.parametrize(("shard_size", "n_parts"), [(1, 6), (4, 2), (6, 1), (1024, 1)])
def test_embeddings_are_the_mean_colours_row_for_row(
    run, opened, monkeypatch, fake_backbone, batch_size, shard_size, n_parts
):
    monkeypatch.setattr("twostage.store.planning.SHARD_SIZE", shard_size)
    summary = run(batch_size=batch_size, workers=2)
    assert list(contents(opened()).items()) == list(COLOURS.items())
    assert len(opened().parts()) == n_parts
    assert counts(summary) == (6, 0, 0, 0)
    assert fake_backbone.n_embedded == 6


def test_the_summary_and_the_rows_say_what_was_done(run, opened, tmp_path):
    summary = run(device="cpu")
    assert (summary.store, summary.backbone) == (str(tmp_path / "store"), "mobilenet_v2")
    assert (summary.dim, summary.n_images, summary.errors) == (3, 6, {})
    assert (summary.device, summary.note) == ("fake on cpu", None)
    store = opened()
    assert set(column(store, "width").values()) == {40}
    assert set(column(store, "height").values()) == {32}
    assert set(column(store, "mtime_ns").values()) == {OLD * 10**9}


def test_second_extract_computes_nothing(run, fake_backbone):
    run()
    summary = run()
    assert counts(summary) == (0, 0, 6, 0)
    assert summary.device is None
    assert len(fake_backbone.built) == 1


def test_photos_of_a_time_not_to_be_trusted_are_compared_by_their_bytes(run, photos, fake_backbone):
    settle(photos, IN_THE_FUTURE)
    run()
    assert counts(run()) == (0, 6, 0, 0)
    assert len(fake_backbone.built) == 1


def test_a_touched_file_computes_nothing_and_is_trusted_again(run, photos, fake_backbone):
    run()
    settle(photos, OLD + 100)
    assert counts(run()) == (0, 6, 0, 0)
    assert counts(run()) == (0, 0, 6, 0)
    assert fake_backbone.n_embedded == 6


def test_adding_an_image_computes_one(run, photos, photo, opened):
    run()
    settle(photo(photos / "birds" / "0.png", (5, 5, 5)))
    assert counts(run()) == (1, 0, 6, 0)
    assert contents(opened()) == COLOURS | {"birds/0.png": [5, 5, 5]}
    assert column(opened(), "part")["birds/0.png"] == "part-000001.parquet"


def test_a_changed_image_is_computed_alone_and_stays_in_its_part(
    shards_of_2, run, photos, photo, opened
):
    run()
    parts = column(opened(), "part")
    settle(photo(photos / "dogs" / "0.png", (5, 5, 5)), OLD + 1)
    assert counts(run()) == (1, 0, 5, 0)
    assert contents(opened()) == COLOURS | {"dogs/0.png": [5, 5, 5]}
    assert column(opened(), "part") == parts


@pytest.mark.parametrize("shard_size", [1, 1024])
def test_equal_bytes_under_two_names_are_computed_once(
    run, photos, opened, monkeypatch, fake_backbone, shard_size
):
    monkeypatch.setattr("twostage.store.planning.SHARD_SIZE", shard_size)
    copy = photos / "dogs" / "copy.png"
    copy.write_bytes((photos / "cats" / "1.png").read_bytes())
    assert counts(run(batch_size=2)) == (6, 1, 0, 0)
    assert fake_backbone.n_embedded == 6
    assert contents(opened()) == COLOURS | {"dogs/copy.png": COLOURS["cats/1.png"]}
    assert column(opened(), "width")["dogs/copy.png"] == 40


def test_a_moved_file_is_not_computed_again_and_its_old_row_stands(run, photos, opened):
    run()
    (photos / "cats" / "1.png").rename(photos / "dogs" / "moved.png")
    assert counts(run()) == (0, 1, 5, 0)
    assert contents(opened()) == COLOURS | {"dogs/moved.png": COLOURS["cats/1.png"]}


def test_verify_finds_a_change_that_size_and_time_hide(photo, tmp_path, fake_backbone):
    path = settle(photo(tmp_path / "photos" / "a.bmp", (1, 1, 1)))
    extract(tmp_path / "photos", tmp_path / "store")
    settle(photo(path, (9, 9, 9)))
    assert counts(extract(tmp_path / "photos", tmp_path / "store")) == (0, 0, 1, 0)
    summary = extract(tmp_path / "photos", tmp_path / "store", verify=True)
    assert counts(summary) == (1, 0, 0, 0)
    assert contents(EmbeddingStore(tmp_path / "store")) == {"a.bmp": [9, 9, 9]}


def test_unreadable_images_become_rows_with_an_error(run, photos, opened):
    (photos / "cats" / "1.png").write_bytes(b"no image")
    (photos / "dogs" / "gone.png").symlink_to(photos / "nowhere.png")
    summary = run()
    assert counts(summary) == (5, 0, 0, 2)
    assert summary.errors == {NO_IMAGE: 1, NO_FILE: 1}
    store = opened()
    assert contents(store) == COLOURS | {"cats/1.png": None, "dogs/gone.png": None}
    errors = {name: error for name, error in column(store, "error").items() if error}
    assert errors == {"cats/1.png": NO_IMAGE, "dogs/gone.png": NO_FILE}


def test_a_copy_of_an_unreadable_image_is_unreadable_too(run, photos, opened):
    for name in ("bad.png", "copy.png"):
        (photos / name).write_bytes(b"no image")
        run()
    errors = column(opened(), "error")
    assert (errors["bad.png"], errors["copy.png"]) == (NO_IMAGE, NO_IMAGE)


def test_missing_files_are_tried_again_by_the_next_run(run, photos, photo, opened):
    names = ["cats/0.png", "late.png"]
    assert run(names=names).errors == {NO_FILE: 1}
    assert run(names=names).errors == {NO_FILE: 1}
    settle(photo(photos / "late.png", (5, 5, 5)))
    assert counts(run(names=names)) == (1, 0, 1, 0)
    assert contents(opened())["late.png"] == [5, 5, 5]


def test_decode_errors_are_tried_again_only_when_asked(run, photos, monkeypatch):
    settle(photos / "cats").joinpath("1.png").write_bytes(b"no image")
    settle(photos)
    run()
    loaded = []
    monkeypatch.setattr(
        "twostage.images.loading.read_bytes",
        lambda path: loaded.append(os.path.relpath(path, photos)) or (b"", os.stat(path)),
    )
    again = run()
    assert (loaded, counts(again), again.errors) == ([], (0, 0, 6, 1), {NO_IMAGE: 1})
    assert run(retry_errors=True).errors == {"decode: the file is empty": 1}
    assert loaded == [os.path.join("cats", "1.png")]


def test_an_image_that_breaks_loses_its_embedding_and_a_mended_one_gets_it(run, photos, opened):
    path = photos / "cats" / "1.png"
    intact = path.read_bytes()
    run()
    path.write_bytes(b"no image")
    run()
    assert contents(opened()) == COLOURS | {"cats/1.png": None}
    path.write_bytes(intact)
    assert counts(run()) == (1, 0, 5, 0)
    assert contents(opened()) == COLOURS


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (None, r"'cats/1\.png' can't be used \(decode: not an image.*\)\. Fix the file"),
        (["cats/0.png", "gone.png"], r"1 of 2 images have no file; first: '.*gone\.png'\. Fix"),
    ],
)
def test_on_error_fail_ends_the_run_and_leaves_no_store(run, photos, tmp_path, names, message):
    (photos / "cats" / "1.png").write_bytes(b"no image")
    with pytest.raises(ImagesError, match=message):
        run(names=names, on_error="fail")
    assert not (tmp_path / "store").exists()


def test_when_no_image_can_be_read_no_store_is_left(run, tmp_path):
    message = r"None of the 2 images can be read; first: 'x\.png' \(read: no such file\)\. Check"
    with pytest.raises(ImagesError, match=message):
        run(names=["x.png", "y.png"])
    assert not (tmp_path / "store").exists()


def test_when_no_image_can_be_read_an_older_store_stays(run, opened):
    run()
    with pytest.raises(ImagesError, match=r"None of the 1 images can be read"):
        run(names=["x.png"])
    assert contents(opened()) | COLOURS == contents(opened())


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"backbone": "resnet50"}, "backbone is mobilenet_v2, asked for resnet50"),
        ({"weights": "random"}, "weights is imagenet, asked for random:0"),
        ({"layer": "out_relu"}, "layer is penultimate, asked for out_relu"),
        ({"image_size": 64}, "image_size is 224, asked for 64"),
        ({"resize": "pad", "dtype": "float16"}, "resize is crop, .*; dtype is float32, asked"),
    ],
)
def test_another_backbone_is_refused_saying_what_differs(run, options, difference):
    run()
    with pytest.raises(StoreError, match=f"made by another backbone: {difference}.*Give another"):
        run(**options)


def test_a_backbone_that_is_built_differently_today_is_refused(run, opened):
    run()
    path = opened().path / "_store.json"
    path.write_text(path.read_text().replace("digest of mobilenet_v2", "digest of old weights"))
    for part in path.parent.glob("part-*"):
        part.unlink()
    with pytest.raises(StoreError, match=r"weights_digest is digest of old weights imagenet, not"):
        run()


def test_options_left_out_are_the_stores(run, opened, photos, fake_backbone):
    options = {"backbone": "resnet50", "weights": "random", "random_state": 3, "pooling": "max"}
    run(**options, image_size=60, resize="squash", dtype="float16")
    flag = Image.new("RGB", (90, 30), (0, 0, 0))
    flag.paste((90, 0, 0), (0, 0, 30, 30))
    flag.save(photos / "flag.png")
    assert run().n_computed == 1
    first, second = fake_backbone.built
    assert second.spec == first.spec
    assert opened().spec == first.spec.to_dict()
    assert contents(opened())["flag.png"] == [pytest.approx(30, abs=0.6), 0, 0]


@pytest.mark.parametrize("name", ["nowhere", "file.txt", "empty"])
def test_images_that_are_no_folder_of_images_are_refused_before_anything_is_built(
    tmp_path, fake_backbone, name
):
    (tmp_path / "file.txt").touch()
    (tmp_path / "empty").mkdir()
    message = {"nowhere": "does not exist", "file.txt": "it is empty", "empty": "No images in"}
    with pytest.raises((UsageError, ImagesError), match=message[name]):
        extract(tmp_path / name, tmp_path / "store")
    assert fake_backbone.built == []
    assert not (tmp_path / "store").exists()


def test_names_choose_the_images_and_each_has_one_row(run, photos, opened):
    names = ["./dogs/2.png", str(photos / "cats" / "0.png"), "dogs/2.png", "gone.png"]
    summary = run(names=names)
    assert (summary.n_images, counts(summary)) == (3, (2, 0, 0, 1))
    expected = {name: COLOURS[name] for name in ("dogs/2.png", "cats/0.png")}
    assert list(contents(opened()).items()) == [*expected.items(), ("gone.png", None)]


def test_names_with_another_prefix_are_found_with_a_note(run, opened):
    names = [f"/elsewhere/{name}" for name in COLOURS]
    assert run(names=names).note == "Image names matched without '/elsewhere/'."
    assert contents(opened()) == COLOURS


def test_a_table_without_names_is_refused(run):
    with pytest.raises(ImagesError, match=r"The table names no image"):
        run(names=[])


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_killed_run_is_continued_to_the_same_result(
    shards_of_2, run, photos, opened, tmp_path, fake_backbone, monkeypatch, error
):
    def build(*arguments):
        backbone, device = fake_backbone(*arguments)
        embed = backbone.embed

        def embed_twice(batch):
            if backbone.n_embedded == 4:
                raise error
            return embed(batch)

        backbone.embed = embed_twice
        return backbone, device

    with monkeypatch.context() as patch:
        patch.setattr("twostage.backbones.lazy.build", build)
        with pytest.raises(error):
            run(batch_size=2)
    assert contents(opened()) == {name: COLOURS[name] for name in ("cats/0.png", "cats/1.png")}
    assert counts(run()) == (4, 0, 2, 0)
    extract(photos, tmp_path / "undisturbed")
    assert opened().to_pandas().equals(EmbeddingStore(tmp_path / "undisturbed").to_pandas())


def test_a_run_killed_before_its_first_part_leaves_no_store(run, tmp_path, monkeypatch):
    monkeypatch.setattr("conftest.FakeBackbone.embed", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run()
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_progress_counts_what_is_to_be_done_up_to_all_of_it(
    shards_of_2, run, photos, photo, batch_size
):
    run(names=list(COLOURS)[:1])
    calls = []
    run(batch_size=batch_size, progress=lambda *numbers: calls.append(numbers))
    assert calls[-1] == (5, 5)
    assert calls == sorted(calls)
    assert {n_images for _, n_images in calls} == {5}
    run(progress=lambda *_: pytest.fail("nothing was to be done"))


def test_a_store_that_another_run_holds_is_left_to_it(run, opened, photos, photo):
    run()
    photo(photos / "new.png")
    with opened().lock(), pytest.raises(StoreError, match="is being written by process"):
        run()
    assert contents(opened()) == COLOURS


def test_a_damaged_part_can_be_deleted_and_only_its_images_are_computed(shards_of_2, run, opened):
    run()
    path = opened().path / "part-000001.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StoreError, match=r"part-000001\.parquet' can't be read.*Delete it"):
        run()
    path.unlink()
    assert counts(run()) == (2, 0, 4, 0)
    assert contents(opened()) == COLOURS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1; found 0"),
        ({"workers": 0}, "workers must be at least 1; found 0"),
        ({"on_error": "ignore"}, "on_error must be one of null, fail; found 'ignore'"),
        ({"device": "gpuu"}, "device must be one of auto, cpu, gpu; found 'gpuu'"),
    ],
)
def test_options_without_sense_are_refused(run, options, message):
    with pytest.raises(UsageError, match=message):
        run(**options)


def test_embed_files_keeps_one_store_per_backbone_and_errors_as_rows(
    photos, tmp_path, fake_backbone
):
    paths = [str(photos / name) for name in ("cats/1.png", "nowhere.png")]
    files = [file_reference(path) for path in paths]
    settings, how = BackboneSettings(image_size=64), ExtractionOptions()
    store = embed_files(files, tmp_path, settings, how)
    assert contents(store) == {paths[0]: COLOURS["cats/1.png"], paths[1]: None}
    assert embed_files(files, tmp_path, settings, how).path == store.path
    assert fake_backbone.n_embedded == 1
    other = embed_files(files[1:], tmp_path, BackboneSettings(image_size=96), how)
    assert contents(other) == {paths[1]: None}
    assert len(embed_files([], tmp_path, BackboneSettings(resize="pad"), how)) == 0
    assert len(list(tmp_path.glob("mobilenet_v2-*"))) == 3


def test_a_lazy_backbone_is_built_once_and_only_when_needed(fake_backbone):
    lazy = LazyBackbone(BackboneSettings(), "gpu")
    assert (lazy.device, fake_backbone.built) == (None, [])
    assert lazy.get() is lazy.get()
    assert lazy.spec == fake_backbone.built[0].spec
    assert (lazy.device, len(fake_backbone.built)) == ("fake on gpu", 1)


def test_two_images_that_swap_their_bytes_across_parts(shards_of_2, run, opened, photos):
    settle(photos)
    run()
    a, b = photos / "cats" / "0.png", photos / "dogs" / "2.png"
    data = a.read_bytes(), b.read_bytes()
    b.write_bytes(data[0])
    a.write_bytes(data[1])
    run()
    swapped = {"cats/0.png": COLOURS["dogs/2.png"], "dogs/2.png": COLOURS["cats/0.png"]}
    assert contents(opened()) == COLOURS | swapped


def test_a_moved_image_whose_old_name_has_new_bytes(run, opened, photos, photo):
    settle(photos)
    run()
    (photos / "cats" / "0.png").rename(photos / "cats" / "9.png")
    photo(photos / "cats" / "0.png", (77, 77, 77))
    assert counts(run()) == (1, 1, 5, 0)
    changed = {"cats/0.png": [77] * 3, "cats/9.png": COLOURS["cats/0.png"]}
    assert contents(opened()) == COLOURS | changed


def test_a_store_made_by_another_run_meanwhile_is_left_to_it(
    run, tmp_path, fake_backbone, monkeypatch
):
    held = ExitStack()

    def build(*arguments):
        built = fake_backbone(*arguments)
        store = EmbeddingStore.create(tmp_path / "store", built[0].spec.to_dict())
        held.enter_context(store.lock())
        return built

    monkeypatch.setattr("twostage.backbones.lazy.build", build)
    with held, pytest.raises(StoreError, match="is being written by process"):
        run()
    assert EmbeddingStore.exists_at(tmp_path / "store")


def test_on_error_fail_keeps_the_parts_committed_before(shards_of_2, run, opened, photos):
    (photos / "dogs" / "2.png").write_bytes(b"no image")
    with pytest.raises(ImagesError, match=r"dogs/2\.png"):
        run(on_error="fail")
    assert len(opened()) == 4


def test_on_error_fail_minds_errors_of_earlier_runs(run, photos):
    (photos / "cats" / "1.png").write_bytes(b"no image")
    settle(photos)
    run()
    with pytest.raises(ImagesError, match=r"1 of 6 .* first: 'cats/1\.png'"):
        run(on_error="fail")


def test_a_half_written_record_does_not_block_the_folder(run, tmp_path, photos):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "_tmp-_store.json~").write_text("{")
    assert run().n_computed == 6


def test_another_seed_of_random_weights_is_refused(run):
    run(weights="random", random_state=0)
    assert run(weights="random").n_computed == 0
    with pytest.raises(StoreError, match="weights is random:0, asked for random:3"):
        run(random_state=3)


def test_an_embedding_of_nan_is_known_by_its_bytes(run, photos, fake_backbone, monkeypatch):
    def embed(self, batch):
        return np.full((len(batch), 3), np.nan, np.float32)

    monkeypatch.setattr("conftest.FakeBackbone.embed", embed)
    run()
    (photos / "copy.png").write_bytes((photos / "cats" / "1.png").read_bytes())
    assert run().n_reused == 1
