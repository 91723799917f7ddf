"""Statistics of sets of series (N, T, F): autocorrelation, spectrum, and the distribution of the values.

A missing value is NaN, also at the steps after the end of a shorter series. Every statistic is computed from the values
that are there. The features are independent of each other here: each has its own row in a result.
"""

import numpy as np

TENTHS = 10  # parts of the band of frequencies
FLOOR = 1e-6  # of the mean power: a smaller power of a tenth counts as this one, so that a ratio is defined
MOST_LAGS = 100
BLOCK = 1000  # series that are transformed at a time
MOST_VALUES = 50_000  # of a feature, whose distribution is compared; of more, evenly spaced quantiles


def autocorrelation(x: np.ndarray, lags: int) -> np.ndarray:
    """Return the autocorrelation (F, lags) of series (N, T, F) at the lags 1, 2, ..., NaN where it is not defined.

    r_h = mean of (x_t - m) (x_{t+h} - m) / mean of (x_t - m)^2, where m is the mean of all values of the feature, and
    the other means are over all series and all t for which both values are there. With one mean for all series, what
    distinguishes a series from others counts as correlation.
    """
    found = np.full((x.shape[2], lags), np.nan)
    T, lags = x.shape[1], min(lags, x.shape[1] - 1)
    for f in range(x.shape[2]):
        z = x[..., f].astype(np.float64)
        there = ~np.isnan(z)
        if not there.any():
            continue
        z = np.where(there, z - z[there].mean(), 0)
        pairs = len(z) * np.arange(T, T - lags - 1, -1.0)  # at the lags 0, 1, ..., lags
        if not there.all():
            pairs = np.rint(_products(there.astype(np.float64), lags))
        with np.errstate(invalid="ignore", divide="ignore"):
            covariance = _products(z, lags) / pairs
            found[f, :lags] = covariance[1:] / covariance[0]
    return found


def _products(z: np.ndarray, lags: int) -> np.ndarray:
    """Return the sum (lags + 1,) of z_t z_{t+h} over all t and all rows of z (N, T), for h = 0, 1, ..., lags.

    The spectrum of the products is |spectrum of z|^2, if z is followed by as many zeros.
    """
    power = np.zeros(z.shape[1] + 1)
    for start in range(0, len(z), BLOCK):
        power += (np.abs(np.fft.rfft(z[start : start + BLOCK], 2 * z.shape[1], axis=1)) ** 2).sum(axis=0)
    return np.fft.irfft(power)[: lags + 1]


def autocorrelation_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean absolute difference of two autocorrelations (F, lags) where both are defined."""
    return _mean(np.abs(a - b))


def complete(x: np.ndarray) -> list[np.ndarray]:
    """Return series (N, T, F) as arrays (n, t, F) of series of one length each, with gaps interpolated.

    The steps after the last value of a series are cut off. A feature without values is 0. Series of fewer than 2
    steps are left out.
    """
    x = np.asarray(x, np.float64)
    absent = np.isnan(x)
    steps = x.shape[1] - np.argmax(~absent.all(axis=2)[:, ::-1], axis=1)
    steps[absent.all(axis=(1, 2))] = 0
    groups = []
    for length in np.unique(steps[steps >= 2]):
        part = x[steps == length, :length].copy()
        for n, _, f in {(n, 0, f) for n, _, f in np.argwhere(np.isnan(part)).tolist()}:
            there = np.flatnonzero(~np.isnan(part[n, :, f]))
            part[n, :, f] = np.interp(np.arange(length), there, part[n, there, f]) if len(there) else 0
        groups.append(part)
    return groups


def periodogram(x: np.ndarray) -> np.ndarray:
    """Return the periodogram (N, T // 2, F) of complete series (N, T, F) at the frequencies k / T from k = 1 on.

    It is |sum_t x_t e^{-2 pi i k t / T}|^2 / T: for white noise of variance 1, its expectation is 1. The mean of a
    series only matters at k = 0, which is left out.
    """
    return np.abs(np.fft.rfft(x, axis=1)[:, 1:]) ** 2 / x.shape[1]


def mean_periodogram(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (frequencies (K,), the mean periodogram (F, K)) of the series among x (N, T, F) with the usual length."""
    part = max(complete(x), key=len)
    frequencies = np.arange(1, part.shape[1] // 2 + 1) / part.shape[1]
    return frequencies, periodogram(part).mean(axis=0).T


def tenth_of(steps: int) -> np.ndarray:
    """Return the tenth of the band (steps // 2,), 0 to 9, in which each frequency k / steps is, k = 1, 2, ...

    The band ends at the highest frequency. Of short series, some tenths have no frequency.
    """
    K = steps // 2
    return -(-TENTHS * np.arange(1, K + 1) // K) - 1  # rounded up


def band_power(x: np.ndarray) -> np.ndarray:
    """Return the mean periodogram (F, 10) of series (N, T, F) in each tenth of the band, NaN without a frequency."""
    total, count = np.zeros((x.shape[2], TENTHS)), np.zeros(TENTHS)
    for part in complete(x):
        power, where = periodogram(part), tenth_of(part.shape[1])
        for tenth in np.unique(where):
            total[:, tenth] += power[:, where == tenth].mean(axis=1).sum(axis=0)
            count[tenth] += len(part)
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, total / count, np.nan)


def of_periodogram(expected: np.ndarray, steps: int) -> np.ndarray:
    """Return the mean (10,) in each tenth of the band of a periodogram (steps // 2,), NaN where it has no frequency."""
    where = tenth_of(steps)
    return np.array([expected[where == t].mean() if (where == t).any() else np.nan for t in range(TENTHS)])


def band_errors(power: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return power / reference - 1, (F, 10), for powers of the tenths of the band."""
    floor = FLOOR * np.nanmean(reference, axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return power / np.maximum(reference, floor) - 1


def ranges(x: np.ndarray) -> np.ndarray:
    """Return the largest minus the smallest value (F,) of each feature of series (N, T, F); 1 where that is 0."""
    flat = x.reshape(-1, x.shape[2]).astype(np.float64)
    width = [np.ptp(column[~np.isnan(column)]) if not np.isnan(column).all() else 0.0 for column in flat.T]
    return np.where(np.array(width) > 0, width, 1.0)


def spectrum_distance(power: np.ndarray, reference: np.ndarray, widths: np.ndarray) -> np.ndarray:
    """Return the relative error (10,) of the power (F, 10) of each tenth, NaN for one without a frequency.

    It is the sum over the features of |power - reference|, divided by that of the reference, where a feature has the
    range `widths` (F,) and counts in units of it. So a feature that is nearly constant does not decide.
    """
    a, b = power / widths[:, None] ** 2, reference / widths[:, None] ** 2
    floor = FLOOR * np.nanmean(b) * len(b)
    return np.abs(a - b).sum(axis=0) / np.maximum(b.sum(axis=0), floor)


def marginals(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return 1 - KS (F,) of the values of each feature of two sets of series; 1: they have the same distribution.

    KS is the largest difference of the two distribution functions (Kolmogorov and Smirnov). It is NaN for a feature
    without values in one of the sets.
    """
    found = []
    for f in range(a.shape[2]):
        x, y = (_sorted(part[..., f]) for part in (a, b))
        if not len(x) or not len(y):
            found.append(float("nan"))
            continue
        at = np.concatenate([x, y])
        below = [np.searchsorted(values, at, side="right") / len(values) for values in (x, y)]
        found.append(1 - float(np.abs(below[0] - below[1]).max()))
    return np.array(found)


def _sorted(values: np.ndarray) -> np.ndarray:
    """Return the values that are not missing, sorted: all of them, or MOST_VALUES."""
    found = np.sort(values[~np.isnan(values)].astype(np.float64))
    if len(found) <= MOST_VALUES:
        return found
    return found[np.arange(MOST_VALUES) * (len(found) - 1) // (MOST_VALUES - 1)]


def lengths(x: np.ndarray) -> np.ndarray:
    """Return the length (N,) of each series (N, T, F): its last step with a value, counted from 1; 0 without one."""
    there = np.logical_not(np.isnan(x).all(axis=2))
    return np.where(there.any(axis=1), x.shape[1] - np.argmax(there[:, ::-1], axis=1), 0)


def missing(x: np.ndarray) -> np.ndarray:
    """Return the share (F,) of missing values before the end of the series (N, T, F)."""
    lasts = np.arange(x.shape[1]) < lengths(x)[:, None]
    return (np.isnan(x) & lasts[..., None]).sum(axis=(0, 1)) / max(1, int(lasts.sum()))


def _mean(values: np.ndarray) -> float:
    """Return the mean of the values that are defined, NaN without one."""
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else float("nan")
