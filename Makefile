# The commands of this repository. `make test` is what .ci/run calls.

.PHONY: test check build clients clean

# Format, lints, Rust tests, release build, client tests; the last line counts the tests.
test:
	python3 tests/run.py

# Format and lints only.
check:
	python3 tests/run.py format lint

build:
	cargo build --release --bin lobos

# The client tests against target/release/lobos. PYTEST_ARGS="-k presigned" picks some.
clients: build
	python3 tests/run.py clients

clean:
	cargo clean
