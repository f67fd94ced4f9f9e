# Two commands: `make demo` and `make test`. Each makes .venv itself when it is not there.
# A third, for hours: `make model` makes a shipped model again.
PYTHON ?= python3
BIN := .venv/bin
CORPUS ?=
JOBS ?= 2
OUT := demo-output
NAME ?= default
RUN := runs/$(NAME)

.PHONY: demo test fuzz lint rooms docs model ship clean

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

# make test CORPUS=DIR runs the tests on real audio too. Two processes of 2 GB each share the files
# of tests, whose fixtures are dear, in their order, which ends with small ones; JOBS=0 takes one,
# and shows each file.
test: .venv/.ready lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests $(if $(CORPUS),--corpus "$(CORPUS)") -n $(JOBS) --dist loadfile --no-loadscope-reorder

# Search for inputs on which a reader fails, some seconds for each; needs what `[fuzz]` brings, and
# clang for the C reader of weights. What is found is kept in tests/fuzz/crashes and belongs into the next commit, with its cure.
SECONDS ?= 60
fuzz: .venv/.ready
	$(BIN)/python -m pip install --quiet --editable '.[dev,fuzz]'
	for target in audio manifest config model; do \
		$(BIN)/python tests/fuzz/run.py $$target $(SECONDS) || exit 1; \
	done
	$(BIN)/python tests/fuzz/fuzz_weights.py $(SECONDS)

lint: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# How many files, lines, rooms, arrows and circles the packages have.
rooms: .venv/.ready
	$(BIN)/python tests/rooms.py

# The site, into docs/_build; a warning is an error.
docs: .venv/.ready
	$(BIN)/python -m sphinx -W --keep-going -q docs docs/_build
	@echo "The site is docs/_build/index.html"

# make model NAME=default CORPUS=DIR: a shipped model from configs/NAME.yaml and a corpus folder that
# holds train/, dev/ and analysis/. Stopped at any time, it goes on where it was.
model: $(RUN)/.trained
	$(BIN)/enhance export $(RUN) --onnx --int8 --set "$(CORPUS)/dev" --licence MIT --force
	$(BIN)/enhance evaluate noisy $(RUN)/$(NAME).onnx $(RUN)/$(NAME).int8.onnx --set "$(CORPUS)/dev" --snr -5 -o $(RUN)/report
	$(BIN)/enhance guard $(RUN)/$(NAME).int8.onnx --set "$(CORPUS)/dev" --speech "$(CORPUS)/analysis" -o $(RUN)/report
	$(BIN)/enhance bench $(RUN)/$(NAME).onnx $(RUN)/$(NAME).int8.onnx -o $(RUN)/report
	$(BIN)/enhance export $(RUN) --c $(RUN)/c --int8 --set "$(CORPUS)/dev" --licence MIT --force
	$(BIN)/enhance card $(RUN)/$(NAME).int8.onnx --run $(RUN) --results $(RUN)/report -c configs/$(NAME).yaml $(if $(wildcard configs/$(NAME).md),--notes configs/$(NAME).md) --force

runs/%/.trained: | .venv/.ready
	$(BIN)/enhance train --config configs/$*.yaml --set data.corpus="$(CORPUS)/train" --run runs/$* \
		$(if $(wildcard runs/$*/config.yaml),--resume)
	touch $@

# The files of a finished `make model` go to the package, its checkpoint beside it.
ship:
	cp $(RUN)/$(NAME).int8.onnx $(RUN)/$(NAME).int8.certificate.json enhance/models/
	cp $(RUN)/heard.jsonl enhance/models/$(NAME).heard.jsonl
	cp $(RUN)/c/enhance.int8.bin enhance/models/$(NAME).int8.bin
	sed 's/"enhance.int8.bin"/"$(NAME).int8.bin"/' $(RUN)/c/enhance.int8.certificate.json > enhance/models/$(NAME).int8.bin.certificate.json
	$(BIN)/enhance card enhance/models/$(NAME).int8.onnx --run $(RUN) --results $(RUN)/report -c configs/$(NAME).yaml $(if $(wildcard configs/$(NAME).md),--notes configs/$(NAME).md) --force
	rm -rf checkpoints/$(NAME)
	$(BIN)/enhance snapshot $(RUN) -o checkpoints/$(NAME) --limit-mb 16
	cp $(addprefix $(RUN)/,model.safetensors config.json history.jsonl) checkpoints/$(NAME)/

clean:
	rm -rf .venv $(OUT) build docs/_build *.egg-info
