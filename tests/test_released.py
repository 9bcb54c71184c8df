"""Fetching the authors' files: checked, continued, and from a local copy."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from derta.published import released
from derta.published.released import File

CONTENT = json.dumps({"instruction": "Why?", "output": "First, …", "safe_response": "Sorry."}).encode() * 5000


def listed(content, sha256=True):
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    return File("data/x.json", blob, str(len(content)), hashlib.sha256(content).hexdigest() if sha256 else "")


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A home of one file that understands ranges; `cuts` holds how many bytes to send before breaking off."""
    asked, cuts, content = [], [], [CONTENT]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            start = int(self.headers.get("Range", "bytes=0-")[6:-1])
            asked.append(start)
            body = content[0][start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: cuts.pop(0)] if cuts else body)
            self.close_connection = True

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(released, "HOME", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setattr(released, "manifest", lambda: {"data/x.json": listed(CONTENT)})
    monkeypatch.setenv("DERTA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DERTA_RELEASED", raising=False)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    yield type("Server", (), {"asked": asked, "cuts": cuts, "content": content})
    server.shutdown()
    server.server_close()


def test_a_download_that_broke_off_is_continued_and_then_cached(server):
    server.cuts += [100_000, 50_000]
    assert released.fetch("data/x.json").read_bytes() == CONTENT
    assert server.asked[0] == 0
    assert all(a < b for a, b in zip(server.asked, server.asked[1:], strict=False))
    assert len(server.asked) == 3
    released.fetch("data/x.json")
    assert len(server.asked) == 3


@pytest.mark.parametrize("sha256", [True, False])
def test_an_altered_download_is_refused_and_not_kept(server, monkeypatch, tmp_path, sha256):
    monkeypatch.setattr(released, "manifest", lambda: {"data/x.json": listed(CONTENT, sha256)})
    server.content[0] = CONTENT[:-1] + b"!"
    with pytest.raises(ValueError, match=r"not the file of the manifest .* delete it and fetch it again"):
        released.fetch("data/x.json")
    assert not list((tmp_path / "cache").rglob("x.json"))


def test_a_local_copy_is_checked_too(monkeypatch, tmp_path):
    monkeypatch.setattr(released, "manifest", lambda: {"data/x.json": listed(CONTENT)})
    monkeypatch.setenv("DERTA_RELEASED", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"x\.json: DERTA_RELEASED lacks this file"):
        released.fetch("data/x.json")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.json").write_bytes(CONTENT)
    assert released.fetch("data/x.json") == tmp_path / "data" / "x.json"
    (tmp_path / "data" / "x.json").write_bytes(CONTENT[:-7])
    with pytest.raises(ValueError, match=r"x\.json: not the file of the manifest .* truncated, renamed or altered"):
        released.fetch("data/x.json")


@pytest.mark.parametrize("sha256", [True, False])
def test_converted_line_ends_are_named_with_their_remedy(tmp_path, sha256):
    lines = b'{"instruction": "Why?"}\n{"instruction": "Where?"}\n'
    path = tmp_path / "x.json"
    path.write_bytes(lines.replace(b"\n", b"\r\n"))
    with pytest.raises(ValueError, match=r"x\.json: git converted its line ends .* git clone -c core\.autocrlf=false"):
        released.verify(path, listed(lines, sha256))
    path.write_bytes(lines.replace(b"\n", b"\r\n")[:-5])
    with pytest.raises(ValueError, match=r"x\.json: not the file of the manifest"):
        released.verify(path, listed(lines, sha256))


def test_the_manifest_lists_the_training_files():
    files = released.manifest()
    assert set(released.HELPFULNESS) | {released.SAFETY} <= set(files)
    assert all(len(file.git_blob_sha1) == 40 for file in files.values())
    assert not any(".." in path or path.startswith("/") for path in files)


def test_the_papers_triples_and_the_further_pairs_of_vanilla(monkeypatch, tmp_path):
    def rows(n, *fields):
        return "".join(json.dumps({f: f"{f} {i}" for f in fields}) + "\n" for i in range(n))

    (tmp_path / "safety.json").write_text(rows(6, "instruction", "output", "safe_response"))
    (tmp_path / "helpful.json").write_text(rows(2, "instruction", "output"))
    monkeypatch.setattr(
        released, "fetch", lambda path: tmp_path / ("safety.json" if path == released.SAFETY else "helpful.json")
    )
    material = released.training_material(triples=3, helpful=5)
    assert [triple.query for triple in material.triples] == ["instruction 0", "instruction 1", "instruction 2"]
    assert material.triples[0].again == ("instruction 3", "safe_response 3")
    assert len(material.helpful) == 5
    with pytest.raises(ValueError, match="13 helpful samples asked for, but the six files hold 12"):
        released.training_material(triples=3, helpful=13)
    with pytest.raises(ValueError, match=r"4 triples and as many further .* need 8 rows, not 6"):
        released.training_material(triples=4)


def test_every_local_released_file_is_the_listed_one(released_files):
    listed = {Path(path).name: path for path in released.manifest()}
    present = [listed[f.name] for f in released_files.rglob("*.json")]
    assert present
    assert all(released.fetch(path).is_file() for path in present)
