"""`config.json` of a model in the transformers format, read key by key, without transformers.

transformers ignores a key that a family doesn't know, and computes something else where it knows one that we don't. So
a key that decides what any family computes is read by the network, or has to have a value that changes nothing, or is
a fault.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import attrs

from llmrecipe.recipe.schema import Word, own_violations

W = TypeVar("W", bound=Word)

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False, None),
    "attention_bias": (False, None),
    "attention_dropout": (0, None),
    "attention_multiplier": (None,),
    "attn_logit_softcapping": (None,),
    "decoder_bias": (True,),
    "embedding_dropout": (0, None),
    "embedding_multiplier": (1, None),
    "embedding_size": (None,),
    "final_logit_softcapping": (None,),
    "initializer_cutoff_factor": (2, None),
    "is_decoder": (False, None),
    "layer_types": (None,),
    "local_attention": (None,),
    "logit_scale": (1, None),
    "logits_scaling": (1, None),
    "mlp_bias": (False, None),
    "mlp_dropout": (0, None),
    "mlp_only_layers": (None, []),
    "no_rope_layers": (None, []),
    "norm_bias": (False, None),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
    "original_max_position_embeddings": (None,),
    "partial_rotary_factor": (1, None),
    "position_embedding_type": ("absolute", None),
    "pretraining_tp": (1, None),
    "qk_layernorm": (False, None),
    "query_pre_attn_scalar": (None,),
    "resid_pdrop": (0, None),
    "residual_multiplier": (1, None),
    "rope_interleaved": (False, None),
    "rope_parameters": (None,),
    "rope_scaling": (None,),
    "sliding_window": (None,),
    "sparse_prediction": (False, None),
    "use_bias": (False, None),
    "use_mrope": (False, None),
    "use_qk_norm": (False, None),
    "use_sliding_window": (False, None),
}
"""Keys that decide what a model computes, with the values that change nothing, if the family doesn't read them."""

_CODE = "auto_map"

_LARGEST = 2**31 - 1

_STAND_IN = 2
"""In place of a number that is none: every field may have it."""


class Config:
    """The keys of one `config.json`, and what is wrong with them."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.faults: list[str] = []
        self._data = data
        self._read: set[str] = set()
        self._place = ""

    @property
    def architecture(self) -> str:
        """The class that the file names; empty if it names none."""
        named = self._data.get("architectures")
        return str(named[0]) if isinstance(named, Sequence) and not isinstance(named, str) and named else ""

    @property
    def model_type(self) -> str:
        """transformers' name of the family."""
        return str(self._data.get("model_type", ""))

    @property
    def quantization(self) -> Mapping[str, Any] | None:
        """What it says of how its weights are quantized; None if they aren't."""
        found = self._data.get("quantization_config") or self._data.get("compression_config")
        return found if isinstance(found, Mapping) else None

    @property
    def is_code_asked_for(self) -> bool:
        """Whether it names classes in Python files of its own."""
        return bool(self._data.get(_CODE))

    def get(self, key: str, default: Any = None, *, missing: Any = None) -> Any:
        """The value of a key, which is read with this.

        Args:
            key: the key.
            default: stands for a null, and for a key that is missing.
            missing: stands for a key that is missing, where that means something else.
        """
        self._read.add(key)
        value = self._data.get(key, missing)
        return default if value is None else value

    def number(self, key: str, default: float | None = None, *, missing: float | None = None) -> float:
        """A number above 0, as by `get`; a fault if it is none."""
        value = self.get(key, default, missing=missing)
        if value is None:
            self.fault(key, "is missing")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= sys.float_info.max:
            self.fault(key, f"= {value!r} is no number above 0")
        else:
            return value
        return _STAND_IN

    def integer(self, key: str, default: int | None = None, *, missing: int | None = None) -> int:
        """A whole number above 0, as by `get`; a fault if it is none."""
        value = self.number(key, default, missing=missing)
        if value != int(value):
            self.fault(key, f"= {value!r} is no whole number")
        elif value > _LARGEST:
            self.fault(key, f"= {value!r} is more than any model has")
            return _STAND_IN
        return int(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false; a fault if it is neither."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            self.fault(key, f"= {value!r} is neither true nor false")
            return default
        return value

    def part(self, key: str) -> "Config":
        """The keys of a mapping, of which none may be left unread (`refuse_others`); a fault if it is none."""
        found = self.get(key, {})
        if not isinstance(found, Mapping):
            self.fault(key, f"= {found!r} is no mapping")
            found = {}
        part = Config(found)
        part.faults, part._place = self.faults, f"{self._place}{key}."
        return part

    def layer_types(self, num_layers: int) -> list[str] | None:
        """What sort of attention each layer has; None if it doesn't say."""
        found = self.get("layer_types")
        if found is not None and not (isinstance(found, list) and len(found) == num_layers):
            self.fault("layer_types", f"= {found!r} is no list with a word for each of {num_layers} layers")
            return None
        return found

    def require(self, key: str, wanted: Any, default: Any, why: str) -> None:
        """A fault, for this reason, unless the key, or its default where it is missing, has this value."""
        value = self.get(key, default)
        if value != wanted:
            self.fault(key, f"= {value!r}: {why}")

    def without(self, key: str) -> None:
        """A key that changes nothing for this family, whatever it says."""
        self._read.add(key)

    def fault(self, key: str, reason: str) -> None:
        """Something wrong with the value of a key, told once however often it is read."""
        told = f"{self._place}{key} {reason}"
        if told not in self.faults:
            self.faults.append(told)

    def built(self, word: type[W], **fields: Any) -> W:
        """A word of these fields; what its own rules say against them is among the faults."""
        with attrs.validators.disabled():
            made = word(**fields)
        self.faults += [f"{self._place}{each.path[1:]} {each.reason}" for each in own_violations(made, "")]
        return made

    def refuse_others(self) -> None:
        """Faults of all keys that nothing has read."""
        for key in sorted(self._data.keys() - self._read, key=str):
            self.fault(key, f"= {self._data[key]!r}, which isn't known here")

    def unread(self) -> Iterator[str]:
        """Faults of the keys that decide what a model computes, and that nothing has read."""
        for key in sorted(self._data.keys() & _NEUTRAL.keys() - self._read):
            if self._data[key] not in _NEUTRAL[key]:
                yield f"{key} = {self._data[key]!r}, which this network doesn't have"
