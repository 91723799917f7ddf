"""Test the losses: values against formulas, accuracy at the limits of float32, and rejected shapes.

test_gradcheck.py checks their gradients ("losses").
"""

import math

import numpy as np
import pytest
import scipy.special

from minigan import backends, losses
from minigan.losses import LOSSES, minimax, non_saturating, smoothed

L = np.array([[-100.0], [-20.0], [-1.5], [0.0], [0.7], [20.0], [100.0]])


def column(*values, dtype=np.float64):
    return np.array(values, dtype).reshape(-1, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_and_softplus_against_scipy(dtype):
    eps = np.finfo(dtype).eps
    l = L.astype(dtype)
    got, expected = losses.softplus(l), -scipy.special.log_expit(-L)
    np.testing.assert_allclose(got, expected, rtol=4 * eps, atol=1e-44)  # exp(-100) is a subnormal float32
    np.testing.assert_allclose(losses.sigmoid(l), scipy.special.expit(L), atol=2 * eps)
    assert got.dtype == losses.sigmoid(l).dtype == dtype


def test_softplus_of_a_complex_logit():
    """The complex-step derivative of softplus is the sigmoid."""
    np.testing.assert_allclose(losses.softplus(L + 1e-20j).imag / 1e-20, scipy.special.expit(L), rtol=1e-12)


def test_losses_and_gradients_at_equilibrium():
    zeros = np.zeros((4, 1))
    loss, d_real, d_fake = non_saturating.discriminator(zeros, zeros)
    assert math.isclose(loss, 2 * math.log(2)) and (d_real == -0.125).all() and (d_fake == 0.125).all()
    for loss_function, slope in ((non_saturating, -0.125), (minimax, -0.125)):
        loss, d_fake = loss_function.generator(zeros)
        assert math.isclose(abs(loss), math.log(2)) and (d_fake == slope).all()


@pytest.mark.parametrize("loss", losses.LOSSES.values(), ids=lambda loss: loss.name)
def test_equilibrium_is_the_pair_of_losses_at_logit_0(loss):
    zeros = np.zeros((4, 1))
    np.testing.assert_allclose(loss.equilibrium, (loss.discriminator(zeros, zeros)[0], loss.generator(zeros, zeros)[0]))


def test_minimax_and_non_saturating_have_the_same_discriminator_loss():
    real, fake = L, L[::-1]
    a, b = non_saturating.discriminator(real, fake), minimax.discriminator(real, fake)
    assert a[0] == b[0] and (a[1] == b[1]).all() and (a[2] == b[2]).all()


def test_the_discriminators_loss_is_the_cross_entropy():
    real, fake = column(1.0, -2.0, 0.5), column(0.3, -1.0)
    loss, _, _ = non_saturating.discriminator(real, fake)
    s = scipy.special.expit
    assert math.isclose(loss, -np.log(s(real)).mean() - np.log(1 - s(fake)).mean(), rel_tol=1e-14)


def test_generator_losses_match_their_formulas():
    fake = column(0.3, -1.0, 2.0)
    s = scipy.special.expit(fake)
    assert math.isclose(non_saturating.generator(fake)[0], -np.log(s).mean(), rel_tol=1e-14)
    assert math.isclose(minimax.generator(fake)[0], np.log(1 - s).mean(), rel_tol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses_are_accurate_at_logits_of_100(dtype):
    """A sigmoid rounds to 0 or 1 there. The loss and its gradient stay accurate, and NumPy gives no warning."""
    far = column(-100, 100, dtype=dtype)
    tiny = math.exp(-100) / 2  # 1.9e-44: subnormal in float32, and not 0

    def slopes(d, *expected):
        np.testing.assert_allclose(d.ravel(), expected, rtol=1e-6, atol=3e-45)  # one or two subnormal steps
        assert d.all()

    loss, d_real, d_fake = non_saturating.discriminator(far, far)
    assert loss == 100
    slopes(d_real, -0.5, -tiny)
    slopes(d_fake, tiny, 0.5)
    loss, d_fake = non_saturating.generator(far)
    assert loss == 50
    slopes(d_fake, -0.5, -tiny)
    loss, d_fake = minimax.generator(far)
    assert loss == -50
    slopes(d_fake, -tiny, -0.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_non_saturating_gradient_does_not_vanish_at_logit_minus_20(dtype):
    """DeZero's loss (sigmoid, clip, log) has gradient 0 at logit -20, where -1 is correct. For minimax it is near 0."""
    sure = column(-20, dtype=dtype)
    np.testing.assert_allclose(non_saturating.generator(sure)[1], -1, atol=3e-9)
    assert -3e-9 < minimax.generator(sure)[1][0, 0] <= 0


def test_hinge_has_no_gradient_beyond_the_margin():
    """Real logits of at least 1 and fake logits of at most -1 have no gradient (Miyato et al. 2018, equation 16)."""
    real, fake = column(2.0, 0.5, -3.0, 1.0), column(-2.0, 0.0, -1.0, 0.5)  # 1 and -1: on the margin itself
    loss, d_real, d_fake = losses.hinge.discriminator(real, fake)
    assert loss == (0 + 0.5 + 4 + 0) / 4 + (0 + 1 + 0 + 1.5) / 4
    assert d_real.ravel().tolist() == [0, -0.25, -0.25, 0] and d_fake.ravel().tolist() == [0, 0.25, 0, 0.25]
    loss, d_fake = losses.hinge.generator(fake)
    assert loss == 0.625 and (d_fake == -0.25).all() and d_fake.shape == (4, 1)


def test_label_smoothing_of_a_loss_without_targets_is_rejected():
    with pytest.raises(
        ValueError, match="label smoothing needs a loss with targets, got hinge: use one of non_saturating, minimax"
    ):
        smoothed(losses.hinge, 0.1)


def test_the_gradient_of_least_squares_does_not_vanish_for_samples_beyond_their_target():
    """A fake that D takes for real with certainty still moves towards the target (Mao et al. 2017, figure 1)."""
    far = column(9.0, -9.0)
    loss, d_fake = losses.least_squares.generator(far)
    assert loss == (64 + 100) / 4 and d_fake.ravel().tolist() == [4.0, -5.0]


def test_a_constant_on_all_logits_changes_no_relative_loss_and_no_probability():
    real, fake = column(0.3, -1.0, 2.0), column(1.0, 0.5, -0.5)
    for loss in (loss for loss in LOSSES.values() if loss.relative):
        at_0, at_7 = loss.discriminator(real, fake), loss.discriminator(real + 7, fake + 7)
        for a, b in zip(at_0, at_7, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)
        np.testing.assert_allclose(loss.probabilities(real, fake), loss.probabilities(real + 7, fake + 7), rtol=1e-12)
    assert {loss.name for loss in LOSSES.values() if loss.relative} == {"wasserstein", "relativistic", "r3gan"}


def test_relativistic_losses_compare_pairs():
    """Only the pair (1, 4) is lost by D, so that only its gradient is large."""
    loss, d_real, d_fake = losses.relativistic.discriminator(column(30.0, 1.0), column(-30.0, 4.0))
    assert math.isclose(loss, np.log1p(np.exp(3)) / 2, rel_tol=1e-12)
    np.testing.assert_allclose(d_fake.ravel(), [0, scipy.special.expit(3) / 2], atol=1e-20)
    assert (d_real == -d_fake).all()


def test_relativistic_losses_reject_batches_that_are_no_pairs():
    with pytest.raises(ValueError, match=r"compares pairs, got \(3, 1\) real and \(2, 1\) fake logits"):
        losses.relativistic.discriminator(column(1, 2, 3), column(1, 2))
    with pytest.raises(ValueError, match="r3gan compares with the real logits, got none: pass real="):
        losses.r3gan.generator(column(1, 2))


@pytest.mark.parametrize("share", [0.0, 1.0, math.nan])
def test_a_share_of_real_samples_out_of_range_is_rejected(share):
    with pytest.raises(ValueError, match="share of real samples is above 0 and below 1"):
        losses.weighted(non_saturating, share)


def test_the_best_discriminator_of_a_weighted_loss():
    """The loss r p softplus(-l) + (1 - r) q softplus(l) is smallest where s(l) = r p / (r p + (1 - r) q)."""
    r, logits = 0.2, np.linspace(-6, 6, 100_001)[:, None]
    loss = losses.weighted(non_saturating, r)
    values = [float(loss.discriminator(l[None], l[None])[0]) for l in logits[::500]]  # p = q
    best = logits[::500][int(np.argmin(values)), 0]
    assert abs(scipy.special.expit(best) - r) < 0.02
    assert loss.equilibrium is None and losses.weighted(non_saturating, 0.5).equilibrium is not None


def test_features_of_other_shapes_are_rejected():
    with pytest.raises(ValueError, match="expected features of one shape"):
        losses.feature_matching(np.zeros((3, 2)), np.zeros((3, 4)))


def test_python_numbers_use_the_reference_backend():
    assert backends.of(1.0) is backends.of(np.ones(1)) is backends.reference()
    assert losses.sigmoid(0.0) == 0.5


def test_a_loss_uses_the_backend_of_its_logits(emulation):
    logits = emulation.asarray([[1.0]])
    assert backends.of(logits) is emulation
    for value in (losses.sigmoid(logits), *non_saturating.discriminator(logits, logits)):
        assert isinstance(value, emulation.xp.ndarray)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=str)
def test_a_loss_uses_the_backend_it_was_moved_to(loss):
    """A backend for data-parallel training must receive all sums over the batch."""

    class Counting(type(backends.reference())):
        sums = 0

        def batch_sum(self, total):
            self.sums += 1
            return total

    counting, logits = Counting(), np.ones((3, 1))
    moved = loss.to(counting)
    moved.discriminator(logits, logits), moved.generator(logits, logits)
    # a sum and a count for each mean, and a count for each gradient; D's loss of pairs is one mean instead of two
    assert counting.sums == (6 if loss.compares else 9)
    assert loss.backend is None and moved.equilibrium == loss.equilibrium


def test_tiny_losses_have_full_relative_precision():
    """softplus(-30) is e^-30 with full relative precision, because it is computed with log1p."""
    loss, _ = non_saturating.generator(column(30.0))
    assert math.isclose(loss, math.exp(-30), rel_tol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", [*losses.LOSSES.values(), smoothed(non_saturating, 0.1)], ids=lambda l: l.name)
def test_results_have_the_dtype_of_the_logits(loss, dtype):
    real, fake = L.astype(dtype), L[:3].astype(dtype)
    real = real[:3] if loss.compares else real
    for results in (loss.discriminator(real, fake), loss.generator(fake, real), loss.probabilities(real, fake)):
        assert all(np.asarray(r).dtype == dtype for r in results)
    assert [d.shape for d in loss.discriminator(real, fake)[1:]] == [real.shape, (3, 1)]


def test_the_table_of_losses():
    assert losses.LOSSES["non_saturating"] is non_saturating and losses.LOSSES["minimax"] is minimax
    assert [loss.name for loss in losses.LOSSES.values()] == list(losses.LOSSES)


def test_label_smoothing_is_the_cross_entropy_with_a_smoothed_target():
    real, fake, t = column(1.0, -2.0, 0.5), column(0.3, -1.0), 0.8
    s = scipy.special.expit
    loss, d_real, d_fake = smoothed(non_saturating, 1 - t).discriminator(real, fake)
    expected = -(t * np.log(s(real)) + (1 - t) * np.log(1 - s(real))).mean() - np.log(1 - s(fake)).mean()
    assert math.isclose(loss, expected, rel_tol=1e-14)
    np.testing.assert_allclose(d_real, (s(real) - t) / 3, rtol=1e-14)
    np.testing.assert_allclose(d_fake, non_saturating.discriminator(real, fake)[2])


def test_label_smoothing_changes_neither_the_generator_nor_the_original():
    soft = smoothed(minimax, 0.1)
    assert soft.generator(L)[0] == minimax.generator(L)[0] and soft.name == "minimax"
    assert minimax.discriminator(L, L)[0] != soft.discriminator(L, L)[0]
    assert smoothed(minimax, 0.0).discriminator(L, L)[0] == minimax.discriminator(L, L)[0]


@pytest.mark.parametrize("smoothing", [-0.1, 0.5, 1.0, math.nan])
def test_label_smoothing_out_of_range_is_rejected(smoothing):
    with pytest.raises(ValueError, match=f"label smoothing is at least 0 and below 0.5, got {smoothing}"):
        smoothed(minimax, smoothing)


@pytest.mark.parametrize("shape", [(4, 1, 1, 1), (4, 2), (1, 4), (), (0, 1), (2, 2)])
def test_logits_that_would_broadcast_are_rejected(shape):
    """Equinox's GAN subtracts labels (B,) from logits (B, 1, 1, 1) and averages over B x B numbers."""
    wrong, right = np.ones(shape), np.ones((4, 1))
    message = r"{} are one number per sample, \(N, 1\), got \(.*\): end D with Dense\(n, 1\)"
    for loss in losses.LOSSES.values():
        with pytest.raises(ValueError, match=message.format("real_logits")):
            loss.discriminator(wrong, right)
        with pytest.raises(ValueError, match=message.format("fake_logits")):
            loss.discriminator(right, wrong)
        with pytest.raises(ValueError, match=message.format("fake_logits")):
            loss.generator(wrong, right)


def test_cross_entropy_by_hand():
    """The loss of three equal logits is ln 3 for any label. A correct label with a large logit has no gradient."""
    value, d_logits = losses.cross_entropy(np.zeros((2, 3)), np.array([0, 2]))
    assert math.isclose(value, math.log(3))
    third = 1 / 6
    np.testing.assert_allclose(d_logits, [[third - 0.5, third, third], [third, third, third - 0.5]])
    value, d_logits = losses.cross_entropy(np.array([[1000.0, 0.0]]), np.array([0]))
    assert value == 0 and not d_logits.any()
    # The largest logit is subtracted per row. A common maximum of 1000 would give exp(-2000) = 0 in the second row.
    value, d_logits = losses.cross_entropy(np.array([[1000.0, 0.0], [-1000.0, -1000.0]]), np.array([0, 1]))
    assert math.isclose(value, math.log(2) / 2) and d_logits.tolist() == [[0, 0], [0.25, -0.25]]


@pytest.mark.parametrize(("logits", "labels"), [((3,), (3,)), ((3, 2), (2,)), ((3, 2), (3, 1)), ((3, 2, 1), (3,))])
def test_cross_entropy_rejects_shapes_that_would_broadcast(logits, labels):
    with pytest.raises(ValueError, match=r"expected logits \(N, classes\) and labels \(N,\), got \(.*\) and \(.*\)"):
        losses.cross_entropy(np.zeros(logits), np.zeros(labels, int))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 3], "labels go from 0 to 2, got 3"),
        ([-1, 2], "from 0 to 2, got -1"),
        ([0.0, 1.0], "whole numbers, got float"),
    ],
)
def test_cross_entropy_rejects_invalid_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        losses.cross_entropy(np.zeros((2, 3)), np.array(labels))


def test_logits_may_have_shape_n_or_n_1():
    column_loss, row_loss = non_saturating.generator(L), non_saturating.generator(L[:, 0])
    assert column_loss[0] == row_loss[0] and (column_loss[1][:, 0] == row_loss[1]).all()


def test_the_tiny_minimax_gradient_has_full_relative_precision():
    """Where D is sure of the fakes, the minimax gradient is tiny but not 0: s(-30) = 9.4e-14, also in float32."""
    fake = column(-18, -30, -80, dtype=np.float32)
    _, d_fake = minimax.generator(fake)
    expected = -np.exp(fake.astype(np.float64)) / 3
    np.testing.assert_allclose(d_fake, expected, rtol=1e-5)
