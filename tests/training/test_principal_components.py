"""Principal components against scikit-learn."""

import numpy as np
import torch
from sklearn.decomposition import PCA

from scripts.training.principal_components import PrincipalComponents
from tests.training.test_distillation import phantoms


def test_principal_components_reconstruct_as_sklearn_does():
    slices = torch.from_numpy(phantoms(20))[:, None]
    components = PrincipalComponents(slices)
    held_out = torch.from_numpy(phantoms(3, seed=1))[:, None]
    flat = held_out.flatten(1).numpy()
    for count in (1, 5, 19):
        pca = PCA(count, svd_solver="full").fit(slices.flatten(1).numpy())
        expected = pca.inverse_transform(pca.transform(flat)).clip(0, 1)
        np.testing.assert_allclose(components.reconstruct(held_out, count).flatten(1).numpy(), expected, atol=1e-4)
    one_each = components.reconstruct(held_out, torch.tensor([1, 5, 19]))
    torch.testing.assert_close(one_each[1:2], components.reconstruct(held_out[1:2], 5), atol=1e-5, rtol=0)
