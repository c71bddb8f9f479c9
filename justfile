# What is done by hand often. `just` alone lists it.

default:
    @just --list

# Formatting, lints, comment width, documentation: what CI refuses first.
check:
    cargo fmt --all -- --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
    cargo test --workspace --test layering

# The README's test command.
test:
    cargo test --workspace

# Kernels and steps on this machine, against its peak; `benches/rivals` compares with other
# libraries.
bench:
    cargo run --release -- bench

# The criterion benches of one room: just criterion train
criterion name:
    cargo bench --bench {{name}}

# The guide as a searchable book, in a browser.
guide:
    mdbook serve docs --open

# The documentation of both crates.
doc:
    cargo doc --workspace --no-deps --open

# The figures of both papers in their short forms, on one page.
figures:
    cargo run --release -- figures --quick

# The pages in headless Chromium; needs selenium, chromium and chromedriver.
browser:
    cargo build
    python3 tests/browser/drive.py target/debug/popgrad

# Records today's values: only after a change of numbers that the changelog explains.
record-values:
    POPGRAD_RECORD_VALUES=1 cargo test --test values

# The Python package in the active virtual environment, with its tests.
python:
    pip install "./python[test]"
    python -m pytest python/tests
