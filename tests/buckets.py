"""A real S3 API on loopback: moto's server, behind a gate at which requests can fail."""

import os
import threading

import pytest


class Gate:
    """Stands before a server and lets some requests fail.

    Attributes
    ----------
    failing : dict of str to int
        How often requests such as ``GET /bucket/key`` or, whatever the key, ``PUT`` are to fail.
    before : callable or None
        Called with each request, before it is served.
    requests : list of str
        What came.
    n_failed : int
        How many failed.
    """

    def __init__(self, app):
        self._app = app
        self._lock = threading.Lock()
        self.clear()

    def clear(self):
        self.failing: dict[str, int] = {}
        self.n_failed = 0
        self.requests: list[str] = []
        self.before = None

    def __call__(self, environ, start_response):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        request = f"{method} {path}"
        if self.before is not None:
            self.before(request)
        with self._lock:
            self.requests.append(request)
            rule = next((r for r in (request, method) if self.failing.get(r, 0) > 0), None)
            if rule is not None:
                self.failing[rule] -= 1
                self.n_failed += 1
        if rule is not None:
            start_response("503 Service Unavailable", [("Content-Length", "0")])
            return [b""]
        return self._app(environ, start_response)


@pytest.fixture(scope="module")
def server():
    """Start moto's server, behind a gate; yield the gate and the server's address."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *arguments):
            pass

    gate = Gate(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, gate, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield gate, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join(timeout=10)


def settings(address):
    """Return the variables that say where the server is, and sign in."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/nonexistent",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
        "AWS_MAX_ATTEMPTS": "1",  # what botocore tries again by itself
    }


@pytest.fixture
def environment(server, monkeypatch):
    """Say where the server is, and sign in."""
    import s3fs

    gate, address = server
    gate.clear()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in settings(address).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("twostage.remote._WAITS_S", (0.0, 0.0, 0.0))
    s3fs.S3FileSystem.clear_instance_cache()
    yield gate
    s3fs.S3FileSystem.clear_instance_cache()
