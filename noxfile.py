"""The jobs of this repository: what a developer runs, and what CI runs.

``python -m nox`` runs the default list, which is all of CI: less than 20 minutes on two cores. ``python -m nox -l``
lists the sessions, ``python -m nox -s NAME`` runs one. The minutes in the docstrings were taken on two cores,
environment included.
"""

from __future__ import annotations

import os
import shutil
import tomllib
from pathlib import Path

import nox

nox.needs_version = ">=2026.10"
nox.options.sessions = ["lint", "docs", "package", "integration", "plugins", "parity"]
nox.options.error_on_external_run = True

ROOT = Path(__file__).parent
# So that what is imported once is compiled once, whatever the caller's environment says.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
PACKAGES = ("vq", "text", "backends", "core", "emoji")
# Every version that CI runs is pinned there, torch's CPU-sized 2.13.0 among them. What is never imported needs no
# bytecode: compiling all of torch takes twice as long as installing it.
PINNED = ("--no-compile", "-c", str(ROOT / "constraints.txt"))
# What a package's own tests need besides the package: its published strategies, its command line, its training.
EXTRAS = {
    "vq": "testing,cli,train",
    "text": "testing",
    "backends": "testing",
    "core": "testing,cli,train",
    "emoji": "testing",
}
# The packages that it adapts, for the tests of the adapters.
ADAPTED = {"vq": ",vector-quantize-pytorch", "backends": ",bitsandbytes,torchao"}


def install_workspace(session: nox.Session, *others: str) -> None:
    """Install all packages from this folder, and ``others``."""
    paths = [f"./packages/chameleon-{package}" for package in PACKAGES]
    paths = [f"{path}[{EXTRAS[package]}]" for path, package in zip(paths, PACKAGES, strict=True)]
    session.install(*PINNED, *paths, *others)


def run_tests(session: nox.Session, *arguments: str, workers: int = 2) -> None:
    """Run pytest in ``workers`` processes, each file in one of them; 0 is this process.

    Each process has one thread: on small tensors, threads wait for each other longer than they work. The processor's
    instructions are printed before, the ten slowest tests after.
    """
    session.install(*PINNED, "pytest-xdist")
    session.run("python", str(ROOT / "tests" / "machine.py"))
    spread = ("-n", str(workers), "--dist", "loadfile", "--durations", "10")
    session.run("python", "-m", "pytest", "-q", *spread, *arguments, env={"OMP_NUM_THREADS": "1"})


def check_types(session: nox.Session, *names: str) -> None:
    """Check the types of installed packages with mypy."""
    session.install(*PINNED, "mypy")
    for name in names:
        session.run("python", "-m", "mypy", "-p", name)


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting and lint of everything, with ruff. (Under a minute.)"""
    session.install(*PINNED, "ruff")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session
def docs(session: nox.Session) -> None:
    """The site, built from docs/ and the docstrings into docs/_build/; a warning is an error. (2 minutes.)"""
    install_workspace(session, "sphinx", "furo", "myst-parser")
    shutil.rmtree("docs/_build", ignore_errors=True)
    session.run("python", "-m", "sphinx", "-W", "--keep-going", "-b", "html", "docs", "docs/_build")
    run_tests(session, "docs/tests", workers=0)


@nox.session
@nox.parametrize("package", PACKAGES)
def package(session: nox.Session, package: str) -> None:
    """One package alone: sdist and wheel built, installed with only what it declares, its own tests run there.

    The unit tests, the laws and the conformance suites of the package. (Up to 3 minutes each.)
    """
    session.install(*PINNED, "build")
    output = Path(session.create_tmp()) / "dist"
    shutil.rmtree(output, ignore_errors=True)
    # The wheel is built from the sdist, so that both are known to be complete.
    session.run("python", "-m", "build", "--outdir", str(output), f"packages/chameleon-{package}", silent=True)
    if package == "core":
        # The one dependency between the packages that isn't optional.
        session.run("python", "-m", "build", "--outdir", str(output), "packages/chameleon-backends", silent=True)
    (wheel,) = output.glob(f"chameleon_{package}-*.whl")
    # --find-links: where pip finds the sibling, which is on no index.
    session.install(*PINNED, "--find-links", str(output), str(wheel))
    session.run("python", "-W", "error", "-c", f"from chameleon_{package} import *")
    session.install(*PINNED, "--find-links", str(output), f"{wheel}[{EXTRAS[package]}{ADAPTED.get(package, '')}]")
    session.run("python", "-m", "pip", "check")
    session.chdir(f"packages/chameleon-{package}")
    run_tests(session)


@nox.session
def integration(session: nox.Session) -> None:
    """The packages together: types, import boundaries, the whole path, the recipe, the examples, the docs' blocks.

    (5 minutes.)
    """
    install_workspace(session, "-r", "recipes/emoji/requirements.txt")
    check_types(session, *(f"chameleon_{package}" for package in PACKAGES))
    # For tests/typing. The extra brings Node.js as a wheel; without it pyright would download one.
    session.install(*PINNED, "pyright[nodejs]")
    # Some of them measure time, so nothing else runs beside them.
    run_tests(session, "tests/boundaries", workers=0)
    others = ("parity", "boundaries", "plugins", "gpu")
    run_tests(session, "tests", "recipes", *(f"--ignore=tests/{name}" for name in others))


@nox.session
def plugins(session: nox.Session) -> None:
    """A third-party package: the example's wheel is installed, found, and checked by the conformance suites.

    Also broken plugins, which stop nothing, and the guide to writing one, followed from an empty folder. (3 minutes.)
    """
    session.install(*PINNED, "hatchling", "editables")
    wheels = Path(session.create_tmp()) / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    folders = [*(f"./packages/chameleon-{package}" for package in PACKAGES), "./examples/acme-backend"]
    building = ("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels))
    session.run("python", "-m", "pip", *building, *folders)
    extras = {**{f"chameleon_{package}": EXTRAS[package] for package in PACKAGES}, "acme_backend": "testing"}
    built = {wheel.name.partition("-")[0]: wheel for wheel in wheels.glob("*.whl")}
    session.install(*PINNED, *(f"{built[name]}[{extras[name]}]" for name in extras))
    session.run("chameleon", "plugins")
    check_types(session, "acme_backend")
    run_tests(session, "examples/acme-backend", "tests/plugins")


@nox.session
def parity(session: nox.Session) -> None:
    """Numbers compared with two independent implementations, transformers and diffusers. (4 minutes.)"""
    install_workspace(
        session, "transformers", "diffusers", "peft", "bitsandbytes", "accelerate", "datasets", "trl", "lm-eval"
    )
    run_tests(session, "tests/parity")


@nox.session(default=False)
def gpu(session: nox.Session) -> None:
    """On a CUDA device: conformance suites, numbers beside transformers and a CPU, and the speed of training.

    Skipped, with the reason, where there is none. CUDA builds of torch are what the public index has for Linux.
    """
    if shutil.which("nvidia-smi") is None:
        session.skip("there is no NVIDIA driver here (no nvidia-smi); this session needs a CUDA device")
    install_workspace(session, "transformers")
    found = "import torch; print(torch.cuda.is_available(), torch.__version__)"
    available, version = str(session.run("python", "-c", found, silent=True)).split()[-2:]
    if available != "True":
        session.skip(f"torch {version} finds no CUDA device; this session needs one, and a CUDA build of torch")
    backends = "packages/chameleon-backends/tests"
    files = (f"{backends}/test_cuda.py", f"{backends}/test_quantizers_cuda.py", "tests/gpu")
    run_tests(session, *files, workers=0)
    shape = ("--width", "1024", "--layers", "8", "--length", "1024", "--batch", "16")
    session.run("python", "benchmarks/training.py", "--device", "cuda", *shape, *session.posargs)


@nox.session(default=False)
def transformers_tests(session: nox.Session) -> None:
    """The tests that transformers has for its models, run with ours: ``nox -s transformers_tests -- FOLDER``.

    FOLDER is a checkout of transformers, or its unpacked source distribution, which has the mixins without those of
    generation and export. Prints how many pass, and doesn't fail for those that don't: many reach into its modules.
    (10 minutes.)
    """
    folder = Path(session.posargs[0]).resolve() if session.posargs else None
    if folder is None or not (folder / "tests" / "test_modeling_common.py").is_file():
        session.skip("name, after --, a checkout or the unpacked source distribution of transformers.")
    install_workspace(session, "transformers", "parameterized", "accelerate", "peft", "pytest")
    shim = ROOT / "tests" / "parity" / "transformers_tests"
    session.chdir(folder)
    session.run(
        *("python", "-m", "pytest", "-q", "--tb", "no", "-p", "shim", str(shim / "cases.py"), *session.posargs[1:]),
        *("--rootdir", str(folder), "-c", os.devnull),
        env={"PYTHONPATH": str(shim), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        success_codes=[0, 1],
    )


@nox.session(default=False)
def fuzz(session: nox.Session) -> None:
    """Broken files of every format that is read: 200,000, or as the arguments say. (About 30 minutes.)

    It fails where a reader raises something else than its package's errors, takes more than 5 s or 1 GB, or returns
    numbers that aren't finite or ids out of range. ``nox -s fuzz -- --formats text- --inputs 5000`` reads fewer files.
    The report is also written to fuzz-report.json. Not in CI, whose ``integration`` has a short form of two minutes.
    """
    install_workspace(session, "peft", "bitsandbytes", "vector-quantize-pytorch")
    session.run("python", "-m", "tests.fuzz", "run", "--json", "fuzz-report.json", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """The demo with what a user installs; writes a contact sheet into demo-output/. (2 minutes.)"""
    others = [f"./packages/chameleon-{package}" for package in PACKAGES if package != "core"]
    session.install(*PINNED, *others, "./packages/chameleon-core[cli]")
    session.run("chameleon", "demo", "--output", "demo-output", *session.posargs)


@nox.session(default=False)
def benchmarks(session: nox.Session) -> None:
    """Speed, side by side with other implementations: the scripts in benchmarks/."""
    install_workspace(session, "transformers", "diffusers", "peft")
    for script in sorted(Path("benchmarks").glob("[!_]*.py")):
        session.run("python", str(script), *session.posargs)


@nox.session(default=False, venv_backend="none")
def vendor(session: nox.Session) -> None:
    """Copy the modules that several packages have from the package with the source (``pyproject.toml`` lists them)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for name, (source, *others) in project["tool"]["chameleon"]["vendored"].items():
        for package in others:
            from_path, to_path = (
                ROOT / f"packages/chameleon-{each}/src/chameleon_{each}/{name}" for each in (source, package)
            )
            if not to_path.exists() or to_path.read_bytes() != from_path.read_bytes():
                shutil.copyfile(from_path, to_path)
                session.log(f"{to_path.relative_to(ROOT)} is now that of chameleon-{source}")
