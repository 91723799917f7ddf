"""minigan: generative adversarial networks written by hand in NumPy.

    import minigan
    gan = minigan.GAN("small", conditional=True, epochs=3, seed=0).fit()     # trains on MNIST
    digits = gan.sample(16, label=7)                                         # uint8 (16, 28, 28, 1)

Importing minigan loads no other module: `GAN`, `load`, `classify`, `NotFittedError` and
`UserError` load on first use. To read or use the parts, import them::

    from minigan import backends, datasets, game, layers, losses, models, optim

Read them in the order `layers` -> `models` -> `losses` -> `optim` -> `game` -> `training`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minigan.errors import UserError
    from minigan.gan import GAN, NotFittedError, classify, load

__version__ = "0.1.0"
__all__ = ["GAN", "NotFittedError", "UserError", "classify", "load"]


def __getattr__(name: str) -> Any:
    """Load a name of the public API on first use."""
    import importlib

    if name not in __all__:
        raise AttributeError(f"module 'minigan' has no attribute {name!r}")
    module = "minigan.errors" if name == "UserError" else "minigan.gan"
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    """Return the names of the module, with those that load on first use."""
    return sorted([*globals(), *__all__])
