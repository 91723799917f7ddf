"""For the type checker: each backend is what the contract says, and each kind of data what the protocol says.

`mypy` fails here if a class lacks an operation, or if a signature differs. Nothing runs this file.
"""

from minigan.backends import Backend
from minigan.backends.cupy.backend import CupyBackend
from minigan.backends.numba.backend import NumbaBackend
from minigan.backends.numpy_backend import NumpyBackend
from minigan.datasets import Codec, Data, Images, Points
from minigan.datasets.images import ImageCodec
from minigan.datasets.points import PointsCodec


def backends() -> list[Backend]:
    return [NumpyBackend(), NumbaBackend(threads=1), CupyBackend()]


def data(images: Images, points: Points) -> list[Data]:
    return [images, points]


def codecs() -> list[Codec]:
    return [ImageCodec(), PointsCodec("ring")]
