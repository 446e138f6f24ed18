# `make demo` shows what the package does; `make test` runs every test but those in a browser, which `make test-browser`
# runs. All start from a bare clone.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-browser mutants docs dist lint clean

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps k-diffusion
	touch $@

demo: $(STAMP)
	mkdir -p demo
	$(BIN)/python examples/text_to_image.py --out demo/text_to_image.png

# A test uses one core, and there are two at least.
test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The page of `lml app` in Debian's Chromium, which is installed where it is missing. Screenshots: build/browser.
test-browser: $(STAMP)
	tools/install_chromium.sh
	$(BIN)/python -m pytest -m browser tests/app

# How many of 300 small changes of core, schedulers and calibration the tests notice; hours, and it goes on where it was
# stopped. Writes benchmarks/results/mutants.json.
mutants: $(STAMP)
	$(BIN)/python tools/mutants.py

# The documentation: open build/site/index.html. Warnings are errors.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Wheel and sdist in dist/, checked; then installed into a fresh environment that generates images without a network.
dist:
	$(PYTHON) -m venv build/release
	build/release/bin/pip install --quiet --disable-pip-version-check 'build>=1.2' 'twine>=6.1'
	rm -rf dist
	build/release/bin/pyproject-build --outdir dist
	build/release/bin/twine check --strict dist/*
	build/release/bin/python tools/check_release.py dist

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf $(VENV) demo build dist
