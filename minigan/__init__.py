"""minigan: generative adversarial networks written by hand in NumPy.

Importing minigan loads no other module. Import the modules that you need::

    from minigan import backends, datasets, game, layers, losses, models, optim

Read them in the order `layers` -> `models` -> `losses` -> `optim` -> `game` -> `training`.
"""

__version__ = "0.1.0"
