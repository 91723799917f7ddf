"""`minigan web`: what it finds, filters and compares, and that it serves nothing else to nobody else."""

import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from minigan import datasets, runs
from minigan.cli import main
from minigan.runs import listing
from minigan.training import Config

pytest.importorskip("starlette", reason="minigan web needs the extra web: pip install -e '.[web]'")
uvicorn = pytest.importorskip("uvicorn", reason="minigan web needs the extra web: pip install -e '.[web]'")

NAME = 'b <i>"2"</i> 🐧'


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with two runs, one of them a level below, a secret next to it, and links to that."""
    above = tmp_path_factory.mktemp("web")
    root = above / "runs"
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), dtype=np.uint8)
    config = Config.of("small", batch=8, epochs=1, backend="numpy")
    runs.play(
        training := runs.begin(config, root / "a", data=datasets.Images(images, None, "few")), root / "a", quiet=True
    )
    assert training.finished()
    shutil.copytree(root / "a", root / "group" / NAME)
    (above / "secret").mkdir()
    shutil.copytree(root / "a", above / "secret" / "run")
    (above / "secret" / "run" / "report.html").write_text("SECRET")
    (root / "link").symlink_to(above / "secret")
    (root / "linked").symlink_to(above / "secret" / "run")
    (root / "alias").symlink_to(root / "a")
    shutil.copytree(root / "a", root / "evil")
    for name in ("report.html", "final.png", "history.csv"):
        (root / "evil" / name).unlink()
        (root / "evil" / name).symlink_to(above / "secret" / "run" / name)
    shutil.rmtree(root / "evil" / "samples")
    os.utime(root / "a" / "config.json", (time.time() + 100,) * 2)
    return root


@pytest.fixture(scope="module")
def port(folder):
    """The port of a server for the folder."""
    from minigan.web import app

    place = socket.socket()
    place.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app(folder), log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [place]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield place.getsockname()[1]
    server.should_exit = True
    thread.join(10)
    place.close()


def get(port: int, path: str, host: str | None = None, method: str = "GET") -> tuple[int, str, dict]:
    """Ask for exactly this path, which `http.client` does not clean up."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", f"127.0.0.1:{port}" if host is None else host)
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content.decode("utf-8", "replace"), {k.lower(): v for k, v in answer.getheaders()}


def test_the_list_has_every_run_newest_first(port):
    status, text, _ = get(port, "/")
    names = re.findall(r"<h2>(?:<a [^>]*>)?<bdi>(.*?)</bdi>", text)
    assert status == 200 and names[0] == "a" and set(names) == {"a", f"group/{NAME}".replace("<", "&lt;").replace(
        ">", "&gt;").replace('"', "&quot;"), "evil"}  # fmt: skip
    assert text.count('class="badge finished"') == 2 and "epoch 1, 5 steps" in text


@pytest.mark.parametrize(
    ("query", "count"),
    [("q=group", 1), ("q=SMALL+a", 3), ("q=zzz", 0), ("kind=images", 3), ("kind=tables", 0), ("state=finished", 2),
     ("state=unknown", 1), ("q=group&state=unknown", 0)],
)  # fmt: skip
def test_filters_leave_the_runs_that_fit(port, query, count):
    text = get(port, f"/?{query}")[1]
    assert text.count('type="checkbox"') == count
    assert ("no run has what the filters ask for" in text) == (count == 0)


def test_pages_and_pictures_of_runs_are_served(port, folder):
    for name in ("a", f"group/{NAME}"):
        status, text, headers = get(port, f"/page/{quote(name)}/report.html")
        assert status == 200 and text == (folder / name / "report.html").read_text(encoding="utf-8")
        assert "sandbox" in headers["content-security-policy"]
        assert "allow-same-origin" not in headers["content-security-policy"]
        status, _, headers = get(port, f"/thumbnail/{quote(name)}/picture")
        assert status == 200 and headers["content-type"] == "image/png"


def test_two_runs_are_compared_on_the_same_scale(port):
    status, text, _ = get(port, f"/compare?run=a&run={quote(f'group/{NAME}')}")
    assert status == 200 and text.count('class="plot"') == 6 and "&lt;i&gt;" in text and "<i>" not in text
    limits = re.findall(r'"limits":(\[[^\]]*\])', text)
    assert len(limits) == 6 and limits[::2] == limits[1::2]
    for query in ("run=a", "run=a&run=none", "run=a&run=../secret/run", "run=a&run=a&run=a"):
        assert get(port, f"/compare?{query}")[0] == 400


OUTSIDE = [
    "/page/../secret/run/report.html",
    "/page/..%2fsecret%2frun/report.html",
    "/page/%2e%2e/secret/run/report.html",
    "/page/a/../../secret/run/report.html",
    "/page/a/..%2f..%2f..%2fsecret/run/report.html",
    "/page//etc/report.html",
    "/page/link/run/report.html",
    "/page/linked/report.html",
    "/page/evil/report.html",
    "/page/alias/report.html",
    "/page/a%00/report.html",
    "/page/./a/report.html",
    "/page/a/samples/report.html",
    "/thumbnail/linked/picture",
    "/thumbnail/evil/picture",
    "/thumbnail/../secret/run/picture",
    "/a/config.json",
    "/a/checkpoint.npz",
    "/page/a/config.json",
    "/config.json",
    "/../secret/run/report.html",
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_nothing_outside_the_folder_and_no_other_file_is_served(port, path):
    status, text, _ = get(port, path)
    assert status in (400, 404) and "SECRET" not in text and "preset" not in text


def test_a_history_behind_a_link_is_not_read(folder):
    (evil,) = (entry for entry in listing.find(folder) if entry.name == "evil")
    assert evil.epochs == "" and evil.picture is None and not evil.has_page


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil", ""])
def test_another_host_is_refused(port, host):
    status, text, _ = get(port, "/", host=host)
    assert status == 400 and "checkbox" not in text


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "localhost:1"])
def test_names_of_this_machine_are_accepted(port, host):
    assert get(port, "/", host=host)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_it_only_reads(port, method, folder):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if not path.is_symlink()}
    assert get(port, "/", method=method)[0] == 405 and get(port, "/page/a/report.html", method=method)[0] == 405
    get(port, "/")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if not path.is_symlink()} == before


def test_every_answer_forbids_other_sources(port):
    for path in ("/", "/none", "/compare?run=a"):
        headers = get(port, path)[2]
        if path != "/none":  # an address without a route
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"preset": 5, "data": null}', b"[" * 100_000])
def test_a_damaged_run_does_not_break_the_list(content, folder, tmp_path):
    shutil.copytree(folder / "a", tmp_path / "good")
    shutil.copytree(folder / "a", tmp_path / "bad")
    (tmp_path / "bad" / "config.json").write_bytes(content)
    (tmp_path / "bad" / "history.csv").write_bytes(b'epoch,step\n"1,\x00\n\xff')
    (tmp_path / "bad" / "final.png").write_bytes(b"\x89PNG")
    (tmp_path / "bad" / "report.html").write_bytes(content)
    names = [entry.name for entry in listing.find(tmp_path)]
    assert "good" in names
    from minigan.report.page import lists
    from minigan.web import small

    found = listing.find(tmp_path)
    assert lists.list_page(found, found, {}, time.time()).endswith(b"</html>\n")
    assert small(tmp_path / "bad" / "final.png", 0) is None


def test_the_server_listens_on_this_machine_only_and_ends_with_ctrl_c(folder):
    process = subprocess.Popen(
        [sys.executable, "-m", "minigan", "web", str(folder), "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)/", line)[1])
        for _ in range(100):
            try:
                assert get(port, "/")[0] == 200
                break
            except ConnectionError:
                time.sleep(0.1)
        listening = Path("/proc/net/tcp")
        if listening.exists():  # local addresses in hexadecimal, 0A: listening
            places = [row.split()[1:4:2] for row in listening.read_text().splitlines()[1:]]
            mine = [place for place, state in places if state == "0A" and place.endswith(f":{port:04X}")]
            assert mine == [f"0100007F:{port:04X}"]
    finally:
        process.send_signal(2)
        assert process.wait(20) == 0
        process.stdout.close()


def test_wrong_arguments_end_in_one_sentence(folder, port, tmp_path, capsys, monkeypatch):
    assert main(["web", str(tmp_path / "none")]) == 2 and "is not a folder" in capsys.readouterr().err
    assert main(["web", str(folder / "a")]) == 2 and "give the folder above it" in capsys.readouterr().err
    assert main(["web", str(folder), "--port", str(port)]) == 2 and "cannot listen on port" in capsys.readouterr().err
    assert main(["web", str(folder), "--port", "99999"]) == 2 and "--port" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    assert main(["web", str(folder)]) == 2
    assert "pip install 'minigan[web]'" in capsys.readouterr().err
