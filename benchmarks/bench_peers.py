"""The same training step in minigan and in PyTorch: same networks, same weights, same work, one run.

    pip install torch
    python benchmarks/bench_peers.py [--cases small:64 small:128 tutorial:128 tutorial:256] [--json FILE] [--plot FILE]

A step is D on real and on fake images and one Adam update, then G through D and one Adam update, with fresh noise for
each; in float32. PyTorch plays it twice: `plain` as a user would first write it, and `best` in channels_last memory,
with D frozen in G's step, fakes for D made without a tape, and Adam fused. Every contender lives in a process of its
own, so that no one's threads disturb another, and they take turns, step by step. Before anything is timed, the
generator's images, the discriminator's logits and the gradients of a whole step are compared.
"""

import argparse
import json
import multiprocessing
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

CONTENDERS = ("minigan", "torch plain", "torch best")


# ---------------------------------------------------------------- the networks in PyTorch


def torch_network(network, channels_last: bool):
    """The minigan network as a PyTorch module with the same weights and (N, C, H, W) images inside.

    Dense layers next to an image are reordered once, here, from (H, W, C) to (C, H, W), but where channels_last memory
    makes that order the natural one.
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

    class Crop(nn.Module):  # what "same" leaves away at the end
        def __init__(self, n):
            super().__init__()
            self.n = n

        def forward(self, x):
            return x[:, :, : -self.n, : -self.n]

    def tensor(a):
        return nn.Parameter(torch.from_numpy(np.ascontiguousarray(a)))

    modules, size = [], None  # size: (H, W, C) of the image that the rows of numbers before or behind are
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
            rows = image and layer.channels == np.prod(image)  # before the reshape: every number its own channel
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
            raise NotImplementedError(f"{layer!r} has no counterpart here")
    result = nn.Sequential(*modules)
    return result.to(memory_format=torch.channels_last) if channels_last else result


class TorchStep:
    """The step of `minigan.bench.Step`, from the same weights, images and noise."""

    def __init__(self, preset: str, batch: int, best: bool, seed: int = 0):
        import torch

        from minigan import backends, bench

        source = bench.Step(preset, batch, backends.load("numpy"), seed)
        self.torch, self.best = torch, best
        self.G, self.D = (torch_network(network, best) for network in (source.G, source.D))
        adam = dict(lr=2e-4, betas=(0.5, 0.999), eps=1e-8, **(dict(fused=True) if best else {}))
        self.opt_g, self.opt_d = (torch.optim.Adam(network.parameters(), **adam) for network in (self.G, self.D))
        real = torch.from_numpy(source.real).permute(0, 3, 1, 2)
        self.real = real.contiguous(memory_format=torch.channels_last if best else torch.contiguous_format)
        self.z_d, self.z_g = torch.from_numpy(source.z_d), torch.from_numpy(source.z_g)

    def __call__(self) -> None:
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


# ---------------------------------------------------------------- checking


class Recorder:
    """Stands in for an optimizer: notes the norms of the gradients, and no weight moves."""

    def __init__(self, norms, optimizer=None):
        self.norms, self.seen, self.optimizer = norms, None, optimizer

    def step(self, grads=None):
        self.seen = self.norms(grads)

    def zero_grad(self):
        self.optimizer.zero_grad()


def check_equal(preset: str) -> float:
    """The largest relative difference between minigan and both PyTorch versions: of images, logits, and the norms of
    every gradient of a step, all without dropout. Ends the program if it is more than rounding."""
    import torch

    from minigan import backends, bench
    from minigan.layers import Dropout

    ours = bench.Step(preset, 16, backends.load("numba"))
    for layer in ours.D.layers:
        if isinstance(layer, Dropout):
            layer.rate = 0.0
    for name, network in (("opt_d", ours.D), ("opt_g", ours.G)):
        setattr(ours, name, Recorder(lambda grads, network=network: [np.linalg.norm(grads[k]) for k in network.params]))
    images, _ = ours.G.forward(ours.z_g, track=False)
    logits, _ = ours.D.forward(images, track=False)
    ours()

    worst = 0.0
    for best in (False, True):
        peer = TorchStep(preset, 16, best)
        for module in peer.D.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        fake = peer.G(peer.z_g)
        pairs = [(images, fake.detach().permute(0, 2, 3, 1)), (logits, peer.D(fake).detach())]
        for name, network in (("opt_d", peer.D), ("opt_g", peer.G)):
            norms = lambda _, network=network: [float(p.grad.norm()) for p in network.parameters()]  # noqa: E731
            setattr(peer, name, Recorder(norms, getattr(peer, name)))
        peer()
        pairs += [(ours.opt_d.seen, peer.opt_d.seen), (ours.opt_g.seen, peer.opt_g.seen)]
        for mine, theirs in pairs:
            mine, theirs = np.asarray(mine), np.asarray(theirs)
            worst = max(worst, float(np.abs(mine - theirs).max() / np.abs(theirs).max()))
    if not worst < 1e-3:
        raise SystemExit(f"{preset}: minigan and PyTorch differ by {worst:.1e}: nothing was timed")
    return worst


# ---------------------------------------------------------------- timing


def contender(name: str, preset: str, batch: int, threads: int, pipe) -> None:
    """A process that plays one step whenever it is told to, and answers with the seconds it took."""
    if name == "minigan":
        from minigan import backends, bench

        backend = backends.load("numba")
        backend.set_threads(threads)
        step = bench.Step(preset, batch, backend)
    else:
        import torch

        torch.set_num_threads(threads)
        step = TorchStep(preset, batch, best=name == "torch best")
    for _ in range(3):
        step()  # compilation, memory, oneDNN's choices
    pipe.send("ready")
    while pipe.recv() == "go":
        start = time.perf_counter()
        step()
        pipe.send(time.perf_counter() - start)


def measure(preset: str, batch: int, threads: int, seconds: float) -> list[dict]:
    from minigan import bench

    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for name in CONTENDERS:
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=contender, args=(name, preset, batch, threads, theirs), daemon=True))
        processes[-1].start()
        assert ours.recv() == "ready"
        pipes.append(ours)
    times = {name: [] for name in CONTENDERS}
    deadline = time.perf_counter() + seconds * len(CONTENDERS)
    while time.perf_counter() < deadline or len(times["minigan"]) < 5:
        for name, pipe in zip(CONTENDERS, pipes, strict=True):
            pipe.send("go")
            times[name].append(pipe.recv())
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send("stop")
        process.join()
    best = np.median(times["torch best"])
    rows = []
    for name in CONTENDERS:
        row = {"preset": preset, "batch": batch, "threads": threads, "contender": name, **bench.summary(times[name])}
        rows.append(row | {"of_torch_best": round(float(np.median(times[name]) / best), 3)})
        print(
            "{preset:9s} batch {batch:4d}  {contender:12s} {median_ms:8.1f} ms "
            "({quartiles_ms[0]:.1f}-{quartiles_ms[1]:.1f})   {of_torch_best:.2f} of torch best".format(**rows[-1]),
            flush=True,
        )
    return rows


def plot(report: dict, file: str) -> None:
    from matplotlib.figure import Figure

    rows = report["results"]
    groups = list(dict.fromkeys((row["preset"], row["batch"]) for row in rows))
    figure = Figure(figsize=(9, 1 + 0.8 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for k, name in enumerate(CONTENDERS):
        found = {(row["preset"], row["batch"]): row for row in rows if row["contender"] == name}
        places = [i + (k - 1) * 0.27 for i in range(len(groups))]
        bars = axes.barh(places, [found[group]["of_torch_best"] for group in groups], 0.27, label=name)
        axes.bar_label(bars, labels=[f" {found[group]['median_ms']:.0f} ms" for group in groups], fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(groups)), [f"{preset}\nbatch {batch}" for preset, batch in groups])
    axes.invert_yaxis()
    axes.set(xlabel="time of a full training step, as a share of PyTorch at its best (shorter is faster)")
    axes.set_title(f"{report['machine']['cpu']}, {rows[0]['threads']} threads, float32")
    figure.legend(loc="outside lower center", ncols=3)
    figure.savefig(file, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=["small:64", "small:128", "tutorial:128", "tutorial:256"])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=10.0, help="for each contender in each case (default 10)")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE")
    options = parser.parse_args()

    from minigan import bench

    cases = [(preset, int(batch)) for preset, batch in (case.split(":") for case in options.cases)]
    for preset in dict.fromkeys(preset for preset, _ in cases):
        print(f"{preset}: minigan and PyTorch agree to {check_equal(preset):.0e}")
    rows = [row for preset, batch in cases for row in measure(preset, batch, options.threads, options.seconds)]
    report = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "machine": bench.machine(), "results": rows}
    if options.json:
        Path(options.json).write_text(json.dumps(report, indent=1) + "\n")
    if options.plot:
        plot(report, options.plot)


if __name__ == "__main__":
    main()
