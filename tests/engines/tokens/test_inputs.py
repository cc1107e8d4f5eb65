"""The tokens that a stage reads are those of its inputs, or a mixture that was made for them."""

from pathlib import Path

import numpy as np
import pytest

from llmrecipe.engines.tokens.inputs import Tokens
from llmrecipe.engines.tokens.writing import write_tokens
from llmrecipe.errors import StageError
from llmrecipe.recipe.machine import Machine
from llmrecipe.sections import MixSection
from llmrecipe.stages import mix
from llmrecipe.stages.runner import Inputs, StageContext


def tokens(directory: Path, first: int = 1) -> Path:
    splits = {"train": [np.arange(first, 100)], "heldout": [np.array([5, 6, 0, 7, 0]), np.array([8, 0])]}
    return write_tokens(directory, splits, vocab_size=100)


def mixed(folder: Path, shares: tuple[float, ...] = (3.0, 1.0), **parts: Path) -> dict[str, Path]:
    """A mixture as the stage makes it, and its parts, by role."""
    inputs = {f"tokens.{name}": path for name, path in parts.items()}
    output = folder / "mix"
    output.mkdir()
    mix.run(
        StageContext(
            name="web-books-mix",
            section=MixSection(shares=shares),
            inputs=Inputs(inputs),
            output=output,
            machine=Machine(),
            scratch=folder,
        )
    )
    return {"mixture": output / "mixture"} | inputs


def test_a_corpus_alone_has_all_shares(tmp_path):
    found = Tokens.of({"tokens": tokens(tmp_path / "t")})
    assert (found.directories, found.shares) == ({"": tmp_path / "t"}, (1.0,))
    assert found.open("train").num_tokens == 99


def test_a_mixture_has_the_names_the_order_and_the_shares_of_its_card(tmp_path):
    inputs = mixed(tmp_path, web=tokens(tmp_path / "w"), books=tokens(tmp_path / "b", first=50))
    found = Tokens.of(inputs)
    assert (found.directories, found.shares) == ({"web": tmp_path / "w", "books": tmp_path / "b"}, (3.0, 1.0))
    mixture = found.open("train")
    assert mixture.fractions == (0.75, 0.25)
    assert [files.num_tokens for files in mixture.corpora] == [99, 50]


def test_a_mixture_holds_a_card_alone(tmp_path):
    inputs = mixed(tmp_path, web=tokens(tmp_path / "w"), books=tokens(tmp_path / "b"))
    assert {path.name for path in inputs["mixture"].iterdir()} == {"card.json", "manifest.json"}


def test_inputs_that_are_not_those_of_the_mixture_are_refused(tmp_path):
    web, books = tokens(tmp_path / "w"), tokens(tmp_path / "b", first=50)
    inputs = mixed(tmp_path, web=web, books=books)
    mixture = {"mixture": inputs["mixture"]}
    with pytest.raises(
        StageError, match=r"mixes the corpora web, books, and the inputs are books, web; run `llmrecipe"
    ):
        Tokens.of(mixture | {"tokens.books": books, "tokens.web": web})
    with pytest.raises(StageError, match=r"^.*/w: not the tokens that .*/mixture was made for; run `dvc repro`"):
        Tokens.of(mixture | {"tokens.web": tokens(tmp_path / "w", first=2), "tokens.books": books})
    with pytest.raises(StageError, match=r"names no `inputs\.mixture`"):
        Tokens.of(Inputs({"tokens.web": web}))


def test_corpora_that_do_not_go_together_make_no_mixture(tmp_path):
    web, books = tokens(tmp_path / "w"), tokens(tmp_path / "b")
    with pytest.raises(StageError, match=r"shares: 3 for the 2 corpora .*; give each one, in this order"):
        mixed(tmp_path, (1.0, 1.0, 1.0), web=web, books=books)


def test_held_out_documents_are_listed_across_files(tmp_path):
    (files,) = Tokens.of({"tokens": tokens(tmp_path / "t")}).open("heldout").corpora
    documents = files.documents()
    assert documents.ends.tolist() == [3, 5, 7]
    assert documents.text_bytes.tolist() == [3, 2, 2]
    assert len(set(documents.ids)) == 3


def test_a_list_of_documents_that_does_not_fit_its_tokens_is_refused(tmp_path):
    directory = tokens(tmp_path / "t")
    listing = directory / "heldout/00001.documents.jsonl"
    listing.write_text(listing.read_text().replace('"tokens": 2', '"tokens": 3'))
    (files,) = Tokens.of({"tokens": directory}).open("heldout").corpora
    with pytest.raises(StageError, match=r"3 documents of 8 tokens and 7 bytes are listed, card\.json has 3, 7 and 7"):
        files.documents()
