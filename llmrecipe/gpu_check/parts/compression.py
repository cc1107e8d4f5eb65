"""Whether a model can be quantized here, loaded again, and write."""

import inspect
import textwrap
from pathlib import Path
from typing import Any

import torch

from llmrecipe import artifacts, cards
from llmrecipe.cards import ModelCard
from llmrecipe.engines.models import folders
from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.tokenizing.training import train
from llmrecipe.engines.tokens.writing import write_tokens
from llmrecipe.gpu_check.outcome import Outcome
from llmrecipe.gpu_check.scale import Scale
from llmrecipe.recipe.scheme import W4A16
from llmrecipe.recipe.tokenizer import ByteLevelBPE
from llmrecipe.sections import QuantizeSection
from llmrecipe.stages import quantize
from llmrecipe.stages.runner import StageContext

_END = 0
"""The token that ends a text; the first of a tokenizer for bytes."""


def run(scale: Scale, folder: Path) -> Outcome:
    """4-bit weights by the stage itself, which compares what it has saved; then the model writes, on the device."""
    text = inspect.getsource(textwrap)
    tokenizer = train(ByteLevelBPE(vocab_size=scale.small.vocab_size), lambda: [text], folder / "tokenizer")
    source = _model(scale, len(tokenizer), folder)
    row = tokenizer(text)["input_ids"]
    tokens = write_tokens(folder / "tokens", {"train": [row], "heldout": [row]}, vocab_size=len(tokenizer))
    output = folder / "quantized"
    quantize.run(
        StageContext(
            name="check-quantize",
            section=QuantizeSection(scheme=W4A16(group_size=32), calibration_samples=8, seed=0),
            inputs={"model": source, "tokens": tokens},
            output=output,
            machine=scale.machine,
            scratch=folder,
        )
    )
    report = artifacts.read_json(output / "metrics.json")
    model: Any = folders.load_model(output / "model").to(scale.device)
    prompt = torch.tensor([row[:8]], device=scale.device)
    options = {"min_new_tokens": scale.new_tokens, "max_new_tokens": scale.new_tokens, "do_sample": False}
    written = model.generate(prompt, attention_mask=torch.ones_like(prompt), pad_token_id=_END, **options)[0]
    is_finite = bool(folders.logits(model, written[None]).isfinite().all())
    found = {
        "scheme": "W4A16",
        "bits a weight": report["bits_per_linear_weight"],
        "layers by GPTQ": report["gptq_layers"],
        "of them rounded to nearest": report["gptq_layers_rounded_to_nearest"],
        "new tokens": len(written) - prompt.shape[1],
        "finite": is_finite,
    }
    failures = [] if found["new tokens"] == scale.new_tokens else [f"it wrote {found['new tokens']} tokens"]
    failures += [] if is_finite else ["its logits aren't finite"]
    failures += ["GPTQ failed for some layers"] if report["gptq_layers_rounded_to_nearest"] else []
    return Outcome(tables={"a quantized model": [found]}, failures=failures)


def _model(scale: Scale, vocab_size: int, folder: Path) -> Path:
    """A model artifact of first weights."""
    network, directory = scale.small.network, folder / "model"
    architecture = architecture_of(network)
    weights = architecture.first_weights(network, vocab_size, _END, seed=0)
    made = architecture.transformers_network(weights, network, vocab_size, _END)
    folders.save_model(made, folder / "tokenizer", directory)
    card = ModelCard(
        network=network,
        objective=scale.small.model().objective,
        vocab_size=vocab_size,
        end_of_text_id=_END,
        tokenizer="",
        made_by="export",
        parents={},
    )
    cards.write(directory, card)
    artifacts.seal(directory, "model")
    return directory
