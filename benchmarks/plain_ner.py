"""The peer of a fine-tuning for named entities: a plain script with transformers' Trainer, with a process of its own.

usage: python plain_ner.py MODEL TRAIN MEASURED LEARNING_RATE EPOCHS BATCH SEED [by-length]
The files are in CoNLL's format. Prints what it took and what it reached, as JSON.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from seqeval.metrics import f1_score
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)


def sentences(path: str) -> list[tuple[list[str], list[str]]]:
    """Words and tags."""
    found: list[tuple[list[str], list[str]]] = [([], [])]
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        columns = line.split()
        if not columns or columns[0] == "-DOCSTART-":
            found.append(([], []))
        else:
            found[-1][0].append(columns[0])
            found[-1][1].append(columns[-1])
    return [(words, tags) for words, tags in found if words]


def main() -> None:
    """Train, measure, and print what it took."""
    directory, train, validation, rate, epochs, batch, seed, *order = sys.argv[1:]
    torch.set_num_threads(1)
    set_seed(int(seed))
    splits = {"train": sentences(train), "validation": sentences(validation)}
    labels = sorted({tag for _, tags in splits["train"] for tag in tags})
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForTokenClassification.from_pretrained(directory, num_labels=len(labels))

    def encoded(words: list[str], tags: list[str]) -> dict[str, list[int]]:
        row = tokenizer(words, is_split_into_words=True, truncation=True, max_length=128)
        before, own = None, []
        for word in row.word_ids():
            own.append(-100 if word is None or word == before else labels.index(tags[word]))
            before = word
        return {**row, "labels": own}

    rows = {split: [encoded(*sentence) for sentence in each] for split, each in splits.items()}
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder,
                learning_rate=float(rate),
                num_train_epochs=float(epochs),
                per_device_train_batch_size=int(batch),
                per_device_eval_batch_size=32,
                seed=int(seed),
                save_strategy="epoch",
                train_sampling_strategy="group_by_length" if order == ["by-length"] else "random",
                use_cpu=True,
                report_to=[],
                disable_tqdm=True,
                logging_strategy="no",
            ),
            train_dataset=rows["train"],
            data_collator=DataCollatorForTokenClassification(tokenizer),
        )
        started = time.perf_counter()
        trainer.train()
        seconds = time.perf_counter() - started
        logits, own, _ = trainer.predict(rows["validation"])
    pairs = list(zip(logits.argmax(-1), own, strict=True))
    said = [[labels[tag] for tag, true in zip(*pair, strict=True) if true != -100] for pair in pairs]
    true = [[labels[tag] for tag in row if tag != -100] for _, row in pairs]
    tokens = sum(len(row["input_ids"]) for row in rows["train"]) * float(epochs)
    f1 = float(np.round(f1_score(true, said), 4))
    print(json.dumps({"seconds": seconds, "tokens_per_second": tokens / seconds, "entity_f1": f1}))


if __name__ == "__main__":
    main()
