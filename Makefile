# make demo: paint a first picture.   make test: run the tests.
# Both set up .venv by themselves, with MLX for this machine: Metal on macOS, CUDA where
# nvidia-smi answers, else the CPU. Another choice: make demo EXTRA=cpu
# Tests run in two processes of one BLAS thread each; their networks are too small for two.

PYTHON ?= python3
BIN := .venv/bin
PROMPT := a red house and a green tree under a night sky

ifeq ($(shell uname -s),Darwin)
EXTRA ?=
else
EXTRA ?= $(shell nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)
endif
comma := ,
DEV := dev$(if $(EXTRA),$(comma)$(EXTRA))

.PHONY: demo test

demo: .venv/installed-$(EXTRA)
	$(BIN)/mlx-sd generate -p "$(PROMPT)" -o out/demo.png

test: .venv/installed-$(DEV)
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

.venv/installed-%: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch '$@'

.venv/installed-: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch '$@'
