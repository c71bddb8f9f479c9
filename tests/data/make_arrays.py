#!/usr/bin/env python3
"""Make the array fixtures beside this script (numpy 2.4, safetensors 0.8). Run it in this folder.

Values are small and spelled out again in tests/report_arrays.rs; the zip entries carry the time of writing, so a
rerun changes bytes but not content.
"""
import io
import zipfile

import numpy as np
from safetensors.numpy import save_file

grid = np.arange(24, dtype=np.float64).reshape(2, 3, 4) / 8

ints = {
    "i1": np.array([-128, 0, 127], "i1"),
    "i2": np.array([-32768, 0, 32767], "i2"),
    "i4": np.array([-(2**31), 0, 2**31 - 1], "i4"),
    "i8": np.array([-(2**63), 0, 2**63 - 1], "i8"),
    "u1": np.array([0, 255], "u1"),
    "u2": np.array([0, 65535], "u2"),
    "u4": np.array([0, 2**32 - 1], "u4"),
    "u8": np.array([0, 2**64 - 1], "u8"),
    "bool": np.array([[True, False], [False, True]]),
}
half = np.array([0.0, -0.0, 1.0, -2.5, 65504.0, 2.0**-14, 2.0**-24, 3 * 2.0**-24, np.inf, -np.inf, np.nan], "f2")
floats = {
    "f2": half,
    "f4": np.array([0.1, -0.0, np.inf, np.nan, 1e-45], "f4"),
    "f8": np.array([0.1, -0.0, -np.inf, 5e-324], "f8"),
    "c_order": grid,
    "fortran": np.asfortranarray(grid),
    "scalar": np.float32(1.5),
    "empty": np.zeros((0, 3), "f4"),
}

np.savez("numpy_all.npz", **ints, **floats)
np.savez_compressed("numpy_deflate.npz", fortran=floats["fortran"].astype("f4"), zeros=np.zeros((40, 50), "i4"))
np.savez("numpy_big_endian.npz", fine=np.zeros(2), swapped=np.array([1, 2], ">i4"))
np.savez("numpy_object.npz", things=np.array([{}, None], dtype=object))
np.savez("numpy_structured.npz", pairs=np.zeros(2, [("a", "f4"), ("b", "i4")]))
np.savez("numpy_text.npz", words=np.array(["a", "bc"]))
np.savez("numpy_complex.npz", waves=np.zeros(2, "c16"))


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


with zipfile.ZipFile("numpy_duplicate.npz", "w") as z:
    z.writestr("twin.npy", npy(np.zeros(1)))
    z.writestr("twin.npy", npy(np.ones(1)))

save_file(
    {k: v for k, v in {**ints, **floats}.items() if k not in ("scalar", "fortran")},
    "numpy_all.safetensors",
    metadata={"origin": "numpy", "note": "é"},
)
