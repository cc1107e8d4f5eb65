import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmrecipe.engines.models.folders import continuation

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = ["▁", "▁river", "walker", "▁walker", ".", "▁."]


def sentencepiece(**options) -> PreTrainedTokenizerFast:
    """A tokenizer as Llama 2 has it: a space before the text, which the decoder takes away again."""
    vocabulary = [(token, -float(len(token) == 1)) for token in ("</s>", *BYTES, *WORDS)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", **options)


def metaspace(**options) -> PreTrainedTokenizerFast:
    vocabulary = [("</s>", 0.0), *((word, -1.0) for word in WORDS)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", **options)


@pytest.mark.parametrize("kind", [sentencepiece, metaspace])
@pytest.mark.parametrize("tidies", [False, True])
def test_a_completion_keeps_its_first_space(kind, tidies):
    tokenizer = kind(clean_up_tokenization_spaces=tidies)
    tokens = tokenizer("river walker .", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(tokens) == ["▁river", "▁walker", "▁."]
    assert [continuation(tokenizer, tokens, length) for length in (1, 2, 3)] == [" walker .", " .", ""]
    joined = tokenizer.convert_tokens_to_ids(["▁river", "walker", "</s>"])
    assert continuation(tokenizer, joined, 1) == "walker"


TOKENIZER = sentencepiece()


@given(st.text(st.sampled_from("riverwalker .é漢🙂\n"), min_size=1), st.data())
def test_every_text_is_continued_by_what_follows(text, data):
    tokens = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    length = data.draw(st.integers(1, len(tokens)))
    before = TOKENIZER.decode(tokens[:length])
    if text.startswith(before):
        assert before + continuation(TOKENIZER, tokens, length) == text


def test_bytes_that_are_no_text_spoil_nothing_of_the_prompt():
    tokens = [*TOKENIZER("é", add_special_tokens=False)["input_ids"], TOKENIZER.convert_tokens_to_ids("<0xFF>")]
    assert continuation(TOKENIZER, tokens, len(tokens) - 1) == "\N{REPLACEMENT CHARACTER}"
