# `make help` lists the targets. PYTHON names the interpreter, VENV the folder of the environment, and where no
# ROS 2 is sourced ROS whose wheels it gets, jazzy or kilted.
PYTHON ?= python3
ROS ?= jazzy
VENV ?= .venv$(if $(filter-out jazzy,$(ROS)),-$(ROS))
PROCESSES ?= 2
RUN = $(VENV)/bin/python
SOURCES = pvt_mtl_perception test benchmarks scripts interfaces launch setup.py

# Camera images do not fit Fast DDS's builtin shared memory. Jazzy's version 2 reads the first name, version 3 the
# second, and warns where it finds the first.
ifeq ($(or $(ROS_DISTRO),$(ROS)),jazzy)
export FASTRTPS_DEFAULT_PROFILES_FILE ?= $(CURDIR)/config/fastdds_large_images.xml
else
export FASTDDS_DEFAULT_PROFILES_FILE ?= $(CURDIR)/config/fastdds_large_images.xml
endif
# Nothing here talks to other machines.
export ROS_AUTOMATIC_DISCOVERY_RANGE ?= LOCALHOST

.DEFAULT_GOAL := help
.PHONY: help env demo test lint format clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

env:  ## make or update the environment; nothing to do when it is up to date
	@$(PYTHON) scripts/setup_environment.py --venv "$(VENV)" --ros "$(ROS)"

demo: env  ## a drive through the running node; BAG=file TOPIC=/name for a bag of your own
	@$(RUN) -m pvt_mtl_perception.cli demo $(if $(BAG),--bag "$(BAG)") $(if $(TOPIC),--topic "$(TOPIC)") $(ARGS)

test: env  ## the tests; TESTS=test/ros for some of them, PROCESSES=0 for one process
	@$(RUN) -m pytest --numprocesses=$(PROCESSES) --dist=loadfile $(TESTS) $(ARGS)

lint: env  ## ruff, mypy and the import arrows
	$(RUN) -m ruff check $(wildcard $(SOURCES))
	$(RUN) -m ruff format --check $(wildcard $(SOURCES))
	$(RUN) -m mypy
	$(VENV)/bin/lint-imports

format: env  ## let ruff lay out the source
	$(RUN) -m ruff check --fix $(wildcard $(SOURCES))
	$(RUN) -m ruff format $(wildcard $(SOURCES))

clean:  ## remove what was built and the demo's output; the environment stays
	rm -rf build install log out .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	rm -rf *.egg-info interfaces/vision_msgs/build interfaces/vision_msgs/*.egg-info
	find pvt_mtl_perception test benchmarks scripts interfaces launch -name __pycache__ -type d -prune -exec rm -rf {} +
