"""The peer of masked training, with the masks and batches that it is given.

usage: python plain_masked_loop.py MODEL_JSON BATCHES_NPZ THREADS COMPILED
`input_ids` and `labels` are `[steps, batch, length]`; a label is -100 where nothing is to be predicted.
Prints the seconds of each step as a JSON list.
"""

import json
import sys

import numpy as np
import torch
from plain_loop import train
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedModel


def main() -> None:
    """Train on the batches and print the seconds of each step."""
    arrays = np.load(sys.argv[2])
    torch.set_num_threads(int(sys.argv[3]))
    torch.manual_seed(0)
    config = AutoConfig.for_model(**json.loads(sys.argv[1]))
    model = AutoModelForMaskedLM.from_config(config, attn_implementation="sdpa")
    if int(sys.argv[4]):
        model.compile()
    batches = zip(torch.from_numpy(arrays["input_ids"]), torch.from_numpy(arrays["labels"]), strict=True)
    print(json.dumps(train(model, masked_loss, batches)))


def masked_loss(model: PreTrainedModel, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Mean cross-entropy of the masked tokens."""
    input_ids, labels = batch
    return model(input_ids=input_ids, labels=labels).loss


if __name__ == "__main__":
    main()
