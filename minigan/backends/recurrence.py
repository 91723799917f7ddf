"""The recurrent operations of the reference backend: one step, the loop over time, and the way back.

A sequence has T steps. Each step computes the next state from the state and the input x_t, with the
same weights. `contract.py` has the equations of a step, which are the body of each loop below. The
inputs do not depend on the state, so one product multiplies those of all steps before the loop begins.
The loop goes from t = 0 to T - 1 and keeps what the way back needs.

The way back (backpropagation through time) goes from t = T - 1 to 0. The state after step t has two
uses: it is the output y_t, and step t + 1 starts from it. So its gradient dh is the sum of dy_t and of
what came back from step t + 1. Each step adds its part to the gradients of the weights of the state,
because all steps share them. What is left after t = 0 is the gradient of the initial state.

With a mask, a step is h + m_t * (next h - h). Its derivative with respect to the next h is m_t, and
1 - m_t with respect to h.

N sequences, F inputs, H units. `needs` says whether the gradients of x and of the weights are needed.
"""

from minigan.backends.contract import Array, Backend, RecurrentGradients, RecurrentWeights

Saved = tuple[Array, ...]


def gru(backend: Backend, x: Array, weights: RecurrentWeights, start: Array, m: Array | None) -> tuple[Array, Saved]:
    """Compute the states y (N, T, H) of a GRU, and what `gru_grad` needs."""
    w_x, w_h, b_x, b_h = weights
    (N, T, F), H, xp, sigmoid = x.shape, len(w_h), backend.xp, backend.sigmoid
    y, gates = xp.empty((N, T, H), x.dtype), xp.empty((N, T, 4 * H), x.dtype)
    a = backend.matmul(x.reshape(N * T, F), w_x).reshape(N, T, 3 * H)  # x_t @ w_x of all steps
    h = start  # (N, H)
    for t in range(T):
        v, q = a[:, t] + b_x, backend.matmul(h, w_h) + b_h  # (N, 3 H)
        v_r, v_z, v_n, q_r, q_z, q_n = *thirds(v), *thirds(q)
        r = sigmoid(v_r + q_r)  # reset gate: how much of the state n sees
        z = sigmoid(v_z + q_z)  # update gate: how much of the state is kept
        n = xp.tanh(v_n + r * q_n)
        next_h = (1 - z) * n + z * h
        h = next_h if m is None else h + m[:, t, None] * (next_h - h)
        y[:, t] = h
        gates[:, t] = xp.concatenate([r, z, n, q_n], axis=1)
    return y, (x, start, y, gates)


def gru_grad(
    backend: Backend, dy: Array, saved: Saved, weights: RecurrentWeights, m: Array | None, needs: tuple[bool, bool]
) -> RecurrentGradients:
    """Compute the gradients of x (N, T, F), the weights, the initial state (N, H) and the mask (N, T)."""
    _, w_h, _, b_h = weights
    (x, start, y, gates), xp = saved, backend.xp
    N, T, H = y.shape
    da, dm = xp.empty((N, T, 3 * H), y.dtype), xp.empty((N, T), y.dtype)
    dw_h, db_h = xp.zeros_like(w_h), xp.zeros_like(b_h)
    dh = xp.zeros_like(start)
    for t in reversed(range(T)):
        h = y[:, t - 1] if t > 0 else start  # the state before step t
        r, z, n, q_n = quarters(gates[:, t])
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
        da[:, t] = xp.concatenate([dv_r, dv_z, dv_n], axis=1)  # v = a_t + b_x
        dq = xp.concatenate([dv_r, dv_z, dq_n], axis=1)
        dw_h += backend.matmul(h.T, dq)  # q = h @ w_h + b_h
        db_h += backend.sum_rows(dq)
        through_step = z * dnext_h + backend.matmul(dq, w_h.T)  # h has three uses: z * h, q, and the mask
        dh = through_step if m is None else dh + through_step
    dx, dweights = through_inputs(backend, da, x, weights, (dw_h, db_h), needs)
    return RecurrentGradients(dx, dweights, dh, None if m is None else dm)


def lstm(backend: Backend, x: Array, weights: RecurrentWeights, start: Array, m: Array | None) -> tuple[Array, Saved]:
    """Compute the outputs y (N, T, H) of an LSTM, and what `lstm_grad` needs."""
    w_x, w_h, b_x, b_h = weights
    (N, T, F), H, xp, sigmoid = x.shape, len(w_h), backend.xp, backend.sigmoid
    y, cells, gates = (xp.empty((N, T, size), x.dtype) for size in (H, H, 4 * H))
    a = backend.matmul(x.reshape(N * T, F), w_x).reshape(N, T, 4 * H)  # x_t @ w_x of all steps
    h, c = start[:, :H], start[:, H:]  # (N, H) each
    for t in range(T):
        q_i, q_f, q_g, q_o = quarters(a[:, t] + b_x + backend.matmul(h, w_h) + b_h)
        i = sigmoid(q_i)  # input gate: how much of g is added to the cell
        f = sigmoid(q_f)  # forget gate: how much of the cell is kept
        g = xp.tanh(q_g)
        o = sigmoid(q_o)  # output gate: how much of the cell is shown
        next_c = f * c + i * g
        next_h = o * xp.tanh(next_c)
        h = next_h if m is None else h + m[:, t, None] * (next_h - h)
        c = next_c if m is None else c + m[:, t, None] * (next_c - c)
        y[:, t], cells[:, t] = h, c
        gates[:, t] = xp.concatenate([i, f, g, o], axis=1)
    return y, (x, start, y, cells, gates)


def lstm_grad(
    backend: Backend, dy: Array, saved: Saved, weights: RecurrentWeights, m: Array | None, needs: tuple[bool, bool]
) -> RecurrentGradients:
    """Compute the gradients of x (N, T, F), the weights, the initial state (N, 2 H) and the mask (N, T)."""
    _, w_h, _, b_h = weights
    (x, start, y, cells, gates), xp = saved, backend.xp
    N, T, H = y.shape
    da, dm = xp.empty((N, T, 4 * H), y.dtype), xp.empty((N, T), y.dtype)
    dw_h, db_h = xp.zeros_like(w_h), xp.zeros_like(b_h)
    dh, dc = xp.zeros_like(start[:, :H]), xp.zeros_like(start[:, H:])
    for t in reversed(range(T)):
        h, c = (y[:, t - 1], cells[:, t - 1]) if t > 0 else (start[:, :H], start[:, H:])  # before step t
        i, f, g, o = quarters(gates[:, t])
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
        da[:, t] = dq  # q = a_t + b_x + h @ w_h + b_h
        dw_h += backend.matmul(h.T, dq)
        db_h += backend.sum_rows(dq)
        through_h, through_c = backend.matmul(dq, w_h.T), f * dnext_c
        dh, dc = (through_h, through_c) if m is None else (dh + through_h, dc + through_c)
    dx, dweights = through_inputs(backend, da, x, weights, (dw_h, db_h), needs)
    return RecurrentGradients(dx, dweights, xp.concatenate([dh, dc], axis=1), None if m is None else dm)


def through_inputs(
    backend: Backend, da: Array, x: Array, weights: RecurrentWeights, of_state: tuple[Array, Array], needs
) -> tuple[Array | None, RecurrentWeights | None]:
    """Return dx (N, T, F) and the gradients of the weights, from the gradient da (N, T, G) of x @ w_x + b_x.

    `of_state` are the gradients of w_h and b_h.
    """
    (N, T, F), (need_dx, need_grads), dx, dweights = x.shape, needs, None, None
    da_rows = da.reshape(N * T, -1)  # a = x @ w_x
    if need_dx:
        dx = backend.matmul(da_rows, weights.w_x.T).reshape(N, T, F)
    if need_grads:
        dw_x, (dw_h, db_h) = backend.matmul(x.reshape(N * T, F).T, da_rows), of_state
        dweights = RecurrentWeights(dw_x, dw_h, backend.sum_rows(da), db_h)
    return dx, dweights


def thirds(t: Array) -> tuple[Array, Array, Array]:
    """Return the three parts of t (N, 3 H)."""
    H = t.shape[1] // 3
    return t[:, :H], t[:, H : 2 * H], t[:, 2 * H :]


def quarters(t: Array) -> tuple[Array, Array, Array, Array]:
    """Return the four parts of t (N, 4 H)."""
    H = t.shape[1] // 4
    return t[:, :H], t[:, H : 2 * H], t[:, 2 * H : 3 * H], t[:, 3 * H :]
