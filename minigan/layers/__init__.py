"""The layers, each with its forward and its hand-written backward pass; one small file per family.

`base.py` says what every layer has. `sequential.py` makes a network of them, and `fuse.py`
merges neighbouring passes of a network where speed counts.
"""

from minigan.layers.activations import LeakyReLU, ReLU, Sigmoid, Tanh
from minigan.layers.base import Layer
from minigan.layers.conditional import MinibatchStdDev, OneHot, Projection
from minigan.layers.conv import Conv2d, ConvTranspose2d
from minigan.layers.dense import Dense
from minigan.layers.dropout import Dropout
from minigan.layers.fuse import fuse
from minigan.layers.init import glorot_uniform, he_normal, normal
from minigan.layers.norm import BatchNorm, SpectralNorm
from minigan.layers.sequential import Sequential
from minigan.layers.shape import Flatten, Identity, Reshape, Upsample

__all__ = [
    "BatchNorm",
    "Conv2d",
    "ConvTranspose2d",
    "Dense",
    "Dropout",
    "Flatten",
    "Identity",
    "Layer",
    "LeakyReLU",
    "MinibatchStdDev",
    "OneHot",
    "Projection",
    "ReLU",
    "Reshape",
    "Sequential",
    "Sigmoid",
    "SpectralNorm",
    "Tanh",
    "Upsample",
    "fuse",
    "glorot_uniform",
    "he_normal",
    "normal",
]
