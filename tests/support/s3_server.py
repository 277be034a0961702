"""A server that speaks S3's protocol, moto's, behind a proxy that cuts connections on request and keeps a list."""

import http.client
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest.mock import patch

import pytest

KEYS = {"AWS_ACCESS_KEY_ID": "AKIAPRIVATE", "AWS_SECRET_ACCESS_KEY": "very-private"}
BUCKET = "bucket"


class Proxy(ThreadingHTTPServer):
    """Passes requests on. `cuts`: how many more transfers of an object to cut in half. `is_down`: answer none.

    `seen`: method, path and range of each request for an object.
    """

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.port, self.cuts, self.is_down = port, 0, False
        self.seen: list[tuple[str, str, str]] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing of a connection that was cut."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _pass_on(self) -> None:
        if self.server.is_down:
            self.close_connection = True
            return
        is_object = self.path.endswith(".parquet")
        length = int(self.headers.get("Content-Length", 0))
        if is_object:
            self.server.seen.append((self.command, self.path, self.headers.get("Range", "")))
        if is_object and self.command == "PUT" and self._cuts():
            self.rfile.read(length // 2)
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.port)
        upstream.request(self.command, self.path, self.rfile.read(length), dict(self.headers.items()))
        answer = upstream.getresponse()
        body = answer.read()
        upstream.close()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", answer.headers.get("Content-Length", str(len(body))))
        self.end_headers()
        if is_object and self.command == "GET" and self._cuts():
            body = body[: len(body) // 2]
        self.wfile.write(body)

    def __getattr__(self, name: str) -> Any:
        """Return the method for any verb."""
        if name.startswith("do_"):
            return self._pass_on
        raise AttributeError(name)

    def _cuts(self) -> bool:
        if not self.server.cuts:
            return False
        self.server.cuts -= 1
        self.close_connection = True
        return True

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing."""


class Server:
    """The server, with one bucket. `environment`: of a process that uses it. `client`: boto3's, past the proxy."""

    def __init__(self, proxy: Proxy, port: int) -> None:
        import boto3

        self.proxy = proxy
        url = f"http://127.0.0.1:{proxy.server_address[1]}"
        self.settings = KEYS | {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": url}
        with patch.dict(os.environ, self.settings | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}):
            self.client = boto3.client("s3")
        self.client.create_bucket(Bucket=BUCKET)

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of a process that uses the server."""
        return os.environ | self.settings

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Return the objects whose names begin with a prefix, by the rest of the name."""
        listed = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        names = [each["Key"] for each in listed]
        return {name[len(prefix) :]: self.client.get_object(Bucket=BUCKET, Key=name)["Body"].read() for name in names}

    def uploads(self) -> list[str]:
        """Return the names of the shards that were uploaded, in order, and forget all requests."""
        paths = [path.removeprefix(f"/{BUCKET}/") for method, path, _ in self.proxy.seen if method == "PUT"]
        self.proxy.seen.clear()
        return paths


@contextmanager
def s3_server() -> Iterator[Server]:
    """Start the server. Without its packages, skip; with CI=true, fail."""
    if os.environ.get("CI") != "true":
        pytest.importorskip("s3fs")
        pytest.importorskip("moto.server")
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # it lists each request
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    proxy = Proxy(port)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        yield Server(proxy, port)
    finally:
        proxy.shutdown()
        proxy.server_close()
        server.stop()
