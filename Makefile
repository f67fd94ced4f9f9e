# Two commands: `make demo` and `make test`. Each makes .venv itself when it is not there.
PYTHON ?= python3
BIN := .venv/bin
CORPUS ?=
OUT := demo-output

.PHONY: demo test lint clean

.venv/.ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

# A trained, exported, measured enhancer and a cleaned file, on the built-in synthetic corpus.
demo: .venv/.ready
	rm -rf $(OUT)
	$(BIN)/enhance train --mode distill --config configs/demo.yaml --run $(OUT)/run
	$(BIN)/enhance export $(OUT)/run --onnx --int8 -o $(OUT)/demo.onnx
	$(BIN)/enhance evaluate noisy $(OUT)/run $(OUT)/demo.onnx $(OUT)/demo.int8.onnx --snr -5 --limit 40 -o $(OUT)/report
	$(BIN)/enhance bench $(OUT)/demo.onnx $(OUT)/demo.int8.onnx --seconds 3 -o $(OUT)/report
	$(BIN)/enhance data example $(OUT)/noisy.wav
	$(BIN)/enhance run $(OUT)/noisy.wav $(OUT)/cleaned.wav --model $(OUT)/demo.int8.onnx
	@echo "The report is $(OUT)/report/report.md; listen to $(OUT)/noisy.wav and $(OUT)/cleaned.wav"

# make test CORPUS=DIR runs the tests on real audio too.
test: .venv/.ready lint
	$(BIN)/python -m pytest tests $(if $(CORPUS),--corpus "$(CORPUS)")

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv $(OUT) build *.egg-info
