# make demo   set-up, synthetic Tri data, train a small UNIReID, evaluate, table and ranked-list picture
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

.PHONY: demo test test-sketch parity test-mindnlp lint clean

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

test: lint test-sketch
	$(PY) -m pytest -n $(TEST_WORKERS) --no-loadscope-reorder

test-sketch: $(SKETCH_VENV)/ready
	$(SKETCH_VENV)/bin/python -m pytest tests/with_mediapipe

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
