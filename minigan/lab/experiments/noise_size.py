"""How many noise numbers does a generator need?

The preset `digits` without labels, so that the noise alone decides what is drawn, with 1 to 128 noise numbers.
"""

from minigan.lab import Column, Experiment, digits, gan

EXPERIMENT = Experiment(
    question=__doc__,
    arms={
        f"{n} noise numbers": {"preset": "digits-unlabelled", "network": {"noise_size": n}}
        for n in (64, 1, 2, 4, 8, 16, 32, 128)
    },
    run=gan(digits, epochs=3),
    columns={
        "frechet": Column("Frechet distance", "lower"),
        "coverage": Column("coverage", "higher"),
        "confident": Column("confident", "higher"),
        "classes": Column("digits drawn", "higher", 1),
    },
    minutes=9,
    seeds={"64 noise numbers": 3, "2 noise numbers": 3, "16 noise numbers": 3},
)
