# PHANES: `make demo` (try it), `make test` (lint, types, tests), `make test-integrations` (real servers).
# The environment .venv is reused while the requirements are unchanged.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
DEMO ?= demo
# Where the environments of servers and SDKs lie, and how long one integration test may take.
ENVIRONMENTS ?= .
INTEGRATION_SECONDS ?= 1200
INTEGRATIONS := $(patsubst tests/integrations/test_%.py,%,$(sort $(wildcard tests/integrations/test_*.py)))

.PHONY: help demo test test-newest test-gpu licences lint format test-integrations soak soak-fuzz soak-examples soak-kills soak-disks soak-audit \
	docs-numbers hashes label golden clean
.DELETE_ON_ERROR:
.PRECIOUS: $(ENVIRONMENTS)/.venv-%/.ready

help:
	@echo "make demo               analyse a demo head, healthy and with a painted lesion (CPU, two minutes)"
	@echo "make test               lint, type check and test"
	@echo "make test-integrations  tests against real servers and SDKs"
	@echo "make test-newest        core tests on the newest releases of the package index, in .venv-newest"
	@echo "make test-gpu           on a GPU: the CPU's results, and a benchmark (PHANES_DEVICE=cuda)"
	@echo "make licences           licences of all installed packages; known vulnerabilities: make soak-audit"
	@echo "make soak               the long forms: fuzzing, kill -9, full disks, audit (hours); make soak-NAME for one"
	@echo "make docs-numbers       rewrite numbers and tables of README and docs, and the table of messages"
	@echo "make hashes             rewrite requirements-hashed.txt after a change of requirements.txt"
	@echo "make label              MONAI Label with this model on 127.0.0.1:8000 (3D Slicer, OHIF)"
	@echo "make lint | format      ruff and mypy | let ruff rewrite"
	@echo "make golden             recompute tests/pipeline/golden.json after a wanted change of the results"
	@echo "make clean              remove what these made"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt | $(BIN)/python
	@echo "Installing packages; this takes some minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements-onnx.txt requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@ $(VENV)/.run

demo: $(VENV)/.run
	$(BIN)/python -m scripts demo_input --out $(DEMO)
	$(BIN)/python -m monai.bundle run inference --bundle_root bundle \
		--config_file bundle/configs/inference.json \
		--dataset_dir $(DEMO)/input --output_dir $(DEMO)/results
	$(BIN)/python -m scripts demo_summary --out $(DEMO)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# One thread a worker: two workers with two threads each would fight over two cores.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --durations 10 \
		--cov --cov-report term:skip-covered --cov-fail-under 85

# Tomorrow's versions: the wheel's ranges and no pins. What was installed is in .venv-newest/versions.txt.
NEWEST := $(ENVIRONMENTS)/.venv-newest
test-newest:
	test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager . pytest hypothesis
	$(NEWEST)/bin/python -m pip freeze > $(NEWEST)/versions.txt
	OMP_NUM_THREADS=1 $(NEWEST)/bin/python -m pytest -p no:cacheprovider --durations 5 \
		tests/common tests/method tests/space tests/phanes

PHANES_DEVICE ?= cuda
test-gpu: $(VENV)/.dev
	PHANES_DEVICE=$(PHANES_DEVICE) $(BIN)/python -m pytest -ra tests/method/test_devices.py tests/training/test_devices.py
	$(BIN)/python -m scripts benchmark --device $(PHANES_DEVICE) --out benchmark_gpu

# Only what installed packages say of themselves. Fails at a licence of the GPL family without the library exception.
licences: $(VENV)/.dev
	$(BIN)/pip-licenses --order license --partial-match --fail-on "GNU General Public;AGPL;GPL-2.0;GPL-3.0"

# tests/integrations/README.md says how to add one; `make test-integration-NAME` runs one alone.
test-integrations: $(VENV)/.dev
	@$(MAKE) --keep-going --no-print-directory $(INTEGRATIONS:%=test-integration-%)

test-integration-%: $(VENV)/.dev
	@if [ -f requirements-$*.txt ]; then $(MAKE) --no-print-directory $(ENVIRONMENTS)/.venv-$*/.ready; fi
	@if [ -f tests/integrations/setup_$*.sh ]; then bash tests/integrations/setup_$*.sh; fi
	PHANES_ENVIRONMENT=$(ENVIRONMENTS)/.venv-$* timeout --kill-after 30 $(INTEGRATION_SECONDS) \
		$(BIN)/python -m pytest -ra -p no:cacheprovider --durations 5 tests/integrations/test_$*.py

# The long forms of the tests of reliability; `make soak-NAME` runs one. Results: bundle/docs/soak.json, and the page.
SOAK := fuzz examples kills disks audit
SOAK_RUN := OMP_NUM_THREADS=1 nice -n 10
soak:
	@$(MAKE) --keep-going --no-print-directory $(SOAK:%=soak-%)
	@$(MAKE) --no-print-directory docs-numbers

soak-fuzz: $(ENVIRONMENTS)/.venv-soak/.ready
	$(SOAK_RUN) $(ENVIRONMENTS)/.venv-soak/bin/python -m tests.soak.fuzz

soak-examples: $(VENV)/.dev
	PHANES_EXAMPLES=6000 $(SOAK_RUN) $(BIN)/python -m pytest -q -n 0 tests/pipeline/test_fuzz.py

soak-kills: $(VENV)/.dev
	$(SOAK_RUN) $(BIN)/python -m tests.soak.kills

soak-disks: $(VENV)/.dev
	$(SOAK_RUN) $(BIN)/python -m tests.soak.disks

soak-audit: $(ENVIRONMENTS)/.venv-soak/.ready
	$(ENVIRONMENTS)/.venv-soak/bin/python -m tests.soak.audit

hashes: $(VENV)/.dev
	$(BIN)/uv pip compile requirements.txt --generate-hashes --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
		--quiet --custom-compile-command "make hashes" --output-file requirements-hashed.txt

docs-numbers: $(VENV)/.run
	$(BIN)/python -m tests.docs.numbers
	$(BIN)/python -m tests.docs.messages

# The environment of a server or SDK whose versions do not go with ours, from requirements-NAME.txt.
$(ENVIRONMENTS)/.venv-%/.ready: requirements-%.txt scripts/common/torchvision_shim.py
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	$(@D)/bin/python scripts/common/torchvision_shim.py
	@touch $@

# MONAI Label, the packaged bundle as its model "phanes"; what it fine-tunes comes to LABEL/runs.
# STUDIES is a folder, or the URL of a DICOMweb service: its series are kept in LABEL/dicom, its list for 30 seconds.
LABEL ?= label
STUDIES ?= $(LABEL)/studies
LABEL_PORT ?= 8000
LABEL_BIN := $(abspath $(ENVIRONMENTS)/.venv-monai_label/bin)
LABEL_STUDIES := $(or $(filter http://% https://%,$(STUDIES)),$(abspath $(STUDIES)))
label: export MONAI_LABEL_DICOMWEB_CACHE_PATH ?= $(abspath $(LABEL))/dicom
label: export MONAI_LABEL_DICOMWEB_SEARCH_FILTER ?= {"Modality":"MR"}
label: export MONAI_LABEL_DICOMWEB_CACHE_EXPIRY ?= 30
label: $(VENV)/.run $(ENVIRONMENTS)/.venv-monai_label/.ready
	mkdir -p $(LABEL) $(filter-out http://% https://%,$(STUDIES))
	$(BIN)/python -m scripts package --out $(LABEL)/dist
	test -d $(LABEL)/apps/monaibundle || \
		$(LABEL_BIN)/python -m monailabel.main apps --download --name monaibundle --output $(LABEL)/apps
	rm -rf $(LABEL)/apps/monaibundle/model/phanes
	mkdir -p $(LABEL)/apps/monaibundle/model
	cp -r $(LABEL)/dist/phanes_t1w_brain_anomaly $(LABEL)/apps/monaibundle/model/phanes
	cd $(LABEL) && PATH="$(LABEL_BIN):$$PATH" exec $(LABEL_BIN)/python -m monailabel.main start_server \
		--app apps/monaibundle --studies $(LABEL_STUDIES) --host 127.0.0.1 --port $(LABEL_PORT) \
		--conf models phanes --conf zoo_source ngc --conf sam2 false

golden: $(VENV)/.dev
	$(BIN)/python -m tests.pipeline.test_golden

clean:
	rm -rf $(DEMO) .pytest_cache .ruff_cache .mypy_cache .coverage* coverage.xml
