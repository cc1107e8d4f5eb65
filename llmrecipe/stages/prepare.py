"""Raw text to clean documents, split into training and held-out."""

import logging
import time

from llmrecipe import artifacts
from llmrecipe.engines.datatrove import prepare
from llmrecipe.recipe.corpus import ANY_SHARDS
from llmrecipe.sections import PrepareSection
from llmrecipe.stages.resumable import is_resumed, resumable
from llmrecipe.stages.runner import StageContext

log = logging.getLogger(__name__)


def run(context: StageContext[PrepareSection]) -> None:
    """Write the documents, how many there are, and examples of those that were dropped."""
    started = time.monotonic()
    with resumable(context, "documents") as work:
        resumed = is_resumed(work)
        metrics, dropped = prepare.prepare(context.section, work / "documents", context.machine, work)
        artifacts.seal(work / "documents", "documents")
    artifacts.write_json(context.output / "metrics.json", metrics)
    artifacts.write_jsonl(context.output / "dropped.jsonl", dropped)
    shards, count = context.section.shards, metrics["read"]["documents"]
    if shards > max(count, ANY_SHARDS):
        log.warning("shards = %d are too many for %d documents; use at most %d", shards, count, max(count, ANY_SHARDS))
    seconds = time.monotonic() - started
    if not resumed:
        context.measured["documents_per_second"] = round(metrics["read"]["documents"] / seconds, 1)
        context.measured["megabytes_per_second"] = round(metrics["read"]["text_bytes"] / 1e6 / seconds, 3)
