"""A server that speaks as much of W&B's protocol as its service asks of it, on this machine.

It keeps what a run uploads, and can go away and come back. What it answers was found out by letting
W&B 0.31 ask it; a server of W&B's own is a container image, which a test cannot rely on.
"""

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "them"


@dataclass
class UploadedRun:
    """What the server has of a run.

    Attributes:
        history: its rows, JSON texts, as a run that goes on counts them.
        summary: the last summary.
        config: the last configuration, key to value.
        times_begun: how often a client began it or went on with it.
        exit_status: of the last client that said goodbye.
        used: names of the artifacts that it was made from.
    """

    history: list[str] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    times_begun: int = 0
    exit_status: int | None = None
    used: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(row) for row in self.history]

    def curve(self, name: str, against: str = "train/tokens") -> list[tuple[Any, Any]]:
        """The points of a curve as it is drawn."""
        return [(row[against], row[name]) for row in self.rows if name in row]


class WandbServer:
    """The server.

    Attributes:
        runs: by id.
        artifacts: name to type.
        files: where they were put, to their bytes.
        asked: the names of all queries so far.
    """

    def __init__(self) -> None:
        self.runs: dict[str, UploadedRun] = {}
        self.artifacts: dict[str, str] = {}
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self._port = 0
        self._listening: ThreadingHTTPServer | None = None
        self.come_back()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to be logged in here."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": "a" * 40, "WANDB_MODE": "online"}

    def come_back(self) -> None:
        """Listen, where it listened before."""
        server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler())
        server.daemon_threads = True
        self._port = server.server_port
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        self._listening = server

    def go_away(self) -> None:
        """Refuse every connection from now on."""
        if self._listening is not None:
            self._listening.shutdown()
            self._listening.server_close()
            self._listening = None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            # A connection for each request: one that is kept open would outlive `go_away`.
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                if self.path == "/graphql":
                    self._answer(server._answer_query(json.loads(body)))
                elif self.path.endswith("/file_stream"):
                    server._take_stream(self.path.split("/")[-2], json.loads(body))
                    self._answer({"exitcode": None, "limits": {}})
                else:
                    self._answer({})

            def do_PUT(self) -> None:
                server.files[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
                self._answer({})

            def _answer(self, content: Any) -> None:
                text = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args: Any) -> None:
                pass

        return Handler

    def _take_stream(self, run_id: str, stream: dict[str, Any]) -> None:
        run = self.runs[run_id]
        files = stream.get("files") or {}
        if "wandb-history.jsonl" in files:
            part = files["wandb-history.jsonl"]
            run.history[part["offset"] :] = part["content"]
        if "wandb-summary.json" in files:
            run.summary = json.loads(files["wandb-summary.json"]["content"][-1])
        if stream.get("complete"):
            run.exit_status = stream["exitcode"]

    def _answer_query(self, request: dict[str, Any]) -> dict[str, Any]:
        found = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
        assert found is not None
        self.asked.append(found[1])
        answer = getattr(self, f"_{found[1]}", None)
        if answer is None:
            return {"data": None, "errors": [{"message": f"no {found[1]} here"}]}
        return {"data": answer(request.get("variables") or {})}

    # ---- one for each of W&B's operations, by its name ----

    def _Viewer(self, _: Any) -> Any:  # noqa: N802
        teams: Any = {"edges": []}
        viewer = {"id": "1", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": teams}
        return {"viewer": viewer}

    def _ServerFeaturesQuery(self, _: Any) -> Any:  # noqa: N802
        return {"serverInfo": {"features": []}}

    def _RunResumeStatus(self, asked: Any) -> Any:  # noqa: N802
        run = self.runs.get(asked["name"])
        bucket = None if run is None else self._bucket(asked["name"], run)
        return {"model": {**self._project(asked), "bucket": bucket}}

    def _UpsertBucket(self, asked: Any) -> Any:  # noqa: N802
        is_new = asked["name"] not in self.runs
        run = self.runs.setdefault(asked["name"], UploadedRun())
        run.times_begun += asked.get("host") is not None  # it is said once, at the beginning
        if asked.get("config"):
            given = json.loads(asked["config"])
            run.config |= {key: item["value"] for key, item in given.items()}
        bucket = {**self._bucket(asked["name"], run), "project": self._project(asked)}
        return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}

    def _CreateRunFiles(self, asked: Any) -> Any:  # noqa: N802
        run = asked["run"]
        files = [{"name": name, "uploadUrl": self._place(run, name)} for name in asked["files"]]
        return {"createRunFiles": {"runID": run, "uploadHeaders": [], "files": files}}

    def _ArtifactType(self, asked: Any) -> Any:  # noqa: N802
        kind = self.artifacts.get(asked["name"].partition(":")[0])
        return {"project": {"artifact": kind and {"artifactType": {"name": kind}}}}

    def _CreateArtifact(self, asked: Any) -> Any:  # noqa: N802
        given = asked["input"]
        name = given["artifactCollectionName"]
        self.artifacts[name] = given["artifactTypeName"]
        made = {"id": name, "state": "PENDING", "artifactSequence": {"id": name}}
        return {"createArtifact": {"artifact": {**made, "versionIndex": 0}}}

    def _CreateArtifactManifest(self, asked: Any) -> Any:  # noqa: N802
        place = self._place("artifacts", asked["artifactID"], asked["name"])
        file = {"id": place, "uploadUrl": place, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": place, "file": file}}}

    def _UpdateArtifactManifest(self, asked: Any) -> Any:  # noqa: N802
        place = asked["artifactManifestID"]
        file = {"id": place, "uploadUrl": place, "uploadHeaders": []}
        return {"updateArtifactManifest": {"artifactManifest": {"id": place, "file": file}}}

    def _CreateArtifactFiles(self, asked: Any) -> Any:  # noqa: N802
        nodes = [
            {
                "storagePath": f"{file['artifactID']}/{file['name']}",
                "uploadUrl": self._place("artifacts", file["artifactID"], file["name"]),
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": file["artifactID"]},
            }
            for file in asked["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}

    def _CommitArtifact(self, asked: Any) -> Any:  # noqa: N802
        return {"commitArtifact": {"artifact": {"id": asked["artifactID"], "digest": "0"}}}

    def _ArtifactMembershipByName(self, asked: Any) -> Any:  # noqa: N802
        name = asked["name"].partition(":")[0]
        kind = self.artifacts.get(name)
        if kind is None:
            return {"project": {"artifactCollectionMembership": None}}
        project = {"id": "1", "internalId": "1", "name": asked["project"]}
        collection = {
            "__typename": "ArtifactSequence",
            "name": name,
            "project": {**project, "entity": {"name": ENTITY}},
        }
        artifact = {
            "__typename": "Artifact",
            "id": name,
            "artifactSequence": collection,
            "versionIndex": 0,
            "artifactType": {"name": kind},
            "description": None,
            "metadata": "{}",
            "ttlDurationSeconds": 0,
            "ttlIsInherited": False,
            "tags": [],
            "historyStep": None,
            "state": "COMMITTED",
            "size": 1,
            "digest": "0",
            "commitHash": "0",
            "fileCount": 1,
            "createdAt": "2026-01-01T00:00:00Z",
            "updatedAt": None,
            "aliases": [],
        }
        found = {
            "id": name,
            "versionIndex": 0,
            "createdAt": "2026-01-01T00:00:00Z",
            "aliases": [],
            "artifactCollection": collection,
            "artifact": artifact,
        }
        return {"project": {"artifactCollectionMembership": found}}

    def _UseArtifact(self, asked: Any) -> Any:  # noqa: N802
        self.runs[asked["runName"]].used.append(asked["artifactID"])
        return {"useArtifact": {"artifact": {"id": asked["artifactID"]}}}

    def _place(self, *parts: str) -> str:
        return "/".join((self.url, "storage", *parts))

    @staticmethod
    def _project(asked: Any) -> dict[str, Any]:
        return {"id": "1", "name": asked["project"], "entity": {"id": "1", "name": ENTITY}}

    @staticmethod
    def _bucket(run_id: str, run: UploadedRun) -> dict[str, Any]:
        tail = [run.history[-1]] if run.history else []
        return {
            "id": run_id,
            "name": run_id,
            "displayName": run_id,
            "description": "",
            "config": json.dumps({key: {"value": value} for key, value in run.config.items()}),
            "sweepName": "",
            "summaryMetrics": json.dumps(run.summary),
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps(tail),
            "eventsTail": "[]",
            "tags": [],
            "notes": "",
            # What W&B knows a run by that was really begun.
            "wandbConfig": json.dumps({"t": run.config.get("_wandb", {}).get("t")}),
        }


@contextmanager
def wandb_server() -> Iterator[WandbServer]:
    """A server for as long as the body runs."""
    server = WandbServer()
    try:
        yield server
    finally:
        server.go_away()
