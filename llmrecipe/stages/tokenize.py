"""Documents to token files."""

import logging
import time

from llmrecipe import artifacts
from llmrecipe.engines.datatrove import tokenize
from llmrecipe.engines.tokenizing import folders
from llmrecipe.engines.tokens.files import TokenFiles
from llmrecipe.lost import LostText
from llmrecipe.sections import TokenizeSection
from llmrecipe.stages.resumable import is_resumed, resumable
from llmrecipe.stages.runner import StageContext

log = logging.getLogger(__name__)

_MOST_UNKNOWN = 0.001
"""The share of unknown tokens that is not worth a warning."""


def run(context: StageContext[TokenizeSection]) -> None:
    """Write the token files and how many tokens they hold.

    `metrics.json` holds, for each split, `tokens`, `documents`, what is `lost` of the text (the fields of `LostText`),
    if that is little `bytes_per_token` (UTF-8), and, if the tokenizer has a token of its own for what it doesn't know,
    that token's share, `unknown_share`.
    """
    documents, tokenizer = context.inputs["documents"], context.inputs["tokenizer"]
    artifacts.open_artifact(documents, "documents")
    artifacts.open_artifact(tokenizer, "tokenizer")
    loaded = folders.load(tokenizer)
    vocabulary = tokenize.Vocabulary(
        file=tokenizer / folders.TOKENIZER_FILE,
        size=len(loaded),
        end_of_text=folders.end_of_text(loaded),
        end_of_text_id=folders.end_of_text_id(loaded),
        special_tokens=folders.special_tokens(tokenizer),
        masking=folders.masking(loaded),
        digest=context.parents["tokenizer"],
    )
    with resumable(context, "tokens") as work:
        started, resumed = time.monotonic(), is_resumed(work)
        metrics = tokenize.tokenize(documents, vocabulary, work / "tokens", context.machine, work)
        rate = sum(split["tokens"] for split in metrics.values()) / (time.monotonic() - started)
        artifacts.seal(work / "tokens", "tokens")
        # GPT-2 names its end-of-text token here, too.
        if loaded.unk_token_id not in (None, folders.end_of_text_id(loaded)):
            for split, counts in metrics.items():
                unknown = TokenFiles.open(work / "tokens", split).token_counts()[loaded.unk_token_id]
                counts["unknown_share"] = int(unknown) / counts["tokens"]
                if counts["unknown_share"] > _MOST_UNKNOWN:
                    log.warning(
                        "%.1f %% of the %s tokens are %r, what the tokenizer doesn't know; use a larger vocab_size, or "
                        "a tokenizer that spells what it doesn't know in bytes, such as ByteLevelBPE",
                        100 * counts["unknown_share"],
                        split,
                        loaded.unk_token,
                    )
    for split, counts in metrics.items():
        LostText(**counts["lost"]).say(split)
    artifacts.write_json(context.output / "metrics.json", metrics)
    if not resumed:
        context.measured["tokens_per_second"] = round(rate, 1)
    speed = "" if resumed else f", {rate:.0f} tokens/s"
    log.info("%d training tokens%s", metrics["train"]["tokens"], speed)
