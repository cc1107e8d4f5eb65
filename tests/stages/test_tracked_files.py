"""Files that DVC tracks as the text of a corpus, with real DVC."""

import http.server
import json
import subprocess
import threading
from functools import partial
from pathlib import Path

import pytest
from corpora import read_documents, write_jsonl
from dvc_project import create, environment, repro, run
from tiny_recipe import BASE, RECIPE

from llmrecipe import Corpus, Fraction, evolve, source

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path):
    """A web server: its folder and its address."""
    folder = tmp_path / "server"
    folder.mkdir()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def prepared(project: Path) -> set[str]:
    documents = project / "artifacts/lines/prepare/documents"
    return {document["id"] for split in ("train", "heldout") for document in read_documents(documents, split)}


def test_added_and_imported_files_are_inputs_that_rerun_when_they_change_and_only_then(tmp_path, server):
    folder, address = server
    corpus = Corpus(name="lines", source=source.JsonlFiles(paths=("data/*.jsonl",)), heldout=Fraction(0.3))
    project = create(tmp_path / "project", evolve(RECIPE, models=(evolve(BASE, text=corpus),)))
    write_jsonl(project / "data/x.jsonl", [f"number {number}" for number in range(40)])
    write_jsonl(folder / "y.jsonl", [f"imported {number}" for number in range(20)])
    run(project, "dvc", "add", "--quiet", "data/x.jsonl")
    run(project, "dvc", "import-url", "--quiet", f"{address}/y.jsonl", "data/")
    (project / "data/.gitignore").write_text("*.tmp\n")

    assert repro(project, "repro", "lines-prepare") == ["lines-prepare"]
    assert len(prepared(project)) == 60
    write_jsonl(folder / "y.jsonl", [f"imported {number}" for number in range(30)])
    assert repro(project, "repro", "lines-prepare") == []
    run(project, "dvc", "update", "--quiet", "data/y.jsonl.dvc")
    (project / "data/x.jsonl").unlink()
    write_jsonl(project / "data/x.jsonl", [f"number {number}" for number in range(50)])
    assert repro(project, "repro", "lines-prepare") == ["lines-prepare"]
    assert len(prepared(project)) == 80
    assert json.loads(run(project, "dvc", "status", "--json", "lines-prepare")) == {}

    for name in ("x", "y"):
        (project / f"data/{name}.jsonl").unlink()
    command = ["llmrecipe", "stage", "prepare", "--name", "lines-prepare", "--params", "params/lines.yaml"]
    command += ["--output", "out"]
    failed = subprocess.run(command, cwd=project, env=environment(project), capture_output=True, text=True)
    assert "data/x.jsonl.dvc says that DVC keeps it; `dvc pull` brings it" in failed.stderr
    run(project, "dvc", "checkout", "--quiet", "data/x.jsonl", "data/y.jsonl")
    assert repro(project, "repro", "lines-prepare") == []
