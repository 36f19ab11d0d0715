# The whole developer's manual. Each target does its own set-up, once.
PY := .venv/bin/python
PIP_AUDIT := 2.10.1
COSMIC_RAY := 8.7.0
# What the settings need at least. Nobody listens there, so that nothing waits for a database.
SETTINGS := env API_KEY=- SECRET_KEY=- S3_BUCKET=- DATABASE_URL=postgresql://127.0.0.1:1/-

.PHONY: help demo serve test test-faults fuzz test-clients test-browser test-comfyui bench bench-eta bench-fleet bench-wait bench-webhooks \
	mutants format lint lock audit
.DEFAULT_GOAL := help

help:  ## what can be made
	@awk -F ':.*  ## ' '/^[a-z-]+:.*  ## / {printf "%-14s %s\n", $$1, $$2}' Makefile

demo: .venv/ready  ## one text-to-video and one image-to-video job through everything; leaves two MP4s in demo/
	@exec $(PY) -m local.demo

serve: .venv/ready  ## the service on http://127.0.0.1:8000 until Ctrl-C; data in .local/serve
	@exec $(PY) -m local.serve

test: .venv/tests  ## all tests, on a Postgres, an S3 and a simulator of their own
	@exec $(PY) -m pytest $(ARGS)

test-faults: .venv/tests  ## every fault at full count, and the table of docs/reliability.md; takes about an hour
	@FULL=1 exec $(PY) -m pytest tests/faults tests/queue/test_state_machine.py tests/docker/test_upgrade.py $(ARGS)

fuzz: .venv/tests  ## hostile bodies, images, servers and the API against its schema, at full count; ten minutes
	@FULL=1 exec $(PY) -m pytest tests/hostile $(ARGS)

test-clients: .venv/tests .venv-clients/ready  ## LiteLLM, and the forms of vLLM-Omni and SGLang, against the service
	@CLIENTS=1 exec $(PY) -m pytest tests/clients/test_others.py $(ARGS)

test-browser: .venv/tests  ## the admin in Debian's Chromium (apt install chromium); screenshots in .local/screenshots
	@BROWSER=1 exec $(PY) -m pytest tests/browser $(ARGS)

test-comfyui: .venv/tests  ## the driver, every parameter and the presets on a real ComfyUI: COMFYUI_URL=http://... make test-comfyui
	@test -n "$(COMFYUI_URL)" || { echo "Name the server: COMFYUI_URL=http://127.0.0.1:8188 make test-comfyui"; exit 1; }
	@DRIVE="$(COMFYUI_URL)" exec $(PY) -m pytest tests/comfy/test_driver.py tests/comfy/test_nodes.py \
		tests/workers/test_parameters.py tests/workers/test_presets.py tests/operators/test_check_presets.py $(ARGS)

bench: .venv/ready  ## how long ComfyUI stands idle between two queued jobs
	@exec $(PY) -m local.bench.idle

bench-eta: .venv/ready  ## how well eta_seconds foretells, and what it costs; three minutes
	@exec $(PY) -m local.bench.estimate

bench-fleet: .venv/ready  ## what 100 GPUs ask of Postgres, and how quickly jobs can be claimed
	@exec $(PY) -m local.bench.fleet

bench-wait: .venv/ready  ## 200 clients that wait for jobs: how soon they are told, and whether others notice; a minute
	@exec $(PY) -m local.bench.waiting

bench-webhooks: .venv/ready  ## how quickly webhooks arrive while 5 of 50 receivers hang; a minute
	@exec $(PY) -m local.bench.webhooks

mutants: .venv/tests  ## small faults in the queue and the renderer, and which of them no test notices; MUTANTS=50 in each
	@COSMIC_RAY=".venv/bin/uv tool run cosmic-ray==$(COSMIC_RAY)" exec $(PY) -m tests.mutants $(ARGS)

format: .venv/tests  ## puts the code into the form that lint asks for
	@$(PY) -m ruff check --fix-only --quiet .
	@$(PY) -m ruff format .

lint: .venv/tests  ## format, style, types, missing migrations, and the arrows between the rooms; needs no database
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(SETTINGS) $(PY) -m mypy  # its Django plugin loads the settings
	@$(SETTINGS) $(PY) -W "ignore:Got an error checking a consistent" manage.py makemigrations --check --dry-run
	@$(PY) -c "from importlinter.cli import lint_imports_command as lint; lint()" --no-cache --no-logo

lock: .venv/ready  ## pins everything with its hashes, after a change of a requirements*.in
	@for name in requirements requirements-simulator requirements-local requirements-dev local/requirements-s3 tests/clients/others/requirements; do \
		.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
			--custom-compile-command "make lock" $$name.in -o $$name.txt || exit 1; \
	done

audit: .venv/ready  ## known weaknesses of what is installed; not part of CI, since it turns red by itself
	@.venv/bin/uv tool run pip-audit==$(PIP_AUDIT) --disable-pip --require-hashes -r requirements.txt

.venv/ready: requirements-local.txt local/requirements-s3.txt local/setup.sh
	@sh local/setup.sh

.venv/tests: .venv/ready requirements-dev.txt tests/clients/node/package-lock.json
	@sh local/setup.sh tests

.venv-clients/ready: .venv/tests tests/clients/others/requirements.txt
	@.venv/bin/uv venv --quiet --clear --python .venv/bin/python .venv-clients
	@.venv/bin/uv pip install --quiet --python .venv-clients/bin/python --require-hashes -r tests/clients/others/requirements.txt
	@touch $@
