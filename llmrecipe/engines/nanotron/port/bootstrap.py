"""Makes the published nanotron 0.4 importable, on a GPU and without one.

As published it can't be imported at all (an import cycle), needs flash-attn, and runs on CUDA only. A loader
of its own compiles `nanotron.*` from unchanged sources with the few literal replacements listed in `_Rewriter`;
nothing of torch is patched, and with a GPU nothing about devices is rewritten.
"""

import ast
import hashlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Literal

from llmrecipe.engines.nanotron.port import norm
from llmrecipe.errors import StageError

VERSION = "0.4"
Device = Literal["cpu", "cuda"]

_REINSTALL = f"pip install --force-reinstall --no-deps nanotron=={VERSION}"

# Of its sources: their paths and contents.
_DIGEST = "79fec03bb444024e5d3adbf92f454bbe194a11bd7c6cfb88b18335e6d1a4c9fc"


def load(device: Device) -> None:
    """Import nanotron for this device, with every mend in place; the first call of a process decides.

    Raises:
        StageError: another version is installed, or a changed one, or it is loaded for the other device already.
    """
    installed = importlib.metadata.version("nanotron")
    if installed != VERSION:
        raise StageError(
            f"nanotron {installed} is installed, but the mends are made for {VERSION}: pip install nanotron=={VERSION}"
        )
    finder = next((finder for finder in sys.meta_path if isinstance(finder, _Finder)), None)
    if finder is not None:
        if finder.device != device:
            raise StageError(
                f"nanotron is loaded for {finder.device} in this process; use another process for {device}"
            )
        return
    found = importlib.util.find_spec("nanotron")
    if found is None or found.origin is None:
        raise StageError(f"nanotron {VERSION} has lost its modules; run `{_REINSTALL}`")
    _refuse_a_changed_copy(Path(found.origin).parent)
    sys.meta_path.insert(0, _Finder(device))
    with _flash_attention_stand_in():
        importlib.import_module("nanotron.trainer")
    from llmrecipe.engines.nanotron.port import mends

    mends.apply(device)


def _refuse_a_changed_copy(package: Path) -> None:
    """Every mend replaces or relies on something of nanotron's, and would be wrong for another."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    if digest.hexdigest() != _DIGEST:
        raise StageError(
            f"{package}: not nanotron {VERSION} as it was published, for which the mends are made; run `{_REINSTALL}`"
        )


class _Finder(importlib.abc.MetaPathFinder):
    """Finds `nanotron.*` where Python does, and hands it to `_Loader`."""

    def __init__(self, device: Device) -> None:
        self.device = device

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != "nanotron":
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if found is None or found.origin is None or not isinstance(found.loader, importlib.machinery.SourceFileLoader):
            return found
        return importlib.util.spec_from_file_location(
            fullname,
            found.origin,
            loader=_Loader(fullname, found.origin, self.device),
            submodule_search_locations=found.submodule_search_locations,
        )


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles the rewritten source; never reads or writes byte code, which would outlive the device."""

    def __init__(self, fullname: str, path: str, device: Device) -> None:
        super().__init__(fullname, path)
        self.device = device

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        tree = _Rewriter(fullname, self.device).visit(ast.parse(self.get_data(path), path))
        code: CodeType = compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)
        return code


class _Rewriter(ast.NodeTransformer):
    def __init__(self, module: str, device: Device) -> None:
        self.module = module
        self.device = device

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        # The cycle: nanotron.logging imports the configuration, which imports nanotron.logging, for one annotation.
        if self.module == "nanotron.logging" and node.module == "nanotron.config.config":
            return ast.parse("LoggingArgs = None").body[0]
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        if self.device == "cpu" and node.value == "cuda":
            return ast.copy_location(ast.Constant("cpu"), node)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if (
            self.device == "cpu"
            and node.attr == "cuda"
            and isinstance(node.value, ast.Name)
            and node.value.id == "torch"
        ):
            stand_in = ast.parse(
                "__import__('llmrecipe.engines.nanotron.port.no_cuda', fromlist=['device'])", mode="eval"
            ).body
            return ast.copy_location(stand_in, node)
        return node


def _absent() -> None:
    """Stands for a kernel whose signature nanotron inspects and that nothing calls."""


@contextmanager
def _flash_attention_stand_in() -> Iterator[None]:
    """torch's own layers under the names of flash-attn, while nanotron is imported.

    The names are removed afterwards: transformers would take the stand-ins for the real thing.
    """
    names: dict[str, dict[str, Any]] = {
        "flash_attn": {"bert_padding": None},
        "flash_attn.bert_padding": {},
        "flash_attn.flash_attn_interface": {"flash_attn_varlen_func": _absent, "flash_attn_with_kvcache": None},
        "flash_attn.layers": {},
        "flash_attn.layers.rotary": {"RotaryEmbedding": None},
        "flash_attn.ops": {},
        "flash_attn.ops.triton": {},
        "flash_attn.ops.triton.layer_norm": {"layer_norm_fn": norm.layer_norm_fn},
    }
    real = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "flash_attn"}
    for name, attributes in names.items():
        module = ModuleType(name)
        module.__path__ = []
        module.__dict__.update(attributes)
        sys.modules[name] = module
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules |= real
