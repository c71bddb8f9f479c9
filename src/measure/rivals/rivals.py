"""Rivals of `popgrad bench --rivals`: the same mathematics in PyTorch, JAX and NumPy.

Run as `python rivals.py FRAMEWORK THREADS`, on as many cores as threads. One JSON object a line on
stdin, one answer a line on stdout: "open" loads inputs and prepares a case, "run" times it, "close"
drops it.

Every case is a function (config, arrays, variant) -> (check, call). check() runs the case once from
the given inputs and returns its results as a dict of arrays; call() is what is timed.
"""

import json
import math
import os
import sys
import time
from functools import partial

try:
    import numpy as np
except ImportError as error:
    print(json.dumps({"error": str(error)}), flush=True)
    sys.exit()

WHOLE = 1 << 17  # as many sequences of a population are evaluated at once
CHUNK = 1 << 16  # and in chunks of so many otherwise


# ---------------------------------------------------------------------------- shared by frameworks


def names_of(arrays):
    """Names of the parameter blocks."""
    return [key[6:] for key in arrays if key.startswith("param:")]


def depth_of(params):
    """Number of layers, from names such as `A.1` and `layers.1.attention.wk.weight`."""
    return 1 + max(int(name.split(".")[1]) for name in params if name.startswith(("A.", "layers.")))


def levels_of(parents):
    """Positions grouped by their distance from a root: [(positions, their parents)]; parents come first."""
    depth = []
    for parent in parents:
        depth.append(0 if parent < 0 else depth[parent] + 1)
    groups = []
    for level in range(max(depth, default=-1) + 1):
        at = [i for i, d in enumerate(depth) if d == level]
        groups.append((np.array(at), np.array([parents[i] for i in at])))
    return groups


def sequences(vocab, length):
    """All S^T sequences in lexicographic order, the last symbol fastest: (S^T, T)."""
    index = np.arange(vocab**length)
    return np.stack([index // vocab ** (length - 1 - i) % vocab for i in range(length)], axis=1)


def eliminate(p, divide, outer, total):
    """The stationary law of each matrix by elimination without subtraction, state by state from the
    last: state k leaves the chain, whose other rows get p_ij + p_ik p_kj / sum_{l<k} p_kl. Accurate
    also for chains that almost fall apart, where a general solver may meet a singular matrix.
    Returns mu_0 = 1, mu_k = sum_{i<k} mu_i p_ik / sum_{l<k} p_kl as a list of arrays, not normalised.
    """
    columns = []
    for k in range(p.shape[-1] - 1, 0, -1):
        column = divide(p[:, :k, k], total(p[:, k, :k]))
        p = p[:, :k, :k] + outer(column, p[:, k, :k])
        columns.append(column)
    mu = [columns[-1][:, 0] * 0 + 1] if columns else [p[:, 0, 0] * 0 + 1]
    for column in reversed(columns):
        mu.append(sum(mu[i] * column[:, i] for i in range(len(mu))))
    return mu


# ------------------------------------------------------------------------------------------- numpy


def numpy_framework(_threads):
    def product(_config, arrays, _variant):
        a, b = arrays["a"], arrays["b"]
        c = np.empty((a.shape[0], b.shape[1]), a.dtype)
        return lambda: {"c": np.matmul(a, b, out=c)}, lambda: np.matmul(a, b, out=c)

    def drawn(cdf, u):
        """How many of the first S - 1 steps of the distribution function lie at or below u."""
        return (cdf[..., :-1] <= u[..., None]).sum(-1)

    def sample_causal(config, _arrays, _variant):
        s, t, count = config["vocab"], config["len"], config["count"]
        rng, levels = np.random.default_rng(config["seed"]), levels_of(config["parents"])
        rows = np.arange(count)

        def draw():
            pi = np.maximum(rng.standard_gamma(config["alpha"], (count, s, s)), 1e-300)
            pi /= pi.sum(-1, keepdims=True)
            cdf, p, tokens = pi.cumsum(-1), pi.copy(), np.empty((count, t), np.int64)
            for k in range(s - 1, 0, -1):  # as `eliminate`, in place
                p[:, :k, k] /= p[:, k, :k].sum(-1)[:, None]
                p[:, :k, :k] += p[:, :k, k, None] * p[:, k, None, :k]
            mu = np.ones((count, s))
            for k in range(1, s):
                mu[:, k] = (mu[:, :k] * p[:, :k, k]).sum(-1)
            mu /= mu.sum(-1, keepdims=True)
            mu_cdf, u = mu.cumsum(-1)[:, None], rng.random((count, t - 1))
            for at, parents in levels:
                of = mu_cdf if parents[0] < 0 else cdf[rows[:, None], tokens[:, parents]]
                tokens[:, at] = drawn(of, u[:, at])
            tokens[:, -1] = rng.integers(0, s, count)
            return {"tokens": tokens, "laws": pi[rows, tokens[:, -1]]}

        return draw, draw

    def sample_trigger(config, arrays, _variant):
        count, length, k = config["count"], config["len"], config["triggers"]
        rng, unigram, n = np.random.default_rng(config["seed"]), arrays["unigram"], arrays["unigram"].size
        unigram_cdf = unigram.cumsum() / unigram.sum()
        # Row z of the distribution functions lies in [z, z + 1]: one sorted list for all rows.
        sums = arrays["bigram"].cumsum(-1)
        steps = (np.minimum(sums / sums[:, -1:], 1) + np.arange(n)[:, None]).ravel()
        offsets = np.arange(count) * n

        def draw():
            # The K smallest of exponential times over rates: draws without replacement, in order.
            times = rng.standard_exponential((count, n)) / unigram
            triggers = np.argpartition(times, range(k), axis=1)[:, :k] if k else np.empty((count, 0), np.int64)
            outputs = rng.integers(0, n, (count, k))
            forced = np.full((count, n), -1)
            np.put_along_axis(forced, triggers, outputs, axis=1)
            forced, u = forced.ravel(), rng.random((length, count))
            tokens = np.empty((length + 1, count), np.int64)
            z = tokens[0] = np.minimum(np.searchsorted(unigram_cdf, rng.random(count), side="right"), n - 1)
            for i in range(length):
                free = np.searchsorted(steps, u[i] + z, side="right") - z * n
                out = forced[offsets + z]
                z = tokens[i + 1] = np.where(out >= 0, out, np.minimum(free, n - 1))
            return {"tokens": np.ascontiguousarray(tokens.T), "triggers": triggers, "outputs": outputs}

        return draw, draw

    cases = {"product": product, "sample-causal": sample_causal, "sample-trigger": sample_trigger}
    return "numpy " + np.__version__, cases, {name: ["numpy"] for name in cases}, lambda _result: None


# ----------------------------------------------------------------------------------------- PyTorch


def torch_framework(threads):
    import torch
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    steps = ["eager", "sdpa", "compile"]

    def compiled(function):
        import torch._inductor.config as inductor

        inductor.compile_threads = 1
        return torch.compile(function, fullgraph=True, dynamic=False)

    def host(value):
        return value.detach().numpy().copy()

    def mask_of(t, dtype, repeat=1):
        """0 where j <= i and -inf elsewhere; `repeat` rows for each i."""
        return torch.full((t, t), -math.inf, dtype=dtype).triu(1).repeat_interleave(repeat, 0)

    def product(_config, arrays, _variant):
        a, b = torch.from_numpy(arrays["a"]), torch.from_numpy(arrays["b"])
        c = torch.empty(a.shape[0], b.shape[1], dtype=a.dtype)
        return lambda: {"c": host(torch.matmul(a, b, out=c))}, lambda: torch.matmul(a, b, out=c)

    # Attention: softmax_{j<=i}(scale q k^T) v for (B, T, D).

    def plain(q, k, v, mask, scale):
        return torch.bmm(torch.softmax(torch.baddbmm(mask, q, k.mT, alpha=scale), -1), v)

    def causal(q, k, v, mask, scale, fused):
        if not fused:
            return plain(q, k, v, mask, scale)
        q, k, v = q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale).squeeze(1)

    def attention(config, arrays, variant):
        q, k, v = (torch.from_numpy(arrays[name]).requires_grad_() for name in "qkv")
        dout, mask = torch.from_numpy(arrays["dout"]), mask_of(q.shape[1], q.dtype)
        forward = partial(causal, mask=mask, scale=config["scale"], fused=variant == "sdpa")
        if variant == "compile":
            forward = compiled(forward)

        def call():
            out = forward(q, k, v)
            return out, *torch.autograd.grad(out, (q, k, v), dout)

        return lambda: dict(zip(("out", "dq", "dk", "dv"), map(host, call()))), call

    # Training steps.

    def training(loss_of):
        """A case from loss_of(config, arrays, params, sdpa), which returns the loss as a function of params."""

        def case(config, arrays, variant):
            params = {name: torch.from_numpy(arrays["param:" + name].copy()) for name in names_of(arrays)}
            trained = {name: params[name].requires_grad_() for name in config.get("trained", params)}
            loss_fn = loss_of(config, arrays, params, variant == "sdpa")
            if variant == "compile":
                loss_fn = compiled(loss_fn)
            o = config["optimizer"]
            if o["name"] == "sgd":
                optimizer = partial(torch.optim.SGD, momentum=o["momentum"])
            else:
                optimizer = partial(torch.optim.AdamW, betas=(o["beta1"], o["beta2"]), eps=o["eps"])
            optimizer = optimizer(trained.values(), lr=o["lr"], weight_decay=o["weight_decay"], fused=True)

            def step():
                optimizer.zero_grad(set_to_none=True)
                loss = loss_fn(params)
                loss.backward()
                optimizer.step()
                return loss

            def check():
                out = {"loss": host(step())}
                out |= {"grad:" + name: host(p.grad) for name, p in trained.items()}
                return out | {"param:" + name: host(p) for name, p in trained.items()}

            return check, step

        return case

    def attend(x, a, mask, fused):
        """All heads of softmax_{j<=i}(x A_h x^T) x, side by side: (B, T, H d)."""
        b, t, d = x.shape
        h = a.shape[0]
        q = x @ a.transpose(0, 1).reshape(d, h * d)
        if not fused:  # the heads of a position are rows of one product
            return plain(q.view(b, t * h, d), x, x, mask, 1.0).view(b, t, h * d)
        q, x = q.view(b, t, h, d).transpose(1, 2), x.unsqueeze(1).expand(b, h, t, d)
        return F.scaled_dot_product_attention(q, x, x, is_causal=True, scale=1.0).transpose(1, 2).reshape(b, t, h * d)

    def attend_last(x, a, fused):
        """The same for the last query alone: (B, H d)."""
        b, t, d = x.shape
        h = a.shape[0]
        q = (x[:, -1] @ a.transpose(0, 1).reshape(d, h * d)).view(b, h, d)
        if fused:
            x = x.unsqueeze(1)
            return F.scaled_dot_product_attention(q.unsqueeze(1), x, x, scale=1.0).reshape(b, h * d)
        return torch.bmm(torch.softmax(torch.bmm(q, x.mT), -1), x).view(b, h * d)

    def sequence_inputs(config, arrays, dtype):
        """Tokens, laws and a mask for each layer but the last."""
        tokens = torch.from_numpy(arrays["tokens"].astype(np.int64))
        masks = [mask_of(tokens.shape[1], dtype, heads) for heads in config["heads"][:-1]]
        return tokens, torch.from_numpy(arrays["laws"]), masks

    def disentangled(config, arrays, params, fused):
        tokens, laws, masks = sequence_inputs(config, arrays, params["W"].dtype)
        (b, t), s = tokens.shape, config["vocab"]
        # [onehot(token), onehot(position)] of every pair, looked up by the number of the pair.
        eye, pos = torch.eye(s, dtype=laws.dtype), torch.eye(t, dtype=laws.dtype)
        table = torch.cat([eye.repeat(t, 1), pos.repeat_interleave(s, 0)], 1)
        first = torch.arange(t) * s

        def loss(p):
            x = F.embedding(tokens + first, table)
            for layer, mask in enumerate(masks):
                x = torch.cat([x, attend(x, p[f"A.{layer}"], mask, fused)], -1)
            top = torch.cat([x[:, -1], attend_last(x, p[f"A.{len(masks)}"], fused)], -1)
            return F.cross_entropy(top @ p["W"], laws)

        return loss

    def mlp_transformer(config, arrays, params, fused):
        tokens, laws, masks = sequence_inputs(config, arrays, params["W"].dtype)
        root = math.sqrt(params["W"].shape[0])

        def mlp(p, layer, x, attended):
            """x + relu(y W1 + sqrt(d) b1) W2 + sqrt(d) b2 with y = attended V."""
            m = f"mlp.{layer}."
            h = torch.relu(F.linear(attended @ p[f"V.{layer}"], p[m + "w1"].T, root * p[m + "b1"]))
            return x + F.linear(h, p[m + "w2"].T, root * p[m + "b2"])

        def loss(p):
            x = F.embedding(tokens, p["wte"]) + p["wpe"]
            for layer, mask in enumerate(masks):
                x = mlp(p, layer, x, attend(x, p[f"A.{layer}"], mask, fused))
            top = len(masks)
            return F.cross_entropy(mlp(p, top, x[:, -1], attend_last(x, p[f"A.{top}"], fused)) @ p["W"], laws)

        return loss

    def token_inputs(arrays):
        tokens, labels = (torch.from_numpy(arrays[name].astype(np.int64)) for name in ("tokens", "labels"))
        return tokens, labels.flatten(), torch.from_numpy(arrays["weights"]).flatten()

    def weighted(logits, labels, weights):
        """sum(weights CE) / sum(weights)."""
        return torch.dot(weights, F.cross_entropy(logits.flatten(0, 1), labels, reduction="none")) / weights.sum()

    def memory(_config, arrays, params, fused):
        tokens, labels, weights = token_inputs(arrays)
        e = params["tok_embeddings.weight"]
        mask, scale, depth = mask_of(tokens.shape[1], e.dtype), e.shape[1] ** -0.5, depth_of(params)

        def loss(p):
            x = F.embedding(tokens, p["tok_embeddings.weight"]) + p["pe"]
            for layer in range(depth):
                a = f"layers.{layer}.attention."
                mixed = causal(x, x @ p[a + "wk.weight"].T, x, mask, scale, fused)
                # A (d, d) product saves one over all positions.
                x = x + mixed @ (p[a + "wo.weight"] @ p[a + "wv.weight"]).T
            return weighted(x @ p["output.weight"].T, labels, weights)

        return loss

    def transformer(config, arrays, params, fused):
        tokens, labels, weights = token_inputs(arrays)
        (b, t), d, h = tokens.shape, params["tok_embeddings.weight"].shape[1], config["heads"]
        mask, scale, depth = mask_of(t, params["norm.weight"].dtype), (d // h) ** -0.5, depth_of(params)

        def norm(p, name, x):
            return F.layer_norm(x, (d,), p[name + "norm.weight"], p[name + "norm.bias"], 1e-5)

        def heads_of(x, w):
            """One product for queries, keys and values: three of (B, H, T, d/H)."""
            return (x @ w.T).view(b, t, 3, h, d // h).permute(2, 0, 3, 1, 4).unbind()

        def loss(p):
            x = F.embedding(tokens, p["tok_embeddings.weight"]) + p["pos_embeddings.weight"]
            for layer in range(depth):
                at = f"layers.{layer}."
                a, f = at + "attention.", at + "ff."
                w = torch.cat([p[a + "wq.weight"], p[a + "wk.weight"], p[a + "wv.weight"]])
                q, k, v = heads_of(norm(p, at + "attention_", x), w)
                if fused:
                    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
                else:
                    q, k, v = (m.reshape(b * h, t, d // h) for m in (q, k, v))
                    y = plain(q, k, v, mask, scale).view(b, h, t, d // h)
                y = y.transpose(1, 2).reshape(b, t, d) @ p[a + "wo.weight"].T
                ff = torch.relu(norm(p, at + "ff_", x) @ p[f + "w1.weight"].T) @ p[f + "w2.weight"].T
                x = x + y + ff
            return weighted(norm(p, "", x) @ p["output.weight"].T, labels, weights)

        return loss

    def population(config, arrays, variant):
        s, t, eps = config["vocab"], config["len"], config["eps"]
        a1, a2 = (torch.from_numpy(arrays[name]).requires_grad_() for name in ("a1", "a2"))
        total = s**t
        size = total if total <= WHOLE else CHUNK
        seqs = torch.from_numpy(sequences(s, t)).split(size)
        weights = torch.from_numpy(arrays["weights"]).split(size)
        mask = mask_of(t, a1.dtype)

        def loss(a1, a2, seq, weight):
            """-sum W log(f + eps): scores a_j = A2[s_T, s_j], z = M a, f(s') = sum_i softmax(z)_i 1[s_i = s']."""
            a = torch.gather(F.embedding(seq[:, -1], a2), 1, seq)
            v = torch.softmax(a @ torch.softmax(a1 + mask, -1).T, -1)
            f = torch.zeros_like(weight).scatter_add(1, seq, v)
            return -(weight * torch.log(f + eps)).sum()

        part = compiled(loss) if variant == "compile" else loss

        def call():
            a1.grad = a2.grad = None
            value = torch.zeros((), dtype=a1.dtype)
            for seq, weight in zip(seqs, weights):
                one = part(a1, a2, seq, weight)
                one.backward()
                value += one.detach()
            return value

        return lambda: {"loss": host(call()), "grad:a1": host(a1.grad), "grad:a2": host(a2.grad)}, call

    # Samplers.

    def sample_causal(config, _arrays, _variant):
        torch.manual_seed(config["seed"])
        s, t, count = config["vocab"], config["len"], config["count"]
        levels = [(torch.from_numpy(at), torch.from_numpy(up)) for at, up in levels_of(config["parents"])]
        rows = torch.arange(count)
        alpha = torch.full((count, s, s), config["alpha"], dtype=torch.float64)
        dirichlet = torch.distributions.Dirichlet(alpha, validate_args=False)
        divide, outer = (lambda x, y: x / y[:, None]), (lambda x, y: x[:, :, None] * y[:, None])

        def draw():
            pi = dirichlet.sample()
            cdf = pi.cumsum(-1)
            mu = torch.stack(eliminate(pi, divide, outer, lambda x: x.sum(-1)), -1)
            mu_cdf = (mu / mu.sum(-1, keepdim=True)).cumsum(-1)[:, None]
            tokens, u = torch.randint(s, (count, t)), torch.rand(count, t - 1, 1, dtype=torch.float64)
            for at, up in levels:
                of = mu_cdf if up[0] < 0 else cdf[rows[:, None], tokens[:, up]]
                tokens[:, at] = (of[..., :-1] <= u[:, at]).sum(-1)
            return tokens, pi[rows, tokens[:, -1]]

        return lambda: dict(zip(("tokens", "laws"), map(host, draw()))), draw

    def sample_trigger(config, arrays, _variant):
        torch.manual_seed(config["seed"])
        count, length, k = config["count"], config["len"], config["triggers"]
        unigram, bigram = torch.from_numpy(arrays["unigram"]), torch.from_numpy(arrays["bigram"])
        n = unigram.numel()
        unigram_cdf = unigram.cumsum(0) / unigram.sum()
        sums = bigram.cumsum(-1)
        # Row z lies in [z, z + 1]: one sorted list for all rows.
        steps = ((sums / sums[:, -1:]).clamp(max=1) + torch.arange(n)[:, None]).flatten()
        offsets = torch.arange(count) * n

        def draw():
            # The K smallest of exponential times over rates: draws without replacement, in order.
            times = torch.empty(count, n, dtype=torch.float64).exponential_() / unigram
            triggers = times.topk(k, largest=False).indices
            outputs = torch.randint(n, (count, k))
            forced = torch.full((count, n), -1).scatter_(1, triggers, outputs).flatten()
            u = torch.rand(length + 1, count, dtype=torch.float64)
            z = torch.searchsorted(unigram_cdf, u[0], right=True).clamp_(max=n - 1)
            tokens = [z]
            for i in range(1, length + 1):
                free = torch.searchsorted(steps, u[i] + z, right=True).sub_(z, alpha=n).clamp_(max=n - 1)
                out = forced.take(offsets + z)
                z = torch.where(out < 0, free, out)
                tokens.append(z)
            return torch.stack(tokens, 1), triggers, outputs

        return lambda: dict(zip(("tokens", "triggers", "outputs"), map(host, draw()))), draw

    cases = {
        "product": (product, ["eager"]),
        "attention": (attention, steps),
        "disentangled": (training(disentangled), steps),
        "mlp_transformer": (training(mlp_transformer), steps),
        "memory": (training(memory), steps),
        "transformer": (training(transformer), steps),
        "population": (population, ["eager", "compile"]),
        "sample-causal": (sample_causal, ["eager"]),
        "sample-trigger": (sample_trigger, ["eager"]),
    }
    variants = {name: variants for name, (_, variants) in cases.items()}
    return "torch " + torch.__version__, {name: case for name, (case, _) in cases.items()}, variants, lambda _result: None


# --------------------------------------------------------------------------------------------- JAX


def jax_framework(_threads):
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import jax
    import jax.numpy as jnp
    from jax import lax

    jax.config.update("jax_enable_x64", True)

    def host(tree):
        return jax.tree.map(lambda value: np.array(value), tree)

    def product(_config, arrays, _variant):
        a, b, matmul = jnp.asarray(arrays["a"]), jnp.asarray(arrays["b"]), jax.jit(jnp.matmul)
        return lambda: {"c": host(matmul(a, b))}, lambda: matmul(a, b)

    def mask_of(t, repeat=1):
        """True where j <= i; `repeat` rows for each i."""
        return np.repeat(np.tril(np.ones((t, t), bool)), repeat, axis=0)

    def plain(q, k, v, mask, scale):
        """softmax_{j<=i}(scale q k^T) v over the last two axes."""
        scores = q @ jnp.swapaxes(k, -1, -2)
        return jax.nn.softmax(jnp.where(mask, scores * scale, -jnp.inf), -1) @ v

    def attention(config, arrays, variant):
        q, k, v, dout = (jnp.asarray(arrays[name]) for name in ("q", "k", "v", "dout"))
        mask, scale = mask_of(q.shape[1]), config["scale"]
        if variant == "sdpa" and q.dtype == jnp.float64:
            raise ValueError("jax.nn.dot_product_attention computes its softmax in f32")

        def forward(q, k, v):
            if variant == "jit":
                return plain(q, k, v, mask, scale)
            q, k, v = (x[:, :, None] for x in (q, k, v))
            return jax.nn.dot_product_attention(q, k, v, scale=scale, is_causal=True)[:, :, 0]

        @jax.jit
        def both(q, k, v, dout):
            out, back = jax.vjp(forward, q, k, v)
            return out, *back(dout)

        return lambda: dict(zip(("out", "dq", "dk", "dv"), host(both(q, k, v, dout)))), lambda: both(q, k, v, dout)

    # Training steps.

    def optimizer_of(o):
        """(start, update): PyTorch's SGD and AdamW."""
        lr, decay = o["lr"], o["weight_decay"]
        zeros = partial(jax.tree.map, jnp.zeros_like)

        def sgd(params, grads, buffers):
            grads = jax.tree.map(lambda p, g: g + decay * p, params, grads)
            buffers = jax.tree.map(lambda b, g: o["momentum"] * b + g, buffers, grads) if o["momentum"] else buffers
            return jax.tree.map(lambda p, b: p - lr * b, params, buffers if o["momentum"] else grads), buffers

        def adamw(params, grads, state):
            first, second, count = state
            count, b1, b2 = count + 1.0, o["beta1"], o["beta2"]
            first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, first, grads)
            second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, second, grads)
            rate, root = lr / (1 - b1**count), jnp.sqrt(1 - b2**count)

            def move(p, m, v):
                wide, tall = rate.astype(p.dtype), root.astype(p.dtype)
                return p * (1 - lr * decay) - wide * m / (jnp.sqrt(v) / tall + o["eps"])

            return jax.tree.map(move, params, first, second), (first, second, count)

        if o["name"] == "sgd":
            return (lambda p: zeros(p) if o["momentum"] else None), sgd
        return (lambda p: (zeros(p), zeros(p), jnp.zeros((), jnp.float64))), adamw

    def training(loss_of):
        """A case from loss_of(config, arrays, params), which returns (loss of params and data, data)."""

        def case(config, arrays, _variant):
            params = {name: jnp.asarray(arrays["param:" + name]) for name in names_of(arrays)}
            loss_fn, data = loss_of(config, arrays, params)
            trained = {name: jnp.array(params.pop(name)) for name in config.get("trained", list(params))}
            start, update = optimizer_of(config["optimizer"])

            def value_and_grad(trained, fixed, data):
                return jax.value_and_grad(lambda p: loss_fn({**fixed, **p}, *data))(trained)

            @partial(jax.jit, donate_argnums=(0, 1))
            def step(trained, state, fixed, data):
                loss, grads = value_and_grad(trained, fixed, data)
                return *update(trained, grads, state), loss

            held = [trained, start(trained)]

            def call():
                held[0], held[1], loss = step(held[0], held[1], params, data)
                return loss, held

            def check():
                grads = host(jax.jit(value_and_grad)(held[0], params, data)[1])
                out = {"loss": host(call()[0])} | {"grad:" + name: g for name, g in grads.items()}
                return out | {"param:" + name: p for name, p in host(held[0]).items()}

            return check, call

        return case

    def attend(x, a, mask):
        """All heads of softmax_{j<=i}(x A_h x^T) x, side by side; the heads of a position are rows of one product."""
        b, t, d = x.shape
        h = a.shape[0]
        q = (x @ jnp.swapaxes(a, 0, 1).reshape(d, h * d)).reshape(b, t * h, d)
        return plain(q, x, x, mask, 1.0).reshape(b, t, h * d)

    def attend_last(x, a):
        """The same for the last query alone: (B, H d)."""
        b, _, d = x.shape
        h = a.shape[0]
        q = (x[:, -1] @ jnp.swapaxes(a, 0, 1).reshape(d, h * d)).reshape(b, h, d)
        scores = jax.nn.softmax(jnp.einsum("bhd,btd->bht", q, x), -1)
        return jnp.einsum("bht,btd->bhd", scores, x).reshape(b, h * d)

    def cross_entropy(logits, laws):
        return -(laws * jax.nn.log_softmax(logits, -1)).sum() / laws.shape[0]

    def sequence_inputs(config, arrays):
        tokens, laws = jnp.asarray(arrays["tokens"].astype(np.int32)), jnp.asarray(arrays["laws"])
        return (tokens, laws), [mask_of(tokens.shape[1], heads) for heads in config["heads"][:-1]]

    def disentangled(config, arrays, _params):
        data, masks = sequence_inputs(config, arrays)
        (b, t), s = data[0].shape, config["vocab"]

        def loss(p, tokens, laws):
            position = jnp.broadcast_to(jnp.eye(t, dtype=laws.dtype), (b, t, t))
            x = jnp.concatenate([jax.nn.one_hot(tokens, s, dtype=laws.dtype), position], -1)
            for layer, mask in enumerate(masks):
                x = jnp.concatenate([x, attend(x, p[f"A.{layer}"], mask)], -1)
            top = jnp.concatenate([x[:, -1], attend_last(x, p[f"A.{len(masks)}"])], -1)
            return cross_entropy(top @ p["W"], laws)

        return loss, data

    def mlp_transformer(config, arrays, params):
        data, masks = sequence_inputs(config, arrays)
        root = math.sqrt(params["W"].shape[0])

        def mlp(p, layer, x, attended):
            """x + relu(y W1 + sqrt(d) b1) W2 + sqrt(d) b2 with y = attended V."""
            m = f"mlp.{layer}."
            h = jax.nn.relu(attended @ p[f"V.{layer}"] @ p[m + "w1"] + root * p[m + "b1"])
            return x + h @ p[m + "w2"] + root * p[m + "b2"]

        def loss(p, tokens, laws):
            x = p["wte"][tokens] + p["wpe"]
            for layer, mask in enumerate(masks):
                x = mlp(p, layer, x, attend(x, p[f"A.{layer}"], mask))
            top = len(masks)
            return cross_entropy(mlp(p, top, x[:, -1], attend_last(x, p[f"A.{top}"])) @ p["W"], laws)

        return loss, data

    def token_inputs(arrays):
        tokens, labels = (jnp.asarray(arrays[name].astype(np.int32)) for name in ("tokens", "labels"))
        return tokens, labels, jnp.asarray(arrays["weights"])

    def weighted(logits, labels, weights):
        """sum(weights CE) / sum(weights)."""
        chosen = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
        losses = jax.nn.logsumexp(logits, -1) - (chosen * logits).sum(-1)
        return (weights * losses).sum() / weights.sum()

    def memory(_config, arrays, params):
        d, depth, mask = params["pe"].shape[1], depth_of(params), mask_of(arrays["tokens"].shape[1])

        def loss(p, tokens, labels, weights):
            x = p["tok_embeddings.weight"][tokens] + p["pe"]
            for layer in range(depth):
                a = f"layers.{layer}.attention."
                mixed = plain(x, x @ p[a + "wk.weight"].T, x, mask, d**-0.5)
                # A (d, d) product saves one over all positions.
                x = x + mixed @ (p[a + "wo.weight"] @ p[a + "wv.weight"]).T
            return weighted(x @ p["output.weight"].T, labels, weights)

        return loss, token_inputs(arrays)

    def transformer(config, arrays, params):
        (b, t), d, h = arrays["tokens"].shape, params["tok_embeddings.weight"].shape[1], config["heads"]
        mask, depth = mask_of(t), depth_of(params)

        def norm(p, name, x):
            x = x - x.mean(-1, keepdims=True)
            x = x * lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5)
            return x * p[name + "norm.weight"] + p[name + "norm.bias"]

        def loss(p, tokens, labels, weights):
            x = p["tok_embeddings.weight"][tokens] + p["pos_embeddings.weight"]
            for layer in range(depth):
                at = f"layers.{layer}."
                a, f = at + "attention.", at + "ff."
                w = jnp.concatenate([p[a + "wq.weight"], p[a + "wk.weight"], p[a + "wv.weight"]])
                qkv = (norm(p, at + "attention_", x) @ w.T).reshape(b, t, 3, h, d // h)
                y = plain(*qkv.transpose(2, 0, 3, 1, 4), mask, (d // h) ** -0.5)
                y = jnp.swapaxes(y, 1, 2).reshape(b, t, d) @ p[a + "wo.weight"].T
                ff = jax.nn.relu(norm(p, at + "ff_", x) @ p[f + "w1.weight"].T) @ p[f + "w2.weight"].T
                x = x + y + ff
            return weighted(norm(p, "", x) @ p["output.weight"].T, labels, weights)

        return loss, token_inputs(arrays)

    def population(config, arrays, _variant):
        s, t, eps = config["vocab"], config["len"], config["eps"]
        total, mask = s**t, mask_of(t)
        size = total if total <= WHOLE else CHUNK
        chunks = -(-total // size)
        # Sequences past the end get weight zero.
        seqs, weights = np.zeros((chunks * size, t), np.uint8 if s <= 256 else np.int32), np.zeros((chunks * size, s))
        seqs[:total], weights[:total] = sequences(s, t), arrays["weights"]
        data = jnp.asarray(seqs.reshape(chunks, size, t)), jnp.asarray(weights.reshape(chunks, size, s))
        params = jnp.asarray(arrays["a1"]), jnp.asarray(arrays["a2"])

        def loss(params, seq, weight):
            """-sum W log(f + eps): scores a_j = A2[s_T, s_j], z = M a, f(s') = sum_i softmax(z)_i 1[s_i = s']."""
            a1, a2 = params
            onehot = jax.nn.one_hot(seq, s, dtype=a1.dtype)
            a = (onehot * (onehot[:, -1] @ a2)[:, None]).sum(-1)
            v = jax.nn.softmax(a @ jax.nn.softmax(jnp.where(mask, a1, -jnp.inf), -1).T, -1)
            return -(weight * jnp.log((onehot * v[:, :, None]).sum(1) + eps)).sum()

        @jax.jit
        def both(params, seqs, weights):
            if chunks == 1:
                return jax.value_and_grad(loss)(params, seqs[0], weights[0])

            def add(so_far, part):
                return jax.tree.map(jnp.add, so_far, jax.value_and_grad(loss)(params, *part)), None

            zero = jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)
            return lax.scan(add, zero, (seqs, weights))[0]

        def check():
            value, (d1, d2) = host(both(params, *data))
            return {"loss": value, "grad:a1": d1, "grad:a2": d2}

        return check, lambda: both(params, *data)

    # Samplers: call() advances the key, so that each call draws a fresh batch.

    def sampler(draw, names, seed):
        held = [jax.random.key(seed)]
        draw = jax.jit(draw)

        def call():
            held[0], *out = draw(held[0])
            return out

        return lambda: dict(zip(names, host(call()))), call

    def log_gamma_draws(key, alpha, shape):
        """Logarithms of Gamma(alpha) draws. For alpha < 1: log G(alpha + 1) + log(U) / alpha, which does
        not underflow. jax.random.loggamma draws one number after another on CPUs; here all are proposed
        at once (Marsaglia and Tsang 2000), and the refused ones again, a sixteenth at a time."""
        if alpha == 1:
            return jnp.log(jax.random.exponential(key, shape))
        size = math.prod(shape)
        few = max(size // 16, 1)
        d = (alpha + 1 if alpha < 1 else alpha) - 1 / 3
        c = 1 / math.sqrt(9 * d)

        def propose(key, count):
            """Draws over d; 0 where refused."""
            at, level = jax.random.split(key)
            x = jax.random.normal(at, (count,))
            v = (1 + c * x) ** 3
            bound = 0.5 * x * x + d * (1 - v + jnp.log(jnp.abs(v)))
            return jnp.where((v > 0) & (jnp.log1p(-jax.random.uniform(level, (count,))) < bound), v, 0.0)

        def again(state):
            key, now = jax.random.split(state[0])
            at = jnp.nonzero(state[1] == 0, size=few, fill_value=size)[0]
            return key, state[1].at[at].set(propose(now, few), mode="drop")

        key, now, boost = jax.random.split(key, 3)
        start = key, propose(now, size)
        out = jnp.log(d * lax.while_loop(lambda state: jnp.any(state[1] == 0), again, start)[1]).reshape(shape)
        return out + jnp.log1p(-jax.random.uniform(boost, shape)) / alpha if alpha < 1 else out

    def sample_causal(config, _arrays, _variant):
        s, t, count = config["vocab"], config["len"], config["count"]
        levels = levels_of(config["parents"])
        divide, outer = (lambda x, y: x / y[:, None]), (lambda x, y: x[:, :, None] * y[:, None])

        def draw(key):
            key, *keys = jax.random.split(key, 4)
            pi = jax.nn.softmax(log_gamma_draws(keys[0], config["alpha"], (count, s, s)), -1)
            pi = jnp.maximum(pi, 1e-300)
            mu = jnp.stack(eliminate(pi, divide, outer, lambda x: x.sum(-1)), -1)
            mu_cdf = jnp.cumsum(mu / mu.sum(-1, keepdims=True), -1)[:, None]
            cdf, u = jnp.cumsum(pi, -1), jax.random.uniform(keys[1], (count, t - 1, 1))
            columns = [None] * (t - 1) + [jax.random.randint(keys[2], (count,), 0, s, jnp.int32)]
            for at, up in levels:
                of = mu_cdf
                if up[0] >= 0:
                    of = jnp.take_along_axis(cdf, jnp.stack([columns[i] for i in up], 1)[:, :, None], 1)
                new = (of[..., :-1] <= u[:, at]).sum(-1, dtype=jnp.int32)
                for i, position in enumerate(at):
                    columns[position] = new[:, i]
            laws = jnp.take_along_axis(pi, columns[-1][:, None, None], 1)[:, 0]
            return key, jnp.stack(columns, 1), laws

        return sampler(draw, ("tokens", "laws"), config["seed"])

    def sample_trigger(config, arrays, _variant):
        count, length, k = config["count"], config["len"], config["triggers"]
        unigram, n = jnp.asarray(arrays["unigram"]), arrays["unigram"].size
        unigram_cdf = jnp.cumsum(unigram) / unigram.sum()
        sums = jnp.cumsum(jnp.asarray(arrays["bigram"]), -1)
        # Row z lies in [z, z + 1]: one sorted list for all rows.
        steps = (jnp.minimum(sums / sums[:, -1:], 1) + jnp.arange(n)[:, None]).ravel()

        def draw(key):
            key, *keys = jax.random.split(key, 4)
            # The K smallest of exponential times over rates: draws without replacement, in order.
            times = jax.random.exponential(keys[0], (count, n)) / unigram
            # In f64 it takes ten times as long.
            triggers = lax.top_k(-times.astype(jnp.float32), k)[1].astype(jnp.int32)
            outputs = jax.random.randint(keys[1], (count, k), 0, n, jnp.int32)
            u = jax.random.uniform(keys[2], (length + 1, count))

            def step(z, u):
                free = jnp.searchsorted(steps, u + z, side="right").astype(jnp.int32) - z * n
                hit = triggers == z[:, None]
                z = jnp.where(hit.any(-1), (hit * outputs).sum(-1, dtype=jnp.int32), jnp.minimum(free, n - 1))
                return z, z

            first = (unigram_cdf[:-1] <= u[0][:, None]).sum(-1, dtype=jnp.int32)
            rest = lax.scan(step, first, u[1:])[1]
            return key, jnp.concatenate([first[None], rest]).T, triggers, outputs

        return sampler(draw, ("tokens", "triggers", "outputs"), config["seed"])

    cases = {
        "product": product,
        "attention": attention,
        "disentangled": training(disentangled),
        "mlp_transformer": training(mlp_transformer),
        "memory": training(memory),
        "transformer": training(transformer),
        "population": population,
        "sample-causal": sample_causal,
        "sample-trigger": sample_trigger,
    }
    variants = {name: ["jit", "sdpa"] if name == "attention" else ["jit"] for name in cases}
    return "jax " + jax.__version__, cases, variants, jax.block_until_ready


# ---------------------------------------------------------------------------------------- protocol


def one_line(error):
    return {"error": " ".join(f"{type(error).__name__}: {error}".split())[:400]}


def main():
    """Answers requests until stdin ends. Whatever else is printed goes to stderr."""
    threads = int(sys.argv[2])
    if hasattr(os, "sched_setaffinity"):  # also for pools whose size no setting limits
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def answer(message):
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    frameworks = {"torch": torch_framework, "jax": jax_framework, "numpy": numpy_framework}
    try:
        hello, cases, variants, wait = frameworks[sys.argv[1]](threads)
    except Exception as error:
        answer(one_line(error))
        return
    answer({"hello": hello, "variants": variants})
    calls, opened = {}, 0

    def open_case(case, variant, output, config, input=None):
        if variant not in variants.get(case, ()):
            raise ValueError(f"no variant {variant} of {case}")
        arrays = {}
        if input:
            with np.load(input) as stored:
                arrays = {name: stored[name] for name in stored.files}
        check, call = cases[case](config, arrays, variant)
        np.savez(output, **check())
        for _ in range(2):
            wait(call())
        return call

    for line in sys.stdin:
        try:
            request = json.loads(line)
            if "open" in request:
                call = open_case(**request["open"])
                opened += 1
                calls[opened] = call
                answer({"handle": opened})
            elif "run" in request:
                call, rounds = calls[request["run"]["handle"]], request["run"]["rounds"]
                start = time.perf_counter_ns()
                for _ in range(rounds):
                    wait(call())
                answer({"ns": time.perf_counter_ns() - start})
            else:
                del calls[request["close"]]
                answer({"ok": True})
        except Exception as error:
            answer(one_line(error))


if __name__ == "__main__":
    main()
