"""Models as somebody publishes them, made with transformers, and their import."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tiny_model import stage_context, write_tokenizer
from transformers import BertConfig, BertForMaskedLM, BertModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from llmrecipe import PretrainedModel
from llmrecipe.sections import ImportSection
from llmrecipe.stages import import_model

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
TOKENS = torch.arange(3, 43)[None]


def perturbed(model: PreTrainedModel) -> PreTrainedModel:
    """With no weight at the value that transformers begins with."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model.eval()


def llama(**changes) -> LlamaForCausalLM:
    options = SHAPE | {"vocab_size": 384, "num_key_value_heads": 2, "eos_token_id": 0} | changes
    return perturbed(LlamaForCausalLM(LlamaConfig(**options)))


def bert(cls=BertForMaskedLM) -> BertForMaskedLM | BertModel:
    return perturbed(cls(BertConfig(**SHAPE, vocab_size=384)))


def saved(model: PreTrainedModel, directory: Path, **options) -> Path:
    """A folder as somebody publishes it."""
    model.save_pretrained(directory, **options)
    write_tokenizer(directory)
    return directory


def rewritten(directory: Path, change) -> Path:
    """The folder with its weights changed by a function of the state."""
    file = directory / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    return directory


def imported(name: str = "theirs", **options) -> Path:
    """The model artifact of an import; without a place of its own it is that in `models/theirs`."""
    asked = PretrainedModel(name=name, **{"path": "models/theirs"} | options)
    inputs = {"source": Path(asked.path)} if asked.path and asked.package is None else {}
    import_model.run(stage_context(ImportSection(model=asked), inputs, Path("artifacts") / name / "import"))
    return Path("artifacts") / name / "import" / "model"
