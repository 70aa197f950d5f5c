# make demo          set-up, synthetic Tri data, train a small UNIReID, evaluate, table and ranked-list picture
# make app           set-up, an index of 400 drawn photos by the trained model of the repository, and the page to search
#                    them on http://127.0.0.1:8080; MODEL=runs/demo/best_average.ckpt takes another model
# make demo-model    makes that model again: set-up, more synthetic people, 83 minutes of training; see docs/results.md
# make check         set-up, lint, the fast tests: two minutes
# make test          set-up, lint, the test suite: 15 minutes
# make test-sketch   part of it: the tests that need MediaPipe, in an environment of their own
# make dry-run       set-up, steps and encoders compiled for Ascend without one, and a table of what they use: minutes
# make fuzz          set-up, thousands of damaged files and settings: up to FUZZ_MINUTES (20)
# make benchmark     set-up, every kind of work at three sizes, and what became slower since the last time: 15 minutes
# make docs          set-up, the documentation as a site with search, site/index.html, in English and Chinese
# make parity        set-up, the long parity tests on the full-size ViT-B/16, and repetitions in other forms
# make test-mindnlp  the tests of the bridge to MindNLP, in an environment of their own (4 GB)
PYTHON ?= python3
VENV ?= .venv
MINDNLP_VENV ?= .venv-mindnlp
SKETCH_VENV ?= .venv-sketch
RUN ?= runs/demo
PEOPLE := data/demo
MODEL ?= models/synthetic.safetensors
# One more than the cores of a small machine: a tenth of the time is spent waiting for other processes.
TEST_WORKERS ?= 3
FUZZ_MINUTES ?= 20
FUZZ_SEED ?= 0
PY := $(VENV)/bin/python
# Modules are compiled when they are first imported, and kept: most never are, and a process that compiles MindSpore's
# anew starts three times as slowly.
PIP := -m pip install --quiet --no-compile
export PYTHONDONTWRITEBYTECODE :=
# Of glibc: more small blocks that wait for their next use; a compilation in MindSpore makes millions.
TUNED := GLIBC_TUNABLES=glibc.malloc.tcache_count=60000:glibc.malloc.tcache_max=4096:glibc.malloc.mxfast=0
PYTEST := -m pytest -n $(TEST_WORKERS) --no-loadscope-reorder

.PHONY: demo demo-model app check test test-sketch dry-run fuzz benchmark browser distribution-browser docs parity test-mindnlp lint clean

demo: $(VENV)/core
	$(PY) tools/make_synthetic.py --output $(PEOPLE) --train-identities 3000 --train-photos 2 --workers 2
	if [ -f $(RUN)/config.yaml ]; then $(PY) tools/train.py train.resume=$(RUN); \
	else $(PY) tools/train.py --config configs/synthetic/demo.yaml train.output=$(RUN); fi
	$(PY) tools/evaluate.py --checkpoint $(RUN)/best_average.ckpt --split test \
		--json $(RUN)/test.json --markdown $(RUN)/test.md --figure $(RUN)/ranked.png
	$(PY) tools/make_synthetic.py --output $(RUN)/drawn --sketch-style pencil --train-identities 2 --val-identities 1 \
		--test-identities 1
	$(PY) tools/build_sketches.py --photos $(RUN)/drawn/CUHK-PEDES/imgs --background none --style lines \
		--output $(RUN)/sketches --redo
	@echo "table: $(RUN)/test.md   picture: $(RUN)/ranked.png"

app: $(VENV)/app
	$(PY) tools/make_synthetic.py --output data/app --train-identities 0 --val-identities 0 --workers 2
	rm -rf runs/app
	$(PY) tools/search.py index --dataset cuhk_pedes --root data/app --split test --checkpoint $(MODEL) --output runs/app
	$(PY) tools/app.py --index runs/app

# The scores in the file are those of its weights in half precision.
demo-model: $(VENV)/core
	$(PY) tools/make_synthetic.py --output data/demo_model --train-identities 10000 --train-photos 2 --workers 2
	$(PY) tools/train.py --config configs/synthetic/demo_model.yaml train.resume=auto
	$(PY) tools/convert_checkpoint.py runs/demo_model/best_average.ckpt runs/demo_model/half.safetensors --dtype float16
	$(PY) tools/evaluate.py --checkpoint runs/demo_model/half.safetensors --split test --json runs/demo_model/test.json \
		--markdown runs/demo_model/test.md
	$(PY) tools/convert_checkpoint.py runs/demo_model/half.safetensors models/synthetic.safetensors --dtype float16 \
		--about runs/demo_model/environment.json --about runs/demo_model/test.json

check: lint
	$(TUNED) $(PY) $(PYTEST) -m 'not slow and not full_size and not exhaustive'

# Environments and browser come side by side.
test:
	$(MAKE) -j3 browser $(VENV)/test $(SKETCH_VENV)/ready
	$(MAKE) lint test-sketch
	$(TUNED) $(PY) $(PYTEST)

test-sketch: $(SKETCH_VENV)/ready
	$(SKETCH_VENV)/bin/python -m pytest tests/with_mediapipe

# For the tests of the search page: an installed browser, or the distribution's, or Playwright's own.
A_BROWSER := [ -n "$$(which chromium chromium-browser google-chrome google-chrome-stable 2> /dev/null)" ]
browser: distribution-browser $(VENV)/test
	@$(A_BROWSER) || $(PY) -m playwright install $$([ "$$(id -u)" != 0 ] || echo --with-deps) chromium \
		|| { echo "no browser for the tests of the search page; install chromium or Google Chrome" >&2; exit 1; }

distribution-browser:
	@$(A_BROWSER) || [ "$$(id -u)" != 0 ] || { apt-get update -qq \
		&& DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium; } || true

dry-run: $(VENV)/core
	mkdir -p runs
	$(PY) tools/doctor.py --dry-run --json runs/dry_run.json --markdown runs/dry_run.md

fuzz: $(VENV)/test
	FUZZ_MINUTES=$(FUZZ_MINUTES) $(PY) $(PYTEST) tests/fuzz --hypothesis-seed=$(FUZZ_SEED)

# A changed configuration or machine is not compared.
benchmark: $(VENV)/core
	$(PY) tools/benchmark.py standing --last runs/benchmark.json --json runs/benchmark.json

docs: $(VENV)/docs
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build
	@echo "read it: $(PY) -m http.server --directory site --bind 127.0.0.1 8000"

parity: $(VENV)/test
	$(PY) -m pytest -m exhaustive

test-mindnlp: $(MINDNLP_VENV)/ready
	$(MINDNLP_VENV)/bin/python -m pytest tests/with_mindnlp

lint: $(VENV)/test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

$(VENV)/core: requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) $(PIP) -c constraints.txt -r requirements.txt
	touch $@

# The core and the extra of the same name.
$(VENV)/app $(VENV)/docs $(VENV)/test: pyproject.toml requirements.txt constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) $(PIP) -c constraints.txt -e '.[$(@F)]'
	touch $(VENV)/core $@

$(MINDNLP_VENV)/ready: pyproject.toml requirements.txt
	$(PYTHON) -m venv $(MINDNLP_VENV)
	$(MINDNLP_VENV)/bin/python $(PIP) -e '.[mindnlp]'
	touch $@

$(SKETCH_VENV)/ready: requirements-sketch.txt
	$(PYTHON) -m venv $(SKETCH_VENV)
	$(SKETCH_VENV)/bin/python $(PIP) -r requirements-sketch.txt "pytest>=8"
	touch $@

clean:
	rm -rf $(VENV) $(MINDNLP_VENV) $(SKETCH_VENV) $(RUN) $(PEOPLE) data/synthetic data/app runs/app site
