"""Settings of the tests: JAX in float64, hypothesis without a clock."""

import jax
from hypothesis import settings

jax.config.update("jax_enable_x64", True)
settings.register_profile("popgrad", deadline=None, derandomize=True)
settings.load_profile("popgrad")
