"""The network that a `config.json` describes."""

from llmrecipe.recipe import checks
from llmrecipe.recipe.networks.config import Config
from llmrecipe.recipe.networks.network import Network
from llmrecipe.recipe.schema import FieldError, members


def network_of(config: Config, file: str = "config.json") -> tuple[Network | None, list[str]]:
    """The network, None if it can't be read, and what is wrong with it, with the name of the file that says it."""
    faults = []
    if config.is_code_asked_for:
        faults.append(
            "asks for code of its own (auto_map), which is never run; use a model of transformers' own classes"
        )
    family = _family(config)
    if isinstance(family, str):
        return None, _named(file, [*faults, family])
    try:
        network = family.from_config(config)
        config.integer("vocab_size")
        faults += [*config.faults, *config.unread()]
    except FieldError as error:
        # It may only follow from what stands for a number that isn't there.
        return None, _named(file, [*faults, *(config.faults or [str(error)])])
    if not faults:
        # Paths begin with a point.
        faults += [f"{each.path[1:]}: {each.reason}" for each in checks.section_violations(network, "")]
    return (None if faults else network), _named(file, faults)


def _named(file: str, faults: list[str]) -> list[str]:
    return [f"{file}: {fault}" for fault in faults]


def _family(config: Config) -> type[Network] | str:
    """The family of networks that the file is of, or what is wrong."""
    families = [family for family in members(Network).values() if family.architectures]
    known = ", ".join(sorted(name for family in families for name in family.architectures))
    by_type = next((family for family in families if family.tag == config.model_type), None)
    if not config.architecture:
        if by_type is None:
            return f"names no architecture, and its model_type is {config.model_type!r}; known are {known}"
        return by_type
    family = next((family for family in families if config.architecture in family.architectures), None)
    if family is None:
        return f"architectures = {config.architecture!r}, which isn't known; known are {known}"
    if family is not by_type:
        what = repr(config.model_type) if config.model_type else "missing"
        return (
            f"model_type is {what}, by which transformers goes, and its architecture is {config.architecture}; the "
            f"model_type of that is {family.tag!r}"
        )
    return family
