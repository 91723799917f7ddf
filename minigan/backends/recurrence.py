"""The recurrent operations of the reference backend: one step, the loop over time, and the way back.

A sequence has T steps. Each step computes the next state from the state and from the input of this
step, with the same weights. `contract.py` has the equations, and they are the body of each loop
below. The loop goes from t = 0 to T - 1 and keeps what the way back needs.

The way back (backpropagation through time) goes from t = T - 1 to 0. The state after step t has two
uses: it is the output y_t, and step t + 1 starts from it. So its gradient dh is the sum of dy_t and of
what came back from step t + 1. Each step adds its part to the gradients of the weights, because all
steps share them. What is left after t = 0 is the gradient of the initial state.

With a mask, a step is h + m_t * (next h - h). Its derivative with respect to the next h is m_t, and
1 - m_t with respect to h.

N sequences, H units, G = 3 H or 4 H. The products of all inputs with their weights are in a (N, T, G)
before the loop begins, because they do not depend on the state.
"""

from minigan.backends.contract import Array, Backend, RecurrentGradients

Saved = tuple[Array, ...]


def gru(
    backend: Backend, a: Array, w: Array, b_x: Array, b_h: Array, start: Array, m: Array | None
) -> tuple[Array, Saved]:
    """Compute the states y (N, T, H) of a GRU, and what `gru_grad` needs."""
    xp, sigmoid = backend.xp, backend.sigmoid
    (N, T, _), H = a.shape, len(w)
    y, gates = xp.empty((N, T, H), a.dtype), xp.empty((N, T, 4 * H), a.dtype)
    h = start  # (N, H)
    for t in range(T):
        v, q = a[:, t] + b_x, backend.matmul(h, w) + b_h  # (N, 3 H)
        v_r, v_z, v_n, q_r, q_z, q_n = (
            v[:, :H],
            v[:, H : 2 * H],
            v[:, 2 * H :],
            q[:, :H],
            q[:, H : 2 * H],
            q[:, 2 * H :],
        )
        r = sigmoid(v_r + q_r)  # reset gate: how much of the state n sees
        z = sigmoid(v_z + q_z)  # update gate: how much of the state is kept
        n = xp.tanh(v_n + r * q_n)
        next_h = (1 - z) * n + z * h
        h = next_h if m is None else h + m[:, t, None] * (next_h - h)
        y[:, t] = h
        gates[:, t] = xp.concatenate([r, z, n, q_n], axis=1)
    return y, (start, y, gates)


def gru_grad(
    backend: Backend, dy: Array, saved: Saved, w: Array, m: Array | None, need_grads: bool
) -> RecurrentGradients:
    """Compute the gradients of a (N, T, 3 H), w (H, 3 H), both biases (3 H,), the initial state (N, H) and m (N, T)."""
    xp, (start, y, gates) = backend.xp, saved
    N, T, H = y.shape
    da, dm = xp.empty((N, T, 3 * H), y.dtype), xp.empty((N, T), y.dtype)
    dw, db_x, db_h = xp.zeros_like(w), xp.zeros_like(w[0]), xp.zeros_like(w[0])
    dh = xp.zeros_like(start)
    for t in reversed(range(T)):
        h = y[:, t - 1] if t > 0 else start  # the state before step t
        r, z, n, q_n = (gates[:, t, k * H : (k + 1) * H] for k in range(4))
        dh = dh + dy[:, t]
        dnext_h = dh
        if m is not None:  # y = h + m * (next_h - h) with next_h - h = (1 - z) * (n - h)
            dm[:, t] = (dh * (1 - z) * (n - h)).sum(axis=1)
            dnext_h, dh = m[:, t, None] * dh, (1 - m[:, t, None]) * dh
        dn = (1 - z) * dnext_h  # next_h = (1 - z) * n + z * h
        dv_z = (h - n) * dnext_h * z * (1 - z)  # z = sigmoid(v_z + q_z)
        dv_n = dn * (1 - n * n)  # n = tanh(v_n + r * q_n)
        dq_n = r * dv_n
        dv_r = q_n * dv_n * r * (1 - r)  # r = sigmoid(v_r + q_r)
        dv, dq = xp.concatenate([dv_r, dv_z, dv_n], axis=1), xp.concatenate([dv_r, dv_z, dq_n], axis=1)
        da[:, t] = dv  # v = a_t + b_x
        if need_grads:
            dw += backend.matmul(h.T, dq)  # q = h @ w + b_h
            db_x += backend.sum_rows(dv)
            db_h += backend.sum_rows(dq)
        through_step = z * dnext_h + backend.matmul(dq, w.T)  # h has three uses: z * h, q, and the mask
        dh = through_step if m is None else dh + through_step
    of_weights = (dw, db_x, db_h) if need_grads else (None, None, None)
    return RecurrentGradients(da, of_weights, dh, None if m is None else dm)


def lstm(
    backend: Backend, a: Array, w: Array, b_x: Array, b_h: Array, start: Array, m: Array | None
) -> tuple[Array, Saved]:
    """Compute the outputs y (N, T, H) of an LSTM, and what `lstm_grad` needs."""
    xp, sigmoid = backend.xp, backend.sigmoid
    (N, T, _), H = a.shape, len(w)
    y, cells, gates = xp.empty((N, T, H), a.dtype), xp.empty((N, T, H), a.dtype), xp.empty((N, T, 4 * H), a.dtype)
    h, c = start[:, :H], start[:, H:]  # (N, H) each
    for t in range(T):
        q = a[:, t] + b_x + backend.matmul(h, w) + b_h  # (N, 4 H)
        i = sigmoid(q[:, :H])  # input gate: how much of g is added to the cell
        f = sigmoid(q[:, H : 2 * H])  # forget gate: how much of the cell is kept
        g = xp.tanh(q[:, 2 * H : 3 * H])
        o = sigmoid(q[:, 3 * H :])  # output gate: how much of the cell is shown
        next_c = f * c + i * g
        next_h = o * xp.tanh(next_c)
        h = next_h if m is None else h + m[:, t, None] * (next_h - h)
        c = next_c if m is None else c + m[:, t, None] * (next_c - c)
        y[:, t], cells[:, t] = h, c
        gates[:, t] = xp.concatenate([i, f, g, o], axis=1)
    return y, (start, y, cells, gates)


def lstm_grad(
    backend: Backend, dy: Array, saved: Saved, w: Array, m: Array | None, need_grads: bool
) -> RecurrentGradients:
    """Compute the gradients of a (N, T, 4 H), w (H, 4 H), both biases (4 H,), the initial state (N, 2 H) and m (N, T).

    q contains both biases in the same way, so that they have the same gradient.
    """
    xp, (start, y, cells, gates) = backend.xp, saved
    N, T, H = y.shape
    da, dm = xp.empty((N, T, 4 * H), y.dtype), xp.empty((N, T), y.dtype)
    dw, db = xp.zeros_like(w), xp.zeros_like(w[0])
    dh, dc = xp.zeros_like(start[:, :H]), xp.zeros_like(start[:, H:])
    for t in reversed(range(T)):
        h, c = (y[:, t - 1], cells[:, t - 1]) if t > 0 else (start[:, :H], start[:, H:])  # before step t
        i, f, g, o = (gates[:, t, k * H : (k + 1) * H] for k in range(4))
        next_c = f * c + i * g
        tanh_c = xp.tanh(next_c)
        dh = dh + dy[:, t]
        dnext_h, dnext_c = dh, dc
        if m is not None:  # y = h + m * (next_h - h), and the same for c
            m_t = m[:, t, None]
            dm[:, t] = (dh * (o * tanh_c - h) + dc * (next_c - c)).sum(axis=1)
            dnext_h, dnext_c, dh, dc = m_t * dh, m_t * dc, (1 - m_t) * dh, (1 - m_t) * dc
        dnext_c = dnext_c + o * (1 - tanh_c * tanh_c) * dnext_h  # next_h = o * tanh(next_c)
        dq_o = tanh_c * dnext_h * o * (1 - o)  # o = sigmoid(q_o)
        dq_i = g * dnext_c * i * (1 - i)  # next_c = f * c + i * g
        dq_f = c * dnext_c * f * (1 - f)
        dq_g = i * dnext_c * (1 - g * g)  # g = tanh(q_g)
        dq = xp.concatenate([dq_i, dq_f, dq_g, dq_o], axis=1)
        da[:, t] = dq  # q = a_t + b_x + h @ w + b_h
        if need_grads:
            dw += backend.matmul(h.T, dq)
            db += backend.sum_rows(dq)
        through_h, through_c = backend.matmul(dq, w.T), f * dnext_c
        dh, dc = (through_h, through_c) if m is None else (dh + through_h, dc + through_c)
    of_weights = (dw, db, db.copy()) if need_grads else (None, None, None)
    return RecurrentGradients(da, of_weights, xp.concatenate([dh, dc], axis=1), None if m is None else dm)
