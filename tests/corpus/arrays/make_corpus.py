#!/usr/bin/env python3
"""Make the seeds beside this script: bare .npy files, lying headers, and the smallest files of each format."""
import io
import struct
import zipfile

import numpy as np


def npy(header, data=b"", version=1):
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header.encode() + data


def save(name, data):
    with open(name, "wb") as f:
        f.write(data)


def header(descr="<f4", order="False", shape="(2,)"):
    return f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}"


save("plain.npy", npy(header(), bytes(8)))
save("fortran.npy", npy(header(order="True", shape="(2, 3)"), bytes(24)))
save("version3.npy", npy(header(), bytes(8), version=3))
save("huge_header.npy", b"\x93NUMPY\x02\x00" + b"\xff\xff\xff\xff" + b"{")
save("huge_shape.npy", npy(header(shape="(4611686018427387904, 4)"), bytes(8)))
save("deep.npy", npy("(" * 300))
save("open_string.npy", npy("{'descr"))
save("end_of_space.safetensors",
     (lambda h: struct.pack("<Q", len(h)) + h)(
         b'{"a":{"dtype":"F64","shape":[2305843009213693951],"data_offsets":[0,18446744073709551608]}}'))
save("deep.safetensors", (lambda h: struct.pack("<Q", len(h)) + h)(b"[" * 400))
save("empty.safetensors", struct.pack("<Q", 2) + b"{}")
buffer = io.BytesIO()
np.savez(buffer, a=np.arange(2, dtype="i2"))
save("one.npz", buffer.getvalue())
with zipfile.ZipFile("empty.npz", "w"):
    pass
with zipfile.ZipFile("bomb.npz", "w", zipfile.ZIP_DEFLATED) as z:
    z.writestr("a.npy", npy(header(shape="(1048576,)"), bytes(1 << 22)))
