"""Time the same training step in minigan, PyTorch and TensorFlow, with the same networks, weights and work.

    pip install torch tensorflow
    python benchmarks/bench_peers.py [--cases small:64 small:128 tutorial:128 tutorial:256] [--json FILE] [--plot FILE]

A step runs D on real and on fake images with one Adam update, and then G through D with one Adam update. Each update
uses new noise. Everything is computed in float32. PyTorch is timed in two versions. `plain` is the code that a user
would write first. `best` uses channels_last memory, freezes D in the step of G, computes the fakes for D without
autograd, and uses the fused Adam. TensorFlow, if it is installed, runs the scheme of its tutorial in one tf.function:
both players are updated from one pass ("at once"). minigan is timed with this scheme too. Each contender runs in a
separate process, so that its threads do not disturb the others. The contenders take turns. In each turn, a pause and
one step to warm up come before the timed steps. Before anything is timed, the images of the generator, the logits of
the discriminator and the gradients of a whole step are compared.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

CONTENDERS = ("minigan", "torch plain", "torch best", "minigan, at once", "tensorflow, at once")


# ---------------------------------------------------------------- the networks in PyTorch


def torch_network(network, channels_last: bool):
    """Convert a minigan network to a PyTorch module with the same weights and images of shape (N, C, H, W).

    The weights of dense layers next to an image are reordered here from (H, W, C) to (C, H, W). With channels_last
    memory they keep their order.
    """
    import torch
    from torch import nn

    from minigan import layers as L

    class Images(nn.Module):  # rows of numbers -> images
        def __init__(self, h, w, c):
            super().__init__()
            self.size = h, w, c

        def forward(self, x):
            h, w, c = self.size
            return x.view(-1, h, w, c).permute(0, 3, 1, 2) if channels_last else x.view(-1, c, h, w)

    class Rows(nn.Module):  # images -> rows of numbers
        def forward(self, x):
            return x.permute(0, 2, 3, 1).flatten(1) if channels_last else x.flatten(1)

    class Crop(nn.Module):  # removes the rows and columns that "same" padding does not have
        def __init__(self, n):
            super().__init__()
            self.n = n

        def forward(self, x):
            return x[:, :, : -self.n, : -self.n]

    def tensor(a):
        return nn.Parameter(torch.from_numpy(np.ascontiguousarray(a)))

    modules, size = [], None  # size: channels of the last convolution
    image = next((layer.shape for layer in network.layers if isinstance(layer, L.Reshape)), None)
    for i, layer in enumerate(network.layers):
        p = layer.params
        if isinstance(layer, L.Dense):
            module, w = nn.Linear(layer.n_in, layer.n_out, bias="b" in p), p["w"]
            if not channels_last and image and layer.n_out == np.prod(image):
                w = w.reshape(-1, *image).transpose(0, 3, 1, 2).reshape(w.shape)
            if not channels_last and i and isinstance(network.layers[i - 1], L.Flatten):
                side = int((layer.n_in / size) ** 0.5)
                w = w.reshape(side, side, size, -1).transpose(2, 0, 1, 3).reshape(w.shape)
            module.weight = tensor(w.T)
            if "b" in p:
                module.bias = tensor(p["b"])
            modules.append(module)
        elif isinstance(layer, L.Conv2d):
            before, after = layer.pad
            if before != after:
                modules.append(nn.ZeroPad2d((before, after, before, after)))
            pad = before if before == after else 0
            module = nn.Conv2d(layer.c_in, layer.c_out, layer.kernel, layer.stride, pad, bias="b" in p)
            module.weight = tensor(p["w"].transpose(3, 2, 0, 1))
            if "b" in p:
                module.bias = tensor(p["b"])
            modules.append(module)
            size = layer.c_out
        elif isinstance(layer, L.ConvTranspose2d):
            before, after = layer.pad
            module = nn.ConvTranspose2d(layer.c_in, layer.c_out, layer.kernel, layer.stride, before, bias="b" in p)
            module.weight = tensor(p["w"].transpose(3, 2, 0, 1))
            if "b" in p:
                module.bias = tensor(p["b"])
            modules.append(module)
            if after > before:
                modules.append(Crop(after - before))
        elif isinstance(layer, L.BatchNorm):
            rows = image and layer.channels == np.prod(image)  # before the reshape, each number is a channel
            kind = nn.BatchNorm1d if rows else nn.BatchNorm2d
            modules.append(kind(layer.channels, eps=layer.eps, momentum=1 - layer.momentum))
        elif isinstance(layer, L.LeakyReLU):
            modules.append(nn.LeakyReLU(layer.slope))
        elif isinstance(layer, L.Dropout):
            modules.append(nn.Dropout(layer.rate))
        elif isinstance(layer, L.Tanh):
            modules.append(nn.Tanh())
        elif isinstance(layer, L.Reshape):
            modules.append(Images(*layer.shape))
        elif isinstance(layer, L.Flatten):
            modules.append(Rows())
        else:
            raise NotImplementedError(f"{layer!r} has no PyTorch counterpart in this script")
    result = nn.Sequential(*modules)
    return result.to(memory_format=torch.channels_last) if channels_last else result


class TorchStep:
    """The step of `minigan.lab.bench.Step` in PyTorch, with the same weights, images and noise, on a device."""

    def __init__(self, preset: str, batch: int, best: bool, seed: int = 0, device: str = "cpu"):
        import torch

        from minigan import backends
        from minigan.lab import bench

        source = bench.Step(preset, batch, backends.reference(), seed)
        self.torch, self.best = torch, best
        self.G, self.D = (torch_network(network, best).to(device) for network in (source.G, source.D))
        adam = dict(lr=2e-4, betas=(0.5, 0.999), eps=1e-8, **(dict(fused=True) if best else {}))
        self.opt_g, self.opt_d = (torch.optim.Adam(network.parameters(), **adam) for network in (self.G, self.D))
        real = torch.from_numpy(source.real).to(device).permute(0, 3, 1, 2)
        self.real = real.contiguous(memory_format=torch.channels_last if best else torch.contiguous_format)
        self.z_d, self.z_g = (torch.from_numpy(z).to(device) for z in (source.z_d, source.z_g))

    def __call__(self) -> None:
        """Run one step."""
        F, G, D = self.torch.nn.functional, self.G, self.D
        with self.torch.set_grad_enabled(not self.best):
            fake = G(self.z_d).detach()
        real_logits, fake_logits = D(self.real), D(fake)
        d_loss = F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
        self.opt_d.zero_grad()
        d_loss.backward()
        self.opt_d.step()
        if self.best:
            D.requires_grad_(False)
        g_loss = F.softplus(-D(G(self.z_g))).mean()
        self.opt_g.zero_grad()
        g_loss.backward()
        self.opt_g.step()
        D.requires_grad_(True)


# ---------------------------------------------------------------- the networks in TensorFlow


def keras_network(network):
    """Convert a minigan network to a Keras model with the same weights. Both use images of shape (N, H, W, C)."""
    import keras

    from minigan import layers as L

    model, flat = keras.Sequential(), keras.layers
    for layer in network.layers:
        p, weights = layer.params, [layer.params[k] for k in ("w", "b", "gamma", "beta") if k in layer.params]
        if isinstance(layer, L.Dense):
            made = flat.Dense(layer.n_out, use_bias="b" in p)
        elif isinstance(layer, L.Conv2d | L.ConvTranspose2d):
            same = layer.pad == ((layer.kernel - layer.stride) // 2, (layer.kernel - layer.stride + 1) // 2)
            if not same:
                raise NotImplementedError(f"{layer!r} pads {layer.pad}, which is not TensorFlow's 'same'")
            kind = flat.Conv2D if isinstance(layer, L.Conv2d) else flat.Conv2DTranspose
            made = kind(layer.c_out, layer.kernel, layer.stride, padding="same", use_bias="b" in p)
        elif isinstance(layer, L.BatchNorm):
            made = flat.BatchNormalization(momentum=layer.momentum, epsilon=layer.eps)
            weights += [layer.buffers["mean"], layer.buffers["var"]]
        elif isinstance(layer, L.LeakyReLU):
            made = flat.LeakyReLU(negative_slope=layer.slope)
        elif isinstance(layer, L.Dropout):
            made = flat.Dropout(layer.rate)
        elif isinstance(layer, L.Tanh):
            made = flat.Activation("tanh")
        elif isinstance(layer, L.Reshape):
            made = flat.Reshape(layer.shape)
        elif isinstance(layer, L.Flatten):
            made = flat.Flatten()
        else:
            raise NotImplementedError(f"{layer!r} has no PyTorch counterpart in this script")
        model.add(made)
        if not model.built:
            first = network.layers[0]
            model.build((None, first.n_in) if isinstance(first, L.Dense) else (None, 28, 28, first.c_in))
        if weights:
            made.set_weights([np.asarray(w) for w in weights])
    return model


class TensorFlowStep:
    """The simultaneous step of TensorFlow's DCGAN tutorial, with the weights, images and noise of `bench.Step`."""

    def __init__(self, preset: str, batch: int):
        import keras
        import tensorflow as tf

        from minigan import backends
        from minigan.lab import bench

        source = bench.Step(preset, batch, backends.reference())
        self.tf = tf
        self.G, self.D = keras_network(source.G), keras_network(source.D)
        self.opt_g, self.opt_d = (keras.optimizers.Adam(2e-4, beta_1=0.5, epsilon=1e-8) for _ in range(2))
        self.opt_g.build(self.G.trainable_variables)
        self.opt_d.build(self.D.trainable_variables)
        self.real, self.z = tf.constant(source.real), tf.constant(source.z_g)
        self.compiled_step = tf.function(self._step)

    def gradients(self, real, z):
        """Return the gradients of D and of G, both from one pass."""
        softplus, mean = self.tf.nn.softplus, self.tf.reduce_mean
        with self.tf.GradientTape() as g_tape, self.tf.GradientTape() as d_tape:
            fake = self.G(z, training=True)
            real_logits, fake_logits = self.D(real, training=True), self.D(fake, training=True)
            g_loss = mean(softplus(-fake_logits))
            d_loss = mean(softplus(-real_logits)) + mean(softplus(fake_logits))
        return (
            d_tape.gradient(d_loss, self.D.trainable_variables),
            g_tape.gradient(g_loss, self.G.trainable_variables),
        )

    def _step(self, real, z):
        """Compute both players' gradients and apply them."""
        d_grads, g_grads = self.gradients(real, z)
        self.opt_g.apply_gradients(zip(g_grads, self.G.trainable_variables, strict=True))
        self.opt_d.apply_gradients(zip(d_grads, self.D.trainable_variables, strict=True))

    def __call__(self) -> None:
        """Run one step."""
        self.compiled_step(self.real, self.z)
        self.D.trainable_variables[-1].numpy()  # waits for the end of the step


# ---------------------------------------------------------------- checking


class Recorder:
    """An optimizer that records the norms of the gradients and changes no weight."""

    def __init__(self, norms, optimizer=None):
        self.norms, self.seen, self.optimizer = norms, None, optimizer

    def step(self, grads=None):
        """Record the norms."""
        self.seen = self.norms(grads)

    def zero_grad(self):
        """Reset the gradients, as the replaced PyTorch optimizer does."""
        self.optimizer.zero_grad()


def recorded(preset: str, simultaneous: bool):
    """Run a step of minigan without dropout; return it with its images, logits and gradient norms of D and G."""
    from minigan import backends
    from minigan.lab import bench
    from minigan.layers import Dropout

    ours = bench.Step(preset, 16, backends.load("numba"), simultaneous=simultaneous)
    for layer in ours.D.layers:
        if isinstance(layer, Dropout):
            layer.rate = 0.0
    for name, network in (("opt_d", ours.D), ("opt_g", ours.G)):
        setattr(ours, name, Recorder(lambda grads, network=network: [np.linalg.norm(grads[k]) for k in network.params]))
    images, _ = ours.G.forward(ours.z_g, track=False)
    logits, _ = ours.D.forward(images, track=False)
    ours()
    return ours, [images, logits, ours.opt_d.seen, ours.opt_g.seen]


def difference(ours: list, theirs: list) -> float:
    """Return the largest relative difference of any pair."""
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(ours, theirs, strict=True)]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def check_torch(preset: str) -> float:
    """Return the largest relative difference between minigan and both PyTorch versions, without dropout.

    Compared are the images, the logits, and the norm of every gradient of a step.
    """
    import torch

    _, expected = recorded(preset, simultaneous=False)
    worst = 0.0
    for best in (False, True):
        peer = TorchStep(preset, 16, best)
        for module in peer.D.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        fake = peer.G(peer.z_g)
        images, logits = fake.detach().permute(0, 2, 3, 1), peer.D(fake).detach()
        for name, network in (("opt_d", peer.D), ("opt_g", peer.G)):
            norms = lambda _, network=network: [float(p.grad.norm()) for p in network.parameters()]  # noqa: E731
            setattr(peer, name, Recorder(norms, getattr(peer, name)))
        peer()
        worst = max(worst, difference(expected, [images, logits, peer.opt_d.seen, peer.opt_g.seen]))
    return worst


def check_tensorflow(preset: str) -> float:
    """Return the largest relative difference between minigan and TensorFlow with simultaneous updates."""
    _, expected = recorded(preset, simultaneous=True)
    peer = TensorFlowStep(preset, 16)
    for layer in peer.D.layers:
        if hasattr(layer, "rate"):
            layer.rate = 0.0
    images = peer.G(peer.z, training=True)
    logits = peer.D(images, training=True)
    norms = [[float(np.linalg.norm(g)) for g in grads] for grads in peer.gradients(peer.real, peer.z)]
    return difference(expected, [images, logits, *norms])


# ---------------------------------------------------------------- timing


def contender(name: str, preset: str, batch: int, threads: int, pipe) -> None:
    """Run steps for a short time on each "go" from the pipe, and send back the seconds of each step."""
    from minigan.lab import bench

    if name.startswith("minigan"):
        from minigan import backends

        backend = backends.load("numba", threads=threads)
        step = bench.Step(preset, batch, backend, simultaneous=name.endswith("at once"))
    elif name.startswith("tensorflow"):
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        step = TensorFlowStep(preset, batch)
    else:
        import torch

        torch.set_num_threads(threads)
        step = TorchStep(preset, batch, best=name == "torch best")
    for _ in range(3):
        step()  # compilation, memory allocation, oneDNN's choice of algorithms
    pipe.send("ready")
    while pipe.recv() == "go":
        time.sleep(bench.PAUSE)  # until the threads of the previous contender stop busy waiting
        step()
        times, end = [], time.perf_counter() + bench.BURST
        while not times or time.perf_counter() < end:
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        pipe.send(times)


def in_a_process(function, *arguments):
    """Return the result of the function, run in a new process so that the libraries it loads are unloaded again."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def measure(names: list[str], preset: str, batch: int, threads: int, seconds: float) -> list[dict]:
    """Time all contenders in turns, and return a row for each."""
    from minigan.lab import bench

    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for name in names:
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=contender, args=(name, preset, batch, threads, theirs), daemon=True))
        processes[-1].start()
        assert ours.recv() == "ready"
        pipes.append(ours)
    times = {name: [] for name in names}
    deadline = time.perf_counter() + seconds * len(names)
    while time.perf_counter() < deadline or len(times[names[0]]) < 5:
        for name, pipe in zip(names, pipes, strict=True):
            pipe.send("go")
            times[name] += pipe.recv()
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send("stop")
        process.join()
    rows = []
    for name in names:
        against = "tensorflow, at once" if name.endswith("at once") else "torch best"
        row = {"preset": preset, "batch": batch, "threads": threads, "contender": name, **bench.summary(times[name])}
        rows.append(
            row | {"against": against, "share": round(float(np.median(times[name]) / np.median(times[against])), 3)}
        )
        print(
            "{preset:9s} batch {batch:4d}  {contender:19s} {median_ms:8.1f} ms "
            "({quartiles_ms[0]:.1f}-{quartiles_ms[1]:.1f})   {share:.2f} of {against}".format(**rows[-1]),
            flush=True,
        )
    return rows


def plot(report: dict, file: str) -> None:
    """Plot the time of every step as a share of the compared framework's."""
    from matplotlib.figure import Figure

    rows = report["results"]
    groups = list(dict.fromkeys((row["preset"], row["batch"]) for row in rows))
    schemes = list(dict.fromkeys(row["against"] for row in rows))
    figure = Figure(figsize=(6 * len(schemes), 1.5 + 0.8 * len(groups)), layout="constrained")
    for axes, against in zip(figure.subplots(1, len(schemes), sharey=True, squeeze=False)[0], schemes, strict=True):
        names = list(dict.fromkeys(row["contender"] for row in rows if row["against"] == against))
        height = 0.8 / len(names)
        for k, name in enumerate(names):
            found = {(row["preset"], row["batch"]): row for row in rows if row["contender"] == name}
            places = [i + (k - (len(names) - 1) / 2) * height for i in range(len(groups))]
            colour = "C0" if name.startswith("minigan") else f"C{k + 1}"
            bars = axes.barh(places, [found[group]["share"] for group in groups], height, label=name, color=colour)
            axes.bar_label(bars, labels=[f" {found[group]['median_ms']:.0f} ms" for group in groups], fontsize=8)
        axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(groups)), [f"{preset}\nbatch {batch}" for preset, batch in groups])
        axes.set(xlabel=f"time of a full training step, as a share of {against}")
        axes.margins(x=0.12)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=len(names), frameon=False)
    axes.invert_yaxis()
    figure.suptitle(f"{report['machine']['cpu']}, {rows[0]['threads']} threads, float32 (shorter is faster)")
    figure.savefig(file, dpi=100)


def main() -> None:
    """Check that the contenders are equal, time them and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=["small:64", "small:128", "tutorial:128", "tutorial:256"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="seconds for each contender in each case (default 10)"
    )
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE")
    options = parser.parse_args()

    from minigan.lab import bench

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # hides TensorFlow's messages about the machine
    cases = [(preset, int(batch)) for preset, batch in (case.split(":") for case in options.cases)]
    if not importlib.util.find_spec("torch"):
        raise SystemExit("PyTorch is not installed, and minigan is compared with it: pip install torch")
    names = list(CONTENDERS)
    if not importlib.util.find_spec("tensorflow"):
        print("tensorflow is not installed: skipping the steps at once")
        names = [name for name in names if not name.endswith("at once")]
    for preset in dict.fromkeys(preset for preset, _ in cases):
        checks = {"PyTorch": check_torch, "TensorFlow": check_tensorflow}
        for peer, check in list(checks.items())[: 1 if len(names) == 3 else 2]:
            differ = in_a_process(check, preset)
            if not differ < 1e-3:
                raise SystemExit(f"{preset}: minigan and {peer} differ by {differ:.1e}: nothing was timed")
            print(f"{preset}: minigan and {peer} agree to {differ:.0e}", flush=True)
    rows = [row for preset, batch in cases for row in measure(names, preset, batch, options.threads, options.seconds)]
    report = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "machine": bench.machine(), "results": rows}
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    if options.plot:
        plot(report, options.plot)


if __name__ == "__main__":
    main()
