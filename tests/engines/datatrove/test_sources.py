"""Sources beside plain files: web archives, URLs, installed packages."""

import gzip
import http.server
import importlib.metadata
import io
import json
import os
import pickle
import re
import socket
import threading
from functools import partial
from pathlib import Path

import attrs
import brotli
import pyarrow
import pyarrow.parquet
import pytest
from corpora import read_documents, run, write_jsonl
from strategies import small
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from llmrecipe import origins, preflight
from llmrecipe.engines.datatrove.readers.sources import reader_of
from llmrecipe.errors import StageError
from llmrecipe.plan.planner import plan
from llmrecipe.recipe.quantity import Fraction
from llmrecipe.recipe.source import CsvFiles, HubDataset, JsonlFiles, ParquetFiles, PythonPackages, TextFiles, WarcFiles
from llmrecipe.sections import PrepareSection

TEXTS = [f"document {number}, with a text of its own" for number in range(40)]


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    return project


def prepared(source, folder="out"):
    """The documents of both splits by id."""
    section = PrepareSection(source=source, clean=(), heldout=Fraction(0.3), shards=2)
    context = run("prepare", section, Path(folder).absolute())
    documents = context.output / "documents"
    return {d["id"]: d["text"] for split in ("train", "heldout") for d in read_documents(documents, split)}


def addresses(source):
    """By document, the address in its metadata."""
    return {document.id: document.metadata["url"] for document in reader_of(source).run()}


def found(source):
    recipe = small(text__source=source)
    return {violation.path: violation.reason for violation in preflight.violations(recipe, Path())}


# Web archives

PARAGRAPHS = (
    "The harbour was built in the year of the great storm, and it has kept the boats of the village safe ever since.",
    "Every morning the fishermen mend their nets on the quay, and in the evening they tell each other what they saw.",
)


def page(number: int, charset: str = "") -> str:
    """A page with a menu, two paragraphs that name their number, and a footer."""
    meta = f'<meta charset="{charset}">' if charset else ""
    menu = "".join(f'<li><a href="/{word}">{word}</a></li>' for word in ("Home", "About", "Imprint"))
    text = "".join(f"<p>{paragraph} This is page {number}, für alle.</p>" for paragraph in PARAGRAPHS)
    return (
        f"<!doctype html><html><head>{meta}<title>Page</title></head><body><nav><ul>{menu}</ul></nav>"
        f"<article><h1>The harbour</h1>{text}</article><footer>Copyright of nobody</footer></body></html>"
    )


def archive(path: str, pages, compressed=True, kind="response", headers=()) -> Path:
    """A web archive of (content type, body), each with the request for it."""
    with open(path, "wb") as file:
        writer = WARCWriter(file, gzip=compressed)
        for number, (content_type, body) in enumerate(pages):
            url = f"https://example.org/{number}"
            if kind == "response":
                http = StatusAndHeaders("200 OK", [("Content-Type", content_type), *headers], protocol="HTTP/1.1")
                writer.write_record(
                    writer.create_warc_record(url, "request", payload=io.BytesIO(b"GET / HTTP/1.1\r\n\r\n"))
                )
                record = writer.create_warc_record(url, "response", payload=io.BytesIO(body), http_headers=http)
            else:
                record = writer.create_warc_record(url, kind, payload=io.BytesIO(body), warc_content_type=content_type)
            writer.write_record(record)
    return Path(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_page_of_a_web_archive_is_a_document_of_its_main_text_with_its_address(compressed):
    pages = [("text/html; charset=utf-8", page(number).encode()) for number in range(20)]
    pages.insert(3, ("image/png", b"\x89PNG"))
    archive("a.warc.gz" if compressed else "a.warc", pages, compressed)
    source = WarcFiles(paths=("a.warc*",))
    documents = prepared(source)
    assert len(documents) == 20
    for text in documents.values():
        assert all(paragraph in text for paragraph in PARAGRAPHS)
        assert "für alle" in text
        assert not {"Imprint", "Copyright", "<p>"} & set(text.replace("\n", " ").split(" "))
    assert sorted(addresses(source).values()) == sorted(f"https://example.org/{n}" for n in range(21) if n != 3)


@pytest.mark.parametrize(
    ("content_type", "charset", "encoding"),
    [("text/html", "", "utf-8"), ("text/html; charset=iso-8859-15", "", "latin-1"), ("text/html", "cp1252", "cp1252")],
)
def test_a_page_is_read_in_the_encoding_that_it_declares(content_type, charset, encoding):
    archive("a.warc.gz", [(content_type, page(n, charset).encode(encoding)) for n in range(20)])
    assert all("für alle" in text for text in prepared(WarcFiles(paths=("*.warc.gz",))).values())


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("br", brotli.compress)])
def test_a_page_is_read_as_its_server_compressed_it(encoding, compress):
    headers = [("Content-Encoding", encoding), ("Transfer-Encoding", "chunked")]
    body = compress(page(1).encode())
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    archive("a.warc.gz", [("text/html", chunked)], headers=headers)
    (document,) = reader_of(WarcFiles(paths=("a.warc.gz",))).run()
    assert PARAGRAPHS[1] in document.text
    archive("a.warc.gz", [("text/html", body)], headers=[("Content-Encoding", "zstd")])
    with pytest.raises(StageError, match=r"^a\.warc\.gz:2: a page compressed by 'zstd'"):
        list(reader_of(WarcFiles(paths=("a.warc.gz",))).run())


def test_broken_bytes_in_a_page_cost_it_those_characters_only():
    body = page(1).encode().replace("ü".encode(), b"\xff")
    archive("a.warc.gz", [("text/html; charset=utf-8", body)] * 20)
    document = next(iter(reader_of(WarcFiles(paths=("*.warc.gz",))).run()))
    assert "f\N{REPLACEMENT CHARACTER}r alle" in document.text


def test_a_pages_text_depends_on_no_other_page():
    once, often = archive("once.warc.gz", [("text/html", page(7).encode())]), "often.warc.gz"
    archive(often, [("text/html", page(7).encode())] * 9)
    (alone,) = reader_of(WarcFiles(paths=(once.name,))).run()
    assert {document.text for document in reader_of(WarcFiles(paths=(often,))).run()} == {alone.text}


def test_the_extracted_text_of_a_crawl_is_taken_as_it_is():
    archive(
        "a.warc.wet.gz",
        [("text/plain", f"plain text {n}, <b>für alle</b>".encode()) for n in range(20)],
        kind="conversion",
    )
    documents = prepared(WarcFiles(paths=("*.warc.wet.gz",)))
    assert sorted(documents.values()) == sorted(f"plain text {n}, <b>für alle</b>" for n in range(20))


@pytest.mark.parametrize("compressed", [False, True])
def test_a_web_archive_that_is_cut_short_is_an_error(compressed):
    path = archive("a.warc.gz" if compressed else "a.warc", [("text/html", page(1).encode())] * 3, compressed)
    whole = path.read_bytes()
    # Between two records nothing tells that there were more.
    begin = whole[:10] if compressed else b"WARC/1.0\r\n"
    records = [match.start() for match in re.finditer(re.escape(begin), whole)]
    assert len(records) == 6
    last = records[-1]
    header = len(whole) if compressed else whole.index(b"\r\n\r\n", last) + 4
    for cut in (len(whole) - 100, last + 30, last - 30, records[2] + 20, records[3] + 400, header):
        if cut in (*records, len(whole)):
            continue
        path.write_bytes(whole[:cut])
        with pytest.raises(StageError, match=r"^a\.warc.*: can't be read as a web archive .*cut short"):
            list(reader_of(WarcFiles(paths=(path.name,))).run())


def test_a_file_of_another_kind_is_no_web_archive():
    Path("a.warc").write_text("no archive\n" * 99)
    with pytest.raises(StageError, match=r"^a\.warc: can't be read as a web archive"):
        list(reader_of(WarcFiles(paths=("a.warc",))).run())


# URLs


@pytest.fixture
def server(tmp_path):
    """A web server: its folder and its address; it cuts off what is named so."""
    folder = tmp_path / "server"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def copyfile(self, source, output):
            whole = source.read()
            output.write(whole[: len(whole) // 2] if "cut_off" in self.path else whole)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def lines(texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def test_files_behind_urls_are_read_like_any_others_and_named_by_their_urls(server):
    folder, address = server
    (folder / "a.jsonl").write_bytes(lines(TEXTS))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines(TEXTS[:9])))
    (folder / "c.csv").write_bytes(b"text\n")
    write_jsonl(Path("here.jsonl"), TEXTS[:5])
    source = JsonlFiles(paths=(f"{address}/*.jsonl*", "here.jsonl"))
    documents = prepared(source)
    assert documents == {
        **{f"{address}/a.jsonl:{number}": text for number, text in enumerate(TEXTS, 1)},
        **{f"{address}/b.jsonl.gz:{number}": text for number, text in enumerate(TEXTS[:9], 1)},
        **{f"here.jsonl:{number}": text for number, text in enumerate(TEXTS[:5], 1)},
    }
    # As a worker process gets it.
    reader = pickle.dumps(reader_of(source))
    dealt = [document.id for rank in range(4) for document in pickle.loads(reader).run(rank=rank, world_size=4)]
    assert sorted(dealt) == sorted(documents)
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), folder / "t.parquet")
    archive(str(folder / "pages.warc.gz"), [("text/html", page(1).encode())])
    assert len(list(reader_of(WarcFiles(paths=(f"{address}/pages.warc.gz",))).run())) == 1
    tables = ParquetFiles(paths=(f"{address}/t.parquet?download=true",))
    assert sorted(prepared(tables, "tables").values()) == sorted(TEXTS)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none.jsonl", "none.jsonl: can't be read (ClientResponseError: 404"),
        ("none*.jsonl", "none*.jsonl: no file there matches this pattern"),
        ("page.html", "page.html: a JSON lines file ends in .jsonl or"),
        ("short.jsonl.gz", "short.jsonl.gz: can't be read as a JSON lines file (Compressed file ended before"),
        ("cut_off.jsonl", "cut_off.jsonl: can't be read (ContentLengthError"),
    ],
)
def test_a_url_that_can_not_be_read_is_named_with_the_reason(server, name, reason):
    folder, address = server
    (folder / "short.jsonl.gz").write_bytes(gzip.compress(lines(TEXTS))[:-20])
    (folder / "cut_off.jsonl").write_bytes(lines(TEXTS))
    (folder / "page.html").write_text("<p>")
    with pytest.raises(StageError) as refused:
        prepared(JsonlFiles(paths=(f"{address}/{name}",)))
    assert str(refused.value).startswith(f"{address}/{reason}")


def test_a_server_that_does_not_answer_is_an_error_with_a_way_out():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.jsonl"
    with pytest.raises(StageError, match=rf"^{url}: can't be read \(ConnectionRefused.*`dvc import-url {url} data/`"):
        prepared(JsonlFiles(paths=(url,)))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://bucket/*.jsonl", "needs the Python package s3fs, which is not installed; `pip install s3fs`"),
        ("gs://bucket/a.jsonl", "needs the Python package gcsfs"),
        ("htps://host/a.jsonl", "has a protocol that fsspec doesn't know; did you mean 'https'?"),
        ("zip://a.jsonl::https://host/a.zip", "chains protocols with '::'"),
        ("file:///etc/passwd", "leads out of the project"),
        ("local:///etc/passwd", "leads out of the project"),
        ("file://data/../../a.jsonl", "leads out of the project"),
    ],
)
def test_a_url_that_can_not_work_here_is_refused_before_and_in_the_stage(monkeypatch, url, reason):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("s3fs", "gcsfs") else name)
    source = JsonlFiles(paths=(url,))
    assert reason in found(source)["small.models[0].text.source.paths[0]"]
    with pytest.raises(StageError, match=reason.split("'")[0].split("?")[0]):
        reader_of(source)


def test_dvc_watches_files_and_no_urls():
    source = JsonlFiles(paths=("https://host/a.jsonl", "data/a.jsonl", "data/web/*.jsonl"))
    (prepare, *_) = plan([small(text__source=source)]).stages
    assert prepare.inputs == {"source0": "data/a.jsonl", "source1": "data/web"}


# Addresses of pages


def test_a_column_or_key_can_hold_the_address_of_the_page():
    rows = [{"text": text, "url": f"https://example.org/{number}"} for number, text in enumerate(TEXTS)]
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("a.csv").write_text("url,text\n" + "".join(f'{row["url"]},"{row["text"]}"\n' for row in rows))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), "a.parquet")
    for source in (JsonlFiles, CsvFiles, ParquetFiles):
        (path,) = Path().glob("a." + source.tag.partition("_")[0])
        assert list(addresses(source(paths=(path.name,), url_field="url")).values()) == [row["url"] for row in rows]
        with pytest.raises(StageError, match=r"no 'link' here; set `url_field` to one of '(text|url)', '(text|url)'"):
            addresses(source(paths=(path.name,), url_field="link"))


def test_a_page_without_an_address_has_an_empty_one():
    Path("a.jsonl").write_text('{"text": "a", "url": null}')
    assert addresses(JsonlFiles(paths=("a.jsonl",), url_field="url")) == {"a.jsonl:1": ""}


# Installed packages


def test_an_installed_package_is_a_document_a_module_as_its_wheel_lists_them():
    version = importlib.metadata.version("attrs")
    documents = prepared(PythonPackages(packages=(f"attrs=={version}",)))
    folder = Path(attrs.__file__).parent.parent
    expected = {
        path.relative_to(folder).as_posix(): path.read_text()
        for package in ("attr", "attrs")
        for path in (folder / package).rglob("*.py")
    }
    assert documents == {name: text for name, text in expected.items() if text.strip()}
    assert "attr/_make.py" in documents


def test_tests_tables_and_templates_of_a_package_are_left_out(tmp_path, monkeypatch):
    files = {
        "farm/__init__.py": b"",
        "farm/cow.py": b"def moo(): ...\n",
        "farm/old.py": "# -*- coding: latin-1 -*-\nname = 'Kälbchen'\n".encode("latin-1"),
        "farm/tests/test_cow.py": b"def test(): ...\n",
        "farm/table.py": b"# This file is generated\n",
        "farm/template.py": b"# coding: no-such-codec\n",
        "../bin/tool.py": b"",
        "farm/data.txt": b"text",
    }
    for name, content in files.items():
        (tmp_path / "site" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "site" / name).write_bytes(content)
    info = tmp_path / "site/farm-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: farm\nVersion: 2.0\n")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in files))
    monkeypatch.syspath_prepend(tmp_path / "site")
    read = {document.id: document.text for document in reader_of(PythonPackages(packages=("farm==2.0",))).run()}
    assert read.keys() == {"farm/__init__.py", "farm/cow.py", "farm/old.py"}
    assert "Kälbchen" in read["farm/old.py"]

    (info / "RECORD").write_text("__editable___farm_finder.py,,\n")
    with pytest.raises(StageError, match=r"'farm==2\.0' holds no source code .* wheel"):
        reader_of(PythonPackages(packages=("farm==2.0",)))


@pytest.mark.parametrize(
    ("package", "reason"),
    [
        ("attrs==1.2.3", r"'attrs==1\.2\.3' is asked for, and attrs [\d.]+ is installed; .*'attrs==[\d.]+'"),
        ("no-such-package==1.0", r"'no-such-package==1\.0' is not installed; `pip install no-such-package==1\.0`"),
    ],
)
def test_another_version_of_a_package_is_refused_with_the_one_that_is_there(package, reason):
    source = PythonPackages(packages=(package,))
    with pytest.raises(StageError, match=reason):
        reader_of(source)
    assert origins.package_refusal(package) == found(source)["small.models[0].text.source.packages[0]"]


@pytest.mark.parametrize("package", ["attrs", "attrs>=26", "attrs==26.1.0; x", "attrs == 26.1.0"])
def test_a_package_needs_a_version(package):
    with pytest.raises(ValueError, match=r"packages: .* is not a package with its version; .* 'attrs==26\.1\.0'"):
        PythonPackages(packages=(package,))


# Files that DVC keeps, and links


def test_a_link_is_read_where_dvc_follows_it_and_refused_where_it_does_not(tmp_path):
    outside = tmp_path / "outside"
    write_jsonl(outside / "deep/a.jsonl", TEXTS[:9])
    Path("data/web/inner").mkdir(parents=True)
    Path("data/link").symlink_to(outside)
    Path("data/web/a.jsonl").symlink_to(outside / "deep/a.jsonl")
    for pattern in ("data/web/*.jsonl", "data/link/**/*.jsonl", "data/link/deep/a.jsonl"):
        assert len(list(reader_of(JsonlFiles(paths=(pattern,))).run())) == 9
    Path("data/web/inner/more").symlink_to(outside / "deep")
    with pytest.raises(StageError, match=r"^data/web/inner/more/a\.jsonl: lies behind 'data/web/inner/more'"):
        reader_of(JsonlFiles(paths=("data/web/**/*.jsonl",)))


@pytest.mark.parametrize(
    ("pattern", "dvc_file", "out"),
    [
        ("data/x.jsonl", "data/x.jsonl.dvc", "x.jsonl"),
        ("data/*.jsonl", "data/x.jsonl.dvc", "x.jsonl"),
        ("data/web/**/*.jsonl", "data/web.dvc", "web"),
        ("data/**/*.jsonl", "data/web/x.jsonl.dvc", "x.jsonl"),
        ("data/*/*.jsonl", "data.dvc", "data"),
    ],
)
def test_a_file_that_dvc_keeps_and_that_is_not_here_is_to_be_pulled(pattern, dvc_file, out):
    Path(dvc_file).parent.mkdir(parents=True, exist_ok=True)
    Path(dvc_file).write_text(f"outs:\n- md5: ab74d7606f9ecf78123e056d9492e49b\n  path: {out}\n")
    source = JsonlFiles(paths=(pattern,))
    hint = f"{dvc_file} says that DVC keeps it; `dvc pull` brings it"
    assert found(source) == {"small.models[0].text.source.paths[0]": f"no file matches {pattern!r}; {hint}"}
    with pytest.raises(StageError) as refused:
        reader_of(source)
    assert str(refused.value) == f"{pattern}: no file matches this pattern; {hint}"


@pytest.mark.parametrize(
    ("dvc_file", "content"),
    [
        ("data/x.csv.dvc", "outs:\n- path: x.csv\n"),
        ("data/x.jsonl.dvc", "outs: x.jsonl"),
        ("data/x.jsonl.dvc", "["),
        ("data/x.jsonl.dvc", "\xff"),
    ],
)
def test_a_dvc_file_of_something_else_explains_nothing(dvc_file, content):
    Path("data").mkdir()
    Path(dvc_file).write_text(content, encoding="latin-1")
    assert "dvc pull" not in found(JsonlFiles(paths=("data/x.jsonl",)))["small.models[0].text.source.paths[0]"]


def texts_of(*paths: str) -> list[str]:
    return [document.text for document in reader_of(TextFiles(paths=paths)).run()]


@pytest.mark.parametrize(
    ("path", "read", "watches"),
    [
        ("data/b/x[1].txt", ["x[1].txt"], "data/b/x[1].txt"),
        ("data/b/a*.txt", ["a*.txt"], "data/b/a*.txt"),
        ("data/b/w?.txt", ["w?.txt"], "data/b/w?.txt"),
        ("data/*/x[1].txt", ["x[1].txt"], "data"),
        ("data/b/[[]!]/*.txt", ["in [!]"], "data/b"),
        ("data/b/[!]/*.txt", ["in [!]"], "data/b/[!]"),
        ("data/b/[wx][1?].txt", ["w1.txt", "w?.txt", "x1.txt"], "data/b"),
        ("data/b/x[[]1].txt", ["x[1].txt"], "data/b"),
        ("data/b/s3::y", ["s3::y"], "data/b/s3::y"),
    ],
)
def test_a_path_that_exists_as_it_is_written_is_that_file(path, read, watches):
    for name in ("x[1].txt", "x1.txt", "a*.txt", "ab.txt", "w?.txt", "w1.txt", "s3::y", "[!]/y.txt", "b/y.txt"):
        file = Path("data/b", name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("in [!]" if "[!]" in name else name)
    assert texts_of(path) == read
    assert found(TextFiles(paths=(path,))) == {}
    assert origins.watched(path) == watches


def test_brackets_that_match_nothing_are_explained():
    Path("data").mkdir()
    Path("data/x2.txt").write_text("two")
    (reason,) = found(TextFiles(paths=("data/x[1].txt",))).values()
    assert reason.endswith("where a name holds a bracket, write '[[]'")
    with pytest.raises(StageError, match=r"write '\[\[\]'$"):
        texts_of("data/x[1].txt")


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere.txt")


def _pointer(path: Path) -> None:
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n")


def _of_dvc(path: Path) -> None:
    Path(f"{path}.dvc").write_text(f"outs:\n- md5: {'0' * 32}\n  path: {path.name}\n")


SUFFIXES = {TextFiles: "txt", JsonlFiles: "jsonl.gz", CsvFiles: "csv", ParquetFiles: "parquet", WarcFiles: "warc"}


@pytest.mark.parametrize("kind", SUFFIXES)
@pytest.mark.parametrize("pattern", ["data/*", "data/**/*", "data/b*"])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_dangling, "is a link to 'nowhere.txt', where nothing is"),
        (_pointer, "is a pointer of Git LFS"),
        (_of_dvc, "it stands for 'data/bad.{}', which DVC keeps; `dvc pull`"),
        (os.mkfifo, "is neither a file nor a folder"),
    ],
)
def test_what_stands_for_a_file_that_is_not_here_is_named_in_every_format(kind, pattern, make, reason):
    suffix = SUFFIXES[kind]
    Path("data").mkdir()
    Path(f"data/beside.{suffix}").write_text("{}")
    make(Path(f"data/bad.{suffix}"))
    source = kind(paths=(pattern,))
    (said,) = found(source).values()
    assert reason.format(suffix) in said
    with pytest.raises(StageError) as refused:
        reader_of(source)
    assert reason.format(suffix) in str(refused.value)


@pytest.mark.parametrize("target", ["/nowhere/b", "b", "../data/b"])
@pytest.mark.parametrize(
    "pattern",
    ["data/*/x.txt", "data/**/x.txt", "data/[ab]/*.txt", "d*/*/x.txt", "*/**/*.txt", "data/b/*.txt", "data/b/x.txt"],
)
def test_a_folder_that_is_a_link_to_nowhere_or_to_itself_is_named(pattern, target):
    Path("data/a").mkdir(parents=True)
    Path("data/a/x.txt").write_text("good")
    Path("data/b").symlink_to(target)
    where = "where nothing is" if target.startswith("/") else "which leads back to it"
    (said,) = found(TextFiles(paths=(pattern,))).values()
    assert said.startswith(f"'data/b' is a link to '{target}', {where}")
    with pytest.raises(StageError, match=f"'data/b' is a link to '{target}', {where}"):
        texts_of(pattern)


def test_a_link_to_a_folder_that_it_is_in_is_named():
    Path("data/a").mkdir(parents=True)
    Path("data/a/x.txt").write_text("good")
    Path("data/a/up").symlink_to("..")
    (said,) = found(TextFiles(paths=("data/**/*.txt",))).values()
    assert "lies behind 'data/a/up', a link to a folder" in said


def test_links_to_nowhere_that_a_pattern_does_not_lead_through_do_no_harm():
    Path("data/a").mkdir(parents=True)
    Path("data/a/x.txt").write_text("good")
    for name in ("data/picture.jpg", "data/a/deep", "b"):
        Path(name).symlink_to("nowhere")
    assert texts_of("data/a/*.txt") == texts_of("data/a/x.txt") == ["good"]
    Path("data/a/deep").unlink()
    assert texts_of("data/**/*.txt") == ["good"]


@pytest.mark.parametrize("pattern", ["data/*", "data/*.txt", "data/**/*.txt"])
def test_a_folder_named_like_a_file_is_an_error_and_others_are_no_files(pattern):
    Path("data/deep").mkdir(parents=True)
    Path("data/good.txt").write_text("good")
    assert texts_of(pattern) == ["good"]
    Path("data/a.txt").mkdir()
    (said,) = found(TextFiles(paths=(pattern,))).values()
    assert said.startswith("'data/a.txt' is a folder, named like a file")
    with pytest.raises(StageError, match="is a folder, named like a file"):
        texts_of(pattern)


def test_a_dvc_file_next_to_its_file_is_left_alone_unless_it_is_named():
    Path("data").mkdir()
    Path("data/0.txt").write_text("zero")
    _of_dvc(Path("data/0.txt"))
    assert texts_of("data/*") == ["zero"]
    with pytest.raises(StageError, match=r"it stands for 'data/0\.txt'"):
        texts_of("data/0.txt.dvc")


# Encodings


def refused_by(source) -> str:
    with pytest.raises(StageError) as refused:
        list(reader_of(source).run())
    return str(refused.value)


@pytest.mark.parametrize("name", [b"data/\xff.txt", b"data/\xe4\xf6/a.txt"])
def test_a_name_that_is_not_utf8_is_refused_before_and_in_the_stage(name):
    path = os.fsdecode(name)
    Path(path).parent.mkdir(parents=True)
    Path(path).write_text("text")
    source = TextFiles(paths=("data/**/*.txt",))
    (said,) = found(source).values()
    assert "has a name that is not UTF-8" in said.encode().decode()
    assert "has a name that is not UTF-8" in refused_by(source)


@pytest.mark.parametrize("open_packed", [open, gzip.open])
@pytest.mark.parametrize(
    ("source", "before", "line"),
    [
        (JsonlFiles, b'{"text": "\xc3\xa4"}\n' * 3, 4),
        (CsvFiles, b"text\n" + b"x\n" * 9000, 9002),
        (TextFiles, b"a\r\n\xe2\x82\xac\n", 3),
    ],
)
def test_a_bad_byte_is_named_with_its_line_and_offset(source, before, line, open_packed):
    suffix = {JsonlFiles: "jsonl", CsvFiles: "csv", TextFiles: "txt"}[source]
    name = f"a.{suffix}{'.gz' if open_packed is gzip.open else ''}"
    with open_packed(name, "wb") as file:
        file.write(before + b'{"text": "' + b"\xe9\n")
    said = refused_by(source(paths=(name,)))
    assert said.startswith(f"{name}:{line}: not UTF-8: byte 0xe9 at offset {len(before) + 10:,} of the")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(b'{"text": "x"}\n', mtime=0), "gzip data; name it as that, with .gz"),
        (b"%PDF-1.4\nall of it ASCII", "a PDF document; extract its text"),
        (b"PK\x03\x04xxxx", "a ZIP archive"),
        ("text".encode("utf-16"), "UTF-16; convert it"),
        (b"PAR1\x15xxxPAR1", "a Parquet table"),
        ("text".encode("utf-32"), "UTF-32; convert it"),
        ("id,text\n1,two".encode("utf-16-le"), "UTF-16LE; convert it with `iconv -f UTF-16LE -t UTF-8`"),
        ("id,text\n1,two".encode("utf-16-be"), "UTF-16BE; convert it"),
        ("id,text\n1,two".encode("utf-32-be"), "UTF-32BE; convert it"),
        (b"{\\rtf1 all of it ASCII}", "an RTF document; save it as plain text"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "an old office document"),
        (b"a.txt" + bytes(252) + b"ustar  \0" + b"text" * 90, "a tar archive; unpack it"),
    ],
)
@pytest.mark.parametrize("kind", [TextFiles, JsonlFiles, CsvFiles])
def test_a_file_of_another_format_under_a_wrong_name_is_told_by_its_content(kind, content, said):
    name = f"a.{SUFFIXES[kind].removesuffix('.gz')}"
    Path(name).write_bytes(content)
    refused = refused_by(kind(paths=(name,)))
    assert refused.startswith(f"{name}: not a ")
    assert said in refused
    assert ("iconv" in refused) == ("UTF" in said)


@pytest.mark.parametrize("begin", [b"", b"BZ", b"ID3 tags", b"GIF or PNG?", b"0\x00", "\u3000全角".encode(), b"PK"])
def test_text_that_begins_like_another_format_is_read(begin):
    Path("a.txt").write_bytes(begin + b" and more")
    (document,) = reader_of(TextFiles(paths=("a.txt",))).run()
    assert document.text.encode() == begin + b" and more"


@pytest.mark.parametrize(
    ("suffix", "content", "said"),
    [
        (".gz", b"plain", "not compressed, whatever its name says; take .gz away from it"),
        (".zst", b"plain", "not compressed, whatever its name says; take .zst away from it"),
        (".xz", gzip.compress(b"plain", mtime=0), "not xz data, but gzip data; name it as that, with .gz at the end"),
        (".bz2", b"%PDF-1.4", "not bz2 data, but a PDF document; extract its text"),
        (".gz", gzip.compress(b"plain", mtime=0)[:-9], "may be damaged or cut short, fetch it again"),
    ],
)
def test_a_file_under_the_name_of_another_compression_is_told_by_its_content(suffix, content, said):
    Path(f"a.txt{suffix}").write_bytes(content)
    refused = refused_by(TextFiles(paths=(f"a.txt{suffix}",)))
    assert refused.startswith(f"a.txt{suffix}: ")
    assert said in refused


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"id,text\n1,a\n" * 9, r"not a Parquet file, but begins with b'id,text.*; rename it"),
        (gzip.compress(b"x" * 99, mtime=0), r"not a Parquet file, but gzip data"),
        (b"PAR1" + bytes(99), r"may be damaged or cut short"),
    ],
)
def test_what_is_no_parquet_table_is_told_from_one_that_is_damaged(content, said):
    Path("a.parquet").write_bytes(content)
    assert re.search(said, refused_by(ParquetFiles(paths=("a.parquet",))))


def test_data_that_are_no_text_are_not_to_be_converted():
    Path("a.txt").write_bytes(pickle.dumps(["text", 3.5, 70_000]))
    assert "iconv" not in refused_by(TextFiles(paths=("a.txt",)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('"id";"text"\n"1";"one, two"\n', "'id', 'text'; set `delimiter=';'`"),
        ("a,b;text\n1;2\n", "'a,b', 'text'; set `delimiter=';'`"),
        ("id\tText\n1\tone\n", r"'id', 'Text'; set `delimiter='\t'`"),
        ("sep=;\nid;text\n1;one\n", "delete the line, and set `delimiter=';'`"),
    ],
)
def test_a_header_that_another_sign_separates_is_seen_quoted_or_not(content, said):
    Path("a.csv").write_text(content)
    assert refused_by(CsvFiles(paths=("a.csv",))).endswith(said)


@pytest.mark.parametrize("name", ["a.tsv", "a.tab", "a.tsv.gz"])
def test_tables_with_tabs_are_called_so(name):
    with (gzip.open if name.endswith(".gz") else open)(name, "wt") as file:
        file.write("id\ttext\n1\tone, two\n")
    (document,) = reader_of(CsvFiles(paths=(name,), delimiter="\t")).run()
    assert document.text == "one, two"


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_columns_are_separated_by_what_the_source_says_and_another_sign_is_seen(delimiter):
    Path("a.csv").write_text(f'id{delimiter}text\n1{delimiter}"one{delimiter} two, three"\n')
    assert refused_by(CsvFiles(paths=("a.csv",))).endswith(f"set `delimiter={delimiter!r}`")
    (document,) = reader_of(CsvFiles(paths=("a.csv",), delimiter=delimiter)).run()
    assert document.text == f"one{delimiter} two, three"


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n", "\r", "→"])
def test_a_delimiter_is_one_sign(delimiter):
    with pytest.raises(ValueError, match="delimiter: must be one sign"):
        CsvFiles(paths=("a.csv",), delimiter=delimiter)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), [{"x": float("nan")}], "\ud83d", 10**30])
def test_a_line_that_pythons_json_wrote_is_read_whatever_its_other_fields_hold(value):
    Path("a.jsonl").write_text(json.dumps({"score": value, "text": "one"}) + "\n")
    assert [document.text for document in reader_of(JsonlFiles(paths=("a.jsonl",))).run()] == ["one"]


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "holds float, not text"), ("x\ud83d", "half a character")])
def test_what_is_no_text_in_the_text_field_is_still_refused(value, said):
    Path("a.jsonl").write_text(json.dumps({"text": value}) + "\n")
    assert said in refused_by(JsonlFiles(paths=("a.jsonl",)))


# Data sets of the hub


@pytest.mark.parametrize("revision", ["main", "v1.0", "", "1234567", "g" * 40, "A" * 40])
def test_a_data_set_of_the_hub_is_pinned_to_a_commit(revision):
    with pytest.raises(ValueError, match=r"revision: must be the hash of a commit, 40 of .* a tag may mean"):
        HubDataset(name="a/b", revision=revision)
