"""`avflow view`: a page of run folders on this machine's own address, which gets samples one by one.

Nothing but the page and its samples is served, to nobody but this machine: the server listens on 127.0.0.1, and refuses
requests that name another host (a page of elsewhere whose name was made to point here).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from .. import checks
from ..errors import InputError
from ..files import readable
from ..plots.information_flow import check_first_layer
from ..results.change import Center
from ..results.default_center import checked_center
from .collect import SweptRows, collect, kind_of, swept_rows
from .each import each_sample
from .html import embedded, page
from .media import Sizes, media_or_none
from .names import folder_names

HOST = "127.0.0.1"
KEPT = 64  # samples whose answer is kept
SIZES = Sizes(frames=12, pixels=128, quality=80, columns=480)
_SAMPLE = re.compile(r"/sample/([0-9]{1,4})/([0-9]{1,9})\.json")
_RULES = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'"


class View:
    """What is served: `page`, as bytes of HTML, and each sample of its sweeps.

    Args:
        folders, select, first_layer, title, center: as of `report_together`.
        media: pictures and waveforms of every sample.

    Raises:
        InputError: as of `report_together`.
    """

    def __init__(
        self,
        folders: Sequence[str | Path],
        *,
        select: str = "all",
        first_layer: int = 0,
        title: str = "Information flow",
        media: bool = True,
        center: Center | None = None,
    ) -> None:
        check_first_layer(first_layer)
        found = collect(folders, select, brief=True, center=checked_center(center))
        self.centers: list[Center] = [sweep["flow"][0]["center"] for sweep in found.get("sweeps", []) if sweep["flow"]]
        self.media = media
        self.page = readable(page(found, title, first_layer=first_layer, served=True)).encode()
        named = zip(map(Path, folders), folder_names(folders), strict=True)
        swept = [
            rows for folder, name in named if kind_of(folder) == "sweep" for rows in swept_rows(folder, name, select)
        ]
        # A sweep without a value has no chart, and no number on the page.
        drawn = [
            (rows, sweep["each"]) for rows, sweep in zip(swept, found.get("sweeps", []), strict=True) if sweep["flow"]
        ]
        self.sweeps: list[tuple[SweptRows, list[str]]] = [(rows, [s["id"] for s in each]) for rows, each in drawn]
        self.sample = functools.lru_cache(KEPT)(self._sample)

    def _sample(self, sweep: int, number: int) -> bytes | None:
        """All that is known of a sample, as JSON; None where there is none of these numbers."""
        if sweep >= len(self.sweeps) or number >= len(self.sweeps[sweep][1]):
            return None
        rows, ids = self.sweeps[sweep]
        name = ids[number]
        own = rows.table.filter(pc.equal(rows.table["prompt"], name))
        (found,) = each_sample(own, rows.records, rows.told, center=self.centers[sweep])
        if self.media and name in rows.told:
            found["media"] = media_or_none(rows.told[name]["sample"], SIZES)
        return embedded(found).encode()


def server(view: View, port: int = 0) -> ThreadingHTTPServer:
    """A server of the view, which listens already; its `serve_forever` answers. port: 0 takes one that is free.

    Raises:
        InputError: the port is taken, or none.
    """
    port = checks.integer("port", port, 0, 65535, "give a number from 1 to 65535, or 0 for one that is free")
    try:
        return ThreadingHTTPServer((HOST, port), functools.partial(_Handler, view))
    except OSError as error:
        raise InputError(
            f"port {port} cannot be used ({error.strerror}): leave --port out for one that is free"
        ) from error


def address(serving: ThreadingHTTPServer) -> str:
    """Where a browser finds it."""
    return f"http://{HOST}:{serving.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version = "avflow", ""

    def __init__(self, view: View, *rest: Any) -> None:
        self.view = view
        super().__init__(*rest)

    def do_GET(self) -> None:
        if self.headers.get("Host") not in self._hosts():
            return self._answer(403, b"this is served to this machine alone\n", "text/plain")
        if self.path == "/":
            return self._answer(200, self.view.page, "text/html; charset=utf-8")
        match = _SAMPLE.fullmatch(self.path)
        found = self.view.sample(int(match[1]), int(match[2])) if match else None
        if found is None:
            return self._answer(404, b"there is no such thing here\n", "text/plain")
        return self._answer(200, found, "application/json")

    do_HEAD = do_GET

    def _hosts(self) -> tuple[str, ...]:
        port = self.connection.getsockname()[1]
        return (f"{HOST}:{port}", f"localhost:{port}")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": _RULES,
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is for the address."""
