"""Images in a bucket: against a real S3 API, moto's server on loopback."""

import tarfile

import pytest
from click.testing import CliRunner

from twostage.cli.main import main
from twostage.errors import PlaceError, UsageError
from twostage.extraction import extract
from twostage.images.places import open_place
from twostage.store.store import EmbeddingStore

pytestmark = pytest.mark.slow  # moto and botocore take seconds to start
NAMES = [f"{kind}/{i}.png" for kind in ("cats", "dogs") for i in range(3)]


@pytest.fixture
def bucket(environment, photos, tmp_path):
    """Return the URL of a bucket with the photos, a tar of them and a list."""
    import s3fs

    system = s3fs.S3FileSystem()
    if not system.exists("bucket"):
        system.mkdir("bucket")
    for name in NAMES:
        system.put_file(str(photos / name), f"bucket/photos/{name}")
    with tarfile.open(tmp_path / "photos.tar", "w") as tar:
        for name in NAMES:
            tar.add(photos / name, name)
    system.put_file(str(tmp_path / "photos.tar"), "bucket/photos.tar")
    system.pipe_file("bucket/list.txt", "\n".join(f"photos/{name}" for name in NAMES).encode())
    environment.clear()
    return "s3://bucket"


def column(tmp_path, name):
    index = EmbeddingStore(tmp_path / "store").index().to_pydict()
    return dict(zip(index["image"], index[name], strict=True))


def counts(summary):
    return summary.n_computed, summary.n_reused, summary.n_unchanged, summary.n_errors


def test_a_bucket_is_read_with_one_request_for_each_image(
    bucket, environment, tmp_path, fake_backbone
):
    assert counts(extract(f"{bucket}/photos", tmp_path / "store")) == (6, 0, 0, 0)
    assert sorted(column(tmp_path, "image")) == NAMES
    of_images = [request for request in environment.requests if request.endswith(".png")]
    assert sorted(of_images) == [f"GET /bucket/photos/{name}" for name in NAMES]


def test_an_object_that_did_not_change_is_not_read_again(
    bucket, environment, tmp_path, fake_backbone, monkeypatch
):
    monkeypatch.setattr("twostage.images.loading.UNSETTLED_NS", -(10**12))
    extract(f"{bucket}/photos", tmp_path / "store")
    environment.clear()
    assert counts(extract(f"{bucket}/photos", tmp_path / "store")) == (0, 0, 6, 0)
    assert not [request for request in environment.requests if request.endswith(".png")]
    assert all(mtime_ns for mtime_ns in column(tmp_path, "mtime_ns").values())


@pytest.mark.parametrize("place", ["photos.tar", "list.txt"])
def test_tars_and_lists_in_a_bucket_are_read(bucket, environment, tmp_path, fake_backbone, place):
    assert counts(extract(f"{bucket}/{place}", tmp_path / "store")) == (6, 0, 0, 0)


def test_a_table_of_few_images_does_not_list_the_bucket(
    bucket, environment, tmp_path, fake_backbone
):
    names = ["dogs/1.png", "s3://bucket/photos/cats/0.png", "gone.png"]
    summary = extract(f"{bucket}/photos", tmp_path / "store", names=names)
    assert counts(summary) == (2, 0, 0, 1)
    assert set(column(tmp_path, "image")) == {"dogs/1.png", "cats/0.png", "gone.png"}


def test_an_answer_503_is_asked_again_and_becomes_a_row_if_it_stays(
    bucket, environment, tmp_path, fake_backbone
):
    environment.failing = {
        "GET /bucket/photos/cats/0.png": 3,
        "GET /bucket/photos/dogs/1.png": 10**6,
    }
    assert counts(extract(f"{bucket}/photos", tmp_path / "store")) == (5, 0, 0, 1)
    errors = {name: error for name, error in column(tmp_path, "error").items() if error}
    assert list(errors) == ["dogs/1.png"]
    assert errors["dogs/1.png"].startswith("read: ")
    assert environment.n_failed == 3 + 4
    environment.failing = {}
    assert extract(f"{bucket}/photos", tmp_path / "store").n_errors == 0


def test_what_is_wrong_with_a_bucket_is_said_in_one_line(bucket, environment, monkeypatch):
    import s3fs

    with pytest.raises(UsageError, match=r"There is nothing at 's3://no-such-bucket/photos'"):
        open_place("s3://no-such-bucket/photos")
    with pytest.raises(UsageError, match=r"There is nothing at 's3://bucket/no-such-folder'"):
        open_place("s3://bucket/no-such-folder")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(PlaceError, match=r"No credentials for 's3://bucket/photos'\. Set AWS_ACC"):
        open_place("s3://bucket/photos")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(PlaceError, match=r"'s3://bucket/photos' can't be read: Could not connect"):
        open_place("s3://bucket/photos")
    result = CliRunner().invoke(main, ["extract", "s3://bucket/photos", "-o", "store"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: 's3://bucket/photos' can't be read: Could not connect")
