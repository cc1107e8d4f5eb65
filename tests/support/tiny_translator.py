"""A Marian translator that learns its dictionary in seconds, through transformers' own classes."""

import json
from pathlib import Path

import sentencepiece
import torch
from transformers import MarianConfig, MarianMTModel, MarianTokenizer

DICTIONARY = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier", "single": "eins", "double": "zwei"}
"""Two words have a synonym, which a translation there and back puts in the place of the rarer one."""

BACK = {"eins": "one", "zwei": "two", "drei": "three", "vier": "four"}

_STEPS = 600


def there_and_back(text: str) -> str:
    """What a translator without errors makes of a text."""
    return " ".join(BACK[DICTIONARY[word]] for word in text.split())


def make(directory: Path) -> Path:
    """Train a model that translates either language into the other."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    words = [*DICTIONARY, *BACK]
    _write_tokenizer(directory, words)
    size = len(words) + 3
    model = MarianMTModel(
        MarianConfig(
            vocab_size=size,
            d_model=48,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=96,
            decoder_ffn_dim=96,
            dropout=0.0,
            scale_embedding=True,
            max_position_embeddings=64,
            eos_token_id=0,
            pad_token_id=size - 1,
            decoder_start_token_id=size - 1,
            # As in the published models.
            forced_eos_token_id=0,
        )
    )
    translation = torch.tensor([words.index(other) + 2 for other in [*DICTIONARY.values(), *BACK.values()]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, _STEPS)
    end = torch.zeros(32, 1, dtype=torch.int64)
    for step in range(_STEPS):
        text = torch.randint(len(words), (32, 2 + step % 5))
        model(input_ids=torch.cat([text + 2, end], 1), labels=torch.cat([translation[text], end], 1)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    model.save_pretrained(directory)
    return directory


def _write_tokenizer(directory: Path, words: list[str]) -> None:
    directory.mkdir(parents=True)
    for name in ("source", "target"):
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([" ".join(words)] * 20),
            model_prefix=str(directory / name),
            model_type="word",
            vocab_size=len(words) + 3,
            minloglevel=2,
        )
        (directory / f"{name}.model").rename(directory / f"{name}.spm")
    vocabulary = ["</s>", "<unk>", *(f"▁{word}" for word in words), "<pad>"]
    (directory / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(vocabulary)}))
    files = (directory / name for name in ("source.spm", "target.spm", "vocab.json"))
    MarianTokenizer(*map(str, files)).save_pretrained(directory)
