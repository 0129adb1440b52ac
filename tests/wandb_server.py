"""As much of a W&B server as its client asks for: runs with their history, which a second start continues."""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class ServedRun:
    """What the server holds of one run: lines of its history by their number, and the names of its files."""

    history: dict[int, dict[str, Any]] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The history in order."""
        return [self.history[number] for number in sorted(self.history)]

    @property
    def summary(self) -> dict[str, Any]:
        """The last value of every key."""
        return {key: value for line in self.lines for key, value in line.items()}

    def bucket(self, name: str) -> dict[str, Any]:
        """The run as the interface gives it to a client that resumes."""
        tail = [json.dumps(line) for line in self.lines[-1:]]
        counts = {"historyLineCount": len(self.history), "eventsLineCount": 0, "logLineCount": 0}
        tails = {"historyTail": json.dumps(tail), "eventsTail": "[]", "summaryMetrics": json.dumps(self.summary)}
        marks = {"config": "{}", "tags": [], "notes": "", "wandbConfig": '{"t": 1}', "displayName": name}
        return {"id": "bucket", "name": name, **counts, **tails, **marks}


class WandbServer(ThreadingHTTPServer):
    """Serves on a port of its own; `runs` by their id."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, ServedRun] = {}
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, query: str, values: dict[str, Any]) -> dict[str, Any]:
        """What the interface gives for a query."""
        whole = {"id": "project", "name": "videomae", "entity": {"id": "entity", "name": "me"}}
        name = str(values.get("name") or values.get("run") or "")
        if "viewer" in query:
            return {"viewer": {"id": "user", "username": "me", "entity": "me", "flags": "{}", "teams": {"edges": []}}}
        if "RunResumeStatus" in query:
            known = self.runs.get(name)
            return {"model": {**whole, "bucket": known.bucket(name) if known else None}}
        if "upsertBucket" in query:
            inserted = name not in self.runs
            run = self.runs.setdefault(name, ServedRun())
            return {"upsertBucket": {"bucket": {**run.bucket(name), "project": whole}, "inserted": inserted}}
        if "createRunFiles" in query:
            self.runs[name].files |= set(values["files"])
            files = [{"name": file, "uploadUrl": f"{self.address}/upload/{file}"} for file in values["files"]]
            return {"createRunFiles": {"runID": "bucket", "uploadHeaders": [], "files": files}}
        return {}

    def stream(self, run: str, sent: dict[str, Any]) -> None:
        """Take in lines of a run's history from the number that the client gives."""
        lines = (sent.get("files") or {}).get("wandb-history.jsonl")
        if lines:
            for number, line in enumerate(lines["content"], start=lines["offset"]):
                self.runs[run].history[number] = json.loads(line)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self._body()
        with self.server.lock:
            if self.path == "/graphql":
                sent = json.loads(body)
                self._reply({"data": self.server.answer(sent["query"], sent.get("variables") or {})})
                return
            if self.path.endswith("/file_stream"):
                self.server.stream(self.path.split("/")[-2], json.loads(body))
            self._reply({"exitcode": None, "limits": {}})

    def do_PUT(self) -> None:
        self._body()
        self._reply({})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _reply(self, values: dict[str, Any]) -> None:
        text = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """A running server."""
    with WandbServer() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
