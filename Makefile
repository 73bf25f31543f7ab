# The commands of this repository. `make test` is what .ci/run calls.

.PHONY: test check build clients security crash mutants clean

# Everything: format, lints, Rust tests, security tests, crash tests, release build, client tests.
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

# Hostile requests, against the debug build. PYTEST_ARGS picks some.
security:
	python3 tests/run.py security

# kill -9, loss of power, full disks. LOBOS_CRASH_FACTOR=20 makes it long; PYTEST_ARGS picks some.
crash:
	python3 tests/run.py crash

# Bugs planted in the blob engine, each of which its test must catch; not part of `make test`.
mutants:
	python3 tests/run.py mutants

clean:
	cargo clean
