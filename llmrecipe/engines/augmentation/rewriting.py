"""Documents rewritten by models: in pieces, in batches, and each batch once."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

from llmrecipe import artifacts, codec, identity
from llmrecipe.engines.augmentation import pieces, selection
from llmrecipe.engines.augmentation.generation import Writer
from llmrecipe.errors import StageError
from llmrecipe.progress import GenerationProgress
from llmrecipe.recipe.augment import BackTranslate, Paraphrase, models


class Rewriter:
    """The models of an augmenter, one after the other."""

    def __init__(self, augmenter: BackTranslate | Paraphrase, where: str, device: torch.device) -> None:
        """Load the models; `where` is the augmenter's place in the section, for messages.

        Raises:
            StageError: a model can't be loaded, is of the wrong kind, or is too small for the pieces.
        """
        self._augmenter = augmenter
        prompt = {"prompt": augmenter.prompt} if isinstance(augmenter, Paraphrase) else {}
        self._writers = [
            Writer(
                model,
                where=f"{where}.{name}",
                decoding=augmenter.decoding,
                max_new_tokens=augmenter.max_new_tokens,
                device=device,
                **prompt,
            )
            for name, model in models(augmenter).items()
        ]
        if isinstance(augmenter, BackTranslate):
            for name, writer in zip(models(augmenter), self._writers, strict=True):
                if writer.is_causal:
                    raise StageError(
                        f"{where}.{name}: a causal model ({writer.config.model_type}), and translation needs a "
                        "sequence-to-sequence one, such as a MarianMTModel"
                    )
        self._writers[0].check_room(augmenter.piece_tokens, where)

    @property
    def batch_size(self) -> int:
        """Pieces of a batch."""
        return self._augmenter.batch_size

    def split(self, text: str) -> list[str]:
        """The pieces of a text, which must not have white space at its ends; joined they are the text."""
        return pieces.split(text, self.lengths, self._augmenter.piece_tokens)

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each of some texts."""
        return self._writers[0].text_lengths(texts)

    def rewrite(self, texts: Sequence[str], ids: Sequence[str]) -> tuple[list[str | None], int]:
        """What becomes of a batch of texts, and the tokens written; None for one that wasn't finished.

        What is drawn for a text depends on its id and the augmenter's seed.
        """
        results: list[str | None] = list(texts)
        total = 0
        for step, writer in enumerate(self._writers):
            # Nothing is made of nothing.
            alive = [index for index, text in enumerate(results) if text]
            if not alive:
                break
            seeds = [selection.digest("draw", step, selection.rank(self._augmenter, ids[index])) for index in alive]
            answers, tokens = writer.answer([results[index] or "" for index in alive], seeds)
            total += tokens
            for index, answer in zip(alive, answers, strict=True):
                results[index] = answer
        return results, total


@attrs.frozen
class _Piece:
    document: int
    number: int
    gap: str
    text: str
    share: float
    """Its share of the document."""


def rewritten(
    rewriter: Rewriter, documents: Sequence[dict[str, str]], folder: Path, progress: GenerationProgress
) -> Iterator[str | None]:
    """Each document rewritten, or None where a piece wasn't finished.

    Pieces go in batches, the long ones first and then by the ids of their documents. So neither the order of the
    documents nor an interruption changes a batch; those found in `folder` are taken from there.
    """
    cut = [_pieces(rewriter, index, document["text"]) for index, document in enumerate(documents)]
    every = [piece for of_document in cut for piece in of_document]
    lengths = dict(zip(every, rewriter.lengths([piece.text for piece in every]), strict=True))
    every.sort(key=lambda piece: (-lengths[piece], documents[piece.document]["id"], piece.number))
    size = rewriter.batch_size
    results: dict[_Piece, str | None] = {}
    for start in range(0, len(every), size):
        batch = every[start : start + size]
        part = sum(piece.share for piece in batch)
        file = folder / f"{start // size}.json"
        if file.exists():
            texts = json.loads(file.read_text(encoding="utf-8"))
            progress.resumed(part)
        else:
            ids = [f"{documents[piece.document]['id']}#{piece.number}" for piece in batch]
            texts, tokens = rewriter.rewrite([piece.text for piece in batch], ids)
            folder.mkdir(parents=True, exist_ok=True)
            artifacts.write_json(file, texts)
            progress.batch(part, tokens)
        results |= zip(batch, texts, strict=True)
    for of_document in cut:
        texts = [results[piece] for piece in of_document]
        yield None if None in texts else "".join(map(str.__add__, (piece.gap for piece in of_document), texts))


def decides(
    augmenter: BackTranslate | Paraphrase, *, revision: int, documents: Path, device: torch.device
) -> dict[str, Any]:
    """All that decides what the models write.

    What is then kept of the texts is no part of it, so other bands write nothing again.

    Args:
        augmenter: what is done.
        revision: of the section.
        documents: the artifact of the documents.
        device: another one rounds differently.
    """
    plain = codec.unstructure(augmenter)
    files = {
        path.as_posix(): artifacts.file_digest(path)
        for model in models(augmenter).values()
        if isinstance(model, str)
        for path in sorted(Path(model).rglob("*"))
        if path.is_file()
    }
    wanted = {name: value for name, value in plain.items() if name not in ("similarity", "length_ratio")}
    return wanted | {
        "tag": augmenter.tag,
        "revision": revision,
        "documents": identity.of_artifact(documents),
        "device": device.type,
        "files": files,
    }


def _pieces(rewriter: Rewriter, index: int, text: str) -> list[_Piece]:
    inner = text.strip()
    found = []
    for number, piece in enumerate(rewriter.split(inner)):
        bare = piece.lstrip()
        found.append(_Piece(index, number, piece[: len(piece) - len(bare)], bare, len(piece) / len(inner)))
    return found
