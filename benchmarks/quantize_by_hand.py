"""The peer: llmcompressor called by hand, as a process of its own with two threads.

usage: python quantize_by_hand.py MODEL ROWS SCHEME BATCH OUTPUT
`ROWS` is a file of token ids, `[samples, length]`. Prints what it took as JSON.
"""

import json
import sys

import numpy as np
import torch
from llmcompressor import oneshot
from llmcompressor.modifiers import Modifier
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from spent import Spent
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer

_GROUPS = {
    "group_0": {
        "targets": ["Linear"],
        "weights": {
            "num_bits": 4,
            "type": "int",
            "symmetric": True,
            "strategy": "group",
            "group_size": 64,
            "observer": "imatrix_mse",
        },
    }
}


def modifiers(scheme: str) -> list[Modifier]:
    """Those of the schemes in `test_quantize.py`."""
    if scheme == "fp8":
        return [QuantizationModifier(targets=["Linear"], scheme="FP8_DYNAMIC", ignore=["lm_head"])]
    return [GPTQModifier(config_groups=_GROUPS, ignore=["lm_head"], actorder="static", dampening_frac=0.01)]


def main() -> None:
    """Quantize, save, and print what it took."""
    model_directory, rows_file, scheme, batch, output = sys.argv[1:]
    torch.set_num_threads(2)
    with Spent() as spent:
        model = AutoModelForCausalLM.from_pretrained(model_directory, dtype="auto")
        tokenizer = AutoTokenizer.from_pretrained(model_directory)
        recipe = modifiers(scheme)
        dataset = None
        if any(modifier.requires_calibration_data for modifier in recipe):
            rows = [
                {"input_ids": row, "attention_mask": torch.ones_like(row)}
                for row in torch.from_numpy(np.load(rows_file))
            ]
            dataset = DataLoader(rows, batch_size=int(batch))
        oneshot(model=model, tokenizer=tokenizer, recipe=recipe, dataset=dataset)
        model.save_pretrained(output, save_compressed=True)
        tokenizer.save_pretrained(output)
    print(json.dumps(spent.found()))


if __name__ == "__main__":
    main()
