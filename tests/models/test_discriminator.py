import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stedm_jax.models.discriminator import Discriminator, hinge
from stedm_jax.models.functional import Functional, param_count
from tests.models.fakes import random_params


def network(**changes):
    return Functional(lambda make: Discriminator(make, **changes))


def test_published_size_and_one_logit_a_patch():
    published = network()
    assert param_count(published.abstract) == 2_765_633
    x = jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.float32)
    y = jax.eval_shape(published.apply, published.abstract, x)
    assert y.shape == (2, 30, 30, 1) and y.dtype == jnp.float32


def test_a_logit_sees_seventy_pixels():
    small = network(filters=4, norm="none")
    params = random_params(small)
    seen = jax.jit(jax.grad(lambda x: small.apply(params, x)[0, 5, 5, 0]))(
        jnp.ones((1, 128, 128, 3))
    )
    where = np.nonzero(np.abs(np.asarray(seen)[0]).sum(-1))
    assert [int(axis.max() - axis.min() + 1) for axis in where] == [70, 70]


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_only_the_batch_norm_lets_images_see_each_other(norm):
    small = network(filters=4, layers=2, norm=norm)
    params = random_params(small)
    x = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    apply = jax.jit(small.apply)
    one, other = apply(params, x)[0], apply(params, x.at[1].multiply(3.0))[0]
    assert bool(jnp.allclose(one, other)) == (norm == "group")


def test_hinge_is_zero_for_the_sure():
    assert hinge(jnp.full(3, 2.0), jnp.full(3, -1.5)) == 0
    assert float(hinge(jnp.zeros(3), jnp.zeros(3))) == 1


@pytest.mark.parity
def test_equals_a_torch_oracle_with_its_gradient():
    from tests import peers

    nn = peers.torch.nn

    class Oracle(nn.Module):
        """As taming-transformers lays it out, in training mode."""

        def __init__(self):
            super().__init__()
            layers, cin = [nn.Conv2d(3, 8, 4, 2, 1), nn.LeakyReLU(0.2)], 8
            for cout, stride in ((16, 2), (32, 2), (64, 1)):
                layers += [
                    nn.Conv2d(cin, cout, 4, stride, 1, bias=False),
                    nn.BatchNorm2d(cout),
                    nn.LeakyReLU(0.2),
                ]
                cin = cout
            self.main = nn.Sequential(*layers, nn.Conv2d(cin, 1, 4, 1, 1))

        def forward(self, x):
            return self.main(x)

    theirs, ours = peers.randomise(Oracle()).train(), network(filters=8)
    ignore = (r"running_(mean|var)$",)
    params = peers.mapped(theirs, ours, ignore=ignore)
    x = np.random.default_rng(0).uniform(-1, 1, (3, 48, 64, 3)).astype(np.float32)
    expected = theirs(peers.to_torch_image(x))
    expected.square().mean().backward()

    def loss(params):
        logits = ours.apply(params, jnp.asarray(x))
        return jnp.square(logits).mean(), logits

    (_, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    error = peers.relative_error(logits, peers.from_torch_image(expected))
    gradient = max(peers.gradient_errors(grads, theirs, ours).values())
    print("PatchGAN", error, gradient)
    assert error < peers.TOLERANCE and gradient < peers.TOLERANCE
