import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from backports import zstd
from corpora import contents, read_documents, run, write_jsonl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llmrecipe import artifacts
from llmrecipe.engines.tokens.files import TokenFiles
from llmrecipe.engines.tokens.mixture import TokenMixture
from llmrecipe.errors import StageError
from llmrecipe.recipe.machine import Machine
from llmrecipe.recipe.quantity import Fraction
from llmrecipe.recipe.source import JsonlFiles
from llmrecipe.recipe.tokenizer import ByteLevelBPE, Unigram, WordPiece
from llmrecipe.sections import PrepareSection, TokenizerSection, TokenizeSection
from llmrecipe.stages.runner import run_stage

END = "<|endoftext|>"

TEXTS = [
    *(f"def function_{n}(argument):\n    return argument + {n}  # été 🙂\n" for n in range(200)),
    f"a text that quotes {END} in its middle",
    END,
    f"{END}{END} twice",
]


def prepare(folder: Path, texts: list[str], shards: int = 3) -> Path:
    source = JsonlFiles(paths=(str(write_jsonl(folder / "a.jsonl", texts)),))
    section = PrepareSection(source=source, clean=(), heldout=Fraction(0.3), shards=shards)
    return run("prepare", section, folder).output / "documents"


def train(folder: Path, documents: Path, vocab_size: int = 320, **tokens) -> Path:
    section = TokenizerSection(tokenizer=ByteLevelBPE(vocab_size=vocab_size, **tokens))
    return run("tokenizer", section, folder, inputs={"documents": documents}).output / "tokenizer"


def tokenize(folder: Path, documents: Path, tokenizer: Path, machine: Machine | None = None):
    inputs = {"documents": documents, "tokenizer": tokenizer}
    return run("tokenize", TokenizeSection(), folder, inputs=inputs, machine=machine)


def rows(tokens: Path, split: str) -> list[list[int]]:
    """Each document's tokens, read with nothing of the project."""
    dtype = {"uint16": "<u2", "uint32": "<u4"}[json.loads((tokens / "card.json").read_text())["dtype"]]
    found = []
    for path in sorted((tokens / split).glob("*.ds")):
        data = np.fromfile(path, dtype)
        ends = np.fromfile(f"{path}.index", "<u8").astype(int)
        assert ends[-1] == len(data)
        found += [row.tolist() for row in np.split(data, ends[:-1])]
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> tuple[Path, Path, Path]:
    """Documents, a tokenizer trained on them and the tokenize stage's output."""
    folder = tmp_path_factory.mktemp("corpus")
    documents = prepare(folder, TEXTS)
    tokenizer = train(folder, documents)
    return documents, tokenizer, tokenize(folder, documents, tokenizer).output


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_each_document_is_its_text_and_the_end_of_text_token(corpus, split):
    documents, tokenizer, output = corpus
    decoder = AutoTokenizer.from_pretrained(tokenizer)
    texts = [document["text"] for document in read_documents(documents, split)]
    found = rows(output / "tokens", split)
    assert [decoder.decode(row) for row in found] == [text + END for text in texts]
    assert all(row[-1] == 0 and 0 not in row[:-1] for row in found)


@pytest.mark.parametrize("kind", [Unigram, WordPiece])
def test_every_kind_of_tokenizer_gives_documents_with_an_end(corpus, tmp_path, kind, caplog):
    documents, texts = corpus[0], [document["text"] for document in read_documents(corpus[0], "train")]
    section = TokenizerSection(tokenizer=kind(vocab_size=400, character_coverage=0.9))
    tokenizer = run("tokenizer", section, tmp_path, inputs={"documents": documents}).output / "tokenizer"
    output = tokenize(tmp_path, documents, tokenizer).output
    decoder = AutoTokenizer.from_pretrained(tokenizer)
    found = rows(output / "tokens", "train")
    if kind is Unigram:
        assert [decoder.decode(row[:-1]) for row in found] == texts
    else:
        encoder = decoder.backend_tokenizer
        encoder.encode_special_tokens = True
        assert [row[:-1] for row in found] == [encoder.encode(text, add_special_tokens=False).ids for text in texts]
        assert decoder.convert_ids_to_tokens([row[-1] for row in found]) == ["[SEP]"] * len(texts)
    assert all(row.count(decoder.eos_token_id) == 1 and row[-1] == decoder.eos_token_id for row in found)
    metrics = json.loads((output / "metrics.json").read_text())
    tokens = [token for row in found for token in row]
    assert metrics["train"]["unknown_share"] == tokens.count(1) / len(tokens)
    assert (tokens.count(1) > 0.001 * len(tokens)) == (kind is WordPiece)
    assert ("% of the train tokens are '[UNK]'" in caplog.text) == (kind is WordPiece)
    # Bytes spell what no piece does.
    assert (tokens.count(1) > 0) == (kind is WordPiece)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_the_tokens_are_what_the_tokenizer_gives_one_text_at_a_time(corpus, split):
    documents, tokenizer, output = corpus
    encoder = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    texts = [document["text"] for document in read_documents(documents, split)]
    compared = 0
    for text, row in zip(texts, rows(output / "tokens", split), strict=True):
        if END not in text:
            assert encoder.encode(text, add_special_tokens=False).ids == row[:-1]
            compared += 1
    assert compared > 30


def test_a_quoted_end_of_text_token_ends_no_document(corpus):
    documents, _, output = corpus
    quoting = [
        d["text"] for split in ("train", "heldout") for d in read_documents(documents, split) if END in d["text"]
    ]
    assert len(quoting) == 3
    ends = sum(row.count(0) for split in ("train", "heldout") for row in rows(output / "tokens", split))
    assert ends == len(TEXTS)


def test_the_counts_are_right_and_training_reads_them(corpus):
    documents, tokenizer, output = corpus
    artifacts.open_artifact(output / "tokens", "tokens")
    described = json.loads((output / "tokens/card.json").read_text())
    assert (described["dtype"], described["vocab_size"], described["end_of_text_id"]) == ("uint16", 320, 0)
    assert (described["special_tokens"], described["masking"]) == ({}, None)
    assert described["tokenizer"] == hashlib.sha256((tokenizer / "manifest.json").read_bytes()).hexdigest()
    metrics = json.loads((output / "metrics.json").read_text())
    for split, counts in described["splits"].items():
        found = rows(output / "tokens", split)
        texts = [document["text"] for document in read_documents(documents, split)]
        assert counts["documents"] == len(found) == len(texts)
        assert counts["tokens"] == sum(map(len, found))
        assert counts["text_bytes"] == sum(len(text.encode()) for text in texts)
        assert metrics[split]["bytes_per_token"] == counts["text_bytes"] / counts["tokens"]
        assert counts["files"] == sorted(
            p.relative_to(output / "tokens").as_posix() for p in (output / "tokens" / split).glob("*.ds")
        )
        opened = TokenFiles.open(output / "tokens", split)
        assert np.concatenate(opened.shards).tolist() == [token for row in found for token in row]


def test_held_out_documents_are_known_by_their_tokens(corpus):
    documents, _, output = corpus
    listed = TokenFiles.open(output / "tokens", "heldout").documents()
    originals = read_documents(documents, "heldout")
    assert listed.ids == tuple(document["id"] for document in originals)
    assert listed.text_bytes.tolist() == [len(document["text"].encode()) for document in originals]
    lengths = [len(row) for row in rows(output / "tokens", "heldout")]
    assert listed.ends.tolist() == [sum(lengths[:number]) for number in range(1, len(lengths) + 1)]
    with pytest.raises(StageError, match="lists no documents of the train split"):
        TokenFiles.open(output / "tokens", "train").documents()


def test_there_is_a_token_file_for_each_file_of_documents(corpus):
    documents, _, output = corpus
    for split in ("train", "heldout"):
        assert len(list((output / "tokens" / split).glob("*.ds"))) == len(list((documents / split).iterdir()))


def test_the_same_bytes_for_one_worker_or_two_in_any_folder(corpus, tmp_path):
    documents, tokenizer, output = corpus
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(documents, elsewhere / "documents")
    shutil.copytree(tokenizer, elsewhere / "tokenizer")
    context = tokenize(tmp_path, elsewhere / "documents", elsewhere / "tokenizer", machine=Machine(workers=2))
    assert contents(context.output) == contents(output)
    assert context.measured["tokens_per_second"] > 0
    assert not context.scratch.exists()


def test_a_large_vocabulary_takes_four_bytes_a_token(corpus, tmp_path):
    documents = corpus[0]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [END, *(f"unused{n}" for n in range(65_536)), *alphabet]
    tokenizer = Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # As tokenizers of sentence encoders are saved: every text would be cut and filled up to 8 tokens.
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, clean_up_tokenization_spaces=False)
    fast.save_pretrained(tmp_path / "large")
    artifacts.seal(tmp_path / "large", "tokenizer")
    output = tokenize(tmp_path, documents, tmp_path / "large").output
    assert json.loads((output / "tokens/card.json").read_text())["dtype"] == "uint32"
    texts = [document["text"] for document in read_documents(documents, "train")]
    assert [fast.decode(row) for row in rows(output / "tokens", "train")] == [text + END for text in texts]


@pytest.mark.parametrize("end_of_text", ["the", "e"])
def test_an_end_of_text_token_that_is_a_word_of_the_text_is_refused(tmp_path, end_of_text):
    documents = prepare(tmp_path, [f"{end_of_text} {n}" for n in range(50)], shards=1)
    tokenizer = train(tmp_path, documents, end_of_text=end_of_text)
    expected = rf"a text of the train split encodes to '{end_of_text}'.*occurs in no text"
    with pytest.raises(StageError, match=expected):
        tokenize(tmp_path, documents, tokenizer)


def test_special_tokens_are_named_for_the_training_and_a_text_that_quotes_one_is_text(tmp_path):
    texts = [f"{n} <|hole|> \n" for n in range(40)]
    documents = prepare(tmp_path, texts, shards=1)
    tokenizer = train(tmp_path, documents, special_tokens=("<|hole|>", "<|b|>"))
    output = tokenize(tmp_path, documents, tokenizer).output
    assert json.loads((output / "tokens/card.json").read_text())["special_tokens"] == {"<|hole|>": 1, "<|b|>": 2}
    assert TokenFiles.open(output / "tokens", "train").special_tokens == {"<|hole|>": 1, "<|b|>": 2}
    found = [row for split in ("train", "heldout") for row in rows(output / "tokens", split)]
    decoder = AutoTokenizer.from_pretrained(tokenizer)
    assert sorted(decoder.decode(row[:-1]) for row in found) == sorted(texts)
    assert not {1, 2} & {token for row in found for token in row}


def test_a_special_token_that_is_a_word_of_the_text_is_not_free(tmp_path):
    documents = prepare(tmp_path, [f"the {n}" for n in range(50)], shards=1)
    tokenizer = train(tmp_path, documents, special_tokens=("<|b|>", "the"))
    tokens = TokenMixture.open([tokenize(tmp_path, documents, tokenizer).output / "tokens"], "heldout", (1.0,))
    assert tokens.special_ids(["<|b|>"]) == (1,)
    with pytest.raises(StageError, match=r"has no special token 'the', or a text became it, .* are free: '<\|b\|>';"):
        tokens.special_ids(["the", "<|b|>"])


def test_a_line_of_documents_that_was_lost_is_an_error(corpus, tmp_path):
    documents, tokenizer, _ = corpus
    damaged = tmp_path / "documents"
    shutil.copytree(documents, damaged)
    shard = next(iter(sorted((damaged / "train").iterdir())))
    lines = zstd.decompress(shard.read_bytes()).splitlines(keepends=True)
    shard.write_bytes(zstd.compress(b"".join([b"lost\n", *lines[1:]])))
    (damaged / artifacts.MANIFEST).unlink()
    artifacts.seal(damaged, "documents")
    with pytest.raises(StageError, match=r"the train split has (\d+) readable documents, (\d+) were written"):
        tokenize(tmp_path, damaged, tokenizer)


def test_the_three_stages_run_from_one_params_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(Path("data/a.jsonl"), TEXTS)
    documents = Path("artifacts/c/prepare/documents")
    params = {
        "c-prepare": {
            "type": "prepare",
            "inputs": {"data": "data"},
            "source": {"type": "jsonl_files", "paths": ["data/*.jsonl"]},
            "clean": [{"type": "fix_unicode"}, {"type": "exact_dedup"}],
            "heldout": {"type": "fraction", "of_total": 0.3},
            "shards": 2,
        },
        "r-tokenizer": {
            "type": "tokenizer",
            "inputs": {"documents": str(documents)},
            "tokenizer": {"type": "byte_level_bpe", "vocab_size": 400},
        },
        "r-tokenize": {
            "type": "tokenize",
            "inputs": {"documents": str(documents), "tokenizer": "artifacts/r/tokenizer/tokenizer"},
            "revision": 1,
        },
        "machine": {"default": {"workers": 1}},
    }
    Path("params.yaml").write_text(yaml.safe_dump(params))
    for name in ("c-prepare", "r-tokenizer", "r-tokenize"):
        owner, kind = name.split("-")
        run_stage(kind, name=name, output=Path("artifacts", owner, kind))
    opened = TokenFiles.open(Path("artifacts/r/tokenize/tokens"), "heldout")
    assert opened.num_documents == len(read_documents(documents, "heldout"))
    left = [path for path in tmp_path.glob(".llmrecipe/*-*/**/*") if path.is_file()]
    assert left == []
