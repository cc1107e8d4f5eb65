"""Trained weights to a directory in the transformers format, checked against the engine that trained them."""

import json

import torch
from transformers import LlamaForCausalLM

from llmrecipe import artifacts, codec
from llmrecipe.engines import hf
from llmrecipe.engines.nanotron import bootstrap, llama, weights
from llmrecipe.errors import StageError
from llmrecipe.recipe.model import Llama
from llmrecipe.stages.runner import StageContext


def run(context: StageContext) -> None:
    """Convert, save, load back and compare logits in float32.

    Raises:
        StageError: the saved model's logits differ from nanotron's by more than the section's tolerance.
    """
    checkpoint, tokenizer = context.inputs["checkpoint"], context.inputs["tokenizer"]
    artifacts.open_artifact(checkpoint, "checkpoint")
    artifacts.open_artifact(tokenizer, "tokenizer")
    description = json.loads((checkpoint / "model.json").read_text(encoding="utf-8"))
    model = codec.structure(description["model"], Llama, "model")
    sizes = description["vocab_size"], description["end_of_text_id"]
    trained = weights.load(checkpoint)
    folder = context.output / "model"
    hf.save_model(_network(trained, model, *sizes), tokenizer, folder)
    artifacts.seal(folder, "model")

    # Any tokens do, as long as they reach many positions; the same in every run.
    length = min(model.max_position_embeddings, 128)
    tokens = torch.randint(0, sizes[0], (2, length), generator=torch.Generator().manual_seed(0))
    bootstrap.load("cpu")
    from llmrecipe.engines.nanotron import network

    expected = network.logits(trained, model, *sizes, tokens)
    with torch.no_grad():
        found = hf.load_model(folder).float()(tokens).logits
    difference = (expected - found).abs().max().item()
    if not difference <= context.section.logits_tolerance:
        raise StageError(
            f"{context.name}: logits of the exported model differ from nanotron's by {difference:.2e}, more than "
            f"logits_tolerance = {context.section.logits_tolerance:.0e}; the export is wrong, please report it"
        )
    context.measured["logits_difference"] = difference


def _network(trained: dict[str, torch.Tensor], model: Llama, vocab_size: int, end_of_text_id: int) -> LlamaForCausalLM:
    dtype = next(iter(trained.values())).dtype
    with torch.device("meta"):
        network = LlamaForCausalLM(llama.transformers_config(model, vocab_size, end_of_text_id)).to(dtype)
    network.load_state_dict(llama.to_transformers(trained, model), assign=True)
    network.tie_weights()
    return network
