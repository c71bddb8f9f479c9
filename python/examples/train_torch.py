"""Your own training loop in PyTorch: torch.optim updates, gradients from the engine.

A disentangled transformer learns the chain of paper 1, first through autograd, then by
value_and_grad alone: the engine reads and writes the memory of the tensors.

    python examples/train_torch.py
"""

import numpy as np
import popgrad
import popgrad.torch
import torch

STEPS, BATCH = 800, 256

task = popgrad.CausalTree("chain", S=3, T=10)
model = popgrad.Disentangled(task=task)
test = task.sample(4096, seed=1)
best = -(test.targets * np.log(task.bayes(test))).sum(axis=1).mean()


def train(step_of):
    """Trains by `step_of(arrays, params, batch)`, which sets the gradients."""
    arrays = model.init(seed=0, dtype="float32")
    params = popgrad.torch.params(arrays)
    optimizer = torch.optim.SGD(params.values(), lr=2.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        step_of(arrays, params, task.sample(BATCH, seed=0, start=step * BATCH))
        torch.nn.utils.clip_grad_norm_(params.values(), 0.2)
        optimizer.step()
        schedule.step()
    return model.loss(arrays, test), params["A.0"].detach()


loss = popgrad.torch.loss(model)


def by_autograd(arrays, params, batch):
    loss(params, batch).backward()


def by_hand(arrays, params, batch):
    _, grad = model.value_and_grad(arrays, batch)
    for name, x in params.items():
        x.grad = torch.from_numpy(grad[name])


for name, step_of in (("autograd", by_autograd), ("value_and_grad", by_hand)):
    found, matrix = train(step_of)
    scores = matrix[0, task.S :, task.S :]
    mask = torch.tril(torch.ones_like(scores)) == 0
    pattern = torch.softmax(scores.masked_fill(mask, -torch.inf), dim=1)
    on_parent = np.mean([pattern[i, i - 1].item() for i in range(1, task.T - 1)])
    print(f"{name}: test loss {found:.4f}, Bayes {best:.4f}, on the parent {on_parent:.2f}")
