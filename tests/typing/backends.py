"""Type checks: the backends implement `Backend`, the kinds of data implement `Data`, and the codecs `Codec`.

`mypy` reports an error here if an operation of a class is missing or has another signature. This file is never run.
"""

from minigan.backends import Backend
from minigan.backends.cupy.backend import CupyBackend
from minigan.backends.numba.backend import NumbaBackend
from minigan.backends.numpy_backend import NumpyBackend
from minigan.datasets import Codec, Data, Images, Points, Sequences, Table
from minigan.datasets.images import ImageCodec
from minigan.datasets.points import PointsCodec
from minigan.datasets.sequence_codec import SequenceCodec
from minigan.datasets.tables import TableCodec


def backends() -> list[Backend]:
    """Return each backend as a Backend."""
    return [NumpyBackend(), NumbaBackend(threads=1), CupyBackend()]


def data(images: Images, points: Points, table: Table, sequences: Sequences) -> list[Data]:
    """Return each kind of data as Data."""
    return [images, points, table, sequences]


def codecs() -> list[Codec]:
    """Return each codec as a Codec."""
    return [ImageCodec(), PointsCodec("ring"), TableCodec([]), SequenceCodec([], 2)]
