"""Layers with a forward pass and a hand-written backward pass, one file per family.

`base.py` defines the interface of a layer. `sequential.py` chains layers into a network, and
`fuse.py` merges neighbouring layers of a network for speed.
"""

from minigan.layers.activations import LeakyReLU, ReLU, Sigmoid, Softplus, Tanh
from minigan.layers.base import Layer
from minigan.layers.conditional import MinibatchStdDev, OneHot, Projection
from minigan.layers.conv import Conv2d, ConvTranspose2d
from minigan.layers.dense import Dense
from minigan.layers.depths import MultiDepth
from minigan.layers.dropout import Dropout
from minigan.layers.embedding import Embedding
from minigan.layers.frozen import Frozen
from minigan.layers.fuse import fuse
from minigan.layers.heads import Softmax, TableHead
from minigan.layers.init import glorot_uniform, he_normal, normal
from minigan.layers.layer_norm import LayerNorm
from minigan.layers.noise import GaussianNoise
from minigan.layers.norm import BatchNorm, SpectralNorm
from minigan.layers.recurrent import GRU, LSTM, Bidirectional
from minigan.layers.residual import Concatenate
from minigan.layers.sequential import Sequential
from minigan.layers.series import InEachStep, MaskEnds, TanhOf
from minigan.layers.shape import Flatten, Identity, Pack, Reshape, Upsample
from minigan.layers.temporal import Conv1d
from minigan.layers.weight_norm import WeightNorm

__all__ = [
    "GRU",
    "LSTM",
    "BatchNorm",
    "Bidirectional",
    "Concatenate",
    "Conv1d",
    "Conv2d",
    "ConvTranspose2d",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "Frozen",
    "GaussianNoise",
    "Identity",
    "InEachStep",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "MaskEnds",
    "MinibatchStdDev",
    "MultiDepth",
    "OneHot",
    "Pack",
    "Projection",
    "ReLU",
    "Reshape",
    "Sequential",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "SpectralNorm",
    "TableHead",
    "Tanh",
    "TanhOf",
    "Upsample",
    "WeightNorm",
    "fuse",
    "glorot_uniform",
    "he_normal",
    "normal",
]
