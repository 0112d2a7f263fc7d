"""Downloading from a local server that answers rightly or wrongly."""

import dataclasses
import hashlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from byhand.data import corpus, load_corpus
from byhand.data.download import Download
from byhand.errors import UserError

CONTENT = b"To be, or not to be.\n" * 100


class Handler(BaseHTTPRequestHandler):
    hits = 0

    def do_GET(self) -> None:
        type(self).hits += 1
        if self.path == "/missing":
            self.send_error(404)
            return
        if self.path == "/garbage":
            self.wfile.write(b"this is not HTTP\r\n\r\n")
            return
        body = {"/wrong": CONTENT[::-1], "/long": CONTENT * 2}.get(self.path, CONTENT)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.path == "/slow":
            self.server.release.wait(20)  # type: ignore[attr-defined]
        self.wfile.write(body[: len(body) // 2] if self.path == "/cut" else body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Handler, "hits", 0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.release = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.release.set()  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *args, **kwargs: str(folder))
    return folder


def unused_address() -> str:
    """The address of a port that no server listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/text"


def download(server: ThreadingHTTPServer, path: str = "/text") -> Download:
    return Download(
        title="A Text",
        url=f"http://127.0.0.1:{server.server_port}{path}",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        size=len(CONTENT),
        filename="text.txt",
    )


def test_it_is_downloaded_once_then_found(server: ThreadingHTTPServer, cache: Path):
    wanted = download(server)
    path = wanted.fetch("use another")
    assert path == cache / "text.txt"
    assert path.read_bytes() == CONTENT
    assert wanted.fetch("use another") == path
    assert Handler.hits == 1


def test_the_cached_file_needs_no_server(server: ThreadingHTTPServer, cache: Path):
    wanted = download(server)
    wanted.fetch("use another")
    unreachable = dataclasses.replace(wanted, url=unused_address())
    assert unreachable.fetch("use another").read_bytes() == CONTENT


@pytest.mark.parametrize("altered", [b"", CONTENT[:-1], CONTENT[:-1] + b"?", CONTENT + b"?"])
def test_an_altered_file_is_fetched_again(server: ThreadingHTTPServer, cache: Path, altered: bytes):
    cache.mkdir()
    (cache / "text.txt").write_bytes(altered)
    assert download(server).fetch("use another").read_bytes() == CONTENT
    assert Handler.hits == 1


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/wrong", "is not A Text .*and was not kept: use another"),
        ("/long", "is not A Text"),
        (
            "/cut",
            f"ended after {len(CONTENT) // 2} of {len(CONTENT)} bytes.*use another",
        ),
        ("/garbage", "cannot download A Text .*use another"),
        ("/missing", "the server answered 404 Not Found.*use another"),
    ],
)
def test_a_bad_answer_is_refused_and_nothing_kept(
    server: ThreadingHTTPServer, cache: Path, path: str, words: str
):
    with pytest.raises(UserError, match=words):
        download(server, path).fetch("use another")
    assert not cache.exists()


def test_a_server_that_does_not_answer_times_out(server: ThreadingHTTPServer, cache: Path):
    with pytest.raises(UserError, match=r"cannot download A Text .*timed out.*use another"):
        download(server, "/slow").fetch("use another", timeout=0.2)


def test_no_server_at_all(server: ThreadingHTTPServer, cache: Path):
    unreachable = dataclasses.replace(download(server), url=unused_address())
    with pytest.raises(UserError, match=r"cannot download A Text .*: use another, or put the file"):
        unreachable.fetch("use another")


def test_a_cache_that_cannot_be_written(server: ThreadingHTTPServer, cache: Path):
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot .*use another"):
        download(server).fetch("use another")


def test_shakespeare_is_downloaded_this_way(
    server: ThreadingHTTPServer, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    assert corpus.SHAKESPEARE.size == 1_115_394
    monkeypatch.setattr(corpus, "SHAKESPEARE", download(server))
    assert load_corpus("shakespeare") == CONTENT.decode()
    monkeypatch.setattr(corpus, "SHAKESPEARE", download(server, "/missing"))
    (cache / "text.txt").unlink()
    with pytest.raises(UserError, match=r"use the corpus python-docs.*or any UTF-8 text file"):
        load_corpus("shakespeare")
