"""A card says what an artifact is: read strictly, and for as long as it is kept."""

import json

import pytest

from llmrecipe import cards
from llmrecipe.cards import DocumentsCard, MaskingCard, SplitCard, TokensCard
from llmrecipe.errors import RecipeError, StageError
from llmrecipe.recipe.schema import define

CARD = TokensCard(
    dtype="uint16",
    vocab_size=300,
    end_of_text_id=0,
    tokenizer="digest",
    splits={"train": SplitCard(files=("train/00000.ds",), tokens=7, documents=2, text_bytes=20)},
    special_tokens={"<|hole|>": 1},
    masking=MaskingCard(mask_token_id=4, special_ids=(0, 4), continuing_ids=(6, 9)),
)


def test_a_card_comes_back_as_it_was_written(tmp_path):
    cards.write(tmp_path, CARD)
    assert cards.read(tmp_path, TokensCard) == CARD
    assert [path.name for path in tmp_path.iterdir()] == ["card.json"]


def test_equal_cards_have_equal_bytes(tmp_path):
    written = []
    for name in "ab":
        (tmp_path / name).mkdir()
        cards.write(tmp_path / name, CARD)
        written.append((tmp_path / name / "card.json").read_bytes())
    assert written[0] == written[1]


def test_an_old_card_is_readable_by_a_class_with_a_later_field_and_stays_as_it_is(tmp_path):
    @define("documents_card")
    class Later(DocumentsCard):
        languages: tuple[str, ...] = ("unknown",)

    cards.write(tmp_path, DocumentsCard(files={"train": ("a",)}, documents={"train": 1}, text_bytes={"train": 5}))
    before = (tmp_path / "card.json").read_bytes()
    found = cards.read(tmp_path, Later)
    assert (found.languages, found.documents, found.version) == (("unknown",), {"train": 1}, 1)
    assert (tmp_path / "card.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "path", "reason"),
    [
        ({"vocab_size": "300"}, "vocab_size", r"must be int, got '300' \(str\)"),
        ({"dtype": "float16"}, "dtype", "must be 'uint16' or 'uint32'"),
        ({"colour": "red"}, "colour", "no such field"),
        ({"splits": {"train": {"files": []}}}, "splits", "is missing|tokens"),
    ],
)
def test_a_card_that_is_not_one_is_refused_with_its_path(tmp_path, change, path, reason):
    cards.write(tmp_path, CARD)
    file = tmp_path / "card.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(RecipeError, match=rf"card\.json\.{path}.*({reason})"):
        cards.read(tmp_path, TokensCard)


def test_an_artifact_without_a_card_names_the_remedy(tmp_path):
    with pytest.raises(StageError, match=r"card\.json: no such file; `dvc repro` makes it"):
        cards.read(tmp_path, TokensCard)
