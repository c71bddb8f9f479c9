"""The protocol of worker/src/lib.rs for numpy: np.matmul into an existing array, what a Python user pays per call."""
import ctypes
import glob
import os
import sys
import time

import numpy as np

# Memory that a round from memory sweeps over, several times the largest cache.
SWEEP = np.ones((128 << 20) // 8, np.uint64)
C = np.uint64(0x9E3779B97F4A7C15)


def integers(stream, count):
    x = (np.arange(count, dtype=np.uint64) + np.uint64(stream << 40)) * C
    x = (x ^ (x >> np.uint64(32))) * C
    return (x >> np.uint64(61)).astype(np.int64) - 4


def aligned(count, dtype):
    size = np.dtype(dtype).itemsize
    raw = np.zeros(count + 64 // size, dtype)
    start = (-raw.ctypes.data % 64) // size
    return raw[start:start + count]


def core():
    found = glob.glob(os.path.join(os.path.dirname(np.__file__), "..", "numpy.libs", "libscipy_openblas*"))
    if not found:
        return "BLAS unknown"
    name = ctypes.CDLL(found[0]).scipy_openblas_get_corename64_
    name.restype = ctypes.c_char_p
    return f"OpenBLAS core {name().decode()}"


class Problem:
    def __init__(self, op, dtype, batch, m, k, n):
        def operand(stream, rows, cols, transposed):
            flat = aligned(batch * rows * cols, dtype)
            flat[:] = integers(stream, flat.size)
            return flat.reshape(batch, cols, rows).swapaxes(1, 2) if transposed else flat.reshape(batch, rows, cols)

        self.a, self.b = operand(1, m, k, op == "tn"), operand(2, k, n, op == "nt")
        self.c = aligned(batch * m * n, dtype).reshape(batch, m, n)
        self.c[:] = np.nan
        if batch == 1:
            self.a, self.b, self.c = self.a[0], self.b[0], self.c[0]
        self.run(1)
        whole = self.c.astype(np.int64).reshape(batch, m, n)
        if not (whole.reshape(self.c.shape) == self.c).all():
            raise ValueError("an entry is no integer")
        w, v = 2 * integers(3, m) + 1, 2 * integers(4, n) + 1
        u = 1 + np.arange(batch) % 5
        self.checksum = int(np.einsum("b,bij,i,j", u, whole, w, v, optimize=True))
        self.c[:] = np.nan

    def run(self, rounds, cold=False):
        a, b, c, matmul = self.a, self.b, self.c, np.matmul
        if cold:
            total = 0
            for _ in range(rounds):
                SWEEP[::8] += 1
                start = time.perf_counter_ns()
                matmul(a, b, out=c)
                total += time.perf_counter_ns() - start
            return total
        matmul(a, b, out=c)
        start = time.perf_counter_ns()
        for _ in range(rounds):
            matmul(a, b, out=c)
        return time.perf_counter_ns() - start


def pin(cores):
    """One core for each thread, as worker/src/pin.rs does."""
    for i, thread in enumerate(sorted(map(int, os.listdir("/proc/self/task")))):
        os.sched_setaffinity(thread, [cores[i % len(cores)]])


def main():
    last, problem = None, None
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    print(f"hello numpy {np.__version__}, {core()}", flush=True)
    for line in sys.stdin:
        try:
            op, dtype, *numbers = line.split()
            batch, m, k, n, threads, rounds = map(int, numbers)
            cold, op = op.endswith("-cold"), op.removesuffix("-cold")
            if op not in ("nn", "tn", "nt") or dtype not in ("f32", "f64"):
                raise ValueError(f"no `{op}` here")
            case = (op, "<" + dtype[0] + str(int(dtype[1:]) // 8), batch, m, k, n)
            if case != last:
                last, problem = None, None
                problem = Problem(*case)
                last = case
                if threads > 1 and cores:
                    pin(cores)
            print(f"ok {problem.run(rounds, cold)} {problem.checksum}", flush=True)
        except Exception as e:  # one line, whatever it is
            print("no " + " ".join(str(e).split()), flush=True)


main()
