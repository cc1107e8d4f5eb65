"""What transformers computes with a saved model, in a process of its own that has only the model's folder.

`python -m llmrecipe.engines.compression.reloading MODEL TOKENS LOGITS DEVICE THREADS`
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

from llmrecipe.engines.compression.expanding import weights_on_disk
from llmrecipe.engines.models import folders
from llmrecipe.errors import StageError
from llmrecipe.foreign import foreign
from llmrecipe.launch.process import return_freed_memory


def logits_in_a_fresh_process(directory: Path, token_ids: torch.Tensor, scratch: Path) -> torch.Tensor:
    """As `plain_logits`, by a process that knows of the model only what is in its folder; expanded weights are on disk.

    Args:
        directory: a model in the transformers format.
        token_ids: `int64[batch, length]`, on the device that computes.
        scratch: a folder, as it was at the end.

    Raises:
        StageError: transformers can't load the model, or compute with it, or the process was killed.
    """
    tokens, found = scratch / "tokens.safetensors", scratch / "logits.safetensors"
    save_file({"tokens": token_ids.cpu()}, tokens)
    # `-P`, since the folder is no place to import from; as a child, since it may not outlive this process.
    command = [sys.executable, "-P", "-m", "llmrecipe.launch.child", str(os.getpid()), __name__]
    command += [str(directory), str(tokens), str(found), token_ids.device.type, str(torch.get_num_threads())]
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace")
        if done.returncode < 0:
            raise StageError(
                f"{directory}: the process that loads the saved model again was killed by "
                f"{signal.Signals(-done.returncode).name}, most often for want of memory"
            )
        if done.returncode > 0:
            said = [line for line in foreign(done.stderr).splitlines() if line.strip()]
            reason = said[-1] if said else "it doesn't say why"
            raise StageError(f"{directory}: transformers can't load the saved model, or compute with it: {reason}")
        return load_file(found)["logits"]
    finally:
        for file in (tokens, found):
            file.unlink(missing_ok=True)


def plain_logits(directory: Path, token_ids: torch.Tensor) -> torch.Tensor:
    """Logits `float32[batch, length, vocab_size]`, on the CPU, of the class that the model's `config.json` names."""
    (name,) = transformers.AutoConfig.from_pretrained(directory, local_files_only=True).architectures
    model = getattr(transformers, name).from_pretrained(directory, dtype="auto", local_files_only=True)
    with torch.inference_mode():
        logits = folders.predicted(model.to(token_ids.device).eval()(input_ids=token_ids))
    return logits.float().cpu()


def main() -> None:
    """Compute what the command line says."""
    directory, tokens, found, device, threads = sys.argv[1:]
    return_freed_memory()
    torch.set_num_threads(int(threads))
    with weights_on_disk(Path(found).parent):
        logits = plain_logits(Path(directory), load_file(tokens)["tokens"].to(device))
    save_file({"logits": logits}, found)


if __name__ == "__main__":
    main()
