"""Your own training loop in JAX: optax updates, gradients from the engine.

A disentangled transformer learns the chain of paper 1. Every update draws a fresh batch.

    python examples/train_optax.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import popgrad
import popgrad.jax

STEPS, BATCH = 800, 256

task = popgrad.CausalTree("chain", S=3, T=10)
model = popgrad.Disentangled(task=task)
loss = popgrad.jax.loss(model)

params = popgrad.jax.params(model.init(seed=0, dtype="float32"))
schedule = optax.cosine_decay_schedule(2.0, STEPS)
optimizer = optax.chain(optax.clip_by_global_norm(0.2), optax.sgd(schedule))
state = optimizer.init(params)


@jax.jit
def update(params, state, batch):
    """One step: the engine is called from the compiled program."""
    value, grad = jax.value_and_grad(loss)(params, batch)
    change, state = optimizer.update(grad, state, params)
    return optax.apply_updates(params, change), state, value


test = popgrad.jax.columns(task.sample(4096, seed=1))
bayes = task.bayes(task.sample(4096, seed=1))
best = -(np.asarray(test["targets"]) * np.log(bayes)).sum(axis=1).mean()

print(f"update 0: test loss {loss(params, test):.4f}, Bayes {best:.4f}")
for step in range(1, STEPS + 1):
    batch = task.sample(BATCH, seed=0, start=step * BATCH)
    params, state, value = update(params, state, popgrad.jax.columns(batch))
    if step % 200 == 0:
        print(f"update {step}: test loss {loss(params, test):.4f}")

# Position i should look at its parent i - 1: the position block of the first attention matrix.
scores = params["A.0"][0, task.S :, task.S :]
mask = jnp.tril(jnp.ones((task.T, task.T), bool))
pattern = jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=1)
on_parent = float(np.mean([pattern[i, i - 1] for i in range(1, task.T - 1)]))
print(f"attention on the parent {on_parent:.2f}")
