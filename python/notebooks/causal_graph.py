import marimo

__generated_with = "0.25.2"
app = marimo.App()


@app.cell
def _():
    import marimo as mo

    return (mo,)


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    # A transformer finds a causal graph

    Sequences $s_1,\dots,s_T$ over $S$ symbols follow a latent forest. Position $i$ has a parent
    $p(i)<i$, or it is a root.
    Each sequence has transitions $\pi$ of its own, with rows drawn from a Dirichlet law. A root is
    uniform here. Any other token is drawn from $\pi(\cdot\mid s_{p(i)})$.
    The last token $s_T$ is a query: what is $\pi(\cdot\mid s_T)$?

    We watch how gradient descent finds the forest. Every loss and gradient below is exact: a sum over
    all $S^T$ sequences.

    The package counts positions from 0, the papers from 1.
    """)
    return


@app.cell
def _():
    import matplotlib.pyplot as plt
    import numpy as np
    import popgrad

    parents = [-1, 0, 0, 1, 2, 2, 4]  # -1: a root. The query is position 7 and has no parent.
    task = popgrad.CausalTree(parents, S=3, alpha=0.3, roots="uniform")


    def picture(matrices, titles, edges=True):
        """Matrices side by side; a ring marks each parent."""
        fig, axes = plt.subplots(1, len(matrices), figsize=(2.6 * len(matrices), 2.6), dpi=60, squeeze=False)
        for ax, matrix, title in zip(axes[0], matrices, titles):
            ax.imshow(matrix, cmap="Blues", vmin=0)
            if edges:
                for i, p in enumerate(parents):
                    if p >= 0:
                        ax.plot(p, i, "o", mfc="none", mec="C1", ms=11)
            ax.set(title=title, xlabel="key j", ylabel="query i")
        fig.tight_layout()
        plt.close(fig)
        return fig


    task.graph
    return np, parents, picture, plt, popgrad, task


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    **The data.** A batch holds tokens $(B,T)$, targets $\pi(\cdot\mid s_T)$ of shape $(B,S)$, and
    weights.
    """)
    return


@app.cell
def _(task):
    batch = task.sample(4, seed=0)
    for tokens, target in zip(batch.tokens, batch.targets):
        print(tokens, "query", tokens[-1], "-> law", target.round(2))
    return (batch,)


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    **The best answer.** Given the forest, Bayes counts: $\hat\pi(s'\mid s)\propto\alpha+\#\{i:
    s_{p(i)}=s,\ s_i=s'\}$ at $s=s_T$.
    Its loss over the whole population is the least that any model can reach.
    """)
    return


@app.cell
def _(batch, popgrad, task):
    population = popgrad.Population(task, eps=0.01)
    print("laws by counts:", *task.bayes(batch).round(2), sep="\n")
    print(f"{task.S ** task.T} sequences, probabilities sum to {population.weights().sum():.6f}")
    print(f"Bayes loss {population.bayes():.5f} nats")
    return (population,)


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    **The simplified model.** $M=\mathrm{softmax}(\mathrm{mask}(A^{(1)}))$ mixes positions, $A^{(2)}$
    compares symbols:
    $z_i=\sum_{j\le i}M_{ij}A^{(2)}_{s_T,s_j}$, $v=\mathrm{softmax}(z)$, $f(s')=\sum_i v_i\mathbf
    1[s_i=s']$, and $L=-\mathbb E\sum_{s'}\pi(s'\mid s_T)\log(f(s')+\varepsilon)$.
    At the start $A^{(1)}=0$ and $A^{(2)}=\beta_0 I$.
    """)
    return


@app.cell
def _(popgrad, population, task):
    model = popgrad.Simplified(task=task, eps=0.01, beta0=0.1)
    start = model.init()
    loss, grad = population.value_and_grad(model, start)
    print(f"loss {loss:.5f}")
    print({name: x.shape for name, x in grad.items()})
    return grad, loss, model, start


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    **The first gradient knows the graph.** Row $i$ of $-\partial L/\partial A^{(1)}$ is largest at the
    parent: to leading order in $\beta_0$ its entries are
    the $\chi^2$ mutual informations of $s_i$ and $s_j$, and information falls along a path. Rings mark
    the true parents.
    """)
    return


@app.cell
def _(grad, np, parents, picture, task):
    signal = -grad["A1"]
    best = [int(np.argmax(signal[i, :i])) for i in range(1, task.T - 1)]
    print("argmax over j < i:", best, " parents:", parents[1:])
    scaled = signal / np.abs(signal).max(axis=1, keepdims=True).clip(1e-300)
    picture([scaled.clip(0)], ["$-\\partial L/\\partial A^{(1)}$, row by row"])
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    **The same from samples.** The forest can be read from one sampled gradient before any training,
    with a test for each edge.
    """)
    return


@app.cell
def _(parents, popgrad, task):
    sample = task.sample(20000, seed=0)
    found = popgrad.discover(sample.tokens, sample.targets)
    print("found  ", [-1 if p is None else p for p in found.parents])
    print("parents", parents)
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    **Algorithm 1, stage 1.** Gradient descent on $A^{(1)}$ alone. The loss hardly moves, and yet the
    graph is written into the attention.
    """)
    return


@app.cell
def _(loss, model, np, picture, population, start):
    def descend(params, block, rate, steps):
        """Gradient descent on one block; returns new parameters and the losses."""
        params, losses = model.flat(params), []
        for _ in range(steps):
            value, slope = population.value_and_grad(model, params)
            params[block] -= rate * slope[block]
            losses.append(value)
        return params, losses


    def attention(scores):
        """softmax of the rows over j <= i."""
        seen = np.where(np.tril(np.ones_like(scores)) > 0, scores, -np.inf)
        weights = np.exp(seen - seen.max(axis=1, keepdims=True))
        return weights / weights.sum(axis=1, keepdims=True)


    few, losses_few = descend(start, "A1", 3000.0, 10)
    stage1, losses1 = descend(few, "A1", 3000.0, 290)
    print(f"loss {loss:.5f} -> {population.loss(model, stage1):.5f}")
    picture(
        [attention(start["A1"]), attention(few["A1"]), attention(stage1["A1"])],
        ["start", "10 steps", "300 steps"],
    )
    return descend, losses1, losses_few, stage1


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    **Stage 2.** Gradient descent on $A^{(2)}$. Now $v$ looks at positions whose *parent* equals the
    query: an induction head. Position 0 attends to itself, and so does the query.
    A gap to Bayes stays: $f$ is a frequency over few tokens and knows no prior.
    """)
    return


@app.cell
def _(descend, losses1, losses_few, model, plt, population, stage1):
    stage2, losses2 = descend(stage1, "A2", 20.0, 200)
    fig_loss, ax_loss = plt.subplots(figsize=(4.2, 2.6), dpi=60)
    ax_loss.plot(losses_few + losses1 + losses2)
    ax_loss.axvline(300, color="grey", lw=0.8)
    ax_loss.axhline(population.bayes(), color="C1", ls="--", label="Bayes")
    ax_loss.set(xlabel="step", ylabel="loss (nats)", title="$A^{(1)}$, then $A^{(2)}$")
    ax_loss.legend()
    fig_loss.tight_layout()
    plt.close(fig_loss)
    print(f"loss {population.loss(model, stage2):.5f}, A2 =")
    print(stage2["A2"].round(2))
    fig_loss
    return


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    **A transformer.** The disentangled transformer knows nothing of these stages: all blocks start at 0
    and train together by SGD on samples. The simplified model sits inside it:
    the position block of its first attention matrix plays $A^{(1)}$.
    """)
    return


@app.cell
def _(np, parents, picture, popgrad, task):
    transformer = popgrad.Disentangled(task=task)
    run = popgrad.train(
        task,
        transformer,
        optimizer=popgrad.SGD(lr=2.0),
        schedule="cosine",
        steps=2000,
        batch=256,
        eval_every=50,
        progress=False,
    )
    pattern = run.attention()[0][0]
    mean = np.mean([pattern[i, p] for i, p in enumerate(parents) if p >= 0])
    print(f"test loss {run.metrics['test_loss'][-1]:.4f}, attention on the parent {mean:.2f}")
    picture([np.nan_to_num(pattern)], ["layer 1 after training"])
    return run, transformer


@app.cell(hide_code=True)
def _(mo):
    mo.md(r"""
    **Is it this head that does it?** Replace its output by zeros and look at the loss. The answer falls
    back to what a model without the graph can say.
    """)
    return


@app.cell
def _(np, run, task, transformer):
    test = task.sample(4096, seed=3)
    weights = run.params()


    def cross_entropy(probabilities):
        """Mean of -sum y log f at the query."""
        return -(test.targets * np.log(probabilities[:, -1])).sum(axis=1).mean()


    whole, _ = transformer.run_with_cache(weights, test.tokens, names=[])
    without, _ = transformer.patch(weights, test.tokens, {"layer0.head0.out": "zero"}, names=[])
    print(f"loss {cross_entropy(whole):.4f}, without the head {cross_entropy(without):.4f}")
    print(f"Bayes {-(test.targets * np.log(task.bayes(test))).sum(axis=1).mean():.4f}, uniform {np.log(3):.4f}")
    return


if __name__ == "__main__":
    app.run()
