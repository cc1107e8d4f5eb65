import bz2
import csv
import gzip
import hashlib
import json
import logging
import lzma
import multiprocessing
import os
import platform
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from backports import zstd
from corpora import contents, read_documents, run, write_jsonl
from datatrove.pipeline.base import PipelineStep
from hypothesis import given
from hypothesis import strategies as st

from llmrecipe import artifacts, times
from llmrecipe.engines.datatrove import prepare
from llmrecipe.engines.datatrove.executors import executor
from llmrecipe.engines.datatrove.readers import python_code
from llmrecipe.engines.datatrove.readers.sources import reader_of
from llmrecipe.engines.datatrove.split import split_of
from llmrecipe.errors import StageError
from llmrecipe.recipe.cleaning import FixUnicode
from llmrecipe.recipe.deduplication import ExactDedup
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.quantity import Fraction
from llmrecipe.recipe.source import CsvFiles, JsonlFiles, ParquetFiles, PythonStdlib, TextFiles
from llmrecipe.sections import PrepareSection
from llmrecipe.stages.runner import run_stage

COMPRESS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd.compress}

TEXTS = [f"document {number}, with a text of its own" for number in range(60)]


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def section(source, clean=(), heldout=0.3, shards=2):
    heldout = Fraction(heldout) if isinstance(heldout, float) else heldout
    return PrepareSection(source=source, clean=clean, heldout=heldout, shards=shards)


def prepared(project: Path, *arguments, machine: Machine | None = None, folder: str = "out", **options):
    """Documents of both splits by id, and the metrics."""
    context = run("prepare", section(*arguments, **options), project / folder, machine=machine)
    documents = context.output / "documents"
    artifacts.open_artifact(documents, "documents")
    found = {split: {d["id"]: d["text"] for d in read_documents(documents, split)} for split in ("train", "heldout")}
    return found, json.loads((context.output / "metrics.json").read_text())


def write_csv(path: Path, rows: list[list[str]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


# What comes out


def test_every_document_lands_in_one_split_and_is_counted(project):
    write_jsonl(project / "data/a.jsonl", TEXTS)
    found, metrics = prepared(project, JsonlFiles(paths=("data/*.jsonl",)))
    everything = found["train"] | found["heldout"]
    assert everything == {f"data/a.jsonl:{number}": text for number, text in enumerate(TEXTS, 1)}
    size = sum(len(text.encode()) for text in TEXTS)
    assert metrics["read"] == {"documents": 60, "text_bytes": size}
    assert metrics["train"]["documents"] == len(found["train"]) == 60 - metrics["heldout"]["documents"]
    assert metrics["train"]["text_bytes"] + metrics["heldout"]["text_bytes"] == size


@pytest.mark.parametrize("suffix", COMPRESS)
def test_text_jsonl_and_csv_are_read_plain_and_compressed(project, suffix):
    texts = ['first "quoted", text\nof two lines: é', *TEXTS]
    (project / "data").mkdir()
    for number, text in enumerate(texts):
        (project / f"data/{number:02}.txt{suffix}").write_bytes(COMPRESS[suffix](text.encode()))
    write_csv(project / "rows", [["id", "body"], *[[str(number), text] for number, text in enumerate(texts)]])
    (project / f"data/rows.csv{suffix}").write_bytes(COMPRESS[suffix]((project / "rows").read_bytes()))
    lines = "".join(json.dumps({"body": text, "other": 1}) + "\n" for text in texts)
    (project / f"data/lines.jsonl{suffix}").write_bytes(COMPRESS[suffix](lines.encode()))
    for number, source in enumerate(
        (
            TextFiles(paths=(f"data/*.txt{suffix}",)),
            CsvFiles(paths=(f"data/*.csv{suffix}",), text_field="body"),
            JsonlFiles(paths=(f"data/*.jsonl{suffix}",), text_field="body"),
        )
    ):
        found, _ = prepared(project, source, folder=f"out{number}")
        assert sorted((found["train"] | found["heldout"]).values()) == sorted(texts)


def test_parquet_is_read_with_its_nulls_as_empty_documents(project):
    pyarrow.parquet.write_table(pyarrow.table({"n": range(61), "text": [*TEXTS, None]}), "a.parquet")
    found, metrics = prepared(project, ParquetFiles(paths=("*.parquet",)))
    assert sorted((found["train"] | found["heldout"]).values()) == sorted(TEXTS)
    assert metrics["dropped"] == {"empty": 1}


def test_a_text_longer_than_csvs_own_limit_is_read_whole(project):
    write_csv(project / "a.csv", [["text"], ["long " * 100_000], *[[text] for text in TEXTS]])
    found, _ = prepared(project, CsvFiles(paths=("a.csv",)))
    assert "long " * 100_000 in (found["train"] | found["heldout"]).values()


def test_a_byte_order_mark_is_no_part_of_the_text(project):
    for number, text in enumerate(TEXTS):
        (project / f"{number}.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    found, _ = prepared(project, TextFiles(paths=("*.txt",)))
    assert sorted((found["train"] | found["heldout"]).values()) == sorted(TEXTS)


def test_a_source_may_lie_outside_the_project(project, monkeypatch):
    write_jsonl(project / "data/a.jsonl", TEXTS)
    (project / "inner").mkdir()
    monkeypatch.chdir(project / "inner")
    for number, path in enumerate(("../data/*.jsonl", str(project / "data/*.jsonl"))):
        found, _ = prepared(project, JsonlFiles(paths=(path,)), folder=f"out{number}")
        assert sorted((found["train"] | found["heldout"]).values()) == sorted(TEXTS)


def test_documents_keep_the_order_of_their_files(project):
    for number, text in enumerate(TEXTS):
        write_jsonl(project / f"data/{number:02}.jsonl", [text])
    found, _ = prepared(project, JsonlFiles(paths=("data/*.jsonl",)), shards=4)
    for split in found.values():
        assert list(split) == sorted(split)


def test_one_large_file_is_spread_evenly_over_the_shards(project):
    write_jsonl(project / "a.jsonl", TEXTS)
    context = run("prepare", section(JsonlFiles(paths=("a.jsonl",)), shards=5), project / "out")
    for shard in range(5):
        files = (context.output / "documents").rglob(f"{shard:05}.jsonl.zst")
        assert sum(len(zstd.decompress(path.read_bytes()).splitlines()) for path in files) == 12


# Cleaning and splitting


def test_of_equal_texts_the_first_stays(project):
    write_jsonl(project / "data/a.jsonl", ["other", "twin", *TEXTS])
    write_jsonl(project / "data/b.jsonl", ["twin", *TEXTS[:30], "twin"])
    source = JsonlFiles(paths=("data/*.jsonl",))
    found, metrics = prepared(project, source, clean=(ExactDedup(),))
    everything = found["train"] | found["heldout"]
    assert sorted(everything.values()) == sorted({"other", "twin", *TEXTS})
    assert all(name.startswith("data/a.jsonl") for name in everything)
    assert metrics["dropped"] == {"empty": 0, "exact_dedup": 32}


def test_cleaners_run_in_their_order(project):
    write_jsonl(project / "a.jsonl", ["schÃ¶n", "schön", *TEXTS])
    source = JsonlFiles(paths=("a.jsonl",))
    repaired, metrics = prepared(project, source, clean=(FixUnicode(), ExactDedup()), folder="repaired")
    assert metrics["dropped"]["exact_dedup"] == 1
    assert list((repaired["train"] | repaired["heldout"]).values()).count("schön") == 1
    late, metrics = prepared(project, source, clean=(ExactDedup(), FixUnicode()), folder="late")
    assert metrics["dropped"]["exact_dedup"] == 0
    assert list((late["train"] | late["heldout"]).values()).count("schön") == 2


def test_what_a_cleaner_empties_counts_as_dropped_by_it(project):
    write_jsonl(project / "a.jsonl", ["", " \n", "\x00\x01", *TEXTS])
    _, metrics = prepared(project, JsonlFiles(paths=("a.jsonl",)), clean=(FixUnicode(),))
    assert metrics["dropped"] == {"empty": 2, "fix_unicode": 1}


@pytest.mark.parametrize("line", [b'{"text": "cut sho\n', b'{"text": "", "id": "a"}\n', b"\xff\n"])
def test_documents_that_cannot_be_read_back_between_two_passes_are_missed(project, monkeypatch, line):
    write_jsonl(project / "a.jsonl", TEXTS)
    run_pass = executor.run

    def damaging(what, steps, *, tasks, machine, work):
        totals = run_pass(what, steps, tasks=tasks, machine=machine, work=work)
        if what == "reading":
            file = work / "documents/00001.jsonl"
            file.write_bytes(line + b"".join(file.read_bytes().splitlines(keepends=True)[1:]))
        return totals

    monkeypatch.setattr(executor, "run", damaging)
    with pytest.raises(StageError, match=r"documents are left where the cleaners left 60: .* damaged on the disk"):
        prepared(project, JsonlFiles(paths=("a.jsonl",)), clean=(ExactDedup(),))


@given(st.text(), st.floats(0, 0.5), st.floats(0, 0.5))
def test_a_text_has_one_split_and_a_larger_fraction_only_adds(text, smaller, larger):
    smaller, larger = sorted((smaller, larger))
    assert split_of(text, smaller) == split_of(str(text), smaller)
    if split_of(text, smaller) == "heldout":
        assert split_of(text, larger) == "heldout"


@given(st.lists(st.sampled_from(TEXTS), min_size=1))
def test_duplicates_never_part(texts):
    split = {}
    for text in texts:
        assert split.setdefault(text, split_of(text, 0.5)) == split_of(text, 0.5)


def test_the_split_is_the_texts_sha256_against_the_fraction():
    for text in TEXTS:
        share = int(hashlib.sha256(text.encode()).hexdigest(), 16) / 2**256
        assert split_of(text, 0.3) == ("heldout" if share < 0.3 else "train")
    share = sum(split_of(f"text {number}", 0.1) == "heldout" for number in range(10_000)) / 10_000
    assert abs(share - 0.1) < 0.01


# Determinism


@pytest.mark.slow
def test_the_same_bytes_for_one_worker_or_two_in_any_folder(tmp_path, monkeypatch):
    outputs = []
    for name, workers in (("here", 1), ("there/deeper", 2)):
        project = tmp_path / name
        for number in range(7):
            write_jsonl(project / f"data/{number}.jsonl", TEXTS[number * 5 : number * 5 + 15])
        monkeypatch.chdir(project)
        arguments = section(JsonlFiles(paths=("data/*.jsonl",)), clean=(FixUnicode(), ExactDedup()), shards=3)
        context = run("prepare", arguments, project / "out", machine=Machine(workers=workers))
        outputs.append(contents(context.output))
        assert not context.scratch.exists()
    assert outputs[0] == outputs[1]
    assert {"metrics.json", "documents/manifest.json", "documents/card.json"} < set(outputs[0])


# The standard library


def test_the_standard_library_is_hand_written_modules_only():
    files = python_code.standard_library()
    names = list(files)
    assert names == sorted(names)
    assert {"json/decoder.py", "argparse.py", "asyncio/tasks.py", "encodings/utf_8.py"} <= set(names)
    for name, path in files.items():
        assert not {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"} & set(
            Path(name).parts
        )
        text = path.read_text(encoding="utf-8")
        assert "gencodec.py" not in text[:500]
        assert "decoding_table = (" not in text
    assert not {"pydoc_data/topics.py", "html/entities.py", "stringprep.py", "token.py", "keyword.py"} & set(names)
    assert 8e6 < sum(path.stat().st_size for path in files.values()) < 13e6


def test_what_a_distribution_adds_to_the_standard_library_is_left_out(tmp_path):
    for name in (
        "json/decoder.py",
        "site-packages/numpy/core.py",
        "dist-packages/apt/cache.py",
        "sitecustomize.py",
        "_distutils_system_mod.py",
        "_sysconfigdata__x86_64-linux-gnu.py",
        "config-3.11-x86_64-linux-gnu/python-config.py",
        "unittest/test/test_case.py",
        "test/test_json.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("pass\n")
    assert list(python_code.standard_library(tmp_path)) == ["json/decoder.py"]


def test_the_standard_library_becomes_a_corpus(project, capfd):
    arguments = {"clean": (FixUnicode(), ExactDedup()), "heldout": 0.02, "shards": 4}
    found, metrics = prepared(project, PythonStdlib(), **arguments)
    assert "def " in found["train"]["argparse.py"] + found["heldout"].get("argparse.py", "")
    assert metrics["train"]["text_bytes"] > 50 * metrics["heldout"]["text_bytes"] > 0
    assert capfd.readouterr() == ("", "")


def test_the_standard_library_of_another_python_is_refused_with_the_remedy(project):
    with pytest.raises(
        StageError, match=rf"^corpus\.source\.version: .* Python 3\.4\.0 .* {platform.python_version()}"
    ):
        run("prepare", section(PythonStdlib(version="3.4.0")), project / "out")
    with pytest.raises(StageError, match="run `llmrecipe plan`"):
        run("prepare", section(TextFiles(paths=("*",)), heldout=PythonStdlib(version="3.4.0")), project / "held")


def test_the_standard_library_of_the_running_python_may_be_named():
    named, unnamed = (reader_of(PythonStdlib(version=version)) for version in (platform.python_version(), None))
    assert named.sizes == unnamed.sizes


# Bad input


def bad(name, data, source, reason):
    return pytest.param(name, data, source, reason, id=reason)


@pytest.mark.parametrize(
    ("name", "data", "source", "reason"),
    [
        bad("a.txt", b"x", TextFiles(paths=("*.txt", "*.text")), r"^\*\.text: no file matches this pattern"),
        bad("a.txt", b"", TextFiles(paths=("*.txt",)), r"^a\.txt: empty, and so is every other file"),
        bad(
            "a.txt",
            b" \n",
            TextFiles(paths=("*.txt",)),
            r"^corpus\.source: the corpus is empty: none of its 1 documents",
        ),
        bad("a.txt", b"caf\xe9", TextFiles(paths=("*.txt",)), r"^a\.txt:1: not UTF-8: byte 0xe9 at offset 3"),
        bad("a.zip", b"PK", TextFiles(paths=("*",)), r"^a\.zip: '\.zip' is not a text file; unpack it"),
        bad("a.tar.gz", b"x", TextFiles(paths=("*",)), r"^a\.tar\.gz: '\.tar' is not a text file"),
        bad("a.txt", b"x", JsonlFiles(paths=("*",)), r"^a\.txt: a JSON lines file ends in \.jsonl or \.ndjson"),
        bad("a.txt", b"x", CsvFiles(paths=("*",)), r"^a\.txt: a CSV file ends in \.csv or \.tsv or \.tab"),
        bad("a.parquet.gz", b"x", ParquetFiles(paths=("*",)), r"^a\.parquet\.gz: a Parquet file ends in \.parquet"),
        bad("a.jsonl", b"", JsonlFiles(paths=("*",)), r"^a\.jsonl: empty \(0 bytes\)"),
        bad("a.jsonl", b'{"text": "x"}\n{"text": ', JsonlFiles(paths=("*",)), r"^a\.jsonl:2: not JSON"),
        bad("a.jsonl", b"[1]\n", JsonlFiles(paths=("*",)), r"^a\.jsonl:1: not an object \(list\); .*jq"),
        bad("a.jsonl", b'{"text": 3}', JsonlFiles(paths=("*",)), r"^a\.jsonl:1: 'text' holds int, not text"),
        bad("a.jsonl", b'{"body": "x", "n": 1}', JsonlFiles(paths=("*",)), r"no 'text' here; .* one of 'body', 'n'"),
        bad(
            "a.jsonl", b'{"text": "\xff"}', JsonlFiles(paths=("*",)), r"^a\.jsonl:1: not UTF-8: byte 0xff at offset 10"
        ),
        bad(
            "a.jsonl.gz", gzip.compress(b'{"text": "x"}\n' * 9)[:-9], JsonlFiles(paths=("*",)), r"^a\.jsonl\.gz: .*cut"
        ),
        bad("a.csv", b"body,n\nx,1\n", CsvFiles(paths=("*",)), r"^a\.csv: no 'text' here; .* one of 'body', 'n'"),
        bad("a.csv", b"text,n\nx,1\nx,y,2\n", CsvFiles(paths=("*",)), r"^a\.csv:3: 3 columns under a header of 2"),
        bad("a.csv", b'text\n"x\n', CsvFiles(paths=("*",)), r"^a\.csv:2: not CSV"),
        bad("a.parquet", b"PAR1 no", ParquetFiles(paths=("*",)), r"^a\.parquet: can't be read as a Parquet file"),
        bad("a.parquet", b"", ParquetFiles(paths=("*",)), r"^a\.parquet: empty \(0 bytes\)"),
        *[
            bad(f"a.txt{suffix}", COMPRESS[suffix](os.urandom(999))[:500], TextFiles(paths=("*",)), reason)
            for suffix, reason in [
                (suffix, rf"^a\.txt\{suffix}: can't be read as a text file .*cut short")
                for suffix in list(COMPRESS)[1:]
            ]
        ],
    ],
)
def test_bad_input_is_named_with_its_file(project, name, data, source, reason):
    (project / "data").mkdir()
    os.chdir(project / "data")
    Path(name).write_bytes(data)
    with pytest.raises(StageError, match=reason):
        run("prepare", section(source), project / "out")


@pytest.mark.parametrize("kind", [TextFiles, JsonlFiles, CsvFiles, ParquetFiles])
def test_a_huge_document_with_an_endless_line_is_read_whole_in_a_few_times_its_size(project, kind):
    megabytes = 15
    texts = ["a line\n" * 500_000 + "words without end " * (megabytes * 10**6 // 18), *TEXTS]
    if kind is TextFiles:
        for number, text in enumerate(texts):
            (project / f"{number}.text").write_text(text)
    elif kind is JsonlFiles:
        write_jsonl(project / "a.jsonl", texts)
    elif kind is CsvFiles:
        write_csv(project / "a.csv", [["text"], *[[text] for text in texts]])
    else:
        pyarrow.parquet.write_table(pyarrow.table({"text": texts}), "a.parquet")
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    found, _ = prepared(project, kind(paths=("*.text" if kind is TextFiles else "a.*",)))
    assert memory("VmHWM") - before < 10 * megabytes
    assert sorted((found["train"] | found["heldout"]).values()) == sorted(texts)


def memory(what: str) -> float:
    """Of this process, in megabytes; writing 5 to its `clear_refs` resets the peak, `VmHWM`."""
    return int(re.search(rf"{what}:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1e3


def test_a_parquet_without_the_text_column_lists_those_there_are(project):
    pyarrow.parquet.write_table(pyarrow.table({"body": TEXTS, "n": range(60)}), "a.parquet")
    with pytest.raises(StageError, match=r"^a\.parquet: no 'text' here; set `text_field` to one of 'body', 'n'"):
        run("prepare", section(ParquetFiles(paths=("*.parquet",))), project / "out")


def test_another_bit_in_a_text_of_a_parquet_with_page_checksums_is_an_error(project):
    table = pyarrow.table({"text": TEXTS})
    options = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    pyarrow.parquet.write_table(table, "a.parquet", **options)
    data = bytearray(Path("a.parquet").read_bytes())
    data[data.index(TEXTS[30].encode())] ^= 1
    Path("a.parquet").write_bytes(data)
    with pytest.raises(StageError, match=r"^a\.parquet: can't be read as a Parquet file"):
        run("prepare", section(ParquetFiles(paths=("*.parquet",))), project / "out")


def test_a_parquet_damaged_in_its_middle_is_an_error(project):
    pyarrow.parquet.write_table(pyarrow.table({"text": [f"{n}" * 99 for n in range(9999)]}), "a.parquet")
    data = bytearray(Path("a.parquet").read_bytes())
    data[4:4000] = os.urandom(3996)
    Path("a.parquet").write_bytes(data)
    with pytest.raises(StageError, match=r"^a\.parquet: can't be read as a Parquet file"):
        run("prepare", section(ParquetFiles(paths=("*.parquet",))), project / "out")


@pytest.mark.parametrize(("fraction", "split", "change"), [(0.0, "heldout", "raise"), (0.5, "train", "lower")])
def test_an_empty_split_is_an_error(project, fraction, split, change):
    other = {"heldout": "train", "train": "heldout"}[split]
    write_jsonl(project / "a.jsonl", [text for text in TEXTS if split_of(text, fraction) == other][:5])
    with pytest.raises(StageError, match=rf"the {split} split is empty: 5 of 5 documents .*; {change} it"):
        run("prepare", section(JsonlFiles(paths=("a.jsonl",)), heldout=fraction), project / "out")


def test_a_corpus_that_cleaning_empties_is_an_error_with_the_funnel(project):
    write_jsonl(project / "a.jsonl", ["", "\x00", "\x01"])
    clean = (FixUnicode(), ExactDedup())
    with pytest.raises(StageError, match=r"^corpus\.clean\[0\]: .* fix_unicode left none of 2 documents") as error:
        run("prepare", section(JsonlFiles(paths=("a.jsonl",)), clean=clean), project / "out")
    rows = {line.split()[0]: line.split()[1:] for line in str(error.value).splitlines()[2:]}
    assert rows["read"] == ["3", "0.00"]
    assert (rows["empty"][0], rows["empty"][-2]) == ("1", "2")
    assert (rows["fix_unicode"][0], rows["fix_unicode"][-2]) == ("2", "0")


# Workers


def test_an_error_in_a_worker_process_keeps_its_reason(project):
    for number in range(4):
        write_jsonl(project / f"{number}.jsonl", TEXTS)
    (project / "2.jsonl").write_text("no json\n" * 300)
    with pytest.raises(StageError, match=r"^2\.jsonl:1: not JSON"):
        run(
            "prepare",
            section(JsonlFiles(paths=("*.jsonl",)), shards=4),
            project / "out",
            machine=Machine(workers=2),
        )


class Killed(PipelineStep):
    """Ends as a process does when memory runs out."""

    def run(self, data=None, rank=0, world_size=1):
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield from ()


def test_a_killed_worker_is_an_error_and_no_wait(tmp_path):
    with pytest.raises(StageError, match=r"a worker process was killed.*lower the machine's `workers`"):
        executor.run("killing", [("kill", Killed())], tasks=2, machine=Machine(workers=2), work=tmp_path)
    assert multiprocessing.active_children() == []


SLEEP = """
import sys, time
from datatrove.pipeline.base import PipelineStep
from llmrecipe.engines.datatrove.executors import executor
from llmrecipe.recipe.machine import Machine
from pathlib import Path

class Sleep(PipelineStep):
    def run(self, data=None, rank=0, world_size=1):
        import os
        Path(sys.argv[1], str(os.getpid())).touch()
        time.sleep(600)
        yield from ()

if __name__ == "__main__":
    work = Path(sys.argv[1], "work")
    executor.run("sleeping", [("sleep", Sleep())], tasks=2, machine=Machine(workers=2), work=work)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_stage(tmp_path, number):
    script, pids = tmp_path / "sleep.py", tmp_path / "pids"
    pids.mkdir()
    script.write_text(SLEEP)
    # A shell that runs the tests in the background would have it ignore Ctrl-C.
    restore = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    command = [sys.executable, script, pids]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, process_group=0, preexec_fn=restore) as stage:
        wait_until(lambda: len([path for path in pids.iterdir() if path.name.isdigit()]) == 2)
        if number == signal.SIGINT:
            os.killpg(stage.pid, number)
        else:
            stage.send_signal(number)
        error = stage.communicate(timeout=30)[1]
    assert stage.returncode == -number
    assert ("KeyboardInterrupt" in error) == (number == signal.SIGINT)
    assert "memory" not in error
    workers = [int(path.name) for path in pids.iterdir() if path.name.isdigit()]
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def wait_until(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# As a stage


def write_params(project: Path, log_level: str = "info", workers: int = 1) -> None:
    data = {
        "c-prepare": {
            "type": "prepare",
            "inputs": {"source": "data"},
            "source": {"type": "jsonl_files", "paths": ["data/*.jsonl"], "text_field": "text"},
            "clean": [{"type": "exact_dedup"}],
            "heldout": {"type": "fraction", "of_total": 0.3},
            "shards": 2,
            "revision": 1,
        },
        "machine": {"default": {"workers": workers, "log_level": log_level}},
    }
    (project / "params.yaml").write_text(yaml.safe_dump(data))


def run_prepare() -> Path:
    run_stage("prepare", name="c-prepare", output=Path("prepare"))
    return Path("prepare")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_modules_of_the_project_take_no_library_of_a_stages_processes(project, tmp_path_factory, workers):
    write_params(project, workers=workers)
    write_jsonl(project / "data/a.jsonl", TEXTS)
    for name in ("signal", "random", "json", "tokenize", "selectors", "numpy", "datatrove"):
        (project / f"{name}.py").write_text(f"raise SystemExit('the project has a {name} of its own')\n")
    # As pip writes it: the folder of the script is where Python looks first.
    script = tmp_path_factory.mktemp("bin") / "llmrecipe"
    script.write_text(
        "import sys\nfrom llmrecipe.cli.main import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
    )
    command = [sys.executable, str(script), "stage", "prepare", "--name", "c-prepare", "--output", "prepare"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert not list(project.rglob("__pycache__"))


def test_the_stage_leaves_its_outputs_or_nothing(project):
    write_params(project)
    write_jsonl(project / "data/a.jsonl", [*TEXTS, TEXTS[0]])
    output = run_prepare()
    assert {path.name for path in output.iterdir()} == {"documents", "dropped.jsonl", "metrics.json"}
    measured = times.read("c-prepare", output)
    assert measured["megabytes_per_second"] > 0
    (project / "data/b.jsonl").write_text("broken")
    before = contents(output)
    with pytest.raises(StageError, match=r"^data/b\.jsonl:1: not JSON"):
        run_prepare()
    assert contents(output) == before
    assert not list(project.glob(".prepare*"))


def test_a_second_writer_is_refused_while_the_stage_works(project, monkeypatch):
    write_params(project)
    write_jsonl(project / "data/a.jsonl", TEXTS)
    real, second = prepare.prepare, []

    def prepare_beside_another(*arguments):
        with pytest.raises(StageError, match=f"process {os.getpid()} is running c-prepare") as refused:
            run_prepare()
        second.append(refused)
        return real(*arguments)

    monkeypatch.setattr(prepare, "prepare", prepare_beside_another)
    assert (run_prepare() / "metrics.json").exists()
    assert len(second) == 1


def test_datatroves_own_log_shows_at_level_debug_only(project, capfd, caplog):
    write_jsonl(project / "data/a.jsonl", TEXTS)
    write_params(project)
    with caplog.at_level(logging.INFO):
        run_prepare()
    assert capfd.readouterr() == ("", "")
    assert f"reading: {len(TEXTS)} documents, 100 %, " in caplog.text
    write_params(project, log_level="debug")
    run_prepare()
    assert "Reading input file" in capfd.readouterr().err
