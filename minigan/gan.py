"""The public API: a GAN that is fitted to data and then draws samples.

    import minigan

    gan = minigan.GAN("small", conditional=True, epochs=3, seed=0)     # any option of the command line
    gan.fit(images, labels)                  # arrays, a path, or nothing for MNIST
    digits = gan.sample(16, label=7)         # uint8 (16, 28, 28, 1)
    gan.save("runs/mine")
    gan = minigan.load("runs/mine").fit(epochs=6)        # continues

The command line uses the same functions (`runs`, `training`), so the same options give the same bits.
"""

import contextlib
import dataclasses
import inspect
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minigan import backends, datasets, runs, terminal
from minigan.errors import UserError
from minigan.files import is_empty, locked, release
from minigan.layers import Sequential
from minigan.report import plots
from minigan.runs import explore
from minigan.runs import samples as samples_files
from minigan.runs.classify import classify as classify  # part of the public API
from minigan.runs.evaluate import MissingData, evaluate
from minigan.runs.explain import Explanation, explain_training
from minigan.runs.export import export_saved
from minigan.training import TOTALS, Config, Sampler, Training
from minigan.training.config import arguments, option_names, place_of


class NotFittedError(UserError, AttributeError):
    """Raised if samples, scores or a fitted attribute are asked for before `fit`."""


class GAN:
    """A generator and a discriminator that are trained on data.

    `preset` names networks and recipe (see `minigan train --list`); by default, it is that of the
    kind of data. `options` are all options of `minigan train`, by their names in Python
    (`lr_d=1e-4` for --lr-d 1e-4). They may contain `data`, the default of `fit`, and `seed`, an
    integer or a NumPy Generator that draws one for every new training. `out` is the folder of a
    run, in which checkpoints and pictures are written during the training, as `minigan train`
    does; by default nothing is written. `verbose=0` prints nothing. `callback` gets every record of
    the training, with the figures and warnings of a check after it (see `metrics.collapse`), and ends
    the training if it returns True.

    Nothing runs before `fit`. Raises UserError for an option that is unknown or out of range.

    Attributes that end in an underscore exist after `fit` or `load`. Before, they raise NotFittedError.
    """

    def __init__(
        self,
        preset: str | None = None,
        *,
        out: str | Path | None = None,
        verbose: int = 1,
        callback: Callable[[runs.Checked], object] | None = None,
        **options: Any,
    ):
        self.preset, self.out, self.verbose, self.callback = preset, out, verbose, callback
        self.options = options
        self._training: Training | None = None
        self._saved: runs.Saved | None = None  # a run that was loaded and not continued
        self._cached: Sampler | None = None  # of the run that was loaded
        self._rng: np.random.Generator | None = None  # the noise of samples without a seed
        self._busy = False  # whether `fit` runs, in this thread or another one
        self._check_options()

    # ---- options

    def _check_options(self) -> None:
        """Raise UserError for an option that is unknown, or that no kind of data accepts."""
        if unknown := self.options.keys() - set(option_names()):
            raise UserError(f"unknown option {min(unknown)}: choose from {', '.join(option_names())}")
        given = self._choices()
        fixed = self.preset is not None or "kind" in given or isinstance(given.get("data"), str)
        errors = []
        for kind in [None] if fixed else datasets.KINDS:  # before `fit`, the data may be of any kind
            try:
                Config.of(self.preset, **(given if kind is None else given | {"kind": kind}))
                return
            except UserError as error:
                errors.append(error)
        raise errors[0]

    def _choices(self) -> dict:
        """Return the options as arguments of `Config.of`."""
        given = dict(self.options)
        if isinstance(given.get("seed"), np.random.Generator):
            given["seed"] = 0
        if not isinstance(given.get("data"), str | os.PathLike):
            given.pop("data", None)
        return arguments(given)

    def get_params(self, deep: bool = True) -> dict:
        """Return all arguments of the constructor, by name, as scikit-learn does."""
        return {"preset": self.preset, "out": self.out, "verbose": self.verbose, "callback": self.callback} | (
            self.options
        )

    def set_params(self, **params: Any) -> "GAN":
        """Replace arguments of the constructor. They take effect at the next `fit` that starts over."""
        before, own = dict(self.__dict__), ("preset", "out", "verbose", "callback")
        self.__dict__ |= {name: value for name, value in params.items() if name in own}
        self.options = self.options | {name: value for name, value in params.items() if name not in own}
        try:
            self._check_options()
        except UserError:
            self.__dict__ |= before
            raise
        return self

    def __repr__(self) -> str:
        """Return the call of the constructor."""
        defaults = {name: p.default for name, p in inspect.signature(GAN).parameters.items()}
        given = {name: v for name, v in self.get_params().items() if name in self.options or v != defaults[name]}
        return f"GAN({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    # ---- training

    def fit(
        self,
        data: Any = None,
        labels: Any = None,
        *,
        epochs: int | None = None,
        steps: int | None = None,
        minutes: float | None = None,
        extend: bool = False,
        verbose: int | None = None,
        callback: Callable[[runs.Checked], object] | None = None,
    ) -> "GAN":
        """Train, and return this GAN.

        - `fit(data, labels)` starts a new training. `fit()` on a new GAN trains on MNIST.
        - `fit(epochs=6)`, with a total in epochs, steps or minutes, continues a fitted or loaded
          GAN until this total, with the same bits as a training that was not interrupted. Data
          that are passed as well must have the content of those it was trained on. On a new GAN, the
          total replaces that of the options.
        - `fit()` on a fitted or loaded GAN continues to the total that it has.

        `data` is an array of images (N, H, W), (N, H, W, C), or (N, C, H, W) with the option
        `channels="first"`; an array of series (N, T) or (N, T, F), or a list of arrays of different
        lengths; any object that NumPy converts to such an array; a path or a name, as for
        `minigan train --data`; or an object of `minigan.datasets`. `labels` has one entry of any type for
        each sample. The networks see them with the option `conditional=True`, which many presets contain.

        One seed and a total in epochs or steps give the same bits on every call. What a total in
        minutes gives depends on the speed of the machine.

        `extend=True` starts a new decay of a decaying learning rate, until the new total.

        Ctrl-C stops after the current step. The GAN then keeps what it has learned, and `fit`
        continues. The number of BLAS threads and the environment are the same afterwards.

        Raises UserError if the data cannot be used, or differ from those of the GAN.
        """
        totals = {"epochs": epochs, "steps": steps, "minutes": minutes}
        totals = {name: total for name, total in totals.items() if total is not None}
        verbose = self.verbose if verbose is None else verbose
        callback = self.callback if callback is None else callback
        with self._alone(), terminal.tolerant(), backends.borrowed():
            if self._is_fitted() and (totals or data is None):
                self._continue(data, labels, totals, extend, verbose)
            else:
                if extend:
                    raise UserError("extend continues a GAN that is fitted: call fit without extend first")
                self._begin(data, labels, totals)
            training = self._training
            assert training is not None
            out = None if self.out is None else Path(self.out)
            if verbose:
                self._print_start(training, out)
            try:
                if not training.finished():
                    runs.play(training, out, quiet=not verbose, callback=callback)
            except runs.Stopped as stopped:
                if verbose:
                    print(f"stopped after step {training.step}: fit() continues", file=sys.stderr)
                signal.raise_signal(stopped.signal)  # Ctrl-C becomes KeyboardInterrupt, as everywhere in Python
                return self
        if verbose and terminal.in_notebook():
            terminal.show(self.picture(seed=0), self.picture_of_losses())
        return self

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Raise UserError if another thread, or a callback, fits this GAN at the same time."""
        if self._busy:
            raise UserError("this GAN is being fitted already: wait until it is finished, or fit another GAN")
        self._busy = True
        try:
            yield
        finally:
            release(self._training)  # if the training did not start
            self._busy = False

    def _begin(self, data: Any, labels: Any, totals: dict) -> None:
        """Create a new training."""
        given = self._choices()
        if isinstance(seed := self.options.get("seed"), np.random.Generator):
            given["seed"] = int(seed.integers(2**31))
        data = self.options.get("data") if data is None else data
        if totals:
            given |= dict.fromkeys(TOTALS) | totals
        if data is not None and not isinstance(data, str | os.PathLike):
            given["data"] = datasets.IN_MEMORY
            if self.preset is None and "kind" not in given:
                given["kind"], given["kind_reason"] = datasets.kind_of_array(data)
        elif data is not None:
            given["data"] = place_of(data)
        config = Config.of(self.preset, **given)
        loaded = None if data is None and labels is None else runs.read_data(data, labels, config)
        out = None if self.out is None else Path(self.out)
        self._training = runs.begin(config, out, bool(self.options.get("conditional")), loaded)
        self._saved = self._cached = self._rng = None

    def _continue(self, data: Any, labels: Any, totals: dict, extend: bool, verbose: int) -> None:
        """Prepare the training to continue to the totals."""
        if data is None and labels is not None:
            raise UserError("labels need the data that they belong to: pass both, or neither")
        training = self._training
        if training is None:
            saved, given = self._saved, data
            assert saved is not None
            if isinstance(data, str | os.PathLike) and labels is None:
                given = place_of(data)  # the run remembers the new path
            elif data is not None:
                given = runs.read_data(data, labels, saved.config)
            self._training = training = runs.restore(saved, data=given, **totals)
            self._saved = self._cached = None
        else:
            if data is not None:
                self._expect_same(training, data, labels)
            if totals:
                training.continue_to(totals)
        if extend:
            training.extend()
        elif training.decay_is_over() and not training.finished() and verbose:
            print(runs.DECAYED)
        if training.finished():
            ends = " or ".join(f"{total:g} {name}" for name, total in training.config.totals().items())
            warnings.warn(
                f"this GAN has already reached its total ({ends}; it has {training.epoch} epochs, {training.step} "
                "steps): give a larger total to continue, or pass the data to start over",
                stacklevel=3,
            )
        if self.out is not None:
            out = Path(self.out)
            with runs.writing(out):
                out.mkdir(parents=True, exist_ok=True)
            with locked(out, training) as keep, runs.writing(out):
                if not (out / "config.json").exists():
                    runs.write_new(training, out)
                runs.write_config(training, out)
                keep(training)

    @staticmethod
    def _expect_same(training: Training, data: Any, labels: Any) -> None:
        """Raise UserError if the data are not those of the training."""
        found = runs.read_data(data, labels, training.config)
        theirs, own = found.fingerprint(), training.data.fingerprint()
        ignored = {} if training.classes else {"labels": None}
        if theirs | ignored != own | ignored:
            raise UserError(
                f"this GAN was trained on other data ({training.data.name}, {own['shape']}) than those given "
                f"({theirs['shape']}): leave the total out to start over, or leave the data out to continue"
            )

    def _print_start(self, training: Training, out: Path | None) -> None:
        print(runs.header(training, out, resumed=training.step > 0, tables=False))
        if training.backend.compiles and not training.finished():
            text = "preparing the kernels (compiled once on each machine, then cached on disk) ..."
            print(text, end=" ", flush=True)
            print(f"{training.warm_up():.1f} s")

    # ---- what was learned

    def _is_fitted(self) -> bool:
        return self._training is not None or self._saved is not None

    def _loaded(self) -> runs.Saved:
        """Return the run that was loaded. Raises NotFittedError if there is none."""
        if self._saved is None:
            raise NotFittedError("this GAN is not fitted yet: call fit first, or minigan.load for a saved one")
        return self._saved

    def _sampler(self) -> Sampler:
        """Return the sampler of the trained generator. Raises NotFittedError before `fit`."""
        if self._training is not None:
            return self._training.sampler
        if self._cached is None:
            self._cached = runs.sampler(self._loaded(), runs.load_backend(self._loaded().config))
        return self._cached

    @property
    def config_(self) -> Config:
        """All options of the training, also those that were not given."""
        return self._training.config if self._training is not None else self._loaded().config

    @property
    def generator_(self) -> Sequential:
        """The generator after the last step."""
        return self._training.G if self._training is not None else runs.networks(self._loaded())[0]

    @property
    def discriminator_(self) -> Sequential:
        """The discriminator after the last step."""
        return self._training.D if self._training is not None else runs.networks(self._loaded())[1]

    @property
    def history_(self) -> list[dict]:
        """The mean losses and probabilities of each epoch."""
        rows = self._training.rows() if self._training is not None else self._loaded().facts["history"]
        return [dict(row) for row in rows]

    @property
    def classes_(self) -> np.ndarray:
        """The labels (K,) of the classes, sorted; empty without labels."""
        return samples_files.as_values(self._sampler().class_names)

    @property
    def n_steps_(self) -> int:
        """The number of steps trained so far."""
        return self._training.step if self._training is not None else self._loaded().facts["step"]

    @property
    def n_epochs_(self) -> int:
        """The number of complete epochs trained so far."""
        return self._training.epoch if self._training is not None else self._loaded().facts["epoch"]

    def sample(
        self,
        n: int = 1,
        label: Any = None,
        seed: int | np.random.Generator | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> Any:
        """Draw `n` new samples: uint8 images (n, H, W, C), points (n, 2), series, or a data frame of n rows.

        With labels, the samples have all classes in turn (rows of a table: in the shares of the data), or
        the class `label`, or the n classes in a list `label`. `where` maps columns of a table to values
        that every row has: {"income": ">50K"}. `seed` is an integer, which gives the same samples as
        `minigan sample --seed`, or a NumPy Generator. Without a seed, each call draws other samples.

        Raises NotFittedError before `fit`, and UserError for a label that the GAN does not have.
        """
        sampler = self._sampler()
        if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
            raise UserError(f"n, the number of samples, is a whole number from 1, got {n!r}")
        with backends.borrowed():
            return sampler.draw(int(n), self._noise(seed), label, where)

    def _noise(self, seed: int | np.random.Generator | None) -> np.random.Generator:
        """Return the random generator for a seed, or for None one that was not used before."""
        if isinstance(seed, np.random.Generator):
            return seed
        if seed is None:
            self._rng = self._rng or np.random.default_rng()
            return self._rng
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise UserError(f"seed is a whole number from 0 or a NumPy Generator, got {seed!r}")
        return np.random.default_rng(int(seed))

    def save_samples(
        self, path: str | Path, n: int = 100, label: Any = None, seed: int | np.random.Generator | None = None
    ) -> None:
        """Draw `n` samples, as `sample` does, and write them to a file or folder, as `minigan sample --out` does."""
        sampler, out = self._sampler(), Path(path)
        samples_files.expect_form(out, sampler)
        samples, labels = self.sample(n, label, seed), sampler.labels_for(n, label)
        samples_files.write(out, samples, labels, sampler, label is not None)

    def picture(self, n: int = 100, label: Any = None, seed: int | np.random.Generator | None = None) -> Any:
        """Draw `n` samples, as `sample` does, and return them as one Pillow image, which a notebook shows."""
        sampler = self._sampler()
        width = 10 if label is not None else runs.columns(sampler.classes)
        return plots.to_pillow(plots.picture(self.sample(n, label, seed), sampler.codec, width))

    def picture_of_losses(self) -> Any:
        """Return a plot of the losses and probabilities of every step as a Pillow image, which a notebook shows.

        Raises NotFittedError before `fit`, and for a GAN that was loaded and not continued.
        """
        if (t := self._training) is None:
            raise NotFittedError("the losses are drawn after fit: this GAN was not fitted in this session")
        checks = runs.figures_of_checks(t)
        return plots.curves(runs.named_curves(t), t.steps_per_epoch, t.loss.equilibrium, checks)

    def evaluate(self, n: int | None = None, seed: int = 0, target: Any = None, held_out: Any = None) -> dict:
        """Compare `n` samples (default: 10,000, or the rows of the table) with real ones: `minigan evaluate` as a dict.

        Samples of a GAN that was trained on MNIST are compared with the MNIST test images, others
        with the training data. A loaded GAN that was trained on arrays gets only the scores that need no
        real images. For tables, `target` is the column that is predicted (default: the labels), and `held_out`
        a file or a data frame of other rows. Raises NotFittedError before `fit`, and UserError for points.
        """
        sampler = self._sampler()
        if self._training is not None:
            data = self._training.data
            fingerprint = data.fingerprint()
        else:
            assert self._saved is not None
            fingerprint = self._saved.facts["data"]

        def read() -> datasets.Data:
            if self._training is not None:
                return self._training.data
            assert self._saved is not None
            try:
                return runs.load_data(self._saved.config)
            except datasets.DataError as error:
                raise MissingData(f"{error}: call fit with the data first") from None

        with backends.borrowed():
            return evaluate(sampler, fingerprint, read, n, seed, not self.verbose, target, held_out).report

    def explain(self) -> Explanation:
        """Return what happened in the training, as `minigan explain` prints it: `print(gan.explain())`.

        Raises NotFittedError before `fit`.
        """
        training = self._training or (self._loaded() and self._restored())
        with backends.borrowed():
            return explain_training(training, self.out or (self._saved.out if self._saved else "this run"))

    def save(self, folder: str | Path) -> None:
        """Write the GAN to the folder of a run: all state, pictures, curves and the history.

        `minigan.load`, and all commands of the command line, read it. A folder that this method wrote
        may be overwritten by the same training at a later step. Raises UserError for any other folder
        that is not empty, and NotFittedError before `fit`.
        """
        out = Path(folder)
        if not self._is_fitted():
            raise NotFittedError("there is nothing to save: this GAN is not fitted yet")
        if out.exists() and not out.is_dir():
            raise UserError(f"{out} is a file: give a folder")
        if out.is_dir() and not is_empty(out):
            runs.expect_earlier(out, self.config_, self.n_steps_, self.history_)
        with backends.borrowed():
            training = self._training or self._restored()
            with runs.writing(out):
                out.mkdir(parents=True, exist_ok=True)
            with locked(out, training):
                runs.write_new(training, out)
                runs.save_all(training, out)

    def export(self, path: str | Path, format: str | None = None) -> None:
        """Write the generator to a file of its own, as `minigan export` does: .npz, .safetensors, .onnx or .py.

        The format is npz, safetensors, onnx or python, by default that of the suffix. Raises UserError for another one.
        """
        export_saved(self._as_saved(), Path(path), format)

    def explore(self, path: str | Path) -> None:
        """Write the page of `minigan explore` to a .html file. Only a GAN in a folder has a slider for the training."""
        explore.write_page(self._as_saved(), Path(path))

    def _as_saved(self) -> runs.Saved:
        if (t := self._training) is None:
            return self._loaded()
        with backends.borrowed():
            return runs.Saved(Path(self.out or "this GAN"), t.config, *t.state())

    def _restored(self) -> Training:
        assert self._saved is not None
        if self._saved.config.place_of_data() == datasets.IN_MEMORY:
            raise UserError("this GAN was loaded and not changed: copy its folder instead, or call fit with the data")
        return runs.restore(self._saved)


def load(folder: str | Path) -> GAN:
    """Return the GAN in the folder of a run, which `GAN.save` or `minigan train` wrote.

    It draws samples without its training data. `fit(epochs=...)` continues it. Raises UserError if
    the folder is not a run.
    """
    saved = runs.read(Path(folder))
    config = saved.config
    recipe, gan = Config.of(config.preset), GAN(config.preset)
    given = dataclasses.asdict(config) | config.data_options
    usual = dataclasses.asdict(recipe) | recipe.data_options
    names = [name for name in option_names() if name not in ("data", "kind") and name in given]
    gan.options = {name: given[name] for name in names if given[name] != usual[name]}
    gan._saved = saved
    return gan
