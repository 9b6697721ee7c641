"""SE blocks for a network that exists: plan, insert, train, save, load, remove.

Needs torch and torchvision; takes a few seconds on a CPU.
"""

import copy
import tempfile

import torch
import torchvision

import senet

torch.manual_seed(0)
x = torch.randn(4, 3, 64, 64)
labels = torch.tensor([0, 1, 2, 3])

# A network as you have it, trained or not (weights="DEFAULT" downloads trained ones).
model = torchvision.models.resnet18(num_classes=10)
plain = copy.deepcopy(model)

# 1. Read the plan. Nothing is changed yet.
config = senet.SEConfig(reduction=16)
print(senet.find_sites(model, x, config), "\n")

# 2. Insert. The network computes what it computed before, bit for bit, and every key stays.
report = senet.insert(model, x, config)
assert torch.equal(model.eval()(x), plain.eval()(x))
assert set(plain.state_dict()) <= set(model.state_dict())
print(f"{len(report.sites)} blocks, +{report.parameters:,} parameters, same outputs")

# 3. Train: the blocks faster than the rest, or the rest frozen.
model.train()
groups = senet.se_parameters(model)
optimizer = torch.optim.SGD([{"params": groups.base}, {"params": groups.se, "lr": 0.5}], lr=0.01)
for step in range(3):
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(x), labels)
    loss.backward()
    optimizer.step()
    print(f"step {step}: loss {loss.item():.3f}")

# 4. Look at what the blocks decide: the gate is a module of its own.
gates = {}
handles = [
    block.gate.register_forward_hook(lambda _module, _args, s, path=path: gates.update({path: s}))
    for path, block in senet.se_modules(model).items()
]
trained = model.eval()(x)
for path, s in gates.items():
    print(f"{path}: gates from {s.min().item():.3f} to {s.max().item():.3f}")
for handle in handles:
    handle.remove()

# 5. Save, and rebuild on a fresh network.
with tempfile.TemporaryDirectory() as folder:
    senet.save(model, folder)
    fresh = torchvision.models.resnet18(num_classes=10)
    senet.load(fresh, folder)
assert torch.equal(fresh.eval()(x), trained)
print("saved and loaded: same outputs")

# 6. Take the blocks out again: types and keys are those of the plain network.
senet.remove(model)
assert list(model.state_dict()) == list(plain.state_dict())
assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
print("removed: the plain network again")
