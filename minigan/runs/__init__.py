"""Create, resume, write and read the folder of a run."""

from minigan.runs.run import (
    CONTENTS,
    Stopped,
    begin,
    columns,
    described,
    info,
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
    "described",
    "info",
    "load_backend",
    "load_data",
    "play",
    "read_config",
    "resume",
    "sampler",
    "writing",
]
