"""Settings of the tests: JAX in float64; hypothesis without a clock, and without shrinking, which
takes minutes where each example differentiates a model."""

import jax
from hypothesis import Phase, settings

jax.config.update("jax_enable_x64", True)
settings.register_profile("popgrad", deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
settings.load_profile("popgrad")
