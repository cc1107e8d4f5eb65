"""A run whose loss is how far a student's predictions are from its teacher's."""

from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

from llmrecipe.engines.finetuning.distillation import batches
from llmrecipe.engines.finetuning.distillation.batches import Reader
from llmrecipe.engines.finetuning.distillation.hidden import Matching, kept
from llmrecipe.engines.finetuning.distillation.job import Job
from llmrecipe.engines.finetuning.distillation.losses import summed_loss
from llmrecipe.engines.finetuning.learning import Zeros, refill, scaled_layers, straight
from llmrecipe.engines.finetuning.sharing import placed_like
from llmrecipe.engines.finetuning.trainer import UNLABELLED, Batch, RunTrainer


class DistillationTrainer(RunTrainer):
    """One rank of a run."""

    job: Job

    def __init__(
        self,
        job: Job,
        student: PreTrainedModel,
        teacher: PreTrainedModel | None,
        zeros: Zeros,
        matching: Matching | None,
    ) -> None:
        """Go on after the step that `job` resumes, whose weights the student has.

        Args:
            job: the run.
            student: what learns.
            teacher: what is imitated; None where its predictions are stored.
            zeros: weights that stay zero.
            matching: their layers that are compared, if the job asks for that.
        """
        self.teacher, self.matching, self.scaled = teacher, matching, scaled_layers(student)
        # It refuses to train what says that it is quantized; ours learns through its rounding.
        student.is_quantized = False
        others = () if teacher is None else (teacher,)
        super().__init__(job, student, *others, parts=() if matching is None else (matching.projection,))
        self.zeros = [(layer, placed_like(at, layer.weight)) for layer, at in zeros]
        self.readers = {split: Reader.of(job, split) for split in ("train", "heldout")}

    def micro_batches(self) -> Iterator[Batch]:
        """This rank's micro-batches without end."""
        return batches.training_batches(self.readers["train"], self.job, self.args.process_index)

    def after_update(self) -> None:
        """Keep zeros."""
        refill(self.zeros)

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: torch.Tensor | None = None) -> torch.Tensor:
        """A micro-batch forward and backward; with the last of a step all weights have their gradients."""
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        if self.scaled and self.accelerator.sync_gradients:
            straight().pass_to_scales(self.scaled)
        return loss

    def summed_loss(self, model: Any, inputs: Batch) -> torch.Tensor:
        """How far the predictions are apart, added up over the tokens that are predicted."""
        # What a model was published with drops; the recipe doesn't, and an exact run draws nothing.
        model.eval()
        read = {name: tensor for name, tensor in inputs.items() if name in ("input_ids", "position_ids")}
        labels, size, section = inputs["labels"], self.job.vocab_size, self.job.section
        places = labels != UNLABELLED

        def predicted(numbers: torch.Tensor) -> torch.Tensor:
            return numbers[places] if self.job.objective.is_masked else numbers.flatten(0, -2)

        layers: tuple[Any, Any] = ((), ()) if self.matching is None else (self.matching.student, self.matching.teacher)
        # Rows beyond the tokenizer's vocabulary are padding, and differ from model to model.
        with torch.no_grad(), kept(layers[1]) as its_states:
            if self.teacher is None:
                its = inputs["teacher_log_probabilities"]
            else:
                its = predicted(self.teacher(**read, use_cache=False).logits)[:, :size]
        with kept(layers[0]) as my_states:
            mine = predicted(model(**read, use_cache=False).logits)[:, :size]
        ids = inputs.get("teacher_ids")
        loss = summed_loss(section.loss, section.hard_loss_weight, mine, its, labels[places], ids)
        if self.matching is None:
            return loss
        return loss + self.matching.summed_loss(*(list(map(predicted, each)) for each in (my_states, its_states)))

    @torch.no_grad()
    def measured(self) -> dict[str, float]:
        """The mean loss over the held-out sequences."""
        sums = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        for batch, counts in batches.heldout_batches(self.readers["heldout"], self.job, self.args.process_index):
            inputs = {name: tensor.to(self.args.device) for name, tensor in batch.items()}
            loss = self.loss_of(self.model, inputs)
            if counts:
                sums[0] += loss
                sums[1] += self.count(inputs)
        loss, count = self.summed(sums).tolist()
        return {"validation_loss": loss / count}
