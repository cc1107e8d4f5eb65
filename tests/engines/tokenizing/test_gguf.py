"""The tokenizer of a GGUF file; that its ids are llama.cpp's is shown with the real one, by the tests of the import."""

from llmrecipe.engines.tokenizing.gguf import PRE_TOKENIZERS
from llmrecipe.pretrained import gguf


def test_every_way_to_split_that_a_check_lets_pass_can_be_made():
    assert tuple(PRE_TOKENIZERS) == gguf.PRE_TOKENIZERS
    for name, make in PRE_TOKENIZERS.items():
        words = [word for word, _ in make().pre_tokenize_str("I'll add 1234 and 5.")]
        digits = [word for word in words if any(character.isdigit() for character in word)]
        assert "".join(words).replace("Ġ", " ") == "I'll add 1234 and 5."
        expected = {"gpt-2": ["Ġ1234", "Ġ5"], "llama-bpe": ["123", "4", "5"]}
        assert [digit.strip("Ġ") for digit in digits] == [
            digit.strip("Ġ") for digit in expected.get(name, ["1", "2", "3", "4", "5"])
        ]
