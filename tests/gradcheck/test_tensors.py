"""Losses of PyTorch: their mistakes are named like those of JAX, with the user's line."""

from typing import Any

import jax
import numpy as np
import pytest

from jaxgd import gradcheck
from jaxgd.gradcheck.mistakes import tensors
from jaxgd.gradcheck.mistakes.values import in_jax

torch = pytest.importorskip("torch", reason="needs torch")
F = torch.nn.functional
RNG = np.random.default_rng(0)
X, Y, W = (RNG.normal(size=shape) for shape in ((5, 3), (5, 3), (3, 3)))
LABELS = np.array([0, 2, 1, 1, 0])

LOSSES = {
    "operators": lambda x: ((x @ W2.T - 2 * x**2 / 3 + 1 - -x).abs() * (x > 0)).sum(),
    "methods": lambda x: x.pow(2).mean(1, keepdim=True).add(1).sqrt().log().sum() + x.var(0, unbiased=False).max(),
    "spread": lambda x: (x.std(1) / x.norm()).sum() + x.var(1).sum() + x.clamp(min=-0.5, max=0.7).prod(),
    "shapes": lambda x: torch.cat([x.t().reshape(-1), x.unsqueeze(1).permute(2, 0, 1)[0, :2].flatten()]).cumsum(0)[3],
    "functions": lambda x: (torch.sigmoid(x) + F.softplus(x) + torch.rsqrt(x**2 + 1) + torch.erf(x)).sum(),
    "activations": lambda x: (F.gelu(x) + F.silu(x) * F.elu(x) - F.leaky_relu(x) + F.relu(x)).sum(),
    "softmax": lambda x: (torch.softmax(x, 1) * F.log_softmax(x, dim=0)).sum() + torch.logsumexp(x, 1).sum(),
    "losses": lambda x: F.mse_loss(x, Y2) + F.l1_loss(x, Y2, reduction="sum") + F.cross_entropy(x, LABELS2),
    "probabilities": lambda x: F.binary_cross_entropy_with_logits(x, (Y2 > 0).double())
    + F.binary_cross_entropy(torch.sigmoid(x), (Y2 > 0).double())
    + F.nll_loss(F.log_softmax(x, 1), LABELS2),
    "matrices": lambda x: torch.linalg.inv(W2 @ W2.mT + torch.eye(3)).sum() * torch.einsum("ij,kj->ik", x, x)[0, 1]
    + F.linear(x, W2, Y2[0]).sum() / x.size(0) / x.numel(),
}  # fmt: skip
W2, Y2, LABELS2 = torch.tensor(W), torch.tensor(Y), torch.tensor(LABELS)


@pytest.fixture(autouse=True)
def as_users_have_it() -> Any:
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("name", LOSSES)
def test_functions_of_tensors_have_the_values_of_torch(name: str) -> None:
    with jax.enable_x64(True):
        found = tensors.of_arrays(in_jax(LOSSES[name]) or LOSSES[name])(jax.numpy.asarray(X))
    np.testing.assert_allclose(found, LOSSES[name](torch.tensor(X)).numpy(), rtol=1e-12)


def test_what_is_not_known_raises() -> None:
    with pytest.raises(AttributeError, match="not_a_function"):
        tensors.Module().not_a_function  # noqa: B018
    assert in_jax(lambda x: x) is None


def logistic(p: Any, x: Any, y: Any) -> Any:
    return F.binary_cross_entropy_with_logits(x @ p["w"], y) + 0.1 * (p["w"] ** 2).sum()


def by_hand(p: Any, x: Any, y: Any) -> Any:
    return {"w": x.T @ (torch.sigmoid(x @ p["w"]) - y) + 0.2 * p["w"]}


def test_a_mistake_in_one_term_of_a_torch_loss_is_named() -> None:
    """The sum stands for the mean of the data term, and the penalty is right."""
    y = torch.tensor((Y[:, 0] > 0).astype(float))
    report = gradcheck.check_gradient(logistic, by_hand, {"w": torch.tensor(W[0])}, torch.tensor(X), y)
    said = str(report)
    assert 'inside `F.binary_cross_entropy_with_logits(x @ p["w"], y)` (test_tensors.py:' in said
    assert "the denominator 5 is left out" in said
