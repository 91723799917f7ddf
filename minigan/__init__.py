"""minigan: generative adversarial networks written by hand in NumPy.

A lesson imports the modules themselves, and nothing else is loaded until it is asked for::

    from minigan import backends, datasets, game, layers, losses, models, optim

`layers` -> `models` -> `losses` -> `optim` -> `game` -> `train` is the order in which to read them.
"""

__version__ = "0.1.0"
