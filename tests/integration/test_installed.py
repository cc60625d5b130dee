"""The wheel in an environment of its own, in another folder, beside files of the user's that have our names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from data_prep.contract.version import VERSION

ROOT = Path(__file__).parents[2]
MINE = "raise SystemExit('the user\\'s own file was run')\n"


def call(*argv: str | Path, cwd: Path, status: int = 0) -> str:
    """Run a command; its output and errors."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, argv)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=200, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == status, said[-3000:]
    return said


@pytest.fixture(scope="module")
def eegvision(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The console script of an environment that has this wheel, and all other packages from the one that runs the tests."""
    home = tmp_path_factory.mktemp("installed")
    source = home / "source"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    ).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file() and ("/" not in name or name.split("/")[0] in ("data_prep", "trainer", "launch", "configs")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    call(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", home / "wheels", source, cwd=home)
    call(sys.executable, "-m", "venv", "--without-pip", home / "env", cwd=home)
    python = home / "env" / "bin" / "python"
    packages = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])", cwd=home).strip())
    # A path file inside this folder is not followed again: the editable installation of the checkout is not seen.
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    call(*pip, "--python", python, "install", "--no-deps", *sorted((home / "wheels").glob("*.whl")), cwd=home)
    return home / "env" / "bin" / "eegvision"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder, with files that have the names of our packages."""
    for name in ("trainer.py", "launch/__init__.py", "launch/__main__.py", "data_prep/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(MINE)
    return tmp_path


@pytest.mark.long
def test_it_works_beside_a_users_own_files(eegvision: Path, folder: Path) -> None:
    said = call(eegvision, "init", "mine", cwd=folder)
    assert "eegvision quickstart" in said
    laid = {path.relative_to(folder / "mine" / "configs") for path in (folder / "mine" / "configs").rglob("*.yaml")}
    assert laid == {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.yaml")}
    assert "is there already" in call(eegvision, "init", "mine", cwd=folder, status=1)
    assert "evaluate-retrieval" in call(eegvision, "--help", cwd=folder)

    small = {"num_train_concepts": 6, "images_per_concept": 2, "num_test_concepts": 4, "test_repetitions": 4, "num_drives": 3}
    simulate = yaml.safe_load((folder / "mine/configs/data_prep/simulate_quickstart.yaml").read_text())
    (folder / "small.yaml").write_text(yaml.safe_dump({**simulate, **small, "baselines": False}))
    call(eegvision, "simulate", "--config", "small.yaml", cwd=folder)
    configs = folder / "mine" / "configs"
    call(eegvision, "shard", "--config", configs / "data_prep/shard_simulated.yaml", cwd=folder)
    split = (configs / "data_prep/split_quickstart_simulated.yaml", "--study", "studies/simulated", "--num_validation_concepts", "2")
    call(eegvision, "split", "--config", *split, cwd=folder)
    train = (
        *("contrastive", "--config", configs / "contrastive/quickstart_simulated.yaml", "--run", "run"),
        *("--train.steps", "2", "--train.data_passes", "null", "--train.global_batch_size", "4", "--mlflow.enabled", "false"),
    )
    call(eegvision, "launch", "run", "--num_processes", "2", "--", *train, cwd=folder)
    assert (folder / "run" / "completed.json").is_file(), "the ranks ran the installed trainer, not the user's"
    assert (folder / "run" / "export" / "model.safetensors").is_file()
    assert json.loads((folder / "run" / "export" / "config.json").read_text())["git_revision"] == VERSION
