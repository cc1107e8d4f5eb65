"""`config.json` of a model in the transformers format, read key by key, without transformers.

transformers ignores a key that a family doesn't know, and computes something else where it knows one that we don't. So
a key that decides what any family computes is read by the network, or has to have a value that changes nothing, or is
a fault.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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
    "use_qk_norm": (False, None),
    "use_sliding_window": (False, None),
}
"""Keys that decide what a model computes, with the values that change nothing, if the family doesn't read them."""

_CODE = "auto_map"


class Config:
    """The keys of one `config.json`, and what is wrong with them."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.faults: list[str] = []
        self._data = data
        self._read: set[str] = set()

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
        """A number, as by `get`; a fault if it is none."""
        value = self.get(key, default, missing=missing)
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
            self.faults.append(f"{key} = {value!r} is no number" if value is not None else f"{key} is missing")
            return 1
        return value

    def integer(self, key: str, default: int | None = None, *, missing: int | None = None) -> int:
        """A whole number, as by `get`; a fault if it is none."""
        value = self.number(key, default, missing=missing)
        if value != int(value):
            self.faults.append(f"{key} = {value!r} is no whole number")
        return int(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false; a fault if it is neither."""
        value = self.get(key, default)
        if not isinstance(value, bool):
            self.faults.append(f"{key} = {value!r} is neither true nor false")
            return default
        return value

    def sequence(self, key: str) -> Sequence[Any]:
        """A list, empty if it is null or missing; a fault if it is none."""
        value = self.get(key, ())
        if not isinstance(value, list | tuple):
            self.faults.append(f"{key} = {value!r} is no list")
            return ()
        return value

    def mapping(self, key: str) -> Mapping[str, Any]:
        """A mapping, empty if it is null or missing; a fault if it is none."""
        value = self.get(key, {})
        if not isinstance(value, Mapping):
            self.faults.append(f"{key} = {value!r} is no mapping")
            return {}
        return value

    def require(self, key: str, wanted: Any, default: Any, why: str) -> None:
        """A fault, for this reason, unless the key, or its default where it is missing, has this value."""
        value = self.get(key, default)
        if value != wanted:
            self.faults.append(f"{key} = {value!r}: {why}")

    def without(self, key: str) -> None:
        """A key that changes nothing for this family, whatever it says."""
        self._read.add(key)

    def unread(self) -> Iterator[str]:
        """Faults of the keys that decide what a model computes, and that nothing has read."""
        for key in sorted(self._data.keys() & _NEUTRAL.keys() - self._read):
            if self._data[key] not in _NEUTRAL[key]:
                yield f"{key} = {self._data[key]!r}, which this network doesn't have"
