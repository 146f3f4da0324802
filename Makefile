# make quickstart  set up, build, compile + fine-tune + evaluate the example ResNet-20 (about 15 minutes)
# make install     build and install, to /usr/local or PREFIX=…; the plugin, too, where it has been built
# make install-library  the C library, its header, pkg-config and CMake files; with RUNTIME=1 the one that only runs packages; with STATIC=1
#                  also the one to link statically
# make wheel       the Python package, in target/wheels
# make deb         a Debian package, target/mxc_VERSION-1_ARCH.deb
# make sbom        what the program contains: target/mxc.cdx.json, target/THIRD-PARTY-LICENSES, target/copyright
# make plugin      the passes as a plugin of the stock mlir-opt: target/shared/release/libmxc_passes.so
# make mpi         the program with fine-tuning over MPI, target/mpi/mxc; sets up Open MPI
# make test        set up and run every test
# make bench       speed against PyTorch eager, in one run (needs examples/setup.sh's virtual environment)
# make tables      the accuracy tables of docs/results.md (hours, resumed where they stopped); MINUTES=60 stops the longer one
# make harness     1,000 random networks through every command, against onnxruntime (minutes)
# make zoo         full-size networks of torchvision and timm through the whole pipeline (hours, gigabytes)
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
FASHION ?= /usr/share/datasets/fashion-mnist
# make … SHARED=1: the program with LLVM's shared libraries, 18 MB instead of 45
MXC := target/$(if $(SHARED),shared/)release/mxc
# What is built in target/shared is optimized as a whole, without which the plugin would be a fifth larger.
WHOLE := CARGO_PROFILE_RELEASE_LTO=fat CARGO_PROFILE_RELEASE_CODEGEN_UNITS=1
PLUGIN := target/shared/release/libmxc_passes.so

.PHONY: setup build mpi plugin install deb sbom quickstart test lint bench tables harness zoo
setup:
	@scripts/setup.sh

build: setup
ifdef SHARED
	$(WHOLE) scripts/shared.sh -p mxc-cli --bin mxc --
else
	cargo build --release --locked -p mxc-cli
endif

# Built beside the other, of which it shares nearly all; target/release/mxc is again without MPI after the next make build.
mpi:
	@scripts/setup.sh --mpi
	cargo build --release --locked -p mxc-cli --features mpi
	install -D target/release/mxc target/mpi/mxc

plugin: setup
	$(WHOLE) scripts/shared.sh -p mxc-plugin --crate-type cdylib -- -C strip=symbols -C link-arg=-Wl,--icf=all,-z,pack-relative-relocs

quickstart: build
	MXC=$(MXC) DATA=$(FASHION) scripts/quickstart.sh

# PREFIX=$HOME/.local, or DESTDIR for packages.
PREFIX ?= /usr/local
install: build $(if $(wildcard $(PLUGIN)),plugin)
	scripts/install.sh $(MXC) "$(DESTDIR)$(PREFIX)" $(wildcard $(PLUGIN))

# libmxc, or with RUNTIME=1 libmxc_runtime, which needs no MLIR. That is built where nothing else links MLIR in: the two would be one file in a folder.
# PROFILE=dev is for the tests, which have built most of it so.
PROFILE ?= release
LIBRARY := target/$(if $(RUNTIME),shared/)$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))/libmxc_c
LIBRARY_FLAGS = --profile $(PROFILE) --locked -p mxc-capi $(if $(RUNTIME),--no-default-features --target-dir target/shared)
.PHONY: library archive install-library wheel
library archive: setup
	$(if $(RUNTIME),$(WHOLE)) cargo rustc $(LIBRARY_FLAGS) --crate-type $(if $(filter archive,$@),staticlib,cdylib)

install-library: library $(if $(STATIC),archive)
	scripts/install-library.sh $(LIBRARY).so "$(DESTDIR)$(PREFIX)" $(if $(STATIC),$(LIBRARY).a)

# The Python wheel, in target/wheels
wheel: setup tests/.venv/installed
	scripts/wheel.sh tests/.venv/bin/python target/$(if $(filter dev,$(PROFILE)),debug/)wheels $(PROFILE)

deb: build
	scripts/deb.sh $(MXC) target

# Of what is installed, oneDNN included where that is not the system's.
sbom: build
	rm -rf target/sbom
	scripts/install.sh $(MXC) target/sbom
	cp target/sbom/share/doc/mxc/{mxc.cdx.json,THIRD-PARTY-LICENSES,copyright} target
	rm -r target/sbom

lint: setup
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

# onnxruntime, the reference of the numerical tests, and the schema of the bill of materials
tests/.venv/installed: tests/requirements.txt | setup
	rm -rf tests/.venv
	python3 -m venv tests/.venv
	tests/.venv/bin/pip install -q --disable-pip-version-check -r $< || { echo "make: pip could not install $<" >&2; exit 1; }
	touch $@

test: lint plugin tests/.venv/installed
	$(MAKE) library RUNTIME=1
	$(MAKE) wheel archive PROFILE=dev
	# glibc fills freed memory, so that a use of it shows
	MALLOC_PERTURB_=165 MXC_REQUIRE_ONNXRUNTIME=1 MXC_REQUIRE_BUILT=1 cargo test --locked --workspace
	scripts/setup.sh --mpi
	cargo clippy --locked --workspace --all-targets --features mxc-tests/mpi -- -D warnings
	MALLOC_PERTURB_=165 cargo test --locked --workspace --features mxc-tests/mpi --test mpi

bench: build
	cargo build --release --locked -p mxc-cli --example throughput
	test -x examples/.venv/bin/python || examples/setup.sh
	examples/.venv/bin/python -m pip install -q --disable-pip-version-check -r benches/requirements.txt
	benches/compare.py

tables: build
	test -x examples/.venv/bin/python || examples/setup.sh
	scripts/tables.py
	MXC=$(MXC) examples/.venv/bin/python scripts/recovery --data $(FASHION) $(if $(MINUTES),--minutes $(MINUTES))

harness: build tests/.venv/installed
	MXC=$(MXC) tests/.venv/bin/python scripts/harness.py --networks 1000

zoo: build
	test -x examples/.venv/bin/python || examples/setup.sh
	examples/.venv/bin/python -m pip install -q --disable-pip-version-check -r scripts/zoo/requirements.txt
	examples/.venv/bin/python scripts/zoo/export.py target/zoo
	examples/.venv/bin/python scripts/zoo/check.py target/zoo
