"""Data sets of the Hugging Face Hub, against a small hub of our own."""

import http.server
import io
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from paths import SUPPORT

REVISION = "0123456789abcdef" * 2 + "01234567"
ROWS = [{"text": f"row {number}", "url": f"https://example.org/{number}", "n": number} for number in range(90)]

SCRIPT = """
import json, pickle, sys
from pathlib import Path
from corpora import read_documents, run
from llmrecipe.recipe.quantity import Fraction
from llmrecipe.recipe.source import HubDataset
from llmrecipe.engines.datatrove.readers.sources import reader_of
from llmrecipe.errors import StageError
from llmrecipe.sections import PrepareSection

def prepared(source):
    section = PrepareSection(source=source, clean=(), heldout=Fraction(0.3), shards=4)
    output = run("prepare", section, Path("out").absolute()).output
    return {d["id"]: d["text"] for split in ("train", "heldout") for d in read_documents(output / "documents", split)}

def tasks(source):
    # As a worker process gets it.
    reader = pickle.dumps(reader_of(source))
    return [[document.id for document in pickle.loads(reader).run(rank=rank, world_size=4)] for rank in range(4)]

def addresses(source):
    return {document.id: document.metadata["url"] for document in reader_of(source).run()}

results = []
for what, fields in json.loads(sys.argv[1]):
    try:
        results.append(globals()[what](HubDataset(**fields)))
    except StageError as error:
        results.append(str(error))
print(json.dumps(results))
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers what `datasets` asks about one data set at one commit; everything else isn't there."""

    files: dict[str, bytes]
    """By path in the data set."""

    def log_message(self, *_):
        pass

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        name = path.removeprefix(f"/datasets/some/rows/resolve/{REVISION}/")
        if path == f"/api/datasets/some/rows/revision/{REVISION}":
            self.reply(200, json.dumps({"id": "some/rows", "sha": REVISION}).encode())
        elif path.startswith(f"/api/datasets/some/rows/tree/{REVISION}"):
            below = path.removeprefix(f"/api/datasets/some/rows/tree/{REVISION}").strip("/")
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in self.files.items()
            ]
            folders = [{"type": "directory", "path": "data", "size": 0, "oid": "0"}]
            self.reply(200, json.dumps(entries if below else folders).encode())
        elif name in self.files:
            data, wanted = self.files[name], self.headers.get("Range", "bytes=0-").removeprefix("bytes=")
            start, end = wanted.split("-")
            start, end = int(start), min(int(end or len(data)) + 1, len(data))
            place = f"bytes {start}-{end - 1}/{len(data)}"
            self.reply(206, data[start:end], Content_Range=place, ETag='"0"', X_Repo_Commit=REVISION)
        elif path.startswith("/datasets/some/rows/"):
            missing = "EntryNotFound" if REVISION in path else "RevisionNotFound"
            self.reply(404, X_Error_Code=missing, X_Repo_Commit=REVISION)
        else:
            self.reply(404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET


def parquet(rows) -> bytes:
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file.getvalue()


@pytest.fixture(scope="module")
def hub():
    """Its address; a data set of three files, of 20, 30 and 40 rows."""
    parts = [ROWS[:20], ROWS[20:50], ROWS[50:]]
    Hub.files = {f"data/train-{part:05}-of-00003.parquet": parquet(rows) for part, rows in enumerate(parts)}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def asked(folder: Path, *requests: tuple, **environment: str) -> list:
    """What a process with this environment gets, for each request."""
    (folder / "script.py").write_text(SCRIPT)
    tests = str(SUPPORT)
    done = subprocess.run(
        [sys.executable, "script.py", json.dumps(requests)],
        cwd=folder,
        env=os.environ
        | {"HF_HOME": str(folder / "home"), "PYTHONPATH": os.pathsep.join([tests, str(Path(tests).parent)])}
        | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


SOURCE = {"name": "some/rows", "revision": REVISION}


@pytest.mark.slow
def test_a_data_set_of_the_hub_is_dealt_over_the_tasks_with_stable_names(hub, tmp_path):
    # What `datasets` would read if it looked here first.
    (tmp_path / "some/rows").mkdir(parents=True)
    (tmp_path / "some/rows/train.jsonl").write_text('{"text": "from here"}\n')
    prepared, tasks, addresses, column, subset, split, commit, other = asked(
        tmp_path,
        ("prepared", SOURCE),
        ("tasks", SOURCE),
        ("addresses", SOURCE | {"url_field": "url"}),
        ("addresses", SOURCE | {"text_field": "content"}),
        ("tasks", SOURCE | {"subset": "large"}),
        ("tasks", SOURCE | {"split": "test"}),
        ("tasks", SOURCE | {"revision": "f" * 40}),
        ("tasks", SOURCE | {"name": "some/body"}),
        HF_ENDPOINT=hub,
    )
    places = [(part, number) for part, count in enumerate((20, 30, 40)) for number in range(1, count + 1)]
    names = [f"some/rows/train/{part:05}:{number}" for part, number in places]
    assert prepared == {name: row["text"] for name, row in zip(names, ROWS, strict=True)}
    assert sorted(name for task in tasks for name in task) == sorted(names)
    assert all(len(task) >= 10 for task in tasks)
    assert addresses == {name: row["url"] for name, row in zip(names, ROWS, strict=True)}
    assert column == f"{names[0]}: no 'content' here; set `text_field` to one of 'text', 'url', 'n'"
    start = f"corpus.source: 'some/rows' at commit {REVISION} can't be read from the Hugging Face Hub (ValueError: "
    assert subset.startswith(f"{start}BuilderConfig 'large' not found. Available: ['default']")
    assert split.startswith(f"{start}Bad split: test. Available splits: ['train']")
    assert f"at commit {'f' * 40} can't be read" in commit
    assert "Revision 'ffff" in commit
    assert "'some/body' doesn't exist on the Hub" in other


def test_without_a_hub_the_error_says_what_to_do_and_nothing_kept_is_taken_in_its_place(tmp_path):
    # As `datasets` keeps a data set that was loaded before, at another commit.
    kept = tmp_path / "home/datasets/some___rows/default/0.0.0/abc"
    kept.mkdir(parents=True)
    (kept / "rows-train.arrow").write_bytes(b"")
    (kept / "dataset_info.json").write_text('{"splits": {"train": {"name": "train"}}, "builder_name": "parquet"}')
    (error,) = asked(tmp_path, ("tasks", SOURCE), HF_HUB_OFFLINE="1")
    assert error.startswith(f"corpus.source: 'some/rows' at commit {REVISION} can't be read from the Hugging Face Hub")
    assert "(ConnectionError: Couldn't reach" in error
    assert "HF_HUB_OFFLINE not set" in error
    assert f"`hf download --repo-type dataset --revision {REVISION} --local-dir data/some/rows some/rows`" in error
