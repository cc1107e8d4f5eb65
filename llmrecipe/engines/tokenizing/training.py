"""Trains tokenizers; equal texts give equal bytes.

Of the trainers in `tokenizers`, the one for bytes does by itself. The others follow the order of a hash table, which
changes from run to run: it decides between merges of equal frequency, and the last digits of Unigram's scores.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import sentencepiece
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizer, PreTrainedTokenizerFast

from llmrecipe.errors import StageError
from llmrecipe.recipe.tokenizer import ByteLevelBPE, TrainedTokenizer, Unigram, WordPiece

Texts = Callable[[], Iterable[str]]
"""The texts from the first to the last, each time it is called."""

_MIN_FREQUENCY = 2
"""A pair of tokens that occurs once says nothing about the language."""

_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""GPT-2's words (Radford et al. 2019), as `pre_tokenizers.ByteLevel` has them: letters, digits, other signs, white
space, the first three with a space before them. They join to the whole text, and none holds letters and other signs, so
that no word looks like a token for a byte, `<0x0A>`."""

_LONGEST_WORD = 1000
"""Characters of the longest word that pieces are learned from: a longer one is no word."""

_STAND_INS = str.maketrans({" ": "▁", "\t": "␉"})
"""SentencePiece marks a space by the one, and can't learn from the other, which it keeps for itself."""

_CUT = "\t"

_RESERVED = frozenset("\0▅▁␉")
"""Characters that SentencePiece can't learn from, or that would be taken for those that they replace."""

_SENTENCEPIECE_THREADS = 16
"""The sums of the threads are added up, so their number shows in the last digits; their speed doesn't."""

_WORD_PIECE_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train(description: TrainedTokenizer, texts: Texts, directory: Path) -> PreTrainedTokenizerFast:
    """Train the tokenizer that is described and save it to `directory`.

    The vocabulary is smaller than asked for if the texts give no more.

    Raises:
        StageError: the texts are too little to learn pieces from.
    """
    match description:
        case ByteLevelBPE():
            tokenizer = _byte_level_bpe(description, texts)
        case Unigram():
            tokenizer = _unigram(description, texts)
        case WordPiece():
            tokenizer = _word_piece(description, texts)
    tokenizer.save_pretrained(directory)
    return tokenizer


def left_out(description: Unigram | WordPiece, texts: Texts) -> int:
    """How many characters of the texts have no token because of `character_coverage`, whatever room there is."""
    counts = _characters(description, texts)
    return len(counts) - len(_frequent(counts, description.character_coverage, len(counts)))


def _characters(description: Unigram | WordPiece, texts: Texts) -> Counter[str]:
    """How often each character is in the texts as the tokenizer reads them, where it is part of a word."""
    counts: Counter[str] = Counter()
    if isinstance(description, Unigram):
        for text in texts():
            counts.update(text)
        return counts
    normalizer = normalizers.BertNormalizer(lowercase=description.lowercase)
    for text in texts():
        counts.update(normalizer.normalize_str(text))
    # What it makes of every white space.
    del counts[" "]
    return counts


def _byte_level_bpe(description: ByteLevelBPE, texts: Texts) -> PreTrainedTokenizerFast:
    """The end-of-text token has id 0, special tokens and the 256 bytes follow, then the merges as they were learned."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=description.vocab_size,
        min_frequency=_MIN_FREQUENCY,
        special_tokens=[description.end_of_text, *description.special_tokens],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return _language_models(tokenizer, description)


def _unigram(description: Unigram, texts: Texts) -> PreTrainedTokenizerFast:
    """The end-of-text token has id 0, `<unk>`, special tokens and the 256 bytes follow, then the likeliest pieces."""
    unknown = "<unk>"
    special = (description.end_of_text, unknown, *description.special_tokens)
    vocabulary = [(token, 0.0) for token in (*special, *(f"<0x{byte:02X}>" for byte in range(256)))]
    pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    words: Counter[str] = Counter()
    for text in texts():
        words.update(word for word, _ in pre_tokenizer.pre_tokenize_str(text))
    pieces = _pieces(words, description.vocab_size - len(vocabulary), description.character_coverage)
    vocabulary += [(piece, score) for piece, score in pieces if piece not in special]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=1, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return _language_models(tokenizer, description, unk_token=unknown)


def _pieces(words: Counter[str], most: int, coverage: float) -> list[tuple[str, float]]:
    """At most that many pieces of the words, with the logarithms of their probabilities."""
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    wanted = len(_frequent(characters, coverage, len(characters)))
    found = _learned(words, _frequent(characters, coverage, most // 2), characters, most)
    left = most - len(found)
    if left and most // 2 < wanted:
        found = _learned(words, _frequent(characters, coverage, min(most, most // 2 + left)), characters, most)
    return found


def _learned(words: Counter[str], alphabet: set[str], characters: Counter[str], most: int) -> list[tuple[str, float]]:
    """At most that many pieces of these characters."""
    kept = alphabet - _RESERVED
    table = _STAND_INS | {ord(character): _CUT for character in characters.keys() - kept}
    parts: Counter[str] = Counter()
    for word, count in words.items():
        if len(word) <= _LONGEST_WORD:
            for part in word.translate(table).split(_CUT):
                parts[part] += count
    del parts[""]
    if not parts:
        return []
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(f"{part}\t{parts[part]}" for part in sorted(parts)),
            input_format="tsv",
            model_writer=written,
            model_type="unigram",
            # One is its own, for what is unknown.
            vocab_size=most + 1,
            hard_vocab_limit=False,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            character_coverage=1.0,
            max_sentence_length=4 * _LONGEST_WORD + 32,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            split_by_whitespace=False,
            allow_whitespace_only_pieces=True,
            num_threads=_SENTENCEPIECE_THREADS,
            minloglevel=1,
        )
    except RuntimeError as error:
        raise StageError(
            f"SentencePiece can't learn pieces from the corpus: {error}. It may be too little text, or too much alike; "
            "use more of it, or the tokenizer ByteLevelBPE"
        ) from error
    model = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    back = {ord(stand_in): original for original, stand_in in _STAND_INS.items()}
    return [
        (model.id_to_piece(index).translate(back), model.get_score(index)) for index in range(1, model.get_piece_size())
    ]


def _word_piece(description: WordPiece, texts: Texts) -> PreTrainedTokenizerFast:
    """The special tokens come first, then the characters that continue a word, those that begin one, and the merges."""
    normalizer = normalizers.BertNormalizer(lowercase=description.lowercase)
    pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    characters = _characters(description, texts)
    # Punctuation and Chinese characters are words by themselves, and continue none.
    inside = {
        character
        for character in characters
        if len(pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(f"a{character}"))) == 1
    }
    wanted = _frequent(characters, description.character_coverage, len(characters))
    ranked = sorted(wanted, key=lambda character: (-characters[character], character))

    def fitting(room: int) -> dict[str, int]:
        """The most frequent characters that at most this many tokens hold, and how many each takes."""
        found = {}
        for character in ranked:
            takes = 1 + (character in inside)
            if takes <= room:
                found[character] = takes
                room -= takes
        return found

    def learned(characters: Iterable[str]) -> Tokenizer:
        alphabet = sorted(characters)
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = pre_tokenizer
        # The trainer would number characters as it meets them, and of merges of equal frequency it takes the one with
        # the lowest numbers.
        trainer = trainers.WordPieceTrainer(
            vocab_size=description.vocab_size,
            min_frequency=_MIN_FREQUENCY,
            special_tokens=[*_WORD_PIECE_SPECIAL, *(f"##{each}" for each in alphabet if each in inside)],
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts(), trainer)
        return tokenizer

    alphabet = fitting((description.vocab_size - len(_WORD_PIECE_SPECIAL)) // 2)
    tokenizer = learned(alphabet)
    left = description.vocab_size - tokenizer.get_vocab_size()
    if left and len(alphabet) < len(ranked):
        tokenizer = learned(fitting(sum(alphabet.values()) + left))
    return BertTokenizer(
        vocab=tokenizer.get_vocab(),
        do_lower_case=description.lowercase,
        bos_token="[CLS]",
        eos_token="[SEP]",
    )


def _frequent(counts: Counter[str], coverage: float, most: int) -> set[str]:
    """The fewest characters that make up that share of all, the most frequent first; not more than `most`."""
    found, left = set(), coverage * counts.total()
    for character, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:most]:
        if left <= 0:
            break
        found.add(character)
        left -= count
    return found


def _language_models(
    tokenizer: Tokenizer, description: ByteLevelBPE | Unigram, **tokens: str | list[str]
) -> PreTrainedTokenizerFast:
    """In transformers' terms, with one token for the begin, the end and the padding."""
    end_of_text = description.end_of_text
    if description.special_tokens:
        tokens["extra_special_tokens"] = list(description.special_tokens)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=end_of_text,
        eos_token=end_of_text,
        pad_token=end_of_text,
        clean_up_tokenization_spaces=False,
        **tokens,
    )
