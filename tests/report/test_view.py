"""`avflow view`: the page and its samples to this machine, and nothing to anybody else."""

import http.client
import json
import socket
import threading

import many_samples
import pytest
from typer.testing import CliRunner

from avflow.cli.main import app
from avflow.errors import InputError
from avflow.report.view import HOST, View, address, server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return many_samples.folder_of(tmp_path_factory.mktemp("view") / "run", samples=6, layers=4, paths=2)


@pytest.fixture(scope="module")
def serving(folder):
    (folder / "secret.txt").write_text("secret")
    with server(View([folder])) as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def ask(serving, path, host=None, method="GET"):
    port = serving.server_address[1]
    link = http.client.HTTPConnection(HOST, port, timeout=20)
    link.putrequest(method, path, skip_host=True)
    if host != "":
        link.putheader("Host", host or f"{HOST}:{port}")
    link.endheaders()
    answer = link.getresponse()
    body = answer.read()
    link.close()
    return answer.status, body, dict(answer.getheaders())


def test_the_page_lists_the_samples_and_each_is_told_when_it_is_asked_for(serving):
    status, page, headers = ask(serving, "/")
    assert status == 200 and b"fetch(" in page and b'"stretches"' not in page and b'"curves"' not in page
    assert page.count(b"What is seen in clip") == 6 and "default-src 'none'" in headers["Content-Security-Policy"]
    status, body, headers = ask(serving, "/sample/0/3.json")
    found = json.loads(body)
    assert status == 200 and headers["Content-Type"] == "application/json" and found["id"] == "sample-0003"
    assert set(found["curves"]) == set(many_samples.PATHS[:2]) and found["tokens"]["count"] == 741
    assert found["media"] == []  # its files are gone
    assert ask(serving, "/", method="HEAD")[:2] == (200, b"")


@pytest.mark.parametrize(
    "path",
    ["/secret.txt", "/rows.parquet", "/../run/secret.txt", "/sample/../secret.txt", "/sample/0/..%2f..%2fsecret.txt",
     "//etc/passwd", "/%2e%2e/secret.txt", "/sample/0/6.json", "/sample/1/0.json", "/sample/0/-1.json",
     "/sample/0/" + "9" * 4000 + ".json", "/?x=1", "/sample/0/3.json/"],
)  # fmt: skip
def test_nothing_else_is_there(serving, path):
    status, body, _ = ask(serving, path)
    assert status == 404 and b"secret" not in body and b"root:" not in body


def test_other_hosts_and_other_methods_are_refused(serving):
    port = serving.server_address[1]
    for host in ("evil.example", f"evil.example:{port}", HOST, f"{HOST}:{port + 1}", ""):
        status, body, _ = ask(serving, "/", host)
        assert status == 403 and b"<html" not in body, host
    assert ask(serving, "/", f"localhost:{port}")[0] == 200
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(serving, "/", method=method)[0] == 501


def test_only_this_machine_reaches_it(serving):
    assert serving.server_address[0] == "127.0.0.1" and address(serving).startswith("http://127.0.0.1:")


def test_the_command_prints_where_it_is(folder, monkeypatch):
    monkeypatch.setattr(
        "http.server.ThreadingHTTPServer.serve_forever", lambda self: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    done = CliRunner().invoke(app, ["view", str(folder), "--no-media"])
    assert done.exit_code == 0 and "http://127.0.0.1:" in done.output
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        with pytest.raises(InputError, match="leave --port out"):
            server(View([folder]), taken.getsockname()[1])
    with pytest.raises(InputError, match="port"):
        server(View([folder]), 70_000)
