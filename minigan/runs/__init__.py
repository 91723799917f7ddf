"""The folder of a run: create it, resume it, fill it while training, and read it to draw samples."""

from minigan.runs.run import (
    CONTENTS,
    Stopped,
    begin,
    columns,
    load_backend,
    load_data,
    play,
    read_config,
    resume,
    sampler,
    writing,
)

__all__ = [
    "CONTENTS",
    "Stopped",
    "begin",
    "columns",
    "load_backend",
    "load_data",
    "play",
    "read_config",
    "resume",
    "sampler",
    "writing",
]
