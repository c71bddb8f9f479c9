"""popgrad: exact population gradients and fast CPU training, for the theory of transformers.

Tasks: CausalTree, CausalDag, TriggerBigram. Models: Disentangled, Simplified, MlpTransformer,
Memory, Transformer. The whole population: Population. Runs: train, preset, Run, sweep. Also
discover, verify, kernels, info.

Example:
    >>> import popgrad
    >>> task = popgrad.CausalTree("chain", S=3, T=8)
    >>> model = popgrad.Disentangled(S=3, T=8)
    >>> params = model.init(seed=0, std=0.1)
    >>> loss, grad = model.value_and_grad(params, task.sample(64))
    >>> sorted(grad)
    ['A.0', 'A.1', 'W']
"""

from . import kernels
from ._native import Batch, Population, __version__
from .errors import DivergedError, Error, FileError, InvalidError, RunWarning
from .models import Disentangled, Memory, MlpTransformer, Simplified, Transformer
from .run import SGD, AdamW, Metrics, Run, State, preset, train
from .study import Cell, sweep
from .tasks import CausalDag, CausalTree, TriggerBigram
from .tools import Claim, Found, discover, info, presets, verify

__all__ = [
    "SGD",
    "AdamW",
    "Batch",
    "CausalDag",
    "CausalTree",
    "Cell",
    "Claim",
    "Disentangled",
    "DivergedError",
    "Error",
    "FileError",
    "Found",
    "InvalidError",
    "Memory",
    "Metrics",
    "MlpTransformer",
    "Population",
    "Run",
    "RunWarning",
    "Simplified",
    "State",
    "Transformer",
    "TriggerBigram",
    "__version__",
    "discover",
    "info",
    "kernels",
    "preset",
    "presets",
    "sweep",
    "train",
    "verify",
]


def __getattr__(name: str) -> object:
    # The wrappers import their library, so they wait until they are named.
    if name in ("jax", "torch"):
        import importlib

        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
