"""Series that minigan draws: sine waves, an autoregressive process, and synthetic heartbeats.

    sines        24 steps of 5 sine waves of random frequencies and phases (Yoon et al. 2019, section 5.1)
    ar           64 steps of x_t = 1.2 x_{t-1} - 0.7 x_{t-2} + e_t, whose spectrum is known
    heartbeats   128 steps of a heart's voltage, made of Gaussians (after McSharry et al. 2003), with a steady or an
                 irregular rhythm. They are synthetic: nothing was measured on anyone

Further series of the same process are held out. The seed of the run decides what is drawn.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from minigan.datasets.sequence_values import Series

COUNT = 10_000  # series of sines and ar
HELD_OUT = 2000  # further series, which are not trained on
STREAMS = (8, 9)  # of the random numbers of the series, and of the held-out ones


# ---------------------------------------------------------------- sines

SINE_STEPS, SINES = 24, 5


def sines(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw series (count, 24, 5) float32 from 0 to 1: (sin(frequency * t + phase) + 1) / 2 for t = 0, ..., 23.

    Each feature of each series has a frequency and a phase of its own, both uniform from 0 to 0.1, as in the published
    code of TimeGAN. (The paper writes 2 pi before the frequency, which that code does not have.)
    """
    frequency, phase = rng.uniform(0, 0.1, (2, count, 1, SINES))
    t = np.arange(SINE_STEPS)[:, None]
    return ((np.sin(frequency * t + phase) + 1) / 2).astype(np.float32)


# ---------------------------------------------------------------- an autoregressive process

AR = (1.2, -0.7)  # x_t = 1.2 x_{t-1} - 0.7 x_{t-2} + e_t, e_t from N(0, 1)
AR_STEPS = 64
BURN_IN = 200  # steps before the first one; the start from 0 is forgotten as 0.7^(t/2)


def autoregressive(count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw series (count, 64) float32 of the autoregressive process with the coefficients AR."""
    noise = rng.standard_normal((BURN_IN + AR_STEPS, count))
    x = np.zeros_like(noise)
    for t in range(2, len(x)):
        x[t] = AR[0] * x[t - 1] + AR[1] * x[t - 2] + noise[t]
    return x[BURN_IN:].T.astype(np.float32)


def ar_covariance(lags: int, coefficients: tuple[float, float] = AR) -> np.ndarray:
    """Return the covariance (lags,) of x_t and x_{t+h} for h = 0, 1, ..., by the Yule-Walker equations.

    With a, b = coefficients: rho_1 = a / (1 - b), rho_h = a rho_{h-1} + b rho_{h-2}, and the variance is
    1 / (1 - a rho_1 - b rho_2).
    """
    a, b = coefficients
    rho = np.ones(max(lags, 3))
    rho[1] = a / (1 - b)
    for h in range(2, len(rho)):
        rho[h] = a * rho[h - 1] + b * rho[h - 2]
    return (rho / (1 - a * rho[1] - b * rho[2]))[:lags]


def ar_spectrum(frequencies: np.ndarray, coefficients: tuple[float, float] = AR) -> np.ndarray:
    """Return the spectrum (K,) at frequencies (K,) in cycles per step: 1 / |1 - a e^{-iw} - b e^{-2iw}|^2."""
    a, b = coefficients
    z = np.exp(-2j * np.pi * np.asarray(frequencies))
    return 1 / np.abs(1 - a * z - b * z * z) ** 2


def ar_periodogram(steps: int, coefficients: tuple[float, float] = AR) -> np.ndarray:
    """Return the expected periodogram (steps // 2,) of `steps` steps, at the frequencies k / steps from k = 1 on.

    It differs from the spectrum, because a short series blurs it: the sum over the lags h from 1 - T to T - 1 of
    (1 - |h| / T) times the covariance at h times cos(2 pi k h / T).
    """
    h = np.arange(steps)
    weighted = (1 - h / steps) * ar_covariance(steps, coefficients)
    k = np.arange(1, steps // 2 + 1)
    return weighted[0] + 2 * (weighted[1:] * np.cos(2 * np.pi * np.outer(k, h[1:]) / steps)).sum(axis=1)


PERIODOGRAMS: dict[str, Callable[[int], np.ndarray]] = {"ar": ar_periodogram}  # of processes that are known exactly


# ---------------------------------------------------------------- synthetic heartbeats

RATE = 50  # steps in a second
BEAT_STEPS = 128  # 2.56 seconds
BEAT_SERIES = 4000  # with about 3 beats each, so 12,000 beats
RHYTHMS = ("steady", "irregular")
# The waves of a beat: the time after its highest point in seconds, the width in seconds, and the height.
WAVES = {
    "P": (-0.17, 0.025, 0.15),
    "Q": (-0.04, 0.012, -0.12),
    "R": (0.0, 0.015, 1.0),
    "S": (0.04, 0.012, -0.22),
    "T": (0.25, 0.045, 0.30),
}
VARIATION = 0.15  # the standard deviation of the logarithm of each height
WITHIN = {"steady": 0.02, "irregular": 0.25}  # of the logarithm of the time from one beat to the next
NOISE = 0.01
DECIMALS = 3  # of a voltage, as a converter gives it


def heartbeats(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
    """Draw synthetic heartbeats: series (count, 128) float32, their rhythms (count,), and the number of beats.

    A series has a rate of 60 to 100 beats per minute and heights of its waves, which stay the same from beat to beat.
    With an irregular rhythm, the times between beats vary, and there is no P wave, as in atrial fibrillation.
    """
    rhythm = np.arange(count) % len(RHYTHMS)
    period = 60 / rng.uniform(60, 100, count)
    beats = 9  # of which those inside the series are seen
    spread = np.array([WITHIN[name] for name in RHYTHMS])[rhythm]
    between = period[:, None] * np.exp(spread[:, None] * rng.standard_normal((count, beats)))
    # The first beats come before the series begins, so that it begins at any point of a beat.
    at = np.cumsum(between, axis=1) - period[:, None] * (2 + rng.uniform(0, 1, (count, 1)))  # (count, beats)
    heights = np.exp(VARIATION * rng.standard_normal((count, len(WAVES))))
    t = np.arange(BEAT_STEPS) / RATE
    x = NOISE * rng.standard_normal((count, BEAT_STEPS))
    # A fast heart has its T wave earlier.
    stretch = np.sqrt(period)
    for k, (name, (delay, width, height)) in enumerate(WAVES.items()):
        strength = height * heights[:, k] * (np.where(rhythm == 1, 0, 1) if name == "P" else 1)
        for beat in range(beats):
            centre = at[:, beat] + delay * (stretch if name == "T" else 1)
            x += strength[:, None] * np.exp(-0.5 * ((t - centre[:, None]) / width) ** 2)
    inside = int(((at >= 0) & (at < BEAT_STEPS / RATE)).sum())
    return np.round(x, DECIMALS).astype(np.float32), rhythm, inside


# ---------------------------------------------------------------- as series


class Drawn(NamedTuple):
    """Series to train on, and others from the same process."""

    training: Series
    held_out: Series


def draw(name: str, seed: int) -> Drawn:
    """Draw "sines", "ar" or "heartbeats" from the seed."""
    parts = []
    for stream, share in zip(STREAMS, (1.0, 0.2), strict=True):
        rng = np.random.default_rng([seed, stream])
        if name == "heartbeats":
            x, rhythm, beats = heartbeats(round(share * BEAT_SERIES), rng)
            origin = f"synthetic heartbeats, {beats:,} beats drawn by minigan; nothing was measured on anyone"
            labels = np.array(RHYTHMS)[rhythm]
            parts.append(as_series(x, origin, ["voltage"], labels, "the rhythms that were drawn", name))
        else:
            x = (sines if name == "sines" else autoregressive)(round(share * COUNT), rng)
            what = (
                "sine waves" if name == "sines" else "an autoregressive process, x_t = 1.2 x_{t-1} - 0.7 x_{t-2} + e_t"
            )
            names = [f"sine {i + 1}" for i in range(SINES)] if name == "sines" else ["x"]
            parts.append(as_series(x, f"{what}, drawn by minigan", names, process=name))
    return Drawn(*parts)


def as_series(
    x: np.ndarray,
    origin: str,
    names: list[str],
    labels: np.ndarray | None = None,
    labels_from: str = "",
    process: str = "",
) -> Series:
    """Return an array (N, T) or (N, T, F) as series."""
    return Series(
        x.reshape(-1, len(names)),
        np.full(len(x), x.shape[1]),
        names,
        labels,
        dtype=str(x.dtype),
        flat=x.ndim == 2,
        process=process,
        origin=f"{len(x):,} series of {x.shape[1]} steps; {origin}",
        labels_from=labels_from,
    )
