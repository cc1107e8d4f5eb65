"""AutoRound leaves a model in its own number format, also where a layer computes elsewhere than its weights are."""

import pytest
import tiny_model
import torch

from llmrecipe.engines.compression import quantization
from llmrecipe.engines.compression.oneshot import linear_layers, ours
from llmrecipe.engines.models import folders
from llmrecipe.recipe.scheme import W4A16, AutoRound
from llmrecipe.sections import QuantizeSection


@pytest.fixture
def on_gpus(monkeypatch):
    """What is on the CPU is given out as a copy, as a GPU's would be."""
    ours("fallbacks")
    from compressed_tensors.offload.cache.cpu import CPUCache

    def copy(_: object, kept: torch.Tensor | None) -> torch.Tensor | None:
        if isinstance(kept, torch.nn.Parameter):
            return torch.nn.Parameter(kept.detach().clone(), requires_grad=False)
        return None if kept is None else kept.clone()

    monkeypatch.setattr(CPUCache, "onload", copy)


@pytest.mark.parametrize("place", ["here", "elsewhere"])
def test_what_is_not_rounded_stays_as_it_was_and_the_rest_in_its_number_format(tmp_path, request, place):
    if place == "elsewhere":
        request.getfixturevalue("on_gpus")
    tokenizer = tiny_model.write_tokenizer(tmp_path / "tokenizer")
    written = tiny_model.write_model(tiny_model.new_model(), tmp_path / "tokenizer", tmp_path / "model")
    model = folders.load_model(written)
    for name, weight in model.named_parameters():
        # What bfloat16 hasn't.
        weight.data = weight.data + 0.001 * torch.randn_like(weight) if "norm" in name else weight.data.clone()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    section = QuantizeSection(
        scheme=W4A16(group_size=32, rounding=AutoRound(iterations=2)), calibration_samples=4, seed=0
    )
    tokens = torch.randint(0, 300, (4, 32), generator=torch.Generator().manual_seed(0))
    quantization.quantize(model, tokenizer, section, tokens, torch.device("cpu"))
    after = {name: weight.detach() for name, weight in model.named_parameters()}
    assert {after[name].dtype for name in before} == {torch.float32}
    rounded = {f"{name}.weight" for name in linear_layers(model)}
    assert all(after[name].equal(weight) for name, weight in before.items() if name not in rounded)
    scales = [weight for name, weight in after.items() if name.endswith("weight_scale")]
    assert scales
    assert all(scale.equal(scale.bfloat16().to(scale.dtype)) for scale in scales)
    assert model(input_ids=tokens).logits.dtype == torch.float32
