"""value_and_grad here, in JAX (jit) and in PyTorch (eager, compiled): one process, same weights.

    python benches/side_by_side.py                 # both papers' sizes, one thread and two
    python benches/side_by_side.py --small --check # only that all give the same numbers

First all contenders must give the same loss and gradient. Then they take turns, in a new order each
round; the table has the median time of a call and its 10th and 90th percentiles. Parameters are
float32. The gradient is that of the blocks that the model trains. Each library has the batch in its
own form before the clock starts. Each thread count has a process of its own, which may use as many
cores: JAX cannot change its threads later.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# Of a block's largest entry; float32, sums in different orders.
TOLERANCE = 2e-4


@dataclass
class Problem:
    """A model, its batch, and how the others write it."""

    title: str
    model: Any
    # The forward function's name in tests/transcription.py and torch_models.py.
    kind: str
    batch: Any
    # Deviation of the parameters, where it is not the model's own start.
    std: float | None = None
    # Arguments of the forward function.
    options: dict[str, Any] = field(default_factory=dict)
    # Of the loss of `simplified`.
    eps: float | None = None


def problems(small):
    """Each model at its paper's size."""
    import popgrad

    s, t, n = (3, 8, 16) if small else (10, 20, 1024)
    task = popgrad.CausalTree("chain", S=s, T=t)
    batch, size = task.sample(n), f"S={s} T={t}, {n} sequences"
    model = popgrad.Disentangled(task=task)
    yield Problem(f"Disentangled, {size}", model, "disentangled", batch, std=0.1)
    model = popgrad.Simplified(task=task, eps=0.01)
    yield Problem(f"Simplified, {size}", model, "simplified", batch, std=0.1, eps=0.01)
    model = popgrad.MlpTransformer(task=task)
    # At its own start some gradients are 0.
    yield Problem(f"MlpTransformer, {size}", model, "mlp_transformer", batch, std=0.1)
    d, t, n = (16, 24, 4) if small else (128, 256, 32)
    task = popgrad.TriggerBigram(T=t, K=5)
    batch, size = task.sample(n), f"d={d} T={t} K=5, {n} sequences"
    model = popgrad.Memory(task=task, dim=d, scale_embeddings=True)
    yield Problem(f"Memory, {size}", model, "memory", batch)
    heads = 4
    model = popgrad.Transformer(task=task, dim=d, layers=2, heads=heads)
    title = f"Transformer, 2 layers, {heads} heads, {size}"
    yield Problem(title, model, "transformer", batch, options={"heads": heads})


def in_jax(problem, params, names):
    """A call that returns loss and gradient by jit, and waits for them."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    sys.path.insert(0, str(HERE.parent / "tests"))
    import transcription

    model, batch, eps = problem.model, problem.batch, problem.eps
    forward = partial(getattr(transcription, problem.kind), **problem.options)
    moving = {name: jnp.asarray(params[name]) for name in names}
    held = {name: jnp.asarray(x) for name, x in params.items() if name not in names}
    tokens, weights = (jnp.asarray(x) for x in (batch.tokens.astype("int32"), batch.weights))
    law = batch.targets is not None
    target = jnp.asarray(batch.targets if law else batch.labels.astype("int32"))

    @jax.jit
    @jax.value_and_grad
    def both(moving, held, tokens, target, weights):
        def one(tokens, target):
            out = forward({**moving, **held}, tokens, model.S, model.T)
            if eps is not None:
                return -(target * jnp.log(out + eps)).sum()
            logs = jax.nn.log_softmax(out[-1] if law else out, axis=-1)
            if law:
                return -(target * logs).sum()
            return -jnp.take_along_axis(logs, target[:, None], axis=1)[:, 0]

        losses = jax.vmap(one)(tokens, target)
        return (weights * losses).sum() / weights.sum()

    def call():
        return jax.block_until_ready(both(moving, held, tokens, target, weights))

    def numbers(found):
        return float(found[0]), {name: np.asarray(x) for name, x in found[1].items()}

    return call, numbers


def in_torch(problem, params, names, compiled):
    """The same in PyTorch."""
    import torch

    sys.path.insert(0, str(HERE))
    import torch_models

    model, batch, eps = problem.model, problem.batch, problem.eps
    forward = partial(getattr(torch_models, problem.kind), **problem.options)
    blocks = {name: torch.from_numpy(x.copy()) for name, x in params.items()}
    moving = [blocks[name].requires_grad_() for name in names]
    dtype = moving[0].dtype
    tokens = torch.from_numpy(batch.tokens.astype("int64"))
    weights = torch.from_numpy(batch.weights).to(dtype)
    law = batch.targets is not None
    targets = torch.from_numpy(batch.targets).to(dtype) if law else None
    labels = None if law else torch.from_numpy(batch.labels.astype("int64"))

    def of(blocks, tokens, targets, labels, weights):
        return torch_models.loss(forward(blocks, tokens, model.S), targets, labels, weights, eps)

    value = torch.compile(of, fullgraph=True) if compiled else of

    def call():
        loss = value(blocks, tokens, targets, labels, weights)
        return loss, torch.autograd.grad(loss, moving)

    def numbers(found):
        return found[0].item(), {n: x.numpy() for n, x in zip(names, found[1])}

    return call, numbers


def contenders(problem, params, threads):
    """Name -> (call, numbers), for what is installed; words for what is not."""
    model, batch = problem.model, problem.batch
    names = [name for name, trains in model.trainable.items() if trains]
    out = model.flat(params)
    # The same blocks as the others, in memory that is there before.
    ours = (
        lambda: model.value_and_grad(params, batch, threads=threads, out=out),
        lambda found: (found[0], {name: found[1][name].copy() for name in names}),
    )
    found = {"popgrad": ours}
    try:
        found["JAX, jit"] = in_jax(problem, params, names)
    except ImportError as error:
        print(f"without JAX: {error}", file=sys.stderr)
    try:
        found["PyTorch, eager"] = in_torch(problem, params, names, False)
        found["PyTorch, compiled"] = in_torch(problem, params, names, True)
    except ImportError as error:
        print(f"without PyTorch: {error}", file=sys.stderr)
    return found


def check(found):
    """Refuses contenders that do not agree; calls each, so that all are compiled."""
    import numpy as np

    results = {name: numbers(call()) for name, (call, numbers) in found.items()}
    loss, grad = results["popgrad"]
    for name, (other, theirs) in results.items():
        if abs(other - loss) > 1e-5 * abs(loss):
            raise SystemExit(f"{name}: loss {other}, popgrad {loss}")
        for block, x in grad.items():
            far = np.abs(theirs[block] - x).max() / np.abs(x).max()
            if not far <= TOLERANCE:
                raise SystemExit(f"{name}: gradient of {block} is off by {far:.1e}")


def times(found, rounds, seconds):
    """Seconds of each call of each contender, in turns."""
    calls = {name: call for name, (call, _) in found.items()}
    repeats = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        once = time.perf_counter() - start
        repeats[name] = max(1, min(200, int(seconds / rounds / max(once, 1e-6))))
    order, taken = list(calls), {name: [] for name in calls}
    for _ in range(rounds):
        order = order[1:] + order[:1]
        for name in order:
            call = calls[name]
            for _ in range(repeats[name]):
                start = time.perf_counter()
                call()
                taken[name].append(time.perf_counter() - start)
    return taken


def cpu():
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def one_process(threads, options):
    """Rows of the table for one thread count."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < threads:
            raise SystemExit(f"threads: {threads}; allowed: at most {len(cores)} here")
        os.sched_setaffinity(0, cores[:threads])
    import numpy as np

    try:
        import torch

        torch.set_num_threads(threads)
    except ImportError:
        pass
    for problem in problems(options.small):
        title = problem.title
        params = problem.model.init(seed=0, std=problem.std, dtype="float32")
        found = contenders(problem, params, threads)
        check(found)
        if options.check:
            print(f"{title}, {threads} threads: {', '.join(found)} agree")
            continue
        taken = times(found, options.rounds, options.seconds)
        base = np.median(taken["popgrad"])
        for name, all_of_them in taken.items():
            low, middle, high = np.percentile(all_of_them, [10, 50, 90]) * 1e3
            print(
                f"| {title} | {threads} | {name} | {middle:.3f} | {low:.3f} to {high:.3f} "
                f"| {middle / 1e3 / base:.2f} |",
                flush=True,
            )


def heading():
    """The machine, the versions and the head of the table."""
    from importlib import metadata

    import popgrad

    found = [f"popgrad {popgrad.__version__} ({popgrad.info()['isa']})"]
    for name in ("jax", "torch", "numpy"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"no {name}")
    print(f"{cpu()}, Python {platform.python_version()}, {', '.join(found)}.\n")
    print("| model | threads | contender | median, ms | 10 to 90 %, ms | times popgrad |")
    print("|---|---|---|---|---|---|", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=20, help="turns of each contender")
    parser.add_argument("--seconds", type=float, default=5.0, help="time of a contender")
    parser.add_argument("--small", action="store_true", help="sizes for a check")
    parser.add_argument("--check", action="store_true", help="compare numbers, take no times")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        return one_process(options.one, options)
    if not options.check:
        heading()
    for threads in options.threads:
        words = [sys.executable, __file__, *sys.argv[1:], "--one", str(threads)]
        done = subprocess.run(words)
        if done.returncode:
            raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
