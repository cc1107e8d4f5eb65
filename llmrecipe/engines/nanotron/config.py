"""A run in the words of nanotron's own configuration file."""

from typing import Any

from llmrecipe.engines.models.architecture import architecture_of
from llmrecipe.engines.nanotron.job import Job, NanotronFolder


def nanotron_configuration(job: Job, state: NanotronFolder) -> dict[str, Any]:
    """The content of the YAML file from which nanotron's trainer starts.

    Optimizer and schedule are ours (`optimizer.py`); nanotron still asks for theirs, so their keys are
    filled in with numbers that nothing reads.
    """
    training, parallelism = job.section.training, job.section.parallelism
    nanotron_level = "info" if job.machine.log_level == "debug" else "error"
    return {
        "general": {"project": "llmrecipe", "run": job.name, "seed": training.seed},
        "parallelism": {
            "dp": parallelism.data,
            "tp": parallelism.tensor,
            "pp": parallelism.pipeline,
            "pp_engine": parallelism.pipeline_schedule,
            "tp_mode": parallelism.tensor_parallel_mode,
            # `tensor_parallel.py` switches it on, mended, once the network is built.
            "tp_linear_async_communication": False,
        },
        "model": {
            "dtype": training.number_format,
            "ddp_bucket_cap_mb": parallelism.bucket_size_mb,
            # The vocabulary is padded already, the same for every layout.
            "make_vocab_size_divisible_by": 1,
            "init_method": {"path": str(state.first_weights)},
            "model_config": architecture_of(job.network).nanotron_config(job.network, job.rows, job.end_of_text_id),
        },
        "tokenizer": {"tokenizer_name_or_path": None},
        "checkpoints": {
            "checkpoints_path": str(state.checkpoints),
            "checkpoint_interval": job.machine.checkpoint_interval,
            "checkpoints_path_is_shared_file_system": True,
            "resume_checkpoint_path": job.resume,
        },
        "logging": {
            "log_level": nanotron_level,
            "log_level_replica": "error",
            "iteration_step_info_interval": 1,
        },
        "tokens": {
            "sequence_length": job.sequence_length,
            "train_steps": job.num_steps,
            "micro_batch_size": parallelism.micro_batch_size,
            "batch_accumulation_per_replica": parallelism.accumulation(training.global_batch_size),
        },
        "optimizer": {
            "zero_stage": parallelism.zero_stage,
            # Without a limit the norm is still measured, and nothing is scaled.
            "clip_grad": float("inf") if training.clip_grad_norm is None else float(training.clip_grad_norm),
            "accumulate_grad_in_fp32": training.number_format != "float32",
            "weight_decay": 0.0,
            "adam_eps": 1e-8,
            "adam_beta1": 0.9,
            "adam_beta2": 0.95,
            "torch_adam_is_fused": False,
            "learning_rate_scheduler": {
                "learning_rate": 0.0,
                "lr_warmup_steps": 0,
                "lr_warmup_style": "linear",
                "lr_decay_style": "linear",
                "lr_decay_steps": job.num_steps,
                "min_decay_lr": 0.0,
            },
        },
    }
