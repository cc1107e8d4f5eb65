"""Attention of a token that is written: the same as transformers', without copies of keys."""

import pytest
import tiny_model
import torch
from transformers import GenerationConfig
from transformers.integrations import sdpa_attention

from llmrecipe.engines.models.grouped import grouped

PROMPTS = torch.tensor([[0, 0, 0, 5, 6, 7], [8, 9, 10, 11, 12, 13]])
MASK = torch.tensor([[0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1]])


@pytest.fixture
def model():
    made = tiny_model.new_model(num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2).eval()
    made.generation_config = GenerationConfig(max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)
    return made


def written(model, mask=MASK):
    with torch.inference_mode():
        options = {"output_logits": True, "return_dict_in_generate": True}
        found = model.generate(input_ids=PROMPTS, attention_mask=mask, **options)
    return found.sequences, torch.stack(found.logits)


@pytest.mark.parametrize("mask", [MASK, torch.ones_like(MASK)], ids=["of several lengths", "of one length"])
def test_a_model_writes_what_it_does_without(model, mask):
    tokens, logits = written(model, mask)
    with grouped(model):
        found_tokens, found_logits = written(model, mask)
    assert (found_tokens == tokens).all()
    torch.testing.assert_close(found_logits, logits, rtol=1e-4, atol=1e-6)
    # Each prompt is continued by itself.
    assert (logits[:, 0] != logits[:, 1]).any()


def test_keys_are_copied_for_the_prompts_alone(model, monkeypatch):
    copies = []
    copied = sdpa_attention.repeat_kv
    monkeypatch.setattr(sdpa_attention, "repeat_kv", lambda *given: copies.append(given) or copied(*given))
    written(model)
    every, of_prompts = len(copies), 2 * model.config.num_hidden_layers
    assert every == 8 * of_prompts
    with grouped(model):
        written(model)
    assert len(copies) - every == of_prompts


def test_afterwards_it_attends_as_before_and_another_implementation_is_left_alone(model):
    for name in ("sdpa", "eager"):
        model.set_attn_implementation(name)
        with grouped(model):
            assert (model.config._attn_implementation == name) is (name == "eager")
        assert model.config._attn_implementation == name
