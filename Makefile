# make demo   set-up, synthetic Tri data, train a small UNIReID, evaluate, table and ranked-list picture
# make app    after make demo: an index of its test photos, and the page to search them on http://127.0.0.1:8080
# make test   set-up, lint, the whole test suite
# make test-sketch   a part of it: set-up of an environment of its own, the tests that need MediaPipe
# make parity set-up, the long parity tests on the full-size ViT-B/16
# make test-mindnlp  set-up of an environment of its own (4 GB), the tests of the bridge to MindNLP
PYTHON ?= python3
VENV ?= .venv
MINDNLP_VENV ?= .venv-mindnlp
SKETCH_VENV ?= .venv-sketch
RUN ?= runs/demo
TEST_WORKERS ?= 2
PY := $(VENV)/bin/python

.PHONY: demo app test test-sketch browser parity test-mindnlp lint clean

demo: $(VENV)/core
	$(PY) tools/make_synthetic.py --output data/synthetic --workers 2
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
	@test -f $(RUN)/best_average.ckpt || { echo "$(RUN)/best_average.ckpt is missing; run make demo first" >&2; exit 2; }
	rm -rf $(RUN)/index
	$(PY) tools/search.py index --dataset cuhk_pedes --root data/synthetic --split test \
		--checkpoint $(RUN)/best_average.ckpt --output $(RUN)/index
	$(PY) tools/app.py --index $(RUN)/index

test: lint browser test-sketch
	$(PY) -m pytest -n $(TEST_WORKERS) --no-loadscope-reorder

test-sketch: $(SKETCH_VENV)/ready
	$(SKETCH_VENV)/bin/python -m pytest tests/with_mediapipe

# For the tests of the search page: a browser that is there, else the distribution's, else Playwright's own.
browser: $(VENV)/tests
	@for name in chromium chromium-browser google-chrome google-chrome-stable; do \
		command -v $$name > /dev/null && exit 0; \
	done; \
	if [ "$$(id -u)" = 0 ]; then \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium \
			&& exit 0; \
		deps=--with-deps; \
	fi; \
	$(PY) -m playwright install $$deps chromium \
		|| { echo "no browser for the tests of the search page; install chromium or Google Chrome" >&2; exit 1; }

parity: $(VENV)/tests
	$(PY) -m pytest -m exhaustive

test-mindnlp: $(MINDNLP_VENV)/ready
	$(MINDNLP_VENV)/bin/python -m pytest tests/with_mindnlp

lint: $(VENV)/tests
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

$(VENV)/core: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/app: requirements-app.txt $(VENV)/core
	$(PY) -m pip install --quiet -r requirements.txt -r requirements-app.txt
	touch $@

$(VENV)/tests: requirements-test.txt $(VENV)/core
	$(PY) -m pip install --quiet -r requirements.txt -r requirements-test.txt
	touch $@

$(MINDNLP_VENV)/ready: requirements-mindnlp.txt requirements.txt
	$(PYTHON) -m venv $(MINDNLP_VENV)
	$(MINDNLP_VENV)/bin/python -m pip install --quiet -r requirements.txt -r requirements-mindnlp.txt
	touch $@

$(SKETCH_VENV)/ready: requirements-sketch.txt
	$(PYTHON) -m venv $(SKETCH_VENV)
	$(SKETCH_VENV)/bin/python -m pip install --quiet -r requirements-sketch.txt "pytest>=8"
	touch $@

clean:
	rm -rf $(VENV) $(MINDNLP_VENV) $(SKETCH_VENV) $(RUN) data/synthetic
