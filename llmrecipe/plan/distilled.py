"""Models that learn from a teacher to their stage."""

from llmrecipe import layout
from llmrecipe.plan.draft import Draft, Products, plans
from llmrecipe.plan.models import training_plots
from llmrecipe.recipe.distilled import Distilled
from llmrecipe.recipe.kinds import Model
from llmrecipe.recipe.texts import distillation_text
from llmrecipe.recipe.tokenized import TokenizedText
from llmrecipe.sections import DistilSection


@plans(Distilled)
def distilled(draft: Draft, value: Distilled) -> Products:
    """A stage that trains the student by transformers' Trainer."""
    inputs = dict(draft.need(TokenizedText(text=distillation_text(value), tokenizer=value.vocabulary)).paths)
    if isinstance(value.student, Model):
        inputs["student"] = draft.need(value.student).product("model")
    inputs["teacher"] = draft.need(value.teacher).product("model")
    stage = draft.stage(
        owner=value.name,
        section=DistilSection(
            network=None if isinstance(value.student, Model) else value.student,
            loss=value.loss,
            hard_loss_weight=value.hard_loss_weight,
            training=value.training,
            parallelism=value.parallelism,
            hidden_states=value.hidden_states,
        ),
        inputs=inputs,
        outs=("model", "curves.csv", "validation.csv"),
        metrics=("metrics.json",),
        plots=training_plots(layout.folder(value.name, DistilSection.tag)),
    )
    return Products({"model": stage.product("model")})
