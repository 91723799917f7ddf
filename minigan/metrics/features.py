"""Features of images of any kind: a small convolutional network with random weights of a fixed seed.

    network = RandomFeatures(backend, channels=3)
    features = network(images)                   # uint8 (N, H, W, 3) -> float64 (N, F)

Random features separate sets of images by texture, colour and shape at several scales, and need no
training data. They are what Naeem et al. (2020, "Reliable fidelity and diversity metrics for
generative models", section 4.2) propose for images that a trained network does not know.
"""

import numpy as np

from minigan import datasets
from minigan.layers import Conv2d, LeakyReLU, Sequential, he_normal

SEED = 20200221
STAGES = (16, 32, 32, 32)  # channels; each stage halves the image
NAME = f"a convolutional network with random weights (seed {SEED})"


class RandomFeatures:
    """The network. It has as many stages as the image can be halved, up to four."""

    def __init__(self, backend, channels: int):
        rng, c_in = np.random.default_rng(SEED), channels
        self.stages = []
        for c in STAGES:
            layers = Conv2d(c_in, c, 3, stride=2, pad=1, rng=rng, init=he_normal), LeakyReLU(0.2)
            self.stages.append(Sequential(*layers).to(backend))
            c_in = c

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Returns the mean and the standard deviation over all pixels of each channel of each stage: float64 (N, F)."""
        parts = []
        for i in range(0, len(images), 250):
            x = self.stages[0].backend.asarray(datasets.scale(images[i : i + 250]))
            found = []
            for stage in self.stages:
                x, _ = stage.forward(x, train=False)
                maps = stage.backend.to_numpy(x).astype(np.float64)  # (N, h, w, c)
                found += [maps.mean(axis=(1, 2)), maps.std(axis=(1, 2))]
                if min(x.shape[1:3]) < 4:
                    break
            parts.append(np.concatenate(found, axis=1))
        return np.concatenate(parts)


class Standardiser:
    """Subtracts the mean of real features (N, F) and divides by their standard deviation, so that all count alike."""

    def __init__(self, real: np.ndarray):
        self.mean, std = real.mean(axis=0), real.std(axis=0)
        self.std = np.where(std > 1e-6 * max(std.max(), 1e-12), std, np.inf)  # a constant feature tells nothing

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """The standardised features (M, F)."""
        return (features - self.mean) / self.std
