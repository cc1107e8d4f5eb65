import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from corpora import contents, run, write_jsonl
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from llmrecipe import artifacts
from llmrecipe.errors import StageError
from llmrecipe.recipe.source import JsonlFiles
from llmrecipe.recipe.tokenizer import ByteLevelBPE, PretrainedTokenizer
from llmrecipe.sections import PrepareSection, TokenizerSection

TEXTS = [f"def function_{n}(argument):\n    return argument + {n}  # été 🙂\n" for n in range(200)]


@pytest.fixture(scope="module")
def documents(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    source = JsonlFiles(paths=(str(write_jsonl(folder / "a.jsonl", TEXTS)),))
    return (
        run("prepare", PrepareSection(source=source, clean=(), heldout_fraction=0.1, shards=2), folder).output
        / "documents"
    )


@pytest.fixture(scope="module")
def trained(documents, tmp_path_factory) -> Path:
    return train(documents, tmp_path_factory.mktemp("trained")).output / "tokenizer"


def train(documents: Path, folder: Path, vocab_size: int = 300):
    section = TokenizerSection(tokenizer=ByteLevelBPE(vocab_size=vocab_size))
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
    assert f"only {size} of the 50000 tokens" in caplog.text


@pytest.mark.slow
def test_the_number_of_threads_changes_no_byte_of_the_tokenizer(documents, tmp_path):
    script = (
        "import sys; from pathlib import Path; from llmrecipe.engines import tokenizers;"
        "from llmrecipe.engines.datatrove import documents; from llmrecipe.recipe.tokenizer import ByteLevelBPE;"
        "texts = documents.texts(Path(sys.argv[1]), 'train');"
        "tokenizers.train(ByteLevelBPE(vocab_size=600), texts, Path(sys.argv[2]))"
    )
    outputs = []
    for parallel, threads in (("false", "1"), ("true", "2")):
        folder = tmp_path / f"{parallel}{threads}"
        environment = os.environ | {"TOKENIZERS_PARALLELISM": parallel, "RAYON_NUM_THREADS": threads}
        subprocess.run([sys.executable, "-c", script, documents, folder], env=environment, check=True)
        outputs.append(contents(folder))
    assert outputs[0] == outputs[1]


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
