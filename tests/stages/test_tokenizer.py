import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from corpora import contents, run, write_jsonl
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.models.bert.tokenization_bert_legacy import BasicTokenizer, WordpieceTokenizer

from llmrecipe import artifacts
from llmrecipe.engines.tokenizing import folders, training
from llmrecipe.errors import StageError
from llmrecipe.recipe.objective import FillInTheMiddle
from llmrecipe.recipe.quantity import Fraction
from llmrecipe.recipe.source import JsonlFiles
from llmrecipe.recipe.tokenizer import ByteLevelBPE, PretrainedTokenizer, Unigram, WordPiece
from llmrecipe.sections import PrepareSection, TokenizerSection

TEXTS = [f"def function_{n}(argument):\n    return argument + {n}  # été 🙂\n" for n in range(200)]


@pytest.fixture(scope="module")
def documents(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    source = JsonlFiles(paths=(str(write_jsonl(folder / "a.jsonl", TEXTS)),))
    return (
        run("prepare", PrepareSection(source=source, clean=(), heldout=Fraction(0.1), shards=2), folder).output
        / "documents"
    )


@pytest.fixture(scope="module")
def trained(documents, tmp_path_factory) -> Path:
    return train(documents, tmp_path_factory.mktemp("trained")).output / "tokenizer"


def train(documents: Path, folder: Path, kind: type = ByteLevelBPE, **fields):
    section = TokenizerSection(tokenizer=kind(**{"vocab_size": 300} | fields))
    return run("tokenizer", section, folder, inputs={"documents": documents})


def take_over(source: Path, folder: Path) -> Path:
    section = TokenizerSection(tokenizer=PretrainedTokenizer(path=str(source)))
    return run("tokenizer", section, folder, inputs={"source": source}).output / "tokenizer"


# Training


def test_transformers_loads_the_trained_tokenizer(trained):
    artifacts.open_artifact(trained, "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(trained)
    assert len(tokenizer) == 300
    assert (tokenizer.eos_token, tokenizer.bos_token, tokenizer.pad_token) == ("<|endoftext|>",) * 3
    assert tokenizer.eos_token_id == 0
    for text in (*TEXTS[:5], "never seen: 漢字 \x00\t\r\n", " leading and trailing "):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert len(tokenizer("function_")["input_ids"]) < len("function_")


def test_the_bytes_follow_the_end_of_text_token(trained):
    vocabulary = json.loads((trained / "tokenizer.json").read_text())["model"]["vocab"]
    by_id = sorted(vocabulary, key=vocabulary.get)
    assert by_id[0] == "<|endoftext|>"
    assert all(len(token) == 1 for token in by_id[1:257])
    assert all(len(token) > 1 for token in by_id[257:])


def test_a_small_corpus_gives_fewer_tokens_and_says_so(documents, tmp_path, caplog):
    context = train(documents, tmp_path, vocab_size=50_000)
    size = len(AutoTokenizer.from_pretrained(context.output / "tokenizer"))
    assert 300 < size < 50_000
    assert context.measured["vocab_size"] == size
    assert f"only {size} of the 50000 tokens asked for: no more pairs of tokens within words occur twice" in caplog.text
    caplog.clear()
    train(documents, tmp_path / "unigram", Unigram, vocab_size=50_000, character_coverage=0.9)
    assert "no more pieces of words that SentencePiece keeps, and character_coverage = 0.9 leaves out" in caplog.text


@pytest.mark.parametrize("kind", [Unigram, WordPiece])
def test_what_character_coverage_leaves_out_is_counted_and_said_only_if_it_is_something(tmp_path, caplog, kind):
    rare = [chr(0x4E00 + number) for number in range(7)]
    for name, texts, said in (
        ("few", ["ab ba ab"] * 20, False),
        ("many", ["ab ba ab"] * 20_000 + rare, True),
    ):
        source = JsonlFiles(paths=(str(write_jsonl(tmp_path / f"{name}.jsonl", texts)),))
        section = PrepareSection(source=source, clean=(), heldout=held_out(tmp_path), shards=1)
        made = run("prepare", section, tmp_path / name).output / "documents"
        caplog.clear()
        context = train(made, tmp_path / name, kind, vocab_size=320)
        vocabulary = AutoTokenizer.from_pretrained(context.output / "tokenizer").get_vocab()
        assert "tokens asked for" in caplog.text
        assert ("leaves out 7 rarer characters, which 1 lets in" in caplog.text) == said
        assert ("character_coverage" in caplog.text) == said
        assert not vocabulary.keys() & set(rare)


def held_out(folder: Path) -> JsonlFiles:
    return JsonlFiles(paths=(str(write_jsonl(folder / "heldout.jsonl", ["held out"])),))


# Words of equal frequency, in plenty, and characters that few texts have.
PROSE = [Path(argparse.__file__).read_text()[start : start + 2000] for start in range(0, 40_000, 2000)]
KINDS = {
    "byte-level": ByteLevelBPE(vocab_size=600),
    "unigram": Unigram(vocab_size=600),
    "word-piece": WordPiece(vocab_size=600),
    "word-piece, cased": WordPiece(vocab_size=600, lowercase=False),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory) -> tuple[str, Path]:
    """A kind of tokenizer, and one of it."""
    folder = tmp_path_factory.mktemp("kind")
    training.train(KINDS[request.param], lambda: [*TEXTS, *PROSE], folder)
    return request.param, folder


def test_the_order_of_the_texts_changes_no_byte_of_the_tokenizer(kind, tmp_path):
    texts = [*TEXTS, *PROSE]
    for seed in range(3):
        random.Random(seed).shuffle(texts)
        training.train(KINDS[kind[0]], lambda: iter(texts), tmp_path / f"{seed}")
        assert contents(tmp_path / f"{seed}") == contents(kind[1])


@pytest.mark.parametrize("kind", [ByteLevelBPE, Unigram])
def test_special_tokens_are_no_text_and_change_nothing_else_of_the_tokenizer(kind, tmp_path):
    special = FillInTheMiddle().tokens
    plain = training.train(kind(vocab_size=500), lambda: [*TEXTS, *PROSE], tmp_path / "plain")
    more = kind(vocab_size=503, special_tokens=special)
    training.train(more, lambda: [*TEXTS, *PROSE], tmp_path / "more")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "more")

    assert len(tokenizer) == 503
    names = tokenizer.convert_ids_to_tokens(range(503))
    assert [name for name in names if name not in special] == plain.convert_ids_to_tokens(range(500))
    assert folders.special_tokens(tmp_path / "more") == {name: names.index(name) for name in special}
    assert folders.special_tokens(tmp_path / "plain") == {}
    text = f"def {special[0]}é"
    tokenizer.backend_tokenizer.encode_special_tokens = True
    ids = tokenizer.backend_tokenizer.encode(text).ids
    assert not {tokenizer.convert_tokens_to_ids(name) for name in special} & set(ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, names.index(special[1])], skip_special_tokens=True) == text


@pytest.mark.parametrize("kind", [ByteLevelBPE, Unigram])
def test_documents_that_hold_a_special_token_are_counted_and_the_token_named(kind, tmp_path, caplog):
    texts = [f"<b>word {n}</b>{' [X]' * (n % 4 == 0)} <b> {n} words are more than one\n" for n in range(40)]
    source = JsonlFiles(paths=(str(write_jsonl(tmp_path / "a.jsonl", texts)),))
    section = PrepareSection(source=source, clean=(), heldout=Fraction(0.5), shards=1)
    prepared = run("prepare", section, tmp_path / "prepared").output
    train_documents = json.loads((prepared / "documents/card.json").read_text())["documents"]["train"]
    train(prepared / "documents", tmp_path, kind, vocab_size=330, end_of_text="<b>", special_tokens=("[Y]",))
    assert f"{train_documents} training documents hold '<b>'" in caplog.text
    assert "[Y]" not in caplog.text


@pytest.mark.slow
def test_neither_threads_nor_hash_tables_change_a_byte_of_the_tokenizer(documents, tmp_path):
    script = (
        "import functools, sys; from pathlib import Path; from llmrecipe import *;"
        "from llmrecipe.engines.tokenizing import training; from llmrecipe.engines.datatrove import documents;"
        "texts = functools.partial(documents.texts, Path(sys.argv[1]), 'train');"
        "[training.train(kind(vocab_size=400), texts, Path(sys.argv[2], kind.__name__))"
        " for kind in (ByteLevelBPE, Unigram, WordPiece)]"
    )
    outputs = []
    for parallel, threads in (("false", "1"), ("true", "2")):
        folder = tmp_path / f"{parallel}{threads}"
        environment = os.environ | {
            "TOKENIZERS_PARALLELISM": parallel,
            "RAYON_NUM_THREADS": threads,
            "PYTHONHASHSEED": threads,
        }
        subprocess.run([sys.executable, "-c", script, documents, folder], env=environment, check=True)
        outputs.append(contents(folder))
    assert len(outputs[0]) == 6
    assert outputs[0] == outputs[1]


@given(text=st.text())
def test_every_text_comes_back_from_its_tokens(trained, text):
    tokenizer = AutoTokenizer.from_pretrained(trained)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


# Unigram


@pytest.fixture(scope="module")
def unigram(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unigram")
    training.train(Unigram(vocab_size=600), lambda: [*TEXTS, *PROSE], folder)
    return AutoTokenizer.from_pretrained(folder)


def test_transformers_loads_the_trained_unigram_model(unigram):
    assert len(unigram) == 600
    assert (unigram.eos_token, unigram.bos_token, unigram.pad_token) == ("<|endoftext|>",) * 3
    assert unigram.convert_ids_to_tokens([0, 1, 2, 257]) == ["<|endoftext|>", "<unk>", "<0x00>", "<0xFF>"]
    assert unigram.tokenize("def function_") == ["def", " function", "_"]


@given(text=st.text() | st.text("▁␉▅<0xA>|endoftu \t\n\0é"))
def test_every_text_comes_back_from_its_pieces(unigram, text):
    ids = unigram(text)["input_ids"]
    assert unigram.decode(ids) == text
    assert unigram.unk_token_id not in ids


def test_what_looks_like_a_token_in_a_text_is_text(unigram):
    text = "<0x0A> <unk> <0xFF>"
    unigram.backend_tokenizer.encode_special_tokens = True
    ids = unigram.backend_tokenizer.encode(f"{text}{unigram.eos_token}").ids
    unigram.backend_tokenizer.encode_special_tokens = False
    assert {unigram.eos_token_id, unigram.unk_token_id}.isdisjoint(ids)
    assert unigram.decode(ids) == f"{text}{unigram.eos_token}"


def test_pieces_stand_in_the_order_of_their_probabilities_which_add_up_to_one(unigram):
    scores = [score for _, score in json.loads(unigram.backend_tokenizer.to_str())["model"]["vocab"][258:]]
    assert scores == sorted(scores, reverse=True)
    assert math.fsum(map(math.exp, scores)) == pytest.approx(1, abs=0.05)


def test_pieces_serve_as_well_as_those_of_the_other_trainer(unigram):
    """`tokenizers` has an implementation of its own, which gives other digits in every run."""
    other = Tokenizer(models.Unigram())
    other.pre_tokenizer = unigram.backend_tokenizer.pre_tokenizer
    trainer = trainers.UnigramTrainer(vocab_size=600 - 257, unk_token="<unk>", special_tokens=["<unk>"])
    other.train_from_iterator([*TEXTS, *PROSE], trainer)
    ours, theirs = (
        sum(len(tokenizer.encode(text).ids) for text in PROSE) for tokenizer in (unigram.backend_tokenizer, other)
    )
    assert ours < 1.02 * theirs


def test_a_text_without_pieces_is_refused(tmp_path):
    with pytest.raises(StageError, match=r"can't learn pieces from the corpus.*use more of it"):
        training.train(Unigram(vocab_size=400), lambda: ["a" * 45], tmp_path)


# WordPiece


@pytest.fixture(scope="module", params=[True, False], ids=["uncased", "cased"])
def word_piece(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("word-piece")
    description = WordPiece(vocab_size=600, lowercase=request.param)
    training.train(description, lambda: [*TEXTS, *PROSE], folder)
    return AutoTokenizer.from_pretrained(folder), request.param


def test_transformers_loads_the_trained_word_pieces_as_berts(word_piece):
    tokenizer, lowercase = word_piece
    assert type(tokenizer).__name__ == "BertTokenizer"
    assert len(tokenizer) == 600
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    roles = (tokenizer.pad_token, tokenizer.unk_token, tokenizer.cls_token, tokenizer.sep_token, tokenizer.mask_token)
    assert roles == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
    assert tokenizer.eos_token == "[SEP]"
    encoded = tokenizer("Function", "été")
    assert tokenizer.decode(encoded["input_ids"]).startswith("[CLS] function [SEP]" if lowercase else "[CLS] ")
    assert encoded["token_type_ids"][-1] == 1


# Of other characters, BERT's code and its copy in Rust know other versions of Unicode.
@given(text=st.text(st.characters(codec="ascii")) | st.text("Dief[SEP]é漢.\t\n\0_"))
def test_word_pieces_are_those_of_berts_own_code(word_piece, text):
    tokenizer, lowercase = word_piece
    basic = BasicTokenizer(do_lower_case=lowercase)
    pieces = WordpieceTokenizer(tokenizer.get_vocab(), unk_token="[UNK]")
    expected = [piece for word in basic.tokenize(text) for piece in pieces.tokenize(word)]
    tokenizer.backend_tokenizer.encode_special_tokens = True
    assert tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).tokens == expected


def test_a_word_of_known_characters_is_never_unknown(word_piece):
    tokenizer, _ = word_piece
    letters = [token for token in tokenizer.get_vocab() if len(token) == 1 and token.isalpha()]
    assert len(letters) >= 26
    for seed in range(50):
        word = "".join(random.Random(seed).choices(letters, k=30))
        assert tokenizer.unk_token_id not in tokenizer(word)["input_ids"]
    assert tokenizer.unk_token_id in tokenizer("漢")["input_ids"]


# Many characters


@pytest.mark.parametrize("kind", [Unigram, WordPiece])
def test_characters_take_at_most_half_of_a_vocabulary_the_frequent_ones_first(kind, tmp_path):
    draw = random.Random(0)
    texts = [" ".join(chr(0x4E00 + min(int(draw.expovariate(0.004)), 2999)) for _ in range(200)) for _ in range(50)]
    training.train(kind(vocab_size=500), lambda: texts, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    characters = {token.strip() for token in tokenizer.get_vocab() if len(token.strip()) == 1}
    # Chinese characters are words by themselves, so WordPiece has nothing to merge.
    assert 50 < len(characters) <= 250 if kind is Unigram else len(characters) == 500 - 5
    assert len(tokenizer) <= 500
    assert chr(0x4E00) in characters
    if kind is Unigram:
        assert [tokenizer.decode(tokenizer(text)["input_ids"]) for text in texts] == texts


@pytest.mark.parametrize("vocab_size", [600, 1000])
def test_characters_get_the_room_that_pieces_leave(vocab_size, tmp_path):
    # Signs that stand alone: there is nothing to learn but them.
    texts = [" ".join(chr(0x2200 + number) for number in range(start, 250)) for start in range(250)] * 2
    training.train(Unigram(vocab_size=vocab_size, character_coverage=1.0), lambda: texts, tmp_path)
    vocabulary = AutoTokenizer.from_pretrained(tmp_path).get_vocab()
    assert len(vocabulary) <= vocab_size
    characters = {token.strip() for token in vocabulary if len(token.strip()) == 1}
    assert len(characters) > (vocab_size - 258) // 2 or len(characters) >= 250


@given(st.lists(st.text("アイウエオカキクケコ漢字水火木金土日月人 .,", min_size=20), min_size=1), st.integers(64, 90))
@settings(max_examples=20)
def test_word_pieces_are_never_more_than_asked_for(texts, vocab_size):
    with TemporaryDirectory() as folder:
        tokenizer = training.train(WordPiece(vocab_size=vocab_size), lambda: texts, Path(folder))
    assert len(tokenizer) <= vocab_size


def test_room_for_one_token_goes_to_a_character_that_takes_one(tmp_path):
    # Within a word a kana has a second token, and a sign none. Nothing is merged, since all stand alone.
    texts = [" ".join(chr(0x30A2 + number) for number in range(60))] * 3 + [". !"]
    vocabulary = training.train(WordPiece(vocab_size=64), lambda: texts, tmp_path).get_vocab()
    assert len(vocabulary) == 64
    assert sum(token.startswith("##") for token in vocabulary) == 29


def test_letters_and_their_forms_within_words_leave_half_of_the_vocabulary_to_merges(tmp_path):
    draw = random.Random(0)
    letters = [chr(0x10A0 + number) for number in range(38)] + [chr(0x400 + number) for number in range(250)]
    words = ["".join(draw.choices(letters, k=6)) for _ in range(400)]
    training.train(WordPiece(vocab_size=205, lowercase=False), lambda: [" ".join(words)] * 2, tmp_path)
    tokens = [token.removeprefix("##") for token in AutoTokenizer.from_pretrained(tmp_path).get_vocab()]
    assert len(tokens) == 205
    assert sum(len(token) == 1 for token in tokens) == 100


@pytest.mark.parametrize(("kind", "smallest"), [(ByteLevelBPE, 257), (Unigram, 258), (WordPiece, 5)])
def test_no_text_gives_no_more_than_what_every_tokenizer_of_the_kind_has(kind, smallest, tmp_path):
    assert len(training.train(kind(vocab_size=300), list, tmp_path)) == smallest


# Taking over


def test_only_the_files_of_a_tokenizer_are_taken_over(trained, tmp_path):
    source = tmp_path / "model"
    shutil.copytree(trained, source)
    for name in ("model.safetensors", "README.md", "config.json", "train.py"):
        (source / name).write_text("{}")
    (source / "chat_template.jinja").write_text("{{ messages }}")
    output = take_over(source, tmp_path)
    artifacts.open_artifact(output, "tokenizer")
    names = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "manifest.json"}
    assert {path.name for path in output.iterdir()} == names
    for name in names - {"manifest.json"}:
        assert (output / name).read_bytes() == (source / name).read_bytes()


@pytest.mark.parametrize("taken_for", ["LlamaTokenizer", "LlamaTokenizerFast", "Qwen2Tokenizer", "GPT2Tokenizer"])
def test_text_is_read_as_the_tokenizers_file_says_whatever_transformers_takes_it_for(
    trained, tmp_path, caplog, taken_for
):
    source = tmp_path / "source"
    shutil.copytree(trained, source)
    edit(source, tokenizer_class=taken_for)
    text = "def function_12345(a):\n    return  a  # été 🙂"
    expected = Tokenizer.from_file(str(trained / "tokenizer.json")).encode(text).ids
    loaded = folders.load(take_over(source, tmp_path))
    assert loaded(text)["input_ids"] == expected
    assert loaded.decode(expected) == text
    is_other = AutoTokenizer.from_pretrained(source)(text)["input_ids"] != expected
    assert (f"takes this tokenizer for a {taken_for.removesuffix('Fast')}" in caplog.text) == is_other
    assert is_other == (taken_for != "GPT2Tokenizer")


def test_a_tokenizer_that_pads_and_cuts_texts_is_itself(trained, tmp_path, caplog):
    source = tmp_path / "source"
    shutil.copytree(trained, source)
    stored = Tokenizer.from_file(str(source / "tokenizer.json"))
    stored.enable_padding(length=128)
    stored.enable_truncation(max_length=4)
    stored.save(str(source / "tokenizer.json"))
    take_over(source, tmp_path)
    assert "takes this tokenizer for" not in caplog.text


def without_end(folder: Path) -> None:
    edit(folder, eos_token=None)


def with_unknown_end(folder: Path) -> None:
    edit(folder, eos_token="</s>")


def edit(folder: Path, **values) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def without_tokenizer_json(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def without_config(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()


def cut_short(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:1000])


def with_a_gap(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"<|endoftext|>": 0, "a": 1, "b": 9}, unk_token="a"))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (without_end, r"tokenizer_config\.json: no `eos_token`"),
        (with_unknown_end, r"tokenizer_config\.json: `eos_token` '</s>' is not in tokenizer\.json"),
        (
            without_tokenizer_json,
            r"no tokenizer\.json here; load the tokenizer with transformers and `save_pretrained`",
        ),
        (without_config, r"no tokenizer_config\.json here"),
        (cut_short, r"not a tokenizer that transformers can load"),
        (with_a_gap, r"tokenizer\.json: 3 tokens with ids up to 9; ids must leave no gap"),
    ],
)
def test_a_tokenizer_that_cannot_serve_is_refused(trained, tmp_path, damage, reason):
    source = tmp_path / "source"
    shutil.copytree(trained, source)
    damage(source)
    with pytest.raises(StageError, match=reason) as error:
        take_over(source, tmp_path)
    assert str(error.value).startswith(str(source))


def test_a_tokenizer_is_taken_from_a_model_that_another_stage_made(trained, tmp_path):
    model = tmp_path / "artifacts/base/export/model"
    shutil.copytree(trained, model)
    (model / artifacts.MANIFEST).unlink()
    for name in ("card.json", "config.json", "model.safetensors"):
        (model / name).write_text("{}")
    artifacts.seal(model, "model")
    taken = take_over(model, tmp_path / "taken")
    artifacts.open_artifact(taken, "tokenizer")
    assert {path.name for path in taken.iterdir()} == {path.name for path in trained.iterdir()}
    assert (taken / "tokenizer.json").read_bytes() == (trained / "tokenizer.json").read_bytes()
