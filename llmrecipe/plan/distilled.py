"""Models that learn from a teacher to their stage."""

from llmrecipe import layout
from llmrecipe.plan.draft import Draft, Products, plans
from llmrecipe.plan.models import training_plots
from llmrecipe.recipe.distilled import Distilled
from llmrecipe.recipe.kinds import Model
from llmrecipe.recipe.predictions import Predictions
from llmrecipe.recipe.texts import distillation_text
from llmrecipe.recipe.tokenized import TokenizedText
from llmrecipe.sections import DistilSection, PredictSection


@plans(Predictions)
def predictions(draft: Draft, value: Predictions) -> Products:
    """A stage that asks the teacher."""
    tokens = draft.need(TokenizedText(text=value.text, tokenizer=value.teacher.vocabulary)).paths
    stage = draft.stage(
        owner=value.name,
        section=PredictSection(
            top_k=value.top_k,
            sequences=value.sequences,
            seed=value.seed,
            validation_sequences=value.validation_sequences,
        ),
        inputs={**tokens, "teacher": draft.need(value.teacher).product("model")},
        outs=("predictions",),
        metrics=("metrics.json",),
    )
    return Products({"predictions": stage.product("predictions")})


@plans(Distilled)
def distilled(draft: Draft, value: Distilled) -> Products:
    """A stage that trains the student by transformers' Trainer."""
    inputs = dict(draft.need(TokenizedText(text=distillation_text(value), tokenizer=value.vocabulary)).paths)
    if isinstance(value.student, Model):
        inputs["student"] = draft.need(value.student).product("model")
    inputs["teacher"] = draft.need(value.teacher).product("model")
    stored = Predictions.of(value)
    if stored is not None:
        inputs |= draft.need(stored).paths
    stage = draft.stage(
        owner=value.name,
        section=DistilSection(
            network=None if isinstance(value.student, Model) else value.student,
            loss=value.loss,
            hard_loss_weight=value.hard_loss_weight,
            training=value.training,
            parallelism=value.parallelism,
            hidden_states=value.hidden_states,
            teacher_logits=value.teacher_logits,
        ),
        inputs=inputs,
        outs=("model", "curves.csv", "validation.csv"),
        metrics=("metrics.json",),
        plots=training_plots(layout.folder(value.name, DistilSection.tag)),
    )
    return Products({"model": stage.product("model")})
